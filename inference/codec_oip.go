package inference

import (
	"fmt"
	"slices"
	"strings"
)

// maxInputs bounds the inputs that a request may list.
const maxInputs = 1024

// NoHeader is the header length of an infer request that is JSON as a whole.
const NoHeader = -1

// Infer is an infer request of the Open Inference Protocol (version 2, REST,
// with its binary tensor data extension), with its tensors still unread. It
// points into the body.
type Infer struct {
	ID      string // the caller's own, repeated in the answer
	HasID   bool
	Model   string   // in JSON, where the path names it already; "": not given
	Outputs []string // nil: not given

	binary       []choice // of Outputs
	binaryOutput bool     // of outputs that say nothing of their own
	inputs       []inferInput
	raw          []byte // the one input of a body without JSON
	isRaw        bool
}

// inferInput is one tensor as sent, in JSON or in bytes.
type inferInput struct {
	name     string
	datatype string
	shape    []int64
	data     []byte // the JSON value, nil: none; or the message of typed contents
	bytes    []byte // what follows the JSON, or is sent raw
	size     uint64 // of bytes, as said
	binary   bool   // the tensor is in bytes
	sized    bool   // over gRPC, where nothing has to tell it: size was given
	typed    bool   // data is an InferTensorContents
}

// The fields of the objects in a request, in the order of their bits.
var (
	inferFields       = []string{"id", "parameters", "inputs", "outputs", "model_name"}
	inputFields       = []string{"name", "datatype", "shape", "parameters", "data"}
	outputFields      = []string{"name", "parameters"}
	requestParameters = []string{"binary_data_output"}
	inputParameters   = []string{"binary_data_size"}
	outputParameters  = []string{"binary_data"}
)

// ScanInfer reads all of an infer request but the values of its tensors:
// DecodeInfer does, once the model is known and open to the caller. header is
// the length of the JSON in front of binary tensors, NoHeader when there are
// none, or 0 when the whole body is the bytes of the model's only input.
//
// It is strict: unknown and repeated fields and parameters, sizes that don't
// add up to the body, and trailing data are refused. Errors are ErrInput.
func ScanInfer(body []byte, header int) (Infer, error) {
	switch {
	case header == 0:
		return Infer{raw: body, isRaw: true, binaryOutput: true}, nil
	case header > len(body):
		return Infer{}, ErrInput.With(fmt.Sprintf("the JSON is said to have %d bytes, but the body has only %d", header, len(body)))
	}
	text, rest := body, []byte(nil)
	if header > 0 {
		text, rest = body[:header], body[header:]
	}
	var r Infer
	s := scanner{b: text}
	seen, err := s.fields("the request", inferFields, func(i int) error { return r.read(&s, i) })
	if err == nil {
		err = s.end()
	}
	if err == nil && seen&(1<<2) == 0 {
		err = ErrInput.With(`"inputs" is missing: send a list of {"name","datatype","shape","data"}`)
	}
	if err == nil {
		err = r.share(rest, header > 0)
	}
	if err != nil {
		return Infer{}, err
	}
	return r, nil
}

// choice says whether an output is wanted as bytes behind the JSON.
type choice byte

const (
	unsaid choice = iota
	inJSON
	inBytes
)

// bytesFor reports whether the i-th output of the answer goes behind the JSON.
func (r *Infer) bytesFor(i int) bool {
	if i < len(r.binary) && r.binary[i] != unsaid {
		return r.binary[i] == inBytes
	}
	return r.binaryOutput
}

// read reads one field of the request.
func (r *Infer) read(s *scanner, field int) (err error) {
	switch inferFields[field] {
	case "id":
		r.HasID = true
		r.ID, err = s.name("id")
	case "model_name":
		r.Model, err = s.name("model_name")
	case "parameters":
		_, err = s.fields("the request's parameters", requestParameters, func(int) (err error) {
			r.binaryOutput, err = s.truth("binary_data_output")
			return err
		})
	case "inputs":
		err = s.items("inputs", maxInputs, func() error { return r.readInput(s) })
	case "outputs":
		err = s.items("outputs", maxOutputs, func() error { return r.readOutput(s) })
	}
	return err
}

