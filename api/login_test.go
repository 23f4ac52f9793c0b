package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
)

// TestMainIdentity walks an account through its life over HTTP.
func TestMainIdentity(t *testing.T) {
	w := newWorld(t, noLimits)
	made := w.post("/register", "", map[string]string{"username": "Ada", "password": userPassword}).is(201)
	exactly(t, made, "id", "username", "roles", "created_at")
	if made.field("username") != "ada" {
		t.Errorf("registered as %s", made.field("username"))
	}
	w.post("/register", "", map[string]string{"username": "ADA", "password": userPassword}).refused(409, "taken")
	w.post("/register", "", map[string]string{"username": "bob", "password": "password"}).refused(400, "weak_password")
	w.post("/register", "", map[string]string{"username": "b", "password": userPassword}).refused(400, "invalid_input")

	got := w.post("/login", "", map[string]string{"username": "ada", "password": userPassword}).is(200)
	exactly(t, got, "access_token", "token_type", "expires_in", "refresh_token", "refresh_expires_in")
	var pair tokens
	got.decode(&pair)
	if pair.TokenType != "Bearer" || pair.ExpiresIn != 900 || pair.RefreshExpiresIn != 7*24*3600 {
		t.Errorf("%+v", pair)
	}
	exactly(t, w.get("/users/me", pair.AccessToken).is(200), "id", "username", "roles", "permissions", "totp", "created_at")

	// Refresh, replay, and the whole family is dead.
	var next tokens
	w.post("/refresh", "", map[string]string{"refresh_token": pair.RefreshToken}).is(200).decode(&next)
	replay := w.post("/refresh", "", map[string]string{"refresh_token": pair.RefreshToken})
	replay.refused(401, "invalid_token")
	unknown := w.post("/refresh", "", map[string]string{"refresh_token": "mgr_nothing"})
	unknown.refused(401, "invalid_token")
	if a, b := anonymous(replay), anonymous(unknown); a != b {
		t.Errorf("a replayed and an unknown refresh token answer differently:\n%s\n%s", a, b)
	}
	w.post("/refresh", "", map[string]string{"refresh_token": next.RefreshToken}).refused(401, "invalid_token")
	w.get("/users/me", next.AccessToken).refused(401, "invalid_token")

	// A password change ends the other sessions, not this one.
	here, there := w.login("ada", userPassword), w.login("ada", userPassword)
	w.post("/users/me/password", here, map[string]string{"current_password": "wrong password 1", "new_password": "another unusual phrase 4"}).refused(403, "wrong_password")
	w.post("/users/me/password", here, map[string]string{"current_password": userPassword, "new_password": "another unusual phrase 4"}).is(204)
	w.get("/users/me", here).is(200)
	w.get("/users/me", there).refused(401, "invalid_token")
	w.post("/login", "", map[string]string{"username": "ada", "password": userPassword}).refused(401, "invalid_credentials")
	w.post("/logout", here, nil).is(204)
	w.get("/users/me", here).refused(401, "invalid_token")
}

// exactly is row Z4: an answer has these fields and no others.
func exactly(t testing.TB, a answer, fields ...string) {
	t.Helper()
	var m map[string]any
	a.decode(&m)
	for _, f := range fields {
		if _, ok := m[f]; !ok {
			t.Errorf("%s: no %q in %s", a.what, f, a.Body)
		}
		delete(m, f)
	}
	for f := range m {
		t.Errorf("%s: %q is too much: %s", a.what, f, a.Body)
	}
}

// anonymous is an answer without what differs from request to request.
func anonymous(a answer) string {
	h := a.Header.Clone()
	id := h.Get("X-Request-Id")
	for _, name := range []string{"Date", "X-Request-Id", "X-Ratelimit-Remaining"} {
		h.Del(name)
	}
	return strings.ReplaceAll(fmt.Sprint(a.Status, h, string(a.Body)), id, "ID")
}

