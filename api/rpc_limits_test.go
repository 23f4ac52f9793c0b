package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip"
	rpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"modelgate/api/oipgrpc"
	"modelgate/api/oipgrpc/pb"
	"modelgate/auth"
)

// rawCall sends a call as bytes, which no gRPC client would, and returns the
// status with its words.
func (w *rpcWorld) rawCall(name, token string, header http.Header, body io.Reader) (code, words string, answer *http.Response) {
	w.t.Helper()
	return w.rawPath(method(name), token, header, body)
}

func (w *rpcWorld) rawPath(path, token string, header http.Header, body io.Reader) (code, words string, answer *http.Response) {
	w.t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest("POST", "http://"+w.target+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for key, values := range header {
		req.Header[key] = values
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		w.t.Fatal(err)
	}
	return resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message"), resp
}

// frame is a message with its prefix, whose flag is flag.
func frame(flag byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message))), message...)
}

func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// endless is a body that never goes on after its first bytes.
func endless(first ...byte) io.ReadCloser {
	r, w := io.Pipe()
	go w.Write(first)
	return r
}

// TestRPCOverCap: messages beyond the cap, as sent and as expanded, are refused
// without being held.
func TestRPCOverCap(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	w.iris()
	var out pb.ModelInferResponse
	large := rawRequest("iris", "X", "FP32", []int64{1, 4}, make([]byte, 1<<20))
	w.call(as(w.admin), "ModelInfer", large, &out).refused(codes.ResourceExhausted, "larger than")
	w.call(as(w.admin), "ModelInfer", large, &out, grpc.UseCompressor("gzip")).refused(codes.ResourceExhausted, "larger than")
	// Nobody waits for a message that is said to be too large.
	if code, _, _ := w.rawCall("ModelInfer", w.admin, nil, endless(0, 0xff, 0xff, 0xff, 0xff)); code != "8" {
		t.Errorf("a message said to have 4 GiB: status %s", code)
	}
	var bomb bytes.Buffer
	z, _ := gzip.NewWriterLevel(&bomb, gzip.BestCompression)
	for range 1 << 10 {
		z.Write(make([]byte, 1<<20))
	}
	z.Close()
	if bomb.Len() > 1<<20 {
		bomb.Truncate(1 << 20)
	}
	if code, words, _ := w.rawCall("ModelInfer", w.admin, http.Header{"Grpc-Encoding": {"gzip"}}, bytes.NewReader(frame(1, bomb.Bytes()[:1<<19]))); code != "8" {
		t.Errorf("1 MB that expands to 1 GB: status %s, %s", code, words)
	}
	w.heldNothing()
	w.call(as(w.admin), "ModelInfer", row("iris"), &out, grpc.UseCompressor("gzip")).ok()
}

// heldNothing waits until no message is held any more.
func (w *rpcWorld) heldNothing() {
	w.t.Helper()
	for limit := time.Now().Add(5 * time.Second); ; {
		held := w.api.bodies.InUse() + w.api.small.InUse() + w.api.reserve.InUse()
		if held == 0 && w.memory.InUse() == 0 {
			return
		}
		if time.Now().After(limit) {
			w.t.Fatalf("%v bytes of messages and %d of tensors are still held", held, w.memory.InUse())
		}
		w.get("/healthz", "").is(200)
	}
}

