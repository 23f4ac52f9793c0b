package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// origins are those whose pages may read answers of the routes that take a
// bearer credential (the CORS protocol of the Fetch standard). A page of theirs
// must have the credential already: cookies are never sent along for it, and
// neither the sign-in nor the console is open to it. None by default.
type origins []string

// parseOrigins takes origins exactly as browsers write them. A pattern would
// let in whoever gets a name that fits, and `null` every sandboxed frame.
func parseOrigins(list []string) (origins, error) {
	var o origins
	for _, s := range list {
		s = strings.TrimSpace(s)
		if s == "" {
			continue
		}
		if err := CheckOrigin(s); err != nil {
			return nil, err
		}
		o = append(o, s)
	}
	return o, nil
}

// CheckOrigin says what is wrong with an origin for Config.Origins, and how to
// write it.
func CheckOrigin(s string) error {
	bad := func(why string) error {
		return fmt.Errorf("%q is no origin for CORS: %s; write it as browsers send it, as in https://app.example.com or http://localhost:5173", s, why)
	}
	u, err := url.Parse(s)
	switch {
	case strings.Contains(s, "*"):
		return bad("patterns are not taken, list each origin")
	case s == "null":
		return bad("null is what every sandboxed page sends")
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return bad("scheme and host are needed")
	case s != u.Scheme+"://"+u.Host:
		return bad("it ends with host or port, without a slash")
	case u.Hostname() == "" || strings.Trim(strings.ToLower(u.Host), "abcdefghijklmnopqrstuvwxyz0123456789.-:[]") != "" || u.Host != strings.ToLower(u.Host):
		return bad("the host is in lower case, without characters beyond ASCII (xn--...)")
	case u.Port() == map[string]string{"https": "443", "http": "80"}[u.Scheme] || strings.HasSuffix(u.Host, ":"):
		return bad("browsers leave the usual port out")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return bad("tokens in a page that came over plain HTTP can be read on the way")
	}
	return nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// from returns the origin of a request when it is one of the list, else "".
func (o origins) from(r *http.Request) string {
	given := r.Header["Origin"]
	if len(given) != 1 || !slices.Contains(o, given[0]) {
		return ""
	}
	return given[0]
}

// exposed are headers of answers that a page may read besides those that any
// may.
const exposed = "X-Request-Id, X-Ratelimit-Limit, X-Ratelimit-Remaining, X-Ratelimit-Reset, Retry-After, Www-Authenticate, " + headerLength

// shareWithOrigin lets pages of listed origins read the answer.
func (c *call) shareWithOrigin() {
	if len(c.s.origins) == 0 || c.rt.Access != Bearer || c.rt.rpc {
		return
	}
	c.vary("Origin")
	if origin := c.s.origins.from(c.gin.Request); origin != "" {
		c.setHeader("Access-Control-Allow-Origin", origin)
		c.setHeader("Access-Control-Expose-Headers", exposed)
	}
}

// vary says that the answer depends on a header of the request, besides others.
func (c *call) vary(on string) {
	for _, h := range c.headers {
		if h.name == "Vary" {
			on = h.text + ", " + on
		}
	}
	c.setHeader("Vary", on)
}

// preflight answers a browser that asks whether a page may send a request, if
// the page is of a listed origin and the route takes a bearer credential. It
// reports false for any other request. What is asked for is answered by the
// table alone: nothing runs.
func (c *call) preflight() bool {
	r := c.gin.Request
	asked := r.Header["Access-Control-Request-Method"]
	if r.Method != http.MethodOptions || len(c.s.origins) == 0 || len(asked) != 1 {
		return false
	}
	c.vary("Origin")
	origin := c.s.origins.from(r)
	fits := func(rt *route) bool {
		return rt.Access == Bearer && rt.Method == asked[0] && matchPath(rt.Path, r.URL.Path)
	}
	if origin == "" || !slices.ContainsFunc(c.s.routes, fits) {
		return false
	}
	c.vary("Access-Control-Request-Method, Access-Control-Request-Headers")
	c.setHeader("Access-Control-Allow-Origin", origin)
	c.setHeader("Access-Control-Allow-Methods", asked[0])
	c.setHeader("Access-Control-Allow-Headers", "Authorization, Content-Type, Content-Encoding, "+headerLength)
	c.setHeader("Access-Control-Max-Age", "600")
	c.write(http.StatusNoContent, nil, nil)
	return true
}

// matchPath compares "/models/{name}" with a path.
func matchPath(template, path string) bool {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if want[i] != got[i] && !(strings.HasPrefix(want[i], "{") && got[i] != "") {
			return false
		}
	}
	return true
}

// wrongMethod is what a path answers to methods that it has no route for.
func wrongMethod(c *call) error {
	if c.preflight() {
		return nil
	}
	return &fault{code: "method_not_allowed", detail: "this route does not take that method; see the Allow header"}
}
