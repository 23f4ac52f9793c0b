package auth_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/auth/authtest"
)

// TestForgedProviderTokens shows each forged token, and in between that the
// good one is taken.
func TestForgedProviderTokens(t *testing.T) {
	p, other := authtest.NewProvider(t), authtest.NewProvider(t)
	p.Keys = append(p.Keys,
		authtest.PublicJWK(authtest.ShortRSA().Public(), "short", ""), authtest.Altered(authtest.PublicJWK(authtest.OtherRSA().Public(), "enc", ""), authtest.Members{"use": "enc"}), authtest.PublicJWK(authtest.OtherRSA().Public(), "ps", "PS256"),
		authtest.Members{"kty": "oct", "kid": "oct", "k": b64.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))}, authtest.Members{"kty": "new-kind", "kid": "n"})
	second := other.Config()
	second.Name = "other"
	other.Keys = []map[string]any{authtest.PublicJWK(authtest.OtherRSA().Public(), "r1", "")} // the same kid
	e := newEnv(t, withProviders(p.Config(), second))
	now := e.clock.now()

	list := forgedTokens(t, p, other, now)
	seen := map[string]bool{}
	refused := 0
	for _, f := range list {
		if seen[f.name] {
			t.Errorf("%s stands twice", f.name)
		}
		seen[f.name] = true
		if who, err := e.Authenticate(e.ctx, f.token); !errors.Is(err, auth.ErrToken) {
			t.Errorf("%s: %+v, %v", f.name, who, err)
			continue
		}
		refused++
	}
	t.Logf("%d forged tokens, %d refused", len(list), refused)
	if len(list) < 120 {
		t.Errorf("only %d forged tokens", len(list))
	}
	for name, token := range map[string]string{
		"good":              p.AccessToken(now, nil),
		"several audiences": p.AccessToken(now, authtest.Members{"aud": []string{"other", authtest.Audience}}),
		"parts of a second": p.AccessToken(now, authtest.Members{"exp": float64(now.Unix()) + 300.5}),
		"sub of 255":        p.AccessToken(now, authtest.Members{"sub": xs(255)}),
		"long typ":          authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"typ": "application/at+JWT"}), p.Claims(now, nil), "RS256", authtest.RSAKey()),
		"x5t":               authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"x5t": "abc"}), p.Claims(now, nil), "RS256", authtest.RSAKey()),
		"ES256":             authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"alg": "ES256", "kid": "e1"}), p.Claims(now, nil), "ES256", authtest.ECKey()),
		"EdDSA":             authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"alg": "EdDSA", "kid": "o1"}), p.Claims(now, nil), "EdDSA", authtest.EdKey),
		"RS512, PS256":      authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"alg": "PS256"}), p.Claims(now, nil), "PS256", authtest.RSAKey()),
		"the other's own":   authtest.SignJWS(t, authtest.AccessHeader, other.Claims(now, nil), "RS256", authtest.OtherRSA()),
	} {
		if _, err := e.Authenticate(e.ctx, token); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(e.records("user.create")); n != 4 { // the administrator, sub-1 of both, and the long one
		t.Errorf("%d users were made", n)
	}
}

// Tokens without a type are taken only where the operator says so, and ID
// tokens even then not.
func TestUntypedTokens(t *testing.T) {
	p := authtest.NewProvider(t)
	untyped := authtest.Altered(authtest.AccessHeader, authtest.Members{"typ": "JWT"})
	cfg := p.Config()
	cfg.AcceptUntypedTokens, cfg.SignIn, cfg.ClientID = true, true, "browser-client"
	e := newEnv(t, withProviders(cfg))
	now := e.clock.now()
	token := func(changes authtest.Members) string {
		return authtest.SignJWS(t, untyped, p.Claims(now, changes), "RS256", authtest.RSAKey())
	}

	e.who(token(nil))
	e.who(token(authtest.Members{"typ": "Bearer"}))
	e.who(authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"typ": nil}), p.Claims(now, nil), "RS256", authtest.RSAKey()))
	for name, changes := range map[string]authtest.Members{
		"nonce": {"nonce": "n"}, "at_hash": {"at_hash": "x"}, "c_hash": {"c_hash": "x"}, "s_hash": {"s_hash": "x"}, "events": {"events": authtest.Members{}},
		"Keycloak's ID token": {"typ": "ID"}, "Keycloak's refresh token": {"typ": "Refresh"}, "typ is a number": {"typ": 1},
		"for the client": {"aud": "browser-client"}, "for the client too": {"aud": []string{authtest.Audience, "browser-client"}},
	} {
		e.dead(name, token(changes))
	}
	e.dead("typ of a logout token", authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"typ": "logout+jwt"}), p.Claims(now, nil), "RS256", authtest.RSAKey()))
}

