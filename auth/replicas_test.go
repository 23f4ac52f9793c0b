package auth_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/auth"
)

// What one server takes away is gone on another two seconds later, though the
// credential was known there.
func TestRevocationReachesReplicas(t *testing.T) {
	e := newEnv(t)
	r := e.replica()
	_, err := e.PutRole(e.ctx, e.admin, "ops", []string{"audit:read"}, "10-S", 0)
	want(t, err, nil)
	admin2 := e.register("root2")
	e.give(admin2.ID, "admin")
	type alice struct {
		id, key, keyID string
		tok, other     auth.Tokens
	}
	n := 0
	newAlice := func() alice {
		n++
		u, tok := e.user(fmt.Sprint("alice", n))
		e.give(u.ID, "ops")
		k, key, err := e.CreateKey(e.ctx, e.who(tok.Access), auth.KeyRequest{Name: "ci"})
		want(t, err, nil)
		a := alice{u.ID, key, k.ID, tok, e.login(u.Username)}
		for _, c := range []string{a.tok.Access, a.other.Access, key} { // known from here on
			if who := r.who(c); !who.Can(auth.AuditRead) {
				t.Fatalf("%+v", who)
			}
		}
		return a
	}
	// later is as late as the other server may be.
	later := func() { e.clock.advance(auth.Believed) }
	for what, do := range map[string]func(a alice) (dead []string){
		"logout": func(a alice) []string {
			want(t, e.Logout(e.ctx, e.who(a.tok.Access)), nil)
			return []string{a.tok.Access}
		},
		"end of another session": func(a alice) []string {
			want(t, e.EndSession(e.ctx, e.who(a.tok.Access), a.other.Session.ID), nil)
			return []string{a.other.Access}
		},
		"end of a session by an administrator": func(a alice) []string {
			want(t, e.EndSessionOf(e.ctx, e.admin, a.id, a.other.Session.ID), nil)
			return []string{a.other.Access}
		},
		"end of his sessions by an administrator": func(a alice) []string {
			want(t, e.EndSessionsOf(e.ctx, e.admin, a.id), nil)
			return []string{a.tok.Access, a.other.Access}
		},
		"end of everybody's sessions": func(a alice) []string {
			want(t, e.EndEverySession(e.ctx, e.admin), nil)
			return []string{a.tok.Access, a.other.Access}
		},
		"disabling": func(a alice) []string {
			want(t, e.disable(a.id), nil)
			return []string{a.tok.Access, a.other.Access, a.key}
		},
		"deletion": func(a alice) []string {
			want(t, e.DeleteUser(e.ctx, e.admin, a.id), nil)
			return []string{a.tok.Access, a.other.Access, a.key}
		},
		"end of a key": func(a alice) []string {
			want(t, e.DeleteKey(e.ctx, e.who(a.tok.Access), a.keyID), nil)
			return []string{a.key}
		},
		"password": func(a alice) []string {
			want(t, e.ChangePassword(e.ctx, e.who(a.tok.Access), password, "another lorry altogether", ""), nil)
			return []string{a.other.Access}
		},
		"reset": func(a alice) []string {
			token, _, err := e.ResetUser(e.ctx, e.admin, a.id, false)
			want(t, err, nil)
			want(t, e.ResetPassword(e.ctx, origin, token, "another lorry altogether"), nil)
			return []string{a.tok.Access, a.other.Access}
		},
		"replay": func(a alice) []string {
			_, err := e.Refresh(e.ctx, origin, a.other.Refresh)
			want(t, err, nil)
			_, err = e.Refresh(e.ctx, origin, a.other.Refresh)
			want(t, err, auth.ErrToken)
			return []string{a.other.Access}
		},
		"repair from outside": func(a alice) []string {
			user, err := e.db.User(e.ctx, a.id)
			want(t, err, nil)
			want(t, auth.ResetOffline(e.ctx, e.db, cheap, user.Username, "another lorry altogether"), nil)
			return []string{a.tok.Access, a.other.Access}
		},
	} {
		t.Run(what, func(t *testing.T) {
			dead := do(newAlice())
			later()
			for _, credential := range dead {
				r.dead(what, credential)
			}
		})
	}
	for what, do := range map[string]func(a alice){
		"roles": func(a alice) { e.give(a.id, "user") },
		"the role itself": func(alice) {
			_, err := e.PutRole(e.ctx, e.admin, "ops", nil, "", 0)
			want(t, err, nil)
		},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := e.PutRole(e.ctx, e.admin, "ops", []string{"audit:read"}, "10-S", 0)
			want(t, err, nil)
			later()
			a := newAlice()
			do(a)
			later()
			for _, c := range []string{a.tok.Access, a.key} {
				if who := r.who(c); who.Can(auth.AuditRead) || who.Rate != "" {
					t.Errorf("%+v", who)
				}
			}
		})
	}
	t.Run("a signing key", func(t *testing.T) {
		_, err := e.PutRole(e.ctx, e.admin, "ops", []string{"audit:read"}, "10-S", 0)
		want(t, err, nil)
		later()
		a := newAlice()
		want(t, e.RetireSigningKey(e.ctx, e.admin, e.keys.SignerID()), nil)
		later()
		r.dead("signed by a retired key", a.tok.Access)
	})
}

