package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"modelgate/client"
)

// TestMemoryIsFlat serves predictions of three models, 60,000 with the sandbox
// and without, or as many as MODELGATE_TEST_PREDICTIONS says, and looks at
// the resident memory of the server and of the models' processes: what grows with
// each request shows here.
func TestMemoryIsFlat(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 120,000 predictions")
	}
	most := 60_000
	if s := os.Getenv("MODELGATE_TEST_PREDICTIONS"); s != "" {
		var err error
		if most, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, isolation := range []string{isolationSandbox, isolationNone} {
		t.Run(isolation, func(t *testing.T) { memoryIsFlat(t, isolation, most) })
	}
}

// memoryIsFlat looks three times: when pools, caches, arenas and the heap are as
// full as they get, in the middle of the rest, and at the end.
func memoryIsFlat(t *testing.T, isolation string, rounds int) {
	p := start(t, t.TempDir(), "MODELGATE_RATE_PREDICT=100000000-M", "MODELGATE_ACCESS_LOG=false", "MODELGATE_ISOLATION="+isolation)
	admin := p.admin()
	tokens, err := p.anonymous().Login(t.Context(), "admin", adminPassword)
	if err != nil {
		t.Fatal(err)
	}
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	push(t, admin, "digits", modelBytes(t, "digits.onnx"), client.Spec{})
	push(t, admin, "sentiment", modelBytes(t, "sentiment.onnx"), client.Spec{})
	bodies := [][]byte{
		[]byte(`{"model":"iris","inputs":[[5.1,3.5,1.4,0.2]]}`),
		[]byte(`{"model":"iris","inputs":` + string(rows(50, 4)) + `}`),
		[]byte(`{"model":"digits","inputs":[[` + string(rows(8, 8)) + `]]}`),
		[]byte(`{"model":"sentiment","inputs":` + sentences(t, admin) + `}`),
	}
	const callers = 8
	predict := func(n int) {
		var next atomic.Int64
		var group sync.WaitGroup
		for range callers {
			group.Go(func() {
				for i := next.Add(1); i <= int64(n) && !t.Failed(); i = next.Add(1) {
					if status, answer := predictAs(p.url, tokens.AccessToken, bodies[int(i)%len(bodies)]); status != 200 {
						t.Errorf("prediction %d: status %d: %s", i, status, answer)
					}
				}
			})
		}
		group.Wait()
	}
	warm := rounds / 3
	predict(warm)
	before := p.resident()
	if want := map[string]int{isolationSandbox: 4, isolationNone: 1}[isolation]; len(before) != want {
		t.Fatalf("%d processes, want %d", len(before), want)
	}
	middleAt := (warm + rounds) / 2
	predict(middleAt - warm)
	middle := p.resident()
	predict(rounds - middleAt)
	after := p.resident()
	for pid, was := range before {
		what := "the server"
		if pid != p.cmd.Process.Pid {
			what = fmt.Sprintf("the model's process %d", pid)
		}
		t.Logf("%s: resident %d MiB after %d predictions, %d MiB after %d, %d MiB after %d", what,
			was>>20, warm, middle[pid]>>20, middleAt, after[pid]>>20, rounds)
		if growth := after[pid] - min(was, middle[pid]); growth > 24<<20 {
			t.Errorf("%s grew by %d MiB", what, growth>>20)
		}
		if after[pid] == 0 {
			t.Errorf("%s has ended", what)
		}
	}
}

// resident is the memory of the server and of its models' processes, in bytes
// by process id.
func (p *program) resident() map[int]int64 {
	p.t.Helper()
	sizes := map[int]int64{}
	for _, pid := range append(p.workers(), p.cmd.Process.Pid) {
		sizes[pid] = rss(p.t, pid)
	}
	return sizes
}

// sentences fits the text model's input, whose rank is its own affair.
func sentences(t *testing.T, c *client.Client) string {
	t.Helper()
	m, err := c.Model(t.Context(), "sentiment")
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Inputs[0].Shape) == 2 {
		return `[["a lovely day"],["what a bad film"]]`
	}
	return `["a lovely day","what a bad film"]`
}
