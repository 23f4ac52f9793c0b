package inference

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"modelgate/auth"
	"modelgate/models"
)

// A session may be lost at any moment: its process crashes, is killed, or has
// to be ended because it does not answer. What follows:
//
//   - The entry leaves the pool, and the next request loads the version anew: at
//     once after the first loss, after a backoff when it is lost again and
//     again.
//   - Of the runs, those inside fail, and those that had not begun run again on
//     the new session.
//   - Each loss is a crash on the version's record, with the callers whose runs
//     were inside. After aloneFrom crashes the runs of the version go one at a
//     time, so that the next crash has one caller to blame.
//   - A caller who alone was inside for blameAfter crashes is refused on this
//     version for a while, and what he had a part in is struck from the record.
//     So nobody takes a model from others by what he sends.
//   - quarantineAfter crashes that are not struck put the version out of
//     service. Of those that one caller alone may be to blame for, the first
//     counts.
const (
	crashWindow     = 10 * time.Minute // older crashes are forgotten
	quarantineAfter = 5
	blameAfter      = 3
	aloneFrom       = 2
	refuseFor       = 10 * time.Minute
	// steady is how long a session must have lived for its loss to be a first
	// one again.
	steady = time.Minute
	// overdueFor is how long a run that was told to end may go on inside, before
	// its process is ended for it.
	overdueFor  = 5 * time.Second
	maxRefused  = 1024
	maxSuspects = 16
	maxCrashes  = 16 // of a record
	// reruns is how many sessions a run may lose before it began in any.
	reruns = 3
)

// crashClasses are the first words of a Crash's reason, as the metrics know
// them. "killed" stands for the reason "signal: killed", and "load" for all that
// ended a load.
var crashClasses = []string{"killed", "signal", "deadline", "memory", "liar", "exit", "load"}

// class is the reason as the metrics know it.
func (c *Crash) class() string {
	word, _, _ := strings.Cut(c.Reason, ":")
	switch {
	case c.Reason == "signal: killed":
		return "killed"
	case slices.Contains(crashClasses, word):
		return word
	}
	return "exit"
}

// errLost is for the service alone: the session was lost before the run began.
var errLost = errors.New("inference: the session was lost before the run began")

// errTooBig is for callers of a model that can't be loaded for want of memory.
var errTooBig = ErrUnavailable.With("loading this model takes more memory than this server gives a model; tell its owner, or the operator").
	After(30 * time.Second)

// errCaller tells a caller that his inputs end the model's process.
var errCaller = ErrUnavailable.With(fmt.Sprintf("this model's process ended %d times while it computed for you alone, so this version is closed to you "+
	"for %d minutes; tell the model's owner which inputs did it, and send others then", blameAfter, refuseFor/time.Minute))

// crash is one loss on a version's record.
type crash struct {
	at      time.Time
	reason  string
	callers []string // who may be to blame, at most maxSuspects; empty: nobody
}

// record is what became of a version's sessions lately. Guarded by pool.mu, but
// for alone.
type record struct {
	alone     atomic.Bool // runs go one at a time
	crashes   []crash     // of the last crashWindow, oldest first; at most maxCrashes
	streak    int         // losses in a row, of sessions that did not live for steady
	lostAt    time.Time   // the last of them
	retryAt   time.Time   // not loaded again before it
	down      bool        // lost and not loaded again since
	condemned bool        // being put out of service
}

// blank reports whether there is nothing to remember.
func (r *record) blank() bool { return len(r.crashes) == 0 && r.streak == 0 && !r.condemned }

// expire forgets crashes that are too old.
func (r *record) expire(now time.Time) {
	r.crashes = slices.DeleteFunc(r.crashes, func(c crash) bool { return now.Sub(c.at) >= crashWindow })
	r.alone.Store(len(r.crashes) >= aloneFrom)
}

// blamed is how many crashes happened while nobody but the caller was inside.
func (r *record) blamed(caller string) (n int) {
	for _, c := range r.crashes {
		if len(c.callers) == 1 && c.callers[0] == caller {
			n++
		}
	}
	return n
}

// weight is how many crashes speak against the version: those of one caller
// alone count as one.
func (r *record) weight() (n int) {
	var counted []string
	for _, c := range r.crashes {
		if len(c.callers) == 1 {
			if slices.Contains(counted, c.callers[0]) {
				continue
			}
			counted = append(counted, c.callers[0])
		}
		n++
	}
	return n
}

// strike forgets the crashes that a caller had a part in.
func (r *record) strike(caller string) {
	r.crashes = slices.DeleteFunc(r.crashes, func(c crash) bool { return slices.Contains(c.callers, caller) })
}