// Nobody else's credentials pay for that: they stay known.
func TestReplicasForgetOnlyWhatChanged(t *testing.T) {
	e := newEnv(t)
	r := e.replica()
	var tokens []auth.Tokens
	for i := range 50 {
		_, tok := e.user(fmt.Sprint("user", i))
		tokens = append(tokens, tok)
	}
	for _, tok := range tokens {
		r.who(tok.Access)
	}
	want(t, e.Logout(e.ctx, e.who(tokens[0].Access)), nil)
	e.clock.advance(auth.Believed)
	asked := r.store.count()
	for _, tok := range tokens[1:] {
		r.who(tok.Access)
	}
	// Of 49 others one may share the stripe, of which there are 4096.
	if n := r.store.count() - asked; n > 3 {
		t.Errorf("%d questions to the database for credentials of others", n)
	}
}

// A server that can't ask what others changed lets nobody in, however well it
// knows him, and lets them in again when it can.
func TestNobodyIsLetInUnasked(t *testing.T) {
	e := newEnv(t)
	r := e.replica()
	_, tok := e.user("alice")
	_, key, err := e.CreateKey(e.ctx, e.who(tok.Access), auth.KeyRequest{Name: "ci"})
	want(t, err, nil)
	known := []string{tok.Access, key}
	for _, c := range known {
		r.who(c)
	}
	down := auth.ErrUnavailable.Because(errors.New("the disk is gone"))
	r.store.set(func(method string) error {
		if method == "Changes" {
			return down
		}
		return nil
	}, nil)
	e.clock.advance(auth.Believed - time.Nanosecond)
	for _, c := range known {
		r.who(c)
	}
	e.clock.advance(time.Nanosecond)
	want(t, e.Logout(e.ctx, e.who(tok.Access)), nil)
	for range 3 {
		for _, c := range known {
			if _, err := r.Authenticate(r.ctx, c); !errors.Is(err, auth.ErrUnavailable) {
				t.Errorf("let in although nobody knows what changed: %v", err)
			}
		}
	}
	r.store.set(nil, nil)
	r.dead("logged out meanwhile", tok.Access)
	r.who(key)
}

// A clock that goes back does not stretch what is believed: the database is asked.
func TestClockBackwardsIsNotBelieved(t *testing.T) {
	e := newEnv(t)
	r := e.replica()
	_, tok := e.user("alice")
	e.clock.advance(10 * time.Minute)
	r.who(tok.Access)
	e.clock.advance(-time.Minute)
	want(t, e.Logout(e.ctx, e.who(tok.Access)), nil)
	r.dead("logged out after the clock went back", tok.Access)
}

// However many wait for the database to tell what changed, it is asked once.
func TestOneQuestionForAllWhoWait(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	e.who(tok.Access)
	reached, goOn := make(chan struct{}), make(chan struct{})
	var stopped atomic.Bool
	e.store.set(func(method string) error {
		if method == "Changes" && stopped.CompareAndSwap(false, true) {
			close(reached)
			<-goOn
		}
		return nil
	}, nil)
	e.clock.advance(auth.Believed)
	polls := e.store.polls.Load()
	var wg sync.WaitGroup
	authenticate := func() {
		if _, err := e.Authenticate(e.ctx, tok.Access); err != nil {
			t.Error(err)
		}
	}
	wg.Go(authenticate)
	<-reached
	for range 100 {
		wg.Go(authenticate)
	}
	left, leave := context.WithCancel(e.ctx)
	leave()
	if _, err := e.Authenticate(left, tok.Access); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("who left was waited for: %v", err)
	}
	close(goOn)
	wg.Wait()
	if n := e.store.polls.Load() - polls; n != 1 {
		t.Errorf("the database was asked %d times", n)
	}
}

