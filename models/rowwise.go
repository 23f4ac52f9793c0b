package models

import (
	"fmt"
	"math"
)

// The proof that a graph computes each row by itself, which alone allows rows
// of different callers in one run: 122 bytes of ONNX (ReduceMax over axis 0,
// then Add) suffice to put one row's numbers into the answers of all others,
// and no trial run can show that a graph doesn't.
//
// It is an abstract interpretation of the graph, node by node in the order of
// the file. What is claimed of a value "rows" is this: its axis 0 has as many
// elements as the inputs' axis 0, N, and for one function f, which depends on
// neither N nor i, its element i along axis 0 is f(element i of each input).
// Values called "constant" depend on neither the inputs nor N, though the
// inner dimensions of the inputs, which are alike within a batch, may have a
// part in them. Everything else is unproven: an operator without a rule here
// (see ruleOf), a use of one that its rule does not cover, an attribute that
// holds a graph. A rule that is missing costs speed; one that is wrong costs
// secrecy, so they refuse what they need not know.
//
// The operators' meaning, by opset: https://onnx.ai/onnx/operators/ and
// https://onnx.ai/onnx/operators/index.html#ai-onnx-ml. The rules were written
// against opsets 7 to 26 of ai.onnx and 1 to 5 of ai.onnx.ml; others are
// unproven.
const (
	oldestProved   = 7 // before it broadcasting is another
	newestProved   = 26
	newestProvedML = 5
)

// Bounds of the proof, beyond which it gives up. A transformer of 48 layers
// has some 5,000 nodes.
const (
	maxProvedNodes  = 20_000
	maxProvedValues = 60_000
	maxProvedRank   = 8
	maxProvedInts   = 64  // elements of a constant that are read
	maxProvedAttrs  = 64  // of one node
	maxProvedPorts  = 512 // inputs or outputs of one node
)

// form is what is known of a value.
type form uint8

const (
	absent   form = iota // an optional input that is left out
	constant             // the same whatever the inputs, and however many rows
	rows                 // row i depends on row i of the inputs alone
	sizes                // a list of integers of which one is the number of rows, which it tells nothing else of
	columns              // rows of rank 1, written as [1,N]
	rowMaps              // a sequence of maps, one for each row
)

// Dimensions and elements that are not plain numbers.
const (
	open     = -1                // any size, given by the inner dimensions of the inputs
	rowCount = math.MinInt64     // an element of sizes: the number of rows
	inner    = math.MinInt64 + 1 // an element: an inner dimension that is not known here
)

// abstract is what is known of one value of the graph.
type abstract struct {
	form form
	// ranked says that dims is known. Rows are always ranked, and dims[0] is then
	// open.
	ranked bool
	dims   []int64
	// ints are the elements of small constants and of sizes, of rank 0 or 1 or
	// of one element; nil: not known.
	ints []int64
	// unit says that a small constant of floats begins with 1.
	unit bool
}

// RowWise reports whether a file that Verify let through computes each row of
// its outputs from the same row of its inputs, so that requests may share a
// run. Otherwise reason says what stands against it: an operator's name, or
// the position of an input or output; never a name of the graph. Time and
// memory are linear in the file, and memory bounded.
func RowWise(file []byte) (proved bool, reason string) {
	m, err := (&check{limits: Limits{}.withDefaults()}).topLevel(file)
	if err != nil || !m.hasGraph {
		return false, "the file can't be read"
	}
	if !oneOpset(file) {
		return false, "it names two versions of the same operators"
	}
	p := &prover{opset: m.opsets["ai.onnx"], opsetML: m.opsets["ai.onnx.ml"], values: map[string]abstract{}}
	if p.opset > newestProved || p.opsetML > newestProvedML {
		return false, "its operators are newer than what can be judged"
	}
	if err := p.graph(m.graph); err != nil {
		return false, err.Error()
	}
	return true, ""
}

// oneOpset reports whether the file means one version of each domain's
// operators. Of two, readers don't agree which counts.
func oneOpset(file []byte) bool {
	seen, one := map[string]int64{}, true
	err := modelMessage.walk(file, func(f field) error {
		if f.num != 8 {
			return nil
		}
		next := map[string]int64{}
		if err := opsetImport(f.data, next); err != nil {
			return err
		}
		for domain, v := range next {
			one = one && (seen[domain] == 0 || seen[domain] == v)
			seen[domain] = v
		}
		return nil
	})
	return err == nil && one
}

// prover is the state of one proof.
type prover struct {
	opset, opsetML int64
	values         map[string]abstract
	nodes          int
}

// unproven is why there is no proof, for those who manage the model.
type unproven string

func (u unproven) Error() string { return string(u) }

const (
	errUnread   unproven = "the file can't be read"
	errTooLarge unproven = "the graph is too large to be judged"
)

