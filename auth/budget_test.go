package auth_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"modelgate/auth"
)

// budgetOf is a caller with a budget of his roles.
func budgetOf(id string, rows int64) *auth.Principal {
	return &auth.Principal{UserID: id, DailyRows: rows}
}

// TestBudget is row P2 below HTTP: rows count against all that bounds them,
// whole or not at all, until midnight UTC.
func TestBudget(t *testing.T) {
	e := newEnv(t)
	e.clock.advance(5*time.Hour + 30*time.Minute) // 17:30
	spend := func(who *auth.Principal, model string, limit, rows int64) error {
		return e.Spend(e.ctx, who, model, limit, rows)
	}
	ada := budgetOf("ada", 10)
	want(t, spend(ada, "iris", 0, 4), nil)
	want(t, spend(ada, "other", 0, 5), nil)
	err := spend(ada, "iris", 0, 2)
	want(t, err, auth.ErrBudget)
	contains(t, detail(err), "1 row is left today of your budget of 10 rows a day")
	if told := (*auth.Error)(nil); !errors.As(err, &told) || told.Retry != 6*time.Hour+30*time.Minute {
		t.Errorf("try again after %v", told)
	}
	want(t, spend(ada, "iris", 0, 1), nil)
	err = spend(ada, "iris", 0, 1)
	want(t, err, auth.ErrBudget)
	contains(t, detail(err), "is used up; it begins anew at midnight UTC")
	err = spend(ada, "iris", 0, 11)
	if told := (*auth.Error)(nil); !errors.As(err, &told) || told.Code != "too_many_rows" {
		t.Errorf("more than the whole budget: %v", err)
	}

	// Others have their own, and so has each model.
	want(t, spend(budgetOf("eve", 10), "iris", 0, 10), nil)
	bob := budgetOf("bob", 0)
	want(t, spend(bob, "iris", 3, 3), nil)
	err = spend(bob, "iris", 3, 1)
	want(t, err, auth.ErrBudget)
	contains(t, detail(err), "for the model iris")
	want(t, spend(bob, "other", 3, 3), nil)
	want(t, spend(bob, "free", 0, 1000), nil)

	// Of two budgets the one that refuses keeps the other whole.
	cyd := budgetOf("cyd", 10)
	want(t, spend(cyd, "iris", 4, 4), nil)
	want(t, spend(cyd, "iris", 4, 4), auth.ErrBudget)
	want(t, spend(cyd, "other", 0, 6), nil)
	want(t, spend(cyd, "other", 0, 1), auth.ErrBudget)
	want(t, spend(cyd, "third", 4, 1), auth.ErrBudget)

	// A larger budget holds at once, a smaller one too.
	want(t, spend(budgetOf("ada", 12), "iris", 0, 2), nil)
	want(t, spend(budgetOf("ada", 5), "iris", 0, 1), auth.ErrBudget)

	e.clock.advance(6*time.Hour + 29*time.Minute)
	want(t, spend(ada, "iris", 0, 1), auth.ErrBudget)
	e.clock.advance(time.Minute)
	want(t, spend(ada, "iris", 0, 10), nil)
	want(t, spend(ada, "iris", 0, 1), auth.ErrBudget)
}

// TestBudgetLowered: of a budget that is made smaller during the day, what was
// taken ahead under the larger one is not granted.
func TestBudgetLowered(t *testing.T) {
	e := newEnv(t)
	want(t, e.Spend(e.ctx, budgetOf("ada", 100_000), "iris", 0, 1), nil) // takes 1000 ahead
	for range 9 {
		want(t, e.Spend(e.ctx, budgetOf("ada", 10), "iris", 0, 1), nil)
	}
	want(t, e.Spend(e.ctx, budgetOf("ada", 10), "iris", 0, 1), auth.ErrBudget)
	want(t, e.Spend(e.ctx, budgetOf("ada", 1000), "iris", 0, 990), nil)
	want(t, e.Spend(e.ctx, budgetOf("ada", 1000), "iris", 0, 1), auth.ErrBudget)
}

