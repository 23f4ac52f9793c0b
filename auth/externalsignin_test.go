package auth_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/auth/authtest"
)

type members = authtest.Members

// signInProvider is one through which people sign in, who become users.
func signInProvider(p *authtest.Provider, name string) auth.Provider {
	cfg := p.Config()
	cfg.Name, cfg.SignIn, cfg.ClientID, cfg.ClientSecret = name, true, authtest.ClientID, authtest.ClientSecret
	return cfg
}

// traveller is somebody on his way through a provider.
type traveller struct {
	e                *env
	provider         string
	address, secret  string
	answer           auth.ExternalAnswer
	userAgent, older string
}

func (e *env) begin(provider string, fresh bool) *traveller {
	e.t.Helper()
	return e.beginFrom("", provider, fresh)
}

// beginFrom begins in a browser that has a session already, by its cookie.
func (e *env) beginFrom(cookie, provider string, fresh bool) *traveller {
	e.t.Helper()
	address, secret, err := e.BeginExternal(e.ctx, provider, fresh, cookie)
	if err != nil {
		e.t.Fatalf("begin: %v", err)
	}
	return &traveller{e: e, provider: provider, address: address, secret: secret, userAgent: "Firefox"}
}

// at signs in at the provider.
func (b *traveller) at(p *authtest.Provider, claims members) *traveller {
	b.e.t.Helper()
	back := p.SignIn(b.address, claims)
	if want := issuer + "/console/oidc/" + b.provider + "/callback"; back.Scheme+"://"+back.Host+back.Path != want {
		b.e.t.Errorf("sent back to %s", back)
	}
	q := back.Query()
	b.answer = auth.ExternalAnswer{Code: q.Get("code"), State: q.Get("state"), Issuer: q.Get("iss"), Error: q.Get("error")}
	return b
}

func (b *traveller) finish() (auth.Browser, error) {
	return b.e.FinishExternal(b.e.ctx, origin, b.userAgent, b.provider, b.secret, b.answer, b.older)
}

// idClaims are those of a good ID token besides aud and nonce.
func idClaims(p *authtest.Provider, now time.Time, changes members) members {
	return authtest.Altered(members{"iss": p.Issuer(), "sub": "sub-1", "exp": now.Unix() + 300, "iat": now.Unix(), "preferred_username": "Ada",
		"groups": []string{"ml-users"}}, changes)
}

func TestExternalSignIn(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(signInProvider(p, "corp")))
	ada := e.register("ada")
	now := e.clock.now()

	b := e.begin("corp", false).at(p, idClaims(p, now, members{"auth_time": now.Unix() - 30}))
	query, err := url.ParseQuery(b.address[strings.IndexByte(b.address, '?')+1:])
	if err != nil || query.Get("scope") != "openid profile" || query.Get("code_challenge_method") != "S256" || len(query.Get("state")) < 40 ||
		len(query.Get("nonce")) < 40 || query.Get("nonce") == query.Get("state") || query.Get("max_age") != "" {
		t.Errorf("the browser is sent to %s", b.address)
	}
	if strings.Contains(b.address, b.secret) {
		t.Error("the browser's secret is in the address")
	}
	got, err := b.finish()
	if err != nil {
		t.Fatal(err)
	}
	who, err := e.AuthenticateBrowser(e.ctx, got.Cookie)
	if err != nil || who.UserID == ada.ID || !slices.Equal(who.Roles, []string{"user"}) || !who.AuthTime.Equal(now.Add(-30*time.Second).Truncate(time.Second)) {
		t.Fatalf("signed in as %+v, %v", who, err)
	}
	if _, _, err := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "k"}); err != nil { // A11: signed in just now
		t.Error(err)
	}
	login := e.records("user.login")[0]
	if login.Outcome != audit.Allowed || login.Actor != who.Username || login.Detail["provider"] != "corp" || login.Detail["subject"] != "sub-1" || login.Address != origin.Address {
		t.Errorf("recorded: %+v", login)
	}

	// The next time he is the same, and what his browser had before ends.
	e.clock.advance(time.Minute)
	b = e.begin("corp", false).at(p, idClaims(p, e.clock.now(), members{"groups": []string{"ml-makers"}, "preferred_username": "other"}))
	b.older = got.Cookie
	next, err := b.finish()
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.AuthenticateBrowser(e.ctx, next.Cookie)
	if err != nil || again.UserID != who.UserID || again.Username != who.Username || !slices.Equal(again.Roles, []string{"data-scientist"}) {
		t.Errorf("signed in as %+v, %v", again, err)
	}
	if _, err := e.AuthenticateBrowser(e.ctx, got.Cookie); err == nil {
		t.Error("the cookie of before lives on")
	}
	// This time the provider did not say when: that is no step-up.
	_, _, err = e.CreateKey(e.ctx, again, auth.KeyRequest{Name: "k2"})
	want(t, err, auth.ErrReauthenticate)

	// Disabling ends it, and he can't come back.
	if _, err := e.UpdateUser(e.ctx, e.admin, who.UserID, auth.UserPatch{Disabled: ptr(true)}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.AuthenticateBrowser(e.ctx, next.Cookie); err == nil {
		t.Error("the session of who was disabled lives on")
	}
	_, err = e.begin("corp", false).at(p, idClaims(p, e.clock.now(), nil)).finish()
	want(t, err, auth.ErrForbidden)
	contains(t, detail(err), "disabled")
}

