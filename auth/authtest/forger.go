// Package authtest makes access tokens as an attacker would, for tests: of the
// verifier by itself, and of the server over HTTP.
package authtest

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash"
	"maps"
	"strings"
	"time"

	"modelgate/auth"
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

// New is a forger who has got hold of a good token, and of the key that signed
// it, with the server's database and master key.
func New(ctx context.Context, store auth.Store, vault *auth.Vault, good string, now time.Time) (*Forger, error) {
	header, err := Part(good, 0)
	if err != nil {
		return nil, err
	}
	claims, err := Part(good, 1)
	if err != nil {
		return nil, err
	}
	keys, err := store.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.ID != header["kid"] {
			continue
		}
		seed, err := vault.Open("signing_key", k.ID, k.Sealed)
		if err != nil {
			return nil, err
		}
		return &Forger{KeyID: k.ID, Key: ed25519.NewKeyFromSeed(seed), Claims: claims, Now: now}, nil
	}
	return nil, fmt.Errorf("no signing key %v in the database", header["kid"])
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
