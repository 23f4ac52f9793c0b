package inference

import (
	"bytes"
	"strings"

	"modelgate/models"
)

// tensorReader reads one input of a request. It knows from the signature what
// must come, so that nothing is parsed into anything but its final place.
type tensorReader struct {
	*scanner
	spec  *models.TensorSpec
	mem   *Memory
	alone bool     // no other input follows: what is left of the text is all its own
	dims  *[]int64 // room for shapes, which readers take from

	t     Tensor
	room  []int64         // the shape of t while it is being filled
	at    int             // elements read
	text  strings.Builder // what string elements consist of, never grown
	plain []byte          // a string without its escapes
	shape []int64         // as nested so far; -1: nothing seen at that level
	path  []int64         // which array is being read, per level but the last
	flat  bool            // the values stand in "data", beside a "shape"
}

// read returns the tensor at the scanner's position. It is released when an
// error or a panic comes in between.
func (r *tensorReader) read() (t Tensor, err error) {
	defer func() {
		if t.Type == models.Undefined {
			r.t.Release()
		}
	}()
	rank := len(r.spec.Shape)
	need := 2*rank + 1
	if len(*r.dims) < need {
		*r.dims = make([]int64, need)
	}
	dims := (*r.dims)[:need:need]
	*r.dims = (*r.dims)[need:]
	r.shape, r.path, r.room = dims[:rank:rank], dims[rank:max(2*rank-1, rank)], dims[2*rank:]
	for i := range r.shape {
		r.shape[i] = -1
	}
	if r.space() == '{' {
		err = r.object()
	} else {
		err = r.array()
	}
	if err != nil {
		return Tensor{}, err
	}
	if err := fits(r.spec, r.shape); err != nil {
		return Tensor{}, err
	}
	return r.filled(), nil
}

// filled is the tensor with its shape and without the room that was not needed.
func (r *tensorReader) filled() Tensor {
	r.t.Shape = r.shape
	if r.t.Type == models.String {
		r.t.Strings = r.t.Strings[:r.at]
	} else {
		r.t.Data = r.t.Data[:r.at*r.t.Type.Size()]
	}
	return r.t
}

// array reads nested arrays, or a single value for rank 0.
func (r *tensorReader) array() error {
	span := r.b[r.i:]
	if !r.alone {
		var err error
		from := r.i
		if span, err = r.skip(); err != nil {
			return err
		}
		r.i = from
	}
	if err := r.allocate(span); err != nil {
		return err
	}
	if len(r.shape) == 0 {
		return r.scalar()
	}
	if err := r.nested(0); err != nil {
		return err
	}
	// Below an empty array nothing tells the size.
	for i, d := range r.shape {
		if d < 0 {
			r.shape[i] = max(r.spec.Shape[i], 0)
		}
	}
	return nil
}

// allocate makes room for as many elements as the text can hold: a comma
// stands between any two of them, so that the room is exact for a full array
// and never beyond what was really sent.
func (r *tensorReader) allocate(span []byte) error {
	n := 1
	switch {
	case r.spec.Type == models.String:
		n = countStrings(span)
		r.text.Grow(len(span))
	case len(r.shape) > 0 || r.flat:
		n = min(bytes.Count(span, []byte{','}), len(span)/2) + 1
	}
	r.room[0] = int64(n)
	t, err := NewTensor(r.mem, r.spec.Type, r.room)
	if err != nil {
		return err
	}
	r.t = t
	return nil
}

// countStrings counts the strings in a text.
func countStrings(b []byte) (n int) {
	for i := 0; ; n++ {
		k := bytes.IndexByte(b[i:], '"')
		if k < 0 {
			return n
		}
		if i = endOfString(b, i+k+1); i < 0 {
			return n + 1
		}
	}
}

// nested reads the array at the given level.
func (r *tensorReader) nested(level int) error {
	if r.space() != '[' {
		return r.shallow(level)
	}
	r.i++
	n, err := 0, error(nil)
	if level == len(r.shape)-1 {
		if n, err = r.values(); err != nil {
			return err
		}
		r.at += n
	} else if n, err = r.rows(level); err != nil {
		return err
	}
	if want := r.shape[level]; want >= 0 && want != int64(n) {
		return r.ragged(level, n)
	}
	r.shape[level] = int64(n)
	return nil
}

// rows reads the arrays in an array, up to its closing bracket.
func (r *tensorReader) rows(level int) (n int, err error) {
	if r.eat(']') {
		return 0, nil
	}
	for ; ; n++ {
		r.path[level] = int64(n)
		if err := r.nested(level + 1); err != nil {
			return n, err
		}
		switch r.space() {
		case ',':
			r.i++
		case ']':
			r.i++
			return n + 1, nil
		default:
			return n, r.fail("a comma or ]")
		}
	}
}

// object reads {"shape":[...],"data":[...]}, in either order.
func (r *tensorReader) object() error {
	r.i++
	r.flat = true
	var shaped, filled bool
	for first := true; ; {
		key, ok, err := r.key(&first)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch {
		case string(key) == "shape" && !shaped:
			shaped, err = true, r.readShape()
		case string(key) == "data" && !filled:
			filled, err = true, r.readData()
		case string(key) == "shape" || string(key) == "data":
			err = inputError(r.spec, "has %q twice", key)
		default:
			err = inputError(r.spec, "is an object with the key %s; send nested arrays, or an object of \"shape\" and \"data\"", quote(key))
		}
		if err != nil {
			return err
		}
	}
	if !shaped || !filled {
		return inputError(r.spec, "is an object without \"shape\" or without \"data\"; send both, or nested arrays")
	}
	n, ok := Elements(r.shape)
	if !ok {
		return inputError(r.spec, "has a shape whose size is out of range: %s", shapeText(r.shape))
	}
	if n != int64(r.at) {
		return inputError(r.spec, "has %d values in \"data\", but the shape %s needs %d", r.at, shapeText(r.shape), n)
	}
	return nil
}

