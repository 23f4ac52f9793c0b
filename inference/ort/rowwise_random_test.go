package ort

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"modelgate/inference"
	"modelgate/models"
)

// forge writes small graphs at random: operators that may mix rows, with
// attributes and shapes of which some do and some don't.
type forge struct {
	*rand.Rand
	nodes, constants [][]byte
	last             string
	named            int
}

func (f *forge) name() string {
	f.named++
	return "v" + string(rune('a'+f.named/26)) + string(rune('a'+f.named%26))
}

// ints makes a constant list of int64, or a scalar.
func (f *forge) ints(scalar bool, list ...int) string {
	name, raw := f.name(), []byte(nil)
	for _, v := range list {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(int64(v)))
	}
	c := message(num(2, 7), sub(8, []byte(name)), sub(9, raw))
	if !scalar {
		c = append(c, num(1, uint64(len(list)))...)
	}
	f.constants = append(f.constants, c)
	return name
}

// floats makes a constant of one to three dimensions.
func (f *forge) floats() string {
	name, raw, n := f.name(), []byte(nil), 1
	c := message(num(2, 1), sub(8, []byte(name)))
	for range 1 + f.IntN(3) {
		d := []int{1, 1, 2, 3, 4, 6}[f.IntN(6)]
		c, n = append(c, num(1, uint64(d))...), n*d
	}
	for range n {
		raw = binary.LittleEndian.AppendUint32(raw, uint32(0x3f000000+f.IntN(1<<22)))
	}
	f.constants = append(f.constants, append(c, sub(9, raw)...))
	return name
}

func (f *forge) axis() int { return []int{-3, -2, -1, 0, 0, 1, 1, 2}[f.IntN(8)] }

func attrInt(name string, v int) []byte {
	return message(sub(1, []byte(name)), num(3, uint64(int64(v))), num(20, 2))
}

func attrInts(name string, list ...int) []byte {
	a := message(sub(1, []byte(name)), num(20, 7))
	for _, v := range list {
		a = append(a, num(8, uint64(int64(v)))...)
	}
	return a
}

// step adds a node that reads what the last one made, or the input again.
func (f *forge) step() {
	in, out := f.last, f.name()
	add := func(op string, inputs []string, attributes ...[]byte) {
		f.nodes = append(f.nodes, node(op, inputs, []string{out}, attributes...))
	}
	other := []string{"x", f.last, f.floats()}[f.IntN(3)]
	pair := []string{in, other}
	if f.IntN(2) == 0 {
		slices.Reverse(pair)
	}
	switch f.IntN(20) {
	case 0, 1:
		add([]string{"Add", "Mul", "Max"}[f.IntN(3)], pair)
	case 2:
		add("MatMul", pair)
	case 3:
		add("Gemm", pair, attrInt("transA", f.IntN(2)), attrInt("transB", f.IntN(2)))
	case 4, 5:
		add([]string{"ReduceMax", "ReduceMean", "ReduceSum"}[f.IntN(3)], []string{in, f.ints(false, f.axis())}, attrInt("keepdims", f.IntN(2)))
	case 6:
		add([]string{"Softmax", "Hardmax", "LpNormalization"}[f.IntN(3)], []string{in}, attrInt("axis", f.axis()))
	case 7:
		add("CumSum", []string{in, f.ints(true, f.axis())})
	case 8, 9, 10:
		shapes := [][]int{{0, -1}, {-1}, {-1, 2}, {-1, 6}, {-1, 12}, {0, 2, -1}, {0, 0, -1}, {2, -1}, {-1, 2, 6}, {-1, 2, 3}, {0, 12}, {-1, 1, 12}, {1, -1}, {-1, 4}}
		add("Reshape", []string{in, f.ints(false, shapes[f.IntN(len(shapes))]...)})
	case 11, 12:
		perms := [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {2, 1, 0}, {1, 0}, {0, 1}, {0, 1, 2, 3}, {0, 2, 1, 3}}
		add("Transpose", []string{in}, attrInts("perm", perms[f.IntN(len(perms))]...))
	case 13:
		add("Concat", pair, attrInt("axis", f.axis()))
	case 14:
		add([]string{"Squeeze", "Unsqueeze"}[f.IntN(2)], []string{in, f.ints(false, f.axis())})
	case 15:
		add("Slice", []string{in, f.ints(false, f.IntN(2)), f.ints(false, []int{1, 2, 1 << 40}[f.IntN(3)]), f.ints(false, f.axis())})
	case 16:
		add("Gather", []string{in, f.ints(f.IntN(2) == 0, 0)}, attrInt("axis", f.axis()))
	case 17:
		add("Flatten", []string{in}, attrInt("axis", f.IntN(4)))
	case 18:
		list := make([]int, 4+2*f.IntN(2))
		list[f.IntN(len(list))] = f.IntN(2)
		add("Pad", []string{in, f.ints(false, list...)})
	default: // a shape made of that of the input
		shape, first, joined := f.name(), f.name(), f.name()
		f.nodes = append(f.nodes, node("Shape", []string{[]string{"x", in}[f.IntN(2)]}, []string{shape}),
			node("Gather", []string{shape, f.ints(false, f.IntN(2))}, []string{first}),
			node("Concat", []string{first, f.ints(false, [][]int{{-1}, {2, -1}, {12}, {1, -1}}[f.IntN(4)]...)}, []string{joined}, attrInt("axis", 0)))
		add([]string{"Reshape", "Reshape", "Expand"}[f.IntN(3)], []string{in, joined})
	}
	f.last = out
}