// TestCredentialsAlike is row A8: an unknown name, a wrong password and a
// disabled user get the same answer, byte for byte, from /login and /token.
func TestCredentialsAlike(t *testing.T) {
	w := newWorld(t, noLimits)
	w.user("ada")
	id, _ := w.user("gone")
	w.do(request{method: "PATCH", path: "/admin/users/" + id, token: w.admin, json: `{"disabled":true}`}).is(200)
	w.post("/admin/users", w.admin, `{"username":"invited","roles":[]}`).is(201)
	cases := [][2]string{{"ada", "wrong password 1"}, {"nobody", userPassword}, {"gone", userPassword}, {"gone", "wrong password 1"},
		{"invited", userPassword}, {"no such name!", userPassword}, {strings.Repeat("x", 300), userPassword}, {"ada\x00", userPassword}}
	var first, firstOAuth string
	for _, c := range cases {
		got := w.post("/login", "", map[string]string{"username": c[0], "password": c[1]})
		got.refused(401, "invalid_credentials")
		if first == "" {
			first = anonymous(got)
		} else if a := anonymous(got); a != first {
			t.Errorf("%q answers differently:\n%s\n%s", c[0], a, first)
		}
		got = w.form("/token", "", url.Values{"grant_type": {"password"}, "username": {c[0]}, "password": {c[1]}}).is(400)
		if firstOAuth == "" {
			firstOAuth = anonymous(got)
		} else if a := anonymous(got); a != firstOAuth {
			t.Errorf("%q answers differently at /token:\n%s\n%s", c[0], a, firstOAuth)
		}
	}
	if !strings.Contains(firstOAuth, `"invalid_grant"`) {
		t.Errorf("/token: %s", firstOAuth)
	}
}

// TestReauthentication is row A11 over HTTP.
func TestReauthentication(t *testing.T) {
	w := newWorld(t, noLimits)
	w.user("ada")
	pair := w.tokens("ada", userPassword)
	key := w.post("/users/me/keys", pair.AccessToken, `{"name":"k"}`).is(201)
	exactly(t, key, "id", "name", "key", "created_at", "expires_at")
	for _, path := range []string{"/users/me/keys", "/users/me/password"} {
		body := map[string]string{"/users/me/keys": `{"name":"k2"}`,
			"/users/me/password": `{"current_password":"` + userPassword + `","new_password":"another unusual phrase 4"}`}[path]
		got := w.post(path, key.field("key"), body)
		got.refused(403, "reauthentication_required")
		if !strings.Contains(got.Header.Get("WWW-Authenticate"), `error="insufficient_user_authentication", max_age="600"`) {
			t.Errorf("%s: challenge %q", path, got.Header.Get("WWW-Authenticate"))
		}
	}
	w.clock.advance(11 * time.Minute)
	w.post("/refresh", "", map[string]string{"refresh_token": pair.RefreshToken}).is(200).decode(&pair)
	w.post("/users/me/keys", pair.AccessToken, `{"name":"late"}`).refused(403, "reauthentication_required")
	list := w.get("/users/me/keys", pair.AccessToken).is(200)
	if strings.Contains(string(list.Body), "mg_") {
		t.Errorf("a key is shown again: %s", list.Body)
	}
}

// TestOthersThings: keys and sessions of others are not there for anyone.
func TestOthersThings(t *testing.T) {
	w := newWorld(t, noLimits)
	_, ada := w.user("ada")
	_, eve := w.user("eve")
	key := w.post("/users/me/keys", ada, `{"name":"k"}`).is(201)
	var list page[session]
	w.get("/users/me/sessions", ada).is(200).decode(&list)
	for _, token := range []string{eve, w.admin} {
		w.do(request{method: "DELETE", path: "/users/me/keys/" + key.field("id"), token: token}).refused(404, "not_found")
		w.do(request{method: "DELETE", path: "/users/me/sessions/" + list.Items[0].ID, token: token}).refused(404, "not_found")
	}
	// Nor under the name of somebody else than their owner's.
	eves := w.get("/users/me", eve).field("id")
	for _, id := range []string{list.Items[0].ID, "s_none"} {
		w.do(request{method: "DELETE", path: "/admin/users/" + eves + "/sessions/" + id, token: w.admin}).refused(404, "not_found")
	}
	w.get("/users/me", key.field("key")).is(200)
	w.get("/users/me", ada).is(200)
}

