package authtest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf16"
)

// row T8: other forms than three parts.
func (f *Forger) forms() []Case {
	good := f.Good()
	p := strings.Split(good, ".")
	flat := fmt.Sprintf(`{"protected":"%s","payload":"%s","signature":"%s"}`, p[0], p[1], p[2])
	return []Case{
		{"nothing", ""}, {"not a token", "password"}, {"1 part", p[0]}, {"2 parts", p[0] + "." + p[1]}, {"4 parts", good + ".x"}, {"5 parts", good + ".x.y"},
		{"two dots", ".."}, {"four dots", "...."}, {"a dot", "."}, {"dot first", "." + good}, {"dot last", good + "."}, {"two dots last", good + ".."},
		{"a dot in the middle", p[0] + ".." + p[1] + "." + p[2]}, {"no signature", p[0] + "." + p[1] + "."}, {"no claims", p[0] + ".." + p[2]}, {"no header", "." + p[1] + "." + p[2]},
		{"parts exchanged", p[1] + "." + p[0] + "." + p[2]}, {"token twice", good + "." + good}, {"two tokens", good + "," + good}, {"two tokens and a space", good + " " + good},
		{"JWE", strings.Join([]string{p[0], p[2], p[1], p[1], p[2]}, ".")}, {"JWE of direct encryption", encode([]byte(`{"alg":"dir","enc":"A256GCM"}`)) + ".." + p[1] + "." + p[1] + "." + p[2]},
		{"JSON serialization", flat}, {"JSON serialization, encoded", encode([]byte(flat))},
		{"general JSON serialization", fmt.Sprintf(`{"payload":"%s","signatures":[{"protected":"%s","signature":"%s"}]}`, p[1], p[0], p[2])},
		{"nested", f.Sign(f.headerAnd(`"cty":"JWT"`), good)}, {"nested without cty", f.Sign(f.Header(), good)}, {"Bearer twice", "Bearer " + good}, {"in quotes", quoted(good)},
		{"in angles", "<" + good + ">"}, {"with a comma", good + ","}, {"with a parameter", good + ";x=1"}, {"PASETO", "v4.public." + p[1]}, {"SAML", encode([]byte("<saml:Assertion/>"))},
		{"SD-JWT", good + "~"}, {"an API key that is none", "mg_forged"}, {"an API key of zeros", "mg_" + strings.Repeat("0", 49)}, {"a refresh token", "mgr_" + strings.Repeat("0", 49)},
		{"header a list", f.Sign(`["EdDSA"]`, f.With())}, {"header text", f.Sign(`"EdDSA"`, f.With())}, {"header null", f.Sign("null", f.With())}, {"header a number", f.Sign("1", f.With())},
		{"header empty", f.Sign("{}", f.With())}, {"header of no bytes", f.Sign("", f.With())}, {"header with a tail", f.Sign(f.Header()+"{}", f.With())}, {"header cut", f.Sign(f.Header()[:20], f.With())},
		{"header of no JSON", f.Sign("alg=EdDSA", f.With())}, {"header with a comment", f.Sign(f.Header()+"/* */", f.With())}, {"header with a comma last", f.Sign(strings.TrimSuffix(f.Header(), "}")+",}", f.With())},
		{"claims null", f.Sign(f.Header(), "null")}, {"claims a list", f.Sign(f.Header(), "["+f.With()+"]")}, {"claims text", f.Sign(f.Header(), quoted("x"))}, {"claims empty", f.Sign(f.Header(), "{}")},
		{"claims of no bytes", f.Sign(f.Header(), "")}, {"claims with a tail", f.Sign(f.Header(), f.With()+"{}")}, {"claims cut", f.Sign(f.Header(), f.With()[:40])},
		{"claims with a comma last", f.Sign(f.Header(), strings.TrimSuffix(f.With(), "}")+",}")}, {"claims in single quotes", f.Sign(f.Header(), strings.ReplaceAll(f.With(), `"`, `'`))},
		{"claims with a comment", f.Sign(f.Header(), "/**/"+f.With())}, {"claims of XML", f.Sign(f.Header(), "<sub>admin</sub>")},
	}
}

