package auth_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/auth/authtest"
)

func TestKeyring(t *testing.T) {
	e := newEnv(t)
	again, err := auth.OpenKeyring(e.ctx, e.keyring())
	want(t, err, nil)
	if e.keys.SignerID() != again.SignerID() {
		t.Fatal("a second start makes another key")
	}
	if fresh := newEnv(t); fresh.keys.SignerID() == e.keys.SignerID() {
		t.Error("two fresh starts have one key")
	}
	other := e.keyring()
	other.Vault = openVault(t, "", masterKey())
	if _, err := auth.OpenKeyring(e.ctx, other); !errors.Is(err, auth.ErrMasterKey) || !strings.Contains(err.Error(), e.vault.Name()) {
		t.Errorf("another master key: %v", err)
	}
	// What somebody wrote into the database, and did not seal, is no key.
	rows, err := e.db.SigningKeys(e.ctx)
	want(t, err, nil)
	for what, change := range map[string]func(*auth.SigningKey){
		"changed": func(k *auth.SigningKey) { k.Sealed[len(k.Sealed)-1] ^= 1 },
		"renamed": func(k *auth.SigningKey) { k.ID = "another" },
		"clear":   func(k *auth.SigningKey) { k.Sealed = bytes.Repeat([]byte{7}, 32) },
		"sealed for another purpose": func(k *auth.SigningKey) {
			k.Sealed = e.vault.Seal("totp", k.ID, e.keys.Private().Seed())
		},
		"sealed, of another name": func(k *auth.SigningKey) {
			k.ID = "another"
			k.Sealed = e.vault.Seal("signing_key", k.ID, e.keys.Private().Seed())
		},
	} {
		bad := rows[0]
		bad.Sealed = bytes.Clone(bad.Sealed)
		change(&bad)
		e.putKeys(bad)
		if _, err := auth.OpenKeyring(e.ctx, e.keyring()); err == nil {
			t.Errorf("%s: taken for a key", what)
		}
	}
}

// putKeys replaces the keys in the database.
func (e *env) putKeys(keys ...auth.SigningKey) {
	e.t.Helper()
	_, err := e.db.UpdateSigningKeys(e.ctx, func([]auth.SigningKey) ([]auth.SigningKey, error) { return keys, nil })
	want(e.t, err, nil)
}

// pemKey writes a key as earlier versions kept it.
func pemKey(t *testing.T, name string) ed25519.PrivateKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	want(t, err, nil)
	writePEM(t, name, private)
	return private
}

func writePEM(t *testing.T, name string, private ed25519.PrivateKey) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	want(t, err, nil)
	want(t, os.MkdirAll(filepath.Dir(name), 0o700), nil)
	want(t, os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600), nil)
}

// kidOf is the name that a key has by RFC 7638.
func kidOf(t *testing.T, private ed25519.PrivateKey) string {
	t.Helper()
	e := newEnv(t)
	e.putKeys()
	writePEM(t, filepath.Join(e.dir, "keys", "one.pem"), private)
	k, err := auth.OpenKeyring(e.ctx, e.keyring())
	want(t, err, nil)
	return k.SignerID()
}

