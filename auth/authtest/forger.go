// Package authtest makes access tokens as an attacker would, for tests: of the
// verifier by itself, and of the server over HTTP.
package authtest

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Forger makes tokens by hand. It has the server's own key, so that each of
// its tokens is wrong in one thing only.
type Forger struct {
	KeyID  string
	Key    ed25519.PrivateKey
	Claims map[string]any // of a good token
	Now    time.Time      // the server's clock

	Stranger     string // id of a user whose session it is not
	StrangersSID string // a session of his
	EndedSID     string // a session that the token's own user has ended; "": none
}

// New is a forger who has got hold of a good token, and of the one signing key
// in the server's folder of keys.
func New(keys, good string, now time.Time) (*Forger, error) {
	names, err := filepath.Glob(filepath.Join(keys, "*.pem"))
	if err != nil || len(names) != 1 {
		return nil, fmt.Errorf("signing keys %v: %v", names, err)
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM file", names[0])
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	header, err := Part(good, 0)
	if err != nil {
		return nil, err
	}
	claims, err := Part(good, 1)
	if err != nil {
		return nil, err
	}
	return &Forger{KeyID: fmt.Sprint(header["kid"]), Key: key.(ed25519.PrivateKey), Claims: claims, Now: now}, nil
}

// Part reads the header (0) or the claims (1) of a token, unverified.
func Part(token string, i int) (map[string]any, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%d parts", len(parts))
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[i])
	if err != nil {
		return nil, err
	}
	var members map[string]any
	return members, json.Unmarshal(text, &members)
}

// Header is that of a good token.
func (f *Forger) Header() string {
	return fmt.Sprintf(`{"alg":"EdDSA","kid":"%s","typ":"at+jwt"}`, f.KeyID)
}

// With returns the claims of a good token with some changed, by name and
// value; nil removes one.
func (f *Forger) With(changes ...any) string {
	c := maps.Clone(f.Claims)
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == nil {
			delete(c, changes[i].(string))
		} else {
			c[changes[i].(string)] = changes[i+1]
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// Sign makes a token of a header and claims, whatever they are.
func (f *Forger) Sign(header, claims string) string {
	text := signingText(header, claims)
	return text + "." + encode(ed25519.Sign(f.Key, []byte(text)))
}

// Good is a token that must be accepted.
func (f *Forger) Good() string { return f.Sign(f.Header(), f.With()) }

// MAC makes a token that is signed by an HMAC.
func MAC(h func() hash.Hash, key []byte, header, claims string) string {
	text := signingText(header, claims)
	m := hmac.New(h, key)
	m.Write([]byte(text))
	return text + "." + encode(m.Sum(nil))
}

func signingText(header, claims string) string {
	return encode([]byte(header)) + "." + encode([]byte(claims))
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// header writes a header of a good one's members with more behind them.
func (f *Forger) headerAnd(members string) string {
	return strings.TrimSuffix(f.Header(), "}") + "," + members + "}"
}

// headerOf writes a header of these three values, as JSON.
func headerOf(alg, kid, typ string) string {
	return fmt.Sprintf(`{"alg":%s,"kid":%s,"typ":%s}`, alg, kid, typ)
}

// claimsAnd writes the claims of a good token with more behind them.
func (f *Forger) claimsAnd(members string) string {
	return strings.TrimSuffix(f.With(), "}") + "," + members + "}"
}

// claimsWhere writes the claims of a good token with one's value as it stands
// here, JSON or not.
func (f *Forger) claimsWhere(name, value string) string {
	const mark = "31337133731337"
	return strings.Replace(f.With(name, json.Number(mark)), mark, value, 1)
}