// A user is his issuer and subject, and nothing else.
func TestIdentityIsIssuerAndSubject(t *testing.T) {
	p, other := authtest.NewProvider(t), authtest.NewProvider(t)
	second := other.Config()
	second.Name = "other"
	e := newEnv(t, withProviders(p.Config(), second))
	now := e.clock.now()
	ada := e.register("ada")

	first := e.who(p.AccessToken(now, authtest.Members{"email": "ada@example.com", "email_verified": true}))
	if first.UserID == ada.ID || first.Username == "ada" || !strings.HasPrefix(first.Username, "ada-") {
		t.Fatalf("a provider's Ada became %+v", first)
	}
	if got := e.who(p.AccessToken(now, authtest.Members{"preferred_username": "somebody", "jti": "2"})); got.UserID != first.UserID || got.Username != first.Username {
		t.Errorf("with another name he is %+v", got)
	}
	if got := e.who(p.AccessToken(now, authtest.Members{"sub": "SUB-1"})); got.UserID == first.UserID {
		t.Error("subjects are compared without case")
	}
	if got := e.who(other.AccessToken(now, nil)); got.UserID == first.UserID {
		t.Error("the same subject of another issuer is the same user")
	}
	for claimed, want := range map[string]string{
		"Grace.Hopper": "grace.hopper", "eve@example.com": "eve-example.com", "  ../x": "user", "a": "user", "": "user", "日本": "user", "admin": "admin-",
		"ROOT": "root-", "modelgate": "modelgate-", xs(300): xs(64), "K\u212Aelvin": "k-elvin",
	} {
		got := e.who(p.AccessToken(now, authtest.Members{"sub": "name " + b64.EncodeToString([]byte(claimed))[:min(8, len(claimed))], "preferred_username": claimed}))
		if !strings.HasPrefix(got.Username, want) || len(got.Username) > 64 {
			t.Errorf("%q became %q", claimed, got.Username)
		}
		if strings.HasSuffix(want, "-") && got.Username == strings.TrimSuffix(want, "-") {
			t.Errorf("%q became %q", claimed, got.Username)
		}
	}
	for range 3 { // three more of a name that is taken
		e.who(p.AccessToken(now, authtest.Members{"sub": "more-" + fmt.Sprint(len(e.records("user.create"))), "preferred_username": "ada"}))
	}
	if _, err := e.Login(e.ctx, origin, "", first.Username, "", ""); !errors.Is(err, auth.ErrCredentials) {
		t.Errorf("a user without a password logs in: %v", err)
	}
}

// The roles are what the mapping makes of the newest token, and no more.
func TestProviderRoles(t *testing.T) {
	p := authtest.NewProvider(t)
	cfg := p.Config()
	cfg.DefaultRoles = []string{"user"}
	e := newEnv(t, withProviders(cfg))
	at := func(d time.Duration, groups any) string {
		return p.AccessToken(e.clock.now().Add(d), authtest.Members{"groups": groups, "jti": fmt.Sprint(d, groups)})
	}
	is := func(what, token string, roles ...string) {
		t.Helper()
		if got := e.who(token).Roles; !slices.Equal(got, roles) {
			t.Errorf("%s: roles %v, want %v", what, got, roles)
		}
	}
	is("names of our roles", at(-200*time.Second, []string{"admin", "data-scientist"}), "user")
	admin := at(-100*time.Second, []string{"ml-admins", "gone"})
	is("mapped to admin", admin, "admin", "user")
	is("a single text", at(-50*time.Second, "ml-makers"), "data-scientist", "user")
	is("an older token", admin, "data-scientist", "user")
	is("an older token, not seen yet", at(-60*time.Second, []string{"ml-admins"}), "data-scientist", "user")
	is("no claim", p.AccessToken(e.clock.now().Add(-10*time.Second), authtest.Members{"groups": nil}), "user")

	// An administrator can't change them here; what he can do works at once.
	token := at(0, []string{"ml-makers"})
	user := e.who(token)
	_, err := e.UpdateUser(e.ctx, e.admin, user.UserID, auth.UserPatch{Roles: &[]string{"admin"}})
	want(t, err, auth.ErrForbidden)
	contains(t, detail(err), "corp")
	_, _, err = e.ResetUser(e.ctx, e.admin, user.UserID, false)
	want(t, err, auth.ErrForbidden)
	if _, err := e.UpdateUser(e.ctx, e.admin, user.UserID, auth.UserPatch{Disabled: ptr(true)}); err != nil {
		t.Fatal(err)
	}
	e.dead("disabled", token)
	e.clock.advance(time.Minute)
	e.dead("disabled, with a newer token", at(0, []string{"ml-admins"}))
	if _, err := e.UpdateUser(e.ctx, e.admin, user.UserID, auth.UserPatch{Disabled: ptr(false)}); err != nil {
		t.Fatal(err)
	}
	is("enabled again", token, "data-scientist", "user")
	if n := len(e.records("user.update")); n < 4 {
		t.Errorf("%d records of changed roles", n)
	}
	for _, r := range e.records("user.create") {
		if r.Reason == "identity_provider" && (r.Detail["provider"] != "corp" || r.Detail["subject"] != "sub-1") {
			t.Errorf("record %+v", r)
		}
	}
}

