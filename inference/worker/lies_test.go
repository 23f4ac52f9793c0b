//go:build linux && (amd64 || arm64)

package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"modelgate/inference"
	"modelgate/models"
)

// lie begins a file that is given to workers in place of the runtime's
// library, and makes them lie; the rest of it says how.
const lie = "lie: "

// lieOf is how this worker is to lie; "": not at all.
func lieOf() string {
	head := make([]byte, 64)
	n, _ := unix.Pread(libraryFD, head, 0)
	how, found := strings.CutPrefix(string(head[:max(n, 0)]), lie)
	if !found {
		return ""
	}
	return how
}

// lieGraph is what every lying worker says of its model.
var lieGraph = models.Graph{
	Inputs:  []models.GraphValue{{Name: "x", Type: models.Float32, Shape: []int64{-1}}},
	Outputs: []models.GraphValue{{Name: "y", Type: models.Float32, Shape: []int64{-1}}, {Name: "z", Type: models.String, Shape: []int64{-1}}},
}

// liar is a worker taken over by its model.
type liar struct {
	thread
	control *net.UnixConn
	change  sync.Once
}

// lies are what liars do with a run: they have everything that a worker has.
var lies = map[string]func(l *liar, s *slot, index uint32){
	"honest": func(l *liar, s *slot, index uint32) { l.say(s, index, l.y(16, 4)) },
	"an output that lies in the head": func(l *liar, s *slot, index uint32) {
		l.say(s, index, l.tensor(models.Float32, 0, 16, 4))
	},
	"an output that lies among the inputs": func(l *liar, s *slot, index uint32) {
		l.say(s, index, l.tensor(models.Float32, uint64(headSize), 16, 4))
	},
	"an output that ends outside": func(l *liar, s *slot, index uint32) {
		l.say(s, index, l.tensor(models.Float32, uint64(len(l.mapping)-8), 16, 4))
	},
	"an output at the end of all addresses": func(l *liar, s *slot, index uint32) {
		l.say(s, index, l.tensor(models.Float32, 1<<64-8, 16, 4))
	},
	"fewer bytes than the shape":  func(l *liar, s *slot, index uint32) { l.say(s, index, l.y(16, 5)) },
	"more bytes than the shape":   func(l *liar, s *slot, index uint32) { l.say(s, index, l.y(16, 3)) },
	"a negative dimension":        func(l *liar, s *slot, index uint32) { l.say(s, index, l.y(16, -4)) },
	"dimensions that overflow":    func(l *liar, s *slot, index uint32) { l.say(s, index, l.y(0, 0, 1<<62, 1<<62)) },
	"dimensions that wrap around": func(l *liar, s *slot, index uint32) { l.say(s, index, l.y(16, 1<<62, 4, 4)) },
	"a type that is none": func(l *liar, s *slot, index uint32) {
		l.say(s, index, l.tensor(200, l.outputAt(), 16, 4))
	},
	"a kind that is another": func(l *liar, s *slot, index uint32) {
		text := l.y(16, 4)
		text[0] = byte(models.KindMaps)
		l.say(s, index, text)
	},
	"bytes behind the description": func(l *liar, s *slot, index uint32) { l.say(s, index, append(l.y(16, 4), 0)) },
	"no description":               func(l *liar, s *slot, index uint32) { l.say(s, index, nil) },
	"a rank without dimensions": func(l *liar, s *slot, index uint32) {
		l.say(s, index, []byte{0, byte(models.Float32), 255, 0, 0, 0, 0, 0, 0})
	},
	"a description longer than its slot": func(l *liar, s *slot, index uint32) {
		l.point(s, index, place{0, slotWords + 1})
	},
	"a description of all memory": func(l *liar, s *slot, index uint32) {
		l.point(s, index, place{uint64(headSize), uint64(2 * l.room)})
	},
	"a description outside": func(l *liar, s *slot, index uint32) { l.point(s, index, place{1 << 63, 100}) },
	"a long description": func(l *liar, s *slot, index uint32) {
		l.point(s, index, place{l.outputAt(), maxDescription + 1})
	},
	"strings that end outside": func(l *liar, s *slot, index uint32) {
		copy(l.outputs(), "\xff\x00\x00\x00\x00\x00\x00\x00abc")
		l.say(s, index, l.tensor(models.String, l.outputAt(), 11, 1))
	},
	"more strings than bytes": func(l *liar, s *slot, index uint32) {
		l.say(s, index, l.tensor(models.String, l.outputAt(), 8, 1<<40))
	},
	"the run of another": func(l *liar, s *slot, index uint32) { l.finish(index + 1) },
	"a run that can't be": func(l *liar, s *slot, index uint32) {
		l.finish(1 << 30)
	},
	"one run twice": func(l *liar, s *slot, index uint32) {
		l.say(s, index, l.y(16, 4))
		l.finish(index)
	},
	"too many runs": func(l *liar, s *slot, index uint32) {
		l.completed.Add(ringSize + 1)
		l.untold = 1
		l.tell()
	},
	"calls for nothing": func(l *liar, s *slot, index uint32) {
		s.began.Store(l.tid)
		for {
			l.armed.Store(0)
			_, _ = unix.Write(controlFD, []byte{0})
		}
	},
	"silence":  func(l *liar, s *slot, index uint32) { s.began.Store(l.tid); select {} },
	"deafness": func(l *liar, s *slot, index uint32) { select {} },
	"favourites": func(l *liar, s *slot, index uint32) {
		// It takes up the second run, and never the first.
		if index%slots == 0 {
			return
		}
		s.began.Store(l.tid)
		select {}
	},
	"hangs up": func(l *liar, s *slot, index uint32) {
		l.bell.Close()
		l.control.Close()
		select {}
	},
	"its death": func(l *liar, s *slot, index uint32) { s.began.Store(l.tid); os.Exit(3) },
	"other minds": func(l *liar, s *slot, index uint32) {
		// The answer changes while it is read.
		l.change.Do(func() {
			go func() {
				random := rand.New(rand.NewPCG(1, 2))
				head := unsafe.Slice((*byte)(unsafe.Pointer(s)), unsafe.Sizeof(*s))
				for {
					head[8+random.IntN(len(head)-8)] = byte(random.Uint32())
				}
			}()
		})
		l.say(s, index, l.y(16, 4))
	},
}

