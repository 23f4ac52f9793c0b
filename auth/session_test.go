package auth_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
)

func TestLoginAuthenticateLogout(t *testing.T) {
	e := newEnv(t)
	u, tok := e.user("Alice.B")
	if u.Username != "alice.b" || u.PasswordHash != "" || len(u.Roles) != 1 || u.Roles[0] != "user" {
		t.Fatalf("%+v", u)
	}
	if tok.AccessTTL != 15*time.Minute || tok.RefreshTTL != 7*24*time.Hour || tok.Session.UserAgent != "test/1" {
		t.Fatalf("%+v", tok)
	}
	who := e.who(tok.Access)
	if who.UserID != u.ID || who.Username != "alice.b" || who.SessionID != tok.Session.ID || who.KeyID != "" || who.Permissions != 0 || !who.AuthTime.Equal(e.clock.now()) {
		t.Fatalf("%+v", who)
	}
	me, err := e.Me(e.ctx, who)
	if want(t, err, nil); me.ID != u.ID || me.PasswordHash != "" {
		t.Fatalf("%+v", me)
	}
	want(t, e.Logout(e.ctx, who), nil)
	e.dead("access token after logout", tok.Access)
	_, err = e.Refresh(e.ctx, origin, tok.Refresh)
	want(t, err, auth.ErrToken)
	for _, action := range []string{"user.register", "user.login", "user.logout"} {
		r := e.records(action)
		if len(r) == 0 || r[0].Actor != "alice.b" || r[0].ActorID != u.ID || r[0].Outcome != audit.Allowed {
			t.Errorf("%s: %+v", action, r)
		}
	}
	if r := e.records("user.login")[0]; r.Address != origin.Address || r.Request != origin.RequestID {
		t.Errorf("%+v", r)
	}
}

// The three ways to fail look alike, and each is recorded with its reason.
func TestLoginFailuresAreAlike(t *testing.T) {
	e := newEnv(t)
	e.register("alice")
	u := e.register("carol")
	_, err := e.UpdateUser(e.ctx, e.admin, u.ID, auth.UserPatch{Disabled: ptr(true)})
	want(t, err, nil)
	invited, _, err := e.CreateUser(e.ctx, e.admin, "dave", nil)
	want(t, err, nil)
	calls := map[int]bool{}
	for _, c := range []struct{ name, password, reason, id string }{
		{"alice", password + " ", "wrong_password", ""},
		{"nobody", password, "unknown_user", ""},
		{"carol", password, "disabled", u.ID},
		{"carol", "not the password", "wrong_password", u.ID},
		{"dave", password, "wrong_password", invited.ID},
		{"ALICE", strings.ToUpper(password), "wrong_password", ""},
		{"\r\n{\"seq\":1}", password, "unknown_user", ""},
	} {
		before := e.store.count()
		_, err := e.Login(e.ctx, auth.Origin{Address: c.name}, "x", c.name, c.password, "")
		calls[e.store.count()-before] = true
		want(t, err, auth.ErrCredentials)
		if detail(err) != auth.ErrCredentials.Detail {
			t.Errorf("%s: %q", c.name, detail(err))
		}
		if r := e.records("user.login")[0]; r.Outcome != audit.Failed || r.Reason != c.reason || c.id != "" && r.ActorID != c.id {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
	if len(calls) != 1 {
		t.Errorf("the failures ask the database differently often: %v", calls)
	}
	_, err = e.Login(e.ctx, origin, "x", "Alice", password, "")
	want(t, err, nil)
}

func TestLoginFailsClosed(t *testing.T) {
	e := newEnv(t)
	u := e.register("alice")
	want(t, e.audit.Close(), nil)
	_, err := e.Login(e.ctx, origin, "x", "alice", password, "")
	want(t, err, auth.ErrUnavailable)
	_, err = e.Login(e.ctx, origin, "x", "alice", "wrong password here", "")
	want(t, err, auth.ErrUnavailable)
	list, err := e.db.SessionsOf(e.ctx, u.ID, e.clock.now())
	if want(t, err, nil); len(list) != 0 {
		t.Errorf("%d sessions without a record", len(list))
	}
}

func TestDatabaseTrouble(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	e.clock.advance(auth.CacheAge) // so that the database is asked
	trouble := auth.ErrUnavailable.Because(errors.New("database is locked"))
	e.store.set(func(string) error { return trouble }, nil)
	_, err := e.Login(e.ctx, origin, "x", "alice", password, "")
	want(t, err, auth.ErrUnavailable)
	_, err = e.Authenticate(e.ctx, tok.Access)
	want(t, err, auth.ErrUnavailable)
	_, err = e.Introspect(e.ctx, tok.Access)
	want(t, err, auth.ErrUnavailable)
	e.store.set(nil, nil)
	e.who(tok.Access)
}

func TestRefreshRotatesAndReuseEndsTheFamily(t *testing.T) {
	e := newEnv(t)
	u, first := e.user("alice")
	loggedIn := e.clock.now()
	e.clock.advance(14 * time.Minute)
	e.give(u.ID, "data-scientist", "user")
	second, err := e.Refresh(e.ctx, origin, first.Refresh)
	want(t, err, nil)
	if second.Refresh == first.Refresh || second.Access == first.Access || second.Session.ID != first.Session.ID {
		t.Fatalf("%+v", second)
	}
	who := e.who(second.Access)
	if !who.AuthTime.Equal(loggedIn) || !who.Can(auth.ModelsWrite) {
		t.Fatalf("%+v", who)
	}
	if roles := claimsOf(t, second.Access)["roles"].([]any); len(roles) != 2 {
		t.Fatalf("roles in the token: %v", roles)
	}
	e.who(first.Access) // lives until it expires or the session ends
	third, err := e.Refresh(e.ctx, origin, second.Refresh)
	want(t, err, nil)

	_, err = e.Refresh(e.ctx, origin, first.Refresh) // somebody has a copy
	want(t, err, auth.ErrToken)
	for _, tok := range []auth.Tokens{first, second, third} {
		e.dead("access token of the family", tok.Access)
		_, err := e.Refresh(e.ctx, origin, tok.Refresh)
		want(t, err, auth.ErrToken)
	}
	var reused []audit.Entry
	for _, r := range e.records("user.refresh") {
		if r.Reason == "reused" {
			reused = append(reused, r)
		}
	}
	if len(reused) != 1 || reused[0].Actor != "alice" || reused[0].Outcome != audit.Failed {
		t.Errorf("%+v", reused)
	}
}

// Of many that refresh with one token one wins, and no token outlives the rest.
func TestRefreshRace(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	const n = 50
	var mu sync.Mutex
	var won []auth.Tokens
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			next, err := e.Refresh(e.ctx, origin, tok.Refresh)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, next)
			} else if !errors.Is(err, auth.ErrToken) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d winners", len(won))
	}
	e.dead("the winner's token after a replay", won[0].Access)
	_, err := e.Refresh(e.ctx, origin, won[0].Refresh)
	want(t, err, auth.ErrToken)
}

