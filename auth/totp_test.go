package auth

import (
	"crypto/sha256"
	"encoding/base32"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// The values of RFC 4226 appendix D, and of RFC 6238 appendix B for SHA-1, of
// which we take the last six digits of eight.
func TestCodesOfTheRFCs(t *testing.T) {
	secret := []byte("12345678901234567890")
	for counter, want := range []string{"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"} {
		if got := hotp(secret, int64(counter)); got != want {
			t.Errorf("counter %d: %s, want %s", counter, got, want)
		}
	}
	for unix, want := range map[int64]string{
		59: "94287082", 1111111109: "07081804", 1111111111: "14050471", 1234567890: "89005924", 2000000000: "69279037", 20000000000: "65353130",
	} {
		at := time.Unix(unix, 0)
		if got := hotp(secret, stepOf(at)); got != want[2:] {
			t.Errorf("at %d: %s, want %s", unix, got, want[2:])
		}
		step, ok := stepOfCode(secret, want[2:], at)
		if !ok || step != stepOf(at) {
			t.Errorf("at %d: step %d, %v", unix, step, ok)
		}
	}
}

// A clock may be one step off, and no more.
func TestDrift(t *testing.T) {
	secret := []byte("12345678901234567890")
	now := time.Unix(1_900_000_000, 0)
	for off := int64(-4); off <= 4; off++ {
		step, ok := stepOfCode(secret, hotp(secret, stepOf(now)+off), now)
		if want := off >= -1 && off <= 1; ok != want || ok && step != stepOf(now)+off {
			t.Errorf("%d steps off: step %d, %v", off, step, ok)
		}
	}
}

// A code is good once, older ones are then used up too, and so are the codes of
// a clock that is behind.
func TestCodesAreUsedUp(t *testing.T) {
	secret := []byte("12345678901234567890")
	now := time.Unix(1_900_000_000, 0)
	code := func(off int64) string { return hotp(secret, stepOf(now)+off) }
	f := TOTP{UserID: "u", Active: true}
	check := func(otp string, want verdict) {
		t.Helper()
		var got verdict
		if f, got, _ = f.judge(secret, otp, now); got != want {
			t.Errorf("%q: %s, want %s", otp, got, want)
		}
	}
	check(code(0), codeGood)
	check(code(0), codeUsed)
	check(code(-1), codeUsed)
	check(code(1)[:3]+" "+code(1)[3:], codeGood)
	check(code(1), codeUsed)
	check(code(0), codeUsed)
	now = now.Add(totpStep)
	check(code(0), codeUsed)
	check(code(1), codeGood)
	for _, otp := range []string{"", "12345", "1234567", "abcdef", "１２３４５６", "12345\x00", code(2) + "0", strings.Repeat("1", 100)} {
		check(otp, codeWrong)
	}
}

// Wrong codes run out, come back one at a time, and only they are counted.
func TestGuessesAreCounted(t *testing.T) {
	secret := []byte("12345678901234567890")
	now := time.Unix(1_900_000_000, 0)
	wrong := func() string { // none of the three that would pass
		for code := range slices.Values([]string{"000000", "111111", "222222", "333333"}) {
			if _, ok := stepOfCode(secret, code, now); !ok {
				return code
			}
		}
		panic("four codes of three steps")
	}
	codes, hashes := newRecoveryCodes()
	f := TOTP{UserID: "u", Active: true, Codes: hashes}
	try := func(otp string) (verdict, time.Duration) {
		var v verdict
		var wait time.Duration
		f, v, wait = f.judge(secret, otp, now)
		return v, wait
	}
	for i := range guessBurst {
		if v, _ := try(wrong()); v != codeWrong {
			t.Fatalf("guess %d: %s", i+1, v)
		}
		if v, _ := try("no code at all"); v != codeWrong {
			t.Fatalf("no code: %s", v)
		}
	}
	full := f
	v, wait := try(hotp(secret, stepOf(now)))
	if v != codeTooMany || wait != guessEvery {
		t.Fatalf("the right code after %d wrong ones: %s, wait %s", guessBurst, v, wait)
	}
	if f.Guesses != full.Guesses {
		t.Error("waiting takes longer by asking")
	}
	if v, _ := try(codes[3]); v != codeRecovery {
		t.Errorf("a recovery code is held up: %s", v)
	}
	now = now.Add(wait - time.Second)
	if v, wait := try(wrong()); v != codeTooMany || wait != time.Second {
		t.Errorf("a second early: %s, %s", v, wait)
	}
	now = now.Add(time.Second)
	if v, _ := try(wrong()); v != codeWrong {
		t.Errorf("one came back: %s", v)
	}
	if v, _ := try(wrong()); v != codeTooMany {
		t.Errorf("one came back, not two: %s", v)
	}
	// The bound that docs/security.md tells, over a day.
	f.Guesses = time.Time{}
	guesses := 0
	for end := now.Add(24 * time.Hour); now.Before(end); {
		v, wait := try(wrong())
		if v == codeWrong {
			guesses++
		}
		now = now.Add(wait)
	}
	if guesses != 250-1 && guesses != 250 {
		t.Errorf("%d guesses in a day", guesses)
	}
	now = now.Add(guessBurst * guessEvery)
	if v, _ := try(hotp(secret, stepOf(now))); v != codeGood {
		t.Errorf("after all that: %s", v)
	}
}

// Recovery codes have 125 bits, are written for people, read as people write,
// and are stored as hashes.
func TestRecoveryCodes(t *testing.T) {
	codes, hashes := newRecoveryCodes()
	if len(codes) != 10 || len(hashes) != 10 {
		t.Fatalf("%d codes, %d hashes", len(codes), len(hashes))
	}
	seen := map[string]bool{}
	for i, code := range codes {
		bare := strings.ReplaceAll(code, "-", "")
		if seen[code] || len(code) != 29 || len(bare)*5 < 112 || strings.Trim(bare, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			t.Errorf("code %q", code)
		}
		seen[code] = true
		if hashes[i] != sha256.Sum256([]byte(bare)) {
			t.Errorf("code %d is stored otherwise", i)
		}
	}
	f := TOTP{UserID: "u", Active: true, Codes: hashes}
	given := slices.Clone(hashes)
	for i, written := range []string{codes[0], strings.ToUpper(codes[1]), strings.ReplaceAll(codes[2], "-", ""), " " + strings.ReplaceAll(codes[3], "-", " ") + " "} {
		for try, want := range []verdict{codeRecovery, codeWrong} {
			var got verdict
			if f, got, _ = f.judge(nil, written, time.Unix(0, 0)); got != want || len(f.Codes) != 9-i {
				t.Errorf("%q, use %d: %s, %d left", written, try+1, got, len(f.Codes))
			}
		}
	}
	if !slices.Equal(given, hashes) {
		t.Error("the list that was handed in has changed")
	}
}

// Applications read the secret and the names out of the URI.
func TestTOTPURI(t *testing.T) {
	secret := []byte("12345678901234567890")
	u, err := url.Parse(totpURI(secret, serverName("https://models.example.com:8443/x"), "ada.l-2"))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Scheme != "otpauth" || u.Host != "totp" || u.Path != "/modelgate models.example.com:ada.l-2" || strings.Contains(u.String(), "+") {
		t.Errorf("%s", u)
	}
	for name, want := range map[string]string{"secret": base32.StdEncoding.EncodeToString(secret), "issuer": "modelgate models.example.com", "algorithm": "SHA1", "digits": "6", "period": "30"} {
		if q.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, q.Get(name), want)
		}
	}
	for issuer, want := range map[string]string{"http://127.0.0.1:8080": "modelgate 127.0.0.1", "https://[2001:db8::1]": "modelgate 2001-db8--1", "some name": "modelgate"} {
		if got := serverName(issuer); got != want {
			t.Errorf("%s: %q, want %q", issuer, got, want)
		}
	}
}
