package models

import "testing"

// TestEndlessDFT: an inverse one-sided transform needs a length, wherever it
// stands; every other transform is welcome.
func TestEndlessDFT(t *testing.T) {
	on := func(name string) msg { return msg{}.str(1, name).num(3, 1) }
	off := func(name string) msg { return msg{}.str(1, name).num(3, 0) }
	taken := func(name string) msg { return msg{}.str(1, name).str(21, "given") }
	short, long := []string{"x"}, []string{"x", "length"}
	tests := []struct {
		name       string
		inputs     []string
		attributes []msg
		want       string
		taken      bool
	}{
		{name: "attributes of a function", inputs: short, attributes: []msg{taken("inverse"), taken("onesided")}, want: "unsupported_operator", taken: true},
		{"inverse and one-sided", short, []msg{on("inverse"), on("onesided")}, "unsupported_operator", false},
		{"in the other order", short, []msg{on("onesided"), on("inverse")}, "unsupported_operator", false},
		{"the length left out before an axis", []string{"x", "", "axis"}, []msg{on("inverse"), on("onesided")}, "unsupported_operator", false},
		{"with a length", long, []msg{on("inverse"), on("onesided")}, "", false},
		{"forward", short, []msg{on("onesided")}, "", false},
		{"forward, in so many words", short, []msg{off("inverse"), on("onesided")}, "", false},
		{"two-sided", short, []msg{on("inverse"), off("onesided")}, "", false},
		{"plain", short, nil, "", false},
	}
	for _, test := range tests {
		dft := node("DFT", test.inputs, []string{"z"}, test.attributes...)
		branch := node("If", []string{"x"}, []string{"z"}, msg{}.str(1, "then_branch").sub(6, msg{}.sub(1, dft)))
		for where, file := range map[string]msg{
			"graph": modelWith(graphWith(add(1, dft))), "branch": modelWith(graphWith(add(1, branch))),
			"function": modelWith(graphWith(), add(25, function("own", "F", dft))),
		} {
			if test.taken && where != "function" {
				continue // refused for that alone
			}
			_, _, err := Verify(file, Limits{})
			if got := codeOf(t, err); got != test.want {
				t.Errorf("%s, in a %s: code %q, want %q (%v)", test.name, where, got, test.want, err)
			}
		}
	}
}

// TestUnevenSplit: num_outputs is the number of outputs.
func TestUnevenSplit(t *testing.T) {
	number := func(n int64) []msg { return []msg{msg{}.str(1, "num_outputs").num(3, n).num(20, 2)} }
	for name, test := range map[string]struct {
		attributes []msg
		want       string
	}{
		"none": {nil, ""}, "as many": {number(2), ""}, "fewer": {number(1), "unsupported_operator"}, "more": {number(3), "unsupported_operator"},
		"negative": {number(-1), "unsupported_operator"}, "zero": {number(0), "unsupported_operator"},
		"a function's": {[]msg{msg{}.str(1, "num_outputs").str(21, "given")}, "unsupported_operator"},
	} {
		split := node("Split", []string{"x"}, []string{"z", "z2"}, test.attributes...)
		file := modelWith(graphWith(), add(25, function("own", "F", split)))
		if name != "a function's" {
			file = modelWith(graphWith(add(1, split)))
		}
		_, _, err := Verify(file, Limits{})
		if got := codeOf(t, err); got != test.want {
			t.Errorf("%s: code %q, want %q (%v)", name, got, test.want, err)
		}
	}
}

// TestUnwrittenScores: what the runtime may leave unwritten is not served.
func TestUnwrittenScores(t *testing.T) {
	word := func(text string) msg { return msg{}.str(1, "post_transform").str(4, text).num(20, 3) }
	for name, test := range map[string]struct {
		attributes []msg
		want       string
	}{
		"none": {nil, ""}, "SOFTMAX": {[]msg{word("SOFTMAX")}, ""}, "PROBIT": {[]msg{word("PROBIT")}, "unsupported_operator"},
		"no word that is known": {[]msg{word("probit")}, "unsupported_operator"}, "no word": {[]msg{msg{}.str(1, "post_transform")}, "unsupported_operator"},
		"a function's": {[]msg{msg{}.str(1, "post_transform").str(21, "given")}, "unsupported_operator"},
	} {
		for _, op := range []string{"LinearClassifier", "TreeEnsembleClassifier"} {
			n := inDomain(node(op, []string{"x"}, []string{"z", "s"}, test.attributes...), "ai.onnx.ml")
			file := modelWith(graphWith(), add(8, msg{}.str(1, "ai.onnx.ml").num(2, 3)), add(25, function("own", "F", n)))
			if name != "a function's" {
				file = modelWith(graphWith(add(1, n)), add(8, msg{}.str(1, "ai.onnx.ml").num(2, 3)))
			}
			_, _, err := Verify(file, Limits{})
			if got := codeOf(t, err); got != test.want {
				t.Errorf("%s, %s: code %q, want %q (%v)", op, name, got, test.want, err)
			}
		}
	}
}