// graph walks the main graph: what is there from the start, then the nodes,
// then what comes out.
func (p *prover) graph(b []byte) error {
	if err := p.initializers(b); err != nil {
		return err
	}
	if err := p.inputs(b); err != nil {
		return err
	}
	err := graphMessage.walk(b, func(f field) error {
		if f.num != 1 {
			return nil
		}
		if p.nodes++; p.nodes > maxProvedNodes {
			return errTooLarge
		}
		return p.node(f.data)
	})
	if err != nil {
		return reasonOf(err)
	}
	return p.outputs(b)
}

// reasonOf keeps words of the reader, which speak of the file, from managers.
func reasonOf(err error) error {
	if u, ok := err.(unproven); ok {
		return u
	}
	return errUnread
}

// set enters what is known of a name. Names come once: Verify saw to that.
func (p *prover) set(name []byte, v abstract) error {
	switch {
	case len(name) == 0:
		return nil
	case len(name) > maxName || len(p.values) >= maxProvedValues || len(v.dims) > maxProvedRank:
		return errTooLarge
	}
	if _, twice := p.values[string(name)]; twice {
		return errUnread
	}
	p.values[string(name)] = v
	return nil
}

func (p *prover) initializers(b []byte) error {
	err := graphMessage.walk(b, func(f field) error {
		switch f.num {
		case 5:
			name, v, err := constantTensor(f.data)
			if err != nil {
				return err
			}
			return p.set(name, v)
		case 15: // sparse: its values bear the name, and its shape is not needed
			return sparseMessage.walk(f.data, func(f field) error {
				if f.num != 1 {
					return nil
				}
				name, _, err := constantTensor(f.data)
				if err != nil {
					return err
				}
				return p.set(name, abstract{form: constant})
			})
		}
		return nil
	})
	if err != nil {
		return reasonOf(err)
	}
	return nil
}

// inputs enters what callers send. An input with an initializer is none: its
// default holds for all.
func (p *prover) inputs(b []byte) error {
	position := 0
	c := &check{limits: Limits{}.withDefaults()}
	err := graphMessage.walk(b, func(f field) error {
		if f.num != 11 {
			return nil
		}
		v, name, err := c.value(f.data)
		if err != nil {
			return err
		}
		if _, fixed := p.values[string(name)]; fixed {
			return nil
		}
		position++
		switch {
		case v.Kind != KindTensor || len(v.Shape) == 0:
			return unproven(fmt.Sprintf("input %d has no rows", position))
		case v.Shape[0] >= 0:
			return unproven(fmt.Sprintf("input %d has a fixed number of rows; export the model with a first dimension of any size", position))
		}
		return p.set(name, rowsOf(v.Shape[1:]...))
	})
	if err != nil {
		return reasonOf(err)
	}
	return nil
}

// outputs fails unless each output has a row for each row of the inputs.
func (p *prover) outputs(b []byte) error {
	position := 0
	err := graphMessage.walk(b, func(f field) error {
		if f.num != 12 {
			return nil
		}
		position++
		var name []byte
		if err := valueMessage.walk(f.data, func(f field) error {
			if f.num == 1 {
				name = f.data
			}
			return nil
		}); err != nil {
			return err
		}
		if v := p.values[string(name)]; v.form != rows && v.form != rowMaps {
			return unproven(fmt.Sprintf("output %d does not have one row for each row of the inputs", position))
		}
		return nil
	})
	if err != nil {
		return reasonOf(err)
	}
	return nil
}

// rowsOf makes rows with those inner dimensions.
func rowsOf(innerDims ...int64) abstract {
	v := abstract{form: rows, ranked: true, dims: make([]int64, 1, len(innerDims)+1)}
	v.dims[0] = open
	for _, d := range innerDims {
		v.dims = append(v.dims, max(d, open))
	}
	return v
}

// of makes rows or a constant with those dimensions.
func of(f form, dims []int64) abstract {
	if f == rows {
		return rowsOf(dims[1:]...)
	}
	return abstract{form: f, ranked: true, dims: dims}
}

// rank is the number of dimensions, of a ranked value.
func (v abstract) rank() int { return len(v.dims) }

// isRows reports whether v is rows of at least that rank.
func (v abstract) isRows(rank int) bool { return v.form == rows && len(v.dims) >= rank }

// steady reports whether v is a constant, or left out.
func (v abstract) steady() bool { return v.form == constant || v.form == absent }

// scalar reports whether v is left out, or a constant of one element.
func (v abstract) scalar() bool {
	return v.form == absent || v.form == constant && v.ranked && (v.rank() == 0 || v.rank() == 1 && v.dims[0] == 1)
}

// product multiplies dimensions; open when one is, or when the product does
// not fit.
func product(dims []int64) int64 {
	n := int64(1)
	for _, d := range dims {
		if d < 0 || d > 0 && n > math.MaxInt64/d {
			return open
		}
		n *= d
	}
	return n
}
