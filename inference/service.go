package inference

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/auth"
	"modelgate/models"
)

// Request is what a transport decoded for one prediction.
type Request struct {
	Inputs  []Tensor // in signature order
	Outputs []string // public names; nil: all that are disclosed
}

// Decode turns a transport's bytes into a Request. It is called once the
// caller was allowed and the model is loaded. Its error is returned by Predict
// unchanged. The Inputs of a Request belong to Predict, also when an error
// comes with it.
type Decode func(sig *models.Signature, mem *Memory) (*Request, error)

// Result is one answer. Its memory is given back by Release.
type Result struct {
	Model   string
	Version int
	Rows    int
	Outputs []Output

	few [2]Output // what Outputs mostly lies in
}

// Output is one value under its public name.
type Output struct {
	Name  string
	Value Value
}

// Release frees the outputs. It may be called on nil and more than once.
func (r *Result) Release() {
	if r == nil {
		return
	}
	for i := range r.Outputs {
		r.Outputs[i].Value.Release()
	}
	r.Outputs = nil
}

// Config wires a Service. Engine, Catalog and Memory are needed.
type Config struct {
	Engine        Engine
	Catalog       *models.Catalog
	Memory        *Memory
	Slots         int           // runs at once; 0: cores
	Queue         int           // predictions that may wait for a slot; 0: 256
	Timeout       time.Duration // of one run; 0: 30 s
	LoadTimeout   time.Duration // of one load; 0: 60 s
	IdleClose     time.Duration // a session unused for so long is closed; 0: 10 min
	SessionMemory int64         // bytes for all live sessions; 0: no bound
	// Quarantine puts a version out of service whose process ends again and
	// again. nil: Catalog.Quarantine.
	Quarantine func(ctx context.Context, v *models.Version, reason string) error
	// Pinned are the versions to be kept loaded. nil: Catalog.Pinned.
	Pinned func() []*models.Version
	// Charge is asked when the inputs of an allowed prediction are read and
	// valid, before it waits for its turn; its error is the caller's. nil: nothing
	// is charged. By value: pointers would put both on the heap.
	Charge func(ctx context.Context, who auth.Principal, access models.Access, rows int) error
	// Count is told of every successful prediction. It must not block.
	Count   func(who auth.Principal, v *models.Version, rows int)
	Metrics prometheus.Registerer // nil: none
	Logger  *slog.Logger          // the protected log; nil: none
}

// Service runs published models: the one way to a prediction, whatever the
// transport. Safe for concurrent use.
type Service struct {
	open    func(context.Context, auth.Principal, models.Ref) (models.Access, error)
	engine  Engine
	memory  *Memory
	timeout time.Duration
	loading time.Duration // of a trial
	idle    time.Duration
	charge  func(context.Context, auth.Principal, models.Access, int) error
	count   func(auth.Principal, *models.Version, int)
	pinned  func() []*models.Version
	log     *slog.Logger

	pool    *pool
	slots   *slots
	trials  lane
	metrics *metrics
}

// New returns a Service without live sessions. It registers its metrics.
func New(cfg Config) *Service {
	if cfg.Quarantine == nil {
		cfg.Quarantine = cfg.Catalog.Quarantine
	}
	if cfg.Pinned == nil {
		cfg.Pinned = cfg.Catalog.Pinned
	}
	return newService(cfg, cfg.Catalog.Open, cfg.Catalog.Read)
}