// Keys that an earlier version kept as files are taken over: tokens that they
// signed stay good, and no key lies about in clear any more.
func TestKeyFilesAreTakenOver(t *testing.T) {
	e := newEnv(t)
	f := newForger(t, e)
	e.putKeys() // as a database of the earlier version comes
	dir := filepath.Join(e.dir, "keys")
	newer, older := pemKey(t, filepath.Join(dir, "b.pem")), pemKey(t, filepath.Join(dir, "a.pem"))
	k, err := auth.OpenKeyring(e.ctx, e.keyring())
	want(t, err, nil)
	if k.SignerID() != kidOf(t, newer) {
		t.Error("another key signs than before")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.pem")); len(left) != 0 {
		t.Errorf("left in clear: %v", left)
	}
	r := e.replica()
	sign := func(key ed25519.PrivateKey) string {
		f.KeyID, f.Key = kidOf(t, key), key
		return f.Good()
	}
	byNewer, byOlder := sign(newer), sign(older)
	r.who(byNewer)
	r.who(byOlder)
	if set := string(r.JWKS()); strings.Count(set, `"kid"`) != 2 {
		t.Errorf("%s", set)
	}
	e.clock.advance(15*time.Minute + auth.KeySlack)
	if set := string(r.JWKS()); strings.Count(set, `"kid"`) != 1 || !strings.Contains(set, k.SignerID()) {
		t.Errorf("when the tokens of the older key have expired: %s", set)
	}

	// A start that died between storing a key and removing its file.
	writePEM(t, filepath.Join(dir, "b.pem"), newer)
	again, err := auth.OpenKeyring(e.ctx, e.keyring())
	want(t, err, nil)
	if left, _ := filepath.Glob(filepath.Join(dir, "*.pem")); len(left) != 0 || again.SignerID() != k.SignerID() {
		t.Errorf("%v, %s", left, again.SignerID())
	}
	pemKey(t, filepath.Join(dir, "c.pem"))
	if _, err := auth.OpenKeyring(e.ctx, e.keyring()); err == nil || !strings.Contains(err.Error(), "signing-key rotate") {
		t.Errorf("a file beside the keys in the database: %v", err)
	}
}

func TestBadKeyFilesAreRefused(t *testing.T) {
	e := newEnv(t)
	e.putKeys()
	dir := filepath.Join(e.dir, "keys")
	name := filepath.Join(dir, "a.pem")
	pemKey(t, name)
	refused := func(what, message string) {
		t.Helper()
		if _, err := auth.OpenKeyring(e.ctx, e.keyring()); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o666, 0o644} {
		want(t, os.Chmod(name, mode), nil)
		refused(fmt.Sprintf("mode %#o", mode), "chmod 600 "+name)
	}
	want(t, os.Chmod(name, 0o600), nil)
	want(t, os.Chmod(dir, 0o770), nil)
	refused("a folder others may write to", "chmod 700")
	want(t, os.Chmod(dir, 0o700), nil)
	for _, content := range []string{"", "junk", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"} {
		bad := filepath.Join(dir, "zz.pem")
		want(t, os.WriteFile(bad, []byte(content), 0o600), nil)
		refused(fmt.Sprintf("%q", content), bad)
		want(t, os.Remove(bad), nil)
	}
	if rows, err := e.db.SigningKeys(e.ctx); err != nil || len(rows) != 0 {
		t.Errorf("a start that was refused stored keys: %v, %v", rows, err)
	}
}

// kids are those of the JWK set, and the set has nothing but public parts.
func (e *env) kids() []string {
	e.t.Helper()
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	want(e.t, json.Unmarshal(e.JWKS(), &set), nil)
	var kids []string
	for _, k := range set.Keys {
		kids = append(kids, k["kid"])
		if len(k) != 6 || k["kty"] != "OKP" || k["crv"] != "Ed25519" || k["alg"] != "EdDSA" || k["use"] != "sig" || len(k["x"]) != 43 {
			e.t.Errorf("a key of the set: %v", k)
		}
	}
	return kids
}

