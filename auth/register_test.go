package auth_test

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"modelgate/audit"
	"modelgate/auth"
)

func TestRegister(t *testing.T) {
	e := newEnv(t)
	u := e.register("A-1_b.C")
	if u.Username != "a-1_b.c" || u.ID == "" || !u.CreatedAt.Equal(e.clock.now()) {
		t.Fatalf("%+v", u)
	}
	for _, name := range []string{"a-1_b.c", "A-1_B.C", "admin", "ADMIN"} {
		_, err := e.Register(e.ctx, origin, name, password)
		want(t, err, auth.ErrTaken)
	}
	if r := e.records("user.register")[0]; r.Outcome != audit.Failed || r.Reason != "taken" || r.Actor != "admin" {
		t.Errorf("%+v", r)
	}
	for _, name := range []string{"start", "Schedule", "offline", "modelgate"} { // who acts in the audit log without being a user
		_, err := e.Register(e.ctx, origin, name, password)
		want(t, err, auth.ErrTaken)
		_, _, err = e.CreateUser(e.ctx, e.admin, name, nil)
		want(t, err, auth.ErrTaken)
	}
	for _, name := range []string{
		"", "a", ".ab", "-ab", "_ab", "a b", "ab ", " ab", "a@b", "a/b", "ümlaut", "a\nb", "a\x00b", "\u212aate", "аdmin", "ab\u200b", strings.Repeat("a", 65), strings.Repeat("a", 1<<20),
	} {
		_, err := e.Register(e.ctx, origin, name, password)
		want(t, err, auth.ErrInvalid)
	}
	e.register(strings.Repeat("a", 64))
	for p, target := range map[string]error{
		"password": auth.ErrWeakPassword, "short": auth.ErrWeakPassword, "robert2030": auth.ErrWeakPassword, "modelgate1": auth.ErrWeakPassword,
		strings.Repeat("x", 1<<20): auth.ErrInvalid, "\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8": auth.ErrInvalid,
	} {
		_, err := e.Register(e.ctx, origin, "robert", p)
		want(t, err, target)
	}
	if _, err := e.db.UserByName(e.ctx, "robert"); !errors.Is(err, auth.ErrNotFound) {
		t.Error("a refused registration left a user behind")
	}
}

func TestPasswordsAreVerbatim(t *testing.T) {
	e := newEnv(t)
	for i, p := range []string{
		strings.Repeat("Käse-☕-", 20), "  leading and trailing  ", "composed \u00e9 of one rune", "a\u0301 decomposed of two", strings.Repeat("z9-qK", 205)[:1024],
	} {
		name := "user" + string(rune('a'+i))
		_, err := e.Register(e.ctx, origin, name, p)
		want(t, err, nil)
		_, err = e.Login(e.ctx, origin, "x", name, p, "")
		want(t, err, nil)
		for _, other := range []string{strings.TrimSpace(p) + " ", strings.ToUpper(p), p + " ", p[:len(p)-1] + "~", strings.ReplaceAll(p, "\u00e9", "e\u0301"), strings.ReplaceAll(p, "a\u0301", "\u00e1")} {
			if other == p {
				continue
			}
			if _, err := e.Login(e.ctx, origin, "x", name, other, ""); err == nil {
				t.Errorf("%q signs in for %q", other, p)
			}
		}
	}
	_, err := e.Login(e.ctx, origin, "x", "usera", strings.Repeat("x", 1<<20), "")
	want(t, err, auth.ErrInvalid)
}

func TestRegistrationModes(t *testing.T) {
	invite := newEnv(t, func(c *auth.Config) { c.Registration = auth.InviteOnly })
	_, err := invite.Register(invite.ctx, origin, "alice", password)
	want(t, err, auth.ErrForbidden)
	_, token, err := invite.CreateUser(invite.ctx, invite.admin, "alice", []string{"user"})
	want(t, err, nil)
	_, err = invite.AcceptInvitation(invite.ctx, origin, token, password)
	want(t, err, nil)
	closed := newEnv(t, func(c *auth.Config) { c.Registration = auth.Closed })
	_, err = closed.Register(closed.ctx, origin, "alice", password)
	want(t, err, auth.ErrForbidden)
	_, err = closed.AcceptInvitation(closed.ctx, origin, token, password)
	want(t, err, auth.ErrForbidden)
	_, _, err = closed.CreateUser(closed.ctx, closed.admin, "alice", nil)
	want(t, err, auth.ErrForbidden)
	_, err = auth.New(auth.Config{Store: closed.db, Guard: auth.NewGuard(closed.audit), Audit: closed.audit, Keys: closed.keys, Vault: closed.vault, Issuer: issuer, Registration: "sometimes"})
	if err == nil {
		t.Error("an unknown mode is taken")
	}
}

