package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
)

var userTests = []test{
	{"CreateUser", testCreateUser},
	{"CreateUserTaken", testCreateUserTaken},
	{"CreateUserUnknownRole", testCreateUserUnknownRole},
	{"CreateUserWithTicket", testCreateUserWithTicket},
	{"CreateUserRace", testCreateUserRace},
	{"Users", testUsers},
	{"UpdateUser", testUpdateUser},
	{"UpdateUserRefused", testUpdateUserRefused},
	{"UpdateUserRace", testUpdateUserRace},
	{"DisableEndsSessions", testDisableEndsSessions},
	{"DeleteUser", testDeleteUser},
	{"DeleteUserRefused", testDeleteUserRefused},
}

func testCreateUser(t *testing.T, s Store) {
	ctx := t.Context()
	u := newUser("ada", "user", "admin")
	u.UpdatedAt, u.PasswordExpires = noon.Add(time.Second), noon.Add(time.Hour)
	ok(t, s.CreateUser(ctx, u, nil))
	service := auth.User{ID: "id-svc", Username: "svc", Disabled: true, CreatedAt: noon, UpdatedAt: noon}
	ok(t, s.CreateUser(ctx, service, nil))
	for _, want := range []auth.User{u, service} {
		got, err := s.User(ctx, want.ID)
		ok(t, err)
		checkUser(t, got, want)
		got, err = s.UserByName(ctx, want.Username)
		ok(t, err)
		checkUser(t, got, want)
	}
	_, err := s.User(ctx, "ada")
	want(t, err, auth.ErrNotFound)
	_, err = s.UserByName(ctx, "id-ada")
	want(t, err, auth.ErrNotFound)
	_, err = s.UserByName(ctx, "ADA")
	want(t, err, auth.ErrNotFound)
}

func testCreateUserTaken(t *testing.T, s Store) {
	ctx := t.Context()
	ada := addUser(t, s, "ada", "user")
	same := newUser("ada")
	same.ID = "other"
	want(t, s.CreateUser(ctx, same, nil), auth.ErrTaken)
	same = newUser("bob")
	same.ID = ada.ID
	want(t, s.CreateUser(ctx, same, nil), auth.ErrTaken)

	got, err := s.User(ctx, ada.ID)
	ok(t, err)
	checkUser(t, got, ada)
	_, err = s.UserByName(ctx, "bob")
	want(t, err, auth.ErrNotFound)
}

func testCreateUserUnknownRole(t *testing.T, s Store) {
	ctx := t.Context()
	ticket := auth.Ticket{Hash: hash("t"), Kind: auth.Invitation, UserID: "id-ada", ExpiresAt: noon.Add(time.Hour)}
	err := s.CreateUser(ctx, newUser("ada", "admin", "wizard", "user"), &ticket)
	want(t, err, auth.ErrInvalid)
	if !strings.Contains(err.Error(), "wizard") {
		t.Errorf("the error does not name the role: %v", err)
	}
	_, err = s.User(ctx, "id-ada")
	want(t, err, auth.ErrNotFound)
	addUser(t, s, "ada")
	_, err = s.Redeem(ctx, ticket.Hash, ticket.Kind, noon, func(u auth.User) (auth.User, error) { return u, nil })
	want(t, err, auth.ErrToken)
}

func testCreateUserWithTicket(t *testing.T, s Store) {
	ctx := t.Context()
	ticket := auth.Ticket{Hash: hash("t"), Kind: auth.Invitation, UserID: "id-ada", ExpiresAt: noon.Add(time.Hour)}
	ok(t, s.CreateUser(ctx, newUser("ada", "user"), &ticket))
	// The same ticket again fails, and the user with it.
	ticket.UserID = "id-bob"
	want(t, s.CreateUser(ctx, newUser("bob"), &ticket), auth.ErrTaken)
	_, err := s.User(ctx, "id-bob")
	want(t, err, auth.ErrNotFound)
	got, err := s.Redeem(ctx, ticket.Hash, ticket.Kind, noon, func(u auth.User) (auth.User, error) { return u, nil })
	ok(t, err)
	equal(t, "user of the ticket", got.ID, "id-ada")
}

