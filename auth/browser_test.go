package auth_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
)

func (e *env) browse(name string) auth.Browser {
	e.t.Helper()
	b, err := e.BeginBrowser(e.ctx, origin, "Firefox", name, password, "", "")
	if err != nil {
		e.t.Fatalf("sign in %s: %v", name, err)
	}
	return b
}

func (e *env) whoBrowses(cookie string) auth.Principal {
	e.t.Helper()
	who, err := e.AuthenticateBrowser(e.ctx, cookie)
	if err != nil {
		e.t.Fatalf("authenticate a browser: %v", err)
	}
	return who
}

func (e *env) deadCookie(what, cookie string) {
	e.t.Helper()
	if who, err := e.AuthenticateBrowser(e.ctx, cookie); !errors.Is(err, auth.ErrToken) {
		e.t.Errorf("%s: still alive: %+v, %v", what, who, err)
	}
}

func TestBrowser(t *testing.T) {
	e := newEnv(t)
	u := e.register("alice")
	b := e.browse("Alice")
	who := e.whoBrowses(b.Cookie)
	if who.UserID != u.ID || who.SessionID != b.Session.ID || who.KeyID != "" || !who.AuthTime.Equal(e.clock.now()) {
		t.Fatalf("%+v", who)
	}
	if b.Session.Kind != auth.BrowserSession || b.Session.UserAgent != "Firefox" || b.Session.Address != origin.Address ||
		b.Session.ExpiresAt.Sub(b.Session.CreatedAt) != 12*time.Hour {
		t.Fatalf("%+v", b.Session)
	}
	if r := e.records("user.login")[0]; r.Actor != "alice" || r.Outcome != audit.Allowed || r.Address != origin.Address {
		t.Errorf("%+v", r)
	}
	if session, err := e.Session(e.ctx, who); err != nil || session != b.Session {
		t.Errorf("%+v, %v", session, err)
	}
	want(t, e.Logout(e.ctx, who), nil)
	e.deadCookie("cookie after sign-out", b.Cookie)
	for _, cookie := range []string{"", "mgb_", b.Cookie[1:], b.Cookie + "x", e.login("alice").Access, e.login("alice").Refresh} {
		e.deadCookie("nonsense", cookie)
	}
}

// The kinds of secrets are not taken for each other, also where the memory of
// verified ones knows them.
func TestCookieIsNoToken(t *testing.T) {
	e := newEnv(t)
	e.register("alice")
	b := e.browse("alice")
	e.whoBrowses(b.Cookie)
	e.dead("a cookie as a token", b.Cookie)
	_, err := e.Refresh(e.ctx, origin, b.Cookie)
	want(t, err, auth.ErrToken)
	if in, err := e.Introspect(e.ctx, b.Cookie); err != nil || in.Active {
		t.Errorf("%+v, %v", in, err)
	}
	want(t, e.Revoke(e.ctx, origin, b.Cookie), nil)
	e.whoBrowses(b.Cookie)

	tok := e.login("alice")
	_, key, err := e.CreateKey(e.ctx, e.who(tok.Access), auth.KeyRequest{Name: "x"})
	want(t, err, nil)
	e.who(key)
	for what, secret := range map[string]string{"access token": tok.Access, "refresh token": tok.Refresh, "key": key} {
		e.deadCookie(what, secret)
	}
}

// TestBrowserExpiry is row O5 for browsers: a session ends when it is not used,
// and at its end whatever is done.
func TestBrowserExpiry(t *testing.T) {
	e := newEnv(t)
	e.register("alice")
	b := e.browse("alice")
	e.clock.advance(30*time.Minute - time.Second)
	e.whoBrowses(b.Cookie) // and counts as use
	e.clock.advance(30*time.Minute - time.Second)
	e.whoBrowses(b.Cookie)
	e.clock.advance(30 * time.Minute)
	e.deadCookie("idle session", b.Cookie)

	b = e.browse("alice")
	begun := e.clock.now()
	for e.clock.now().Sub(begun) < 12*time.Hour-10*time.Minute {
		e.clock.advance(10 * time.Minute)
		if e.clock.now().Sub(begun) >= 12*time.Hour {
			break
		}
		e.whoBrowses(b.Cookie)
	}
	e.clock.advance(begun.Add(12*time.Hour - time.Second).Sub(e.clock.now()))
	e.whoBrowses(b.Cookie)
	// A step-up gives no more time than the sign-in did.
	raised, err := e.Reauthenticate(e.ctx, e.whoBrowses(b.Cookie), b.Cookie, password, "")
	want(t, err, nil)
	e.whoBrowses(raised.Cookie)
	e.clock.advance(time.Second)
	e.deadCookie("session past its end, out of the cache", raised.Cookie)
}

