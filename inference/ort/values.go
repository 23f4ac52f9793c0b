package ort

/*
#include "ortshim.h"
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"modelgate/inference"
	"modelgate/models"
)

// buffers are what a run borrows beside its inputs.
type buffers []*inference.Buffer

func (b buffers) release() {
	for _, buf := range b {
		buf.Release()
	}
}

// get borrows n bytes until release.
func (b *buffers) get(mem *inference.Memory, n int) ([]byte, error) {
	buf, err := mem.Get(context.Background(), n)
	if err != nil {
		return nil, err
	}
	*b = append(*b, buf)
	return buf.Bytes(), nil
}

// fill describes t to C. C may not be shown Go memory that isn't passed to it
// directly, so strings, and data that no Buffer owns, are copied out of the Go
// heap first.
func (s *session) fill(held *buffers, c *C.mg_input, t *inference.Tensor) error {
	copy(unsafe.Slice((*int64)(c.shape), len(t.Shape)), t.Shape)
	c._type = C.int32_t(t.Type)
	if t.Type == models.String {
		return s.fillStrings(held, c, t.Strings)
	}
	data := t.Data
	if !t.OffHeap() {
		var err error
		if data, err = held.get(s.engine.cfg.Memory, len(t.Data)); err != nil {
			return err
		}
		copy(data, t.Data)
	}
	c.data = unsafe.Pointer(unsafe.SliceData(data))
	c.bytes = C.size_t(len(data))
	return nil
}

// fillStrings packs the strings end to end behind a table of where each ends.
func (s *session) fillStrings(held *buffers, c *C.mg_input, text []string) error {
	const word = int(unsafe.Sizeof(C.size_t(0)))
	total := 0
	for _, t := range text {
		total += len(t)
	}
	packed, err := held.get(s.engine.cfg.Memory, len(text)*word+total)
	if err != nil {
		return err
	}
	start := unsafe.Pointer(unsafe.SliceData(packed))
	ends := unsafe.Slice((*C.size_t)(start), len(text))
	bytes := packed[len(text)*word:]
	at := 0
	for i, t := range text {
		at += copy(bytes[at:], t)
		ends[i] = C.size_t(at)
	}
	c.ends = (*C.size_t)(start)
	c.data = unsafe.Add(start, len(text)*word)
	c.bytes = C.size_t(total)
	c.elements = C.size_t(len(text))
	return nil
}

// values copies what came out. On an error nothing is kept.
func (s *session) values(out []C.mg_output, want []int) ([]inference.Value, error) {
	// One allocation for what most models give: few tensors of few dimensions.
	few := new(struct {
		values [2]inference.Value
		shapes [8]int64
	})
	list, shapes := few.values[:min(len(out), len(few.values))], few.shapes[:0]
	if len(out) > len(few.values) {
		list = make([]inference.Value, len(out))
	}
	for i := range out {
		v, err := s.value(&out[i], s.graph.Outputs[want[i]].Kind, &shapes)
		if err != nil {
			for k := range list[:i] {
				list[k].Release()
			}
			return nil, failed(err)
		}
		list[i] = v
	}
	return list, nil
}

// failed keeps the room's own errors, which say that there is no memory, and
// makes all others causes.
func failed(err error) error {
	var own *inference.Error
	if errors.As(err, &own) {
		return own
	}
	return inference.ErrRun.Because(err)
}

func (s *session) value(c *C.mg_output, kind models.Kind, shapes *[]int64) (inference.Value, error) {
	v := inference.Value{Kind: kind}
	expected := C.int32_t(C.MG_SEQUENCE)
	switch kind {
	case models.KindTensor:
		expected = C.MG_TENSOR
	case models.KindMap:
		expected = C.MG_MAP
	}
	if c.kind != expected {
		return v, fmt.Errorf("the runtime gave a value of kind %d, not %d", c.kind, expected)
	}
	if kind == models.KindTensor {
		var err error
		v.Tensor, err = s.tensor(c, shapes)
		return v, err
	}
	return s.parts(c, kind)
}

// parts copies a sequence or map.
func (s *session) parts(c *C.mg_output, kind models.Kind) (v inference.Value, err error) {
	v.Kind = kind
	var parts C.mg_parts
	status := C.mg_parts_get(c.value, &parts)
	defer C.mg_parts_free(&parts)
	if err := statusError(status); err != nil {
		return v, err
	}
	defer func() {
		if err != nil {
			v.Release()
		}
	}()
	tensors := unsafe.Slice(parts.tensors, parts.count)
	var shapes []int64
	if kind == models.KindTensors {
		v.Tensors = make([]inference.Tensor, len(tensors))
		for i := range tensors {
			if v.Tensors[i], err = s.tensor(&tensors[i], &shapes); err != nil {
				return v, err
			}
		}
		return v, nil
	}
	v.Maps = make([]inference.Map, len(tensors)/2)
	for i := range v.Maps {
		m := &v.Maps[i]
		if m.Keys, err = s.tensor(&tensors[2*i], &shapes); err != nil {
			return v, err
		}
		if m.Values, err = s.tensor(&tensors[2*i+1], &shapes); err != nil {
			return v, err
		}
		if len(m.Keys.Shape) != 1 || len(m.Values.Shape) != 1 || m.Keys.Len() != m.Values.Len() {
			return v, errors.New("the runtime gave a map whose keys and values differ in number")
		}
	}
	return v, nil
}

// tensor copies a tensor. Its shape is put into the room that shapes has left.
func (s *session) tensor(c *C.mg_output, shapes *[]int64) (inference.Tensor, error) {
	typ := dataType(c._type)
	if c.kind != C.MG_TENSOR || typ == models.Undefined {
		return inference.Tensor{}, fmt.Errorf("the runtime gave a value of kind %d and type %d", c.kind, c._type)
	}
	from, rank := len(*shapes), int(c.rank)
	if from+rank > cap(*shapes) {
		*shapes, from = make([]int64, 0, max(rank, 32)), 0
	}
	*shapes = append(*shapes, unsafe.Slice((*int64)(c.shape), rank)...)
	shape := (*shapes)[from : from+rank : from+rank]
	t, err := inference.NewTensor(s.engine.cfg.Memory, typ, shape)
	if err != nil {
		return t, err
	}
	if typ == models.String {
		err = s.readStrings(c, t.Strings)
	} else if len(t.Data) != int(c.bytes) {
		err = fmt.Errorf("the runtime gave %d bytes for the shape %v", c.bytes, shape)
	} else {
		copy(t.Data, unsafe.Slice((*byte)(c.data), c.bytes))
	}
	if err != nil {
		t.Release()
	}
	return t, err
}

// readStrings copies the elements of a string tensor.
func (s *session) readStrings(c *C.mg_output, text []string) error {
	if len(text) == 0 {
		return nil
	}
	var total C.size_t
	if err := statusError(C.mg_strings_size(c.value, &total)); err != nil {
		return err
	}
	const word = int(unsafe.Sizeof(C.size_t(0)))
	var held buffers
	defer func() { held.release() }()
	packed, err := held.get(s.engine.cfg.Memory, len(text)*word+int(total))
	if err != nil {
		return err
	}
	start := unsafe.Pointer(unsafe.SliceData(packed))
	starts := unsafe.Slice((*C.size_t)(start), len(text))
	bytes := packed[len(text)*word:]
	err = statusError(C.mg_strings_get(c.value, unsafe.Add(start, len(text)*word), total, (*C.size_t)(start), C.size_t(len(text))))
	if err != nil {
		return err
	}
	all := string(bytes)
	for i := range text {
		end := int(total)
		if i+1 < len(text) {
			end = int(starts[i+1])
		}
		text[i] = all[starts[i]:end]
	}
	return nil
}