// A new key is published before it signs, the older one verifies until the last
// token that it signed has expired, and then it is gone. Nobody is logged out.
func TestKeyRotation(t *testing.T) {
	e := newEnv(t)
	r := e.replica() // another server, which does nothing but follow
	_, tok := e.user("alice")
	first := e.keys.SignerID()
	made, err := e.RotateSigningKey(e.ctx, e.admin)
	want(t, err, nil)
	if made.State != auth.KeyNext || made.ID == first || !made.ActiveAt.Equal(e.clock.now().Add(10*time.Minute)) {
		t.Fatalf("%+v", made)
	}
	if got := e.kids(); len(got) != 2 || got[0] != first || got[1] != made.ID {
		t.Fatalf("published: %v", got)
	}
	if age := e.JWKSAge(); age <= 0 || age+auth.Believed >= 10*time.Minute {
		t.Errorf("a set that is kept for %s can lack a key that signs", age)
	}
	if _, err := e.RotateSigningKey(e.ctx, e.admin); !errors.Is(err, auth.ErrInUse) {
		t.Errorf("a second key waits: %v", err)
	}
	signedBy := func(token string) any { return kid(t, token) }
	old := tok.Access
	for _, step := range []struct {
		after  time.Duration
		signer string
		oldest int // of the keys that are published
	}{{0, first, 2}, {10*time.Minute - time.Second, first, 2}, {time.Second, made.ID, 2}, {14 * time.Minute, made.ID, 2}, {time.Minute + auth.KeySlack, made.ID, 1}} {
		e.clock.advance(step.after)
		if !e.clock.now().Before(time.Unix(int64(claimsOf(t, old)["exp"].(float64)), 0)) {
			old = tok.Access
		}
		e.who(old)
		r.who(old)
		tok, err = e.Refresh(e.ctx, origin, tok.Refresh)
		want(t, err, nil)
		if signedBy(tok.Access) != step.signer {
			t.Errorf("signed by %v, want %s", signedBy(tok.Access), step.signer)
		}
		e.who(tok.Access)
		r.who(tok.Access)
		if got := len(e.kids()); got != step.oldest {
			t.Errorf("%d keys are published, want %d", got, step.oldest)
		}
		if got := len(r.kids()); got != step.oldest {
			t.Errorf("%d keys are published elsewhere, want %d", got, step.oldest)
		}
	}
	want(t, e.KeepKeys(e.ctx), nil)
	if rows, err := e.db.SigningKeys(e.ctx); err != nil || len(rows) != 1 || rows[0].ID != made.ID {
		t.Errorf("kept: %v, %v", rows, err)
	}
	if got := e.records("signing_key.rotate"); len(got) != 1 || got[0].Target != made.ID || got[0].Actor != "admin" {
		t.Errorf("%+v", got)
	}
}

// Who may touch the keys: administrators who have signed in lately, and nobody
// whose action can't be recorded.
func TestSigningKeysAreGuarded(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	_, key, err := e.CreateKey(e.ctx, e.admin, auth.KeyRequest{Name: "ci"})
	want(t, err, nil)
	for _, c := range []struct {
		what string
		who  auth.Principal
		want error
		list error
	}{{"a user", e.who(tok.Access), auth.ErrForbidden, auth.ErrForbidden}, {"an API key", e.who(key), auth.ErrReauthenticate, nil}} {
		_, err := e.RotateSigningKey(e.ctx, c.who)
		want(t, err, c.want)
		want(t, e.RetireSigningKey(e.ctx, c.who, e.keys.SignerID()), c.want)
		_, err = e.SigningKeys(e.ctx, c.who)
		want(t, err, c.list)
	}
	list, err := e.SigningKeys(e.ctx, e.admin)
	want(t, err, nil)
	if len(list) != 1 || list[0].State != auth.KeySigning || list[0].ID != e.keys.SignerID() || !list[0].RetireAt.IsZero() {
		t.Errorf("%+v", list)
	}
	want(t, e.RetireSigningKey(e.ctx, e.admin, "unknown"), auth.ErrNotFound)
	e.audit.Close()
	_, err = e.RotateSigningKey(e.ctx, e.admin)
	want(t, err, auth.ErrUnavailable)
	want(t, e.RetireSigningKey(e.ctx, e.admin, e.keys.SignerID()), auth.ErrUnavailable)
	if got := e.kids(); len(got) != 1 {
		t.Errorf("done without a record: %v", got)
	}
}

