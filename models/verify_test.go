package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

const samples = "../testdata"

// runtimeCodes of the manifest are found by loading and running, not by
// looking.
var runtimeCodes = []string{"load_failed", "load_timeout", "run_failed", "run_timeout"}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// codeOf returns the code of a refusal, "" for none; any other error fails
// the test.
func codeOf(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var r *Rejected
	if !errors.As(err, &r) {
		t.Fatalf("the check failed with %T (%v), which is no *Rejected", err, err)
	}
	if r.Detail == "" || !utf8.ValidString(r.Detail) || strings.ContainsFunc(r.Detail, func(c rune) bool { return c < ' ' || c > '~' }) {
		t.Errorf("detail %q is not fit to be shown", r.Detail)
	}
	reached.add(r)
	return r.Code
}

// TestVerifyHostile holds the check to the manifest of hostile files.
func TestVerifyHostile(t *testing.T) {
	var manifest []struct {
		File   string
		Reject bool
		Code   string
		Why    string
	}
	if err := json.Unmarshal(readFile(t, filepath.Join(samples, "hostile", "manifest.json")), &manifest); err != nil {
		t.Fatal(err)
	}
	listed, rules := []string{}, map[string]bool{}
	for _, entry := range manifest {
		listed, rules[entry.Code] = append(listed, entry.File), true
	}
	paths, err := filepath.Glob(filepath.Join(samples, "hostile", "*.onnx"))
	if err != nil || len(paths) != len(listed) {
		t.Errorf("%d files, of which the manifest lists %d (%v)", len(paths), len(listed), err)
	}
	for _, code := range codesOf(t, "verify*.go", "wire.go") {
		if !rules[code] {
			t.Errorf("no file breaks the rule %s", code)
		}
	}
	for _, entry := range manifest {
		t.Run(entry.File, func(t *testing.T) {
			want := entry.Code
			if slices.Contains(runtimeCodes, want) {
				want = ""
			}
			_, _, err := Verify(readFile(t, filepath.Join(samples, "hostile", entry.File)), Limits{})
			if got := codeOf(t, err); got != want {
				t.Errorf("%s: code %q, want %q (%v)", entry.Why, got, want, err)
			}
		})
	}
}

// TestVerifySamples passes every real model, with what it is known to hold.
func TestVerifySamples(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(samples, "*.onnx"))
	if err != nil || len(paths) < 10 {
		t.Fatalf("found %d sample models (%v)", len(paths), err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".onnx")
		want := ""
		if name == "external" {
			want = "external_data"
		}
		_, facts, err := Verify(readFile(t, path), Limits{})
		if got := codeOf(t, err); got != want {
			t.Errorf("%s: code %q, want %q (%v)", name, got, want, err)
		}
		if err == nil && (facts.Nodes < 1 || len(facts.Operators) < 1 || facts.Opset < 1) {
			t.Errorf("%s: facts %+v", name, facts)
		}
	}
	g, facts, err := Verify(readFile(t, filepath.Join(samples, "iris.onnx")), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	wantGraph := Graph{
		Inputs: []GraphValue{{Name: "X", Type: Float32, Shape: []int64{-1, 4}}},
		Outputs: []GraphValue{{Name: "label", Type: Int64, Shape: []int64{-1}},
			{Name: "probabilities", Kind: KindMaps, Type: Float32, Key: Int64}},
	}
	g.Outputs[1].Shape = nil
	if !reflect.DeepEqual(g, wantGraph) {
		t.Errorf("iris: graph %+v, want %+v", g, wantGraph)
	}
	if want := []string{"Cast", "TreeEnsembleClassifier", "ZipMap"}; !slices.Equal(facts.Operators, want) || facts.Nodes != 3 {
		t.Errorf("iris: facts %+v", facts)
	}
	g, facts, err = Verify(readFile(t, filepath.Join(samples, "defaults.onnx")), Limits{})
	if err != nil || len(g.Inputs) != 1 || g.Inputs[0].Name != "x" || facts.Parameters != 2 {
		t.Errorf("defaults: inputs %+v, parameters %d (%v); an input with an initializer is none", g.Inputs, facts.Parameters, err)
	}
}

