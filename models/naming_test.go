package models

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 64)
	for name, want := range map[string]bool{
		"iris": true, "0": true, "a.b_c-d": true, long: true,
		"": false, long + "a": false, "Iris": false, ".a": false, "-a": false, "_a": false, "a/b": false, "a b": false,
		"a\n": false, "ä": false, "..": false,
	} {
		if got := validName(name); got != want {
			t.Errorf("validName(%q) = %v", name, got)
		}
	}
	for name, want := range map[string]bool{
		"X": true, "_x1": true, "input_0": true, long: true,
		"": false, long + "a": false, "1x": false, "a.b": false, "a/b": false, "a:0": false, "a-b": false, "ä": false, "a\n": false,
	} {
		if got := validTensorName(name); got != want {
			t.Errorf("validTensorName(%q) = %v", name, got)
		}
	}
}

func TestPublicNames(t *testing.T) {
	tests := []struct {
		name         string
		graph, asked []string
		want         []string // nil: refused
	}{
		{"plain", []string{"X", "flag"}, nil, []string{"X", "flag"}},
		{"not plain", []string{"a:0", "x/y"}, nil, []string{"input_0", "input_1"}},
		{"mixed", []string{"X", "x/y"}, nil, []string{"X", "input_1"}},
		{"asked for", []string{"X", "x/y"}, []string{"features", "mask"}, []string{"features", "mask"}},
		{"some asked for", []string{"X", "x/y"}, []string{"", "mask"}, []string{"X", "mask"}},
		{"fewer asked for", []string{"X", "x/y"}, []string{"features"}, []string{"features", "input_1"}},
		{"swapped", []string{"a", "b"}, []string{"b", "a"}, []string{"b", "a"}},
		{"derived meets plain", []string{"x/y", "input_0"}, nil, []string{"input_0_1", "input_0"}},
		{"derived meets asked for", []string{"x/y", "z"}, []string{"", "input_0"}, []string{"input_0_1", "input_0"}},
		{"derived meets shifted", []string{"x/y", "input_0", "input_0_1"}, nil, []string{"input_0_2", "input_0", "input_0_1"}},
		{"asked for meets plain", []string{"a", "b"}, []string{"b"}, nil},
		{"asked for twice", []string{"a", "b"}, []string{"c", "c"}, nil},
		{"too many", []string{"a"}, []string{"b", "c"}, nil},
		{"no name", []string{"a"}, []string{"a b"}, nil},
		{"no name, hostile", []string{"a"}, []string{"\x1b[0m" + strings.Repeat("x", 1000)}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			specs, err := publicNames("input", values(test.graph), test.asked)
			if test.want == nil {
				if e := (*Error)(nil); !errors.As(err, &e) || !errors.Is(err, ErrInvalid) || len(e.Detail) > 300 {
					t.Errorf("%v; want ErrInvalid", err)
				}
				return
			}
			var got []string
			for i, s := range specs {
				got = append(got, s.Name)
				if s.GraphValue.Name != test.graph[i] {
					t.Errorf("value %d is behind %q", i, s.GraphValue.Name)
				}
			}
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("%v (%v), want %v", got, err, test.want)
			}
		})
	}
}

func values(names []string) []GraphValue {
	var vs []GraphValue
	for _, name := range names {
		vs = append(vs, GraphValue{Name: name, Type: Float32, Shape: []int64{-1}})
	}
	return vs
}

// TestPublicNamesAlways: whatever a graph calls its values, as long as it does
// not call two alike, they get valid, different public names, the same each
// time, and none that is not plain shows.
func TestPublicNamesAlways(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.OneOf(rapid.StringMatching(`(input_[0-3](_[12])?|[a-c])`), rapid.String())
		graph := rapid.SliceOfNDistinct(word, 1, 8, rapid.ID[string]).Draw(t, "graph")
		specs, err := publicNames("input", values(graph), nil)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := publicNames("input", values(graph), nil)
		used := map[string]bool{}
		for i, s := range specs {
			if !validTensorName(s.Name) || used[s.Name] || again[i].Name != s.Name {
				t.Fatalf("%q got the name %q", graph[i], s.Name)
			}
			if s.Name != graph[i] && !strings.HasPrefix(s.Name, "input_") {
				t.Fatalf("%q shows in %q", graph[i], s.Name)
			}
			used[s.Name] = true
		}
	})
}

// TestSignatureMismatch: the runtime must see what the check saw.
func TestSignatureMismatch(t *testing.T) {
	declared := Graph{Inputs: values([]string{"a", "b"}), Outputs: values([]string{"y", "z"})}
	if _, err := signature(declared, declared, Spec{}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(g *Graph){
		"another input":     func(g *Graph) { g.Inputs[1].Name = "c" },
		"an input less":     func(g *Graph) { g.Inputs = g.Inputs[:1] },
		"inputs swapped":    func(g *Graph) { slices.Reverse(g.Inputs) },
		"an output more":    func(g *Graph) { g.Outputs = append(g.Outputs, g.Outputs[0]) },
		"outputs swapped":   func(g *Graph) { slices.Reverse(g.Outputs) },
		"another rank":      func(g *Graph) { g.Inputs[0].Shape = []int64{1, 2} },
		"a shape below -1":  func(g *Graph) { g.Inputs[0].Shape = []int64{-2} },
		"an input unserved": func(g *Graph) { g.Inputs[0].Type = 14 },
		"an output unknown": func(g *Graph) { g.Outputs[0].Type = Undefined },
		"a map from floats": func(g *Graph) { g.Outputs[0].Kind, g.Outputs[0].Key = KindMaps, Float32 },
	} {
		actual := Graph{Inputs: values([]string{"a", "b"}), Outputs: values([]string{"y", "z"})}
		change(&actual)
		_, err := signature(declared, actual, Spec{})
		if code := codeOf(t, err); code != "bad_model" && code != "unsupported_type" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
