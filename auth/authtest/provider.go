package authtest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"modelgate/auth"
)

// Private keys, made once: a key of RSA takes long. OtherRSA is a forger's, and
// ShortRSA too short.
var (
	RSAKey   = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })
	OtherRSA = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })
	ShortRSA = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(1024) })
	ECKey    = sync.OnceValue(func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		return k
	})
	EdKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
)

func newRSA(bits int) *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return k
}

// Provider is an OpenID Connect provider on loopback that does whatever a test
// wants of it. That it is like a real one, the tests with a real one show.
type Provider struct {
	t      testing.TB
	server *httptest.Server

	mu     sync.Mutex
	calls  map[string]int   // by path
	grants map[string]grant // by code

	// Change them by Change once the provider is asked.
	Keys   []map[string]any            // the JWK set
	Meta   map[string]any              // in addition to the usual metadata
	Answer map[string]http.HandlerFunc // in place of the usual answer, by path
	// Tokens alters what the token endpoint answers; nonce is that of the
	// sign-in.
	Tokens func(answer Members, nonce string)
}

// grant is what somebody has signed in for.
type grant struct {
	asked  url.Values // the authorization request
	claims Members    // of the ID token
}

// NewProvider starts a provider with a key of RSA (r1), one of P-256 (e1) and one of
// Ed25519 (o1). It ends with the test.
func NewProvider(t testing.TB) *Provider {
	p := &Provider{t: t, calls: map[string]int{}, grants: map[string]grant{}, Meta: map[string]any{}, Answer: map[string]http.HandlerFunc{}}
	p.server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.server.Close)
	p.Keys = []map[string]any{PublicJWK(RSAKey().Public(), "r1", ""), PublicJWK(ECKey().Public(), "e1", "ES256"), PublicJWK(EdKey.Public(), "o1", "EdDSA")}
	return p
}

// Issuer is the provider's name, and where it is.
func (p *Provider) Issuer() string { return p.server.URL }

func (p *Provider) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.calls[r.URL.Path]++
	special := p.Answer[r.URL.Path]
	meta := Altered(Members{
		"issuer": p.Issuer(), "jwks_uri": p.Issuer() + "/keys", "authorization_endpoint": p.Issuer() + "/auth", "token_endpoint": p.Issuer() + "/token",
		"id_token_signing_alg_values_supported": []string{"RS256", "ES256", "EdDSA"},
	}, p.Meta)
	keys := p.Keys
	p.mu.Unlock()
	var v any
	switch {
	case special != nil:
		special(w, r)
		return
	case r.URL.Path == "/.well-known/openid-configuration":
		v = meta
	case r.URL.Path == "/keys":
		v = Members{"keys": keys}
	case r.URL.Path == "/token" && r.ParseForm() == nil:
		answer, refused := p.exchange(r)
		if v = answer; refused != "" {
			v = Members{"error": "invalid_grant", "error_description": refused}
			w.WriteHeader(http.StatusBadRequest)
		}
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// exchange is the token endpoint: a code is good once, for who began the
// sign-in (PKCE) at the same address, with the client's secret.
func (p *Provider) exchange(r *http.Request) (answer Members, refused string) {
	p.mu.Lock()
	g, known := p.grants[r.PostForm.Get("code")]
	delete(p.grants, r.PostForm.Get("code"))
	alter := p.Tokens
	p.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	secret, _ = url.QueryUnescape(secret) // RFC 6749 section 2.3.1
	sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	switch {
	case !known:
		return nil, "code"
	case id != g.asked.Get("client_id") || secret != ClientSecret:
		return nil, "client"
	case g.asked.Get("code_challenge_method") != "S256" || b64(sum[:]) != g.asked.Get("code_challenge"):
		return nil, "verifier"
	case r.PostForm.Get("redirect_uri") != g.asked.Get("redirect_uri"):
		return nil, "redirect_uri"
	}
	claims := Altered(Members{"aud": g.asked.Get("client_id"), "nonce": g.asked.Get("nonce")}, g.claims)
	answer = Members{"access_token": "opaque", "token_type": "Bearer", "expires_in": 300, "id_token": SignJWS(p.t, IDHeader, claims, "RS256", RSAKey())}
	if alter != nil {
		alter(answer, g.asked.Get("nonce"))
	}
	return answer, ""
}

// SignIn does what a browser and its user do at the provider: it is given the
// address to which the browser was sent, and returns where it is sent back to.
// claims are those of the ID token besides aud and nonce.
func (p *Provider) SignIn(address string, claims Members) *url.URL {
	p.t.Helper()
	to, err := url.Parse(address)
	if err != nil || !strings.HasPrefix(address, p.Issuer()+"/auth?") {
		p.t.Fatalf("sent to %q, %v", address, err)
	}
	asked := to.Query()
	back, err := url.Parse(asked.Get("redirect_uri"))
	if err != nil || asked.Get("response_type") != "code" || asked.Get("state") == "" {
		p.t.Fatalf("sent to %q, %v", address, err)
	}
	code := rand.Text()
	p.Change(func() { p.grants[code] = grant{asked, claims} })
	back.RawQuery = url.Values{"code": {code}, "state": {asked.Get("state")}}.Encode()
	return back
}

// Change alters what the provider does from the next call on.
func (p *Provider) Change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// Asked tells how often a path was called.
func (p *Provider) Asked(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[path]
}

// PublicJWK writes a key as a member of a JWK set. A private one stays private.
func PublicJWK(key any, id, algorithm string) map[string]any {
	b, err := (&jose.JSONWebKey{Key: key, KeyID: id, Algorithm: algorithm}).MarshalJSON()
	var m map[string]any
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		panic(err)
	}
	return m
}

