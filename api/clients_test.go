package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"modelgate/auth"
)

// service makes a service account and returns its client id and secret.
func (w *world) service(name string, roles ...string) (id, secret string) {
	w.t.Helper()
	if roles == nil {
		roles = []string{}
	}
	made := w.post("/admin/users", w.admin, map[string]any{"username": name, "roles": roles, "kind": "service"}).is(201)
	return made.field("client_id"), made.field("client_secret")
}

// basic is the header of RFC 6749 section 2.3.1.
func basic(id, secret string) http.Header {
	pair := url.QueryEscape(id) + ":" + url.QueryEscape(secret)
	return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(pair))}}
}

func (w *world) formWith(path string, header http.Header, pairs ...string) answer {
	w.t.Helper()
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return w.do(request{method: "POST", path: path, header: header, body: v.Encode(), contentType: "application/x-www-form-urlencoded"})
}

// oauthError checks an error of RFC 6749.
func (a answer) oauthError(status int, code string) {
	a.t.Helper()
	if a.Status != status || a.field("error") != code {
		a.t.Errorf("%s: %d %s, want %d %s", a.what, a.Status, a.Body, status, code)
	}
	if challenge := a.Header.Get("WWW-Authenticate"); code == "invalid_client" && !strings.Contains(challenge, `Basic realm="modelgate"`) {
		a.t.Errorf("%s: challenge %q", a.what, challenge)
	}
}

// TestMainServiceAccount walks a service account through its life over HTTP.
func TestMainServiceAccount(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	made := w.post("/admin/users", w.admin, `{"username":"Nightly","roles":["user"],"kind":"service","expires_in":3600}`).is(201)
	exactly(t, made, "id", "username", "kind", "roles", "disabled", "totp", "created_at", "updated_at", "client_id", "client_secret", "secret_id", "expires_at")
	id, secret, path := made.field("client_id"), made.field("client_secret"), "/admin/users/"+made.field("id")
	if id != made.field("id") || made.field("username") != "nightly" || made.field("kind") != "service" {
		t.Errorf("%s", made.Body)
	}
	got := w.formWith("/token", basic(id, secret), "grant_type", "client_credentials").is(200)
	exactly(t, got, "access_token", "token_type", "expires_in") // section 4.4.3: no refresh token
	if got.Header.Get("Cache-Control") != "no-store" || got.Header.Get("Pragma") != "no-cache" {
		t.Errorf("headers of a token answer: %v", got.Header)
	}
	token := got.field("access_token")
	w.post("/predict", token, irisRow).is(200)
	w.get("/admin/users", token).refused(403, "forbidden")
	w.post("/users/me/keys", token, `{"name":"k"}`).refused(403, "forbidden")

	// No door of people's is open to it.
	w.post("/login", "", map[string]string{"username": "nightly", "password": secret}).refused(401, "invalid_credentials")
	w.formWith("/token", nil, "grant_type", "password", "username", "nightly", "password", secret).oauthError(400, "invalid_grant")
	w.post(path+"/reset", w.admin, nil).refused(400, "invalid_input")

	// Its successor, and the end of the first.
	second := w.post(path+"/secrets", w.admin, `{}`).is(201)
	exactly(t, second, "id", "client_id", "client_secret", "created_at", "expires_at")
	w.post(path+"/secrets", w.admin, `{}`).refused(400, "invalid_input")
	list := w.get(path+"/secrets", w.admin).is(200)
	if text := string(list.Body); strings.Contains(text, "mgs_") || strings.Count(text, `"cs_`) != 2 {
		t.Errorf("the list of secrets: %s", text)
	}
	w.do(request{method: "DELETE", path: path + "/secrets/" + made.field("secret_id"), token: w.admin}).is(204)
	w.get("/users/me", token).refused(401, "invalid_token")
	w.formWith("/token", basic(id, secret), "grant_type", "client_credentials").oauthError(401, "invalid_client")
	token = w.formWith("/token", nil, "grant_type", "client_credentials", "client_id", id, "client_secret", second.field("client_secret")).is(200).field("access_token")

	// A change of roles, disabling and deleting hold for the next request.
	patch := func(body string) { w.do(request{method: "PATCH", path: path, token: w.admin, json: body}).is(200) }
	patch(`{"roles":[]}`)
	w.post("/predict", token, irisRow).refused(403, "forbidden")
	patch(`{"roles":["user"]}`)
	w.post("/predict", token, irisRow).is(200)
	patch(`{"disabled":true}`)
	w.post("/predict", token, irisRow).refused(401, "invalid_token")
	w.formWith("/token", basic(id, second.field("client_secret")), "grant_type", "client_credentials").oauthError(401, "invalid_client")
	patch(`{"disabled":false}`)
	token = w.formWith("/token", basic(id, second.field("client_secret")), "grant_type", "client_credentials").is(200).field("access_token")
	w.do(request{method: "DELETE", path: path, token: w.admin}).is(204)
	w.get("/users/me", token).refused(401, "invalid_token")

	for _, bad := range []string{`{"username":"x1","kind":"robot"}`, `{"username":"x1","expires_in":60}`, `{"username":"x1","kind":"service","expires_in":0}`,
		`{"username":"x1","kind":"Service"}`, `{"username":"x1","KIND":"service"}`} {
		w.post("/admin/users", w.admin, bad).refused(400, "invalid_input")
	}
	w.post("/register", "", `{"username":"eve","password":"`+userPassword+`","kind":"service"}`).refused(400, "invalid_input")
}