// TestSignOutOfOthers: an administrator sees and ends the sessions of others,
// with effect on their next request, but not of who has more rights.
func TestSignOutOfOthers(t *testing.T) {
	w := newWorld(t, noLimits)
	w.role("helpdesk", "users:manage")
	_, helper := w.user("helper", "helpdesk")
	id, ada := w.user("ada")
	b := w.inBrowser()
	cookie := b.login("ada", userPassword)
	key := w.post("/users/me/keys", ada, `{"name":"k"}`).is(201).field("key")
	path := "/admin/users/" + id + "/sessions"
	del := func(token, path string) answer { return w.do(request{method: "DELETE", path: path, token: token}) }
	var list page[session]
	w.get(path, helper).is(200).decode(&list)
	if len(list.Items) != 2 || list.Items[0].Current || list.Items[1].Current {
		t.Fatalf("%+v", list.Items)
	}
	w.get(path, ada).refused(403, "forbidden")
	del(ada, path).refused(403, "forbidden")
	del(helper, path+"/"+w.session(ada)).is(204)
	w.get("/users/me", ada).refused(401, "invalid_token")
	b.get("/users/me", cookie).is(200)
	del(helper, path).is(204)
	b.get("/users/me", cookie).refused(401, "invalid_token")
	w.get("/users/me", key).is(200)

	admins := "/admin/users/" + w.get("/users/me", w.admin).field("id") + "/sessions"
	del(helper, admins).refused(403, "forbidden")
	del(helper, admins+"/"+w.session(w.admin)).refused(403, "forbidden")
	del(helper, "/admin/sessions").refused(403, "forbidden")
	w.get("/users/me", w.admin).is(200)

	// All of them, and the caller's own: his browser forgets its cookie.
	boss := b.login("admin", adminPassword)
	out := b.do(request{method: "DELETE", path: "/admin/sessions", token: boss}).is(204)
	if !strings.Contains(out.Header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("Set-Cookie %q", out.Header.Get("Set-Cookie"))
	}
	b.get("/users/me", boss).refused(401, "invalid_token")
	for _, token := range []string{w.admin, helper} {
		w.get("/users/me", token).refused(401, "invalid_token")
	}
	w.get("/users/me", key).is(200)
	w.login("ada", userPassword)
}

// TestSignInForEachRequest: a client that signs in each time, as many do, works
// on beyond the bound of sessions, and leaves no more than these.
func TestSignInForEachRequest(t *testing.T) {
	w := newWorld(t, noLimits, func(a *auth.Config, _ *Config) { a.MaxSessions = 4 })
	w.user("ada")
	for range 3 {
		w.clock.advance(time.Second)
		first := w.login("ada", userPassword)
		w.clock.advance(time.Second)
		for _, token := range []string{w.login("ada", userPassword), first} {
			w.get("/users/me", token).is(200)
		}
		w.clock.advance(time.Second)
		cookie := w.inBrowser().login("ada", userPassword)
		w.inBrowser().get("/users/me", cookie).is(200)
	}
	var list page[session]
	w.get("/users/me/sessions", w.login("ada", userPassword)).is(200).decode(&list)
	if len(list.Items) != 4 {
		t.Errorf("%d sessions", len(list.Items))
	}
}

// TestRegistrationModes is what the operator may choose.
func TestRegistrationModes(t *testing.T) {
	for mode, open := range map[auth.Registration]bool{auth.Open: true, auth.InviteOnly: false, auth.Closed: false} {
		w := newWorld(t, noLimits, func(a *auth.Config, _ *Config) { a.Registration = mode })
		got := w.post("/register", "", map[string]string{"username": "ada", "password": userPassword})
		if open {
			got.is(201)
		} else {
			got.refused(403, "forbidden")
		}
		if mode == auth.Closed {
			continue
		}
		invite := w.post("/admin/users", w.admin, `{"username":"bob","roles":["user"]}`).is(201).field("invite_token")
		w.post("/register", "", map[string]string{"invite_token": invite, "password": "short"}).is(400)
		w.post("/register", "", map[string]string{"invite_token": invite, "password": userPassword}).is(201)
		w.post("/register", "", map[string]string{"invite_token": invite, "password": userPassword}).refused(401, "invalid_token")
	}
}

// TestRoleChangesAtOnce is row T13 over HTTP.
func TestRoleChangesAtOnce(t *testing.T) {
	w := newWorld(t, noLimits)
	id, ada := w.user("ada")
	patch := func(body string) {
		w.do(request{method: "PATCH", path: "/admin/users/" + id, token: w.admin, json: body}).is(200)
	}
	w.get("/admin/audit", ada).refused(403, "forbidden")
	w.role("auditor", "audit:read")
	patch(`{"roles":["auditor"]}`)
	w.get("/admin/audit", ada).is(200)
	w.role("auditor")
	w.get("/admin/audit", ada).refused(403, "forbidden")
	patch(`{"disabled":true}`)
	w.get("/users/me", ada).refused(401, "invalid_token")
}

