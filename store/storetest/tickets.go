package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"modelgate/auth"
)

var ticketTests = []test{
	{"PutTicket", testPutTicket},
	{"PasswordVoidsTickets", testPasswordVoidsTickets},
	{"Redeem", testRedeem},
	{"RedeemRefused", testRedeemRefused},
	{"RedeemRace", testRedeemRace},
	{"RaiseVoidsTickets", testRaiseVoidsTickets},
	{"SweepTickets", testSweepTickets},
	{"SweepMany", testSweepMany},
}

func newTicket(secret, user string, kind auth.TicketKind) auth.Ticket {
	return auth.Ticket{Hash: hash(secret), Kind: kind, UserID: "id-" + user, ExpiresAt: noon.Add(time.Hour)}
}

func same(u auth.User) (auth.User, error) { return u, nil }

func testPutTicket(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addUser(t, s, "bob")
	ok(t, s.PutTicket(ctx, newTicket("bob", "bob", auth.PasswordReset)))
	ok(t, s.PutTicket(ctx, newTicket("invitation", "ada", auth.Invitation)))
	ok(t, s.PutTicket(ctx, newTicket("old", "ada", auth.PasswordReset)))
	ok(t, s.PutTicket(ctx, newTicket("new", "ada", auth.PasswordReset)))
	void(t, s, "old", auth.PasswordReset)
	void(t, s, "invitation", auth.Invitation) // of the other kind, all the same
	for _, secret := range []string{"new", "bob"} {
		_, err := s.Redeem(ctx, hash(secret), auth.PasswordReset, noon, same)
		ok(t, err)
	}
	ok(t, s.PutTicket(ctx, newTicket("reset", "ada", auth.PasswordReset)))
	ok(t, s.PutTicket(ctx, newTicket("later", "ada", auth.Invitation)))
	void(t, s, "reset", auth.PasswordReset)
	want(t, s.PutTicket(ctx, newTicket("x", "nobody", auth.Invitation)), auth.ErrNotFound)

	// Of many at once the last one stays.
	errs := race(10, func(i int) error { return s.PutTicket(ctx, newTicket(fmt.Sprint(i), "ada", auth.PasswordReset)) })
	equal(t, "tickets put", count(errs, nil), 10)
	errs = race(10, func(i int) error {
		_, err := s.Redeem(ctx, hash(fmt.Sprint(i)), auth.PasswordReset, noon, same)
		return err
	})
	equal(t, "tickets left", count(errs, nil), 1)
}

func void(t *testing.T, s Store, secret string, kind auth.TicketKind) {
	t.Helper()
	_, err := s.Redeem(t.Context(), hash(secret), kind, noon, same)
	want(t, err, auth.ErrToken)
}

// A password that is set voids what would set another; a hash that is renewed does not.
func testPasswordVoidsTickets(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addUser(t, s, "bob")
	set := func(id string, f func(*auth.User)) {
		t.Helper()
		_, err := s.UpdateUser(ctx, id, func(u auth.User, _ int) (auth.User, error) { f(&u); return u, nil })
		ok(t, err)
	}
	for _, kind := range []auth.TicketKind{auth.Invitation, auth.PasswordReset} {
		kept, gone := newTicket("kept "+string(kind), "ada", kind), newTicket("gone "+string(kind), "ada", kind)
		ok(t, s.PutTicket(ctx, kept))
		old, err := s.User(ctx, "id-ada")
		ok(t, err)
		got, err := s.RenewHash(ctx, "id-ada", old.PasswordHash, "renewed for "+string(kind))
		ok(t, err)
		wanted := old
		wanted.PasswordHash = "renewed for " + string(kind)
		checkUser(t, got, wanted)
		_, err = s.RenewHash(ctx, "id-ada", old.PasswordHash, "late")
		want(t, err, auth.ErrNotFound)
		_, err = s.RenewHash(ctx, "id-nobody", old.PasswordHash, "new")
		want(t, err, auth.ErrNotFound)
		set("id-ada", func(u *auth.User) { u.UpdatedAt = noon.Add(time.Minute) })
		set("id-bob", func(u *auth.User) { u.PasswordHash += "x" }) // another's
		_, err = s.UpdateUser(ctx, "id-ada", func(u auth.User, _ int) (auth.User, error) {
			u.PasswordHash = "refused"
			return u, auth.ErrInvalid
		})
		want(t, err, auth.ErrInvalid)
		_, err = s.Redeem(ctx, kept.Hash, kind, noon, same)
		ok(t, err)

		ok(t, s.PutTicket(ctx, gone))
		set("id-ada", func(u *auth.User) { u.PasswordHash = "set for " + string(kind) })
		void(t, s, "gone "+string(kind), kind)
	}
}

