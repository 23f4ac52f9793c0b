package api

import (
	"context"
	"errors"
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/ulule/limiter/v3"
)

// Sliding is a limiter.Store in this process's memory with a true window:
// within any stretch of time as long as the rate's period, wherever it begins,
// never more than the limit is granted.
//
// A period is cut into 60 slots. What was granted in a slot counts until the
// whole slot is older than the period, so a unit comes back between one period
// and one period and a sixtieth after it was taken: the error is at most
// 1/60 of the period, always towards refusing.
//
// Increment takes all of its count or nothing; what is refused is not counted.
// A negative count gives back. Context.Reset is the Unix second at which a
// refused count would be granted, else the one at which all units are back.
//
// Memory is bounded by a number of keys. Expired keys make room first. When
// none is found, further keys share one window per class (what stands before
// ':' in the key) and period: a flood of new keys can neither push out the
// counters of others nor get past a limit, it is limited as if it were one
// caller, and so are newcomers of its class until windows expire.
//
// All methods are safe for concurrent use. A call costs about 100 ns and
// allocates for a new key only.
type Sliding struct {
	now    func() time.Time // nil: the monotonic clock
	base   time.Time
	seed   maphash.Seed
	keys   int // windows per shard
	shards [slidingShards]slidingShard
}

const (
	slidingSlots  = 60
	slidingShards = 32
	// defaultKeys windows are about 30 MB.
	defaultKeys = 100_000
)

type slidingShard struct {
	mu      sync.Mutex
	windows map[string]*window // guarded by mu
	_       [48]byte           // keeps the locks of neighbours off one cache line
}

// window is one key's ring. Slot numbers count from the store's base.
type window struct {
	period int64 // nanoseconds
	head   int64 // newest slot of the ring
	used   uint32
	slots  [slidingSlots + 1]uint32
}

// NewSliding returns an empty store for at most keys keys; 0: 100,000. now may
// be nil.
func NewSliding(keys int, now func() time.Time) *Sliding {
	if keys <= 0 {
		keys = defaultKeys
	}
	s := &Sliding{now: now, seed: maphash.MakeSeed(), keys: max(1, keys/slidingShards)}
	s.base = time.Now()
	if now != nil {
		s.base = now()
	}
	for i := range s.shards {
		s.shards[i].windows = make(map[string]*window)
	}
	return s
}

var errRate = errors.New("a rate needs a positive period")

// Get takes one unit.
func (s *Sliding) Get(ctx context.Context, key string, rate limiter.Rate) (limiter.Context, error) {
	return s.Increment(ctx, key, 1, rate)
}

// Peek takes nothing; Reached says that no unit is left.
func (s *Sliding) Peek(ctx context.Context, key string, rate limiter.Rate) (limiter.Context, error) {
	c, err := s.Increment(ctx, key, 0, rate)
	c.Reached = c.Remaining == 0
	return c, err
}

// Reset forgets the key.
func (s *Sliding) Reset(_ context.Context, key string, rate limiter.Rate) (limiter.Context, error) {
	sh := s.shard(key)
	sh.mu.Lock()
	delete(sh.windows, key)
	sh.mu.Unlock()
	limit := slidingLimit(rate)
	return limiter.Context{Limit: limit, Remaining: limit, Reset: s.unix(s.elapsed())}, nil
}

// Increment takes count units, or none and Reached is true.
func (s *Sliding) Increment(_ context.Context, key string, count int64, rate limiter.Rate) (limiter.Context, error) {
	if rate.Period <= 0 {
		return limiter.Context{}, errRate
	}
	width := slotWidth(rate.Period)
	limit := slidingLimit(rate)
	sh := s.shard(key)
	elapsed := s.elapsed()

	sh.mu.Lock()
	defer sh.mu.Unlock()
	w := sh.windows[key]
	if w == nil {
		if count <= 0 {
			return limiter.Context{Limit: limit, Remaining: limit, Reset: s.unix(elapsed)}, nil
		}
		w = s.insert(sh, key, rate.Period, elapsed)
	}
	if w.period != int64(rate.Period) {
		w.advance(elapsed / slotWidth(time.Duration(w.period)))
		w.rescale(int64(rate.Period), elapsed/width)
	}
	w.advance(elapsed / width)

	c := limiter.Context{Limit: limit}
	switch {
	case count < 0:
		w.giveBack(-max(count, -math.MaxInt64))
	case count > limit-int64(w.used):
		c.Reached = true
	default:
		w.used += uint32(count)
		w.slots[w.head%int64(len(w.slots))] += uint32(count)
	}
	c.Remaining = max(0, limit-int64(w.used))
	if c.Reached {
		c.Reset = s.unix(w.freeAt(count-(limit-int64(w.used))) * width)
	} else {
		c.Reset = s.unix(w.freeAt(int64(w.used)) * width)
	}
	return c, nil
}

