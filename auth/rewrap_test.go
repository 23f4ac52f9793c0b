package auth_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"modelgate/auth"
)

// both is a vault whose fresh key seals, and that opens what e has sealed.
func (e *env) both(fresh string) *auth.Vault {
	e.t.Helper()
	text, err := os.ReadFile(filepath.Join(e.dir, "keys", "master.key"))
	want(e.t, err, nil)
	return openVault(e.t, "", fresh+" "+string(text))
}

// restart is e with another vault, as after the master key was replaced.
func (e *env) restart(v *auth.Vault) {
	e.t.Helper()
	e.vault = v
	var err error
	e.keys, err = auth.OpenKeyring(e.ctx, e.keyring())
	want(e.t, err, nil)
	e.Service, err = auth.New(auth.Config{Store: e.store, Guard: auth.NewGuard(e.audit), Audit: e.audit, Keys: e.keys, Vault: v,
		Issuer: issuer, Audience: audience, Hashing: cheap, Now: e.now})
	want(e.t, err, nil)
}

// factor reads a second factor as it is stored.
func (e *env) factor(userID string) (found auth.TOTP) {
	e.t.Helper()
	list, err := e.db.TOTPs(e.ctx, "", 1000)
	want(e.t, err, nil)
	for _, t := range list {
		if t.UserID == userID {
			return t
		}
	}
	e.t.Fatal("there is no such second factor")
	return found
}

// begun is a user who has not confirmed yet.
func (e *env) begun(name string) *enrolled {
	e.t.Helper()
	u, tok := e.user(name)
	f := &enrolled{e: e, user: u, who: e.who(tok.Access)}
	var err error
	f.secret, _, err = e.BeginTOTP(e.ctx, f.who, password)
	want(e.t, err, nil)
	return f
}

func rewrapped(t *testing.T, got auth.Rewrapped, sealed, removed int, unopened ...string) {
	t.Helper()
	if wanted := (auth.Rewrapped{Sealed: sealed, Removed: removed, Unopened: unopened}); !reflect.DeepEqual(got, wanted) {
		t.Errorf("%+v; want %+v", got, wanted)
	}
}

// The master key is replaced, and the old one taken away: everybody's codes are
// still good, however many users there are.
func TestRewrapSecondFactors(t *testing.T) {
	e := newEnvIn(t, memoryDir(t))
	alice, bob := e.enrol("alice"), e.begun("bob")
	const more = 2 * auth.RewrapPage
	for i := range more {
		id := fmt.Sprintf("more-%d", i)
		want(t, e.db.CreateUser(e.ctx, auth.User{ID: id, Username: id}, nil), nil)
		want(t, e.db.UpdateTOTP(e.ctx, id, func(auth.TOTP) (auth.TOTP, error) {
			return auth.TOTP{UserID: id, Secret: e.vault.Seal("totp", id, []byte(id)), Active: true}, nil
		}), nil)
	}
	before := e.factor(alice.user.ID)
	fresh := masterKey()
	for _, sealed := range []int{1 + 2 + more, 0} { // a signing key, alice and bob, the others
		done, err := auth.Rewrap(e.ctx, e.db, e.both(fresh), false)
		want(t, err, nil)
		rewrapped(t, done, sealed, 0)
	}
	after := e.factor(alice.user.ID)
	before.Secret, after.Secret = nil, nil
	if !reflect.DeepEqual(after, before) {
		t.Errorf("%+v\nbecame %+v", before, after)
	}

	e.restart(openVault(t, "", fresh))
	want(t, alice.login(""), auth.ErrOTPRequired)
	want(t, alice.login(alice.wrong()), auth.ErrCredentials)
	want(t, alice.login(alice.code()), nil)
	want(t, alice.login(alice.codes[0]), nil)
	_, err := e.ConfirmTOTP(e.ctx, bob.who, bob.code())
	want(t, err, nil)
	for i := range more {
		id := fmt.Sprintf("more-%d", i)
		if plain, err := e.vault.Open("totp", id, e.factor(id).Secret); err != nil || string(plain) != id {
			t.Fatalf("%s: %q, %v", id, plain, err)
		}
	}
}

