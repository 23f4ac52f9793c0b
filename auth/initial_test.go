package auth_test

import (
	"strings"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
)

// firstAdmin is a Service whose first administrator has the password that the
// program made for him.
func firstAdmin(t *testing.T) (e *env, generated string) {
	t.Helper()
	e = newEnv(t)
	want(t, e.db.DeleteUser(e.ctx, e.admin.UserID, func(auth.User, int) error { return nil }), nil)
	generated, created, err := e.EnsureAdmin(e.ctx, "")
	if err != nil || !created {
		t.Fatalf("%v, %v", created, err)
	}
	return e, generated
}

func (e *env) signIn(username, password string) (auth.Tokens, error) {
	return e.Login(e.ctx, origin, "x", username, password, "")
}

// logged takes the lines of the log that hold a part, and empties it.
func (e *env) logged(part string) (lines []string) {
	for line := range strings.Lines(e.logs.String()) {
		if strings.Contains(line, part) {
			lines = append(lines, line)
		}
	}
	e.logs.Reset()
	return lines
}

// A password that the program made signs in for 72 hours. After that it is a
// wrong one to whoever tries it, and the operator is told what to do; what it was
// used to get lives on.
func TestInitialPasswordExpires(t *testing.T) {
	e, generated := firstAdmin(t)
	old, err := e.signIn("admin", generated)
	want(t, err, nil)
	browser, err := e.BeginBrowser(e.ctx, origin, "x", "admin", generated, "", "")
	want(t, err, nil)
	_, key, err := e.CreateKey(e.ctx, e.who(old.Access), auth.KeyRequest{Name: "k"})
	want(t, err, nil)
	e.clock.advance(auth.InitialPasswordTTL - time.Second)
	tok, err := e.signIn("admin", generated)
	want(t, err, nil)
	late, err := e.BeginBrowser(e.ctx, origin, "x", "admin", generated, "", "")
	want(t, err, nil)
	e.logs.Reset()

	e.clock.advance(time.Second)
	before := e.store.count()
	_, expired := e.signIn("admin", generated)
	questions := e.store.count() - before
	before = e.store.count()
	_, wrong := e.signIn("admin", "not the password")
	if want(t, expired, auth.ErrCredentials); detail(expired) != detail(wrong) || questions != e.store.count()-before {
		t.Errorf("%q after %d questions, %q after %d", detail(expired), questions, detail(wrong), e.store.count()-before)
	}
	if r := e.records("user.login")[1]; r.Outcome != audit.Failed || r.Reason != "expired_password" || r.Detail["way_out"] != "modelgate admin reset-password" {
		t.Errorf("%+v", r)
	}
	_, err = e.BeginBrowser(e.ctx, origin, "x", "admin", generated, "", "")
	want(t, err, auth.ErrCredentials)
	if lines := e.logged("modelgate admin reset-password"); len(lines) != 1 || !strings.Contains(lines[0], `"level":"WARN"`) || !strings.Contains(lines[0], `"cause":`) {
		t.Errorf("within a minute the log says %q", lines)
	}
	e.clock.advance(time.Minute)
	_, err = e.signIn("admin", generated)
	want(t, err, auth.ErrCredentials)
	if lines := e.logged("modelgate admin reset-password"); len(lines) != 1 {
		t.Errorf("a minute later the log says %q", lines)
	}

	// It proves nothing either to who is signed in; his sessions and keys live on.
	who := e.who(tok.Access)
	e.who(key)
	_, err = e.Refresh(e.ctx, origin, old.Refresh)
	want(t, err, nil)
	_, _, err = e.BeginTOTP(e.ctx, who, generated)
	want(t, err, auth.ErrCredentials)
	in, err := e.AuthenticateBrowser(e.ctx, late.Cookie)
	want(t, err, nil)
	_, err = e.Reauthenticate(e.ctx, in, late.Cookie, generated, "")
	want(t, err, auth.ErrCredentials)
	_, err = e.AuthenticateBrowser(e.ctx, browser.Cookie) // by its own end
	want(t, err, auth.ErrToken)

	// Changed, it is a password like others.
	want(t, e.ChangePassword(e.ctx, who, generated, "another lorry altogether", ""), nil)
	e.clock.advance(365 * 24 * time.Hour)
	_, err = e.signIn("admin", "another lorry altogether")
	want(t, err, nil)
}

