package ort

import (
	"encoding/binary"
	"errors"
	"testing"

	"modelgate/inference"
	"modelgate/models"
)

// The few parts of an ONNX file (onnx.proto) that these tests write by hand.

// message joins fields that are encoded already.
func message(fields ...[]byte) []byte {
	var b []byte
	for _, f := range fields {
		b = append(b, f...)
	}
	return b
}

// sub is a field that holds a message, string or bytes; num a number.
func sub(field int, content []byte) []byte {
	b := binary.AppendUvarint(nil, uint64(field)<<3|2)
	return append(binary.AppendUvarint(b, uint64(len(content))), content...)
}

func num(field int, n uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, uint64(field)<<3), n)
}

// node is a NodeProto.
func node(operator string, in, out []string, attributes ...[]byte) []byte {
	var fields [][]byte
	for _, name := range in {
		fields = append(fields, sub(1, []byte(name)))
	}
	for _, name := range out {
		fields = append(fields, sub(2, []byte(name)))
	}
	fields = append(fields, sub(4, []byte(operator)))
	for _, a := range attributes {
		fields = append(fields, sub(5, a))
	}
	return message(fields...)
}

// port is a ValueInfoProto.
func port(name string, typ []byte) []byte { return message(sub(1, []byte(name)), sub(2, typ)) }

// floats is the TypeProto of a float32 tensor. Dimensions below 0 are open; nil
// says nothing of the rank.
func floats(dims []int64) []byte {
	tensor := num(1, 1)
	if dims != nil {
		var shape []byte
		for _, d := range dims {
			dim := sub(2, []byte("N"))
			if d >= 0 {
				dim = num(1, uint64(d))
			}
			shape = append(shape, sub(1, dim)...)
		}
		tensor = append(tensor, sub(2, shape)...)
	}
	return sub(1, tensor)
}

// file is a ModelProto of one graph.
func file(nodes, inputs, outputs [][]byte) []byte {
	graph := sub(2, []byte("g"))
	for _, n := range nodes {
		graph = append(graph, sub(1, n)...)
	}
	for _, i := range inputs {
		graph = append(graph, sub(11, i)...)
	}
	for _, o := range outputs {
		graph = append(graph, sub(12, o)...)
	}
	return message(num(1, 8), sub(8, num(2, 17)), sub(7, graph))
}

func list(items ...[]byte) [][]byte { return items }

func loadBytes(t *testing.T, e *Engine, model []byte) (inference.Session, error) {
	t.Helper()
	s, err := e.Load(t.Context(), model, inference.Options{})
	if err == nil {
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return s, err
}

// An output whose rank the file does not say is told from one of rank 0, and
// has a shape once it is there.
func TestUnknownRank(t *testing.T) {
	mem := inference.NewMemory(1 << 20)
	e := open(t, Config{Memory: mem})
	// Squeeze without axes drops dimensions of 1, as many as there happen to be.
	s, err := loadBytes(t, e, file(list(node("Squeeze", []string{"x"}, []string{"y"})),
		list(port("x", floats([]int64{-1, -1, 2}))), list(port("y", floats(nil)))))
	if err != nil {
		t.Fatal(err, errors.Unwrap(err))
	}
	g := s.Graph()
	if len(g.Inputs[0].Shape) != 3 || g.Outputs[0].Shape != nil || g.Outputs[0].Type != models.Float32 {
		t.Errorf("%+v", g)
	}
	for _, c := range []struct{ in, out []int64 }{
		{[]int64{3, 4, 2}, []int64{3, 4, 2}}, {[]int64{1, 4, 2}, []int64{4, 2}}, {[]int64{1, 1, 2}, []int64{2}}, {[]int64{0, 1, 2}, []int64{0, 2}},
	} {
		x, err := inference.NewTensor(mem, models.Float32, c.in)
		if err != nil {
			t.Fatal(err)
		}
		clear(x.Data)
		values, err := s.Run(t.Context(), []inference.Tensor{x}, []int{0})
		if err != nil {
			t.Fatal(err)
		}
		got := values[0].Tensor.Shape
		if len(got) != len(c.out) {
			t.Fatalf("%v became %v, not %v", c.in, got, c.out)
		}
		for i := range got {
			if got[i] != c.out[i] {
				t.Fatalf("%v became %v, not %v", c.in, got, c.out)
			}
		}
		values[0].Release()
		x.Release()
	}
}

// What this engine can't serve is refused when it is loaded, not when it runs.
func TestUnservedPorts(t *testing.T) {
	e := open(t, Config{Memory: inference.NewMemory(1 << 20)})
	x := port("x", floats([]int64{2}))
	sequence := sub(4, sub(1, floats([]int64{2})))
	optional := sub(9, sub(1, floats([]int64{2})))
	complex64 := sub(1, message(num(1, 14), sub(2, sub(1, num(1, 2)))))
	for name, model := range map[string][]byte{
		"a sequence as input": file(list(node("SequenceLength", []string{"s"}, []string{"n"})),
			list(port("s", sequence)), list(port("n", sub(1, message(num(1, 7), sub(2, nil)))))),
		"an input of unknown rank": file(list(node("Identity", []string{"x"}, []string{"y"})),
			list(port("x", floats(nil))), list(port("y", floats(nil)))),
		"an optional output": file(list(node("Optional", []string{"x"}, []string{"y"})), list(x), list(port("y", optional))),
		"complex numbers": file(list(node("Identity", []string{"c"}, []string{"y"})),
			list(port("c", complex64)), list(port("y", complex64))),
	} {
		_, err := loadBytes(t, e, model)
		if !errors.Is(err, inference.ErrLoad) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if len(e.sessions) != 0 {
		t.Errorf("%d sessions are left", len(e.sessions))
	}
}
