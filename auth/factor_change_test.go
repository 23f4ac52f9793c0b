package auth_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/auth/authtest"
)

// signedIn is who the user is after a sign-in with a code.
func (f *enrolled) signedIn() auth.Principal {
	f.e.t.Helper()
	tok, err := f.e.Login(f.e.ctx, origin, "x", f.user.Username, password, f.code())
	want(f.e.t, err, nil)
	f.e.clock.advance(time.Minute) // so that the next code is another
	return f.e.who(tok.Access)
}

// Who has a second factor changes his password with a code, which is used up by
// it, or within ten minutes of a sign-in with one.
func TestChangePasswordNeedsTheSecondFactor(t *testing.T) {
	e := newEnv(t)
	f := e.enrol("alice")
	const next = "another lorry altogether"
	change := func(who auth.Principal, otp string) error { return e.ChangePassword(e.ctx, who, password, next, otp) }
	back := func() {
		t.Helper()
		_, err := e.db.UpdateUser(e.ctx, f.user.ID, func(u auth.User, _ int) (auth.User, error) {
			other, err := e.db.UserByName(e.ctx, "admin") // of the same password
			u.PasswordHash = other.PasswordHash
			return u, err
		})
		want(t, err, nil)
	}
	// The session that turned it on began without a code, a moment ago.
	want(t, change(f.who, ""), auth.ErrOTPRequired)
	if r := e.records("user.password")[0]; r.Outcome != audit.Failed || r.Reason != "no_code" {
		t.Errorf("%+v", r)
	}
	want(t, change(f.who, f.wrong()), auth.ErrCode)
	if r := e.records("user.password")[0]; r.Outcome != audit.Failed || r.Reason != "wrong_code" {
		t.Errorf("%+v", r)
	}
	want(t, e.ChangePassword(e.ctx, f.who, "not the password", next, f.code()), auth.ErrCredentials)
	want(t, e.ChangePassword(e.ctx, f.who, password, "password1", f.code()), auth.ErrWeakPassword)
	code := f.code() // nothing has used it up
	want(t, change(f.who, code), nil)
	if r := e.records("user.password")[0]; r.Outcome != audit.Allowed || r.Detail["code"] != "totp" {
		t.Errorf("%+v", r)
	}
	back()
	want(t, change(f.who, code), auth.ErrCode)
	want(t, f.login(code), auth.ErrCredentials)
	want(t, change(f.who, f.codes[0]), nil)
	back()
	want(t, change(f.who, f.codes[0]), auth.ErrCode)

	e.clock.advance(time.Minute)
	who := f.signedIn()
	want(t, change(who, ""), nil)
	back()
	e.clock.advance(9 * time.Minute) // ten in all
	want(t, change(who, ""), nil)
	back()
	e.clock.advance(time.Second)
	want(t, change(who, ""), auth.ErrOTPRequired)

	// Guesses are those of sign-ins.
	for range auth.GuessBurst {
		_ = f.login(f.wrong())
	}
	want(t, change(who, f.code()), auth.ErrTooManyCodes)
	want(t, change(who, f.codes[1]), nil)
}

// A browser's session tells the same of itself, and one that began at a provider
// is no sign-in with our second factor, however recent it is.
func TestChangePasswordInABrowser(t *testing.T) {
	p := authtest.NewProvider(t)
	cfg := signInProvider(p, "corp")
	cfg.CreateUsers, cfg.RolesClaim, cfg.Roles = false, "", nil
	e := newEnv(t, withProviders(cfg))
	f := e.enrol("ada")
	_, err := e.LinkIdentity(e.ctx, e.admin, f.user.ID, "corp", "sub-1")
	want(t, err, nil)
	change := func(b auth.Browser, otp string) error {
		t.Helper()
		who, err := e.AuthenticateBrowser(e.ctx, b.Cookie)
		want(t, err, nil)
		return e.ChangePassword(e.ctx, who, password, "another lorry altogether", otp)
	}
	foreign, err := e.begin("corp", false).at(p, idClaims(p, e.clock.now(), members{"auth_time": e.clock.now().Unix()})).finish()
	want(t, err, nil)
	want(t, change(foreign, ""), auth.ErrOTPRequired)
	own, err := e.BeginBrowser(e.ctx, origin, "x", "ada", password, f.code(), "")
	want(t, err, nil)
	want(t, change(own, ""), nil)
}

