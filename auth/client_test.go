package auth_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
)

func (h *hooked) CreateClientSession(ctx context.Context, s auth.Session, d auth.Displaced) ([]string, error) {
	after, err := h.hook("CreateClientSession")
	if err != nil {
		return nil, err
	}
	defer after()
	return h.Store.CreateClientSession(ctx, s, d)
}

// service makes a service account and returns it with its first secret. The
// administrator signs in for it.
func (e *env) service(name string, roles ...string) (auth.User, auth.ClientSecret, string) {
	e.t.Helper()
	u, c, secret, err := e.CreateService(e.ctx, e.who(e.login("admin").Access), name, roles, 0)
	if err != nil {
		e.t.Fatalf("service account %s: %v", name, err)
	}
	return u, c, secret
}

func (e *env) client(id, secret string) auth.Client {
	e.t.Helper()
	c, err := e.AuthenticateClient(e.ctx, origin, id, secret)
	if err != nil {
		e.t.Fatalf("client: %v", err)
	}
	return c
}

func (e *env) clientToken(id, secret string) string {
	e.t.Helper()
	access, _, err := e.ClientToken(e.ctx, origin, "test/1", e.client(id, secret))
	if err != nil {
		e.t.Fatalf("client token: %v", err)
	}
	return access
}

func TestServiceAccount(t *testing.T) {
	e := newEnv(t)
	u, c, secret := e.service("Nightly", "user")
	if u.Username != "nightly" || u.Kind != auth.ServiceAccount || !strings.HasPrefix(secret, "mgs_") || len(secret) != 53 || !c.ExpiresAt.IsZero() {
		t.Fatalf("%+v %+v", u, c)
	}
	access, ttl, err := e.ClientToken(e.ctx, origin, "test/1", e.client(u.ID, secret))
	want(t, err, nil)
	if ttl != 15*time.Minute {
		t.Errorf("it lives %v", ttl)
	}
	who := e.who(access)
	if who.UserID != u.ID || who.Username != "nightly" || who.Kind != auth.ServiceAccount || !slices.Equal(who.Roles, []string{"user"}) || !who.AuthTime.IsZero() {
		t.Errorf("%+v", who)
	}

	// RFC 9068 section 2.2; nobody signed in, so that there is no auth_time.
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(access, ".")[1])
	want(t, err, nil)
	var claims map[string]any
	want(t, json.Unmarshal(payload, &claims), nil)
	names := slices.Sorted(maps.Keys(claims))
	if !slices.Equal(names, []string{"aud", "client_id", "exp", "iat", "iss", "jti", "nbf", "roles", "sid", "sub"}) {
		t.Errorf("claims %v", names)
	}
	if claims["sub"] != u.ID || claims["client_id"] != u.ID || claims["iss"] != issuer || claims["aud"] != audience {
		t.Errorf("%v", claims)
	}

	// What is changed holds for the next request.
	e.give(u.ID, "data-scientist")
	if who = e.who(access); !who.Can(auth.ModelsWrite) || who.HasAny([]string{"user"}) {
		t.Errorf("after a change of roles: %+v", who)
	}
	_, err = e.UpdateUser(e.ctx, e.admin, u.ID, auth.UserPatch{Disabled: ptr(true)})
	want(t, err, nil)
	e.dead("token of a disabled service account", access)
	_, err = e.AuthenticateClient(e.ctx, origin, u.ID, secret)
	want(t, err, auth.ErrClient)
	_, err = e.UpdateUser(e.ctx, e.admin, u.ID, auth.UserPatch{Disabled: ptr(false)})
	want(t, err, nil)
	e.dead("token from before the account was disabled", access)
	access = e.clientToken(u.ID, secret)
	e.clock.advance(15*time.Minute - time.Second)
	e.who(access)
	e.clock.advance(time.Second)
	e.dead("expired token", access)
	access = e.clientToken(u.ID, secret)
	want(t, e.DeleteUser(e.ctx, e.admin, u.ID), nil)
	e.dead("token of a deleted service account", access)

	if r := e.records("client.token"); len(r) == 0 || r[0].Detail["secret"] != c.ID || r[0].Actor != "nightly" || r[0].ActorID != u.ID || r[0].Outcome != audit.Allowed || r[0].Address != origin.Address {
		t.Errorf("%+v", r)
	}
}