func testCreateUserRace(t *testing.T, s Store) {
	ctx := t.Context()
	errs := race(20, func(i int) error {
		u := newUser("ada", "user")
		u.ID = strconv.Itoa(i)
		return s.CreateUser(ctx, u, nil)
	})
	equal(t, "users made", count(errs, nil), 1)
	equal(t, "refused as taken", count(errs, auth.ErrTaken), 19)
	got, err := s.UserByName(ctx, "ada")
	ok(t, err)
	equal(t, "the winner", got.ID, strconv.Itoa(slices.Index(errs, nil)))
}

func testUsers(t *testing.T, s Store) {
	ctx := t.Context()
	list, err := s.Users(ctx, "", 10)
	ok(t, err)
	equal(t, "users at first", len(list), 0)

	var names []string
	for i := range 7 { // not in the order of their names
		name := fmt.Sprintf("u%d", i*3%7)
		names = append(names, name)
		addUser(t, s, name, []string{"user", "admin"}[:i%3]...)
	}
	slices.Sort(names)
	var seen []string
	for after := ""; ; {
		page, err := s.Users(ctx, after, 3)
		ok(t, err)
		if len(page) == 0 {
			break
		}
		if len(page) > 3 {
			t.Fatalf("%d users where at most 3 were asked for", len(page))
		}
		for _, u := range page {
			seen = append(seen, u.Username)
			one, err := s.User(ctx, u.ID)
			ok(t, err)
			checkUser(t, u, one)
		}
		after = page[len(page)-1].Username
	}
	if !slices.Equal(seen, names) {
		t.Fatalf("paged through %q; want %q", seen, names)
	}
	page, err := s.Users(ctx, "u3", 100)
	ok(t, err)
	equal(t, "users after u3", len(page), 3)
	page, err = s.Users(ctx, "", 0)
	ok(t, err)
	equal(t, "users with limit 0", len(page), 0)
}

func testUpdateUser(t *testing.T, s Store) {
	ctx := t.Context()
	ada := addUser(t, s, "ada", "user")
	bob := addUser(t, s, "bob", "user")
	after := auth.User{ID: "another", Username: "bob", PasswordHash: "new", Disabled: true, CreatedAt: noon.Add(time.Hour),
		Roles: []string{"data-scientist", "admin", "admin"}, UpdatedAt: noon.Add(2 * time.Hour)}
	got, err := s.UpdateUser(ctx, ada.ID, func(old auth.User, _ int) (auth.User, error) {
		checkUser(t, old, ada)
		return after, nil
	})
	ok(t, err)
	after.ID, after.Username, after.Roles = ada.ID, ada.Username, []string{"admin", "data-scientist"}
	checkUser(t, got, after)
	got, err = s.User(ctx, ada.ID)
	ok(t, err)
	checkUser(t, got, after)

	// A function may write into what it is given.
	got, err = s.UpdateUser(ctx, ada.ID, func(old auth.User, _ int) (auth.User, error) {
		old.Roles[1] = "user"
		return old, nil
	})
	ok(t, err)
	after.Roles = []string{"admin", "user"}
	checkUser(t, got, after)

	got, err = s.UpdateUser(ctx, ada.ID, func(old auth.User, _ int) (auth.User, error) {
		old.Roles = nil
		return old, nil
	})
	ok(t, err)
	equal(t, "roles left", len(got.Roles), 0)
	got, err = s.User(ctx, bob.ID)
	ok(t, err)
	checkUser(t, got, bob)
}

