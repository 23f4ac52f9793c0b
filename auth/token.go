package auth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/golang-jwt/jwt/v5"
)

const (
	// maxToken bounds a credential before anything is computed from it; our own
	// tokens have about 600 bytes, and more with many roles.
	maxToken = 8 << 10
	// leeway forgives a clock that was set back between signing and verifying.
	// Expiry has none.
	leeway = 30 * time.Second

	tokenType     = "at+jwt" // RFC 9068 section 2.1
	tokenTypeLong = "application/at+jwt"

	firstParty = "modelgate" // the client of sign-ins by password
)

// claims are those of RFC 9068, each exactly once and none besides.
type claims struct {
	Issuer    string   `json:"iss"`
	Audience  string   `json:"aud"`
	Subject   string   `json:"sub"`
	Expires   int64    `json:"exp"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
	ID        string   `json:"jti"`
	ClientID  string   `json:"client_id"`
	Roles     []string `json:"roles"`
	SessionID string   `json:"sid"`
	AuthTime  int64    `json:"auth_time,omitzero"` // absent where nobody signed in
}

// UnmarshalJSON refuses what encoding/json lets pass: names in another case,
// duplicates, unknown members.
func (c *claims) UnmarshalJSON(b []byte) error {
	type bare claims
	return json.Unmarshal(b, (*bare)(c), json.RejectUnknownMembers(true))
}

func (c *claims) complete() bool {
	return c.Issuer != "" && c.Audience != "" && c.Subject != "" && c.Expires > 0 && c.IssuedAt > 0 && c.NotBefore > 0 &&
		c.ID != "" && c.ClientID != "" && c.SessionID != ""
}

func numericDate(t int64) (*jwt.NumericDate, error) {
	if t == 0 {
		return nil, nil
	}
	return jwt.NewNumericDate(time.Unix(t, 0)), nil
}

// The methods of jwt.Claims.
func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return numericDate(c.Expires) }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return numericDate(c.IssuedAt) }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return numericDate(c.NotBefore) }
func (c *claims) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c *claims) GetSubject() (string, error)                  { return c.Subject, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return jwt.ClaimStrings{c.Audience}, nil }

// header is all that may stand in the header of our tokens. What would let a
// token bring its own key (jku, x5u, jwk, x5c) or meaning (crit) is unknown
// here, and unknown members are refused.
type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ"`
}

// verifier proves access tokens: that this server signed them for itself, that
// they are access tokens, and that they have not expired. It knows nothing of
// logouts.
type verifier struct {
	keys   *Keyring
	parser *jwt.Parser
	now    func() time.Time
}

func newVerifier(keys *Keyring, issuer, audience string, now func() time.Time) *verifier {
	return &verifier{keys: keys, now: now, parser: jwt.NewParser(
		jwt.WithValidMethods([]string{keys.method.Alg()}),
		jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(leeway),
		jwt.WithStrictDecoding(), jwt.WithTimeFunc(now),
	)}
}

var (
	errTokenForm  = errors.New("not a compact JWS")
	errUnknownKey = errors.New("signed by a key that is not ours")
)

// verify returns the claims of a good token. The errors say for the log what
// was wrong; to callers all of them are ErrToken.
func (v *verifier) verify(token string) (*claims, error) {
	h, err := readHeader(token)
	if err != nil {
		return nil, err
	}
	key := v.keys.find(h.KeyID, v.now())
	switch {
	case h.Type != tokenType && h.Type != tokenTypeLong:
		return nil, errors.New("not of type at+jwt")
	case key == nil:
		return nil, errUnknownKey
	case h.Algorithm != key.method.Alg():
		return nil, errors.New("signed by another algorithm than its key's")
	}
	var c claims
	_, err = v.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		if t.Method != key.method {
			return nil, errors.New("signed by another algorithm than its key's")
		}
		return key.verify, nil
	})
	if err != nil {
		return nil, err
	}
	if !c.complete() {
		return nil, errors.New("a claim is missing")
	}
	// The parser's own times overflow for a number that is large enough.
	now := v.now().Unix()
	switch soon := now + int64(leeway/time.Second); {
	case now >= c.Expires:
		return nil, jwt.ErrTokenExpired
	case c.NotBefore > soon || c.IssuedAt > soon:
		return nil, jwt.ErrTokenNotValidYet
	}
	return &c, nil
}

// readHeader checks the form of a token and decodes its header, strictly. The
// parser behind it is more liberal: base64 there skips line breaks, and JSON
// takes the last of duplicate names.
func readHeader(token string) (header, error) {
	b, err := compactHeader(token, maxToken)
	if err != nil {
		return header{}, err
	}
	var h header
	if err := json.Unmarshal(b, &h, json.RejectUnknownMembers(true)); err != nil {
		return header{}, fmt.Errorf("header: %w", err)
	}
	return h, nil
}

// compactHeader checks the form of a token of at most so many bytes and returns
// its header.
func compactHeader(token string, most int) ([]byte, error) {
	if len(token) > most {
		return nil, fmt.Errorf("longer than %d bytes", most)
	}
	dots := 0
	for i := range len(token) {
		switch c := token[i]; {
		case c == '.':
			dots++
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return nil, errTokenForm
		}
	}
	if dots != 2 {
		return nil, errTokenForm
	}
	first, _, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if err != nil {
		return nil, errTokenForm
	}
	return b, nil
}

// sign makes the access token of a session. It expires after ttl, or with the
// session.
func (s *Service) sign(session Session, user User, now time.Time) (token string, ttl time.Duration, err error) {
	expires := now.Add(s.cfg.AccessTTL)
	if session.ExpiresAt.Before(expires) {
		expires = session.ExpiresAt
	}
	c := claims{
		Issuer: s.cfg.Issuer, Audience: s.cfg.Audience, Subject: user.ID, ID: newID(""),
		Expires: expires.Unix(), IssuedAt: now.Unix(), NotBefore: now.Unix(),
		ClientID: session.ClientID, Roles: tokenRoles(user.Roles), SessionID: session.ID,
	}
	if !session.AuthTime.IsZero() {
		c.AuthTime = session.AuthTime.Unix()
	}
	key := s.cfg.Keys.signer(now)
	if key == nil {
		return "", 0, ErrUnavailable.Because(errors.New("no key signs at this time"))
	}
	t := jwt.NewWithClaims(key.method, &c)
	t.Header = map[string]any{"alg": key.method.Alg(), "kid": key.id, "typ": tokenType}
	token, err = t.SignedString(key.private)
	if err != nil {
		return "", 0, ErrUnavailable.Because(fmt.Errorf("sign an access token: %w", err))
	}
	return token, time.Duration(c.Expires-c.IssuedAt) * time.Second, nil
}

// maxTokenRoles bounds the bytes of role names in an access token: with more it
// would not fit where tokens are taken. What a caller may do is looked up, not
// read from the token, so that leaving them out takes nothing from him.
const maxTokenRoles = 1024

func tokenRoles(roles []string) []string {
	total := 0
	for _, r := range roles {
		total += len(r)
	}
	if total > maxTokenRoles {
		return []string{}
	}
	return append([]string{}, roles...)
}
