package auth_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/auth/authtest"
)

func atMost(sessions int) option { return func(c *auth.Config) { c.MaxSessions = sessions } }

// sessionIDs are the live sessions of a user, newest first.
func (e *env) sessionIDs(userID string) (ids []string) {
	e.t.Helper()
	list, err := e.db.SessionsOf(e.ctx, userID, e.clock.now())
	if err != nil {
		e.t.Fatal(err)
	}
	for _, s := range list {
		ids = append(ids, s.ID)
	}
	return ids
}

// A sign-in beyond the bound ends the session that was used longest ago, of
// whatever kind, on the next request; it is recorded why.
func TestMaxSessions(t *testing.T) {
	e := newEnv(t, atMost(3))
	alice := e.register("alice")
	_, others := e.user("bob")
	tick := func() { e.clock.advance(100 * time.Millisecond) } // sooner than what others changed is asked for
	first := e.login("alice")
	tick()
	second := e.browse("alice")
	tick()
	third := e.login("alice")
	e.who(third.Access) // known from here on
	tick()
	refreshed, err := e.Refresh(e.ctx, origin, first.Refresh) // now the last that was used
	want(t, err, nil)
	tick()
	e.whoBrowses(second.Cookie) // and now this one
	tick()
	fourth := e.login("alice")
	e.dead("the session that was used longest ago", third.Access)
	e.who(refreshed.Access)
	tick()
	e.whoBrowses(second.Cookie)
	e.who(fourth.Access)
	if r := e.records("user.logout"); len(r) != 1 || r[0].Actor != "alice" || r[0].ActorID != alice.ID || r[0].Target != third.Session.ID ||
		r[0].Reason != "too_many_sessions" || r[0].Outcome != audit.Allowed || r[0].Address != origin.Address || r[0].Request != origin.RequestID {
		t.Errorf("%+v", r)
	}
	tick()
	fifth := e.browse("alice")
	e.dead("the next one", refreshed.Access)
	e.whoBrowses(fifth.Cookie)
	if left := e.sessionIDs(alice.ID); len(left) != 3 {
		t.Errorf("%d sessions are left", len(left))
	}
	e.who(others.Access) // nobody else pays for it

	// Who signs in for each request loses only what he does not use any more.
	for range 20 {
		e.who(e.login("alice").Access)
	}
	if left := e.sessionIDs(alice.ID); len(left) != 3 {
		t.Errorf("%d sessions are left", len(left))
	}
	// A bound that is lower from now on.
	lower := e.replica(atMost(1))
	last := lower.login("alice")
	if left := e.sessionIDs(alice.ID); !slices.Equal(left, []string{last.Session.ID}) {
		t.Errorf("left: %v", left)
	}
	if r := e.records("user.logout")[0]; r.Reason != "too_many_sessions" || r.Detail["others"] != "2" {
		t.Errorf("%+v", r)
	}
}

func TestMaxSessionsByDefault(t *testing.T) {
	e := newEnv(t)
	alice := e.register("alice")
	first := e.login("alice")
	for range 249 {
		e.login("alice")
	}
	e.who(first.Access)
	e.clock.advance(time.Second)
	e.login("alice")
	if left := e.sessionIDs(alice.ID); len(left) != 250 {
		t.Errorf("%d sessions are left", len(left))
	}
	if _, err := auth.New(auth.Config{Store: e.db, Guard: auth.NewGuard(e.audit), Audit: e.audit, Keys: e.keys, Vault: e.vault, Issuer: issuer, MaxSessions: -1}); err == nil {
		t.Error("a bound below one was accepted")
	}
}

// Many sign-ins at once, on two servers of one database, never leave more.
func TestMaxSessionsOnTwoServers(t *testing.T) {
	e := newEnv(t, atMost(5))
	servers := []*env{e, e.replica(atMost(5))}
	alice := e.register("alice")
	tokens := make([]auth.Tokens, 100)
	var group sync.WaitGroup
	for i := range tokens {
		group.Go(func() {
			var err error
			if tokens[i], err = servers[i%2].Login(e.ctx, origin, "x", "alice", password, ""); err != nil {
				t.Error(err)
			}
			if n := len(e.sessionIDs(alice.ID)); n > 5 {
				t.Errorf("%d sessions are alive", n)
			}
		})
	}
	group.Wait()
	left := e.sessionIDs(alice.ID)
	if len(left) != 5 {
		t.Fatalf("left: %v", left)
	}
	ended := 0
	for _, r := range e.records("user.logout") {
		if r.Reason == "too_many_sessions" {
			ended++
		}
	}
	if ended != 95 {
		t.Errorf("%d ends are recorded", ended)
	}
	e.clock.advance(auth.Believed)
	for i, tok := range tokens {
		alive := slices.Contains(left, tok.Session.ID)
		for _, s := range servers {
			if _, err := s.Authenticate(e.ctx, tok.Access); (err == nil) != alive {
				t.Errorf("sign-in %d: %v, but its session is left: %v", i, err, alive)
			}
		}
	}
}

