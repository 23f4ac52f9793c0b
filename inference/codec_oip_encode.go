package inference

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"modelgate/models"
)

// AppendInfer appends the answer to an infer request of the Open Inference
// Protocol: {"model_name","model_version"?,"id"?,"outputs":[{"name",
// "datatype","shape","data"}]}, each output's data one flat array, or behind
// the JSON where the request wants bytes. version is "" for none. header is
// the length of the JSON when bytes may follow it, else NoHeader.
//
// Values are written as AppendJSON writes them; in bytes, NaN and the
// infinities stay. Maps become a tensor of their values, sorted by key: [N,C]
// for a sequence of maps, [C] for a single one. ErrInput for a sequence of
// tensors, and for maps whose keys differ: the protocol has no form for them.
// ErrTooLarge beyond 256 MiB; ErrRun for what contradicts its own shape. dst
// is then returned as it was.
func AppendInfer(dst []byte, r *Result, req *Infer, version string) (out []byte, header int, err error) {
	w := encoder{b: dst, start: len(dst)}
	w.raw(`{"model_name":`)
	w.text(r.Model)
	if version != "" {
		w.raw(`,"model_version":`)
		w.text(version)
	}
	if req.HasID {
		w.raw(`,"id":`)
		w.text(req.ID)
	}
	w.raw(`,"outputs":[`)
	flat, header := make([]flatOutput, len(r.Outputs)), NoHeader
	for i := range r.Outputs {
		if i > 0 {
			w.raw(`,`)
		}
		if flat[i], err = asTensor(&r.Outputs[i]); err != nil {
			return dst, NoHeader, err
		}
		if req.bytesFor(i) {
			header = 0
		}
		if err := w.inferOutput(r.Outputs[i].Name, &flat[i], req.bytesFor(i)); err != nil {
			return dst, NoHeader, err
		}
	}
	w.raw(`]}`)
	if header == NoHeader {
		return w.b, NoHeader, nil
	}
	header = len(w.b) - w.start
	for i := range flat {
		if !req.bytesFor(i) {
			continue
		}
		if err := w.appendBytes(&flat[i]); err != nil {
			return dst, NoHeader, err
		}
	}
	return w.b, header, nil
}

// flatOutput is an output as the protocol knows it: parts of tensors, one
// after the other. Of a tensor it is all; of maps, the values in the order of
// the sorted keys.
type flatOutput struct {
	datatype models.DataType
	shape    []int64
	tensor   *Tensor
	maps     []Map
	orders   [][]int // of maps: the places of the values
}

// asTensor looks at an output as a tensor.
func asTensor(o *Output) (flatOutput, error) {
	switch v := &o.Value; v.Kind {
	case models.KindTensor:
		if !v.Tensor.whole() {
			return flatOutput{}, contradiction("a tensor")
		}
		return flatOutput{datatype: v.Tensor.Type, shape: v.Tensor.Shape, tensor: &v.Tensor}, nil
	case models.KindMaps:
		return mapsAsTensor(o.Name, v.Maps, true)
	case models.KindMap:
		if len(v.Maps) != 1 {
			return flatOutput{}, contradiction("a map")
		}
		return mapsAsTensor(o.Name, v.Maps, false)
	}
	return flatOutput{}, ErrInput.With("the output " + quote(o.Name) +
		" is a sequence of tensors, which this protocol can't carry; ask for other outputs, or use POST /predict")
}

func mapsAsTensor(name string, maps []Map, many bool) (flatOutput, error) {
	f := flatOutput{datatype: models.Float32, maps: maps, orders: make([][]int, len(maps))}
	keys := 0
	for i := range maps {
		m := &maps[i]
		if n := m.Keys.Len(); !m.Keys.whole() || !m.Values.whole() || n != m.Values.Len() || m.Keys.Type != maps[0].Keys.Type {
			return flatOutput{}, contradiction("a map")
		}
		switch {
		case i > 0 && sameKeys(&maps[i-1], m, nil, nil):
			f.orders[i] = f.orders[i-1]
		default:
			f.orders[i] = byKey(&m.Keys)
		}
		if i > 0 && !sameKeys(&maps[0], m, f.orders[0], f.orders[i]) {
			return flatOutput{}, ErrInput.With("the output " + quote(name) +
				" has other keys in one row than in another, which this protocol can't carry; ask for other outputs, or use POST /predict")
		}
		f.datatype, keys = m.Values.Type, m.Keys.Len()
	}
	if f.shape = []int64{int64(keys)}; many {
		f.shape = []int64{int64(len(maps)), int64(keys)}
	}
	return f, nil
}

