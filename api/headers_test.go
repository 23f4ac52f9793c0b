package api

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"modelgate/auth"
)

var requestID = regexp.MustCompile(`^[0-9a-f]{32}$`)

func checkHeaders(t *testing.T, got answer) {
	t.Helper()
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "X-Xss-Protection": "0", "Referrer-Policy": "no-referrer",
	} {
		if values := got.Header.Values(name); len(values) != 1 || values[0] != want {
			t.Errorf("%s: %s is %q, want %q", got.what, name, values, want)
		}
	}
	if policy := got.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("%s: Content-Security-Policy %q", got.what, policy)
	}
	if id := got.Header.Values("X-Request-Id"); len(id) != 1 || !requestID.MatchString(id[0]) {
		t.Errorf("%s: X-Request-Id %q", got.what, id)
	}
	if got.Header.Get("Server") != "" || got.Header.Get("X-Powered-By") != "" {
		t.Errorf("%s: it says what it is made of", got.what)
	}
}

// TestHeadersEverywhere looks at every kind of answer.
func TestHeadersEverywhere(t *testing.T) {
	w := newWorld(t, noLimits, func(_ *auth.Config, c *Config) {
		c.TLS = true
		c.Ready = func(context.Context) error { panic("a canary in a panic") }
	})
	seen := map[string]bool{}
	for _, r := range []request{
		{method: "GET", path: "/"}, {method: "GET", path: "/healthz"}, {method: "GET", path: "/docs"}, {method: "GET", path: "/openapi.json"},
		{method: "GET", path: "/nothing"}, {method: "POST", path: "/users/me"}, {method: "GET", path: "/users/me"},
		{method: "GET", path: "/users/me", token: w.admin}, {method: "GET", path: "/users/me", token: "wrong"},
		{method: "GET", path: "/admin/metrics", token: w.admin}, {method: "POST", path: "/login", json: `{}`},
		{method: "POST", path: "/token", body: "x=y", contentType: "application/x-www-form-urlencoded"},
		{method: "POST", path: "/predict", token: w.admin, json: irisRow}, {method: "GET", path: "/readyz"},
		{method: "POST", path: "/revoke", body: "token=x", contentType: "application/x-www-form-urlencoded"},
		{method: "BREW", path: "/coffee"}, {method: "TRACE", path: "/"},
		{method: "GET", path: "/users/me", header: http.Header{"X-Request-Id": {"mine"}}},
	} {
		got := w.do(r)
		checkHeaders(t, got)
		if hsts := got.Header.Get("Strict-Transport-Security"); !strings.HasPrefix(hsts, "max-age=") {
			t.Errorf("%s: Strict-Transport-Security %q over TLS", got.what, hsts)
		}
		id := got.Header.Get("X-Request-Id")
		if seen[id] {
			t.Errorf("%s: the request id %s was given twice", got.what, id)
		}
		seen[id] = true
		cache := got.Header.Get("Cache-Control")
		if public := r.path == "/docs" || r.path == "/openapi.json"; (cache == "no-store") == public {
			t.Errorf("%s: Cache-Control %q", got.what, cache)
		}
	}
	plain := newWorld(t, noLimits)
	if got := plain.get("/", ""); got.Header.Get("Strict-Transport-Security") != "" {
		t.Error("HSTS without TLS")
	}
}

// TestPanic is row H9: a panic costs its own request and nothing else.
func TestPanic(t *testing.T) {
	w := newWorld(t, noLimits, func(_ *auth.Config, c *Config) {
		c.Ready = func(context.Context) error { panic("a canary in a panic") }
	})
	for range 3 {
		got := w.get("/readyz", "")
		got.refused(500, "internal")
		if strings.Contains(string(got.Body), "canary") || strings.Contains(string(got.Body), "goroutine") {
			t.Errorf("the answer shows the panic: %s", got.Body)
		}
		w.get("/healthz", "").is(200)
	}
	if log := w.log.String(); !strings.Contains(log, "a request panicked") || !strings.Contains(log, "health.go") {
		t.Error("the log does not say where the panic was")
	}
	if metrics := string(w.get("/admin/metrics", w.admin).is(200).Body); !strings.Contains(metrics, "modelgate_http_panics_total 3") {
		t.Error("the panics are not counted")
	}
}

