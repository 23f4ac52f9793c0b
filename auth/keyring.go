package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// KeyringConfig is what OpenKeyring needs: Secret, or Store and Vault. Durations
// that are zero take the defaults named, but for Every.
type KeyringConfig struct {
	// Secret signs by HS256, and nothing else is looked at. It must be hard to
	// guess: at least 32 bytes, best made by `openssl rand -base64 48`; samples and
	// phrases are refused.
	Secret string

	Store Store
	Vault *Vault
	// Dir held the keys in earlier versions, as *.pem; they are taken over into the
	// Store, and removed there. Empty: none did.
	Dir string
	// Every is how often a new key is made; 0: by command alone.
	Every time.Duration
	// Lead is how long a new key is published before it signs, so that all who
	// verify know it by then; 10 minutes.
	Lead time.Duration
	// AccessTTL is the life of access tokens: a key verifies for so long after the
	// next one signs; 15 minutes.
	AccessTTL time.Duration
	Now       func() time.Time // nil: time.Now
	Logger    *slog.Logger     // nil: slog.Default
}

// Keyring holds the keys that sign and verify access tokens. Its ring is
// immutable and replaced as a whole, so that reading takes no lock.
type Keyring struct {
	cfg    KeyringConfig
	method jwt.SigningMethod // of all keys
	ring   atomic.Pointer[ring]
}

// ring is the keys of one moment, the first to be active first. Immutable.
type ring struct{ keys []*signingKey }

// signingKey is bound to one algorithm: a token that names its kid and another
// algorithm is forged (RFC 8725 section 3.1).
type signingKey struct {
	id      string
	method  jwt.SigningMethod
	private any
	verify  any
	created time.Time
	active  time.Time // signs from then on, until a later one does
	retire  time.Time // verifies until then; zero: always
}

const (
	// keyPurpose is what signing keys are sealed for.
	keyPurpose = "signing_key"
	// keySlack is how much longer than the life of a token a key verifies: servers
	// may hear late of the next one, and clocks differ by leeway.
	keySlack = time.Minute
	// maxSigningKeys bounds what commands can make of the JWK set.
	maxSigningKeys = 20
)

// OpenKeyring opens the keys of access tokens.
//
// Without a secret they are Ed25519 keys (EdDSA) in the Store, sealed by the
// Vault. The first is made at need. Servers that share the Store share the keys.
// A key that the Vault can't open stops the start: ErrMasterKey.
func OpenKeyring(ctx context.Context, cfg KeyringConfig) (*Keyring, error) {
	if cfg.Secret != "" {
		return secretKeyring(cfg.Secret)
	}
	if cfg.Store == nil || cfg.Vault == nil {
		return nil, errors.New("auth: the keyring needs a Store and a Vault, or a secret")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Lead == 0 {
		cfg.Lead = 10 * time.Minute
	}
	if cfg.AccessTTL == 0 {
		cfg.AccessTTL = defaultAccessTTL
	}
	k := &Keyring{cfg: cfg, method: jwt.SigningMethodEdDSA}
	rows, err := k.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	keys, err := k.unseal(rows)
	if errors.Is(err, ErrMasterKey) {
		return nil, fmt.Errorf("%w: give the master key that the keys in the database were sealed by; if it is lost, 'modelgate admin rewrap --discard' removes what it sealed", err)
	}
	if err != nil {
		return nil, err
	}
	k.ring.Store(&ring{keys})
	if k.signer(cfg.Now()) == nil {
		return nil, errors.New("signing keys: all of those in the database have ended; is the clock right?")
	}
	return k, nil
}

func secretKeyring(secret string) (*Keyring, error) {
	if err := checkSecret(secret); err != nil {
		return nil, err
	}
	key := []byte(secret)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("modelgate key id")) // tells no more of the secret than any token does
	k := &Keyring{method: jwt.SigningMethodHS256}
	k.ring.Store(&ring{[]*signingKey{{id: b64(mac.Sum(nil)[:12]), method: k.method, private: key, verify: key}}})
	return k, nil
}

// stored says whether the keys are in the Store, and can be rotated.
func (k *Keyring) stored() bool { return k.cfg.Store != nil }

// signer returns the key that signs at a time, or nil: of those whose time has
// come the last. Where none's has, the clock went back, and the first signs: it
// verifies already, and nobody could sign in otherwise until the clock is there
// again.
func (k *Keyring) signer(now time.Time) *signingKey {
	keys := k.ring.Load().keys
	for i := len(keys) - 1; i >= 0; i-- {
		if !keys[i].active.After(now) && keys[i].verifies(now) {
			return keys[i]
		}
	}
	for _, key := range keys {
		if key.verifies(now) {
			return key
		}
	}
	return nil
}

// find returns the key of that name, or nil. One that does not sign yet will do:
// the clock of another server may be ahead.
func (k *Keyring) find(id string, now time.Time) *signingKey {
	for _, key := range k.ring.Load().keys {
		if key.id == id && key.verifies(now) {
			return key
		}
	}
	return nil
}

func (k *signingKey) verifies(now time.Time) bool { return k.retire.IsZero() || now.Before(k.retire) }

