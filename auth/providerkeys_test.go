package auth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/auth/authtest"
)

// Keys change under way: those that are new are found, those that are gone are
// believed no more, and a flood of unknown ones is not passed on.
func TestProviderKeysRotate(t *testing.T) {
	p := authtest.NewProvider(t)
	p.Keys = p.Keys[:1]
	e := newEnv(t, withProviders(p.Config()))
	n := 0
	token := func(kid string, key any) string {
		n++
		now := e.clock.now()
		return authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"kid": kid}), p.Claims(now, authtest.Members{"jti": fmt.Sprint(n)}), "RS256", key)
	}
	e.who(token("r1", authtest.RSAKey()))

	// Strangers can name any key, and make us ask no more often than this.
	for range 200 {
		e.dead("key of nobody", token(fmt.Sprint("x", n), authtest.OtherRSA()))
	}
	if got := p.Asked("/keys"); got != 1 {
		t.Errorf("200 unknown keys: asked %d times", got)
	}
	e.clock.advance(11 * time.Second)
	for range 200 {
		e.dead("key of nobody", token(fmt.Sprint("x", n), authtest.OtherRSA()))
		e.dead("signature of another", token("r1", authtest.OtherRSA()))
	}
	if got := p.Asked("/keys"); got != 2 {
		t.Errorf("400 more: asked %d times", got)
	}

	p.Change(func() { p.Keys = append(p.Keys, authtest.PublicJWK(authtest.OtherRSA().Public(), "r2", "RS256")) })
	e.clock.advance(11 * time.Second)
	e.who(token("r2", authtest.OtherRSA()))
	e.who(token("r1", authtest.RSAKey()))

	p.Change(func() { p.Keys = p.Keys[1:] })
	e.clock.advance(11 * time.Minute)
	old := token("r1", authtest.RSAKey())
	e.settle(func() bool {
		_, err := e.Authenticate(e.ctx, token("r1", authtest.RSAKey()))
		return errors.Is(err, auth.ErrToken)
	})
	e.clock.advance(auth.CacheAge)
	e.dead("signed by a key that was taken back", old)
	e.who(token("r2", authtest.OtherRSA()))
}

// settle waits for what a question in the background brings.
func (e *env) settle(done func() bool) {
	e.t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			e.t.Fatal("it does not come")
		}
	}
}

// While the provider is down, known keys go on for half a day, and what can't
// be known is 503, not 401.
func TestProviderDown(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(p.Config()))
	down := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, xs(100_000), http.StatusInternalServerError)
	}
	p.Change(func() { p.Answer["/.well-known/openid-configuration"] = down })
	_, err := e.Authenticate(e.ctx, p.AccessToken(e.clock.now(), nil))
	want(t, err, auth.ErrUnavailable)
	if strings.Contains(detail(err), p.Issuer()) {
		t.Errorf("a caller reads %q", detail(err))
	}
	if n := len(err.Error()); n > 2000 {
		t.Errorf("%d bytes are logged for each token that somebody sends", n)
	}
	_, err = e.Authenticate(e.ctx, p.AccessToken(e.clock.now(), nil))
	want(t, err, auth.ErrUnavailable)
	if got := p.Asked("/.well-known/openid-configuration"); got != 1 {
		t.Errorf("asked %d times within ten seconds", got)
	}
	p.Change(func() { delete(p.Answer, "/.well-known/openid-configuration") })
	e.clock.advance(11 * time.Second)
	e.who(p.AccessToken(e.clock.now(), nil))

	p.Change(func() { p.Answer["/keys"] = down })
	for _, later := range []time.Duration{11 * time.Minute, 5 * time.Hour, 6 * time.Hour} {
		e.clock.advance(later)
		e.who(p.AccessToken(e.clock.now(), nil))
	}
	_, err = e.Authenticate(e.ctx, authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"kid": "new"}), p.Claims(e.clock.now(), nil), "RS256", authtest.OtherRSA()))
	want(t, err, auth.ErrUnavailable)
	e.clock.advance(2 * time.Hour)
	_, err = e.Authenticate(e.ctx, p.AccessToken(e.clock.now(), nil))
	want(t, err, auth.ErrUnavailable)
	e.who(e.login("admin").Access) // others don't notice
}