// newService is New with the two questions it asks of the catalogue, so that
// tests can answer them.
func newService(cfg Config, open func(context.Context, auth.Principal, models.Ref) (models.Access, error),
	read func(context.Context, *models.Version) ([]byte, error)) *Service {
	cfg.Slots = cmp.Or(cfg.Slots, runtime.GOMAXPROCS(0))
	cfg.Queue = cmp.Or(cfg.Queue, 256)
	cfg.Timeout = cmp.Or(cfg.Timeout, 30*time.Second)
	cfg.LoadTimeout = cmp.Or(cfg.LoadTimeout, 60*time.Second)
	cfg.IdleClose = cmp.Or(cfg.IdleClose, 10*time.Minute)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Pinned == nil {
		cfg.Pinned = func() []*models.Version { return nil }
	}
	if cfg.Count == nil {
		cfg.Count = func(auth.Principal, *models.Version, int) {}
	}
	if cfg.Charge == nil {
		cfg.Charge = func(context.Context, auth.Principal, models.Access, int) error { return nil }
	}
	m := newMetrics()
	s := &Service{
		open: open, engine: cfg.Engine, memory: cfg.Memory, timeout: cfg.Timeout, loading: cfg.LoadTimeout, idle: cfg.IdleClose,
		charge: cfg.Charge, count: cfg.Count, pinned: cfg.Pinned, log: cfg.Logger, metrics: m, pool: newPool(&cfg, read, m), slots: newSlots(cfg.Slots, cfg.Queue, cfg.Timeout),
	}
	m.register(cfg.Metrics, s)
	return s
}

// Predict runs one prediction: the catalogue decides, the model is loaded at
// need, decode reads the inputs, a slot is waited for, the model runs, and the
// outputs that the caller may see are filtered and rounded. The Result must be
// released.
//
// Errors: those of Catalog.Open; decode's; those of Config.Charge; ErrInput for inputs or output names
// that don't fit; ErrTooLarge; ErrQueueFull, at once when too many wait;
// ErrUnavailable when the model can't be loaded, its process ended under the
// run, or did so several times for this caller alone; ErrRun; ErrNoMemory;
// ErrDeadline when the run takes longer than the server or the model allows;
// ctx's own error when the caller leaves, which ends the wait or the run.
func (s *Service) Predict(ctx context.Context, who auth.Principal, ref models.Ref, decode Decode) (result *Result, err error) {
	access, e, err := s.lease(ctx, who, ref)
	if err != nil {
		return nil, err
	}
	// The clock is read where it must be: that costs as much as the gate.
	began, ran := time.Now(), time.Time{}
	defer func() {
		now := time.Now()
		if result != nil {
			e.series.tally.disclose.add(now.Sub(ran))
		}
		e.series.tally.done(result, now.Sub(began), now)
		s.pool.release(e, now)
	}()
	req, err := decode(&access.Version.Signature, e.session.Room())
	decoded := time.Now()
	e.series.tally.decode.add(decoded.Sub(began))
	if req != nil {
		defer releaseAll(req.Inputs)
	}
	switch {
	case err != nil:
		return nil, err
	case req == nil:
		return nil, ErrInput
	}
	if err := checkInputs(&access.Version.Signature, req.Inputs); err != nil {
		return nil, err
	}
	want, err := wanted(&access, req.Outputs)
	if err != nil {
		return nil, err
	}
	rows := Rows(&access.Version.Signature, req.Inputs)
	if err := s.charge(ctx, who, access, rows); err != nil {
		return nil, err
	}
	values, err := s.run(ctx, &who, &access, e, req.Inputs, want, decoded)
	if errors.Is(err, errLost) {
		values, err = s.rerun(ctx, &who, &access, req.Inputs, want)
	}
	if err != nil {
		return nil, err
	}
	ran = time.Now()
	if result, err = s.answer(&access, want, values); err != nil {
		return nil, err
	}
	result.Rows = rows
	s.count(who, access.Version, result.Rows)
	return result, nil
}

func releaseAll(tensors []Tensor) {
	for i := range tensors {
		tensors[i].Release()
	}
}

// leaseTries is how often a caller may meet a version that was retired just
// then. Each but the first needs a further switch within microseconds, so this
// only bounds a catalogue that goes on granting what is retired.
const leaseTries = 20