// readShape reads an array of whole numbers.
func (r *tensorReader) readShape() error {
	bad := func() error {
		return inputError(r.spec, "has a \"shape\" that is no list of whole numbers from 0 to %d; %s wants %d of them",
			maxDimension, contract(r.spec), len(r.spec.Shape))
	}
	r.shape = r.shape[:0]
	if !r.eat('[') {
		return bad()
	}
	if r.eat(']') {
		return nil
	}
	for {
		r.space()
		d, end := parseUnsigned[uint32](r.b, r.i)
		if end < 0 || d > maxDimension || len(r.shape) == maxDepth {
			return bad()
		}
		r.shape = append(r.shape, int64(d))
		r.i = end
		switch r.space() {
		case ',':
			r.i++
		case ']':
			r.i++
			return nil
		default:
			return bad()
		}
	}
}

// readData reads a flat array of elements.
func (r *tensorReader) readData() error {
	if r.space() != '[' {
		return inputError(r.spec, "has \"data\" that is no array; send the values as one flat array")
	}
	from := r.i
	span, err := r.skip()
	if err != nil {
		return err
	}
	if err := r.allocate(span); err != nil {
		return err
	}
	r.i = from + 1
	r.at, err = r.values()
	return err
}

// scalar reads the one value of rank 0.
func (r *tensorReader) scalar() error {
	n, err := r.elements(true)
	r.at = n
	return err
}

// values reads the elements of an innermost array, up to its closing bracket,
// and returns how many there were.
func (r *tensorReader) values() (int, error) { return r.elements(false) }

// elements picks the parser of the element type.
func (r *tensorReader) elements(one bool) (int, error) {
	switch t := &r.t; t.Type {
	case models.Float32:
		return list(r, View[float32](t), parseFloat32, one)
	case models.Float64:
		return list(r, View[float64](t), parseFloat64, one)
	case models.Float16:
		return list(r, View[uint16](t), parseFloat16, one)
	case models.BFloat16:
		return list(r, View[uint16](t), parseBFloat16, one)
	case models.Int8:
		return list(r, View[int8](t), parseSigned[int8], one)
	case models.Int16:
		return list(r, View[int16](t), parseSigned[int16], one)
	case models.Int32:
		return list(r, View[int32](t), parseSigned[int32], one)
	case models.Int64:
		return list(r, View[int64](t), parseSigned[int64], one)
	case models.Uint8:
		return list(r, View[uint8](t), parseUnsigned[uint8], one)
	case models.Uint16:
		return list(r, View[uint16](t), parseUnsigned[uint16], one)
	case models.Uint32:
		return list(r, View[uint32](t), parseUnsigned[uint32], one)
	case models.Uint64:
		return list(r, View[uint64](t), parseUnsigned[uint64], one)
	case models.Bool:
		return list(r, View[uint8](t), parseBool, one)
	default: // strings; NewTensor took no other type
		return r.strings(one)
	}
}

// list reads elements into dst from r.at on; only one, without brackets, if
// one says so.
func list[T any](r *tensorReader, dst []T, parse func([]byte, int) (T, int), one bool) (n int, err error) {
	b, i := r.b, r.i
	if !one {
		if r.eat(']') {
			return 0, nil
		}
		i = r.i
	}
	for at := r.at; ; at, n = at+1, n+1 {
		if i < len(b) && b[i] <= ' ' {
			r.i = i
			r.space()
			i = r.i
		}
		v, end := parse(b, i)
		if end < 0 || at >= len(dst) {
			r.i = i
			return n, r.bad(end, n)
		}
		dst[at] = v
		i = end
		if one {
			r.i = i
			return 1, nil
		}
		if i < len(b) && b[i] == ',' {
			i++
			continue
		}
		r.i = i
		switch r.space() {
		case ',':
			i = r.i + 1
		case ']':
			r.i++
			return n + 1, nil
		default:
			return n, r.fail("a comma or ] behind " + r.where(n))
		}
	}
}

// strings is list for string elements.
func (r *tensorReader) strings(one bool) (n int, err error) {
	if !one && r.eat(']') {
		return 0, nil
	}
	for ; ; n++ {
		if r.space() != '"' || r.at+n >= len(r.t.Strings) {
			return n, r.bad(badLiteral, n)
		}
		raw, escaped, err := r.raw("a string")
		if err == nil && escaped {
			r.plain, err = unescape(r.plain[:0], raw)
			raw = r.plain
		}
		if err != nil {
			return n, err
		}
		from := r.text.Len()
		r.text.Write(raw)
		r.t.Strings[r.at+n] = r.text.String()[from:]
		if one {
			return 1, nil
		}
		switch r.space() {
		case ',':
			r.i++
		case ']':
			r.i++
			return n + 1, nil
		default:
			return n, r.fail("a comma or ] behind " + r.where(n))
		}
	}
}
