package api

import (
	"encoding/base64"
	"errors"
	"net/url"
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
// with oauthClient, and identifyBrowser for the console, it is the only place
// where credentials are read; a token in the URL, a form or a cookie is never
// looked at (RFC 6750 section 5.3).
func (c *call) identify() error {
	lines := c.gin.Request.Header["Authorization"]
	if len(lines) == 0 || lines[0] == "" {
		return errNoCredential
	}
	scheme, token, _ := strings.Cut(lines[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return errBadScheme
	}
	who, err := c.s.auth.Authenticate(c.ctx(), c.origin(), strings.TrimLeft(token, " "))
	return c.identified(who, err)
}

// identified takes over who a credential proves to be.
func (c *call) identified(who auth.Principal, err error) error {
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
	return c.s.guard.Delegated(c.ctx(), who, c.rt.delegation(), auth.Action{Name: "token.use", Target: c.rt.Path})
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

// oauthClient proves the client of an OAuth route (RFC 6749 section 2.3): by
// HTTP Basic, or by client_id and client_secret in the body, never by both. nil
// is the public client, which proves nothing.
func (c *call) oauthClient(form map[string]string) (*auth.Client, error) {
	id, secret, basic, err := basicCredentials(c.gin.Request.Header["Authorization"])
	if err != nil {
		return nil, err
	}
	switch {
	case basic && (form["client_secret"] != "" || form["client_id"] != "" && form["client_id"] != id):
		return nil, &fault{code: "invalid_request", detail: "send the client's credentials in the Authorization header or in the body, not in both"}
	case basic:
	case form["client_secret"] != "":
		id, secret = form["client_id"], form["client_secret"]
	case form["client_id"] == "" || form["client_id"] == firstParty:
		return nil, nil
	default:
		return nil, auth.ErrClient.With("this client has to prove a secret; the public client is called " + firstParty)
	}
	return c.proveClient(id, secret)
}

// proveClient is the sign-in of a client, which is slowed down like that of a
// person.
func (c *call) proveClient(id, secret string) (*auth.Client, error) {
	try, err := c.s.rates.attemptClient(c.ctx(), id, c.address)
	if err != nil {
		return nil, err
	}
	client, err := c.s.auth.AuthenticateClient(c.ctx(), c.origin(), id, secret)
	switch {
	case err == nil:
		try.succeeded(c.ctx())
		return &client, nil
	case !errors.Is(err, auth.ErrClient):
		try.abandoned(c.ctx())
	}
	return nil, err
}

// basicCredentials reads HTTP Basic as OAuth clients send it: both parts are
// encoded like a form's (RFC 6749 section 2.3.1). ok is false without the
// header; another scheme, and what can't be read, is no proof of a client.
func basicCredentials(lines []string) (id, secret string, ok bool, err error) {
	if len(lines) == 0 {
		return "", "", false, nil
	}
	scheme, encoded, _ := strings.Cut(lines[0], " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", false, auth.ErrClient.With("clients prove themselves by HTTP Basic or in the body; leave other credentials out")
	}
	pair, err := base64.StdEncoding.Strict().DecodeString(strings.TrimLeft(encoded, " "))
	first, second, found := strings.Cut(string(pair), ":")
	id, err1 := url.QueryUnescape(first)
	secret, err2 := url.QueryUnescape(second)
	if err != nil || !found || err1 != nil || err2 != nil {
		return "", "", false, auth.ErrClient.With("the Authorization header is not HTTP Basic as RFC 6749 section 2.3.1 writes it")
	}
	return id, secret, true, nil
}

// bearerOrClient identifies the caller of a route that takes both: a bearer now,
// a client once its form was read, by form.
func (c *call) bearerOrClient() error {
	lines := c.gin.Request.Header["Authorization"]
	if len(lines) == 0 || lines[0] == "" {
		return nil
	}
	if scheme, _, _ := strings.Cut(lines[0], " "); strings.EqualFold(scheme, "Basic") {
		return nil
	}
	return c.identify()
}