// lease asks the catalogue, and takes the live session of the version it
// grants. A version that is retired in between is asked for again, so that a
// deletion or a switch of the default fails no request.
func (s *Service) lease(ctx context.Context, who auth.Principal, ref models.Ref) (models.Access, *entry, error) {
	for range leaseTries {
		access, err := s.open(ctx, who, ref)
		if err != nil {
			return models.Access{}, nil, err
		}
		e, err := s.pool.acquire(ctx, access.Version, &who)
		if own := (*Error)(nil); errors.As(err, &own) && own.Detail != errCaller.Detail { // which is counted by itself
			s.metrics.refused.WithLabelValues("unavailable").Inc()
		}
		if !errors.Is(err, errRetired) {
			return access, e, err
		}
	}
	return models.Access{}, nil, ErrUnavailable
}

// wanted turns names into indices of outputs, in the order asked for. Only
// outputs that the rule shows have a name at all.
func wanted(access *models.Access, asked []string) ([]int, error) {
	shown := access.Outputs()
	if len(shown) == 0 {
		return nil, models.ErrClosed
	}
	if asked == nil {
		return shown, nil
	}
	outputs := access.Version.Signature.Outputs
	want := make([]int, 0, len(asked))
	for _, name := range asked {
		i := access.Version.Signature.Output(name)
		if i < 0 || !slices.Contains(shown, i) {
			list := make([]models.TensorSpec, len(shown))
			for k, i := range shown {
				list[k] = outputs[i]
			}
			return nil, ErrInput.With("unknown output " + quote(name) + "; the model gives " + names(list))
		}
		if slices.Contains(want, i) {
			return nil, ErrInput.With("the output " + quote(name) + " is asked for twice")
		}
		want = append(want, i)
	}
	return want, nil
}

// run waits for a slot and computes the wanted outputs, with others in one run
// where the model allows it.
func (s *Service) run(ctx context.Context, who *auth.Principal, access *models.Access, e *entry, in []Tensor, want []int, now time.Time) ([]Value, error) {
	if n := batchRows(access, e, in); n > 0 && !e.record.alone.Load() {
		return s.runTogether(ctx, who, access, e, in, want, now, n)
	}
	return s.runAlone(ctx, who, access, e, in, want, now, false)
}

// runAlone waits for a slot and computes; see slots.enter for admitted.
func (s *Service) runAlone(ctx context.Context, who *auth.Principal, access *models.Access, e *entry, in []Tensor, want []int, now time.Time, admitted bool) ([]Value, error) {
	t, err := s.slots.acquire(ctx, termsOf(who, access, e, now), admitted)
	if err != nil {
		return nil, s.notRun(err)
	}
	defer s.slots.release(t)
	e.series.queueTime.Observe(t.started.Sub(now).Seconds())
	return s.compute(ctx, who, access, e, t, t.started, in, want)
}

// notRun counts a prediction that got no turn.
func (s *Service) notRun(err error) error {
	if errors.Is(err, ErrQueueFull) {
		s.metrics.refused.WithLabelValues("queue_full").Inc()
	}
	return err
}

// limit is how long a run of the model may take.
func (s *Service) limit(access *models.Access) time.Duration {
	if ms := access.Model.Serving.TimeoutMS; ms > 0 {
		return min(s.timeout, time.Duration(ms)*time.Millisecond)
	}
	return s.timeout
}

// compute runs a session that has a slot, and looks at the outputs as at a
// client's input.
func (s *Service) compute(ctx context.Context, who *auth.Principal, access *models.Access, e *entry, t *turn, began time.Time, in []Tensor, want []int) ([]Value, error) {
	t.bounded = within(ctx, began.Add(s.limit(access)))
	bounded := &t.bounded
	defer bounded.stop()
	values, err := s.pool.run(bounded, e, in, want, who.UserID)
	e.series.runTime.Observe(time.Since(began).Seconds())
	if err == nil {
		if err = checkOutputs(access.Version.Signature.Outputs, want, values); err == nil {
			return values, nil
		}
	}
	for i := range values {
		values[i].Release()
	}
	return nil, s.runError(ctx, bounded, err, "request_id", who.Origin.RequestID, "model", access.Model.Name, "version", access.Version.Number)
}

