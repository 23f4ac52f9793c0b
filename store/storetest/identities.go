package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"modelgate/auth"
)

var identityTests = []test{
	{"CreateExternalUser", testCreateExternalUser},
	{"CreateExternalUserRace", testCreateExternalUserRace},
	{"LinkIdentity", testLinkIdentity},
	{"AssertIdentity", testAssertIdentity},
	{"AssertIdentityRace", testAssertIdentityRace},
	{"IdentityChanges", testIdentityChanges},
	{"SignIns", testSignIns},
	{"SignInsAreBounded", testSignInsAreBounded},
	{"SignInRace", testSignInRace},
	{"SweepSignIns", testSweepSignIns},
}

const provider = "https://id.example.com"

func newIdentity(id, subject, user string) auth.Identity {
	return auth.Identity{ID: id, Issuer: provider, Subject: subject, UserID: "id-" + user, Managed: true, CreatedBy: "id-maker", Asserted: noon.Add(-time.Hour), CreatedAt: noon}
}

func checkIdentity(t *testing.T, got, want auth.Identity) {
	t.Helper()
	want.Asserted, want.CreatedAt = kept(want.Asserted), kept(want.CreatedAt)
	equal(t, "identity", got, want)
}

func testCreateExternalUser(t *testing.T, s Store) {
	ctx := t.Context()
	ada, id := newUser("ada", "user"), newIdentity("i", "Sub-1", "ada")
	ada.PasswordHash = ""
	ok(t, s.CreateExternalUser(ctx, ada, id))
	u, got, err := s.UserByIdentity(ctx, provider, "Sub-1")
	ok(t, err)
	checkUser(t, u, ada)
	checkIdentity(t, got, id)
	for _, other := range [][2]string{{provider, "sub-1"}, {provider + "/", "Sub-1"}, {"", "Sub-1"}, {provider, ""}} {
		_, _, err := s.UserByIdentity(ctx, other[0], other[1])
		want(t, err, auth.ErrNotFound)
	}
	want(t, s.CreateExternalUser(ctx, newUser("bob"), newIdentity("i2", "Sub-1", "bob")), auth.ErrLinked)
	want(t, s.CreateExternalUser(ctx, newUser("ada"), newIdentity("i2", "sub-2", "ada")), auth.ErrTaken)
	want(t, s.CreateExternalUser(ctx, newUser("bob", "wizard"), newIdentity("i2", "sub-2", "bob")), auth.ErrInvalid)
	_, err = s.UserByName(ctx, "bob") // nothing is left of what failed
	want(t, err, auth.ErrNotFound)
	_, _, err = s.UserByIdentity(ctx, provider, "sub-2")
	want(t, err, auth.ErrNotFound)
}

func testCreateExternalUserRace(t *testing.T, s Store) {
	ctx := t.Context()
	errs := race(10, func(i int) error {
		name := fmt.Sprint("u", i)
		return s.CreateExternalUser(ctx, newUser(name), newIdentity(name, "sub", name))
	})
	equal(t, "created", count(errs, nil), 1)
	equal(t, "linked already", count(errs, auth.ErrLinked), 9)
	list, err := s.Users(ctx, "", 20)
	ok(t, err)
	equal(t, "users", len(list), 1)
}

func testLinkIdentity(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addUser(t, s, "bob")
	first, second := newIdentity("i1", "one", "ada"), newIdentity("i2", "two", "ada")
	first.Managed, first.Asserted, second.CreatedAt = false, time.Time{}, noon.Add(time.Second)
	ok(t, s.LinkIdentity(ctx, second))
	ok(t, s.LinkIdentity(ctx, first))
	want(t, s.LinkIdentity(ctx, newIdentity("i3", "one", "bob")), auth.ErrLinked)
	want(t, s.LinkIdentity(ctx, newIdentity("i3", "three", "nobody")), auth.ErrNotFound)
	list, err := s.IdentitiesOf(ctx, "id-ada")
	ok(t, err)
	equal(t, "identities", len(list), 2)
	checkIdentity(t, list[0], first)
	checkIdentity(t, list[1], second)

	want(t, s.UnlinkIdentity(ctx, "id-bob", "i1"), auth.ErrNotFound)
	ok(t, s.UnlinkIdentity(ctx, "id-ada", "i1"))
	want(t, s.UnlinkIdentity(ctx, "id-ada", "i1"), auth.ErrNotFound)
	_, _, err = s.UserByIdentity(ctx, provider, "one")
	want(t, err, auth.ErrNotFound)
	ok(t, s.LinkIdentity(ctx, newIdentity("i4", "one", "bob")))

	ok(t, s.DeleteUser(ctx, "id-ada", func(auth.User, int) error { return nil }))
	_, _, err = s.UserByIdentity(ctx, provider, "two")
	want(t, err, auth.ErrNotFound)
	list, err = s.IdentitiesOf(ctx, "id-ada")
	ok(t, err)
	equal(t, "identities of nobody", len(list), 0)
}

