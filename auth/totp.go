package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Codes of six digits are what RFC 6238 makes of a secret and the time: the
// parameters are those that every authenticator application takes. This is our
// own function since it has twelve lines, and since the libraries say whether a
// code is good, but not of which time step it is, without which a code can't be
// used up.
const (
	totpStep   = 30 * time.Second
	totpDrift  = 1  // steps by which a clock may be off, each way
	totpDigits = 6  // 10^6 codes
	totpBytes  = 20 // of a secret: 160 bits, as RFC 4226 section 4 recommends

	enrolWithin = 10 * time.Minute // from the secret to its first code

	// guessBurst wrong codes may come at once, and another each guessEvery: at
	// most 250 a day, of which each hits with a chance of 3 in a million. Only
	// who has proved the password can use them up, and recovery codes are not
	// held up by it.
	guessBurst = 10
	guessEvery = 6 * time.Minute

	recoveryCodes  = 10
	recoveryDigits = 25 // of base32: 125 bits, so that a plain hash is enough (OWASP ASVS 5.0 6.5.2 asks for 112)
	recoveryGroup  = 5

	maxOTP = 64 // bytes of what a caller sends as a code
)

// TOTP is a user's second factor: the secret that he shares with an
// authenticator application, and his recovery codes.
type TOTP struct {
	UserID    string
	Secret    []byte // sealed by the Vault for purpose "totp" and the user's id
	Active    bool   // false until the first code has proved that the user has the secret
	SessionID string // while not active: the session that began it, which alone may finish it
	LastStep  int64  // time step of the last code that was used; that and older ones are used up
	// Guesses is when all wrong codes will be forgotten: each puts it off.
	Guesses   time.Time
	Codes     [][32]byte // SHA-256 of the recovery codes that are left
	CreatedAt time.Time
}

// hotp is the code of RFC 4226 section 5.3 for a counter.
func hotp(secret []byte, counter int64) string {
	mac := hmac.New(sha1.New, secret)
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(counter))
	mac.Write(b[:])
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	n := binary.BigEndian.Uint32(sum[at:]) & 0x7fffffff
	return fmt.Sprintf("%0*d", totpDigits, n%1_000_000)
}

// stepOf is RFC 6238's T at a time.
func stepOf(t time.Time) int64 { return t.Unix() / int64(totpStep/time.Second) }

// stepOfCode returns the time step around now whose code it is.
func stepOfCode(secret []byte, code string, now time.Time) (step int64, ok bool) {
	for s := stepOf(now) - totpDrift; s <= stepOf(now)+totpDrift; s++ {
		if subtle.ConstantTimeCompare([]byte(hotp(secret, s)), []byte(code)) == 1 {
			step, ok = s, true // the newest of them: older ones are used up with it
		}
	}
	return step, ok
}

var base32Text = base32.StdEncoding.WithPadding(base32.NoPadding)

// totpURI is what a QR code for authenticator applications holds
// (github.com/google/google-authenticator/wiki/Key-Uri-Format).
func totpURI(secret []byte, server, username string) string {
	q := url.Values{"secret": {base32Text.EncodeToString(secret)}, "issuer": {server},
		"algorithm": {"SHA1"}, "digits": {fmt.Sprint(totpDigits)}, "period": {fmt.Sprint(int(totpStep / time.Second))}}
	// Applications want %20 for a blank, also in the query.
	query := strings.ReplaceAll(q.Encode(), "+", "%20")
	return "otpauth://totp/" + url.PathEscape(server) + ":" + url.PathEscape(username) + "?" + query
}

// serverName is how an authenticator application lists this server.
func serverName(issuer string) string {
	if u, err := url.Parse(issuer); err == nil && u.Hostname() != "" {
		return productName + " " + strings.ReplaceAll(u.Hostname(), ":", "-") // a colon would end the name
	}
	return productName
}

// newRecoveryCodes makes codes as people type them, and the hashes they are
// stored under.
func newRecoveryCodes() (codes []string, hashes [][32]byte) {
	for range recoveryCodes {
		code := strings.ToLower(rand.Text()[:recoveryDigits])
		hashes = append(hashes, sha256.Sum256([]byte(code)))
		var groups []string
		for group := range slices.Chunk([]byte(code), recoveryGroup) {
			groups = append(groups, string(group))
		}
		codes = append(codes, strings.Join(groups, "-"))
	}
	return codes, hashes
}

// plainCode takes out what people put into codes to read them better.
func plainCode(otp string) string {
	return lower(strings.NewReplacer(" ", "", "-", "").Replace(otp))
}

func isTOTP(code string) bool {
	return len(code) == totpDigits && strings.Trim(code, "0123456789") == ""
}

// verdict is what a code turns out to be.
type verdict string

const (
	codeWrong    verdict = "wrong_code"
	codeUsed     verdict = "used_code" // right, but used up
	codeTooMany  verdict = "too_many_codes"
	codeGood     verdict = "totp"
	codeRecovery verdict = "recovery_code"
)

func (v verdict) good() bool { return v == codeGood || v == codeRecovery }

// judge decides on a code and returns the second factor as it is afterwards:
// with the code used up, or the guess counted. wait is when the next guess may
// come after codeTooMany.
func (t TOTP) judge(secret []byte, otp string, now time.Time) (after TOTP, v verdict, wait time.Duration) {
	code := plainCode(otp)
	if !isTOTP(code) {
		return t.judgeRecovery(code)
	}
	if next := t.Guesses.Add(-(guessBurst - 1) * guessEvery); next.After(now) {
		return t, codeTooMany, next.Sub(now)
	}
	step, ok := stepOfCode(secret, code, now)
	if ok && step > t.LastStep {
		t.LastStep = step
		return t, codeGood, 0
	}
	if t.Guesses.Before(now) {
		t.Guesses = now
	}
	t.Guesses = t.Guesses.Add(guessEvery)
	if ok {
		return t, codeUsed, 0
	}
	return t, codeWrong, 0
}

// judgeRecovery takes a recovery code out of the list. Guesses are not counted:
// a lifetime of them would not hit.
func (t TOTP) judgeRecovery(code string) (TOTP, verdict, time.Duration) {
	if len(code) == recoveryDigits {
		if i := slices.Index(t.Codes, sha256.Sum256([]byte(code))); i >= 0 {
			t.Codes = slices.Delete(slices.Clone(t.Codes), i, i+1)
			return t, codeRecovery, 0
		}
	}
	return t, codeWrong, 0
}
