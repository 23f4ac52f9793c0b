package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"math/big"
	"strings"
)

// Opaque secrets: a prefix that tells their kind, also to scanners of
// repositories, 256 random bits in base62, and a CRC-32 in base62, so that a
// mistyped one is known without asking the database. Only the SHA-256 of the
// whole string is ever stored.
const (
	keyPrefix     = "mg_"
	refreshPrefix = "mgr_"
	cookiePrefix  = "mgb_"
	invitePrefix  = "mgi_"
	resetPrefix   = "mgp_"
	clientPrefix  = "mgs_"

	randomDigits = 43 // 62^43 > 2^256
	checkDigits  = 6  // 62^6 > 2^32
)

// newSecret makes a secret and the hash it is stored under.
func newSecret(prefix string) (secret string, hash [32]byte) {
	var b [32]byte
	rand.Read(b[:])
	body := prefix + base62(new(big.Int).SetBytes(b[:]), randomDigits)
	secret = body + checksum(body)
	return secret, sha256.Sum256([]byte(secret))
}

// secretHash returns the hash a secret is stored under; false for what can't be
// a secret with that prefix.
func secretHash(prefix, secret string) (hash [32]byte, ok bool) {
	if len(secret) != len(prefix)+randomDigits+checkDigits || !strings.HasPrefix(secret, prefix) {
		return hash, false
	}
	body := secret[:len(prefix)+randomDigits]
	if secret[len(body):] != checksum(body) {
		return hash, false
	}
	return sha256.Sum256([]byte(secret)), true
}

func checksum(body string) string {
	return base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(body)))), checkDigits)
}

func base62(n *big.Int, digits int) string {
	s := n.Text(62)
	return strings.Repeat("0", digits-len(s)) + s
}

// newID makes a random identifier of 130 bits, as in "u_4k7...".
func newID(prefix string) string { return prefix + strings.ToLower(rand.Text()) }
