package models

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rowwiseCase is an entry of testdata/rowwise.json; see make_rowwise.py there.
type rowwiseCase struct {
	Name   string
	Proved bool
	Model  []byte
}

func rowwiseCases(t testing.TB) []rowwiseCase {
	t.Helper()
	data, err := os.ReadFile("../testdata/rowwise.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []rowwiseCase
	if err := json.Unmarshal(data, &cases); err != nil || len(cases) < 200 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	return cases
}

// Every rule, both ways. What is proved here is run, with other rows poisoned,
// in inference/ort.
func TestRowWise(t *testing.T) {
	for _, c := range rowwiseCases(t) {
		if _, _, err := Verify(c.Model, Limits{}); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		proved, reason := RowWise(c.Model)
		if proved != c.Proved {
			t.Errorf("%s: proved %v (%s)", c.Name, proved, reason)
		}
		if proved != (reason == "") || strings.Contains(reason, "can't be read") {
			t.Errorf("%s: the reason is %q", c.Name, reason)
		}
	}
}

func TestRowWiseSamples(t *testing.T) {
	for name, want := range map[string]string{
		"bfloat": "", "defaults": "", "digits": "", "divide": "", "dynamic": "", "half": "", "ints": "", "iris": "", "iris_v2": "",
		"two_io": "", "types": "", "zipmap_strings": "",
		"rowmix": `"ReduceMax"`, "canary": `"GatherND"`, "sentiment": `"StringNormalizer"`, "sequence": `"SplitToSequence"`,
		"scalar": "no rows", "slow_run": "fixed number of rows",
	} {
		data, err := os.ReadFile(filepath.Join("../testdata", name+".onnx"))
		if err != nil {
			t.Fatal(err)
		}
		if proved, reason := RowWise(data); proved != (want == "") || !strings.Contains(reason, want) {
			t.Errorf("%s: proved %v (%s)", name, proved, reason)
		}
	}
}

// provable is a model of nodes from x FLOAT [N,3] to y, with initializers.
func provable(opset int64, nodes []msg, initializers ...msg) msg {
	g := msg{}.sub(1, nodes...).str(2, "g").sub(5, initializers...).sub(11, value("x", tensorOf(1, -1, 3))).sub(12, value("y", tensorOf(1, -1, 3)))
	return msg{}.num(1, 10).sub(7, g).sub(8, msg{}.str(1, "").num(2, opset))
}

func intAttribute(name string, kind, v int64) msg { return msg{}.str(1, name).num(3, v).num(20, kind) }

// What readers may understand differently is not proved, and neither is what
// nobody looked at.
func TestRowWiseEncodings(t *testing.T) {
	x, y := []string{"x"}, []string{"y"}
	softmax := func(attributes ...msg) []msg { return []msg{node("Softmax", x, y, attributes...)} }
	axis := intAttribute("axis", 2, 1)
	table := msg{}.num(1, 4).num(2, 1).str(8, "w").sub(9, make(msg, 16))
	index := func(v int64) msg { return msg{}.num(2, 6).str(8, "i").packed(5, v) } // int32, as a varint
	cumulate := []msg{node("CumSum", []string{"x", "i"}, y)}
	ranks := msg{}
	for range 9 {
		ranks = ranks.num(1, 1)
	}
	for name, c := range map[string]struct {
		model  msg
		proved bool
	}{
		"plain":                            {provable(21, softmax(axis)), true},
		"an attribute given twice":         {provable(21, softmax(axis, intAttribute("axis", 2, 0))), false},
		"an integer that says it is none":  {provable(21, softmax(intAttribute("axis", 1, 1))), false},
		"an integer that says nothing":     {provable(21, softmax(msg{}.str(1, "axis").num(3, 1))), false},
		"a reference to another attribute": {provable(21, softmax(msg{}.str(1, "axis").str(21, "a").num(20, 2))), false},
		"nodes out of order":               {provable(21, []msg{node("Relu", []string{"h"}, y), node("Relu", x, []string{"h"})}), false},
		"nodes in order":                   {provable(21, []msg{node("Relu", x, []string{"h"}), node("Relu", []string{"h"}, y)}), true},
		"operators that are too old":       {provable(6, softmax(axis)), false},
		"operators that are too new":       {provable(27, softmax(axis)), false},
		"a function of the file":           {provable(21, []msg{inDomain(node("F", x, y), "mine")}).sub(25, function("mine", "F", node("Relu", []string{"a"}, []string{"b"}))), false},
		"another domain":                   {provable(21, []msg{inDomain(node("Relu", x, y), "com.microsoft")}), false},
		"an axis as a constant":            {provable(21, cumulate, index(1)), true},
		"an axis of 2^32, cut to 0":        {provable(21, cumulate, index(1<<32)), false},
		"an axis of 2^32 + 1, cut to 1":    {provable(21, cumulate, index(1<<32+1)), true},
		"a constant of rank 9":             {provable(21, []msg{node("Add", []string{"x", "w"}, y)}, ranks.num(2, 1).str(8, "w").sub(9, make(msg, 4))), false},
		"a constant in the way":            {provable(21, []msg{node("Add", []string{"x", "w"}, y)}, table), true},
		"no file":                          {msg{}, false},
		"the same operators twice":         {provable(21, softmax(axis)).sub(8, msg{}.str(1, "ai.onnx").num(2, 21)), true},
		"two versions of operators":        {provable(21, softmax(axis)).sub(8, msg{}.str(1, "ai.onnx").num(2, 12)), false},
		"a damaged graph":                  {msg{}.num(1, 10).sub(8, msg{}.num(2, 21)).sub(7, msg{}.sub(1, msg("\xff"))), false},
	} {
		if proved, reason := RowWise(c.model); proved != c.proved {
			t.Errorf("%s: proved %v (%s)", name, proved, reason)
		}
	}
	many := make([]msg, maxProvedNodes+1)
	for i := range many {
		many[i] = node("Relu", x, []string{fmt.Sprint("n", i)})
	}
	if proved, reason := RowWise(provable(21, append(many, softmax()...))); proved || !strings.Contains(reason, "too large") {
		t.Errorf("a graph of many nodes: %v (%s)", proved, reason)
	}
}

// Whatever bytes come: no panic, and a reason that names nothing of the graph
// but an operator.
func FuzzRowWise(f *testing.F) {
	for _, c := range rowwiseCases(f) {
		f.Add(c.Model)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if proved, reason := RowWise(file); proved != (reason == "") {
			t.Errorf("proved %v, %q", proved, reason)
		}
	})
}