// What a provider can answer without being one.
func TestHostileMetadata(t *testing.T) {
	var inside atomic.Int64
	internal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		inside.Add(1)
		fmt.Fprint(w, `{"keys":[]}`)
	}))
	defer internal.Close()
	write := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, text)
		}
	}
	elsewhere := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, internal.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}
	const meta, keys = "/.well-known/openid-configuration", "/keys"
	for name, hostile := range map[string]func(p *authtest.Provider){
		"metadata of another issuer":    func(p *authtest.Provider) { p.Meta["issuer"] = "https://id.example.com" },
		"issuer with a slash more":      func(p *authtest.Provider) { p.Meta["issuer"] = p.Issuer() + "/" },
		"no jwks_uri":                   func(p *authtest.Provider) { p.Meta["jwks_uri"] = "" },
		"jwks_uri of a cloud's secrets": func(p *authtest.Provider) { p.Meta["jwks_uri"] = "http://169.254.169.254/latest/meta-data" },
		"and by https":                  func(p *authtest.Provider) { p.Meta["jwks_uri"] = "https://169.254.169.254/latest" },
		"jwks_uri is a file":            func(p *authtest.Provider) { p.Meta["jwks_uri"] = "file:///etc/passwd" },
		"jwks_uri with a password": func(p *authtest.Provider) {
			p.Meta["jwks_uri"] = "http://a:b@" + strings.TrimPrefix(p.Issuer(), "http://") + "/keys"
		},
		"jwks_uri in clear":           func(p *authtest.Provider) { p.Meta["jwks_uri"] = "http://id.example.com/keys" },
		"metadata sends us elsewhere": func(p *authtest.Provider) { p.Answer[meta] = elsewhere },
		"keys send us elsewhere":      func(p *authtest.Provider) { p.Answer[keys] = elsewhere },
		"metadata are no JSON":        func(p *authtest.Provider) { p.Answer[meta] = write("<html>") },
		"metadata are enormous":       func(p *authtest.Provider) { p.Answer[meta] = write(`{"issuer":"` + xs(1<<20) + `"}`) },
		"keys are enormous":           func(p *authtest.Provider) { p.Keys[0]["x"] = xs(4 << 20) }, // and good otherwise
		"keys without end": func(p *authtest.Provider) {
			p.Answer[keys] = func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := fmt.Fprint(w, xs(64<<10)); err != nil {
						return
					}
				}
			}
		},
		"a thousand keys": func(p *authtest.Provider) {
			for i := range 1000 {
				p.Keys = append(p.Keys, authtest.Altered(p.Keys[0], authtest.Members{"kid": fmt.Sprint("k", i)}))
			}
		},
		"no keys": func(p *authtest.Provider) { p.Keys = []map[string]any{} },
		"only short keys": func(p *authtest.Provider) {
			p.Keys = []map[string]any{authtest.PublicJWK(authtest.ShortRSA().Public(), "r1", "")}
		},
		"private keys":       func(p *authtest.Provider) { p.Keys = []map[string]any{authtest.PublicJWK(authtest.RSAKey(), "r1", "")} },
		"keys are no set":    func(p *authtest.Provider) { p.Answer[keys] = write(`[]`) },
		"keys twice":         func(p *authtest.Provider) { p.Answer[keys] = write(`{"keys":[],"keys":[]}`) },
		"keys are not found": func(p *authtest.Provider) { p.Answer[keys] = http.NotFound },
	} {
		t.Run(name, func(t *testing.T) {
			p := authtest.NewProvider(t)
			hostile(p)
			e := newEnv(t, withProviders(p.Config()))
			_, err := e.Authenticate(e.ctx, p.AccessToken(e.clock.now(), nil))
			want(t, err, auth.ErrUnavailable)
			if len(detail(err)) > 200 {
				t.Errorf("a caller reads %q", detail(err))
			}
		})
	}
	if n := inside.Load(); n != 0 {
		t.Errorf("%d requests were led elsewhere", n)
	}
}

// A provider that does not answer keeps nobody longer than he waits himself,
// and is given up.
func TestProviderHangs(t *testing.T) {
	t.Parallel()
	p := authtest.NewProvider(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	asked := make(chan struct{}, 10)
	p.Answer["/keys"] = func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}
	e := newEnv(t, withProviders(p.Config()))
	ctx, leave := context.WithCancel(e.ctx)
	token := p.AccessToken(e.clock.now(), nil)
	left := make(chan error)
	go func() {
		_, err := e.Authenticate(ctx, token)
		left <- err
	}()
	<-asked
	leave()
	want(t, <-left, auth.ErrUnavailable)
	e.who(e.login("admin").Access)
	_, err := e.Authenticate(e.ctx, token) // waits for the same question, which is given up
	want(t, err, auth.ErrUnavailable)
	p.Change(func() { delete(p.Answer, "/keys") })
	e.clock.advance(11 * time.Second)
	e.who(p.AccessToken(e.clock.now(), nil))
}