// A proof anew must be one: the provider has to say that it just was.
func TestExternalReauthentication(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(signInProvider(p, "corp")))
	now := e.clock.now()
	for name, c := range map[string]struct {
		claims members
		good   bool
	}{
		"just now": {members{"auth_time": now.Unix()}, true}, "an hour ago": {members{"auth_time": now.Unix() - 3600}, false}, "not told": {nil, false},
	} {
		b := e.begin("corp", true)
		if q, _ := url.Parse(b.address); q.Query().Get("max_age") != "0" || q.Query().Get("prompt") != "login" {
			t.Errorf("the browser is sent to %s", b.address)
		}
		_, err := b.at(p, idClaims(p, now, c.claims)).finish()
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
		if !c.good {
			want(t, err, auth.ErrReauthenticate)
		}
	}
}

// trick is one way to sign in that must not succeed.
type trick struct {
	claims members                            // of the ID token
	tokens func(answer members, nonce string) // alters the token endpoint's answer
	answer func(b *traveller)                 // alters what comes back by the browser
	want   error                              // nil: forbidden
}

// hostile is a provider with its tricks.
type hostile struct {
	e        *env
	p, other *authtest.Provider
	victim   *traveller // somebody else's browser, under way
}

func (h *hostile) claims(changes members) members {
	return authtest.Altered(idClaims(h.p, h.e.clock.now(), members{"email": "ada@example.com", "email_verified": true}), changes)
}

// id puts another ID token into the token endpoint's answer.
func (h *hostile) id(header, changes members, method string, key any) func(members, string) {
	return func(answer members, nonce string) {
		claims := authtest.Altered(h.claims(members{"aud": authtest.ClientID, "nonce": nonce}), changes)
		answer["id_token"] = authtest.SignJWS(h.e.t, authtest.Altered(authtest.IDHeader, header), claims, method, key)
	}
}