// The listener hears of a change before anybody is let in by what he changes, and
// again when it failed.
func TestListenerOfChanges(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	var got []auth.Changes
	var failing error
	e.OnChanges(func(_ context.Context, c auth.Changes) error {
		got = append(got, c)
		return failing
	})
	want(t, e.Poll(e.ctx), nil)
	got = nil
	_, err := e.PutRole(e.ctx, e.admin, "ops", nil, "1-S", 0)
	want(t, err, nil)
	e.clock.advance(auth.Believed)
	failing = errors.New("the catalogue can't be read")
	_, err = e.Authenticate(e.ctx, tok.Access)
	want(t, err, auth.ErrUnavailable)
	failing = nil
	e.who(tok.Access)
	change := auth.Change{Kind: auth.RoleChanged, Subject: "ops"}
	if len(got) != 2 || len(got[0].List) != 1 || got[0].List[0] != change || len(got[1].List) != 1 || got[1].List[0] != change {
		t.Errorf("%+v", got)
	}
	e.clock.advance(auth.Believed)
	e.who(tok.Access)
	if len(got) != 2 {
		t.Errorf("told again: %+v", got)
	}
}

// Two servers by the real clock, each with its Run: a change is everywhere in two
// seconds, and a few more for a machine under load.
func TestReplicasRun(t *testing.T) {
	real := func(c *auth.Config) { c.Now = time.Now }
	e := newEnv(t, real)
	r := e.replica()
	ctx, stop := context.WithCancel(e.ctx)
	var servers sync.WaitGroup
	for _, s := range []*env{e, r} {
		servers.Go(func() { _ = s.Run(ctx) })
	}
	defer servers.Wait()
	defer stop()
	_, tok := e.user("alice")
	r.who(tok.Access)
	want(t, e.Logout(e.ctx, e.who(tok.Access)), nil)
	began := time.Now()
	for {
		_, err := r.Authenticate(e.ctx, tok.Access)
		if errors.Is(err, auth.ErrToken) {
			break
		}
		want(t, err, nil)
		// Whoever is let in is let in by what was true two seconds ago.
		if late := time.Since(began); late > auth.Believed+3*time.Second {
			t.Fatalf("alive %s after the logout", late)
		}
	}
	t.Logf("dead after %s", time.Since(began))
}

// Clients log in, refresh and call two servers while the keys rotate and retire
// again and again: nobody is refused.
func TestRotationUnderLoad(t *testing.T) {
	e := newEnv(t)
	const lead, ttl = 5 * time.Second, time.Minute
	short := e.keyring()
	short.Lead, short.AccessTTL = lead, ttl
	server := func(c *auth.Config) {
		k, err := auth.OpenKeyring(e.ctx, short)
		want(t, err, nil)
		c.Keys, c.AccessTTL, c.RefreshTTL = k, ttl, time.Hour
	}
	servers := []*env{e.replica(server), e.replica(server)}
	for i := range 4 {
		e.register(fmt.Sprint("user", i))
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var calls, refreshed atomic.Int64
	signers := sync.Map{}
	for i := range 4 {
		clients.Go(func() {
			a, b := servers[i%2], servers[(i+1)%2]
			tok, err := a.Login(e.ctx, origin, "x", fmt.Sprint("user", i), password, "")
			for n := 0; err == nil; n++ {
				select {
				case <-stop:
					return
				default:
				}
				signers.Store(kid(t, tok.Access), true)
				for _, s := range servers {
					// A token is good until it expires; the clock moves under us.
					if _, err := s.Authenticate(e.ctx, tok.Access); err != nil && e.clock.now().Before(tok.Session.LastUsed.Add(ttl)) {
						t.Errorf("refused: %v", err)
						return
					}
					calls.Add(1)
				}
				if n%5 == 4 {
					a, b = b, a
					tok, err = a.Refresh(e.ctx, origin, tok.Refresh)
					refreshed.Add(1)
				}
			}
			t.Error(err)
		})
	}
	// Each step of the clock is shorter than what is believed, so that tokens are
	// verified anew and found in the memory by turns.
	const rotations = 6
	for range rotations {
		admin := servers[0].login("admin")
		if _, err := servers[0].RotateSigningKey(e.ctx, servers[0].who(admin.Access)); err != nil {
			t.Error(err)
		}
		for passed := time.Duration(0); passed < lead+ttl+auth.KeySlack; passed += 1500 * time.Millisecond {
			e.clock.advance(1500 * time.Millisecond)
			before := calls.Load()
			for range 1000 { // let the clients go on before the next step
				if calls.Load() > before+8 || t.Failed() {
					break
				}
				time.Sleep(time.Millisecond)
			}
			for _, s := range servers {
				if err := s.KeepKeys(e.ctx); err != nil {
					t.Error(err)
				}
			}
		}
	}
	close(stop)
	clients.Wait()
	seen := 0
	signers.Range(func(any, any) bool { seen++; return true })
	t.Logf("%d calls and %d refreshes, signed by %d keys", calls.Load(), refreshed.Load(), seen)
	if seen < rotations+1 {
		t.Errorf("only %d keys signed", seen)
	}
	if rows, err := e.db.SigningKeys(e.ctx); err != nil || len(rows) > 2 {
		t.Errorf("%d keys are left, %v", len(rows), err)
	}
}
