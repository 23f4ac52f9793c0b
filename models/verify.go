package models

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Limits bound what the static check lets through. Zero fields mean the
// defaults.
type Limits struct {
	Size   int64 // bytes of a file; 2 GiB, which is the format's own bound
	Nodes  int   // nodes, functions counted anew at each call; 100,000
	Parts  int   // attributes, dimensions, strings and whatever else may stand many times, likewise; 8,000,000
	Values int   // named values of all graphs together; 1,000,000
	Tensor int64 // bytes of a tensor that is declared but not contained in the file; 1 GiB
	Depth  int   // graphs inside one another (If, Loop, Scan); 16
	Ports  int   // inputs, and likewise outputs; 256
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int64
		value int64
	}{{&l.Size, math.MaxInt32}, {&l.Tensor, 1 << 30}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Nodes, 100_000}, {&l.Parts, 8_000_000}, {&l.Values, 1_000_000}, {&l.Depth, 16}, {&l.Ports, 256}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return l
}

// Bounds that nobody needs to tune.
const (
	maxFunctions  = 10_000
	maxChain      = 64 // functions that call one another
	maxTypeDepth  = 8  // types inside one another
	maxRank       = 64
	maxAttributes = 256  // of a node; ONNX's own have at most 30
	maxName       = 1024 // bytes of an input's, output's, operator's or domain's name
	minIR         = 3    // older files import no opset
	maxQuoted     = 64
)

// Verify checks an ONNX file before any runtime sees it: a bounded walk over
// the protobuf wire format, in time linear in the file, without building what
// the file describes and without an allocation whose size the file chooses.
// Weights are measured, not read. A refused file is a *Rejected with one of
// these codes:
//
//	not_onnx              no ONNX, or damaged
//	truncated             it ends too early
//	unsupported_version   ir_version or an opset is missing, too old or too new
//	unknown_field         a field that onnx.proto does not have, or no server should need
//	training              training information
//	external_data         weights outside the file
//	unsupported_domain    an operator of neither ONNX nor the file itself
//	unsupported_operator  ONNX has no operator of that name, or it may never end, or end the process
//	unsupported_type      an input or output that can't be sent as JSON or tensor
//	nesting               graphs, types or function calls too deep inside one another
//	recursive_function    a function that calls itself, directly or not
//	too_many_nodes        more nodes, values, functions or parts of them than the limit
//	no_inputs, no_outputs nothing to predict from, or nothing predicted
//	size_overflow         dimensions whose product does not fit 64 bits
//	too_large             a file, tensor or number of inputs above the limit, or functions that are written out
//	bad_tensor            a shape and its data disagree
//	bad_name              an input's or output's name is empty, too long, no UTF-8 or has a NUL, or a function's has a colon
//	duplicate_name        a value is made twice
//
// What only running can show (types that don't fit, constants that take for
// ever to compute) is left to the trial load.
func Verify(file []byte, limits Limits) (Graph, Facts, error) {
	c := &check{
		limits:    limits.withDefaults(),
		seed:      maphash.MakeSeed(),
		operators: map[string]bool{},
		functions: map[functionKey]*scope{},
		domains:   map[string]bool{},
	}
	if int64(len(file)) > c.limits.Size {
		return Graph{}, Facts{}, refuse("too_large", "the file is larger than %s", bytesText(c.limits.Size))
	}
	// A runtime that finds this mark does not take the file for protocol buffers,
	// whatever it is besides.
	if at(file, 4, ortMark) {
		return Graph{}, Facts{}, refuse("not_onnx", "the file is no ONNX model%s", guess(file))
	}
	g, err := c.model(file)
	if err != nil {
		return Graph{}, Facts{}, err
	}
	facts := Facts{Opset: c.opset, Nodes: c.nodes, Parameters: c.parameters, Operators: make([]string, 0, len(c.operators))}
	for name := range c.operators {
		facts.Operators = append(facts.Operators, name)
	}
	slices.Sort(facts.Operators)
	if anyFragile(facts.Operators) && slices.ContainsFunc(g.Inputs, func(v GraphValue) bool { return slices.Contains(v.Shape, 0) }) {
		return Graph{}, Facts{}, refuse("unsupported_operator", "an input is declared to be empty; the runtime does not survive empty inputs of a model with %s", strings.Join(fragile, ", "))
	}
	return g, facts, nil
}

