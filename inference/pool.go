package inference

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"modelgate/models"
)

// A failed load is tried again after firstBackoff, then twice as long for each
// failure up to lastBackoff; in between callers get the same error at once.
const (
	firstBackoff = time.Second
	lastBackoff  = 15 * time.Second
)

// keptRetired is how many retired versions are remembered, lest a request that
// was granted one just before loads it again.
const keptRetired = 4096

// errRetired is for the service alone: the version is gone, ask the catalogue
// again.
var errRetired = errors.New("inference: the version was retired")

var errNoRoom = errors.New("no memory for the session")

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

	// Guarded by pool.mu.
	phase    phase
	refs     int // who uses it, or waits for it
	memory   int64
	lastUsed time.Time
	retired  bool // closed as soon as refs is 0
	failures int
	retryAt  time.Time
}

// pool keeps the live sessions: loaded once for all who ask, counted, closed
// when idle, retired or in the way of others.
type pool struct {
	engine      Engine
	read        func(ctx context.Context, v *models.Version) ([]byte, error)
	loadTimeout time.Duration
	idleClose   time.Duration
	budget      int64 // bytes of all sessions; 0: no bound
	metrics     *metrics
	log         *slog.Logger
	gate        chan struct{} // one element for each load under way
	base        context.Context
	stop        context.CancelFunc // ends loads

	mu      sync.Mutex
	entries map[string]*entry   // by version id; guarded by mu
	lanes   map[string]*lane    // by model, those with entries; guarded by mu
	used    int64               // bytes of sessions, loading and closing ones included; guarded by mu
	closing int                 // sessions being closed; guarded by mu
	freed   chan struct{}       // closed, and made anew, when one of them is; guarded by mu
	gone    map[string]struct{} // retired version ids; guarded by mu
	goneIDs []string            // the same, oldest first; guarded by mu
	guests  int                 // trials under way; guarded by mu
	drained chan struct{}       // made by close; closed when nothing is left; guarded by mu
	work    sync.WaitGroup      // loads and closes under way
}

func newPool(cfg *Config, read func(context.Context, *models.Version) ([]byte, error), m *metrics) *pool {
	base, stop := context.WithCancel(context.Background())
	return &pool{
		engine: cfg.Engine, read: read, loadTimeout: cfg.LoadTimeout, idleClose: cfg.IdleClose, budget: cfg.SessionMemory,
		metrics: m, log: cfg.Logger, gate: make(chan struct{}, cfg.Slots), base: base, stop: stop,
		entries: map[string]*entry{}, lanes: map[string]*lane{}, gone: map[string]struct{}{}, freed: make(chan struct{}),
	}
}

