package api

import (
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	rpcstatus "google.golang.org/grpc/status"

	"modelgate/api/oipgrpc"
	"modelgate/api/oipgrpc/pb"
)

// TestRPCFrameSize: a stranger's large frame is not read into memory, which his
// connection would keep.
func TestRPCFrameSize(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	conn, err := net.Dial("tcp", w.target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(conn, conn)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteRawFrame(0xee, 0, 0, make([]byte, rpcFrame+1)); err != nil {
		t.Fatal(err)
	}
	for {
		got, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("the connection ended without a word: %v", err)
		}
		if end, ok := got.(*http2.GoAwayFrame); ok {
			if end.ErrCode != http2.ErrCodeFrameSize {
				t.Errorf("the connection ended with %v", end.ErrCode)
			}
			return
		}
	}
}

// TestRPCStreamWaits: the time to take one answer does not run on while the
// stream waits for its next message, or computes.
func TestRPCStreamWaits(t *testing.T) {
	w := newRPCWorld(t, false, noLimits, withGrace)
	w.iris()
	s, err := w.conn.NewStream(as(w.admin), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method("ModelStreamInfer"))
	if err != nil {
		t.Fatal(err)
	}
	exchange := func(between func()) {
		t.Helper()
		if err := s.SendMsg(row("iris")); err != nil {
			t.Fatal(err)
		}
		between()
		var out pb.ModelStreamInferResponse
		if err := s.RecvMsg(&out); err != nil || out.ErrorMessage != "" {
			t.Fatal(err, out.ErrorMessage)
		}
	}
	const longer = 700 * time.Millisecond // than withGrace's
	exchange(func() {})
	<-time.After(longer)
	gate := w.fake.HoldRuns()
	exchange(func() {
		gate.Await(t, 1)
		<-time.After(longer)
		gate.Open()
	})
}

// TestRPCWatchers: watches without credentials are bounded, and one too many
// tells clients to go on without, not that the server is down.
func TestRPCWatchers(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	watch := func() error {
		s, err := w.conn.NewStream(as(""), &grpc.StreamDesc{ServerStreams: true}, "/"+oipgrpc.HealthService+"/Watch")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SendMsg(&healthpb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		return s.RecvMsg(new(healthpb.HealthCheckResponse))
	}
	for i := range maxWatchers {
		if err := watch(); err != nil {
			t.Fatalf("watcher %d: %v", i+1, err)
		}
	}
	if err := watch(); rpcstatus.Code(err) != codes.Unimplemented {
		t.Errorf("one watcher too many gets %v", err)
	}
}
