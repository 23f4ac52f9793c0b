package auth_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
)

// enrolled is a user with a second factor.
type enrolled struct {
	e      *env
	user   auth.User
	who    auth.Principal // of the session that turned it on
	secret string
	codes  []string // recovery codes
}

func (e *env) enrol(name string) *enrolled {
	e.t.Helper()
	u, tok := e.user(name)
	f := &enrolled{e: e, user: u, who: e.who(tok.Access)}
	f.turnOn()
	return f
}

func (f *enrolled) turnOn() {
	f.e.t.Helper()
	secret, uri, err := f.e.BeginTOTP(f.e.ctx, f.who, password)
	want(f.e.t, err, nil)
	contains(f.e.t, uri, "secret="+secret)
	f.secret = secret
	f.codes, err = f.e.ConfirmTOTP(f.e.ctx, f.who, f.code())
	want(f.e.t, err, nil)
	f.e.clock.advance(time.Minute) // so that the next code is another
}

// code is the one that is good now.
func (f *enrolled) code() string { return auth.CodeAt(f.secret, f.e.clock.now()) }

// wrong is a code that is good neither now nor a step before or after.
func (f *enrolled) wrong() string {
	var good []string
	for off := -30 * time.Second; off <= 30*time.Second; off += 30 * time.Second {
		good = append(good, auth.CodeAt(f.secret, f.e.clock.now().Add(off)))
	}
	for i := 0; ; i++ {
		if code := fmt.Sprintf("%06d", i); !slices.Contains(good, code) {
			return code
		}
	}
}

func (f *enrolled) login(otp string) error {
	_, err := f.e.Login(f.e.ctx, origin, "x", f.user.Username, password, otp)
	return err
}

func (f *enrolled) reason(action string) string { return f.e.records(action)[0].Reason }

// The whole way: nothing changes before the first code, and then every sign-in
// needs one.
func TestSecondFactor(t *testing.T) {
	e := newEnv(t)
	u, tok := e.user("alice")
	other, who := e.login("alice"), e.who(tok.Access)
	secret, _, err := e.BeginTOTP(e.ctx, who, "")
	want(t, err, nil)
	if len(secret) != 32 {
		t.Errorf("a secret of %d characters of base32, which is not 160 bits", len(secret))
	}
	e.login("alice") // begun, but not on
	f := &enrolled{e: e, user: u, who: who, secret: secret}
	_, err = e.ConfirmTOTP(e.ctx, who, f.wrong())
	want(t, err, auth.ErrCode)
	f.codes, err = e.ConfirmTOTP(e.ctx, who, f.code())
	want(t, err, nil)
	if len(f.codes) != 10 {
		t.Errorf("%d recovery codes", len(f.codes))
	}
	e.dead("a session that began without", other.Access)
	e.who(tok.Access)
	if me, err := e.Me(e.ctx, who); err != nil || !me.TOTP {
		t.Errorf("%+v, %v", me, err)
	}
	want(t, f.login(f.code()), auth.ErrCredentials) // it has confirmed: used up
	e.clock.advance(time.Minute)
	want(t, f.login(""), auth.ErrOTPRequired)
	if f.reason("user.login") != "no_code" {
		t.Error(f.reason("user.login"))
	}
	want(t, f.login(f.wrong()), auth.ErrCredentials)
	if f.reason("user.login") != "wrong_code" {
		t.Error(f.reason("user.login"))
	}
	code := f.code()
	want(t, f.login(code), nil)
	if r := e.records("user.login")[0]; r.Outcome != audit.Allowed || r.Reason != "totp" {
		t.Errorf("%+v", r)
	}
	want(t, f.login(code), auth.ErrCredentials) // RFC 6238 section 5.2: once
	if f.reason("user.login") != "used_code" {
		t.Error(f.reason("user.login"))
	}
	want(t, f.login(f.codes[4]), nil)
	if r := e.records("user.login")[0]; r.Outcome != audit.Allowed || r.Reason != "recovery_code" {
		t.Errorf("%+v", r)
	}
	want(t, f.login(f.codes[4]), auth.ErrCredentials)
	want(t, f.login(f.codes[5]), nil)
	// Refreshing goes on without codes.
	_, err = e.Refresh(e.ctx, origin, tok.Refresh)
	want(t, err, nil)
	for _, action := range []string{"totp.begin", "totp.enable"} {
		if r := e.records(action)[0]; r.Outcome != audit.Allowed || r.Actor != "alice" {
			t.Errorf("%+v", r)
		}
	}
}