func TestExpiry(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	e.clock.advance(15*time.Minute - time.Second)
	e.who(tok.Access)
	e.clock.advance(time.Second)
	e.dead("expired access token", tok.Access)

	// A refresh token that is not used dies after 7 days.
	e.clock.advance(7 * 24 * time.Hour)
	_, err := e.Refresh(e.ctx, origin, tok.Refresh)
	want(t, err, auth.ErrToken)

	// One that is used dies with the session after 30.
	tok = e.login("alice")
	begun := e.clock.now()
	for {
		e.clock.advance(6 * 24 * time.Hour)
		next, err := e.Refresh(e.ctx, origin, tok.Refresh)
		if err != nil {
			want(t, err, auth.ErrToken)
			break
		}
		tok = next
		if end := begun.Add(30 * 24 * time.Hour); e.clock.now().Add(tok.RefreshTTL).After(end) {
			t.Fatalf("the refresh token is promised beyond the session's end")
		}
	}
	if lived := e.clock.now().Sub(begun); lived != 30*24*time.Hour {
		t.Fatalf("the session lived %v", lived)
	}
}

// An access token made shortly before the session's end dies with it, also out
// of the cache.
func TestAccessTokenEndsWithTheSession(t *testing.T) {
	e := newEnv(t, func(c *auth.Config) { c.SessionTTL = 10 * time.Second; c.RefreshTTL = 10 * time.Second })
	_, tok := e.user("alice")
	if tok.AccessTTL != 10*time.Second || tok.RefreshTTL != 10*time.Second {
		t.Fatalf("%v, %v", tok.AccessTTL, tok.RefreshTTL)
	}
	e.who(tok.Access)
	e.clock.advance(10 * time.Second)
	e.dead("access token after the session's end", tok.Access)
}

func TestSessions(t *testing.T) {
	e := newEnv(t)
	_, a1 := e.user("alice")
	e.clock.advance(time.Second)
	a2 := e.login("alice")
	_, b := e.user("bob")
	alice := e.who(a1.Access)
	list, err := e.Sessions(e.ctx, alice)
	want(t, err, nil)
	if len(list) != 2 || list[0].ID != a2.Session.ID || list[1].ID != a1.Session.ID {
		t.Fatalf("%+v", list)
	}
	want(t, e.EndSession(e.ctx, alice, b.Session.ID), auth.ErrNotFound)
	want(t, e.EndSession(e.ctx, alice, "s_none"), auth.ErrNotFound)
	e.who(b.Access)
	want(t, e.EndSession(e.ctx, alice, a2.Session.ID), nil)
	e.dead("access token of an ended session", a2.Access)
	e.who(a1.Access)
}

