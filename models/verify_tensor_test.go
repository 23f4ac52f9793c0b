package models

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// TestVerifyTensors checks shapes against data, for every way to write them.
func TestVerifyTensors(t *testing.T) {
	of := func(elem int64, more func(msg) msg, sizes ...int64) msg {
		return more(msg{}.packed(1, sizes...).num(2, elem).str(8, "w"))
	}
	raw := func(n int) func(msg) msg { return func(m msg) msg { return m.sub(9, make(msg, n)) } }
	ints := func(field protowire.Number, n int) func(msg) msg {
		return func(m msg) msg { return m.packed(field, make([]int64, n)...) }
	}
	fixed := func(field protowire.Number, bytes int) func(msg) msg {
		return func(m msg) msg { return m.sub(field, make(msg, bytes)) }
	}
	none := func(m msg) msg { return m }
	tests := []struct {
		name   string
		tensor msg
		want   string
	}{
		{"raw", of(1, raw(24), 2, 3), ""},
		{"raw, a byte short", of(1, raw(23), 2, 3), "bad_tensor"},
		{"raw, a byte too long", of(1, raw(25), 2, 3), "bad_tensor"},
		{"rank 0", of(11, raw(8)), ""},
		{"floats", of(1, fixed(4, 24), 2, 3), ""},
		{"floats missing", of(1, none, 2, 3), "bad_tensor"},
		{"floats one short", of(1, fixed(4, 20), 2, 3), "bad_tensor"},
		{"floats of broken length", of(1, fixed(4, 23), 2, 3), "not_onnx"},
		{"floats in the wrong field", of(1, ints(5, 6), 2, 3), "bad_tensor"},
		{"floats in two places", of(1, func(m msg) msg { return raw(24)(fixed(4, 24)(m)) }, 2, 3), "bad_tensor"},
		{"floats and some integers", of(1, func(m msg) msg { return ints(5, 1)(fixed(4, 24)(m)) }, 2, 3), "bad_tensor"},
		{"doubles", of(11, fixed(10, 16), 2), ""},
		{"complex doubles", of(15, fixed(10, 32), 2), ""},
		{"complex floats", of(14, fixed(4, 16), 2), ""},
		{"complex floats, real parts only", of(14, fixed(4, 8), 2), "bad_tensor"},
		{"int64", of(7, ints(7, 3), 3), ""},
		{"int64 in the field of int32", of(7, ints(5, 3), 3), "bad_tensor"},
		{"int8 in the field of int32", of(3, ints(5, 3), 3), ""},
		{"bool", of(9, ints(5, 3), 3), ""},
		{"float16", of(10, ints(5, 3), 3), ""},
		{"bfloat16, raw", of(16, raw(6), 3), ""},
		{"float8", of(17, raw(3), 3), ""},
		{"uint64", of(13, ints(11, 3), 3), ""},
		{"int4, three in two bytes", of(22, raw(2), 3), ""},
		{"int4, three in three bytes", of(22, raw(3), 3), "bad_tensor"},
		{"int4 in the field of int32", of(22, ints(5, 2), 3), ""},
		{"int2, five in two bytes", of(26, raw(2), 5), ""},
		{"strings", of(8, func(m msg) msg { return m.str(6, "a").str(6, "").str(6, "\xff") }, 3), ""},
		{"strings one short", of(8, func(m msg) msg { return m.str(6, "a") }, 2), "bad_tensor"},
		{"strings as raw", of(8, raw(3), 3), "bad_tensor"},
		{"no elements", of(1, none, 0), ""},
		{"no elements, but data", of(1, raw(4), 0), "bad_tensor"},
		{"no elements of an absurd number", of(1, none, 0, 1<<40), ""},
		{"overflow behind a zero", of(1, none, 1<<40, 1<<40, 0), "size_overflow"},
		{"overflow in elements", of(1, raw(20), 5, 1<<62), "size_overflow"},
		{"overflow in bytes", of(15, none, 1<<60), "size_overflow"},
		{"absurd, without data", of(1, none, 1<<40), "too_large"},
		{"absurd strings, without data", of(8, none, 1<<40), "too_large"},
		{"negative", of(1, none, -1), "bad_tensor"},
		{"smallest number as a dimension", of(1, none, math.MinInt64), "bad_tensor"},
		{"rank too high", of(1, raw(4), slices.Repeat([]int64{1}, maxRank+1)...), "bad_tensor"},
		{"no type", of(0, none), "unsupported_type"},
		{"unknown type", of(99, none), "unsupported_type"},
		{"type beyond 32 bits", of(1<<32|1, raw(4)), "not_onnx"},
		{"floats, and raw data that are empty", of(1, func(m msg) msg { return raw(0)(fixed(4, 24)(m)) }, 2, 3), "bad_tensor"},
		{"raw data that are empty", of(1, raw(0), 3), "bad_tensor"},
		{"no elements, in raw data", of(1, raw(0), 0), ""},
		{"int32 beyond 32 bits", of(6, func(m msg) msg { return m.packed(5, 1, 1<<32|1, 1) }, 3), "not_onnx"},
		{"int32 beyond 32 bits, not packed", of(6, func(m msg) msg { return m.num(5, 1<<31) }, 1), "not_onnx"},
		{"negative int32", of(6, func(m msg) msg { return m.num(5, -1).packed(5, math.MinInt32) }, 2), ""},
		{"data twice", of(1, func(m msg) msg { return raw(4)(raw(4)(m)) }), "not_onnx"},
		{"segment", of(1, func(m msg) msg { return raw(4)(m).sub(3, msg{}.num(1, 0).num(2, 1)) }), "bad_tensor"},
		{"data at the default place", of(1, func(m msg) msg { return raw(4)(m).num(14, 0) }), ""},
		{"data elsewhere", of(1, func(m msg) msg { return raw(4)(m).num(14, 1) }), "external_data"},
		{"data at an unknown place", of(1, func(m msg) msg { return raw(4)(m).num(14, 2) }), "unknown_field"},
		{"an entry of external data, empty", of(1, func(m msg) msg { return raw(4)(m).sub(13, msg{}) }), "external_data"},
		{"unknown field", of(1, func(m msg) msg { return raw(4)(m).num(15, 1) }), "unknown_field"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			places := map[string]msg{
				"initializer": modelWith(graphWith(add(5, test.tensor))),
				"attribute":   modelWith(graphWith(add(1, node("Constant", nil, []string{"c"}, msg{}.str(1, "value").sub(5, test.tensor))))),
				"list":        modelWith(graphWith(add(1, node("Constant", nil, []string{"c"}, msg{}.str(1, "value").sub(10, test.tensor))))),
				"branch":      modelWith(graphWith(add(1, ifNode("z", node("Constant", nil, []string{"r"}, msg{}.sub(5, test.tensor)))))),
				"function":    modelWith(graphWith(), add(25, function("own", "F", node("Constant", nil, []string{"b"}, msg{}.sub(5, test.tensor))))),
				"default":     modelWith(graphWith(), add(25, function("own", "F", node("Abs", nil, []string{"b"})).sub(11, msg{}.str(1, "a").sub(5, test.tensor)))),
			}
			for place, file := range places {
				_, _, err := Verify(file, Limits{})
				if got := codeOf(t, err); got != test.want {
					t.Errorf("%s: code %q, want %q (%v)", place, got, test.want, err)
				}
			}
		})
	}
}

