package inference

import (
	"fmt"
	"math"
	"strings"

	"modelgate/models"
)

// Bounds of what an Envelope may hold.
const (
	maxName    = 256  // bytes of a model's name, alias or id
	maxOutputs = 1024 // names in outputs
)

// Envelope is the body of POST /predict, with its inputs still unread.
type Envelope struct {
	Model   string
	Version int    // 0: not given
	Alias   string // at most one of Version and Alias
	ID      string // the caller's own, repeated in the answer
	HasID   bool
	Outputs []string // nil: not given
	Inputs  []byte   // raw JSON, points into the body
}

// The keys of a body.
const (
	keyModel = 1 << iota
	keyVersion
	keyAlias
	keyID
	keyInputs
	keyOutputs
)

var envelopeKeys = map[string]int{
	"model": keyModel, "version": keyVersion, "alias": keyAlias, "id": keyID, "inputs": keyInputs, "outputs": keyOutputs,
}

// ScanPredict reads the top-level keys of a body, in any order, and finds
// where its inputs are without reading them: DecodeJSON does, once the model
// is known and open to the caller. It is strict: unknown and repeated keys,
// keys in another case and trailing data are refused. Errors are ErrInput.
func ScanPredict(body []byte) (Envelope, error) {
	var e Envelope
	s := scanner{b: body}
	if !s.eat('{') {
		return Envelope{}, s.fail(`an object like {"model":"iris","inputs":{...}}`)
	}
	seen := 0
	for first := true; ; {
		key, ok, err := s.key(&first)
		if err != nil {
			return Envelope{}, err
		}
		if !ok {
			break
		}
		bit := envelopeKeys[string(key)]
		switch {
		case bit == 0:
			return Envelope{}, unknownKey(key)
		case seen&bit != 0:
			return Envelope{}, ErrInput.With(fmt.Sprintf("%q is given twice", key))
		}
		seen |= bit
		if err := e.read(&s, bit); err != nil {
			return Envelope{}, err
		}
	}
	if err := s.end(); err != nil {
		return Envelope{}, err
	}
	switch {
	case seen&keyModel == 0:
		return Envelope{}, ErrInput.With(`"model" is missing: say which model to run; GET /models lists yours`)
	case seen&keyInputs == 0:
		return Envelope{}, ErrInput.With(`"inputs" is missing: send an object by input name; GET /models/NAME shows them`)
	case seen&keyVersion != 0 && seen&keyAlias != 0:
		return Envelope{}, ErrInput.With(`"version" and "alias" exclude each other; give one of them, or none for the default version`)
	}
	e.HasID = seen&keyID != 0
	return e, nil
}

func unknownKey(key []byte) error {
	if lower := strings.ToLower(string(key)); envelopeKeys[lower] != 0 {
		return ErrInput.With(fmt.Sprintf("unknown field %s; field names are lower case: %q", quote(key), lower))
	}
	return ErrInput.With("unknown field " + quote(key) + "; a prediction takes model, version, alias, id, inputs and outputs")
}

// read reads the value of one key.
func (e *Envelope) read(s *scanner, key int) (err error) {
	switch key {
	case keyModel:
		e.Model, err = s.name("model")
	case keyAlias:
		e.Alias, err = s.name("alias")
	case keyID:
		e.ID, err = s.name("id")
	case keyVersion:
		n, end := parseUnsigned[uint32](s.b, s.i)
		if end < 0 || n == 0 || n > math.MaxInt32 {
			return ErrInput.With(`"version" must be a whole number from 1 on; leave it out for the default version`)
		}
		e.Version, s.i = int(n), end
	case keyInputs:
		e.Inputs, err = s.skip()
	case keyOutputs:
		e.Outputs, err = s.names("outputs")
	}
	return err
}

// name reads a string of at most maxName bytes.
func (s *scanner) name(key string) (string, error) {
	if s.space() != '"' {
		return "", ErrInput.With(fmt.Sprintf("%q must be a string, found %s", key, s.found()))
	}
	text, err := s.text("a string")
	if err == nil && len(text) > maxName {
		err = ErrInput.With(fmt.Sprintf("%q is longer than %d bytes", key, maxName))
	}
	if err == nil && len(text) == 0 && key != "id" {
		err = ErrInput.With(fmt.Sprintf("%q is empty", key))
	}
	if err != nil {
		return "", err
	}
	return string(text), nil
}

