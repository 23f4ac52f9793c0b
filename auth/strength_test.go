package auth

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
)

func TestWeakSecretsAreRefused(t *testing.T) {
	weak := []string{
		"secret", "changeme", "short-but-random-9f3A", strings.Repeat("a", 64), strings.Repeat("ab", 40), strings.Repeat("0123456789", 5),
		strings.Repeat("changeme", 8), strings.Repeat("s3cr3t", 12), "abcdefghijklmnopqrstuvwxyz0123456789", "0123456789abcdef0123456789abcdef",
		"your-256-bit-secret-your-256-bit-secret", "this is a secret key for my application", "supersecretjwtsigningkeychangemeplease!!",
		"my-super-secret-jwt-key-change-in-production-2024", "a-string-secret-at-least-256-bits-long", "modelgate-development-secret-0000000000",
		"correct horse battery staple correct horse", "please_change_this_secret_to_something_long", "qwertyuiopasdfghjklzxcvbnmqwertyuiop",
		"replace-me-with-at-least-32-characters!!", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"12345678901234567890123456789012", "deadbeefdeadbeefdeadbeefdeadbeefdeadbeef",
	}
	for _, s := range weak {
		_, err := OpenKeyring(t.Context(), KeyringConfig{Secret: s})
		if s != "" && err == nil {
			t.Errorf("%q (%.0f bits) was accepted", s, estimateBits(s))
		}
		if err != nil && (len(s) > 16 && strings.Contains(err.Error(), s) || !strings.Contains(err.Error(), "openssl")) {
			t.Errorf("%q: the message shows the secret or no way out: %v", s, err)
		}
	}
}

func TestRandomSecretsAreAccepted(t *testing.T) {
	b := make([]byte, 48)
	refused := map[string]int{}
	const rounds = 2000
	for range rounds {
		rand.Read(b)
		for kind, s := range map[string]string{
			"32 bytes in hex": hex.EncodeToString(b[:32]), "48 bytes in base64": base64.StdEncoding.EncodeToString(b),
			"32 bytes in base64url": base64.RawURLEncoding.EncodeToString(b[:32]), "24 bytes in base64": base64.StdEncoding.EncodeToString(b[:24]),
			"64 base32": rand.Text() + rand.Text() + rand.Text()[:12], "raw": string(b[:32]), "16 bytes in hex": hex.EncodeToString(b[:16]),
		} {
			if _, err := OpenKeyring(t.Context(), KeyringConfig{Secret: s}); err != nil {
				refused[kind]++
			}
		}
	}
	for kind, n := range refused {
		// Half of what is asked for (16 bytes) may be refused now and then.
		allowed := map[string]int{"16 bytes in hex": rounds / 4, "24 bytes in base64": rounds / 100}[kind]
		if n > max(allowed, 1) { // one in a thousand by chance
			t.Errorf("%s: %d of %d refused", kind, n, rounds)
		}
	}
}