func TestInvitation(t *testing.T) {
	e := newEnv(t)
	u, token, err := e.CreateUser(e.ctx, e.admin, "Alice", []string{"user", "data-scientist", "user"})
	want(t, err, nil)
	if u.Username != "alice" || len(u.Roles) != 2 || !strings.HasPrefix(token, "mgi_") {
		t.Fatalf("%+v", u)
	}
	_, err = e.Login(e.ctx, origin, "x", "alice", "", "")
	want(t, err, auth.ErrCredentials)
	_, err = e.AcceptInvitation(e.ctx, origin, token, "alice123")
	want(t, err, auth.ErrWeakPassword) // and the invitation stays good
	want(t, e.ResetPassword(e.ctx, origin, token, password), auth.ErrToken)
	got, err := e.AcceptInvitation(e.ctx, origin, token, password)
	if want(t, err, nil); got.ID != u.ID || got.PasswordHash != "" {
		t.Fatalf("%+v", got)
	}
	who := e.who(e.login("alice").Access)
	if !who.Can(auth.ModelsWrite) {
		t.Errorf("%+v", who)
	}
	_, err = e.AcceptInvitation(e.ctx, origin, token, "another lorry altogether")
	want(t, err, auth.ErrToken)
	for _, bad := range []string{"", "mgi_x", strings.Replace(token, "mgi_", "mgp_", 1), strings.Repeat("x", 1<<20)} {
		_, err = e.AcceptInvitation(e.ctx, origin, bad, password)
		want(t, err, auth.ErrToken)
	}
	_, token, err = e.CreateUser(e.ctx, e.admin, "bob", nil)
	want(t, err, nil)
	e.clock.advance(72 * time.Hour)
	_, err = e.AcceptInvitation(e.ctx, origin, token, password)
	want(t, err, auth.ErrToken)
	if r := e.records("user.register")[0]; r.Outcome != audit.Failed || r.Reason != "unknown" {
		t.Errorf("%+v", r)
	}
}

func TestReset(t *testing.T) {
	e := newEnv(t)
	u, tok := e.user("alice")
	first, _, err := e.ResetUser(e.ctx, e.admin, u.ID, false)
	want(t, err, nil)
	token, expires, err := e.ResetUser(e.ctx, e.admin, u.ID, false)
	want(t, err, nil)
	if !expires.Equal(e.clock.now().Add(time.Hour)) || !strings.HasPrefix(token, "mgp_") {
		t.Errorf("%v", expires)
	}
	const next = "another lorry altogether"
	want(t, e.ResetPassword(e.ctx, origin, first, next), auth.ErrToken) // the newer one replaced it
	want(t, e.ResetPassword(e.ctx, origin, token, "password"), auth.ErrWeakPassword)
	e.who(tok.Access)
	want(t, e.ResetPassword(e.ctx, origin, token, next), nil)
	e.dead("token of before", tok.Access)
	_, err = e.Refresh(e.ctx, origin, tok.Refresh)
	want(t, err, auth.ErrToken)
	_, err = e.Login(e.ctx, origin, "x", "alice", password, "")
	want(t, err, auth.ErrCredentials)
	_, err = e.Login(e.ctx, origin, "x", "alice", next, "")
	want(t, err, nil)
	want(t, e.ResetPassword(e.ctx, origin, token, password), auth.ErrToken)
	token, _, err = e.ResetUser(e.ctx, e.admin, u.ID, false)
	want(t, err, nil)
	e.clock.advance(time.Hour)
	want(t, e.ResetPassword(e.ctx, origin, token, password), auth.ErrToken)
	_, _, err = e.ResetUser(e.ctx, e.admin, e.admin.UserID, false)
	want(t, err, auth.ErrForbidden)
	_, _, err = e.ResetUser(e.ctx, e.admin, "u_none", false)
	want(t, err, auth.ErrNotFound)
}

