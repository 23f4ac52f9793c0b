package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"modelgate/models"
)

// The conformance data of ONNX: a folder for each model, with model.onnx and
// folders test_data_set_N of input_N.pb and output_N.pb. What lies in a .pb
// file (onnx.proto: TensorProto, SequenceProto or OptionalProto) only the
// model's own inputs and outputs tell.

// onnxTensor is a tensor as it is sent: little-endian and row-major.
type onnxTensor struct {
	datatype models.DataType
	shape    []int64
	data     []byte   // nil for strings, and for types that are not served
	strings  []string // for strings only
}

// onnxValue is a tensor, or a sequence of them.
type onnxValue struct {
	tensor   onnxTensor
	sequence bool
	items    []onnxTensor
}

// onnxCase is one model with its data sets.
type onnxCase struct {
	name string // kind/test_name
	path string // of model.onnx
	sets []onnxSet
}

type onnxSet struct{ inputs, outputs []onnxValue }

// errNotRead tells of a value of a form that no request or answer has; the
// models it belongs to are refused before it would be needed.
var errNotRead = errors.New("a value of a form that is not served")

// conformanceCases lists every model below root, in order.
func conformanceCases(t *testing.T, root string) []onnxCase {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "*", "test_*", "model.onnx"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no models in %s (%v)", root, err)
	}
	cases := make([]onnxCase, len(paths))
	for i, path := range paths {
		name, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		cases[i] = onnxCase{name: filepath.ToSlash(name), path: path}
	}
	slices.SortFunc(cases, func(a, b onnxCase) int { return strings.Compare(a.name, b.name) })
	return cases
}

// read reads the model's data sets. errNotRead in place of those that no
// request could carry.
func (c *onnxCase) read(model []byte) error {
	inputs, outputs, err := onnxPorts(model)
	if err != nil {
		return err
	}
	folders, err := filepath.Glob(filepath.Join(filepath.Dir(c.path), "test_data_set_*"))
	if err != nil || len(folders) == 0 {
		return fmt.Errorf("%s has no data set (%v)", c.name, err)
	}
	for _, folder := range folders {
		var set onnxSet
		if set.inputs, err = readValues(folder, "input", inputs); err != nil {
			return err
		}
		if set.outputs, err = readValues(folder, "output", outputs); err != nil {
			return err
		}
		if len(set.outputs) == 0 {
			return fmt.Errorf("%s has no output to compare with", folder)
		}
		c.sets = append(c.sets, set)
	}
	return nil
}

// readValues reads input_0.pb, input_1.pb, ... or their like, as many as there
// are, by the types of the model's ports.
func readValues(folder, side string, ports []protowire.Number) ([]onnxValue, error) {
	var values []onnxValue
	for i := 0; ; i++ {
		data, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("%s_%d.pb", side, i)))
		if errors.Is(err, os.ErrNotExist) {
			return values, nil
		}
		if err != nil {
			return nil, err
		}
		if i >= len(ports) {
			return nil, fmt.Errorf("%s has more %ss than its model", folder, side)
		}
		v, err := parseValue(data, ports[i])
		if err != nil {
			return nil, fmt.Errorf("%s_%d.pb of %s: %w", side, i, folder, err)
		}
		values = append(values, v)
	}
}

// onnxField is a field of a message: number for varints and fixed sizes, data
// for the rest.
type onnxField struct {
	num    protowire.Number
	wire   protowire.Type
	number uint64
	data   []byte
}

