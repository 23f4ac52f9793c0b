package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/oauth2"
)

const (
	providerTimeout = 5 * time.Second // of one call
	maxProviderBody = 512 << 10       // of any answer
	maxProviderKeys = 100             // of a key set
	maxFailure      = 512             // bytes kept of what went wrong

	keysFresh = 10 * time.Minute // after which keys are asked for again
	// keysStale is how long keys are believed while the provider can't be asked.
	// Whoever takes a key back must be able to say so.
	keysStale = 12 * time.Hour
	// askEvery bounds how often strangers, who can name any key, make us ask.
	askEvery = 10 * time.Second
)

// keySource asks a provider for its metadata and keys, and remembers them.
//
// go-oidc has a key set of its own. It asks the provider at each token that it
// can't verify, so that anybody can make us flood it, and never forgets a key
// while the tokens it sees are good.
type keySource struct {
	issuer string
	signIn bool // its endpoints for that are needed
	client *http.Client
	now    func() time.Time

	mu      sync.Mutex
	known   *providerFacts // nil: not asked yet; guarded by mu
	asking  chan struct{}  // closed at the end of the question under way; nil: none is; guarded by mu
	asked   time.Time      // when the last question ended; guarded by mu
	failure error          // of the last question; guarded by mu
	todo    string         // what an operator should do about failure; guarded by mu
}

// providerFacts are what a provider has told. They don't change.
type providerFacts struct {
	endpoint   oauth2.Endpoint
	algorithms []string // of ID tokens; nil: not told
	sendsIss   bool     // its answers hold iss (RFC 9207)
	keys       []jose.JSONWebKey
	at         time.Time
}

func newKeySource(issuer string, signIn bool, now func() time.Time) *keySource {
	return &keySource{issuer: issuer, signIn: signIn, client: providerClient(issuer), now: now}
}

// providerClient makes calls that are short in time and bytes, and go where they
// were sent and nowhere else.
func providerClient(issuer string) *http.Client {
	dialer := &net.Dialer{Timeout: providerTimeout}
	local := false
	if u, err := url.Parse(issuer); err == nil {
		local = loopbackHost(u.Hostname())
		if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && proxy == nil {
			dialer.Control = func(_, address string, _ syscall.RawConn) error { return reachable(address, local) }
		}
	}
	return &http.Client{
		Timeout: providerTimeout,
		Transport: bounded{&http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSHandshakeTimeout: providerTimeout,
			MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 4, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the provider sends us elsewhere, which is not followed")
		},
	}
}

// reachable refuses addresses at which a provider can't be, but from which a
// cloud hands out secrets, or at which other services of this machine listen.
func reachable(address string, local bool) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := at.Addr().Unmap()
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || ip.IsLoopback() && !local {
		return fmt.Errorf("%s is no address of an identity provider", ip)
	}
	return nil
}

// bounded cuts answers that are too long.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxProviderBody)
	}
	return resp, err
}

var (
	errForeignKey  = errors.New("signed by a key that is not the provider's")
	errProviderOut = ErrUnavailable.With("the identity provider can't be asked at the moment; try again in a few seconds")
)

// facts returns what is known of the provider, asking at need.
func (s *keySource) facts(ctx context.Context) (*providerFacts, error) {
	return s.find(ctx, func(*providerFacts) bool { return true })
}

// keys returns the public keys that a token may be signed by that names a key
// and an algorithm. errForeignKey: there are none. ErrUnavailable: the provider
// can't tell.
func (s *keySource) keys(ctx context.Context, id, algorithm string) ([]any, error) {
	var found []any
	_, err := s.find(ctx, func(f *providerFacts) bool { found = f.find(id, algorithm); return len(found) > 0 })
	return found, err
}

// find returns facts that satisfy enough. One question at a time is on its way,
// whoever asks; who can't be helped by what is known waits for its end.
func (s *keySource) find(ctx context.Context, enough func(*providerFacts) bool) (*providerFacts, error) {
	s.mu.Lock()
	now := s.now()
	f := s.known
	good := f != nil && now.Sub(f.at) < keysStale && enough(f)
	if good && now.Sub(f.at) < keysFresh {
		s.mu.Unlock()
		return f, nil
	}
	if s.asking == nil && (s.asked.IsZero() || now.Sub(s.asked) >= askEvery || now.Before(s.asked)) {
		s.asking = make(chan struct{})
		go s.ask(s.asking)
	}
	done, failure := s.asking, s.failure
	s.mu.Unlock()
	if good {
		return f, nil
	}
	if done != nil {
		select {
		case <-done:
		case <-ctx.Done():
			return nil, errProviderOut.Because(ctx.Err())
		}
		s.mu.Lock()
		f, failure, now = s.known, s.failure, s.now()
		s.mu.Unlock()
	}
	switch {
	case f != nil && now.Sub(f.at) < keysStale && enough(f):
		return f, nil
	case failure != nil:
		return nil, errProviderOut.Because(failure)
	}
	return nil, errForeignKey
}

