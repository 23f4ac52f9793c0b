package auth_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/auth/authtest"
)

// forgery gathers what a provider's access token must not be. Each token has one
// thing wrong.
type forgery struct {
	t        *testing.T
	p, other *authtest.Provider // the token's own, and one with a like kid
	now      time.Time
	list     []forgedToken
}

type forgedToken struct {
	name  string
	token string
}

func (f *forgery) add(name, token string) { f.list = append(f.list, forgedToken{name, token}) }

func forgedTokens(t *testing.T, p, other *authtest.Provider, now time.Time) []forgedToken {
	f := &forgery{t: t, p: p, other: other, now: now}
	f.claims()
	f.texts()
	f.headers()
	f.keys()
	f.forms()
	return f.list
}

// claims are wrong in one of their values.
func (f *forgery) claims() {
	p, other, now := f.p, f.other, f.now
	for name, changes := range map[string]authtest.Members{
		"no iss": {"iss": nil}, "iss with a slash": {"iss": p.Issuer() + "/"}, "iss in another case": {"iss": strings.ToUpper(p.Issuer())},
		"iss of a stranger": {"iss": "https://id.example.com"}, "our own iss": {"iss": issuer}, "a list as iss": {"iss": []string{p.Issuer()}},
		"iss of the other provider": {"iss": other.Issuer()},
		"no aud":                    {"aud": nil}, "empty aud": {"aud": ""}, "empty list as aud": {"aud": []string{}}, "aud of another API": {"aud": "other-api"},
		"longer aud": {"aud": authtest.Audience + "2"}, "shorter aud": {"aud": authtest.Audience[:5]}, "aud in another case": {"aud": strings.ToUpper(authtest.Audience)},
		"several other aud": {"aud": []string{"a", "b"}}, "number as aud": {"aud": 7}, "null in aud": {"aud": []any{authtest.Audience, nil}}, "object as aud": {"aud": authtest.Members{"a": authtest.Audience}},
		"our own aud": {"aud": audience}, "aud is the client": {"aud": "browser-client"},
		"no exp": {"exp": nil}, "expired": {"exp": now.Unix() - 1}, "expires now": {"exp": now.Unix()}, "exp is text": {"exp": fmt.Sprint(now.Unix() + 300)},
		"exp is 0": {"exp": 0}, "negative exp": {"exp": -5}, "enormous exp": {"exp": 1e300}, "exp is true": {"exp": true}, "exp is a list": {"exp": []int64{now.Unix() + 300}},
		"nbf to come": {"nbf": now.Unix() + 61}, "nbf is text": {"nbf": "0"}, "no iat": {"iat": nil}, "iat to come": {"iat": now.Unix() + 61}, "iat is text": {"iat": "1"},
		"auth_time to come": {"auth_time": now.Unix() + 3600}, "auth_time is text": {"auth_time": "now"},
		"no sub": {"sub": nil}, "empty sub": {"sub": ""}, "number as sub": {"sub": 1}, "list as sub": {"sub": []string{"sub-1"}}, "sub of 256": {"sub": xs(256)},
		"sub with a line end": {"sub": "a\nb"}, "sub with NUL": {"sub": "a\x00"}, "sub not ASCII": {"sub": "ädä"},
		"roles are a number": {"groups": 5}, "roles are an object": {"groups": authtest.Members{"ml-admins": true}}, "roles are true": {"groups": true},
		"numbers in roles": {"groups": []any{"ml-users", 5}}, "lists in roles": {"groups": []any{[]string{"ml-admins"}}}, "null in roles": {"groups": []any{nil}},
		"name is a number": {"preferred_username": 5, "sub": "new-1"},
	} {
		f.add(name, p.AccessToken(now, changes))
	}
	f.add("sub of a megabyte", p.AccessToken(now, authtest.Members{"sub": xs(1 << 20)}))
	f.add("groups of 10,000 entries", p.AccessToken(now, authtest.Members{"groups": slices.Repeat([]string{"ml-users"}, 10_000)}))

}