// loss is how an entry was lost, and who may be to blame. Guarded by pool.mu.
type loss struct {
	crash   *Crash // nil: it was not
	at      time.Time
	inside  []string    // callers of runs that were inside
	overdue []departure // who left runs behind that may have gone on inside
	judged  bool
}

// departure is a caller whose run was told to end.
type departure struct {
	caller string
	at     time.Time
}

// suspects are the callers who may be to blame. For a process that was ended
// because a run did not end when it was told to, that is who had sent this run.
func (l *loss) suspects() []string {
	var left []string
	for _, d := range l.overdue {
		if l.at.Sub(d.at) < overdueFor && !slices.Contains(left, d.caller) {
			left = append(left, d.caller)
		}
	}
	if len(l.inside) == 0 || l.crash.class() == "deadline" && len(left) > 0 {
		return left
	}
	return l.inside
}

// run is Session.Run for these callers, of which the pool keeps account in case
// the session is lost.
func (p *pool) run(ctx context.Context, e *entry, in []Tensor, want []int, callers ...string) ([]Value, error) {
	e.running.Add(1)
	defer p.ran(e)
	values, err := e.session.Run(ctx, in, want)
	if err != nil {
		p.fell(ctx, e, err, callers)
	}
	return values, err
}

// ran ends a run. Once the last one is out of a lost session, all that were
// inside are known.
func (p *pool) ran(e *entry) {
	if e.running.Add(-1) > 0 || !e.lost.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judge(e)
}

// fell notes what a run that failed says of its session.
func (p *pool) fell(ctx context.Context, e *entry, err error, callers []string) {
	c := crashOf(err)
	if c == nil && ctx.Err() == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, caller := range callers {
		switch {
		case c == nil:
			if len(e.loss.overdue) == maxSuspects {
				e.loss.overdue = slices.Delete(e.loss.overdue, 0, 1)
			}
			e.loss.overdue = append(e.loss.overdue, departure{caller, now})
		case c.Inside && len(e.loss.inside) < maxSuspects && !slices.Contains(e.loss.inside, caller):
			e.loss.inside = append(e.loss.inside, caller)
		}
	}
	if c != nil {
		p.lose(e, c, now)
	}
}

// crashOf finds a Crash among the causes of an error.
func crashOf(err error) *Crash {
	if c := (*Crash)(nil); errors.As(err, &c) {
		return c
	}
	return nil
}

// watch waits until a session is lost, or closed.
func (p *pool) watch(e *entry, lost <-chan struct{}) {
	select {
	case <-lost:
	case <-e.done:
		return
	}
	p.mu.Lock()
	if e.closed {
		p.mu.Unlock()
		return
	}
	e.refs++ // it is not closed under the question
	p.mu.Unlock()
	c := whyLost(e.session)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose(e, c, time.Now())
	e.refs--
	p.closeUnneeded(e)
}

// whyLost asks a lost session how it was lost: any run of it tells.
func whyLost(s Session) *Crash {
	values, err := s.Run(context.Background(), nil, nil)
	for i := range values {
		values[i].Release()
	}
	if c := crashOf(err); c != nil {
		return c
	}
	return &Crash{Reason: "exit: for no known reason"}
}

// lose takes a lost entry out of the pool. The caller holds mu.
func (p *pool) lose(e *entry, c *Crash, now time.Time) {
	if e.lost.Load() || e.closed {
		return
	}
	e.loss.crash, e.loss.at = c, now
	e.lost.Store(true)
	p.used -= e.memory
	e.memory = 0
	r := e.record
	if now.Sub(e.loaded) >= steady {
		r.streak = 0
	}
	if r.streak > 0 {
		r.retryAt = now.Add(backoff(r.streak - 1))
	}
	r.streak++
	r.lostAt, r.down = now, true
	p.metrics.crashes.WithLabelValues(c.class()).Inc()
	p.bereaved++
	p.forget(e)
	p.judge(e)
	p.closeUnneeded(e)
	if p.pins(e) {
		p.rouse()
	}
}

// judge puts a loss on the record once all runs are out of the session. The
// caller holds mu.
func (p *pool) judge(e *entry) {
	l := &e.loss
	if l.judged || !e.lost.Load() || e.running.Load() > 0 {
		return
	}
	l.judged = true
	suspects := l.suspects()
	p.log.Error("a model's process ended", "model", e.version.Model, "version", e.version.Number, "cause", l.crash.Reason,
		"callers", suspects, "lived", l.at.Sub(e.loaded).String())
	p.enlist(e, crash{at: l.at, reason: l.crash.Reason, callers: suspects})
}

