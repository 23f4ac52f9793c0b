package inference_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"modelgate/inference"
	"modelgate/models"
)

// board lists pinned versions for a Config.
type board struct {
	mu   sync.Mutex
	list []*models.Version // guarded by mu
}

func (b *board) pinned() []*models.Version {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.list
}

func (b *board) set(list ...*models.Version) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = list
}

// live runs the service's background work until the test is done with it.
func (b *bench) live() (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- b.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-stopped; err != nil {
			b.t.Error(err)
		}
	}
}

func TestPinnedModelsStayLoaded(t *testing.T) {
	var pins board
	bubble(t, inference.Config{Pinned: pins.pinned, IdleClose: time.Minute}, func(t *testing.T, b *bench) {
		first := b.put("m", 1, "two_io.onnx")
		pins.set(first)
		stop := b.live()
		if s := b.fake.Stats(); s.Loads != 1 || s.Open != 1 {
			t.Errorf("at the start: %+v", s)
		}
		pass(10 * time.Minute)
		if s := b.fake.Stats(); s.Loads != 1 || s.Open != 1 {
			t.Errorf("idle: %+v", s)
		}
		second := b.put("m", 2, "two_io.onnx")
		pins.set(second)
		b.Refresh()
		synctest.Wait()
		if s := b.fake.Stats(); s.Loads != 2 || s.Open != 2 {
			t.Errorf("another default: %+v", s)
		}
		pass(2 * time.Minute)
		if s := b.fake.Stats(); s.Open != 1 || b.value("evictions_total", "reason=idle") != 1 {
			t.Errorf("the old one is idle: %+v", s)
		}
		if _, err := b.predict(t.Context(), "m", pair); err != nil || b.fake.Stats().Loads != 2 {
			t.Errorf("a prediction: %v", err)
		}
		pins.set()
		b.Refresh()
		pass(2 * time.Minute)
		if s := b.fake.Stats(); s.Open != 0 {
			t.Errorf("no longer pinned: %+v", s)
		}
		stop()
	})
}

// A pinned model that crashes, or can't be loaded, comes back by itself.
func TestAPinnedModelComesBack(t *testing.T) {
	var pins board
	bubble(t, inference.Config{Pinned: pins.pinned}, func(t *testing.T, b *bench) {
		pins.set(b.put("m", 1, "two_io.onnx"))
		stop := b.live()
		loads := 1
		for _, backoff := range []time.Duration{0, time.Second, 2 * time.Second} {
			b.fake.Crash("signal: killed")
			synctest.Wait()
			if backoff > 0 {
				pass(backoff - time.Millisecond)
				if n := b.fake.Stats().Loads; n != loads {
					t.Errorf("%d loads within the backoff, want %d", n, loads)
				}
				pass(time.Millisecond)
			}
			loads++
			if s := b.fake.Stats(); s.Loads != loads || s.Open != 1 {
				t.Errorf("%+v, want %d loads", s, loads)
			}
		}
		b.fake.FailLoads(inference.ErrLoad)
		b.fake.Crash("signal: killed")
		pass(time.Minute)
		if n := b.value("load_failures_total", ""); n < 2 || n > 5 {
			t.Errorf("%v loads failed within a minute", n)
		}
		b.fake.FailLoads(nil)
		pass(time.Minute)
		if s := b.fake.Stats(); s.Open != 1 {
			t.Errorf("%+v", s)
		}
		b.Drain()
		b.fake.Crash("signal: killed")
		pass(time.Minute)
		if s := b.fake.Stats(); s.Open != 0 {
			t.Errorf("loaded while draining: %+v", s)
		}
		stop()
	})
}

// While a version is being put out of service nothing loads it.
func TestAPinnedModelThatIsPutOutOfService(t *testing.T) {
	var pins board
	var asked, answered chan struct{}
	put := func(context.Context, *models.Version, string) error {
		asked <- struct{}{}
		<-answered
		return nil
	}
	bubble(t, inference.Config{Pinned: pins.pinned, Quarantine: put}, func(t *testing.T, b *bench) {
		asked, answered = make(chan struct{}, 1), make(chan struct{})
		pins.set(b.put("m", 1, "two_io.onnx"))
		stop := b.live()
		for range 5 {
			b.fake.Crash("signal: killed")
			pass(15 * time.Second)
		}
		<-asked
		for range 2 {
			b.Refresh()
			synctest.Wait()
			if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			if s := b.fake.Stats(); s.Loads != 5 || s.Open != 0 {
				t.Errorf("%+v", s)
			}
			select {
			case <-answered:
			default:
				close(answered)
				synctest.Wait()
			}
		}
		stop()
	})
}