// TestVerifyRules breaks one rule at a time in a model that is otherwise good,
// beside what looks alike and is welcome.
func TestVerifyRules(t *testing.T) {
	long := strings.Repeat("n", maxName+1)
	w := func(m msg) func(msg) msg { return add(5, m) } // an initializer
	scalarType := tensorOf(1)
	stringType := msg{}.sub(1, msg{}.num(1, 8))
	tests := []struct {
		name   string
		file   msg
		limits Limits
		want   string
	}{
		{"good", modelWith(graphWith()), Limits{}, ""},
		{"no graph", msg{}.num(1, 10).sub(8, msg{}.num(2, 21)), Limits{}, "not_onnx"},
		{"no version of the format", msg{}.sub(7, graphWith()).sub(8, msg{}.num(2, 21)), Limits{}, "unsupported_version"},
		{"version of the format too new", msg{}.num(1, 1000).sub(7, graphWith()).sub(8, msg{}.num(2, 21)), Limits{}, "unsupported_version"},
		{"version of the format too old", msg{}.num(1, 1).sub(7, graphWith()).sub(8, msg{}.num(2, 21)), Limits{}, "unsupported_version"},
		{"no opset", msg{}.num(1, 10).sub(7, graphWith()), Limits{}, "unsupported_version"},
		{"opset too new", msg{}.num(1, 10).sub(7, graphWith()).sub(8, msg{}.num(2, 1000)), Limits{}, "unsupported_version"},
		{"opset zero", msg{}.num(1, 10).sub(7, graphWith()).sub(8, msg{}.num(2, 0)), Limits{}, "unsupported_version"},
		{"opset of a domain that nothing uses", modelWith(graphWith(), add(8, msg{}.str(1, "com.microsoft").num(2, 1))), Limits{}, ""},
		{"field twice", modelWith(graphWith(), add(7, graphWith())), Limits{}, "not_onnx"},
		{"group", append(modelWith(graphWith()), protowire.AppendTag(nil, 5, protowire.StartGroupType)...), Limits{}, "unknown_field"},
		{"wrong wire type", modelWith(graphWith(), func(m msg) msg { return m.num(2, 1) }), Limits{}, "unknown_field"},
		{"length beyond its message", modelWith(append(graphWith(), 0x0a, 0x20, 1)), Limits{}, "not_onnx"},
		{"metadata", modelWith(graphWith(), add(14, msg{}.str(1, "k").str(2, "v"))), Limits{}, ""},
		{"metadata with more", modelWith(graphWith(), add(14, msg{}.str(1, "k").str(3, "v"))), Limits{}, "unknown_field"},
		{"devices", modelWith(graphWith(), add(26, msg{}.str(1, "d"))), Limits{}, "unknown_field"},
		{"devices of a node", modelWith(graphWith(add(1, relu().sub(10, msg{})))), Limits{}, "duplicate_name"},
		{"devices of a node alone", modelWith(msg{}.sub(1, relu().sub(10, msg{})).sub(11, value("x", tensorOf(1, 3))).sub(12, value("y", tensorOf(1, 3)))), Limits{}, "unknown_field"},
		{"file above the limit", modelWith(graphWith()), Limits{Size: 50}, "too_large"},

		{"node without operator", modelWith(graphWith(add(1, msg{}.str(2, "z")))), Limits{}, "not_onnx"},
		{"ai.onnx by its long name", modelWith(graphWith(add(1, inDomain(node("Abs", []string{"x"}, []string{"z"}), "ai.onnx")))), Limits{}, ""},
		{"operator of the other domain", modelWith(graphWith(add(1, inDomain(node("Abs", nil, []string{"z"}), "ai.onnx.ml")))), Limits{}, "unsupported_operator"},
		{"training operator", modelWith(graphWith(add(1, inDomain(node("Adam", nil, []string{"z"}), "ai.onnx.preview.training")))), Limits{}, "unsupported_domain"},
		{"contributed operator", modelWith(graphWith(add(1, inDomain(node("FusedMatMul", nil, []string{"z"}), "com.microsoft")))), Limits{}, "unsupported_domain"},
		{"compiled program in the standard domain", modelWith(graphWith(add(1, node("EPContext", nil, []string{"z"})))), Limits{}, "unsupported_domain"},
		{"compiled program as a function", modelWith(graphWith(add(1, inDomain(node("EPContext", nil, []string{"z"}), "own"))),
			add(25, function("own", "EPContext", node("Abs", []string{"a"}, []string{"b"})))), Limits{}, "unsupported_domain"},
		{"domain of unreasonable length", modelWith(graphWith(add(1, inDomain(node("Abs", nil, []string{"z"}), long)))), Limits{}, "unsupported_operator"},
		{"too many nodes", modelWith(graphWith()), Limits{Nodes: 1}, ""},
		{"too many nodes by one", modelWith(graphWith(add(1, node("Abs", nil, []string{"z"})))), Limits{Nodes: 1}, "too_many_nodes"},
		{"too many names", modelWith(graphWith()), Limits{Values: 2}, "too_many_nodes"},
		{"too many inputs", modelWith(graphWith(add(11, value("x2", tensorOf(1, 1))))), Limits{Ports: 1}, "too_large"},

		{"value made twice", modelWith(graphWith(add(1, relu()))), Limits{}, "duplicate_name"},
		{"input twice", modelWith(graphWith(add(11, value("x", tensorOf(1, 3))))), Limits{}, "duplicate_name"},
		{"node makes an input", modelWith(graphWith(add(1, node("Abs", nil, []string{"x"})))), Limits{}, "duplicate_name"},
		{"node makes an initializer", modelWith(graphWith(w(initializer(1, 1)), add(1, node("Abs", nil, []string{"w"})))), Limits{}, "duplicate_name"},
		{"initializer twice", modelWith(graphWith(w(initializer(1, 1)), w(initializer(1, 1)))), Limits{}, "duplicate_name"},
		{"two outputs left out", modelWith(graphWith(add(1, node("Dropout", []string{"x"}, []string{"z", ""}), node("Dropout", []string{"x"}, []string{"z2", ""})))), Limits{}, ""},
		{"the same name in a branch", modelWith(graphWith(add(1, ifNode("z", relu())))), Limits{}, ""},

		{"input without a name", modelWith(graphWith(add(11, value("", tensorOf(1, 3))))), Limits{}, "bad_name"},
		{"input name with a NUL", modelWith(graphWith(add(11, value("x\x00y", tensorOf(1, 3))))), Limits{}, "bad_name"},
		{"output name that is no UTF-8", modelWith(graphWith(add(12, value("\xff", tensorOf(1, 3))))), Limits{}, "bad_name"},
		{"output name too long", modelWith(graphWith(add(12, value(long, tensorOf(1, 3))))), Limits{}, "bad_name"},

		{"input of no known rank", modelWith(graphWith(add(11, value("x2", msg{}.sub(1, msg{}.num(1, 1)))))), Limits{}, "unsupported_type"},
		{"input without a type", modelWith(graphWith(add(11, msg{}.str(1, "x2")))), Limits{}, "unsupported_type"},
		{"input that is a sequence", modelWith(graphWith(add(11, value("x2", msg{}.sub(4, msg{}.sub(1, tensorOf(1, 3))))))), Limits{}, "unsupported_type"},
		{"input that is optional", modelWith(graphWith(add(11, value("x2", msg{}.sub(9, msg{}.sub(1, tensorOf(1, 3))))))), Limits{}, "unsupported_type"},
		{"input of complex numbers", modelWith(graphWith(add(11, value("x2", tensorOf(14, 3))))), Limits{}, "unsupported_type"},
		{"input of 4-bit numbers", modelWith(graphWith(add(11, value("x2", tensorOf(22, 3))))), Limits{}, "unsupported_type"},
		{"input of a type nobody knows", modelWith(graphWith(add(11, value("x2", tensorOf(99, 3))))), Limits{}, "unsupported_type"},
		{"input of rank 0 and of strings", modelWith(graphWith(add(11, value("x2", tensorOf(8))))), Limits{}, ""},
		{"output without a type", modelWith(graphWith(add(12, msg{}.str(1, "z")))), Limits{}, ""},
		{"output of any rank", modelWith(graphWith(add(12, value("z", msg{}.sub(1, msg{}.num(1, 1)))))), Limits{}, ""},
		{"output that is optional", modelWith(graphWith(add(12, value("z", msg{}.sub(9, msg{}.sub(1, tensorOf(1, 3))))))), Limits{}, "unsupported_type"},
		{"output of sequences of sequences", modelWith(graphWith(add(12, value("z", msg{}.sub(4, msg{}.sub(1, msg{}.sub(4, msg{}.sub(1, scalarType)))))))), Limits{}, "unsupported_type"},
		{"output that is a map", modelWith(graphWith(add(12, value("z", msg{}.sub(5, msg{}.num(1, 8).sub(2, scalarType)))))), Limits{}, ""},
		{"output that maps from floats", modelWith(graphWith(add(12, value("z", msg{}.sub(5, msg{}.num(1, 1).sub(2, scalarType)))))), Limits{}, "unsupported_type"},
		{"output that maps to vectors", modelWith(graphWith(add(12, value("z", msg{}.sub(5, msg{}.num(1, 8).sub(2, tensorOf(1, 3))))))), Limits{}, "unsupported_type"},
		{"value of an optional type inside", modelWith(graphWith(add(13, value("z", msg{}.sub(9, msg{}.sub(1, stringType)))))), Limits{}, ""},
		{"value of two types", modelWith(graphWith(add(13, value("z", append(tensorOf(1, 3), msg{}.sub(4, msg{})...))))), Limits{}, "not_onnx"},
		{"dimension with size and name", modelWith(graphWith(add(13, value("z", msg{}.sub(1, msg{}.num(1, 1).sub(2, msg{}.sub(1, msg{}.num(1, 2).str(2, "N")))))))), Limits{}, "not_onnx"},
		{"declared negative dimension", modelWith(graphWith(add(13, value("z", msg{}.sub(1, msg{}.num(1, 1).sub(2, msg{}.sub(1, msg{}.num(1, -2)))))))), Limits{}, "bad_tensor"},
		{"dimension of any size written as -1", modelWith(graphWith(add(11, value("x2", msg{}.sub(1, msg{}.num(1, 1).sub(2, msg{}.sub(1, msg{}.num(1, -1)))))))), Limits{}, ""},
		{"declared size overflows", modelWith(graphWith(add(11, value("x2", tensorOf(1, 1<<40, 1<<40))))), Limits{}, "size_overflow"},
		{"declared bytes overflow", modelWith(graphWith(add(11, value("x2", tensorOf(11, 1<<62))))), Limits{}, "size_overflow"},
		{"declared size absurd", modelWith(graphWith(add(11, value("x2", tensorOf(1, 1<<20, 1<<20))))), Limits{}, "too_large"},
		{"declared strings absurd", modelWith(graphWith(add(11, value("x2", tensorOf(8, 1<<40))))), Limits{}, "too_large"},
		{"declared rank absurd", modelWith(graphWith(add(11, value("x2", tensorOf(1, slices.Repeat([]int64{1}, maxRank+1)...))))), Limits{}, "bad_tensor"},
		{"sequences too deep in an attribute", modelWith(graphWith(add(1, node("Optional", nil, []string{"z"}, msg{}.str(1, "type").sub(14, deepType(maxTypeDepth+1)))))), Limits{}, "nesting"},

		{"one attribute with two values", modelWith(graphWith(add(1, node("Abs", nil, []string{"z"}, msg{}.str(1, "a").num(3, 1).str(4, "s"))))), Limits{}, "not_onnx"},
		{"attribute of an unknown type", modelWith(graphWith(add(1, node("Abs", nil, []string{"z"}, msg{}.str(1, "a").num(3, 1).num(20, 99))))), Limits{}, "unknown_field"},
		{"lists of numbers, packed or not", modelWith(graphWith(add(1, node("Abs", nil, []string{"z"}, msg{}.str(1, "a").num(8, 1).packed(8, 2, 300), msg{}.str(1, "b").fixed32(7, 1).sub(7, make(msg, 8)))))), Limits{}, ""},
		{"packed floats cut off", modelWith(graphWith(add(1, node("Abs", nil, []string{"z"}, msg{}.sub(7, make(msg, 7)))))), Limits{}, "not_onnx"},
		{"packed integers cut off", modelWith(graphWith(add(1, node("Abs", nil, []string{"z"}, msg{}.sub(8, msg{0x80, 0x80}))))), Limits{}, "not_onnx"},
		{"graph in the default of a function's attribute", modelWith(graphWith(), add(25, function("own", "F", node("Abs", nil, []string{"b"})).sub(11, msg{}.sub(6, graphWith())))), Limits{}, "unsupported_operator"},
		{"graph passed to a function", modelWith(graphWith(add(1, inDomain(node("F", nil, []string{"z"}, msg{}.sub(6, graphWith())), "own"))),
			add(25, function("own", "F", node("Abs", []string{"a"}, []string{"b"})))), Limits{}, "unsupported_operator"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := Verify(test.file, test.limits)
			if got := codeOf(t, err); got != test.want {
				t.Errorf("code %q, want %q (%v)", got, test.want, err)
			}
		})
	}
}