// Whoever chooses a password has one that does not expire, by whatever way.
func TestChosenPasswordsDoNotExpire(t *testing.T) {
	const next = "another lorry altogether"
	for way, choose := range map[string]func(e *env, generated string){
		"change": func(e *env, generated string) {
			tok, err := e.signIn("admin", generated)
			want(t, err, nil)
			want(t, e.ChangePassword(e.ctx, e.who(tok.Access), generated, next, ""), nil)
		},
		"reset": func(e *env, generated string) {
			root := e.register("root")
			_, err := e.db.UpdateUser(e.ctx, root.ID, func(u auth.User, _ int) (auth.User, error) { u.Roles = []string{"admin"}; return u, nil })
			want(t, err, nil)
			admin, err := e.db.UserByName(e.ctx, "admin")
			want(t, err, nil)
			token, _, err := e.ResetUser(e.ctx, e.who(e.login("root").Access), admin.ID, false)
			want(t, err, nil)
			want(t, e.ResetPassword(e.ctx, origin, token, next), nil)
		},
		"offline": func(e *env, _ string) { want(t, auth.ResetOffline(e.ctx, e.db, cheap, "admin", next), nil) },
	} {
		e, generated := firstAdmin(t)
		choose(e, generated)
		e.clock.advance(auth.InitialPasswordTTL)
		if _, err := e.signIn("admin", next); err != nil {
			t.Errorf("%s: %v", way, err)
		}
	}
	e := newEnv(t) // the operator's
	e.clock.advance(auth.InitialPasswordTTL)
	e.login("admin")
	if _, _, err := e.EnsureAdmin(e.ctx, ""); err != nil || len(e.logged("WARN")) != 0 {
		t.Errorf("a start warns of the operator's own password; %v", err)
	}
}

// Renewing the hash of an initial password at a sign-in does not make it last.
func TestRenewedHashKeepsItsExpiry(t *testing.T) {
	e, generated := firstAdmin(t)
	admin, err := e.db.UserByName(e.ctx, "admin")
	want(t, err, nil)
	want(t, auth.ResetOffline(e.ctx, e.db, auth.Hashing{Memory: 128}, "admin", generated), nil)
	costly, err := e.db.UpdateUser(e.ctx, admin.ID, func(u auth.User, _ int) (auth.User, error) {
		u.PasswordExpires = admin.PasswordExpires
		return u, nil
	})
	want(t, err, nil)
	_, err = e.signIn("admin", generated)
	want(t, err, nil)
	if now, err := e.db.UserByName(e.ctx, "admin"); err != nil || now.PasswordHash == costly.PasswordHash || !now.PasswordExpires.Equal(admin.PasswordExpires) {
		t.Errorf("%+v, %v", now, err)
	}
	e.clock.advance(auth.InitialPasswordTTL)
	_, err = e.signIn("admin", generated)
	want(t, err, auth.ErrCredentials)
}

// Each start tells of an initial password, as long as it stands, and makes no
// other administrator when it has expired.
func TestStartTellsOfAnInitialPassword(t *testing.T) {
	e, generated := firstAdmin(t)
	start := func() []string {
		t.Helper()
		e.logs.Reset()
		if made, created, err := e.EnsureAdmin(e.ctx, ""); err != nil || created || made != "" {
			t.Fatalf("%q, %v, %v", made, created, err)
		}
		return e.logged(`"level":"WARN"`)
	}
	until := e.clock.now().Add(auth.InitialPasswordTTL).Format(time.RFC3339)
	if lines := start(); len(lines) != 1 || !strings.Contains(lines[0], "'modelgate password'") || !strings.Contains(lines[0], until) {
		t.Errorf("while it works: %q", lines)
	}
	e.clock.advance(7 * 24 * time.Hour)
	if lines := start(); len(lines) != 1 || !strings.Contains(lines[0], "has expired") || !strings.Contains(lines[0], "'modelgate admin reset-password'") {
		t.Errorf("when it has expired: %q", lines)
	}
	if strings.Contains(e.auditFile(), generated) {
		t.Error("the password is in the audit log")
	}
	want(t, auth.ResetOffline(e.ctx, e.db, cheap, "admin", password), nil)
	if lines := start(); len(lines) != 0 {
		t.Errorf("when it is replaced: %q", lines)
	}
}