func (l *liar) outputAt() uint64 { return uint64(headSize + l.room) }

func (l *liar) tensor(typ models.DataType, at uint64, size int, shape ...int64) []byte {
	return appendTensor([]byte{byte(models.KindTensor)}, &inference.Tensor{Type: typ, Shape: shape}, at, size)
}

// y is the description of a tensor at the beginning of the outputs.
func (l *liar) y(size int, shape ...int64) []byte {
	return l.tensor(models.Float32, l.outputAt(), size, shape...)
}

func (l *liar) say(s *slot, index uint32, text []byte) {
	copy(s.inline[:], text)
	l.point(s, index, place{0, uint64(len(text))})
}

func (l *liar) point(s *slot, index uint32, p place) {
	s.began.Store(l.tid)
	s.answer = answer{place: p}
	l.finish(index)
}

func (l *liar) finish(index uint32) {
	l.complete(index, nil)
	l.untold = 1
	l.tell()
}

// lyingMain is a worker that behaves until it has a run.
func lyingMain(args []string, how string) error {
	in, err := enter(args)
	if err != nil {
		return err
	}
	c := &child{bell: os.NewFile(controlFD, "control")}
	control, err := dial(c.bell)
	if err != nil {
		return err
	}
	var hello helloMessage
	if err := receive(control, &hello); err != nil {
		return err
	}
	if err := c.attach(); err != nil {
		return err
	}
	holds, err := in.shut()
	if err != nil {
		return err
	}
	if how == "a frame without end" {
		_, _ = unix.Write(controlFD, []byte{255, 255, 255, 255, '{'})
		select {}
	}
	if err := send(control, readyMessage{Version: "lies", Protections: holds}); err != nil {
		return err
	}
	var m modelMessage
	if _, err := receiveWith(control, &m); err != nil {
		return err
	}
	if err := send(control, loadedMessage{Graph: saidGraph{lieGraph.Inputs, lieGraph.Outputs}}); err != nil {
		return err
	}
	go func() {
		l := &liar{thread: thread{child: c, tid: uint32(unix.Gettid())}, control: control}
		for {
			if entry, ok := c.next(); !ok {
				c.sleep()
			} else if entry&returned == 0 {
				lies[how](l, &c.slots[entry%slots], entry)
			}
		}
	}()
	if how == "hangs up" {
		select {}
	}
	_, _ = control.Read(make([]byte, 1))
	return nil
}

// lying opens an engine whose workers lie, and loads one.
func lying(t *testing.T, how string) (*Engine, inference.Session, *inference.Memory) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "library")
	if err := os.WriteFile(path, []byte(lie+how), 0o644); err != nil {
		t.Fatal(err)
	}
	// Others than its owner must find the way, as to the real one.
	for dir := filepath.Dir(path); len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mem := inference.NewMemory(128 << 20)
	e, err := Open(t.Context(), Config{Library: path, Memory: mem, MaxMemory: 1 << 28, Threads: 2, Grace: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("closing the engine: %v", err)
		}
		if n := mem.InUse(); n != 0 {
			t.Errorf("%d bytes were not released", n)
		}
	})
	s, err := e.Load(t.Context(), []byte("any"), inference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the session: %v", err)
		}
	})
	return e, s, mem
}