// TestRPCFraming: what is no gRPC is refused, and not waited for longer than
// the grace.
func TestRPCFraming(t *testing.T) {
	w := newRPCWorld(t, false, noLimits, withGrace)
	w.iris()
	whole := frame(0, encoded(t, row("iris")))
	for what, c := range map[string]struct {
		header http.Header
		body   io.Reader
		code   string
	}{
		"whole":                    {nil, bytes.NewReader(whole), "0"},
		"in single bytes":          {nil, &oneByOne{whole}, "0"},
		"no message":               {nil, http.NoBody, "3"},
		"half a prefix":            {nil, bytes.NewReader(whole[:3]), "3"},
		"half a message":           {nil, bytes.NewReader(whole[:20]), "3"},
		"two messages":             {nil, bytes.NewReader(append(whole[:len(whole):len(whole)], whole...)), "3"},
		"an unknown flag":          {nil, bytes.NewReader(frame(2, nil)), "3"},
		"compressed, unsaid":       {nil, bytes.NewReader(frame(1, whole)), "3"},
		"no gzip at all":           {http.Header{"Grpc-Encoding": {"gzip"}}, bytes.NewReader(frame(1, whole)), "3"},
		"an unknown coding":        {http.Header{"Grpc-Encoding": {"zstd"}}, bytes.NewReader(frame(1, whole)), "12"},
		"a broken message":         {nil, bytes.NewReader(frame(0, []byte{0xff, 0xff})), "3"},
		"a bad timeout":            {http.Header{"Grpc-Timeout": {"soon"}}, bytes.NewReader(whole), "3"},
		"a message that stalls":    {nil, endless(whole[:20]...), "4"},
		"a call that does not end": {nil, endless(whole...), "4"},
	} {
		if code, words, resp := w.rawCall("ModelInfer", w.admin, c.header, c.body); code != c.code || resp.StatusCode != 200 {
			t.Errorf("%s: status %s, want %s: %s", what, code, c.code, words)
		}
	}
	if _, _, resp := w.rawCall("ModelInfer", w.admin, http.Header{"Content-Type": {"application/json"}}, strings.NewReader("{}")); resp.StatusCode != 415 {
		t.Errorf("JSON on the gRPC port: HTTP status %d", resp.StatusCode)
	}
	w.heldNothing()
}

// oneByOne gives its bytes one at a time.
type oneByOne struct{ left []byte }

func (o *oneByOne) Read(p []byte) (int, error) {
	if len(o.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:1], o.left)
	o.left = o.left[n:]
	return n, nil
}

// TestRPCBeforeReading: who has no good credential, or is over his rate, is
// answered before his message comes.
func TestRPCBeforeReading(t *testing.T) {
	w := newRPCWorld(t, false, func(_ *auth.Config, c *Config) {
		c.Limits = Limits{Predict: "2-M", Login: "1000000-S", Unauthenticated: "3-M"}
	})
	w.iris()
	_, ada := w.user("ada")
	var out pb.ModelInferResponse
	two := typedRequest("iris", "X", "FP32", []int64{2, 4}, &pb.InferTensorContents{Fp32Contents: make([]float32, 8)})
	o := w.call(as(ada), "ModelInfer", two, &out).ok()
	if got := o.header["x-ratelimit-remaining"]; len(got) != 1 || got[0] != "0" {
		t.Errorf("two rows of two leave %v", got)
	}
	code, words, resp := w.rawCall("ModelInfer", ada, nil, endless())
	if code != "8" || resp.Header.Get("Retry-After") == "" || !strings.Contains(words, "rate") {
		t.Errorf("over the rate: status %s, %s, %v", code, words, resp.Header)
	}
	_, eve := w.user("eve")
	three := typedRequest("iris", "X", "FP32", []int64{3, 4}, &pb.InferTensorContents{Fp32Contents: make([]float32, 12)})
	w.call(as(eve), "ModelInfer", three, &out).refused(codes.ResourceExhausted, "3 rows at once are more than the 2")
	if code, _, _ := w.rawCall("ModelInfer", "", nil, endless()); code != "16" {
		t.Errorf("without credentials: status %s", code)
	}
	last := ""
	for range 5 {
		last, _, _ = w.rawCall("ModelInfer", "nonsense", nil, endless())
	}
	if last != "8" {
		t.Errorf("the fifth bad credential: status %s", last)
	}
}

