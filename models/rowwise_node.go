package models

import (
	"encoding/binary"
	"math"
	"slices"
)

// step is one node, read for its rule.
type step struct {
	op      string
	opset   int64 // of the operator's domain
	in      []abstract
	outputs [][]byte
	attrs   []attr
}

// attr is an attribute: of integers the value, of others that it is there.
type attr struct {
	name   string
	i      int64
	ints   []int64
	long   bool // it has more integers than are read
	tensor []byte
	text   []byte
	graph  bool
}

// find returns an attribute, or nil.
func (n *step) find(name string) *attr {
	for i := range n.attrs {
		if n.attrs[i].name == name {
			return &n.attrs[i]
		}
	}
	return nil
}

func (n *step) number(name string, otherwise int64) int64 {
	if a := n.find(name); a != nil {
		return a.i
	}
	return otherwise
}

// arg is an input; absent beyond the last.
func (n *step) arg(i int) abstract {
	if i < len(n.in) {
		return n.in[i]
	}
	return abstract{}
}

// only reports whether no output beyond the first count is used.
func (n *step) only(count int) bool {
	for i := count; i < len(n.outputs); i++ {
		if len(n.outputs[i]) > 0 {
			return false
		}
	}
	return true
}

// axis is an attribute that names an axis of a value of that rank, counted
// from the front.
func (n *step) axis(otherwise int64, rank int) (int, bool) {
	return fromFront(n.number("axis", otherwise), rank)
}

func fromFront(axis int64, rank int) (int, bool) {
	if axis < 0 {
		axis += int64(rank)
	}
	return int(axis), axis >= 0 && axis < int64(rank)
}

// list is a list of integers that is an attribute before an opset, and a
// constant input from then on. given is false when it is left out.
func (n *step) list(name string, input int, since int64) (list []int64, given, ok bool) {
	a := n.find(name)
	if n.opset < since {
		if a == nil {
			return nil, false, true
		}
		return a.ints, true, !a.long
	}
	v := n.arg(input)
	switch {
	case a != nil:
		return nil, false, false
	case v.form == absent:
		return nil, false, true
	}
	return v.ints, true, v.form == constant && v.ints != nil
}

// node applies the rule of one node.
func (p *prover) node(b []byte) error {
	n, domain, err := p.read(b)
	if err != nil {
		return err
	}
	refused := unproven("its operator " + quote([]byte(n.op)) + " may mix rows, or is not known not to, as it is used here")
	rule := ruleOf(domain, n.op)
	switch domain {
	case "", "ai.onnx":
		n.opset = p.opset
		if p.opset < oldestProved {
			return unproven("its operators are of an opset older than 7")
		}
	case "ai.onnx.ml":
		n.opset = p.opsetML
	default:
		return unproven("it calls a function of its own, " + quote([]byte(n.op)) + "; export it with functions written out")
	}
	for i := range n.attrs {
		if n.attrs[i].graph {
			return refused
		}
	}
	if rule == nil {
		return refused
	}
	out, ok := rule(n)
	if !ok {
		return refused
	}
	for i, name := range n.outputs {
		if len(name) == 0 {
			continue
		}
		if i >= len(out) || out[i].form == absent {
			return refused
		}
		if err := p.set(name, out[i]); err != nil {
			return err
		}
	}
	return nil
}

// read takes a NodeProto apart.
func (p *prover) read(b []byte) (n *step, domain string, err error) {
	n = &step{}
	err = nodeMessage.walk(b, func(f field) error {
		if len(n.in) > maxProvedPorts || len(n.outputs) > maxProvedPorts || len(n.attrs) > maxProvedAttrs {
			return errTooLarge
		}
		switch f.num {
		case 1:
			v := abstract{}
			if len(f.data) > 0 {
				var known bool
				if v, known = p.values[string(f.data)]; !known {
					return unproven("its nodes are not in the order in which they are computed")
				}
			}
			n.in = append(n.in, v)
		case 2:
			n.outputs = append(n.outputs, f.data)
		case 4:
			if len(f.data) > maxName {
				return errUnread
			}
			n.op = string(f.data)
		case 5:
			a, err := readAttr(f.data)
			if err != nil {
				return err
			}
			if n.find(a.name) != nil {
				return errUnread // which of them counts, readers don't agree on
			}
			n.attrs = append(n.attrs, a)
		case 7:
			if len(f.data) > maxName {
				return errUnread
			}
			domain = string(f.data)
		case 8:
			if len(f.data) > 0 { // only functions are overloaded
				return errUnread
			}
		}
		return nil
	})
	return n, domain, err
}

// attrTypes are the numbers of AttributeProto.AttributeType by the field that
// holds such a value.
var attrTypes = [32]uint64{2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6, 8: 7, 9: 8, 10: 9, 11: 10, 14: 13, 15: 14, 22: 11, 23: 12}

