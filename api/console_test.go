package api

import (
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
)

// withCookie is a request's header with a session's cookie.
func withCookie(value string, more ...string) http.Header {
	h := http.Header{"Cookie": {cookieName + "=" + value}}
	for i := 0; i < len(more); i += 2 {
		h[more[i]] = []string{more[i+1]}
	}
	return h
}

// TestBrowserSession goes through the life of a sign-in with a browser.
func TestBrowserSession(t *testing.T) {
	w := newWorld(t, noLimits)
	w.user("ada")
	b := w.inBrowser()
	first := b.login("ada", userPassword)
	if !strings.HasPrefix(first, "mgb_") || len(first) < 4+43 {
		t.Errorf("the cookie's value is %q", first)
	}
	var now browserSession
	b.get("/console/session", first).is(200).decode(&now)
	if now.User.Username != "ada" || now.ID == "" || now.IdleSeconds != 1800 || !now.ExpiresAt.After(now.AuthTime.Add(11*time.Hour)) {
		t.Errorf("%+v", now)
	}

	// The value never outlives a proof of identity (session fixation): neither
	// another sign-in, as whomever, nor a step-up.
	again := b.post("/console/session", first, map[string]string{"username": "ada", "password": userPassword}).is(200).cookie()
	if again == first {
		t.Error("a sign-in keeps the cookie's value")
	}
	b.get("/console/session", first).refused(401, "invalid_token")
	raised := b.post("/console/session/reauthenticate", again, map[string]string{"password": userPassword}).is(200).cookie()
	if raised == again {
		t.Error("a step-up keeps the cookie's value")
	}
	b.get("/console/session", again).refused(401, "invalid_token")
	var same browserSession
	b.get("/console/session", raised).is(200).decode(&same)
	if same.ID == now.ID || same.User.Username != "ada" {
		t.Errorf("%+v after %+v", same, now)
	}
	planted := "mgb_" + strings.Repeat("A", 49) // an attacker's choice is never taken over
	if got := b.post("/console/session", planted, map[string]string{"username": "ada", "password": userPassword}).is(200).cookie(); got == planted {
		t.Error("a planted value is taken over")
	}

	out := b.do(request{method: "DELETE", path: "/console/session", token: raised}).is(204)
	cleared := (&http.Response{Header: out.Header}).Cookies()
	if len(cleared) != 1 || cleared[0].Name != cookieName || cleared[0].Value != "" || cleared[0].MaxAge >= 0 || !cleared[0].Secure || out.Header.Get("Clear-Site-Data") == "" {
		t.Errorf("sign-out: %v", out.Header)
	}
	b.get("/console/session", raised).refused(401, "invalid_token")
	b.do(request{method: "DELETE", path: "/console/session", token: raised}).refused(401, "invalid_token")
}

// TestStepUp is row A11 for browsers: what makes a credential needs a proof of
// the password of the last 10 minutes, which the page can ask for.
func TestStepUp(t *testing.T) {
	w := newWorld(t, noLimits)
	w.user("ada")
	b := w.inBrowser()
	cookie := b.login("ada", userPassword)
	b.post("/users/me/keys", cookie, `{"name":"fresh"}`).is(201)
	w.clock.advance(11 * time.Minute)
	denied := b.post("/users/me/keys", cookie, `{"name":"stale"}`)
	if denied.refused(403, "reauthentication_required"); denied.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("a challenge for browsers: %q", denied.Header.Get("WWW-Authenticate"))
	}
	b.post("/console/session/reauthenticate", cookie, `{"password":"not the password"}`).refused(403, "wrong_password")
	b.post("/users/me/keys", cookie, `{"name":"stale"}`).refused(403, "reauthentication_required")
	cookie = b.post("/console/session/reauthenticate", cookie, map[string]string{"password": userPassword}).is(200).cookie()
	b.post("/users/me/keys", cookie, `{"name":"fresh again"}`).is(201)
}

// TestStepUpIsThrottled: who sits at another's desk can't guess his password.
func TestStepUpIsThrottled(t *testing.T) {
	w := newWorld(t)
	cookie := w.inBrowser().admin
	limited := 0
	for range 15 {
		if w.do(request{method: "POST", path: "/console/session/reauthenticate", header: withCookie(cookie), json: `{"password":"a wrong guess"}`}).Status == 429 {
			limited++
		}
	}
	if limited != 5 {
		t.Errorf("of 15 guesses %d were stopped, want 5", limited)
	}
}

