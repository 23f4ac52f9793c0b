package models

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// TestVerifyReadersDiffer: what the runtime's parser would read otherwise than
// ours is refused, wherever it stands.
func TestVerifyReadersDiffer(t *testing.T) {
	tagged := func(m msg, tag ...byte) msg { return append(slices.Clone(m), tag...) }
	withNode := func(attributes ...msg) msg {
		return modelWith(graphWith(add(1, node("Abs", []string{"x"}, []string{"z"}, attributes...))))
	}
	inFunction := func(attributes ...msg) msg {
		return modelWith(graphWith(), add(25, function("own", "F", node("Abs", []string{"a"}, []string{"b"}, attributes...))))
	}
	good := modelWith(graphWith())
	ref := msg{}.str(1, "axis").str(21, "axis").num(20, 2)
	tests := []struct {
		name string
		file msg
		want string
	}{
		// The bytes of a message.
		{"field 0", tagged(good, 0x02, 0), "not_onnx"},
		{"field beyond 2^29", tagged(good, 0x82, 0x80, 0x80, 0x80, 0x10, 0), "unknown_field"},
		{"field 7 under a tag cut to 32 bits", tagged(good, 0xba, 0x80, 0x80, 0x80, 0x10, 0), "unknown_field"},
		{"tag of six bytes", tagged(msg{}, append([]byte{0x88, 0x80, 0x80, 0x80, 0x80, 0x00, 0x0a}, good[2:]...)...), "not_onnx"},
		{"tag of five bytes", tagged(msg{}, append([]byte{0x88, 0x80, 0x80, 0x80, 0x00, 0x0a}, good[2:]...)...), ""},
		{"length of six bytes", tagged(good, 0x12, 0x81, 0x80, 0x80, 0x80, 0x80, 0x00, 'p'), "not_onnx"},
		{"length of five bytes", tagged(good, 0x12, 0x81, 0x80, 0x80, 0x80, 0x00, 'p'), ""},
		{"number of eleven bytes", tagged(good, append([]byte{0x28}, append(bytes.Repeat([]byte{0x80}, 10), 0)...)...), "not_onnx"},
		{"number of more than 64 bits", tagged(good, append([]byte{0x28}, append(bytes.Repeat([]byte{0x80}, 9), 2)...)...), "not_onnx"},
		{"group", tagged(good, 0x2b, 0x2c), "unknown_field"},
		{"end of a group", tagged(good, 0x2c), "unknown_field"},
		{"wire type 6", tagged(good, 0x2e), "unknown_field"},
		{"second version", tagged(good, 0x08, 0x0a), "not_onnx"},
		{"graph in two parts", modelWith(graphWith(), add(7, msg{}.sub(1, node("Abs", []string{"x"}, []string{"z"})))), "not_onnx"},
		{"graph in two parts, one empty", modelWith(graphWith(), add(7, msg{})), "not_onnx"},
		{"type in two parts", modelWith(graphWith(add(13, msg{}.str(1, "z").sub(2, tensorOf(1, 3)).sub(2, msg{})))), "not_onnx"},
		{"tensor of an attribute in two parts", withNode(msg{}.str(1, "t").sub(5, initializer(1, 1)).sub(5, msg{})), "not_onnx"},
		{"graph of an attribute in two parts", withNode(msg{}.str(1, "g").sub(6, msg{}).sub(6, msg{})), "not_onnx"},
		{"operator twice", modelWith(graphWith(add(1, node("Abs", []string{"x"}, []string{"z"}).str(4, "Neg")))), "not_onnx"},
		{"ONNX Runtime's own format as well", tagged(append(msg{0x12, 0x84, 0x80, 0x00}, "ORTM"...), good...), "not_onnx"},

		// Numbers of 32 bits.
		{"value of a type cut to 1", modelWith(graphWith(add(13, value("z", tensorOf(1<<32|1, 1<<40))))), "not_onnx"},
		{"value of an unknown type", modelWith(graphWith(add(13, value("z", tensorOf(99, 1<<40))))), "unsupported_type"},
		{"key of a map cut to 8", modelWith(graphWith(add(13, value("z", msg{}.sub(5, msg{}.num(1, 1<<32|8).sub(2, tensorOf(1))))))), "not_onnx"},
		{"attribute of a type cut to 2", withNode(msg{}.str(1, "a").num(3, 1).num(20, 1<<32|2)), "not_onnx"},
		{"attribute of a negative type", withNode(msg{}.str(1, "a").num(3, 1).num(20, -1)), "unknown_field"},

		// Attributes.
		{"attribute of another type than it says", withNode(msg{}.str(1, "a").num(3, 1).num(20, 4)), "not_onnx"},
		{"tensor that is said to be a graph", withNode(msg{}.str(1, "a").sub(5, initializer(1, 1)).num(20, 5)), "not_onnx"},
		{"graph without one", withNode(msg{}.str(1, "a").num(20, 5)), "not_onnx"},
		{"tensor without one", withNode(msg{}.str(1, "a").num(20, 4)), "not_onnx"},
		{"number left out", withNode(msg{}.str(1, "a").num(20, 2)), ""},
		{"list left out", withNode(msg{}.str(1, "a").num(20, 7)), ""},
		{"attribute twice", withNode(msg{}.str(1, "a").num(3, 1), msg{}.str(1, "a").num(3, 2)), "duplicate_name"},
		{"attribute twice, others between", withNode(msg{}.str(1, "a").num(3, 1), msg{}.str(1, "b").num(3, 1), msg{}.str(1, "a").num(3, 2)), "duplicate_name"},
		{"too many attributes", withNode(slices.Repeat([]msg{{}}, maxAttributes+1)...), "too_many_nodes"},
		{"attribute of a call outside of functions", withNode(ref), "not_onnx"},
		{"attribute of a call in a branch", modelWith(graphWith(add(1, ifNode("z", node("Abs", nil, []string{"r"}, ref))))), "not_onnx"},
		{"attribute of a call in a function", inFunction(ref), ""},
		{"attribute of a call in a branch of a function", modelWith(graphWith(), add(25, function("own", "F", ifNode("b", node("Abs", nil, []string{"r"}, ref))))), ""},
		{"attribute of a call with a value", inFunction(ref.num(3, 1)), "not_onnx"},

		// Fields of newer versions, which are welcome where they mean nothing to us.
		{"metadata of everything", modelWith(graphWith(add(16, msg{}.str(1, "k").str(2, "v")),
			add(1, node("Abs", []string{"x"}, []string{"z"}).sub(9, msg{}.str(1, "k"))), add(13, value("z", tensorOf(1, 3)).sub(4, msg{}.str(1, "k"))),
			add(5, initializer(1, 1).sub(16, msg{}.str(1, "k")))), add(25, function("own", "F").sub(14, msg{}.str(1, "k")))), ""},
		{"annotation", modelWith(graphWith(add(14, msg{}.str(1, "x").sub(2, msg{}.str(1, "SCALE_TENSOR").str(2, "w"))))), ""},
		{"annotation with more", modelWith(graphWith(add(14, msg{}.str(1, "x").sub(2, msg{}.num(3, 1))))), "unknown_field"},
		{"overloads of a function", modelWith(graphWith(add(1, inDomain(node("F", []string{"x"}, []string{"z"}), "own").str(8, "b"))),
			add(25, function("own", "F").str(13, "a"), function("own", "F").str(13, "b"))), ""},
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

// TestVerifyCalls: what a function holds counts at each of its calls.
func TestVerifyCalls(t *testing.T) {
	calls := func(n int) func(msg) msg {
		return func(g msg) msg {
			for i := range n {
				g = g.sub(1, inDomain(node("F", []string{"x"}, []string{fmt.Sprint("z", i)}), "own"))
			}
			return g
		}
	}
	holding := func(attribute msg) func(msg) msg {
		return add(25, function("own", "F", node("Constant", nil, []string{"b"}, attribute)))
	}
	weight := holding(msg{}.str(1, "value").sub(5, initializer(1<<18, 1<<18)).num(20, 4)) // 1 MiB
	dense := holding(msg{}.str(1, "sparse_value").sub(22, msg{}.sub(1, initializer(1, 1)).sub(2, msg{}.num(1, 1).num(2, 7).sub(9, make(msg, 8))).num(3, 1<<25)).num(20, 11))
	words := holding(msg{}.str(1, "value_strings").sub(9, slices.Repeat([]msg{{}}, 1000)...).num(20, 8))
	for _, test := range []struct {
		name   string
		calls  int
		what   func(msg) msg
		limits Limits
		want   string
	}{
		{"a weight, few times", 7, weight, Limits{Size: 8 << 20}, ""},
		{"a weight, too often", 9, weight, Limits{Size: 8 << 20}, "too_large"},
		{"a sparse tensor, few times", 8, dense, Limits{}, ""},
		{"a sparse tensor, too often", 9, dense, Limits{}, "too_large"},
		{"strings, few times", 7, words, Limits{Parts: 10_000}, ""},
		{"strings, too often", 10, words, Limits{Parts: 10_000}, "too_many_nodes"},
	} {
		_, _, err := Verify(modelWith(graphWith(calls(test.calls)), test.what), test.limits)
		if got := codeOf(t, err); got != test.want {
			t.Errorf("%s: code %q, want %q (%v)", test.name, got, test.want, err)
		}
	}
}

// shapes are files that grow with n, each in a way that could cost more than
// its length, and are read to their end.
var shapes = map[string]func(n int) msg{
	"attributes": func(n int) msg {
		g := graphWith()
		for i := range n / 100 {
			var attributes []msg
			for j := range 100 {
				attributes = append(attributes, msg{}.str(1, fmt.Sprint("a", j)))
			}
			g = g.sub(1, node("Abs", nil, []string{fmt.Sprint("z", i)}, attributes...))
		}
		return modelWith(g)
	},
	"inputs of a Resize": func(n int) msg {
		return modelWith(graphWith(add(1, node("Resize", slices.Repeat([]string{""}, n), []string{"z"}))))
	},
	"outputs": func(n int) msg {
		return modelWith(graphWith(add(1, append(node("Split", nil, nil), manyNames(n)...))))
	},
	"graphs": func(n int) msg {
		return modelWith(graphWith(add(1, node("Abs", nil, []string{"z"}, slices.Repeat(msg{}.sub(11, msg{}), n)))))
	},
	"scales in graphs": func(n int) msg {
		body := msg{}.sub(1, node("Constant", nil, []string{"s"}), node("Resize", []string{"q", "", "s"}, []string{"r"}))
		return modelWith(graphWith(add(1, node("Abs", nil, []string{"z"}, slices.Repeat(msg{}.sub(11, body), n/8)))))
	},
	"strings": func(n int) msg {
		return modelWith(graphWith(add(1, node("Constant", nil, []string{"z"}, slices.Repeat(msg{}.sub(9, msg{}), n)))))
	},
	"numbers": func(n int) msg {
		return modelWith(graphWith(add(1, node("Constant", nil, []string{"z"}, msg{}.packed(8, make([]int64, n)...)))))
	},
	"types": func(n int) msg {
		return modelWith(append(graphWith(), slices.Repeat(msg{}.sub(13, value("v", deepType(maxTypeDepth/2))), n/10)...))
	},
	"sparse tensors": func(n int) msg {
		one := msg{}.sub(1, initializer(1, 1)).num(3, 1)
		return modelWith(graphWith(add(1, node("Abs", nil, []string{"z"}, slices.Repeat(msg{}.sub(23, one), n/10)))))
	},
	"functions that call one another": func(n int) msg {
		m := modelWith(graphWith())
		for i := range min(n/10, maxFunctions) {
			var nodes []msg
			for j := range min(i, 10) {
				nodes = append(nodes, inDomain(node(fmt.Sprint("f", j), nil, []string{fmt.Sprint("o", j)}), "own"))
			}
			m = m.sub(25, function("own", fmt.Sprint("f", i), nodes...))
		}
		return m
	},
	"long names": func(n int) msg {
		return modelWith(graphWith(add(1, node("Abs", []string{strings.Repeat("i", n)}, []string{strings.Repeat("o", n)}))))
	},
	"imports": func(n int) msg {
		return append(modelWith(graphWith()), slices.Repeat(msg{}.sub(8, msg{}.str(1, "ai.onnx").num(2, 21)), n)...)
	},
}

// TestVerifyLinear: eight times the file take about eight times the work, in
// memory counted exactly and in time with a wide margin.
func TestVerifyLinear(t *testing.T) {
	const n = 20_000
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			small, large := verifyCost(t, shape(n)), verifyCost(t, shape(8*n))
			if most := 12*small.allocated + 64<<10; large.allocated > most {
				t.Errorf("%d bytes allocated, and %d for eight times the file", small.allocated, large.allocated)
			}
			// A quadratic check takes 64 times as long.
			if most := 32*small.time + 50*time.Millisecond; large.time > most {
				t.Errorf("%v, and %v for eight times the file", small.time, large.time)
			}
			if most := 64*uint64(large.size) + 64<<10; large.allocated > most {
				t.Errorf("%d bytes allocated for a file of %d", large.allocated, large.size)
			}
		})
	}
}