// A session that is in use stays, however many sign in beside it and however
// fast: what was seen of it since it was last stored counts.
func TestSessionInUseStays(t *testing.T) {
	e := newEnv(t, atMost(3))
	alice := e.register("alice")
	token, cookie := e.login("alice"), e.browse("alice")
	for range 60 {
		e.clock.advance(time.Millisecond)
		e.who(token.Access)
		e.whoBrowses(cookie.Cookie)
		e.clock.advance(time.Millisecond)
		e.login("alice")
	}
	e.who(token.Access)
	e.whoBrowses(cookie.Cookie)

	// Another server knows of it a minute later.
	e.clock.advance(time.Minute)
	e.who(token.Access)
	e.FlushUses(e.ctx)
	list, err := e.Sessions(e.ctx, e.who(token.Access))
	want(t, err, nil)
	i := slices.IndexFunc(list, func(s auth.Session) bool { return s.ID == token.Session.ID })
	if i < 0 || !list[i].LastUsed.Equal(e.clock.now()) {
		t.Fatalf("%+v", list)
	}
	other := e.replica(atMost(3))
	for range 2 { // and the browser's, and a login of before, were used earlier
		other.login("alice")
	}
	e.clock.advance(auth.Believed)
	e.who(token.Access)
	e.deadCookie("the other one", cookie.Cookie)
	if left := e.sessionIDs(alice.ID); len(left) != 3 {
		t.Errorf("left: %v", left)
	}
}

// The tokens of a service account are sessions of an account too.
func TestMaxSessionsOfAServiceAccount(t *testing.T) {
	e := newEnv(t, atMost(3))
	u, _, secret := e.service("nightly")
	var tokens []string
	for range 5 {
		tokens = append(tokens, e.clientToken(u.ID, secret))
		e.who(tokens[len(tokens)-1])
		e.clock.advance(time.Second)
	}
	for i, token := range tokens {
		if i < 2 {
			e.dead("an old access token", token)
		} else {
			e.who(token)
		}
	}
	if r := e.records("user.logout"); len(r) != 2 || r[0].Actor != "nightly" || r[0].Reason != "too_many_sessions" {
		t.Errorf("%+v", r)
	}
}

// Where the end of a session can't be recorded, none begins.
func TestMaxSessionsFailsClosed(t *testing.T) {
	for _, kind := range []string{"CreateSession", "CreateClientSession"} {
		e := newEnv(t, atMost(1))
		alice, _ := e.user("alice")
		u, _, secret := e.service("nightly")
		c := e.client(u.ID, secret)
		e.clientToken(u.ID, secret)
		e.store.set(nil, func(method string) {
			if method == kind {
				_ = e.audit.Close()
			}
		})
		id, err := alice.ID, error(nil)
		if kind == "CreateSession" {
			_, err = e.Login(e.ctx, origin, "x", "alice", password, "")
		} else {
			id = u.ID
			_, _, err = e.ClientToken(e.ctx, origin, "x", c)
		}
		want(t, err, auth.ErrUnavailable)
		if left := e.sessionIDs(id); len(left) != 0 {
			t.Errorf("%s: left %v", kind, left)
		}
	}
}