func testUpdateUserRefused(t *testing.T, s Store) {
	ctx := t.Context()
	ada := addUser(t, s, "ada", "user")
	refusal := fmt.Errorf("not today: %w", auth.ErrForbidden)
	got, err := s.UpdateUser(ctx, ada.ID, func(old auth.User, _ int) (auth.User, error) {
		old.Roles[0], old.PasswordHash = "admin", "x"
		return old, refusal
	})
	if err != refusal {
		t.Fatalf("error: %v; want the function's own", err)
	}
	equal(t, "user returned with the error", got.ID, "")
	_, err = s.UpdateUser(ctx, ada.ID, func(old auth.User, _ int) (auth.User, error) {
		old.PasswordHash, old.Roles = "x", []string{"admin", "wizard"}
		return old, nil
	})
	want(t, err, auth.ErrInvalid)
	if !strings.Contains(err.Error(), "wizard") {
		t.Errorf("the error does not name the role: %v", err)
	}
	_, err = s.UpdateUser(ctx, "nobody", func(auth.User, int) (auth.User, error) {
		t.Error("called for a user that does not exist")
		return auth.User{}, nil
	})
	want(t, err, auth.ErrNotFound)
	got, err = s.User(ctx, ada.ID)
	ok(t, err)
	checkUser(t, got, ada)
}

// Who is disabled has no session any more, from the very same step on.
func testDisableEndsSessions(t *testing.T, s Store) {
	ctx := t.Context()
	for _, name := range []string{"ada", "bob"} {
		addUser(t, s, name)
		addSession(t, s, name+"1", name)
		addSession(t, s, name+"2", name)
	}
	update := func(disabled bool) {
		t.Helper()
		_, err := s.UpdateUser(ctx, "id-ada", func(u auth.User, _ int) (auth.User, error) {
			u.Disabled = disabled
			return u, nil
		})
		ok(t, err)
	}
	left := func(user string, n int) {
		t.Helper()
		list, err := s.SessionsOf(ctx, user, noon)
		ok(t, err)
		equal(t, "sessions of "+user, len(list), n)
	}
	update(false)
	left("id-ada", 2)
	update(true)
	left("id-ada", 0)
	update(false)
	left("id-ada", 0)
	left("id-bob", 2)
}

// Updates that overlap build on each other: none is lost.
func testUpdateUserRace(t *testing.T, s Store) {
	ctx := t.Context()
	ada := addUser(t, s, "ada")
	errs := race(50, func(int) error {
		_, err := s.UpdateUser(ctx, ada.ID, func(old auth.User, _ int) (auth.User, error) {
			old.PasswordHash += "x"
			return old, nil
		})
		return err
	})
	equal(t, "updates made", count(errs, nil), 50)
	got, err := s.User(ctx, ada.ID)
	ok(t, err)
	equal(t, "updates kept", got.PasswordHash, ada.PasswordHash+strings.Repeat("x", 50))
}

func testDeleteUser(t *testing.T, s Store) {
	ctx := t.Context()
	for _, name := range []string{"ada", "bob"} {
		addUser(t, s, name, "user")
		addSession(t, s, "s-"+name, name)
		ok(t, s.CreateKey(ctx, auth.Key{ID: "k-" + name, UserID: "id-" + name, Hash: hash("k-" + name), CreatedAt: noon}))
		ok(t, s.PutTicket(ctx, auth.Ticket{Hash: hash("t-" + name), Kind: auth.PasswordReset, UserID: "id-" + name, ExpiresAt: noon.Add(time.Hour)}))
		m, v := newModel("of-"+name, "id-"+name)
		_, err := s.AddVersion(ctx, m, v, nil)
		ok(t, err)
	}
	ok(t, s.DeleteUser(ctx, "id-ada", func(old auth.User, others int) error {
		checkUser(t, old, newUser("ada", "user"))
		equal(t, "administrators", others, 0)
		return nil
	}))

	same := func(u auth.User) (auth.User, error) { return u, nil }
	for name, missing := range map[string]error{"ada": auth.ErrNotFound, "bob": nil} {
		_, err := s.User(ctx, "id-"+name)
		want(t, err, missing)
		_, err = s.Session(ctx, "s-"+name)
		want(t, err, missing)
		_, err = s.Rotate(ctx, hash("s-"+name), token("n-"+name, time.Hour), noon)
		want(t, err, missing)
		_, err = s.KeyByHash(ctx, hash("k-"+name))
		want(t, err, missing)
		_, err = s.Redeem(ctx, hash("t-"+name), auth.PasswordReset, noon, same)
		if missing != nil {
			missing = auth.ErrToken
		}
		want(t, err, missing)
	}
	list, err := s.Models(ctx)
	ok(t, err)
	equal(t, "models left", len(list), 2)
	equal(t, "owner of a deleted user's model", list[0].OwnerID, "")
	equal(t, "who made its version", list[0].Versions[0].CreatedBy, "id-ada")
	equal(t, "owner of another's model", list[1].OwnerID, "id-bob")
	addUser(t, s, "ada") // the name is free again
}

