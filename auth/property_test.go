package auth_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"modelgate/auth"
)

// lives is what ought to be true of the credentials handed out so far.
type lives struct {
	*env
	t     *rapid.T
	users []*account
	n     int

	boss      auth.Principal // the administrator
	bossUntil time.Time      // when he signs in anew
}

type account struct {
	id, name, password string
	roles              []string
	disabled           bool
	logins             []*login
	browsers           []*browser
	keys               []*apiKey

	service bool
	secrets []*clientSecret
	grants  []*grant
}

type login struct {
	id      string
	alive   bool
	access  map[string]time.Time // tokens and when they expire
	refresh string
	used    []string
	ends    time.Time // absolute
	idle    time.Time // of the refresh token
}

type browser struct {
	id     string
	alive  bool
	cookie string
	old    []string  // values before a step-up
	ends   time.Time // absolute
	idle   time.Time // earliest end without use
	auth   time.Time
}

type apiKey struct {
	id, secret string
	ends       time.Time // zero: never
}

// TestNoSequenceLeavesATokenAlive walks random sequences of everything that
// gives, renews or takes away access, and looks at every credential after each
// step: what should be dead is refused, what should live has the rights of now.
func TestNoSequenceLeavesATokenAlive(t *testing.T) {
	checks, seed := "250", "20300301"
	if raceEnabled {
		checks = "20"
	}
	if os.Getenv("MODELGATE_SOAK") != "" {
		checks, seed = "2000", "0" // 0: another one each time; a failure prints it
	}
	for name, value := range map[string]string{"rapid.checks": checks, "rapid.nofailfile": "true", "rapid.steps": "50", "rapid.seed": seed} {
		f := flag.Lookup(name)
		before := f.Value.String()
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
		defer flag.Set(name, before)
	}
	e := newEnvIn(t, memoryDir(t))
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		l := &lives{env: e, t: rt}
		defer l.clear()
		rt.Repeat(map[string]func(*rapid.T){
			"register": func(rt *rapid.T) { l.register(run) }, "login": l.login, "sign in with a browser": l.browse,
			"use a browser": l.useBrowser, "step up": l.stepUp, "sign a browser out": l.leave, "end all": l.endAllSessions,
			"wrong password": l.wrongPassword, "refresh": l.refreshOne, "replay": l.replay,
			"logout": l.logout, "end another session": l.endOther, "revoke": l.revoke, "disable": l.disable, "enable": l.enable, "roles": l.changeRoles,
			"role definition": l.redefine, "change password": l.changePassword, "reset": l.reset, "delete user": l.deleteUser, "create key": l.createKey, "delete key": l.deleteKey,
			"make service account": func(rt *rapid.T) { l.makeService(run) }, "make secret": l.makeSecret, "delete secret": l.deleteSecret,
			"client token": l.clientToken, "client revokes": l.clientRevokes,
			"time passes": l.pass, "restart": l.restart, "": l.look,
		})
	})
}

func (l *lives) must(err error) {
	if err != nil {
		l.t.Helper()
		l.t.Fatalf("%v", err)
	}
}

func (l *lives) root() auth.Principal { // the administrator signs in anew, since time passes
	if l.clock.now().Before(l.bossUntil) {
		return l.boss
	}
	tok, err := l.Login(l.ctx, origin, "x", "admin", password, "")
	l.must(err)
	l.boss, err = l.Authenticate(l.ctx, tok.Access)
	l.must(err)
	l.bossUntil = l.clock.now().Add(10 * time.Minute)
	return l.boss
}

func (l *lives) pick() *account {
	if len(l.users) == 0 {
		l.t.Skip("nobody")
	}
	return rapid.SampledFrom(l.users).Draw(l.t, "user")
}

func (l *lives) pickPerson() *account {
	a := l.pick()
	if a.service {
		l.t.Skip("a program")
	}
	return a
}