// A second factor that is removed while a sign-in with it is under way leaves
// the password, which is enough then; one that comes on anew meanwhile is asked
// for.
func TestSignInDuringTheRemovalOfASecondFactor(t *testing.T) {
	e := newEnv(t)
	f := e.enrol("alice")
	remove := func(auth.TOTP) (auth.TOTP, error) { return auth.TOTP{}, nil }
	var kept auth.TOTP
	take := func(old auth.TOTP) (auth.TOTP, error) { kept = old; return auth.TOTP{}, nil }
	put := func(auth.TOTP) (auth.TOTP, error) { return kept, nil }
	// once does something when the sign-in comes to a call of the database.
	once := func(method string, do func(auth.TOTP) (auth.TOTP, error)) func(string) {
		return func(m string) {
			if m == method {
				e.store.set(nil, nil)
				want(t, e.db.UpdateTOTP(e.ctx, f.user.ID, do), nil)
			}
		}
	}
	e.store.set(nil, once("UserByName", take))
	want(t, f.login(f.code()), nil)
	if r := e.records("user.login")[0]; r.Outcome != audit.Allowed || r.Reason != "" {
		t.Errorf("%+v", r)
	}
	want(t, f.login(""), nil) // it is gone
	want(t, e.db.UpdateTOTP(e.ctx, f.user.ID, put), nil)

	e.store.set(nil, func(m string) {
		switch m {
		case "UserByName":
			want(t, e.db.UpdateTOTP(e.ctx, f.user.ID, take), nil)
		case "CreateSession":
			e.store.set(nil, nil)
			want(t, e.db.UpdateTOTP(e.ctx, f.user.ID, put), nil)
		}
	})
	want(t, f.login(f.code()), auth.ErrCredentials)
	if r := e.records("user.login")[0]; r.Reason != "no_code" {
		t.Errorf("%+v", r)
	}

	// Where it is what the request is about, it is not there.
	e.store.set(nil, once("User", remove))
	want(t, e.RemoveTOTP(e.ctx, f.who, password, f.code()), auth.ErrNotFound)
	if r := e.records("totp.disable"); len(r) != 0 {
		t.Errorf("recorded as done: %+v", r)
	}
}

// The same of a step-up and of a change of the password.
func TestStepUpDuringTheRemovalOfASecondFactor(t *testing.T) {
	e := newEnv(t)
	f := e.enrol("alice")
	b, err := e.BeginBrowser(e.ctx, origin, "x", "alice", password, f.code(), "")
	want(t, err, nil)
	who, err := e.AuthenticateBrowser(e.ctx, b.Cookie)
	want(t, err, nil)
	e.clock.advance(11 * time.Minute)
	var kept auth.TOTP
	gone := func(m string) {
		if m == "User" {
			e.store.set(nil, nil)
			want(t, e.db.UpdateTOTP(e.ctx, f.user.ID, func(old auth.TOTP) (auth.TOTP, error) { kept = old; return auth.TOTP{}, nil }), nil)
		}
	}
	e.store.set(nil, gone)
	_, err = e.Reauthenticate(e.ctx, who, b.Cookie, password, f.code())
	want(t, err, nil)
	want(t, e.db.UpdateTOTP(e.ctx, f.user.ID, func(auth.TOTP) (auth.TOTP, error) { return kept, nil }), nil)
	e.store.set(nil, gone)
	want(t, e.ChangePassword(e.ctx, who, password, "another lorry altogether", f.code()), nil)
}

// Nobody but the operator can mend a second factor whose secret no master key
// opens: he is told, once a minute, whatever is tried.
func TestOperatorLearnsOfSecretsThatDoNotOpen(t *testing.T) {
	key := func(b byte) string {
		plain := bytes.Repeat([]byte{b}, 32)
		for i := range plain {
			plain[i] ^= byte(i * i * 37)
		}
		return base64.StdEncoding.EncodeToString(plain)
	}
	vault := func(key string) *auth.Vault {
		v, err := auth.OpenVault("", key)
		want(t, err, nil)
		return v
	}
	var cfg auth.Config
	e := newEnv(t, func(c *auth.Config) { c.Vault = vault(key(1)); cfg = *c })
	f := e.enrol("alice")
	cfg.Vault, cfg.Keys = vault(key(2)), e.keys
	var err error
	e.Service, err = auth.New(cfg)
	want(t, err, nil)
	e.logs.Reset()
	for range 3 {
		want(t, f.login(f.code()), auth.ErrUnavailable)
	}
	want(t, e.RemoveTOTP(e.ctx, f.who, password, f.code()), auth.ErrUnavailable)
	want(t, f.login(f.codes[0]), nil) // these need no key
	lines := e.logged(`"level":"ERROR"`)
	if len(lines) != 1 {
		t.Fatalf("%q", lines)
	}
	for _, part := range []string{f.user.ID, "master key of before", "recovery code", "modelgate user reset --totp", "modelgate admin reset-password --totp", `"cause":"`, "sealed by another master key"} {
		contains(t, lines[0], part)
	}
	if strings.Contains(lines[0], f.code()) {
		t.Error("the code is in the log")
	}
	e.clock.advance(time.Minute)
	want(t, f.login(f.code()), auth.ErrUnavailable)
	if lines := e.logged(`"level":"ERROR"`); len(lines) != 1 {
		t.Errorf("a minute later: %q", lines)
	}
}