// become gives a user these roles.
func become(roles ...string) func(auth.User, int, bool) (auth.User, error) {
	return func(u auth.User, _ int, _ bool) (auth.User, error) {
		u.Roles, u.UpdatedAt = roles, noon.Add(time.Minute)
		return u, nil
	}
}

func testAssertIdentity(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "root", "admin")
	ada := newUser("ada", "user")
	ok(t, s.CreateExternalUser(ctx, ada, newIdentity("i", "sub", "ada"))) // heard an hour before noon
	roles := func(what string, issued time.Time, f func(auth.User, int, bool) (auth.User, error), want ...string) {
		t.Helper()
		got, err := s.AssertIdentity(ctx, provider, "sub", issued, f)
		ok(t, err)
		if !slices.Equal(got.Roles, want) {
			t.Fatalf("%s: roles %q; want %q", what, got.Roles, want)
		}
		stored, err := s.User(ctx, ada.ID)
		ok(t, err)
		checkUser(t, stored, got)
	}
	var repeated []bool
	roles("as old", noon.Add(-time.Hour), func(u auth.User, _ int, again bool) (auth.User, error) {
		repeated = append(repeated, again)
		return u, nil
	}, "user")
	equal(t, "again", fmt.Sprint(repeated), "[true]")
	roles("older", noon.Add(-2*time.Hour), become("admin"), "user")
	roles("newer", noon, become("data-scientist", "admin"), "admin", "data-scientist")
	roles("between", noon.Add(-time.Minute), become("user"), "admin", "data-scientist")
	roles("the same roles", noon.Add(time.Minute), become("data-scientist", "admin"), "admin", "data-scientist")
	roles("what they hide", noon.Add(time.Second), become("user"), "admin", "data-scientist")

	others := -1
	refusal := errors.New("no")
	_, err := s.AssertIdentity(ctx, provider, "sub", noon.Add(time.Hour), func(u auth.User, n int, again bool) (auth.User, error) {
		others = n
		equal(t, "again", again, false)
		u.Roles[0] = "x"
		return u, refusal
	})
	if err != refusal {
		t.Fatalf("error: %v; want the function's own", err)
	}
	equal(t, "other administrators", others, 1)
	roles("after a refusal", noon.Add(time.Hour), become("user"), "user") // nothing was noted
	_, err = s.AssertIdentity(ctx, provider, "nobody", noon, become("user"))
	want(t, err, auth.ErrNotFound)
}

// However they race, the roles of the newest stay.
func testAssertIdentityRace(t *testing.T, s Store) {
	ctx := t.Context()
	ok(t, s.CreateExternalUser(ctx, newUser("ada", "user"), newIdentity("i", "sub", "ada")))
	names := []string{"user", "data-scientist", "admin"}
	errs := race(30, func(i int) error {
		_, err := s.AssertIdentity(ctx, provider, "sub", noon.Add(time.Duration(i)*time.Second), become(names[i%3]))
		return err
	})
	equal(t, "done", count(errs, nil), 30)
	got, err := s.User(ctx, "id-ada")
	ok(t, err)
	equal(t, "roles", got.Roles[0], "admin") // of the 29th
}

// Other servers learn of what changes what somebody may do, and of nothing else.
func testIdentityChanges(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada", "user")
	ada := auth.Change{Kind: auth.UserChanged, Subject: "id-ada"}
	assert := func(after time.Duration, role string) func() error {
		return func() error {
			_, err := s.AssertIdentity(ctx, provider, "sub", noon.Add(after), become(role))
			return err
		}
	}
	told(t, s, "an identity", func() error { return s.LinkIdentity(ctx, newIdentity("i", "sub", "ada")) })
	told(t, s, "a newer token", assert(0, "user"))
	told(t, s, "other roles", assert(time.Second, "admin"), ada)
	told(t, s, "an older token", assert(0, "user"))
	told(t, s, "a sign-in", func() error { return beginSignIn(t, s, "a", noon) })
	told(t, s, "the end of an identity", func() error { return s.UnlinkIdentity(ctx, "id-ada", "i") }, ada)
}

