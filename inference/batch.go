package inference

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"modelgate/auth"
	"modelgate/models"
)

// batcher joins predictions of one version into runs, where the model allows
// it (Serving.MaxBatch) and the graph is proved to compute each row by itself
// (models.RowWise). There is no timer: the first prediction that comes asks
// for a turn and leads, those that come while it waits join it, and when the
// turn is granted all go at once, up to MaxBatch rows. Who comes to a free
// slot goes at once and alone.
//
// Each prediction keeps its own caller: inputs are copied into the batch and
// outputs out of it, so that nobody holds memory of another; who leaves is
// dropped, and a run ends early only when all have left. A batch that gives
// no answer falls apart: each of its predictions then runs by itself, so that
// what is wrong with one is told to its sender alone.
type batcher struct {
	mu      sync.Mutex
	leader  *job   // who waits for a turn, waiting[0]; nil: nobody; guarded by mu
	waiting []*job // in order of arrival; guarded by mu
}

// job is one prediction that may share a run.
type job struct {
	ctx     context.Context
	caller  string
	in      []Tensor
	want    []int
	rows    int64
	arrived time.Time
	// woken holds one element when the job was made leader, or has its answer,
	// or is to run alone.
	woken chan struct{}

	turn     *turn  // of a leader; guarded by batcher.mu
	mixed    bool   // others than a leader's own caller wait for his turn; guarded by batcher.mu
	group    *group // since it was taken; guarded by batcher.mu
	left     bool   // its caller is gone; guarded by batcher.mu
	answered bool   // values are there, or alone is set; guarded by batcher.mu
	alone    bool   // guarded by batcher.mu
	values   []Value
}

// group is what goes in one run. The first of jobs runs it.
type group struct {
	jobs   []*job
	rows   int64
	joined chan struct{}      // closed when the inputs of the jobs are not read any more
	closed bool               // joined is; owned by who runs the group
	stay   int                // whose callers are there; guarded by batcher.mu
	cancel context.CancelFunc // ends the run when stay is 0; guarded by batcher.mu
}

// batchRows are the rows of a prediction that may share a run; 0: it may not.
// One as large as a whole batch gains nothing.
func batchRows(access *models.Access, e *entry, in []Tensor) int64 {
	most := int64(access.Model.Serving.MaxBatch)
	if most < 2 || !e.rowWise || len(in) == 0 || len(in[0].Shape) == 0 {
		return 0
	}
	n := in[0].Shape[0]
	for i := range in {
		// One row beside several would be broadcast, alone; not so in a batch.
		if len(in[i].Shape) == 0 || in[i].Shape[0] != n {
			return 0
		}
	}
	if n >= most {
		return 0
	}
	return n
}

// runTogether is runAlone for a prediction of that many rows that may share a
// run with others.
func (s *Service) runTogether(ctx context.Context, who *auth.Principal, access *models.Access, e *entry, in []Tensor, want []int, now time.Time, n int64) ([]Value, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, terms := &e.batcher, termsOf(who, access, e, now)
	j := &job{ctx: ctx, caller: who.UserID, in: in, want: want, rows: n, arrived: now, woken: make(chan struct{}, 1)}
	follows, err := b.enter(j, s.slots, terms)
	if err == nil && follows {
		select {
		case <-j.woken:
		case <-ctx.Done():
			b.leave(j, s.slots, e.lane)
			return nil, ctx.Err()
		}
		if j.answered { // nobody writes to j any more
			if j.alone {
				return s.runAlone(ctx, who, access, e, in, want, time.Now(), true)
			}
			return j.values, nil
		}
	}
	if err == nil {
		err = s.awaitTurn(ctx, b, j, terms, follows)
		if err != nil {
			b.resign(j, s.slots, e.lane)
		}
	}
	if err != nil {
		return nil, s.notRun(err)
	}
	// Requests that have arrived may wait for the processor that this one has
	// now. Let them come this far, for they would find the slots taken.
	runtime.Gosched()
	g := b.take(j, access.Model.Serving.MaxBatch, s.slots, e.lane)
	return s.lead(ctx, who, access, e, g)
}

// enter makes j wait: for the turn of another, or as the one who asks for it.
func (b *batcher) enter(j *job, s *slots, terms terms) (follows bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.leader == nil {
		b.leader = j
	} else if err := s.park(terms); err != nil {
		return false, err
	} else {
		follows = true
		b.mix(j, s)
	}
	b.waiting = append(b.waiting, j)
	return follows, nil
}

// mix notes that j waits for the leader's turn. One that several callers wait
// for is nobody's: else a caller who has his share of runs would hold up all who
// came behind him. The caller holds mu.
func (b *batcher) mix(j *job, s *slots) {
	if l := b.leader; j.caller != l.caller && !l.mixed {
		if l.mixed = true; l.turn != nil {
			s.disown(l.turn)
		}
	}
}

// hold gives the leader j a turn of his own.
func (b *batcher) hold(j *job, t *turn, s *slots) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j.turn = t; j.mixed {
		s.disown(t)
	}
}