// TestBudgetOfRoles proves that the largest budget that a role names holds,
// whatever roles name none, from the next request on.
func TestBudgetOfRoles(t *testing.T) {
	e := newEnv(t)
	put := func(name string, rows int64) error {
		_, err := e.PutRole(e.ctx, e.admin, name, nil, "", rows)
		return err
	}
	want(t, put("small", 5), nil)
	want(t, put("large", 50), nil)
	want(t, put("bad", -1), auth.ErrInvalid)
	want(t, put("bad", 1e12+1), auth.ErrInvalid)
	u, tokens := e.user("ada")
	for _, test := range []struct {
		roles []string
		want  int64
	}{{[]string{"user"}, 0}, {[]string{"user", "small"}, 5}, {[]string{"large", "small", "user"}, 50}} {
		e.give(u.ID, test.roles...)
		if got := e.who(tokens.Access).DailyRows; got != test.want {
			t.Errorf("roles %v: %d rows a day, want %d", test.roles, got, test.want)
		}
	}
	want(t, put("large", 60), nil)
	if got := e.who(tokens.Access).DailyRows; got != 60 {
		t.Errorf("after the role changed: %d rows a day", got)
	}
	if last := e.records("role.put")[0]; last.Detail["daily_rows"] != "60" {
		t.Errorf("the record of the change: %+v", last)
	}
}

func (h *hooked) TakeRows(ctx context.Context, b auth.RowBudget, limit, least, most int64) (int64, int64, error) {
	after, err := h.hook("TakeRows")
	if err != nil {
		return 0, 0, err
	}
	defer after()
	return h.Store.TakeRows(ctx, b, limit, least, most)
}

func (h *hooked) ReturnRows(ctx context.Context, unused map[auth.RowBudget]int64) error {
	after, err := h.hook("ReturnRows")
	if err != nil {
		return err
	}
	defer after()
	return h.Store.ReturnRows(ctx, unused)
}

// TestBudgetAsksSeldom proves that predictions don't go to the database: of
// nobody without a budget, and of others once for many rows, or once a second
// when nothing is left.
func TestBudgetAsksSeldom(t *testing.T) {
	e := newEnv(t)
	asked := func(f func()) int {
		before := e.store.count()
		f()
		return e.store.count() - before
	}
	free := budgetOf("free", 0)
	if n := testing.AllocsPerRun(100, func() { _ = e.Spend(e.ctx, free, "iris", 0, 1) }); n != 0 {
		t.Errorf("%v allocations without a budget", n)
	}
	if n := asked(func() { want(t, e.Spend(e.ctx, free, "iris", 0, 1<<40), nil) }); n != 0 {
		t.Errorf("%d questions without a budget", n)
	}
	ada := budgetOf("ada", 100_000)
	if n := asked(func() {
		for range 2500 {
			want(t, e.Spend(e.ctx, ada, "iris", 0, 1), nil)
		}
	}); n != 3 {
		t.Errorf("%d questions for 2500 rows; 1000 are taken at a time", n)
	}
	if n := testing.AllocsPerRun(100, func() { _ = e.Spend(e.ctx, ada, "iris", 0, 1) }); n != 0 {
		t.Errorf("%v allocations with a budget", n)
	}
	want(t, e.Spend(e.ctx, budgetOf("eve", 1), "iris", 0, 1), nil)
	if n := asked(func() {
		for range 1000 {
			want(t, e.Spend(e.ctx, budgetOf("eve", 1), "iris", 0, 1), auth.ErrBudget)
		}
	}); n > 1 {
		t.Errorf("%d questions about a budget that is used up", n)
	}
	e.clock.advance(time.Second)
	if n := asked(func() { want(t, e.Spend(e.ctx, budgetOf("eve", 1), "iris", 0, 1), auth.ErrBudget) }); n != 1 {
		t.Errorf("%d questions after a second", n)
	}
}

// TestBudgetWithoutDatabase proves that nothing opens: what was taken ahead is
// used, and then predictions are refused until the database answers.
func TestBudgetWithoutDatabase(t *testing.T) {
	e := newEnv(t)
	ada := budgetOf("ada", 500) // five are taken at a time
	want(t, e.Spend(e.ctx, ada, "iris", 0, 1), nil)
	e.store.set(func(method string) error { return auth.ErrUnavailable.Because(errors.New(method)) }, nil)
	want(t, e.Spend(e.ctx, ada, "iris", 0, 4), nil)
	for range 3 {
		want(t, e.Spend(e.ctx, ada, "iris", 0, 1), auth.ErrUnavailable)
	}
	want(t, e.Spend(e.ctx, budgetOf("eve", 1000), "iris", 0, 1), auth.ErrUnavailable)
	want(t, e.Spend(e.ctx, budgetOf("free", 0), "iris", 0, 1), nil)
	e.store.set(nil, nil)
	want(t, e.Spend(e.ctx, ada, "iris", 0, 495), nil)
	want(t, e.Spend(e.ctx, ada, "iris", 0, 1), auth.ErrBudget)
}

// runFor runs the Service's background work until stop is called.
func runFor(s *auth.Service) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	return func() { cancel(); <-done }
}