// That the last use is stored once a minute beside it, for lists and for the bound
// of sessions, moves no idle end: a browser that asks often must not be put out.
func TestBrowserInUseStays(t *testing.T) {
	e := newEnv(t)
	e.register("alice")
	b := e.browse("alice")
	for i := range 4 * 60 { // an hour
		e.whoBrowses(b.Cookie)
		if i%4 == 0 {
			e.FlushUses(e.ctx)
		}
		e.clock.advance(15 * time.Second)
	}
	e.clock.advance(28 * time.Minute)
	e.whoBrowses(b.Cookie)
}

// A browser that asks often is written down seldom, and never ends early by more
// than that costs.
func TestBrowserUseIsWrittenSeldom(t *testing.T) {
	e := newEnv(t)
	u := e.register("alice")
	b := e.browse("alice")
	var mu sync.Mutex
	touched := 0
	e.store.set(func(method string) error {
		if method == "TouchBrowser" {
			mu.Lock()
			touched++
			mu.Unlock()
		}
		return nil
	}, nil)
	for range 600 {
		e.clock.advance(time.Second)
		e.whoBrowses(b.Cookie)
	}
	if touched < 5 || touched > 10 {
		t.Errorf("ten minutes of requests were written down %d times", touched)
	}
	list, err := e.db.SessionsOf(e.ctx, u.ID, e.clock.now())
	if want(t, err, nil); len(list) != 1 || e.clock.now().Sub(list[0].LastUsed) > 90*time.Second {
		t.Errorf("%+v at %v", list, e.clock.now())
	}
	e.clock.advance(30*time.Minute - 90*time.Second - time.Second)
	e.whoBrowses(b.Cookie)

	// A database that takes no writes costs the session's life, not the request.
	e.clock.advance(2 * time.Minute)
	e.store.set(func(method string) error {
		if method == "TouchBrowser" {
			return auth.ErrUnavailable.Because(errors.New("the disk is full"))
		}
		return nil
	}, nil)
	e.whoBrowses(b.Cookie)
}

// A session that ends between being read and being touched stays dead.
func TestBrowserEndsWhileItIsUsed(t *testing.T) {
	for _, at := range []string{"TouchBrowser", "User"} {
		e := newEnv(t)
		e.register("alice")
		b := e.browse("alice")
		who := e.whoBrowses(b.Cookie)
		e.clock.advance(2 * time.Minute)
		var once sync.Once
		e.store.set(func(method string) error {
			if method == at {
				once.Do(func() { want(t, e.Logout(e.ctx, who), nil) })
			}
			return nil
		}, nil)
		_, _ = e.AuthenticateBrowser(e.ctx, b.Cookie) // began before the end
		e.deadCookie("a cookie whose session ended at "+at, b.Cookie)
	}
}

func TestBrowserValueChanges(t *testing.T) {
	e := newEnv(t)
	e.register("alice")
	e.register("bob")
	first := e.browse("alice")
	second, err := e.BeginBrowser(e.ctx, origin, "x", "bob", password, "", first.Cookie)
	want(t, err, nil)
	e.deadCookie("the session that a sign-in replaced", first.Cookie)
	if r := e.records("user.logout")[0]; r.Actor != "alice" || r.Reason != "replaced" || r.Target != first.Session.ID {
		t.Errorf("%+v", r)
	}
	// A failed sign-in replaces nothing.
	_, err = e.BeginBrowser(e.ctx, origin, "x", "alice", "a wrong password", "", second.Cookie)
	want(t, err, auth.ErrCredentials)
	who := e.whoBrowses(second.Cookie)

	e.clock.advance(11 * time.Minute)
	third, err := e.Reauthenticate(e.ctx, who, second.Cookie, password, "")
	want(t, err, nil)
	e.deadCookie("the value before a step-up", second.Cookie)
	now := e.whoBrowses(third.Cookie)
	if now.SessionID != who.SessionID || !now.AuthTime.Equal(e.clock.now()) || third.Session.ExpiresAt != second.Session.ExpiresAt {
		t.Errorf("%+v after %+v", now, who)
	}
	if r := e.records("user.reauthenticate")[0]; r.Actor != "bob" || r.Outcome != audit.Allowed {
		t.Errorf("%+v", r)
	}
	_, err = e.Reauthenticate(e.ctx, now, second.Cookie, password, "") // the old one again
	want(t, err, auth.ErrToken)
	_, err = e.Reauthenticate(e.ctx, now, third.Cookie, "a wrong password", "")
	want(t, err, auth.ErrCredentials)
	if r := e.records("user.reauthenticate")[0]; r.Actor != "bob" || r.Outcome != audit.Failed || r.Reason != "wrong_password" {
		t.Errorf("%+v", r)
	}
	e.whoBrowses(third.Cookie)
}