// row T8: a good token written otherwise.
func (f *Forger) encodings() (cases []Case) {
	good := f.Good()
	p := strings.Split(good, ".")
	join := func(i int, part string) string {
		q := append([]string(nil), p...)
		q[i] = part
		return strings.Join(q, ".")
	}
	for i, name := range []string{"header", "claims", "signature"} {
		half := len(p[i]) / 2
		for what, part := range map[string]string{
			"padded": p[i] + "=", "padded twice": p[i] + "==", "in the standard alphabet": strings.NewReplacer("-", "+", "_", "/").Replace(p[i]) + "+",
			"with a line end": p[i][:half] + "\n" + p[i][half:], "with CR LF": p[i][:half] + "\r\n" + p[i][half:], "with a space": p[i][:half] + " " + p[i][half:],
			"with a tab": p[i][:half] + "\t" + p[i][half:], "with a NUL": p[i][:half] + "\x00" + p[i][half:], "with DEL": p[i][:half] + "\x7f" + p[i][half:],
			"with a percent": p[i][:half] + "%41" + p[i][half:], "with a byte of no UTF-8": p[i][:half] + "\xff" + p[i][half:], "with an overlong byte": p[i][:half] + "\xc1\x81" + p[i][half:],
			"with a wide letter": p[i][:half] + "Ａ" + p[i][half:], "with an invisible character": p[i][:half] + "\u200b" + p[i][half:], "one digit short": p[i][:len(p[i])-1],
			"one digit long": p[i] + "A", "encoded twice": encode([]byte(p[i])), "in hexadecimal": fmt.Sprintf("%x", p[i]),
		} {
			cases = append(cases, Case{name + " " + what, join(i, part)})
		}
	}
	cases = append(cases,
		Case{"other bits in the last digit", lastDigit(good)}, Case{"dots as percent codes", strings.ReplaceAll(good, ".", "%2E")}, Case{"wide dots", strings.ReplaceAll(good, ".", "．")},
		Case{"a BOM before it", "\ufeff" + good}, Case{"NUL after it", good + "\x00"}, Case{"NUL and more after it", good + "\x00admin"},
		Case{"BOM before the header", f.Sign("\ufeff"+f.Header(), f.With())}, Case{"BOM before the claims", f.Sign(f.Header(), "\ufeff"+f.With())},
		Case{"claims in UTF-16", f.Sign(f.Header(), wide(f.With()))}, Case{"header in UTF-16", f.Sign(wide(f.Header()), f.With())}, Case{"NUL behind the claims", f.Sign(f.Header(), f.With()+"\x00")},
		Case{"claims not UTF-8", f.Sign(f.Header(), f.claimsWhere("sub", "\"\xff\""))}, Case{"claims with an overlong quote", f.Sign(f.Header(), f.claimsWhere("jti", "\"\xc0\xa2\""))},
		Case{"claims with a lone surrogate", f.Sign(f.Header(), f.claimsWhere("jti", `"\ud800"`))}, Case{"claims with a control character", f.Sign(f.Header(), f.claimsWhere("jti", "\"\x01\""))},
		Case{"token in base64", encode([]byte(good))}, Case{"token in standard base64", base64.StdEncoding.EncodeToString([]byte(good))}, Case{"token in percent codes", percent(good)},
		Case{"token in capitals", strings.ToUpper(good)}, Case{"token backwards", backwards(good)},
	)
	return cases
}

