package auth

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Keyring holds the keys that sign and verify access tokens. It doesn't change
// once it is open.
type Keyring struct {
	signer *signingKey
	keys   map[string]*signingKey // by kid; the signer too
	public []byte                 // the JWK set
}

// signingKey is bound to one algorithm: a token that names its kid and another
// algorithm is forged (RFC 8725 section 3.1).
type signingKey struct {
	id      string
	method  jwt.SigningMethod
	private any
	verify  any
}

const keyBlock = "PRIVATE KEY" // PKCS #8

// OpenKeyring opens the keys of access tokens.
//
// With a secret they are signed by HS256, and nothing is read from dir. The
// secret must be hard to guess: at least 32 bytes, best made by `openssl rand
// -base64 48`; samples and phrases are refused.
//
// Without one they are signed by EdDSA (Ed25519). Every *.pem file in dir is a
// key (PKCS #8); the one with the last name signs, all of them verify, so that
// keys can be rotated with an overlap: put a new file beside the old one,
// restart, and remove the old one once its tokens have expired. If there is
// none, one is made; dir gets mode 0700, the file 0600. A key file that others
// than its owner may read, or a folder that they may write to, is refused.
func OpenKeyring(dir string, secret string) (*Keyring, error) {
	if secret != "" {
		return secretKeyring(secret)
	}
	if err := prepareKeyDir(dir); err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	if len(names) == 0 {
		name, err := makeKey(dir)
		if err != nil {
			return nil, fmt.Errorf("make a signing key: %w", err)
		}
		names = []string{name}
	}
	slices.Sort(names)
	var keys []*signingKey
	for _, name := range names {
		k, err := readKey(name)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return newKeyring(keys), nil
}

// newKeyring makes a ring whose last key signs.
func newKeyring(keys []*signingKey) *Keyring {
	r := &Keyring{signer: keys[len(keys)-1], keys: make(map[string]*signingKey)}
	type jwk struct {
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
	for _, k := range keys {
		r.keys[k.id] = k
		if pub, ok := k.verify.(ed25519.PublicKey); ok { // RFC 8037
			set.Keys = append(set.Keys, jwk{Kty: "OKP", Crv: "Ed25519", X: b64(pub), Kid: k.id, Alg: "EdDSA", Use: "sig"})
		}
	}
	r.public, _ = json.Marshal(set) // strings only: can't fail
	return r
}

func secretKeyring(secret string) (*Keyring, error) {
	if err := checkSecret(secret); err != nil {
		return nil, err
	}
	key := []byte(secret)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("modelgate key id")) // tells no more of the secret than any token does
	return newKeyring([]*signingKey{{id: b64(mac.Sum(nil)[:12]), method: jwt.SigningMethodHS256, private: key, verify: key}}), nil
}

func prepareKeyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("signing keys: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("signing keys: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others than its owner may write to the folder of the signing keys: run chmod 700 %s, and if somebody may have put a key there, remove the keys", dir)
	}
	return nil
}

// makeKey writes a new key; the file appears whole or not at all.
func makeKey(dir string) (name string, err error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(dir, "new-*") // mode 0600
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name()) // fails once it is renamed
	err = pem.Encode(tmp, &pem.Block{Type: keyBlock, Bytes: der})
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return "", err
	}
	id := thumbprint(private.Public().(ed25519.PublicKey))
	name = filepath.Join(dir, fmt.Sprintf("ed25519-%s-%s.pem", time.Now().UTC().Format("20060102T150405Z"), id[:8]))
	if err := os.Rename(tmp.Name(), name); err != nil {
		return "", err
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	return name, errors.Join(d.Sync(), d.Close())
}

func readKey(name string) (*signingKey, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("others than its owner may use the signing key %s (mode %#o): run chmod 600 %s; if somebody may have read it, remove it, and a new one is made (everybody logs in again)", name, mode, name)
	}
	b := make([]byte, 4096)
	n, err := f.Read(b)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", name, err)
	}
	block, _ := pem.Decode(b[:n])
	if block == nil || block.Type != keyBlock {
		return nil, fmt.Errorf("signing key %s: not a PEM file with a %q; remove it, and a new key is made if it was the only one", name, keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("signing key %s: not an Ed25519 key in PKCS #8", name)
	}
	public := private.Public().(ed25519.PublicKey)
	return &signingKey{id: thumbprint(public), method: jwt.SigningMethodEdDSA, private: private, verify: public}, nil
}

// thumbprint is the key's name after RFC 7638 and RFC 8037 appendix A.3.
func thumbprint(k ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + b64(k) + `"}`))
	return b64(sum[:])
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// JWKS is the set of public keys that verify access tokens, as RFC 7517 writes
// it. With a shared secret there is no public key, and the set is empty.
func (s *Service) JWKS() []byte { return s.cfg.Keys.public }
