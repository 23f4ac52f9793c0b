package api

import (
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"modelgate/auth"
)

// token is RFC 6749's token endpoint.
func (s *Server) token(c *call) error {
	form, err := c.form()
	if err != nil {
		return err
	}
	client, err := c.oauthClient(form)
	if err != nil {
		return err
	}
	if form["scope"] != "" {
		return &fault{code: "invalid_scope", detail: "there are no scopes here; what a token may do follows from the roles of its user"}
	}
	c.setHeader("Pragma", "no-cache")
	grant := form["grant_type"]
	switch {
	case grant == "":
		return missing("grant_type")
	case grant == "client_credentials":
		return s.clientToken(c, client)
	case grant == "password" && s.passwordGrant, grant == "refresh_token":
	default:
		return &fault{code: "unsupported_grant_type", detail: "this grant_type is not switched on; /.well-known/oauth-authorization-server lists those that are"}
	}
	if client != nil {
		return &fault{code: "unauthorized_client", detail: "a service account gets its tokens by grant_type=client_credentials"}
	}
	var t tokens
	if grant == "password" {
		t, err = s.passwordGrantTokens(c, form)
	} else {
		t, err = s.refreshGrantTokens(c, form)
	}
	if err != nil {
		return err
	}
	return c.reply(t)
}

// clientToken is the grant of RFC 6749 section 4.4: an access token and, as its
// section 4.4.3 asks, no refresh token.
func (s *Server) clientToken(c *call, client *auth.Client) error {
	if client == nil {
		return auth.ErrClient.With("this grant needs the client id and secret of a service account")
	}
	if err := s.rates.chargeStranger(c.ctx(), c.address); err != nil {
		return err
	}
	access, ttl, err := s.auth.ClientToken(c.ctx(), c.origin(), shorten(c.gin.Request.UserAgent(), 200), *client)
	if err != nil {
		return err
	}
	return c.reply(accessToken{access, "Bearer", int64(ttl / time.Second)})
}

func (s *Server) refreshGrantTokens(c *call, form map[string]string) (tokens, error) {
	if form["refresh_token"] == "" {
		return tokens{}, missing("refresh_token")
	}
	if err := s.rates.chargeStranger(c.ctx(), c.address); err != nil {
		return tokens{}, err
	}
	return s.renew(c, form["refresh_token"])
}

func (s *Server) passwordGrantTokens(c *call, form map[string]string) (tokens, error) {
	for _, name := range []string{"username", "password"} {
		if form[name] == "" {
			return tokens{}, missing(name)
		}
	}
	lc, err := s.rates.chargeAddress(c.ctx(), string(loginRate), c.address)
	c.rateHeaders(lc)
	if err != nil {
		return tokens{}, err
	}
	return s.signIn(c, form["username"], form["password"], form["otp"])
}

// revoke is RFC 7009. Who holds a token of the public client may end it; what
// was issued to a client with a secret, that client alone. An unknown token is
// answered like a known one.
func (s *Server) revoke(c *call) error {
	form, err := c.form()
	if err != nil {
		return err
	}
	client, err := c.oauthClient(form)
	if err != nil {
		return err
	}
	token := form["token"]
	switch {
	case token == "":
		return missing("token")
	case len(token) > maxCredential:
	case client != nil:
		err = s.auth.RevokeIssued(c.ctx(), *client, token)
	default:
		err = s.auth.Revoke(c.ctx(), c.origin(), token)
	}
	if err != nil {
		return err
	}
	c.write(c.rt.status, nil, nil)
	return nil
}

// introspect is RFC 7662, authorised by the caller's own bearer token or by the
// credentials of a client (section 2.1). A caller learns of tokens of his own;
// who manages users, of all. Anything else is inactive to him.
func (s *Server) introspect(c *call) error {
	form, err := c.form()
	if err != nil {
		return err
	}
	if err := c.introspector(form); err != nil {
		return err
	}
	if form["token"] == "" {
		return missing("token")
	}
	inactive := introspection{}
	if len(form["token"]) > maxCredential {
		return c.reply(inactive)
	}
	i, err := s.auth.Introspect(c.ctx(), form["token"])
	if err != nil {
		return err
	}
	if !i.Active || i.Subject != c.who.UserID && !c.who.Can(auth.UsersManage) {
		return c.reply(inactive)
	}
	return c.reply(introspectionOf(i, s.issuer))
}

