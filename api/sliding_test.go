package api

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulule/limiter/v3"
	"pgregory.net/rapid"
)

// clock is a hand-set time.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.at.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

func hit(t testing.TB, s *Sliding, key string, n int64, rate limiter.Rate) limiter.Context {
	t.Helper()
	c, err := s.Increment(context.Background(), key, n, rate)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rateFrom(t testing.TB, text string) limiter.Rate {
	t.Helper()
	r, err := parseRate(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestSlidingWindow holds the store against a list of all that was granted:
// never more than the limit within one period, wherever it begins, and never a
// refusal that a window longer by a sixtieth does not explain.
func TestSlidingWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		s := NewSliding(0, c.now)
		rate := limiter.Rate{
			Limit:  rapid.Int64Range(1, 50).Draw(t, "limit"),
			Period: rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 7 * time.Millisecond, 61*time.Microsecond + 1}).Draw(t, "period"),
		}
		type grant struct{ at, n int64 }
		var grants []grant
		within := func(d time.Duration) (sum int64) {
			for _, g := range grants {
				if c.at.Load()-g.at < int64(d) {
					sum += g.n
				}
			}
			return sum
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			c.advance(time.Duration(rapid.Int64Range(0, int64(rate.Period)/3+1).Draw(t, "step")))
			n := rapid.Int64Range(1, rate.Limit+1).Draw(t, "count")
			got, err := s.Increment(context.Background(), "k", n, rate)
			if err != nil {
				t.Fatal(err)
			}
			slack := rate.Period + 2*time.Duration(slotWidth(rate.Period))
			if got.Reached {
				if within(slack)+n <= rate.Limit {
					t.Fatalf("refused %d with %d granted in the last period and two slots, limit %d", n, within(slack), rate.Limit)
				}
				continue
			}
			grants = append(grants, grant{c.at.Load(), n})
			if sum := within(rate.Period); sum > rate.Limit {
				t.Fatalf("%d granted within one period, limit %d", sum, rate.Limit)
			}
			if got.Remaining != rate.Limit-within(rate.Period) && got.Remaining < rate.Limit-within(slack) {
				t.Fatalf("remaining %d, but %d are in use", got.Remaining, within(slack))
			}
		}
	})
}

// TestSlidingBoundaryBurst is what a fixed window gets wrong: a burst on both
// sides of its boundary.
func TestSlidingBoundaryBurst(t *testing.T) {
	c := newClock()
	s := NewSliding(0, c.now)
	rate := rateFrom(t, "10-S")
	granted := 0
	for range 40 { // 400 ms in steps of 10 ms, across a full second of the clock
		for range 5 {
			if !hit(t, s, "k", 1, rate).Reached {
				granted++
			}
		}
		c.advance(10 * time.Millisecond)
	}
	if granted != 10 {
		t.Errorf("%d granted within 400 ms at 10-S", granted)
	}
}

func TestSlidingReset(t *testing.T) {
	c := newClock()
	s := NewSliding(0, c.now)
	rate := rateFrom(t, "10-M")
	for range 10 {
		hit(t, s, "k", 1, rate)
		c.advance(time.Second)
	}
	got := hit(t, s, "k", 3, rate)
	if !got.Reached || got.Remaining != 0 || got.Limit != 10 {
		t.Fatalf("the eleventh: %+v", got)
	}
	// At the second named, and not a slot before, three are back.
	c.advance(time.Duration(got.Reset-c.now().Unix()-1) * time.Second)
	if got := hit(t, s, "k", 3, rate); !got.Reached {
		t.Errorf("three came back before the time that Reset gave")
	}
	c.advance(time.Second)
	if got := hit(t, s, "k", 3, rate); got.Reached {
		t.Errorf("three are not back at the time that Reset gave: %+v", got)
	}
}