type work struct {
	size      int
	allocated uint64
	time      time.Duration // the shortest of several
}

func verifyCost(t *testing.T, file msg) work {
	t.Helper()
	w := work{size: len(file), time: time.Hour}
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, _, err := Verify(file, Limits{})
		w.time = min(w.time, time.Since(start))
		runtime.ReadMemStats(&after)
		w.allocated = after.TotalAlloc - before.TotalAlloc
		if code := codeOf(t, err); code != "" {
			t.Fatalf("refused as %s (%v), so that it was not read to its end", code, err)
		}
	}
	return w
}

// TestVerifyHostileLengths: a length or count that the file only claims is
// never allocated.
func TestVerifyHostileLengths(t *testing.T) {
	claim := func(field protowire.Number, n uint64) msg {
		return protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.BytesType), n)
	}
	for _, n := range []uint64{1 << 20, 1<<31 - 1, 1 << 31, 1 << 32, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		for name, file := range map[string]msg{
			"graph":      append(msg{}.num(1, 10), claim(7, n)...),
			"node":       modelWith(append(graphWith(), claim(1, n)...)),
			"tensor":     modelWith(append(graphWith(), claim(5, n)...)),
			"raw data":   modelWith(graphWith(add(5, append(msg{}.num(1, 1).num(2, 1), claim(9, n)...)))),
			"dimensions": modelWith(graphWith(add(5, append(msg{}.num(2, 1), claim(1, n)...)))),
			"dimension":  modelWith(graphWith(add(5, msg{}.num(1, int64(n)).num(2, 1)))),
			"shape":      modelWith(graphWith(add(11, value("x2", tensorOf(1, 1, int64(n&(1<<63-1))))))),
			"integers":   modelWith(graphWith(add(1, node("Abs", nil, []string{"z"}, claim(8, n))))),
			"function":   append(modelWith(graphWith()), claim(25, n)...),
		} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _, err := Verify(file, Limits{})
			runtime.ReadMemStats(&after)
			fits := name == "shape" && (n == 1<<20 || n == 1<<63) // the latter is 0 without its highest bit
			if passed := codeOf(t, err) == ""; passed != fits {
				t.Errorf("%s of %d: %v", name, n, err)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 256<<10 {
				t.Errorf("%s of %d: %d bytes allocated for a file of %d", name, n, grown, len(file))
			}
		}
	}
}
