package inference

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"modelgate/auth"
	"modelgate/models"
)

// A failed load is tried again after firstBackoff, then twice as long for each
// failure up to lastBackoff; in between callers get the same error at once.
const (
	firstBackoff = time.Second
	lastBackoff  = 15 * time.Second
)

// backoff is the wait after that many failures before the last one.
func backoff(failures int) time.Duration { return min(firstBackoff<<min(failures, 10), lastBackoff) }

// keptRetired is how many retired versions are remembered, lest a request that
// was granted one just before loads it again.
const keptRetired = 4096

// errRetired is for the service alone: the version is gone, ask the catalogue
// again.
var errRetired = errors.New("inference: the version was retired")

// phase is where an entry is in its life.
type phase uint8

const (
	loading phase = iota
	live
	failed
)

// entry is one version's session, from the first request for it to its close.
type entry struct {
	version *models.Version
	lane    *lane
	series  series
	ready   chan struct{} // closed when the load has ended

	session Session // written before ready is closed
	rowWise bool    // rows of several callers may share a run; written before ready is closed
	err     error   // written before ready is closed
	batcher batcher
	done    chan struct{} // closed before the session is
	running atomic.Int64  // runs inside the session
	lost    atomic.Bool   // its process is gone; written under pool.mu

	// Guarded by pool.mu.
	phase    phase
	refs     int // who uses it, or waits for it
	memory   int64
	loaded   time.Time
	lastUsed time.Time
	retired  bool // closed as soon as refs is 0
	closed   bool // or being closed
	failures int
	retryAt  time.Time
	loss     loss
	record   *record // of its version; the field itself never changes
}

// pool keeps the live sessions: loaded once for all who ask, counted, closed
// when idle, retired or in the way of others.
type pool struct {
	engine      Engine
	read        func(ctx context.Context, v *models.Version) ([]byte, error)
	loadTimeout time.Duration
	patience    time.Duration // how long a load waits for others at most
	idleClose   time.Duration
	budget      int64 // bytes of all sessions; 0: no bound
	quarantine  func(ctx context.Context, v *models.Version, reason string) error
	metrics     *metrics
	log         *slog.Logger
	gate        chan struct{} // one element for each load under way
	base        context.Context
	stop        context.CancelFunc // ends loads
	wake        chan struct{}      // holds one element when keep has something to look at

	mu       sync.Mutex
	entries  map[string]*entry     // by version id; guarded by mu
	lanes    map[string]*lane      // by model, those with entries; guarded by mu
	used     int64                 // bytes of sessions, loading and closing ones included; guarded by mu
	crowded  bool                  // used is beyond budget, and nothing can be closed; guarded by mu
	closing  int                   // sessions being closed; guarded by mu
	freed    chan struct{}         // closed, and made anew, when one of them is; guarded by mu
	gone     map[string]struct{}   // retired version ids; guarded by mu
	goneIDs  []string              // the same, oldest first; guarded by mu
	records  map[string]*record    // by version id, of those with entries or losses; guarded by mu
	refused  map[refusal]time.Time // until when; guarded by mu
	pinned   map[string]struct{}   // version ids; guarded by mu
	unpinned map[string]struct{}   // pinned by their owners, beyond the share; guarded by mu
	bereaved int                   // lost entries that somebody uses yet; guarded by mu
	guests   int                   // trials under way; guarded by mu
	draining bool                  // what is lost is not loaded again; guarded by mu
	drained  chan struct{}         // made by close; closed when nothing is left; guarded by mu
	work     sync.WaitGroup        // loads, closes, watches and quarantines under way
}

func newPool(cfg *Config, read func(context.Context, *models.Version) ([]byte, error), m *metrics) *pool {
	base, stop := context.WithCancel(context.Background())
	return &pool{
		engine: cfg.Engine, read: read, loadTimeout: cfg.LoadTimeout, patience: cfg.Timeout, idleClose: cfg.IdleClose, budget: cfg.SessionMemory,
		quarantine: cfg.Quarantine, metrics: m, log: cfg.Logger, gate: make(chan struct{}, cfg.Slots), base: base, stop: stop,
		wake: make(chan struct{}, 1), freed: make(chan struct{}),
		entries: map[string]*entry{}, lanes: map[string]*lane{}, gone: map[string]struct{}{},
		records: map[string]*record{}, refused: map[refusal]time.Time{},
	}
}

// acquire returns the live entry of a version, loading it at need: all who ask
// meanwhile wait for one load, which goes on when they leave. The entry must be
// released. errRetired, errCaller, ctx's error, or ErrUnavailable.
func (p *pool) acquire(ctx context.Context, v *models.Version, who *auth.Principal) (*entry, error) {
	p.mu.Lock()
	e, err := p.find(v, who)
	if err != nil {
		p.mu.Unlock()
		return nil, err
	}
	e.refs++
	ready := e.phase == live
	p.mu.Unlock()
	if ready {
		return e, nil
	}
	select {
	case <-e.ready:
		if e.err != nil {
			p.release(e, time.Now())
			return nil, e.err
		}
		return e, nil
	case <-ctx.Done():
		p.release(e, time.Now())
		return nil, ctx.Err()
	}
}

