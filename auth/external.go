package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	maxForeignToken = 16 << 10 // of an access token at the API; providers put much into theirs
	maxIDToken      = 64 << 10 // of an ID token, which the provider itself hands us
	maxSubject      = 255      // OpenID Connect Core section 2: 255 ASCII characters
)

// provider is a Provider at work.
type provider struct {
	Provider
	source *keySource
	scopes map[string]Permission // TokenScopes
}

// providers are the providers, by name and by issuer.
type providers struct {
	list     []*provider
	byIssuer map[string]*provider // those whose access tokens are taken
}

func newProviders(list []Provider, now func() time.Time) *providers {
	ps := &providers{byIssuer: map[string]*provider{}}
	for _, cfg := range list {
		p := &provider{Provider: cfg, source: newKeySource(cfg.Issuer, cfg.SignIn, now), scopes: make(map[string]Permission, len(cfg.TokenScopes))}
		for scope, names := range cfg.TokenScopes {
			p.scopes[scope], _ = parseDelegation(names) // checkProviders has refused what can't be
		}
		ps.list = append(ps.list, p)
		if cfg.APITokens {
			ps.byIssuer[cfg.Issuer] = p
		}
	}
	return ps
}

// named returns the provider of that name through which people sign in, or nil.
func (ps *providers) named(name string) *provider {
	for _, p := range ps.list {
		if p.Name == name && p.SignIn {
			return p
		}
	}
	return nil
}

// ofToken returns the provider that a token claims to come from, or nil. This
// chooses who has to verify it, and believes nothing.
func (ps *providers) ofToken(token string) *provider {
	if len(ps.byIssuer) == 0 {
		return nil
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	b, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return nil
	}
	var claimed struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(b, &claimed) != nil {
		return nil
	}
	return ps.byIssuer[claimed.Issuer]
}

// foreignHeader is what we read of the header of a provider's token. What
// would let a token bring its own key or meaning is refused.
type foreignHeader struct {
	Algorithm string         `json:"alg"`
	KeyID     string         `json:"kid"`
	Type      string         `json:"typ"`
	Critical  jsontext.Value `json:"crit"`
	Key       jsontext.Value `json:"jwk"`
	KeySet    jsontext.Value `json:"jku"`
	Chain     jsontext.Value `json:"x5u"`
	Encoded   jsontext.Value `json:"b64"`
}

func readForeignHeader(token string, most int) (h foreignHeader, err error) {
	first, err := compactHeader(token, most)
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(first, &h); err != nil {
		return h, fmt.Errorf("header: %w", err)
	}
	if len(h.Critical)+len(h.Key)+len(h.KeySet)+len(h.Chain)+len(h.Encoded) > 0 {
		return h, errors.New("its header has a member (crit, jwk, jku, x5u or b64) that is not taken")
	}
	return h, nil
}

// assertion is what a provider says of somebody, after its signature, issuer,
// audience and times were found good.
type assertion struct {
	issuer   string
	subject  string
	audience []string
	issued   time.Time
	expires  time.Time
	authTime time.Time // zero: not told
	members  map[string]jsontext.Value
	token    *oidc.IDToken
}

// verify proves that the provider signed a token for an audience, with one of
// the algorithms, and that the token is good now. Whatever is wrong with it is
// no *Error; ErrUnavailable is.
func (p *provider) verify(ctx context.Context, token string, h foreignHeader, audience string, algorithms []string) (assertion, error) {
	if !slices.Contains(algorithms, h.Algorithm) {
		return assertion{}, errors.New("signed by an algorithm that is not taken from this provider")
	}
	keys, err := p.source.keys(ctx, h.KeyID, h.Algorithm)
	if err != nil {
		return assertion{}, err
	}
	set := &oidc.StaticKeySet{}
	for _, k := range keys {
		set.PublicKeys = append(set.PublicKeys, k)
	}
	now := p.source.now()
	verified, err := oidc.NewVerifier(p.Issuer, set, &oidc.Config{
		ClientID: audience, SupportedSigningAlgs: []string{h.Algorithm}, Now: func() time.Time { return now },
	}).Verify(ctx, token)
	if expired := (*oidc.TokenExpiredError)(nil); errors.As(err, &expired) {
		return assertion{}, errEnded
	}
	if err != nil {
		return assertion{}, err
	}
	var raw jsontext.Value
	if err := verified.Claims(&raw); err != nil {
		return assertion{}, err
	}
	a, err := p.read(raw, audience, now)
	a.token = verified
	return a, err
}

// read reads the claims once more, strictly: go-oidc takes names in any case,
// the last of two like ones, tokens without exp before 1970, and nbf five
// minutes ahead.
func (p *provider) read(payload []byte, audience string, now time.Time) (a assertion, err error) {
	if err := json.Unmarshal(payload, &a.members); err != nil {
		return a, fmt.Errorf("claims: %w", err)
	}
	if a.issuer, err = a.text("iss"); err != nil {
		return a, err
	}
	if a.subject, err = a.text("sub"); err != nil {
		return a, err
	}
	if a.audience, err = a.texts("aud"); err != nil {
		return a, err
	}
	times := map[string]time.Time{}
	for _, name := range []string{"exp", "iat", "nbf", "auth_time"} {
		if times[name], err = a.moment(name); err != nil {
			return a, err
		}
	}
	a.expires, a.issued, a.authTime = times["exp"], times["iat"], times["auth_time"]
	switch {
	case a.issuer != p.Issuer:
		return a, errors.New("of another issuer")
	case !slices.Contains(a.audience, audience):
		return a, errors.New("for another audience")
	case !validSubject(a.subject):
		return a, errors.New("its subject is empty, too long or not ASCII")
	case a.expires.IsZero() || a.issued.IsZero():
		return a, errors.New("exp or iat is missing")
	case !now.Before(a.expires):
		return a, errEnded
	case a.issued.After(now.Add(leeway)) || times["nbf"].After(now.Add(leeway)) || a.authTime.After(now.Add(leeway)):
		return a, errors.New("from the future")
	}
	return a, nil
}

