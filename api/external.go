package api

import (
	"net/http"

	"modelgate/auth"
)

// The sign-in through identity providers, for browsers. It begins at one of our
// own pages, goes to the provider and comes back to the callback, which leads to
// homePage and nowhere else: no address is taken from a request.
const homePage = "/console"

// signInCookie ties a sign-in that is under way to its browser. Lax: the way
// back from the provider begins at another site.
const (
	signInCookie      = "__Host-modelgate-oidc"
	signInCookieRules = "; Path=/; Secure; HttpOnly; SameSite=Lax"
)

// homeward leads to homePage from a page of our own: the way from another site
// would not send the session's cookie, which is Strict.
const homeward = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Signed in</title><meta http-equiv="refresh" content="0;url=` + homePage + `"></head>
<body><p>You are signed in. <a href="` + homePage + `">Go on</a></p></body></html>
`

func (s *Server) externalTable() []*route {
	return []*route{
		open(http.MethodGet, "/console/oidc", 200, noRate, plain(s.signInProviders)),
		open(http.MethodGet, "/console/oidc/{provider}", 303, externalRate, s.beginExternal),
		open(http.MethodGet, "/console/oidc/{provider}/callback", 200, externalRate, s.finishExternal),
	}
}

func (s *Server) signInProviders(*call) (page[provider], error) {
	return pageOf(s.auth.SignInProviders(), "", func(name string) provider { return provider{Name: name} }), nil
}

// beginExternal sends the browser to a provider. reauthenticate=1 asks for a
// proof anew.
func (s *Server) beginExternal(c *call) error {
	r := c.gin.Request
	// A link on another site must not sign its visitor in, here or there.
	if from := r.Header.Get("Sec-Fetch-Site"); from != "" && from != "same-origin" && from != "none" {
		return errCrossOrigin
	}
	query, err := c.query()
	if err != nil {
		return err
	}
	fresh := query["reauthenticate"] == "1"
	if len(query) > 0 && !(fresh && len(query) == 1) {
		return invalid("the only parameter here is reauthenticate=1")
	}
	address, secret, err := s.auth.BeginExternal(c.ctx(), c.param("provider"), fresh, c.cookie())
	if err != nil {
		return err
	}
	c.setCookie(signInCookie + "=" + secret + "; Max-Age=600" + signInCookieRules)
	c.setHeader("Location", address)
	c.write(c.rt.status, nil, nil)
	return nil
}

// query reads the parameters of the address, each of which may stand once.
func (c *call) query() (map[string]string, error) {
	query, err := parseForm(c.gin.Request.URL.RawQuery)
	if err != nil {
		return nil, invalid("the parameters are not properly encoded, or one is given more than once")
	}
	return query, nil
}

// finishExternal takes what came back from a provider. The cookie of the
// sign-in goes in any case; nothing that the provider wrote is shown.
func (s *Server) finishExternal(c *call) error {
	c.setCookie(signInCookie + "=; Max-Age=0" + signInCookieRules)
	query, err := c.query()
	if err != nil {
		return err
	}
	answer := auth.ExternalAnswer{Code: query["code"], State: query["state"], Issuer: query["iss"], Error: query["error"]}
	b, err := s.auth.FinishExternal(c.ctx(), c.origin(), userAgent(c), c.param("provider"), c.cookieNamed(signInCookie), answer, c.cookie())
	if err != nil {
		return err
	}
	c.setCookie(cookieName + "=" + b.Cookie + cookieRules)
	c.write(c.rt.status, []string{"text/html; charset=utf-8"}, []byte(homeward))
	return nil
}

// Identities of a user, for administrators.

func (s *Server) identities(c *call) (page[identity], error) {
	all, err := s.auth.Identities(c.ctx(), c.who, c.param("id"))
	if err != nil {
		return page[identity]{}, err
	}
	return pageOf(all, "", s.identityOf), nil
}

func (s *Server) linkIdentity(c *call, in *identityRequest) (identity, error) {
	id, err := s.auth.LinkIdentity(c.ctx(), c.who, c.param("id"), in.Provider, in.Subject)
	if err != nil {
		return identity{}, err
	}
	return s.identityOf(id), nil
}

func (s *Server) unlinkIdentity(c *call) (none, error) {
	return none{}, s.auth.UnlinkIdentity(c.ctx(), c.who, c.param("id"), c.param("identity"))
}

func (s *Server) identityOf(i auth.Identity) identity {
	return identity{
		ID: i.ID, Provider: s.auth.ProviderOf(i.Issuer), Issuer: i.Issuer, Subject: i.Subject, Managed: i.Managed, CreatedAt: i.CreatedAt.UTC(),
	}
}
