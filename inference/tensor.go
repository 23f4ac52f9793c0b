package inference

import "modelgate/models"

// Tensor is a typed array. Data is little-endian and row-major; its memory
// lies outside the Go heap when a Buffer owns it, so that a runtime written in
// C may read it while Go's collector runs.
type Tensor struct {
	Type    models.DataType
	Shape   []int64  // every dimension >= 0; empty: rank 0
	Data    []byte   // len = elements * Type.Size(); nil for String
	Strings []string // for String only, len = elements
	buf     *Buffer  // owner of Data, nil when somebody else is
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