// wrongClaims are good signatures of what proves nothing.
func (h *hostile) wrongClaims() map[string]trick {
	p, other, now, victim, id := h.p, h.other, h.e.clock.now(), h.victim, h.id
	return map[string]trick{
		"wrong nonce": {claims: members{"nonce": "other"}}, "no nonce": {tokens: id(nil, members{"nonce": nil}, "RS256", authtest.RSAKey())}, "nonce is a list": {claims: members{"nonce": []string{"x"}}},
		"nonce of another browser": {claims: members{"nonce": victimNonce(victim)}},
		"wrong issuer":             {claims: members{"iss": "https://id.example.com"}}, "issuer of the other provider": {claims: members{"iss": other.Issuer()}},
		"no issuer": {claims: members{"iss": nil}}, "issuer with a slash": {claims: members{"iss": p.Issuer() + "/"}},
		"for another client": {claims: members{"aud": "other-client"}}, "for the API": {claims: members{"aud": authtest.Audience}}, "no audience": {tokens: id(nil, members{"aud": nil}, "RS256", authtest.RSAKey())},
		"for several, without azp": {claims: members{"aud": []string{authtest.ClientID, "x"}}}, "azp of another": {claims: members{"azp": "x"}},
		"for several, azp of another": {claims: members{"aud": []string{authtest.ClientID, "x"}, "azp": "x"}}, "azp is a list": {claims: members{"azp": []string{authtest.ClientID}}},
		"expired": {claims: members{"exp": now.Unix()}}, "no exp": {claims: members{"exp": nil}}, "from the future": {claims: members{"iat": now.Unix() + 61}}, "no iat": {claims: members{"iat": nil}},
		"not yet good": {claims: members{"nbf": now.Unix() + 61}}, "no subject": {claims: members{"sub": nil}}, "subject of a megabyte": {claims: members{"sub": xs(1 << 20)}, want: auth.ErrUnavailable},
		"subject of 256": {claims: members{"sub": xs(256)}}, "groups of 10,000 entries": {claims: members{"groups": slices.Repeat([]string{"ml-admins"}, 10_000)}},
		"roles are an object": {claims: members{"groups": members{"ml-admins": 1}}}, "wrong at_hash": {claims: members{"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
		"at_hash is a number":  {claims: members{"at_hash": 5}},
		"mail is not verified": {claims: members{"email_verified": false}}, "mail is verified by text": {claims: members{"email_verified": "true"}},
		"mail of a user, not verified": {claims: members{"email": "ada", "email_verified": nil}},
	}
}

// wrongTokens are no ID tokens of the provider.
func (h *hostile) wrongTokens(t *testing.T) map[string]trick {
	other, id := h.other, h.id
	return map[string]trick{
		"no ID token":                           {tokens: func(a members, _ string) { delete(a, "id_token") }},
		"ID token is a number":                  {tokens: func(a members, _ string) { a["id_token"] = 5 }},
		"no access token":                       {tokens: func(a members, _ string) { delete(a, "access_token") }, want: auth.ErrUnavailable},
		"alg none":                              {tokens: id(members{"alg": "none"}, nil, "", nil)},
		"HS256 with the secret":                 {tokens: id(members{"alg": "HS256"}, nil, "HS256", []byte(authtest.ClientSecret))},
		"HS256 with the public key":             {tokens: id(members{"alg": "HS256"}, nil, "HS256", asJSON(t, authtest.PublicJWK(authtest.RSAKey().Public(), "r1", "")))},
		"key of another":                        {tokens: id(nil, nil, "RS256", authtest.OtherRSA())},
		"alg not announced":                     {tokens: id(members{"alg": "PS256"}, nil, "PS256", authtest.RSAKey())},
		"an access token":                       {tokens: id(members{"typ": "at+jwt"}, nil, "RS256", authtest.RSAKey())},
		"a logout token":                        {tokens: id(members{"typ": "logout+jwt"}, nil, "RS256", authtest.RSAKey())},
		"jku":                                   {tokens: id(members{"jku": other.Issuer() + "/keys"}, nil, "RS256", authtest.OtherRSA())},
		"crit":                                  {tokens: id(members{"crit": []string{"exp"}}, nil, "RS256", authtest.RSAKey())},
		"token of the other provider, same kid": {tokens: id(nil, members{"iss": other.Issuer()}, "RS256", authtest.OtherRSA())},
	}
}

// wrongAnswers are not what the provider sent, or to somebody else.
func (h *hostile) wrongAnswers() map[string]trick {
	e, other, victim := h.e, h.other, h.victim
	return map[string]trick{
		"another state":             {answer: func(b *traveller) { b.answer.State = b.answer.State[1:] + "x" }},
		"no state":                  {answer: func(b *traveller) { b.answer.State = "" }},
		"state of another browser":  {answer: func(b *traveller) { b.answer.State = victim.answer.State }},
		"answer of another browser": {answer: func(b *traveller) { b.answer = victim.answer }},
		"code of another browser":   {answer: func(b *traveller) { b.answer.Code = victim.answer.Code }},
		"no code":                   {answer: func(b *traveller) { b.answer.Code = "" }},
		"an invented code":          {answer: func(b *traveller) { b.answer.Code = "x" }},
		"a code without end":        {answer: func(b *traveller) { b.answer.Code = xs(5000) }},
		"no cookie":                 {answer: func(b *traveller) { b.secret = "" }},
		"cookie of another sign-in": {answer: func(b *traveller) { b.secret = e.begin("corp", false).secret }},
		"an invented cookie":        {answer: func(b *traveller) { b.secret = "mgo_" + xs(49) }},
		"an error":                  {answer: func(b *traveller) { b.answer.Error = "access_denied" }},
		"an error without a code":   {answer: func(b *traveller) { b.answer = auth.ExternalAnswer{State: b.answer.State, Error: "<script>"} }},
		"at the other's address":    {answer: func(b *traveller) { b.provider = "other" }},
		"iss of the other":          {answer: func(b *traveller) { b.answer.Issuer = other.Issuer() }},
		"at an address of nobody":   {answer: func(b *traveller) { b.provider = "nobody" }, want: auth.ErrNotFound},
	}
}

// try goes the way of a trick and says whether it was refused.
func (h *hostile) try(t *testing.T, name string, c trick) bool {
	h.p.Change(func() { h.p.Tokens = c.tokens })
	b := h.e.begin("corp", false).at(h.p, h.claims(c.claims))
	if c.answer != nil {
		c.answer(b)
	}
	expected := c.want
	if expected == nil {
		expected = auth.ErrForbidden
	}
	got, err := b.finish()
	if err == nil {
		t.Errorf("%s: signed in: %+v", name, got.Session)
		return false
	}
	want(t, err, expected)
	if d := detail(err); len(d) > 200 || strings.Contains(d, "script") || strings.Contains(d, h.p.Issuer()) {
		t.Errorf("%s: the caller reads %q", name, d)
	}
	return true
}

// TestHostileSignIn goes through all ways in which what comes back from a
// provider, or from whoever sits between, proves nothing.
func TestHostileSignIn(t *testing.T) {
	p, other := authtest.NewProvider(t), authtest.NewProvider(t)
	other.Keys = []map[string]any{authtest.PublicJWK(authtest.OtherRSA().Public(), "r1", "")} // the same kid
	mail := signInProvider(p, "corp")
	mail.RequireVerifiedEmail = true
	e := newEnv(t, withProviders(mail, signInProvider(other, "other")))
	ada := e.register("ada")
	h := &hostile{e: e, p: p, other: other}
	h.victim = e.begin("corp", false).at(p, h.claims(nil))

	tricks := h.wrongClaims()
	maps.Copy(tricks, h.wrongTokens(t))
	maps.Copy(tricks, h.wrongAnswers())
	refused := 0
	for _, name := range slices.Sorted(maps.Keys(tricks)) {
		if h.try(t, name, tricks[name]) {
			refused++
		}
	}
	if h.try(t, "after ten minutes", trick{answer: func(*traveller) { e.clock.advance(10*time.Minute + time.Second) }}) {
		refused++
	}
	t.Logf("%d hostile sign-ins, %d refused", len(tricks)+1, refused)
	if other.Asked("/token") != 0 {
		t.Error("a code of one provider was sent to the other")
	}
	if refused < 60 {
		t.Errorf("only %d hostile sign-ins were refused", refused)
	}
	if list, err := e.db.Users(e.ctx, "", 10); err != nil || len(list) != 2 {
		t.Errorf("users %v, %v", list, err)
	}
	if ids, err := e.db.IdentitiesOf(e.ctx, ada.ID); err != nil || len(ids) != 0 {
		t.Errorf("identities of ada: %v, %v", ids, err)
	}
	for _, r := range e.records("user.login") {
		if r.Outcome == audit.Allowed && r.Detail["provider"] != "" {
			t.Errorf("recorded as allowed: %+v", r)
		}
	}
	p.Change(func() { p.Tokens = nil })
	if _, err := e.begin("corp", false).at(p, idClaims(p, e.clock.now(), members{"email": "ada@example.com", "email_verified": true, "aud": []string{authtest.ClientID, "x"}, "azp": authtest.ClientID})).finish(); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func victimNonce(b *traveller) string {
	u, _ := url.Parse(b.address)
	return u.Query().Get("nonce")
}

// Where the provider says that its answers name it, they must (RFC 9207).
func TestIssuerOfTheAnswer(t *testing.T) {
	p := authtest.NewProvider(t)
	p.Meta["authorization_response_iss_parameter_supported"] = true
	e := newEnv(t, withProviders(signInProvider(p, "corp")))
	for iss, good := range map[string]bool{p.Issuer(): true, "": false, p.Issuer() + "/": false, "https://id.example.com": false} {
		b := e.begin("corp", false).at(p, idClaims(p, e.clock.now(), nil))
		b.answer.Issuer = iss
		if _, err := b.finish(); (err == nil) != good {
			t.Errorf("iss %q: %v", iss, err)
		}
	}
}

// An answer is good once, however many show it at once.
func TestSignInIsGoodOnce(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(signInProvider(p, "corp")))
	b := e.begin("corp", false).at(p, idClaims(p, e.clock.now(), nil))
	var wait sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wait.Go(func() { _, errs[i] = b.finish() })
	}
	wait.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			want(t, err, auth.ErrForbidden)
		}
	}
	if won != 1 || p.Asked("/token") != 1 {
		t.Errorf("%d sign-ins, %d codes sent", won, p.Asked("/token"))
	}
	// Nothing by which a sign-in could be taken over is in the database.
	e.begin("corp", false)
	var secrets []string
	for range 3 {
		b := e.begin("corp", false)
		u, _ := url.Parse(b.address)
		secrets = append(secrets, b.secret, u.Query().Get("state"), u.Query().Get("nonce"))
	}
	dump := e.databaseFiles()
	for _, s := range secrets {
		if strings.Contains(dump, s) {
			t.Errorf("%q is in the database", s)
		}
	}
}