// insert makes a window for a new key, or returns the shared one of its class
// when the shard is full. sh.mu is held.
func (s *Sliding) insert(sh *slidingShard, key string, period time.Duration, elapsed int64) *window {
	full := len(sh.windows) >= s.keys
	// Every new key pays for looking at a few old ones, so that expired windows
	// go without a background job. Iteration starts at a random place.
	look := 2
	if full {
		look = 32
	}
	for k, w := range sh.windows {
		if elapsed/slotWidth(time.Duration(w.period))-w.head > slidingSlots {
			delete(sh.windows, k)
			full = false
		}
		if look--; look == 0 {
			break
		}
	}
	if full {
		class, _, found := strings.Cut(key, ":")
		if !found {
			class = ""
		}
		key = "\x00" + class + ":" + period.String()
		if w := sh.windows[key]; w != nil {
			return w
		}
	}
	w := &window{period: int64(period), head: elapsed / slotWidth(period)}
	sh.windows[strings.Clone(key)] = w
	return w
}

func (s *Sliding) shard(key string) *slidingShard {
	return &s.shards[maphash.String(s.seed, key)%slidingShards]
}

// elapsed is nanoseconds since base.
func (s *Sliding) elapsed() int64 {
	if s.now == nil {
		return int64(time.Since(s.base))
	}
	return max(0, int64(s.now().Sub(s.base)))
}

// unix is the Unix second by which elapsed has passed.
func (s *Sliding) unix(elapsed int64) int64 {
	return (s.base.UnixNano() + elapsed + int64(time.Second) - 1) / int64(time.Second)
}

// slotWidth is rounded up, so that 60 slots are never shorter than the period.
func slotWidth(period time.Duration) int64 {
	return (int64(period) + slidingSlots - 1) / slidingSlots
}

func slidingLimit(rate limiter.Rate) int64 { return min(max(rate.Limit, 0), math.MaxUint32) }

// advance moves the ring to slot now and drops what is too old. A clock that
// went backwards does nothing.
func (w *window) advance(now int64) {
	if now-w.head > slidingSlots {
		w.slots, w.used, w.head = [slidingSlots + 1]uint32{}, 0, now
		return
	}
	for w.head < now {
		w.head++
		old := &w.slots[w.head%int64(len(w.slots))]
		w.used -= *old
		*old = 0
	}
}

// rescale is for a key whose rate has another period than before: what was
// used counts as used just now.
func (w *window) rescale(period, now int64) {
	w.period, w.head = period, now
	w.slots = [slidingSlots + 1]uint32{}
	w.slots[now%int64(len(w.slots))] = w.used
}

// giveBack takes up to n units out, the newest first.
func (w *window) giveBack(n int64) {
	for slot := w.head; slot > w.head-int64(len(w.slots)) && slot >= 0 && n > 0; slot-- {
		at := &w.slots[slot%int64(len(w.slots))]
		back := uint32(min(n, int64(*at)))
		*at -= back
		w.used -= back
		n -= int64(back)
	}
}

// freeAt returns the slot at whose start at least need units have come back.
func (w *window) freeAt(need int64) int64 {
	if need <= 0 {
		return w.head
	}
	for slot := max(0, w.head-slidingSlots); slot <= w.head; slot++ {
		if n := int64(w.slots[slot%int64(len(w.slots))]); n > 0 {
			if need -= n; need <= 0 {
				return slot + slidingSlots + 1
			}
		}
	}
	return w.head + slidingSlots + 1
}
