package auth_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/auth/authtest"
)

// notRaised fails unless a raise was refused, and recorded so, over ways to be
// the user that somebody else has made.
func (e *env) notRaised(err error, action, named string) {
	e.t.Helper()
	if told := (*auth.Error)(nil); !errors.As(err, &told) || told.Code != "conflict" || !strings.Contains(told.Detail, named) {
		e.t.Fatalf("got %v; want a conflict that names %s", err, named)
	}
	if r := e.records(action)[0]; r.Outcome != audit.Denied || r.Reason != "conflict" {
		e.t.Errorf("%+v", r)
	}
}

// Who made an invitation with few rights must not take it himself once its user
// has more. Another way in can be given: a reset.
func TestInvitationDoesNotOutliveAPromotion(t *testing.T) {
	e := newEnv(t)
	mona := e.manager("mona", "users:manage")
	u, invitation, err := e.CreateUser(e.ctx, mona, "alice", []string{"user"})
	want(t, err, nil)
	e.give(u.ID, "user", "data-scientist")
	_, err = e.AcceptInvitation(e.ctx, origin, invitation, password)
	want(t, err, auth.ErrToken)
	_, _, err = e.ResetUser(e.ctx, mona, u.ID, false) // hers no more
	want(t, err, auth.ErrForbidden)
	token, _, err := e.ResetUser(e.ctx, e.admin, u.ID, false)
	want(t, err, nil)
	want(t, e.ResetPassword(e.ctx, origin, token, password), nil)
	if who := e.who(e.login("alice").Access); !who.Can(auth.ModelsWrite) {
		t.Errorf("%+v", who)
	}
	// Other roles that give nothing void nothing.
	u, invitation, err = e.CreateUser(e.ctx, mona, "bob", []string{"user"})
	want(t, err, nil)
	want(t, e.putRole("label"), nil)
	e.give(u.ID, "label")
	_, err = e.AcceptInvitation(e.ctx, origin, invitation, password)
	want(t, err, nil)
}

func (e *env) putRole(name string, permissions ...string) error {
	_, err := e.PutRole(e.ctx, e.admin, name, permissions, "", 0)
	return err
}

// The same when a role of his gains permissions.
func TestTicketsDoNotOutliveAStrongerRole(t *testing.T) {
	e := newEnv(t)
	mona := e.manager("mona", "users:manage")
	want(t, e.putRole("label"), nil)
	_, invitation, err := e.CreateUser(e.ctx, mona, "alice", []string{"label"})
	want(t, err, nil)
	bob, _ := e.user("bob")
	e.give(bob.ID, "label")
	reset, _, err := e.ResetUser(e.ctx, mona, bob.ID, false)
	want(t, err, nil)
	_, other, err := e.CreateUser(e.ctx, mona, "carol", []string{"user"})
	want(t, err, nil)
	want(t, e.putRole("label", "models:manage"), nil)
	_, err = e.AcceptInvitation(e.ctx, origin, invitation, password)
	want(t, err, auth.ErrToken)
	want(t, e.ResetPassword(e.ctx, origin, reset, "another lorry altogether"), auth.ErrToken)
	_, err = e.AcceptInvitation(e.ctx, origin, other, password)
	want(t, err, nil)
}

// Who knows a secret of a service account that he made must not get by it what
// he could not give: neither by its roles nor by what a role becomes. The
// program that uses the secret goes on meanwhile.
func TestSecretsOfOthersHoldUpAPromotion(t *testing.T) {
	e := newEnv(t)
	mona := e.manager("mona", "users:manage")
	want(t, e.putRole("label"), nil)
	u, first, known, err := e.CreateService(e.ctx, mona, "nightly", []string{"label"}, 0)
	want(t, err, nil)
	live := e.clientToken(u.ID, known)
	raise := func() error {
		_, err := e.UpdateUser(e.ctx, e.admin, u.ID, auth.UserPatch{Roles: &[]string{"label", "data-scientist"}})
		return err
	}
	e.notRaised(raise(), "user.update", first.ID)
	e.notRaised(e.putRole("label", "models:write"), "role.put", first.ID)
	if who := e.who(live); who.Permissions != 0 {
		t.Errorf("%+v", who)
	}
	want(t, e.putRole("label"), nil)
	want(t, e.putRole("other"), nil)
	want(t, e.putRole("other", "models:write"), nil) // a role that it has not

	// The administrator's own secret holds nothing up, once the other is gone.
	_, own, err := e.CreateSecret(e.ctx, e.admin, u.ID, 0)
	want(t, err, nil)
	e.notRaised(raise(), "user.update", first.ID)
	want(t, e.DeleteSecret(e.ctx, e.admin, u.ID, first.ID), nil)
	want(t, raise(), nil)
	want(t, e.putRole("label", "models:manage"), nil)
	e.dead("a token by the secret of before", live)
	if who := e.who(e.clientToken(u.ID, own)); !who.Can(auth.ModelsWrite | auth.ModelsManage) {
		t.Errorf("%+v", who)
	}
}

