package authtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"hash"
	"math/big"
	"slices"
	"strings"
)

// Case is a token that must be refused.
type Case struct{ Name, Token string }

// Forged returns tokens that must be refused, each for a reason of its own,
// with names that tell it. They are grouped by the row of docs/security.md
// that refuses them.
func (f *Forger) Forged() []Case {
	groups := []struct {
		row   string
		cases []Case
	}{
		{"T1", f.noAlgorithm()}, {"T2", f.otherAlgorithm()}, {"T2", f.signatures()}, {"T3", f.keyIDs()}, {"T3", f.broughtKeys()},
		{"T4", f.times()}, {"T5", f.parties()}, {"T6", f.types()}, {"T7", f.extensions()},
		{"T8", f.forms()}, {"T8", f.encodings()}, {"T8", f.duplicates()}, {"T8", f.sizes()}, {"T13", f.subjects()},
	}
	var all []Case
	for _, g := range groups {
		for _, c := range g.cases {
			all = append(all, Case{g.row + " " + c.Name, c.Token})
		}
	}
	slices.SortFunc(all, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// quoted writes text as a JSON string without escapes.
func quoted(text string) string { return `"` + text + `"` }

// row T1: no algorithm at all, in all ways of writing it.
func (f *Forger) noAlgorithm() (cases []Case) {
	unsigned := func(alg string) string {
		return signingText(headerOf(alg, quoted(f.KeyID), `"at+jwt"`), f.With()) + "."
	}
	signature := strings.Split(f.Good(), ".")[2]
	for _, alg := range []string{`"none"`, `"None"`, `"NONE"`, `"nOnE"`, `"NoNe"`, `"n\u006fne"`, `"none "`, `"none\u0000"`, `""`, `null`, `[]`, `["none"]`, `{}`, `false`, `0`} {
		cases = append(cases, Case{"unsigned, alg " + alg, unsigned(alg)}, Case{"signature of a good token, alg " + alg, unsigned(alg) + signature})
	}
	for _, alg := range []string{`"none"`, `""`, `null`, `1`, `["EdDSA"]`, `"eddsa"`, `"EDDSA"`, `"EdDSA "`, `"EdDSA\u0000"`} {
		cases = append(cases, Case{"signed with alg " + alg, f.Sign(headerOf(alg, quoted(f.KeyID), `"at+jwt"`), f.With())})
	}
	return append(cases,
		Case{"unsigned, no alg", signingText(fmt.Sprintf(`{"kid":"%s","typ":"at+jwt"}`, f.KeyID), f.With()) + "."},
		Case{"signed, no alg", f.Sign(fmt.Sprintf(`{"kid":"%s","typ":"at+jwt"}`, f.KeyID), f.With())},
		Case{"unsigned, without the last dot", strings.TrimSuffix(unsigned(`"none"`), ".")},
	)
}

// row T2: another algorithm than the key's. What is public must be no secret.
func (f *Forger) otherAlgorithm() (cases []Case) {
	public := f.Key.Public().(ed25519.PublicKey)
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(err)
	}
	x := encode(public)
	pemText := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	secrets := []struct {
		name string
		key  []byte
	}{
		{"the public key", public}, {"its base64", []byte(x)}, {"its hex", []byte(hex.EncodeToString(public))}, {"its DER", spki}, {"its PEM", pemText},
		{"its PEM without the last line end", pemText[:len(pemText)-1]},
		{"its JWK", fmt.Appendf(nil, `{"kty":"OKP","crv":"Ed25519","x":"%s"}`, x)},
		{"its JWK as published", fmt.Appendf(nil, `{"kty":"OKP","crv":"Ed25519","x":"%s","kid":"%s","alg":"EdDSA","use":"sig"}`, x, f.KeyID)},
		{"the kid", []byte(f.KeyID)}, {"nothing", nil}, {"a shorter public key", public[:31]}, {"zeros longer than a block", make([]byte, 200)}, {"a sample", []byte("secret")},
	}
	hashes := make(map[string]func() hash.Hash)
	hashes["HS256"], hashes["HS384"], hashes["HS512"] = sha256.New, sha512.New384, sha512.New
	for _, s := range secrets {
		for name, h := range hashes {
			cases = append(cases, Case{name + " with " + s.name, MAC(h, s.key, headerOf(quoted(name), quoted(f.KeyID), `"at+jwt"`), f.With())})
		}
	}
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "HS256", "HS384", "HS512", "Ed25519", "Ed448", "ML-DSA-44"} {
		cases = append(cases, Case{"signed by the key, alg " + alg, f.Sign(headerOf(quoted(alg), quoted(f.KeyID), `"at+jwt"`), f.With())})
	}
	return append(cases, f.otherKinds()...)
}

