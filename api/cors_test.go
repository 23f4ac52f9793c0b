package api

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"modelgate/auth"
)

const appOrigin = "https://app.example.com"

func withOrigins(_ *auth.Config, c *Config) {
	c.Origins = []string{appOrigin, "http://localhost:5173", "https://[2001:db8::1]:8443"}
}

// hostileOrigins are not on the list, however alike.
var hostileOrigins = []string{
	"null", "", "*", "https://evil.example", "https://app.example.com.evil.example", "https://evil-app.example.com", "https://xapp.example.com",
	"https://app.example.com:8443", "https://app.example.com/", "http://app.example.com", "https://APP.example.com",
	"https://app.example.com, https://evil.example", "http://localhost", "http://localhost:51730", "file://",
}

func corsHeaders(a answer) (list []string) {
	for name := range a.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

func preflight(w *world, path, method, origin string) answer {
	w.t.Helper()
	return w.do(request{method: "OPTIONS", path: path, header: http.Header{"Origin": {origin},
		"Access-Control-Request-Method": {method}, "Access-Control-Request-Headers": {"authorization,content-type"}}})
}

// TestCORS is row H6: pages of listed origins may read what a bearer credential
// gives them, and nobody else may read anything.
func TestCORS(t *testing.T) {
	w := newWorld(t, noLimits, withOrigins)
	for _, origin := range []string{appOrigin, "http://localhost:5173"} {
		asked := preflight(w, "/models/iris", "PATCH", origin).is(204)
		for name, want := range map[string]string{"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Methods": "PATCH",
			"Access-Control-Allow-Headers": "Authorization, Content-Type, Content-Encoding, Inference-Header-Content-Length", "Access-Control-Allow-Credentials": "",
			"Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"} {
			if got := asked.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		for _, token := range []string{w.admin, "wrong", ""} { // a page is to see why it was refused
			got := w.do(request{method: "GET", path: "/users/me", token: token, header: http.Header{"Origin": {origin}}})
			if got.Header.Get("Access-Control-Allow-Origin") != origin || got.Header.Get("Access-Control-Allow-Credentials") != "" || got.Header.Get("Vary") != "Origin" {
				t.Errorf("%q: %v", token, got.Header)
			}
			for _, name := range []string{"X-Request-Id", "Retry-After", "Www-Authenticate", "X-Ratelimit-Remaining"} {
				if !slices.Contains(strings.Split(got.Header.Get("Access-Control-Expose-Headers"), ", "), name) {
					t.Errorf("%s is not exposed", name)
				}
			}
		}
	}
	for _, origin := range hostileOrigins {
		if got := corsHeaders(w.do(request{method: "GET", path: "/users/me", token: w.admin, header: http.Header{"Origin": {origin}}}).is(200)); got != nil {
			t.Errorf("%q may read: %v", origin, got)
		}
		got := preflight(w, "/users/me", "GET", origin)
		if got.refused(405, "method_not_allowed"); corsHeaders(got) != nil {
			t.Errorf("%q may ask: %v", origin, got.Header)
		}
	}
	twice := http.Header{"Origin": {appOrigin, appOrigin}}
	if got := corsHeaders(w.do(request{method: "GET", path: "/users/me", token: w.admin, header: twice})); got != nil {
		t.Errorf("two origins: %v", got)
	}
	// A cache must not hand one page's answer to another.
	if got := w.get("/users/me", w.admin); got.Header.Get("Vary") != "Origin" {
		t.Errorf("Vary %q without an origin", got.Header.Get("Vary"))
	}
	w.iris()
	infer := `{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}`
	if got := w.do(request{method: "POST", path: "/v2/models/iris/infer", token: w.admin, json: infer, header: http.Header{"Origin": {appOrigin}}}).is(200); got.Header.Get("Vary") != "Origin, Accept-Encoding" {
		t.Errorf("Vary %q", got.Header.Get("Vary"))
	}
}

// TestCORSRoutes: what takes no bearer credential is shared with nobody, the
// console and the sign-in above all.
func TestCORSRoutes(t *testing.T) {
	w := newWorld(t, noLimits, withOrigins)
	shared := 0
	for _, r := range w.api.routes {
		path := strings.NewReplacer("{id}", "none", "{name}", "none", "{version}", "1").Replace(r.Path)
		asked, got := preflight(w, path, r.Method, appOrigin), w.do(request{method: r.Method, path: path, header: http.Header{"Origin": {appOrigin}}})
		if r.Access == Bearer {
			shared++
			if asked.Status != 204 || asked.Header.Get("Access-Control-Allow-Methods") != r.Method || got.Header.Get("Access-Control-Allow-Origin") != appOrigin {
				t.Errorf("%s %s: %d %v, %v", r.Method, r.Path, asked.Status, asked.Header, corsHeaders(got))
			}
		} else if asked.Status != 405 || corsHeaders(asked) != nil || corsHeaders(got) != nil {
			t.Errorf("%s %s: %d %v, %v", r.Method, r.Path, asked.Status, corsHeaders(asked), corsHeaders(got))
		}
	}
	if shared < 40 {
		t.Errorf("%d routes are shared", shared)
	}
	preflight(w, "/nothing", "GET", appOrigin).refused(404, "not_found")
	preflight(w, "/models/none", "TRACE", appOrigin).refused(405, "method_not_allowed")
	preflight(w, "/models/", "GET", appOrigin).refused(404, "not_found")
	w.do(request{method: "OPTIONS", path: "/users/me", header: http.Header{"Origin": {appOrigin}}}).refused(405, "method_not_allowed")
	// A preflight runs nothing.
	if before := w.auditLog(); preflight(w, "/admin/users/u_none", "DELETE", appOrigin).is(204).Status != 204 || w.auditLog() != before {
		t.Error("a preflight left a record")
	}

	closed := newWorld(t, noLimits) // the default
	if got := closed.do(request{method: "GET", path: "/users/me", token: closed.admin, header: http.Header{"Origin": {appOrigin}}}).is(200); corsHeaders(got) != nil || got.Header.Get("Vary") != "" {
		t.Errorf("%v", got.Header)
	}
	preflight(closed, "/users/me", "GET", appOrigin).refused(405, "method_not_allowed")
}

// TestOriginSettings: only an exact origin can be listed.
func TestOriginSettings(t *testing.T) {
	for _, good := range []string{appOrigin, "https://app.example.com:8443", "http://localhost:5173", "http://127.0.0.1", "http://[::1]:3000", "https://xn--bcher-kva.example"} {
		if o, err := parseOrigins([]string{good}); err != nil || len(o) != 1 {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"*", "https://*", "https://*.example.com", "https://app.*", "null", "app.example.com", "https://", "https://app.example.com/",
		"https://app.example.com/path", "https://app.example.com?x", "https://app.example.com#x", "https://user@app.example.com", "https://APP.example.com",
		"https://app.example.com:443", "http://localhost:80", "https://app.example.com:", "http://app.example.com", "ftp://app.example.com", "https://bücher.example",
		"https://a.example https://b.example", "https://a.example,https://b.example", "file://", "//app.example.com", ".example.com", "https://:8443"} {
		if _, err := parseOrigins([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		} else if !strings.Contains(err.Error(), "https://app.example.com") {
			t.Errorf("%q: the message has no example: %v", bad, err)
		}
	}
}
