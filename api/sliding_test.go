package api

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulule/limiter/v3"

	"modelgate/store/ratetest"
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

// TestSlidingWindow runs the suite of all stores of rates.
func TestSlidingWindow(t *testing.T) {
	ratetest.RunTests(t, func(_ *testing.T, now func() time.Time) limiter.Store { return NewSliding(0, now) })
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
