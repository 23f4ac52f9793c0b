package ort

/*
#include <stdlib.h>
#include "ortshim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"modelgate/inference"
	"modelgate/models"
)

var (
	errInputKind  = errors.New("an input is no tensor of a served type with a known number of dimensions")
	errOutputKind = errors.New("an output is neither a tensor, a sequence of tensors nor maps of a served type")
)

// describe asks the runtime for the inputs and outputs of the session and
// fills graph and names.
func (s *session) describe() error {
	var inputs, outputs C.size_t
	if err := statusError(C.mg_session_counts(s.handle, &inputs, &outputs)); err != nil {
		return inference.ErrLoad.Because(err)
	}
	s.names = (**C.char)(C.calloc(inputs+outputs+1, C.size_t(unsafe.Sizeof(*s.names))))
	s.named = int(inputs + outputs)
	names := s.allNames()
	for i := range int(inputs) {
		v, name, err := s.port(false, i)
		names[i] = name
		if err == nil && (v.Kind != models.KindTensor || v.Shape == nil) {
			err = errInputKind
		}
		if err != nil {
			return inference.ErrLoad.Because(fmt.Errorf("input %d: %w", i, err))
		}
		s.graph.Inputs = append(s.graph.Inputs, v)
	}
	for i := range int(outputs) {
		v, name, err := s.port(true, i)
		names[int(inputs)+i] = name
		if err != nil {
			return inference.ErrLoad.Because(fmt.Errorf("output %d: %w", i, err))
		}
		s.graph.Outputs = append(s.graph.Outputs, v)
	}
	return nil
}

// port describes one input or output. Its name is C memory that belongs to the
// caller, also when there is an error.
func (s *session) port(output bool, i int) (models.GraphValue, *C.char, error) {
	var info C.mg_info
	err := statusError(C.mg_session_info(s.handle, C.bool(output), C.size_t(i), &info))
	name := info.name
	info.name = nil
	defer C.mg_info_free(&info)
	if err != nil {
		return models.GraphValue{}, name, err
	}
	v := models.GraphValue{Name: C.GoString(name), Type: dataType(info._type)}
	if info.shape != nil {
		v.Shape = make([]int64, info.rank)
		for k, d := range unsafe.Slice(info.shape, info.rank) {
			v.Shape[k] = max(int64(d), -1)
		}
	}
	switch {
	case info.kind == C.MG_TENSOR:
		v.Kind = models.KindTensor
	case info.kind == C.MG_SEQUENCE && info.element == C.MG_TENSOR:
		v.Kind = models.KindTensors
	case info.kind == C.MG_SEQUENCE && info.element == C.MG_MAP:
		v.Kind = models.KindMaps
	case info.kind == C.MG_MAP:
		v.Kind = models.KindMap
	default:
		return v, name, errOutputKind
	}
	if v.Kind == models.KindMaps || v.Kind == models.KindMap {
		v.Key, v.Shape = dataType(info.key), nil
		if v.Key != models.Int64 && v.Key != models.String {
			return v, name, errOutputKind
		}
	}
	if !v.Type.Served() {
		return v, name, errOutputKind
	}
	return v, name, nil
}

// dataType turns the runtime's number, which is that of TensorProto for all
// types served, into ours; Undefined for others.
func dataType(t C.int32_t) models.DataType {
	if t < 0 || t > 255 || !models.DataType(t).Served() {
		return models.Undefined
	}
	return models.DataType(t)
}