// check is the state of one walk.
type check struct {
	limits Limits
	// seed makes the hashes of names unforeseeable. Names are kept as 64-bit
	// hashes to bound the memory they take: by chance two of a million names
	// collide once in thirty million files.
	seed       maphash.Seed
	nodes      int
	parts      int
	values     int
	parameters int64
	ir         int64 // version of the format
	dense      int64 // bytes of all sparse tensors written out
	opset      int64
	operators  map[string]bool // standard ones met
	functions  map[functionKey]*scope
	domains    map[string]bool // of functions
}

// refuse makes a Rejected. Strings of the file go through quote first.
func refuse(code, format string, args ...any) *Rejected {
	return &Rejected{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// quote shows the uploader a string of his own file: short, and without
// anything that a terminal or a log would act upon.
func quote(b []byte) string {
	cut := ""
	if len(b) > maxQuoted {
		b, cut = b[:maxQuoted], "..."
		for len(b) > 0 && !utf8.FullRune(b[lastRune(b):]) {
			b = b[:len(b)-1]
		}
	}
	return strconv.QuoteToASCII(string(b)) + cut
}

// lastRune returns where the last, perhaps unfinished, rune of b starts.
func lastRune(b []byte) int {
	i := len(b) - 1
	for i > 0 && !utf8.RuneStart(b[i]) {
		i--
	}
	return i
}

// model checks a ModelProto.
func (c *check) model(file []byte) (Graph, error) {
	if len(file) == 0 {
		return Graph{}, refuse("not_onnx", "the file is empty")
	}
	m, err := c.topLevel(file)
	if err != nil {
		return Graph{}, err
	}
	if !m.hasGraph {
		return Graph{}, refuse("not_onnx", "the file has no graph; it is no ONNX model, or not the whole of it")
	}
	if newest := onnx().irVersion; m.ir < minIR || m.ir > newest {
		return Graph{}, refuse("unsupported_version", "the file has ir_version %d; supported are %d to %d. Export it for one of these, as with onnx.helper.make_model(..., ir_version=%d)", m.ir, minIR, newest, newest)
	}
	if len(m.opsets) == 0 {
		return Graph{}, refuse("unsupported_version", "the file does not say which version of the ONNX operators it uses (opset_import)")
	}
	c.ir = m.ir
	var scopes []*scope
	for _, f := range m.functions {
		sc, err := c.function(f)
		if err != nil {
			return Graph{}, err
		}
		scopes = append(scopes, sc)
	}
	c.opset = m.opsets["ai.onnx"]
	var g Graph
	main := &scope{}
	if err := c.graph(m.graph, main, 0, &g); err != nil {
		return Graph{}, err
	}
	// Functions that nothing calls too: a runtime may look at all of them.
	for _, sc := range append(scopes, main) {
		if err := c.resolve(sc); err != nil {
			return Graph{}, err
		}
	}
	return g, nil
}

// walk walks a message whose fields may stand many times, and bounds how often
// they do in all: a runtime makes objects of some hundred bytes of what takes
// two bytes in the file.
func (c *check) walk(m *message, b []byte, f func(field) error) error {
	return m.walk(b, func(at field) error {
		if m.fields[at.num]&lengths == lengths {
			if c.parts++; c.parts > c.limits.Parts {
				return c.tooManyParts()
			}
		}
		return f(at)
	})
}

// topLevel is what the outermost message holds.
type topLevel struct {
	ir        int64
	hasGraph  bool
	graph     []byte
	functions [][]byte
	opsets    map[string]int64 // of ONNX's own domains
}

func (c *check) topLevel(file []byte) (topLevel, error) {
	m := topLevel{opsets: map[string]int64{}}
	started := false // ir_version was there: so far it looks like ONNX
	err := c.walk(&modelMessage, file, func(f field) error {
		switch f.num {
		case 1:
			m.ir, started = int64(f.number), true
		case 7:
			m.graph, m.hasGraph = f.data, true
		case 8:
			return opsetImport(f.data, m.opsets)
		case 14:
			return entry(f.data)
		case 20:
			return refuse("training", "the file holds training information; export the model for inference only")
		case 25:
			if len(m.functions) == maxFunctions {
				return refuse("too_many_nodes", "the file defines more than %d functions", maxFunctions)
			}
			m.functions = append(m.functions, f.data)
		case 26:
			return refuse("unknown_field", "the file is configured for several devices, which is not served; export it for one")
		}
		return nil
	})
	if err != nil && !started {
		return m, refuse("not_onnx", "the file is no ONNX model%s", guess(file))
	}
	return m, err
}

// headReader fails with a *Rejected when the first bytes that it reads can't be
// those of a ModelProto.
type headReader struct {
	r    io.Reader
	head []byte
}

// headSize is as many bytes as guess looks at.
const headSize = 8

func (h *headReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	if missing := headSize - len(h.head); missing > 0 {
		if h.head = append(h.head, p[:min(n, missing)]...); len(h.head) == headSize && !beginsModel(h.head) {
			return n, refuse("not_onnx", "the file is no ONNX model%s", guess(h.head))
		}
	}
	return n, err
}

// beginsModel reports whether a file that starts with head, of headSize bytes,
// may be a ModelProto: its first field must be one that the message has.
func beginsModel(head []byte) bool {
	num, wire, n := protowire.ConsumeTag(head)
	return n > 0 && n <= maxTag && num < protowire.Number(len(modelMessage.fields)) && modelMessage.fields[num].take(wire) && !at(head, 4, ortMark)
}

// ortMark marks ONNX Runtime's own format.
const ortMark = "ORTM"

// at reports whether the mark stands there in the file.
func at(file []byte, offset int, mark string) bool {
	return len(file) >= offset && bytes.HasPrefix(file[offset:], []byte(mark))
}

// guess tells uploaders of other formats what to do.
func guess(file []byte) string {
	at := func(offset int, mark string) bool { return at(file, offset, mark) }
	switch {
	case at(0, "PK\x03\x04"):
		return " but a zip archive, perhaps of PyTorch or Keras; export it first, for instance with torch.onnx.export"
	case at(0, "\x80\x02"), at(0, "\x80\x03"), at(0, "\x80\x04"), at(0, "\x80\x05"):
		return " but a Python pickle; export it first, for instance with skl2onnx.to_onnx"
	case at(0, "\x89HDF"):
		return " but HDF5, perhaps of Keras; export it first, for instance with tf2onnx"
	case at(4, "TFL3"):
		return " but TensorFlow Lite; export it first, for instance with tf2onnx"
	case at(4, ortMark):
		return " but ONNX Runtime's own format; upload the .onnx file it was made from"
	case at(0, "GGUF"):
		return " but GGUF; export the model to ONNX first"
	case at(0, "\x1f\x8b"):
		return " but compressed with gzip; unpack it first"
	}
	return ""
}

// opsetImport checks an OperatorSetIdProto and adds it to versions when the
// domain is one of ONNX's own. To import another does no harm by itself, and
// some exporters list every domain they know; nodes of unknown domains are
// refused.
func opsetImport(b []byte, versions map[string]int64) error {
	var domain []byte
	var version int64
	err := opsetMessage.walk(b, func(f field) error {
		switch f.num {
		case 1:
			domain = f.data
		case 2:
			version = int64(f.number)
		}
		return nil
	})
	if err != nil {
		return err
	}
	own, ok := onnx().domains[string(domain)]
	if !ok {
		return nil
	}
	if version < 1 || version > own.opset {
		return refuse("unsupported_version", "the file uses version %d of the operators of %s; supported are 1 to %d. Export it for one of these (opset_version in torch.onnx.export, target_opset in skl2onnx)", version, own.name, own.opset)
	}
	// skl2onnx imports a domain twice at times; the runtime copes.
	versions[own.name] = max(versions[own.name], version)
	return nil
}

// entry checks a StringStringEntryProto.
func entry(b []byte) error {
	return entryMessage.walk(b, func(field) error { return nil })
}
