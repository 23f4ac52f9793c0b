package auth_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

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

// The same when the way is made at another server of the database in the very
// moment of the promotion.
func TestPromotionsLookAtOtherServers(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(p.Config()))
	r := e.replica(withProviders(p.Config()))
	mona := e.manager("mona", "users:manage")
	robot, _, _ := e.service("robot")
	old, err := e.Secrets(e.ctx, e.admin, robot.ID)
	want(t, err, nil)
	want(t, e.DeleteSecret(e.ctx, e.admin, robot.ID, old[0].ID), nil)
	ada, _ := e.user("ada")
	bob, _ := e.user("bob")
	for what, c := range map[string]struct {
		id   string
		make func() (good func() bool)
	}{
		"secret": {robot.ID, func() func() bool {
			_, secret, err := r.CreateSecret(r.ctx, mona, robot.ID, 0)
			want(t, err, nil)
			return func() bool { _, err := e.AuthenticateClient(e.ctx, origin, robot.ID, secret); return err == nil }
		}},
		"identity": {ada.ID, func() func() bool {
			_, err := r.LinkIdentity(r.ctx, mona, ada.ID, "corp", "mona")
			want(t, err, nil)
			return func() bool { return true }
		}},
		"reset": {bob.ID, func() func() bool {
			token, _, err := r.ResetUser(r.ctx, mona, bob.ID, false)
			want(t, err, nil)
			return func() bool { return e.ResetPassword(e.ctx, origin, token, "another lorry altogether") == nil }
		}},
	} {
		waits, raised := make(chan struct{}), make(chan error, 1)
		var once, arrives sync.Once
		e.store.set(func(method string) error {
			if method == "LockAdmin" {
				arrives.Do(func() { close(waits) })
			}
			return nil
		}, nil)
		r.store.set(nil, func(method string) {
			if method != "Roles" { // by which it is judged whether mona may
				return
			}
			once.Do(func() {
				go func() {
					_, err := e.UpdateUser(e.ctx, e.admin, c.id, auth.UserPatch{Roles: &[]string{"data-scientist"}})
					raised <- err
				}()
				select {
				case <-waits: // until the other server has stored what it makes
				case err := <-raised:
					raised <- err
				}
			})
		})
		good := c.make()
		if err := <-raised; err == nil && good() {
			t.Errorf("%s: made by somebody with fewer rights, and good after the promotion", what)
		}
	}
}

// What is judged is the user as he is when he is raised, not as he was when his
// token was read.
func TestProviderRaisesWhoWasLoweredMeanwhile(t *testing.T) {
	p, other := authtest.NewProvider(t), authtest.NewProvider(t)
	second := other.Config()
	second.Name, second.CreateUsers, second.RolesClaim, second.Roles = "other", false, "", nil
	e := newEnv(t, withProviders(p.Config(), second))
	r := e.replica(withProviders(p.Config(), second))
	mona := e.manager("mona", "users:manage")
	said := func(groups ...string) string {
		e.clock.advance(time.Second)
		return p.AccessToken(e.clock.now(), authtest.Members{"groups": groups})
	}
	made := e.who(said("ml-makers"))
	low, high := said("ml-users"), said("ml-makers")
	var once sync.Once
	e.store.set(func(method string) error {
		if method == "LockAdmin" {
			once.Do(func() {
				r.who(low)
				_, err := r.LinkIdentity(r.ctx, mona, made.UserID, "other", "mona")
				want(t, err, nil)
			})
		}
		return nil
	}, nil)
	if who := e.who(high); !who.Can(auth.ModelsWrite) {
		t.Fatalf("%+v", who)
	}
	e.dead("an identity that was linked with fewer rights", other.AccessToken(e.clock.now(), authtest.Members{"sub": "mona"}))
	if r := e.records("user.update"); len(r) < 2 || r[0].Detail["roles"] != "data-scientist" || r[1].Detail["roles"] != "user" {
		t.Errorf("recorded: %+v", r)
	}
}
