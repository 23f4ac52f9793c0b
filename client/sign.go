package client

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// Sign signs a model file, read to its end, for publication as model (Ed25519,
// RFC 8032), for Spec.Signature. What is signed is
//
//	"modelgate model v1\n" + model + "\n" + lower-case hex SHA-256 of the file + "\n"
func Sign(key ed25519.PrivateKey, model string, file io.Reader) ([]byte, error) {
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return nil, fmt.Errorf("signing the model: %w", err)
	}
	return ed25519.Sign(key, []byte("modelgate model v1\n"+model+"\n"+hex.EncodeToString(hash.Sum(nil))+"\n")), nil
}
