package models

import (
	"math"
	"math/bits"
)

// elementBits are the sizes of TensorProto's element types; 0 for strings and
// for types that no served model may hold.
var elementBits = [27]int64{
	1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64,
	14: 64, 15: 128, // complex
	16: 16,
	17: 8, 18: 8, 19: 8, 20: 8, // float8
	21: 4, 22: 4, 23: 4, // int4, uint4, float4
	24: 8,
	25: 2, 26: 2, // int2, uint2
}

const stringElement = int64(String)

// size multiplies dimensions. It fails when one is negative, or when the
// product of those above 0 does not fit: readers that multiply in another
// order than one that meets a 0 first would overflow.
type size struct {
	elements int64 // of the dimensions above 0
	empty    bool  // one is 0
	rank     int
}

func (s *size) add(dim int64) error {
	if s.rank++; s.rank > maxRank {
		return refuse("bad_tensor", "a tensor has more than %d dimensions", maxRank)
	}
	switch {
	case dim < 0:
		return refuse("bad_tensor", "a tensor has a negative dimension (%d)", dim)
	case dim == 0:
		s.empty = true
		return nil
	}
	hi, lo := bits.Mul64(uint64(s.elements), uint64(dim))
	if hi != 0 || lo > math.MaxInt64 {
		return errOverflow
	}
	s.elements = int64(lo)
	return nil
}

// bytes returns the size of that many elements of elem, rounded up.
func (s *size) bytes(elem int64) (int64, error) {
	hi, lo := bits.Mul64(uint64(s.elements), uint64(elementBits[elem]))
	if hi != 0 || lo > math.MaxInt64-7 {
		return 0, errOverflow
	}
	return (int64(lo) + 7) / 8, nil
}

func (s *size) count() int64 {
	if s.empty {
		return 0
	}
	return s.elements
}

var errOverflow = refuse("size_overflow", "the dimensions of a tensor multiply to more than 64 bits can hold")

// knownElement reports whether tensors of the element type may be in a file.
func knownElement(elem int64) bool {
	return elem == stringElement || elem > 0 && elem < int64(len(elementBits)) && elementBits[elem] > 0
}

// tensorInfo is what a TensorProto says.
type tensorInfo struct {
	name  []byte
	elem  int64
	size  size
	isRaw bool      // there is raw_data, be it empty: the runtime then looks nowhere else
	raw   int64     // its bytes
	typed [12]int64 // numbers in the typed data fields, by field number

	elsewhere bool // data_location says that they are in another file
}

// errExternal refuses weights outside the file.
var errExternal = refuse("external_data", "the model's weights stand in another file; put them inside: \"modelgate push\" does it for you, so does onnx.save(onnx.load(path), path) in Python")

// tensor checks a TensorProto: shape and data agree, and nothing is elsewhere.
func (c *check) tensor(b []byte) (tensorInfo, error) {
	t := tensorInfo{size: size{elements: 1}}
	err := c.walk(&tensorMessage, b, func(f field) (err error) {
		n := int64(1)
		switch f.num {
		case 1:
			return f.each(t.size.add)
		case 2:
			t.elem = int64(f.number)
		case 3:
			return refuse("bad_tensor", "a tensor stands in the file in segments, which is not served")
		case 4:
			n, err = f.countFixed(4)
		case 5:
			n, err = f.countNarrow()
		case 7, 11:
			n, err = f.count()
		case 8:
			t.name = f.data
		case 9:
			t.isRaw, t.raw = true, int64(len(f.data))
		case 10:
			n, err = f.countFixed(8)
		case 13:
			return errExternal
		case 14:
			switch f.number {
			case 0:
			case 1:
				t.elsewhere = true
			default:
				return refuse("unknown_field", "a tensor says that its data stand at a place (%d) that ONNX does not know", f.number)
			}
		case 16:
			return entry(f.data)
		}
		switch f.num {
		case 4, 5, 6, 7, 10, 11:
			t.typed[f.num] += n
		}
		return err
	})
	if err != nil {
		return t, err
	}
	if t.elsewhere {
		return t, refuse("external_data", "a tensor says that its data stand in another file, and not in which; export the model again")
	}
	return t, c.data(&t)
}

