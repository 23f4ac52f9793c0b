package models

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
)

func publicPEM(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func newKey(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

func TestParseUploadKeys(t *testing.T) {
	one, _ := newKey(t)
	two, private := newKey(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	good := slices.Concat([]byte("# of grace\n"), publicPEM(t, one), []byte("\n# of ada\n"), publicPEM(t, two))
	keys, err := ParseUploadKeys(good)
	if err != nil || len(keys.keys) != 2 || keys.keys[0].fingerprint != Fingerprint(one) || keys.keys[0].fingerprint == keys.keys[1].fingerprint {
		t.Fatalf("%+v, %v", keys, err)
	}
	if f := Fingerprint(one); !strings.HasPrefix(f, "SHA256:") || len(f) != len("SHA256:")+43 {
		t.Errorf("fingerprint %q", f)
	}
	for name, text := range map[string][]byte{
		"nothing":              nil,
		"no PEM":               []byte("ssh-ed25519 AAAA"),
		"a private key":        pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
		"another algorithm":    publicPEM(t, other.Public()),
		"damaged":              pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}),
		"the second cut off":   good[:len(good)-30],
		"a good and a bad one": slices.Concat(publicPEM(t, one), publicPEM(t, other.Public())),
		"too many":             slices.Repeat(publicPEM(t, one), maxUploadKeys+1),
	} {
		if keys, err := ParseUploadKeys(text); err == nil {
			t.Errorf("%s: %+v", name, keys)
		}
	}
}

// TestUploadKeys: a signature is of one file, for one name, by a known key.
func TestUploadKeys(t *testing.T) {
	public, private := newKey(t)
	more, moreToo := newKey(t)
	_, stranger := newKey(t)
	keys, err := ParseUploadKeys(slices.Concat(publicPEM(t, public), publicPEM(t, more)))
	if err != nil {
		t.Fatal(err)
	}
	digest, another := digestOf([]byte("file")), digestOf([]byte("File"))
	sign := func(key ed25519.PrivateKey, name, digest string) []byte {
		return ed25519.Sign(key, UploadMessage(name, digest))
	}
	good := sign(private, "iris", digest)
	flipped := slices.Clone(good)
	flipped[10] ^= 1
	for _, test := range []struct {
		what      string
		name      string
		signature []byte
		want      string // of the fingerprint; "": refused
	}{
		{"good", "iris", good, Fingerprint(public)},
		{"by another known key", "iris", sign(moreToo, "iris", digest), Fingerprint(more)},
		{"none", "iris", nil, ""},
		{"too short", "iris", good[:63], ""},
		{"too long", "iris", append(slices.Clone(good), 0), ""},
		{"a bit changed", "iris", flipped, ""},
		{"by a stranger", "iris", sign(stranger, "iris", digest), ""},
		{"of another file", "iris", sign(private, "iris", another), ""},
		{"for another name", "digits", good, ""},
		{"of the bare digest", "iris", ed25519.Sign(private, []byte(digest)), ""},
		{"of a name with a line feed", "iris", sign(private, "ir\nis", digest), ""},
	} {
		got, err := keys.check(test.name, digest, test.signature)
		if code := codeOf(t, err); got != test.want || (code == "signature") != (test.want == "") {
			t.Errorf("%s: %q, %v", test.what, got, err)
		}
	}
	if got := string(UploadMessage("iris", "ab12")); got != "modelgate model v1\niris\nab12\n" {
		t.Errorf("the message is %q", got)
	}
}