// Without the password nothing can be told apart: not whether there is a second
// factor, nor whether the code was right. What is told depends on what was sent.
func TestSecondFactorTellsStrangersNothing(t *testing.T) {
	e := newEnv(t)
	f := e.enrol("alice")
	e.register("bob")
	for _, otp := range []string{"", "123456", f.code(), f.codes[0], strings.Repeat("9", 10_000)} {
		details := map[string]bool{}
		calls := map[int]bool{}
		for _, name := range []string{"alice", "bob", "nobody"} {
			before := e.store.count()
			_, err := e.Login(e.ctx, origin, "x", name, "not the password", otp)
			want(t, err, auth.ErrCredentials)
			details[detail(err)] = true
			calls[e.store.count()-before] = true
		}
		if len(details) != 1 || len(calls) != 1 {
			t.Errorf("with code %q: %v after %v questions to the database", otp, details, calls)
		}
	}
	// Nothing of it was used up.
	want(t, f.login(f.code()), nil)
	want(t, f.login(f.codes[0]), nil)
	// And a wrong code is told as a wrong password is.
	_, err := e.Login(e.ctx, origin, "x", "alice", "not the password", "123456")
	if wrong := f.login(f.wrong()); detail(wrong) != detail(err) || detail(err) == auth.ErrCredentials.Detail {
		t.Errorf("%q, %q", detail(wrong), detail(err))
	}
	_, err = e.Login(e.ctx, origin, "x", "bob", password, "123456") // no second factor: not looked at
	want(t, err, nil)
}

// Of many sign-ins with one code at the same moment one gets in.
func TestCodeRace(t *testing.T) {
	e := newEnv(t, func(c *auth.Config) { c.Hashing.Gate = 8 })
	f := e.enrol("alice")
	for _, otp := range []string{f.code(), f.codes[2]} {
		var passed, refused int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				err := f.login(otp)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					passed++
				case errors.Is(err, auth.ErrCredentials) || errors.Is(err, auth.ErrTooManyCodes):
					refused++
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if passed != 1 || refused != 19 {
			t.Errorf("%s: %d passed, %d refused", otp, passed, refused)
		}
	}
}

// Guesses run out for who has the password, and for nobody else; the owner gets
// in by a recovery code.
func TestCodeGuesses(t *testing.T) {
	e := newEnv(t)
	f := e.enrol("alice")
	for range 3 * auth.GuessBurst { // strangers use up nothing
		_, err := e.Login(e.ctx, origin, "x", "alice", "not the password", "000000")
		want(t, err, auth.ErrCredentials)
	}
	for range auth.GuessBurst {
		want(t, f.login(f.wrong()), auth.ErrCredentials)
	}
	err := f.login(f.code())
	want(t, err, auth.ErrTooManyCodes)
	if e := err.(*auth.Error); e.Retry <= 0 || e.Retry > auth.GuessEvery {
		t.Errorf("wait %s", e.Retry)
	}
	if f.reason("user.login") != "too_many_codes" {
		t.Error(f.reason("user.login"))
	}
	_, err = e.RenewRecoveryCodes(e.ctx, f.who, password, f.code()) // one count for all doors
	want(t, err, auth.ErrTooManyCodes)
	want(t, f.login(f.codes[0]), nil)
	e.clock.advance(auth.GuessEvery)
	want(t, f.login(f.code()), nil)
}

