package auth_test

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"modelgate/auth"
)

// The steps of TestNoSequenceLeavesATokenAlive that a browser takes.

const (
	browserIdle  = 30 * time.Minute
	browserEarly = 90 * time.Second // by which an unused session may end too early
)

func (l *lives) browse(*rapid.T) {
	a := l.pickPerson()
	var replaced *browser
	cookie := ""
	if len(a.browsers) > 0 && rapid.Bool().Draw(l.t, "in the same browser") {
		replaced = rapid.SampledFrom(a.browsers).Draw(l.t, "browser")
		cookie = replaced.cookie
	}
	made, err := l.BeginBrowser(l.ctx, origin, "x", a.name, a.password, "", cookie)
	if a.disabled {
		if !errors.Is(err, auth.ErrCredentials) {
			l.t.Fatalf("a disabled user signs in: %v", err)
		}
		return
	}
	l.must(err)
	if replaced != nil {
		replaced.alive = false
	}
	now := l.clock.now()
	a.browsers = append(a.browsers, &browser{id: made.Session.ID, alive: true, cookie: made.Cookie,
		ends: now.Add(12 * time.Hour), idle: now.Add(browserIdle), auth: now})
}

// pickBrowser finds a session that surely lives.
func (l *lives) pickBrowser() (*account, *browser) {
	var found []*browser
	owner := map[*browser]*account{}
	for _, a := range l.users {
		for _, b := range a.browsers {
			if l.browses(a, b) && l.clock.now().Before(b.idle.Add(-browserEarly)) {
				found = append(found, b)
				owner[b] = a
			}
		}
	}
	if len(found) == 0 {
		l.t.Skip("no browser")
	}
	b := rapid.SampledFrom(found).Draw(l.t, "browser")
	return owner[b], b
}

// browses is whether a session is before both of its ends.
func (l *lives) browses(a *account, b *browser) bool {
	now := l.clock.now()
	return b.alive && !a.disabled && now.Before(b.ends) && now.Before(b.idle)
}

func (l *lives) whoBrowses(b *browser) auth.Principal {
	who, err := l.AuthenticateBrowser(l.ctx, b.cookie)
	l.must(err)
	b.idle = l.clock.now().Add(browserIdle)
	return who
}

func (l *lives) useBrowser(*rapid.T) {
	a, b := l.pickBrowser()
	if who := l.whoBrowses(b); who.SessionID != b.id || !who.AuthTime.Equal(b.auth) || !slices.Equal(who.Roles, a.roles) {
		l.t.Fatalf("%+v, want session %s of %v with roles %v", who, b.id, b.auth, a.roles)
	}
}

func (l *lives) stepUp(*rapid.T) {
	a, b := l.pickBrowser()
	next, err := l.Reauthenticate(l.ctx, l.whoBrowses(b), b.cookie, a.password, "")
	l.must(err)
	b.old = append(b.old, b.cookie)
	b.cookie, b.auth, b.idle = next.Cookie, l.clock.now(), l.clock.now().Add(browserIdle)
}

func (l *lives) leave(*rapid.T) {
	_, b := l.pickBrowser()
	l.must(l.Logout(l.ctx, l.whoBrowses(b)))
	b.alive = false
}

func (l *lives) endAllSessions(*rapid.T) {
	a, b := l.pickBrowser()
	l.must(l.EndSessions(l.ctx, l.whoBrowses(b)))
	a.endAll(nil)
}

// lookAtBrowser looks at a session that must be dead, or must live. Looking
// counts as use, so at one that may be either it does not look: then its end
// would depend on the looking.
func (l *lives) lookAtBrowser(a *account, i int, b *browser) {
	for _, old := range b.old {
		if who, err := l.AuthenticateBrowser(l.ctx, old); !errors.Is(err, auth.ErrToken) {
			l.t.Fatalf("an old cookie of browser %d of %s is alive: %+v, %v", i, a.name, who, err)
		}
	}
	if l.browses(a, b) {
		list, err := l.db.SessionsOf(l.ctx, a.id, l.clock.now())
		l.must(err)
		found := slices.ContainsFunc(list, func(s auth.Session) bool { return s.ID == b.id && s.Kind == auth.BrowserSession })
		if !found && l.clock.now().Before(b.idle.Add(-browserEarly)) {
			l.t.Fatalf("browser %d of %s is not listed", i, a.name)
		}
		return
	}
	who, err := l.AuthenticateBrowser(l.ctx, b.cookie)
	if !errors.Is(err, auth.ErrToken) {
		l.t.Fatalf("%s is alive: %+v, %v", fmt.Sprintf("browser %d of %s", i, a.name), who, err)
	}
}