// A key that somebody else may know goes at once, and with it what it signed; a
// new one signs, and sessions go on.
func TestRetireSigningKey(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	first := e.keys.SignerID()
	next, err := e.RotateSigningKey(e.ctx, e.admin)
	want(t, err, nil)
	want(t, e.RetireSigningKey(e.ctx, e.admin, next.ID), nil) // before it has signed
	if got := e.kids(); len(got) != 1 || got[0] != first || e.keys.SignerID() != first {
		t.Errorf("%v", got)
	}
	e.who(tok.Access)
	list, err := e.SigningKeys(e.ctx, e.admin)
	want(t, err, nil)
	if !list[0].RetireAt.IsZero() {
		t.Errorf("the key that stays has an end: %+v", list)
	}
	r := e.replica()
	r.who(tok.Access)
	want(t, e.RetireSigningKey(e.ctx, e.admin, first), nil)
	e.dead("signed by a retired key", tok.Access)
	if got := e.kids(); len(got) != 1 || got[0] == first {
		t.Errorf("%v", got)
	}
	tok, err = e.Refresh(e.ctx, origin, tok.Refresh)
	want(t, err, nil)
	e.who(tok.Access)
	// Another server has not heard of the new key. It asks.
	r.who(tok.Access)
	if got := e.records("signing_key.retire"); len(got) != 2 || got[0].Target != first {
		t.Errorf("%+v", got)
	}
}

