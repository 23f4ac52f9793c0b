package auth_test

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
)

func TestKeys(t *testing.T) {
	e := newEnv(t)
	alice, tok := e.user("alice")
	e.give(alice.ID, "data-scientist", "user")
	who := e.who(tok.Access)
	k, secret, err := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "CI of the lab"})
	want(t, err, nil)
	if !strings.HasPrefix(secret, "mg_") || len(secret) != 52 || k.Hash != sha256.Sum256([]byte(secret)) || !k.ExpiresAt.IsZero() {
		t.Fatalf("%+v", k)
	}
	by := e.who(secret)
	if by.UserID != alice.ID || by.KeyID != k.ID || by.SessionID != "" || !by.AuthTime.IsZero() || by.Models != nil || !by.Can(auth.ModelsWrite) {
		t.Fatalf("%+v", by)
	}
	_, other, err := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "2", ExpiresIn: time.Hour, Models: []string{"iris"}})
	want(t, err, nil)
	if scoped := e.who(other); !scoped.InScope("iris") || scoped.InScope("digits") {
		t.Errorf("%+v", scoped)
	}
	list, err := e.Keys(e.ctx, who)
	if want(t, err, nil); len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	for _, bad := range []string{secret[:51], secret + "x", strings.ToUpper(secret), "mg_" + strings.Repeat("0", 49), flip(secret)} {
		e.dead("a wrong key", bad)
	}
	e.clock.advance(time.Hour)
	e.dead("an expired key", other)
	e.who(secret)
	bob, btok := e.user("bob")
	want(t, e.DeleteKey(e.ctx, e.who(btok.Access), k.ID), auth.ErrNotFound)
	e.who(secret)
	who = e.who(e.login("alice").Access)
	want(t, e.DeleteKey(e.ctx, who, k.ID), nil)
	e.dead("a deleted key", secret)
	want(t, e.DeleteKey(e.ctx, who, k.ID), auth.ErrNotFound)
	_ = bob
	if r := e.records("key.create"); len(r) != 2 || r[1].Target != "CI of the lab" || r[1].Detail["id"] != k.ID {
		t.Errorf("%+v", r)
	}
	if r := e.records("key.delete"); len(r) != 1 || r[0].Target != k.ID {
		t.Errorf("%+v", r)
	}
}

func flip(s string) string {
	b := []byte(s)
	if b[20]++; b[20] > 'y' {
		b[20] = 'a'
	}
	return string(b)
}

// A key that is limited to models keeps no right of administration.
func TestScopedKeyOfAnAdministrator(t *testing.T) {
	e := newEnv(t)
	_, secret, err := e.CreateKey(e.ctx, e.admin, auth.KeyRequest{Name: "x", Models: []string{"iris"}})
	want(t, err, nil)
	who := e.who(secret)
	if who.Permissions != auth.ModelsWrite|auth.ModelsManage {
		t.Errorf("%v", who.Permissions.Names())
	}
	_, _, err = e.Users(e.ctx, who, "", 0)
	want(t, err, auth.ErrForbidden)
	if r := e.records("user.list")[0]; r.Detail["key"] != who.KeyID {
		t.Errorf("%+v", r)
	}
	_, err = e.Keys(e.ctx, who) // nor does it see what else opens the account
	want(t, err, auth.ErrForbidden)
}

func TestKeyNeedsAFreshSignIn(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	create := func(credential string) error {
		_, _, err := e.CreateKey(e.ctx, e.who(credential), auth.KeyRequest{Name: "x"})
		return err
	}
	_, key, err := e.CreateKey(e.ctx, e.who(tok.Access), auth.KeyRequest{Name: "x"})
	want(t, err, nil)
	want(t, create(key), auth.ErrReauthenticate)
	e.clock.advance(10 * time.Minute)
	want(t, create(tok.Access), nil)
	e.clock.advance(time.Second)
	want(t, create(tok.Access), auth.ErrReauthenticate)
	tok, err = e.Refresh(e.ctx, origin, tok.Refresh) // proves no password
	want(t, err, nil)
	want(t, create(tok.Access), auth.ErrReauthenticate)
	if r := e.records("key.create")[0]; r.Outcome != audit.Denied || r.Reason != "reauthentication_required" {
		t.Errorf("%+v", r)
	}
	want(t, create(e.login("alice").Access), nil)
	want(t, e.Logout(e.ctx, e.who(key)), auth.ErrForbidden)
}

func TestKeyRequests(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	who := e.who(tok.Access)
	for _, r := range []auth.KeyRequest{
		{}, {Name: strings.Repeat("x", 65)}, {Name: "a\nb"}, {Name: "\x1b[31m"}, {Name: "\u202e"}, {Name: "\xff"}, {Name: "x", ExpiresIn: -1}, {Name: "x", ExpiresIn: 1 << 62},
		{Name: "x", Models: []string{}}, {Name: "x", Models: []string{"Iris"}}, {Name: "x", Models: []string{""}}, {Name: "x", Models: strings.Split(strings.Repeat("a,", 101), ",")},
	} {
		_, _, err := e.CreateKey(e.ctx, who, r)
		want(t, err, auth.ErrInvalid)
	}
	for range 100 {
		_, _, err := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "schlüssel 🔑"})
		want(t, err, nil)
	}
	_, _, err := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "one too many"})
	want(t, err, auth.ErrInvalid)
}

