package auth_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/auth"
)

func TestCacheHitAsksNothing(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	_, key, err := e.CreateKey(e.ctx, e.who(tok.Access), auth.KeyRequest{Name: "ci"})
	want(t, err, nil)
	for _, credential := range []string{tok.Access, key} {
		first := e.who(credential)
		before := e.store.count()
		for range 100 {
			if got := e.who(credential); fmt.Sprint(got) != fmt.Sprint(first) {
				t.Fatalf("%+v, want %+v", got, first)
			}
		}
		if n := e.store.count() - before; n != 0 {
			t.Errorf("%d questions to the database for 100 known credentials", n)
		}
		e.clock.advance(auth.CacheAge)
		e.who(credential)
		if e.store.count() == before {
			t.Error("a credential is believed for ever")
		}
	}
}

// Every change that takes a right away is seen by the very next call, though the
// credential was known.
func TestChangesTakeEffectAtOnce(t *testing.T) {
	e := newEnv(t)
	admin2 := e.register("root2")
	e.give(admin2.ID, "admin")
	_, err := e.PutRole(e.ctx, e.admin, "ops", []string{"audit:read"}, "10-S", 0)
	want(t, err, nil)
	type alice struct {
		id, access, key, keyID string
		other                  auth.Tokens
	}
	n := 0
	newAlice := func() alice {
		n++
		u, tok := e.user(fmt.Sprint("alice", n))
		e.give(u.ID, "ops")
		k, key, err := e.CreateKey(e.ctx, e.who(tok.Access), auth.KeyRequest{Name: "ci"})
		want(t, err, nil)
		other := e.login(u.Username)
		for _, c := range []string{tok.Access, other.Access, key} { // known from here on
			if who := e.who(c); !who.Can(auth.AuditRead) || who.Rate != "10-S" {
				t.Fatalf("%+v", who)
			}
		}
		return alice{u.ID, tok.Access, key, k.ID, other}
	}
	t.Run("logout", func(t *testing.T) {
		a := newAlice()
		want(t, e.Logout(e.ctx, e.who(a.access)), nil)
		e.dead("token", a.access)
		e.who(a.other.Access)
		e.who(a.key)
	})
	t.Run("disable", func(t *testing.T) {
		a := newAlice()
		_, err := e.UpdateUser(e.ctx, e.admin, a.id, auth.UserPatch{Disabled: ptr(true)})
		want(t, err, nil)
		e.dead("token", a.access)
		e.dead("key", a.key)
		_, err = e.UpdateUser(e.ctx, e.admin, a.id, auth.UserPatch{Disabled: ptr(false)})
		want(t, err, nil)
		e.dead("token after enabling", a.access) // its session has ended
		e.who(a.key)
	})
	t.Run("roles", func(t *testing.T) {
		a := newAlice()
		e.give(a.id, "user")
		for _, c := range []string{a.access, a.key} {
			if who := e.who(c); who.Can(auth.AuditRead) || who.Rate != "" || who.HasAny([]string{"ops"}) {
				t.Errorf("%+v", who)
			}
		}
	})
	t.Run("role definition", func(t *testing.T) {
		a := newAlice()
		_, err := e.PutRole(e.ctx, e.admin, "ops", []string{"metrics:read"}, "20-S", 0)
		want(t, err, nil)
		for _, c := range []string{a.access, a.key} {
			if who := e.who(c); who.Can(auth.AuditRead) || !who.Can(auth.MetricsRead) || who.Rate != "20-S" {
				t.Errorf("%+v", who)
			}
		}
		_, err = e.PutRole(e.ctx, e.admin, "ops", []string{"audit:read"}, "10-S", 0)
		want(t, err, nil)
	})
	t.Run("password", func(t *testing.T) {
		a := newAlice()
		want(t, e.ChangePassword(e.ctx, e.who(a.access), password, "another lorry altogether", ""), nil)
		e.dead("other session", a.other.Access)
		e.who(a.access)
	})
	t.Run("reset", func(t *testing.T) {
		a := newAlice()
		token, _, err := e.ResetUser(e.ctx, e.admin, a.id, false)
		want(t, err, nil)
		e.who(a.access)
		want(t, e.ResetPassword(e.ctx, origin, token, "another lorry altogether"), nil)
		e.dead("token", a.access)
		e.dead("other session", a.other.Access)
	})
	t.Run("delete key", func(t *testing.T) {
		a := newAlice()
		want(t, e.DeleteKey(e.ctx, e.who(a.access), a.keyID), nil)
		e.dead("key", a.key)
		e.who(a.access)
	})
	t.Run("end session", func(t *testing.T) {
		a := newAlice()
		want(t, e.EndSession(e.ctx, e.who(a.access), a.other.Session.ID), nil)
		e.dead("token", a.other.Access)
	})
	t.Run("replay", func(t *testing.T) {
		a := newAlice()
		_, err := e.Refresh(e.ctx, origin, a.other.Refresh)
		want(t, err, nil)
		_, err = e.Refresh(e.ctx, origin, a.other.Refresh)
		want(t, err, auth.ErrToken)
		e.dead("token", a.other.Access)
	})
	t.Run("delete user", func(t *testing.T) {
		a := newAlice()
		want(t, e.DeleteUser(e.ctx, e.admin, a.id), nil)
		e.dead("token", a.access)
		e.dead("key", a.key)
	})
}