// TestBrowserSignInAnswersLikeLogin: the same answers and the same allowance.
func TestBrowserSignInAnswersLikeLogin(t *testing.T) {
	w := newWorld(t, noLimits)
	id, _ := w.user("disabled-one")
	w.do(request{method: "PATCH", path: "/admin/users/" + id, token: w.admin, json: `{"disabled":true}`}).is(200)
	want := ""
	for _, path := range []string{"/login", "/console/session"} {
		for _, body := range []string{`{"username":"admin","password":"a wrong guess"}`, `{"username":"nobody-here","password":"a wrong guess"}`,
			`{"username":"disabled-one","password":"` + userPassword + `"}`} {
			got := w.post(path, "", body)
			got.refused(401, "invalid_credentials")
			if got.Header.Get("Set-Cookie") != "" {
				t.Errorf("%s %s: a cookie for nobody", path, body)
			}
			text := strings.Replace(string(got.Body), got.Header.Get("X-Request-Id"), "", 1)
			if want == "" {
				want = text
			}
			if text != want {
				t.Errorf("%s %s answers %s, not %s", path, body, text, want)
			}
		}
	}

	limited := newWorld(t, func(_ *auth.Config, c *Config) { c.Limits = Limits{Login: "6-M"} }) // one sign-in is spent
	for i := range 8 {
		path := []string{"/login", "/console/session"}[i%2]
		got := limited.post(path, "", `{"username":"nobody-here","password":"a wrong guess"}`)
		if over := i >= 5; (got.Status == 429) != over {
			t.Errorf("attempt %d, at %s: %d", i, path, got.Status)
		}
	}
}

// TestSessionsOfBothKinds: one list, and one way to end them.
func TestSessionsOfBothKinds(t *testing.T) {
	w := newWorld(t, noLimits)
	_, token := w.user("ada")
	b := w.inBrowser()
	cookie, other := b.login("ada", userPassword), b.login("ada", userPassword)
	var list page[session]
	w.get("/users/me/sessions", token).is(200).decode(&list)
	kinds := map[string]int{}
	for _, x := range list.Items {
		kinds[x.Kind]++
		if x.Current != (x.Kind == "token") {
			t.Errorf("%+v", x)
		}
	}
	if kinds["token"] != 1 || kinds["browser"] != 2 {
		t.Errorf("%v", kinds)
	}
	b.get("/users/me/sessions", cookie).is(200).decode(&list)
	i := slices.IndexFunc(list.Items, func(x session) bool { return x.Current })
	if i < 0 || list.Items[i].Kind != "browser" {
		t.Fatalf("%+v", list.Items)
	}
	w.do(request{method: "DELETE", path: "/users/me/sessions/" + list.Items[i].ID, token: token}).is(204)
	b.get("/users/me", cookie).refused(401, "invalid_token")
	b.get("/users/me", other).is(200)

	out := b.do(request{method: "DELETE", path: "/users/me/sessions", token: other}).is(204)
	if !strings.Contains(out.Header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("Set-Cookie %q", out.Header.Get("Set-Cookie"))
	}
	b.get("/users/me", other).refused(401, "invalid_token")
	w.get("/users/me", token).refused(401, "invalid_token")
	w.login("ada", userPassword)
}

// TestBrowserChangesAtOnce is row T13 for browsers.
func TestBrowserChangesAtOnce(t *testing.T) {
	w := newWorld(t, noLimits)
	b := w.inBrowser()
	patch := func(id, body string) {
		t.Helper()
		w.do(request{method: "PATCH", path: "/admin/users/" + id, token: w.admin, json: body}).is(200)
	}
	id, _ := w.user("ada")
	cookie := b.login("ada", userPassword)
	b.get("/admin/users", cookie).refused(403, "forbidden")
	patch(id, `{"roles":["admin"]}`)
	b.get("/admin/users", cookie).is(200)
	patch(id, `{"roles":["user"]}`)
	b.get("/admin/users", cookie).refused(403, "forbidden")
	patch(id, `{"disabled":true}`)
	b.get("/users/me", cookie).refused(401, "invalid_token")
	patch(id, `{"disabled":false}`)
	b.get("/users/me", cookie).refused(401, "invalid_token")

	cookie, elsewhere := b.login("ada", userPassword), b.login("ada", userPassword)
	b.post("/users/me/password", cookie, map[string]string{"current_password": userPassword, "new_password": "another unusual phrase 4"}).is(204)
	b.get("/users/me", cookie).is(200)
	b.get("/users/me", elsewhere).refused(401, "invalid_token")
	w.do(request{method: "DELETE", path: "/admin/users/" + id, token: w.admin}).is(204)
	b.get("/users/me", cookie).refused(401, "invalid_token")
}

