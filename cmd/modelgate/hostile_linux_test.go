package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"modelgate/client"
)

// hostile reads a file of testdata/hostile.
func hostile(t *testing.T, name string) []byte {
	t.Helper()
	return modelBytes(t, "hostile/"+name+".onnx")
}

// TestHostileUploads sends what the static check knows. None of it gets as far
// as a process.
func TestHostileUploads(t *testing.T) {
	p := start(t, t.TempDir(), quietly...)
	admin := p.admin()
	for name, code := range map[string]string{
		"nested_if_22": "nesting", "external_parent": "external_data", "external_absolute": "external_data",
		"external_symlink": "external_data", "external_memory_marker": "external_data", "ep_context": "unsupported_domain",
		"function_bomb": "too_many_nodes", "huge_initializer": "too_large", "sparse_bomb": "too_large",
		"zip": "not_onnx", "gzip": "not_onnx", "pickle": "not_onnx",
	} {
		began := time.Now()
		_, err := tryPush(admin, "bad", hostile(t, name), client.Spec{})
		if e := refused(t, err, 422, name); e.Code != code {
			t.Errorf("%s: code %s, want %s", name, e.Code, code)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: refused after %v", name, took)
		}
	}
	if pids := p.workers(); len(pids) != 0 {
		t.Errorf("processes of refused files: %v", pids)
	}
}

// TestSlowLoads publishes files that take minutes to load: they are refused at
// their deadline and their processes end, while other models answer every
// request, and hardly slower.
func TestSlowLoads(t *testing.T) {
	p := start(t, t.TempDir(), append(quietly, "MODELGATE_LOAD_TIMEOUT=4s", "MODELGATE_TIMEOUT=4s")...)
	admin := p.admin()
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	push(t, admin, "digits", modelBytes(t, "digits.onnx"), client.Spec{})
	others := traffic{url: p.url, tokens: []string{p.token("admin", adminPassword)}, bodies: [][]byte{irisBody, digitsBody}}
	others.during(t, 500, func() {}) // loads both
	loaded := p.workers()
	for _, slow := range []struct{ name, code string }{
		{"long_fold", "load_timeout"},    // one step, which nothing ends
		{"constant_bomb", "run_timeout"}, // the products are too large to be folded
	} {
		measure := func() (idle, busy time.Duration) {
			alone, _ := others.during(t, 5000, func() {})
			meanwhile, _ := others.during(t, 500, func() {
				began := time.Now()
				answered := make(chan error, 1)
				go func() {
					_, err := tryPush(admin, "slow", hostile(t, slow.name), client.Spec{})
					answered <- err
				}()
				within(t, time.Minute, "a process loads the model", func() bool { return len(p.workers()) == len(loaded)+1 })
				err := <-answered
				took := time.Since(began)
				if e := refused(t, err, 422, slow.name); e.Code != slow.code || took < 4*time.Second || took > 20*time.Second {
					t.Errorf("%s: code %s after %v, want %s after 4 s", slow.name, e.Code, took, slow.code)
				}
			})
			t.Logf("%s: %d predictions alone with a p99 of %v, %d meanwhile with one of %v", slow.name, len(alone), p99(alone), len(meanwhile), p99(meanwhile))
			return p99(alone), p99(meanwhile)
		}
		idle, busy := measure()
		if busy > 3*idle {
			idle, busy = measure() // others use this machine too
		}
		if busy > 3*idle {
			t.Errorf("%s: p99 of other models is %v, and %v without it", slow.name, busy, idle)
		}
		if now := p.workers(); !slices.Equal(now, loaded) {
			t.Errorf("%s: the processes %v are left, want %v", slow.name, now, loaded)
		}
	}
}