func TestVerifySparse(t *testing.T) {
	values := func(n int) msg { return initializer(n, int64(n)) }
	indices := func(sizes ...int64) msg {
		n := int64(8)
		for _, s := range sizes {
			n *= s
		}
		return msg{}.packed(1, sizes...).num(2, 7).sub(9, make(msg, n))
	}
	tests := []struct {
		name   string
		sparse msg
		want   string
	}{
		{"good", msg{}.sub(1, values(2)).sub(2, indices(2)).packed(3, 4, 4), ""},
		{"good, by coordinates", msg{}.sub(1, values(2)).sub(2, indices(2, 2)).packed(3, 4, 4), ""},
		{"written out it is a bomb", msg{}.sub(1, values(1)).sub(2, indices(1)).packed(3, 1<<20, 1<<20), "too_large"},
		{"overflow", msg{}.sub(1, values(1)).sub(2, indices(1)).packed(3, 1<<40, 1<<40), "size_overflow"},
		{"negative", msg{}.sub(1, values(1)).sub(2, indices(1)).packed(3, -4), "bad_tensor"},
		{"more values than room", msg{}.sub(1, values(3)).sub(2, indices(3)).packed(3, 2), "bad_tensor"},
		{"no values", msg{}.sub(2, indices(1)).packed(3, 2), "bad_tensor"},
		{"no shape", msg{}.sub(1, values(1)).sub(2, indices(1)), "bad_tensor"},
		{"values in a matrix", msg{}.sub(1, initializer(4, 2, 2)).sub(2, indices(4)).packed(3, 4), "bad_tensor"},
		{"indices that are floats", msg{}.sub(1, values(2)).sub(2, values(2)).packed(3, 4), "bad_tensor"},
		{"indices outside", msg{}.sub(1, values(1)).sub(2, indices(1).num(14, 1)).packed(3, 4), "external_data"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for place, file := range map[string]msg{
				"initializer": modelWith(graphWith(add(15, test.sparse))),
				"attribute":   modelWith(graphWith(add(1, node("Constant", nil, []string{"c"}, msg{}.sub(22, test.sparse))))),
				"list":        modelWith(graphWith(add(1, node("Constant", nil, []string{"c"}, msg{}.sub(23, test.sparse))))),
			} {
				_, _, err := Verify(file, Limits{})
				if got := codeOf(t, err); got != test.want {
					t.Errorf("%s: code %q, want %q (%v)", place, got, test.want, err)
				}
			}
		})
	}
	// One bomb in parts.
	part := msg{}.sub(1, initializer(1, 1)).sub(2, msg{}.packed(1, 1).num(2, 7).sub(9, make(msg, 8))).packed(3, 1<<26)
	parts := msg{}
	for i := range 5 {
		parts = parts.sub(1, node("Constant", nil, []string{fmt.Sprint("c", i)}, msg{}.sub(22, part)))
	}
	_, _, err := Verify(modelWith(append(graphWith(), parts...)), Limits{})
	if got := codeOf(t, err); got != "too_large" {
		t.Errorf("five sparse tensors of 256 MiB: code %q", got)
	}
}