// unseal makes keys of rows. Those that can't be opened are left out, and are the
// error. The public part is made from the private one: who can write to the
// database and has no master key can't bring in a key of his own.
func (k *Keyring) unseal(rows []SigningKey) (keys []*signingKey, err error) {
	for _, row := range rows {
		seed, failed := k.cfg.Vault.Open(keyPurpose, row.ID, row.Sealed)
		if failed == nil && len(seed) != ed25519.SeedSize {
			failed = fmt.Errorf("it has %d bytes", len(seed))
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("signing key %s: %w", row.ID, failed))
			continue
		}
		private := ed25519.NewKeyFromSeed(seed)
		public := private.Public().(ed25519.PublicKey)
		if thumbprint(public) != row.ID {
			err = errors.Join(err, fmt.Errorf("signing key %s: its name is another's", row.ID))
			continue
		}
		keys = append(keys, &signingKey{id: row.ID, method: k.method, private: private, verify: public,
			created: row.CreatedAt, active: row.ActiveAt, retire: row.RetireAt})
	}
	slices.SortStableFunc(keys, func(a, b *signingKey) int { return a.active.Compare(b.active) })
	return keys, err
}

// replace makes the ring of rows, unless it is another one than before. Keys that
// can't be opened are told to the log: tokens that they signed are refused here.
func (k *Keyring) replace(before *ring, rows []SigningKey) bool {
	keys, err := k.unseal(rows)
	if err != nil {
		k.cfg.Logger.Error("a signing key of the database can't be used; do all servers have the same master key?", "cause", err)
	}
	return k.ring.CompareAndSwap(before, &ring{keys})
}

// reload asks the Store for the keys, when they are there. It asks again when
// another call was faster: what that one read may be older or newer, and a key
// that was taken away must not come back.
func (k *Keyring) reload(ctx context.Context) error {
	if !k.stored() {
		return nil
	}
	for {
		before := k.ring.Load()
		rows, err := k.cfg.Store.SigningKeys(ctx)
		if err == nil && len(rows) == 0 { // removed from outside, as Rewrap can
			rows, err = k.first(ctx, nil)
		}
		if err != nil || k.replace(before, rows) {
			return err
		}
	}
}

// newKey makes a key, sealed; when it is active is left open.
func (k *Keyring) newKey(now time.Time) (SigningKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return SigningKey{}, err
	}
	return k.seal(private, now), nil
}

func (k *Keyring) seal(private ed25519.PrivateKey, now time.Time) SigningKey {
	id := thumbprint(private.Public().(ed25519.PublicKey))
	return SigningKey{ID: id, Sealed: k.cfg.Vault.Seal(keyPurpose, id, private.Seed()), CreatedAt: now}
}

// settled drops the keys that verify nothing any more, and gives each of the rest
// its end: the last verifies until there is a later one, the others until the
// last token that they sign has expired.
func (k *Keyring) settled(keys []SigningKey, now time.Time) []SigningKey {
	keys = slices.DeleteFunc(keys, func(key SigningKey) bool { return !key.RetireAt.IsZero() && !now.Before(key.RetireAt) })
	slices.SortStableFunc(keys, func(a, b SigningKey) int { return a.ActiveAt.Compare(b.ActiveAt) })
	for i := range keys {
		switch {
		case i == len(keys)-1:
			keys[i].RetireAt = time.Time{}
		case keys[i].RetireAt.IsZero():
			keys[i].RetireAt = keys[i+1].ActiveAt.Add(k.cfg.AccessTTL + keySlack)
		}
	}
	return keys
}

// jwks writes the public keys that verify at a time.
func (k *Keyring) jwks(now time.Time) []byte {
	type jwk struct { // RFC 8037
		Kty string `json:"kty"`
		Crv string `json:"crv"`
		X   string `json:"x"`
		Kid string `json:"kid"`
		Alg string `json:"alg"`
		Use string `json:"use"`
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: []jwk{}}
	for _, key := range k.ring.Load().keys {
		if public, ok := key.verify.(ed25519.PublicKey); ok && key.verifies(now) {
			set.Keys = append(set.Keys, jwk{Kty: "OKP", Crv: "Ed25519", X: b64(public), Kid: key.id, Alg: "EdDSA", Use: "sig"})
		}
	}
	b, _ := json.Marshal(set) // strings only: can't fail
	return b
}

// thumbprint is the key's name after RFC 7638 and RFC 8037 appendix A.3.
func thumbprint(k ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + b64(k) + `"}`))
	return b64(sum[:])
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// JWKS is the set of public keys that verify access tokens, as RFC 7517 writes
// it: those that sign, will sign, and have signed tokens that are still good.
// With a shared secret there is no public key, and the set is empty.
func (s *Service) JWKS() []byte { return s.cfg.Keys.jwks(s.cfg.Now()) }

// JWKSAge is how long the set may be kept by who verifies tokens himself: half of
// the time for which a key is published before it signs, so that a server which
// heard late of it, and a cache on the way, have their part.
func (s *Service) JWKSAge() time.Duration { return s.cfg.Keys.cfg.Lead / 2 }
