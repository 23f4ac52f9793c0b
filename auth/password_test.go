package auth

import (
	"errors"
	"math"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPasswordPolicy(t *testing.T) {
	long := func(s string, runes int) string { return strings.Repeat(s, runes/utf8.RuneCountInString(s)+1) }
	good := []string{
		"lorry under seven bridges", "tr0ubador&3x", "  spaces around  ", "пароль-и-ещё-что-то", "密码是一句很长的话", "🦊🐢🦉🐝🦀🐙🦑🐌",
		string([]rune(long("Wortmühle-7Æ", 128))[:64]), string([]rune(long("Wortmühle-7Æ", 128))[:128]),
		strings.Repeat("ü", 64), strings.Repeat("x", 128), "nul\x00inside-it", "tab\tand\nline", "alices-neighbour-eats-figs", "the modelgate of the old town",
	}
	for _, p := range good {
		if err := checkPassword("alice", p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	weak := []string{
		"", "short77", "пароль7", "1234567",
		// common, in any case
		"password", "Password", "PASSWORD1", "12345678", "qwertyuiop", "iloveyou", "sunshine", "trustno1", "letmein1", "football1", "princess1", "1q2w3e4r5t", "passw0rd", "abc12345", "baseball", "superman", "11111111",
		// context
		"alice123", "Alice2024!", "123alice", "alicealice", "ecila12345", "modelgate", "ModelGate1", "modelgate2024", "modelgate!!!!", "alicemodelgate", "alice12345678", "alicepassword", "modelgatepassword",
		// patterns
		"aaaaaaaa", "abababab", "abcabcabc", "12341234", "zzzzzzzzzzzzzzzzzzzz", "abcdefghijkl", "456789012345", "98765432", "яяяяяяяяя", "гггггггг",
	}
	for _, p := range weak {
		err := checkPassword("alice", p)
		if !errors.Is(err, ErrWeakPassword) {
			t.Errorf("%q: %v", p, err)
			continue
		}
		if d := err.(*Error).Detail; p != "" && p != "password" && strings.Contains(d, p) || !strings.Contains(d, "take") {
			t.Errorf("%q: the answer shows it or does not help: %s", p, d)
		}
	}
	for _, p := range []string{strings.Repeat("x y ", 257), strings.Repeat("x", 1<<20), "not utf-8 \xff\xfe at all"} {
		if err := checkPassword("alice", p); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d bytes: %v", len(p), err)
		}
	}
	if err := checkPassword("ab", "crab-cabbage-slabs"); err != nil {
		t.Errorf("a short user name forbids common syllables: %v", err)
	}
}

// A megabyte is turned away by its length alone.
func TestHugePasswordIsCheap(t *testing.T) {
	huge := strings.Repeat("x", 1<<20)
	if n := testing.AllocsPerRun(100, func() { _ = boundPassword(huge) }); n > 3 {
		t.Errorf("%v allocations", n)
	}
}

func TestCommonPasswordList(t *testing.T) {
	n := 0
	for i := range commonBuckets {
		n += int(commonHashes[i])
	}
	if n < 100_000 || len(commonHashes) != commonBuckets+n*commonRest {
		t.Fatalf("%d passwords in %d bytes", n, len(commonHashes))
	}
	// What is refused by mistake stays within what password.go claims.
	if rate := float64(n) / math.Exp2(40); rate > 1/2.3e6 {
		t.Errorf("one in %.0f is refused by mistake", 1/rate)
	}
	hits := 0
	for i := range 5_000 {
		if commonPassword(strings.Repeat("k7", i%5) + newID("") + "x") {
			hits++
		}
	}
	if hits > 1 {
		t.Errorf("%d of 5000 random passwords are on the list", hits)
	}
}