func TestChangePassword(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	other := e.login("alice")
	alice := e.who(tok.Access)
	const next = "another lorry altogether"
	want(t, e.ChangePassword(e.ctx, alice, "not the password", next, ""), auth.ErrCredentials)
	if r := e.records("user.password")[0]; r.Outcome != audit.Failed || r.Reason != "wrong_password" {
		t.Errorf("%+v", r)
	}
	want(t, e.ChangePassword(e.ctx, alice, password, "password1", ""), auth.ErrWeakPassword)
	want(t, e.ChangePassword(e.ctx, alice, password, password, ""), auth.ErrWeakPassword)
	want(t, e.ChangePassword(e.ctx, alice, strings.Repeat("x", 1<<20), next, ""), auth.ErrInvalid)
	_, key, err := e.CreateKey(e.ctx, alice, auth.KeyRequest{Name: "ci"})
	want(t, err, nil)
	want(t, e.ChangePassword(e.ctx, e.who(key), password, next, ""), auth.ErrReauthenticate)
	e.who(other.Access)
	want(t, e.ChangePassword(e.ctx, alice, password, next, ""), nil)
	e.dead("other session", other.Access)
	_, err = e.Refresh(e.ctx, origin, other.Refresh)
	want(t, err, auth.ErrToken)
	e.who(tok.Access)
	_, err = e.Refresh(e.ctx, origin, tok.Refresh)
	want(t, err, nil)
	_, err = e.Login(e.ctx, origin, "x", "alice", next, "")
	want(t, err, nil)
}

// bcrypt hashes of another system verify, and become argon2id at the next
// sign-in; so do hashes of another cost.
func TestOldHashesAreRenewed(t *testing.T) {
	e := newEnv(t)
	u := e.register("alice")
	for _, make := range []func() string{
		func() string { b, _ := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost); return string(b) },
		func() string {
			costly := auth.Hashing{Memory: 128}
			want(t, auth.ResetOffline(e.ctx, e.db, costly, "alice", password), nil)
			stored, err := e.db.User(e.ctx, u.ID)
			want(t, err, nil)
			return stored.PasswordHash
		},
	} {
		old := make()
		_, err := e.db.UpdateUser(e.ctx, u.ID, func(u auth.User, _ int) (auth.User, error) { u.PasswordHash = old; return u, nil })
		want(t, err, nil)
		_, err = e.Login(e.ctx, origin, "x", "alice", "not the password", "")
		want(t, err, auth.ErrCredentials)
		if now, _ := e.db.User(e.ctx, u.ID); now.PasswordHash != old {
			t.Error("a failed sign-in renews the hash")
		}
		tok := e.login("alice")
		e.who(tok.Access)
		now, err := e.db.User(e.ctx, u.ID)
		want(t, err, nil)
		if !strings.HasPrefix(now.PasswordHash, "$argon2id$v=19$m=64,t=1,p=1$") {
			t.Errorf("%s became %s", old, now.PasswordHash)
		}
		e.login("alice")
	}
}

func TestEnsureAdmin(t *testing.T) {
	e := newEnv(t)
	generated, created, err := e.EnsureAdmin(e.ctx, "") // there is one
	if err != nil || created || generated != "" {
		t.Fatalf("%v %v", created, err)
	}
	if !e.admin.Can(auth.UsersManage | auth.ModelsWrite | auth.ModelsManage | auth.AuditRead | auth.MetricsRead) {
		t.Errorf("%+v", e.admin)
	}
	roles, err := e.Roles(e.ctx, e.admin)
	want(t, err, nil)
	var names []string
	for _, r := range roles {
		if r.Builtin {
			names = append(names, r.Name+" "+strings.Join(r.Permissions.Names(), ","))
		}
	}
	if got := strings.Join(names, "; "); got != "admin users:manage,models:write,models:manage,audit:read,metrics:read; data-scientist models:write; user " {
		t.Errorf("%s", got)
	}
	other := newEnv(t)
	passwords := map[string]bool{}
	for range 2 { // a database of its own each, without an administrator
		for _, name := range []string{"aaron", "zoe"} {
			if _, err := other.Register(other.ctx, origin, name, password); err != nil && !errors.Is(err, auth.ErrTaken) {
				t.Fatal(err)
			}
		}
		_, err := other.db.UpdateUser(other.ctx, other.admin.UserID, func(u auth.User, _ int) (auth.User, error) { u.Roles = nil; return u, nil })
		want(t, err, nil)
		want(t, other.db.DeleteUser(other.ctx, other.admin.UserID, func(auth.User, int) error { return nil }), nil)
		_, _, err = other.EnsureAdmin(other.ctx, "admin123")
		want(t, err, auth.ErrWeakPassword)
		generated, created, err := other.EnsureAdmin(other.ctx, "")
		if err != nil || !created || len(generated) < 24 {
			t.Fatalf("%q %v %v", generated, created, err)
		}
		passwords[generated] = true
		tok, err := other.Login(other.ctx, origin, "x", "admin", generated, "")
		want(t, err, nil)
		other.admin = other.who(tok.Access)
	}
	if len(passwords) != 2 {
		t.Error("the random password is always the same")
	}
}