// Members are those of a JSON object.
type Members = map[string]any

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// SignJWS makes a compact JWS of any header and claims, which may be JSON already.
// The algorithm that signs is method's, whatever the header says; "" leaves the
// signature empty.
func SignJWS(t testing.TB, header, claims any, method string, key any) string {
	t.Helper()
	text := b64(asJSON(t, header)) + "." + b64(asJSON(t, claims))
	if method == "" {
		return text + "."
	}
	m := jwt.GetSigningMethod(method)
	sig, err := m.Sign(text, key)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return text + "." + b64(sig)
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	if text, ok := v.(string); ok {
		return []byte(text)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Altered returns a copy of m with other Members; nil removes one.
func Altered(m Members, changes Members) Members {
	m = maps.Clone(m)
	for k, v := range changes {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	return m
}

// Names by which the provider knows this API and the sign-in of its users.
const (
	Audience     = "modelgate-api"
	ClientID     = "browser-client"
	ClientSecret = "the client's own secret"
)

// Headers of good tokens.
var (
	IDHeader     = Members{"alg": "RS256", "kid": "r1", "typ": "JWT"}
	AccessHeader = Members{"alg": "RS256", "kid": "r1", "typ": "at+jwt"}
)

// Claims are those of a good access token.
func (p *Provider) Claims(now time.Time, changes Members) Members {
	return Altered(Members{
		"iss": p.Issuer(), "sub": "sub-1", "aud": Audience, "exp": now.Unix() + 300, "iat": now.Unix(), "client_id": "some-client",
		"jti": "j1", "preferred_username": "Ada", "groups": []string{"ml-users"}, "scope": "openid everything",
	}, changes)
}

// AccessToken makes a good access token with other claims.
func (p *Provider) AccessToken(now time.Time, changes Members) string {
	return SignJWS(p.t, AccessHeader, p.Claims(now, changes), "RS256", RSAKey())
}

// Config is a provider whose access tokens are taken and who makes users. They
// delegate all that their users may.
func (p *Provider) Config() auth.Provider {
	return auth.Provider{
		Name: "corp", Issuer: p.Issuer(), APITokens: true, Audience: Audience, CreateUsers: true,
		RolesClaim: "groups", Roles: map[string][]string{"ml-users": {"user"}, "ml-makers": {"data-scientist"}, "ml-admins": {"admin"}, "gone": {"no-such-role"}},
		TokenScopes: map[string][]string{"everything": {"predict", "account", "users:manage", "models:write", "models:manage", "audit:read", "metrics:read"}},
	}
}
