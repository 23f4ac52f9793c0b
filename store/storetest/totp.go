package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"modelgate/auth"
)

var totpTests = []test{
	{"UpdateTOTP", testUpdateTOTP},
	{"UpdateTOTPRefused", testUpdateTOTPRefused},
	{"UpdateTOTPRace", testUpdateTOTPRace},
	{"TOTPs", testTOTPs},
	{"TOTPOfUsers", testTOTPOfUsers},
	{"RedeemDropsTOTP", testRedeemDropsTOTP},
}

func newTOTP(user string) auth.TOTP {
	return auth.TOTP{UserID: "id-" + user, Secret: []byte{0, 1, 0xff, 0}, Active: true, SessionID: "s", LastStep: 58_000_000, Guesses: noon,
		Codes: [][32]byte{hash("one"), hash("two"), hash("three")}, CreatedAt: noon.Add(-time.Hour)}
}

// putTOTP stores a second factor, whatever was there.
func putTOTP(t *testing.T, s Store, f auth.TOTP) {
	t.Helper()
	ok(t, s.UpdateTOTP(t.Context(), f.UserID, func(auth.TOTP) (auth.TOTP, error) { return f, nil }))
}

// totpOf reads a second factor and changes nothing.
func totpOf(t *testing.T, s Store, userID string) (found auth.TOTP) {
	t.Helper()
	look := errors.New("only looking")
	err := s.UpdateTOTP(t.Context(), userID, func(old auth.TOTP) (auth.TOTP, error) {
		found = old
		return auth.TOTP{}, look
	})
	want(t, err, look)
	return found
}

func checkTOTP(t *testing.T, got, want auth.TOTP) {
	t.Helper()
	want.Guesses, want.CreatedAt = kept(want.Guesses), kept(want.CreatedAt)
	if !slices.Equal(got.Secret, want.Secret) || !slices.Equal(got.Codes, want.Codes) || got.UserID != want.UserID || got.Active != want.Active ||
		got.SessionID != want.SessionID || got.LastStep != want.LastStep || got.Guesses != want.Guesses || got.CreatedAt != want.CreatedAt {
		t.Fatalf("second factor:\n%+v; want\n%+v", got, want)
	}
}

func testUpdateTOTP(t *testing.T, s Store) {
	addUser(t, s, "ada")
	addUser(t, s, "bob")
	checkTOTP(t, totpOf(t, s, "id-ada"), auth.TOTP{})
	f := newTOTP("ada")
	putTOTP(t, s, f)
	checkTOTP(t, totpOf(t, s, "id-ada"), f)
	checkTOTP(t, totpOf(t, s, "id-bob"), auth.TOTP{})

	after := auth.TOTP{UserID: "id-bob", Secret: []byte("other"), LastStep: 1, CreatedAt: noon} // whose it is can't change
	ok(t, s.UpdateTOTP(t.Context(), "id-ada", func(old auth.TOTP) (auth.TOTP, error) {
		checkTOTP(t, old, f)
		return after, nil
	}))
	after.UserID = "id-ada"
	checkTOTP(t, totpOf(t, s, "id-ada"), after)
	checkTOTP(t, totpOf(t, s, "id-bob"), auth.TOTP{})

	putTOTP(t, s, newTOTP("bob"))
	for range 2 { // to remove what is not there is no error
		ok(t, s.UpdateTOTP(t.Context(), "id-ada", func(auth.TOTP) (auth.TOTP, error) { return auth.TOTP{}, nil }))
	}
	checkTOTP(t, totpOf(t, s, "id-ada"), auth.TOTP{})
	checkTOTP(t, totpOf(t, s, "id-bob"), newTOTP("bob"))
}

func testUpdateTOTPRefused(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	f := newTOTP("ada")
	putTOTP(t, s, f)
	refusal := errors.New("wrong code")
	err := s.UpdateTOTP(ctx, "id-ada", func(old auth.TOTP) (auth.TOTP, error) {
		old.LastStep++
		return old, refusal
	})
	if err != refusal {
		t.Fatalf("error: %v; want the function's own", err)
	}
	checkTOTP(t, totpOf(t, s, "id-ada"), f)
	want(t, s.UpdateTOTP(ctx, "nobody", func(auth.TOTP) (auth.TOTP, error) {
		t.Error("called without a user")
		return f, nil
	}), auth.ErrNotFound)
	// It goes with its user, and does not come back with his name.
	ok(t, s.DeleteUser(ctx, "id-ada", func(auth.User, int) error { return nil }))
	addUser(t, s, "ada")
	checkTOTP(t, totpOf(t, s, "id-ada"), auth.TOTP{})
}