// Two secrets at most, so that programs change over one after the other; the
// end of one ends what was got with it, and nothing else.
func TestSecretRotation(t *testing.T) {
	e := newEnv(t)
	u, first, one := e.service("nightly", "user")
	old := e.clientToken(u.ID, one)
	second, two, err := e.CreateSecret(e.ctx, e.admin, u.ID, time.Hour)
	want(t, err, nil)
	if !second.ExpiresAt.Equal(e.clock.now().Add(time.Hour)) || one == two {
		t.Fatalf("%+v", second)
	}
	_, _, err = e.CreateSecret(e.ctx, e.admin, u.ID, 0)
	want(t, err, auth.ErrInvalid)
	fresh := e.clientToken(u.ID, two)
	want(t, e.DeleteSecret(e.ctx, e.admin, u.ID, first.ID), nil)
	e.dead("token of a deleted secret", old)
	_, err = e.AuthenticateClient(e.ctx, origin, u.ID, one)
	want(t, err, auth.ErrClient)
	e.who(fresh)
	want(t, e.DeleteSecret(e.ctx, e.admin, u.ID, first.ID), auth.ErrNotFound)
	if r := e.records("secret.delete"); len(r) != 1 { // not of one that is not there
		t.Errorf("%+v", r)
	}

	e.FlushUses(e.ctx)
	list, err := e.Secrets(e.ctx, e.admin, u.ID)
	want(t, err, nil)
	if len(list) != 1 || list[0].ID != second.ID || !list[0].LastUsed.Equal(e.clock.now()) {
		t.Errorf("%+v", list)
	}

	// A token ends with its secret, also out of the cache, and an expired secret
	// is in nobody's way.
	e.clock.advance(50 * time.Minute)
	last := e.clientToken(u.ID, two)
	e.who(last)
	e.clock.advance(10 * time.Minute)
	e.dead("token of an expired secret", last)
	_, err = e.AuthenticateClient(e.ctx, origin, u.ID, two)
	want(t, err, auth.ErrClient)
	admin := e.who(e.login("admin").Access)
	for range 2 {
		_, _, err = e.CreateSecret(e.ctx, admin, u.ID, 0)
		want(t, err, nil)
	}
	_, _, err = e.CreateSecret(e.ctx, admin, u.ID, 0)
	want(t, err, auth.ErrInvalid)
}

func TestSecretExpiry(t *testing.T) {
	e := newEnv(t)
	u, c, secret, err := e.CreateService(e.ctx, e.admin, "nightly", nil, 10*time.Minute)
	want(t, err, nil)
	if !c.ExpiresAt.Equal(e.clock.now().Add(10 * time.Minute)) {
		t.Errorf("%+v", c)
	}
	access, ttl, err := e.ClientToken(e.ctx, origin, "x", e.client(u.ID, secret))
	want(t, err, nil)
	if ttl != 10*time.Minute {
		t.Errorf("the token is said to live %v, longer than its secret", ttl)
	}
	e.who(access)
	for _, bad := range []time.Duration{-1, 200 * 365 * 24 * time.Hour} {
		_, _, _, err = e.CreateService(e.ctx, e.admin, "other", nil, bad)
		want(t, err, auth.ErrInvalid)
	}
}

// Everything that does not prove a client is one error; the log tells apart.
func TestClientFailuresAreAlike(t *testing.T) {
	e := newEnv(t)
	u, _, secret := e.service("nightly", "user")
	_, _, others := e.service("other", "user")
	person := e.register("alice")
	off, _, offSecret := e.service("off")
	_, err := e.UpdateUser(e.ctx, e.admin, off.ID, auth.UserPatch{Disabled: ptr(true)})
	want(t, err, nil)
	for _, c := range []struct{ id, secret, reason string }{
		{u.ID, others, "wrong_secret"}, {u.ID, secret[:len(secret)-1], "malformed"}, {u.ID, "", "malformed"}, {u.ID, strings.ToUpper(secret), "malformed"},
		{u.ID, password, "malformed"}, {"u_nobody", secret, "unknown_client"}, {"", secret, "unknown_client"}, {"nightly", secret, "unknown_client"},
		{person.ID, secret, "unknown_client"}, {off.ID, offSecret, "disabled"},
	} {
		got, err := e.AuthenticateClient(e.ctx, origin, c.id, c.secret)
		want(t, err, auth.ErrClient)
		if got.UserID != "" || err.Error() != auth.ErrClient.Error() {
			t.Errorf("%v: %+v, %v", c, got, err)
		}
		if r := e.records("client.authenticate")[0]; r.Outcome != audit.Failed || r.Reason != c.reason {
			t.Errorf("%v: recorded as %+v", c, r)
		}
	}
	_, err = e.AuthenticateClient(e.ctx, origin, secret, u.ID) // the two mixed up
	want(t, err, auth.ErrClient)
	if strings.Contains(e.auditFile(), secret) {
		t.Error("a secret is in the log")
	}
	e.client(u.ID, secret)
}