// texts are claims that readers of JSON understand differently.
func (f *forgery) texts() {
	t, p, now := f.t, f.p, f.now
	text := string(asJSON(t, p.Claims(now, nil)))
	for name, changed := range map[string]string{
		"exp twice":               strings.Replace(text, `{`, fmt.Sprintf(`{"exp":%d,`, now.Unix()+999), 1),
		"iss twice":               strings.Replace(text, `{`, `{"iss":"https://id.example.com",`, 1),
		"groups twice":            strings.Replace(text, `{`, `{"groups":["ml-admins"],`, 1),
		"ISS in place of iss":     strings.Replace(text, `"iss"`, `"ISS"`, 1),
		"Sub in place of sub":     strings.Replace(text, `"sub"`, `"Sub"`, 1),
		"Exp in place of exp":     strings.Replace(text, `"exp"`, `"Exp"`, 1),
		"AUD in place of aud":     strings.Replace(text, `"aud"`, `"AUD"`, 1),
		"something behind":        text + `{}`,
		"claims not UTF-8":        strings.Replace(text, `"Ada"`, "\"\xff\xfe\"", 1),
		"claims are a list":       `[` + text + `]`,
		"claims are null":         `null`,
		"no claims":               ``,
		"claims 100,000 deep":     strings.Repeat(`[`, 3000),
		"a comment in the claims": strings.Replace(text, `{`, `{/**/`, 1),
	} {
		f.add(name, authtest.SignJWS(t, authtest.AccessHeader, changed, "RS256", authtest.RSAKey()))
	}

}

// headers name another key, algorithm or type, or bring a key.
func (f *forgery) headers() {
	t, p, other, now := f.t, f.p, f.other, f.now
	claims := p.Claims(now, nil)
	for name, changes := range map[string]authtest.Members{
		"no typ": {"typ": nil}, "typ JWT": {"typ": "JWT"}, "typ of an ID token": {"typ": "id_token+jwt"}, "typ of a logout token": {"typ": "logout+jwt"},
		"typ of a DPoP proof": {"typ": "dpop+jwt"}, "typ is a list": {"typ": []string{"at+jwt"}}, "typ with a blank": {"typ": "at+jwt "},
		"kid of nobody": {"kid": "nobody"}, "no kid, and several keys": {"kid": nil, "alg": "RS256"}, "kid of the other key": {"kid": "e1"}, "number as kid": {"kid": 1},
		"kid is a path": {"kid": "../../../../dev/null"}, "kid in another case": {"kid": "R1"}, "list as kid": {"kid": []string{"r1"}},
		"crit": {"crit": []string{"exp"}}, "crit unknown": {"crit": []string{"x"}, "x": 1}, "empty crit": {"crit": []string{}}, "b64": {"b64": false, "crit": []string{"b64"}},
		"jku": {"jku": other.Issuer() + "/keys"}, "x5u": {"x5u": other.Issuer() + "/cert"}, "jwk": {"jwk": authtest.PublicJWK(authtest.RSAKey().Public(), "r1", "RS256")},
		"alg is empty": {"alg": ""}, "no alg": {"alg": nil}, "alg is a list": {"alg": []string{"RS256"}}, "alg in lower case": {"alg": "rs256"},
		"alg of another key type": {"alg": "ES256"}, "alg says PS256": {"alg": "PS256"}, "alg says RS512": {"alg": "RS512"}, "alg unknown": {"alg": "RS257"},
	} {
		header := authtest.Altered(authtest.AccessHeader, changes)
		if name == "no kid, and several keys" { // only then is there a choice
			p.Change(func() { p.Keys = append(p.Keys, authtest.PublicJWK(authtest.OtherRSA().Public(), "r2", "")) })
		}
		f.add(name, authtest.SignJWS(t, header, claims, "RS256", authtest.RSAKey()))
	}
	f.add("alg twice", authtest.SignJWS(t, `{"alg":"RS256","alg":"RS256","kid":"r1","typ":"at+jwt"}`, claims, "RS256", authtest.RSAKey()))
	f.add("header not UTF-8", authtest.SignJWS(t, "{\"alg\":\"RS256\",\"kid\":\"r1\",\"typ\":\"at+jwt\",\"x\":\"\xff\"}", claims, "RS256", authtest.RSAKey()))
	f.add("jwk of the forger", authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"jwk": authtest.PublicJWK(authtest.OtherRSA().Public(), "r1", "RS256")}), claims, "RS256", authtest.OtherRSA()))
	f.add("another's key of like name", authtest.SignJWS(t, authtest.AccessHeader, claims, "RS256", authtest.OtherRSA()))
	f.add("ES256 key without its alg", authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"kid": "e1"}), claims, "ES256", authtest.ECKey()))
	f.add("short RSA key in the set", authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"kid": "short"}), claims, "RS256", authtest.ShortRSA()))
	f.add("key for encryption", authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"kid": "enc"}), claims, "RS256", authtest.OtherRSA()))
	f.add("key of another alg", authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"kid": "ps"}), claims, "RS256", authtest.OtherRSA()))

}