// The last use is stored once a minute and never by the request itself.
func TestLastUseOfKeys(t *testing.T) {
	e := newEnv(t)
	alice, tok := e.user("alice")
	who := e.who(tok.Access)
	k, secret, err := e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "x"})
	want(t, err, nil)
	touched := 0
	e.store.set(func(method string) error {
		if method == "TouchKey" {
			touched++
		}
		return nil
	}, nil)
	for range 50 {
		e.clock.advance(time.Second)
		e.who(secret)
	}
	used := e.clock.now()
	if touched != 0 {
		t.Error("a request wrote the last use")
	}
	e.FlushUses(e.ctx)
	e.FlushUses(e.ctx)
	if touched != 1 {
		t.Errorf("%d writes for 50 uses", touched)
	}
	list, err := e.Keys(e.ctx, who)
	if want(t, err, nil); len(list) != 1 || list[0].ID != k.ID || !list[0].LastUsed.Equal(used) {
		t.Errorf("%+v, want %v", list, used)
	}
	e.clock.advance(time.Hour)
	e.FlushUses(e.ctx)
	e.who(secret) // known anew after it was forgotten
	e.FlushUses(e.ctx)
	if list, _ := e.db.KeysOf(e.ctx, alice.ID); !list[0].LastUsed.Equal(e.clock.now()) {
		t.Errorf("%+v", list)
	}
	want(t, e.DeleteKey(e.ctx, who, k.ID), nil)
	e.FlushUses(e.ctx)
}

func TestSweep(t *testing.T) {
	e := newEnv(t)
	_, tok := e.user("alice")
	e.who(tok.Access)
	if e.Cached() == 0 {
		t.Fatal("nothing is remembered")
	}
	e.clock.advance(31 * 24 * time.Hour)
	e.Sweep(e.ctx)
	if n := e.Cached(); n != 0 {
		t.Errorf("%d dead entries are kept", n)
	}
	if _, err := e.db.Session(e.ctx, tok.Session.ID); err == nil {
		t.Error("an expired session is kept")
	}
}

// No credential stands in the database, and none in what is logged, audited or
// counted.
func TestNoSecretIsWrittenDown(t *testing.T) {
	e := newEnv(t)
	const canary, next = "canary-lorry-7f3a under bridges", "second-canary-9c1e over bridges"
	_, err := e.Register(e.ctx, origin, "alice", canary)
	want(t, err, nil)
	secrets := []string{canary, next, password}
	login := func(p string) auth.Tokens {
		tok, err := e.Login(e.ctx, origin, "agent", "alice", p, "")
		want(t, err, nil)
		secrets = append(secrets, tok.Access, tok.Refresh, strings.Split(tok.Access, ".")[2])
		return tok
	}
	tok := login(canary)
	alice := e.who(tok.Access)
	_, key, err := e.CreateKey(e.ctx, alice, auth.KeyRequest{Name: "ci"})
	want(t, err, nil)
	e.who(key)
	u, invite, err := e.CreateUser(e.ctx, e.admin, "bob", nil)
	want(t, err, nil)
	reset, _, err := e.ResetUser(e.ctx, e.admin, u.ID, false)
	want(t, err, nil)
	secrets = append(secrets, key, invite, reset)
	want(t, e.ChangePassword(e.ctx, alice, canary, next, ""), nil)
	refreshed, err := e.Refresh(e.ctx, origin, tok.Refresh)
	want(t, err, nil)
	secrets = append(secrets, refreshed.Access, refreshed.Refresh)
	e.Refresh(e.ctx, origin, tok.Refresh)
	e.Login(e.ctx, origin, "agent", "alice", canary, "")
	e.Login(e.ctx, origin, "agent", "nobody", canary, "")
	e.Revoke(e.ctx, origin, key)
	e.Introspect(e.ctx, refreshed.Access)
	e.AcceptInvitation(e.ctx, origin, invite, "password")
	e.ResetPassword(e.ctx, origin, reset, canary)
	e.ResetPassword(e.ctx, origin, reset, canary)
	want(t, e.audit.Close(), nil) // makes what follows fail with causes
	for _, err := range []error{
		errOf(e.Login(e.ctx, origin, "agent", "alice", next, "")), errOf(e.Refresh(e.ctx, origin, refreshed.Refresh)), errOf(e.Authenticate(e.ctx, key)),
		errOf(e.Authenticate(e.ctx, tok.Access)), errOf(e.Authenticate(e.ctx, tok.Access+"x")), errOf(e.Register(e.ctx, origin, "eve", canary)), errOf(e.Authenticate(e.ctx, "mg_"+canary)),
	} {
		if err == nil {
			t.Error("no error")
			continue
		}
		e.logs.WriteString(err.Error() + "\n")
	}
	for _, c := range e.Collectors() {
		e.logs.WriteString(gather(t, c))
	}
	want(t, e.db.Close(), nil)
	files, err := filepath.Glob(filepath.Join(e.dir, "modelgate.db*"))
	want(t, err, nil)
	written := map[string][]byte{"log": e.logs.Bytes(), "audit log": []byte(e.auditFile())}
	for _, f := range files {
		b, err := os.ReadFile(f)
		want(t, err, nil)
		written[filepath.Base(f)] = b
	}
	if len(written) < 3 || !bytes.Contains(written["modelgate.db"], []byte("alice")) {
		t.Fatalf("the database was not looked at: %d files", len(written))
	}
	for where, b := range written {
		for _, s := range secrets {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("%q stands in the %s", s, where)
			}
		}
	}
}

func errOf[T any](_ T, err error) error { return err }
