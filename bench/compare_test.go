package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// doubler answers twice the numbers it gets, in each of the ways that servers
// of the comparison speak. It reads with encoding/json and by hand, not with
// what writes the requests.
func doubler(t *testing.T) *server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /m/predict", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ X [][]float64 }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Header.Get("Authorization") != "Bearer good" {
			http.Error(w, "not that", http.StatusBadRequest)
			return
		}
		for i := range body.X[0] {
			body.X[0][i] *= 2
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"probabilities": body.X})
	})
	mux.HandleFunc("POST /v2/models/m/infer", func(w http.ResponseWriter, r *http.Request) {
		all, _ := io.ReadAll(r.Body)
		header, binaryBody := len(all), false
		if text := r.Header.Get("Inference-Header-Content-Length"); text != "" {
			header, _ = strconv.Atoi(text)
			binaryBody = true
		}
		var body struct {
			Inputs []struct {
				Name, Datatype string
				Shape          []int
				Data           []float64
				Parameters     struct {
					Size int `json:"binary_data_size"`
				}
			}
		}
		if err := json.Unmarshal(all[:header], &body); err != nil || len(body.Inputs) != 1 {
			http.Error(w, "not that", http.StatusBadRequest)
			return
		}
		in, tail := body.Inputs[0], all[header:]
		if in.Name != "x" || in.Datatype != "FP32" || !slices.Equal(in.Shape, []int{1, 3}) || in.Parameters.Size != len(tail) {
			http.Error(w, "not that input", http.StatusBadRequest)
			return
		}
		if !binaryBody {
			fmt.Fprintf(w, `{"outputs":[{"name":"y","shape":[1,3],"datatype":"FP32","data":[%g,%g,%g]}]}`, in.Data[0]*2, in.Data[1]*2, in.Data[2]*2)
			return
		}
		answer := []byte(`{"outputs":[{"name":"y","shape":[1,3],"parameters":{"binary_data_size":12}}]}`)
		w.Header().Set("Inference-Header-Content-Length", strconv.Itoa(len(answer)))
		for i := 0; i < len(tail); i += 4 {
			f := 2 * math.Float32frombits(binary.LittleEndian.Uint32(tail[i:]))
			answer = binary.LittleEndian.AppendUint32(answer, math.Float32bits(f))
		}
		_, _ = w.Write(answer)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return &server{address: s.Listener.Addr().String(), token: "good"}
}

// TestAnswersAreChecked: all bodies reach a server whole, its numbers come
// back, and numbers that are not those of the runtime are noted.
func TestAnswersAreChecked(t *testing.T) {
	m := model{name: "m", title: "M", input: "x", shape: []int64{1, 3}}
	var want []float64
	for _, f := range values(3) {
		want = append(want, 2*float64(f))
	}
	bodies := []body{
		{plainJSON, nestedTo("/%s/predict", ""), numbersAt("probabilities")},
		{oipJSON, inferJSON, numbersAt("outputs", "data")},
		{oipBinary, inferBinary, binaryNumbers},
	}
	e := entrant{contender: contender{name: "d", bodies: bodies}, at: doubler(t)}
	e.prepare(t.Context(), []model{m}, map[string][]float64{"m": want})
	if len(e.broken) != 0 || len(e.sent) != 3 {
		t.Errorf("%d requests were made, and of right answers is said: %v", len(e.sent), e.broken)
	}
	for _, wrong := range [][]float64{{want[0], want[1], want[2] + 1e-4}, want[:2], {want[0], math.NaN(), want[2]}} {
		e.prepare(t.Context(), []model{m}, map[string][]float64{"m": wrong})
		if len(e.broken) != 3 {
			t.Errorf("%v was expected; of other answers is said: %v", wrong, e.broken)
		}
	}
	one := round{}
	e.measure(t.Context(), one, bodies[0], "m", plan{Clients: 1, Duration: time.Millisecond})
	if len(one) != 0 {
		t.Error("a server with wrong answers was measured")
	}
}

// TestLoadCountsRefusals: with leave, they are counted, and the others still
// measured.
func TestLoadCountsRefusals(t *testing.T) {
	var n int
	half := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n++; n%2 == 0 {
			w.Header().Set("Content-Length", "5000")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, strings.Repeat("busy ", 1000))
		}
	}))
	defer half.Close()
	address := half.Listener.Addr().String()
	p := plan{Address: address, PID: os.Getpid(), Request: get(address), Clients: 1, Duration: 50 * time.Millisecond, Lenient: true}
	r, err := load(p)
	if err != nil || r.Requests == 0 || r.Failed < r.Requests-1 || r.Requests+r.Failed != n {
		t.Errorf("of %d requests, every second refused, was counted %+v, %v", n, r, err)
	}
}

