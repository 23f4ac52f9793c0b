package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Key signs the heads of one log. It is no key of anything else. Its id names
// the log, also in a database that several servers share.
type Key struct {
	private ed25519.PrivateKey
	id      string
}

// PublicKeys are keys that heads are checked with, by id.
type PublicKeys map[string]ed25519.PublicKey

const (
	privateBlock = "PRIVATE KEY" // PKCS #8
	publicBlock  = "PUBLIC KEY"  // SubjectPublicKeyInfo
	maxKeyFile   = 64 << 10
)

// OpenKey reads the key at path, or makes one, with mode 0600, where there is
// no file. A file that others than its owner may use is refused.
func OpenKey(path string) (*Key, error) {
	k, err := ReadKey(path)
	if !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("audit: make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("audit: make a key: %w", err)
	}
	if err := writeKey(path, pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der})); err != nil {
		return nil, fmt.Errorf("audit: keep the key of the log: %w", err)
	}
	return newKey(private)
}

// writeKey makes the file, whole or not at all.
func writeKey(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".audit-*.new") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// ReadKey reads a key that is there. The error is os.ErrNotExist if it is not.
func ReadKey(path string) (*Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("audit: the key of the log: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others than its owner may use the key of the audit log %s (mode %#o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	if info.Size() > maxKeyFile {
		return nil, errNoKey(path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("audit: the key of the log: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errNoKey(path)
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := any.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, errNoKey(path)
	}
	return newKey(private)
}

func errNoKey(path string) error {
	return fmt.Errorf("%s is no Ed25519 key (PEM, PKCS #8); put the key of the audit log back from a backup", path)
}

func newKey(private ed25519.PrivateKey) (*Key, error) {
	id, err := keyID(private.Public().(ed25519.PublicKey))
	return &Key{private: private, id: id}, err
}

// keyID is 128 bits of the SHA-256 of the public key (DER), in hexadecimal.
func keyID(public ed25519.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("audit: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:16]), nil
}

// ID names the key and its log: 32 hexadecimal digits.
func (k *Key) ID() string {
	if k == nil {
		return ""
	}
	return k.id
}

// Public is the public key as a PEM block.
func (k *Key) Public() []byte {
	der, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil { // an Ed25519 key has a form
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: der})
}

// Keys is the key as one to check heads with.
func (k *Key) Keys() PublicKeys {
	return PublicKeys{k.id: k.private.Public().(ed25519.PublicKey)}
}

// ParsePublicKeys reads the PEM blocks of a text, at least one. What stands
// between them is ignored.
func ParsePublicKeys(text []byte) (PublicKeys, error) {
	keys := PublicKeys{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		any, err := x509.ParsePKIXPublicKey(block.Bytes)
		public, ok := any.(ed25519.PublicKey)
		if block.Type != publicBlock || err != nil || !ok {
			return nil, errors.New("a block is no Ed25519 public key; give what \"modelgate audit key\" prints")
		}
		id, err := keyID(public)
		if err != nil {
			return nil, err
		}
		keys[id] = public
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no public key (PEM); give what \"modelgate audit key\" prints")
	}
	return keys, nil
}