func TestReachable(t *testing.T) {
	for address, good := range map[string]bool{
		"93.184.216.34:443": true, "10.1.2.3:443": true, "[2606:2800:220:1::]:443": true, "169.254.169.254:80": false, "[fe80::1]:443": false,
		"127.0.0.1:443": false, "[::1]:443": false, "0.0.0.0:443": false, "224.0.0.1:443": false, "[::ffff:169.254.169.254]:443": false, "[::ffff:127.0.0.1]:1": false, "x": false,
	} {
		if err := auth.Reachable(address, false); (err == nil) != good {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := auth.Reachable("127.0.0.1:443", true); err != nil {
		t.Error(err)
	}
}

// TestProviderSettings has one row for each rule of what an operator may write.
func TestProviderSettings(t *testing.T) {
	good := auth.Provider{
		Name: "corp", Issuer: "https://id.example.com", ClientID: "browser-client", ClientSecret: "s", SignIn: true, APITokens: true, Audience: authtest.Audience,
		CreateUsers: true, RolesClaim: "groups", Roles: map[string][]string{"a": {"admin"}}, DefaultRoles: []string{"user"},
	}
	again := func(list ...auth.Provider) error { return auth.CheckProviders(list, issuer) }
	if err := again(good); err != nil {
		t.Fatal(err)
	}
	for says, change := range map[string]func(p *auth.Provider){
		"is not https":        func(p *auth.Provider) { p.Issuer = "http://id.example.com" },
		"is no URL":           func(p *auth.Provider) { p.Issuer = "id.example.com" },
		"of the form":         func(p *auth.Provider) { p.Issuer = "https://id.example.com/?a=b" },
		"has this issuer":     func(p *auth.Provider) { p.Issuer = issuer },
		"is none; take up to": func(p *auth.Provider) { p.Name = "Corp Inc" },
		"may do nothing": func(p *auth.Provider) {
			p.SignIn, p.APITokens, p.Audience, p.ClientID, p.ClientSecret = false, false, "", "", ""
		},
		"needs client_id":         func(p *auth.Provider) { p.ClientID = "" },
		"lack openid":             func(p *auth.Provider) { p.Scopes = []string{"profile"} },
		"can't be one; write":     func(p *auth.Provider) { p.Scopes = []string{"openid profile"} },
		"api_tokens needs":        func(p *auth.Provider) { p.Audience = "" },
		"audience is client_id":   func(p *auth.Provider) { p.Audience = p.ClientID },
		"without api_tokens":      func(p *auth.Provider) { p.APITokens = false },
		"without sign_in":         func(p *auth.Provider) { p.SignIn = false },
		"is not taken":            func(p *auth.Provider) { p.Algorithms = []string{"RS256", "HS256"} },
		"without create_users":    func(p *auth.Provider) { p.CreateUsers = false },
		"can't hold admin":        func(p *auth.Provider) { p.DefaultRoles = []string{"admin"} },
		"roles needs both":        func(p *auth.Provider) { p.RolesClaim = "" },
		"mapped to no role":       func(p *auth.Provider) { p.Roles = map[string][]string{"a": {}} },
		"can't be a role":         func(p *auth.Provider) { p.Roles = map[string][]string{"a": {"No Role"}} },
		"default role":            func(p *auth.Provider) { p.DefaultRoles = []string{"No Role"} },
		"value of acr or amr":     func(p *auth.Provider) { p.SecondFactorACR = []string{"phr phrh"} },
		"acr or amr; write lists": func(p *auth.Provider) { p.SecondFactorAMR = []string{""} },
		"can't be a scope":        func(p *auth.Provider) { p.TokenScopes = map[string][]string{"a b": {"predict"}} },
		"delegates nothing":       func(p *auth.Provider) { p.TokenScopes = map[string][]string{"a": {}} },
		"can't be delegated":      func(p *auth.Provider) { p.TokenScopes = map[string][]string{"a": {"predict", "everything"}} },
		"token_scopes has no": func(p *auth.Provider) {
			p.APITokens, p.Audience, p.TokenScopes = false, "", map[string][]string{"a": {"predict"}}
		},
		"is none; write it as in": func(p *auth.Provider) { p.AllowedDomains = []string{"@example.com"} },
	} {
		p := good
		change(&p)
		if err := again(p); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	second := good
	second.Issuer = "https://other.example.com"
	if err := again(good, second); err == nil || !strings.Contains(err.Error(), "has this name") {
		t.Errorf("a name twice: %v", err)
	}
	second.Name, second.Issuer = "second", good.Issuer
	if err := again(good, second); err == nil || !strings.Contains(err.Error(), "has this issuer") {
		t.Errorf("an issuer twice: %v", err)
	}
	newEnv(t, withProviders(good)) // reads them by the same rules
	second.Issuer = "http://127.0.0.1:8085/realms/x"
	if err := again(good, second); err != nil {
		t.Error(err)
	}
}