// Pinned models make way for nobody, and take no more than half of the memory.
func TestPinnedModelsAndTheBudget(t *testing.T) {
	size := newBench(t, inference.Config{}).put("m", 1, "two_io.onnx").Size
	var pins board
	bubble(t, inference.Config{Pinned: pins.pinned, SessionMemory: 4*size + 10}, func(t *testing.T, b *bench) {
		others := []string{"a", "b", "c"}
		for _, name := range others {
			b.put(name, 1, "two_io.onnx")
		}
		pinned := []*models.Version{b.put("p1", 1, "two_io.onnx"), b.put("p2", 1, "two_io.onnx"), b.put("p3", 1, "two_io.onnx")}
		pins.set(pinned...)
		stop := b.live()
		synctest.Wait()
		if s := b.fake.Stats(); s.Loads != 2 || s.Open != 2 {
			t.Errorf("at the start: %+v", s)
		}
		if log := b.log.String(); strings.Count(log, "a model is not pinned") != 1 || !strings.Contains(log, `"model":"p3"`) {
			t.Errorf("the log says %s", log)
		}
		// Three others in the room of two: they make way for each other alone.
		for range 2 {
			for _, name := range others {
				if _, err := b.predict(t.Context(), name, pair); err != nil {
					t.Error(err)
				}
				pass(time.Second)
			}
		}
		if s := b.fake.Stats(); s.Loads != 8 || s.Open != 4 || b.value("evictions_total", "reason=memory") != 4 {
			t.Errorf("with others: %+v, %v evictions", s, b.value("evictions_total", "reason=memory"))
		}
		pins.set(pinned[1:]...)
		b.Refresh()
		pass(time.Minute)
		if s := b.fake.Stats(); s.Loads != 9 || s.Open != 4 {
			t.Errorf("with p3 in place of p1: %+v", s)
		}
		stop()
	})
}

// Sessions are asked again what memory they take, and the longest unused ones
// are closed when it has become too much.
func TestSessionsThatGrow(t *testing.T) {
	const mb = 1 << 20
	engine := &growing{bytes: map[int]int64{}}
	var pins board
	bubble(t, inference.Config{Engine: engine, SessionMemory: 10 * mb, Pinned: pins.pinned}, func(t *testing.T, b *bench) {
		engine.Engine = b.fake
		engine.set(1*mb, 1*mb, 1*mb)
		pins.set(b.put("a", 1, "two_io.onnx"))
		stop := b.live()
		for _, model := range []string{"b", "c"} {
			b.put(model, 1, "two_io.onnx")
			if _, err := b.predict(t.Context(), model, pair); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}
		told := func(sessions, bytes float64) {
			t.Helper()
			if n, m := b.value("sessions", ""), b.value("session_bytes", ""); n != sessions || m != bytes {
				t.Errorf("%v sessions with %v bytes, want %v with %v", n, m, sessions, bytes)
			}
		}
		told(3, 3*mb)
		engine.set(2*mb, 3*mb, 4*mb)
		pass(time.Minute)
		told(3, 9*mb)
		engine.set(3*mb, 3*mb, 5*mb) // b has to go: a is pinned, c was used later
		pass(time.Minute)
		told(2, 8*mb)
		if !slices.Equal(engine.closed(), []int{1}) {
			t.Errorf("closed were %v", engine.closed())
		}
		engine.set(1*mb, 0, 2*mb)
		pass(time.Minute)
		told(2, 3*mb)
		if strings.Contains(b.log.String(), "none of them can be closed") {
			t.Error("a warning without a reason")
		}
		engine.set(11*mb, 0, 2*mb)
		pass(3 * time.Minute)
		told(1, 11*mb)
		if n := strings.Count(b.log.String(), "none of them can be closed"); n != 1 {
			t.Errorf("%d warnings that the pinned one is too large", n)
		}
		stop()
	})
}

// growing is an engine whose sessions take what a test says.
type growing struct {
	inference.Engine
	mu    sync.Mutex
	bytes map[int]int64 // by session, in the order of loads; guarded by mu
	loads int           // guarded by mu
	ended []int         // guarded by mu
}

type growingSession struct {
	inference.Session
	engine *growing
	number int
}

func (g *growing) set(bytes ...int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, n := range bytes {
		g.bytes[i] = n
	}
}

func (g *growing) closed() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ended
}

func (g *growing) Load(ctx context.Context, model []byte, opts inference.Options) (inference.Session, error) {
	s, err := g.Engine.Load(ctx, model, opts)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loads++
	return growingSession{s, g, g.loads - 1}, err
}

func (s growingSession) Memory() int64 {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	return s.engine.bytes[s.number]
}

func (s growingSession) Close() error {
	s.engine.mu.Lock()
	s.engine.ended = append(s.engine.ended, s.number)
	s.engine.mu.Unlock()
	return s.Session.Close()
}