// Administrators see and end the sessions of others, unless these have more
// rights; what has ended is dead on the next request.
func TestAdministratorsEndSessions(t *testing.T) {
	e := newEnv(t)
	alice, a1 := e.user("alice")
	e.clock.advance(time.Second)
	a2 := e.browse("alice")
	_, key, err := e.CreateKey(e.ctx, e.who(a1.Access), auth.KeyRequest{Name: "goes on"})
	want(t, err, nil)
	bob, b := e.user("bob")
	mona := e.manager("mona", "users:manage")
	vera := e.manager("vera", "users:manage", "audit:read")

	list, err := e.SessionsOf(e.ctx, mona, alice.ID)
	if want(t, err, nil); len(list) != 2 || list[0].ID != a2.Session.ID || list[1].ID != a1.Session.ID {
		t.Fatalf("%+v", list)
	}
	_, err = e.SessionsOf(e.ctx, mona, "u_none")
	want(t, err, auth.ErrNotFound)
	for _, id := range []string{"s_none", b.Session.ID} { // of another user
		want(t, e.EndSessionOf(e.ctx, mona, alice.ID, id), auth.ErrNotFound)
	}
	want(t, e.EndSessionOf(e.ctx, mona, "u_none", a1.Session.ID), auth.ErrNotFound)
	want(t, e.EndSessionsOf(e.ctx, mona, "u_none"), auth.ErrNotFound)
	if r := e.records("session.end"); len(r) != 0 {
		t.Errorf("%+v", r)
	}

	e.who(a1.Access)
	e.whoBrowses(a2.Cookie)
	want(t, e.EndSessionOf(e.ctx, mona, alice.ID, a1.Session.ID), nil)
	e.dead("the ended session", a1.Access)
	_, err = e.Refresh(e.ctx, origin, a1.Refresh)
	want(t, err, auth.ErrToken)
	e.whoBrowses(a2.Cookie)
	if r := e.records("session.end")[0]; r.Actor != "mona" || r.Target != "alice" || r.Detail["session"] != a1.Session.ID || r.Outcome != audit.Allowed {
		t.Errorf("%+v", r)
	}
	want(t, e.EndSessionsOf(e.ctx, mona, alice.ID), nil)
	e.deadCookie("the other one", a2.Cookie)
	e.who(key)
	e.who(b.Access)
	if r := e.records("session.end")[0]; r.Target != "alice" || r.Detail["session"] != "all" {
		t.Errorf("%+v", r)
	}

	// Who has more rights is not his to sign out, nor are all together.
	theirs := e.sessionIDs(vera.UserID)
	for what, err := range map[string]error{
		"one": e.EndSessionOf(e.ctx, mona, vera.UserID, theirs[0]), "all of one": e.EndSessionsOf(e.ctx, mona, vera.UserID),
		"the administrator's": e.EndSessionsOf(e.ctx, vera, e.admin.UserID), "everybody's": e.EndEverySession(e.ctx, vera),
	} {
		if !errors.Is(err, auth.ErrForbidden) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if r := e.records("session.end_all")[0]; r.Actor != "vera" || r.Outcome != audit.Denied {
		t.Errorf("%+v", r)
	}
	if left := e.sessionIDs(vera.UserID); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	want(t, e.EndSessionsOf(e.ctx, vera, vera.UserID), nil) // his own
	if left := e.sessionIDs(vera.UserID); len(left) != 0 {
		t.Errorf("left: %v", left)
	}

	// Everybody's, the caller's included.
	e.login("bob")
	u, _, secret := e.service("nightly")
	program := e.clientToken(u.ID, secret)
	if list, err := e.SessionsOf(e.ctx, e.admin, u.ID); err != nil || len(list) != 1 || list[0].ClientID != u.ID {
		t.Errorf("%+v, %v", list, err)
	}
	own := e.login("admin")
	e.who(own.Access)
	want(t, e.EndEverySession(e.ctx, e.admin), nil)
	for what, access := range map[string]string{"bob's": b.Access, "a program's": program, "the caller's": own.Access} {
		e.dead(what, access)
	}
	for _, id := range []string{bob.ID, u.ID, e.admin.UserID} {
		if left := e.sessionIDs(id); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
	e.who(key)
	e.who(e.login("bob").Access)
	if r := e.records("session.end_all")[0]; r.Actor != "admin" || r.Outcome != audit.Allowed {
		t.Errorf("%+v", r)
	}
}

// A step-up through a provider ends the session that it came from, in the step
// in which the new one begins, and no other.
func TestExternalStepUpReplacesTheSession(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(signInProvider(p, "corp")))
	claims := func(subject string) members {
		return idClaims(p, e.clock.now(), members{"sub": subject, "auth_time": e.clock.now().Unix(), "preferred_username": subject})
	}
	signIn := func(subject string) auth.Browser {
		t.Helper()
		b, err := e.begin("corp", false).at(p, claims(subject)).finish()
		want(t, err, nil)
		return b
	}
	ada, eve := signIn("ada"), signIn("eve")
	e.clock.advance(11 * time.Minute)
	_, _, err := e.CreateKey(e.ctx, e.whoBrowses(ada.Cookie), auth.KeyRequest{Name: "k"})
	want(t, err, auth.ErrReauthenticate)

	// The cookie is Strict and does not come back; should it all the same, it is no other session's.
	for _, comesBack := range []bool{false, true} {
		way := e.beginFrom(ada.Cookie, "corp", true)
		e.whoBrowses(ada.Cookie) // until then it goes on
		if comesBack {
			way.older = ada.Cookie
		}
		next, err := way.at(p, claims("ada")).finish()
		want(t, err, nil)
		e.deadCookie("the cookie before a step-up", ada.Cookie)
		who := e.whoBrowses(next.Cookie)
		if ids := e.sessionIDs(who.UserID); !slices.Equal(ids, []string{next.Session.ID}) {
			t.Errorf("sessions %v", ids)
		}
		if _, _, err := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: fmt.Sprint("k", comesBack)}); err != nil {
			t.Error(err)
		}
		if r := e.records("user.logout")[0]; r.Target != ada.Session.ID || r.Reason != "replaced" || r.ActorID != who.UserID {
			t.Errorf("%+v", r)
		}
		ada = next
	}

	// As another user: refused, and nothing ends or begins.
	_, err = e.beginFrom(ada.Cookie, "corp", true).at(p, claims("eve")).finish()
	want(t, err, auth.ErrForbidden)
	contains(t, detail(err), "somebody else")
	e.whoBrowses(ada.Cookie)
	if ids := e.sessionIDs(e.whoBrowses(eve.Cookie).UserID); len(ids) != 1 {
		t.Errorf("sessions %v", ids)
	}
	if r := e.records("user.login")[0]; r.Outcome != audit.Failed || r.Reason != "other_user" {
		t.Errorf("%+v", r)
	}
	// A proof that is none.
	_, err = e.beginFrom(ada.Cookie, "corp", true).at(p, idClaims(p, e.clock.now(), members{"sub": "ada"})).finish()
	want(t, err, auth.ErrReauthenticate)
	e.whoBrowses(ada.Cookie)

	// A stranger ends his own session, if he has one, and no other.
	for _, cookie := range []string{"", "mgb_" + xs(49), eve.Cookie} {
		b, err := e.beginFrom(cookie, "corp", true).at(p, claims("eve")).finish()
		want(t, err, nil)
		e.whoBrowses(b.Cookie)
	}
	e.deadCookie("the stranger's", eve.Cookie)
	e.whoBrowses(ada.Cookie)

	// A session that has ended meanwhile is not begun anew.
	way := e.beginFrom(ada.Cookie, "corp", true).at(p, claims("ada"))
	who := e.whoBrowses(ada.Cookie)
	want(t, e.Logout(e.ctx, who), nil)
	_, err = way.finish()
	want(t, err, auth.ErrForbidden)
	contains(t, detail(err), "has ended")
	if ids := e.sessionIDs(who.UserID); len(ids) != 0 {
		t.Errorf("sessions %v", ids)
	}
}