// TestPathTricks is row Z6: no other way of writing a request gets past its
// route's rule.
func TestPathTricks(t *testing.T) {
	w := newWorld(t, noLimits)
	_, ada := w.user("ada")
	for _, path := range []string{
		"//admin/users", "/admin//users", "/admin/users/", "/admin/./users", "/./admin/users", "/x/../admin/users", "/admin/%75sers",
		"/%61dmin/users", "/admin%2fusers", "/admin/users%2f", "/admin/users%00", "/admin/users;x", "/Admin/users", "/ADMIN/USERS",
		"/admin/users.json", "/healthz/../admin/users", "/healthz%2f..%2fadmin/users", "/%2e/admin/users", "/healthz/%2e%2e/admin/users",
		"/admin/users%20", "/admin/users/%2e%2e/users", `/admin\users`,
	} {
		for _, token := range []string{"", ada, w.admin} {
			got := w.do(request{method: "GET", path: path, token: token})
			if got.Status == 200 || got.Status >= 300 && got.Status < 400 {
				t.Errorf("%s: status %d: %s", path, got.Status, got.Body)
			}
			if strings.Contains(string(got.Body), "u_") {
				t.Errorf("%s: it shows users: %s", path, got.Body)
			}
		}
	}
	// What stands for something else in a name stands for nothing.
	for _, path := range []string{"/models/%2e%2e", "/models/a%2fversions", "/models/%69ris", "/models/.."} {
		if got := w.get(path, w.admin); got.Status != 404 {
			t.Errorf("%s: status %d", path, got.Status)
		}
	}
	for _, header := range []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"} {
		w.do(request{method: "POST", path: "/admin/users/u_none", token: w.admin, header: http.Header{header: {"DELETE"}}}).refused(405, "method_not_allowed")
		if got := w.do(request{method: "GET", path: "/users/me", token: ada, header: http.Header{header: {"DELETE"}}}); got.Status != 200 {
			t.Errorf("%s changed a method", header)
		}
	}
	for _, header := range []string{"X-Original-Url", "X-Rewrite-Url", "X-Forwarded-Prefix"} {
		w.do(request{method: "GET", path: "/admin/users", token: ada, header: http.Header{header: {"/healthz"}}}).refused(403, "forbidden")
		w.do(request{method: "GET", path: "/healthz", header: http.Header{header: {"/admin/users"}}}).is(200)
	}
	w.do(request{method: "POST", path: "/admin/users?_method=DELETE", token: ada, json: `{}`}).refused(403, "forbidden")
}

// TestMethods is row H5.
func TestMethods(t *testing.T) {
	w := newWorld(t, noLimits)
	for _, test := range []struct{ method, path, allow string }{
		{"HEAD", "/users/me", "GET"}, {"HEAD", "/admin/users", "GET, POST"}, {"OPTIONS", "/users/me", "GET"}, {"TRACE", "/users/me", "GET"},
		{"PUT", "/users/me", "GET"}, {"DELETE", "/admin/users", "GET, POST"}, {"get", "/users/me", "GET"}, {"BREW", "/predict", "POST"},
		{"GET", "/predict", "POST"}, {"GET", "/login", "POST"}, {"POST", "/healthz", "GET, HEAD"},
	} {
		got := w.do(request{method: test.method, path: test.path, token: w.admin}).is(405)
		if allow := got.Header.Get("Allow"); allow != test.allow {
			t.Errorf("%s: Allow %q, want %q", got.what, allow, test.allow)
		}
		if test.method != "HEAD" {
			got.refused(405, "method_not_allowed")
		}
	}
	w.do(request{method: "TRACE", path: "/nothing"}).refused(404, "not_found")
	if got := w.do(request{method: "GET", path: "/token"}).is(405); got.field("error") != "invalid_request" {
		t.Errorf("the token endpoint's 405: %s", got.Body)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := w.do(request{method: "HEAD", path: path}).is(200); len(got.Body) != 0 {
			t.Errorf("HEAD %s has a body", path)
		}
	}
}