// A program has nothing that a person proves himself by, and can't get it.
func TestServiceAccountIsNoPerson(t *testing.T) {
	e := newEnv(t)
	u, _, secret := e.service("nightly", "admin")
	_, err := e.Login(e.ctx, origin, "x", "nightly", secret, "")
	want(t, err, auth.ErrCredentials)
	if r := e.records("user.login")[0]; r.Reason != "service_account" {
		t.Errorf("%+v", r)
	}
	_, err = e.Register(e.ctx, origin, "nightly", password)
	want(t, err, auth.ErrTaken)
	_, _, err = e.ResetUser(e.ctx, e.admin, u.ID, false)
	want(t, err, auth.ErrInvalid)
	want(t, auth.ResetOffline(e.ctx, e.db, cheap, "nightly", password), auth.ErrInvalid)

	// Even a password that came into the database is none.
	alice, err := e.db.User(e.ctx, e.register("alice").ID)
	want(t, err, nil)
	_, err = e.db.UpdateUser(e.ctx, u.ID, func(old auth.User, _ int) (auth.User, error) {
		old.PasswordHash = alice.PasswordHash
		return old, nil
	})
	want(t, err, nil)
	_, err = e.Login(e.ctx, origin, "x", "nightly", password, "")
	want(t, err, auth.ErrCredentials)

	who := e.who(e.clientToken(u.ID, secret))
	_, _, err = e.CreateKey(e.ctx, who, auth.KeyRequest{Name: "k"})
	want(t, err, auth.ErrForbidden)
	want(t, e.ChangePassword(e.ctx, who, password, "another lorry altogether", ""), auth.ErrForbidden)
	// It administers users as its role says, but makes no lasting credentials.
	_, _, err = e.CreateUser(e.ctx, who, "carol", nil)
	want(t, err, nil)
	_, _, _, err = e.CreateService(e.ctx, who, "child", nil, 0)
	want(t, err, auth.ErrForbidden)
	_, _, err = e.CreateSecret(e.ctx, who, u.ID, 0)
	want(t, err, auth.ErrForbidden)
	// It does not count as the administrator that has to stay.
	want(t, e.DeleteUser(e.ctx, who, e.admin.UserID), auth.ErrLastAdmin)
}

// Secrets are made and ended by who has all rights of the account, has signed
// in just now, and does it in the open.
func TestSecretsNeedRights(t *testing.T) {
	e := newEnv(t)
	helper := e.manager("helper", "users:manage")
	u, c, _ := e.service("nightly", "data-scientist")
	_, _, _, err := e.CreateService(e.ctx, helper, "mine", []string{"data-scientist"}, 0)
	want(t, err, auth.ErrForbidden)
	_, _, err = e.CreateSecret(e.ctx, helper, u.ID, 0)
	want(t, err, auth.ErrForbidden)
	want(t, e.DeleteSecret(e.ctx, helper, u.ID, c.ID), auth.ErrForbidden)
	_, _, _, err = e.CreateService(e.ctx, helper, "mine", []string{"user"}, 0)
	want(t, err, nil)
	_, err = e.Secrets(e.ctx, helper, u.ID)
	want(t, err, nil)

	alice := e.who(e.login("helper").Access)
	e.give(alice.UserID, "user")
	alice = e.who(e.login("helper").Access)
	_, err = e.Secrets(e.ctx, alice, u.ID)
	want(t, err, auth.ErrForbidden)
	want(t, e.DeleteSecret(e.ctx, alice, u.ID, c.ID), auth.ErrForbidden)

	// A person has no secrets.
	_, err = e.Secrets(e.ctx, e.admin, alice.UserID)
	want(t, err, auth.ErrNotFound)
	_, _, err = e.CreateSecret(e.ctx, e.admin, alice.UserID, 0)
	want(t, err, auth.ErrNotFound)

	// Row A11: an API key, and a sign-in long ago, make none.
	_, key, err := e.CreateKey(e.ctx, e.admin, auth.KeyRequest{Name: "k"})
	want(t, err, nil)
	_, _, err = e.CreateSecret(e.ctx, e.who(key), u.ID, 0)
	want(t, err, auth.ErrReauthenticate)
	tok := e.login("admin")
	e.clock.advance(11 * time.Minute)
	stale := e.who(tok.Access)
	_, _, err = e.CreateSecret(e.ctx, stale, u.ID, 0)
	want(t, err, auth.ErrReauthenticate)
	_, _, _, err = e.CreateService(e.ctx, stale, "late", nil, 0)
	want(t, err, auth.ErrReauthenticate)
	want(t, e.DeleteSecret(e.ctx, stale, u.ID, c.ID), nil) // to end one is no step up

	want(t, e.audit.Close(), nil) // without its record nothing happens
	_, _, err = e.CreateSecret(e.ctx, e.admin, u.ID, 0)
	if err == nil {
		t.Error("a secret was made without a record")
	}
	list, err := e.db.SecretsOf(e.ctx, u.ID)
	want(t, err, nil)
	if len(list) != 0 {
		t.Errorf("%+v", list)
	}
}

