package auth_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
)

// The database has neither the secret nor a recovery code, and the log nothing
// of both.
func TestSecondFactorIsNotWrittenDown(t *testing.T) {
	e := newEnv(t)
	f := e.enrol("alice")
	want(t, f.login(f.wrong()), auth.ErrCredentials)
	want(t, f.login(f.codes[0]), nil)
	want(t, f.login(f.code()), nil)
	var secret []byte
	want(t, e.db.UpdateTOTP(e.ctx, f.user.ID, func(old auth.TOTP) (auth.TOTP, error) {
		secret = old.Secret
		return old, nil
	}), nil)
	plain := auth.Base32(f.secret)
	written := map[string][]byte{"audit log": []byte(e.auditFile()), "log": e.logs.Bytes(), "sealed secret": secret}
	for _, name := range []string{"modelgate.db", "modelgate.db-wal"} {
		data, err := os.ReadFile(e.dir + "/" + name)
		want(t, err, nil)
		written[name] = data
	}
	if !bytes.Contains(slices.Concat(written["modelgate.db"], written["modelgate.db-wal"]), secret) {
		t.Error("the search would not see a secret")
	}
	for where, data := range written {
		for _, s := range [][]byte{plain, []byte(f.secret), []byte(f.codes[1]), []byte(strings.ReplaceAll(f.codes[1], "-", "")), []byte(f.codes[0])} {
			if bytes.Contains(data, s) {
				t.Errorf("%q is in %s", s, where)
			}
		}
	}
}

// With another master key codes can't be judged, and recovery codes still sign
// in. A secret that was sealed by an older one is sealed anew when it is used.
func TestSecondFactorAndTheMasterKey(t *testing.T) {
	key := func(b byte) string {
		plain := bytes.Repeat([]byte{b}, 32)
		for i := range plain {
			plain[i] ^= byte(i * i * 37)
		}
		return base64.StdEncoding.EncodeToString(plain)
	}
	vault := func(keys string) *auth.Vault {
		v, err := auth.OpenVault("", keys)
		want(t, err, nil)
		return v
	}
	var cfg auth.Config
	e := newEnv(t, func(c *auth.Config) { c.Vault = vault(key(1)); cfg = *c })
	f := e.enrol("alice")
	var err error
	restart := func(keys string) {
		cfg.Vault, cfg.Keys = vault(keys), e.keys
		e.Service, err = auth.New(cfg)
		want(t, err, nil)
	}
	restart(key(2))
	want(t, f.login(f.code()), auth.ErrUnavailable)
	want(t, f.login(f.codes[0]), nil)
	restart(key(2) + "," + key(1))
	want(t, f.login(f.code()), nil)
	e.clock.advance(time.Minute)
	restart(key(2))
	want(t, f.login(f.code()), nil)
}

// What can't be recorded is not done.
func TestSecondFactorFailsClosed(t *testing.T) {
	e := newEnv(t)
	f := e.enrol("alice")
	_, tok := e.user("bob")
	bob := &enrolled{e: e, who: e.who(tok.Access)}
	var err error
	bob.secret, _, err = e.BeginTOTP(e.ctx, bob.who, "")
	want(t, err, nil)
	want(t, e.audit.Close(), nil)
	_, _, err = e.BeginTOTP(e.ctx, bob.who, "")
	want(t, err, auth.ErrUnavailable)
	_, err = e.ConfirmTOTP(e.ctx, bob.who, bob.code())
	want(t, err, auth.ErrUnavailable)
	want(t, f.login(f.code()), auth.ErrUnavailable)
	want(t, e.RemoveTOTP(e.ctx, f.who, password, f.codes[0]), auth.ErrUnavailable)
	_, err = e.RenewRecoveryCodes(e.ctx, f.who, password, f.codes[1])
	want(t, err, auth.ErrUnavailable)
	for name, on := range map[string]bool{"alice": true, "bob": false} {
		if u, err := e.db.UserByName(e.ctx, name); err != nil || u.TOTP != on {
			t.Errorf("%+v, %v", u, err)
		}
	}
}