// Row A11: to begin, remove or renew needs the password or a sign-in of the last
// ten minutes, and never an API key; to remove or renew needs a code as well.
func TestSecondFactorNeedsProof(t *testing.T) {
	e := newEnv(t)
	u, tok := e.user("alice")
	who := e.who(tok.Access)
	_, secret, err := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "k"})
	want(t, err, nil)
	key := e.who(secret)
	e.clock.advance(11 * time.Minute)
	for _, c := range []struct {
		who      auth.Principal
		password string
		want     error
	}{
		{who, "", auth.ErrReauthenticate}, {who, "not the password", auth.ErrCredentials}, {who, strings.Repeat("x", 1<<20), auth.ErrInvalid},
		{key, "", auth.ErrReauthenticate}, {key, password, auth.ErrReauthenticate}, {who, password, nil},
	} {
		_, _, err := e.BeginTOTP(e.ctx, c.who, c.password)
		want(t, err, c.want)
	}
	f := &enrolled{e: e, user: u, who: who}
	f.turnOn()
	_, _, err = e.BeginTOTP(e.ctx, who, password)
	want(t, err, auth.ErrTaken)
	for _, c := range []struct {
		who      auth.Principal
		password string
		otp      string
		want     error
	}{
		{who, "", f.code(), auth.ErrReauthenticate}, {who, "not the password", f.code(), auth.ErrCredentials}, {key, password, f.code(), auth.ErrReauthenticate},
		{who, password, "", auth.ErrOTPRequired}, {who, password, f.wrong(), auth.ErrCode},
	} {
		want(t, e.RemoveTOTP(e.ctx, c.who, c.password, c.otp), c.want)
		_, err := e.RenewRecoveryCodes(e.ctx, c.who, c.password, c.otp)
		want(t, err, c.want)
	}
	// New codes: the old ones are dead.
	next, err := e.RenewRecoveryCodes(e.ctx, who, password, f.code())
	want(t, err, nil)
	want(t, f.login(f.codes[1]), auth.ErrCredentials)
	want(t, f.login(next[1]), nil)
	other := e.records("user.login")[0]
	if other.Reason != "recovery_code" {
		t.Errorf("%+v", other)
	}
	// A recovery code removes too. Other sessions end, and the password alone will do.
	live, err := e.Login(e.ctx, origin, "x", "alice", password, next[2])
	want(t, err, nil)
	want(t, e.RemoveTOTP(e.ctx, who, password, next[3]), nil)
	e.dead("another session", live.Access)
	e.who(tok.Access)
	want(t, f.login(""), nil)
	want(t, e.RemoveTOTP(e.ctx, who, password, next[4]), auth.ErrNotFound)
	_, err = e.RenewRecoveryCodes(e.ctx, who, password, next[4])
	want(t, err, auth.ErrNotFound)
}

// A second factor is finished by the session that began it, soon, and by a code.
func TestConfirmation(t *testing.T) {
	e := newEnv(t)
	u, tok := e.user("alice")
	who, other := e.who(tok.Access), e.who(e.login("alice").Access)
	f := &enrolled{e: e, user: u, who: who}
	_, err := e.ConfirmTOTP(e.ctx, who, "123456")
	want(t, err, auth.ErrNotFound)
	f.secret, _, err = e.BeginTOTP(e.ctx, who, "")
	want(t, err, nil)
	_, err = e.ConfirmTOTP(e.ctx, other, f.code())
	want(t, err, auth.ErrNotFound)
	for range auth.GuessBurst {
		_, err = e.ConfirmTOTP(e.ctx, who, f.wrong())
		want(t, err, auth.ErrCode)
	}
	_, err = e.ConfirmTOTP(e.ctx, who, f.code())
	want(t, err, auth.ErrTooManyCodes)
	f.secret, _, err = e.BeginTOTP(e.ctx, who, password) // a new secret
	want(t, err, nil)
	e.clock.advance(10*time.Minute + time.Second)
	_, err = e.ConfirmTOTP(e.ctx, who, f.code())
	want(t, err, auth.ErrNotFound)
	want(t, f.login(""), nil)
	f.turnOn()
	_, err = e.ConfirmTOTP(e.ctx, who, f.code())
	want(t, err, auth.ErrNotFound)
	// Invited users who have set no password yet, and the like, have none to stand beside.
	bob, tok2 := e.user("bob")
	_, err = e.db.UpdateUser(e.ctx, bob.ID, func(old auth.User, _ int) (auth.User, error) {
		old.PasswordHash = ""
		return old, nil
	})
	want(t, err, nil)
	_, _, err = e.BeginTOTP(e.ctx, e.who(tok2.Access), "")
	want(t, err, auth.ErrInvalid)
}

// A sign-in that proved the password before the second factor came on does not
// outlive it.
func TestNoSessionSlipsPastASecondFactor(t *testing.T) {
	e := newEnv(t)
	u, tok := e.user("alice")
	f := &enrolled{e: e, user: u, who: e.who(tok.Access)}
	var err error
	f.secret, _, err = e.BeginTOTP(e.ctx, f.who, password)
	want(t, err, nil)
	once := sync.OnceFunc(func() {
		e.store.set(nil, nil)
		_, err := e.ConfirmTOTP(e.ctx, f.who, f.code())
		want(t, err, nil)
	})
	e.store.set(func(method string) error {
		if method == "CreateSession" {
			once()
		}
		return nil
	}, nil)
	want(t, f.login(""), auth.ErrCredentials)
	list, err := e.Sessions(e.ctx, f.who)
	if want(t, err, nil); len(list) != 1 || list[0].ID != f.who.SessionID {
		t.Errorf("%d sessions", len(list))
	}
}

