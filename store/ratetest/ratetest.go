// Package ratetest is the contract of a store of rates as tests: limiter's Store with a true window (api.Sliding describes
// it), in this process's memory or shared by servers in Redis. Each such store passes the whole suite.
//
// It knows limiter's interface alone, and must not import a store: what only one of them can show, such as a bound of its
// memory or a server that is gone, is tested beside it.
package ratetest

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulule/limiter/v3"
	"pgregory.net/rapid"
)

// slots is how many a period is cut into: a unit may come back one of them late.
const slots = 60

// Clock is a time that a test sets by hand, to the microsecond.
type Clock struct{ at atomic.Int64 }

// NewClock returns a clock that stands at a second's beginning.
func NewClock() *Clock {
	c := new(Clock)
	c.at.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	return c
}

// Now is the time that the clock shows.
func (c *Clock) Now() time.Time { return time.Unix(0, c.at.Load()) }

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) { c.at.Add(int64(d)) }

// Open returns an empty store that takes its time from now.
type Open func(t *testing.T, now func() time.Time) limiter.Store

// RunTests runs the suite.
func RunTests(t *testing.T, open Open) {
	for _, one := range []struct {
		name string
		run  func(t *testing.T, w *world)
	}{
		{"Window", testWindow},
		{"BoundaryBurst", testBoundaryBurst},
		{"Reset", testReset},
		{"AllOrNothing", testAllOrNothing},
		{"GiveBack", testGiveBack},
		{"Methods", testMethods},
		{"PeriodChanged", testPeriodChanged},
		{"LimitChanged", testLimitChanged},
		{"HugeNumbers", testHugeNumbers},
		{"Keys", testKeys},
		{"ClockBackwards", testClockBackwards},
		{"Concurrent", testConcurrent},
	} {
		t.Run(one.name, func(t *testing.T) {
			c := NewClock()
			one.run(t, &world{t: t, Clock: c, store: open(t, c.Now)})
		})
	}
}

// world is a store and the clock that it goes by.
type world struct {
	*Clock
	t     *testing.T
	store limiter.Store
}

func (w *world) take(key string, n int64, rate limiter.Rate) limiter.Context {
	w.t.Helper()
	c, err := w.store.Increment(w.t.Context(), key, n, rate)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// Rate reads "10-M".
func Rate(t testing.TB, text string) limiter.Rate {
	t.Helper()
	r, err := limiter.NewRateFromFormatted(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// testWindow holds the store against a list of all that was granted: never more than the limit within one period, wherever
// it begins, and never a refusal that a window longer by a sixtieth does not explain.
func testWindow(t *testing.T, w *world) {
	keys := 0
	rapid.Check(t, func(t *rapid.T) {
		keys++
		key := fmt.Sprint("key", keys)
		rate := limiter.Rate{
			Limit:  rapid.Int64Range(1, 50).Draw(t, "limit"),
			Period: rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 24 * time.Hour, 7 * time.Millisecond}).Draw(t, "period"),
		}
		type grant struct {
			at time.Time
			n  int64
		}
		var grants []grant
		within := func(d time.Duration) (sum int64) {
			for _, g := range grants {
				if w.Now().Sub(g.at) < d {
					sum += g.n
				}
			}
			return sum
		}
		// A store may count in whole microseconds, and round a slot up.
		slack := rate.Period + 2*(rate.Period/slots+time.Microsecond)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.Advance(time.Duration(rapid.Int64Range(0, int64(rate.Period)/3+1).Draw(t, "step")).Round(time.Microsecond))
			n := rapid.Int64Range(1, rate.Limit+1).Draw(t, "count")
			got, err := w.store.Increment(w.t.Context(), key, n, rate)
			if err != nil {
				t.Fatal(err)
			}
			if got.Limit != rate.Limit {
				t.Fatalf("limit %d of %d", got.Limit, rate.Limit)
			}
			if got.Reached {
				if within(slack)+n <= rate.Limit {
					t.Fatalf("refused %d with %d granted in the last period and two slots, limit %d", n, within(slack), rate.Limit)
				}
				continue
			}
			grants = append(grants, grant{w.Now(), n})
			if sum := within(rate.Period); sum > rate.Limit {
				t.Fatalf("%d granted within one period, limit %d", sum, rate.Limit)
			}
			if got.Remaining < rate.Limit-within(slack) || got.Remaining > rate.Limit-within(rate.Period) {
				t.Fatalf("remaining %d, but %d to %d of %d are in use", got.Remaining, within(rate.Period), within(slack), rate.Limit)
			}
		}
	})
}