// TestClientAuthentication is rows O2 and O9: how a client may prove itself, and
// how not, at each of the three routes.
func TestClientAuthentication(t *testing.T) {
	w := newWorld(t, noLimits)
	id, secret := w.service("nightly", "user")
	other, otherSecret := w.service("other", "user")
	in := func(id, secret string) []string { return []string{"client_id", id, "client_secret", secret} }
	header := func(value string) http.Header { return http.Header{"Authorization": {value}} }
	encoded := func(text string) http.Header {
		return header("Basic " + base64.StdEncoding.EncodeToString([]byte(text)))
	}
	for _, r := range [][]string{{"/token", "grant_type", "client_credentials"}, {"/revoke", "token", "nothing"}, {"/introspect", "token", "nothing"}} {
		path, base := r[0], r[1:]
		ask := func(header http.Header, more ...string) answer {
			return w.formWith(path, header, append(more, base...)...)
		}
		for name, good := range map[string]answer{
			"Basic": ask(basic(id, secret)), "body": ask(nil, in(id, secret)...), "Basic and the same id": ask(basic(id, secret), "client_id", id),
			"lower-case scheme":      ask(header(strings.Replace(basic(id, secret).Get("Authorization"), "Basic", "basic", 1))),
			"escaped":                ask(encoded(strings.Replace(id, "_", "%5F", 1) + ":" + strings.Replace(secret, "_", "%5f", 1))),
			"an empty secret beside": ask(basic(id, secret), "client_secret", ""),
		} {
			if good.Status != 200 {
				t.Errorf("%s, %s: %d %s", path, name, good.Status, good.Body)
			}
		}
		for name, bad := range map[string]answer{
			"both":                 ask(basic(id, secret), in(id, secret)...),
			"both, alike or not":   ask(basic(id, secret), "client_secret", otherSecret),
			"Basic and another id": ask(basic(id, secret), "client_id", other),
			"id twice":             ask(nil, "client_id", id, "client_id", id, "client_secret", secret),
			"secret twice":         ask(nil, "client_id", id, "client_secret", secret, "client_secret", secret),
			"header twice":         w.formWith(path, http.Header{"Authorization": {basic(id, secret).Get("Authorization"), basic(id, secret).Get("Authorization")}}, base...),
			"in the URL":           w.formWith(path+"?client_id="+id+"&client_secret="+secret, nil, base...),
		} {
			bad.what = path + ", " + name
			bad.oauthError(400, "invalid_request")
		}
		for name, bad := range map[string]answer{
			"wrong secret": ask(basic(id, otherSecret)), "wrong secret in the body": ask(nil, in(id, otherSecret)...), "unknown": ask(basic("u_nobody", secret)),
			"the name for the id": ask(basic("nightly", secret)), "no secret": ask(basic(id, "")), "an id alone": ask(nil, "client_id", id),
			"a secret alone": ask(nil, "client_secret", secret), "the public client with one": ask(basic("modelgate", secret)),
			"not base64": ask(header("Basic !!")), "no colon": ask(encoded(id)), "badly escaped": ask(encoded(id + ":%zz")), "nothing": ask(header("Basic ")),
			"unescaped nonsense": ask(encoded("\x00\xff:\xff")), "Digest": ask(header("Digest x")),
		} {
			bad.what = path + ", " + name
			bad.oauthError(401, "invalid_client")
		}
	}
	// Each has its grant.
	w.formWith("/token", basic(id, secret), "grant_type", "password", "username", "admin", "password", adminPassword).oauthError(400, "unauthorized_client")
	w.formWith("/token", basic(id, secret), "grant_type", "refresh_token", "refresh_token", w.tokens("admin", adminPassword).RefreshToken).oauthError(400, "unauthorized_client")
	w.formWith("/token", nil, "grant_type", "client_credentials").oauthError(401, "invalid_client")
	w.formWith("/token", nil, "grant_type", "client_credentials", "client_id", "modelgate").oauthError(401, "invalid_client")
	w.formWith("/token", basic(id, secret), "grant_type", "client_credentials", "scope", "all").oauthError(400, "invalid_scope")
	w.formWith("/token", basic(id, secret), "grant_type", "implicit").oauthError(400, "unsupported_grant_type")
	w.formWith("/token", basic(id, secret)).oauthError(400, "invalid_request")
}