// data checks that a tensor's data are as many as its shape says.
func (c *check) data(t *tensorInfo) error {
	if !knownElement(t.elem) {
		return refuse("unsupported_type", "a tensor has an element type (%d) that is not served", t.elem)
	}
	bytes, err := t.size.bytes(t.elem)
	if err != nil {
		return err
	}
	if !t.size.empty && max(bytes, t.size.elements) > c.limits.Size {
		return refuse("too_large", "a tensor is declared with %d elements, more than a file of %s can hold", t.size.elements, bytesText(c.limits.Size))
	}
	if t.size.empty {
		bytes = 0
	}
	var typed int64
	for _, n := range t.typed {
		typed += n
	}
	if t.isRaw {
		if t.elem == stringElement && t.size.count() > 0 || typed > 0 || t.raw != bytes {
			return refuse("bad_tensor", "a tensor's shape asks for %d bytes of data, but the file has %d", bytes, t.raw)
		}
		return nil
	}
	where, want := typedField(t.elem, t.size.count(), bytes)
	if typed != want || t.typed[where] != want {
		return refuse("bad_tensor", "a tensor's shape asks for %d numbers or strings, but the file has %d where they belong", want, t.typed[where])
	}
	return nil
}

// typedField returns the field that holds n elements when raw_data does not,
// and how many entries it has then.
func typedField(elem, n, bytes int64) (field int, entries int64) {
	switch elem {
	case 1:
		return 4, n
	case 14:
		return 4, 2 * n
	case 7:
		return 7, n
	case stringElement:
		return 6, n
	case 11:
		return 10, n
	case 15:
		return 10, 2 * n
	case 12, 13:
		return 11, n
	case 21, 22, 23, 25, 26:
		return 5, bytes // several elements share one entry's lowest byte
	}
	return 5, n
}

// initializer checks a tensor of a graph and counts its elements.
func (c *check) initializer(b []byte) (name []byte, err error) {
	t, err := c.tensor(b)
	if err != nil {
		return nil, err
	}
	c.countParameters(t.size.count())
	return t.name, nil
}

func (c *check) countParameters(n int64) {
	if n > math.MaxInt64-c.parameters {
		n = math.MaxInt64 - c.parameters
	}
	c.parameters += n
}