// testBoundaryBurst is what a fixed window gets wrong: a burst on both sides of its boundary.
func testBoundaryBurst(t *testing.T, w *world) {
	rate := Rate(t, "10-S")
	granted := 0
	w.Advance(800 * time.Millisecond)
	for range 40 { // 400 ms in steps of 10 ms, across a full second of the clock
		for range 5 {
			if !w.take("k", 1, rate).Reached {
				granted++
			}
		}
		w.Advance(10 * time.Millisecond)
	}
	if granted != 10 {
		t.Errorf("%d granted within 400 ms at 10-S", granted)
	}
}

func testReset(t *testing.T, w *world) {
	rate := Rate(t, "10-M")
	if got := w.take("k", 0, rate); got.Reset != w.Now().Unix() {
		t.Errorf("nothing is in use, and all is back at %d; it is %d", got.Reset, w.Now().Unix())
	}
	for range 10 {
		w.take("k", 1, rate)
		w.Advance(time.Second)
	}
	if got := w.take("k", 0, rate); got.Reset < w.Now().Unix()+59 || got.Reset > w.Now().Unix()+61 {
		t.Errorf("the last was taken a second ago, and is back at %d; it is %d", got.Reset, w.Now().Unix())
	}
	got := w.take("k", 3, rate)
	if !got.Reached || got.Remaining != 0 || got.Limit != 10 {
		t.Fatalf("the eleventh: %+v", got)
	}
	// At the second named, and not a second before, three are back.
	w.Advance(time.Duration(got.Reset-w.Now().Unix()-1) * time.Second)
	if got := w.take("k", 3, rate); !got.Reached {
		t.Errorf("three came back before the time that Reset gave")
	}
	w.Advance(time.Second)
	if got := w.take("k", 3, rate); got.Reached {
		t.Errorf("three are not back at the time that Reset gave: %+v", got)
	}
}

func testAllOrNothing(t *testing.T, w *world) {
	rate := Rate(t, "10-M")
	w.take("k", 7, rate)
	if got := w.take("k", 4, rate); !got.Reached || got.Remaining != 3 {
		t.Errorf("4 of 3: %+v; a refusal takes nothing", got)
	}
	if got := w.take("k", 3, rate); got.Reached || got.Remaining != 0 {
		t.Errorf("3 of 3: %+v", got)
	}
}

func testGiveBack(t *testing.T, w *world) {
	rate := Rate(t, "10-M")
	if got := w.take("k", -5, rate); got.Remaining != 10 || got.Reached {
		t.Errorf("giving back what was never taken: %+v", got)
	}
	w.take("k", 4, rate)
	w.Advance(30 * time.Second)
	w.take("k", 6, rate)
	if got := w.take("k", -2, rate); got.Remaining != 2 || got.Reached {
		t.Errorf("giving 2 back: %+v", got)
	}
	// The newest went back, so what was taken first is in use no longer than before.
	w.Advance(32 * time.Second)
	if got := w.take("k", 0, rate); got.Remaining != 6 {
		t.Errorf("62 s after the first four, 30 s after the others: %+v", got)
	}
	if got := w.take("k", -100, rate); got.Remaining != 10 {
		t.Errorf("giving back more than was taken: %+v", got)
	}
	if got := w.take("k", 11, rate); !got.Reached {
		t.Errorf("giving back lends nothing: %+v", got)
	}
}

func testMethods(t *testing.T, w *world) {
	ctx, rate := t.Context(), Rate(t, "10-M")
	w.take("k", 9, rate)
	if got, err := w.store.Peek(ctx, "k", rate); err != nil || got.Reached || got.Remaining != 1 {
		t.Errorf("Peek with one left: %+v, %v", got, err)
	}
	if got, err := w.store.Get(ctx, "k", rate); err != nil || got.Reached || got.Remaining != 0 {
		t.Errorf("Get of the last: %+v, %v", got, err)
	}
	if got, err := w.store.Peek(ctx, "k", rate); err != nil || !got.Reached {
		t.Errorf("Peek at a used up key: %+v, %v", got, err)
	}
	if got, err := w.store.Reset(ctx, "k", rate); err != nil || got.Remaining != 10 {
		t.Errorf("Reset: %+v, %v", got, err)
	}
	if got, err := w.store.Get(ctx, "k", rate); err != nil || got.Remaining != 9 {
		t.Errorf("Get after Reset: %+v, %v", got, err)
	}
	for _, bad := range []time.Duration{0, -time.Second} {
		if _, err := w.store.Get(ctx, "k", limiter.Rate{Limit: 1, Period: bad}); err == nil {
			t.Errorf("a rate with the period %s is taken", bad)
		}
	}
}