func (l *lives) pickLogin(good func(*account, *login) bool) (*account, *login) {
	var found []*login
	owner := map[*login]*account{}
	for _, a := range l.users {
		for _, s := range a.logins {
			if good(a, s) {
				found = append(found, s)
				owner[s] = a
			}
		}
	}
	if len(found) == 0 {
		l.t.Skip("no such session")
	}
	s := rapid.SampledFrom(found).Draw(l.t, "session")
	return owner[s], s
}

// awake is a session with an access token that works.
func (l *lives) awake(a *account, s *login) bool { return l.token(a, s) != "" }

func (l *lives) token(a *account, s *login) string {
	for tok, ends := range s.access {
		if l.tokenAlive(a, s, ends) {
			return tok
		}
	}
	return ""
}

func (l *lives) tokenAlive(a *account, s *login, expires time.Time) bool {
	now := l.clock.now()
	return !a.disabled && s.alive && now.Before(expires) && now.Before(s.ends)
}

func (l *lives) refreshable(a *account, s *login) bool {
	now := l.clock.now()
	return s.alive && !a.disabled && now.Before(s.ends) && now.Before(s.idle)
}

func (l *lives) register(run int) {
	if len(l.users) == 4 {
		l.t.Skip("enough users")
	}
	l.n++
	a := &account{name: fmt.Sprintf("user-%d-%d", run, l.n), password: password, roles: []string{"user"}}
	u, err := l.Register(l.ctx, origin, a.name, a.password)
	l.must(err)
	a.id = u.ID
	l.users = append(l.users, a)
}

func (l *lives) keep(s *login, tok auth.Tokens) {
	now := l.clock.now()
	s.access[tok.Access] = now.Add(tok.AccessTTL).Truncate(time.Second)
	s.refresh, s.idle = tok.Refresh, now.Add(tok.RefreshTTL)
}

func (l *lives) login(*rapid.T) {
	a := l.pickPerson()
	tok, err := l.Login(l.ctx, origin, "x", a.name, a.password, "")
	if a.disabled {
		if !errors.Is(err, auth.ErrCredentials) {
			l.t.Fatalf("a disabled user signs in: %v", err)
		}
		return
	}
	l.must(err)
	s := &login{id: tok.Session.ID, alive: true, access: map[string]time.Time{}, ends: tok.Session.ExpiresAt}
	l.keep(s, tok)
	a.logins = append(a.logins, s)
}

func (l *lives) wrongPassword(*rapid.T) {
	a := l.pickPerson()
	if _, err := l.Login(l.ctx, origin, "x", a.name, a.password+"?", ""); !errors.Is(err, auth.ErrCredentials) {
		l.t.Fatalf("%v", err)
	}
}

func (l *lives) refreshOne(*rapid.T) {
	a, s := l.pickLogin(func(*account, *login) bool { return true })
	may := l.refreshable(a, s)
	old := s.refresh
	tok, err := l.Refresh(l.ctx, origin, old)
	if !may {
		if !errors.Is(err, auth.ErrToken) {
			l.t.Fatalf("a dead session is refreshed: %v", err)
		}
		return
	}
	l.must(err)
	s.used = append(s.used, old)
	l.keep(s, tok)
}

func (l *lives) replay(*rapid.T) {
	_, s := l.pickLogin(func(_ *account, s *login) bool { return len(s.used) > 0 })
	_, err := l.Refresh(l.ctx, origin, rapid.SampledFrom(s.used).Draw(l.t, "used token"))
	if !errors.Is(err, auth.ErrToken) {
		l.t.Fatalf("a used token refreshes: %v", err)
	}
	s.alive = false
}

func (l *lives) logout(*rapid.T) {
	a, s := l.pickLogin(l.awake)
	who, err := l.Authenticate(l.ctx, l.token(a, s))
	l.must(err)
	l.must(l.Logout(l.ctx, who))
	s.alive = false
}