func TestResetOffline(t *testing.T) {
	e := newEnv(t)
	const next = "another lorry altogether"
	want(t, auth.ResetOffline(e.ctx, e.db, cheap, "nobody", next), auth.ErrNotFound)
	want(t, auth.ResetOffline(e.ctx, e.db, cheap, "admin", "admin123"), auth.ErrWeakPassword)
	want(t, auth.ResetOffline(e.ctx, e.db, cheap, "Admin", next), nil)
	_, err := e.Login(e.ctx, origin, "x", "admin", password, "")
	want(t, err, auth.ErrCredentials)
	_, err = e.Login(e.ctx, origin, "x", "admin", next, "")
	want(t, err, nil)
	list, err := e.db.SessionsOf(e.ctx, e.admin.UserID, e.clock.now())
	want(t, err, nil)
	if len(list) != 1 {
		t.Errorf("%d sessions: the old one should have ended", len(list))
	}
}

// A lost invitation or reset is no way into an account whose password was set
// since, by whatever way.
func TestPasswordVoidsTickets(t *testing.T) {
	const next, other = "another lorry altogether", "eleven quiet harbours at dusk"
	e := newEnv(t)
	invited := func(name string) (auth.User, func() error) {
		u, token, err := e.CreateUser(e.ctx, e.admin, name, nil)
		want(t, err, nil)
		return u, func() error { _, err := e.AcceptInvitation(e.ctx, origin, token, other); return err }
	}
	forgetful := func(name string) (auth.User, func() error) {
		u := e.register(name)
		token, _, err := e.ResetUser(e.ctx, e.admin, u.ID, false)
		want(t, err, nil)
		return u, func() error { return e.ResetPassword(e.ctx, origin, token, other) }
	}
	byReset := func(u auth.User) {
		token, _, err := e.ResetUser(e.ctx, e.admin, u.ID, false)
		want(t, err, nil)
		want(t, e.ResetPassword(e.ctx, origin, token, next), nil)
	}
	offline := func(u auth.User) { want(t, auth.ResetOffline(e.ctx, e.db, cheap, u.Username, next), nil) }
	byHimself := func(u auth.User) {
		want(t, e.ChangePassword(e.ctx, e.who(e.login(u.Username).Access), password, next, ""), nil)
	}
	for name, c := range map[string]struct {
		lose func(string) (auth.User, func() error)
		set  func(auth.User)
	}{
		"invited.reset": {invited, byReset}, "invited.offline": {invited, offline},
		"reset.reset": {forgetful, byReset}, "reset.offline": {forgetful, offline}, "reset.change": {forgetful, byHimself},
	} {
		u, find := c.lose(name)
		c.set(u)
		if err := find(); !errors.Is(err, auth.ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
		_, err := e.Login(e.ctx, origin, "x", name, next, "")
		want(t, err, nil)
	}

	// An invitation that an earlier version left beside a password.
	u, token, err := e.CreateUser(e.ctx, e.admin, "carol", nil)
	want(t, err, nil)
	offline(u)
	want(t, e.db.PutTicket(e.ctx, auth.Ticket{Hash: sha256.Sum256([]byte(token)), Kind: auth.Invitation, UserID: u.ID, ExpiresAt: e.clock.now().Add(time.Hour)}), nil)
	_, err = e.AcceptInvitation(e.ctx, origin, token, other)
	want(t, err, auth.ErrToken)

	// A sign-in that renews an old hash sets no password.
	u, find := forgetful("dora")
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	want(t, err, nil)
	stored, err := e.db.User(e.ctx, u.ID)
	want(t, err, nil)
	_, err = e.db.RenewHash(e.ctx, u.ID, stored.PasswordHash, string(b))
	want(t, err, nil)
	e.login("dora")
	if stored, err = e.db.User(e.ctx, u.ID); err != nil || strings.HasPrefix(stored.PasswordHash, "$2") {
		t.Errorf("%+v, %v", stored, err)
	}
	want(t, find(), nil)
}
