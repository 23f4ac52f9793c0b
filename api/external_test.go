package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/auth/authtest"
)

// withProvider lets people sign in through a provider, and takes its access
// tokens.
func withProvider(p *authtest.Provider) option {
	return func(c *auth.Config, _ *Config) {
		cfg := p.Config()
		cfg.SignIn, cfg.ClientID, cfg.ClientSecret = true, authtest.ClientID, authtest.ClientSecret
		c.Issuer, c.Providers = "https://modelgate.test", append(c.Providers, cfg)
	}
}

func (w *world) walkExternal(p *authtest.Provider) {
	w.t.Helper()
	w.http.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	w.get("/console/oidc", "").is(200)
	began := w.get("/console/oidc/corp", "").is(303)
	back := p.SignIn(began.Header.Get("Location"), idClaims(p, w.clock.now()))
	w.do(request{method: "GET", path: back.RequestURI(), header: withCookies(began)}).is(200)
}

func idClaims(p *authtest.Provider, now time.Time) authtest.Members {
	return authtest.Members{"iss": p.Issuer(), "sub": "sub-1", "iat": now.Unix(), "exp": now.Unix() + 300, "auth_time": now.Unix(),
		"preferred_username": "Ada", "groups": []string{"ml-users"}}
}

// withCookies is the header of a browser that got an answer.
func withCookies(a answer) http.Header {
	var pairs []string
	for _, c := range (&http.Response{Header: a.Header}).Cookies() {
		pairs = append(pairs, c.Name+"="+c.Value)
	}
	return http.Header{"Cookie": {strings.Join(pairs, "; ")}}
}

// surfer is a browser with cookies of its own, over TLS.
type surfer struct {
	t      *testing.T
	server *httptest.Server
	client *http.Client
}

