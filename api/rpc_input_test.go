package api

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"modelgate/api/oipgrpc/pb"
	"modelgate/inference"
	"modelgate/models"
)

// text is BYTES as they are sent raw.
func text(elements ...string) []byte {
	var b []byte
	for _, s := range elements {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	return b
}

// TestRPCBadInput: what does not fit is refused in public terms, and holds
// nothing afterwards.
func TestRPCBadInput(t *testing.T) {
	w := newRPCWorld(t, true, noLimits)
	w.iris()
	for _, name := range []string{"half", "types", "sentiment"} {
		w.upload(w.admin, name, name+".onnx", "").is(201)
	}
	four := floats(1, 2, 3, 4)
	contents := &pb.InferTensorContents{Fp32Contents: []float32{1, 2, 3, 4}}
	changed := func(change func(*pb.ModelInferRequest)) *pb.ModelInferRequest {
		in := row("iris")
		change(in)
		return in
	}
	parameter := func(key string) map[string]*pb.InferParameter {
		return map[string]*pb.InferParameter{key: {ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: 1}}}
	}
	const most = math.MaxInt32
	for what, c := range map[string]struct {
		in    *pb.ModelInferRequest
		words string
	}{
		"raw and typed":             {changed(func(in *pb.ModelInferRequest) { in.Inputs[0].Contents = contents }), "send either"},
		"two raw for one input":     {changed(func(in *pb.ModelInferRequest) { in.RawInputContents = [][]byte{four, four} }), "one entry for each input, in their order: 1, not 2"},
		"no contents":               {changed(func(in *pb.ModelInferRequest) { in.RawInputContents = nil }), "0 values"},
		"too few bytes":             {rawRequest("iris", "X", "FP32", []int64{1, 4}, four[:15]), "has 15 bytes"},
		"too many bytes":            {rawRequest("iris", "X", "FP32", []int64{1, 4}, append(four[:16:16], 0)), "has 17 bytes"},
		"a shape that is too large": {rawRequest("iris", "X", "FP32", []int64{most, 4}, four), "has 16 bytes"},
		"a shape that overflows":    {rawRequest("iris", "X", "FP32", []int64{1 << 62, 4}, four), "whole numbers"},
		"a negative dimension":      {rawRequest("iris", "X", "FP32", []int64{-1, 4}, four), "whole numbers"},
		"a deep shape":              {rawRequest("iris", "X", "FP32", make([]int64, 100), nil), "more than 64"},
		"another shape":             {rawRequest("iris", "X", "FP32", []int64{4}, four), "wants FP32 [N,4], got [4]"},
		"another datatype":          {rawRequest("iris", "X", "INT32", []int64{1, 4}, four), "wants FP32"},
		"no such datatype":          {rawRequest("iris", "X", "FLOAT", []int64{1, 4}, four), "wants FP32"},
		"no such input":             {rawRequest("iris", "Y", "FP32", []int64{1, 4}, four), "unknown input"},
		"no input":                  {&pb.ModelInferRequest{ModelName: "iris"}, "is missing"},
		"an input twice": {changed(func(in *pb.ModelInferRequest) {
			in.Inputs, in.RawInputContents = append(in.Inputs, in.Inputs[0]), [][]byte{four, four}
		}), "given twice"},
		"an output twice": {changed(func(in *pb.ModelInferRequest) {
			in.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "label"}, {Name: "label"}}
		}), "asked for twice"},
		"typed, another field": {typedRequest("iris", "X", "FP32", []int64{1, 4}, &pb.InferTensorContents{Fp64Contents: []float64{1, 2, 3, 4}}), "another datatype"},
		"typed, too few":       {typedRequest("iris", "X", "FP32", []int64{2, 4}, contents), "has 4 values"},
		"typed FP16":           {typedRequest("half", w.inputOf("half"), "FP16", []int64{1, 3}, contents), "raw_input_contents"},
		"BYTES run over":       {rawRequest("sentiment", w.inputOf("sentiment"), "BYTES", []int64{2}, text("good", "bad")[:14]), "too short"},
		"BYTES behind the end": {rawRequest("sentiment", w.inputOf("sentiment"), "BYTES", []int64{1}, text("good", "bad")), "behind the last"},
		"BYTES no UTF-8":       {rawRequest("sentiment", w.inputOf("sentiment"), "BYTES", []int64{1}, text("\xff")), "UTF-8"},
		"a size that disagrees": {changed(func(in *pb.ModelInferRequest) {
			in.Inputs[0].Parameters = parameter("binary_data_size")
		}), "binary_data_size of 1"},
		"a parameter of the request": {changed(func(in *pb.ModelInferRequest) { in.Parameters = parameter("sequence_id") }), "sequence_id"},
		"a parameter of an input":    {changed(func(in *pb.ModelInferRequest) { in.Inputs[0].Parameters = parameter("shared_memory_region") }), "shared_memory_region"},
		"a parameter of an output": {changed(func(in *pb.ModelInferRequest) {
			in.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "label", Parameters: parameter("classification")}}
		}), "classification"},
		"no version": {changed(func(in *pb.ModelInferRequest) { in.ModelVersion = "latest" }), "a version is a number"},
	} {
		w.call(as(w.admin), "ModelInfer", c.in, new(pb.ModelInferResponse)).refused(codes.InvalidArgument, c.words)
		if t.Failed() {
			t.Fatalf("... which was: %s", what)
		}
	}
	w.heldNothing()
}

// inputOf is the name of a model's only, or first, input.
func (w *rpcWorld) inputOf(model string) string {
	w.t.Helper()
	var m pb.ModelMetadataResponse
	w.call(as(w.admin), "ModelMetadata", &pb.ModelMetadataRequest{Name: model}, &m).ok()
	return m.Inputs[0].Name
}