func TestSlidingAllOrNothing(t *testing.T) {
	s := NewSliding(0, newClock().now)
	rate := rateFrom(t, "10-M")
	hit(t, s, "k", 7, rate)
	if got := hit(t, s, "k", 4, rate); !got.Reached || got.Remaining != 3 {
		t.Errorf("4 of 3: %+v; a refusal takes nothing", got)
	}
	if got := hit(t, s, "k", 3, rate); got.Reached || got.Remaining != 0 {
		t.Errorf("3 of 3: %+v", got)
	}
	if got := hit(t, s, "k", -2, rate); got.Remaining != 2 {
		t.Errorf("giving 2 back: %+v", got)
	}
	if got := hit(t, s, "k", -100, rate); got.Remaining != 10 {
		t.Errorf("giving back more than was taken: %+v", got)
	}
	if got := hit(t, s, "other", 10, rate); got.Reached {
		t.Error("keys share a window")
	}
	ctx := context.Background()
	if got, err := s.Peek(ctx, "other", rate); err != nil || !got.Reached {
		t.Errorf("Peek at a used up key: %+v, %v", got, err)
	}
	if got, err := s.Reset(ctx, "other", rate); err != nil || got.Remaining != 10 {
		t.Errorf("Reset: %+v, %v", got, err)
	}
	if got, err := s.Get(ctx, "other", rate); err != nil || got.Remaining != 9 {
		t.Errorf("Get after Reset: %+v, %v", got, err)
	}
	if _, err := s.Get(ctx, "k", limiter.Rate{Limit: 1}); err == nil {
		t.Error("a rate without period is taken")
	}
}

// TestSlidingPeriodChanged proves that another rate for a role forgives nothing.
func TestSlidingPeriodChanged(t *testing.T) {
	s := NewSliding(0, newClock().now)
	hit(t, s, "k", 10, rateFrom(t, "10-S"))
	if got := hit(t, s, "k", 1, rateFrom(t, "10-H")); !got.Reached {
		t.Errorf("a new period forgot what was used: %+v", got)
	}
	if got := hit(t, s, "k", 1, rateFrom(t, "5-H")); !got.Reached || got.Remaining != 0 {
		t.Errorf("a lower limit: %+v", got)
	}
}

func TestSlidingConcurrent(t *testing.T) {
	s := NewSliding(0, nil)
	rate := rateFrom(t, "1000-H")
	var granted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				if c, err := s.Increment(context.Background(), "k", 1, rate); err == nil && !c.Reached {
					granted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if granted.Load() != 1000 {
		t.Errorf("%d granted of 4000 tries at 1000-H", granted.Load())
	}
}

// TestSlidingBounded floods the store with keys: memory stays bounded, whoever
// was counted before stays counted, and newcomers are still limited.
func TestSlidingBounded(t *testing.T) {
	c := newClock()
	s := NewSliding(slidingShards*10, c.now)
	rate := rateFrom(t, "10-M")
	hit(t, s, "login:first", 10, rate)
	granted := 0
	for i := range 20_000 {
		if !hit(t, s, fmt.Sprintf("login:%d", i), 1, rate).Reached {
			granted++
		}
	}
	windows := 0
	for i := range s.shards {
		windows += len(s.shards[i].windows)
	}
	if windows > slidingShards*11 {
		t.Errorf("%d windows for a capacity of %d", windows, slidingShards*10)
	}
	if most := slidingShards * (10 + 10); granted > most {
		t.Errorf("%d of 20000 new keys were let through, at most %d may", granted, most)
	}
	if got := hit(t, s, "login:first", 1, rate); !got.Reached {
		t.Error("a flood of keys pushed out another's counter")
	}
	if got := hit(t, s, "user", 1, rate); got.Reached {
		t.Error("a flood of one class used up another's allowance")
	}
	// Once windows expire, new keys have their own again.
	c.advance(2 * time.Minute)
	for i := range 30 {
		hit(t, s, fmt.Sprintf("login:late-%d", i), 1, rate)
	}
	if got := hit(t, s, "login:late", 10, rate); got.Reached {
		t.Errorf("expired windows make no room: %+v", got)
	}
}

func TestSlidingClockBackwards(t *testing.T) {
	c := newClock()
	s := NewSliding(0, c.now)
	rate := rateFrom(t, "10-M")
	c.advance(time.Hour)
	hit(t, s, "k", 10, rate)
	c.advance(-30 * time.Minute)
	if got := hit(t, s, "k", 1, rate); !got.Reached {
		t.Error("a clock that goes backwards frees what was used")
	}
}

func TestSlidingAllocatesNothing(t *testing.T) {
	s := NewSliding(0, nil)
	rate := rateFrom(t, "1000000-M")
	hit(t, s, "k", 1, rate)
	if n := testing.AllocsPerRun(1000, func() { hit(t, s, "k", 1, rate) }); n != 0 {
		t.Errorf("%v allocations per hit", n)
	}
}

func BenchmarkSliding(b *testing.B) {
	s := NewSliding(0, nil)
	rate := rateFrom(b, "1000000-S")
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprintf("0123456789abcdef-%d", i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		_, _ = s.Increment(context.Background(), keys[i%len(keys)], 1, rate)
		i++
	}
}