// TestDeclaredEmpty: an empty input that the file itself asks for would end
// the process at the trial.
func TestDeclaredEmpty(t *testing.T) {
	empty := add(11, value("more", tensorOf(1, 0, 4)))
	for op, want := range map[string]string{"GRU": "unsupported_operator", "ConvTranspose": "unsupported_operator", "Abs": ""} {
		_, _, err := Verify(modelWith(graphWith(empty, add(1, node(op, []string{"more"}, []string{"z"})))), Limits{})
		if got := codeOf(t, err); got != want {
			t.Errorf("%s: code %q, want %q (%v)", op, got, want, err)
		}
		if _, _, err := Verify(modelWith(graphWith(add(1, node(op, []string{"x"}, []string{"z"})))), Limits{}); err != nil {
			t.Errorf("%s of something: %v", op, err)
		}
	}
}

// TestComputedScales: how many scales a Resize gets must stand in the file.
func TestComputedScales(t *testing.T) {
	resize := node("Resize", []string{"x", "", "s"}, []string{"z"})
	old := node("Resize", []string{"x", "s"}, []string{"z"})
	upsample := node("Upsample", []string{"x", "s"}, []string{"z"})
	sizes := node("Resize", []string{"x", "", "", "s"}, []string{"z"})
	computed := node("Abs", []string{"x"}, []string{"s"})
	constant := node("Constant", nil, []string{"s"}, msg{}.str(1, "value_ints").num(20, 7))
	given := func(n int64) func(msg) msg { return add(11, value("s", tensorOf(1, n))) }
	weight := add(5, msg{}.num(1, 2).num(2, 1).str(8, "s").sub(9, make(msg, 8)))
	tests := []struct {
		name  string
		graph msg
		want  string
	}{
		{"computed", graphWith(add(1, computed), add(1, resize)), "unsupported_operator"},
		{"computed after it", graphWith(add(1, resize), add(1, computed)), "unsupported_operator"},
		{"in opset 10", graphWith(add(1, computed), add(1, old)), "unsupported_operator"},
		{"Upsample", graphWith(add(1, computed), add(1, upsample)), "unsupported_operator"},
		{"given by callers", graphWith(given(-1), add(1, resize)), "unsupported_operator"},
		{"far too many", graphWith(given(200), add(1, resize)), "unsupported_operator"},
		{"a default", graphWith(given(2), weight, add(1, resize)), "unsupported_operator"},
		{"of a branch", graphWith(add(1, ifNode("b", computed, resize))), "unsupported_operator"},
		{"given by callers, a known number", graphWith(given(2), add(1, resize)), ""},
		{"a weight", graphWith(weight, add(1, resize)), ""},
		{"a constant", graphWith(add(1, constant), add(1, upsample)), ""},
		{"a constant of a branch", graphWith(add(1, ifNode("b", constant, resize))), ""},
		{"sizes", graphWith(add(1, computed), add(1, sizes)), ""},
	}
	for _, test := range tests {
		_, _, err := Verify(modelWith(test.graph), Limits{})
		if got := codeOf(t, err); got != test.want {
			t.Errorf("%s: code %q, want %q (%v)", test.name, got, test.want, err)
		}
	}
	for want, nodes := range map[string][]msg{"": {constant, resize}, "unsupported_operator": {computed, resize}} {
		_, _, err := Verify(modelWith(graphWith(), add(25, function("own", "F", nodes...))), Limits{})
		if got := codeOf(t, err); got != want {
			t.Errorf("in a function: code %q, want %q (%v)", got, want, err)
		}
	}
}