// Of many step-ups of one session at once one counts. One that ends in between,
// after it was looked for, is not replaced either.
func TestExternalStepUpRace(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(signInProvider(p, "corp")))
	claims := func() members { return idClaims(p, e.clock.now(), members{"auth_time": e.clock.now().Unix()}) }
	b, err := e.begin("corp", false).at(p, claims()).finish()
	want(t, err, nil)
	who := e.whoBrowses(b.Cookie)
	ways := make([]*traveller, 10)
	for i := range ways {
		ways[i] = e.beginFrom(b.Cookie, "corp", true).at(p, claims())
	}
	var mu sync.Mutex
	var won []auth.Browser
	var group sync.WaitGroup
	for _, way := range ways {
		group.Go(func() {
			next, err := way.finish()
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, next)
			} else if !errors.Is(err, auth.ErrForbidden) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(won) != 1 {
		t.Fatalf("%d winners", len(won))
	}
	if ids := e.sessionIDs(who.UserID); !slices.Equal(ids, []string{won[0].Session.ID}) {
		t.Errorf("sessions %v", ids)
	}

	way := e.beginFrom(won[0].Cookie, "corp", true).at(p, claims())
	e.store.set(func(method string) error {
		if method == "CreateSession" {
			e.store.set(nil, nil)
			return e.db.EndSession(e.ctx, won[0].Session.ID)
		}
		return nil
	}, nil)
	_, err = way.finish()
	want(t, err, auth.ErrForbidden)
	if ids := e.sessionIDs(who.UserID); len(ids) != 0 {
		t.Errorf("sessions %v", ids)
	}
}

// Signing in through a provider while signed in ends the session that the
// browser had, whoever's it was, as signing in by password does.
func TestExternalSignInReplacesTheSession(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(signInProvider(p, "corp")))
	e.register("alice")
	had := e.browse("alice")
	way := e.beginFrom(had.Cookie, "corp", false)
	e.whoBrowses(had.Cookie)
	next, err := way.at(p, idClaims(p, e.clock.now(), nil)).finish()
	want(t, err, nil)
	e.deadCookie("the session that the browser had", had.Cookie)
	if r := e.records("user.logout")[0]; r.Actor != "alice" || r.Reason != "replaced" || r.Target != had.Session.ID {
		t.Errorf("%+v", r)
	}
	// One that has ended by then keeps nobody out.
	way = e.beginFrom(next.Cookie, "corp", false).at(p, idClaims(p, e.clock.now(), nil))
	want(t, e.Logout(e.ctx, e.whoBrowses(next.Cookie)), nil)
	last, err := way.finish()
	want(t, err, nil)
	e.whoBrowses(last.Cookie)
}