// used is what the database counts of ada's budget over all models.
func (e *env) used() int64 {
	e.t.Helper()
	used, err := e.db.RowsUsed(e.ctx, "ada", auth.Day(e.clock.now()))
	if err != nil {
		e.t.Fatal(err)
	}
	return used[""]
}

// TestBudgetReturned proves that a server that stops leaves no more counted
// than was used, and one that is killed at most what it had taken ahead.
func TestBudgetReturned(t *testing.T) {
	e := newEnv(t)
	ada := budgetOf("ada", 10_000) // 100 at a time
	stop := runFor(e.Service)
	want(t, e.Spend(e.ctx, ada, "iris", 0, 7), nil)
	if got := e.used(); got != 100 {
		t.Errorf("%d rows are counted while 7 of 100 are used", got)
	}
	stop()
	if got := e.used(); got != 7 {
		t.Errorf("%d rows are counted after the server stopped; 7 were used", got)
	}
	// A failing return costs the caller, and never gives him more.
	want(t, e.Spend(e.ctx, ada, "iris", 0, 7), nil)
	e.store.set(func(method string) error { return auth.ErrUnavailable }, nil)
	runFor(e.Service)()
	e.store.set(nil, nil)
	if got := e.used(); got != 107 {
		t.Errorf("%d rows are counted after a failed return; want 107", got)
	}
	want(t, e.Spend(e.ctx, ada, "iris", 0, 9893), nil)
	want(t, e.Spend(e.ctx, ada, "iris", 0, 1), auth.ErrBudget)
}

// TestBudgetShared is the property: whatever servers on one database spend,
// return, and lose in crashes, no more than the budget is ever granted in a
// day, and no less than it but for what was lost.
func TestBudgetShared(t *testing.T) {
	e := newEnv(t)
	users := 0
	rapid.Check(t, func(rt *rapid.T) {
		users++
		user := fmt.Sprint("ada", users)
		clock := &clock{t: time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)}
		serve := func() *auth.Service {
			s, err := auth.New(auth.Config{Store: e.db, Guard: auth.NewGuard(e.audit), Audit: e.audit, Keys: e.keys, Vault: e.vault, Issuer: issuer, Now: clock.now})
			if err != nil {
				rt.Fatal(err)
			}
			return s
		}
		servers := []*auth.Service{serve(), serve(), serve()}
		limit := rapid.Int64Range(1, 2000).Draw(rt, "limit")
		ahead := min(max(limit/100, 1), 1000)
		var granted, lost int64
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			i := rapid.IntRange(0, len(servers)-1).Draw(rt, "server")
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0: // killed
				servers[i] = serve()
				lost += ahead
			case 1: // stopped in order
				runFor(servers[i])()
				servers[i] = serve()
			case 2:
				clock.advance(time.Duration(rapid.IntRange(0, 2000).Draw(rt, "ms")) * time.Millisecond)
			default:
				n := rapid.Int64Range(1, max(1, limit/3)).Draw(rt, "rows")
				err := servers[i].Spend(t.Context(), budgetOf(user, limit), "iris", 0, n)
				switch {
				case err == nil:
					granted += n
				case !errors.Is(err, auth.ErrBudget):
					rt.Fatal(err)
				}
				if granted > limit {
					rt.Fatalf("%d rows granted of a budget of %d", granted, limit)
				}
			}
		}
		for _, s := range servers {
			runFor(s)()
		}
		clock.advance(time.Second)
		for last := serve(); last.Spend(t.Context(), budgetOf(user, limit), "iris", 0, 1) == nil; {
			granted++
		}
		if granted > limit || granted < limit-lost {
			rt.Fatalf("%d rows granted of a budget of %d, with at most %d lost", granted, limit, lost)
		}
	})
}