// loadLost puts a load that ended its process, or took too long, on the record.
// The caller holds mu.
func (p *pool) loadLost(e *entry, err error) {
	reason := ""
	if c := crashOf(err); c != nil {
		reason = "loading it: " + c.Reason
		p.metrics.crashes.WithLabelValues("load").Inc()
	} else if errors.Is(err, ErrLoadTimeout) {
		reason = fmt.Sprintf("loading it took more than %v", p.loadTimeout)
	}
	if reason != "" {
		p.enlist(e, crash{at: time.Now(), reason: reason})
	}
}

// enlist adds a crash to the record and decides who answers for it: a caller,
// or the version. The caller holds mu.
func (p *pool) enlist(e *entry, c crash) {
	if p.draining {
		return // what ends now may well be meant to
	}
	r, v := e.record, e.version
	r.crashes = append(r.crashes, c)
	r.expire(c.at)
	if len(c.callers) == 1 && r.blamed(c.callers[0]) >= blameAfter {
		p.refuse(refusal{v.ID, c.callers[0]}, c.at)
		r.strike(c.callers[0])
		p.log.Error("a caller whose inputs end a model's process is refused on this version", "model", v.Model, "version", v.Number,
			"user", c.callers[0], "for", refuseFor.String(), "cause", c.reason)
	}
	if r.weight() >= quarantineAfter && !r.condemned {
		r.condemned = true
		reason := fmt.Sprintf("its process ended %d times within %v, the last time so: %s",
			len(r.crashes), c.at.Sub(r.crashes[0].at).Round(time.Second), c.reason)
		p.work.Go(func() { p.condemn(v, r, reason) })
	}
	if n := len(r.crashes); n > maxCrashes {
		r.crashes = slices.Delete(r.crashes, 0, n-maxCrashes)
	}
	r.expire(c.at)
}

// condemn puts a version out of service.
func (p *pool) condemn(v *models.Version, r *record, reason string) {
	err := p.quarantine(p.base, v, reason)
	if err == nil {
		p.metrics.quarantines.Inc()
		p.retire(v.ID)
		return
	}
	p.log.Error("putting a version out of service failed; its next crash tries again", "model", v.Model, "version", v.Number, "cause", err)
	p.mu.Lock()
	defer p.mu.Unlock()
	r.condemned = false
}

// resting reports whether a version that was lost is not to be loaded yet. The
// caller holds mu.
func (p *pool) resting(versionID string) bool {
	r := p.records[versionID]
	return r != nil && (r.condemned || r.down && p.draining || time.Now().Before(r.retryAt))
}

// refusal is a version that is closed to a caller for a while.
type refusal struct{ version, caller string }

// refuses tells for how long the version is closed to the caller yet; 0 or
// less: it is not. The caller of it holds mu.
func (p *pool) refuses(versionID, caller string) time.Duration {
	return time.Until(p.refused[refusal{versionID, caller}])
}

// refuse closes a version to a caller. When there are too many, the one that
// ends first makes way. The caller of it holds mu.
func (p *pool) refuse(key refusal, now time.Time) {
	if _, again := p.refused[key]; !again && len(p.refused) >= maxRefused {
		var first refusal
		for k, until := range p.refused {
			if first == (refusal{}) || until.Before(p.refused[first]) {
				first = k
			}
		}
		delete(p.refused, first)
	}
	p.refused[key] = now.Add(refuseFor)
	p.metrics.callersRefused.Inc()
}

// forgetLosses drops what is over.
func (p *pool) forgetLosses() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for k, until := range p.refused {
		if !now.Before(until) {
			delete(p.refused, k)
		}
	}
	for id, r := range p.records {
		r.expire(now)
		if now.Sub(r.lostAt) >= crashWindow && len(r.crashes) == 0 && p.entries[id] == nil && !r.condemned {
			delete(p.records, id)
		}
	}
}

// rerun runs what had not begun when its session was lost, on the next one.
// The inputs lie in the room of the first, whose entry the caller of it holds.
func (s *Service) rerun(ctx context.Context, who *auth.Principal, access *models.Access, in []Tensor, want []int) ([]Value, error) {
	for range reruns {
		e, err := s.pool.acquire(ctx, access.Version, who)
		if errors.Is(err, errRetired) {
			break // another version might take other inputs
		}
		if err != nil {
			return nil, err
		}
		values, err := s.run(ctx, who, access, e, in, want, time.Now())
		s.pool.release(e, time.Now())
		if !errors.Is(err, errLost) {
			return values, err
		}
	}
	s.metrics.refused.WithLabelValues("unavailable").Inc()
	return nil, ErrUnavailable
}

// callers are those of a group, each once.
func (g *group) callers() []string {
	var list []string
	for _, j := range g.jobs {
		if !slices.Contains(list, j.caller) {
			list = append(list, j.caller)
		}
	}
	return list
}
