package auth

import (
	"fmt"
	"math"
	"strings"
)

const (
	minSecret     = 32  // bytes, as many as HS256 has output (RFC 7518 section 3.2)
	minSecretBits = 100 // by the estimate below, which is cautious: 32 random hexadecimal digits have 128
	howToSecret   = "make one with: openssl rand -base64 48"
)

// sampleWords stand in the secrets of examples, and add nothing to a secret.
var sampleWords = []string{
	"supersecret", "modelgate", "development", "changeme", "change", "secret", "password", "passwort", "passwd", "example", "sample",
	"default", "insecure", "testing", "replace", "private", "signing", "please", "qwerty", "token", "super", "admin", "local", "production",
	"dummy", "placeholder", "minimum", "characters", "character", "bytes", "least", "jwt", "key", "your", "this", "test", "demo", "long",
	"that", "with", "must", "some", "very", "foo", "bar", "dev", "not", "for", "the", "use", "in",
}

// checkSecret refuses a signing secret that could be guessed. No estimate can
// prove that a string is random; this one finds short, sample, repeated,
// counted and spoken ones.
func checkSecret(secret string) error {
	if len(secret) < minSecret {
		return fmt.Errorf("the signing secret has %d bytes and needs at least %d; %s", len(secret), minSecret, howToSecret)
	}
	if bits := estimateBits(secret); bits < minSecretBits {
		return fmt.Errorf("the signing secret is easy to guess (about %.0f bits): it repeats itself or is made of words; %s", bits, howToSecret)
	}
	return nil
}

// estimateBits takes out what adds nothing (sample words, pieces seen before,
// runs) and multiplies what is left by its entropy per character.
func estimateBits(secret string) float64 {
	if spoken(secret) {
		return 0
	}
	b := []byte(secret)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	rest := string(b)
	oneCase := rest == secret || strings.ToUpper(secret) == secret
	for _, w := range sampleWords {
		if len(w) > 3 || oneCase { // short words are in random mixed-case strings by chance
			rest = strings.ReplaceAll(rest, w, " ")
		}
	}
	var kept []byte
	seen := map[string]bool{}
	counts := map[byte]int{}
	for i := range len(rest) {
		if i >= 3 {
			piece := rest[i-3 : i+1]
			if seen[piece] {
				continue
			}
			seen[piece] = true
		}
		if c := rest[i]; c != ' ' && !inRun(rest, i) {
			kept = append(kept, c)
			counts[c]++
		}
	}
	bits := 0.0
	for _, n := range counts {
		p := float64(n) / float64(len(kept))
		bits -= float64(n) * math.Log2(p)
	}
	return bits
}

// inRun says whether s[i] only carries on what stands before it, as in "aaa",
// "345" or "fed".
func inRun(s string, i int) bool {
	if i < 2 {
		return false
	}
	step := int(s[i]) - int(s[i-1])
	return step >= -1 && step <= 1 && step == int(s[i-1])-int(s[i-2])
}

// spoken says whether a string reads like text: nearly all letters, and most of
// them in one case.
func spoken(s string) bool {
	upper, lower, others := 0, 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z':
			lower++
		case 'A' <= c && c <= 'Z':
			upper++
		case !strings.ContainsRune(" -_.,!?'", rune(c)):
			others++
		}
	}
	return others*40 < upper+lower && max(upper, lower)*4 >= (upper+lower)*3
}
