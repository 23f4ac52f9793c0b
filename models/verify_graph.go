package models

import (
	"hash/maphash"
	"slices"
	"strings"
	"unicode/utf8"
)

// scope is what is executed as one piece: the main graph with its subgraphs,
// or one function. A function's cost counts at each of its calls.
type scope struct {
	function bool // attributes may be taken from its call
	ports    ports
	own      cost
	depth    int // of graphs inside one another
	calls    []call
	index    map[functionKey]int // into calls

	// What resolve finds out.
	state  resolution
	total  cost // with every call written out
	reach  int  // depth with every call written out
	height int  // longest chain of calls
}

// cost is what a runtime holds as often as a function is called.
type cost struct {
	nodes, parts int64
	bytes        int64 // of the file; of functions alone
	dense        int64 // bytes of sparse tensors written out
}

// times adds count calls of something that costs other. It fails at the first
// sum above a limit; limits are so small that no sum before that overflows.
func (c *check) times(total *cost, other cost, count int64) error {
	for _, of := range []struct {
		sum        *int64
		add, limit int64
		exceeded   func() *Rejected
	}{
		{&total.nodes, other.nodes, int64(c.limits.Nodes), c.tooManyNodes},
		{&total.parts, other.parts, int64(c.limits.Parts), c.tooManyParts},
		{&total.bytes, other.bytes, c.limits.Size, c.tooLong},
		{&total.dense, other.dense, c.limits.Tensor, c.tooDense},
	} {
		if of.add > of.limit/count {
			return of.exceeded()
		}
		if *of.sum += of.add * count; *of.sum > of.limit {
			return of.exceeded()
		}
	}
	return nil
}

type resolution uint8

const (
	unresolved resolution = iota
	resolving
	resolved
)

type functionKey struct{ domain, name, overload string }

// ports are how many inputs and outputs a function has, or a node.
type ports struct{ in, out int }

// call stands for all calls of one function in a scope.
type call struct {
	key   functionKey
	count int64
	depth int   // the deepest
	ports ports // the most
}

// addCall remembers that sc calls key.
func (sc *scope) addCall(key functionKey, depth int, p ports) {
	i, ok := sc.index[key]
	if !ok {
		if sc.index == nil {
			sc.index = map[functionKey]int{}
		}
		i = len(sc.calls)
		sc.index[key] = i
		sc.calls = append(sc.calls, call{key: key})
	}
	sc.calls[i].count++
	sc.calls[i].depth = max(sc.calls[i].depth, depth)
	sc.calls[i].ports = ports{max(sc.calls[i].ports.in, p.in), max(sc.calls[i].ports.out, p.out)}
}

// resolve follows the calls of s: every function must be defined, none may
// reach itself, and with all calls written out the limits still hold (a
// function that calls another twice, which calls another twice, ... doubles
// with each).
func (c *check) resolve(s *scope) error {
	switch s.state {
	case resolved:
		return nil
	case resolving:
		return refuse("recursive_function", "a function of the file calls itself, directly or through others; ONNX does not allow that")
	}
	s.state = resolving
	s.total, s.reach = s.own, s.depth
	for _, call := range s.calls {
		callee := c.functions[call.key]
		if callee == nil {
			return c.unknownOperator([]byte(call.key.domain), []byte(call.key.name))
		}
		if call.ports.in > callee.ports.in || call.ports.out > callee.ports.out {
			// ONNX Runtime 1.30.0 does not survive it.
			return refuse("unsupported_operator", "the file calls its function %s with more inputs or outputs than that has", quote([]byte(call.key.name)))
		}
		if err := c.resolve(callee); err != nil {
			return err
		}
		if err := c.times(&s.total, callee.total, call.count); err != nil {
			return err
		}
		s.reach = max(s.reach, call.depth+callee.reach)
		s.height = max(s.height, callee.height+1)
	}
	if s.reach > c.limits.Depth {
		return c.tooDeep()
	}
	if s.height > maxChain {
		return refuse("nesting", "functions of the file call one another more than %d deep", maxChain)
	}
	s.state = resolved
	return nil
}

