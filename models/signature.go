package models

// DataType is an ONNX tensor element type; the numbers are those of
// TensorProto.DataType (onnx.proto).
type DataType uint8

const (
	Undefined DataType = 0
	Float32   DataType = 1
	Uint8     DataType = 2
	Int8      DataType = 3
	Uint16    DataType = 4
	Int16     DataType = 5
	Int32     DataType = 6
	Int64     DataType = 7
	String    DataType = 8
	Bool      DataType = 9
	Float16   DataType = 10
	Float64   DataType = 11
	Uint32    DataType = 12
	Uint64    DataType = 13
	BFloat16  DataType = 16
)

var dataTypes = [17]struct {
	name string
	size int
}{
	Float32: {"FP32", 4}, Uint8: {"UINT8", 1}, Int8: {"INT8", 1}, Uint16: {"UINT16", 2},
	Int16: {"INT16", 2}, Int32: {"INT32", 4}, Int64: {"INT64", 8}, String: {"BYTES", 0},
	Bool: {"BOOL", 1}, Float16: {"FP16", 2}, Float64: {"FP64", 8}, Uint32: {"UINT32", 4},
	Uint64: {"UINT64", 8}, BFloat16: {"BF16", 2},
}

// String returns the Open Inference Protocol name ("FP32", "BYTES", ...), or
// "" for a type that is not served.
func (t DataType) String() string {
	if int(t) >= len(dataTypes) {
		return ""
	}
	return dataTypes[t].name
}

// Size returns the bytes of one element; 0 for strings and unserved types.
func (t DataType) Size() int {
	if int(t) >= len(dataTypes) {
		return 0
	}
	return dataTypes[t].size
}

// Served reports whether tensors of this type can be sent and received.
func (t DataType) Served() bool { return t.String() != "" }

// ParseDataType reads an Open Inference Protocol name; ok is false for others.
func ParseDataType(s string) (t DataType, ok bool) {
	for i, d := range dataTypes {
		if d.name != "" && d.name == s {
			return DataType(i), true
		}
	}
	return Undefined, false
}

// Kind is the ONNX container of a value.
type Kind uint8

const (
	KindTensor Kind = iota
	// KindMaps is sequence(map(K, V)), scikit-learn's ZipMap. DataType is V,
	// KeyType is Int64 or String. Outputs only.
	KindMaps
	// KindTensors is sequence(tensor). Outputs only.
	KindTensors
	// KindMap is a single map(K, V). Outputs only.
	KindMap
)

// GraphValue is an input or output as the file names it. Graph names are
// internal: they never reach a caller.
type GraphValue struct {
	Name  string
	Kind  Kind
	Type  DataType
	Key   DataType // of maps
	Shape []int64  // -1: any size. nil: rank unknown (not for inputs); empty: rank 0
}

// Graph is what a file declares of itself.
type Graph struct {
	Inputs  []GraphValue // without those that have an initializer
	Outputs []GraphValue
}

// TensorSpec is one input or output of the public contract, with the graph
// value behind it.
type TensorSpec struct {
	Name string // public
	GraphValue
}

// Signature is the public contract of a version: names unique among inputs
// and among outputs, in graph order. Immutable.
type Signature struct {
	Inputs  []TensorSpec
	Outputs []TensorSpec
	// NeverEmpty: no input may be without elements, since an operator of the
	// model does not survive that. It follows from Facts and is not stored.
	NeverEmpty bool
}

// Input returns the index of the input with that public name, or -1.
func (s *Signature) Input(name string) int { return index(s.Inputs, name) }

// Output returns the index of the output with that public name, or -1.
func (s *Signature) Output(name string) int { return index(s.Outputs, name) }

func index(specs []TensorSpec, name string) int {
	for i := range specs {
		if specs[i].Name == name {
			return i
		}
	}
	return -1
}
