package inference

import (
	"context"
	"math"
	"unsafe"

	"modelgate/models"
)

// stringHeader is what an element of a string tensor costs apart from its
// characters.
const stringHeader = int64(unsafe.Sizeof(""))

// Tensor is a typed array. Data is little-endian and row-major; its memory
// lies outside the Go heap when a Buffer owns it, so that a runtime written in
// C may read it while Go's collector runs.
//
// A Tensor may be copied; copies share Data, and the first Release frees it
// for all of them.
type Tensor struct {
	Type    models.DataType
	Shape   []int64  // every dimension >= 0; empty: rank 0
	Data    []byte   // len = elements * Type.Size(); nil for String
	Strings []string // for String only, len = elements
	buf     *Buffer  // owner of Data, nil when somebody else is
	gen     uint32   // buf's generation when it was taken
	lent    bool     // Data lies outside the Go heap, and somebody else frees it
}

// Lent returns a tensor of data that lies outside the Go heap and stays until
// the tensor is used no more. Release does not free it.
func Lent(t models.DataType, shape []int64, data []byte) Tensor {
	return Tensor{Type: t, Shape: shape, Data: data, lent: true}
}

// NewTensor returns a tensor of that type and shape. Its Data comes from mem
// and holds leftovers: the caller writes all of it. Strings are empty; their
// headers (16 bytes each) count for mem's budget, their characters don't. The
// tensor keeps shape. ErrTooLarge and ErrQueueFull as for Memory.Get, and
// ErrTooLarge for a shape whose size overflows; nothing is allocated before
// this is checked. ErrInput for a negative dimension or a type that is not
// served.
func NewTensor(mem *Memory, t models.DataType, shape []int64) (Tensor, error) {
	for _, d := range shape {
		if d < 0 {
			return Tensor{}, ErrInput.With("a dimension is negative; dimensions are 0 or more")
		}
	}
	n, ok := Elements(shape)
	if !ok {
		return Tensor{}, ErrTooLarge
	}
	if t == models.String {
		return newStrings(mem, n, shape, 0)
	}
	size := int64(t.Size())
	if size == 0 {
		return Tensor{}, ErrInput.With("the element type is not served")
	}
	if n > min(mem.budget, math.MaxInt)/size {
		return Tensor{}, ErrTooLarge
	}
	buf, err := mem.Get(context.Background(), int(n*size))
	if err != nil {
		return Tensor{}, err
	}
	return Tensor{Type: t, Shape: shape, Data: buf.Bytes(), buf: buf, gen: buf.gen}, nil
}

// NewText is NewTensor for strings whose characters are of that many bytes
// together, which count for mem's budget too.
func NewText(mem *Memory, shape []int64, bytes int64) (Tensor, error) {
	n, ok := Elements(shape)
	if !ok || bytes < 0 {
		return Tensor{}, ErrTooLarge
	}
	return newStrings(mem, n, shape, bytes)
}

func newStrings(mem *Memory, n int64, shape []int64, bytes int64) (Tensor, error) {
	if n > min(mem.budget, math.MaxInt)/stringHeader || bytes > mem.budget {
		return Tensor{}, ErrTooLarge
	}
	buf, err := mem.Charge(n*stringHeader + bytes)
	if err != nil {
		return Tensor{}, err
	}
	return Tensor{Type: models.String, Shape: shape, Strings: make([]string, n), buf: buf, gen: buf.gen}, nil
}

// Elements is the product of the dimensions: 1 for rank 0. It is false when a
// dimension is negative, or when the product of those that are not 0
// overflows an int64: a runtime may multiply them in any order.
func Elements(shape []int64) (int64, bool) {
	n, zero := int64(1), false
	for _, d := range shape {
		switch {
		case d < 0:
			return 0, false
		case d == 0:
			zero = true
		case n > math.MaxInt64/d:
			return 0, false
		default:
			n *= d
		}
	}
	if zero {
		return 0, true
	}
	return n, true
}

// Release frees the memory and empties the tensor. A zero Tensor, a second
// Release and the Release of another copy do nothing.
func (t *Tensor) Release() {
	if t.buf != nil {
		t.buf.release(t.gen)
	}
	*t = Tensor{}
}

// OffHeap reports whether Data lies outside the Go heap, so that C may keep
// its address while it computes.
func (t *Tensor) OffHeap() bool { return t.buf != nil || t.lent }

// Len is the number of elements.
func (t *Tensor) Len() int {
	if t.Type == models.String {
		return len(t.Strings)
	}
	if size := t.Type.Size(); size > 0 {
		return len(t.Data) / size
	}
	return 0
}

// Fixed are the Go types of elements; float16 and bfloat16 are seen as their
// bits.
type Fixed interface {
	float32 | float64 | int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
}

// View returns the elements of a tensor that NewTensor or an engine made, in
// place: T must be as wide as its element type (bool is one byte, 0 or 1). It
// must not be used after Release. On a Tensor with other Data the caller
// answers for its alignment.
func View[T Fixed](t *Tensor) []T {
	var one T
	if len(t.Data) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(t.Data))), len(t.Data)/int(unsafe.Sizeof(one)))
}

// Map is one ONNX map: Keys and Values are rank 1 and equally long. Keys are
// Int64 or String.
type Map struct {
	Keys   Tensor
	Values Tensor
}

// Value is one output of a run.
type Value struct {
	Kind    models.Kind
	Tensor  Tensor   // KindTensor
	Maps    []Map    // KindMaps; KindMap has exactly one
	Tensors []Tensor // KindTensors
}

// Release frees all that the value holds and empties it.
func (v *Value) Release() {
	v.Tensor.Release()
	for i := range v.Maps {
		v.Maps[i].Keys.Release()
		v.Maps[i].Values.Release()
	}
	for i := range v.Tensors {
		v.Tensors[i].Release()
	}
	*v = Value{}
}