// readAttr reads an AttributeProto. Its type must be that of the value it has:
// a runtime that goes by the type might take the default in its place.
func readAttr(b []byte) (a attr, err error) {
	kind, holds := uint64(0), uint64(0)
	defer func() {
		if err == nil && holds != 0 && kind != holds {
			err = errUnread
		}
	}()
	err = attributeMessage.walk(b, func(f field) error {
		if f.num == 20 {
			kind = f.number
		} else if t := attrTypes[f.num]; t != 0 {
			holds = t
		}
		switch f.num {
		case 1:
			if len(f.data) > maxName {
				return errUnread
			}
			a.name = string(f.data)
		case 3:
			a.i = int64(f.number)
		case 4:
			a.text = f.data
		case 5:
			a.tensor = f.data
		case 6, 11, 21: // graphs, and what a function's caller gives
			a.graph = true
		case 8:
			return f.each(func(v int64) error {
				if len(a.ints) == maxProvedInts {
					a.long = true
					return nil
				}
				a.ints = append(a.ints, v)
				return nil
			})
		}
		return nil
	})
	return a, err
}

// constantTensor reads the shape of a TensorProto, and its elements where they
// are few integers.
func constantTensor(b []byte) (name []byte, v abstract, err error) {
	v = abstract{form: constant, ranked: true, dims: []int64{}}
	elem, raw := int64(0), []byte(nil)
	var typed []int64 // of the fields for int32 and int64
	var first []byte  // of the field for floats
	err = tensorMessage.walk(b, func(f field) error {
		switch f.num {
		case 1:
			return f.each(func(d int64) error {
				if len(v.dims) == maxProvedRank {
					v.ranked = false // the list may grow no further
					return nil
				}
				v.dims = append(v.dims, d)
				return nil
			})
		case 2:
			elem = int64(f.number)
		case 4:
			if first == nil {
				first = f.data
			}
		case 5, 7:
			return f.each(func(n int64) error {
				if len(typed) <= maxProvedInts {
					typed = append(typed, n)
				}
				return nil
			})
		case 8:
			name = f.data
		case 9:
			raw = f.data
		}
		return nil
	})
	if err != nil || !v.ranked {
		return name, abstract{form: constant}, err
	}
	n := product(v.dims)
	if n < 0 || n > maxProvedInts || len(v.dims) > 1 && n != 1 {
		return name, v, nil
	}
	if DataType(elem) == Float32 && n > 0 {
		if raw != nil {
			first = raw
		}
		v.unit = len(first) >= 4 && math.Float32frombits(binary.LittleEndian.Uint32(first)) == 1
	}
	v.ints = integers(DataType(elem), int(n), raw, typed)
	return name, v, nil
}

// integers reads n elements of an integer tensor; nil when they are not to be
// had.
func integers(elem DataType, n int, raw []byte, typed []int64) []int64 {
	size := elem.Size()
	switch elem {
	case Int64, Int32, Bool:
	default:
		return nil
	}
	list := make([]int64, 0, n)
	if len(raw) == 0 {
		if len(typed) != n {
			return nil
		}
		for _, v := range typed {
			if elem != Int64 {
				v = int64(int32(v)) // as readers of the format cut them
			}
			list = append(list, v)
		}
	} else {
		if len(raw) != n*size {
			return nil
		}
		for i := range n {
			at := raw[i*size:]
			switch elem {
			case Int64:
				list = append(list, int64(binary.LittleEndian.Uint64(at)))
			case Int32:
				list = append(list, int64(int32(binary.LittleEndian.Uint32(at))))
			default:
				list = append(list, int64(at[0]))
			}
		}
	}
	if slices.ContainsFunc(list, reserved) {
		return nil
	}
	// What a runtime makes of another truth than 0 and 1, nobody says.
	if elem == Bool && slices.ContainsFunc(list, func(v int64) bool { return v != 0 && v != 1 }) {
		return nil
	}
	return list
}

// reserved reports whether a number of the file would be taken for one that
// stands for another here.
func reserved(v int64) bool { return v == rowCount || v == inner }

// constantNode is the rule of Constant, whose value stands in an attribute.
func constantNode(n *step) ([]abstract, bool) {
	if len(n.in) != 0 || len(n.attrs) != 1 {
		return nil, false
	}
	switch a := &n.attrs[0]; a.name {
	case "value":
		_, v, err := constantTensor(a.tensor)
		return []abstract{v}, err == nil
	case "value_int":
		if reserved(a.i) {
			return []abstract{of(constant, []int64{})}, true
		}
		return []abstract{listOf([]int64{a.i}, []int64{})}, true
	case "value_ints":
		if a.long || slices.ContainsFunc(a.ints, reserved) {
			return []abstract{{form: constant}}, true
		}
		return []abstract{listOf(a.ints, []int64{int64(len(a.ints))})}, true
	case "value_float", "value_string":
		return []abstract{of(constant, []int64{})}, true
	case "value_floats", "value_strings", "sparse_value":
		return []abstract{{form: constant}}, true
	}
	return nil, false
}

// listOf makes a constant, or sizes, of known elements.
func listOf(ints, dims []int64) abstract {
	v := abstract{form: constant, ranked: true, dims: dims, ints: ints}
	for _, d := range ints {
		if d == rowCount {
			v.form = sizes
		}
	}
	return v
}
