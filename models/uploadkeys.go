package models

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
)

// UploadKeys are the Ed25519 keys (RFC 8032) of those who may sign models.
type UploadKeys struct{ keys []uploadKey }

type uploadKey struct {
	public      ed25519.PublicKey
	fingerprint string
}

// maxUploadKeys bounds what one upload costs: it is tried against every key.
const maxUploadKeys = 64

// ParseUploadKeys reads PEM blocks "PUBLIC KEY" (SubjectPublicKeyInfo, RFC 8410),
// as "openssl pkey -pubout" writes them, one or several; text around them is
// left alone.
func ParseUploadKeys(text []byte) (*UploadKeys, error) {
	k := &UploadKeys{}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("a PEM block is %q; upload keys are \"PUBLIC KEY\", as \"openssl pkey -in KEY -pubout\" writes them", block.Type)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		public, ok := key.(ed25519.PublicKey)
		if err != nil || !ok {
			return nil, errors.New("a public key is not Ed25519; make one with: openssl genpkey -algorithm ed25519")
		}
		k.keys = append(k.keys, uploadKey{public, Fingerprint(public)})
	}
	if bytes.Contains(text, []byte("-----BEGIN")) {
		return nil, errors.New("a PEM block is damaged")
	}
	if len(k.keys) == 0 || len(k.keys) > maxUploadKeys {
		return nil, fmt.Errorf("there are %d public keys; give 1 to %d in PEM", len(k.keys), maxUploadKeys)
	}
	return k, nil
}

// Fingerprint names a key: "SHA256:" and the SHA-256 of its
// SubjectPublicKeyInfo in base64 without padding.
func Fingerprint(public ed25519.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "" // not for keys of this type
	}
	sum := sha256.Sum256(der)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// UploadMessage is what is signed of an upload: three lines, each with a line
// feed at its end. The first keeps signatures of these keys for other ends from
// being taken for one of ours; the name keeps a signed file from being published
// as another model; digest is the file's lower-case hex SHA-256.
func UploadMessage(name, digest string) []byte {
	return []byte("modelgate model v1\n" + name + "\n" + digest + "\n")
}

// check returns the fingerprint of the key that signed the file of that digest
// for the model, or fails with a *Rejected.
func (k *UploadKeys) check(name, digest string, signature []byte) (fingerprint string, err error) {
	switch {
	case len(signature) == 0:
		return "", refuse("signature", "this server takes signed models only, and the upload has no signature; send it with \"modelgate push --sign-key FILE\", or as the part \"signature\"")
	case len(signature) != ed25519.SignatureSize:
		return "", refuse("signature", "the signature is no Ed25519 signature, which has 64 bytes")
	}
	message := UploadMessage(name, digest)
	for _, key := range k.keys {
		if ed25519.Verify(key.public, message, signature) {
			return key.fingerprint, nil
		}
	}
	return "", refuse("signature", "no key that this server knows has signed this very file for the model %s; sign it for that name, with a key whose public part its operator has configured", quote([]byte(name)))
}
