package inference

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf8"

	"modelgate/models"
)

// DecodeInfer reads the inputs of an infer request straight into tensors, one
// for each input of sig, in its order. JSON data is one flat array, or arrays
// nested as the shape says, with elements as DecodeJSON takes them. Bytes are
// little-endian and row-major, BOOL one byte of 0 or 1, BYTES a length of four
// bytes before the UTF-8 of each element; NaN and the infinities pass in them.
//
// Errors are ErrInput, or those of NewTensor; then nothing is left allocated,
// and nothing is allocated beyond what was really sent.
func DecodeInfer(r *Infer, sig *models.Signature, mem *Memory) (in []Tensor, err error) {
	done := false
	tensors := make([]Tensor, len(sig.Inputs))
	defer func() {
		if !done { // an error, or a panic on its way up
			releaseAll(tensors)
		}
	}()
	if r.isRaw {
		if len(sig.Inputs) != 1 {
			return nil, ErrInput.With("a body without JSON is for models of one input; this one takes " + names(sig.Inputs))
		}
		if tensors[0], err = decodeRaw(r.raw, &sig.Inputs[0], mem); err != nil {
			return nil, err
		}
		done = true
		return tensors, nil
	}
	for k := range r.inputs {
		given := &r.inputs[k]
		i := sig.Input(given.name)
		if i < 0 {
			return nil, ErrInput.With("unknown input " + quote(given.name) + "; the model takes " + names(sig.Inputs))
		}
		if tensors[i].Type != models.Undefined {
			return nil, inputError(&sig.Inputs[i], "is given twice")
		}
		if tensors[i], err = given.decode(&sig.Inputs[i], mem); err != nil {
			return nil, err
		}
	}
	if err := complete(sig, tensors); err != nil {
		return nil, err
	}
	done = true
	return tensors, nil
}

// decode reads one tensor whose declared type and shape fit spec.
func (in *inferInput) decode(spec *models.TensorSpec, mem *Memory) (Tensor, error) {
	if t, ok := models.ParseDataType(in.datatype); !ok || t != spec.Type {
		return Tensor{}, inputError(spec, "wants %s, got the datatype %s", contract(spec), quote(in.datatype))
	}
	if err := fits(spec, in.shape); err != nil {
		return Tensor{}, err
	}
	if _, ok := Elements(in.shape); !ok {
		return Tensor{}, inputError(spec, "has a shape whose size is out of range: %s", shapeText(in.shape))
	}
	if in.binary {
		return decodeBytes(in.bytes, spec, in.shape, mem)
	}
	if in.typed {
		return decodeContents(in.data, spec, in.shape, mem)
	}
	s := scanner{b: in.data}
	r := tensorReader{scanner: &s, spec: spec, mem: mem, alone: true, dims: new([]int64)}
	t, err := r.readShaped(in.shape)
	if err == nil {
		if err = s.end(); err != nil {
			t.Release()
		}
	}
	return t, err
}

// readShaped reads JSON data of a known shape: a flat array, or arrays nested
// in just that shape.
func (r *tensorReader) readShaped(shape []int64) (Tensor, error) {
	if len(shape) < 2 || !r.nests() {
		return r.readFlat(shape)
	}
	t, err := r.read()
	if err != nil {
		return Tensor{}, err
	}
	if !slices.Equal(t.Shape, shape) {
		err = inputError(r.spec, "has \"data\" nested as %s, but the shape %s", shapeText(t.Shape), shapeText(shape))
		t.Release()
		return Tensor{}, err
	}
	return t, nil
}

// nests reports whether an array in an array comes next.
func (r *tensorReader) nests() bool {
	if r.space() != '[' {
		return false
	}
	ahead := scanner{b: r.b, i: r.i + 1}
	return ahead.space() == '['
}

// readFlat reads a flat array of as many elements as shape has.
func (r *tensorReader) readFlat(shape []int64) (t Tensor, err error) {
	defer func() {
		if t.Type == models.Undefined {
			r.t.Release()
		}
	}()
	r.flat, r.shape, r.room = true, shape, make([]int64, 1)
	if err := r.readData(); err != nil {
		return Tensor{}, err
	}
	if n, _ := Elements(shape); n != int64(r.at) {
		return Tensor{}, inputError(r.spec, "has %s in \"data\", but the shape %s needs %d", counted(r.at, "value"), shapeText(shape), n)
	}
	return r.filled(), nil
}