// find returns the entry of a version, made at need. The caller holds mu.
func (p *pool) find(v *models.Version, who *auth.Principal) (*entry, error) {
	e := p.entries[v.ID]
	switch {
	case p.drained != nil:
		return nil, ErrUnavailable
	case len(p.refused) > 0 && p.refuses(v.ID, who.UserID) > 0:
		p.metrics.refused.WithLabelValues("caller").Inc()
		return nil, errCaller.After(p.refuses(v.ID, who.UserID))
	case e == nil:
		if _, gone := p.gone[v.ID]; gone {
			return nil, errRetired
		}
		if p.resting(v.ID) {
			return nil, ErrUnavailable
		}
		e = p.begin(v, 0, who.Origin.RequestID)
	case e.phase == failed && time.Now().Before(e.retryAt):
		return nil, e.err
	case e.phase == failed:
		p.forget(e)
		e = p.begin(v, e.failures, who.Origin.RequestID)
	}
	return e, nil
}

// release gives an entry back.
func (p *pool) release(e *entry, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.refs--
	e.lastUsed = now
	p.closeUnneeded(e)
}

// begin makes an entry and starts its load. The caller holds mu.
func (p *pool) begin(v *models.Version, failures int, requestID string) *entry {
	l := p.lanes[v.Model]
	if l == nil {
		l = &lane{}
		p.lanes[v.Model] = l
	}
	r := p.records[v.ID]
	if r == nil {
		r = &record{}
		p.records[v.ID] = r
	}
	if r.down {
		r.down = false
		p.metrics.reloads.Inc()
	}
	e := &entry{version: v, lane: l, series: p.metrics.series(v), ready: make(chan struct{}), done: make(chan struct{}), failures: failures, record: r}
	p.entries[v.ID] = e
	p.work.Go(func() { p.load(e, requestID) })
	return e
}

// forget takes an entry out of the maps. The caller holds mu.
func (p *pool) forget(e *entry) {
	if p.entries[e.version.ID] != e {
		return
	}
	delete(p.entries, e.version.ID)
	if e.retired || e.record.blank() {
		delete(p.records, e.version.ID)
	}
	shared := false
	for _, other := range p.entries {
		shared = shared || other.lane == e.lane
	}
	if !shared {
		delete(p.lanes, e.version.Model)
	}
	p.checkDrained()
}

// checkDrained tells close that nothing is left. The caller holds mu.
func (p *pool) checkDrained() {
	if p.drained == nil || len(p.entries) > 0 || p.guests > 0 || p.bereaved > 0 {
		return
	}
	select {
	case <-p.drained:
	default:
		close(p.drained)
	}
}

// closeUnneeded closes e in the background if nobody uses it and nobody will.
// The caller holds mu.
func (p *pool) closeUnneeded(e *entry) {
	if e.refs > 0 || e.phase == loading || !e.retired && !e.lost.Load() && p.drained == nil {
		return
	}
	p.closeLater(e)
}

// closeLater takes an entry without references out of the maps and closes its
// session in the background. The caller holds mu.
func (p *pool) closeLater(e *entry) {
	if e.closed {
		return
	}
	e.closed = true
	if e.phase == live {
		p.closing++
		p.work.Go(func() { p.closeSession(e) })
	}
	if e.lost.Load() {
		p.bereaved--
	}
	p.forget(e)
	p.checkDrained()
}