// TestCrossOrigin is row H6: what another origin's page makes a browser send is
// refused on every console route that changes something, the sign-in included.
func TestCrossOrigin(t *testing.T) {
	w := newWorld(t, noLimits)
	_, host, _ := strings.Cut(w.http.URL, "://")
	b := w.inBrowser()
	foreign := map[string][]string{
		"cross-site":                       {"Sec-Fetch-Site", "cross-site"},
		"same-site":                        {"Sec-Fetch-Site", "same-site"},
		"cross-site with a fitting Origin": {"Sec-Fetch-Site", "cross-site", "Origin", w.http.URL},
		"an unknown site":                  {"Sec-Fetch-Site", "Same-Origin "},
		"null":                             {"Origin", "null"},
		"another origin":                   {"Origin", "https://evil.example"},
		"suffix":                           {"Origin", "http://evil-" + host},
		"prefix":                           {"Origin", "http://" + host + ".evil.example"},
		"another port":                     {"Origin", "http://127.0.0.1:1"},
		"a user before the host":           {"Origin", "http://" + host + "@evil.example"},
	}
	own := map[string][]string{
		"same-origin": {"Sec-Fetch-Site", "same-origin", "Origin", w.http.URL},
		"by the user": {"Sec-Fetch-Site", "none"},
		"old browser": {"Origin", w.http.URL},
		"no browser":  {},
	}
	changing := 0
	for _, r := range w.api.routes {
		if !r.console() || r.Method == http.MethodGet {
			continue
		}
		changing++
		path := strings.NewReplacer("{id}", "none", "{name}", "none", "{version}", "1").Replace(r.Path)
		for what, lines := range foreign {
			got := w.do(request{method: r.Method, path: path, header: withCookie(b.admin, lines...), json: `{}`})
			if got.refused(403, "cross_origin"); got.Header.Get("Set-Cookie") != "" {
				t.Errorf("%s, %s: Set-Cookie %q", what, got.what, got.Header.Get("Set-Cookie"))
			}
		}
	}
	if changing < 19 {
		t.Errorf("only %d console routes change something", changing)
	}
	for what, lines := range own {
		header := withCookie(b.admin, lines...)
		if got := w.do(request{method: "PATCH", path: "/console/api/admin/users/u_none", header: header, json: `{}`}); got.Status != 404 {
			t.Errorf("%s: %d %s", what, got.Status, got.Body)
		}
	}
	// Reading is harmless: the page gets no answer that it could read.
	got := w.do(request{method: "GET", path: "/console/session", header: withCookie(b.admin, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")}).is(200)
	for name := range got.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("%s on a console route", name)
		}
	}
	if got.Header.Get("Cross-Origin-Resource-Policy") != "same-origin" {
		t.Errorf("Cross-Origin-Resource-Policy %q", got.Header.Get("Cross-Origin-Resource-Policy"))
	}
	w.do(request{method: "OPTIONS", path: "/console/session", header: http.Header{"Origin": {"https://evil.example"}, "Access-Control-Request-Method": {"DELETE"}}}).refused(405, "method_not_allowed")
}

// TestConsoleReadsChangeNothing: GET is let through for every page, so it must
// have no effect, whoever asks; whatever has one is recorded.
func TestConsoleReadsChangeNothing(t *testing.T) {
	w := newWorld(t, noLimits)
	w.upload(w.admin, "iris", "iris.onnx", "").is(201)
	cookie := w.inBrowser().admin
	before := w.auditLog()
	for _, r := range w.api.routes {
		if r.console() && r.Method == http.MethodGet {
			path := strings.NewReplacer("{id}", "none", "{name}", "iris", "{version}", "1").Replace(r.Path)
			if r.action == "audit.export" {
				continue // it is recorded who took the whole log away, which changes nothing else
			}
			w.do(request{method: "GET", path: path, header: withCookie(cookie, "Sec-Fetch-Site", "cross-site")})
		}
	}
	if after := w.auditLog(); after != before {
		t.Errorf("reading was recorded as a change:\n%s", strings.TrimPrefix(after, before))
	}
}

func (w *world) auditLog() string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, "audit.log"))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