// otherKinds are good signatures of other kinds, by an attacker's keys.
func (f *Forger) otherKinds() []Case {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	by := func(alg string, sign func(digest []byte) ([]byte, error)) string {
		text := signingText(headerOf(quoted(alg), quoted(f.KeyID), `"at+jwt"`), f.With())
		digest := sha256.Sum256([]byte(text))
		signature, err := sign(digest[:])
		if err != nil {
			panic(err)
		}
		return text + "." + encode(signature)
	}
	return []Case{
		{"RS256 by an attacker", by("RS256", func(d []byte) ([]byte, error) { return rsa.SignPKCS1v15(nil, rsaKey, crypto.SHA256, d) })},
		{"PS256 by an attacker", by("PS256", func(d []byte) ([]byte, error) { return rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA256, d, nil) })},
		{"ES256 by an attacker", by("ES256", func(d []byte) ([]byte, error) {
			r, s, err := ecdsa.Sign(rand.Reader, ecKey, d)
			return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), err
		})},
		{"ES256 of zeros", by("ES256", func([]byte) ([]byte, error) { return make([]byte, 64), nil })},
	}
}

// order is that of Ed25519's base point (RFC 8032 section 5.1).
var order, _ = new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)

// smallOrder are the encodings of the points of small order, canonical and not.
var smallOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000", "0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	"0100000000000000000000000000000000000000000000000000000000000080", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}

// row T2: signatures that are nearly right.
func (f *Forger) signatures() (cases []Case) {
	good := f.Good()
	cut := strings.LastIndexByte(good, '.')
	text := good[:cut]
	parts := strings.Split(text, ".")
	signature := ed25519.Sign(f.Key, []byte(text))
	_, strange, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	as := func(name string, s []byte) { cases = append(cases, Case{name, text + "." + encode(s)}) }
	flipped := func(i int) []byte {
		s := slices.Clone(signature)
		s[i] ^= 1
		return s
	}
	as("signed by a stranger's key", ed25519.Sign(strange, []byte(text)))
	as("first bit flipped", flipped(0))
	as("last byte of R flipped", flipped(31))
	as("first byte of S flipped", flipped(32))
	as("last byte of S flipped", flipped(63))
	as("signature of 63 bytes", signature[:63])
	as("signature of 65 bytes", append(slices.Clone(signature), 1))
	as("signature twice", append(slices.Clone(signature), signature...))
	as("signature in hex", []byte(hex.EncodeToString(signature)))
	as("R and S exchanged", append(slices.Clone(signature[32:]), signature[:32]...))
	as("S with the order added", append(slices.Clone(signature[:32]), addOrder(signature[32:], 1)...))
	as("S with the order added twice", append(slices.Clone(signature[:32]), addOrder(signature[32:], 2)...))
	as("S is the order, R the identity", append(unhex(smallOrder[0]), addOrder(make([]byte, 32), 1)...))
	for _, point := range smallOrder {
		as("S zero, R of small order "+point[:4]+point[60:], append(unhex(point), make([]byte, 32)...))
	}
	as("of other claims", ed25519.Sign(f.Key, []byte(signingText(f.Header(), f.With("jti", "another")))))
	as("of the claims alone", ed25519.Sign(f.Key, []byte(parts[1])))
	as("of the header alone", ed25519.Sign(f.Key, []byte(parts[0])))
	as("of what is encoded", ed25519.Sign(f.Key, []byte(f.Header()+"."+f.With())))
	as("of the text with its dot", ed25519.Sign(f.Key, []byte(text+".")))
	as("of nothing", ed25519.Sign(f.Key, nil))
	digest := sha512.Sum512([]byte(text))
	for name, options := range map[string]ed25519.Options{"Ed25519ph": {Hash: crypto.SHA512}, "Ed25519ctx": {Context: "at+jwt"}} {
		message := []byte(text)
		if options.Hash != 0 {
			message = digest[:]
		}
		s, err := f.Key.Sign(nil, message, &options)
		if err != nil {
			panic(err)
		}
		as(name, s)
	}
	return cases
}