// A verification that read the database before a revocation must not put what
// it read into the memory after it. It is stopped at each of its reads in turn.
func TestNoStaleEntryAfterRevocation(t *testing.T) {
	revocations := map[string]func(e *env, who auth.Principal, keyID string) error{
		"logout":  func(e *env, who auth.Principal, _ string) error { return e.Logout(e.ctx, who) },
		"disable": func(e *env, who auth.Principal, _ string) error { return e.disable(who.UserID) },
		"delete":  func(e *env, who auth.Principal, _ string) error { return e.DeleteUser(e.ctx, e.admin, who.UserID) },
	}
	keyRevocations := map[string]func(e *env, who auth.Principal, keyID string) error{
		"delete key": func(e *env, who auth.Principal, id string) error { return e.DeleteKey(e.ctx, who, id) },
		"disable":    revocations["disable"],
	}
	step := func(t *testing.T, kind, stop string, revoke func(*env, auth.Principal, string) error) {
		e := newEnv(t)
		_, tok := e.user("alice")
		alice := e.who(tok.Access)
		k, key, err := e.CreateKey(e.ctx, alice, auth.KeyRequest{Name: "ci"})
		want(t, err, nil)
		credential := tok.Access
		if kind == "key" {
			credential = key
		}
		e.clock.advance(auth.CacheAge) // nothing is known
		reached, goOn := make(chan struct{}), make(chan struct{})
		var stopped atomic.Bool
		e.store.set(nil, func(method string) {
			if method == stop && stopped.CompareAndSwap(false, true) {
				close(reached)
				<-goOn
			}
		})
		done := make(chan error)
		go func() { _, err := e.Authenticate(e.ctx, credential); done <- err }()
		<-reached // it has read, and not yet decided
		if err := revoke(e, alice, k.ID); err != nil {
			t.Error(err)
		}
		close(goOn)
		<-done // it may still say yes: it began before the revocation
		e.dead("after the revocation", credential)
	}
	for name, revoke := range revocations {
		for _, stop := range []string{"Session", "User", "Roles"} {
			t.Run(name+" at "+stop, func(t *testing.T) { step(t, "token", stop, revoke) })
		}
	}
	for name, revoke := range keyRevocations {
		for _, stop := range []string{"KeyByHash", "User", "Roles"} {
			t.Run("key: "+name+" at "+stop, func(t *testing.T) { step(t, "key", stop, revoke) })
		}
	}
	t.Run("role definition", func(t *testing.T) {
		e := newEnv(t)
		who := e.manager("mona", "audit:read")
		tok := e.login("mona")
		reached, goOn := make(chan struct{}), make(chan struct{})
		var stopped atomic.Bool
		e.store.set(nil, func(method string) {
			if method == "Roles" && stopped.CompareAndSwap(false, true) {
				close(reached)
				<-goOn
			}
		})
		done := make(chan error)
		go func() { _, err := e.Authenticate(e.ctx, tok.Access); done <- err }()
		<-reached
		_, err := e.PutRole(e.ctx, e.admin, "mona-role", nil, "", 0)
		want(t, err, nil)
		close(goOn)
		want(t, <-done, nil)
		if now := e.who(tok.Access); now.Can(auth.AuditRead) {
			t.Errorf("%+v still may what %+v could", now, who)
		}
	})
}

