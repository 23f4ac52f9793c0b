package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// plainHTTP2 is a server that speaks HTTP/2 without TLS, as gRPC's listener
// does on loopback.
func plainHTTP2(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	there := httptest.NewUnstartedServer(h)
	there.Config.Protocols = new(http.Protocols)
	there.Config.Protocols.SetUnencryptedHTTP2(true)
	there.Start()
	t.Cleanup(there.Close)
	return there.Listener.Addr().String()
}

// answerGRPC writes a message and, behind it, the status.
func answerGRPC(w http.ResponseWriter, status string, message []byte) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	w.Header().Set("X-Long", strings.Repeat("x", 20000)) // its headers take more than one frame
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))) // a client that left is seen there
	_, _ = w.Write(message)
	w.Header().Set("Grpc-Status", status)
	w.Header().Set("Grpc-Message", "what went wrong")
}

// TestGRPCLoad: messages much larger than the windows, and answers, come
// through whole, call after call on few connections.
func TestGRPCLoad(t *testing.T) {
	image := model{name: "squeezenet", input: "x", shape: []int64{1, 3, 224, 224}}
	want := inferMessage(image)
	var seen, wrong atomic.Int64
	address := plainHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.Path != inferMethod || r.Header.Get("Authorization") != "Bearer good" ||
			r.Header.Get("Content-Type") != "application/grpc" || r.Header.Get("TE") != "trailers" || len(body) != 5+len(want) ||
			body[0] != 0 || binary.BigEndian.Uint32(body[1:]) != uint32(len(want)) || !bytes.Equal(body[5:], want) {
			wrong.Add(1)
		}
		answerGRPC(w, "0", make([]byte, 100_000))
	})
	result, err := load(plan{Address: address, PID: os.Getpid(), Request: want, GRPC: true, Token: "good", Clients: 2,
		Duration: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if n := int64(result.Requests); n == 0 || n != seen.Load() || wrong.Load() > 0 {
		t.Errorf("%d calls counted, %d came, %d of them wrong", n, seen.Load(), wrong.Load())
	}
}

// TestGRPCRefusals: whatever is no answer fails the measurement.
func TestGRPCRefusals(t *testing.T) {
	big := make([]byte, 1<<20)
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"a status behind a message": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			answerGRPC(w, "8", []byte("x"))
		}, `gRPC status "8": what went wrong`},
		"a status alone": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Grpc-Status", "16")
		}, `gRPC status "16"`},
		"before the message was read": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Grpc-Status", "8")
			w.Header().Set("Grpc-Message", "too large")
		}, "too large"},
		"another protocol":  {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) }, "404"},
		"no message at all": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Grpc-Status", "0") }, "without a message"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(plan{Address: plainHTTP2(t, c.handler), PID: os.Getpid(), Request: big, GRPC: true, Clients: 1, Duration: time.Second})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestInferMessage reads the message back, field by field.
func TestInferMessage(t *testing.T) {
	fields := func(b []byte) map[protowire.Number][]byte {
		found := map[protowire.Number][]byte{}
		for len(b) > 0 {
			number, kind, n := protowire.ConsumeTag(b)
			if n < 0 || kind != protowire.BytesType {
				t.Fatalf("a field of kind %d", kind)
			}
			content, m := protowire.ConsumeBytes(b[n:])
			if m < 0 {
				t.Fatal(protowire.ParseError(m))
			}
			found[number], b = content, b[n+m:]
		}
		return found
	}
	m := model{name: "encoder", input: "x", shape: []int64{1, 300}, ids: true}
	request := fields(inferMessage(m))
	tensor := fields(request[5])
	if string(request[1]) != "encoder" || string(tensor[1]) != "x" || string(tensor[2]) != "INT64" ||
		!slices.Equal(tensor[3], []byte{1, 0xac, 2}) || len(request[7]) != 8*300 {
		t.Errorf("the request is %q, its tensor %q", request, tensor)
	}
}

// TestInfer: the parts of a binary request add up.
func TestInfer(t *testing.T) {
	var failure error
	there := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var header int
		if _, err := fmt.Sscan(r.Header.Get("Inference-Header-Content-Length"), &header); err != nil || r.URL.Path != "/v2/models/m/infer" {
			failure = fmt.Errorf("%s: %v", r.URL.Path, err)
		} else if want := `{"inputs":[{"name":"x","datatype":"FP32","shape":[2,3],"parameters":{"binary_data_size":24}}],` +
			`"parameters":{"binary_data_output":true}}`; string(body[:header]) != want || len(body) != header+24 {
			failure = fmt.Errorf("the body is %q", body)
		}
	}))
	defer there.Close()
	at := &server{address: there.Listener.Addr().String()}
	w, err := dialHTTP(at.address)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.exchange(infer(at, model{name: "m", input: "x", shape: []int64{2, 3}})); err != nil {
		t.Fatal(err)
	}
	if failure != nil {
		t.Error(failure)
	}
}

// TestBenchmarkLine reads what Go's tool prints.
func TestBenchmarkLine(t *testing.T) {
	r, err := benchmarkLine("goos: linux\nBenchmarkGate-2   \t 2000000\t       800.0 ns/op\t       600.0 cpu-ns/op\t       8 B/op\t       3 allocs/op\nPASS\n", "BenchmarkGate")
	if err != nil || r.Requests != 2_000_000 || r.CPUPerThousand() < 0.0005999 || r.CPUPerThousand() > 0.0006001 || r.Allocations() != 3 {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, out := range []string{"", "PASS\n", "BenchmarkGateway-2 1 1 ns/op\n", "BenchmarkGate-2 many 1 ns/op\n"} {
		if _, err := benchmarkLine(out, "BenchmarkGate"); err == nil {
			t.Errorf("%q was taken", out)
		}
	}
}

// TestAllocations: what reading the metrics allocates is taken off.
func TestAllocations(t *testing.T) {
	const reading, request = 1000, 30
	var total atomic.Int64
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			total.Add(request)
			fmt.Fprint(w, "x")
			return
		}
		if r.Header.Get("Authorization") != "Bearer reader" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, "# HELP x\ngo_memstats_mallocs_total %g\n", float64(total.Load()))
		total.Add(reading)
	}))
	defer there.Close()
	address := there.Listener.Addr().String()
	p := plan{Address: address, PID: os.Getpid(), Request: get(address), Metrics: there.URL + "/metrics", Reader: "reader",
		Clients: 2, Duration: 50 * time.Millisecond}
	r, err := load(p)
	if err != nil || r.Allocations() != request {
		t.Errorf("%g allocations a request, %v", r.Allocations(), err)
	}
	p.Reader = "nobody"
	if _, err := load(p); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("metrics that can't be read gave %v", err)
	}
}
