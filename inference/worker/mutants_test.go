//go:build linux && (amd64 || arm64)

package worker

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/inference"
	"modelgate/models"
)

// mutantsEnv is how many files TestMutants makes; 500 when it is not set.
const mutantsEnv = "MODELGATE_TEST_MUTANTS"

// nursery publishes files as far as the server does without a catalogue: it
// checks them, and tries them in workers.
type nursery struct {
	service *inference.Service
	engine  *Engine

	mu       sync.Mutex
	outcomes map[string]int // guarded by mu
}

func newNursery(t *testing.T) *nursery {
	t.Helper()
	memory := inference.NewMemory(64 << 20)
	engine, err := Open(t.Context(), Config{Library: library(t), Memory: memory, MaxMemory: 256 << 20, Threads: 1, Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return &nursery{engine: engine, outcomes: map[string]int{}, service: inference.New(inference.Config{
		Engine: engine, Memory: memory, Slots: 2, Queue: 100, Timeout: 2 * time.Second, LoadTimeout: 10 * time.Second,
	})}
}

// publish wants an outcome, in time.
func (n *nursery) publish(t *testing.T, what string, file []byte) {
	began := time.Now()
	outcome := ""
	_, _, err := models.Verify(file, models.Limits{})
	if err == nil {
		var trial models.Trial
		trial, err = n.service.Try(t.Context(), file)
		outcome = "served: " + trial.Outcome
	}
	var refused *models.Rejected
	if errors.As(err, &refused) {
		outcome = "refused: " + refused.Code
	} else if err != nil {
		t.Errorf("%s is neither refused nor served: %v", what, err)
	}
	// Its deadlines, and the measurement of batches, on a machine that does other things too.
	if took := time.Since(began); took > time.Minute {
		t.Errorf("%s took %v: %s", what, took, outcome)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.outcomes[outcome]++
}

// close wants no process left.
func (n *nursery) close(t *testing.T) {
	t.Helper()
	if err := n.service.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if pids := workersOf(t, os.Getpid()); len(pids) > 0 {
		t.Errorf("the processes %v are left", pids)
	}
	if err := n.engine.Close(); err != nil {
		t.Error(err)
	}
	served := 0
	for outcome, count := range n.outcomes {
		if strings.HasPrefix(outcome, "served") {
			served += count
		}
		t.Logf("%5d %s", count, outcome)
	}
	if served == 0 || served == n.total() {
		t.Errorf("%d of %d files were served: this test proves nothing", served, n.total())
	}
}

func (n *nursery) total() (sum int) {
	for _, count := range n.outcomes {
		sum += count
	}
	return sum
}

// workersOf lists the workers that a process has started.
func workersOf(t *testing.T, server int) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(paths) == 0 {
		t.Fatalf("/proc can't be read: %v", err)
	}
	return slices.DeleteFunc(paths, func(path string) bool {
		line, err := os.ReadFile(path)
		return err != nil || !bytes.Contains(line, fmt.Appendf(nil, "\x00worker\x00{\"parent\":%d,", server))
	})
}

// TestMutants flips bits of good models. Each file is refused or served; what
// it does to its process is nobody else's.
func TestMutants(t *testing.T) {
	count := 500
	if s := os.Getenv(mutantsEnv); s != "" {
		var err error
		if count, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	var sources [][]byte
	for _, name := range []string{
		"canary", "zipmap_strings", "iris_v2", "two_io", "types", "sequence", "slow_run", "dynamic", "defaults", "bfloat",
		"hostile/local_function", "hostile/nested_if_8", "hostile/empty_inside", "hostile/empty_gru", "hostile/huge_tensor", "hostile/long_step",
	} {
		file, err := os.ReadFile(filepath.Join(testdata, name+".onnx"))
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, file)
	}
	n := newNursery(t)
	began := time.Now()
	var next atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for i := next.Add(1); i <= int64(count); i = next.Add(1) {
				n.publish(t, fmt.Sprintf("mutant %d", i), mutant(sources, uint64(i)))
			}
		})
	}
	group.Wait()
	t.Logf("%d files in %v", count, time.Since(began).Round(time.Millisecond))
	n.close(t)
}

// mutant is always the same for a number: one of the files with one to four
// bits changed.
func mutant(sources [][]byte, number uint64) []byte {
	r := rand.New(rand.NewPCG(number, 0))
	file := bytes.Clone(sources[r.IntN(len(sources))])
	for range 1 + r.IntN(4) {
		file[r.IntN(len(file))] ^= 1 << r.IntN(8)
	}
	return file
}

// TestTruncatedFiles cuts a small model at every byte.
func TestTruncatedFiles(t *testing.T) {
	file, err := os.ReadFile(filepath.Join(testdata, "zipmap_strings.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	n := newNursery(t)
	for size := range len(file) + 1 {
		n.publish(t, fmt.Sprintf("the first %d bytes", size), file[:size:size])
	}
	n.close(t)
}

// TestRefusedLoads: a file that the runtime refuses is told from one that ends
// its process, however soon its worker is gone.
func TestRefusedLoads(t *testing.T) {
	file, err := os.ReadFile(filepath.Join(testdata, "hostile/type_mismatch.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	n := newNursery(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 25 {
				_, err := n.engine.Load(t.Context(), file, inference.Options{})
				if crash := (*inference.Crash)(nil); !errors.Is(err, inference.ErrLoad) || errors.As(err, &crash) {
					t.Errorf("got %v, want %s and no crash", err, inference.ErrLoad.Code)
				}
			}
		})
	}
	group.Wait()
	if err := n.engine.Close(); err != nil {
		t.Error(err)
	}
}
