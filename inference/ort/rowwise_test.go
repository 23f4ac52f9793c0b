package ort

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"modelgate/inference"
	"modelgate/models"
)

// provedModels are the sample models and small graphs that models.RowWise
// proves; see testdata/make_rowwise.py.
func provedModels(t *testing.T) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	files, err := filepath.Glob("../../testdata/*.onnx")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := models.Verify(data, models.Limits{}); err == nil {
			found[filepath.Base(f)] = data
		}
	}
	text, err := os.ReadFile("../../testdata/rowwise.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name  string
		Model []byte
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		found[c.Name] = c.Model
	}
	for name, model := range found {
		if proved, _ := models.RowWise(model); !proved {
			delete(found, name)
		}
	}
	if len(found) < 100 {
		t.Fatalf("only %d models are proved", len(found))
	}
	return found
}

const (
	testedRows = 5
	innerSize  = 3 // of open dimensions beyond the first
)

// What is proved holds in the runtime: whatever stands in the other rows of a
// batch, a row's answer is the same bit for bit, and it is that of the row
// alone but for the order of sums.
func TestProvedRowsKeepApart(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	e := open(t, Config{Memory: mem})
	for name, model := range provedModels(t) {
		t.Run(name, func(t *testing.T) {
			s, err := loadBytes(t, e, model)
			if err != nil {
				t.Fatal(err)
			}
			random := rand.New(rand.NewPCG(1, 2))
			graph := s.Graph()
			good := make([]cells, len(graph.Inputs))
			for i := range graph.Inputs {
				good[i] = drawRow(random, &graph.Inputs[i], name, false)
			}
			alone, err := runRows(s, mem, &graph, [][]cells{good})
			if err != nil {
				t.Fatal(err)
			}
			for at := range testedRows {
				var first []string
				for range 6 { // other neighbours each time
					batch := make([][]cells, testedRows)
					for r := range batch {
						batch[r] = good
						if r != at {
							batch[r] = make([]cells, len(graph.Inputs))
							for i := range graph.Inputs {
								batch[r][i] = drawRow(random, &graph.Inputs[i], name, true)
							}
						}
					}
					got, err := runRows(s, mem, &graph, batch)
					if err != nil {
						t.Fatal(err)
					}
					exact := make([]string, len(got[at]))
					for k := range got[at] {
						exact[k] = got[at][k].bits
						if !near(got[at][k].numbers, alone[0][k].numbers) || got[at][k].text != alone[0][k].text {
							t.Fatalf("output %d of row %d is %v, alone %v", k, at, got[at][k], alone[0][k])
						}
					}
					if first == nil {
						first = exact
					}
					if !slices.Equal(first, exact) {
						t.Fatalf("row %d changes with its neighbours", at)
					}
				}
			}
		})
	}
}

// cells are one row of one input.
type cells struct {
	bytes   []byte
	strings []string
}

// drawRow draws values that the model takes; poison are such as would show in
// other rows.
func drawRow(random *rand.Rand, spec *models.GraphValue, name string, poison bool) cells {
	n := 1
	for _, d := range spec.Shape[1:] {
		if d < 0 {
			d = innerSize
		}
		n *= int(d)
	}
	c := cells{}
	for range n {
		f := random.NormFloat64()
		if poison && name == "Binarizer" { // it refuses NaN
			f = 3e38
		} else if poison {
			f = []float64{math.NaN(), math.Inf(1), math.Inf(-1), 3e38, -3e38, 1e-40, f}[random.IntN(7)]
		}
		switch spec.Type {
		case models.String:
			c.strings = append(c.strings, []string{"a", "b", "c"}[random.IntN(3)])
		case models.Float32:
			c.bytes = appendBits(c.bytes, uint64(math.Float32bits(float32(f))), 4)
		case models.Float64:
			c.bytes = appendBits(c.bytes, math.Float64bits(f), 8)
		case models.Float16, models.BFloat16:
			c.bytes = appendBits(c.bytes, random.Uint64(), 2)
		case models.Bool:
			c.bytes = append(c.bytes, byte(random.IntN(2)))
		default: // indices into tables of four; no division by zero
			c.bytes = appendBits(c.bytes, uint64(1+random.IntN(3)), spec.Type.Size())
		}
	}
	return c
}

func appendBits(b []byte, v uint64, size int) []byte {
	for range size {
		b = append(b, byte(v))
		v >>= 8
	}
	return b
}

// answered is one row of one output, in three forms.
type answered struct {
	bits    string
	numbers []float64 // of floats
	text    string    // of everything else
}

// runRows runs a batch and cuts the outputs into rows: by row, by output.
func runRows(s inference.Session, mem *inference.Memory, graph *models.Graph, batch [][]cells) ([][]answered, error) {
	var in []inference.Tensor
	defer func() {
		for i := range in {
			in[i].Release()
		}
	}()
	for i := range graph.Inputs {
		shape := []int64{int64(len(batch))}
		for _, d := range graph.Inputs[i].Shape[1:] {
			if d < 0 {
				d = innerSize
			}
			shape = append(shape, d)
		}
		x, err := inference.NewTensor(mem, graph.Inputs[i].Type, shape)
		if err != nil {
			return nil, err
		}
		in = append(in, x)
		at, word := 0, 0
		for _, row := range batch {
			at += copy(x.Data[at:], row[i].bytes)
			word += copy(x.Strings[word:], row[i].strings)
		}
	}
	want := make([]int, len(graph.Outputs))
	for i := range want {
		want[i] = i
	}
	values, err := s.Run(context.Background(), in, want)
	if err != nil {
		return nil, err
	}
	list := make([][]answered, len(batch))
	for k := range values {
		for r := range list {
			row, err := cut(&values[k], r, len(batch))
			if err != nil {
				return nil, fmt.Errorf("output %d: %w", k, err)
			}
			list[r] = append(list[r], row)
		}
		values[k].Release()
	}
	return list, nil
}

// cut takes row r of n out of a value.
func cut(v *inference.Value, r, n int) (answered, error) {
	if v.Kind == models.KindMaps {
		if len(v.Maps) != n {
			return answered{}, fmt.Errorf("%d maps for %d rows", len(v.Maps), n)
		}
		m := &v.Maps[r]
		a := floatsOf(&m.Values, m.Values.Data)
		a.text = string(m.Keys.Data) + fmt.Sprint(m.Keys.Strings)
		return a, nil
	}
	t := &v.Tensor
	if len(t.Shape) == 0 || t.Shape[0] != int64(n) {
		return answered{}, fmt.Errorf("the shape %v for %d rows", t.Shape, n)
	}
	if t.Type == models.String {
		size := len(t.Strings) / n
		text := fmt.Sprint(t.Strings[r*size : (r+1)*size])
		return answered{bits: text, text: text}, nil
	}
	size := len(t.Data) / n
	return floatsOf(t, t.Data[r*size:(r+1)*size]), nil
}

func floatsOf(t *inference.Tensor, data []byte) answered {
	a := answered{bits: string(data)}
	switch part := (&inference.Tensor{Type: t.Type, Data: data}); t.Type {
	case models.Float32:
		for _, f := range inference.View[float32](part) {
			a.numbers = append(a.numbers, float64(f))
		}
	case models.Float64:
		a.numbers = slices.Clone(inference.View[float64](part))
	default:
		a.text = a.bits
	}
	return a
}

func near(a, b []float64) bool {
	return slices.EqualFunc(a, b, func(x, y float64) bool {
		return x == y || x != x && y != y || math.Abs(x-y) <= 1e-5*(1+math.Abs(y))
	})
}