// introspector finds out who asks, if no bearer token has said so yet.
func (c *call) introspector(form map[string]string) error {
	if c.who.UserID != "" {
		if form["client_secret"] != "" {
			return &fault{code: "invalid_request", detail: "send a bearer token or the client's credentials, not both"}
		}
		return nil
	}
	client, err := c.oauthClient(form)
	if err != nil {
		return err
	}
	if client == nil {
		return errNoCaller
	}
	c.who = client.Principal
	return nil
}

var errNoCaller = &fault{code: noCredential, detail: "send an access token or API key as Authorization: Bearer, or the id and secret of a service account by HTTP Basic"}

// metadata is RFC 8414. It names what is switched on and nothing else.
func (s *Server) metadata(c *call) (metadata, error) {
	base := s.base(c.gin.Request)
	m := metadata{
		Issuer:                   s.issuer,
		TokenEndpoint:            base + "/token",
		ResponseTypes:            []string{},
		GrantTypes:               []string{"refresh_token", "client_credentials"},
		TokenAuthMethods:         []string{"none", "client_secret_basic", "client_secret_post"},
		RevocationEndpoint:       base + "/revoke",
		RevocationAuthMethods:    []string{"none", "client_secret_basic", "client_secret_post"},
		IntrospectionEndpoint:    base + "/introspect",
		IntrospectionAuthMethods: []string{"client_secret_basic", "client_secret_post", "Bearer"},
		ServiceDocumentation:     base + "/docs",
	}
	if s.passwordGrant {
		m.GrantTypes = append([]string{"password"}, m.GrantTypes...)
	}
	if s.publishesKeys() {
		m.JWKS = base + "/.well-known/jwks.json"
	}
	return m, nil
}

// publishesKeys is false where tokens are signed with a shared secret.
func (s *Server) publishesKeys() bool {
	var set struct {
		Keys []struct {
			Type string `json:"kty"`
		} `json:"keys"`
	}
	return json.Unmarshal(s.auth.JWKS(), &set) == nil && len(set.Keys) > 0
}

func (s *Server) jwks(c *call) error {
	c.setHeader("Cache-Control", fmt.Sprintf("public, max-age=%d", int(s.auth.JWKSAge().Seconds())))
	c.write(c.rt.status, typeJSON, s.auth.JWKS())
	return nil
}

func missing(parameter string) *fault {
	return &fault{code: "invalid_request", detail: "the parameter " + parameter + " is missing"}
}

// form reads a form body by the rules of RFC 6749 section 3.2: a parameter may
// stand once, an empty one counts as left out, the query is never read.
func (c *call) form() (map[string]string, error) {
	r := c.gin.Request
	if r.URL.RawQuery != "" {
		return nil, &fault{code: "invalid_request", detail: "parameters belong in the body, never in the URL"}
	}
	if !hasMediaType(r, "application/x-www-form-urlencoded") {
		return nil, &fault{code: "unsupported_media_type", detail: "send a form, with Content-Type: application/x-www-form-urlencoded"}
	}
	b, err := c.readBody(smallBody)
	defer b.release()
	if err != nil {
		return nil, err
	}
	return parseForm(string(b.data))
}

func parseForm(text string) (map[string]string, error) {
	seen := make(map[string]bool)
	form := make(map[string]string)
	for text != "" {
		var pair string
		pair, text, _ = strings.Cut(text, "&")
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(rawName)
		value, err2 := url.QueryUnescape(rawValue)
		if err1 != nil || err2 != nil || !utf8.ValidString(name) || !utf8.ValidString(value) {
			return nil, &fault{code: "invalid_request", detail: "the form is not properly encoded"}
		}
		if seen[name] {
			return nil, &fault{code: "invalid_request", detail: "a parameter is given more than once"}
		}
		seen[name] = true
		if value != "" {
			form[name] = value
		}
	}
	return form, nil
}
