package models

import (
	"errors"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// The messages of onnx.proto (IR version 14), as far as they may occur in a
// served model, and a reader that walks them without copying or building
// anything: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and
// https://protobuf.dev/programming-guides/encoding/.
//
// The reader is stricter than protobuf's: a field that the message does not
// have, one of the wrong wire type, a second occurrence of a field that may
// stand once and a number that does not fit its field are refused, since
// parsers differ in what they make of them: the runtime's merges the two
// occurrences of a message, and takes the last of two numbers and the lowest 32
// bits of a number that is too large.

// wires is how a field may be written.
type wires uint8

const (
	varint  wires = 1 << iota // int32, int64, uint64, enum
	fixed32                   // float
	fixed64                   // double
	length                    // string, bytes, message
	many                      // repeated; numbers may then be packed as well
	narrow                    // int32 and enum: parsers cut other numbers down to 32 bits
)

// message describes one message type by its fields' numbers; zero is unknown.
type message struct {
	what   string // for people: "the graph"
	fields [32]wires
}

const (
	number32 = varint | narrow
	numbers  = many | varint
	floats   = many | fixed32
	doubles  = many | fixed64
	lengths  = many | length
)

var (
	modelMessage = message{"the model", [32]wires{1: varint, 2: length, 3: length, 4: length, 5: varint, 6: length,
		7: length, 8: lengths, 14: lengths, 20: lengths, 25: lengths, 26: lengths}}
	opsetMessage = message{"an opset import", [32]wires{1: length, 2: varint}}
	entryMessage = message{"a metadata entry", [32]wires{1: length, 2: length}}
	graphMessage = message{"a graph", [32]wires{1: lengths, 2: length, 5: lengths, 10: length, 11: lengths,
		12: lengths, 13: lengths, 14: lengths, 15: lengths, 16: lengths}}
	annotationMessage = message{"a quantization annotation", [32]wires{1: length, 2: lengths}}
	nodeMessage       = message{"a node", [32]wires{1: lengths, 2: lengths, 3: length, 4: length, 5: lengths,
		6: length, 7: length, 8: length, 9: lengths, 10: lengths}}
	attributeMessage = message{"an attribute", [32]wires{1: length, 2: fixed32, 3: varint, 4: length, 5: length,
		6: length, 7: floats, 8: numbers, 9: lengths, 10: lengths, 11: lengths, 13: length, 14: length, 15: lengths,
		20: number32, 21: length, 22: length, 23: lengths}}
	functionMessage = message{"a function", [32]wires{1: length, 4: lengths, 5: lengths, 6: lengths, 7: lengths,
		8: length, 9: lengths, 10: length, 11: lengths, 12: lengths, 13: length, 14: lengths}}
	tensorMessage = message{"a tensor", [32]wires{1: numbers, 2: number32, 3: length, 4: floats, 5: numbers,
		6: lengths, 7: numbers, 8: length, 9: length, 10: doubles, 11: numbers, 12: length, 13: lengths, 14: number32,
		16: lengths}}
	sparseMessage    = message{"a sparse tensor", [32]wires{1: length, 2: length, 3: numbers}}
	valueMessage     = message{"a value's description", [32]wires{1: length, 2: length, 3: length, 4: lengths}}
	typeMessage      = message{"a type", [32]wires{1: length, 4: length, 5: length, 6: length, 7: length, 8: length, 9: length}}
	tensorType       = message{"a tensor type", [32]wires{1: number32, 2: length}}
	sequenceType     = message{"a sequence type", [32]wires{1: length}} // and optional
	mapType          = message{"a map type", [32]wires{1: number32, 2: length}}
	opaqueType       = message{"an opaque type", [32]wires{1: length, 2: length}}
	shapeMessage     = message{"a shape", [32]wires{1: lengths}}
	dimensionMessage = message{"a dimension", [32]wires{1: varint, 2: length, 3: length}}
)

// field is one occurrence of a field: a number or the bytes of anything else,
// which point into the file.
type field struct {
	num    protowire.Number
	number uint64 // varint or fixed
	data   []byte
	wire   protowire.Type
}

// walk calls f for each field of a message, in the order of the file. Its own
// time is linear in the number of fields, its memory constant.
func (m *message) walk(b []byte, f func(field) error) error {
	var seen uint32
	for len(b) > 0 {
		num, wire, n := protowire.ConsumeTag(b)
		switch {
		case n < 0:
			return m.broken(n)
		case n > maxTag:
			return m.broken(overflowCode)
		}
		b = b[n:]
		allowed := wires(0)
		if num < protowire.Number(len(m.fields)) {
			allowed = m.fields[num]
		}
		if !allowed.take(wire) {
			return refuse("unknown_field", "%s has a field (number %d) that ONNX does not know; export the model again with a released version of its exporter", m.what, num)
		}
		if bit := uint32(1) << num; allowed&many == 0 {
			if seen&bit != 0 {
				return refuse("not_onnx", "the file is damaged: %s has a field (number %d) twice", m.what, num)
			}
			seen |= bit
		}
		at := field{num: num, wire: wire}
		switch wire {
		case protowire.VarintType:
			at.number, n = protowire.ConsumeVarint(b)
			if n > 0 && allowed&narrow != 0 && !at.narrow() {
				return m.broken(overflowCode)
			}
		case protowire.Fixed32Type:
			n = 4 // its value means nothing to the check
		case protowire.Fixed64Type:
			n = 8
		default:
			at.data, n = protowire.ConsumeBytes(b)
			if n-len(at.data) > maxTag {
				return m.broken(overflowCode)
			}
		}
		if n < 0 {
			return m.broken(n)
		}
		if n > len(b) {
			return m.broken(truncatedCode)
		}
		b = b[n:]
		if err := f(at); err != nil {
			return err
		}
	}
	return nil
}

// take reports whether a field written as w may stand on the wire like that.
func (w wires) take(wire protowire.Type) bool {
	switch wire {
	case protowire.VarintType:
		return w&varint != 0
	case protowire.Fixed32Type:
		return w&fixed32 != 0
	case protowire.Fixed64Type:
		return w&fixed64 != 0
	case protowire.BytesType:
		return w&length != 0 || w&many != 0
	}
	return false // groups: ONNX has none
}

// What protowire's functions answer when bytes are missing, and when a number
// does not fit.
const (
	truncatedCode = -1
	overflowCode  = -3
)

// maxTag is how many bytes the runtime's parser reads of a tag or a length.
const maxTag = 5

// narrow reports whether the number is one of 32 bits with a sign.
func (f field) narrow() bool { return int64(f.number) == int64(int32(f.number)) }

// broken explains a negative length of protowire. Only the model itself can
// be cut off: what stands inside another message ends with it.
func (m *message) broken(n int) error {
	cause := protowire.ParseError(n)
	if m == &modelMessage && errors.Is(cause, io.ErrUnexpectedEOF) {
		r := refuse("truncated", "the file ends too early; it was not copied or uploaded whole")
		r.Cause = cause
		return r
	}
	r := refuse("not_onnx", "the file is damaged: %s in it can't be read", m.what)
	r.Cause = cause
	return r
}

// count returns how many numbers a repeated field's occurrence holds.
func (f field) count() (int64, error) {
	switch {
	case f.wire != protowire.BytesType:
		return 1, nil
	case len(f.data) == 0:
		return 0, nil
	}
	var n int64
	run := 0 // bytes of the current varint
	for _, c := range f.data {
		if run++; run > 10 {
			return 0, errPacked
		}
		if c < 0x80 {
			n, run = n+1, 0
		}
	}
	if run != 0 {
		return 0, errPacked
	}
	return n, nil
}

// countFixed is count for numbers of a fixed size in bytes.
func (f field) countFixed(size int) (int64, error) {
	if f.wire != protowire.BytesType {
		return 1, nil
	}
	if len(f.data)%size != 0 {
		return 0, errPacked
	}
	return int64(len(f.data) / size), nil
}

var errPacked = refuse("not_onnx", "the file is damaged: a list of numbers in it can't be read")

// countNarrow is count for numbers that must fit 32 bits.
func (f field) countNarrow() (n int64, err error) {
	err = f.each(func(v int64) error {
		if n++; v != int64(int32(v)) {
			return errPacked
		}
		return nil
	})
	return n, err
}

// each calls g for every number of a repeated varint field's occurrence.
func (f field) each(g func(int64) error) error {
	if f.wire != protowire.BytesType {
		return g(int64(f.number))
	}
	for b := f.data; len(b) > 0; {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return errPacked
		}
		if err := g(int64(v)); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
