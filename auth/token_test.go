package auth_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash"
	"maps"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
)

var b64 = base64.RawURLEncoding

func claimsOf(t testing.TB, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	return part(t, parts[1])
}

func part(t testing.TB, s string) map[string]any {
	t.Helper()
	b, err := b64.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// forger makes tokens by hand, with the server's own key where a case needs it.
type forger struct {
	kid    string
	key    ed25519.PrivateKey
	claims map[string]any
}

func newForger(t testing.TB, e *env) *forger {
	t.Helper()
	_, tok := e.user("victim")
	return &forger{kid: e.keys.SignerID(), key: e.keys.Private(), claims: claimsOf(t, tok.Access)}
}

func (f *forger) header() string {
	return fmt.Sprintf(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt"}`, f.kid)
}

// with returns the claims of a good token with some changed; nil removes one.
func (f *forger) with(changes ...any) string {
	c := maps.Clone(f.claims)
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == nil {
			delete(c, changes[i].(string))
		} else {
			c[changes[i].(string)] = changes[i+1]
		}
	}
	b, _ := json.Marshal(c)
	return string(b)
}

func (f *forger) sign(header, claims string) string {
	text := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(claims))
	return text + "." + b64.EncodeToString(ed25519.Sign(f.key, []byte(text)))
}

func mac(h func() hash.Hash, key []byte, header, claims string) string {
	text := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(claims))
	m := hmac.New(h, key)
	m.Write([]byte(text))
	return text + "." + b64.EncodeToString(m.Sum(nil))
}

