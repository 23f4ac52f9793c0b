package inference

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/models"
)

// Duration counts events of one kind and the time they took together.
type Duration struct {
	Count uint64
	Time  time.Duration
}

// Statistics are what one version has done since the server started, for all
// callers together.
type Statistics struct {
	Last       time.Time // end of the last good prediction; zero: there was none
	Rows       uint64    // of good predictions
	Executions uint64    // runs of the model

	Success, Fail Duration // predictions, from their decoding to their answer
	Queue         Duration // waits for a slot
	Decode        Duration // inputs, from bytes to tensors
	Run           Duration // in the runtime
	Disclose      Duration // outputs, filtered and rounded
}

// timing is a Duration that is being counted.
type timing struct{ count, nanos atomic.Uint64 }

func (t *timing) add(d time.Duration) {
	t.count.Add(1)
	t.nanos.Add(uint64(max(d, 0)))
}

func (t *timing) read() Duration {
	return Duration{t.count.Load(), time.Duration(t.nanos.Load())}
}

// tally is one version's Statistics as they are counted.
type tally struct {
	last                                        atomic.Int64 // Unix milliseconds
	rows                                        atomic.Uint64
	success, fail, queue, decode, run, disclose timing
}

// timed observes a histogram and a timing alike.
type timed struct {
	prometheus.Observer
	to *timing
}

func (t timed) Observe(seconds float64) {
	t.Observer.Observe(seconds)
	t.to.add(time.Duration(seconds * float64(time.Second)))
}

// done counts a prediction that took d until now.
func (t *tally) done(result *Result, d time.Duration, now time.Time) {
	if result == nil {
		t.fail.add(d)
		return
	}
	t.rows.Add(uint64(result.Rows))
	t.success.add(d)
	t.last.Store(now.UnixMilli())
}

func (t *tally) read() Statistics {
	s := Statistics{Rows: t.rows.Load(), Success: t.success.read(), Fail: t.fail.read(), Queue: t.queue.read(),
		Decode: t.decode.read(), Run: t.run.read(), Disclose: t.disclose.read()}
	s.Executions = s.Run.Count
	if ms := t.last.Load(); ms > 0 {
		s.Last = time.UnixMilli(ms)
	}
	return s
}

// tallies are those of all versions that were ever loaded and not deleted.
type tallies struct {
	mu  sync.Mutex
	all map[string]*tally // by version id; guarded by mu
}

// of returns a version's, made at need.
func (t *tallies) of(versionID string) *tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = map[string]*tally{}
	}
	if t.all[versionID] == nil {
		t.all[versionID] = new(tally)
	}
	return t.all[versionID]
}

func (t *tallies) read(versionID string) Statistics {
	t.mu.Lock()
	defer t.mu.Unlock()
	if counted := t.all[versionID]; counted != nil {
		return counted.read()
	}
	return Statistics{}
}

func (t *tallies) drop(versionID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, versionID)
}

// Statistics tells what a version has done in this process. Who may know is
// asked by the caller.
func (s *Service) Statistics(v *models.Version) Statistics { return s.metrics.tallies.read(v.ID) }