func (c *check) tooManyNodes() *Rejected {
	return refuse("too_many_nodes", "the model has more than %d nodes", c.limits.Nodes)
}

func (c *check) tooManyParts() *Rejected {
	return refuse("too_many_nodes", "the model has more than %d attributes, values, dimensions, strings and entries of metadata", c.limits.Parts)
}

func (c *check) tooLong() *Rejected {
	return refuse("too_large", "the functions of the file take more than %s when they are written out at each call", bytesText(c.limits.Size))
}

func (c *check) tooDense() *Rejected {
	return refuse("too_large", "the sparse tensors of the file take more than %s when they are written out", bytesText(c.limits.Tensor))
}

func (c *check) tooDeep() *Rejected {
	return refuse("nesting", "graphs (If, Loop, Scan) stand inside one another more than %d deep", c.limits.Depth)
}

func (c *check) unknownOperator(domain, name []byte) error {
	if c.domains[string(domain)] {
		return refuse("unsupported_operator", "the file calls a function %s that it does not define", quote(name))
	}
	return refuse("unsupported_domain", "the operator %s is of the domain %s; only ONNX's own operators (ai.onnx, ai.onnx.ml) and functions that the file defines are served. Export the model without optimisations for a certain runtime",
		quote(name), quote(domain))
}

// use says what a name stands for in one graph.
type use uint8

const (
	usedInput use = 1 << iota
	usedNode
	usedInitializer
	usedOutput
	usedScales // as the scales of a Resize
	usedKnown  // its size stands in the file
)

// names are the values of one graph, by hash.
type names map[uint64]use

// define notes that name stands for as, and refuses a second meaning; an
// input may have an initializer, which is its default.
func (c *check) define(n names, name []byte, as use) error {
	if c.values++; c.values > c.limits.Values {
		return refuse("too_many_nodes", "the model has more than %d named values", c.limits.Values)
	}
	if len(name) == 0 && as == usedNode {
		return nil // an output that is not wanted
	}
	key := maphash.Bytes(c.seed, name)
	conflicts := as
	switch as {
	case usedInput:
		conflicts |= usedNode
	case usedNode:
		conflicts |= usedInput | usedInitializer
	case usedInitializer:
		conflicts |= usedNode
	}
	if n[key]&conflicts != 0 {
		return refuse("duplicate_name", "the value %s is made twice", quote(name))
	}
	n[key] |= as
	return nil
}

// graph checks a GraphProto that stands depth graphs deep; top receives the
// declared inputs and outputs of the outermost.
func (c *check) graph(b []byte, sc *scope, depth int, top *Graph) error {
	if depth > c.limits.Depth {
		return c.tooDeep()
	}
	sc.depth = max(sc.depth, depth)
	n := names{}
	var inputs, outputs []GraphValue // of the outermost only
	err := c.walk(&graphMessage, b, func(f field) error {
		switch f.num {
		case 1:
			return c.node(f.data, sc, depth, n)
		case 5:
			name, err := c.initializer(f.data)
			if err != nil {
				return err
			}
			return c.define(n, name, usedInitializer)
		case 15:
			name, err := c.sparse(f.data)
			if err != nil {
				return err
			}
			return c.define(n, name, usedInitializer)
		case 11, 12:
			v, name, err := c.value(f.data)
			if err != nil {
				return err
			}
			into, as := &inputs, usedInput
			if f.num == 12 {
				into, as = &outputs, usedOutput
			}
			if top != nil {
				if !goodName(name) {
					return refuse("bad_name", "the name %s of an input or output is empty, too long, not UTF-8, or has a NUL in it", quote(name))
				}
				v.Name = string(name)
				*into = append(*into, v)
			}
			return c.define(n, name, as)
		case 13:
			_, _, err := c.value(f.data)
			return err
		case 14:
			return c.annotation(f.data)
		case 16:
			return entry(f.data)
		}
		return nil
	})
	if err == nil {
		err = c.knownScales(n, inputs)
	}
	if err != nil || top == nil {
		return err
	}
	top.Inputs = slices.DeleteFunc(inputs, func(v GraphValue) bool {
		return n[maphash.String(c.seed, v.Name)]&usedInitializer != 0
	})
	top.Outputs = outputs
	return c.contract(top)
}

