package inference

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"modelgate/models"
)

// maxAnswer bounds the JSON of one answer, in bytes.
const maxAnswer = 256 << 20

// AppendJSON appends the answer to a prediction:
// {"id"?,"model","outputs":{name:value}}. A tensor becomes nested arrays by
// its shape (rank 0: a value alone), a map an object, sequences arrays of
// those. Floats are the shortest decimal that reads back to the same value of
// their own width, in the notation of encoding/json; NaN and the infinities,
// which JSON lacks, become null. Bytes that are not UTF-8 become U+FFFD.
// e may be nil. ErrTooLarge beyond 256 MiB; ErrRun for a tensor that
// contradicts its own shape; dst is then returned as it was.
func AppendJSON(dst []byte, r *Result, e *Envelope) ([]byte, error) {
	w := encoder{b: dst, start: len(dst)}
	w.raw(`{`)
	if e != nil && e.HasID {
		w.raw(`"id":`)
		w.text(e.ID)
		w.raw(`,`)
	}
	w.raw(`"model":`)
	w.text(r.Model)
	w.raw(`,"outputs":{`)
	for i := range r.Outputs {
		if i > 0 {
			w.raw(`,`)
		}
		w.text(r.Outputs[i].Name)
		w.raw(`:`)
		if err := w.value(&r.Outputs[i].Value); err != nil {
			return dst, err
		}
	}
	w.raw(`}}`)
	return w.b, nil
}

// encoder appends JSON to b.
type encoder struct {
	b     []byte
	start int
}

func (w *encoder) raw(s string) { w.b = append(w.b, s...) }

func (w *encoder) value(v *Value) error {
	switch v.Kind {
	case models.KindTensor:
		return w.tensor(&v.Tensor)
	case models.KindMap:
		if len(v.Maps) != 1 {
			return contradiction("a map")
		}
		return w.object(&v.Maps[0])
	case models.KindMaps:
		return sequence(w, v.Maps, w.object)
	case models.KindTensors:
		return sequence(w, v.Tensors, w.tensor)
	}
	return contradiction("a value")
}

func contradiction(what string) error {
	return ErrRun.Because(fmt.Errorf("%s contradicts its own shape", what))
}

func sequence[T any](w *encoder, list []T, item func(*T) error) error {
	w.raw(`[`)
	for i := range list {
		if i > 0 {
			w.raw(`,`)
		}
		if err := item(&list[i]); err != nil {
			return err
		}
	}
	w.raw(`]`)
	return nil
}

// object writes a map; whole numbers as keys become strings.
func (w *encoder) object(m *Map) error {
	n := m.Keys.Len()
	if !m.Keys.whole() || !m.Values.whole() || n != m.Values.Len() {
		return contradiction("a map")
	}
	var ints []int64
	switch m.Keys.Type {
	case models.Int64:
		ints = View[int64](&m.Keys)
	case models.String:
	default:
		return contradiction("a map")
	}
	w.raw(`{`)
	for i := range n {
		if i > 0 {
			w.raw(`,`)
		}
		if ints != nil {
			w.raw(`"`)
			w.b = strconv.AppendInt(w.b, ints[i], 10)
			w.raw(`":`)
		} else {
			w.text(m.Keys.Strings[i])
			w.raw(`:`)
		}
		w.elements(&m.Values, i, i+1)
	}
	w.raw(`}`)
	return w.bounded()
}

// bounded fails when the answer has grown too large.
func (w *encoder) bounded() error {
	if len(w.b)-w.start > maxAnswer {
		return ErrTooLarge.With(fmt.Sprintf("the answer is larger than %d MiB of JSON; send less at once or ask for fewer outputs", maxAnswer>>20))
	}
	return nil
}

// tensor writes nested arrays.
func (w *encoder) tensor(t *Tensor) error {
	if !t.whole() {
		return contradiction("a tensor")
	}
	n := t.Len()
	if arrays(t.Shape) > 16*int64(n)+1<<16 {
		return ErrTooLarge.With("an output has too many empty or nested arrays to be written as JSON")
	}
	w.b = slices.Grow(w.b, min(n*8+2, maxAnswer))
	if len(t.Shape) == 0 {
		w.elements(t, 0, 1)
		return nil
	}
	_, err := w.nested(t, 0, 0)
	return err
}

// arrays counts the arrays that a shape nests into, up to math.MaxInt32.
func arrays(shape []int64) int64 {
	total, level := int64(0), int64(1)
	for _, d := range shape {
		total = min(total+level, math.MaxInt32)
		level = min(level, math.MaxInt32) * min(d, math.MaxInt32)
	}
	return total
}

// nested writes the array at a level, from element at on, and returns where
// the next one begins.
func (w *encoder) nested(t *Tensor, level, at int) (int, error) {
	n := int(t.Shape[level])
	w.raw(`[`)
	if level == len(t.Shape)-1 {
		w.elements(t, at, at+n)
		w.raw(`]`)
		return at + n, w.bounded()
	}
	for i := range n {
		if i > 0 {
			w.raw(`,`)
		}
		var err error
		if at, err = w.nested(t, level+1, at); err != nil {
			return at, err
		}
	}
	w.raw(`]`)
	return at, nil
}

// elements writes the elements from..to-1 with commas between them.
func (w *encoder) elements(t *Tensor, from, to int) {
	switch t.Type {
	case models.Float32:
		join(w, View[float32](t)[from:to], appendFloat32)
	case models.Float64:
		join(w, View[float64](t)[from:to], appendFloat64)
	case models.Float16:
		join(w, View[uint16](t)[from:to], func(b []byte, v uint16) []byte { return appendFloat64(b, float16.shortest(v)) })
	case models.BFloat16:
		join(w, View[uint16](t)[from:to], func(b []byte, v uint16) []byte { return appendFloat64(b, bfloat16.shortest(v)) })
	case models.Int8:
		join(w, View[int8](t)[from:to], appendSigned[int8])
	case models.Int16:
		join(w, View[int16](t)[from:to], appendSigned[int16])
	case models.Int32:
		join(w, View[int32](t)[from:to], appendSigned[int32])
	case models.Int64:
		join(w, View[int64](t)[from:to], appendSigned[int64])
	case models.Uint8:
		join(w, View[uint8](t)[from:to], appendUnsigned[uint8])
	case models.Uint16:
		join(w, View[uint16](t)[from:to], appendUnsigned[uint16])
	case models.Uint32:
		join(w, View[uint32](t)[from:to], appendUnsigned[uint32])
	case models.Uint64:
		join(w, View[uint64](t)[from:to], appendUnsigned[uint64])
	case models.Bool:
		join(w, View[uint8](t)[from:to], func(b []byte, v uint8) []byte { return strconv.AppendBool(b, v != 0) })
	case models.String:
		join(w, t.Strings[from:to], appendText)
	}
}

func join[T any](w *encoder, list []T, element func([]byte, T) []byte) {
	b := w.b
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = element(b, v)
	}
	w.b = b
}

func appendSigned[T int8 | int16 | int32 | int64](b []byte, v T) []byte {
	return strconv.AppendInt(b, int64(v), 10)
}

func appendUnsigned[T uint8 | uint16 | uint32 | uint64](b []byte, v T) []byte {
	return strconv.AppendUint(b, uint64(v), 10)
}

func (w *encoder) text(s string) { w.b = appendText(w.b, s) }

// appendText writes a string with the escapes that JSON asks for.
func appendText(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			b = append(b, s[from:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			from = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			b = append(b, s[from:i]...)
			b = utf8.AppendRune(b, utf8.RuneError)
			from = i + 1
		}
		i += n
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}
