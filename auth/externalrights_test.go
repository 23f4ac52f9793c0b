package auth_test

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/auth/authtest"
)

// factorProvider tells of second factors, which administrators need.
func factorProvider(p *authtest.Provider) option {
	return func(c *auth.Config) {
		cfg := signInProvider(p, "corp")
		cfg.SecondFactorACR, cfg.SecondFactorAMR = []string{"phr", "https://refeds.org/profile/mfa"}, []string{"otp", "mfa"}
		c.Providers, c.RequireTOTP = []auth.Provider{cfg}, []string{"admin"}
	}
}

// factorClaims are what a token can say of a second factor, and whether it is one.
var factorClaims = map[string]struct {
	claims members
	proved bool
}{
	"an acr": {members{"acr": "phr"}, true}, "the other acr": {members{"acr": "https://refeds.org/profile/mfa"}, true},
	"an amr": {members{"amr": []string{"pwd", "otp"}}, true}, "acr and another amr": {members{"acr": "phr", "amr": []string{"pwd"}}, true},
	"nothing": {members{}, false}, "another acr": {members{"acr": "1"}, false}, "an empty acr": {members{"acr": ""}, false},
	"acr in capitals": {members{"acr": "PHR"}, false}, "acr with more": {members{"acr": "phr x"}, false}, "acr with blanks": {members{"acr": " phr "}, false},
	"acr is a list": {members{"acr": []string{"phr"}}, false}, "acr is a number": {members{"acr": 1}, false}, "acr is true": {members{"acr": true}, false},
	"acr is an object": {members{"acr": members{"phr": true}}, false}, "ACR": {members{"ACR": "phr"}, false},
	"another amr": {members{"amr": []string{"pwd"}}, false}, "no amr": {members{"amr": []string{}}, false}, "amr is a text": {members{"amr": "otp"}, false},
	"amr is a list of lists": {members{"amr": [][]string{{"otp"}}}, false}, "amr with a number": {members{"amr": []any{"otp", 1}}, false},
	"amr with null": {members{"amr": []any{nil, "otp"}}, false}, "amr is an object": {members{"amr": members{"otp": true}}, false},
	"amr in one text": {members{"amr": []string{"pwd otp"}}, false}, "acr with an amr of the wrong type": {members{"acr": "phr", "amr": "pwd"}, false},
	"amr with an acr of the wrong type": {members{"acr": []string{"phr"}, "amr": []string{"otp"}}, false}, "acr among amr": {members{"amr": []string{"phr"}}, false},
	"amr as acr": {members{"acr": "otp"}, false}, "in another claim": {members{"userinfo": members{"acr": "phr"}, "mfa": true}, false},
}

// Of whom a second factor is required, an access token counts when it says that
// one was proved; whoever needs none comes in with any.
func TestProviderTokenSecondFactor(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, factorProvider(p))
	now := e.clock.now()
	for name, c := range factorClaims {
		who, err := e.Authenticate(e.ctx, p.AccessToken(now, authtest.Altered(c.claims, members{"sub": "admin", "groups": []string{"ml-admins"}, "jti": name})))
		if c.proved && (err != nil || !who.Can(auth.UsersManage) || who.MustEnrol) || !c.proved && !errors.Is(err, auth.ErrSecondFactor) {
			t.Errorf("an administrator, %s: %+v, %v", name, who, err)
		}
		if _, err := e.Authenticate(e.ctx, p.AccessToken(now, authtest.Altered(c.claims, members{"jti": name}))); err != nil {
			t.Errorf("a user, %s: %v", name, err)
		}
	}
	// What one token proved, another does not have.
	e.who(p.AccessToken(now, members{"sub": "admin", "groups": []string{"ml-admins"}, "acr": "phr"}))
	weak := p.AccessToken(now, members{"groups": []string{"ml-users"}})
	e.who(weak) // remembered
	e.who(p.AccessToken(now.Add(time.Second), members{"groups": []string{"ml-admins"}, "acr": "phr"}))
	if _, err := e.Authenticate(e.ctx, weak); !errors.Is(err, auth.ErrSecondFactor) {
		t.Errorf("a token from before the role: %v", err)
	}
}