func newSurfer(t *testing.T, server *httptest.Server) *surfer {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &surfer{t, server, &http.Client{
		Transport: server.Client().Transport, Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// open opens an address, or a path of the server.
func (b *surfer) open(address string, headers ...string) answer {
	b.t.Helper()
	if strings.HasPrefix(address, "/") {
		address = b.server.URL + address
	}
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return b.send(req)
}

func (b *surfer) send(req *http.Request) answer {
	b.t.Helper()
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{b.t, req.Method + " " + req.URL.Path, resp.StatusCode, resp.Header, data}
}

func (b *surfer) cookies() map[string]string {
	at, _ := url.Parse(b.server.URL)
	all := map[string]string{}
	for _, c := range b.client.Jar.Cookies(at) {
		all[c.Name] = c.Value
	}
	return all
}

// TestExternalSignInInABrowser goes the whole way with cookies as browsers keep
// them.
func TestExternalSignInInABrowser(t *testing.T) {
	p := authtest.NewProvider(t)
	w := newWorld(t, noLimits, withProvider(p))
	server := httptest.NewTLSServer(w.api.Handler())
	defer server.Close()
	ada := newSurfer(t, server)

	began := ada.open("/console/oidc/corp", "Sec-Fetch-Site", "same-origin").is(303)
	line := began.Header.Get("Set-Cookie")
	for _, rule := range []string{"__Host-modelgate-oidc=mgo_", "; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax", "; Max-Age=600"} {
		if !strings.Contains(line, rule) {
			t.Errorf("the cookie %q lacks %q", line, rule)
		}
	}
	if got := began.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q", got)
	}
	back := p.SignIn(began.Header.Get("Location"), idClaims(p, w.clock.now()))
	if back.Host != "modelgate.test" || back.Path != "/console/oidc/corp/callback" {
		t.Errorf("sent back to %s", back)
	}

	// Another browser can do nothing with the answer, nor can a script that
	// has no cookie; and neither uses it up.
	eve := newSurfer(t, server)
	eve.open("/console/oidc/corp").is(303)
	eve.open(back.RequestURI()).refused(403, "forbidden")
	if left := eve.cookies(); len(left) != 0 {
		t.Errorf("the other browser has %v", left)
	}

	done := ada.open(back.RequestURI(), "Sec-Fetch-Site", "cross-site").is(200)
	if body := string(done.Body); !strings.Contains(body, `content="0;url=/console"`) || !strings.HasPrefix(done.Header.Get("Content-Type"), "text/html") {
		t.Errorf("ended on %s", body)
	}
	if policy := done.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || done.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("policy %q", policy)
	}
	if have := ada.cookies(); len(have) != 1 || have[cookieName] == "" {
		t.Errorf("cookies %v", have)
	}
	var me browserSession
	ada.open("/console/session").is(200).decode(&me)
	if me.User.Username != "ada" || len(me.User.Roles) != 1 || me.User.Roles[0] != "user" || !me.AuthTime.Equal(w.clock.now().UTC().Truncate(time.Second)) {
		t.Errorf("signed in as %+v", me)
	}
	ada.open("/console/api/users/me").is(200)
	ada.open("/console/api/admin/users").refused(403, "forbidden")
	ada.open(back.RequestURI()).refused(403, "forbidden") // again
	ada.open("/console/session").is(200)
	ada.open("/users/me").refused(401, "invalid_token")

	// An administrator disables him.
	w.do(request{method: "PATCH", path: "/admin/users/" + me.User.ID, token: w.admin, json: `{"disabled":true}`}).is(200)
	ada.open("/console/session").refused(401, "invalid_token")
}

// TestExternalStepUpInABrowser: the session from which a step-up began ends with
// it, though its cookie does not come back from the provider.
func TestExternalStepUpInABrowser(t *testing.T) {
	p := authtest.NewProvider(t)
	w := newWorld(t, noLimits, withProvider(p))
	server := httptest.NewTLSServer(w.api.Handler())
	defer server.Close()
	through := func(b *surfer, begin string) {
		t.Helper()
		back := p.SignIn(b.open(begin, "Sec-Fetch-Site", "same-origin").is(303).Header.Get("Location"), idClaims(p, w.clock.now()))
		at, _ := url.Parse(server.URL)
		var lax []*http.Cookie
		for _, c := range b.client.Jar.Cookies(at) {
			if c.Name != cookieName { // Strict: browsers don't send it on the way from another site
				lax = append(lax, &http.Cookie{Name: c.Name, Value: c.Value, Path: "/", Secure: true})
			}
		}
		jar, _ := cookiejar.New(nil)
		jar.SetCookies(at, lax)
		b.client.Jar = jar
		b.open(back.RequestURI(), "Sec-Fetch-Site", "cross-site").is(200)
	}
	ada := newSurfer(t, server)
	through(ada, "/console/oidc/corp")
	before := ada.cookies()[cookieName]
	ada.open("/console/session").is(200)
	w.clock.advance(11 * time.Minute)
	through(ada, "/console/oidc/corp?reauthenticate=1")
	after := ada.cookies()[cookieName]
	w.do(request{method: "GET", path: "/console/session", header: withCookie(before)}).refused(401, "invalid_token")
	w.do(request{method: "POST", path: "/console/api/users/me/keys", header: withCookie(after), json: `{"name":"k"}`}).is(201)
	var list page[session]
	ada.open("/console/api/users/me/sessions").is(200).decode(&list)
	if len(list.Items) != 1 {
		t.Errorf("sessions %+v", list.Items)
	}
}

// What is sent to the two addresses is not believed, not shown and not
// followed.
func TestExternalSignInRefusals(t *testing.T) {
	p := authtest.NewProvider(t)
	w := newWorld(t, noLimits, withProvider(p))
	server := httptest.NewTLSServer(w.api.Handler())
	defer server.Close()
	b := newSurfer(t, server)

	for _, site := range []string{"cross-site", "same-site", "nonsense"} {
		b.open("/console/oidc/corp", "Sec-Fetch-Site", site).refused(403, "cross_origin")
	}
	for _, query := range []string{"?return_to=https://evil.example", "?reauthenticate=2", "?redirect_uri=x", "?state=x", "?reauthenticate=1&reauthenticate=1", "?%zz"} {
		if got := b.open("/console/oidc/corp" + query); got.Status != 400 {
			t.Errorf("%s: %d", query, got.Status)
		}
	}
	if left := b.cookies(); len(left) != 0 {
		t.Errorf("cookies %v", left)
	}
	b.open("/console/oidc/none").refused(404, "not_found")
	b.open("/console/oidc/none/callback?state=x&code=x").refused(404, "not_found")
	b.open("/console/oidc/../oidc/corp").refused(404, "not_found")
	for _, query := range []string{"", "?code=x", "?state=x", "?code=x&state=x", "?code=x&code=y&state=x", "?error=access_denied",
		"?error=" + url.QueryEscape("<script>alert(1)</script>") + "&error_description=canary-7&state=x", "?error_uri=https://evil.example", "?code=%00&state=%0d%0aSet-Cookie:a=b",
		"?return_to=https://evil.example&state=x&code=x", "?id_token=x&access_token=y&state=z"} {
		for _, began := range []bool{false, true} {
			b := newSurfer(t, server)
			if began {
				b.open("/console/oidc/corp").is(303)
			}
			got := b.open("/console/oidc/corp/callback" + query)
			if got.Status != 400 && got.Status != 403 || got.Header.Get("Location") != "" {
				t.Errorf("%s: %d, to %q", query, got.Status, got.Header.Get("Location"))
			}
			for _, part := range []string{"canary", "script", "evil", "access_denied"} {
				if strings.Contains(string(got.Body), part) {
					t.Errorf("%s: %s", query, got.Body)
				}
			}
			if left := b.cookies(); len(left) != 0 {
				t.Errorf("%s: cookies %v", query, left)
			}
		}
	}
	if p.Asked("/token") != 0 {
		t.Error("the provider was asked about what can't be good")
	}
}

// The way through a provider has the rate of sign-ins.
func TestExternalSignInRate(t *testing.T) {
	p := authtest.NewProvider(t)
	w := newWorld(t, withProvider(p))
	w.http.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	refused := false
	for range 30 {
		got := w.get("/console/oidc/corp", "")
		refused = refused || got.Status == 429
	}
	if !refused {
		t.Error("an address begins without end")
	}
	w.login("admin", adminPassword) // counted apart
}

// A provider's access tokens are credentials like any other.
func TestProviderTokensAtTheAPI(t *testing.T) {
	p := authtest.NewProvider(t)
	w := newWorld(t, noLimits, withProvider(p))
	now := w.clock.now()
	token := p.AccessToken(now, nil)
	var who me
	w.get("/users/me", token).is(200).decode(&who)
	if who.Username != "ada" || fmt.Sprint(who.Roles) != "[user]" {
		t.Errorf("is %+v", who)
	}
	w.get("/admin/users", token).refused(403, "forbidden")
	w.get("/admin/users", p.AccessToken(now.Add(time.Second), authtest.Members{"groups": []string{"ml-admins"}})).is(200)
	w.post("/logout", token, nil).refused(403, "forbidden")
	w.post("/users/me/keys", token, `{"name":"k"}`).refused(403, "reauthentication_required")
	w.get("/v2", token).is(200)
	for name, bad := range map[string]string{
		"ID token": authtest.SignJWS(t, authtest.IDHeader, authtest.Altered(idClaims(p, now), authtest.Members{"aud": authtest.ClientID, "nonce": "n"}), "RS256", authtest.RSAKey()),
		"expired":  p.AccessToken(now, authtest.Members{"exp": now.Unix() - 1}), "without exp": p.AccessToken(now, authtest.Members{"exp": nil}),
		"long": p.AccessToken(now, authtest.Members{"x": strings.Repeat("x", 13<<10)}),
	} {
		got := w.get("/users/me", bad)
		got.refused(401, "invalid_token")
		if !strings.Contains(got.Header.Get("Www-Authenticate"), `error="invalid_token"`) {
			t.Errorf("%s: challenge %q", name, got.Header.Get("Www-Authenticate"))
		}
	}
	if body := w.form("/introspect", w.admin, url.Values{"token": {token}}).is(200).Body; string(body) != `{"active":false}` {
		t.Errorf("introspection of a provider's token: %s", body)
	}
	w.form("/revoke", "", url.Values{"token": {token}}).is(200)
	w.get("/users/me", token).is(200) // it is not ours to revoke
	w.do(request{method: "DELETE", path: "/admin/users/" + who.ID, token: w.admin}).is(204)
	var again me
	w.get("/users/me", token).is(200).decode(&again)
	if again.ID == who.ID {
		t.Error("the deleted user is back")
	}
	w.do(request{method: "PATCH", path: "/admin/users/" + again.ID, token: w.admin, json: `{"disabled":true}`}).is(200)
	w.get("/users/me", token).refused(401, "invalid_token")
}