// TestEndlessRuns has two callers run what does not end, in a Loop and in one
// step, while others are served. Both get their deadline, and the models serve
// on.
func TestEndlessRuns(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), quietly...)
	admin := p.admin()
	spec := client.Spec{Roles: []string{"user"}, Serving: []byte(`{"timeout_ms":1500}`)}
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), spec)
	push(t, admin, "loop", modelBytes(t, "slow_run.onnx"), spec)
	push(t, admin, "step", hostile(t, "long_step"), spec)
	tokens := p.register("alice", "bob", "carol")
	others := traffic{url: p.url, tokens: tokens[2:], bodies: [][]byte{irisBody}}
	others.during(t, 100, func() {})
	for _, test := range []struct {
		model string
		long  string
		short string
	}{
		{"loop", `{"model":"loop","inputs":[4611686018427387904]}`, `{"model":"loop","inputs":[3]}`},
		{"step", `{"model":"step","inputs":[4000000]}`, `{"model":"step","inputs":[3]}`},
	} {
		took, _ := others.during(t, 500, func() {
			var callers sync.WaitGroup
			for _, token := range tokens[:2] {
				callers.Go(func() {
					began := time.Now()
					status, answer := predictAs(p.url, token, []byte(test.long))
					if status != 504 || !regexp.MustCompile(`"code":"deadline"`).MatchString(answer) {
						t.Errorf("%s: status %d after %v: %s", test.model, status, time.Since(began), answer)
					}
				})
			}
			callers.Wait()
		})
		t.Logf("%s: %d predictions of another model meanwhile, the slowest in %v", test.model, len(took), took[len(took)-1])
		within(t, time.Minute, test.model+" serves again", func() bool {
			status, answer := predictAs(p.url, tokens[0], []byte(test.short))
			if status != 200 && status != 503 {
				t.Fatalf("%s afterwards: status %d: %s", test.model, status, answer)
			}
			return status == 200
		})
	}
}

// TestMemoryBombs calls models that ask for 16 GiB, in a tensor and in strings.
// They are refused cleanly, their process stays within its bound, and serves on.
func TestMemoryBombs(t *testing.T) {
	const most = 256 << 20
	p := start(t, t.TempDir(), append(quietly, "MODELGATE_RUNTIME_MEMORY=256MiB", "MODELGATE_SESSION_MEMORY=256MiB")...)
	admin := p.admin()
	token := p.token("admin", adminPassword)
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	others := traffic{url: p.url, tokens: []string{token}, bodies: [][]byte{irisBody}}
	others.during(t, 100, func() {})
	for _, test := range []struct {
		model string
		small any
		large any
	}{
		{"huge_tensor", []int64{5}, []int64{1 << 32}},
		{"string_bomb", []string{""}, []string{"x"}},
	} {
		push(t, admin, test.model, hostile(t, test.model), client.Spec{})
		small := client.PredictRequest{Model: test.model, Inputs: test.small}
		worker := p.workerOf(admin, small)
		others.during(t, 200, func() {
			for range 3 {
				_, err := admin.Predict(t.Context(), client.PredictRequest{Model: test.model, Inputs: test.large})
				if e := refused(t, err, 413, test.model); e.Code != "out_of_memory" {
					t.Errorf("%s: code %s", test.model, e.Code)
				}
				if _, err := admin.Predict(t.Context(), small); err != nil {
					t.Errorf("%s: a small input afterwards: %v", test.model, err)
				}
			}
		})
		// Its data is bounded by the kernel; besides, there are the library's own
		// pages, and the memory that it shares with the server.
		peak := kilobytes(t, procStatus(t, worker)["VmHWM"])
		limit := dataLimit(t, worker)
		t.Logf("%s: at most %d MiB resident, with a bound of %d MiB for its data", test.model, peak>>20, limit>>20)
		if peak > limit+128<<20 {
			t.Errorf("%s: its process took %d MiB, with a bound of %d MiB", test.model, peak>>20, limit>>20)
		}
		if limit > most+1<<30 { // for what is not the model's
			t.Errorf("%s: its process may have %d MiB of data", test.model, limit>>20)
		}
	}
}

// dataLimit is RLIMIT_DATA of a process in bytes.
func dataLimit(t *testing.T, pid int) int64 {
	t.Helper()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`Max data size +(\d+) +(\d+) `).FindSubmatch(limits)
	if m == nil || string(m[1]) != string(m[2]) {
		t.Fatalf("its data has no hard bound:\n%s", limits)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