func testDeleteUserRefused(t *testing.T, s Store) {
	ctx := t.Context()
	ada := addUser(t, s, "ada", "user")
	refusal := errors.New("not today")
	if err := s.DeleteUser(ctx, ada.ID, func(auth.User, int) error { return refusal }); err != refusal {
		t.Fatalf("error: %v; want the function's own", err)
	}
	got, err := s.User(ctx, ada.ID)
	ok(t, err)
	checkUser(t, got, ada)
	want(t, s.DeleteUser(ctx, "nobody", func(auth.User, int) error { return nil }), auth.ErrNotFound)
}

var adminTests = []test{
	{"OtherAdmins", testOtherAdmins},
	{"AdminsRemoveEachOther", testAdminsRemoveEachOther},
}

func testOtherAdmins(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada", "admin")
	addUser(t, s, "bob", "admin", "user")
	addUser(t, s, "carol", "user")
	disabled := newUser("dan", "admin")
	disabled.Disabled = true
	ok(t, s.CreateUser(ctx, disabled, nil))
	invited := newUser("eve", "admin")
	invited.PasswordHash = ""
	ok(t, s.CreateUser(ctx, invited, nil))
	robot := newService("robot", "admin")
	robot.PasswordHash = "x"
	ok(t, s.CreateUser(ctx, robot, nil))
	for name, want := range map[string]int{"ada": 1, "bob": 1, "carol": 2, "dan": 2, "eve": 2} {
		_, err := s.UpdateUser(ctx, "id-"+name, func(u auth.User, others int) (auth.User, error) {
			equal(t, "administrators besides "+name, others, want)
			return u, nil
		})
		ok(t, err)
		stop := errors.New("stop")
		err = s.DeleteUser(ctx, "id-"+name, func(_ auth.User, others int) error {
			equal(t, "administrators besides "+name, others, want)
			return stop
		})
		if err != stop {
			t.Fatal(err)
		}
	}
}

// Two administrators take the role from, disable or delete each other at once: one of them is left.
func testAdminsRemoveEachOther(t *testing.T, s Store) {
	ctx := t.Context()
	strip := func(ctx context.Context, id string, change func(*auth.User)) error {
		_, err := s.UpdateUser(ctx, id, func(u auth.User, others int) (auth.User, error) {
			if others == 0 {
				return u, auth.ErrLastAdmin
			}
			change(&u)
			return u, nil
		})
		return err
	}
	ways := []func(id string) error{
		func(id string) error { return strip(ctx, id, func(u *auth.User) { u.Roles = []string{"user"} }) },
		func(id string) error { return strip(ctx, id, func(u *auth.User) { u.Disabled = true }) },
		func(id string) error {
			return s.DeleteUser(ctx, id, func(_ auth.User, others int) error {
				if others == 0 {
					return auth.ErrLastAdmin
				}
				return nil
			})
		},
	}
	for round := range 12 {
		ids := make([]string, 2)
		for i := range ids {
			ids[i] = addUser(t, s, fmt.Sprintf("a%d-%d", round, i), "admin").ID
		}
		errs := race(2, func(i int) error { return ways[(round+i*round/3)%3](ids[1-i]) })
		equal(t, "removals", count(errs, nil), 1)
		equal(t, "refusals", count(errs, auth.ErrLastAdmin), 1)
		for _, id := range ids { // make way for the next round
			err := s.DeleteUser(ctx, id, func(auth.User, int) error { return nil })
			if err != nil && !errors.Is(err, auth.ErrNotFound) {
				t.Fatal(err)
			}
		}
	}
}
