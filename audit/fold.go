package audit

import (
	"strconv"
	"sync"
	"time"
)

const (
	maxFolds   = 8192  // denials that are folded at once; beyond it each is a record
	maxTallies = 65536 // users x versions counted at once; beyond it one common count
)

// foldKey is what makes two denials alike.
type foldKey struct {
	actor, action, target, reason, address string
	outcome                                Outcome
}

func foldKeyOf(e *Entry) foldKey {
	return foldKey{e.Actor, e.Action, e.Target, e.Reason, e.Address, e.Outcome}
}

// fold counts the likes of a record that was written.
type fold struct {
	since time.Time // of the first, which was written
	last  Entry     // the newest of those counted
	n     int64     // counted and not yet written
}

// folds holds repeated denials until their window ends.
type folds struct {
	mu sync.Mutex
	m  map[foldKey]*fold // guarded by mu
}

// add counts e if its like was written within the window. If the window has
// ended, it gives back the record of those counted, which must be written or
// restored.
func (f *folds) add(key foldKey, e Entry, now time.Time, window time.Duration) (ended *Entry, folded bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.m[key]
	if d == nil {
		return nil, false
	}
	if age := now.Sub(d.since); age >= 0 && age < window {
		d.last = e
		d.n += e.Count
		return nil, true
	}
	delete(f.m, key)
	return d.entry(), false
}

// start begins a window: e was written.
func (f *folds) start(key foldKey, e Entry, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m[key] == nil && len(f.m) < maxFolds {
		f.m[key] = &fold{since: now, last: e}
	}
}

// take removes the folds whose window has ended and returns their records.
func (f *folds) take(now time.Time, window time.Duration, all bool) []*Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	var entries []*Entry
	for key, d := range f.m {
		if age := now.Sub(d.since); !all && age >= 0 && age < window {
			continue
		}
		delete(f.m, key)
		if e := d.entry(); e != nil {
			entries = append(entries, e)
		}
	}
	return entries
}

// restore takes back a record of counts that could not be written. The zero
// since makes it due at once.
func (f *folds) restore(e *Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := foldKeyOf(e)
	if d := f.m[key]; d != nil {
		d.n += e.Count
		return
	}
	f.m[key] = &fold{last: *e, n: e.Count}
}

func (d *fold) entry() *Entry {
	if d.n == 0 {
		return nil
	}
	e := d.last
	e.Count = d.n
	return &e
}

// tallyKey is what predictions are counted by.
type tallyKey struct {
	userID, model string
	version       int
}

type tally struct {
	username    string
	calls, rows int64
}

// tallies counts predictions until the next flush.
type tallies struct {
	mu   sync.Mutex
	m    map[tallyKey]*tally // guarded by mu
	full chan struct{}       // wakes Run when m is full
}

// CountPrediction notes a prediction that was answered. It does not wait for
// the disk: one record per user, version and fold window follows, with the
// number of calls as Count and the rows in Detail.
func (l *Log) CountPrediction(userID, username, model string, version int, rows int) {
	t := &l.tallies
	key := tallyKey{userID, model, version}
	t.mu.Lock()
	c := t.m[key]
	if c == nil {
		if len(t.m) >= maxTallies {
			select {
			case t.full <- struct{}{}:
			default:
			}
			key, username = tallyKey{}, "(others)"
		}
		if c = t.m[key]; c == nil {
			c = &tally{username: username}
			t.m[key] = c
		}
	}
	c.calls++
	c.rows += int64(rows)
	t.mu.Unlock()
}

func (t *tallies) take() map[tallyKey]*tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.m) == 0 {
		return nil
	}
	m := t.m
	t.m = make(map[tallyKey]*tally)
	return m
}

func (t *tallies) restore(m map[tallyKey]*tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, c := range m {
		if now := t.m[k]; now != nil {
			now.calls += c.calls
			now.rows += c.rows
		} else if len(t.m) < 2*maxTallies {
			t.m[k] = c
		}
	}
}

func (c *tally) entry(k tallyKey) *Entry {
	e := clean(Entry{
		Actor: c.username, ActorID: k.userID, Action: "model.predict", Target: k.model,
		Outcome: Allowed, Count: c.calls,
		Detail: map[string]string{"rows": strconv.FormatInt(c.rows, 10), "version": strconv.Itoa(k.version)},
	})
	return &e
}
