package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
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

// TestCPUTimeOfEnded: a worker that ended during a measurement has cost what it
// cost.
func TestCPUTimeOfEnded(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	busy := exec.Command("sh", "-c", "ulimit -t 1; while :; do :; done") // the kernel ends it after a second of work
	if err := busy.Run(); busy.ProcessState == nil {
		t.Skip("no sh here: ", err)
	}
	after, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	took := busy.ProcessState.UserTime() + busy.ProcessState.SystemTime()
	if took < 500*time.Millisecond || after-before < took-2*tick {
		t.Errorf("a child that took %s counts as %s", took, after-before)
	}
}

// TestMemory: what a child takes counts.
func TestMemory(t *testing.T) {
	before, err := memory(os.Getpid())
	if err != nil || before < 1<<20 {
		t.Fatalf("this process takes %d bytes, %v", before, err)
	}
	const held = 30_000_000
	holder := exec.Command("sh", "-c", fmt.Sprintf(`x=$(head -c %d /dev/zero | tr "\000" x); echo holding; read y; echo "$x" >/dev/null`, held))
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Skip("no sh here: ", err)
	}
	defer func() { in.Close(); _ = holder.Wait() }()
	if _, err := io.ReadFull(out, make([]byte, len("holding\n"))); err != nil {
		t.Fatal(err)
	}
	after, err := memory(os.Getpid())
	if err != nil || after-before < held*9/10 {
		t.Errorf("with a child of %d bytes the memory went from %d to %d, %v", held, before, after, err)
	}
	if _, err := memory(1 << 30); err == nil {
		t.Error("a process that is not there has memory")
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

// TestReport computes the rows of made-up rounds.
func TestReport(t *testing.T) {
	tinyOne, denseOne := measured[0], measured[2]
	tinyOne.inside, tinyOne.copied = true, true
	r := report{Models: []model{tinyOne, denseOne, measured[3]}, Missing: map[string]string{measured[3].name: "too new"},
		Growths: []growing{{"users", "stored users", []int{1, 1000000}}}}
	for i, cpu := range []float64{0.14, 0.3, 0.1} {
		r.Rounds = append(r.Rounds, round{
			{"hello", tinyOne.name, crowd}:       {Requests: 1000, Seconds: 1, CPU: 0.1},
			{"gate", tinyOne.name, crowd}:        {Requests: 1000, Seconds: 1, CPU: cpu, Mallocs: 40000},
			{"gate", tinyOne.name, alone}:        {Requests: 1000, Seconds: 1, CPU: 0.2, P50: 0.08},
			{"loads", tinyOne.name, 0}:           {Requests: 20, Seconds: 0.4, CPU: 0.5, Grown: 200 << 20},
			{"quiet", tinyOne.name, crowd}:       {Requests: 2000, Seconds: 1, CPU: 0.3},
			{"bare", tinyOne.name, crowd}:        {Requests: 1000, Seconds: 1, CPU: 0.1},
			{"cost", tinyOne.name, 0}:            {Requests: 1000, Seconds: 0.0005, CPU: 0.0005},
			{"cost redis", tinyOne.name, 0}:      {Requests: 1000, Seconds: 0.05, CPU: 0.02},
			{"raw", tinyOne.name, 0}:             {Requests: 1000, Seconds: 1, CPU: 0.1, Version: "9.9"},
			{"raw", denseOne.name, 0}:            {Requests: 1000, Seconds: 1, CPU: 0.1},
			{"gate", denseOne.name, crowd}:       {Requests: 500, Seconds: 1, CPU: 0.1},
			{"gate inside", tinyOne.name, crowd}: {Requests: 500, Seconds: 1, CPU: 0.1},
			{"gate inside", tinyOne.name, alone}: {Requests: 500, Seconds: 1, CPU: 0.05, P50: 0.05},
			{"loads inside", tinyOne.name, 0}:    {Requests: 20, Seconds: 0.02, CPU: 0.02},
			{"users", "1", crowd}:                {Requests: 1000, Seconds: 1, CPU: 0.1},
			{"users", "1000000", crowd}:          {Requests: 1000, Seconds: 1, CPU: 0.1 + float64(i)/1000},
		})
	}
	text := r.markdown()
	for _, want := range []string{
		"64 clients, JSON: CPU per request / gin hello's | 1.40 (1.00 to 3.00) | <= 1.45 | holds, not in every round |",
		"JSON, without the access log: CPU per request / gin hello's | 1.50 (1.50 to 1.50) |  |  |",
		"gRPC: CPU per request / gin hello's | not measured: the server has no --grpc-listen |",
		"their parts in a row | 0.500 (0.500 to 0.500) | <= 2 | holds |",
		"with rates in Redis: CPU us per request, Redis's own apart | 20.0 (20.0 to 20.0) |",
		"with rates in Redis: us that one caller waits | 50.0 (50.0 to 50.0) |",
		"access log apart: CPU us per request | 50.0 (50.0 to 50.0) |",
		"allocations per tiny request, JSON | 40.0 (40.0 to 40.0) | <= 31 | falls short |",
		"dense MLP, 6 MB, 64 clients, JSON: requests/s / raw runs/s | 0.500 (0.500 to 0.500) |",
		"batched, 64 clients, JSON: requests/s / raw runs/s | not measured: too new | >= 1.1 | |",
		"stored users: 1,000,000 / 1 | 1.01 (1.00 to 1.02) | <= 1.1 | holds |",
		"ONNX Runtime 9.9; 3 rounds", "(benchmarks/growth.svg)",
		"| modelgate, JSON, MLP 4-16-3 | 64 | 1000 (1000 to 1000) |",
		"worker against in-process, MLP 4-16-3, 64 clients, JSON: CPU per request | 0.700 (0.500 to 1.50) | <= 1.1 | holds, not in every round |",
		"worker against in-process, MLP 4-16-3, 1 client, JSON: CPU per request | 2.00 (2.00 to 2.00) |",
		"1 client, JSON: p50, us more | 30.0 (30.0 to 30.0) |",
		"worker against in-process, MLP 4-16-3, 64 clients, binary: CPU per request | not measured | <= 1.1 | |",
		"load of MLP 4-16-3 in the sandbox: ms | 20.0 (20.0 to 20.0) |",
		"load of MLP 4-16-3 in the sandbox: CPU ms, with its first request | 25.0 (25.0 to 25.0) |",
		"load of MLP 4-16-3 in-process: ms | 1.00 (1.00 to 1.00) |",
		"one loaded MLP 4-16-3 in the sandbox: MiB | 10.0 (10.0 to 10.0) |",
		"one loaded MLP 4-16-3 in-process: MiB | not measured: only root",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	drawings := r.drawings()
	if len(drawings) != 3 {
		t.Errorf("there are %d plots, not one for each family that was measured", len(drawings))
	}
	for _, d := range drawings {
		if err := xml.Unmarshal([]byte(d.svg), new(struct{ XMLName xml.Name })); err != nil || !strings.Contains(d.svg, "whisker") {
			t.Errorf("%s: %v", d.name, err)
		}
	}
}

// TestMeasure runs the whole for one model with the real program: that all of
// its children work together, and that the document gets its table and plots.
func TestMeasure(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs a dozen servers")
	}
	if _, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB")); err != nil {
		t.Skip("ONNX Runtime is missing; make test fetches it: ", err)
	}
	folder := t.TempDir()
	t.Chdir("..")
	program := func(name string) string { return filepath.Join(folder, name) }
	s := settings{only: "iris", families: []string{growth}, quick: true, rounds: 1, warmup: 10 * time.Millisecond, duration: 100 * time.Millisecond,
		program: program("modelgate"), hello: program("hello"), bare: program("bare"), fill: program("fill"), docs: program("doc.md")}
	build := exec.Command("go", "build", "-o", folder, "./cmd/modelgate", "./bench/testdata/hello", "./bench/testdata/bare", "./bench/testdata/fill")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var err error
	if s.cost, err = os.Executable(); err != nil { // this binary has the benchmark
		t.Fatal(err)
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
	wanted := []string{"before", "after", "; 1 round in ", "| modelgate, JSON, iris", "| modelgate without access log", "| bare server, JSON, iris",
		"| ONNX Runtime alone, iris", "| the parts of the gate in a row | - | ",
		"| gin hello world", "registered models: 100 / 1 |", "stored users: 10,000 / 1 |", "connections besides: 500 / 0 |",
		"models called in turn: 8 / 1 |", "bodies of mixed sizes: MiB |",
		"trees), 64 clients, JSON: CPU per request |", "trees), 1 client, binary: p50, us more |",
		"trees) in the sandbox: ms |", "trees) in-process: ms |", "trees) in the sandbox: MiB |", "trees) in-process: MiB |",
		"| modelgate in-process, JSON, iris"}
	if speaksGRPC(t.Context(), s.program) {
		wanted = append(wanted, "| modelgate, gRPC, iris")
	}
	for _, want := range wanted {
		if !strings.Contains(string(written), want) {
			t.Errorf("%q is missing in\n%s", want, written)
		}
	}
	for _, name := range []string{tiny, growth} {
		if _, err := os.Stat(filepath.Join(folder, plotFolder, name+".svg")); err != nil {
			t.Error(err)
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

// TestDeaths: a server that ended during a measurement explains its failure.
func TestDeaths(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(output, []byte(`{"msg":"request","path":"/"}`+"\nout of memory\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ended, alive := make(chan struct{}), make(chan struct{})
	close(ended)
	err := deaths([]*server{{cmd: exec.Command("true"), output: output, done: ended}, {cmd: exec.Command("false"), done: alive}})
	if err == nil || !strings.HasSuffix(err.Error(), ": out of memory") || strings.Contains(err.Error(), "false") {
		t.Errorf("got %v", err)
	}
}

// TestRedial: a server that closes connections on requests that it refuses is
// still measured, where the plan says so, and by the requests that it answers.
func TestRedial(t *testing.T) {
	var seen atomic.Int64
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := seen.Add(1); {
		case n%3 == 0:
			panic(http.ErrAbortHandler) // closes without an answer
		case n%3 == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			fmt.Fprint(w, "x")
		}
	}))
	defer there.Close()
	address := there.Listener.Addr().String()
	p := plan{Address: address, PID: os.Getpid(), Request: get(address), Clients: 2, Duration: 50 * time.Millisecond, Lenient: true}
	if _, err := load(p); err == nil {
		t.Error("a closed connection was no failure")
	}
	p.Redial = true
	r, err := load(p)
	if err != nil || r.Requests == 0 || r.Failed == 0 {
		t.Errorf("%d answered, %d refused, %v", r.Requests, r.Failed, err)
	}
}
