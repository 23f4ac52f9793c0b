package inferencetest

import (
	"context"
	"errors"
	"math"
	"slices"

	"modelgate/inference"
	"modelgate/models"
)

// constantBomb are the operators of a file that takes for ever to load.
const constantBomb = "Add ConstantOfShape MatMul ReduceMax"

// program computes the outputs of a model from its inputs.
type program func(*machine)

// programs are the models of testdata that a Fake computes, by their operators.
// What a file says of weights is not read: they stand here.
var programs = map[string]program{
	"Identity":            identity,
	"Mul ReduceSum Sub":   twoIO,
	"Add":                 addPair,
	"Add Greater":         scalar,
	"Add ReduceMax":       rowMix,
	"Add Identity Loop":   countUp,
	"Div":                 divide,
	"Not Where":           mask,
	"ReduceSum Transpose": transpose,
	"SplitToSequence":     split,
	// iris, iris_v2 and zipmap_strings: three classes, always as likely.
	"Cast TreeEnsembleClassifier ZipMap":             classes,
	"Cast LinearClassifier Normalizer Scaler ZipMap": classes,
	"Identity LinearClassifier Normalizer ZipMap":    classes,
}

// machine is one run: what goes in, and what came out so far. After the first
// error it does nothing more.
type machine struct {
	ctx   context.Context
	mem   *inference.Memory
	graph *models.Graph
	in    []inference.Tensor
	out   []inference.Value
	err   error
}

// tensor makes a tensor; an empty one after an error.
func (m *machine) tensor(t models.DataType, shape ...int64) inference.Tensor {
	if m.err != nil {
		return inference.Tensor{}
	}
	made, err := inference.NewTensor(m.mem, t, slices.Clone(shape))
	m.err = err
	return made
}

// give makes output i, a tensor.
func (m *machine) give(i int, shape ...int64) *inference.Tensor {
	m.out[i].Tensor = m.tensor(m.graph.Outputs[i].Type, shape...)
	return &m.out[i].Tensor
}

func (m *machine) fail(reason string) {
	m.err = inference.ErrRun.Because(errors.New(reason))
}

// zeros answers for a model that has no program.
func zeros(m *machine) {
	rows := int64(1)
	if len(m.in[0].Shape) > 0 {
		rows = m.in[0].Shape[0]
	}
	for i, g := range m.graph.Outputs {
		if g.Kind != models.KindTensor {
			continue
		}
		shape := slices.Clone(g.Shape)
		for k := range shape {
			if shape[k] < 0 {
				shape[k] = rows
			}
		}
		clear(m.give(i, shape...).Data)
	}
}

func identity(m *machine) {
	for i := range m.in {
		out := m.give(i, m.in[i].Shape...)
		copy(out.Data, m.in[i].Data)
		copy(out.Strings, m.in[i].Strings)
	}
}

func twoIO(m *machine) {
	if !slices.Equal(m.in[0].Shape, m.in[1].Shape) {
		m.fail("the shapes differ")
		return
	}
	a, b := inference.View[float32](&m.in[0]), inference.View[float32](&m.in[1])
	difference := inference.View[float32](m.give(0, m.in[0].Shape...))
	dot := inference.View[float32](m.give(1, m.in[0].Shape[0], 1))
	if m.err != nil {
		return
	}
	clear(dot)
	for i := range a {
		difference[i] = a[i] - b[i]
		dot[i/3] += a[i] * b[i]
	}
}

func addPair(m *machine) {
	x := inference.View[float32](&m.in[0])
	y := inference.View[float32](m.give(0, m.in[0].Shape...))
	for i := range y {
		y[i] = x[i] + []float32{1, -1}[i%2]
	}
}

func scalar(m *machine) {
	x := inference.View[float32](&m.in[0])[0]
	if y := inference.View[float32](m.give(0)); m.err == nil {
		y[0] = x + x
	}
	if y := m.give(1); m.err == nil {
		y.Data[0] = 0
		if x > 0 {
			y.Data[0] = 1
		}
	}
}