// meanwhile does something after second factors were read.
type meanwhile struct {
	auth.Store
	do func()
}

func (m meanwhile) TOTPs(ctx context.Context, after string, limit int) ([]auth.TOTP, error) {
	list, err := m.Store.TOTPs(ctx, after, limit)
	m.do()
	return list, err
}

// What users do at the same moment is not undone.
func TestRewrapBesideUsers(t *testing.T) {
	e := newEnv(t)
	alice, bob, carol, dave := e.enrol("alice"), e.enrol("bob"), e.enrol("carol"), e.begun("dave")
	fresh := masterKey()
	e.restart(e.both(fresh))
	code := bob.code()
	beside := meanwhile{e.db, func() {
		want(t, alice.login(alice.codes[3]), nil)
		want(t, bob.login(code), nil) // seals anew by itself
		want(t, e.RemoveTOTP(e.ctx, carol.who, password, carol.code()), nil)
		want(t, e.DeleteUser(e.ctx, e.admin, dave.user.ID), nil)
	}}
	done, err := auth.Rewrap(e.ctx, beside, e.both(fresh), false)
	want(t, err, nil)
	rewrapped(t, done, 2, 0) // the signing key and alice
	e.restart(openVault(t, "", fresh))
	want(t, alice.login(alice.codes[3]), auth.ErrCredentials)
	want(t, bob.login(code), auth.ErrCredentials)
	want(t, carol.login(""), nil)
	e.clock.advance(time.Minute)
	want(t, alice.login(alice.code()), nil)
	want(t, bob.login(bob.code()), nil)
}

// A second factor that no key opens is told, and stays: never does a password
// alone become enough.
func TestRewrapNeverDropsASecondFactor(t *testing.T) {
	e := newEnv(t)
	alice, bob := e.enrol("alice"), e.enrol("bob")
	e.begun("carol") // begins anew when it does not open: not told
	other := openVault(t, "", masterKey())
	for _, name := range []string{"alice", "carol"} {
		u, err := e.db.UserByName(e.ctx, name)
		want(t, err, nil)
		want(t, e.db.UpdateTOTP(e.ctx, u.ID, func(old auth.TOTP) (auth.TOTP, error) {
			old.Secret = other.Seal("totp", u.ID, []byte("sealed elsewhere"))
			return old, nil
		}), nil)
	}
	before := e.factor(alice.user.ID)
	fresh := masterKey()
	done, err := auth.Rewrap(e.ctx, e.db, e.both(fresh), false)
	want(t, err, auth.ErrMasterKey)
	rewrapped(t, done, 2, 0, alice.user.ID) // the signing key and bob: what can be done is done
	done, err = auth.Rewrap(e.ctx, e.db, e.both(fresh), true)
	want(t, err, nil)
	rewrapped(t, done, 0, 0, alice.user.ID)
	if after := e.factor(alice.user.ID); !reflect.DeepEqual(after, before) {
		t.Errorf("%+v\nbecame %+v", before, after)
	}
	e.restart(openVault(t, "", fresh))
	want(t, bob.login(bob.code()), nil)
	want(t, alice.login(""), auth.ErrOTPRequired)
	want(t, alice.login(alice.code()), auth.ErrUnavailable)
	want(t, alice.login(alice.codes[0]), nil)

	// All is lost.
	lost := openVault(t, "", masterKey())
	done, err = auth.Rewrap(e.ctx, e.db, lost, true)
	want(t, err, nil)
	if done.Sealed != 0 || done.Removed != 1 || len(done.Unopened) != 2 {
		t.Errorf("%+v", done)
	}
	e.restart(lost)
	for _, f := range []*enrolled{alice, bob} {
		want(t, f.login(""), auth.ErrOTPRequired)
		want(t, f.login(f.codes[1]), nil)
	}
}