// acquire returns the live entry of a version, loading it at need: all who ask
// meanwhile wait for one load, which goes on when they leave. The entry must be
// released. errRetired, ctx's error, or ErrUnavailable.
func (p *pool) acquire(ctx context.Context, v *models.Version, requestID string) (*entry, error) {
	p.mu.Lock()
	e := p.entries[v.ID]
	switch {
	case p.drained != nil:
		p.mu.Unlock()
		return nil, ErrUnavailable
	case e == nil:
		if _, gone := p.gone[v.ID]; gone {
			p.mu.Unlock()
			return nil, errRetired
		}
		e = p.begin(v, 0, requestID)
	case e.phase == failed && time.Now().Before(e.retryAt):
		p.mu.Unlock()
		return nil, e.err
	case e.phase == failed:
		p.forget(e)
		e = p.begin(v, e.failures, requestID)
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
	e := &entry{version: v, lane: l, series: p.metrics.series(v), ready: make(chan struct{}), failures: failures}
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
	if p.drained == nil || len(p.entries) > 0 || p.guests > 0 {
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
	if e.refs > 0 || e.phase == loading || !e.retired && p.drained == nil {
		return
	}
	p.closeLater(e)
}

// closeLater takes an entry without references out of the maps and closes its
// session in the background. The caller holds mu.
func (p *pool) closeLater(e *entry) {
	if p.entries[e.version.ID] != e {
		return
	}
	if e.phase == live {
		p.closing++
		p.work.Go(func() { p.closeSession(e) })
	}
	p.forget(e)
}

// closeSession closes the session of a forgotten entry, which counts as
// closing, and then gives its memory back to the budget.
func (p *pool) closeSession(e *entry) {
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
		p.log.Error("loading a model failed", "request_id", requestID, "model", e.version.Model, "version", e.version.Number,
			"failures", e.failures+1, "cause", err)
	} else {
		p.metrics.loadTime.Observe(time.Since(began).Seconds())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.lastUsed = time.Now()
	if err == nil {
		e.session, e.phase = session, live
	} else {
		e.phase = failed
		e.err = ErrUnavailable
		if errors.Is(err, errNoRoom) {
			e.failures = 0 // no fault of its own, and others may be done at any moment
		}
		e.retryAt = e.lastUsed.Add(min(firstBackoff<<min(e.failures, 10), lastBackoff))
		e.failures++
		// What the catalogue says of the version has changed: it is to be asked.
		if errors.Is(err, models.ErrNotFound) || errors.Is(err, models.ErrQuarantined) {
			e.err = errRetired
			p.forget(e)
		}
	}
	close(e.ready)
	p.closeUnneeded(e)
}

// open reads, loads and measures. What it took of the budget is in e.memory.
func (p *pool) open(e *entry) (session Session, err error) {
	select {
	case p.gate <- struct{}{}:
		defer func() { <-p.gate }()
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
	if session, err = p.engine.Load(p.base, file, Options{LoadTimeout: p.loadTimeout}); err != nil {
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

// reserve takes n bytes of the budget (gives, when n is negative), closing idle
// sessions, the longest unused first, as far as it must.
func (p *pool) reserve(ctx context.Context, n int64) error {
	for {
		p.mu.Lock()
		if p.budget == 0 || n <= 0 || p.used+n <= p.budget {
			p.used += n
			p.mu.Unlock()
			return nil
		}
		used, freed, victim := p.used, p.freed, p.oldestIdle()
		switch {
		case victim != nil:
			p.forget(victim)
			p.closing++
			p.mu.Unlock()
			p.closeSession(victim)
		case p.closing > 0:
			p.mu.Unlock()
			select {
			case <-freed:
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			p.mu.Unlock()
			return fmt.Errorf("%w: it needs %d more bytes, %d of %d are taken by models in use", errNoRoom, n, used, p.budget)
		}
	}
}

func (p *pool) unreserve(n int64) {
	p.mu.Lock()
	p.used -= n
	p.mu.Unlock()
}

// oldestIdle returns the live entry that was unused for longest. The caller
// holds mu.
func (p *pool) oldestIdle() (oldest *entry) {
	for _, e := range p.entries {
		if e.phase == live && e.refs == 0 && (oldest == nil || e.lastUsed.Before(oldest.lastUsed)) {
			oldest = e
		}
	}
	return oldest
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
	}
}

// closeIdle closes what was not used for idleClose, and forgets failures whose
// backoff is long over.
func (p *pool) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, e := range p.entries {
		if e.refs == 0 && e.phase != loading && now.Sub(e.lastUsed) >= p.idleClose {
			p.closeLater(e)
		}
	}
}

// enter counts a trial, whose session lives outside of the pool, and reserves
// memory for it; leave ends it.
func (p *pool) enter(ctx context.Context, memory int64) error {
	p.mu.Lock()
	if p.drained != nil {
		p.mu.Unlock()
		return ErrUnavailable
	}
	p.guests++
	p.mu.Unlock()
	if err := p.reserve(ctx, memory); err != nil {
		p.leave(0)
		return ErrUnavailable.Because(err)
	}
	return nil
}

func (p *pool) leave(memory int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used -= memory
	p.guests--
	p.checkDrained()
}

// close refuses new users, ends loads, and waits until the sessions are closed
// after their last user, or for ctx.
func (p *pool) close(ctx context.Context) error {
	p.mu.Lock()
	if p.drained == nil {
		p.drained = make(chan struct{})
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