// TestVerifyFunctions follows calls: what they cost counts at each call.
func TestVerifyFunctions(t *testing.T) {
	call := func(name, out string) msg { return inDomain(node(name, []string{"a"}, []string{out}), "own") }
	leaf := function("own", "f0", node("Abs", []string{"a"}, []string{"b"}))
	// tower makes f1..fn, each of which calls the one below width times.
	tower := func(n, width int, wrap func(msg, string) msg) func(msg) msg {
		return func(m msg) msg {
			m = m.sub(25, leaf)
			for i := 1; i <= n; i++ {
				var nodes []msg
				for j := range width {
					out := fmt.Sprint("o", j)
					nodes = append(nodes, wrap(call(fmt.Sprint("f", i-1), out), fmt.Sprint("w", j)))
				}
				m = m.sub(25, function("own", fmt.Sprint("f", i), nodes...))
			}
			return m
		}
	}
	plain := func(n msg, _ string) msg { return n }
	inBranch := func(n msg, out string) msg { return ifNode(out, n) }
	main := func(top int) msg { return graphWith(add(1, call(fmt.Sprint("f", top), "z"))) }
	tests := []struct {
		name string
		file msg
		want string
	}{
		{"called", modelWith(main(1), tower(1, 1, plain)), ""},
		{"doubled ten times", modelWith(main(10), tower(10, 2, plain)), ""},
		{"doubled forty times", modelWith(main(40), tower(40, 2, plain)), "too_many_nodes"},
		{"long chain", modelWith(main(maxChain+1), tower(maxChain+1, 1, plain)), "nesting"},
		{"branches of branches through calls", modelWith(main(17), tower(17, 1, inBranch)), "nesting"},
		{"fewer branches through calls", modelWith(main(16), tower(16, 1, inBranch)), ""},
		{"not defined", modelWith(graphWith(add(1, call("g", "z"))), add(25, leaf)), "unsupported_operator"},
		{"other overload", modelWith(graphWith(add(1, call("f0", "z").str(8, "v2"))), add(25, leaf)), "unsupported_operator"},
		{"not called, and recursive", modelWith(graphWith(), add(25, function("own", "f", call("f", "b")))), "recursive_function"},
		{"not called, and calling what is not there", modelWith(graphWith(), add(25, function("own", "f", call("g", "b")))), "unsupported_operator"},
		{"called with an input more than it has", modelWith(graphWith(add(1, call("f0", "z").str(1, "x"))), add(25, leaf)), "unsupported_operator"},
		{"called with an output more than it has", modelWith(graphWith(add(1, call("f0", "z").str(2, "z2"))), add(25, leaf)), "unsupported_operator"},
		{"called with fewer inputs than it has", modelWith(graphWith(add(1, inDomain(node("f0", nil, []string{"z"}), "own"))), add(25, leaf)), ""},
		{"a colon in a name", modelWith(graphWith(), add(25, function("own", "f:g"))), "bad_name"},
		{"a colon in a domain", modelWith(graphWith(), add(25, function("own:f", "g"))), "bad_name"},
		{"a colon in an overload", modelWith(graphWith(), add(25, function("own", "f").str(13, "g:h"))), "bad_name"},
		{"a call by a name with a colon", modelWith(graphWith(add(1, call("f0:v2", "z"))), add(25, leaf.str(13, "v2"))), "unsupported_operator"},
		{"defined twice", modelWith(graphWith(), add(25, leaf, leaf)), "duplicate_name"},
		{"without a name", modelWith(graphWith(), add(25, function("own", ""))), "unsupported_operator"},
		{"in ONNX's domain", modelWith(graphWith(), add(25, function("", "Relu"))), "unsupported_domain"},
		{"in ONNX's other domain", modelWith(graphWith(), add(25, function("ai.onnx.ml", "Own"))), "unsupported_domain"},
		{"in the runtime's domain", modelWith(graphWith(), add(25, function("com.microsoft", "Own"))), "unsupported_domain"},
		{"in a domain of the runtime's", modelWith(graphWith(), add(25, function("com.microsoft.nchwc", "Own"))), "unsupported_domain"},
		{"unknown operator inside", modelWith(graphWith(), add(25, function("own", "f", node("Nope", nil, []string{"b"})))), "unsupported_operator"},
		{"value made twice inside", modelWith(graphWith(), add(25, function("own", "f", node("Abs", nil, []string{"b"}), node("Abs", nil, []string{"b"})))), "duplicate_name"},
		{"unknown field", modelWith(graphWith(), add(25, leaf.num(3, 1))), "unknown_field"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := Verify(test.file, Limits{})
			if got := codeOf(t, err); got != test.want {
				t.Errorf("code %q, want %q (%v)", got, test.want, err)
			}
		})
	}
}