// TestRPCTyped reads every datatype that has a field of its own typed, and
// compares with the same elements sent raw.
func TestRPCTyped(t *testing.T) {
	mem := inference.NewMemory(1 << 20)
	decode := func(in *pb.ModelInferRequest) ([]inference.Tensor, error) {
		t.Helper()
		asked, _, _, err := inference.ScanProto(encoded(t, in))
		if err != nil {
			t.Fatal(err)
		}
		kind, _ := models.ParseDataType(in.Inputs[0].Datatype)
		sig := &models.Signature{Inputs: []models.TensorSpec{{Name: "X", GraphValue: models.GraphValue{Type: kind, Shape: []int64{-1}}}}}
		return inference.DecodeInfer(&asked, sig, mem)
	}
	for _, datatype := range []string{"BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP32", "FP64", "BYTES"} {
		contents, bytes := sample(t, datatype, 7)
		typed, err := decode(typedRequest("m", "X", datatype, []int64{7}, contents))
		if err != nil {
			t.Fatalf("%s: %v", datatype, err)
		}
		raw, err := decode(rawRequest("m", "X", datatype, []int64{7}, bytes))
		if err != nil {
			t.Fatalf("%s: %v", datatype, err)
		}
		if string(typed[0].Data) != string(raw[0].Data) || !slices.Equal(typed[0].Strings, raw[0].Strings) || typed[0].Len() != 7 {
			t.Errorf("%s: typed %v, raw %v", datatype, typed[0], raw[0])
		}
		typed[0].Release()
		raw[0].Release()
	}
	for datatype, beyond := range map[string]*pb.InferTensorContents{
		"INT8": {IntContents: []int32{128}}, "INT16": {IntContents: []int32{-32769}}, "UINT8": {UintContents: []uint32{256}}, "UINT16": {UintContents: []uint32{65536}},
	} {
		if _, err := decode(typedRequest("m", "X", datatype, []int64{1}, beyond)); err == nil || !strings.Contains(err.Error(), "out of the range of "+datatype) {
			t.Errorf("%s: %v", datatype, err)
		}
	}
	if mem.InUse() != 0 {
		t.Errorf("%d bytes are still held", mem.InUse())
	}
}

// sample makes n small elements of a datatype in both forms.
func sample(t *testing.T, datatype string, n int) (c *pb.InferTensorContents, raw []byte) {
	t.Helper()
	c = &pb.InferTensorContents{}
	for i := range n {
		v := i%3 + 1
		signed := -v
		switch datatype {
		case "BOOL":
			c.BoolContents = append(c.BoolContents, v%2 == 1)
			raw = append(raw, byte(v%2))
		case "INT8":
			c.IntContents = append(c.IntContents, int32(signed))
			raw = append(raw, byte(signed))
		case "INT16":
			c.IntContents = append(c.IntContents, int32(signed))
			raw = binary.LittleEndian.AppendUint16(raw, uint16(signed))
		case "INT32":
			c.IntContents = append(c.IntContents, int32(signed))
			raw = binary.LittleEndian.AppendUint32(raw, uint32(signed))
		case "INT64":
			c.Int64Contents = append(c.Int64Contents, int64(signed))
			raw = binary.LittleEndian.AppendUint64(raw, uint64(signed))
		case "UINT8":
			c.UintContents = append(c.UintContents, uint32(v))
			raw = append(raw, byte(v))
		case "UINT16":
			c.UintContents = append(c.UintContents, uint32(v))
			raw = binary.LittleEndian.AppendUint16(raw, uint16(v))
		case "UINT32":
			c.UintContents = append(c.UintContents, uint32(v))
			raw = binary.LittleEndian.AppendUint32(raw, uint32(v))
		case "UINT64":
			c.Uint64Contents = append(c.Uint64Contents, uint64(v))
			raw = binary.LittleEndian.AppendUint64(raw, uint64(v))
		case "FP32":
			c.Fp32Contents = append(c.Fp32Contents, float32(v)/3)
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(v)/3))
		case "FP64":
			c.Fp64Contents = append(c.Fp64Contents, float64(v)/3)
			raw = binary.LittleEndian.AppendUint64(raw, math.Float64bits(float64(v)/3))
		case "BYTES":
			c.BytesContents = append(c.BytesContents, []byte(fmt.Sprint("é", v)))
			raw = append(raw, text(fmt.Sprint("é", v))...)
		default:
			t.Fatalf("no sample of %s", datatype)
		}
	}
	return c, raw
}

// FuzzInferMessage holds the reader of infer messages against protobuf's own:
// it never panics, and what it takes, protobuf reads alike.
func FuzzInferMessage(f *testing.F) {
	for _, in := range []*pb.ModelInferRequest{row("iris"), {ModelName: "a", ModelVersion: "2", Id: "r"},
		typedRequest("iris", "X", "FP32", []int64{1, 2}, &pb.InferTensorContents{Fp32Contents: []float32{1, 2}}),
		typedRequest("m", "s", "BYTES", []int64{1}, &pb.InferTensorContents{BytesContents: [][]byte{[]byte("é")}})} {
		data, err := proto.Marshal(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		asked, model, version, err := inference.ScanProto(data)
		if err != nil {
			return
		}
		var in pb.ModelInferRequest
		if err := proto.Unmarshal(data, &in); err != nil {
			return // a field that is not read may be broken inside
		}
		if in.ModelName != model || in.ModelVersion != version || in.Id != asked.ID || len(in.Outputs) != len(asked.Outputs) {
			t.Fatalf("read %q %q %q, protobuf %v", model, version, asked.ID, &in)
		}
	})
}