// A lost second factor: an administrator's token takes it away with the
// password, and no sooner; an ordinary one leaves it.
func TestResetOfASecondFactor(t *testing.T) {
	e := newEnv(t)
	f := e.enrol("alice")
	const next = "eleven quiet harbours at dusk"
	ordinary, _, err := e.ResetUser(e.ctx, e.admin, f.user.ID, false)
	want(t, err, nil)
	want(t, e.ResetPassword(e.ctx, origin, ordinary, next), nil)
	_, err = e.Login(e.ctx, origin, "x", "alice", next, "")
	want(t, err, auth.ErrOTPRequired)
	token, _, err := e.ResetUser(e.ctx, e.admin, f.user.ID, true)
	want(t, err, nil)
	if r := e.records("user.reset")[0]; r.Actor != "admin" || r.Detail["totp"] == "" {
		t.Errorf("%+v", r)
	}
	_, err = e.Login(e.ctx, origin, "x", "alice", next, "")
	want(t, err, auth.ErrOTPRequired)
	want(t, e.ResetPassword(e.ctx, origin, token, password), nil)
	want(t, f.login(""), nil)
	if u, err := e.User(e.ctx, e.admin, f.user.ID); err != nil || u.TOTP {
		t.Errorf("%+v, %v", u, err)
	}
	// The later token replaces the earlier one, whatever it would have dropped.
	f.who = e.who(e.login("alice").Access)
	f.turnOn()
	drops, _, err := e.ResetUser(e.ctx, e.admin, f.user.ID, true)
	want(t, err, nil)
	keeps, _, err := e.ResetUser(e.ctx, e.admin, f.user.ID, false)
	want(t, err, nil)
	want(t, e.ResetPassword(e.ctx, origin, drops, next), auth.ErrToken)
	want(t, e.ResetPassword(e.ctx, origin, keeps, next), nil)
	_, err = e.Login(e.ctx, origin, "x", "alice", next, "")
	want(t, err, auth.ErrOTPRequired)

	had, err := auth.RemoveTOTPOffline(e.ctx, e.db, e.audit, "ALICE")
	if want(t, err, nil); !had || e.records("totp.disable")[0].Reason != "data_folder" {
		t.Errorf("removed: %v", had)
	}
	_, err = e.Login(e.ctx, origin, "x", "alice", next, "")
	want(t, err, nil)
	had, err = auth.RemoveTOTPOffline(e.ctx, e.db, e.audit, "alice")
	if want(t, err, nil); had {
		t.Error("removed twice")
	}
	_, err = auth.RemoveTOTPOffline(e.ctx, e.db, e.audit, "nobody")
	want(t, err, auth.ErrNotFound)
}

// Who needs a second factor by his role may turn one on, and nothing else.
func TestRequiredSecondFactor(t *testing.T) {
	e := newEnv(t, func(c *auth.Config) { c.RequireTOTP = []string{"admin"} })
	if !e.admin.MustEnrol || e.admin.Permissions != 0 {
		t.Fatalf("%+v", e.admin)
	}
	_, tok := e.user("alice")
	if who := e.who(tok.Access); who.MustEnrol {
		t.Errorf("%+v", who)
	}
	_, key, err := e.CreateKey(e.ctx, e.admin, auth.KeyRequest{Name: "k"})
	want(t, err, nil)
	if who := e.who(key); !who.MustEnrol || who.Permissions != 0 {
		t.Errorf("an API key goes round it: %+v", who)
	}
	_, err = e.PutRole(e.ctx, e.admin, "r", nil, "", 0)
	want(t, err, auth.ErrForbidden)
	tok = e.login("admin")
	admin, err := e.Me(e.ctx, e.admin)
	want(t, err, nil)
	f := &enrolled{e: e, user: admin, who: e.who(tok.Access)}
	f.turnOn()
	for _, credential := range []string{tok.Access, key} { // at once, also what was remembered
		if who := e.who(credential); who.MustEnrol || !who.Can(auth.UsersManage) {
			t.Errorf("%+v", who)
		}
	}
	want(t, e.RemoveTOTP(e.ctx, f.who, password, f.code()), nil)
	if who := e.who(tok.Access); !who.MustEnrol || who.Permissions != 0 {
		t.Errorf("after removal: %+v", who)
	}
}