func deepType(n int) msg {
	if n == 0 {
		return tensorOf(1, 1)
	}
	return msg{}.sub(4, msg{}.sub(1, deepType(n-1)))
}

// TestVerifyTruncated cuts real models at every byte: each is refused, or was
// cut between two fields of the outermost message and is a smaller file of its
// own. Bytes changed at random must not do harm either.
func TestVerifyTruncated(t *testing.T) {
	for _, name := range []string{"iris_v2.onnx", "canary.onnx", "zipmap_strings.onnx", "hostile/local_function.onnx"} {
		file := readFile(t, filepath.Join(samples, name))
		borders := map[int]bool{}
		for at := 0; at < len(file); {
			_, _, n := protowire.ConsumeField(file[at:])
			if n < 0 {
				t.Fatal(protowire.ParseError(n))
			}
			at += n
			borders[at] = true
		}
		truncated := 0
		for cut := range file {
			_, _, err := Verify(file[:cut:cut], Limits{})
			switch code := codeOf(t, err); {
			case code == "" && !borders[cut]:
				t.Errorf("%s: passed when cut at %d of %d bytes", name, cut, len(file))
			case code == "truncated":
				truncated++
			}
		}
		if truncated < len(file)*9/10 {
			t.Errorf("%s: of %d cuts only %d were told apart", name, len(file), truncated)
		}
		for i := range file {
			for _, flip := range []byte{1, 0x80, 0xff} {
				changed := slices.Clone(file)
				changed[i] ^= flip
				_, _, err := Verify(changed, Limits{})
				codeOf(t, err)
			}
		}
	}
}

