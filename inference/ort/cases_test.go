package ort

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"modelgate/inference"
	"modelgate/models"
)

// work does what a server does, good and bad, in TestNoTelemetryAndNoOutput.
func work(e *Engine, mem *inference.Memory) error {
	load := func(name string) (inference.Session, error) {
		model, err := os.ReadFile(filepath.Join(testdata, name))
		if err != nil {
			return nil, err
		}
		return e.Load(context.Background(), model, inference.Options{})
	}
	for _, bad := range []string{"hostile/not_onnx.onnx", "hostile/unknown_operator.onnx", "hostile/type_mismatch.onnx", "hostile/dangling_input.onnx"} {
		if _, err := load(bad); !errors.Is(err, inference.ErrLoad) {
			return fmt.Errorf("%s: %w", bad, err)
		}
	}
	s, err := load("canary.onnx")
	if err != nil {
		return err
	}
	for _, first := range []float32{1, 7} { // 7 fails the run
		x, err := inference.NewTensor(mem, models.Float32, []int64{1, 3})
		if err != nil {
			return err
		}
		inference.View[float32](&x)[0] = first
		values, err := s.Run(context.Background(), []inference.Tensor{x}, []int{0})
		if (err == nil) != (first == 1) {
			return fmt.Errorf("with %v: %w", first, err)
		}
		for i := range values {
			values[i].Release()
		}
		x.Release()
	}
	return errors.Join(s.Close(), e.Close())
}

// caseFile is one of testdata/cases; testdata/README.md tells the format.
type caseFile struct {
	Model, File string
	Cases       []struct {
		Name    string
		Inputs  ordered
		Outputs ordered
	}
}

// ordered keeps the order of an object, which is the graph's.
type ordered []json.RawMessage

func (o *ordered) UnmarshalJSON(b []byte) error {
	var names map[string]json.RawMessage
	if err := json.Unmarshal(b, &names); err != nil {
		return err
	}
	at := map[int]string{}
	var offsets []int
	for name := range names {
		key, _ := json.Marshal(name)
		offset := keyOffset(b, string(key))
		at[offset] = name
		offsets = append(offsets, offset)
	}
	slices.Sort(offsets)
	for _, offset := range offsets {
		*o = append(*o, names[at[offset]])
	}
	return nil
}

// keyOffset finds a key of the outermost object.
func keyOffset(b []byte, key string) int {
	depth, text := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			if !text && depth == 1 && len(b) > i+len(key) && string(b[i:i+len(key)]) == key && b[i+len(key)] == ':' {
				return i
			}
			text = !text
		case !text && (c == '{' || c == '['):
			depth++
		case !text && (c == '}' || c == ']'):
			depth--
		}
	}
	return -1
}

type wire struct {
	Kind     string
	Datatype string
	Shape    []int64
	Data     []json.RawMessage
}