// TestClientRevokesAndIntrospects is rows O7 and O8 for clients.
func TestClientRevokesAndIntrospects(t *testing.T) {
	w := newWorld(t, noLimits)
	id, secret := w.service("nightly", "user")
	other, otherSecret := w.service("other", "user")
	keeper, keeperSecret := w.service("keeper", "admin")
	_, ada := w.user("ada")
	pair := w.tokens("ada", userPassword)
	const inactive = `{"active":false}`
	grant := func() string {
		return w.formWith("/token", basic(id, secret), "grant_type", "client_credentials").is(200).field("access_token")
	}
	token := grant()
	ask := func(header http.Header, of string) string {
		return string(w.formWith("/introspect", header, "token", of).is(200).Body)
	}
	var own introspection
	w.formWith("/introspect", basic(id, secret), "token", token).is(200).decode(&own)
	if !own.Active || own.Subject != id || own.ClientID != id || own.Username != "nightly" || own.Kind != "access_token" || own.TokenType != "Bearer" || own.ExpiresAt == 0 {
		t.Errorf("its own token: %+v", own)
	}
	if body := ask(basic(keeper, keeperSecret), ada); !strings.Contains(body, `"ada"`) {
		t.Errorf("with users:manage: %s", body)
	}
	for _, of := range []string{ada, pair.RefreshToken, w.admin, "x", "a.b.c", "mgr_x", "mg_x", secret, strings.Repeat("x", 8000)} {
		if body := ask(basic(id, secret), of); body != inactive {
			t.Errorf("another's token, or none: %s", body)
		}
	}
	if body := ask(basic(other, otherSecret), token); body != inactive {
		t.Errorf("another client's token: %s", body)
	}
	// Who was shown a token asks with the token itself.
	if body := ask(http.Header{"Authorization": {"Bearer " + ada}}, ada); !strings.Contains(body, `"ada"`) {
		t.Errorf("a token about itself: %s", body)
	}
	got := w.formWith("/introspect", nil, "token", token)
	got.oauthError(401, "invalid_client")
	if challenge := got.Header.Get("WWW-Authenticate"); challenge != `Bearer realm="modelgate", Basic realm="modelgate"` {
		t.Errorf("challenge %q", challenge)
	}
	w.formWith("/introspect", http.Header{"Authorization": {"Bearer " + ada}}, "token", ada, "client_id", id, "client_secret", secret).oauthError(400, "invalid_request")

	w.formWith("/revoke", basic(other, otherSecret), "token", token).oauthError(400, "unauthorized_client")
	w.formWith("/revoke", nil, "token", token).oauthError(400, "unauthorized_client")
	w.formWith("/revoke", basic(id, secret), "token", pair.RefreshToken).oauthError(400, "unauthorized_client")
	w.get("/users/me", token).is(200)
	w.post("/refresh", "", map[string]string{"refresh_token": pair.RefreshToken}).is(200)
	for range 2 {
		w.formWith("/revoke", basic(id, secret), "token", token, "token_type_hint", "access_token").is(200)
		w.get("/users/me", token).refused(401, "invalid_token")
		if body := ask(basic(id, secret), token); body != inactive {
			t.Errorf("a revoked token: %s", body)
		}
	}
	w.formWith("/revoke", basic(id, secret), "token", "mgr_nothing").is(200)
}