// addOrder adds n times the order to a little-endian number, by which an
// Ed25519 signature holds as well where the verifier does not look.
func addOrder(s []byte, n int64) []byte {
	big1 := slices.Clone(s)
	slices.Reverse(big1)
	sum := new(big.Int).Add(new(big.Int).SetBytes(big1), new(big.Int).Mul(order, big.NewInt(n)))
	out := sum.FillBytes(make([]byte, 32))
	slices.Reverse(out)
	return out
}

func unhex(text string) []byte {
	b, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return b
}

// row T3: kid.
func (f *Forger) keyIDs() (cases []Case) {
	for name, kid := range map[string]string{
		"empty": `""`, "unknown": `"nobody"`, "a path": `"../../../../dev/null"`, "an absolute path": `"/proc/self/environ"`, "SQL": `"' OR '1'='1"`,
		"SQL with a key": `"x' UNION SELECT 'AAAA' --"`, "a command": `"|id"`, "a URL": `"http://127.0.0.1/jwks"`, "a number": `0`, "a list": `["` + f.KeyID + `"]`,
		"an object": `{"` + f.KeyID + `":1}`, "null": `null`, "true": `true`, "in capitals": quoted(strings.ToUpper(f.KeyID)), "with a NUL": `"` + f.KeyID + `\u0000"`,
		"with a space": quoted(f.KeyID + " "), "with a line end": `"` + f.KeyID + `\n"`, "cut": quoted(f.KeyID[:len(f.KeyID)-1]), "with padding": quoted(f.KeyID + "="),
		"a longer one": quoted(f.KeyID + "A"), "a long text": quoted(strings.Repeat("k", 5000)), "not UTF-8": "\"\xff\"", "a lone surrogate": `"\ud800"`,
		"a prototype": `"__proto__"`, "two": quoted(f.KeyID + "," + f.KeyID),
	} {
		cases = append(cases, Case{"kid is " + name, f.Sign(headerOf(`"EdDSA"`, kid, `"at+jwt"`), f.With())})
	}
	return append(cases, Case{"no kid", f.Sign(`{"alg":"EdDSA","typ":"at+jwt"}`, f.With())},
		Case{"KID", f.Sign(fmt.Sprintf(`{"alg":"EdDSA","KID":"%s","typ":"at+jwt"}`, f.KeyID), f.With())},
		Case{"kid of 1 MB", f.Sign(headerOf(`"EdDSA"`, quoted(strings.Repeat("k", 1<<20)), `"at+jwt"`), f.With())})
}

// row T3: keys that the token brings along, with an attacker's signature and
// with a good one.
func (f *Forger) broughtKeys() (cases []Case) {
	public, strange, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	attacker := &Forger{KeyID: f.KeyID, Key: strange, Claims: f.Claims}
	jwk := fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","x":"%s","kid":"%s"}`, encode(public), f.KeyID)
	der := base64.StdEncoding.EncodeToString(public)
	thumb := sha256.Sum256(public)
	members := map[string]string{
		"jwk": `"jwk":` + jwk, "jwk null": `"jwk":null`, "a secret as jwk": `"jwk":{"kty":"oct","k":"c2VjcmV0"}`, "JWK": `"JWK":` + jwk,
		"jku": `"jku":"http://127.0.0.1/jwks.json"`, "jku of a file": `"jku":"file:///dev/stdin"`, "jku with the keys in it": `"jku":"data:application/json,{}"`,
		"x5u": `"x5u":"http://127.0.0.1/cert.pem"`, "x5c": `"x5c":["` + der + `"]`, "x5c empty": `"x5c":[]`, "x5t": `"x5t":"` + encode(thumb[:20]) + `"`,
		"x5t#S256": `"x5t#S256":"` + encode(thumb[:]) + `"`, "epk": `"epk":` + jwk, "cnf": `"cnf":{"jwk":` + jwk + `}`, "keys": `"keys":[` + jwk + `]`,
	}
	for name, member := range members {
		cases = append(cases, Case{name + " of an attacker", attacker.Sign(attacker.headerAnd(member), f.With())}, Case{name + " with a good signature", f.Sign(f.headerAnd(member), f.With())})
	}
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"Ed25519","kty":"OKP","x":"%s"}`, encode(public)))
	attacker.KeyID = encode(sum[:])
	return append(cases, Case{"kid and key of an attacker", attacker.Good()}, Case{"kid and jwk of an attacker", attacker.Sign(attacker.headerAnd(`"jwk":`+jwk), f.With())})
}