// testPeriodChanged proves that another rate for a role forgives nothing, and holds against nobody what is long over.
func testPeriodChanged(t *testing.T, w *world) {
	w.take("k", 10, Rate(t, "10-S"))
	if got := w.take("k", 1, Rate(t, "10-H")); !got.Reached {
		t.Errorf("a new period forgot what was used: %+v", got)
	}
	w.take("back", 10, Rate(t, "10-H"))
	if got := w.take("back", 1, Rate(t, "10-S")); !got.Reached {
		t.Errorf("a new period forgot what was used: %+v", got)
	}
	w.take("old", 10, Rate(t, "10-S"))
	w.Advance(2 * time.Second)
	if got := w.take("old", 10, Rate(t, "10-H")); got.Reached {
		t.Errorf("what was over under the old period counts anew: %+v", got)
	}
	// What was used counts as used when the period changed, also where nothing is granted then.
	w.take("long", 10, Rate(t, "10-H"))
	if got := w.take("long", 1, Rate(t, "10-S")); !got.Reached {
		t.Errorf("a new period forgot what was used: %+v", got)
	}
	w.Advance(1200 * time.Millisecond)
	if got := w.take("long", 10, Rate(t, "10-S")); got.Reached {
		t.Errorf("the old period holds on after the new one: %+v", got)
	}
}

func testLimitChanged(t *testing.T, w *world) {
	w.take("k", 10, Rate(t, "10-H"))
	if got := w.take("k", 1, Rate(t, "5-H")); !got.Reached || got.Remaining != 0 {
		t.Errorf("a lower limit: %+v", got)
	}
	if got := w.take("k", 5, Rate(t, "15-H")); got.Reached || got.Remaining != 0 {
		t.Errorf("a higher limit: %+v", got)
	}
	if got := w.take("none", 1, limiter.Rate{Limit: 0, Period: time.Hour}); !got.Reached {
		t.Errorf("a limit of none: %+v", got)
	}
	if got := w.take("none", 1, limiter.Rate{Limit: -3, Period: time.Hour}); !got.Reached || got.Remaining != 0 {
		t.Errorf("a negative limit: %+v", got)
	}
}

func testHugeNumbers(t *testing.T, w *world) {
	const most = 1<<63 - 1
	rate := limiter.Rate{Limit: most, Period: 24 * time.Hour}
	if got := w.take("k", most, rate); !got.Reached {
		t.Errorf("more than can be counted is granted: %+v", got)
	}
	if got := w.take("k", 4_000_000_000, rate); got.Reached {
		t.Errorf("4e9 of a huge limit: %+v", got)
	}
	if got := w.take("k", 4_000_000_000, rate); !got.Reached {
		t.Errorf("a count that would overflow is granted: %+v", got)
	}
	if got := w.take("k", -most-1, rate); got.Reached || got.Remaining != got.Limit {
		t.Errorf("giving back a huge number: %+v", got)
	}
}

// testKeys proves that keys are told apart whatever is in them.
func testKeys(t *testing.T, w *world) {
	rate := Rate(t, "1-H")
	for _, key := range []string{"", "a", "A", "a:", ":a", "a b", "a\r\nb", "a\x00", "{a}", "{b}a", "login:2001:db8::/64", "é", "\xff", "*",
		strings.Repeat("x", 100_000), strings.Repeat("x", 100_001)} {
		if got := w.take(key, 1, rate); got.Reached {
			t.Errorf("the first of %.20q is refused: %+v", key, got)
		}
		if got := w.take(key, 1, rate); !got.Reached {
			t.Errorf("the second of %.20q is granted: %+v", key, got)
		}
	}
}

func testClockBackwards(t *testing.T, w *world) {
	rate := Rate(t, "10-M")
	w.Advance(time.Hour)
	w.take("k", 10, rate)
	w.Advance(-30 * time.Minute)
	if got := w.take("k", 1, rate); !got.Reached {
		t.Error("a clock that goes backwards frees what was used")
	}
	w.Advance(30*time.Minute + 62*time.Second)
	if got := w.take("k", 10, rate); got.Reached {
		t.Errorf("nothing comes back after a clock went backwards: %+v", got)
	}
}

func testConcurrent(t *testing.T, w *world) {
	rate := Rate(t, "1000-H")
	var granted atomic.Int64
	done := make(chan error, 8)
	for range 8 {
		go func() {
			for range 250 {
				c, err := w.store.Increment(t.Context(), "k", 1, rate)
				if err != nil {
					done <- err
					return
				}
				if !c.Reached {
					granted.Add(1)
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if granted.Load() != 1000 {
		t.Errorf("%d granted of 2000 tries at 1000-H", granted.Load())
	}
}
