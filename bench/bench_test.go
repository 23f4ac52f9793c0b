package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/inference/ort"
)

// TestMain lets the test binary be the children too.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := child(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestLoadCounts holds the generator to what a server saw of it.
func TestLoadCounts(t *testing.T) {
	var seen, wrong atomic.Int64
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/predict" || r.Header.Get("Authorization") != "Bearer good" ||
			!strings.HasPrefix(string(body), `{"model":"tiny","inputs":{"x":[[0.`) || !json.Valid(body) {
			wrong.Add(1)
		}
		w.Header().Set("X-Long", strings.Repeat("x", 1000))
		fmt.Fprint(w, `{"outputs":{}}`)
	}))
	defer there.Close()
	at := &server{address: there.Listener.Addr().String(), token: "good"}
	request := predict(at, model{name: "tiny", input: "x", shape: []int64{1, 2}})
	result, err := load(plan{Address: at.address, PID: os.Getpid(), Request: request, Clients: 3, Duration: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if n := int64(result.Requests); n == 0 || n != seen.Load() || wrong.Load() > 0 {
		t.Errorf("%d requests counted, %d came, %d of them wrong", n, seen.Load(), wrong.Load())
	}
	if result.P50 <= 0 || result.P99 < result.P50 || result.Seconds < 0.1 || result.PeakBytes < 1<<20 {
		t.Errorf("the result is %+v", result)
	}
}

// TestLoadFailsOnRefusals: a refusal is cheap, and must not count as an answer.
func TestLoadFailsOnRefusals(t *testing.T) {
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "slow down", http.StatusTooManyRequests)
	}))
	defer busy.Close()
	address := busy.Listener.Addr().String()
	_, err := load(plan{Address: address, PID: os.Getpid(), Request: get(address), Clients: 1, Duration: time.Second})
	if err == nil || !strings.Contains(err.Error(), "429") || !strings.Contains(err.Error(), "slow down") {
		t.Errorf("a server that refuses everything gave %v", err)
	}
}

// TestCPUTime burns a known time, in this process and in a child.
func TestCPUTime(t *testing.T) {
	pid := os.Getpid()
	before, err := cpuTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	const burnt = 200 * time.Millisecond
	start := time.Now()
	for own := before; own-before < burnt; {
		if own, err = cpuTime(pid); err != nil {
			t.Fatal(err)
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("after a minute of work the CPU time is %s", own-before)
		}
	}
	sleeper := exec.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Skip("no sleep here: ", err)
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	if all := family(pid); len(all) < 2 {
		t.Errorf("the family of a process with a child is %v", all)
	}
	if _, err := cpuTime(1 << 30); err == nil {
		t.Error("a process that is not there has a CPU time")
	}
}

// TestBetween: only what is between the markers changes.
func TestBetween(t *testing.T) {
	document := "# Title\n\ntext\n" + beginMark + "\nold\n" + endMark + "\nmore\n"
	got, err := between(document, "new")
	want := "# Title\n\ntext\n" + beginMark + "\n\nnew\n" + endMark + "\nmore\n"
	if err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	if again, err := between(got, "new"); err != nil || again != got {
		t.Errorf("the second time it is %q, %v", again, err)
	}
	for _, broken := range []string{"", "text", beginMark + "\n", endMark + "\n" + beginMark + "\n"} {
		if _, err := between(broken, "new"); err == nil {
			t.Errorf("%q was written into", broken)
		}
	}
}

// TestReport computes the ratios of made-up rounds.
func TestReport(t *testing.T) {
	r := report{Models: measured[:1]}
	for _, cpu := range []float64{0.2, 0.3, 0.1} {
		r.Rounds = append(r.Rounds, round{
			{"hello", "iris", crowd}: {Requests: 1000, Seconds: 1, CPU: 0.1},
			{"gate", "iris", crowd}:  {Requests: 1000, Seconds: 1, CPU: cpu},
			{"quiet", "iris", crowd}: {Requests: 2000, Seconds: 1, CPU: 0.3},
			{"raw", "iris", 0}:       {Requests: 1000, Seconds: 1, CPU: 0.1, Version: "9.9"},
		})
	}
	text := r.markdown()
	for _, want := range []string{"gin hello's | 2.00 (1.00 to 3.00) | <= 1.45", "without the access log | 1.50 (1.50 to 1.50)",
		"ONNX Runtime 9.9; 3 rounds", "allocations per tiny request | not measured yet"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

// TestMeasure runs the whole for one model with the real program: that all of
// its children work together, and that the document gets the table.
func TestMeasure(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs three servers")
	}
	if _, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB")); err != nil {
		t.Skip("ONNX Runtime is missing; make test fetches it: ", err)
	}
	folder := t.TempDir()
	t.Chdir("..")
	s := settings{only: "iris", rounds: 2, warmup: 10 * time.Millisecond, duration: 100 * time.Millisecond,
		program: filepath.Join(folder, "modelgate"), hello: filepath.Join(folder, "hello"), docs: filepath.Join(folder, "doc.md")}
	for path, source := range map[string]string{s.program: "./cmd/modelgate", s.hello: "./bench/testdata/hello"} {
		if out, err := exec.Command("go", "build", "-o", path, source).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if err := os.WriteFile(s.docs, []byte("before\n"+beginMark+"\n"+endMark+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(context.Background(), s, nil); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(s.docs)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before", "after", "2 rounds", "| modelgate, iris", "| ONNX Runtime alone, iris", "| gin hello world"} {
		if !strings.Contains(string(written), want) {
			t.Errorf("%q is missing in\n%s", want, written)
		}
	}
}

// TestServerThatEnds: the reason is told, and nothing waits.
func TestServerThatEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, err = launch(t.Context(), address, filepath.Join(t.TempDir(), "out"), "/", exec.Command("sh", "-c", "echo no port; exit 3"))
	if err == nil || !strings.Contains(err.Error(), "no port") {
		t.Errorf("got %v", err)
	}
}
