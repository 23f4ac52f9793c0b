package auth

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Vault seals what the database must keep and nobody who reads it may see:
// private signing keys, seeds of one-time codes. It is safe for concurrent use.
//
// A sealed value is the name of its master key (8 bytes), a random nonce (12),
// and the ciphertext of AES-256-GCM with its tag (16). Purpose and id are the
// additional data, so that a value moved to another row or column does not open.
type Vault struct {
	keys []vaultKey // the first seals, all open; immutable
}

// vaultKey is derived from a master key, which is not kept.
type vaultKey struct {
	name string // keyNameSize bytes
	aead cipher.AEAD
}

const (
	masterKeySize = 32
	keyNameSize   = 8
	howToMaster   = "make one with: openssl rand -base64 32"
	maxMasterFile = 4096
)

// ErrMasterKey means that a value was sealed by a master key that the vault was
// not given.
var ErrMasterKey = errors.New("sealed by another master key")

// OpenVault opens the vault of a master key: 32 random bytes, in base64.
//
// It is secret, or when that is empty, what stands in the file at path. A file
// that is missing is made, with a random key, mode 0600, its folder with mode
// 0700; one that others than its owner may read is refused, as is a folder that
// they may write to, and a key that could be guessed. What a start that was
// killed meanwhile left beside it is removed.
//
// Several keys may stand there, separated by commas or blanks: the first seals,
// all of them open, so that a master key can be replaced.
func OpenVault(path, secret string) (*Vault, error) {
	if secret != "" {
		v, err := newVault(secret)
		if err != nil {
			return nil, fmt.Errorf("the master key: %w", err)
		}
		return v, nil
	}
	text, err := readMasterKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeMasterKey(path); err == nil || errors.Is(err, fs.ErrExist) { // another process may have been first
			text, err = readMasterKey(path)
		}
	}
	if err == nil {
		err = sweepKeys(filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("the master key: %w", err)
	}
	v, err := newVault(text)
	if err != nil {
		return nil, fmt.Errorf("the master key in %s: %w", path, err)
	}
	return v, nil
}

func newVault(text string) (*Vault, error) {
	v := new(Vault)
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
		key, err := parseMasterKey(word)
		if err != nil {
			return nil, err
		}
		k, err := newVaultKey(key)
		if err != nil {
			return nil, err
		}
		v.keys = append(v.keys, k)
	}
	if len(v.keys) == 0 {
		return nil, fmt.Errorf("there is none; %s", howToMaster)
	}
	return v, nil
}

// parseMasterKey takes both alphabets of base64, with padding or without. What
// it refuses is in no message.
func parseMasterKey(word string) ([]byte, error) {
	bare := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(word, "="))
	key, err := base64.RawStdEncoding.Strict().DecodeString(bare)
	if err != nil || len(key) != masterKeySize {
		return nil, fmt.Errorf("it is not %d bytes in base64; %s", masterKeySize, howToMaster)
	}
	if min(estimateBits(bare), estimateBits(string(key))) < minSecretBits {
		return nil, fmt.Errorf("it is easy to guess: it repeats itself or is made of words; %s", howToMaster)
	}
	return key, nil
}

// newVaultKey derives what seals and what names the key apart from each other
// (HKDF, RFC 5869), so that the name tells nothing of the key.
func newVaultKey(master []byte) (k vaultKey, err error) {
	name, err := hkdf.Key(sha256.New, master, nil, "modelgate vault: name of the master key", keyNameSize)
	if err != nil {
		return k, err
	}
	seal, err := hkdf.Key(sha256.New, master, nil, "modelgate vault: AES-256-GCM", 32)
	if err != nil {
		return k, err
	}
	block, err := aes.NewCipher(seal)
	if err != nil {
		return k, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return vaultKey{string(name), aead}, err
}

// Seal encrypts plain for one purpose and id (as "signing_key" and its kid),
// which Open must name again. The result is 36 bytes longer than plain.
func (v *Vault) Seal(purpose, id string, plain []byte) []byte {
	k := v.keys[0]
	return k.aead.Seal([]byte(k.name), nil, plain, sealedFor(purpose, id))
}

// Open decrypts what Seal made. ErrMasterKey names the key that is lacking; any
// other error means that the value was changed or belongs elsewhere.
func (v *Vault) Open(purpose, id string, sealed []byte) ([]byte, error) {
	if len(sealed) < keyNameSize {
		return nil, errors.New("not a sealed value")
	}
	for _, k := range v.keys {
		if k.name != string(sealed[:keyNameSize]) {
			continue
		}
		plain, err := k.aead.Open(nil, nil, sealed[keyNameSize:], sealedFor(purpose, id))
		if err != nil {
			return nil, fmt.Errorf("a sealed %s was changed, or is not the one of %q: %w", purpose, id, err)
		}
		return plain, nil
	}
	return nil, fmt.Errorf("%w, named %x; the one in use is named %s", ErrMasterKey, sealed[:keyNameSize], v.Name())
}

// Name tells master keys apart: 16 hexadecimal digits, of the one that seals. It
// tells nothing of the key.
func (v *Vault) Name() string { return hex.EncodeToString([]byte(v.keys[0].name)) }

// Stale says whether a sealed value should be sealed anew, because another
// master key than the one that seals now was used.
func (v *Vault) Stale(sealed []byte) bool {
	return len(sealed) < keyNameSize || v.keys[0].name != string(sealed[:keyNameSize])
}

// sealedFor is the additional data. The length keeps ("a", "bc") apart from
// ("ab", "c").
func sealedFor(purpose, id string) []byte {
	return fmt.Appendf(nil, "modelgate\x00%d\x00%s%s", len(purpose), purpose, id)
}

func readMasterKey(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := refuseWritable(filepath.Dir(path), "the master key"); err != nil {
		return "", err
	}
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("others than its owner may use %s (mode %#o): run chmod 600 %s; if somebody may have read it, replace it as docs/operations.md tells", path, mode, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxMasterFile))
	return string(b), err
}

// makeMasterKey writes a new key; the file appears whole or not at all, and one
// that is there already stays (fs.ErrExist).
func makeMasterKey(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := refuseWritable(dir, "the master key"); err != nil {
		return err
	}
	// Where there are no locks, what a killed start leaves stays, and two starts
	// at once still make one key.
	if unlock, err := lockDir(dir, true); err == nil {
		defer unlock()
		if err := removeLeftovers(dir); err != nil {
			return err
		}
	}
	var text string
	for { // once in some thousand times a random key looks like words
		key := make([]byte, masterKeySize)
		rand.Read(key)
		text = base64.StdEncoding.EncodeToString(key)
		if _, err := parseMasterKey(text); err == nil {
			break
		}
	}
	tmp, err := os.CreateTemp(dir, unfinished) // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(text + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil { // unlike a rename, fails when the name is taken
		return err
	}
	return syncDir(dir)
}

// refuseWritable refuses a folder in which others could put files of their own.
func refuseWritable(dir, what string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others than its owner may write to the folder of %s: run chmod 700 %s, and if somebody may have put a key there, remove it", what, dir)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