// Paths go through authtest.Members of authtest.Members; a name may hold dots itself.
func TestRolesClaimPaths(t *testing.T) {
	p := authtest.NewProvider(t)
	for path, claim := range map[string]authtest.Members{
		"realm_access.roles":        {"realm_access": authtest.Members{"roles": []string{"ml-makers"}}},
		"https://example.com/roles": {"https://example.com/roles": []string{"ml-makers"}},
		"a.b.c":                     {"a": authtest.Members{"b.c": "ml-makers"}},
	} {
		cfg := p.Config()
		cfg.RolesClaim = path
		e := newEnv(t, withProviders(cfg))
		if got := e.who(p.AccessToken(e.clock.now(), claim)).Roles; !slices.Equal(got, []string{"data-scientist"}) {
			t.Errorf("%s: roles %v", path, got)
		}
		for _, wrong := range []authtest.Members{{"realm_access": "roles"}, {"a": []string{"b"}}, {}} {
			if got := e.who(p.AccessToken(e.clock.now(), authtest.Altered(wrong, authtest.Members{"sub": fmt.Sprint("s", len(wrong))}))).Roles; len(got) != 0 {
				t.Errorf("%s: roles %v of %v", path, got, wrong)
			}
		}
	}
}

// Without create_users an administrator links, and the mapping has no say.
func TestLinkedIdentity(t *testing.T) {
	p := authtest.NewProvider(t)
	cfg := p.Config()
	cfg.CreateUsers, cfg.RolesClaim, cfg.Roles = false, "", nil
	e := newEnv(t, withProviders(cfg))
	token := func() string { return p.AccessToken(e.clock.now(), authtest.Members{"groups": []string{"ml-admins"}}) }
	_, err := e.Authenticate(e.ctx, token())
	want(t, err, auth.ErrToken)
	contains(t, detail(err), "ask an administrator to link it")

	ada, own := e.user("ada")
	bob := e.register("bob")
	manager := e.manager("manager", "users:manage")
	maker := e.manager("maker", "users:manage", "audit:read")
	link := func(who auth.Principal, user, provider, subject string) error {
		_, err := e.LinkIdentity(e.ctx, who, user, provider, subject)
		return err
	}
	want(t, link(e.who(own.Access), bob.ID, "corp", "sub-1"), auth.ErrForbidden)
	want(t, link(manager, manager.UserID, "corp", "sub-1"), auth.ErrForbidden)
	want(t, link(manager, maker.UserID, "corp", "sub-1"), auth.ErrForbidden) // he has more rights
	want(t, link(manager, "u_none", "corp", "sub-1"), auth.ErrNotFound)
	want(t, link(manager, ada.ID, "none", "sub-1"), auth.ErrInvalid)
	want(t, link(manager, ada.ID, "corp", ""), auth.ErrInvalid)
	want(t, link(manager, ada.ID, "corp", xs(256)), auth.ErrInvalid)
	want(t, link(manager, ada.ID, "corp", "sub-1"), nil)
	want(t, link(manager, bob.ID, "corp", "sub-1"), auth.ErrLinked)

	if who := e.who(token()); who.UserID != ada.ID || !slices.Equal(who.Roles, []string{"user"}) || who.Provider != "corp" {
		t.Errorf("linked: %+v", who)
	}
	ids, err := e.Identities(e.ctx, manager, ada.ID)
	if err != nil || len(ids) != 1 || ids[0].Subject != "sub-1" || ids[0].Issuer != p.Issuer() || ids[0].Managed {
		t.Fatalf("identities %+v, %v", ids, err)
	}
	_, err = e.Identities(e.ctx, e.who(own.Access), ada.ID)
	want(t, err, auth.ErrForbidden)
	want(t, e.UnlinkIdentity(e.ctx, maker, bob.ID, ids[0].ID), auth.ErrNotFound)
	if r := e.records("identity.unlink"); len(r) != 0 {
		t.Errorf("%+v", r)
	}
	want(t, e.UnlinkIdentity(e.ctx, e.who(own.Access), ada.ID, ids[0].ID), auth.ErrForbidden)
	last := token()
	e.who(last)
	want(t, e.UnlinkIdentity(e.ctx, manager, ada.ID, ids[0].ID), nil)
	e.dead("unlinked", last)
	e.dead("a session of who was unlinked", own.Access)

	// A user who is deleted takes his identities with him.
	want(t, link(manager, bob.ID, "corp", "sub-1"), nil)
	last = token()
	e.who(last)
	want(t, e.DeleteUser(e.ctx, e.admin, bob.ID), nil)
	e.dead("deleted", last)
	if len(e.records("identity.link")) == 0 || len(e.records("identity.unlink")) == 0 {
		t.Error("linking was not recorded")
	}
}