// row T8: every name given twice, and once more with an escape.
func (f *Forger) duplicates() (cases []Case) {
	value := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return string(b)
	}
	for name, v := range f.Claims {
		escaped := fmt.Sprintf(`"\u%04x%s"`, name[0], name[1:])
		cases = append(cases, Case{name + " twice", f.Sign(f.Header(), f.claimsAnd(quoted(name)+":"+value(v)))},
			Case{name + " twice, once escaped", f.Sign(f.Header(), f.claimsAnd(escaped+":"+value(v)))},
			Case{name + " in capitals besides", f.Sign(f.Header(), f.claimsAnd(quoted(strings.ToUpper(name))+":"+value(v)))})
	}
	for name, v := range map[string]string{"alg": `"EdDSA"`, "kid": quoted(f.KeyID), "typ": `"at+jwt"`} {
		first := fmt.Sprintf(`{"%s":"none",%s`, name, f.Header()[1:])
		cases = append(cases, Case{"header " + name + " twice", f.Sign(f.headerAnd(quoted(name)+":"+v), f.With())}, Case{"header " + name + " twice, the good one last", f.Sign(first, f.With())},
			Case{"header " + name + " twice, once escaped", f.Sign(f.headerAnd(fmt.Sprintf(`"\u%04x%s":%s`, name[0], name[1:], v)), f.With())})
	}
	return append(cases, Case{"sub twice, of two users", f.Sign(f.Header(), f.claimsAnd(`"sub":`+quoted(f.Stranger)))})
}

// row T8: large ones, which must cost little.
func (f *Forger) sizes() []Case {
	good := f.Good()
	p := strings.Split(good, ".")
	long := strings.Repeat("x", 1<<20)
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	objects := strings.Repeat(`{"a":`, 900) + "1" + strings.Repeat("}", 900)
	var thousand strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&thousand, `,"c%d":%d`, i, i)
	}
	return []Case{
		{"1 MB", good + long}, {"1 MB of nothing", long}, {"1 MB of dots", strings.Repeat(".", 1<<20)}, {"header of 1 MB", f.Sign(f.headerAnd(`"x":"`+long+`"`), f.With())},
		{"claims of 1 MB", f.Sign(f.Header(), f.claimsAnd(`"x":"`+long+`"`))}, {"signature of 1 MB", p[0] + "." + p[1] + "." + encode([]byte(long))}, {"a byte too long", good + strings.Repeat("A", 8<<10+1-len(good))},
		{"as long as may be", good + strings.Repeat("A", 8<<10-len(good))}, {"dots as many as may be", strings.Repeat(".", 8<<10)}, {"a thousand claims", f.Sign(f.Header(), f.claimsAnd(thousand.String()[1:]))},
		{"a hundred roles too long", f.Sign(f.Header(), f.With("roles", strings.Split(strings.Repeat("r,", 5000), ",")))}, {"claims deep", f.Sign(f.Header(), deep(2500))},
		{"a claim deep", f.Sign(f.Header(), f.claimsWhere("jti", deep(2000)))}, {"roles deep", f.Sign(f.Header(), f.claimsWhere("roles", deep(2000)))}, {"a claim of deep objects", f.Sign(f.Header(), f.claimsWhere("sub", objects))},
		{"header deep", f.Sign(deep(2500), f.With())}, {"a header's member deep", f.Sign(f.headerAnd(`"x":`+deep(2000)), f.With())}, {"kid deep", f.Sign(headerOf(`"EdDSA"`, deep(2000), `"at+jwt"`), f.With())},
		{"deep and cut", f.Sign(f.Header(), strings.Repeat("[", 5500))}, {"a name of 4 KB", f.Sign(f.Header(), f.claimsAnd(quoted(strings.Repeat("n", 4096))+":1"))},
	}
}

// lastDigit changes bits of the last base64 digit that stand for no byte.
func lastDigit(token string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.IndexByte(digits, token[len(token)-1])
	return token[:len(token)-1] + string(digits[i^1])
}

func wide(text string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(text)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

func percent(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

func backwards(text string) string {
	b := []byte(text)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}
