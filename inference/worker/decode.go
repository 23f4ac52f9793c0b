//go:build linux && (amd64 || arm64)

package worker

import (
	"errors"
	"fmt"
	"unsafe"

	"modelgate/inference"
	"modelgate/models"
)

// decoder reads an answer. Each byte of the shared memory is read once, since
// the worker may change it at any moment.
type decoder struct {
	*session
	r      reader
	shapes []int64
	held   []*inference.Buffer // until the answer is read
}

// maxDescription bounds what describes an answer, and not its elements.
const maxDescription = 64 << 20

// text copies the description of an answer, or the words of a failure.
func (d *decoder) text(c *call, slot *slot, p place) ([]byte, error) {
	if p.At == 0 {
		if p.Size > slotWords {
			return nil, fmt.Errorf("a description of %d bytes in a slot", p.Size)
		}
		c.asked = append(c.asked[:0], slot.inline[:p.Size]...)
		return c.asked, nil
	}
	from, ok := d.output(p)
	if !ok || p.Size > maxDescription {
		return nil, errOutside
	}
	b, err := d.engine.cfg.Memory.Get(c.ctx, len(from))
	if err != nil {
		return nil, err
	}
	c.held = append(c.held, b)
	copy(b.Bytes(), from)
	return b.Bytes(), nil
}

// output is a place in the room for outputs.
func (d *decoder) output(p place) ([]byte, bool) {
	from := headSize + d.arena.room
	return d.arena.at(p, from, from+d.arena.room)
}

// values reads an answer. What it made is returned with an error too.
func (d *decoder) values(text []byte, want []int, g *models.Graph) ([]inference.Value, error) {
	// One allocation for what most models give, as in inference/ort.
	few := new(struct {
		values [2]inference.Value
		shapes [8]int64
	})
	list := few.values[:min(len(want), len(few.values))]
	if len(want) > len(few.values) {
		list = make([]inference.Value, len(want))
	}
	d.r, d.shapes = reader{rest: text}, few.shapes[:0]
	for i, k := range want {
		if err := d.value(&list[i], g.Outputs[k].Kind); err != nil {
			return list, err
		}
	}
	if len(d.r.rest) > 0 {
		return list, errors.New("a description goes on too long")
	}
	return list, nil
}

func (d *decoder) value(v *inference.Value, kind models.Kind) (err error) {
	if got := d.r.u8(); got != int(kind) {
		return fmt.Errorf("a value of kind %d, not %d", got, kind)
	}
	v.Kind = kind
	if kind == models.KindTensor {
		v.Tensor, err = d.tensor()
		return err
	}
	count := d.r.u32()
	// Each has a head and a place at least, so that a short text can't ask for
	// many.
	if most := len(d.r.rest) / 24; count > most || kind != models.KindTensors && 2*count > most {
		return errShort
	}
	// What holds them counts as long as the run, so that many answers at once
	// can't take more than the memory's budget.
	b, err := d.engine.cfg.Memory.Charge(int64(count) * int64(unsafe.Sizeof(inference.Map{})))
	if err != nil {
		return err
	}
	d.held = append(d.held, b)
	if kind == models.KindTensors {
		v.Tensors = make([]inference.Tensor, count)
		for i := range v.Tensors {
			if v.Tensors[i], err = d.tensor(); err != nil {
				return err
			}
		}
		return nil
	}
	v.Maps = make([]inference.Map, count)
	for i := range v.Maps {
		if v.Maps[i].Keys, err = d.tensor(); err != nil {
			return err
		}
		if v.Maps[i].Values, err = d.tensor(); err != nil {
			return err
		}
	}
	return nil
}

// tensor copies a tensor into memory of the server's own.
func (d *decoder) tensor() (inference.Tensor, error) {
	typ, shape, p := d.r.tensor(&d.shapes)
	if d.r.err != nil {
		return inference.Tensor{}, d.r.err
	}
	data, ok := d.output(p)
	if !ok {
		return inference.Tensor{}, errOutside
	}
	n, ok := inference.Elements(shape)
	if !ok || !typ.Served() {
		return inference.Tensor{}, fmt.Errorf("a tensor of type %d and shape %v", typ, shape)
	}
	if typ == models.String {
		return d.strings(shape, n, data)
	}
	if size := int64(typ.Size()); int64(len(data))%size != 0 || int64(len(data))/size != n {
		return inference.Tensor{}, fmt.Errorf("%d bytes for the shape %v", len(data), shape)
	}
	t, err := inference.NewTensor(d.engine.cfg.Memory, typ, shape)
	if err != nil {
		return t, err
	}
	copy(t.Data, data)
	if typ == models.Bool {
		for i, b := range t.Data {
			if b > 1 {
				t.Data[i] = 1
			}
		}
	}
	return t, nil
}

func (d *decoder) strings(shape []int64, n int64, data []byte) (inference.Tensor, error) {
	if n > int64(len(data))/word {
		return inference.Tensor{}, errShort
	}
	t, err := inference.NewText(d.engine.cfg.Memory, shape, int64(len(data)))
	if err != nil {
		return t, err
	}
	if err := unpack(string(data), t.Strings); err != nil {
		t.Release()
		return inference.Tensor{}, err
	}
	return t, nil
}