// TestOAuth is row O2: RFC 6749's answers.
func TestOAuth(t *testing.T) {
	w := newWorld(t, noLimits)
	w.user("ada")
	good := url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {userPassword}}
	with := func(pairs ...string) url.Values {
		v := url.Values{}
		for name, values := range good {
			v[name] = values
		}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	got := w.form("/token", "", good).is(200)
	if got.Header.Get("Cache-Control") != "no-store" || got.Header.Get("Pragma") != "no-cache" {
		t.Errorf("headers of a token answer: %v", got.Header)
	}
	var pair tokens
	got.decode(&pair)
	w.form("/token", "", with("client_id", "modelgate", "scope", "", "unheard_of", "x")).is(200)
	w.form("/token", "", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {pair.RefreshToken}}).is(200)

	post := func(body string) answer {
		return w.do(request{method: "POST", path: "/token", body: body, contentType: "application/x-www-form-urlencoded"})
	}
	for name, test := range map[string]struct {
		got    answer
		status int
		error  string
	}{
		"no grant":             {post("username=ada"), 400, "invalid_request"},
		"empty":                {post(""), 400, "invalid_request"},
		"unknown grant":        {w.form("/token", "", with("grant_type", "implicit")), 400, "unsupported_grant_type"},
		"client_credentials":   {w.form("/token", "", with("grant_type", "client_credentials")), 401, "invalid_client"},
		"no password":          {w.form("/token", "", with("password", "")), 400, "invalid_request"},
		"wrong password":       {w.form("/token", "", with("password", "wrong password 1")), 400, "invalid_grant"},
		"used refresh token":   {w.form("/token", "", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {pair.RefreshToken}}), 400, "invalid_grant"},
		"no refresh token":     {post("grant_type=refresh_token"), 400, "invalid_request"},
		"given twice":          {post(good.Encode() + "&grant_type=password"), 400, "invalid_request"},
		"given twice by code":  {post(good.Encode() + "&%67rant_type=password"), 400, "invalid_request"},
		"unknown given twice":  {post(good.Encode() + "&x=1&x=2"), 400, "invalid_request"},
		"badly encoded":        {post(good.Encode() + "&x=%zz"), 400, "invalid_request"},
		"not UTF-8":            {post(good.Encode() + "&x=%ff"), 400, "invalid_request"},
		"unknown client":       {w.form("/token", "", with("client_id", "other")), 401, "invalid_client"},
		"secret":               {w.form("/token", "", with("client_id", "modelgate", "client_secret", "x")), 401, "invalid_client"},
		"scope":                {w.form("/token", "", with("scope", "all")), 400, "invalid_scope"},
		"JSON":                 {w.post("/token", "", `{"grant_type":"password"}`), 415, "invalid_request"},
		"large":                {post(strings.Repeat("a", 20<<10)), 413, "invalid_request"},
		"revoke without token": {w.form("/revoke", "", url.Values{"x": {"y"}}), 400, "invalid_request"},
		"introspect no login":  {w.form("/introspect", "", url.Values{"token": {"x"}}), 401, "invalid_client"},
		"introspect bad login": {w.form("/introspect", "mg_wrong", url.Values{"token": {"x"}}), 401, "invalid_token"},
		"in the URL": {w.do(request{method: "POST", path: "/token?" + good.Encode(), body: "", contentType: "application/x-www-form-urlencoded"}),
			400, "invalid_request"},
		"Basic": {w.do(request{method: "POST", path: "/token", body: good.Encode(), contentType: "application/x-www-form-urlencoded",
			header: http.Header{"Authorization": {"Basic bW9kZWxnYXRlOng="}}}), 401, "invalid_client"},
	} {
		var body map[string]string
		test.got.decode(&body)
		if test.got.Status != test.status || body["error"] != test.error || body["error_description"] == "" || len(body) != 2 {
			t.Errorf("%s: %d %s, want %d %s", name, test.got.Status, test.got.Body, test.status, test.error)
		}
		if test.got.Header.Get("Content-Type") != "application/json" || test.got.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: headers %v", name, test.got.Header)
		}
		if (test.got.Header.Get("WWW-Authenticate") != "") != (test.status == 401) {
			t.Errorf("%s: challenge %q", name, test.got.Header.Get("WWW-Authenticate"))
		}
	}
}