// decodeBytes reads a tensor from its bytes. shape's size is in range.
func decodeBytes(data []byte, spec *models.TensorSpec, shape []int64, mem *Memory) (Tensor, error) {
	if spec.Type == models.String {
		return decodeStrings(data, spec, shape, mem)
	}
	n, _ := Elements(shape)
	size := int64(spec.Type.Size())
	if sent := int64(len(data)); sent%size != 0 || sent/size != n {
		return Tensor{}, inputError(spec, "has %s, but %s of shape %s has %s of %d", counted(sent, "byte"), spec.Type, shapeText(shape), counted(n, "element"), size)
	}
	if spec.Type == models.Bool {
		for i, b := range data {
			if b > 1 {
				return Tensor{}, inputError(spec, "does not fit: byte %d is %d; a BOOL is 0 or 1", i, b)
			}
		}
	}
	t, err := NewTensor(mem, spec.Type, shape)
	if err != nil {
		return Tensor{}, err
	}
	copy(t.Data, data)
	return t, nil
}

// stringPrefix is the length before an element of BYTES.
const stringPrefix = 4

// decodeStrings reads elements with their lengths before them.
func decodeStrings(data []byte, spec *models.TensorSpec, shape []int64, mem *Memory) (Tensor, error) {
	n, _ := Elements(shape)
	if n > int64(len(data)/stringPrefix) {
		return Tensor{}, inputError(spec, "has %d bytes, too few for the %d elements of its shape %s; four bytes of length stand before each",
			len(data), n, shapeText(shape))
	}
	t, err := NewTensor(mem, models.String, shape)
	if err != nil {
		return Tensor{}, err
	}
	text, at := string(data), 0
	for i := range t.Strings {
		if len(data)-at < stringPrefix {
			err = inputError(spec, "ends before element %d of %d", i, n)
			break
		}
		size := int64(binary.LittleEndian.Uint32(data[at:]))
		if at += stringPrefix; size > int64(len(data)-at) {
			err = inputError(spec, "is too short: element %d is said to have %s, what is left has %d", i, counted(size, "byte"), len(data)-at)
			break
		}
		t.Strings[i] = text[at : at+int(size)]
		if at += int(size); !utf8.ValidString(t.Strings[i]) {
			err = inputError(spec, "does not fit: element %d is not valid UTF-8", i)
			break
		}
	}
	if err == nil && at != len(data) {
		err = inputError(spec, "has %d bytes behind the last of its %d elements", len(data)-at, n)
	}
	if err != nil {
		t.Release()
		return Tensor{}, err
	}
	return t, nil
}

// decodeRaw reads a body that is nothing but the bytes of one input, whose
// open dimension they tell. BYTES are one element, without a length before it.
func decodeRaw(data []byte, spec *models.TensorSpec, mem *Memory) (Tensor, error) {
	shape, open := slices.Clone(spec.Shape), -1
	for i, d := range shape {
		if d >= 0 {
			continue
		}
		if open >= 0 {
			return Tensor{}, inputError(spec, "wants %s: bytes alone don't tell more than one open dimension; send JSON in front of them", contract(spec))
		}
		open, shape[i] = i, 1
	}
	each, ok := Elements(shape)
	if !ok {
		return Tensor{}, ErrTooLarge
	}
	if spec.Type == models.String {
		return decodeOne(data, spec, shape, mem)
	}
	if row := each * int64(spec.Type.Size()); open >= 0 && row > 0 {
		if int64(len(data))%row != 0 {
			return Tensor{}, inputError(spec, "wants %s: %d bytes are no multiple of %d", contract(spec), len(data), row)
		}
		shape[open] = int64(len(data)) / row
	}
	if err := fits(spec, shape); err != nil {
		return Tensor{}, err
	}
	return decodeBytes(data, spec, shape, mem)
}

// decodeOne makes a string tensor of one element.
func decodeOne(data []byte, spec *models.TensorSpec, shape []int64, mem *Memory) (Tensor, error) {
	if n, _ := Elements(shape); n != 1 {
		return Tensor{}, inputError(spec, "wants %s: a body without JSON is one element", contract(spec))
	}
	if !utf8.Valid(data) {
		return Tensor{}, inputError(spec, "does not fit: the body is not valid UTF-8")
	}
	t, err := NewTensor(mem, models.String, shape)
	if err != nil {
		return Tensor{}, err
	}
	t.Strings[0] = string(data)
	return t, nil
}

// HeaderLength reads the value of Inference-Header-Content-Length: decimal
// digits alone. ErrInput for anything else.
func HeaderLength(text string) (int, error) {
	n, end := parseUnsigned[uint32]([]byte(text), 0)
	if end != len(text) || n > maxDimension {
		return 0, ErrInput.With(fmt.Sprintf("the header Inference-Header-Content-Length must be the length of the JSON in bytes, found %s", quote(text)))
	}
	return int(n), nil
}