// A mail address lets in or keeps out, and never says who somebody is.
func TestVerifiedMail(t *testing.T) {
	p := authtest.NewProvider(t)
	cfg := p.Config()
	cfg.RequireVerifiedEmail, cfg.AllowedDomains, cfg.UsernameClaim = true, []string{"Example.com"}, "email"
	e := newEnv(t, withProviders(cfg))
	e.register("ada-example.com")
	now := e.clock.now()
	for i, c := range []struct {
		mail, verified any
		good           bool
	}{
		{"ada@example.com", true, true}, {"ada@EXAMPLE.COM", true, true}, {"ada@example.com", false, false}, {"ada@example.com", nil, false},
		{"ada@example.com", "true", false}, {"ada@example.com", 1, false}, {nil, true, false}, {"", true, false}, {5, true, false},
		{"ada@evil.com", true, false}, {"ada@example.com.evil.com", true, false}, {"ada@sub.example.com", true, false}, {"example.com", true, false},
		{"@example.com", true, false}, {"ada@evil.com@example.com", true, true}, {"ada@example.com\n", true, false},
	} {
		who, err := e.Authenticate(e.ctx, p.AccessToken(now, authtest.Members{"sub": fmt.Sprint("m", i), "email": c.mail, "email_verified": c.verified}))
		if (err == nil) != c.good || err != nil && !errors.Is(err, auth.ErrToken) {
			t.Errorf("%v, %v: %v", c.mail, c.verified, err)
		}
		if err == nil && who.Username == "ada-example.com" {
			t.Errorf("%v took the name of a user", c.mail)
		}
	}
}

// Of many first requests at once one makes the user.
func TestFirstTokensRace(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(p.Config()))
	var wait sync.WaitGroup
	ids := make([]string, 16)
	for i := range ids {
		token := p.AccessToken(e.clock.now(), authtest.Members{"jti": fmt.Sprint(i)})
		wait.Go(func() {
			who, err := e.Authenticate(e.ctx, token)
			if ids[i] = who.UserID; err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wait.Wait()
	slices.Sort(ids)
	if got := slices.Compact(ids); len(got) != 1 {
		t.Errorf("users %v", got)
	}
	if n := p.Asked("/keys"); n != 1 {
		t.Errorf("the keys were asked for %d times", n)
	}
}

// What can't be recorded does not happen.
func TestProviderFailsClosed(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(p.Config()))
	token := p.AccessToken(e.clock.now(), nil)
	e.audit.Close()
	_, err := e.Authenticate(e.ctx, token)
	want(t, err, auth.ErrUnavailable)
	list, err := e.db.Users(e.ctx, "", 10)
	if err != nil || len(list) != 1 {
		t.Errorf("users %v, %v", list, err)
	}
}

// A role that is mistyped in the list of providers gives nobody anything; the log
// says so at the start.
func TestProviderGivesRolesThatExist(t *testing.T) {
	e := newEnv(t, withProviders(authtest.NewProvider(t).Config()))
	const told = `"provider":"corp","role":"`
	if log := e.logs.String(); strings.Count(log, told) != 1 || !strings.Contains(log, told+`no-such-role"`) {
		t.Errorf("the log: %s", log)
	}
}

var b64 = base64.RawURLEncoding

func withProviders(list ...auth.Provider) option {
	return func(c *auth.Config) { c.Providers = list }
}

// xs is a text of so many bytes.
func xs(n int) string { return strings.Repeat("x", n) }

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
