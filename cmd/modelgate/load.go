package main

import (
	"context"
	"errors"
	"maps"
	"math/bits"
	"net/http"
	"sync"
	"time"

	"modelgate/client"
)

// load sends the same request from many callers, who each wait for the answer
// before they ask again. It does what the server's Retry-After says.
type load struct {
	send func(context.Context) error

	mu    sync.Mutex
	until time.Time // nobody asks before; guarded by mu
	fatal error     // what ends the sweep; guarded by mu
}

// failure is how often the server refused for one reason, and its first words.
type failure struct {
	Count  int64  `json:"count"`
	Detail string `json:"detail,omitempty"`
}

// tally is what one caller, or all of a level, saw.
type tally struct {
	times    latencies
	failures map[string]failure // by code; "connection" where no answer came
}

// maxCodes bounds the reasons that are told apart.
const maxCodes = 32

func (t *tally) fail(code, detail string, n int64) {
	f, known := t.failures[code]
	if !known && len(t.failures) >= maxCodes {
		code = "other"
		f = t.failures[code]
	}
	if f.Detail == "" {
		f.Detail = detail
	}
	f.Count += n
	t.failures[code] = f
}

// level runs callers for warmup and then for duration, of which it returns the
// tally and the time that was really measured. It ends early with ctx, and on
// a refusal that would only repeat itself.
func (l *load) level(ctx context.Context, callers int, warmup, duration time.Duration) (*tally, time.Duration) {
	from := time.Now().Add(warmup)
	end := from.Add(duration)
	tallies := make([]tally, callers)
	var group sync.WaitGroup
	for i := range tallies {
		tallies[i].failures = map[string]failure{}
		group.Go(func() { l.call(ctx, &tallies[i], from, end) })
	}
	group.Wait()
	elapsed := max(0, time.Since(from))
	all := &tallies[0]
	for i := range tallies[1:] {
		all.times.add(&tallies[i+1].times)
		for code, f := range maps.All(tallies[i+1].failures) {
			all.fail(code, f.Detail, f.Count)
		}
	}
	return all, elapsed
}

// call is one caller.
func (l *load) call(ctx context.Context, t *tally, from, end time.Time) {
	for l.wait(ctx, end) {
		start := time.Now()
		err := l.send(ctx)
		took := time.Since(start)
		measured := !start.Before(from)
		if err == nil {
			if measured {
				t.times.record(took)
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		code, detail, pause := l.judge(err)
		if measured || code == "rate_limited" { // a rate may be used up before the warm-up ends
			t.fail(code, detail, 1)
		}
		if !sleep(ctx, min(pause, time.Until(end))) {
			return
		}
	}
}

// judge names a refusal, and says how long this caller waits. What holds for
// all callers it notes in l.
func (l *load) judge(err error) (code, detail string, pause time.Duration) {
	var refused *client.Error
	if !errors.As(err, &refused) {
		return "connection", err.Error(), 100 * time.Millisecond // don't spin on a server that is gone
	}
	if code = refused.Code; code == "" {
		code = http.StatusText(refused.Status)
	}
	switch {
	case refused.Status == http.StatusTooManyRequests:
		code = "rate_limited"
		l.mu.Lock()
		if until := time.Now().Add(max(refused.RetryAfter, time.Second)); until.After(l.until) {
			l.until = until // the rate is the user's, so all of his callers wait
		}
		l.mu.Unlock()
	case refused.Status < 500 && refused.Status != http.StatusRequestTimeout:
		l.mu.Lock()
		l.fatal = err
		l.mu.Unlock()
	default:
		pause = refused.RetryAfter
	}
	return code, refused.Detail, pause
}

// wait returns when a caller may ask, or false when the level has ended.
func (l *load) wait(ctx context.Context, end time.Time) bool {
	for {
		l.mu.Lock()
		until, fatal := l.until, l.fatal
		l.mu.Unlock()
		now := time.Now()
		switch {
		case fatal != nil || ctx.Err() != nil || !now.Before(end) || !until.Before(end):
			return false
		case !now.Before(until):
			return true
		}
		if !sleep(ctx, until.Sub(now)) {
			return false
		}
	}
}

// pending is how long the server wants nobody to ask, and what ended the sweep.
func (l *load) pending() (time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.until), l.fatal
}

// sleep returns false when ctx ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// latencies counts times in buckets that are at most 1/64 wide of what they
// hold, so that an hour of load takes no more memory than a second. The scheme
// is that of HdrHistogram: a power of two, cut into equal parts.
type latencies struct {
	buckets [64 * (41 - 6)]uint64 // microseconds, up to 2^40
	n       uint64
	longest time.Duration
}

func (h *latencies) record(d time.Duration) {
	us := uint64(min(max(d.Microseconds(), 0), 1<<40-1))
	h.buckets[bucketOf(us)]++
	h.n++
	h.longest = max(h.longest, d)
}

// bucketOf keeps seven leading bits: 64 buckets for each power of two.
func bucketOf(us uint64) int {
	shift := max(0, bits.Len64(us)-7)
	return shift*64 + int(us>>shift)
}

// startOf is the smallest time of a bucket in microseconds.
func startOf(bucket int) uint64 {
	if bucket < 128 {
		return uint64(bucket)
	}
	shift := bucket/64 - 1
	return uint64(bucket-shift*64) << shift
}

func (h *latencies) add(other *latencies) {
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.n += other.n
	h.longest = max(h.longest, other.longest)
}

// quantile is the time within which the part q of all calls was answered,
// rounded up to the end of its bucket; 0 when there were none.
func (h *latencies) quantile(q float64) time.Duration {
	rank, seen := uint64(q*float64(h.n)+0.999999), uint64(0)
	for i, n := range h.buckets {
		if seen += n; n > 0 && seen >= rank {
			return min(time.Duration(startOf(i+1))*time.Microsecond, h.longest)
		}
	}
	return h.longest
}