// TestSmuggling is row H5: what two parties could read differently ends the
// connection or counts once.
func TestSmuggling(t *testing.T) {
	w := newWorld(t, noLimits)
	for name, text := range map[string]string{
		"two lengths":         "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 30\r\n\r\n{}",
		"unknown coding":      "POST /login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n{}",
		"chunked twice":       "POST /login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"negative length":     "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
		"no host":             "GET /healthz HTTP/1.1\r\n\r\n",
		"two hosts":           "GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
		"space before colon":  "GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
		"line feed in header": "GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: b\n\n c\r\n\r\n",
		"bare carriage":       "GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: a\rb\r\n\r\n",
	} {
		resp, data, err := w.raw(text)
		if err == nil && resp.StatusCode < 400 && name != "line feed in header" {
			t.Errorf("%s: status %d: %s", name, resp.StatusCode, data)
		}
	}
	// Both a length and chunks: the chunks count (RFC 9112 section 6.3), and
	// what follows them is not taken for the body.
	resp, data, err := w.raw("POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"2\r\n{}\r\n0\r\n\r\n")
	if err != nil || resp.StatusCode != 400 || !strings.Contains(string(data), "username") {
		t.Errorf("length and chunks: %v %v: %s", resp, err, data)
	}
}

// TestCredentialPlaces is row T15: a credential counts in one place.
func TestCredentialPlaces(t *testing.T) {
	w := newWorld(t, noLimits)
	for _, r := range []request{
		{method: "GET", path: "/users/me?access_token=" + w.admin},
		{method: "GET", path: "/users/me?token=" + w.admin + "&authorization=Bearer%20" + w.admin},
		{method: "GET", path: "/users/me", header: http.Header{"Cookie": {"access_token=" + w.admin}}},
		{method: "GET", path: "/users/me", header: http.Header{"X-Api-Key": {w.admin}}},
		{method: "GET", path: "/users/me", header: http.Header{"X-Auth-Token": {w.admin}}},
		{method: "GET", path: "/users/me", header: http.Header{"Proxy-Authorization": {"Bearer " + w.admin}}},
		{method: "POST", path: "/logout", body: "access_token=" + w.admin, contentType: "application/x-www-form-urlencoded"},
		{method: "GET", path: "/users/me", header: http.Header{"Authorization": {"Basic YWRtaW46eA=="}}},
		{method: "GET", path: "/users/me", header: http.Header{"Authorization": {w.admin}}},
		{method: "GET", path: "/users/me", header: http.Header{"Authorization": {""}}},
	} {
		got := w.do(r)
		got.refused(401, "invalid_token")
		if challenge := got.Header.Get("WWW-Authenticate"); challenge != `Bearer realm="modelgate"` {
			t.Errorf("%s: challenge %q", got.what, challenge)
		}
	}
	for _, twice := range [][]string{
		{"Bearer " + w.admin, "Bearer " + w.admin}, {"Bearer " + w.admin, "Basic x"}, {"", "Bearer " + w.admin},
	} {
		for _, path := range []string{"/users/me", "/healthz"} {
			w.do(request{method: "GET", path: path, header: http.Header{"Authorization": twice}}).refused(400, "invalid_input")
		}
	}
	for _, good := range []string{"Bearer " + w.admin, "bearer " + w.admin, "BEARER " + w.admin, "Bearer   " + w.admin} {
		w.do(request{method: "GET", path: "/users/me", header: http.Header{"Authorization": {good}}}).is(200)
	}
	for _, bad := range []string{"Bearer", "Bearer ", "Bearer a b", "Bearer " + w.admin + ",x", "Bearer \"x\"", "Bearer x\tx", "Bearer é"} {
		got := w.do(request{method: "GET", path: "/users/me", header: http.Header{"Authorization": {bad}}})
		got.refused(401, "invalid_token")
		if !strings.Contains(got.Header.Get("WWW-Authenticate"), `error="invalid_token"`) {
			t.Errorf("%q: challenge %q", bad, got.Header.Get("WWW-Authenticate"))
		}
	}
	_, ada := w.user("ada")
	if got := w.get("/admin/users", ada); !strings.Contains(got.Header.Get("WWW-Authenticate"), `error="insufficient_scope"`) {
		t.Errorf("403 without the right: challenge %q", got.Header.Get("WWW-Authenticate"))
	}
}