// TestRPCCancel: a client that leaves in any phase ends what was done for him.
func TestRPCCancel(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	w.iris()
	gate := w.fake.HoldRuns()
	leaves := func(ctx context.Context) (cancel context.CancelFunc, gone chan error) {
		ctx, cancel = context.WithCancel(ctx)
		gone = make(chan error, 1)
		go func() {
			gone <- w.conn.Invoke(ctx, method("ModelInfer"), row("iris"), new(pb.ModelInferResponse))
		}()
		return cancel, gone
	}
	left := func(what string, err error) {
		t.Helper()
		if rpcstatus.Code(err) != codes.Canceled {
			t.Errorf("%s: %v", what, err)
		}
	}
	// While it runs.
	cancel, gone := leaves(as(w.admin))
	gate.Await(t, 1)
	cancel()
	left("during the run", <-gone)
	// While it waits: two slots are taken.
	cancelA, goneA := leaves(as(w.admin))
	cancelB, goneB := leaves(as(w.admin))
	gate.Await(t, 2)
	cancel, gone = leaves(as(w.admin))
	w.metric(`modelgate_inference_queued 1`)
	cancel()
	left("in the queue", <-gone)
	w.metric(`modelgate_inference_queued 0`)
	cancelA()
	cancelB()
	left("", <-goneA)
	left("", <-goneB)
	// Before the message came.
	stream, err := w.conn.NewStream(as(w.admin), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method("ModelStreamInfer"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(as(w.admin))
	stream, err = w.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method("ModelInfer"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	left("before the message", stream.RecvMsg(new(pb.ModelInferResponse)))
	// By its own deadline, which the server hears of.
	ctx, cancel = context.WithTimeout(as(w.admin), 200*time.Millisecond)
	defer cancel()
	err = w.conn.Invoke(ctx, method("ModelInfer"), row("iris"), new(pb.ModelInferResponse))
	if rpcstatus.Code(err) != codes.DeadlineExceeded {
		t.Errorf("after its deadline: %v", err)
	}
	w.metric(`modelgate_inference_running 0`)
	gate.Open()
	w.call(as(w.admin), "ModelInfer", row("iris"), new(pb.ModelInferResponse)).ok()
	w.heldNothing()
}

// metric waits until the metrics have the line.
func (w *rpcWorld) metric(line string) {
	w.t.Helper()
	for limit := time.Now().Add(10 * time.Second); ; {
		families := string(w.get("/admin/metrics", w.admin).is(200).Body)
		if strings.Contains(families, line+"\n") {
			return
		}
		if time.Now().After(limit) {
			w.t.Fatalf("the metrics never had %q", line)
		}
	}
}

// TestRPCDeadlineOfServer: the time of a run is the server's, whatever the
// client would wait.
func TestRPCDeadlineOfServer(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	w.iris()
	w.do(request{method: "PATCH", path: "/models/iris", token: w.admin, json: `{"serving":{"timeout_ms":50}}`}).is(200)
	gate := w.fake.HoldRuns()
	defer gate.Open()
	w.call(as(w.admin), "ModelInfer", row("iris"), new(pb.ModelInferResponse)).refused(codes.DeadlineExceeded, "took too long")
}

// TestRPCLargeMessages: 200 large messages at once under a small budget: some
// are refused with a time to come back, none is held beyond the budget, and a
// small request goes through all the while.
func TestRPCLargeMessages(t *testing.T) {
	w := newRPCWorld(t, false, noLimits, func(_ *auth.Config, c *Config) { c.BodyBudget = 2 << 20 })
	w.iris()
	var users []string
	for i := range 4 {
		_, token := w.user(fmt.Sprintf("user%d", i))
		users = append(users, token)
	}
	rows := int64(60000)
	large := rawRequest("iris", "X", "FP32", []int64{rows, 4}, make([]byte, 16*rows))
	var wg sync.WaitGroup
	var mu sync.Mutex
	counts := map[codes.Code]int{}
	most := int64(0)
	for i := range 200 {
		wg.Go(func() {
			err := w.conn.Invoke(as(users[i%len(users)]), method("ModelInfer"), large, new(pb.ModelInferResponse))
			mu.Lock()
			defer mu.Unlock()
			counts[rpcstatus.Code(err)]++
			most = max(most, w.api.bodies.InUse())
		})
	}
	small := w.dial()
	for range 100 {
		ctx, cancel := context.WithTimeout(as(users[0]), 20*time.Second)
		err := small.Invoke(ctx, method("ModelMetadata"), &pb.ModelMetadataRequest{Name: "iris"}, new(pb.ModelMetadataResponse))
		cancel()
		if err != nil {
			t.Fatalf("a small request: %v", err)
		}
	}
	wg.Wait()
	if counts[codes.OK] == 0 || counts[codes.OK]+counts[codes.Unavailable] != 200 {
		t.Errorf("answers by code: %v", counts)
	}
	if most > 2<<20 {
		t.Errorf("%v bytes were held under a budget of 2 MiB", most)
	}
	w.heldNothing()
}

// TestRPCStream: answers come in the order of their requests, a refused
// request does not end the stream, and a revoked token does.
func TestRPCStream(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	w.iris()
	_, ada := w.user("ada")
	open := func(token string) grpc.ClientStream {
		t.Helper()
		s, err := w.conn.NewStream(as(token), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method("ModelStreamInfer"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open(ada)
	bad := row("closed")
	bad.Id = "b"
	large := rawRequest("iris", "X", "FP32", []int64{1, 4}, make([]byte, 900<<10)) // of a wrong size, and beyond a first buffer
	for _, in := range []*pb.ModelInferRequest{row("iris"), bad, large, row("iris")} {
		if err := s.SendMsg(in); err != nil {
			t.Fatal(err)
		}
	}
	for i, words := range []string{"", "no such model", "bytes", ""} {
		var out pb.ModelStreamInferResponse
		if err := s.RecvMsg(&out); err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if !strings.Contains(out.ErrorMessage, words) || (words == "") != (out.ErrorMessage == "") {
			t.Errorf("answer %d: %q", i, out.ErrorMessage)
		}
		if words == "" && (out.InferResponse == nil || len(out.InferResponse.RawOutputContents) != 2) {
			t.Errorf("answer %d: %v", i, &out)
		}
		if i == 1 && out.InferResponse.GetId() != "b" {
			t.Errorf("a refusal without its id: %v", &out)
		}
	}
	w.post("/logout", ada, nil).is(204)
	if err := s.SendMsg(row("iris")); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(new(pb.ModelStreamInferResponse)); rpcstatus.Code(err) != codes.Unauthenticated {
		t.Errorf("a revoked token goes on: %v", err)
	}

	s = open(w.admin)
	if err := s.SendMsg(rawRequest("iris", "X", "FP32", []int64{1, 4}, make([]byte, 1<<20))); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(new(pb.ModelStreamInferResponse)); rpcstatus.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message over the cap: %v", err)
	}
	w.heldNothing()
}

// TestRPCStreamRate: each message of a stream costs its rows.
func TestRPCStreamRate(t *testing.T) {
	w := newRPCWorld(t, false, func(_ *auth.Config, c *Config) { c.Limits = Limits{Predict: "3-M", Login: "1000000-S"} })
	w.iris()
	s, err := w.conn.NewStream(as(w.admin), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method("ModelStreamInfer"))
	if err != nil {
		t.Fatal(err)
	}
	two := typedRequest("iris", "X", "FP32", []int64{2, 4}, &pb.InferTensorContents{Fp32Contents: make([]float32, 8)})
	for _, in := range []*pb.ModelInferRequest{two, row("iris"), two, row("iris")} {
		if err := s.SendMsg(in); err != nil {
			t.Fatal(err)
		}
	}
	for i, refused := range []bool{false, false, true, true} {
		var out pb.ModelStreamInferResponse
		if err := s.RecvMsg(&out); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.ErrorMessage, "rate") != refused {
			t.Errorf("message %d: %q", i, out.ErrorMessage)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(new(pb.ModelStreamInferResponse)); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// TestRPCShutdown: streams that wait are told, and do not hold up the end.
func TestRPCShutdown(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	var streams []grpc.ClientStream
	for _, path := range []string{method("ModelStreamInfer"), "/" + oipgrpc.ReflectionService + "/ServerReflectionInfo"} {
		s, err := w.conn.NewStream(as(w.admin), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Header(); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.server.Shutdown(ctx); err != nil {
		t.Errorf("the server waits for a stream that waits: %v", err)
	}
	for _, s := range streams {
		if err := s.RecvMsg(new(pb.ModelStreamInferResponse)); rpcstatus.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "closing") {
			t.Errorf("a stream ended with %v", err)
		}
	}
}

// TestRPCPanic is row H9 over gRPC.
func TestRPCPanic(t *testing.T) {
	w := newRPCWorld(t, false, noLimits, func(_ *auth.Config, c *Config) {
		c.Ready = func(context.Context) error { panic("a canary in a panic") }
	})
	for range 2 {
		o := w.call(as(""), "ServerReady", &pb.ServerReadyRequest{}, new(pb.ServerReadyResponse))
		if words := o.refused(codes.Internal, "request id"); strings.Contains(words, "canary") {
			t.Errorf("the answer shows the panic: %s", words)
		}
		w.call(as(""), "ServerLive", &pb.ServerLiveRequest{}, new(pb.ServerLiveResponse)).ok()
	}
}