// TestContenderThatFails: it is told why, and does not stop the others.
func TestContenderThatFails(t *testing.T) {
	pythons := pythonsOf("litserve - no such package\nfastapi /bin/sh\n")
	files := []string{"m.onnx"}
	if _, err := (contender{name: "litserve"}).start(t.Context(), pythons["litserve"], t.TempDir(), files); err == nil ||
		!strings.Contains(err.Error(), "no such package") {
		t.Errorf("of one that is not installed is said %v", err)
	}
	if _, err := (contender{name: "mlserver"}).start(t.Context(), pythons["mlserver"], t.TempDir(), files); err == nil {
		t.Error("one of which nothing is known has started")
	}
	python := filepath.Join(t.TempDir(), "python")
	if err := os.WriteFile(python, []byte("#!/bin/sh\necho Traceback\necho 'ImportError: gone'\necho ';'\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := (contender{name: "fastapi", ready: "/"}).start(t.Context(), python, t.TempDir(), files); err == nil ||
		err.Error() != "it did not start: ImportError: gone" {
		t.Errorf("of one that ends is said %v", err)
	}
}

// TestStraysAreKilled: a process that outlives its server ends with the rest.
func TestStraysAreKilled(t *testing.T) {
	if err := adoptOrphans(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Skip("no sh or no sleep here: ", err)
	}
	stray, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(family(os.Getpid()), stray) {
		t.Fatal("the process whose parent ended is not ours")
	}
	killStrays()
	process, err := os.FindProcess(stray)
	if err != nil {
		t.Fatal(err)
	}
	state, err := process.Wait() // it is ours by now
	if err != nil || state.Success() {
		t.Errorf("it ended with %v, %v", state, err)
	}
}

// TestComparisonReport computes the table of made-up rounds.
func TestComparisonReport(t *testing.T) {
	t.Chdir("..")
	m := measured[slices.IndexFunc(measured, func(m model) bool { return m.name == compared[0] })]
	gate, its := key{server: "modelgate/JSON", model: m.name, clients: crowd}, key{server: "fastapi/JSON", model: m.name, clients: crowd}
	c := comparison{Runtime: "9.9", report: report{Models: []model{m}}}
	for _, n := range []int{100, 200, 50} {
		c.Rounds = append(c.Rounds, round{
			gate:                           {Requests: 1000, Seconds: 1, CPU: 0.1},
			its:                            {Requests: n, Seconds: 1, CPU: 0.1, Failed: 10},
			{server: "raw", model: m.name}: {Requests: 1000, Seconds: 1, CPU: 0.1},
		})
	}
	c.Entrants = []*entrant{{contender: ours, at: &server{}}}
	for _, other := range others {
		c.Entrants = append(c.Entrants, &entrant{contender: other, at: &server{}, broken: map[key]string{}})
	}
	c.Entrants[1].broken[key{server: "fastapi/JSON", model: m.name, clients: alone}] = "it hung\nup there " + strings.Repeat("again ", 100)
	c.Entrants[2].at, c.Entrants[2].why = nil, "it could not be installed: gone"
	text := c.markdown()
	for _, want := range []string{
		"| FastAPI | JSON | 10.0 (5.00 to 20.0) | 10.0 (5.00 to 20.0) |", "| LitServe | JSON | - | - |",
		"| FastAPI | JSON | 64 | 100 (50.0 to 200)", "| 30 of 380 |", "| LitServe | JSON | 64 | not measured |",
		"- LitServe: `litserve==", "Not measured: it could not be installed: gone.",
		"  - MLP 4-16-3, JSON, one client: it hung up there again",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if len(line) > 120 && line[0] != '|' {
			t.Errorf("too long for a document: %s", line)
		}
	}
}