// TestRevokeAndIntrospect is rows O7 and O8.
func TestRevokeAndIntrospect(t *testing.T) {
	w := newWorld(t, noLimits)
	id, ada := w.user("ada")
	_, eve := w.user("eve")
	const inactive = `{"active":false}`
	introspect := func(token, of string) string {
		return string(w.form("/introspect", token, url.Values{"token": {of}}).is(200).Body)
	}
	var own introspection
	w.form("/introspect", ada, url.Values{"token": {ada}, "token_type_hint": {"access_token"}}).is(200).decode(&own)
	if !own.Active || own.Subject != id || own.Username != "ada" || own.Kind != "access_token" || own.ExpiresAt == 0 {
		t.Errorf("one's own token: %+v", own)
	}
	if got := introspect(eve, ada); got != inactive {
		t.Errorf("another's token: %s", got)
	}
	if got := introspect(w.admin, ada); !strings.Contains(got, id) {
		t.Errorf("an administrator sees %s", got)
	}
	for _, nonsense := range []string{"x", "a.b.c", strings.Repeat("a", 8000), "mg_nothing", "mgr_nothing"} {
		if got := introspect(w.admin, nonsense); got != inactive {
			t.Errorf("nonsense: %s", got)
		}
		if got := w.form("/revoke", "", url.Values{"token": {nonsense}}).is(200); len(got.Body) != 0 {
			t.Errorf("revoking nonsense: %s", got.Body)
		}
	}
	pair := w.tokens("ada", userPassword)
	w.form("/revoke", "", url.Values{"token": {pair.RefreshToken}}).is(200)
	w.get("/users/me", pair.AccessToken).refused(401, "invalid_token")
	if got := introspect(w.admin, pair.AccessToken); got != inactive {
		t.Errorf("a revoked token: %s", got)
	}
	key := w.post("/users/me/keys", ada, `{"name":"k"}`).is(201).field("key")
	w.form("/revoke", "", url.Values{"token": {key}}).is(200)
	w.get("/users/me", key).refused(401, "invalid_token")
}

// TestMetadata is row O9: what is off is not named, and the keys that are
// shown are public ones.
func TestMetadata(t *testing.T) {
	for _, on := range []bool{true, false} {
		w := newWorld(t, noLimits, func(a *auth.Config, c *Config) { a.PasswordGrant, c.PasswordGrant = on, on })
		var m metadata
		w.get("/.well-known/oauth-authorization-server", "").is(200).decode(&m)
		if got := strings.Contains(strings.Join(m.GrantTypes, " "), "password"); got != on {
			t.Errorf("password grant %v, but the metadata has %v", on, m.GrantTypes)
		}
		grants := []string{"refresh_token", "client_credentials"}
		if on {
			grants = append([]string{"password"}, grants...)
		}
		methods := "none client_secret_basic client_secret_post"
		if !slices.Equal(m.GrantTypes, grants) || strings.Join(m.TokenAuthMethods, " ") != methods || strings.Join(m.RevocationAuthMethods, " ") != methods ||
			strings.Join(m.IntrospectionAuthMethods, " ") != "client_secret_basic client_secret_post Bearer" {
			t.Errorf("%+v", m)
		}
		if m.Issuer != "http://modelgate.test" || m.TokenEndpoint != "http://modelgate.test/token" || m.JWKS == "" {
			t.Errorf("%+v", m)
		}
		got := w.form("/token", "", url.Values{"grant_type": {"password"}, "username": {"admin"}, "password": {adminPassword}})
		if on {
			got.is(200)
		} else if got.is(400).field("error") != "unsupported_grant_type" {
			t.Errorf("the password grant is off: %s", got.Body)
		}
		keys := string(w.get("/.well-known/jwks.json", "").is(200).Body)
		if !strings.Contains(keys, `"kty":"OKP"`) || strings.Contains(keys, `"d":`) {
			t.Errorf("keys: %s", keys)
		}
	}
}