// TestClientThrottle is row A9 for clients: guesses slow down, by address and by
// client, and a client that has proved itself from where it is goes on.
func TestClientThrottle(t *testing.T) {
	w := newWorld(t, limits(Limits{Login: "10-M"}), behindProxy)
	id, secret := w.service("nightly", "user")
	_, wrong := w.service("other", "user")
	ask := func(id, secret, address string) answer {
		h := basic(id, secret)
		h["X-Forwarded-For"] = []string{address}
		return w.formWith("/token", h, "grant_type", "client_credentials")
	}
	const home = "198.51.100.1"
	ask(id, secret, home).is(200)
	for i := range 10 { // many addresses, one client
		ask(id, wrong, fmt.Sprintf("203.0.113.%d", i)).oauthError(401, "invalid_client")
	}
	slowed := ask(id, wrong, "203.0.113.99").is(429)
	if slowed.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	ask(id, secret, "203.0.113.98").is(429) // right, but nobody knows it there
	for range 30 {
		ask(id, secret, home).is(200) // more often than the rate: no failures, no wait
	}
	for i := range 10 { // one address, many clients
		ask(fmt.Sprintf("u_nobody%d", i), wrong, "192.0.2.7").oauthError(401, "invalid_client")
	}
	ask("u_nobody", wrong, "192.0.2.7").is(429)
	// A neighbour's guesses don't hold up who is known at the same address.
	for i := range 12 {
		ask(fmt.Sprintf("u_guess%d", i), wrong, home)
	}
	ask("u_guess", wrong, home).is(429)
	ask(id, secret, home).is(200)
	// Its own failures there do.
	for range 10 {
		ask(id, wrong, home).oauthError(401, "invalid_client")
	}
	ask(id, wrong, home).is(429)
	w.clock.advance(62 * time.Second)
	ask(id, secret, "203.0.113.98").is(200)
	// People sign in apart from that.
	w.tryLogin("admin", adminPassword, home).is(200)
}

// TestClientStoreDown is row L5 for clients.
func TestClientStoreDown(t *testing.T) {
	shared := new(switchedStore)
	w := newWorld(t, noLimits, func(_ *auth.Config, c *Config) {
		shared.Store = NewSliding(0, nil)
		c.Store = shared
	})
	id, secret := w.service("nightly")
	shared.broken = true
	w.formWith("/token", basic(id, secret), "grant_type", "client_credentials").oauthError(503, "temporarily_unavailable")
	w.formWith("/introspect", basic(id, secret), "token", "x").oauthError(503, "temporarily_unavailable")
}

// TestOAuthLibrary: Go's own OAuth client gets tokens, by both ways to prove
// itself, and renews what has run out.
func TestOAuthLibrary(t *testing.T) {
	w := newWorld(t, noLimits, func(a *auth.Config, _ *Config) { a.AccessTTL = 11 * time.Second })
	id, secret := w.service("nightly", "user")
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, w.http.Client())
	for name, style := range map[string]oauth2.AuthStyle{"header": oauth2.AuthStyleInHeader, "body": oauth2.AuthStyleInParams, "found out": oauth2.AuthStyleAutoDetect} {
		c := clientcredentials.Config{ClientID: id, ClientSecret: secret, TokenURL: w.http.URL + "/token", AuthStyle: style}
		got, err := c.Token(ctx)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.RefreshToken != "" || got.Type() != "Bearer" || time.Until(got.Expiry) > 11*time.Second {
			t.Errorf("%s: %+v", name, got)
		}
		resp, err := c.Client(ctx).Get(w.http.URL + "/users/me")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: status %d", name, resp.StatusCode)
		}
	}
	_, err := (&clientcredentials.Config{ClientID: id, ClientSecret: "wrong", TokenURL: w.http.URL + "/token"}).Token(ctx)
	if refused, ok := err.(*oauth2.RetrieveError); !ok || refused.ErrorCode != "invalid_client" {
		t.Errorf("a wrong secret: %v", err)
	}

	// A person by the password grant, and the refresh grant behind it.
	w.user("ada")
	public := oauth2.Config{ClientID: "modelgate", Endpoint: oauth2.Endpoint{TokenURL: w.http.URL + "/token", AuthStyle: oauth2.AuthStyleInParams}}
	first, err := public.PasswordCredentialsToken(ctx, "ada", userPassword)
	if err != nil {
		t.Fatal(err)
	}
	spent := *first
	spent.Expiry = time.Now().Add(-time.Minute)
	second, err := public.TokenSource(ctx, &spent).Token()
	if err != nil || second.RefreshToken == first.RefreshToken || second.AccessToken == first.AccessToken {
		t.Fatalf("%+v, %v", second, err)
	}
	w.get("/users/me", second.AccessToken).is(200)
	if _, err := public.TokenSource(ctx, &spent).Token(); err == nil {
		t.Error("a used refresh token renews")
	}
}
