package auth_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
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

// Keys are made once: a key of RSA takes long.
var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })
	shortRSA = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(1024) })
	ecKey    = sync.OnceValue(func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		return k
	})
	edKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
)

func newRSA(bits int) *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return k
}

// fakeProvider is an OpenID Connect provider that does whatever a test wants of
// it. That it is like a real one, the tests with a real one show.
type fakeProvider struct {
	t      testing.TB
	server *httptest.Server
	clock  *clock

	mu       sync.Mutex
	keys     []map[string]any                     // the JWK set
	meta     map[string]any                       // in addition to the usual metadata
	calls    map[string]int                       // by path
	answer   map[string]http.HandlerFunc          // in place of the usual answer, by path
	exchange func(form url.Values) map[string]any // the token endpoint's answer
}

func newFakeProvider(t testing.TB) *fakeProvider {
	p := &fakeProvider{t: t, calls: map[string]int{}, meta: map[string]any{}, answer: map[string]http.HandlerFunc{}}
	p.server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.server.Close)
	p.keys = []map[string]any{publicJWK(rsaKey().Public(), "r1", ""), publicJWK(ecKey().Public(), "e1", "ES256"), publicJWK(edKey.Public(), "o1", "EdDSA")}
	return p
}

func (p *fakeProvider) issuer() string { return p.server.URL }

func (p *fakeProvider) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.calls[r.URL.Path]++
	special, exchange := p.answer[r.URL.Path], p.exchange
	meta := map[string]any{
		"issuer": p.issuer(), "jwks_uri": p.issuer() + "/keys", "authorization_endpoint": p.issuer() + "/auth", "token_endpoint": p.issuer() + "/token",
		"id_token_signing_alg_values_supported": []string{"RS256", "ES256", "EdDSA"},
	}
	maps.Copy(meta, p.meta)
	keys := p.keys
	p.mu.Unlock()
	var v any
	switch {
	case special != nil:
		special(w, r)
		return
	case r.URL.Path == "/.well-known/openid-configuration":
		v = meta
	case r.URL.Path == "/keys":
		v = map[string]any{"keys": keys}
	case r.URL.Path == "/token" && exchange != nil:
		if err := r.ParseForm(); err != nil {
			p.t.Errorf("token endpoint: %v", err)
		}
		v = exchange(r.PostForm)
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// change alters what the provider does from the next call on.
func (p *fakeProvider) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *fakeProvider) asked(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[path]
}

func publicJWK(key any, id, algorithm string) map[string]any {
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

type members = map[string]any

// signJWS makes a compact JWS of any header and claims, which may be JSON already.
// The algorithm that signs is method's, whatever the header says; "" leaves the
// signature empty.
func signJWS(t testing.TB, header, claims any, method string, key any) string {
	t.Helper()
	text := b64.EncodeToString(asJSON(t, header)) + "." + b64.EncodeToString(asJSON(t, claims))
	if method == "" {
		return text + "."
	}
	m := jwt.GetSigningMethod(method)
	sig, err := m.Sign(text, key)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return text + "." + b64.EncodeToString(sig)
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

// altered returns a copy of m with other members; nil removes one.
func altered(m members, changes members) members {
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

const apiAudience = "modelgate-api"

var accessHeader = members{"alg": "RS256", "kid": "r1", "typ": "at+jwt"}

// claims are those of a good access token.
func (p *fakeProvider) claims(now time.Time, changes members) members {
	return altered(members{
		"iss": p.issuer(), "sub": "sub-1", "aud": apiAudience, "exp": now.Unix() + 300, "iat": now.Unix(), "client_id": "some-client",
		"jti": "j1", "preferred_username": "Ada", "groups": []string{"ml-users"},
	}, changes)
}

// access makes a good access token with other claims.
func (p *fakeProvider) access(now time.Time, changes members) string {
	return signJWS(p.t, accessHeader, p.claims(now, changes), "RS256", rsaKey())
}

// config is a provider whose access tokens are taken and who makes users.
func (p *fakeProvider) config() auth.Provider {
	return auth.Provider{
		Name: "corp", Issuer: p.issuer(), APITokens: true, Audience: apiAudience, CreateUsers: true,
		RolesClaim: "groups", Roles: map[string][]string{"ml-users": {"user"}, "ml-makers": {"data-scientist"}, "ml-admins": {"admin"}, "gone": {"no-such-role"}},
	}
}

func withProviders(list ...auth.Provider) option {
	return func(c *auth.Config) { c.Providers = list }
}

// xs is a text of so many bytes.
func xs(n int) string { return strings.Repeat("x", n) }