// Of a step-up that is sent many times at once one counts.
func TestReauthenticateRace(t *testing.T) {
	e := newEnv(t)
	e.register("alice")
	b := e.browse("alice")
	who := e.whoBrowses(b.Cookie)
	var mu sync.Mutex
	var won []auth.Browser
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			next, err := e.Reauthenticate(e.ctx, who, b.Cookie, password, "")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, next)
			} else if !errors.Is(err, auth.ErrToken) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(won) != 1 {
		t.Fatalf("%d winners", len(won))
	}
	e.whoBrowses(won[0].Cookie)
	e.deadCookie("the value before", b.Cookie)
}

func TestEndSessions(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	e.register("bob")
	others := e.browse("bob")
	b1, b2 := e.browse("alice"), e.browse("alice")
	who := e.whoBrowses(b1.Cookie)
	_, key, err := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "goes on"})
	want(t, err, nil)
	_, scoped, err := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "one", Models: []string{"iris"}})
	want(t, err, nil)
	want(t, e.EndSessions(e.ctx, e.who(scoped)), auth.ErrForbidden)
	want(t, e.EndSessions(e.ctx, who), nil)
	e.dead("access token", tok.Access)
	e.deadCookie("own cookie", b1.Cookie)
	e.deadCookie("other cookie", b2.Cookie)
	e.who(key)
	e.whoBrowses(others.Cookie)
	if r := e.records("user.logout")[0]; r.Actor != "alice" || r.Reason != "everywhere" {
		t.Errorf("%+v", r)
	}
}

// A sign-in that proved the old password while it was being changed, or a user
// who is being disabled, leaves no session behind.
func TestBrowserSignInDuringChange(t *testing.T) {
	for _, change := range []string{"password", "disable", "delete"} {
		e := newEnv(t)
		u, tok := e.user("alice")
		alice := e.who(tok.Access)
		var once sync.Once
		e.store.set(func(method string) error {
			if method == "CreateSession" {
				once.Do(func() {
					var err error
					switch change {
					case "password":
						err = e.ChangePassword(e.ctx, alice, password, "another lorry altogether", "")
					case "disable":
						_, err = e.UpdateUser(e.ctx, e.admin, u.ID, auth.UserPatch{Disabled: ptr(true)})
					case "delete":
						err = e.DeleteUser(e.ctx, e.admin, u.ID)
					}
					want(t, err, nil)
				})
			}
			return nil
		}, nil)
		_, err := e.BeginBrowser(e.ctx, origin, "x", "alice", password, "", "")
		want(t, err, auth.ErrCredentials)
		list, err := e.db.SessionsOf(e.ctx, u.ID, e.clock.now())
		want(t, err, nil)
		for _, s := range list {
			if s.Kind == auth.BrowserSession {
				t.Errorf("%s: %+v", change, s)
			}
		}
	}
}

func TestBrowserFailsClosed(t *testing.T) {
	e := newEnv(t)
	u := e.register("alice")
	b := e.browse("alice")
	who := e.whoBrowses(b.Cookie)
	want(t, e.audit.Close(), nil)
	_, err := e.BeginBrowser(e.ctx, origin, "x", "alice", password, "", "")
	want(t, err, auth.ErrUnavailable)
	_, err = e.Reauthenticate(e.ctx, who, b.Cookie, password, "")
	want(t, err, auth.ErrUnavailable)
	list, err := e.db.SessionsOf(context.Background(), u.ID, e.clock.now())
	if want(t, err, nil); len(list) != 1 || !list[0].AuthTime.Equal(b.Session.AuthTime) {
		t.Errorf("%+v", list)
	}
}