// TestCookiePlaces: one cookie of the right name, under /console; anything else
// is no credential.
func TestCookiePlaces(t *testing.T) {
	w := newWorld(t, noLimits)
	cookie := w.inBrowser().admin
	ask := func(path string, h http.Header) answer {
		t.Helper()
		return w.do(request{method: "GET", path: path, header: h})
	}
	ask("/console/session", withCookie(cookie)).is(200)
	ask("/console/session", http.Header{"Cookie": {"a=b; " + cookieName + "=" + cookie + "; c=d"}}).is(200)
	for what, h := range map[string]http.Header{
		"twice":             {"Cookie": {cookieName + "=" + cookie + "; " + cookieName + "=" + cookie}},
		"in two lines":      {"Cookie": {cookieName + "=" + cookie, cookieName + "=" + cookie}},
		"another case":      {"Cookie": {"__host-modelgate=" + cookie}},
		"without prefix":    {"Cookie": {"modelgate=" + cookie}},
		"an access token":   withCookie(w.admin),
		"a changed value":   withCookie(cookie[:len(cookie)-1] + "!"),
		"too long":          withCookie(strings.Repeat("a", 20000)),
		"as bearer":         {"Authorization": {"Bearer " + cookie}},
		"a token as bearer": {"Authorization": {"Bearer " + w.admin}},
	} {
		got := ask("/console/session", h)
		got.refused(401, "invalid_token")
		if got.Header.Get("WWW-Authenticate") != `Cookie realm="modelgate"` {
			t.Errorf("%s: challenge %q", what, got.Header.Get("WWW-Authenticate"))
		}
	}
	// Also when its session is known from the console already.
	ask("/users/me", http.Header{"Authorization": {"Bearer " + cookie}}).refused(401, "invalid_token")
	ask("/users/me?access_token="+cookie, nil).refused(401, "invalid_token")
	w.post("/refresh", "", map[string]string{"refresh_token": cookie}).refused(401, "invalid_token")
	w.form("/revoke", "", url.Values{"token": {cookie}}).is(200)
	if body := w.form("/introspect", w.admin, url.Values{"token": {cookie}}).is(200).Body; string(body) != `{"active":false}` {
		t.Errorf("introspection of a cookie: %s", body)
	}
	ask("/console/session", withCookie(cookie)).is(200)
}

// TestCookieJar signs in over TLS with a client that keeps cookies as a browser
// does.
func TestCookieJar(t *testing.T) {
	w := newWorld(t, noLimits)
	server := httptest.NewTLSServer(w.api.Handler())
	defer server.Close()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	web := server.Client()
	web.Jar = jar
	do := func(method, path, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Origin", server.URL)
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	if got := do("GET", "/console/session", ""); got.StatusCode != 401 {
		t.Errorf("before: %s", got.Status)
	}
	if got := do("POST", "/console/session", `{"username":"admin","password":"`+adminPassword+`"}`); got.StatusCode != 200 {
		t.Fatalf("sign-in: %s", got.Status)
	}
	for path, want := range map[string]int{"/console/session": 200, "/console/api/admin/users": 200, "/admin/users": 401, "/users/me": 401} {
		if got := do("GET", path, ""); got.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, got.Status, want)
		}
	}
	if got := do("DELETE", "/console/session", ""); got.StatusCode != 204 {
		t.Errorf("sign-out: %s", got.Status)
	}
	at, _ := url.Parse(server.URL)
	if left := jar.Cookies(at); len(left) != 0 {
		t.Errorf("the browser keeps %v", left)
	}
}

