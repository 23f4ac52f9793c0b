package auth

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// FuzzNames holds the small readers of what clients write against their
// grammars: user names, rates, and the secrets of keys.
func FuzzNames(f *testing.F) {
	for _, text := range []string{"ada", "Ada", "a", "600-M", "0-S", "+1-S", "1e3-S", "600-m", "a.b_c-d", ".a", "ａｄａ", "İ", "a\x00b", "mg_" + strings.Repeat("0", 49), strings.Repeat("a", 65), "01-S"} {
		f.Add(text)
	}
	name := regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,63}$`)
	rate := regexp.MustCompile(`^[1-9][0-9]{0,12}-[SMHD]$`)
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := username(text); err == nil {
			if again, err := username(got); err != nil || again != got || !name.MatchString(got) || !strings.EqualFold(got, text) {
				t.Errorf("%q became the user name %q", text, got)
			}
		}
		if n, _, ok := parseRate(text); ok && (!rate.MatchString(text) || !strings.HasPrefix(text, fmt.Sprint(n)+"-")) {
			t.Errorf("%q was read as the rate %d", text, n)
		}
		if _, ok := secretHash(keyPrefix, text); ok && !strings.HasPrefix(text, keyPrefix) {
			t.Errorf("%q was read as a key", text)
		}
	})
}

// FuzzPasswordHash: a stored hash that is read asks for no more memory and time
// than the bounds.
func FuzzPasswordHash(f *testing.F) {
	for _, text := range []string{"", "$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "$2a$10$x", "$argon2id$v=19$m=-1,t=1,p=1$$"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, salt, sum, err := parseArgon(text)
		if err == nil && (c.memory > maxArgonMemory || c.time > maxArgonTime || c.parallel < 1 || len(salt) < 8 || len(sum) < 16) {
			t.Errorf("%q: %+v", text, c)
		}
	})
}