// A client that proved itself while its secret was deleted, or its account
// disabled or deleted, leaves with nothing.
func TestClientTokenDuringRevocation(t *testing.T) {
	for _, change := range []string{"delete secret", "disable", "disable and enable", "delete"} {
		for _, late := range []bool{false, true} {
			t.Run(change, func(t *testing.T) {
				e := newEnv(t)
				u, c, secret := e.service("nightly", "user")
				client := e.client(u.ID, secret)
				once := sync.Once{}
				act := func(method string) {
					if method != "CreateClientSession" {
						return
					}
					once.Do(func() {
						var err error
						switch change {
						case "delete secret":
							err = e.DeleteSecret(e.ctx, e.admin, u.ID, c.ID)
						case "delete":
							err = e.DeleteUser(e.ctx, e.admin, u.ID)
						default:
							_, err = e.UpdateUser(e.ctx, e.admin, u.ID, auth.UserPatch{Disabled: ptr(true)})
						}
						if err == nil && change == "disable and enable" && late {
							_, err = e.UpdateUser(e.ctx, e.admin, u.ID, auth.UserPatch{Disabled: ptr(false)})
						}
						if err != nil {
							t.Error(err)
						}
					})
				}
				if late {
					e.store.set(nil, act)
				} else {
					e.store.set(func(method string) error { act(method); return nil }, nil)
				}
				access, _, err := e.ClientToken(e.ctx, origin, "x", client)
				if err == nil { // the secret, or the session, had gone: the token is dead when it arrives
					e.dead("token of what was revoked meanwhile", access)
				} else {
					want(t, err, auth.ErrClient)
				}
				left, err := e.db.EndSessions(e.ctx, u.ID, "")
				want(t, err, nil)
				if len(left) != 0 {
					t.Errorf("sessions left: %v", left)
				}
			})
		}
	}
}

// RFC 7009 section 2.1: a client ends what it was given, others don't.
func TestRevokeIssued(t *testing.T) {
	e := newEnv(t)
	u, _, secret := e.service("nightly", "user")
	o, _, otherSecret := e.service("other", "user")
	client, other := e.client(u.ID, secret), e.client(o.ID, otherSecret)
	access, sibling := e.clientToken(u.ID, secret), e.clientToken(u.ID, secret)
	_, tok := e.user("alice")
	_, key, err := e.CreateKey(e.ctx, e.who(tok.Access), auth.KeyRequest{Name: "k"})
	want(t, err, nil)

	want(t, e.RevokeIssued(e.ctx, other, access), auth.ErrNotIssued)
	want(t, e.Revoke(e.ctx, origin, access), auth.ErrNotIssued)
	for _, token := range []string{tok.Access, tok.Refresh, key} {
		want(t, e.RevokeIssued(e.ctx, client, token), auth.ErrNotIssued)
	}
	e.who(access)
	e.who(tok.Access)
	e.who(key)
	for _, token := range []string{"", "x", "mgr_x", "mg_x", "a.b.c", "mg_" + strings.Repeat("x", 49)} {
		want(t, e.RevokeIssued(e.ctx, client, token), nil)
	}
	want(t, e.RevokeIssued(e.ctx, client, access), nil)
	e.dead("revoked access token", access)
	e.who(sibling)
	want(t, e.RevokeIssued(e.ctx, client, access), nil)
}