// byKey returns the places of the keys in ascending order.
func byKey(keys *Tensor) []int {
	order := make([]int, keys.Len())
	for i := range order {
		order[i] = i
	}
	if keys.Type == models.String {
		slices.SortFunc(order, func(a, b int) int { return cmp.Compare(keys.Strings[a], keys.Strings[b]) })
	} else {
		ints := View[int64](keys)
		slices.SortFunc(order, func(a, b int) int { return cmp.Compare(ints[a], ints[b]) })
	}
	return order
}

// sameKeys compares the keys of two maps, in the orders given or, without
// orders, as they stand.
func sameKeys(a, b *Map, orderA, orderB []int) bool {
	n := a.Keys.Len()
	if n != b.Keys.Len() {
		return false
	}
	if orderA == nil {
		return slices.Equal(a.Keys.Data, b.Keys.Data) && slices.Equal(a.Keys.Strings, b.Keys.Strings)
	}
	x, y := View[int64](&a.Keys), View[int64](&b.Keys)
	for i := range n {
		if a.Keys.Type == models.String {
			if a.Keys.Strings[orderA[i]] != b.Keys.Strings[orderB[i]] {
				return false
			}
		} else if x[orderA[i]] != y[orderB[i]] {
			return false
		}
	}
	return true
}

// each calls do for the runs of elements of an output, in order.
func (f *flatOutput) each(do func(t *Tensor, from, to int) error) error {
	if f.tensor != nil {
		return do(f.tensor, 0, f.tensor.Len())
	}
	for i := range f.maps {
		for _, k := range f.orders[i] {
			if err := do(&f.maps[i].Values, k, k+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// inferOutput writes one entry of outputs.
func (w *encoder) inferOutput(name string, f *flatOutput, binary bool) error {
	w.raw(`{"name":`)
	w.text(name)
	w.raw(`,"datatype":`)
	w.text(f.datatype.String())
	w.raw(`,"shape":[`)
	join(w, f.shape, appendSigned[int64])
	if binary {
		size := f.size()
		if size > maxAnswer {
			return tooMuch()
		}
		w.raw(`],"parameters":{"binary_data_size":`)
		w.b = strconv.AppendInt(w.b, size, 10)
		w.raw(`}}`)
		return w.bounded()
	}
	w.raw(`],"data":[`)
	first := true
	err := f.each(func(t *Tensor, from, to int) error {
		// In pieces, so that the bound holds while there is still little beyond it.
		for ; from < to; from += 1 << 16 {
			if !first {
				w.raw(`,`)
			}
			first = false
			w.elements(t, from, min(from+1<<16, to))
			if err := w.bounded(); err != nil {
				return err
			}
		}
		return nil
	})
	w.raw(`]}`)
	return err
}

// bytesOf is the size of elements as the binary extension writes them.
func (t *Tensor) bytesOf(from, to int) int64 {
	if t.Type != models.String {
		return int64(to-from) * int64(t.Type.Size())
	}
	size := int64(0)
	for _, s := range t.Strings[from:to] {
		size += stringPrefix + int64(len(s))
	}
	return size
}

// appendBytes writes an output behind the JSON.
func (w *encoder) appendBytes(f *flatOutput) error {
	return f.each(func(t *Tensor, from, to int) error {
		if int64(len(w.b)-w.start)+t.bytesOf(from, to) > maxAnswer {
			return tooMuch()
		}
		if t.Type != models.String {
			size := t.Type.Size()
			w.b = append(w.b, t.Data[from*size:to*size]...)
			return nil
		}
		for _, s := range t.Strings[from:to] {
			w.b = binary.LittleEndian.AppendUint32(w.b, uint32(len(s)))
			w.b = append(w.b, s...)
		}
		return nil
	})
}

func tooMuch() error {
	return ErrTooLarge.With(fmt.Sprintf("the answer is larger than %d MiB; send less at once or ask for fewer outputs", maxAnswer>>20))
}