// goodName reports whether a name survives the way through the database and
// the runtime, which knows names as C strings.
func goodName(b []byte) bool {
	return len(b) > 0 && len(b) <= maxName && utf8.Valid(b) && !slices.Contains(b, 0)
}

// contract checks what will be the public contract.
func (c *check) contract(g *Graph) error {
	switch {
	case len(g.Inputs) == 0:
		return refuse("no_inputs", "the model has no input, so that there is nothing to predict from")
	case len(g.Outputs) == 0:
		return refuse("no_outputs", "the model has no output")
	case len(g.Inputs) > c.limits.Ports || len(g.Outputs) > c.limits.Ports:
		return refuse("too_large", "the model has %d inputs and %d outputs; at most %d of each are served", len(g.Inputs), len(g.Outputs), c.limits.Ports)
	}
	for _, v := range g.Inputs {
		if err := servedInput(v); err != nil {
			return err
		}
	}
	for _, v := range g.Outputs {
		// An output without a type gets it from the runtime.
		if v.Kind == kindOther || v.Type != Undefined && !servedOutput(v) {
			return refuse("unsupported_type", "the output %s is neither a tensor, a sequence of tensors nor a map, of floats, integers, bools or strings", quote([]byte(v.Name)))
		}
	}
	return nil
}

func servedInput(v GraphValue) error {
	switch name := quote([]byte(v.Name)); {
	case v.Kind != KindTensor:
		return refuse("unsupported_type", "the input %s is no tensor; sequences, maps and optional values are not served as inputs", name)
	case !v.Type.Served():
		return refuse("unsupported_type", "the input %s has an element type that is not served; use a float, integer, bool or string tensor", name)
	case v.Shape == nil:
		return refuse("unsupported_type", "the input %s does not say how many dimensions it has; declare its shape, with names for those of any size", name)
	}
	return nil
}

func servedOutput(v GraphValue) bool {
	switch v.Kind {
	case KindTensor, KindTensors:
		return v.Type.Served()
	case KindMaps, KindMap:
		return v.Type.Served() && (v.Key == Int64 || v.Key == String)
	}
	return false
}

// function checks a FunctionProto and enters it for resolve.
func (c *check) function(b []byte) (*scope, error) {
	sc, n := &scope{function: true}, names{}
	before := cost{parts: int64(c.parts), dense: c.dense}
	var name, domain, overload []byte
	opsets := map[string]int64{}
	err := c.walk(&functionMessage, b, func(f field) error {
		switch f.num {
		case 1:
			name = f.data
		case 4:
			sc.ports.in++
			return c.define(n, f.data, usedInput)
		case 5:
			sc.ports.out++
			return c.define(n, f.data, usedOutput)
		case 7:
			return c.node(f.data, sc, 0, n)
		case 9:
			return opsetImport(f.data, opsets)
		case 10:
			domain = f.data
		case 11:
			_, hasGraph, err := c.attribute(f.data, sc, 0)
			if err == nil && hasGraph {
				err = errGraphArgument
			}
			return err
		case 12:
			_, _, err := c.value(f.data)
			return err
		case 13:
			overload = f.data
		case 14:
			return entry(f.data)
		}
		return nil
	})
	if err == nil {
		err = c.knownScales(n, nil)
	}
	switch {
	case err != nil:
		return nil, err
	case len(name) == 0 || max(len(name), len(domain), len(overload)) > maxName:
		return nil, refuse("unsupported_operator", "the file defines a function without a name, or one that is too long")
	case slices.Contains(slices.Concat(domain, name, overload), ':'):
		// The runtime knows functions by these three with colons between them,
		// and would take one for another.
		return nil, refuse("bad_name", "the file defines a function %s of the domain %s; names of functions can't have a colon", quote(name), quote(domain))
	case reservedDomain(string(domain)):
		// The runtime might take its own operator instead, and then something
		// else would run than what was looked at.
		return nil, refuse("unsupported_domain", "the file defines a function in the domain %s, which belongs to ONNX or a runtime; give it one of its own", quote(domain))
	}
	key := functionKey{string(domain), string(name), string(overload)}
	if c.functions[key] != nil {
		return nil, refuse("duplicate_name", "the file defines the function %s twice", quote(name))
	}
	sc.own.parts, sc.own.dense, sc.own.bytes = int64(c.parts)-before.parts, c.dense-before.dense, int64(len(b))
	c.functions[key] = sc
	c.domains[key.domain] = true
	return sc, nil
}