func (l *lives) endOther(*rapid.T) {
	a, s := l.pickLogin(l.awake)
	who, err := l.Authenticate(l.ctx, l.token(a, s))
	l.must(err)
	other := rapid.SampledFrom(a.logins).Draw(l.t, "other")
	err = l.EndSession(l.ctx, who, other.id)
	if other.alive {
		l.must(err)
	} else if !errors.Is(err, auth.ErrNotFound) {
		l.t.Fatalf("%v", err)
	}
	other.alive = false
}

func (l *lives) revoke(*rapid.T) {
	a, s := l.pickLogin(func(a *account, s *login) bool { return l.awake(a, s) && l.refreshable(a, s) })
	token := s.refresh
	if rapid.Bool().Draw(l.t, "by access token") {
		token = l.token(a, s)
	}
	l.must(l.Revoke(l.ctx, origin, token))
	s.alive = false
}

func (l *lives) patch(a *account, p auth.UserPatch) {
	_, err := l.UpdateUser(l.ctx, l.root(), a.id, p)
	l.must(err)
}

func (a *account) endAll(but *login) {
	for _, s := range a.logins {
		if s != but {
			s.alive = false
		}
	}
	for _, b := range a.browsers {
		b.alive = false
	}
}

// end is what disabling does.
func (a *account) end() {
	a.disabled = true
	a.endAll(nil)
	for _, g := range a.grants {
		g.alive = false
	}
}

func (l *lives) disable(*rapid.T) {
	a := l.pick()
	l.patch(a, auth.UserPatch{Disabled: ptr(true)})
	a.end()
}

func (l *lives) enable(*rapid.T) {
	a := l.pick()
	l.patch(a, auth.UserPatch{Disabled: ptr(false)})
	a.disabled = false
}

func (l *lives) changeRoles(*rapid.T) {
	a := l.pick()
	a.roles = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"user", "data-scientist", "admin"}), 0, 2, rapid.ID[string]).Draw(l.t, "roles")
	slices.Sort(a.roles)
	l.patch(a, auth.UserPatch{Roles: &a.roles})
}

func (l *lives) redefine(*rapid.T) {
	_, err := l.PutRole(l.ctx, l.root(), "other", nil, "", 0)
	l.must(err)
}

func (l *lives) changePassword(*rapid.T) {
	a, s := l.pickLogin(l.awake)
	who, err := l.Authenticate(l.ctx, l.token(a, s))
	l.must(err)
	l.n++
	next := fmt.Sprintf("lorry number %d over bridges", l.n)
	l.must(l.ChangePassword(l.ctx, who, a.password, next, ""))
	a.password = next
	a.endAll(s)
}

func (l *lives) reset(*rapid.T) {
	a := l.pickPerson()
	token, _, err := l.ResetUser(l.ctx, l.root(), a.id, false)
	l.must(err)
	l.n++
	next := fmt.Sprintf("lorry number %d under bridges", l.n)
	err = l.ResetPassword(l.ctx, origin, token, next)
	if a.disabled {
		if !errors.Is(err, auth.ErrToken) {
			l.t.Fatalf("%v", err)
		}
		return
	}
	l.must(err)
	a.password = next
	a.endAll(nil)
}

func (l *lives) deleteUser(*rapid.T) {
	a := l.pick()
	l.must(l.DeleteUser(l.ctx, l.root(), a.id))
	a.end() // nothing of his may live
	l.look(nil)
	l.users = slices.DeleteFunc(l.users, func(b *account) bool { return a == b })
}