// names reads a list of at least one string.
func (s *scanner) names(key string) ([]string, error) {
	if !s.eat('[') {
		return nil, ErrInput.With(fmt.Sprintf("%q must be a list of names, found %s", key, s.found()))
	}
	if s.eat(']') {
		return nil, ErrInput.With(fmt.Sprintf("%q is an empty list; name what you want, or leave it out for everything", key))
	}
	var list []string
	for {
		s.space()
		name, err := s.name(key)
		if err != nil {
			return nil, err
		}
		if list = append(list, name); len(list) > maxOutputs {
			return nil, ErrInput.With(fmt.Sprintf("%q names more than %d", key, maxOutputs))
		}
		switch s.space() {
		case ',':
			s.i++
		case ']':
			s.i++
			return list, nil
		default:
			return nil, s.fail("a comma or ]")
		}
	}
}

// DecodeJSON reads the inputs of a prediction straight into tensors, one for
// each input of sig, in its order: an object by public name, or the bare value
// where the model has one input. A value is nested arrays, whose nesting gives
// the shape, or {"shape":[...],"data":[...]} with a flat array; rank 0 is a
// value without brackets.
//
// Numbers are JSON's (RFC 8259): no NaN, no Infinity, no null. Floats are
// rounded once to the element type, to nearest even, and must be in its range;
// integers must be written without fraction and exponent. Errors are ErrInput,
// or those of NewTensor; then nothing is left allocated.
func DecodeJSON(inputs []byte, sig *models.Signature, mem *Memory) (in []Tensor, err error) {
	return new(JSONDecoder).Decode(inputs, sig, mem)
}

// JSONDecoder is room that DecodeJSON needs, for use again and again: what
// Decode returned before must not be in use any more.
type JSONDecoder struct {
	scanner scanner
	in      [2]Tensor // what most models need
	dims    [12]int64
	left    []int64 // of dims
}

// Decode is DecodeJSON.
func (d *JSONDecoder) Decode(inputs []byte, sig *models.Signature, mem *Memory) (in []Tensor, err error) {
	done := false
	*d = JSONDecoder{scanner: scanner{b: inputs, part: "inputs"}}
	d.left = d.dims[:]
	s, dims, tensors := &d.scanner, &d.left, d.in[:min(len(sig.Inputs), len(d.in))]
	if len(sig.Inputs) > len(d.in) {
		tensors = make([]Tensor, len(sig.Inputs))
	}
	defer func() {
		if !done { // an error, or a panic on its way up
			for i := range tensors {
				tensors[i].Release()
			}
		}
	}()
	switch c := s.space(); {
	case c == '{':
		err = decodeObject(s, sig, mem, tensors, dims)
	case len(sig.Inputs) == 1:
		tensors[0], err = decodeTensor(s, &sig.Inputs[0], mem, true, dims)
	case c == 0:
		err = s.fail("the inputs")
	default:
		err = ErrInput.With(fmt.Sprintf("the model takes %d inputs: send an object with the keys %s", len(sig.Inputs), names(sig.Inputs)))
	}
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	done = true
	return tensors, nil
}

// decodeObject reads inputs by name.
func decodeObject(s *scanner, sig *models.Signature, mem *Memory, tensors []Tensor, dims *[]int64) error {
	s.i++
	for first := true; ; {
		key, ok, err := s.key(&first)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		i := indexOf(sig.Inputs, key)
		if i < 0 {
			return ErrInput.With("unknown input " + quote(key) + "; the model takes " + names(sig.Inputs))
		}
		if tensors[i].Type != models.Undefined {
			return inputError(&sig.Inputs[i], "is given twice")
		}
		if tensors[i], err = decodeTensor(s, &sig.Inputs[i], mem, len(sig.Inputs) == 1, dims); err != nil {
			return err
		}
	}
	return complete(sig, tensors)
}

// complete fails unless every input was given.
func complete(sig *models.Signature, tensors []Tensor) error {
	for i := range tensors {
		if tensors[i].Type == models.Undefined {
			return inputError(&sig.Inputs[i], "is missing; the model takes %s", names(sig.Inputs))
		}
	}
	return nil
}

func indexOf(specs []models.TensorSpec, name []byte) int {
	for i := range specs {
		if specs[i].Name == string(name) {
			return i
		}
	}
	return -1
}

func decodeTensor(s *scanner, spec *models.TensorSpec, mem *Memory, alone bool, dims *[]int64) (Tensor, error) {
	r := tensorReader{scanner: s, spec: spec, mem: mem, alone: alone, dims: dims}
	return r.read()
}