// awaitTurn waits until the leader j has a turn: that of his predecessor, or
// one of his own. An error leaves it to resign.
func (s *Service) awaitTurn(ctx context.Context, b *batcher, j *job, terms terms, admitted bool) error {
	if j.turn == nil {
		terms.now = time.Now()
		t, err := s.slots.enter(terms, admitted)
		if err != nil {
			return err
		}
		b.hold(j, t, s.slots)
	}
	return s.slots.wait(ctx, j.turn, s.slots.patience-time.Since(j.arrived))
}

// resign ends the wait of the leader j. His turn goes to who came next.
func (b *batcher) resign(j *job, s *slots, l *lane) {
	b.mu.Lock()
	b.waiting = slices.DeleteFunc(b.waiting, func(o *job) bool { return o == j })
	next := b.promote(j.turn)
	b.mu.Unlock()
	switch {
	case next:
		s.unpark(l, 1)
	case j.turn != nil:
		s.abandon(j.turn)
	}
}

// promote makes the first of those who wait the leader, with the turn t or,
// when that is nil, one of his own. The caller holds mu.
func (b *batcher) promote(t *turn) bool {
	if len(b.waiting) == 0 {
		b.leader, b.waiting = nil, nil
		return false
	}
	b.leader = b.waiting[0]
	b.leader.turn = t // nobody's, if it was another caller's
	for _, o := range b.waiting {
		b.leader.mixed = b.leader.mixed || o.caller != b.leader.caller
	}
	b.leader.woken <- struct{}{}
	return true
}

// leave ends the wait of a follower whose caller is gone. When it returns,
// nobody reads his inputs any more.
func (b *batcher) leave(j *job, s *slots, l *lane) {
	b.mu.Lock()
	if b.leader == j { // made so at the same moment
		b.mu.Unlock()
		b.resign(j, s, l)
		return
	}
	g := j.group
	if g == nil {
		b.waiting = slices.DeleteFunc(b.waiting, func(o *job) bool { return o == j })
		b.mu.Unlock()
		s.unpark(l, 1)
		return
	}
	j.left = true
	b.depart(g)
	values := j.values // of an answer that came at the same moment
	b.mu.Unlock()
	<-g.joined
	for i := range values {
		values[i].Release()
	}
}

// depart notes that one of g's callers is gone. The caller holds mu.
func (b *batcher) depart(g *group) {
	if g.stay--; g.stay == 0 && g.cancel != nil {
		g.cancel()
	}
}

// take forms the group of the leader j, who has a turn: of those who wait, in
// order, all that fit him and into most rows. The first of the rest leads on.
func (b *batcher) take(j *job, most int, s *slots, l *lane) *group {
	g := &group{jobs: []*job{j}, rows: j.rows, joined: make(chan struct{})}
	b.mu.Lock()
	rest := b.waiting[:0]
	for _, o := range b.waiting {
		switch {
		case o == j:
		case g.rows+o.rows <= int64(most) && fit(j, o):
			o.group = g
			g.rows += o.rows
			g.jobs = append(g.jobs, o)
		default:
			rest = append(rest, o)
		}
	}
	clear(b.waiting[len(rest):])
	b.waiting = rest
	j.group, g.stay = g, len(g.jobs)
	gone := len(g.jobs) - 1
	if b.promote(nil) {
		gone++
	}
	b.mu.Unlock()
	if gone > 0 {
		s.unpark(l, gone)
	}
	return g
}

// fit reports whether the rows of both are of one shape.
func fit(a, b *job) bool {
	for i := range a.in {
		if !slices.Equal(a.in[i].Shape[1:], b.in[i].Shape[1:]) {
			return false
		}
	}
	return true
}

// lead runs g on the turn of its first job, whose values it returns; the
// others are woken with theirs.
func (s *Service) lead(ctx context.Context, who *auth.Principal, access *models.Access, e *entry, g *group) ([]Value, error) {
	j := g.jobs[0]
	defer s.slots.release(j.turn)
	for _, o := range g.jobs {
		e.series.queueTime.Observe(j.turn.started.Sub(o.arrived).Seconds())
	}
	e.series.batch.Observe(float64(len(g.jobs)))
	if len(g.jobs) > 1 {
		// Whatever happens, nobody is forgotten.
		defer e.batcher.dismiss(g)
		parts, err := s.share(ctx, access, e, g)
		if err == nil {
			return e.batcher.answer(g, parts), nil
		}
		e.batcher.dismiss(g)
		s.metrics.split.Inc()
		s.log.Info("a batch gave no answer, its predictions run one by one", "model", access.Model.Name, "version", access.Version.Number,
			"predictions", len(g.jobs), "cause", err)
	}
	return s.compute(ctx, who, access, e, j.turn, time.Now(), j.in, j.want)
}