// sparse checks a SparseTensorProto and returns its name, which is that of
// its values. Runtimes write it out in full when they load it, so that the
// full size counts.
func (c *check) sparse(b []byte) (name []byte, err error) {
	full := size{elements: 1}
	var values, indices tensorInfo
	has := [4]bool{}
	err = sparseMessage.walk(b, func(f field) (err error) {
		has[f.num] = true
		switch f.num {
		case 1:
			values, err = c.tensor(f.data)
		case 2:
			indices, err = c.tensor(f.data)
		case 3:
			err = f.each(full.add)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if !has[1] || !has[3] || values.size.rank != 1 || values.size.count() > full.count() {
		return nil, refuse("bad_tensor", "a sparse tensor has no values, no shape, or more values than its shape holds")
	}
	if has[2] && (indices.elem != int64(Int64) || indices.size.rank < 1 || indices.size.rank > 2) {
		return nil, refuse("bad_tensor", "the indices of a sparse tensor are no list of int64 indices")
	}
	bytes, err := full.bytes(values.elem)
	if err != nil {
		return nil, err
	}
	bytes = max(bytes, full.elements) // strings
	if bytes > c.limits.Tensor-c.dense {
		return nil, c.tooDense()
	}
	c.dense += bytes
	c.countParameters(values.size.count())
	return values.name, nil
}

// kindOther marks what is never served as an output: optional values, sparse
// and opaque types, sequences and maps of others than Kind knows.
const kindOther Kind = 255

// value checks a ValueInfoProto. A value without a type has Type Undefined.
func (c *check) value(b []byte) (v GraphValue, name []byte, err error) {
	err = c.walk(&valueMessage, b, func(f field) (err error) {
		switch f.num {
		case 1:
			name = f.data
		case 2:
			v, err = c.valueType(f.data, 0)
		case 4:
			err = entry(f.data)
		}
		return err
	})
	return v, name, err
}

// valueType checks a TypeProto that stands depth types deep.
func (c *check) valueType(b []byte, depth int) (v GraphValue, err error) {
	if depth > maxTypeDepth {
		return v, refuse("nesting", "types (sequences, maps, optional values) stand inside one another more than %d deep", maxTypeDepth)
	}
	kinds := 0
	err = typeMessage.walk(b, func(f field) (err error) {
		if f.num != 6 {
			kinds++
		}
		switch f.num {
		case 1:
			v, err = c.tensorType(f.data)
		case 4:
			v, err = c.sequenceType(f.data, depth)
		case 5:
			v, err = c.mapType(f.data, depth)
		case 7:
			v = GraphValue{Kind: kindOther}
			err = opaqueType.walk(f.data, func(field) error { return nil })
		case 8:
			_, err = c.tensorType(f.data)
			v = GraphValue{Kind: kindOther}
		case 9:
			_, err = c.sequenceType(f.data, depth)
			v = GraphValue{Kind: kindOther}
		}
		return err
	})
	if err == nil && kinds > 1 {
		err = refuse("not_onnx", "the file is damaged: a value has several types")
	}
	return v, err
}

// tensorType checks TypeProto.Tensor, or TypeProto.SparseTensor, which is
// written alike. The declared size is bounded, since a runtime may allocate
// it: dimensions of any size count as 1.
func (c *check) tensorType(b []byte) (v GraphValue, err error) {
	v.Type = notServed // until the file says otherwise
	elem := int64(0)
	total := size{elements: 1}
	err = tensorType.walk(b, func(f field) error {
		if f.num == 1 {
			elem = int64(f.number)
			return nil
		}
		v.Shape = []int64{}
		return c.walk(&shapeMessage, f.data, func(f field) error {
			d, err := dimension(f.data)
			if err != nil {
				return err
			}
			v.Shape = append(v.Shape, d)
			if d < 0 {
				d = 1
			}
			return total.add(d)
		})
	})
	if err != nil {
		return v, err
	}
	if elem != 0 { // 0: it does not say
		if !knownElement(elem) {
			return v, refuse("unsupported_type", "a value is declared with an element type (%d) that ONNX does not know", elem)
		}
		if DataType(elem).Served() {
			v.Type = DataType(elem)
		}
		bytes, err := total.bytes(elem)
		if err != nil {
			return v, err
		}
		if max(bytes, total.elements) > c.limits.Tensor {
			return v, refuse("too_large", "a value is declared with %d elements; at most %s are served", total.elements, bytesText(c.limits.Tensor))
		}
	}
	return v, nil
}

// notServed is a type that is known and not served, unlike Undefined, which
// is not said.
const notServed DataType = 255

// dimension reads a TensorShapeProto.Dimension: -1 for any size, which some
// exporters write out instead of a name.
func dimension(b []byte) (int64, error) {
	d, kinds := int64(-1), 0
	err := dimensionMessage.walk(b, func(f field) error {
		switch f.num {
		case 1:
			d = int64(f.number)
			kinds++
		case 2:
			kinds++
		}
		return nil
	})
	switch {
	case err != nil:
		return 0, err
	case kinds > 1:
		return 0, refuse("not_onnx", "the file is damaged: a dimension has both a size and a name")
	case d < -1:
		return 0, refuse("bad_tensor", "a value is declared with a negative dimension (%d)", d)
	}
	return d, nil
}

// sequenceType checks TypeProto.Sequence, or TypeProto.Optional, which is
// written alike.
func (c *check) sequenceType(b []byte, depth int) (v GraphValue, err error) {
	of := GraphValue{Kind: kindOther}
	err = sequenceType.walk(b, func(f field) (err error) {
		of, err = c.valueType(f.data, depth+1)
		return err
	})
	switch of.Kind {
	case KindTensor:
		of.Kind = KindTensors
	case KindMap:
		of.Kind = KindMaps
	default:
		of.Kind = kindOther
	}
	return of, err
}

// mapType checks TypeProto.Map. Only maps to single numbers or strings are
// served; those hold tensors without a shape or of rank 0.
func (c *check) mapType(b []byte, depth int) (v GraphValue, err error) {
	key, of := int64(0), GraphValue{Kind: kindOther}
	err = mapType.walk(b, func(f field) (err error) {
		if f.num == 1 {
			key = int64(f.number)
			return nil
		}
		of, err = c.valueType(f.data, depth+1)
		return err
	})
	if of.Kind != KindTensor || len(of.Shape) > 0 || key < 0 || key > int64(Bool) {
		return GraphValue{Kind: kindOther}, err
	}
	return GraphValue{Kind: KindMap, Type: of.Type, Key: DataType(key)}, err
}