// The token endpoint may fail in many ways, none of which signs in or leaks.
func TestTokenEndpointFails(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(signInProvider(p, "corp")))
	const canary = "canary-of-the-provider"
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"500":      {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, canary, 500) }, auth.ErrUnavailable},
		"400":      {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"error":"`+canary+`"}`, 400) }, auth.ErrForbidden},
		"no JSON":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, canary) }, auth.ErrUnavailable},
		"enormous": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"id_token":"`+xs(4<<20)+`"}`) }, auth.ErrUnavailable},
		"redirection": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, auth.ErrUnavailable},
	} {
		b := e.begin("corp", false).at(p, idClaims(p, e.clock.now(), nil))
		p.Change(func() { p.Answer["/token"] = c.answer })
		_, err := b.finish()
		want(t, err, c.want)
		if strings.Contains(detail(err), canary) {
			t.Errorf("%s: the caller reads %q", name, detail(err))
		}
	}
	if p.Asked("/elsewhere") != 0 {
		t.Error("a redirection was followed, with a code")
	}
	if strings.Contains(e.logs.String(), authtest.ClientSecret) || strings.Contains(e.auditFile(), authtest.ClientSecret) {
		t.Error("the client's secret was written down")
	}
}

// What is unlinked or deleted while a sign-in is under way does not sign in.
func TestUnlinkedDuringSignIn(t *testing.T) {
	p := authtest.NewProvider(t)
	cfg := signInProvider(p, "corp")
	cfg.CreateUsers, cfg.RolesClaim, cfg.Roles = false, "", nil
	e := newEnv(t, withProviders(cfg))
	ada := e.register("ada")
	b := e.begin("corp", false).at(p, idClaims(p, e.clock.now(), nil))
	_, err := b.finish()
	want(t, err, auth.ErrForbidden)
	contains(t, detail(err), "not known here")

	id, err := e.LinkIdentity(e.ctx, e.admin, ada.ID, "corp", "sub-1")
	if err != nil {
		t.Fatal(err)
	}
	e.store.set(func(method string) error {
		if method == "CreateSession" {
			e.store.set(nil, nil)
			return e.UnlinkIdentity(e.ctx, e.admin, ada.ID, id.ID)
		}
		return nil
	}, nil)
	_, err = e.begin("corp", false).at(p, idClaims(p, e.clock.now(), nil)).finish()
	want(t, err, auth.ErrCredentials)
	if list, err := e.db.SessionsOf(e.ctx, ada.ID, e.clock.now()); err != nil || len(list) != 0 {
		t.Errorf("sessions %v, %v", list, err)
	}
}

// databaseFiles is all that the database has on disk.
func (e *env) databaseFiles() string {
	e.t.Helper()
	names, err := filepath.Glob(filepath.Join(e.dir, "modelgate.db*"))
	var all strings.Builder
	for _, name := range names {
		b, readErr := os.ReadFile(name)
		err = errors.Join(err, readErr)
		all.Write(b)
	}
	if err != nil || all.Len() == 0 {
		e.t.Fatalf("database files %v: %v", names, err)
	}
	return all.String()
}
