package api

import (
	"errors"
	"strings"

	"modelgate/auth"
)

// maxCredential bounds what is looked up as a token that came in a body: an
// access token is about 600 bytes, all others less.
const maxCredential = 4096

var (
	errNoCredential = &fault{code: noCredential, detail: "log in with POST /login and send the access token, or an API key, as Authorization: Bearer"}
	errBadScheme    = &fault{code: noCredential, detail: "only Authorization: Bearer is taken here; POST /login gives a token"}
)

// identify turns the Authorization header into the call's principal. Together
// with oauthClient it is the only place where credentials are read; a token in
// the URL, a form or a cookie is never looked at (RFC 6750 section 5.3).
func (c *call) identify() error {
	lines := c.gin.Request.Header["Authorization"]
	if len(lines) == 0 || lines[0] == "" {
		return errNoCredential
	}
	scheme, token, _ := strings.Cut(lines[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return errBadScheme
	}
	who, err := c.s.auth.Authenticate(c.ctx(), strings.TrimLeft(token, " "))
	if errors.Is(err, auth.ErrToken) {
		return c.badCredential(err)
	}
	if err != nil {
		return err
	}
	who.Origin = c.origin()
	c.who = who
	if who.MustEnrol && !c.rt.enrol {
		return auth.ErrMustEnrol
	}
	return nil
}

// badCredential counts a token that is no good against the address it came
// from. Good ones from there are never held up by it.
func (c *call) badCredential(err error) error {
	c.s.metrics.badCredentials.Inc()
	if over := c.s.rates.chargeStranger(c.ctx(), c.address); over != nil {
		return over
	}
	return err
}

// firstParty is the OAuth client that the server itself is: public, without a
// secret.
const firstParty = "modelgate"

// oauthClient checks how the client of an OAuth route names itself (RFC 6749
// section 2.3). There is one client, which has no secret.
func (c *call) oauthClient(form map[string]string) error {
	if len(c.gin.Request.Header["Authorization"]) > 0 || form["client_secret"] != "" {
		return &fault{code: "invalid_client", detail: "there are no clients with a secret here; leave client authentication out"}
	}
	if id := form["client_id"]; id != "" && id != firstParty {
		return &fault{code: "invalid_client", detail: "no such client; leave client_id out, or send " + firstParty}
	}
	return nil
}
