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
)

// Keys change under way: those that are new are found, those that are gone are
// believed no more, and a flood of unknown ones is not passed on.
func TestProviderKeysRotate(t *testing.T) {
	p := newFakeProvider(t)
	p.keys = p.keys[:1]
	e := newEnv(t, withProviders(p.config()))
	n := 0
	token := func(kid string, key any) string {
		n++
		now := e.clock.now()
		return signJWS(t, altered(accessHeader, members{"kid": kid}), p.claims(now, members{"jti": fmt.Sprint(n)}), "RS256", key)
	}
	e.who(token("r1", rsaKey()))

	// Strangers can name any key, and make us ask no more often than this.
	for range 200 {
		e.dead("key of nobody", token(fmt.Sprint("x", n), otherRSA()))
	}
	if got := p.asked("/keys"); got != 1 {
		t.Errorf("200 unknown keys: asked %d times", got)
	}
	e.clock.advance(11 * time.Second)
	for range 200 {
		e.dead("key of nobody", token(fmt.Sprint("x", n), otherRSA()))
		e.dead("signature of another", token("r1", otherRSA()))
	}
	if got := p.asked("/keys"); got != 2 {
		t.Errorf("400 more: asked %d times", got)
	}

	p.change(func() { p.keys = append(p.keys, publicJWK(otherRSA().Public(), "r2", "RS256")) })
	e.clock.advance(11 * time.Second)
	e.who(token("r2", otherRSA()))
	e.who(token("r1", rsaKey()))

	p.change(func() { p.keys = p.keys[1:] })
	e.clock.advance(11 * time.Minute)
	old := token("r1", rsaKey())
	e.settle(func() bool {
		_, err := e.Authenticate(e.ctx, token("r1", rsaKey()))
		return errors.Is(err, auth.ErrToken)
	})
	e.clock.advance(auth.CacheAge)
	e.dead("signed by a key that was taken back", old)
	e.who(token("r2", otherRSA()))
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
	p := newFakeProvider(t)
	e := newEnv(t, withProviders(p.config()))
	down := func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }
	p.change(func() { p.answer["/.well-known/openid-configuration"] = down })
	_, err := e.Authenticate(e.ctx, p.access(e.clock.now(), nil))
	want(t, err, auth.ErrUnavailable)
	if strings.Contains(detail(err), p.issuer()) {
		t.Errorf("a caller reads %q", detail(err))
	}
	_, err = e.Authenticate(e.ctx, p.access(e.clock.now(), nil))
	want(t, err, auth.ErrUnavailable)
	if got := p.asked("/.well-known/openid-configuration"); got != 1 {
		t.Errorf("asked %d times within ten seconds", got)
	}
	p.change(func() { delete(p.answer, "/.well-known/openid-configuration") })
	e.clock.advance(11 * time.Second)
	e.who(p.access(e.clock.now(), nil))

	p.change(func() { p.answer["/keys"] = down })
	for _, later := range []time.Duration{11 * time.Minute, 5 * time.Hour, 6 * time.Hour} {
		e.clock.advance(later)
		e.who(p.access(e.clock.now(), nil))
	}
	_, err = e.Authenticate(e.ctx, signJWS(t, altered(accessHeader, members{"kid": "new"}), p.claims(e.clock.now(), nil), "RS256", otherRSA()))
	want(t, err, auth.ErrUnavailable)
	e.clock.advance(2 * time.Hour)
	_, err = e.Authenticate(e.ctx, p.access(e.clock.now(), nil))
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
	for name, hostile := range map[string]func(p *fakeProvider){
		"metadata of another issuer":    func(p *fakeProvider) { p.meta["issuer"] = "https://id.example.com" },
		"issuer with a slash more":      func(p *fakeProvider) { p.meta["issuer"] = p.issuer() + "/" },
		"no jwks_uri":                   func(p *fakeProvider) { p.meta["jwks_uri"] = "" },
		"jwks_uri of a cloud's secrets": func(p *fakeProvider) { p.meta["jwks_uri"] = "http://169.254.169.254/latest/meta-data" },
		"and by https":                  func(p *fakeProvider) { p.meta["jwks_uri"] = "https://169.254.169.254/latest" },
		"jwks_uri is a file":            func(p *fakeProvider) { p.meta["jwks_uri"] = "file:///etc/passwd" },
		"jwks_uri with a password": func(p *fakeProvider) {
			p.meta["jwks_uri"] = "http://a:b@" + strings.TrimPrefix(p.issuer(), "http://") + "/keys"
		},
		"jwks_uri in clear":           func(p *fakeProvider) { p.meta["jwks_uri"] = "http://id.example.com/keys" },
		"metadata sends us elsewhere": func(p *fakeProvider) { p.answer[meta] = elsewhere },
		"keys send us elsewhere":      func(p *fakeProvider) { p.answer[keys] = elsewhere },
		"metadata are no JSON":        func(p *fakeProvider) { p.answer[meta] = write("<html>") },
		"metadata are enormous":       func(p *fakeProvider) { p.answer[meta] = write(`{"issuer":"` + xs(1<<20) + `"}`) },
		"keys are enormous":           func(p *fakeProvider) { p.answer[keys] = write(`{"keys":[],"x":"` + xs(4<<20) + `"}`) },
		"keys without end": func(p *fakeProvider) {
			p.answer[keys] = func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := fmt.Fprint(w, xs(64<<10)); err != nil {
						return
					}
				}
			}
		},
		"a thousand keys": func(p *fakeProvider) {
			for i := range 1000 {
				p.keys = append(p.keys, altered(p.keys[0], members{"kid": fmt.Sprint("k", i)}))
			}
		},
		"no keys":            func(p *fakeProvider) { p.keys = []map[string]any{} },
		"only short keys":    func(p *fakeProvider) { p.keys = []map[string]any{publicJWK(shortRSA().Public(), "r1", "")} },
		"private keys":       func(p *fakeProvider) { p.keys = []map[string]any{publicJWK(rsaKey(), "r1", "")} },
		"keys are no set":    func(p *fakeProvider) { p.answer[keys] = write(`[]`) },
		"keys twice":         func(p *fakeProvider) { p.answer[keys] = write(`{"keys":[],"keys":[]}`) },
		"keys are not found": func(p *fakeProvider) { p.answer[keys] = http.NotFound },
	} {
		t.Run(name, func(t *testing.T) {
			p := newFakeProvider(t)
			hostile(p)
			e := newEnv(t, withProviders(p.config()))
			_, err := e.Authenticate(e.ctx, p.access(e.clock.now(), nil))
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
	p := newFakeProvider(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	asked := make(chan struct{}, 10)
	p.answer["/keys"] = func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}
	e := newEnv(t, withProviders(p.config()))
	ctx, leave := context.WithCancel(e.ctx)
	token := p.access(e.clock.now(), nil)
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
	p.change(func() { delete(p.answer, "/keys") })
	e.clock.advance(11 * time.Second)
	e.who(p.access(e.clock.now(), nil))
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
		Name: "corp", Issuer: "https://id.example.com", ClientID: "browser-client", ClientSecret: "s", SignIn: true, APITokens: true, Audience: apiAudience,
		CreateUsers: true, RolesClaim: "groups", Roles: map[string][]string{"a": {"admin"}}, DefaultRoles: []string{"user"},
	}
	e := newEnv(t, withProviders(good))
	again := func(list ...auth.Provider) error {
		_, err := auth.New(auth.Config{Store: e.store, Guard: auth.NewGuard(e.audit), Audit: e.audit, Keys: e.keys, Issuer: issuer, Providers: list})
		return err
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
	second.Issuer = "http://127.0.0.1:8085/realms/x"
	if err := again(good, second); err != nil {
		t.Error(err)
	}
}
