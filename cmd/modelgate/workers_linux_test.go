package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/client"
)

// workersOf lists the model processes that a server has started, also when the
// server itself is gone: their orders name it.
func workersOf(t *testing.T, server int) []int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(paths) == 0 {
		t.Fatalf("/proc can't be read: %v", err)
	}
	var pids []int
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(line), "\x00")
		var orders struct{ Parent int }
		if len(args) < 3 || args[1] != workerCommand || json.Unmarshal([]byte(args[2]), &orders) != nil || orders.Parent != server {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// workers are the model processes of this server.
func (p *program) workers() []int {
	p.t.Helper()
	return workersOf(p.t, p.cmd.Process.Pid)
}

// workerOf predicts once, so that the model is loaded, and returns the process
// that came for it.
func (p *program) workerOf(c *client.Client, r client.PredictRequest) int {
	p.t.Helper()
	before := p.workers()
	if _, err := c.Predict(p.t.Context(), r); err != nil {
		p.t.Fatalf("%s: %v", r.Model, err)
	}
	fresh := slices.DeleteFunc(p.workers(), func(pid int) bool { return slices.Contains(before, pid) })
	if len(fresh) != 1 {
		p.t.Fatalf("loading %s started the processes %v; want one", r.Model, fresh)
	}
	return fresh[0]
}

// wantNoWorkers fails unless all processes of a server that is gone end soon.
func wantNoWorkers(t *testing.T, server int) {
	t.Helper()
	within(t, time.Minute, "the processes of models end", func() bool { return len(workersOf(t, server)) == 0 })
}

// within asks until ok says yes: for what another process does in its own time.
func within(t *testing.T, bound time.Duration, what string, ok func() bool) {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > bound {
			t.Fatalf("waited %v in vain until %s", bound, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// procStatus reads lines of /proc/PID/status.
func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for line := range strings.Lines(string(content)) {
		key, value, _ := strings.Cut(line, ":")
		lines[key] = strings.TrimSpace(value)
	}
	return lines
}

// kilobytes reads a size of /proc/PID/status, in bytes.
func kilobytes(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// traffic is what clients do all the while something else goes on.
type traffic struct {
	url    string
	tokens []string // one of them for each client, in turn
	bodies [][]byte
	// also lists answers that are no failure besides 200.
	also []int
}

const clients = 8

// during predicts with a number of clients until the function has returned and
// as many predictions as least are done. It returns how long each took, sorted,
// and how many got one of the other permitted answers.
func (l traffic) during(t *testing.T, least int, f func()) (took []time.Duration, others int) {
	t.Helper()
	var done atomic.Bool
	var count atomic.Int64
	var mu sync.Mutex
	var group sync.WaitGroup
	for n := range clients {
		group.Go(func() {
			var own []time.Duration
			spared := 0
			for i := n; (!done.Load() || count.Load() < int64(least)) && !t.Failed(); i++ {
				began := time.Now()
				status, answer := predictAs(l.url, l.tokens[n%len(l.tokens)], l.bodies[i%len(l.bodies)])
				own = append(own, time.Since(began))
				switch {
				case status == 200:
					count.Add(1)
				case slices.Contains(l.also, status):
					spared++
				default:
					t.Errorf("a prediction failed meanwhile: status %d: %s", status, answer)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took, others = append(took, own...), others+spared
		})
	}
	func() {
		defer group.Wait() // also when f ends the test
		defer done.Store(true)
		f()
	}()
	slices.Sort(took)
	return took, others
}

// p99 of sorted times.
func p99(sorted []time.Duration) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)*99/100]
}

var (
	irisBody   = []byte(`{"model":"iris","inputs":[[5.1,3.5,1.4,0.2]]}`)
	digitsBody = []byte(`{"model":"digits","inputs":[[` + string(rows(8, 8)) + `]]}`)
)

// token logs in, and returns what a bearer sends.
func (p *program) token(username, password string) string {
	p.t.Helper()
	tokens, err := p.anonymous().Login(p.t.Context(), username, password)
	if err != nil {
		p.t.Fatalf("login of %s: %v", username, err)
	}
	return tokens.AccessToken
}

const userPassword = "an unusual phrase 93"

// register makes users and returns their tokens.
func (p *program) register(names ...string) []string {
	p.t.Helper()
	tokens := make([]string, len(names))
	for i, name := range names {
		if _, err := p.anonymous().Register(p.t.Context(), name, userPassword); err != nil {
			p.t.Fatal(err)
		}
		tokens[i] = p.token(name, userPassword)
	}
	return tokens
}

// quietly are settings without which a test that sends much would be limited.
var quietly = []string{"MODELGATE_RATE_PREDICT=100000000-M", "MODELGATE_RATE_LOGIN=1000-M", "MODELGATE_ACCESS_LOG=false"}