// TestVerifyMemory feeds the check what would be costly to believe.
func TestVerifyMemory(t *testing.T) {
	repeat := func(field protowire.Number, sub msg, n int) msg {
		return slices.Repeat(msg{}.sub(field, sub), n)
	}
	const n = 3_000_000
	tests := []struct {
		name string
		file msg
		want string
	}{
		{"nameless values", modelWith(append(graphWith(), repeat(11, msg{}, n)...)), "bad_name"},
		{"initializers", modelWith(append(graphWith(), repeat(5, msg{}.num(2, 1).packed(1, 0), n/4)...)), "duplicate_name"},
		{"outputs of one node", modelWith(graphWith(add(1, append(relu(), repeat(2, msg("v"), 1)...), append(node("Abs", nil, nil), manyNames(n/2)...)))), "duplicate_name"},
		{"distinct outputs of one node", modelWith(graphWith(add(1, append(node("Abs", nil, nil), manyNames(n/2)...)))), "too_many_nodes"},
		{"functions", append(modelWith(graphWith()), repeat(25, msg{}, n)...), "too_many_nodes"},
		{"imports", append(modelWith(graphWith()), repeat(8, msg{}.str(1, "own").num(2, 1), n/4)...), ""},
		{"dimensions", modelWith(graphWith(add(5, repeat(1, msg{1}, n)))), "bad_tensor"},
		{"nodes", modelWith(append(graphWith(), repeat(1, msg{}.str(4, "Abs"), n)...)), "too_many_nodes"},
		{"graphs", modelWith(graphWith(add(1, node("Abs", nil, []string{"z"}, repeat(11, msg{}, n))))), ""},
		{"calls", modelWith(append(graphWith(), manyCalls(150_000)...)), "too_many_nodes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _, err := Verify(test.file, Limits{})
			runtime.ReadMemStats(&after)
			if got := codeOf(t, err); got != test.want {
				t.Errorf("code %q, want %q (%v)", got, test.want, err)
			}
			if grown := after.HeapSys - min(after.HeapSys, before.HeapSys); grown > 256<<20 {
				t.Errorf("the heap grew by %d MiB for a file of %d MiB", grown>>20, len(test.file)>>20)
			}
		})
	}
}