// ask asks the provider once. It ends by the client's timeout.
func (s *keySource) ask(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*providerTimeout)
	defer cancel()
	f, err := s.fetch(ctx)
	todo := adviceFor(err)
	if err != nil {
		// go-oidc's errors hold the whole answer, and each request that fails by
		// it, which are as many as strangers like, is logged with its cause.
		err = errors.New(cut(err.Error(), maxFailure))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking, s.asked, s.failure, s.todo = nil, s.now(), err, todo
	if err == nil {
		f.at = s.asked
		s.known = f
	}
	close(done)
}

func (s *keySource) fetch(ctx context.Context) (*providerFacts, error) {
	p, err := oidc.NewProvider(oidc.ClientContext(ctx, s.client), s.issuer)
	if err != nil {
		return nil, fmt.Errorf("metadata of %s: %w", s.issuer, err)
	}
	var more struct {
		JWKS       string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
		TokenAuth  []string `json:"token_endpoint_auth_methods_supported"`
		SendsIss   bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := p.Claims(&more); err != nil {
		return nil, fmt.Errorf("metadata of %s: %w", s.issuer, err)
	}
	f := &providerFacts{endpoint: p.Endpoint(), sendsIss: more.SendsIss, algorithms: more.Algorithms}
	// RFC 8414 section 2: without a word, the secret goes in the header.
	f.endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if len(more.TokenAuth) > 0 && !slices.Contains(more.TokenAuth, "client_secret_basic") {
		f.endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	addresses := map[string]string{"jwks_uri": more.JWKS}
	if s.signIn {
		addresses["token_endpoint"], addresses["authorization_endpoint"] = f.endpoint.TokenURL, f.endpoint.AuthURL
	}
	for what, address := range addresses {
		if err := s.endpoint(address); err != nil {
			return nil, fmt.Errorf("metadata of %s: %s %q %w", s.issuer, what, address, err)
		}
	}
	if f.keys, err = s.fetchKeys(ctx, more.JWKS); err != nil {
		return nil, fmt.Errorf("keys of %s: %w", s.issuer, err)
	}
	return f, nil
}

// endpoint refuses addresses that a provider of this issuer can't have.
func (s *keySource) endpoint(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return errors.New("is no URL")
	}
	if u.Scheme == "https" || u.Scheme == "http" && loopbackHost(u.Hostname()) && strings.HasPrefix(s.issuer, "http://") {
		return nil
	}
	return errors.New("is not https")
}

func (s *keySource) fetchKeys(ctx context.Context, address string) ([]jose.JSONWebKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return parseKeys(body)
}

// parseKeys reads a JWK set (RFC 7517 section 5). Keys that we can't use are
// left out, as the RFC wants it; a set without a usable one is an error.
func parseKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("not a key set: %w", err)
	}
	if len(set.Keys) > maxProviderKeys {
		return nil, fmt.Errorf("%d keys, of which at most %d are taken", len(set.Keys), maxProviderKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(raw); err != nil || (k.Use != "" && k.Use != "sig") || len(algorithmsOf(k.Key)) == 0 {
			continue
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key for signatures in the set")
	}
	return keys, nil
}

// algorithmsOf lists what a public key can verify; nothing for keys that are
// private, symmetric or too short.
func algorithmsOf(key any) []string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= 2048 && n <= 8192 && k.E >= 3 {
			return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
		}
	case *ecdsa.PublicKey:
		if name, ok := map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]; ok {
			return []string{name}
		}
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	}
	return nil
}

// find returns the keys of a name that verify an algorithm. A token that names
// no key is taken where there is no choice.
func (f *providerFacts) find(id, algorithm string) (found []any) {
	for i := range f.keys {
		k := &f.keys[i]
		if (id == "" || k.KeyID == id) && (k.Algorithm == "" || k.Algorithm == algorithm) && slices.Contains(algorithmsOf(k.Key), algorithm) {
			found = append(found, k.Key)
		}
	}
	if id == "" && len(found) > 1 {
		return nil
	}
	return found
}