func newSignIn(secret string) auth.SignIn {
	return auth.SignIn{Hash: hash(secret), Provider: "corp", Fresh: true, SessionID: "s", ExpiresAt: noon.Add(10 * time.Minute)}
}

// beginSignIn begins a sign-in at a time, while there are fewer than four.
func beginSignIn(t *testing.T, s Store, secret string, now time.Time) error {
	in := newSignIn(secret)
	in.ExpiresAt = now.Add(10 * time.Minute)
	return s.CreateSignIn(t.Context(), in, now, 4)
}

// Those that have expired make room, and are gone; those that are taken too.
func testSignInsAreBounded(t *testing.T, s Store) {
	ctx := t.Context()
	for i, secret := range []string{"a", "b", "c", "d"} {
		ok(t, beginSignIn(t, s, secret, noon.Add(time.Duration(i)*time.Minute)))
	}
	later := noon.Add(10*time.Minute - time.Microsecond)
	want(t, beginSignIn(t, s, "e", later), auth.ErrSignIns)
	_, err := s.TakeSignIn(ctx, hash("c"), later)
	ok(t, err)
	ok(t, beginSignIn(t, s, "e", later))
	want(t, beginSignIn(t, s, "f", later), auth.ErrSignIns)
	ok(t, beginSignIn(t, s, "f", noon.Add(10*time.Minute))) // a has expired
	_, err = s.TakeSignIn(ctx, hash("a"), noon)
	want(t, err, auth.ErrNotFound)
	want(t, beginSignIn(t, s, "g", noon.Add(10*time.Minute)), auth.ErrSignIns)
	errs := race(20, func(i int) error { return beginSignIn(t, s, fmt.Sprint("of many ", i), noon.Add(11*time.Minute)) })
	equal(t, "begun", count(errs, nil), 1)
	equal(t, "refused", count(errs, auth.ErrSignIns), 19)
}

func testSignIns(t *testing.T, s Store) {
	ctx := t.Context()
	ok(t, beginSignIn(t, s, "a", noon))
	want(t, beginSignIn(t, s, "a", noon), auth.ErrTaken)
	without := newSignIn("c")
	without.SessionID = ""
	ok(t, s.CreateSignIn(ctx, without, noon, 4))
	bare, err := s.TakeSignIn(ctx, hash("c"), noon)
	ok(t, err)
	equal(t, "session", bare.SessionID, "")
	got, err := s.TakeSignIn(ctx, hash("a"), noon.Add(10*time.Minute-time.Microsecond))
	ok(t, err)
	in := newSignIn("a")
	in.ExpiresAt = kept(in.ExpiresAt)
	equal(t, "sign-in", got, in)
	_, err = s.TakeSignIn(ctx, hash("a"), noon)
	want(t, err, auth.ErrNotFound)
	ok(t, beginSignIn(t, s, "b", noon))
	_, err = s.TakeSignIn(ctx, hash("b"), noon.Add(10*time.Minute))
	want(t, err, auth.ErrNotFound)
	_, err = s.TakeSignIn(ctx, hash("unknown"), noon)
	want(t, err, auth.ErrNotFound)
}

func testSignInRace(t *testing.T, s Store) {
	ctx := t.Context()
	ok(t, beginSignIn(t, s, "a", noon))
	errs := race(20, func(int) error { _, err := s.TakeSignIn(ctx, hash("a"), noon); return err })
	equal(t, "winners", count(errs, nil), 1)
	equal(t, "losers", count(errs, auth.ErrNotFound), 19)
}

func testSweepSignIns(t *testing.T, s Store) {
	ctx := t.Context()
	ok(t, beginSignIn(t, s, "a", noon))
	ok(t, s.Sweep(ctx, noon.Add(10*time.Minute-time.Microsecond)))
	want(t, beginSignIn(t, s, "a", noon), auth.ErrTaken)
	ok(t, s.Sweep(ctx, noon.Add(10*time.Minute)))
	ok(t, beginSignIn(t, s, "a", noon))
}
