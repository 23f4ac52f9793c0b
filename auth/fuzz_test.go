package auth_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// FuzzToken signs any header and claims with the server's key: what is taken
// is an access token of this server, by another reader of JSON as well. What
// nobody signed is never taken.
func FuzzToken(f *testing.F) {
	e := newEnv(f)
	forger := newForger(f, e)
	good, now := forger.Good(), float64(e.clock.now().Unix())
	f.Add(forger.Header(), forger.With())
	for i, c := range forger.Forged() {
		if i%20 == 0 && len(c.Token) < 2000 && !strings.HasPrefix(c.Name, "T13 ") { // those are signed
			f.Add(c.Token, forger.With())
		}
	}
	for _, value := range []string{"1e3", "null", "9223372036854775807", `"x"`, "[]"} {
		f.Add(forger.Header(), fmt.Sprintf(`{"exp":%s,"iss":%q,"aud":%q,"sub":"u","sid":"s","jti":"j","client_id":"c","iat":1,"nbf":1}`, value, issuer, audience))
	}
	f.Fuzz(func(t *testing.T, header, claims string) {
		if header != good && e.Verify(header) == nil {
			t.Errorf("unsigned, and taken: %q", header)
		}
		if e.Verify(forger.Sign(header, claims)) != nil {
			return
		}
		var h, c map[string]any
		if err := json.Unmarshal([]byte(header), &h); err != nil || len(h) != 3 || h["alg"] != "EdDSA" || h["kid"] != forger.KeyID {
			t.Errorf("header %q: %v", header, err)
		}
		if err := json.Unmarshal([]byte(claims), &c); err != nil || c["iss"] != issuer || c["aud"] != audience {
			t.Errorf("claims %q: %v", claims, err)
		}
		if exp, ok := c["exp"].(float64); !ok || exp <= now {
			t.Errorf("claims %q: expired", claims)
		}
	})
}
