package api

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	rpcmeta "google.golang.org/grpc/metadata"
	rpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"modelgate/api/oipgrpc"
	"modelgate/api/oipgrpc/pb"
)

// rpcWorld is a world that speaks gRPC, with grpc-go's client.
type rpcWorld struct {
	*world
	server *http.Server
	target string
	conn   *grpc.ClientConn
}

func newRPCWorld(t testing.TB, real bool, options ...option) *rpcWorld {
	t.Helper()
	w := &rpcWorld{world: newWorldOn(t, real, options...)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.server = w.api.RPCServer()
	go w.server.Serve(l)
	t.Cleanup(func() { w.server.Close() })
	w.target = l.Addr().String()
	w.conn = w.dial()
	return w
}

// dial makes a connection of its own.
func (w *rpcWorld) dial() *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpc.NewClient(w.target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

// as puts a credential into the metadata of calls; "" for none.
func as(token string, more ...string) context.Context {
	if token != "" {
		more = append(more, "authorization", "Bearer "+token)
	}
	return rpcmeta.AppendToOutgoingContext(context.Background(), more...)
}

func method(name string) string { return "/" + oipgrpc.InferenceService + "/" + name }

// outcomeOf is what a call got.
type outcomeOf struct {
	t       testing.TB
	what    string
	err     error
	header  rpcmeta.MD
	trailer rpcmeta.MD
}

func (w *rpcWorld) call(ctx context.Context, name string, in, out proto.Message, options ...grpc.CallOption) outcomeOf {
	w.t.Helper()
	o := outcomeOf{t: w.t, what: name}
	options = append(options, grpc.Header(&o.header), grpc.Trailer(&o.trailer))
	o.err = w.conn.Invoke(ctx, method(name), in, out, options...)
	return o
}

func (o outcomeOf) ok() outcomeOf {
	o.t.Helper()
	if o.err != nil {
		o.t.Fatalf("%s: %v", o.what, o.err)
	}
	return o
}

// refused checks a refusal and returns its words.
func (o outcomeOf) refused(code codes.Code, words string) string {
	o.t.Helper()
	s := rpcstatus.Convert(o.err)
	if s.Code() != code || !strings.Contains(s.Message(), words) {
		o.t.Fatalf("%s: %v, want %s with %q", o.what, o.err, code, words)
	}
	if len(o.header["x-request-id"]) != 1 {
		o.t.Errorf("%s: x-request-id is %v in the header metadata", o.what, o.header["x-request-id"])
	}
	return s.Message()
}

// row is a request for iris with one row, raw.
func row(model string) *pb.ModelInferRequest {
	return rawRequest(model, "X", "FP32", []int64{1, 4}, floats(5.1, 3.5, 1.4, 0.2))
}

func rawRequest(model, input, datatype string, shape []int64, data []byte) *pb.ModelInferRequest {
	return &pb.ModelInferRequest{ModelName: model, RawInputContents: [][]byte{data},
		Inputs: []*pb.ModelInferRequest_InferInputTensor{{Name: input, Datatype: datatype, Shape: shape}}}
}

func typedRequest(model, input, datatype string, shape []int64, contents *pb.InferTensorContents) *pb.ModelInferRequest {
	return &pb.ModelInferRequest{ModelName: model,
		Inputs: []*pb.ModelInferRequest_InferInputTensor{{Name: input, Datatype: datatype, Shape: shape, Contents: contents}}}
}

func int64At(b []byte, i int) int64 { return int64(binary.LittleEndian.Uint64(b[8*i:])) }

// TestRPCInfer is the main job over the real runtime.
func TestRPCInfer(t *testing.T) {
	w := newRPCWorld(t, true, noLimits)
	w.iris()
	_, ada := w.user("ada")
	in := row("iris")
	in.Id = "r 1"
	in.Inputs[0].Contents = nil
	var out pb.ModelInferResponse
	o := w.call(as(ada), "ModelInfer", in, &out).ok()
	if out.ModelName != "iris" || out.Id != "r 1" || out.ModelVersion != "" || len(out.Outputs) != 2 || len(out.RawOutputContents) != 2 {
		t.Fatalf("answer: %v", &out)
	}
	if x := out.Outputs[0]; x.Name != "label" || x.Datatype != "INT64" || !slices.Equal(x.Shape, []int64{1}) || x.Contents != nil {
		t.Errorf("label: %v", x)
	}
	if got := int64At(out.RawOutputContents[0], 0); got != 0 {
		t.Errorf("label %d", got)
	}
	if x := out.Outputs[1]; x.Name != "probabilities" || x.Datatype != "FP32" || !slices.Equal(x.Shape, []int64{1, 3}) || len(out.RawOutputContents[1]) != 12 {
		t.Errorf("probabilities: %v", x)
	}
	for _, name := range []string{"x-request-id", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} {
		if len(o.header[name]) != 1 {
			t.Errorf("%s: %v", name, o.header[name])
		}
	}

	typed := typedRequest("iris", "X", "FP32", []int64{2, 4}, &pb.InferTensorContents{Fp32Contents: []float32{5.1, 3.5, 1.4, 0.2, 6.7, 3, 5.2, 2.3}})
	typed.ModelVersion = "1"
	typed.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "label"}}
	w.call(as(ada), "ModelInfer", typed, &out).ok()
	if out.ModelVersion != "1" || len(out.Outputs) != 1 || int64At(out.RawOutputContents[0], 0) != 0 || int64At(out.RawOutputContents[0], 1) != 2 {
		t.Errorf("typed: %v", &out)
	}
}

