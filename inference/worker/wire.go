package worker

import (
	"encoding/binary"
	"errors"

	"modelgate/inference"
	"modelgate/models"
)

// Descriptions of runs, as they lie in slots. Numbers are little-endian.
//
//	request  u16 number of inputs, tensors; u16 number of outputs wanted, u16 each
//	answer   values, as many as were wanted: u8 kind, then a tensor, or u32 how
//	         many and so many tensors or (keys, values)
//	tensor   u8 type, u8 rank, u16 0, u32 0, u64 each dimension, u64 place, u64 size
//
// Of strings, what lies at the place is where each ends, u64 behind the table,
// and then their bytes end to end.

var (
	errShort   = errors.New("a description ends too early")
	errOutside = errors.New("a tensor lies outside of the room")
)

// word is the size of a number in a table of strings.
const word = 8

func appendTensor(b []byte, t *inference.Tensor, at uint64, size int) []byte {
	b = append(b, byte(t.Type), byte(len(t.Shape)), 0, 0, 0, 0, 0, 0)
	for _, d := range t.Shape {
		b = binary.LittleEndian.AppendUint64(b, uint64(d))
	}
	b = binary.LittleEndian.AppendUint64(b, at)
	return binary.LittleEndian.AppendUint64(b, uint64(size))
}

// reader takes a description apart.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || len(r.rest) < n {
		r.err = errShort
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8() int  { return int(r.take(1)[0]) }
func (r *reader) u16() int { return int(binary.LittleEndian.Uint16(r.take(2))) }
func (r *reader) u32() int { return int(binary.LittleEndian.Uint32(r.take(4))) }

func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

// tensor reads a tensor's head; its shape is put into the room that shapes has
// left.
func (r *reader) tensor(shapes *[]int64) (t models.DataType, shape []int64, p place) {
	head := r.take(8)
	rank := int(head[1])
	if len(r.rest) < 8*rank {
		r.err = errShort
		return
	}
	from := len(*shapes)
	if from+rank > cap(*shapes) {
		*shapes, from = make([]int64, 0, max(rank, 32)), 0
	}
	for range rank {
		*shapes = append(*shapes, int64(r.u64()))
	}
	return models.DataType(head[0]), (*shapes)[from : from+rank : from+rank], place{r.u64(), r.u64()}
}

// packedSize is what strings take when packed.
func packedSize(text []string) int {
	n := len(text) * word
	for _, t := range text {
		n += len(t)
	}
	return n
}

// pack writes strings into b, which is as large as packedSize says.
func pack(b []byte, text []string) {
	end := 0
	bytes := b[len(text)*word:]
	for i, t := range text {
		end += copy(bytes[end:], t)
		binary.LittleEndian.PutUint64(b[i*word:], uint64(end))
	}
}

// unpack fills text from a copy of what pack wrote.
func unpack(packed string, text []string) error {
	if len(packed) < len(text)*word {
		return errShort
	}
	bytes := packed[len(text)*word:]
	start := uint64(0)
	for i := range text {
		end := uint64(0)
		for k := range word {
			end |= uint64(packed[i*word+k]) << (8 * k)
		}
		if end < start || end > uint64(len(bytes)) {
			return errors.New("strings overlap or end outside of their bytes")
		}
		text[i] = bytes[start:end]
		start = end
	}
	if start != uint64(len(bytes)) {
		return errors.New("strings leave bytes over")
	}
	return nil
}