// TestBudgetConcurrent spends one budget from many goroutines on two servers.
func TestBudgetConcurrent(t *testing.T) {
	e := newEnv(t)
	other, err := auth.New(auth.Config{Store: e.db, Guard: auth.NewGuard(e.audit), Audit: e.audit, Keys: e.keys, Vault: e.vault, Issuer: issuer, Now: e.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	var all, one atomic.Int64
	var group sync.WaitGroup
	for i, s := range []*auth.Service{e.Service, other, e.Service, other} {
		group.Go(func() {
			for n := range 200 {
				model := fmt.Sprint("m", (i+n)%2)
				err := s.Spend(e.ctx, budgetOf("ada", 500), model, 300, 1)
				switch {
				case err == nil:
					if all.Add(1); model == "m0" {
						one.Add(1)
					}
				case !errors.Is(err, auth.ErrBudget):
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	// Five and three are what the other server may hold when the rest is gone.
	if all.Load() > 500 || all.Load() < 490 || one.Load() > 300 {
		t.Errorf("%d rows granted of 500, %d of them of a model with 300", all.Load(), one.Load())
	}
	runFor(e.Service)()
	runFor(other)()
	if got := e.used(); got != all.Load() {
		t.Errorf("%d rows are counted, %d were granted", got, all.Load())
	}
}

// TestBudgetOverMidnight: while callers charge at once, the day ends and the next
// begins, at a moment that each of them sees for itself: no day grants more than
// the budget, and each has counted what was granted of it.
func TestBudgetOverMidnight(t *testing.T) {
	e := newEnv(t)
	const limit = 300
	first := auth.Day(e.clock.now())
	e.clock.advance(first.AddDate(0, 0, 1).Sub(e.clock.now()) - 400*time.Millisecond)
	var granted, refused atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 200 {
				e.clock.advance(time.Millisecond) // 800 in all: midnight is in the middle
				switch err := e.Spend(e.ctx, budgetOf("ada", limit), "iris", 0, 1); {
				case err == nil:
					granted.Add(1)
				case errors.Is(err, auth.ErrBudget):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if granted.Load() != 2*limit || refused.Load() != 200 {
		t.Errorf("%d rows were granted on two days of %d, and %d refused", granted.Load(), limit, refused.Load())
	}
	runFor(e.Service)()
	for n := range 2 {
		used, err := e.db.RowsUsed(e.ctx, "ada", first.AddDate(0, 0, n))
		if err != nil || used[""] != limit {
			t.Errorf("day %d: %v are counted, %v; want %d", n, used, err, limit)
		}
	}
}

// TestBudgetWhileTheClockIsAhead: a clock that is two days ahead for a while, in
// which the server sweeps, does not give back what was used today.
func TestBudgetWhileTheClockIsAhead(t *testing.T) {
	e := newEnv(t)
	want(t, e.Spend(e.ctx, budgetOf("ada", 10), "iris", 5, 5), nil)
	want(t, e.Spend(e.ctx, budgetOf("ada", 10), "other", 5, 3), nil)
	e.clock.advance(48 * time.Hour)
	want(t, e.Spend(e.ctx, budgetOf("ada", 10), "iris", 5, 5), nil) // a day of its own
	e.Sweep(e.ctx)
	e.FlushBudgets(e.ctx)
	e.clock.advance(-48 * time.Hour)
	want(t, e.Spend(e.ctx, budgetOf("ada", 10), "iris", 5, 1), auth.ErrBudget)
	want(t, e.Spend(e.ctx, budgetOf("ada", 10), "other", 5, 3), auth.ErrBudget)
	want(t, e.Spend(e.ctx, budgetOf("ada", 10), "other", 5, 2), nil)
}

// TestBudgetWaitersLeave proves that who waits for another's question to the
// database leaves when he likes.
func TestBudgetWaitersLeave(t *testing.T) {
	e := newEnv(t)
	asking, answer := make(chan struct{}), make(chan struct{})
	e.store.set(func(method string) error { close(asking); <-answer; return nil }, nil)
	first := make(chan error, 1)
	go func() { first <- e.Spend(e.ctx, budgetOf("ada", 10), "iris", 0, 1) }()
	<-asking
	ctx, leave := context.WithCancel(e.ctx)
	leave()
	want(t, e.Spend(ctx, budgetOf("ada", 10), "iris", 0, 1), context.Canceled)
	close(answer)
	want(t, <-first, nil)
}

// TestBudgetsShown is what GET /users/me says.
func TestBudgetsShown(t *testing.T) {
	e := newEnv(t)
	who := auth.Principal{UserID: "ada", DailyRows: 1000}
	of := func(model string) int64 { return map[string]int64{"iris": 50, "other": 20}[model] }
	show := func() string {
		t.Helper()
		list, err := e.Budgets(e.ctx, who, of)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(list)
	}
	if got := show(); got != "[{ 1000 1000}]" {
		t.Errorf("before: %s", got)
	}
	want(t, e.Spend(e.ctx, &who, "iris", 50, 8), nil)
	want(t, e.Spend(e.ctx, &who, "closed", 50, 3), nil)
	if got := show(); got != "[{ 1000 989} {iris 50 42}]" {
		t.Errorf("after 8 and 3 rows: %s", got)
	}
	who.DailyRows = 5
	if got := show(); got != "[{ 5 0} {iris 50 42}]" {
		t.Errorf("with a smaller budget: %s", got)
	}
	e.clock.advance(24 * time.Hour)
	if got := show(); got != "[{ 5 5}]" {
		t.Errorf("the next day: %s", got)
	}
}