// The same holds for who signs in, and for his session as long as it lasts.
func TestProviderSignInSecondFactor(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, factorProvider(p))
	now := e.clock.now()
	admin := members{"sub": "admin", "groups": []string{"ml-admins"}}
	for name, c := range factorClaims {
		b := e.begin("corp", false)
		if q, _ := url.Parse(b.address); q.Query().Get("acr_values") != "phr https://refeds.org/profile/mfa" {
			t.Fatalf("sent to %s", b.address)
		}
		session, err := b.at(p, idClaims(p, now, authtest.Altered(admin, c.claims))).finish()
		if c.proved != (err == nil) || err != nil && !errors.Is(err, auth.ErrSecondFactor) {
			t.Errorf("an administrator, %s: %v", name, err)
			continue
		}
		if err != nil {
			continue
		}
		if who, err := e.AuthenticateBrowser(e.ctx, session.Cookie); err != nil || !who.Can(auth.UsersManage) || who.MustEnrol {
			t.Errorf("his session, %s: %+v, %v", name, who, err)
		}
	}
	if r := e.records("user.login"); !slices.ContainsFunc(r, func(r audit.Entry) bool { return r.Reason == "no_second_factor" && r.Detail["subject"] == "admin" }) {
		t.Errorf("records %+v", r)
	}

	// Beside the ID token, nothing counts.
	p.Change(func() {
		p.Tokens = func(answer members, _ string) { answer["acr"], answer["amr"] = "phr", []string{"otp"} }
	})
	_, err := e.begin("corp", false).at(p, idClaims(p, now, admin)).finish()
	want(t, err, auth.ErrSecondFactor)
	p.Change(func() { p.Tokens = nil })
	if p.Asked("/userinfo") != 0 {
		t.Error("the provider is asked for what it does not sign")
	}

	// Who becomes one of them needs it from then on, in the session that he has.
	weak, err := e.begin("corp", false).at(p, idClaims(p, now, nil)).finish()
	want(t, err, nil)
	strong, err := e.begin("corp", false).at(p, idClaims(p, now, members{"amr": []string{"mfa"}})).finish()
	want(t, err, nil)
	for _, cookie := range []string{weak.Cookie, strong.Cookie} {
		_, err = e.AuthenticateBrowser(e.ctx, cookie)
		want(t, err, nil)
	}
	e.who(p.AccessToken(now.Add(time.Second), members{"groups": []string{"ml-admins"}, "acr": "phr"}))
	_, err = e.AuthenticateBrowser(e.ctx, weak.Cookie)
	want(t, err, auth.ErrSecondFactor)
	who, err := e.AuthenticateBrowser(e.ctx, strong.Cookie)
	if err != nil || !who.Can(auth.UsersManage) {
		t.Errorf("%+v, %v", who, err)
	}
}

// Without a word for it a provider can't tell, whatever its tokens say; the log
// says so at the start.
func TestProviderThatTellsNoSecondFactor(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(signInProvider(p, "corp")), func(c *auth.Config) { c.RequireTOTP = []string{"admin"} })
	contains(t, e.logs.String(), `set second_factor","provider":"corp"`)
	now := e.clock.now()
	for name, c := range factorClaims {
		claims := authtest.Altered(c.claims, members{"sub": "admin", "groups": []string{"ml-admins"}, "jti": name})
		if _, err := e.Authenticate(e.ctx, p.AccessToken(now, claims)); !errors.Is(err, auth.ErrSecondFactor) {
			t.Errorf("a token, %s: %v", name, err)
		}
		b := e.begin("corp", false)
		if q, _ := url.Parse(b.address); q.Query().Has("acr_values") {
			t.Errorf("sent to %s", b.address)
		}
		if _, err := b.at(p, idClaims(p, now, claims)).finish(); !errors.Is(err, auth.ErrSecondFactor) {
			t.Errorf("a sign-in, %s: %v", name, err)
		}
	}
	e.who(p.AccessToken(now, nil))
	if silent := newEnv(t, factorProvider(p)).logs.String(); strings.Contains(silent, "set second_factor") {
		t.Errorf("the log: %s", silent)
	}
}