// Of servers that rotate by schedule at the same moment, one makes a key.
func TestScheduledRotation(t *testing.T) {
	e := newEnv(t)
	opened := e.keyring()
	opened.Every = 24 * time.Hour
	var servers []*env
	for range 4 {
		servers = append(servers, e.replica(func(c *auth.Config) {
			k, err := auth.OpenKeyring(e.ctx, opened)
			want(t, err, nil)
			c.Keys = k
		}))
	}
	keep := func() {
		t.Helper()
		done := make(chan error)
		for _, s := range servers {
			go func() { done <- s.KeepKeys(e.ctx) }()
		}
		for range servers {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	first := servers[0].kids()
	e.clock.advance(24*time.Hour - time.Second)
	keep()
	if got := servers[0].kids(); len(got) != 1 {
		t.Fatalf("rotated too early: %v", got)
	}
	for day := range 3 {
		e.clock.advance(24 * time.Hour)
		keep()
		keep() // once more changes nothing
		kids := servers[0].kids()
		if len(kids) != 2 || kids[0] != first[len(first)-1] {
			t.Fatalf("day %d: %v after %v", day, kids, first)
		}
		for _, s := range servers {
			if got := s.kids(); fmt.Sprint(got) != fmt.Sprint(kids) {
				t.Errorf("day %d: servers publish %v and %v", day, kids, got)
			}
		}
		first = kids
	}
	if got := e.records("signing_key.rotate"); len(got) < 3 || got[0].Actor != "schedule" {
		t.Errorf("%+v", got)
	}
}

// Tokens of unknown keys make the database be asked once a second at most.
func TestUnknownKeysAskSeldom(t *testing.T) {
	e := newEnv(t)
	f := newForger(t, e)
	forged := func(i int) string {
		f.KeyID = fmt.Sprintf("unknown-%d", i)
		return f.Good()
	}
	want(t, e.Poll(e.ctx), nil)
	calls, polls := e.store.count(), e.store.polls.Load()
	for i := range 500 {
		e.dead("of an unknown key", forged(i))
	}
	if n := e.store.polls.Load() - polls; n != 1 {
		t.Errorf("the database was asked %d times", n)
	}
	e.clock.advance(time.Second)
	for i := range 500 {
		e.dead("of an unknown key", forged(i))
	}
	if n := e.store.polls.Load() - polls; n != 2 {
		t.Errorf("the database was asked %d times in two seconds", n)
	}
	if n := e.store.count() - calls; n != 0 {
		t.Errorf("%d other questions", n)
	}
}

// The master key is replaced: what the old one sealed is sealed anew.
func TestRewrap(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	_, err := e.RotateSigningKey(e.ctx, e.admin)
	want(t, err, nil)
	fresh := masterKey()
	for _, sealed := range []int{2, 0} {
		done, err := auth.Rewrap(e.ctx, e.db, e.both(fresh), false)
		want(t, err, nil)
		rewrapped(t, done, sealed, 0)
	}
	if _, err := auth.OpenKeyring(e.ctx, e.keyring()); !errors.Is(err, auth.ErrMasterKey) {
		t.Errorf("the old master key still opens: %v", err)
	}
	e.vault = openVault(t, "", fresh)
	cfg := e.keyring()
	k, err := auth.OpenKeyring(e.ctx, cfg)
	want(t, err, nil)
	if k.SignerID() != e.keys.SignerID() {
		t.Error("another key")
	}
	// The master key is lost.
	lost := openVault(t, "", masterKey())
	if _, err := auth.Rewrap(e.ctx, e.db, lost, false); !errors.Is(err, auth.ErrMasterKey) {
		t.Errorf("%v", err)
	}
	done, err := auth.Rewrap(e.ctx, e.db, lost, true)
	want(t, err, nil)
	rewrapped(t, done, 0, 2)
	cfg.Vault = lost
	k, err = auth.OpenKeyring(e.ctx, cfg)
	want(t, err, nil)
	s, err := auth.New(auth.Config{Store: e.db, Guard: auth.NewGuard(e.audit), Audit: e.audit, Keys: k, Vault: lost, Issuer: issuer, Hashing: cheap, Now: e.clock.now})
	want(t, err, nil)
	if tok, err = s.Refresh(e.ctx, origin, tok.Refresh); err != nil {
		t.Fatalf("the session did not survive: %v", err)
	}
	if _, err := s.Authenticate(e.ctx, origin, tok.Access); err != nil {
		t.Error(err)
	}
}

// Neither the private keys nor the master key are in the database or the logs.
func TestPrivateKeysAreNotStored(t *testing.T) {
	e := newEnv(t)
	e.user("alice")
	_, err := e.RotateSigningKey(e.ctx, e.admin)
	want(t, err, nil)
	text, err := os.ReadFile(filepath.Join(e.dir, "keys", "master.key"))
	want(t, err, nil)
	master, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	want(t, err, nil)
	private := e.keys.Private()
	secrets := map[string][]byte{"the master key": master, "a private key": private.Seed()}
	names, err := filepath.Glob(filepath.Join(e.dir, "*"))
	want(t, err, nil)
	looked := 0
	look := func(where string, data []byte) {
		looked++
		for what, secret := range secrets {
			for how, form := range map[string]string{
				"as it is": string(secret), "in base64": base64.RawStdEncoding.EncodeToString(secret)[:42],
				"in base64url": base64.RawURLEncoding.EncodeToString(secret)[:42], "in hexadecimal": fmt.Sprintf("%x", secret),
			} {
				if bytes.Contains(data, []byte(form)) {
					t.Errorf("%s is in %s, %s", what, where, how)
				}
			}
		}
	}
	for _, name := range names {
		if info, err := os.Stat(name); err != nil || info.IsDir() {
			continue
		}
		data, err := os.ReadFile(name)
		want(t, err, nil)
		look(name, data)
	}
	look("the log", e.logs.Bytes())
	look("the JWK set", e.JWKS())
	if looked < 4 {
		t.Errorf("only %d places were looked at", looked)
	}
	// The test would find them.
	if data, err := os.ReadFile(filepath.Join(e.dir, "modelgate.db-wal")); err != nil || !bytes.Contains(data, []byte(e.keys.SignerID())) {
		t.Errorf("not even the name of the key is where its private part was looked for: %v", err)
	}
}

// kid is the name of the key that signed a token.
func kid(t *testing.T, token string) any {
	t.Helper()
	header, err := authtest.Part(token, 0)
	want(t, err, nil)
	return header["kid"]
}