func manyNames(n int) msg {
	m := msg{}
	for i := range n {
		m = m.str(2, fmt.Sprintf("%x", i))
	}
	return m
}

func manyCalls(n int) msg {
	m := msg{}
	for i := range n {
		m = m.sub(1, inDomain(node(fmt.Sprintf("%x", i), nil, nil), "own"))
	}
	return m
}

// TestQuote shows hostile strings of a file harmlessly.
func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"Frobnicate":                  `"Frobnicate"`,
		"a\r\n\x1b[31mb":              `"a\r\n\x1b[31mb"`,
		"\xff\"":                      `"\xff\""`,
		"":                            `""`,
		strings.Repeat("x", 65):       `"` + strings.Repeat("x", 64) + `"...`,
		strings.Repeat("x", 63) + "ü": `"` + strings.Repeat("x", 63) + `"...`,
		strings.Repeat("\x80", 70):    `"` + strings.Repeat(`\x80`, 64) + `"...`,
	} {
		if got := quote([]byte(in)); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
	_, _, err := Verify(modelWith(graphWith(add(1, node("Evil\x1b]0;\a"+strings.Repeat("A", 5000), nil, []string{"z"})))), Limits{})
	if codeOf(t, err) != "unsupported_operator" || len(err.Error()) > 500 {
		t.Errorf("a hostile operator's name came through: %q", err)
	}
}

