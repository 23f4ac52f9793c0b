package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Provider is an OpenID Connect provider whose word about people counts here.
// What it may do is said by SignIn and APITokens; a provider that does neither
// is refused.
type Provider struct {
	Name         string // a name like a role's; part of the sign-in's address
	Issuer       string // exactly as in its tokens and its metadata
	ClientID     string // of the sign-in
	ClientSecret string // empty: a public client, which PKCE alone protects
	Scopes       []string
	SignIn       bool // people sign in through it, in the browser

	APITokens bool   // its access tokens are taken at the API
	Audience  string // what their aud must hold
	// AcceptUntypedTokens takes access tokens that don't say by typ that they
	// are some (RFC 9068). Then what keeps a token made for something else out
	// is its audience, and what it lacks of an ID token.
	AcceptUntypedTokens bool
	Algorithms          []string // of access tokens and ID tokens; nil: every one in signatureAlgorithms

	// TokenScopes says what an access token delegates to the program that shows it,
	// a scope of the token -> "predict", "account" or permissions; never more than
	// its user has. None: every token delegates predict alone.
	TokenScopes map[string][]string

	// A token whose acr or amr holds one of these tells that its user proved a second
	// factor. Without both, nobody comes in by this provider of whom one is required.
	SecondFactorACR []string // asked for at sign-in too (acr_values)
	SecondFactorAMR []string // RFC 8176

	// CreateUsers makes a user of everybody whom the provider names. Without it
	// an administrator links identities to users.
	CreateUsers          bool
	UsernameClaim        string // what a new user is called after; empty: preferred_username
	RequireVerifiedEmail bool
	AllowedDomains       []string // of the verified mail address; nil: every one

	// The roles of the users that the provider made. They are set anew by each
	// newer token.
	RolesClaim   string              // "groups" or, for members of members, "realm_access.roles"
	Roles        map[string][]string // a value of the claim -> roles
	DefaultRoles []string            // what all of them have; never admin
}

// signatureAlgorithms are those that we take from providers: asymmetric ones,
// so that whoever can verify can't sign.
var signatureAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

const maxProviders = 32

// CheckProviders refuses providers that can't be meant so, with what to write
// instead. issuer is the URL of this server.
func CheckProviders(list []Provider, issuer string) error {
	_, err := checkProviders(list, issuer)
	return err
}

// checkProviders refuses providers that can't be meant so, and fills in
// defaults. own is the issuer of our own tokens.
func checkProviders(list []Provider, own string) ([]Provider, error) {
	if len(list) > maxProviders {
		return nil, fmt.Errorf("there are %d identity providers; at most %d are taken", len(list), maxProviders)
	}
	list = slices.Clone(list)
	names, issuers := map[string]bool{}, map[string]bool{own: true}
	var errs []error
	for i := range list {
		p := &list[i]
		if !validName(p.Name, 1) {
			return nil, fmt.Errorf("identity provider %d: name %q is none; take up to 64 lower-case letters and digits, and after the first also . _ -", i+1, p.Name)
		}
		err := p.check(own)
		switch {
		case names[p.Name]:
			err = errors.Join(err, errors.New("another provider has this name"))
		case issuers[p.Issuer]:
			err = errors.Join(err, errors.New("another provider, or this server, has this issuer"))
		}
		names[p.Name], issuers[p.Issuer] = true, true
		if err != nil {
			errs = append(errs, fmt.Errorf("identity provider %s: %w", p.Name, err))
		}
	}
	return list, errors.Join(errs...)
}

func (p *Provider) check(own string) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := secureURL(p.Issuer); err != nil {
		bad("issuer %q %w; write it as the provider's metadata does", p.Issuer, err)
	}
	if !p.SignIn && !p.APITokens {
		bad("it may do nothing; set sign_in, api_tokens or both to true")
	}
	p.checkSignIn(bad, own)
	if p.APITokens {
		switch p.Audience {
		case "":
			bad("api_tokens needs audience: the name by which the provider knows this API")
		case p.ClientID:
			bad("audience is client_id, which is the audience of ID tokens; register the API under a name of its own")
		}
	} else if p.Audience != "" || p.AcceptUntypedTokens {
		bad("audience and accept_untyped_tokens have no effect without api_tokens: true")
	}
	for _, a := range p.Algorithms {
		if !slices.Contains(signatureAlgorithms, a) {
			bad("algorithm %q is not taken; there are %s", a, strings.Join(signatureAlgorithms, ", "))
		}
	}
	if len(p.Algorithms) == 0 {
		p.Algorithms = signatureAlgorithms
	}
	p.checkUsers(bad)
	p.checkRights(bad)
	return errors.Join(errs...)
}

func (p *Provider) checkSignIn(bad func(string, ...any), own string) {
	if !p.SignIn {
		if p.ClientID != "" || p.ClientSecret != "" || len(p.Scopes) > 0 {
			bad("client_id, client_secret_env, client_secret_file and scopes have no effect without sign_in: true")
		}
		return
	}
	if p.ClientID == "" {
		bad("sign_in needs client_id: the name by which the provider knows this server")
	}
	if err := secureURL(own); err != nil {
		bad("sign_in needs the address at which browsers reach this server: --issuer %q %w", own, err)
	}
	if len(p.Scopes) == 0 {
		p.Scopes = []string{"openid", "profile"}
	}
	if !slices.Contains(p.Scopes, "openid") {
		bad("scopes lack openid, without which there is no sign-in")
	}
	for _, s := range p.Scopes {
		if !scopeWord(s) {
			bad("scope %q can't be one; write a list of words", s)
		}
	}
}

func (p *Provider) checkUsers(bad func(string, ...any)) {
	if p.UsernameClaim == "" {
		p.UsernameClaim = "preferred_username"
	}
	p.AllowedDomains = slices.Clone(p.AllowedDomains)
	for i, d := range p.AllowedDomains {
		if p.AllowedDomains[i] = lower(d); d == "" || strings.ContainsAny(d, "@ *") {
			bad("allowed domain %q is none; write it as in example.com, without @ or *", d)
		}
	}
	if (p.RolesClaim == "") != (len(p.Roles) == 0) {
		bad("roles needs both: claim, and a map of its values to roles")
	}
	if !p.CreateUsers && (p.RolesClaim != "" || len(p.DefaultRoles) > 0) {
		bad("roles and default_roles have no effect without create_users: true; users who are linked keep the roles that they have here")
	}
	if slices.Contains(p.DefaultRoles, adminRole) {
		bad("default_roles can't hold admin; map a value of the roles claim to it")
	}
	for value, roles := range p.Roles {
		if len(roles) == 0 {
			bad("%q is mapped to no role; name one or remove the line", value)
		}
		for _, r := range roles {
			if !validName(r, 1) {
				bad("%q is mapped to %q, which can't be a role", value, r)
			}
		}
	}
	for _, r := range p.DefaultRoles {
		if !validName(r, 1) {
			bad("default role %q can't be one", r)
		}
	}
}

// secureURL refuses what is no https URL, but for plain http on this machine.
func secureURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return errors.New("is no URL of the form https://host/path")
	case u.Scheme == "https", u.Scheme == "http" && loopbackHost(u.Hostname()):
		return nil
	}
	return errors.New("is not https; plain http is taken on loopback only")
}

// loopbackHost is strict: another name could resolve to anything.
func loopbackHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