// For a linked user it is the way he comes by that counts: the provider's word for
// its sessions, the second factor that he has here for his password.
func TestLinkedUserSecondFactor(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, factorProvider(p))
	ada, own := e.user("ada")
	_, err := e.LinkIdentity(e.ctx, auth.Principal{UserID: "u_x", Username: "x", Permissions: auth.UsersManage, SessionID: "s", AuthTime: e.clock.now()}, ada.ID, "corp", "sub-1")
	want(t, err, nil)
	if _, err := e.db.UpdateUser(e.ctx, ada.ID, func(u auth.User, _ int) (auth.User, error) {
		u.Roles = []string{"admin"}
		return u, nil
	}); err != nil {
		t.Fatal(err)
	}
	want(t, e.Poll(e.ctx), nil)
	if who := e.who(own.Access); !who.MustEnrol {
		t.Errorf("by password: %+v", who)
	}
	now := e.clock.now()
	if who := e.who(p.AccessToken(now, members{"acr": "phr"})); who.MustEnrol || !who.Can(auth.UsersManage) {
		t.Errorf("by a provider that tells: %+v", who)
	}
	_, err = e.Authenticate(e.ctx, p.AccessToken(now, nil))
	want(t, err, auth.ErrSecondFactor)
}

// What a token delegates is the union of what its scopes are mapped to, and never
// more than its user has.
func TestTokenScopes(t *testing.T) {
	p := authtest.NewProvider(t)
	cfg := p.Config()
	cfg.TokenScopes = map[string][]string{"infer": {"predict"}, "me": {"account"}, "make": {"models:write", "predict"}, "admin": {"users:manage"}}
	e := newEnv(t, withProviders(cfg))
	now := e.clock.now()
	const everything = auth.UsersManage | auth.ModelsWrite | auth.ModelsManage | auth.AuditRead | auth.MetricsRead | auth.Predict | auth.Account
	for i, c := range []struct {
		claims members
		given  auth.Permission // of an administrator's
	}{
		{members{"scope": "infer"}, auth.Predict}, {members{"scope": "openid infer  me"}, auth.Predict | auth.Account}, {members{"scope": []string{"infer", "me"}}, auth.Predict | auth.Account},
		{members{"scope": nil, "scp": []string{"make"}}, auth.ModelsWrite | auth.Predict}, {members{"scope": nil, "scp": "make admin"}, auth.ModelsWrite | auth.Predict | auth.UsersManage},
		{members{"scope": "infer", "scp": "admin"}, auth.Predict | auth.UsersManage}, {members{"scope": nil}, 0}, {members{"scope": ""}, 0}, {members{"scope": []string{}}, 0},
		{members{"scope": "INFER"}, 0}, {members{"scope": "inf"}, 0}, {members{"scope": "predict account users:manage"}, 0}, {members{"scope": "infer,me"}, 0},
		{members{"scope": "infer\tme"}, 0}, {members{"Scope": "infer", "scope": nil}, 0}, {members{"scopes": "infer", "scope": nil}, 0},
	} {
		who := e.who(p.AccessToken(now, authtest.Altered(c.claims, members{"sub": "admin", "groups": []string{"ml-admins"}, "jti": fmt.Sprint(i)})))
		if who.Permissions != c.given&^(auth.Predict|auth.Account) || who.Withheld != everything&^c.given {
			t.Errorf("%v: has %b, and not %b; want %b", c.claims, who.Permissions, who.Withheld, c.given)
		}
	}
	who := e.who(p.AccessToken(now, members{"scope": "make admin"})) // of who may nothing
	if who.Permissions != 0 || who.Withheld != auth.Account {
		t.Errorf("a user: %+v", who)
	}
	made := len(e.records("user.create"))
	for name, claims := range map[string]members{
		"a number": {"scope": 1}, "an object": {"scope": members{"infer": true}}, "a list of numbers": {"scope": []int{1}}, "a list with null": {"scope": []any{nil, "infer"}},
		"true": {"scope": true}, "scp is a number": {"scope": "infer", "scp": 1}, "authorization_details": {"scope": "infer", "authorization_details": []members{{"type": "predict"}}},
		"no authorization_details": {"authorization_details": []members{}}, "authorization_details is a text": {"authorization_details": "x"},
	} {
		e.dead(name, p.AccessToken(now, authtest.Altered(claims, members{"sub": "new " + name})))
	}
	for _, token := range []string{`"scope":null`, `"authorization_details":null`} {
		text := strings.Replace(string(asJSON(t, p.Claims(now, members{"scope": nil, "sub": "new"}))), "{", "{"+token+",", 1)
		e.dead(token, authtest.SignJWS(t, authtest.AccessHeader, text, "RS256", authtest.RSAKey()))
	}
	if n := len(e.records("user.create")); n != made {
		t.Errorf("%d users were made by tokens that are not taken", n-made)
	}
}