// A time step is used by one of many, a recovery code too.
func testUpdateTOTPRace(t *testing.T, s Store) {
	addUser(t, s, "ada")
	putTOTP(t, s, newTOTP("ada"))
	used := errors.New("used")
	errs := race(20, func(int) error {
		return s.UpdateTOTP(t.Context(), "id-ada", func(old auth.TOTP) (auth.TOTP, error) {
			if old.LastStep == 58_000_001 {
				return old, used
			}
			old.LastStep = 58_000_001
			return old, nil
		})
	})
	equal(t, "winners of a step", count(errs, nil), 1)
	equal(t, "others", count(errs, used), 19)
	errs = race(20, func(int) error {
		return s.UpdateTOTP(t.Context(), "id-ada", func(old auth.TOTP) (auth.TOTP, error) {
			i := slices.Index(old.Codes, hash("two"))
			if i < 0 {
				return old, used
			}
			old.Codes = slices.Delete(old.Codes, i, i+1)
			return old, nil
		})
	})
	equal(t, "winners of a code", count(errs, nil), 1)
	equal(t, "others", count(errs, used), 19)
	if codes := totpOf(t, s, "id-ada").Codes; !slices.Equal(codes, [][32]byte{hash("one"), hash("three")}) {
		t.Errorf("%d codes left", len(codes))
	}
}

func testTOTPs(t *testing.T, s Store) {
	ctx := t.Context()
	var all []auth.TOTP
	for i, name := range []string{"ada", "bob", "eve"} {
		addUser(t, s, name)
		f := newTOTP(name)
		f.Active, f.LastStep = i != 1, int64(i) // a begun one is listed too
		all = append(all, f)
	}
	addUser(t, s, "dan") // has none
	for _, f := range []int{2, 0, 1} {
		putTOTP(t, s, all[f])
	}
	for _, c := range []struct {
		after string
		limit int
		want  []auth.TOTP
	}{
		{"", 10, all}, {"", 2, all[:2]}, {"id-bob", 2, all[2:]}, {"id-c", 2, all[2:]}, {"id-eve", 2, nil}, {"", 0, nil}, {"", -1, nil},
	} {
		list, err := s.TOTPs(ctx, c.after, c.limit)
		ok(t, err)
		equal(t, fmt.Sprintf("second factors after %q, at most %d", c.after, c.limit), len(list), len(c.want))
		for i := range list {
			checkTOTP(t, list[i], c.want[i])
		}
	}
}

// Whether a user has a second factor is told with him, once it is active, and
// stays when he is updated.
func testTOTPOfUsers(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addUser(t, s, "bob")
	told := func(what string, wanted bool) {
		t.Helper()
		u, err := s.User(ctx, "id-ada")
		ok(t, err)
		equal(t, what+": User", u.TOTP, wanted)
		u, err = s.UserByName(ctx, "ada")
		ok(t, err)
		equal(t, what+": UserByName", u.TOTP, wanted)
		list, err := s.Users(ctx, "", 2)
		ok(t, err)
		equal(t, what+": Users", fmt.Sprint(list[0].TOTP, list[1].TOTP), fmt.Sprint(wanted, false))
		for _, given := range []bool{true, false} {
			u, err = s.UpdateUser(ctx, "id-ada", func(old auth.User, _ int) (auth.User, error) {
				equal(t, what+": old of UpdateUser", old.TOTP, wanted)
				old.TOTP = given
				return old, nil
			})
			ok(t, err)
			equal(t, what+": UpdateUser", u.TOTP, wanted)
		}
	}
	told("none", false)
	f := newTOTP("ada")
	f.Active = false
	putTOTP(t, s, f)
	told("begun", false)
	f.Active = true
	putTOTP(t, s, f)
	told("active", true)
}

func testRedeemDropsTOTP(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	putTOTP(t, s, newTOTP("ada"))
	ticket := newTicket("keeps", "ada", auth.PasswordReset)
	ok(t, s.PutTicket(ctx, ticket))
	u, err := s.Redeem(ctx, ticket.Hash, ticket.Kind, noon, same)
	ok(t, err)
	equal(t, "kept", u.TOTP, true)

	ticket = newTicket("drops", "ada", auth.PasswordReset)
	ticket.DropsTOTP = true
	ok(t, s.PutTicket(ctx, ticket))
	refusal := errors.New("too weak")
	_, err = s.Redeem(ctx, ticket.Hash, ticket.Kind, noon, func(u auth.User) (auth.User, error) { return u, refusal })
	want(t, err, refusal)
	checkTOTP(t, totpOf(t, s, "id-ada"), newTOTP("ada"))
	u, err = s.Redeem(ctx, ticket.Hash, ticket.Kind, noon, same)
	ok(t, err)
	equal(t, "dropped", u.TOTP, false)
	checkTOTP(t, totpOf(t, s, "id-ada"), auth.TOTP{})
}
