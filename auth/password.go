package auth

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	minPassword      = 8    // characters
	maxPassword      = 1024 // bytes; more is refused before anything is computed from it
	maxPattern       = 20   // characters up to which a pattern is looked for
	minBesideContext = 6    // characters a password must hold beside the user's and the product's name
)

// productName is a word everybody tries.
const productName = "modelgate"

// boundPassword refuses what no password can be, whatever it is needed for.
// Passwords are used verbatim: never trimmed, folded or normalised.
func boundPassword(password string) error {
	if len(password) > maxPassword {
		return ErrInvalid.With(fmt.Sprintf("the password is longer than %d bytes", maxPassword))
	}
	if !utf8.ValidString(password) {
		return ErrInvalid.With("the password is not valid UTF-8")
	}
	return nil
}

// checkPassword decides whether a new password is good enough, as OWASP ASVS
// 5.0 6.2 asks: length, no composition rules, not among those everybody tries,
// not made of the user's or the product's name.
func checkPassword(username, password string) error {
	if err := boundPassword(password); err != nil {
		return err
	}
	if n := utf8.RuneCountInString(password); n < minPassword {
		return ErrWeakPassword.With(fmt.Sprintf("the password has %d characters; take at least %d, a few words for instance", n, minPassword))
	}
	folded := strings.ToLower(password)
	switch {
	case commonPassword(folded):
		return ErrWeakPassword.With("this password is among the first that attackers try; take a few unrelated words or let a password manager choose")
	case monotonous(folded):
		return ErrWeakPassword.With("the password repeats or counts on one pattern; take a few unrelated words or let a password manager choose")
	case !besideContext(folded, strings.ToLower(username)):
		return ErrWeakPassword.With("the password is hardly more than the user name or the name of this service; take words that have nothing to do with them")
	}
	return nil
}

// besideContext says whether enough of a password is left without the words an
// attacker knows.
func besideContext(folded, username string) bool {
	rest := folded
	for _, word := range []string{productName, username, reversed(username)} {
		if len(word) > 2 {
			rest = strings.ReplaceAll(rest, word, "")
		}
	}
	if rest == folded {
		return true
	}
	return utf8.RuneCountInString(rest) >= minBesideContext && !commonPassword(rest) && !monotonous(rest)
}

func reversed(s string) string {
	b := []byte(s)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}

// monotonous finds passwords that repeat at most four characters ("abababab")
// or run through the alphabet or the digits ("abcdefgh", "87654321"). Longer
// ones pass: attackers try those of ordinary length.
func monotonous(s string) bool {
	r := []rune(s)
	if len(r) > maxPattern {
		return false
	}
	for period := 1; period <= 4; period++ {
		if repeats(r, period) {
			return true
		}
	}
	return runs(r, 1) || runs(r, -1)
}

func repeats(r []rune, period int) bool {
	for i := period; i < len(r); i++ {
		if r[i] != r[i-period] {
			return false
		}
	}
	return len(r) > period
}

func runs(r []rune, step rune) bool {
	for i := 1; i < len(r); i++ {
		if r[i] != r[i-1]+step && !(r[i-1] == '9' && step == 1 && r[i] == '0') && !(r[i-1] == '0' && step == -1 && r[i] == '9') {
			return false
		}
	}
	return len(r) > 1
}

// commonHashes is made by common_passwords.py: of every password of at least 8
// characters on a list of a million, in lower case, the first commonSize bytes
// of its SHA-256. The first two bytes choose one of 65536 buckets: the file
// begins with their sizes, one byte each, and goes on with the other three
// bytes of each hash in order. With 475,000 entries a password that is not on
// the list is refused by mistake once in 2.3 million.
//
//go:embed common_passwords.bin
var commonHashes string

const (
	commonBuckets = 1 << 16
	commonRest    = 3
)

// commonPassword says whether a password in lower case is on the list.
func commonPassword(folded string) bool {
	sum := sha256.Sum256([]byte(folded))
	bucket := int(sum[0])<<8 | int(sum[1])
	at := 0
	for i := range bucket {
		at += int(commonHashes[i])
	}
	at = commonBuckets + at*commonRest
	want := string(sum[2 : 2+commonRest])
	for range int(commonHashes[bucket]) {
		if commonHashes[at:at+commonRest] == want {
			return true
		}
		at += commonRest
	}
	return false
}
