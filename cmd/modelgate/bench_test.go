package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/client"
)

// TestBenchInterrupted presses ctrl-C, so to speak, in the middle of a sweep
// against a real server: what was measured until then is reported.
func TestBenchInterrupted(t *testing.T) {
	p := start(t, t.TempDir(), "MODELGATE_RATE_PREDICT=100000000-M")
	tokens, err := p.anonymous().Login(t.Context(), "admin", adminPassword)
	if err != nil {
		t.Fatal(err)
	}
	push(t, p.with(tokens.AccessToken), "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	target, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // it is interrupted too
	between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if seen.Add(1) == 50 {
			cancel()
		}
		proxy.ServeHTTP(w, r)
	}))
	defer between.Close()
	t.Setenv("MODELGATE_URL", between.URL)
	t.Setenv("MODELGATE_TOKEN", tokens.AccessToken)
	t.Chdir(t.TempDir())

	var out, errs bytes.Buffer
	begun := time.Now()
	code := run(ctx, []string{"bench", "iris", "--concurrency", "2,4", "--duration", "5m", "--warmup", "0s", "--json"},
		std{strings.NewReader(""), &out, &errs})
	if code != 0 || time.Since(begun) > time.Minute {
		t.Fatalf("exit %d after %s: %s", code, time.Since(begun), errs.String())
	}
	var report BenchReport
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if report.Stopped != "interrupted" || len(report.Levels) != 1 || report.Levels[0].Requests < 20 || len(report.Levels[0].Errors) > 0 {
		t.Errorf("the report of an interrupted sweep is %+v", report)
	}
}

// TestLoadObeysRetryAfter counts who asks a server that says wait.
func TestLoadObeysRetryAfter(t *testing.T) {
	var asked atomic.Int64
	for status, want := range map[int]int64{http.StatusTooManyRequests: 8, http.StatusServiceUnavailable: 8} {
		asked.Store(0)
		l := &load{send: func(context.Context) error {
			asked.Add(1)
			return &client.Error{Status: status, Code: "busy", Detail: "wait", RetryAfter: time.Hour}
		}}
		all, _ := l.level(t.Context(), 8, 0, 50*time.Millisecond)
		if n := asked.Load(); n > want {
			t.Errorf("%d: 8 callers who were told to wait an hour asked %d times", status, n)
		}
		pause, fatal := l.pending()
		if limited := status == http.StatusTooManyRequests; limited != (pause > 59*time.Minute) || fatal != nil {
			t.Errorf("%d: pending is %s, %v", status, pause, fatal)
		}
		var counted int64
		for _, f := range all.failures {
			counted += f.Count
		}
		if counted != asked.Load() {
			t.Errorf("%d: %d refusals counted of %d", status, counted, asked.Load())
		}
	}
}

// TestLoadEndsOnRefusal: what can only repeat itself is asked once by each.
func TestLoadEndsOnRefusal(t *testing.T) {
	var asked atomic.Int64
	l := &load{send: func(context.Context) error {
		asked.Add(1)
		return &client.Error{Status: http.StatusForbidden, Code: "forbidden", Detail: "no longer yours"}
	}}
	l.level(t.Context(), 4, 0, time.Minute)
	if _, fatal := l.pending(); fatal == nil || asked.Load() > 4 {
		t.Errorf("asked %d times, then %v", asked.Load(), fatal)
	}
}

// TestLatencies compares quantiles with those of the sorted times.
func TestLatencies(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var h, other latencies
	var all []time.Duration
	for i := range 20_000 {
		d := time.Duration(random.ExpFloat64() * float64(3*time.Millisecond))
		all = append(all, d)
		if i%2 == 0 {
			h.record(d)
		} else {
			other.record(d)
		}
	}
	h.add(&other)
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
		want, got := all[int(q*float64(len(all)))-1], h.quantile(q)
		if got < want-time.Microsecond || got > want+want/60+2*time.Microsecond {
			t.Errorf("quantile %g is %s, want %s", q, got, want)
		}
	}
	if h.longest != all[len(all)-1] || h.n != uint64(len(all)) {
		t.Errorf("%d times, the longest %s; want %d and %s", h.n, h.longest, len(all), all[len(all)-1])
	}
	h.record(1 << 62) // no time is out of bounds
	h.record(-1)
}

// TestMadeInputs: one of each kind, free dimensions filled.
func TestMadeInputs(t *testing.T) {
	got, err := madeInputs([]client.Tensor{
		{Name: "a", Datatype: "FP32", Shape: []int64{-1, 2}}, {Name: "b", Datatype: "BYTES", Shape: []int64{-1, -1}},
		{Name: "c", Datatype: "BOOL", Shape: []int64{}}, {Name: "d", Datatype: "INT64", Shape: []int64{0, 3}},
	}, 2)
	want := `{"a":[[1,1],[1,1]],"b":[["text"],["text"]],"c":true,"d":[]}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	huge := []client.Tensor{{Name: "a", Datatype: "FP32", Shape: []int64{1 << 40, 1 << 40}}}
	if _, err := madeInputs(huge, 1); err == nil {
		t.Error("an input of 2^80 numbers was made")
	}
	if _, err := madeInputs([]client.Tensor{{Name: "a", Datatype: "FP32", Shape: []int64{1, 2}}}, 5); err == nil {
		t.Error("five rows were put into an input of one")
	}
}