// Graphs that nobody thought of: whichever is proved keeps rows apart in the
// runtime.
func TestProvedGraphsAtRandom(t *testing.T) {
	const wanted = 400
	mem := inference.NewMemory(64 << 20)
	e := open(t, Config{Memory: mem})
	proved, refused := 0, 0
	for seed := uint64(1); proved < wanted && seed < 100*wanted; seed++ {
		f := &forge{Rand: rand.New(rand.NewPCG(seed, 3)), last: "x"}
		shapes := [][]int64{{-1, 2, 6}, {-1, 2, 6}, {-1, 12}, {-1, 4}, {-1}, {-1, -1}}
		shape := shapes[f.IntN(len(shapes))]
		for range 2 + f.IntN(4) {
			f.step()
		}
		model := f.file(shape)
		if ok, _ := models.RowWise(model); !ok {
			refused++
			continue
		}
		if _, _, err := models.Verify(model, models.Limits{}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if checkApart(t, e, mem, model, seed) {
			proved++
		}
	}
	if proved < wanted || refused < wanted {
		t.Errorf("only %d proved graphs ran, %d were refused", proved, refused)
	}
}

// file is the model, from x to what the last node made.
func (f *forge) file(shape []int64) []byte {
	graph := sub(2, []byte("g"))
	for _, n := range f.nodes {
		graph = append(graph, sub(1, n)...)
	}
	for _, c := range f.constants {
		graph = append(graph, sub(5, c)...)
	}
	graph = append(graph, sub(11, port("x", floats(shape)))...)
	graph = append(graph, sub(12, port(f.last, floats(nil)))...)
	return message(num(1, 8), sub(8, num(2, 18)), sub(7, graph))
}

// checkApart runs a proved model as TestProvedRowsKeepApart does. False: the
// runtime does not load it, or it can't compute with such inputs.
func checkApart(t *testing.T, e *Engine, mem *inference.Memory, model []byte, seed uint64) bool {
	t.Helper()
	s, err := e.Load(t.Context(), model, inference.Options{})
	if err != nil {
		return false
	}
	defer s.Close()
	random, graph := rand.New(rand.NewPCG(seed, 4)), s.Graph()
	good := []cells{drawRow(random, &graph.Inputs[0], "", false)}
	alone, err := runRows(s, mem, &graph, [][]cells{good})
	if err != nil {
		return false
	}
	for at := range 3 {
		first := ""
		for range 3 {
			batch := make([][]cells, 3)
			for r := range batch {
				if batch[r] = good; r != at {
					batch[r] = []cells{drawRow(random, &graph.Inputs[0], "", true)}
				}
			}
			got, err := runRows(s, mem, &graph, batch)
			if err != nil {
				t.Fatalf("seed %d: a batch fails, though a row does not: %v", seed, err)
			}
			if first == "" {
				first = got[at][0].bits
			}
			if first != got[at][0].bits || !near(got[at][0].numbers, alone[0][0].numbers) {
				t.Fatalf("seed %d: row %d is %v beside others, alone %v", seed, at, got[at][0].numbers, alone[0][0].numbers)
			}
		}
	}
	return true
}