// Without a mapping, every token delegates predictions and nothing else.
func TestTokensWithoutScopes(t *testing.T) {
	p := authtest.NewProvider(t)
	cfg := p.Config()
	cfg.TokenScopes = nil
	e := newEnv(t, withProviders(cfg))
	for _, scope := range []any{nil, "everything", "account users:manage"} {
		who := e.who(p.AccessToken(e.clock.now(), members{"groups": []string{"ml-admins"}, "scope": scope}))
		if who.Permissions != 0 || who.Withheld&auth.Predict != 0 || who.Withheld&auth.Account == 0 || who.Withheld&auth.UsersManage == 0 {
			t.Errorf("%v: %+v", scope, who)
		}
		_, _, err := e.Users(e.ctx, who, "", 10)
		want(t, err, auth.ErrScope)
		contains(t, detail(err), "users:manage")
	}
	if r := e.records("user.list"); len(r) == 0 || r[0].Reason != "insufficient_scope" {
		t.Errorf("records %+v", r)
	}
}

// A token that delegates a part of its user's rights makes no credential, which
// would have them all.
func TestPartTokensMakeNoCredentials(t *testing.T) {
	p := authtest.NewProvider(t)
	cfg := p.Config()
	cfg.TokenScopes["part"] = []string{"predict", "account", "users:manage"}
	e := newEnv(t, withProviders(cfg))
	now := e.clock.now()
	robot, _, _, err := e.CreateService(e.ctx, e.admin, "robot", nil, 0)
	want(t, err, nil)
	tries := func(scope string) []error {
		who := e.who(p.AccessToken(now, members{"groups": []string{"ml-admins"}, "scope": scope, "auth_time": now.Unix()}))
		_, _, key := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "k"})
		_, _, scoped := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "k", Models: []string{"iris"}})
		_, _, secret := e.CreateSecret(e.ctx, who, robot.ID, 0)
		_, link := e.LinkIdentity(e.ctx, who, robot.ID, "corp", "sub-9")
		return []error{key, scoped, secret, link}
	}
	for i, err := range tries("part") {
		if !errors.Is(err, auth.ErrScope) {
			t.Errorf("%d: %v", i, err)
		}
	}
	for i, err := range tries("everything") {
		if errors.Is(err, auth.ErrScope) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// Of two tokens of one second nobody knows which is the newer: what one of them
// takes is gone, and what one of them gives comes with the next second.
func TestRolesOfOneSecond(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(p.Config()))
	now := e.clock.now()
	is := func(what string, at time.Time, groups []string, roles ...string) {
		t.Helper()
		if got := e.who(p.AccessToken(at, members{"groups": groups, "jti": what})).Roles; !slices.Equal(got, roles) {
			t.Errorf("%s: roles %v, want %v", what, got, roles)
		}
	}
	both, one := []string{"ml-users", "ml-makers"}, []string{"ml-users"}
	is("both", now, both, "data-scientist", "user")
	is("one is taken in the same second, and another given", now, []string{"ml-users", "ml-admins"}, "user")
	is("it does not come back by the other", now, both, "user")
	is("nor by another of that second", now, []string{"ml-makers", "ml-admins", "ml-users"}, "user")
	is("it does with the next", now.Add(time.Second), both, "data-scientist", "user")
	is("an older one", now, one, "data-scientist", "user")
	updates := len(e.records("user.update"))
	for i := range 3 {
		is(fmt.Sprint("again ", i), now.Add(time.Second), both, "data-scientist", "user")
	}
	if n := len(e.records("user.update")); n != updates {
		t.Errorf("%d records of what did not change", n-updates)
	}
}

// As many sign-ins are kept as there may be, whoever begins them, until those are
// over.
func TestSignInsAreBounded(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(signInProvider(p, "corp")))
	e.BoundSignIns(3)
	first := e.begin("corp", false)
	e.begin("corp", false)
	e.begin("corp", false)
	_, _, err := e.BeginExternal(e.ctx, "corp", false, "")
	want(t, err, auth.ErrUnavailable)
	if told := (*auth.Error)(nil); !errors.As(err, &told) || told.Retry != time.Minute {
		t.Errorf("%+v", err)
	}
	_, err = first.at(p, idClaims(p, e.clock.now(), nil)).finish()
	want(t, err, nil)
	e.begin("corp", false) // in its place
	_, _, err = e.BeginExternal(e.ctx, "corp", false, "")
	want(t, err, auth.ErrUnavailable)
	e.clock.advance(10 * time.Minute)
	e.begin("corp", false)
}