func validSubject(s string) bool {
	return s != "" && len(s) <= maxSubject && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

var errClaimType = errors.New("a claim has another type than it should")

// text reads a claim that is a string; "" if there is none.
func (a *assertion) text(name string) (s string, err error) {
	v, ok := a.members[name]
	if !ok {
		return "", nil
	}
	if v.Kind() != '"' || json.Unmarshal(v, &s) != nil {
		return "", fmt.Errorf("%s: %w", name, errClaimType)
	}
	return s, nil
}

// texts reads a claim that is a string or a list of strings.
func (a *assertion) texts(name string) ([]string, error) {
	list, err := textsOf(a.members[name])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return list, nil
}

func textsOf(v jsontext.Value) (list []string, err error) {
	switch v.Kind() {
	case 0: // none
		return nil, nil
	case '"':
		var s string
		err = json.Unmarshal(v, &s)
		list = []string{s}
	case '[':
		// null would become "", and be no string all the same
		var raw []jsontext.Value
		err = json.Unmarshal(v, &raw)
		for _, e := range raw {
			var s string
			if e.Kind() != '"' {
				return nil, errClaimType
			}
			err = errors.Join(err, json.Unmarshal(e, &s))
			list = append(list, s)
		}
	default:
		return nil, errClaimType
	}
	if err != nil {
		return nil, errClaimType
	}
	return list, nil
}

// moment reads a NumericDate (RFC 7519 section 2), whose parts of a second are
// dropped; the zero time if there is none.
func (a *assertion) moment(name string) (time.Time, error) {
	v, ok := a.members[name]
	if !ok {
		return time.Time{}, nil
	}
	var seconds float64
	if v.Kind() != '0' || json.Unmarshal(v, &seconds) != nil || seconds <= 0 || seconds > 1<<40 {
		return time.Time{}, fmt.Errorf("%s: %w", name, errClaimType)
	}
	return time.Unix(int64(math.Floor(seconds)), 0).UTC(), nil
}

// has says whether there is a claim of that name, whatever it holds.
func (a *assertion) has(name string) bool { _, ok := a.members[name]; return ok }

// accessToken proves an access token of the provider: RFC 9068, or what comes
// near to it where the operator says so.
func (p *provider) accessToken(ctx context.Context, token string) (assertion, error) {
	h, err := readForeignHeader(token, maxForeignToken)
	if err != nil {
		return assertion{}, err
	}
	typed := false
	switch strings.ToLower(h.Type) {
	case tokenType, tokenTypeLong:
		typed = true
	case "", "jwt":
		if !p.AcceptUntypedTokens {
			return assertion{}, errors.New("not of type at+jwt; accept_untyped_tokens would take it")
		}
	default:
		return assertion{}, errors.New("not of type at+jwt")
	}
	a, err := p.verify(ctx, token, h, p.Audience, p.Algorithms)
	if err != nil || typed {
		return a, err
	}
	// What only ID tokens have, and logout tokens; and Keycloak's own word.
	for _, name := range []string{"nonce", "at_hash", "c_hash", "s_hash", "events"} {
		if a.has(name) {
			return a, fmt.Errorf("an ID token or logout token, by its claim %s", name)
		}
	}
	if kind, err := a.text("typ"); err != nil || kind != "" && kind != "Bearer" {
		return a, errors.New("by its claim typ no access token")
	}
	if p.ClientID != "" && slices.Contains(a.audience, p.ClientID) {
		return a, errors.New("for the client too, as an ID token is")
	}
	return a, nil
}

// authenticateForeign is authenticateToken for the token of a provider.
func (s *Service) authenticateForeign(ctx context.Context, o Origin, sum *[32]byte, p *provider, token string, now time.Time) (Principal, error) {
	a, err := p.accessToken(ctx, token)
	if err != nil {
		if errors.Is(err, ErrUnavailable) {
			return Principal{}, err
		}
		return Principal{}, errForeign.Because(fmt.Errorf("token of %s: %w", p.Name, err))
	}
	given, err := p.delegated(a)
	if err != nil {
		return Principal{}, err
	}
	epoch := s.cache.begin()
	user, err := s.admit(ctx, o, p, a)
	if refused := (*inadmissible)(nil); errors.As(err, &refused) {
		return Principal{}, ErrToken.With(refused.detail).Because(fmt.Errorf("token of %s: %w", p.Name, refused))
	}
	if err != nil {
		return Principal{}, err
	}
	who, err := s.principal(ctx, user.ID, factorOf(p.secondFactor(a)))
	if err != nil {
		return Principal{}, err
	}
	who.limit(given)
	who.Provider, who.Subject, who.AuthTime = p.Name, a.subject, a.authTime
	s.cache.put(sum, epoch, who, a.expires, now, nil)
	return who, nil
}