func TestRevoke(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	for _, token := range []string{"", "x", "mgr_x", "mg_x", "a.b.c", strings.Repeat("x", 1<<20)} {
		want(t, e.Revoke(e.ctx, origin, token), nil)
	}
	e.who(tok.Access)
	want(t, e.Revoke(e.ctx, origin, tok.Refresh), nil)
	e.dead("access token after its refresh token was revoked", tok.Access)
	tok = e.login("alice")
	e.who(tok.Access)
	want(t, e.Revoke(e.ctx, origin, tok.Access), nil)
	e.dead("revoked access token", tok.Access)
	_, err := e.Refresh(e.ctx, origin, tok.Refresh)
	want(t, err, auth.ErrToken)
	_, key, err := e.CreateKey(e.ctx, e.who(e.login("alice").Access), auth.KeyRequest{Name: "ci"})
	want(t, err, nil)
	e.who(key)
	want(t, e.Revoke(e.ctx, origin, key), nil)
	e.dead("revoked key", key)
	if r := e.records("user.logout"); len(r) != 2 || r[0].Reason != "revoked" || r[0].Actor != "alice" {
		t.Errorf("%+v", r)
	}
}

func TestIntrospect(t *testing.T) {
	e := newEnv(t)
	u, tok := e.user("alice")
	k, key, err := e.CreateKey(e.ctx, e.who(tok.Access), auth.KeyRequest{Name: "ci", ExpiresIn: time.Hour})
	want(t, err, nil)
	now := e.clock.now()
	for token, w := range map[string]auth.Introspection{
		tok.Access:  {Kind: "access_token", SessionID: tok.Session.ID, IssuedAt: now, ExpiresAt: now.Add(15 * time.Minute)},
		tok.Refresh: {Kind: "refresh_token", SessionID: tok.Session.ID, ExpiresAt: tok.Session.ExpiresAt},
		key:         {Kind: "api_key", IssuedAt: now, ExpiresAt: k.ExpiresAt},
	} {
		got, err := e.Introspect(e.ctx, token)
		want(t, err, nil)
		if !got.Active || got.Kind != w.Kind || got.Username != "alice" || got.Subject != u.ID || got.SessionID != w.SessionID ||
			got.ClientID != "modelgate" || len(got.Roles) != 1 || !got.IssuedAt.Equal(w.IssuedAt) || !got.ExpiresAt.Equal(w.ExpiresAt) {
			t.Errorf("%s: %+v", w.Kind, got)
		}
	}
	_, err = e.UpdateUser(e.ctx, e.admin, u.ID, auth.UserPatch{Disabled: ptr(true)})
	want(t, err, nil)
	for _, token := range []string{tok.Access, tok.Refresh, key, "", "x.y.z", "mgr_", "mg_"} {
		got, err := e.Introspect(e.ctx, token)
		want(t, err, nil)
		if got.Active || got.Username != "" || got.Subject != "" || got.Roles != nil {
			t.Errorf("%q: %+v", token, got)
		}
	}
}

// A login that proved the old password while it was being changed must not
// leave a session behind.
func TestLoginDuringPasswordChange(t *testing.T) {
	for _, change := range []string{"password", "disable", "delete"} {
		t.Run(change, func(t *testing.T) {
			e := newEnv(t)
			u, tok := e.user("alice")
			alice := e.who(tok.Access)
			once := sync.Once{}
			e.store.set(func(method string) error {
				if method == "CreateSession" { // the password was proved, the session not yet begun
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
						if err != nil {
							t.Error(err)
						}
					})
				}
				return nil
			}, nil)
			_, err := e.Login(e.ctx, origin, "x", "alice", password, "")
			want(t, err, auth.ErrCredentials)
			list, err := e.db.SessionsOf(e.ctx, u.ID, e.clock.now())
			want(t, err, nil)
			for _, s := range list {
				if s.ID != tok.Session.ID {
					t.Errorf("a session of the old password lives: %+v", s)
				}
			}
		})
	}
}

func TestCallerWhoLeavesIsRecorded(t *testing.T) {
	e := newEnv(t)
	e.register("alice")
	ctx, cancel := context.WithCancel(e.ctx)
	e.store.set(nil, func(method string) {
		if method == "UserByName" {
			cancel()
		}
	})
	release := e.TakeHashSlot() // one of two: the fast path is open
	defer release()
	_, err := e.Login(ctx, origin, "x", "alice", "wrong password here", "")
	want(t, err, auth.ErrCredentials)
	if r := e.records("user.login")[0]; r.Outcome != audit.Failed || r.Actor != "alice" {
		t.Errorf("%+v", r)
	}
}