// closeSession closes the session of a forgotten entry, which counts as
// closing, and then gives its memory back to the budget.
func (p *pool) closeSession(e *entry) {
	close(e.done)
	if err := e.session.Close(); err != nil {
		p.log.Error("closing a session", "model", e.version.Model, "version", e.version.Number, "cause", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used -= e.memory
	p.closing--
	close(p.freed)
	p.freed = make(chan struct{})
}

// load runs on a goroutine of its own, so that no caller's leaving ends it.
func (p *pool) load(e *entry, requestID string) {
	p.metrics.loads.Inc()
	began := time.Now()
	session, err := p.open(e)
	if err != nil {
		p.metrics.loadFailures.Inc()
		level, reason := slog.LevelError, "unavailable"
		if own := (*Error)(nil); errors.As(err, &own) {
			reason = own.Code
		}
		switch {
		case p.base.Err() != nil:
			level, reason = slog.LevelInfo, "the server is closing"
		case errors.Is(err, ErrNoMemory):
			reason = ErrNoMemory.Code
		case crashOf(err) != nil:
			reason = "crashed"
		}
		p.log.Log(context.Background(), level, "loading a model failed", "request_id", requestID, "model", e.version.Model, "version", e.version.Number,
			"failures", e.failures+1, "reason", reason, "cause", err)
	} else {
		p.metrics.loadTime.Observe(time.Since(began).Seconds())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.lastUsed = time.Now()
	if err == nil {
		e.session, e.phase, e.loaded = session, live, e.lastUsed
		if lost := session.Lost(); lost != nil {
			p.work.Go(func() { p.watch(e, lost) })
		}
	} else {
		p.loadLost(e, err)
		e.phase = failed
		e.err = ErrUnavailable
		switch {
		case errors.Is(err, errNoRoom) || errors.Is(err, errBusy):
			e.failures = 0 // no fault of its own, and others may be done at any moment
		case errors.Is(err, ErrNoMemory):
			e.err = errTooBig
		}
		e.retryAt = e.lastUsed.Add(backoff(e.failures))
		e.failures++
		// What the catalogue says of the version has changed: it is to be asked.
		if errors.Is(err, models.ErrNotFound) || errors.Is(err, models.ErrQuarantined) {
			e.err = errRetired
			p.forget(e)
		}
	}
	close(e.ready)
	p.closeUnneeded(e)
	if e.phase == failed && e.err != errRetired && p.pins(e) {
		p.rouse() // to try again in time
	}
}

// open reads, loads and measures. What it took of the budget is in e.memory.
func (p *pool) open(e *entry) (session Session, err error) {
	select {
	case p.gate <- struct{}{}:
		defer func() { <-p.gate }()
	case <-time.After(p.patience):
		return nil, errBusy
	case <-p.base.Done():
		return nil, p.base.Err()
	}
	// A file is a fair guess at what its session will take.
	if err := p.reserve(p.base, e.version.Size); err != nil {
		return nil, err
	}
	held := e.version.Size
	defer func() {
		if r := recover(); r != nil {
			session, err = nil, fmt.Errorf("panic while loading: %v", r)
		}
		if err != nil {
			p.unreserve(held)
		}
	}()
	file, err := p.read(p.base, e.version)
	if err != nil {
		return nil, err
	}
	if session, err = p.engine.Load(p.base, file, Options{LoadTimeout: p.loadTimeout, About: fmt.Sprintf("%s version %d", e.version.Model, e.version.Number)}); err != nil {
		return nil, err
	}
	// Proved anew with each load, of the very bytes that were loaded: no stored
	// word is trusted with the rows of several callers.
	e.rowWise, _ = models.RowWise(file)
	if err = sameGraph(&e.version.Signature, session.Graph()); err == nil {
		more := session.Memory() - held
		if err = p.reserve(p.base, more); err == nil {
			p.mu.Lock()
			e.memory = held + more
			p.mu.Unlock()
			return session, nil
		}
	}
	return nil, errors.Join(err, session.Close())
}

// sameGraph fails when a session is not what was published: its answers would
// be given other names or types.
func sameGraph(sig *models.Signature, g models.Graph) error {
	same := func(specs []models.TensorSpec, values []models.GraphValue) bool {
		if len(specs) != len(values) {
			return false
		}
		for i := range specs {
			if specs[i].GraphValue.Name != values[i].Name || specs[i].Kind != values[i].Kind || specs[i].Type != values[i].Type || specs[i].Key != values[i].Key {
				return false
			}
		}
		return true
	}
	if !same(sig.Inputs, g.Inputs) || !same(sig.Outputs, g.Outputs) {
		return errors.New("the session has other inputs or outputs than the published version")
	}
	return nil
}

// retire closes a version's session when its last user leaves, and sees to it
// that it is not loaded again.
func (p *pool) retire(versionID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.metrics.retire(versionID)
	if _, known := p.gone[versionID]; !known {
		p.gone[versionID] = struct{}{}
		if p.goneIDs = append(p.goneIDs, versionID); len(p.goneIDs) > keptRetired {
			delete(p.gone, p.goneIDs[0])
			p.goneIDs = p.goneIDs[1:]
		}
	}
	if e := p.entries[versionID]; e != nil {
		e.retired = true
		p.closeUnneeded(e)
	} else {
		delete(p.records, versionID)
	}
}

// close refuses new users, ends loads, and waits until the sessions are closed
// after their last user, or for ctx.
func (p *pool) close(ctx context.Context) error {
	p.mu.Lock()
	if p.drained == nil {
		p.drained, p.draining = make(chan struct{}), true
		p.stop()
		for _, e := range p.entries {
			p.closeUnneeded(e)
		}
		p.checkDrained()
	}
	drained := p.drained
	p.mu.Unlock()
	select {
	case <-drained:
	case <-ctx.Done():
		return ctx.Err()
	}
	closed := make(chan struct{})
	go func() {
		p.work.Wait()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// loaded is how many sessions are live.
func (p *pool) loaded() (n int, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.entries {
		if e.phase == live {
			n++
		}
	}
	return n, p.used
}