// TestConsoleMatrix is row Z1 for cookies: every route, with a cookie, a bearer
// credential and neither. Where a route of the API is mirrored, the console
// gives each caller what the API gives him.
func TestConsoleMatrix(t *testing.T) {
	w := newWorld(t, noLimits)
	credential, loggedOut := w.inBrowser().credentials()
	bad := w.badCookies()
	rows := map[string]int{}
	for i, row := range matrix {
		rows[row.route] = i
	}
	ask := func(r *route, header http.Header) answer {
		path, row := r.Path, matrix[rows[r.Method+" "+strings.TrimPrefix(r.Path, consoleAPI)]]
		if row.path != "" {
			path = strings.TrimSuffix(r.Path, routeOf(row.route)) + row.path
		}
		q := request{method: r.Method, path: path, header: header}
		switch {
		case row.json != "":
			q.json = row.json
		case row.form != "":
			q.body, q.contentType = row.form, "application/x-www-form-urlencoded"
		}
		return w.do(q)
	}
	mirrors := 0
	stranger := w.inBrowser().admin
	for _, r := range w.api.routes {
		t.Run(r.Method+r.Path, func(t *testing.T) {
			if r.Access != Cookie { // a cookie is never looked at
				want := ask(r, nil).Status
				if got := ask(r, withCookie(stranger)); got.Status != want {
					t.Errorf("with a cookie %d, without %d", got.Status, want)
				}
				return
			}
			for state, header := range bad { // nor a bearer credential under /console
				if got := ask(r, header); got.Status != 401 || got.Header.Get("WWW-Authenticate") != `Cookie realm="modelgate"` {
					t.Errorf("%s: %d, %q", state, got.Status, got.Header.Get("WWW-Authenticate"))
				}
			}
			for i, caller := range callers {
				if caller == "key" || caller == "scoped" {
					continue
				}
				got := ask(r, withCookie(credential(caller)))
				want := map[string]int{"GET /console/session": 200, "DELETE /console/session": 204, "POST /console/session/reauthenticate": 415}[r.Method+" "+r.Path]
				if row, ok := rows[r.Method+" "+strings.TrimPrefix(r.Path, consoleAPI)]; ok && strings.HasPrefix(r.Path, consoleAPI) {
					want = matrix[row].status[i]
					mirrors++
				}
				if got.Status != want {
					t.Errorf("%s: status %d, want %d: %s", caller, got.Status, want, got.Body)
				}
			}
			if r.Method == "DELETE" && (r.Path == "/console/session" || r.Path == consoleAPI+"/users/me/sessions" || r.Path == consoleAPI+"/admin/sessions") {
				loggedOut()
			}
		})
	}
	if mirrors < 7*20 {
		t.Errorf("only %d mirrored answers were seen", mirrors)
	}
}

func routeOf(row string) string {
	_, path, _ := strings.Cut(row, " ")
	return path
}

// badCookies makes a request's header of each state that proves nothing under
// /console.
func (w *world) badCookies() map[string]http.Header {
	w.t.Helper()
	b := w.inBrowser()
	bad := map[string]http.Header{
		"none": nil, "empty": withCookie(""), "malformed": withCookie("abc"), "long": withCookie(strings.Repeat("a", 5000)),
		"an access token": {"Authorization": {"Bearer " + w.admin}},
		"a key":           {"Authorization": {"Bearer " + w.post("/users/me/keys", w.admin, `{"name":"matrix"}`).is(201).field("key")}},
		"a token inside":  withCookie(w.admin),
		"as bearer":       {"Authorization": {"Bearer " + b.admin}},
		"refresh token":   withCookie(w.tokens("user", userPassword).RefreshToken),
	}
	out := b.login("user", userPassword)
	b.do(request{method: "DELETE", path: "/console/session", token: out}).is(204)
	bad["signed out"] = withCookie(out)

	old := b.login("user", userPassword)
	b.post("/console/session/reauthenticate", old, map[string]string{"password": userPassword}).is(200)
	bad["before a step-up"] = withCookie(old)

	id, _ := b.user("disabled-one")
	off := b.login("disabled-one", userPassword)
	w.do(request{method: "PATCH", path: "/admin/users/" + id, token: w.admin, json: `{"disabled":true}`}).is(200)
	bad["disabled user"] = withCookie(off)

	bad["idle for too long"] = withCookie(b.login("user", userPassword))
	w.clock.advance(31 * time.Minute)
	w.admin = w.login("admin", adminPassword)
	return bad
}