// The last of many users counts as the first.
func TestPromotionsLookAtAllHolders(t *testing.T) {
	e := newEnvIn(t, memoryDir(t))
	mona := e.manager("mona", "users:manage")
	want(t, e.putRole("label"), nil)
	for i := range 1001 { // more than are listed at once
		name := fmt.Sprint("a", i)
		want(t, e.db.CreateUser(e.ctx, auth.User{ID: name, Username: name, Roles: []string{"label"}}, nil), nil)
	}
	_, first, _, err := e.CreateService(e.ctx, mona, "zulu", []string{"label"}, 0)
	want(t, err, nil)
	e.notRaised(e.putRole("label", "models:write"), "role.put", first.ID)
}

// What counts is who its maker is now: one who has got the permissions holds up
// nothing, one who was disabled or deleted, or is not known, does. A secret that
// has expired does not count.
func TestMakersOfSecretsAreJudgedAsTheyAre(t *testing.T) {
	e := newEnv(t)
	mona := e.manager("mona", "users:manage")
	for _, c := range []struct {
		name    string
		become  func()
		refused bool
	}{
		{"raised", func() { e.give(mona.UserID, "mona-role", "data-scientist") }, false},
		{"disabled", func() {
			_, err := e.UpdateUser(e.ctx, e.admin, mona.UserID, auth.UserPatch{Disabled: ptr(true)})
			want(t, err, nil)
		}, true},
		{"deleted", func() { want(t, e.DeleteUser(e.ctx, e.admin, mona.UserID), nil) }, true},
		{"expired", func() { e.clock.advance(2 * time.Hour) }, false},
	} {
		u, _, _, err := e.CreateService(e.ctx, mona, "of-"+c.name, []string{"user"}, time.Hour)
		want(t, err, nil)
		c.become()
		_, err = e.UpdateUser(e.ctx, e.admin, u.ID, auth.UserPatch{Roles: &[]string{"data-scientist"}})
		if (err != nil) != c.refused {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	u := auth.User{ID: "old", Kind: auth.ServiceAccount, Username: "old", CreatedAt: e.clock.now(), UpdatedAt: e.clock.now()}
	want(t, e.db.CreateService(e.ctx, u, auth.ClientSecret{ID: "cs_old", UserID: "old", CreatedAt: e.clock.now()}), nil)
	_, err := e.UpdateUser(e.ctx, e.admin, u.ID, auth.UserPatch{Roles: &[]string{"data-scientist"}})
	e.notRaised(err, "user.update", "cs_old")
}

// An identity that somebody with fewer rights has linked, perhaps his own, holds
// a promotion up as well. That of a provider that made the user does not.
func TestIdentitiesOfOthersHoldUpAPromotion(t *testing.T) {
	p := authtest.NewProvider(t)
	cfg := p.Config()
	cfg.RolesClaim, cfg.Roles = "", nil
	e := newEnv(t, withProviders(cfg))
	mona := e.manager("mona", "users:manage")
	ada, _ := e.user("ada")
	id, err := e.LinkIdentity(e.ctx, mona, ada.ID, "corp", "sub-9")
	want(t, err, nil)
	raise := func(id string) error {
		_, err := e.UpdateUser(e.ctx, e.admin, id, auth.UserPatch{Roles: &[]string{"user", "data-scientist"}})
		return err
	}
	e.notRaised(raise(ada.ID), "user.update", id.ID)
	want(t, e.UnlinkIdentity(e.ctx, e.admin, ada.ID, id.ID), nil)
	_, err = e.LinkIdentity(e.ctx, e.admin, ada.ID, "corp", "sub-9")
	want(t, err, nil)
	want(t, raise(ada.ID), nil)

	made := e.who(p.AccessToken(e.clock.now(), authtest.Members{"sub": "sub-2"}))
	want(t, raise(made.UserID), nil)
}

// A provider that raises a user of its own takes away what somebody with fewer
// rights has linked to him: there is nobody who could be asked.
func TestProviderRaisesWithoutLesserIdentities(t *testing.T) {
	p, other := authtest.NewProvider(t), authtest.NewProvider(t)
	second := other.Config()
	second.Name, second.CreateUsers, second.RolesClaim, second.Roles = "other", false, "", nil
	e := newEnv(t, withProviders(p.Config(), second))
	mona := e.manager("mona", "users:manage")
	made := e.who(p.AccessToken(e.clock.now(), authtest.Members{"groups": []string{}}))
	_, err := e.LinkIdentity(e.ctx, mona, made.UserID, "other", "mona")
	want(t, err, nil)
	kept, err := e.LinkIdentity(e.ctx, e.admin, made.UserID, "other", "admin")
	want(t, err, nil)
	hers := other.AccessToken(e.clock.now(), authtest.Members{"sub": "mona"})
	if who := e.who(hers); who.UserID != made.UserID {
		t.Fatalf("%+v", who)
	}
	e.clock.advance(time.Second)
	raised := e.who(p.AccessToken(e.clock.now(), authtest.Members{"groups": []string{"ml-admins"}}))
	if raised.UserID != made.UserID || !raised.Can(auth.UsersManage) {
		t.Fatalf("%+v", raised)
	}
	e.dead("an identity that was linked with fewer rights", hers)
	left, err := e.Identities(e.ctx, e.admin, made.UserID)
	want(t, err, nil)
	if len(left) != 2 || left[0].ID != kept.ID && left[1].ID != kept.ID {
		t.Errorf("%+v", left)
	}
	if r := e.records("identity.unlink"); len(r) != 1 || r[0].Reason != "identity_provider" {
		t.Errorf("%+v", r)
	}
}

// A lost invitation or reset is no way into an account whose password was set
// since, by whatever way.
func TestPasswordVoidsTickets(t *testing.T) {
	const next, other = "another lorry altogether", "eleven quiet harbours at dusk"
	e := newEnv(t)
	invited := func(name string) (auth.User, func() error) {
		u, token, err := e.CreateUser(e.ctx, e.admin, name, nil)
		want(t, err, nil)
		return u, func() error { _, err := e.AcceptInvitation(e.ctx, origin, token, other); return err }
	}
	forgetful := func(name string) (auth.User, func() error) {
		u := e.register(name)
		token, _, err := e.ResetUser(e.ctx, e.admin, u.ID, false)
		want(t, err, nil)
		return u, func() error { return e.ResetPassword(e.ctx, origin, token, other) }
	}
	byReset := func(u auth.User) {
		token, _, err := e.ResetUser(e.ctx, e.admin, u.ID, false)
		want(t, err, nil)
		want(t, e.ResetPassword(e.ctx, origin, token, next), nil)
	}
	offline := func(u auth.User) { want(t, auth.ResetOffline(e.ctx, e.db, cheap, u.Username, next), nil) }
	byHimself := func(u auth.User) {
		want(t, e.ChangePassword(e.ctx, e.who(e.login(u.Username).Access), password, next, ""), nil)
	}
	for name, c := range map[string]struct {
		lose func(string) (auth.User, func() error)
		set  func(auth.User)
	}{
		"invited.reset": {invited, byReset}, "invited.offline": {invited, offline},
		"reset.reset": {forgetful, byReset}, "reset.offline": {forgetful, offline}, "reset.change": {forgetful, byHimself},
	} {
		u, find := c.lose(name)
		c.set(u)
		if err := find(); !errors.Is(err, auth.ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
		_, err := e.Login(e.ctx, origin, "x", name, next, "")
		want(t, err, nil)
	}

	// An invitation that an earlier version left beside a password.
	u, token, err := e.CreateUser(e.ctx, e.admin, "carol", nil)
	want(t, err, nil)
	offline(u)
	want(t, e.db.PutTicket(e.ctx, auth.Ticket{Hash: sha256.Sum256([]byte(token)), Kind: auth.Invitation, UserID: u.ID, ExpiresAt: e.clock.now().Add(time.Hour)}), nil)
	_, err = e.AcceptInvitation(e.ctx, origin, token, other)
	want(t, err, auth.ErrToken)

	// A sign-in that renews an old hash sets no password.
	u, find := forgetful("dora")
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	want(t, err, nil)
	stored, err := e.db.User(e.ctx, u.ID)
	want(t, err, nil)
	_, err = e.db.RenewHash(e.ctx, u.ID, stored.PasswordHash, string(b))
	want(t, err, nil)
	e.login("dora")
	if stored, err = e.db.User(e.ctx, u.ID); err != nil || strings.HasPrefix(stored.PasswordHash, "$2") {
		t.Errorf("%+v, %v", stored, err)
	}
	want(t, find(), nil)
}