// TestCases holds every model to what Python's onnxruntime computed.
func TestCases(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	e := open(t, Config{Memory: mem})
	files, err := filepath.Glob(filepath.Join(testdata, "cases", "*.json"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files of cases, %v", len(files), err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var cases caseFile
		if err := json.Unmarshal(raw, &cases); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if cases.Model == "external" { // its weights stand in another file, which no server loads
			continue
		}
		t.Run(cases.Model, func(t *testing.T) {
			s := loadFile(t, e, cases.File)
			for _, c := range cases.Cases {
				t.Run(c.Name, func(t *testing.T) { runCase(t, s, mem, c.Inputs, c.Outputs) })
			}
		})
	}
	if mem.InUse() != 0 {
		t.Errorf("%d bytes were not released", mem.InUse())
	}
}

func runCase(t *testing.T, s inference.Session, mem *inference.Memory, inputs, outputs ordered) {
	var in []inference.Tensor
	for _, raw := range inputs {
		x := parse(t, mem, raw)
		defer x.Release()
		in = append(in, x)
	}
	var want []int
	for i := range outputs {
		want = append(want, i)
	}
	values, err := s.Run(t.Context(), in, want)
	if err != nil {
		t.Fatal(err)
	}
	for i := range values {
		compare(t, mem, &values[i], outputs[i])
		values[i].Release()
	}
}

func parse(t *testing.T, mem *inference.Memory, raw json.RawMessage) inference.Tensor {
	t.Helper()
	var w wire
	if err := json.Unmarshal(raw, &w); err != nil {
		t.Fatal(err)
	}
	typ, ok := models.ParseDataType(w.Datatype)
	if !ok {
		t.Fatalf("no datatype %q", w.Datatype)
	}
	x, err := inference.NewTensor(mem, typ, w.Shape)
	if err != nil {
		t.Fatal(err)
	}
	if x.Len() != len(w.Data) {
		t.Fatalf("%d elements for the shape %v", len(w.Data), w.Shape)
	}
	for i, text := range w.Data {
		if err := set(&x, i, text); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// set writes element i from its JSON text.
func set(x *inference.Tensor, i int, text json.RawMessage) (err error) {
	size := x.Type.Size()
	var bits uint64
	switch x.Type {
	case models.String:
		return json.Unmarshal(text, &x.Strings[i])
	case models.Bool:
		if string(text) == "true" {
			bits = 1
		}
	case models.Float32, models.Float64, models.Float16, models.BFloat16:
		var f float64
		f, err = strconv.ParseFloat(string(text), 64)
		bits = floatBits(x.Type, f)
	case models.Uint8, models.Uint16, models.Uint32, models.Uint64:
		bits, err = strconv.ParseUint(string(text), 10, 8*size)
	default:
		var n int64
		n, err = strconv.ParseInt(string(text), 10, 8*size)
		bits = uint64(n)
	}
	for k := range size {
		x.Data[i*size+k] = byte(bits >> (8 * k))
	}
	return err
}

// floatBits is the bit pattern of f, which the type holds exactly.
func floatBits(typ models.DataType, f float64) uint64 {
	switch typ {
	case models.Float64:
		return math.Float64bits(f)
	case models.Float32:
		return uint64(math.Float32bits(float32(f)))
	case models.BFloat16:
		return uint64(math.Float32bits(float32(f)) >> 16)
	}
	for bits := range uint64(1 << 16) {
		if math.Float64bits(half(uint16(bits))) == math.Float64bits(f) {
			return bits
		}
	}
	panic("not a float16")
}

// half is the value of a float16 (IEEE 754 binary16).
func half(bits uint16) float64 {
	mantissa, exponent := float64(bits&0x3ff), int(bits>>10&0x1f)
	v := math.Ldexp(mantissa, -24)
	switch {
	case exponent == 31 && mantissa != 0:
		v = math.NaN()
	case exponent == 31:
		v = math.Inf(1)
	case exponent > 0:
		v = math.Ldexp(1024+mantissa, exponent-25)
	}
	if bits>>15 != 0 {
		return math.Copysign(v, -1)
	}
	return v
}

func compare(t *testing.T, mem *inference.Memory, v *inference.Value, raw json.RawMessage) {
	t.Helper()
	var w wire
	if err := json.Unmarshal(raw, &w); err != nil {
		t.Fatal(err)
	}
	switch w.Kind {
	case "":
		compareTensor(t, mem, &v.Tensor, raw)
	case "tensors":
		if v.Kind != models.KindTensors || len(v.Tensors) != len(w.Data) {
			t.Fatalf("a value of kind %d with %d tensors, not %d", v.Kind, len(v.Tensors), len(w.Data))
		}
		for i := range v.Tensors {
			compareTensor(t, mem, &v.Tensors[i], w.Data[i])
		}
	case "maps":
		if v.Kind != models.KindMaps || len(v.Maps) != len(w.Data) {
			t.Fatalf("a value of kind %d with %d maps, not %d", v.Kind, len(v.Maps), len(w.Data))
		}
		for i := range v.Maps {
			compareMap(t, &v.Maps[i], w.Data[i])
		}
	default:
		t.Fatalf("no kind %q", w.Kind)
	}
}

func compareMap(t *testing.T, m *inference.Map, raw json.RawMessage) {
	t.Helper()
	var want map[string]float64
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	if m.Keys.Len() != len(want) || m.Values.Type != models.Float32 {
		t.Fatalf("%d keys, not %d; values %v", m.Keys.Len(), len(want), m.Values.Type)
	}
	for i, got := range inference.View[float32](&m.Values) {
		key := ""
		if m.Keys.Type == models.String {
			key = m.Keys.Strings[i]
		} else {
			key = strconv.FormatInt(inference.View[int64](&m.Keys)[i], 10)
		}
		if expected, ok := want[key]; !ok || !close32(float64(got), expected) {
			t.Errorf("%s: got %v, want %v", key, got, expected)
		}
	}
}

func compareTensor(t *testing.T, mem *inference.Memory, got *inference.Tensor, raw json.RawMessage) {
	t.Helper()
	want := parse(t, mem, raw)
	defer want.Release()
	if got.Type != want.Type || !slices.Equal(got.Shape, want.Shape) {
		t.Fatalf("got %v %v, want %v %v", got.Type, got.Shape, want.Type, want.Shape)
	}
	if got.Type == models.Float32 {
		a, b := inference.View[float32](got), inference.View[float32](&want)
		for i := range a {
			if !close32(float64(a[i]), float64(b[i])) {
				t.Fatalf("element %d: got %v, want %v", i, a[i], b[i])
			}
		}
		return
	}
	if string(got.Data) != string(want.Data) || !slices.Equal(got.Strings, want.Strings) {
		t.Errorf("got %v %q, want %v %q", got.Data, got.Strings, want.Data, want.Strings)
	}
}

// close32 is a relative and absolute tolerance of 1e-5.
func close32(a, b float64) bool {
	return math.Abs(a-b) <= 1e-5+1e-5*math.Abs(b)
}
