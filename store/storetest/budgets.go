package storetest

import (
	"fmt"
	"testing"
	"time"

	"modelgate/auth"
)

var budgetTests = []test{
	{"TakeRows", testTakeRows},
	{"TakeRowsRace", testTakeRowsRace},
	{"ReturnRows", testReturnRows},
	{"RowsUsed", testRowsUsed},
	{"SweepRows", testSweepRows},
}

// ofDay is a budget of a user and model on the n-th day from noon's.
func ofDay(user, model string, n int) auth.RowBudget {
	return auth.RowBudget{UserID: user, Model: model, Day: auth.Day(noon).AddDate(0, 0, n)}
}

func take(t *testing.T, s Store, b auth.RowBudget, limit, least, most, wantTaken, wantLeft int64) {
	t.Helper()
	taken, left, err := s.TakeRows(t.Context(), b, limit, least, most)
	ok(t, err)
	equal(t, "taken", taken, wantTaken)
	equal(t, "left", left, wantLeft)
}

func testTakeRows(t *testing.T, s Store) {
	b := ofDay("ada", "", 0)
	take(t, s, b, 100, 1, 40, 40, 60)
	take(t, s, b, 100, 50, 70, 60, 0) // what is left is less than most
	take(t, s, b, 100, 1, 10, 0, 0)
	take(t, s, b, 130, 31, 40, 0, 30) // nothing, since less than least is left
	take(t, s, b, 130, 30, 40, 30, 0)
	take(t, s, b, 50, 1, 1, 0, 0) // a budget that was larger
	take(t, s, b, 1e12, 1e12-130, 1e12, 1e12-130, 0)
	// Each user, model and day has its own.
	for _, other := range []auth.RowBudget{ofDay("eve", "", 0), ofDay("ada", "iris", 0), ofDay("ada", "", 1)} {
		take(t, s, other, 10, 10, 10, 10, 0)
	}
	taken, left, err := s.TakeRows(t.Context(), ofDay("none", "", 0), 0, 0, 0)
	ok(t, err)
	equal(t, "of no budget", taken+left, 0)
}

func testTakeRowsRace(t *testing.T, s Store) {
	b := ofDay("ada", "iris", 0)
	taken := make([]int64, 20)
	errs := race(len(taken), func(i int) (err error) {
		taken[i], _, err = s.TakeRows(t.Context(), b, 100, 7, 7)
		return err
	})
	equal(t, "successes", count(errs, nil), len(errs))
	sum := int64(0)
	for _, n := range taken {
		sum += n
	}
	equal(t, "taken together", sum, 98)
	used, err := s.RowsUsed(t.Context(), "ada", b.Day)
	ok(t, err)
	equal(t, "counted", used["iris"], 98)
}

func testReturnRows(t *testing.T, s Store) {
	b, other, absent := ofDay("ada", "", 0), ofDay("ada", "iris", 0), ofDay("ada", "none", 0)
	take(t, s, b, 100, 1, 40, 40, 60)
	take(t, s, other, 100, 1, 40, 40, 60)
	ok(t, s.ReturnRows(t.Context(), map[auth.RowBudget]int64{b: 15, other: 50, absent: 3}))
	take(t, s, b, 100, 1, 1, 1, 74)
	take(t, s, other, 100, 100, 100, 100, 0) // never below nothing
	take(t, s, absent, 10, 10, 10, 10, 0)
	ok(t, s.ReturnRows(t.Context(), nil))
}

func testRowsUsed(t *testing.T, s Store) {
	ctx := t.Context()
	used, err := s.RowsUsed(ctx, "ada", auth.Day(noon))
	ok(t, err)
	equal(t, "before", len(used), 0)
	for model, rows := range map[string]int64{"": 5, "iris": 3, "other": 2} {
		take(t, s, ofDay("ada", model, 0), 10, rows, rows, rows, 10-rows)
	}
	take(t, s, ofDay("ada", "iris", 1), 10, 9, 9, 9, 1)
	take(t, s, ofDay("eve", "iris", 0), 10, 9, 9, 9, 1)
	used, err = s.RowsUsed(ctx, "ada", auth.Day(noon))
	ok(t, err)
	equal(t, "used", fmt.Sprint(used), fmt.Sprint(map[string]int64{"": 5, "iris": 3, "other": 2}))
}

// What was counted goes a week after its day, and not before: a clock that is ahead for some days forgets nothing.
func testSweepRows(t *testing.T, s Store) {
	ctx := t.Context()
	for n := range 3 {
		for i := range 400 { // more than a step of the sweep
			take(t, s, ofDay(fmt.Sprint("u", i), "iris", n), 10, 1, 1, 1, 9)
		}
	}
	ok(t, s.Sweep(ctx, auth.Day(noon).AddDate(0, 0, 8).Add(-time.Microsecond)))
	used, err := s.RowsUsed(ctx, "u7", auth.Day(noon))
	ok(t, err)
	equal(t, "a week after the day", len(used), 1)
	ok(t, s.Sweep(ctx, auth.Day(noon).AddDate(0, 0, 9)))
	for n, want := range []int{0, 0, 400} {
		left := 0
		for i := range 400 {
			used, err := s.RowsUsed(ctx, fmt.Sprint("u", i), auth.Day(noon).AddDate(0, 0, n))
			ok(t, err)
			left += len(used)
		}
		equal(t, fmt.Sprintf("budgets of day %d", n), left, want)
	}
}
