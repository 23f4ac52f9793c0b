package api

import (
	"net/http"
	"strings"

	"modelgate/auth"
)

// The console API is for pages of this server's own origin: a sign-in that is
// kept in a cookie, and the routes of the API under consoleAPI with that cookie
// as credential. Cookies are read under consolePath and nowhere else, and
// nothing else is read there.
const (
	consolePath = "/console/"
	consoleAPI  = "/console/api"
)

// cookieName begins with __Host-, so that browsers take the cookie over TLS
// only (or from this very machine), for this host alone and for every path of
// it: neither a sister domain nor plain HTTP can put another in its place
// (RFC 6265bis section 4.1.3).
const cookieName = "__Host-modelgate"

// cookieRules: no script reads it, no other site's page sends it.
const cookieRules = "; Path=/; Secure; HttpOnly; SameSite=Strict"

// crossOrigin refuses what a page of another origin asks a browser to send: by
// Sec-Fetch-Site, which all browsers of today send and no page can change, else
// by comparing Origin with Host. A request with neither is not from a browser
// that knows how to be misused, or from one so old that SameSite has to do.
// Methods that change nothing pass.
var crossOrigin = http.NewCrossOriginProtection()

var errCrossOrigin = &fault{code: "cross_origin", detail: "this was sent by a page of another origin; the console API is for its own pages"}

// fromOwnPages is checked of every console route before a cookie is looked at,
// the sign-in included: a page that signs its visitor in as somebody else would
// read what he then does.
func (c *call) fromOwnPages() error {
	c.setHeader("Cross-Origin-Resource-Policy", "same-origin")
	if err := crossOrigin.Check(c.gin.Request); err != nil {
		return &fault{code: errCrossOrigin.code, detail: errCrossOrigin.detail, cause: err}
	}
	return nil
}

// cookie is the value of the session's cookie, or "". One that is there twice
// is none: no browser sends that.
func (c *call) cookie() string { return c.cookieNamed(cookieName) }

func (c *call) cookieNamed(name string) string {
	found := c.gin.Request.CookiesNamed(name)
	if len(found) != 1 {
		return ""
	}
	return found[0].Value
}

var errNoSession = &fault{code: noCredential, detail: "sign in with POST /console/session"}

// identifyBrowser turns the cookie into the call's principal.
func (c *call) identifyBrowser() error {
	cookie := c.cookie()
	if cookie == "" {
		return errNoSession
	}
	who, err := c.s.auth.AuthenticateBrowser(c.ctx(), cookie)
	return c.identified(who, err)
}

// consoleTable is the sign-in of browsers, and those routes of the API that
// belong to the work of a person or an administrator, under consoleAPI: the same
// permission and the same handler, so that nothing is decided twice.
func (s *Server) consoleTable(table []*route) []*route {
	list := []*route{
		enrolling(open(http.MethodPost, "/console/session", 200, loginRate, bound(smallBody, s.beginBrowser))),
		enrolling(inBrowser(http.MethodGet, "/console/session", 200, plain(s.browser))),
		enrolling(inBrowser(http.MethodDelete, "/console/session", 204, plain(s.endBrowser))),
		enrolling(inBrowser(http.MethodPost, "/console/session/reauthenticate", 200, bound(smallBody, s.reauthenticate))),
	}
	list = append(list, s.externalTable()...)
	for _, r := range table {
		if r.Access == Bearer && mirrored(r.Path) {
			same := *r
			same.Path, same.Access = consoleAPI+r.Path, Cookie
			list = append(list, &same)
		}
	}
	return list
}

// console says whether a route is one of the console API.
func (r *route) console() bool { return strings.HasPrefix(r.Path, consolePath) }

func inBrowser(method, path string, status int, h handler) *route {
	return &route{Route: Route{method, path, Cookie, 0, 0}, status: status, handle: h}
}

// mirrored says which routes the console has. Those of OAuth and of the Open
// Inference Protocol are for programs.
func mirrored(path string) bool {
	for _, p := range []string{"/users/me", "/admin", "/models", "/predict"} {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

// beginBrowser proves a password like /login, under the same throttle and with
// the same answers, and gives a cookie.
func (s *Server) beginBrowser(c *call, in *loginRequest) (browserSession, error) {
	var b auth.Browser
	err := s.throttled(c, in.Username, func() (err error) {
		b, err = s.auth.BeginBrowser(c.ctx(), c.origin(), userAgent(c), in.Username, in.Password, in.OTP, c.cookie())
		return err
	})
	if err != nil {
		return browserSession{}, err
	}
	return s.signedInto(c, b)
}

// signedInto answers with a session that has just begun or was proved anew, and
// hands its cookie over.
func (s *Server) signedInto(c *call, b auth.Browser) (browserSession, error) {
	who, err := s.auth.AuthenticateBrowser(c.ctx(), b.Cookie)
	if err := c.identified(who, err); err != nil {
		return browserSession{}, err
	}
	account, err := s.me(c)
	if err != nil {
		return browserSession{}, err
	}
	c.setCookie(cookieName + "=" + b.Cookie + cookieRules)
	return browserSessionOf(account, b.Session, s.auth.BrowserIdle()), nil
}

func (s *Server) browser(c *call) (browserSession, error) {
	account, err := s.me(c)
	if err != nil {
		return browserSession{}, err
	}
	session, err := s.auth.Session(c.ctx(), c.who)
	if err != nil {
		return browserSession{}, err
	}
	return browserSessionOf(account, session, s.auth.BrowserIdle()), nil
}

// endBrowser signs out. What the browser keeps of our answers goes too.
func (s *Server) endBrowser(c *call) (none, error) {
	if err := s.auth.Logout(c.ctx(), c.who); err != nil {
		return none{}, err
	}
	c.forgetBrowser()
	return none{}, nil
}

func (c *call) forgetBrowser() {
	c.setCookie(cookieName + "=; Max-Age=0" + cookieRules)
	c.setHeader("Clear-Site-Data", `"cache", "storage"`)
}

// reauthenticate proves the password anew, and the second factor (step-up).
// Guesses are bounded as in changePassword.
func (s *Server) reauthenticate(c *call, in *reauthenticateRequest) (browserSession, error) {
	var b auth.Browser
	err := s.guarded(c, func() (err error) {
		b, err = s.auth.Reauthenticate(c.ctx(), c.who, c.cookie(), in.Password, in.OTP)
		return err
	})
	if err != nil {
		return browserSession{}, err
	}
	return s.signedInto(c, b)
}