// reservedDomain reports whether ONNX or the runtime has operators of its own
// in the domain.
func reservedDomain(domain string) bool {
	if domain == "" {
		return true
	}
	for _, own := range []string{"ai.onnx", "com.microsoft", "com.ms", "org.pytorch.aten", "onnx"} {
		if domain == own || strings.HasPrefix(domain, own+".") {
			return true
		}
	}
	return false
}

var errGraphArgument = refuse("unsupported_operator", "the file passes a graph to one of its functions, which is not served; export the model with functions written out")

// node checks a NodeProto.
func (c *check) node(b []byte, sc *scope, depth int, n names) error {
	if c.nodes++; c.nodes > c.limits.Nodes {
		return c.tooManyNodes()
	}
	sc.own.nodes++
	var op, domain, overload []byte
	var attributes []uint64 // their names' hashes
	var p ports
	hasGraph := false
	err := c.walk(&nodeMessage, b, func(f field) error {
		switch f.num {
		case 1:
			p.in++
		case 2:
			p.out++
			return c.define(n, f.data, usedNode)
		case 4:
			op = f.data
		case 5:
			if len(attributes) == maxAttributes {
				return refuse("too_many_nodes", "a node has more than %d attributes", maxAttributes)
			}
			name, g, err := c.attribute(f.data, sc, depth)
			attributes = append(attributes, maphash.Bytes(c.seed, name))
			hasGraph = hasGraph || g
			return err
		case 7:
			domain = f.data
		case 8:
			overload = f.data
		case 9:
			return entry(f.data)
		case 10:
			return refuse("unknown_field", "the file is configured for several devices, which is not served; export it for one")
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(attributes)
	if len(slices.Compact(attributes)) != len(attributes) {
		return refuse("duplicate_name", "a node %s has two attributes of one name", quote(op))
	}
	if err := c.fatal(string(op), b, n); err != nil {
		return err
	}
	return c.operator(sc, depth, op, domain, overload, hasGraph, p)
}

// operator decides whether a node may stand in a served model.
func (c *check) operator(sc *scope, depth int, op, domain, overload []byte, hasGraph bool, p ports) error {
	own, isOwn := onnx().domains[string(domain)]
	switch {
	case len(op) == 0:
		return refuse("not_onnx", "the file is damaged: a node has no operator")
	case string(op) == "EPContext":
		return refuse("unsupported_domain", "EPContext makes a runtime read a compiled program; upload the model it was made from")
	case isOwn:
		name, ok := own.operators[string(op)]
		if !ok {
			return refuse("unsupported_operator", "ONNX has no operator %s in %s; export the model with standard operators only", quote(op), own.name)
		}
		c.operators[name] = true
		return nil
	case max(len(op), len(domain), len(overload)) > maxName:
		return refuse("unsupported_operator", "the operator %s has a name that is too long", quote(op))
	case hasGraph:
		if !c.domains[string(domain)] {
			return c.unknownOperator(domain, op)
		}
		return errGraphArgument
	}
	sc.addCall(functionKey{string(domain), string(op), string(overload)}, depth, p)
	return nil
}

// annotation checks a TensorAnnotation.
func (c *check) annotation(b []byte) error {
	return c.walk(&annotationMessage, b, func(f field) error {
		if f.num == 2 {
			return entry(f.data)
		}
		return nil
	})
}