func (l *lives) createKey(*rapid.T) {
	a, s := l.pickLogin(l.awake)
	who, err := l.Authenticate(l.ctx, l.token(a, s))
	l.must(err)
	r := auth.KeyRequest{Name: "x"}
	k := &apiKey{}
	if rapid.Bool().Draw(l.t, "expires") {
		r.ExpiresIn = 20 * time.Minute
		k.ends = l.clock.now().Add(r.ExpiresIn)
	}
	made, secret, err := l.CreateKey(l.ctx, who, r)
	if l.clock.now().Sub(who.AuthTime) > 10*time.Minute {
		if !errors.Is(err, auth.ErrReauthenticate) {
			l.t.Fatalf("%v", err)
		}
		return
	}
	l.must(err)
	k.id, k.secret = made.ID, secret
	a.keys = append(a.keys, k)
}

func (l *lives) deleteKey(*rapid.T) {
	a, s := l.pickLogin(l.awake)
	if len(a.keys) == 0 {
		l.t.Skip("no keys")
	}
	who, err := l.Authenticate(l.ctx, l.token(a, s))
	l.must(err)
	k := rapid.SampledFrom(a.keys).Draw(l.t, "key")
	err = l.DeleteKey(l.ctx, who, k.id)
	if k.id != "" && !errors.Is(err, auth.ErrNotFound) {
		l.must(err)
	}
	k.ends = l.clock.now() // dead from now on
}

func (l *lives) pass(*rapid.T) {
	l.clock.advance(rapid.SampledFrom([]time.Duration{time.Second, 29 * time.Second, time.Minute, 11 * time.Minute, 16 * time.Minute, 24 * time.Hour, 8 * 24 * time.Hour}).Draw(l.t, "time"))
	if rapid.Bool().Draw(l.t, "sweep") { // what has expired is dead also while it still lies there
		l.Sweep(l.ctx)
	}
	l.FlushUses(l.ctx)
}

// restart: another process on the same database knows what this one knew.
func (l *lives) restart(*rapid.T) {
	s, err := auth.New(auth.Config{
		Store: l.store, Guard: auth.NewGuard(l.audit), Audit: l.audit, Keys: l.keys, Vault: l.vault, Issuer: issuer, Audience: audience, Hashing: cheap, Now: l.clock.now,
	})
	l.must(err)
	l.Service = s
}

// look compares every credential with what ought to be.
func (l *lives) look(*rapid.T) {
	for _, a := range l.users {
		for i, s := range a.logins {
			for tok, expires := range s.access {
				l.compare(a, fmt.Sprintf("an access token of session %d", i), tok, l.tokenAlive(a, s, expires))
			}
			in, err := l.Introspect(l.ctx, s.refresh)
			l.must(err)
			if want := l.refreshable(a, s); in.Active != want {
				l.t.Fatalf("the refresh token of session %d of %s: active %v, want %v", i, a.name, in.Active, want)
			}
		}
		for i, b := range a.browsers {
			l.lookAtBrowser(a, i, b)
		}
		for i, k := range a.keys {
			l.compare(a, fmt.Sprintf("key %d", i), k.secret, !a.disabled && (k.ends.IsZero() || l.clock.now().Before(k.ends)))
		}
		for i, g := range a.grants {
			l.compare(a, fmt.Sprintf("client token %d", i), g.token, l.granted(a, g))
		}
	}
}

func (l *lives) compare(a *account, what, credential string, alive bool) {
	who, err := l.Authenticate(l.ctx, credential)
	switch {
	case alive && err != nil:
		l.t.Fatalf("%s of %s is refused: %v", what, a.name, err)
	case !alive && !errors.Is(err, auth.ErrToken):
		l.t.Fatalf("%s of %s is alive: %+v, %v", what, a.name, who, err)
	case alive && (!slices.Equal(who.Roles, a.roles) || who.Can(auth.UsersManage) != slices.Contains(a.roles, "admin")):
		l.t.Fatalf("%s of %s has the rights %v, want roles %v", what, a.name, who, a.roles)
	}
}

// clear removes what a run left, since all runs share a database.
func (l *lives) clear() {
	for _, a := range l.users {
		if err := l.DeleteUser(l.ctx, l.root(), a.id); err != nil {
			l.env.t.Error(err)
		}
	}
}