// readInput reads one entry of inputs.
func (r *Infer) readInput(s *scanner) error {
	var in inferInput
	seen, err := s.fields("an input", inputFields, func(field int) (err error) {
		switch inputFields[field] {
		case "name":
			in.name, err = s.name("name")
		case "datatype":
			in.datatype, err = s.name("datatype")
		case "shape":
			in.shape, err = s.shape()
		case "data":
			in.data, err = s.skip()
		case "parameters":
			_, err = s.fields("an input's parameters", inputParameters, func(int) error {
				size, end := parseUnsigned[uint64](s.b, s.i)
				if end < 0 {
					return ErrInput.With(`"binary_data_size" must be a whole number of bytes, found ` + s.found())
				}
				in.binary, in.size, s.i = true, size, end
				return nil
			})
		}
		return err
	})
	if err != nil {
		return err
	}
	for i, field := range inputFields[:3] {
		if seen&(1<<i) == 0 {
			return ErrInput.With(fmt.Sprintf("an input has no %q; each needs name, datatype and shape", field))
		}
	}
	if in.binary == (in.data != nil) {
		return ErrInput.With("input " + quote(in.name) + ` needs either "data" or the parameter "binary_data_size"`)
	}
	r.inputs = append(r.inputs, in)
	return nil
}

// readOutput reads one entry of outputs.
func (r *Infer) readOutput(s *scanner) error {
	name, how := "", unsaid
	seen, err := s.fields("an output", outputFields, func(field int) (err error) {
		if outputFields[field] == "name" {
			name, err = s.name("name")
			return err
		}
		_, err = s.fields("an output's parameters", outputParameters, func(int) error {
			binary, err := s.truth("binary_data")
			if how = inJSON; binary {
				how = inBytes
			}
			return err
		})
		return err
	})
	if err != nil {
		return err
	}
	if seen&1 == 0 {
		return ErrInput.With(`an output has no "name"`)
	}
	r.Outputs = append(r.Outputs, name)
	r.binary = append(r.binary, how)
	return nil
}

// share deals the bytes behind the JSON out to the inputs, in their order.
func (r *Infer) share(rest []byte, headed bool) error {
	for i := range r.inputs {
		in := &r.inputs[i]
		switch {
		case !in.binary:
			continue
		case !headed:
			return ErrInput.With("input " + quote(in.name) +
				" has binary data, but the header Inference-Header-Content-Length does not say where the JSON ends")
		case in.size > uint64(len(rest)):
			return ErrInput.With(fmt.Sprintf("input %s has a binary_data_size of %d, but the body has only %s left for it", quote(in.name), in.size, counted(len(rest), "byte")))
		}
		in.bytes, rest = rest[:in.size:in.size], rest[in.size:]
	}
	if len(rest) > 0 {
		return ErrInput.With(fmt.Sprintf("%d bytes follow that belong to no input; binary_data_size tells what is whose", len(rest)))
	}
	return nil
}

// fields reads an object whose keys are among names, each at most once, and
// calls read at the value of each with its index. seen has a bit for each.
func (s *scanner) fields(what string, names []string, read func(i int) error) (seen int, err error) {
	if !s.eat('{') {
		return 0, s.fail("an object: " + what)
	}
	for first := true; ; {
		key, ok, err := s.key(&first)
		if err != nil || !ok {
			return seen, err
		}
		i := slices.Index(names, string(key))
		switch {
		case i < 0:
			return 0, ErrInput.With("unknown field " + quote(key) + " in " + what + "; what is honoured there: " + strings.Join(names, ", "))
		case seen&(1<<i) != 0:
			return 0, ErrInput.With(fmt.Sprintf("%q is given twice in %s", key, what))
		}
		seen |= 1 << i
		if err := read(i); err != nil {
			return 0, err
		}
	}
}

// items reads a list of at most n entries, calling read at each.
func (s *scanner) items(key string, n int, read func() error) error {
	if !s.eat('[') {
		return s.fail("a list, " + key)
	}
	if s.eat(']') {
		return nil
	}
	for range n {
		s.space()
		if err := read(); err != nil {
			return err
		}
		switch s.space() {
		case ',':
			s.i++
		case ']':
			s.i++
			return nil
		default:
			return s.fail("a comma or ]")
		}
	}
	return ErrInput.With(fmt.Sprintf("%q has more than %d entries", key, n))
}

// truth reads true or false.
func (s *scanner) truth(key string) (bool, error) {
	v, end := parseBool(s.b, s.i)
	if end < 0 {
		return false, ErrInput.With(fmt.Sprintf("%q must be true or false, found %s", key, s.found()))
	}
	s.i = end
	return v == 1, nil
}

// shape reads a list of whole numbers.
func (s *scanner) shape() ([]int64, error) {
	shape := []int64{}
	err := s.items("shape", maxDepth, func() error {
		d, end := parseUnsigned[uint32](s.b, s.i)
		if end < 0 || d > maxDimension {
			return ErrInput.With(fmt.Sprintf(`"shape" must be a list of whole numbers from 0 to %d, found %s`, maxDimension, s.found()))
		}
		shape = append(shape, int64(d))
		s.i = end
		return nil
	})
	return shape, err
}
