package authtest

import (
	"fmt"
	"strings"
)

// row T4: times. Expiry has no leeway; the others have one of 30 s.
func (f *Forger) times() (cases []Case) {
	now := f.Now.Unix()
	good := fmt.Sprint(now + 600)
	for name, value := range map[string]string{
		"null": "null", "0": "0", "negative": "-1", "past": fmt.Sprint(now - 1), "now": fmt.Sprint(now), "past within the leeway of others": fmt.Sprint(now - 29),
		"text": quoted(good), "a fraction": good + ".5", "huge": "1e400", "a list": "[" + good + "]", "an object": "{}", "true": "true", "NaN": "NaN",
		"Infinity": "Infinity", "text of infinity": `"Infinity"`, "hexadecimal": "0x7fffffff", "with zeros before it": "0" + good, "with a plus": "+" + good,
		"beyond 64 bits": "9223372036854775808", "the most of 64 unsigned bits": "18446744073709551615", "20 digits": "99999999999999999999",
		"least of 64 bits": "-9223372036854775808", "in seconds of another year": "2030-01-01T00:00:00Z", "a date": `"2099-01-01T00:00:00Z"`, "minus zero": "-0",
		"of 5000 digits": strings.Repeat("9", 5000), "tiny": "1e-400",
	} {
		cases = append(cases, Case{"exp " + name, f.Sign(f.Header(), f.claimsWhere("exp", value))})
	}
	for _, claim := range []string{"nbf", "iat"} {
		for name, value := range map[string]string{
			"null": "null", "0": "0", "negative": "-1", "to come": fmt.Sprint(now + 31), "of tomorrow": fmt.Sprint(now + 86400), "huge": "9223372036854775807",
			"text": quoted(fmt.Sprint(now)), "a fraction": fmt.Sprint(now-1) + ".5", "a list": fmt.Sprintf("[%d]", now), "true": "true", "NaN": "NaN",
		} {
			cases = append(cases, Case{claim + " " + name, f.Sign(f.Header(), f.claimsWhere(claim, value))})
		}
		cases = append(cases, Case{"no " + claim, f.Sign(f.Header(), f.With(claim, nil))})
	}
	return append(cases, Case{"no exp", f.Sign(f.Header(), f.With("exp", nil))},
		Case{"EXP for exp", f.Sign(f.Header(), strings.Replace(f.With(), `"exp"`, `"EXP"`, 1))},
		Case{"auth_time text", f.Sign(f.Header(), f.claimsWhere("auth_time", `"now"`))})
}

// row T5: by whom and for whom, to the letter. Our tokens have one audience, as
// a string: a list is not ours, though RFC 7519 permits one.
func (f *Forger) parties() (cases []Case) {
	for _, claim := range []string{"iss", "aud"} {
		own := fmt.Sprint(f.Claims[claim])
		for name, value := range map[string]string{
			"null": "null", "empty": `""`, "another": `"https://other.test"`, "with a slash": quoted(own + "/"), "in capitals": quoted(strings.ToUpper(own)),
			"longer": quoted(own + "x"), "cut": quoted(own[:len(own)-1]), "with a prefix": quoted("x" + own), "with a dot": quoted(own + "."),
			"with a space": quoted(own + " "), "with a NUL": `"` + own + `\u0000"`, "with a line end": `"` + own + `\n"`, "a number": "1", "true": "true",
			"a list": `["` + own + `"]`, "a list of two": `["other","` + own + `"]`, "an empty list": "[]", "an object": `{"` + own + `":1}`,
			"with a twin in another script": quoted(strings.Replace(own, "e", "\u0435", 1)), "two in one": quoted(own + " " + own), "any": `"*"`,
			"with the domain behind a user": quoted("https://" + own + "@other.test"),
		} {
			cases = append(cases, Case{claim + " " + name, f.Sign(f.Header(), f.claimsWhere(claim, value))})
		}
		cases = append(cases, Case{"no " + claim, f.Sign(f.Header(), f.With(claim, nil))})
	}
	return cases
}