func rowMix(m *machine) {
	x, columns := inference.View[float32](&m.in[0]), int(m.in[0].Shape[1])
	y := inference.View[float32](m.give(0, m.in[0].Shape...))
	for i := range y {
		top := float32(math.Inf(-1))
		for k := i % columns; k < len(x); k += columns {
			top = max(top, x[k])
		}
		y[i] = x[i] + top
	}
}

// countUp goes on until it has counted, or its context ends.
func countUp(m *machine) {
	n := inference.View[int64](&m.in[0])[0]
	for i := int64(0); i < n; i++ {
		if i%1024 == 0 && m.ctx.Err() != nil {
			m.err = m.ctx.Err()
			return
		}
	}
	if y := inference.View[int64](m.give(0, 1)); m.err == nil {
		y[0] = max(n, 0)
	}
}

func divide(m *machine) {
	a, b := inference.View[int64](&m.in[0]), inference.View[int64](&m.in[1])
	if len(a) != len(b) || slices.Contains(b, 0) {
		m.fail("a division by zero, or lengths that differ")
		return
	}
	quotient := inference.View[int64](m.give(0, m.in[0].Shape...))
	for i := range quotient {
		quotient[i] = a[i] / b[i]
	}
}

func mask(m *machine) {
	numbers, flags := inference.View[int64](&m.in[0]), m.in[1].Data
	masked, inverted := inference.View[int64](m.give(0, m.in[0].Shape...)), m.give(1, m.in[0].Shape...).Data
	if m.err != nil || len(numbers) != len(flags) {
		m.fail("the lengths differ")
		return
	}
	for i := range numbers {
		masked[i] = -1
		if flags[i] != 0 {
			masked[i] = numbers[i]
		}
		inverted[i] = 1 - flags[i]
	}
}

func transpose(m *machine) {
	x, shape := inference.View[float32](&m.in[0]), m.in[0].Shape
	rows, columns := int(shape[1]), int(shape[2])
	turned := inference.View[float32](m.give(0, shape[0], shape[2], shape[1]))
	sums := inference.View[float32](m.give(1, shape[0], shape[1]))
	if m.err != nil {
		return
	}
	clear(sums)
	for i, v := range x {
		batch, row, column := i/(rows*columns), i/columns%rows, i%columns
		turned[(batch*columns+column)*rows+row] = v
		sums[i/columns] += v
	}
}

func split(m *machine) {
	x, n := inference.View[float32](&m.in[0]), inference.View[int64](&m.in[1])
	for i := 0; i < len(x); i += 3 {
		t := m.tensor(models.Float32, 3)
		copy(inference.View[float32](&t), x[i:])
		m.out[0].Tensors = append(m.out[0].Tensors, t)
	}
	for i := 0; i < len(n); i += 2 {
		t := m.tensor(models.Int64, int64(min(2, len(n)-i)))
		copy(inference.View[int64](&t), n[i:])
		m.out[1].Tensors = append(m.out[1].Tensors, t)
	}
}

func classes(m *machine) {
	rows := m.in[0].Shape[0]
	label := m.give(0, rows)
	clear(label.Data)
	for i := range label.Strings {
		label.Strings[i] = "setosa"
	}
	for range rows {
		keys, values := m.tensor(m.graph.Outputs[1].Key, 3), m.tensor(models.Float32, 3)
		m.out[1].Maps = append(m.out[1].Maps, inference.Map{Keys: keys, Values: values})
		if m.err != nil {
			return
		}
		copy(inference.View[float32](&values), []float32{0.5, 0.25, 0.25})
		copy(keys.Strings, []string{"setosa", "versicolor", "virginica"})
		copy(inference.View[int64](&keys), []int64{0, 1, 2})
	}
}