func TestForgedTokens(t *testing.T) {
	e := newEnv(t)
	f := newForger(t, e)
	public := f.key.Public().(ed25519.PublicKey)
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	_, strange, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger := &forger{kid: f.kid, key: strange, claims: f.claims}
	ownJWK := fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","x":"%s"}`, b64.EncodeToString(strange.Public().(ed25519.PublicKey)))
	good := f.sign(f.header(), f.with())
	e.who(good) // the forger's art is right
	parts := strings.Split(good, ".")
	now := e.clock.now().Unix()
	h := func(format string, args ...any) string { return f.sign(fmt.Sprintf(format, args...), f.with()) }
	c := func(changes ...any) string { return f.sign(f.header(), f.with(changes...)) }
	raw := func(claims string) string { return f.sign(f.header(), claims) }
	inject := func(member string) string { return raw(strings.TrimSuffix(f.with(), "}") + "," + member + "}") }
	unsigned := func(alg string) string {
		return b64.EncodeToString([]byte(fmt.Sprintf(`{"alg":"%s","kid":"%s","typ":"at+jwt"}`, alg, f.kid))) + "." + parts[1] + "."
	}
	hs := fmt.Sprintf(`{"alg":"HS256","kid":"%s","typ":"at+jwt"}`, f.kid)

	forged := map[string]string{
		// T1: no algorithm
		"none": unsigned("none"), "None": unsigned("None"), "NONE": unsigned("NONE"), "nOnE": unsigned("nOnE"), "empty alg": unsigned(""),
		"none, signed": h(`{"alg":"none","kid":"%s","typ":"at+jwt"}`, f.kid), "no alg": h(`{"kid":"%s","typ":"at+jwt"}`, f.kid),
		"alg null": h(`{"alg":null,"kid":"%s","typ":"at+jwt"}`, f.kid), "alg number": h(`{"alg":1,"kid":"%s","typ":"at+jwt"}`, f.kid),
		"alg list": h(`{"alg":["EdDSA"],"kid":"%s","typ":"at+jwt"}`, f.kid), "alg in lower case": h(`{"alg":"eddsa","kid":"%s","typ":"at+jwt"}`, f.kid),
		// T2: another algorithm than the key's
		"public key as HMAC secret":        mac(sha256.New, public, hs, f.with()),
		"PEM of it as HMAC secret":         mac(sha256.New, pemKey, hs, f.with()),
		"DER of it as HMAC secret":         mac(sha256.New, spki, hs, f.with()),
		"kid as HMAC secret":               mac(sha256.New, []byte(f.kid), hs, f.with()),
		"empty HMAC secret":                mac(sha256.New, nil, hs, f.with()),
		"empty HMAC secret, no kid":        mac(sha256.New, nil, `{"alg":"HS256","typ":"at+jwt"}`, f.with()),
		"HS512":                            mac(sha512.New, public, strings.Replace(hs, "HS256", "HS512", 1), f.with()),
		"RS256 named":                      h(`{"alg":"RS256","kid":"%s","typ":"at+jwt"}`, f.kid),
		"ES256 named":                      h(`{"alg":"ES256","kid":"%s","typ":"at+jwt"}`, f.kid),
		"the curve's name instead of alg":  h(`{"alg":"Ed25519","kid":"%s","typ":"at+jwt"}`, f.kid),
		"HS256 named, signed by the key":   h(`{"alg":"HS256","kid":"%s","typ":"at+jwt"}`, f.kid),
		"EdDSA named, public key as HMAC":  mac(sha256.New, public, f.header(), f.with()),
		"duplicate alg, the good one last": h(`{"alg":"none","alg":"EdDSA","kid":"%s","typ":"at+jwt"}`, f.kid),
		// T3: keys that the token brings, and kid
		"stranger's key":  stranger.sign(f.header(), f.with()),
		"jwk":             stranger.sign(fmt.Sprintf(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt","jwk":%s}`, f.kid, ownJWK), f.with()),
		"jwk, good key":   h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt","jwk":%s}`, f.kid, ownJWK),
		"jku":             h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt","jku":"http://127.0.0.1/jwks"}`, f.kid),
		"x5u":             h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt","x5u":"http://127.0.0.1/cert"}`, f.kid),
		"x5c":             h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt","x5c":["MIIB"]}`, f.kid),
		"no kid":          h(`{"alg":"EdDSA","typ":"at+jwt"}`),
		"empty kid":       h(`{"alg":"EdDSA","kid":"","typ":"at+jwt"}`),
		"kid is a path":   h(`{"alg":"EdDSA","kid":"../../../../dev/null","typ":"at+jwt"}`),
		"kid is SQL":      h(`{"alg":"EdDSA","kid":"' OR '1'='1","typ":"at+jwt"}`),
		"kid with a NUL":  h(`{"alg":"EdDSA","kid":"%s\u0000","typ":"at+jwt"}`, f.kid),
		"kid in capitals": h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt"}`, strings.ToUpper(f.kid)),
		"kid number":      h(`{"alg":"EdDSA","kid":0,"typ":"at+jwt"}`),
		"KID":             h(`{"alg":"EdDSA","KID":"%s","typ":"at+jwt"}`, f.kid),
		"two kids":        h(`{"alg":"EdDSA","kid":"x","kid":"%s","typ":"at+jwt"}`, f.kid),
		// T4: times
		"no exp": c("exp", nil), "exp null": inject(`"exp":null`), "exp 0": c("exp", 0), "exp negative": c("exp", -1), "expired": c("exp", now-1), "expires now": c("exp", now),
		"exp text": c("exp", fmt.Sprint(now+900)), "exp fraction": c("exp", float64(now)+900.5), "exp huge": raw(strings.Replace(f.with(), fmt.Sprint(now+900), "1e400", 1)),
		"exp list": c("exp", []int64{now + 900}), "EXP for exp": raw(strings.Replace(f.with(), `"exp"`, `"EXP"`, 1)),
		"two exp": inject(fmt.Sprintf(`"exp":%d`, now+900)), "two exp, one escaped": inject(fmt.Sprintf(`"\u0065xp":%d`, now+900)),
		"no nbf": c("nbf", nil), "nbf to come": c("nbf", now+31), "no iat": c("iat", nil), "iat to come": c("iat", now+31),
		// T5: for whom and by whom
		"another iss": c("iss", "https://other.test"), "iss with a slash": c("iss", issuer+"/"), "iss in capitals": c("iss", strings.ToUpper(issuer)), "no iss": c("iss", nil),
		"another aud": c("aud", "other"), "no aud": c("aud", nil), "aud list": c("aud", []string{audience}), "aud list of two": c("aud", []string{"other", audience}),
		"empty aud": c("aud", ""), "aud prefix": c("aud", audience+"x"),
		// T6: of another type
		"typ JWT": h(`{"alg":"EdDSA","kid":"%s","typ":"JWT"}`, f.kid), "no typ": h(`{"alg":"EdDSA","kid":"%s"}`, f.kid), "typ rt+jwt": h(`{"alg":"EdDSA","kid":"%s","typ":"rt+jwt"}`, f.kid),
		"typ id": h(`{"alg":"EdDSA","kid":"%s","typ":"id_token"}`, f.kid), "typ with a space": h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt "}`, f.kid),
		"two typ": h(`{"alg":"EdDSA","kid":"%s","typ":"JWT","typ":"at+jwt"}`, f.kid), "cty": h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt","cty":"JWT"}`, f.kid),
		// T7: extensions
		"crit":       h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt","crit":["exp"]}`, f.kid),
		"crit, b64":  h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt","crit":["b64"],"b64":false}`, f.kid),
		"empty crit": h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt","crit":[]}`, f.kid),
		"zip":        h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt","zip":"DEF"}`, f.kid),
		// T8: malformed
		"1 part": parts[0], "2 parts": parts[0] + "." + parts[1], "4 parts": good + ".x", "5 parts": good + ".x.y", "dots": "..", "dot first": "." + good,
		"no signature": parts[0] + "." + parts[1] + ".", "no claims": parts[0] + ".." + parts[2], "no header": "." + parts[1] + "." + parts[2],
		"padding": parts[0] + "." + parts[1] + "." + parts[2] + "==", "standard base64": parts[0] + "." + parts[1] + "." + strings.NewReplacer("-", "+", "_", "/").Replace(parts[2]) + "+",
		"line break in it": good[:20] + "\n" + good[20:], "CR LF after it": good + "\r\n", "space before it": " " + good, "Bearer twice": "Bearer " + good,
		"NUL after it": good + "\x00", "other bits in the last digit": lastDigit(good), "signature cut": good[:len(good)-2], "header is a list": h(`["EdDSA"]`), "header is text": h(`"EdDSA"`),
		"header is null": h(`null`), "header with a tail": h(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt"}{}`, f.kid), "claims null": raw("null"), "claims a list": raw("[]"), "claims empty": raw("{}"),
		"claims with a tail": raw(f.with() + "{}"), "unknown claim": c("admin", true), "bad UTF-8": raw(strings.Replace(f.with(), "victim", "\xff", 1) + " \xff"),
		"1 MB":         good + strings.Repeat("x", 1<<20),
		"9 KB, signed": c("roles", strings.Split(strings.Repeat("r,", 5000), ",")),
		"deep JSON":    raw(strings.Repeat("[", 3000) + strings.Repeat("]", 3000)),
		"JWE":          parts[0] + "." + parts[1] + "." + parts[2] + "." + parts[1] + "." + parts[2],
		"not a token":  "password",
		"empty":        "",
		// what it is about
		"no sub": c("sub", nil), "another's session": c("sub", e.admin.UserID), "unknown sub": c("sub", "u_none"), "no sid": c("sid", nil), "unknown sid": c("sid", "s_none"),
		"sub list": c("sub", []string{"u"}), "another client": c("client_id", "other"), "no client": c("client_id", nil), "no jti": c("jti", nil),
		"two sub": inject(`"sub":"` + e.admin.UserID + `"`),
	}
	if len(forged) < 100 {
		t.Fatalf("only %d cases", len(forged))
	}
	for name, token := range forged {
		if token == good {
			t.Errorf("%s: the case changes nothing", name)
		}
		if who, err := e.Authenticate(e.ctx, token); err == nil {
			t.Errorf("%s: accepted as %+v", name, who)
		} else if want(t, err, auth.ErrToken); detail(err) != auth.ErrToken.Detail {
			t.Errorf("%s: tells %q", name, detail(err))
		}
	}
	for name, token := range map[string]string{ // and what must pass does
		"the long name of the type": h(`{"alg":"EdDSA","kid":"%s","typ":"application/at+jwt"}`, f.kid),
		"nbf within the leeway":     c("nbf", now+29), "iat within the leeway": c("iat", now+29),
	} {
		if _, err := e.Authenticate(e.ctx, token); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// lastDigit changes bits of the last base64 digit that stand for no byte.
func lastDigit(token string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.IndexByte(digits, token[len(token)-1])
	return token[:len(token)-1] + string(digits[i^1])
}

// A forged token must not make the server ask the database.
func TestForgedTokensAreCheap(t *testing.T) {
	e := newEnv(t)
	f := newForger(t, e)
	before := e.store.count()
	for _, token := range []string{"a.b.c", f.sign(f.header(), "{}"), strings.Repeat("x", 1<<20), f.sign(`{"alg":"EdDSA"}`, f.with()), "mg_forged", "mg_" + strings.Repeat("0", 49)} {
		e.dead("forged", token)
	}
	if n := e.store.count() - before; n != 0 {
		t.Errorf("%d questions to the database", n)
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
	h := part(t, strings.Split(tok.Access, ".")[0])
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
	h := part(t, strings.Split(tok.Access, ".")[0])
	if h["alg"] != "HS256" || strings.Contains(tok.Access, secret) {
		t.Fatalf("%v", h)
	}
	if got := string(e.JWKS()); got != `{"keys":[]}` {
		t.Errorf("JWKS %s", got)
	}
	claims, _ := json.Marshal(claimsOf(t, tok.Access))
	header := fmt.Sprintf(`{"alg":"HS256","kid":"%s","typ":"at+jwt"}`, h["kid"])
	e.who(mac(sha256.New, []byte(secret), header, string(claims)))
	e.dead("HS384 for HS256", mac(sha512.New384, []byte(secret), strings.Replace(header, "256", "384", 1), string(claims)))
	e.dead("HS512 for HS256", mac(sha512.New, []byte(secret), strings.Replace(header, "256", "512", 1), string(claims)))
	e.dead("another secret", mac(sha256.New, []byte(secret+"x"), header, string(claims)))
	e.dead("empty secret", mac(sha256.New, nil, header, string(claims)))
	if part(t, strings.Split(e.login("alice").Access, ".")[0])["kid"] != h["kid"] {
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