// FuzzVerify looks for panics, endless work, and files that pass without
// being fit for a signature.
func FuzzVerify(f *testing.F) {
	for _, pattern := range []string{"*.onnx", "hostile/*.onnx"} {
		paths, err := filepath.Glob(filepath.Join(samples, pattern))
		if err != nil || len(paths) == 0 {
			f.Fatalf("no seeds (%v)", err)
		}
		for _, path := range paths {
			if data := readFile(f, path); len(data) < 32<<10 { // all of the hostile ones
				f.Add(data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		g, facts, err := Verify(file, Limits{})
		if code := codeOf(t, err); code != "" {
			return
		}
		sig, err := signature(g, withTypes(g), Spec{})
		if err != nil && codeOf(t, err) == "" {
			t.Errorf("no signature: %v", err)
		}
		if err == nil && (len(sig.Inputs) != len(g.Inputs) || len(sig.Outputs) != len(g.Outputs)) {
			t.Error("the signature lost a value")
		}
		if facts.Nodes > 100_000 || !slices.IsSorted(facts.Operators) || facts.Parameters < 0 {
			t.Errorf("facts %+v", facts)
		}
	})
}

// BenchmarkVerify measures a file of 64 MiB of weights, which are skipped, and
// one of a million small fields.
func BenchmarkVerify(b *testing.B) {
	weights := modelWith(graphWith(add(5, initializer(16<<20, 16, 1<<20))))
	fields := msg{}
	for range 1_000_000 {
		fields = fields.num(8, 1)
	}
	numbers := modelWith(graphWith(add(1, node("Abs", nil, []string{"z"}, fields))))
	for name, file := range map[string]msg{"weights": weights, "fields": numbers} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(file)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Verify(file, Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
