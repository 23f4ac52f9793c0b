package inference

import (
	"encoding/binary"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"modelgate/models"
)

// decodeContents reads a tensor from the field of an InferTensorContents that
// its datatype has. Elements are counted before anything is allocated for
// them. shape's size is in range.
func decodeContents(contents []byte, spec *models.TensorSpec, shape []int64, mem *Memory) (Tensor, error) {
	field, typ := contentsOf(spec.Type)
	if field == 0 {
		return Tensor{}, inputError(spec, "is %s, which has no field in \"contents\"; send it in \"raw_input_contents\"", spec.Type)
	}
	n, _ := Elements(shape)
	sent, err := countContents(contents, field, typ, spec)
	if err != nil {
		return Tensor{}, err
	}
	if sent != n {
		return Tensor{}, inputError(spec, "has %s in \"contents\", but the shape %s needs %d", counted(sent, "value"), shapeText(shape), n)
	}
	t, err := NewTensor(mem, spec.Type, shape)
	if err != nil {
		return Tensor{}, err
	}
	at := 0
	err = protoFields(contents, func(_ protowire.Number, got protowire.Type, value []byte, n uint64) error {
		switch {
		case typ == protowire.BytesType:
			if !utf8.Valid(value) {
				return inputError(spec, "does not fit: element %d is not valid UTF-8", at)
			}
			t.Strings[at] = string(value)
			at++
			return nil
		case got == protowire.BytesType && typ == protowire.VarintType:
			for len(value) > 0 {
				n, size := protowire.ConsumeVarint(value)
				if err := t.put(at, n, spec); err != nil {
					return err
				}
				value = value[size:]
				at++
			}
			return nil
		case got == protowire.BytesType: // packed floats stand as in memory
			size := spec.Type.Size()
			copy(t.Data[at*size:], value)
			at += len(value) / size
			return nil
		}
		err := t.put(at, n, spec)
		at++
		return err
	})
	if err != nil {
		t.Release()
		return Tensor{}, err
	}
	return t, nil
}

// countContents counts the elements in the one field that may be there, packed
// or one by one.
func countContents(contents []byte, field protowire.Number, typ protowire.Type, spec *models.TensorSpec) (n int64, err error) {
	err = protoFields(contents, func(num protowire.Number, got protowire.Type, value []byte, _ uint64) error {
		switch {
		case num != field:
			return inputError(spec, "is %s, but \"contents\" has values in the field of another datatype", spec.Type)
		case got == typ:
			n++
		case got != protowire.BytesType:
			return errProto
		case typ == protowire.VarintType:
			for len(value) > 0 {
				_, size := protowire.ConsumeVarint(value)
				if size < 0 {
					return errProto
				}
				value = value[size:]
				n++
			}
		default:
			size := spec.Type.Size()
			if len(value)%size != 0 {
				return errProto
			}
			n += int64(len(value) / size)
		}
		return nil
	})
	return n, err
}

// put writes the i-th element of a tensor of numbers from its encoding. Signed
// numbers come sign-extended to 64 bits.
func (t *Tensor) put(i int, n uint64, spec *models.TensorSpec) error {
	size := t.Type.Size()
	at := t.Data[i*size : (i+1)*size]
	bits := 8 * size
	switch t.Type {
	case models.Int8, models.Int16, models.Int32:
		if v := int64(n); v < -1<<(bits-1) || v >= 1<<(bits-1) {
			return inputError(spec, "does not fit: element %d is %d, which is out of the range of %s", i, v, t.Type)
		}
	case models.Uint8, models.Uint16, models.Uint32:
		if n >= 1<<bits {
			return inputError(spec, "does not fit: element %d is %d, which is out of the range of %s", i, n, t.Type)
		}
	case models.Bool:
		if n > 1 {
			n = 1 // protobuf: anything but 0 is true
		}
	}
	switch size {
	case 1:
		at[0] = byte(n)
	case 2:
		binary.LittleEndian.PutUint16(at, uint16(n))
	case 4:
		binary.LittleEndian.PutUint32(at, uint32(n))
	default:
		binary.LittleEndian.PutUint64(at, n)
	}
	return nil
}