// ask runs a session of lieGraph.
func ask(ctx context.Context, s inference.Session, mem *inference.Memory, want int) ([]inference.Value, error) {
	x, err := inference.NewTensor(mem, models.Float32, []int64{4})
	if err != nil {
		return nil, err
	}
	defer x.Release()
	clear(x.Data)
	return s.Run(ctx, []inference.Tensor{x}, []int{want})
}

// TestLies: what a worker says is looked at like a stranger's word. A lie ends
// the worker, and costs the server nothing.
func TestLies(t *testing.T) {
	for how := range lies {
		if how == "favourites" {
			continue // TestRunThatIsNotBegun
		}
		t.Run(strings.ReplaceAll(how, " ", "_"), func(t *testing.T) {
			t.Parallel()
			_, s, mem := lying(t, how)
			ctx := t.Context()
			if how == "silence" || how == "calls for nothing" || how == "deafness" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
			}
			want := 0
			if strings.Contains(how, "strings") {
				want = 1
			}
			switch how {
			case "honest":
				values, err := ask(ctx, s, mem, 0)
				if err != nil {
					t.Fatal(err)
				}
				release(values)
				return
			case "one run twice", "other minds":
				// The first answer may be read before the lie is seen.
				for range 1000 {
					values, err := ask(ctx, s, mem, 0)
					release(values)
					if err != nil {
						break
					}
				}
				if how == "other minds" {
					return // it may be lucky
				}
			default:
				values, err := ask(ctx, s, mem, want)
				release(values)
				checkLie(t, how, err)
			}
			select {
			case <-s.Lost():
			case <-time.After(time.Minute):
				t.Fatal("the worker lives")
			}
			_, err := ask(t.Context(), s, mem, 0)
			var crash *inference.Crash
			if !errors.As(err, &crash) || crash.Inside {
				t.Errorf("a run afterwards: %v", err)
			}
		})
	}
}

// TestRunThatIsNotBegun: a worker that leaves a run lying and computes a later
// one, for ever, does not keep its caller.
func TestRunThatIsNotBegun(t *testing.T) {
	_, lost, mem := lying(t, "favourites")
	s := lost.(*session)
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 2)
	run := func(ctx context.Context) {
		values, err := ask(ctx, s, mem, 0)
		release(values)
		results <- err
	}
	flying := func(index int) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.calls) > index && s.calls[index].flying
	}
	go run(ctx)
	for !flying(0) {
		runtime.Gosched()
	}
	go run(t.Context())
	for !flying(1) {
		runtime.Gosched()
	}
	cancel()
	for range 2 {
		checkLie(t, "favourites", <-results)
	}
}

func checkLie(t *testing.T, how string, err error) {
	t.Helper()
	var crash *inference.Crash
	// One that fills its socket may be told from one that is silent, or not.
	if how == "silence" || how == "calls for nothing" && !errors.As(err, &crash) {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		return
	}
	if !errors.Is(err, inference.ErrUnavailable) || !errors.As(err, &crash) {
		t.Fatalf("got %v", err)
	}
	reason, known := map[string]string{"its death": "exit: exit status 3", "hangs up": "exit: it hung up"}[how]
	if !known {
		reason = "liar: "
	}
	if !strings.HasPrefix(crash.Reason, reason) {
		t.Errorf("the reason is %q, want %q", crash.Reason, reason)
	}
}

// A worker that answers its start with rubbish is no worker.
func TestEndlessFrame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "library")
	if err := os.WriteFile(path, []byte(lie+"a frame without end"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := Open(ctx, Config{Library: path, Memory: inference.NewMemory(1 << 20), MaxMemory: 1 << 28, Threads: 1})
	if err == nil || !strings.Contains(fmt.Sprint(err), "too long") {
		t.Errorf("got %v", err)
	}
}

// A library that changed while the server runs is not mixed with the one that
// it started with.
func TestAnotherRuntime(t *testing.T) {
	e, _, _ := lying(t, "honest")
	e.version = "another"
	_, err := e.Load(t.Context(), []byte("any"), inference.Options{})
	if !errors.Is(err, inference.ErrUnavailable) || !strings.Contains(err.Error(), "restart the server") {
		t.Errorf("got %v", err)
	}
}

// TestThreads: where no limit of the kernel bounds a worker's threads, the
// server does.
func TestThreads(t *testing.T) {
	_, s, mem := lying(t, "silence")
	if n := threads(s.(*session).cmd.Process.Pid); n < 2 || n > int(maxThreads()) {
		t.Errorf("a worker has %d threads, of %d", n, maxThreads())
	}
	if threads(1<<22+1) != 0 {
		t.Error("a process that can't be has threads")
	}
	// One that has more than it may is ended.
	worker := s.(*session)
	worker.mu.Lock()
	worker.most = 1
	worker.mu.Unlock()
	_, err := ask(t.Context(), s, mem, 0)
	var crash *inference.Crash
	if !errors.As(err, &crash) || !strings.Contains(crash.Reason, "threads") {
		t.Errorf("got %v", err)
	}
}