func testRedeem(t *testing.T, s Store) {
	ctx := t.Context()
	ada := newUser("ada", "user")
	ada.PasswordHash = ""
	ticket := newTicket("t", "ada", auth.Invitation)
	ok(t, s.CreateUser(ctx, ada, &ticket))
	after := ada
	after.PasswordHash, after.UpdatedAt, after.Disabled = "new", noon.Add(time.Minute), true
	after.Roles = []string{"data-scientist", "user"}
	got, err := s.Redeem(ctx, ticket.Hash, ticket.Kind, noon.Add(time.Hour-time.Microsecond), func(old auth.User) (auth.User, error) {
		checkUser(t, old, ada)
		changed := after
		changed.ID, changed.Username = "x", "x" // can't change
		return changed, nil
	})
	ok(t, err)
	checkUser(t, got, after)
	got, err = s.User(ctx, ada.ID)
	ok(t, err)
	checkUser(t, got, after)
	_, err = s.Redeem(ctx, ticket.Hash, ticket.Kind, noon, same)
	want(t, err, auth.ErrToken)
}

func testRedeemRefused(t *testing.T, s Store) {
	ctx := t.Context()
	ada := addUser(t, s, "ada", "user")
	ok(t, s.PutTicket(ctx, newTicket("t", "ada", auth.PasswordReset)))
	never := func(u auth.User) (auth.User, error) {
		t.Error("called without a valid ticket")
		return u, nil
	}
	_, err := s.Redeem(ctx, hash("unknown"), auth.PasswordReset, noon, never)
	want(t, err, auth.ErrToken)
	_, err = s.Redeem(ctx, hash("t"), auth.Invitation, noon, never) // of the other kind
	want(t, err, auth.ErrToken)
	_, err = s.Redeem(ctx, hash("t"), auth.PasswordReset, noon.Add(time.Hour), never)
	want(t, err, auth.ErrToken)

	refusal := errors.New("too weak")
	_, err = s.Redeem(ctx, hash("t"), auth.PasswordReset, noon, func(u auth.User) (auth.User, error) {
		u.PasswordHash = "x"
		return u, refusal
	})
	if err != refusal {
		t.Fatalf("error: %v; want the function's own", err)
	}
	got, err := s.User(ctx, ada.ID)
	ok(t, err)
	checkUser(t, got, ada)
	_, err = s.Redeem(ctx, hash("t"), auth.PasswordReset, noon, same) // the ticket is still there
	ok(t, err)
}

func testRedeemRace(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	ok(t, s.PutTicket(ctx, newTicket("t", "ada", auth.PasswordReset)))
	errs := race(20, func(i int) error {
		_, err := s.Redeem(ctx, hash("t"), auth.PasswordReset, noon, func(u auth.User) (auth.User, error) {
			u.PasswordHash = fmt.Sprint(i)
			return u, nil
		})
		return err
	})
	equal(t, "winners", count(errs, nil), 1)
	equal(t, "refused", count(errs, auth.ErrToken), 19)
	got, err := s.User(ctx, "id-ada")
	ok(t, err)
	for i, err := range errs {
		if err == nil {
			equal(t, "password of the winner", got.PasswordHash, fmt.Sprint(i))
		}
	}
}