func (e *env) disable(id string) error {
	_, err := e.UpdateUser(e.ctx, e.admin, id, auth.UserPatch{Disabled: ptr(true)})
	return err
}

// Logins, logouts and looks at tokens all at once: no token is alive after the
// call that ended it returned. Run with -race.
func TestRevocationUnderLoad(t *testing.T) {
	e := newEnv(t)
	const users, rounds = 4, 15
	for i := range users {
		e.register(fmt.Sprint("user", i))
	}
	var wg sync.WaitGroup
	for i := range users {
		wg.Go(func() {
			for range rounds {
				tok, err := e.Login(e.ctx, origin, "x", fmt.Sprint("user", i), password, "")
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithCancel(e.ctx)
				var lookers sync.WaitGroup
				for range 2 {
					lookers.Go(func() {
						for ctx.Err() == nil {
							e.Authenticate(ctx, tok.Access)
						}
					})
				}
				who, err := e.Authenticate(e.ctx, tok.Access)
				if err != nil {
					t.Error(err)
				} else if err := e.Logout(e.ctx, who); err != nil {
					t.Error(err)
				}
				e.dead("after logout", tok.Access)
				cancel()
				lookers.Wait()
			}
		})
	}
	wg.Wait()
}

func TestRateOfThePrincipal(t *testing.T) {
	e := newEnv(t)
	u, tok := e.user("alice")
	for name, rate := range map[string]string{"slow": "10-M", "fast": "1-S", "day": "80000-D", "none": ""} {
		_, err := e.PutRole(e.ctx, e.admin, name, nil, rate, 0)
		want(t, err, nil)
	}
	for _, c := range []struct {
		roles []string
		rate  string
	}{
		{[]string{"user"}, ""}, {[]string{"none", "slow"}, "10-M"}, {[]string{"slow", "fast"}, "1-S"}, {[]string{"fast", "slow", "day", "none"}, "1-S"}, {[]string{"day", "slow"}, "80000-D"},
	} {
		e.give(u.ID, c.roles...)
		if who := e.who(tok.Access); who.Rate != c.rate {
			t.Errorf("%v: rate %q, want %q", c.roles, who.Rate, c.rate)
		}
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	e := newEnv(b, func(c *auth.Config) { c.Now = time.Now })
	_, tok := e.user("alice")
	_, key, err := e.CreateKey(e.ctx, e.who(tok.Access), auth.KeyRequest{Name: "ci"})
	want(b, err, nil)
	for _, c := range []struct{ name, credential string }{{"token", tok.Access}, {"key", key}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.ReportMetric(float64(len(c.credential)), "bytes")
			for b.Loop() {
				if _, err := e.Authenticate(e.ctx, c.credential); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("token, miss", func(b *testing.B) {
		tokens := make([]string, 0, 1000)
		for range cap(tokens) {
			tokens = append(tokens, e.login("alice").Access)
		}
		b.ResetTimer()
		for i := range b.N {
			if i%len(tokens) == 0 && i > 0 {
				b.StopTimer()
				want(b, e.forgetAll(), nil)
				b.StartTimer()
			}
			if _, err := e.Authenticate(e.ctx, tokens[i%len(tokens)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// forgetAll makes a change that everybody's rights may
// depend on.
func (e *env) forgetAll() error {
	_, err := e.PutRole(e.ctx, e.admin, "bench", nil, fmt.Sprintf("%d-S", 1+rand.IntN(1000)), 0)
	return err
}