// TestRPCMetadata asks for all that is not a prediction.
func TestRPCMetadata(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	w.iris()
	_, ada := w.user("ada")
	var live pb.ServerLiveResponse
	w.call(as(""), "ServerLive", &pb.ServerLiveRequest{}, &live).ok()
	var ready pb.ServerReadyResponse
	w.call(as(""), "ServerReady", &pb.ServerReadyRequest{}, &ready).ok()
	if !live.Live || !ready.Ready {
		t.Errorf("live %v, ready %v", live.Live, ready.Ready)
	}
	var server pb.ServerMetadataResponse
	w.call(as(ada), "ServerMetadata", &pb.ServerMetadataRequest{}, &server).ok()
	if server.Name != "modelgate" || server.Version != "test" || !slices.Contains(server.Extensions, "statistics") {
		t.Errorf("server: %v", &server)
	}
	var modelReady pb.ModelReadyResponse
	w.call(as(ada), "ModelReady", &pb.ModelReadyRequest{Name: "iris"}, &modelReady).ok()
	if !modelReady.Ready {
		t.Error("iris is not ready")
	}
	var model pb.ModelMetadataResponse
	w.call(as(ada), "ModelMetadata", &pb.ModelMetadataRequest{Name: "iris"}, &model).ok()
	if model.Name != "iris" || model.Platform != "modelgate" || len(model.Versions) != 0 || len(model.Inputs) != 1 ||
		!slices.Equal(model.Inputs[0].Shape, []int64{-1, 4}) || model.Inputs[0].Datatype != "FP32" || len(model.Outputs) != 2 {
		t.Errorf("model: %v", &model)
	}
	w.call(as(w.admin), "ModelMetadata", &pb.ModelMetadataRequest{Name: "iris", Version: "1"}, &model).ok()
	if !slices.Equal(model.Versions, []string{"1"}) {
		t.Errorf("versions for who manages: %v", model.Versions)
	}
	var index pb.RepositoryIndexResponse
	w.call(as(ada), "RepositoryIndex", &pb.RepositoryIndexRequest{Ready: true}, &index).ok()
	if len(index.Models) != 1 || index.Models[0].Name != "iris" || index.Models[0].State != "READY" || index.Models[0].Version != "" {
		t.Errorf("index: %v", &index)
	}
	var load pb.RepositoryModelLoadResponse
	for _, in := range []*pb.RepositoryModelLoadRequest{{ModelName: "iris"}, {RepositoryName: "iris"}} { // Triton's and KServe's
		w.call(as(ada), "RepositoryModelLoad", in, &load).refused(codes.PermissionDenied, "")
		w.call(as(w.admin), "RepositoryModelLoad", in, &load).ok()
		if load.ModelName != "iris" || !load.IsLoaded {
			t.Errorf("load: %v", &load)
		}
	}
	var unload pb.RepositoryModelUnloadResponse
	w.call(as(ada), "RepositoryModelUnload", &pb.RepositoryModelUnloadRequest{ModelName: "iris"}, &unload).refused(codes.PermissionDenied, "")
	w.call(as(w.admin), "RepositoryModelUnload", &pb.RepositoryModelUnloadRequest{ModelName: "iris"}, &unload).refused(codes.InvalidArgument, "unloaded by themselves")
}

// TestRPCSameWords compares refusals with REST's: same words, and of a missing
// model the same as of a closed one.
func TestRPCSameWords(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	w.upload(w.admin, "closed", "iris.onnx", "").is(201)
	_, ada := w.user("ada")
	var out pb.ModelInferResponse
	closed := w.call(as(ada), "ModelInfer", row("closed"), &out)
	missing := w.call(as(ada), "ModelInfer", row("missing"), &out)
	words := closed.refused(codes.PermissionDenied, "no such model")
	if missing.refused(codes.PermissionDenied, "") != words {
		t.Errorf("closed: %v, missing: %v", closed.err, missing.err)
	}
	for _, o := range []outcomeOf{closed, missing} {
		delete(o.header, "x-request-id")
		delete(o.header, "x-ratelimit-remaining")
		delete(o.header, "x-ratelimit-reset")
		delete(o.header, "date")
	}
	if a, b := fmt.Sprint(closed.header, closed.trailer), fmt.Sprint(missing.header, missing.trailer); a != b {
		t.Errorf("a closed model answers\n%s\na missing one\n%s", a, b)
	}
	if rest := w.post("/v2/models/closed/infer", ada, irisInfer).oipRefused(403); rest != words {
		t.Errorf("REST says %q, gRPC %q", rest, words)
	}
	w.call(as(w.admin), "ModelInfer", row("missing"), &out).refused(codes.NotFound, "")
	w.call(as(""), "ModelInfer", row("closed"), &out).refused(codes.Unauthenticated, "log in")
	w.call(as("nonsense"), "ModelInfer", row("closed"), &out).refused(codes.Unauthenticated, "")
	w.call(as(ada, "authorization", "Bearer "+w.admin), "ModelInfer", row("closed"), &out).refused(codes.InvalidArgument, "more than once")
	w.call(as(ada), "ModelNothing", row("closed"), &out).refused(codes.Unimplemented, "no such method")
}

// TestRPCPortOverHTTP1: who takes the port for that of the REST API is told,
// in words that his client shows, and is not kept.
func TestRPCPortOverHTTP1(t *testing.T) {
	w := newRPCWorld(t, false)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.target+"/v2/models/iris/infer", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		words, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusHTTPVersionNotSupported || string(words) != notREST+"\n" || !resp.Close {
			t.Errorf("%s: %s, %v, %q, %v", method, resp.Status, resp.Header, words, err)
		}
	}
}