// keys are none, or public ones used as secrets.
func (f *forgery) keys() {
	t, p, now := f.t, f.p, f.now
	claims := p.Claims(now, nil)
	sig := strings.Split(p.AccessToken(now, nil), ".")[2]
	for _, none := range []string{"none", "None", "NONE", "nOnE", "none "} {
		header := authtest.Altered(authtest.AccessHeader, authtest.Members{"alg": none})
		f.add("alg "+none, authtest.SignJWS(t, header, claims, "", nil))
		f.add("alg "+none+" with a signature", authtest.SignJWS(t, header, claims, "", nil)+sig)
	}
	der, err := x509.MarshalPKIXPublicKey(authtest.RSAKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	pub := authtest.RSAKey().PublicKey
	for name, secret := range map[string][]byte{
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "DER": der, "PKCS 1": x509.MarshalPKCS1PublicKey(&pub),
		"modulus": pub.N.Bytes(), "JWK": asJSON(t, authtest.PublicJWK(&pub, "r1", "")), "nothing": {}, "a symmetric key in the set": []byte("0123456789abcdef0123456789abcdef"),
	} {
		for _, alg := range []string{"HS256", "HS384", "HS512"} {
			id := "r1"
			if strings.HasPrefix(name, "a symmetric") {
				id = "oct"
			}
			f.add(alg+" with the public key as "+name, authtest.SignJWS(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"alg": alg, "kid": id}), claims, alg, secret))
		}
	}

}

// forms are no compact JWS, or one put together of two.
func (f *forgery) forms() {
	t, p, now := f.t, f.p, f.now
	good := p.AccessToken(now, nil)
	parts := strings.Split(good, ".")
	head, body, sig := parts[0], parts[1], parts[2]
	for name, token := range map[string]string{
		"no signature": head + "." + body + ".", "two parts": head + "." + body, "four parts": good + ".x", "five parts": head + "." + body + "." + sig + "." + sig + "." + sig,
		"a line end behind": good + "\n", "a blank before": " " + good, "padding": head + "." + body + "." + sig + "==", "JSON form": fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, body, head, sig),
		"other characters of base64": strings.ReplaceAll(strings.ReplaceAll(good, "-", "+"), "_", "/"), "cut signature": good[:len(good)-4], "empty header": "." + body + "." + sig,
		"signature of another token": head + "." + body + "." + strings.Split(p.AccessToken(now, authtest.Members{"jti": "j2"}), ".")[2],
		"claims of another token":    head + "." + strings.Split(p.AccessToken(now, authtest.Members{"groups": []string{"ml-admins"}}), ".")[1] + "." + sig,
		"header of another token":    b64.EncodeToString(asJSON(t, authtest.Altered(authtest.AccessHeader, authtest.Members{"kid": "r2"}))) + "." + body + "." + sig,
	} {
		if token != good { // where nothing was to replace
			f.add(name, token)
		}
	}
}