// row T6: tokens of other types are no access tokens.
func (f *Forger) types() (cases []Case) {
	for name, typ := range map[string]string{
		"JWT": `"JWT"`, "a refresh token": `"rt+jwt"`, "an ID token": `"id_token"`, "a logout token": `"logout+jwt"`, "a security event": `"secevent+jwt"`,
		"a proof": `"dpop+jwt"`, "introspection": `"token-introspection+jwt"`, "JOSE": `"JOSE"`, "with a space": `"at+jwt "`, "with a parameter": `"at+jwt;x=1"`,
		"in capitals": `"AT+JWT"`, "another tree": `"text/at+jwt"`, "the prefix twice": `"application/application/at+jwt"`, "empty": `""`, "null": `null`,
		"a list": `["at+jwt"]`, "a number": `1`, "with a NUL": `"at+jwt\u0000"`,
	} {
		cases = append(cases, Case{"typ " + name, f.Sign(headerOf(`"EdDSA"`, quoted(f.KeyID), typ), f.With())})
	}
	return append(cases, Case{"no typ", f.Sign(fmt.Sprintf(`{"alg":"EdDSA","kid":"%s"}`, f.KeyID), f.With())})
}

// row T7: a header that changes what the rest means. We know no extension.
func (f *Forger) extensions() (cases []Case) {
	for name, members := range map[string]string{
		"crit of a known claim": `"crit":["exp"]`, "crit of nothing known": `"crit":["urn:x"],"urn:x":1`, "crit empty": `"crit":[]`, "crit null": `"crit":null`,
		"crit text": `"crit":"b64"`, "crit a number": `"crit":1`, "crit of an empty name": `"crit":[""]`, "crit of alg": `"crit":["alg"]`, "crit of numbers": `"crit":[1]`,
		"crit of b64": `"crit":["b64"],"b64":false`, "crit of b64 true": `"crit":["b64"],"b64":true`, "b64 false without crit": `"b64":false`, "b64 true": `"b64":true`,
		"CRIT": `"CRIT":["b64"]`, "zip": `"zip":"DEF"`, "cty": `"cty":"JWT"`, "enc": `"enc":"A128GCM"`, "p2c": `"p2c":2147483647`, "nonce": `"nonce":"x"`,
		"url": `"url":"/predict"`, "a member without a name": `"":1`, "a prototype": `"__proto__":{"alg":"none"}`,
	} {
		cases = append(cases, Case{name, f.Sign(f.headerAnd(members), f.With())})
	}
	// RFC 7797: the payload stands as it is, and is signed so.
	open := f.headerAnd(`"crit":["b64"],"b64":false`)
	return append(cases, Case{"payload not encoded", encode([]byte(open)) + "." + f.With() + "." + encode([]byte("x"))},
		Case{"payload detached", encode([]byte(open)) + ".." + encode([]byte("x"))})
}

// row T13: of whom the token is. All are signed as they should be.
func (f *Forger) subjects() (cases []Case) {
	for _, claim := range []string{"sub", "sid", "jti", "client_id"} {
		own := fmt.Sprint(f.Claims[claim])
		values := map[string]string{
			"null": "null", "empty": `""`, "a number": "1", "a list": `["` + own + `"]`, "an object": "{}", "true": "true",
		}
		if claim != "jti" { // any text will do for that
			values["with a space"], values["in capitals"], values["with a NUL"] = quoted(own+" "), quoted(strings.ToUpper(own)), `"`+own+`\u0000"`
			values["unknown"], values["SQL"] = `"none"`, `"' OR '1'='1"`
		}
		for name, value := range values {
			cases = append(cases, Case{claim + " " + name, f.Sign(f.Header(), f.claimsWhere(claim, value))})
		}
		cases = append(cases, Case{"no " + claim, f.Sign(f.Header(), f.With(claim, nil))})
	}
	for name, value := range map[string]string{"text": `"admin"`, "an object": `{"admin":true}`, "of numbers": `[1]`, "nested": `[["admin"]]`} {
		cases = append(cases, Case{"roles " + name, f.Sign(f.Header(), f.claimsWhere("roles", value))})
	}
	for _, member := range []string{`"admin":true`, `"scope":"users:manage"`, `"permissions":["users:manage"]`, `"act":{"sub":"admin"}`, `"may_act":{}`, `"__proto__":{}`, `"cnf":{}`, `"":""`} {
		cases = append(cases, Case{"with " + member, f.Sign(f.Header(), f.claimsAnd(member))})
	}
	cases = append(cases, Case{"sub of another user", f.Sign(f.Header(), f.With("sub", f.Stranger))}, Case{"sid of another user", f.Sign(f.Header(), f.With("sid", f.StrangersSID))},
		Case{"sub and client exchanged", f.Sign(f.Header(), f.With("sub", f.Claims["client_id"], "client_id", f.Claims["sub"]))})
	if f.EndedSID != "" {
		cases = append(cases, Case{"sid of an ended login", f.Sign(f.Header(), f.With("sid", f.EndedSID))})
	}
	return cases
}
