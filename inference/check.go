package inference

import (
	"fmt"
	"strconv"
	"strings"

	"modelgate/models"
)

// maxDimension bounds what a client may write into a shape: beyond it, the
// runtime's own arithmetic is not to be trusted, even when another dimension
// is 0.
const maxDimension = 1<<31 - 1

// contract writes type and shape as messages show them: "FP32 [N,4]".
func contract(spec *models.TensorSpec) string {
	return spec.Type.String() + " " + shapeText(spec.Shape)
}

// shapeText writes a shape; dimensions of any size get letters.
func shapeText(shape []int64) string {
	text, letters := []byte{'['}, "NMKLPQRSTUVW"
	for i, d := range shape {
		switch {
		case i > 0:
			text = append(text, ',')
		}
		switch {
		case d >= 0:
			text = strconv.AppendInt(text, d, 10)
		case letters == "":
			text = append(text, '?')
		default:
			text = append(text, letters[0])
			letters = letters[1:]
		}
	}
	return string(append(text, ']'))
}

// names lists public names for a message, at most 16.
func names(specs []models.TensorSpec) string {
	var list []string
	for i := range specs {
		if i == 16 {
			list = append(list, "...")
			break
		}
		list = append(list, specs[i].Name)
	}
	return strings.Join(list, ", ")
}

// fits fails unless shape is one that spec allows.
func fits(spec *models.TensorSpec, shape []int64) error {
	ok := len(shape) == len(spec.Shape)
	for i := 0; ok && i < len(shape); i++ {
		ok = shape[i] == spec.Shape[i] || spec.Shape[i] < 0
	}
	if !ok {
		return inputError(spec, "wants %s, got %s", contract(spec), shapeText(shape))
	}
	for _, d := range shape {
		if d < 0 || d > maxDimension {
			return inputError(spec, "got the shape %s, of which a dimension is out of range", shapeText(shape))
		}
	}
	return nil
}

// inputError is an ErrInput about one input.
func inputError(spec *models.TensorSpec, format string, args ...any) error {
	return ErrInput.With("input " + strconv.Quote(spec.Name) + " " + fmt.Sprintf(format, args...))
}

// counted is a number of things, in words.
func counted[N int | int64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.FormatInt(int64(n), 10) + " " + thing + "s"
}

// checkInputs fails unless in holds what sig says: the last look before a
// runtime written in C gets it, whatever codec made it.
func checkInputs(sig *models.Signature, in []Tensor) error {
	if len(in) != len(sig.Inputs) {
		return ErrInput.With(fmt.Sprintf("got %s; the model takes %d: %s", counted(len(in), "input"), len(sig.Inputs), names(sig.Inputs)))
	}
	for i := range in {
		spec, t := &sig.Inputs[i], &in[i]
		if t.Type != spec.Type {
			return inputError(spec, "wants %s, got %s", contract(spec), quote(t.Type.String()))
		}
		if err := fits(spec, t.Shape); err != nil {
			return err
		}
		if !t.whole() {
			return inputError(spec, "has another number of values than its shape %s says", shapeText(t.Shape))
		}
		if sig.NeverEmpty && t.Len() == 0 {
			return inputError(spec, "is empty (%s); an operator of this model needs at least one value", shapeText(t.Shape))
		}
	}
	return nil
}

// CheckRun fails unless in are tensors for the inputs of g, and want are
// outputs of it, each once: what an engine looks at before a runtime written in
// C reads what it is given.
func CheckRun(g *models.Graph, in []Tensor, want []int) error {
	if len(in) != len(g.Inputs) {
		return fmt.Errorf("%d tensors for %d inputs", len(in), len(g.Inputs))
	}
	for i := range in {
		t, v := &in[i], &g.Inputs[i]
		switch {
		case t.Type != v.Type:
			return fmt.Errorf("input %d is %v, not %v", i, t.Type, v.Type)
		case len(t.Shape) != len(v.Shape):
			return fmt.Errorf("input %d has %d dimensions, not %d", i, len(t.Shape), len(v.Shape))
		case !t.whole():
			return fmt.Errorf("input %d has %d elements for the shape %v", i, t.Len(), t.Shape)
		}
	}
	if len(want) > len(g.Outputs) {
		return fmt.Errorf("%d outputs of %d are wanted", len(want), len(g.Outputs))
	}
	for i, output := range want {
		if output < 0 || output >= len(g.Outputs) {
			return fmt.Errorf("output %d of %d is wanted", output, len(g.Outputs))
		}
		for _, other := range want[:i] {
			if other == output {
				return fmt.Errorf("output %d is wanted twice", output)
			}
		}
	}
	return nil
}

// whole reports whether the tensor has as many elements as its shape says.
func (t *Tensor) whole() bool {
	n, ok := Elements(t.Shape)
	switch {
	case !ok:
		return false
	case t.Type == models.String:
		return int64(len(t.Strings)) == n
	}
	size := int64(t.Type.Size())
	return size > 0 && int64(len(t.Data))%size == 0 && int64(len(t.Data))/size == n
}

// checkOutputs looks at what a session answered as at a client's input: its
// process may be under a model's control. want are indices into specs.
func checkOutputs(specs []models.TensorSpec, want []int, out []Value) error {
	if len(out) != len(want) {
		return fmt.Errorf("the session gave %d outputs of %d", len(out), len(want))
	}
	for i := range out {
		if err := checkOutput(&specs[want[i]], &out[i]); err != nil {
			return fmt.Errorf("output %d: %w", want[i], err)
		}
	}
	return nil
}

func checkOutput(spec *models.TensorSpec, v *Value) error {
	if v.Kind != spec.Kind {
		return fmt.Errorf("kind %d, declared %d", v.Kind, spec.Kind)
	}
	switch v.Kind {
	case models.KindTensor:
		return checkArray(spec.Type, &v.Tensor)
	case models.KindTensors:
		for i := range v.Tensors {
			if err := checkArray(spec.Type, &v.Tensors[i]); err != nil {
				return err
			}
		}
		return nil
	case models.KindMap:
		if len(v.Maps) != 1 {
			return fmt.Errorf("%d maps in place of one", len(v.Maps))
		}
	}
	for i := range v.Maps {
		if err := checkMap(spec, &v.Maps[i]); err != nil {
			return err
		}
	}
	return nil
}

func checkArray(t models.DataType, array *Tensor) error {
	if array.Type != t {
		return fmt.Errorf("type %s, declared %s", array.Type, t)
	}
	if !array.whole() {
		return fmt.Errorf("%d elements for the shape %v", array.Len(), array.Shape)
	}
	return nil
}

func checkMap(spec *models.TensorSpec, m *Map) error {
	if err := checkArray(spec.Key, &m.Keys); err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	if err := checkArray(spec.Type, &m.Values); err != nil {
		return fmt.Errorf("values: %w", err)
	}
	if m.Keys.Len() != m.Values.Len() {
		return fmt.Errorf("%d keys for %d values", m.Keys.Len(), m.Values.Len())
	}
	return nil
}