// termsOf is what a caller's run of a model asks of the slots.
func termsOf(who *auth.Principal, access *models.Access, e *entry, now time.Time) terms {
	serving := &access.Model.Serving
	most := serving.Instances
	if e.record.alone.Load() {
		most = 1
	}
	return terms{lane: e.lane, caller: who.UserID, most: most, queue: serving.Queue, now: now, quick: most == 0 && e.session.Quick()}
}

// runError turns what came of a run into what a caller is told. The rest is
// for the protected log.
func (s *Service) runError(ctx, bounded context.Context, err error, about ...any) error {
	reason, told, crash := "run_failed", ErrRun, crashOf(err)
	switch {
	case ctx.Err() != nil:
		s.metrics.refused.WithLabelValues("left").Inc()
		return ctx.Err()
	case bounded.Err() != nil:
		reason, told = "deadline", ErrDeadline
	case crash != nil && !crash.Inside:
		return errLost
	case errors.Is(err, ErrNoMemory):
		reason, told = "out_of_memory", ErrNoMemory
	case errors.Is(err, ErrTooLarge):
		reason, told = "too_large", ErrTooLarge
	case errors.Is(err, ErrUnavailable):
		reason, told = "unavailable", ErrUnavailable
	}
	s.metrics.refused.WithLabelValues(reason).Inc()
	s.log.Warn("a run gave no answer", append(about, "reason", reason, "cause", err)...)
	return told
}

// answer applies the rule and names the outputs. It owns values.
func (s *Service) answer(access *models.Access, want []int, values []Value) (*Result, error) {
	result := &Result{Model: access.Model.Name, Version: access.Version.Number}
	if result.Outputs = result.few[:min(len(want), len(result.few))]; len(want) > len(result.few) {
		result.Outputs = make([]Output, len(want))
	}
	for i, k := range want {
		result.Outputs[i] = Output{Name: access.Version.Signature.Outputs[k].Name, Value: values[i]}
	}
	for i, k := range want {
		if err := disclose(&access.Rule, &access.Version.Signature.Outputs[k], &result.Outputs[i].Value, s.memory); err != nil {
			result.Release()
			return nil, err
		}
	}
	return result, nil
}

// Retire closes the session of a version that was deleted or quarantined, as
// soon as nobody uses it. It does not block. It fits Catalog.Retired.
func (s *Service) Retire(versionID string) { s.pool.retire(versionID) }

// Run keeps pinned models loaded, closes sessions that nobody uses or that take
// too much memory together, and gives memory that waits for no tensor back to
// the system, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick, retry := time.NewTicker(min(max(s.idle/4, time.Second), time.Minute)), time.NewTimer(0)
	defer tick.Stop()
	defer retry.Stop()
	for {
		select {
		case <-tick.C:
			s.pool.tend(ctx)
			s.memory.Trim()
			continue
		case <-s.pool.wake:
		case <-retry.C:
		case <-ctx.Done():
			return nil
		}
		if wait := s.pool.keep(s.pinned()); wait > 0 {
			retry.Reset(wait)
		}
	}
}

// Close drains: new predictions are refused, those under way finish, and every
// session is closed. It returns ctx's error when ctx ends first; what is in use
// then stays open. The engine is the caller's to close, after a nil error.
func (s *Service) Close(ctx context.Context) error { return s.pool.close(ctx) }

// Rows is what a prediction costs: the largest leading dimension among the
// inputs whose leading dimension the model leaves open; at least 1.
func Rows(sig *models.Signature, in []Tensor) int {
	rows := int64(1)
	for i := range min(len(in), len(sig.Inputs)) {
		if shape := sig.Inputs[i].Shape; len(shape) > 0 && shape[0] < 0 && len(in[i].Shape) > 0 {
			rows = max(rows, in[i].Shape[0])
		}
	}
	return int(min(rows, math.MaxInt))
}