// Who gets a permission that he did not have loses his tickets, by his roles or by a role of his, and nobody else does. What
// is refused voids none.
func testRaiseVoidsTickets(t *testing.T, s Store) {
	ctx := t.Context()
	for _, name := range []string{"auditors", "readers"} {
		ok(t, s.PutRole(ctx, auth.Role{Name: name, Permissions: auth.AuditRead, CreatedAt: noon}))
	}
	addUser(t, s, "ada", "user", "auditors")
	addUser(t, s, "bob", "user")
	ok(t, s.LinkIdentity(ctx, newIdentity("i", "sub", "ada")))
	refusal := errors.New("no")
	refuse := func(u auth.User, _ int) (auth.User, error) { return u, refusal }
	update := func(f func(auth.User, int) (auth.User, error)) func() error {
		return func() error { _, err := s.UpdateUser(ctx, "id-ada", f); return err }
	}
	grant := func(roles ...string) func(auth.User, int) (auth.User, error) {
		return func(u auth.User, _ int) (auth.User, error) { return become(roles...)(u, 0, false) }
	}
	put := func(name string, p auth.Permission) func() error {
		return func() error { return s.PutRole(ctx, auth.Role{Name: name, Permissions: p, CreatedAt: noon}) }
	}
	for i, c := range []struct {
		what  string
		do    func() error
		voids bool
	}{
		{"another role of the same permissions", update(grant("readers")), false},
		{"the first role again", update(grant("auditors", "user")), false},
		{"a refused change", func() error {
			if err := update(refuse)(); err != refusal {
				return fmt.Errorf("%v", err)
			}
			return nil
		}, false},
		{"a role that does not exist", func() error {
			want(t, update(grant("admin", "wizard"))(), auth.ErrInvalid)
			return nil
		}, false},
		{"a role with more", update(grant("auditors", "data-scientist")), true},
		{"a role less", update(grant("auditors")), false},
		{"what a provider says", func() error {
			_, err := s.AssertIdentity(ctx, provider, "sub", noon, become("auditors", "admin"))
			return err
		}, true},
		{"all but one role less", update(grant("auditors")), false},
		{"more for the role", put("auditors", auth.AuditRead|auth.MetricsRead), true},
		{"less for the role", put("auditors", auth.MetricsRead), false},
		{"the same for the role", put("auditors", auth.MetricsRead), false},
		{"another for the role", put("auditors", auth.AuditRead), true},
		{"more for the role of others", put("readers", auth.AuditRead|auth.UsersManage), false},
	} {
		kind := []auth.TicketKind{auth.Invitation, auth.PasswordReset}[i%2]
		for _, name := range []string{"ada", "bob"} {
			ok(t, s.PutTicket(ctx, newTicket("ticket of "+name, name, kind)))
		}
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		for _, name := range []string{"ada", "bob"} {
			_, err := s.Redeem(ctx, hash("ticket of "+name), kind, noon, same)
			if void := errors.Is(err, auth.ErrToken); void != (c.voids && name == "ada") || err != nil && !void {
				t.Errorf("after %s, %s of %s: %v", c.what, kind, name, err)
			}
		}
	}
}

func testSweepTickets(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	ok(t, s.PutTicket(ctx, newTicket("t", "ada", auth.Invitation)))
	ok(t, s.Sweep(ctx, noon.Add(time.Hour-time.Microsecond)))
	_, err := s.Redeem(ctx, hash("t"), auth.Invitation, noon, func(u auth.User) (auth.User, error) { return u, errors.New("keep") })
	if errors.Is(err, auth.ErrToken) {
		t.Fatal("swept too early")
	}
	ok(t, s.Sweep(ctx, noon.Add(time.Hour)))
	_, err = s.Redeem(ctx, hash("t"), auth.Invitation, noon, same)
	want(t, err, auth.ErrToken)
}

// Sweep removes all there is, however much, while others go on.
func testSweepMany(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addSession(t, s, "s", "ada")
	const many = 1300
	for i := range many {
		k := newKey(fmt.Sprint(i), "ada")
		k.ExpiresAt = noon
		ok(t, s.CreateKey(ctx, k))
	}
	errs := race(2, func(i int) error {
		if i == 0 {
			return s.Sweep(ctx, noon)
		}
		_, err := s.Rotate(ctx, hash("s"), token("s1", time.Hour), noon)
		return err
	})
	equal(t, "done", count(errs, nil), 2)
	list, err := s.KeysOf(ctx, "id-ada")
	ok(t, err)
	equal(t, "expired keys left", len(list), 0)
}