// onnxFields calls do for each field of a message.
func onnxFields(b []byte, do func(f onnxField) error) error {
	for len(b) > 0 {
		num, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		f := onnxField{num: num, wire: wire}
		switch wire {
		case protowire.VarintType:
			f.number, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(b)
			f.number = uint64(v)
		case protowire.Fixed64Type:
			f.number, n = protowire.ConsumeFixed64(b)
		default:
			f.data, n = protowire.ConsumeBytes(b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := do(f); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// onnxPorts returns the kinds of the inputs and outputs that a model declares:
// the field of TypeProto that is set.
func onnxPorts(model []byte) (inputs, outputs []protowire.Number, err error) {
	err = onnxFields(model, func(f onnxField) error {
		if f.num != 7 { // graph
			return nil
		}
		return onnxFields(f.data, func(f onnxField) error {
			if f.num != 11 && f.num != 12 {
				return nil
			}
			kind := protowire.Number(0)
			err := onnxFields(f.data, func(f onnxField) error {
				if f.num != 2 { // type
					return nil
				}
				return onnxFields(f.data, func(f onnxField) error {
					if f.num != 6 { // denotation
						kind = f.num
					}
					return nil
				})
			})
			if f.num == 11 {
				inputs = append(inputs, kind)
			} else {
				outputs = append(outputs, kind)
			}
			return err
		})
	})
	return inputs, outputs, err
}

// parseValue reads a .pb file of that kind of port.
func parseValue(b []byte, kind protowire.Number) (v onnxValue, err error) {
	switch kind {
	case 0, 1:
		v.tensor, err = parseTensor(b)
		return v, err
	case 4:
		v.sequence = true
		err = onnxFields(b, func(f onnxField) error {
			switch {
			case f.num == 3:
				item, err := parseTensor(f.data)
				v.items = append(v.items, item)
				return err
			case f.num > 3:
				return errNotRead
			}
			return nil
		})
		return v, err
	}
	return v, errNotRead
}

// parseTensor reads a TensorProto.
func parseTensor(b []byte) (t onnxTensor, err error) {
	var numbers []uint64
	raw := []byte(nil)
	t.shape = []int64{}
	err = onnxFields(b, func(f onnxField) error {
		list := f.numbers()
		switch f.num {
		case 1:
			for _, d := range list {
				t.shape = append(t.shape, int64(d))
			}
		case 2:
			t.datatype = models.DataType(min(f.number, 255))
		case 4, 5, 7, 10, 11:
			numbers = append(numbers, list...)
		case 6:
			t.strings = append(t.strings, string(f.data))
		case 9:
			raw = f.data
		}
		return nil
	})
	if err != nil || t.datatype == models.String {
		return t, err
	}
	size := t.datatype.Size()
	if size == 0 {
		return t, errNotRead
	}
	if raw == nil {
		for _, n := range numbers {
			raw = append(raw, binary.LittleEndian.AppendUint64(nil, n)[:size]...)
		}
	}
	t.data = raw
	if len(raw) != size*int(t.elements()) {
		return t, fmt.Errorf("%d bytes for the shape %v", len(raw), t.shape)
	}
	return t, nil
}

// numbers reads a repeated field: packed, or one of its elements.
func (f *onnxField) numbers() []uint64 {
	if f.wire != protowire.BytesType {
		return []uint64{f.number}
	}
	var list []uint64
	for b := f.data; len(b) > 0; {
		var v uint64
		n := 0
		switch f.num {
		case 4: // floats
			var bits uint32
			bits, n = protowire.ConsumeFixed32(b)
			v = uint64(bits)
		case 10: // doubles
			v, n = protowire.ConsumeFixed64(b)
		case 1, 5, 7, 11:
			v, n = protowire.ConsumeVarint(b)
		default:
			return nil
		}
		if n < 0 {
			return nil // the number of bytes will tell
		}
		list, b = append(list, v), b[n:]
	}
	return list
}

func (t *onnxTensor) elements() int64 {
	n := int64(1)
	for _, d := range t.shape {
		n *= d
	}
	return n
}

// bits returns the i-th element, 0 above its own width.
func (t *onnxTensor) bits(i int) uint64 {
	var word [8]byte
	size := t.datatype.Size()
	copy(word[:], t.data[i*size:(i+1)*size])
	return binary.LittleEndian.Uint64(word[:])
}

// isFloat reports whether NaN and tolerances have a meaning.
func (t *onnxTensor) isFloat() bool {
	switch t.datatype {
	case models.Float16, models.BFloat16, models.Float32, models.Float64:
		return true
	}
	return false
}

// float returns the i-th element of a float tensor.
func (t *onnxTensor) float(i int) float64 {
	switch bits := t.bits(i); t.datatype {
	case models.Float16:
		return halfToFloat(uint16(bits))
	case models.BFloat16:
		return float64(math.Float32frombits(uint32(bits) << 16))
	case models.Float32:
		return float64(math.Float32frombits(uint32(bits)))
	default:
		return math.Float64frombits(bits)
	}
}

// halfToFloat reads IEEE 754 binary16.
func halfToFloat(h uint16) float64 {
	sign, exponent, fraction := 1.0, int(h>>10&31), float64(h&1023)
	if h>>15 == 1 {
		sign = -1
	}
	switch {
	case exponent == 31 && fraction != 0:
		return math.NaN()
	case exponent == 31:
		return math.Inf(int(sign))
	case exponent == 0:
		return math.Copysign(math.Ldexp(fraction, -24), sign)
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}

// finite reports whether JSON has a number for every element.
func (t *onnxTensor) finite() bool {
	if !t.isFloat() {
		return true
	}
	for i := range int(t.elements()) {
		if f := t.float(i); math.IsNaN(f) || math.IsInf(f, 0) {
			return false
		}
	}
	return true
}
