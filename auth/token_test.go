package auth_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/auth/authtest"
)

func claimsOf(t testing.TB, token string) map[string]any {
	t.Helper()
	claims, err := authtest.Part(token, 1)
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

func tokenHeader(t testing.TB, token string) map[string]any {
	t.Helper()
	header, err := authtest.Part(token, 0)
	if err != nil {
		t.Fatal(err)
	}
	return header
}

// newForger has the server's own key, and knows of two users.
func newForger(t testing.TB, e *env) *authtest.Forger {
	t.Helper()
	_, ended := e.user("victim")
	want(t, e.Logout(e.ctx, e.who(ended.Access)), nil)
	stranger, strangers := e.user("stranger")
	f, err := authtest.New(e.ctx, e.db, e.vault, e.login("victim").Access, e.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	f.Stranger, f.StrangersSID, f.EndedSID = stranger.ID, strangers.Session.ID, ended.Session.ID
	return f
}

// TestForgedTokens: every token of the table is refused, all in the same
// words, and at little cost.
func TestForgedTokens(t *testing.T) {
	e := newEnv(t)
	f := newForger(t, e)
	good := f.Good()
	e.who(good) // the forger's art is right
	forged := f.Forged()
	if len(forged) < 580 {
		t.Fatalf("only %d cases", len(forged))
	}
	tokens, names := map[string]string{good: "the good token"}, map[string]bool{}
	for _, c := range forged {
		if other, ok := tokens[c.Token]; ok {
			t.Errorf("%s is the same as %s", c.Name, other)
		}
		if names[c.Name] {
			t.Errorf("%s: two cases", c.Name)
		}
		tokens[c.Token], names[c.Name] = c.Name, true
		if who, err := e.Authenticate(e.ctx, c.Token); err == nil {
			t.Errorf("%s: accepted as %+v", c.Name, who)
		} else if told := (*auth.Error)(nil); !errors.Is(err, auth.ErrToken) || !errors.As(err, &told) || told.Code != auth.ErrToken.Code {
			t.Errorf("%s: %v", c.Name, err)
		} else if !strings.HasPrefix(c.Token, "mg_") && told.Detail != auth.ErrToken.Detail {
			t.Errorf("%s: tells %q", c.Name, told.Detail)
		}
	}
	t.Logf("%d forged tokens", len(forged))
	now := e.clock.now().Unix()
	for name, token := range map[string]string{ // and what must pass does
		"the long name of the type": f.Sign(fmt.Sprintf(`{"alg":"EdDSA","kid":"%s","typ":"application/at+jwt"}`, f.KeyID), f.With()),
		"nbf within the leeway":     f.Sign(f.Header(), f.With("nbf", now+29)), "iat within the leeway": f.Sign(f.Header(), f.With("iat", now+29)),
	} {
		if _, err := e.Authenticate(e.ctx, token); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForgedTokensAreCheap: a forged token costs little memory and time, and
// one that the server did not sign asks nothing of the database.
func TestForgedTokensAreCheap(t *testing.T) {
	e := newEnv(t)
	f := newForger(t, e)
	for _, c := range f.Forged() {
		before := e.store.count()
		best := time.Duration(math.MaxInt64)
		var allocated uint64 = math.MaxUint64
		for range 3 { // the least, since other work goes on beside it
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			begun, held := time.Now(), m.TotalAlloc
			e.dead(c.Name, c.Token)
			took := time.Since(begun)
			runtime.ReadMemStats(&m)
			best, allocated = min(best, took), min(allocated, m.TotalAlloc-held)
			if best < 5*time.Millisecond && allocated < 256<<10 {
				break
			}
		}
		if best > 5*time.Millisecond || allocated > 256<<10 {
			t.Errorf("%s (%d bytes): %v and %d bytes", c.Name, len(c.Token), best, allocated)
		}
		// Of a token with our signature, the session is asked for.
		if n := e.store.count() - before; n != 0 && !strings.HasPrefix(c.Name, "T13 ") {
			t.Errorf("%s: %d questions to the database", c.Name, n)
		}
	}
}

// TestRolesOfTokensGiveNothing: what a token says of its user's roles, the
// server itself may have said a while ago, and is not believed.
func TestRolesOfTokensGiveNothing(t *testing.T) {
	e := newEnv(t)
	f := newForger(t, e)
	for _, roles := range [][]string{{"admin"}, {"user", "admin", "data-scientist"}, {}} {
		who := e.who(f.Sign(f.Header(), f.With("roles", roles)))
		if who.Permissions != 0 || len(who.Roles) != 1 || who.Roles[0] != "user" {
			t.Errorf("roles %v in the token: %+v", roles, who)
		}
	}
}

func TestTokenShape(t *testing.T) {
	e := newEnv(t)
	u, tok := e.user("alice")
	c := claimsOf(t, tok.Access)
	now := float64(e.clock.now().Unix())
	for name, w := range map[string]any{
		"iss": issuer, "aud": audience, "sub": u.ID, "exp": now + 900, "iat": now, "nbf": now, "client_id": "modelgate", "sid": tok.Session.ID, "auth_time": now,
	} {
		if c[name] != w {
			t.Errorf("%s is %v, want %v", name, c[name], w)
		}
	}
	if c["jti"] == "" || fmt.Sprint(c["roles"]) != "[user]" || len(c) != 11 {
		t.Errorf("%v", c)
	}
	h := tokenHeader(t, tok.Access)
	if h["alg"] != "EdDSA" || h["typ"] != "at+jwt" || h["kid"] != e.keys.SignerID() || len(h) != 3 {
		t.Errorf("%v", h)
	}
	if other := e.login("alice"); claimsOf(t, other.Access)["jti"] == c["jti"] {
		t.Error("two tokens have one jti")
	}
}

func TestSharedSecret(t *testing.T) {
	secret := "uV3kq0QmZ8x1rT7bYw5nLd9sGh2jKf4pAc6e"
	open := func() *auth.Keyring {
		k, err := auth.OpenKeyring(t.Context(), auth.KeyringConfig{Secret: secret})
		want(t, err, nil)
		return k
	}
	e := newEnv(t, func(c *auth.Config) { c.Keys = open() })
	_, tok := e.user("alice")
	h := tokenHeader(t, tok.Access)
	if h["alg"] != "HS256" || strings.Contains(tok.Access, secret) {
		t.Fatalf("%v", h)
	}
	if got := string(e.JWKS()); got != `{"keys":[]}` {
		t.Errorf("JWKS %s", got)
	}
	claims, _ := json.Marshal(claimsOf(t, tok.Access))
	header := fmt.Sprintf(`{"alg":"HS256","kid":"%s","typ":"at+jwt"}`, h["kid"])
	e.who(authtest.MAC(sha256.New, []byte(secret), header, string(claims)))
	e.dead("HS384 for HS256", authtest.MAC(sha512.New384, []byte(secret), strings.Replace(header, "256", "384", 1), string(claims)))
	e.dead("HS512 for HS256", authtest.MAC(sha512.New, []byte(secret), strings.Replace(header, "256", "512", 1), string(claims)))
	e.dead("another secret", authtest.MAC(sha256.New, []byte(secret+"x"), header, string(claims)))
	e.dead("empty secret", authtest.MAC(sha256.New, nil, header, string(claims)))
	if tokenHeader(t, e.login("alice").Access)["kid"] != h["kid"] {
		t.Error("the kid changes")
	}
}

// Two servers that share a key and not a name don't accept each other's tokens.
func TestSiblingServer(t *testing.T) {
	a := newEnv(t)
	_, tok := a.user("alice")
	b := newEnv(t, func(c *auth.Config) { c.Keys = a.keys; c.Issuer = "https://sibling.test" })
	c := newEnv(t, func(c *auth.Config) { c.Keys = a.keys; c.Audience = "sibling" })
	for _, e := range []*env{b, c} {
		if err := e.Verify(tok.Access); err == nil {
			t.Error("accepted")
		}
	}
}

func TestAuthTimeStaysWithRefresh(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	e.clock.advance(time.Hour)
	tok, err := e.Refresh(e.ctx, origin, tok.Refresh)
	want(t, err, nil)
	c := claimsOf(t, tok.Access)
	if c["auth_time"].(float64) != c["iat"].(float64)-3600 {
		t.Errorf("%v", c)
	}
}
