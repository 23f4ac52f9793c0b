package api

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"modelgate/api/oipgrpc"
	"modelgate/api/oipgrpc/pb"
	"modelgate/auth"
)

// rpcMatrix holds, for every method, one request and what each caller of the
// matrix gets for it: a status code's number. Without a good credential every
// method that is not public answers 16.
var rpcMatrix = map[string]struct {
	message proto.Message
	public  bool
	status  [9]int
}{
	method("ServerLive"):            {&pb.ServerLiveRequest{}, true, same(0)},
	method("ServerReady"):           {&pb.ServerReadyRequest{}, true, same(0)},
	method("ServerMetadata"):        {&pb.ServerMetadataRequest{}, false, same(0)},
	method("ModelReady"):            {&pb.ModelReadyRequest{Name: "none"}, false, closedRPC},
	method("ModelMetadata"):         {&pb.ModelMetadataRequest{Name: "none"}, false, closedRPC},
	method("ModelConfig"):           {&pb.ModelConfigRequest{Name: "none"}, false, closedRPC},
	method("ModelStatistics"):       {&pb.ModelStatisticsRequest{Name: "none"}, false, closedRPC},
	method("ModelInfer"):            {&pb.ModelInferRequest{ModelName: "none"}, false, closedRPC},
	method("ModelStreamInfer"):      {&pb.ModelInferRequest{ModelName: "none"}, false, same(0)}, // refused inside
	method("RepositoryIndex"):       {&pb.RepositoryIndexRequest{}, false, same(0)},
	method("RepositoryModelLoad"):   {&pb.RepositoryModelLoadRequest{ModelName: "none"}, false, closedRPC},
	method("RepositoryModelUnload"): {&pb.RepositoryModelUnloadRequest{ModelName: "none"}, false, closedRPC},

	"/grpc.health.v1.Health/Check":                                   {&pb.ServerLiveRequest{}, true, same(0)},
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      {&pb.ServerLiveRequest{}, false, operatorsRPC},
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {&pb.ServerLiveRequest{}, false, operatorsRPC},
	"/grpc.health.v1.Health/Watch":                                   {nil, true, same(0)}, // has no end: TestRPCHealth
}

var (
	closedRPC    = [9]int{7, 7, 7, 7, 7, 5, 5, 5, 7}
	operatorsRPC = [9]int{7, 7, 7, 7, 0, 7, 0, 0, 7}
)

// TestRPCMatrix walks every method with every kind of caller and every state
// of a token.
func TestRPCMatrix(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	credential, _ := w.credentials()
	bad := w.badTokens()
	for _, r := range w.api.RPCs() {
		row, ok := rpcMatrix[r.Path]
		if !ok {
			t.Errorf("%s is missing in the matrix", r.Path)
			continue
		}
		if row.message == nil {
			continue
		}
		ask := func(token string) string {
			code, _, _ := w.rawPath(r.Path, token, nil, bytes.NewReader(frame(0, encoded(t, row.message))))
			return code
		}
		for i, caller := range callers {
			if got := ask(credential(caller)); got != fmt.Sprint(row.status[i]) {
				t.Errorf("%s, %s: status %s, want %d", r.Path, caller, got, row.status[i])
			}
		}
		for state, token := range bad {
			want := "16"
			if row.public {
				want = "0"
			}
			if got := ask(token); got != want {
				t.Errorf("%s, %s: status %s, want %s", r.Path, state, got, want)
			}
		}
	}
	if len(rpcMatrix) != len(w.api.RPCs()) {
		t.Errorf("the matrix has %d methods, the server %d", len(rpcMatrix), len(w.api.RPCs()))
	}
}

// TestRPCHealth: strangers learn whether the server serves, and nothing else.
func TestRPCHealth(t *testing.T) {
	var mu sync.Mutex
	var down error
	w := newRPCWorld(t, false, noLimits, func(_ *auth.Config, c *Config) {
		c.Ready = func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return down
		}
	})
	s, err := w.conn.NewStream(as(""), &grpc.StreamDesc{ServerStreams: true}, "/"+oipgrpc.HealthService+"/Watch")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SendMsg(&healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		var out healthpb.HealthCheckResponse
		if err := s.RecvMsg(&out); err != nil {
			t.Fatal(err)
		}
		if out.Status != want {
			t.Errorf("status %s, want %s", out.Status, want)
		}
		mu.Lock()
		down = fmt.Errorf("a canary")
		mu.Unlock()
	}
	var ready pb.ServerReadyResponse
	w.call(as(""), "ServerReady", &pb.ServerReadyRequest{}, &ready).ok()
	if ready.Ready {
		t.Error("ready, though it is not")
	}
}