// dismiss sends those who have no answer to run alone.
func (b *batcher) dismiss(g *group) {
	g.read()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range g.jobs[1:] {
		if !o.answered && !o.left {
			o.answered, o.alone = true, true
			o.woken <- struct{}{}
		}
	}
}

// read notes that the inputs of the jobs are not read any more.
func (g *group) read() {
	if !g.closed {
		g.closed = true
		close(g.joined)
	}
}

// answer gives the values to those who are still there, and returns the
// leader's.
func (b *batcher) answer(g *group, parts [][]Value) []Value {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, o := range g.jobs[1:] {
		values := parts[i+1]
		if o.left {
			for k := range values {
				values[k].Release()
			}
			continue
		}
		o.values, o.answered = values, true
		o.woken <- struct{}{}
	}
	return parts[0]
}

// share runs g as one, and cuts the outputs into the jobs' parts. On an error
// nothing is kept.
func (s *Service) share(ctx context.Context, access *models.Access, e *entry, g *group) ([][]Value, error) {
	in, err := g.join(e.session.Room())
	g.read()
	defer func() { releaseAll(in) }()
	if err != nil {
		return nil, err
	}
	// No caller's context: the run ends when all of them have.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limit(access))
	defer cancel()
	b := &e.batcher
	b.mu.Lock()
	if g.cancel = cancel; g.stay == 0 {
		cancel()
	}
	b.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.depart(g)
	})
	defer stop()
	want := union(g.jobs)
	began := time.Now()
	values, err := s.pool.run(bounded, e, in, want, g.callers()...)
	e.series.runTime.Observe(time.Since(began).Seconds())
	releaseAll(in)
	in = nil
	defer func() {
		for i := range values {
			values[i].Release()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := checkOutputs(access.Version.Signature.Outputs, want, values); err != nil {
		return nil, err
	}
	return g.cut(want, values, s.memory)
}

// join makes the inputs of a group: the jobs' one behind the other. What it
// made is returned with an error too.
func (g *group) join(mem *Memory) ([]Tensor, error) {
	first := g.jobs[0].in
	in := make([]Tensor, 0, len(first))
	for k := range first {
		shape := slices.Clone(first[k].Shape)
		shape[0] = g.rows
		t, err := NewTensor(mem, first[k].Type, shape)
		if err != nil {
			return in, err
		}
		in = append(in, t)
		bytes, text := 0, 0
		for _, j := range g.jobs {
			bytes += copy(t.Data[bytes:], j.in[k].Data)
			text += copy(t.Strings[text:], j.in[k].Strings)
		}
		if bytes != len(t.Data) || text != len(t.Strings) {
			return in, errors.New("the parts of a batch don't fill it")
		}
	}
	return in, nil
}

// union are the outputs that any of the jobs wants.
func union(jobs []*job) []int {
	want := slices.Clone(jobs[0].want)
	for _, j := range jobs[1:] {
		for _, k := range j.want {
			if !slices.Contains(want, k) {
				want = append(want, k)
			}
		}
	}
	return want
}

// cut copies the rows of each job out of the values of a run, which have one
// row for each row of the group or are refused. On an error nothing is kept.
func (g *group) cut(want []int, values []Value, mem *Memory) (parts [][]Value, err error) {
	for i := range values {
		v := &values[i]
		switch {
		case v.Kind == models.KindMaps && int64(len(v.Maps)) == g.rows:
		case v.Kind == models.KindTensor && len(v.Tensor.Shape) > 0 && v.Tensor.Shape[0] == g.rows:
		default:
			return nil, fmt.Errorf("output %d does not have the %d rows of the batch", want[i], g.rows)
		}
	}
	parts = make([][]Value, 0, len(g.jobs))
	defer func() {
		if err != nil {
			for _, list := range parts {
				for k := range list {
					list[k].Release()
				}
			}
		}
	}()
	from := int64(0)
	for _, j := range g.jobs {
		list := make([]Value, len(j.want))
		parts = append(parts, list)
		for i, output := range j.want {
			if list[i], err = part(&values[slices.Index(want, output)], from, j.rows, mem); err != nil {
				return nil, err
			}
		}
		from += j.rows
	}
	return parts, nil
}

// part copies n rows of a value, or takes them where they are maps.
func part(v *Value, from, n int64, mem *Memory) (Value, error) {
	if v.Kind == models.KindMaps {
		taken := slices.Clone(v.Maps[from : from+n])
		clear(v.Maps[from : from+n])
		return Value{Kind: v.Kind, Maps: taken}, nil
	}
	shape := slices.Clone(v.Tensor.Shape)
	all := shape[0]
	shape[0] = n
	t, err := NewTensor(mem, v.Tensor.Type, shape)
	if err != nil {
		return Value{}, err
	}
	row := int64(len(v.Tensor.Data)) / all
	copy(t.Data, v.Tensor.Data[from*row:(from+n)*row])
	row = int64(len(v.Tensor.Strings)) / all
	copy(t.Strings, v.Tensor.Strings[from*row:(from+n)*row])
	return Value{Kind: v.Kind, Tensor: t}, nil
}
