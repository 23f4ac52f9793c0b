package models

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var outputNamesDrawn = []string{"label", "probabilities", "score"}

func drawRule(t *rapid.T, label string) Rule {
	r := Rule{
		TopK:      rapid.IntRange(0, 4).Draw(t, label+".top_k"),
		LabelOnly: rapid.Bool().Draw(t, label+".label_only"),
		DailyRows: rapid.SampledFrom([]int64{0, 0, 1, 10, 1e12}).Draw(t, label+".daily_rows"),
	}
	if rapid.Bool().Draw(t, label+".rounds") {
		d := rapid.IntRange(0, 3).Draw(t, label+".decimals")
		r.Decimals = &d
	}
	if rapid.Bool().Draw(t, label+".drops") {
		r.Outputs = rapid.SliceOfNDistinct(rapid.SampledFrom(outputNamesDrawn), 1, 3, rapid.ID[string]).Draw(t, label+".outputs")
	}
	return r
}

// within reports whether r shows nothing that o hides.
func within(r, o Rule) bool {
	for _, name := range outputNamesDrawn {
		if shows(r, name) && !shows(o, name) {
			return false
		}
	}
	return (o.TopK == 0 || r.TopK != 0 && r.TopK <= o.TopK) &&
		(o.Decimals == nil || r.Decimals != nil && *r.Decimals <= *o.Decimals) &&
		(!o.LabelOnly || r.LabelOnly) &&
		(o.DailyRows == 0 || r.DailyRows != 0 && r.DailyRows <= o.DailyRows)
}

func shows(r Rule, name string) bool { return r.Outputs == nil || slices.Contains(r.Outputs, name) }

// TestRuleStrictness: of several entries the strictest holds in every field,
// in whatever order roles come, so that one more role with an entry never
// shows more than the others did; and nothing is hidden that all show.
func TestRuleStrictness(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roles := []string{"analyst", "auditor", "partner"}
		d := Disclosure{Rule: drawRule(t, "base"), Roles: map[string]Rule{}}
		for _, role := range roles {
			d.Roles[role] = drawRule(t, role)
		}
		held := rapid.SliceOfNDistinct(rapid.SampledFrom(append(roles, "user")), 0, 4, rapid.ID[string]).Draw(t, "held")
		got := d.rule(held)
		var entries []Rule
		for _, role := range held {
			if r, ok := d.Roles[role]; ok {
				entries = append(entries, r)
			}
		}
		if len(entries) == 0 {
			if !reflect.DeepEqual(got, d.Rule) {
				t.Fatalf("without an entry the rule is %+v, not the model's own", got)
			}
			return
		}
		budgets := []int64{d.Rule.DailyRows}
		for _, e := range entries {
			if !within(got, e) {
				t.Fatalf("%+v shows more than %+v", got, e)
			}
			budgets = append(budgets, e.DailyRows)
		}
		if got.DailyRows != 0 && got.DailyRows != slices.Min(slices.DeleteFunc(budgets, func(n int64) bool { return n == 0 })) ||
			got.DailyRows == 0 && slices.Max(budgets) != 0 {
			t.Fatalf("a budget of %d rows out of %v, the model's own first", got.DailyRows, budgets)
		}
		for _, name := range outputNamesDrawn {
			if !shows(got, name) && !slices.ContainsFunc(entries, func(e Rule) bool { return !shows(e, name) }) {
				t.Fatalf("%s is hidden, though every entry shows it", name)
			}
		}
		if got.LabelOnly && !slices.ContainsFunc(entries, func(e Rule) bool { return e.LabelOnly }) ||
			!slices.ContainsFunc(entries, func(e Rule) bool { return e.TopK == got.TopK }) {
			t.Fatalf("%+v is stricter than any of %+v", got, entries)
		}
		slices.Reverse(held)
		if again := d.rule(held); !within(got, again) || !within(again, got) {
			t.Fatalf("the order of roles matters: %+v and %+v", got, again)
		}
		for _, more := range roles {
			if wider := d.rule(append(slices.Clone(held), more)); !within(wider, got) {
				t.Fatalf("with role %s besides, %+v shows more than %+v", more, wider, got)
			}
		}
	})
}

// TestRuleReplaced: an entry stands instead of the model's own rule, also
// where it shows more.
func TestRuleReplaced(t *testing.T) {
	one := 1
	d := Disclosure{Rule: Rule{LabelOnly: true, Outputs: []string{"label"}}, Roles: map[string]Rule{
		"analyst": {Decimals: &one}, "left": {Outputs: []string{"label"}}, "right": {Outputs: []string{"score"}}}}
	if got := d.rule([]string{"analyst", "user"}); got.LabelOnly || got.Outputs != nil || *got.Decimals != 1 {
		t.Errorf("the analyst's rule is %+v", got)
	}
	got := d.rule([]string{"left", "right"})
	if got.Outputs == nil || len(got.Outputs) != 0 {
		t.Errorf("two lists without a common output let %#v through; want none, not all", got.Outputs)
	}
	a := Access{Version: versionWith("label", "score"), Rule: got}
	if shown := a.Outputs(); len(shown) != 0 {
		t.Errorf("outputs %v are shown", shown)
	}
}

func versionWith(outputs ...string) *Version {
	v := &Version{Number: 1}
	for _, name := range outputs {
		v.Signature.Outputs = append(v.Signature.Outputs, TensorSpec{Name: name, GraphValue: GraphValue{Type: Float32}})
	}
	return v
}

func TestAccessOutputs(t *testing.T) {
	v := versionWith("label", "probabilities", "score")
	for _, test := range []struct {
		rule Rule
		want []int
	}{
		{Rule{}, []int{0, 1, 2}},
		{Rule{Outputs: []string{"score", "label"}}, []int{0, 2}},
		{Rule{Outputs: []string{"gone"}}, nil},
	} {
		a := Access{Version: v, Rule: test.rule}
		if got := a.Outputs(); !slices.Equal(got, test.want) {
			t.Errorf("%+v: %v, want %v", test.rule, got, test.want)
		}
	}
	a := Access{Version: v}
	if n := testing.AllocsPerRun(100, func() { a.Outputs() }); n != 0 {
		t.Errorf("%v allocations when nothing is hidden", n)
	}
	many := make([]string, len(positions)+1)
	for i := range many {
		many[i] = strings.Repeat("x", i+1)
	}
	a = Access{Version: versionWith(many...)}
	if got := a.Outputs(); len(got) != len(many) || got[len(many)-1] != len(many)-1 {
		t.Errorf("%d outputs of %d", len(got), len(many))
	}
}

func TestRuleSpec(t *testing.T) {
	spec := func(kind Kind, typ, key DataType, shape ...int64) TensorSpec {
		return TensorSpec{Name: "y", GraphValue: GraphValue{Name: "g", Kind: kind, Type: typ, Key: key, Shape: shape}}
	}
	scalar := spec(KindTensor, Float32, 0)
	scalar.Shape = []int64{}
	integerScalar := spec(KindTensor, Int64, 0)
	integerScalar.Shape = []int64{}
	for name, test := range map[string]struct{ in, want TensorSpec }{
		"floats":       {spec(KindTensor, Float32, 0, -1, 3), spec(KindTensor, Int64, 0, -1)},
		"halves":       {spec(KindTensor, Float16, 0, 3), func() TensorSpec { s := spec(KindTensor, Int64, 0, 1); s.Shape = []int64{}; return s }()},
		"bfloat":       {spec(KindTensor, BFloat16, 0, 2, 3), spec(KindTensor, Int64, 0, 2)},
		"rank 0":       {scalar, integerScalar},
		"any rank":     {spec(KindTensor, Float64, 0), spec(KindTensor, Int64, 0)},
		"integers":     {spec(KindTensor, Int32, 0, -1, 3), spec(KindTensor, Int32, 0, -1, 3)},
		"strings":      {spec(KindTensor, String, 0, -1), spec(KindTensor, String, 0, -1)},
		"maps":         {spec(KindMaps, Float32, String), spec(KindTensor, Int64, 0, -1)},
		"map":          {spec(KindMap, Float32, Int64), integerScalar},
		"maps to ints": {spec(KindMaps, Int64, String), spec(KindMaps, Int64, String)},
		"sequence":     {spec(KindTensors, Float32, 0, -1, 3), spec(KindTensors, Int64, 0, -1)},
	} {
		if got := (Rule{LabelOnly: true}).Spec(test.in); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
		if got := (Rule{TopK: 1}).Spec(test.in); !reflect.DeepEqual(got, test.in) {
			t.Errorf("%s: without label_only %+v", name, got)
		}
	}
}

func TestDisclosureCheck(t *testing.T) {
	number := func(n int) *int { return &n }
	for name, test := range map[string]struct {
		d    Disclosure
		want string // part of the sentence; empty: it is fine
	}{
		"nothing":          {Disclosure{}, ""},
		"all":              {Disclosure{Rule: Rule{Outputs: []string{"label"}, TopK: 3, Decimals: number(0), LabelOnly: true}, Roles: map[string]Rule{"analyst": {}}}, ""},
		"no outputs":       {Disclosure{Rule: Rule{Outputs: []string{}}}, "empty list"},
		"an output twice":  {Disclosure{Rule: Rule{Outputs: []string{"a", "a"}}}, "twice"},
		"no name":          {Disclosure{Rule: Rule{Outputs: []string{"a/b"}}}, `"a/b"`},
		"too many outputs": {Disclosure{Rule: Rule{Outputs: make([]string, 257)}}, "257"},
		"negative top_k":   {Disclosure{Rule: Rule{TopK: -1}}, "top_k"},
		"many decimals":    {Disclosure{Rule: Rule{Decimals: number(16)}}, "decimals"},
		"minus decimals":   {Disclosure{Rule: Rule{Decimals: number(-1)}}, "decimals"},
		"a budget":         {Disclosure{Rule: Rule{DailyRows: 1}, Roles: map[string]Rule{"analyst": {DailyRows: 1e12}}}, ""},
		"minus budget":     {Disclosure{Rule: Rule{DailyRows: -1}}, "daily_rows"},
		"huge budget":      {Disclosure{Roles: map[string]Rule{"analyst": {DailyRows: 1e12 + 1}}}, "daily_rows"},
		"in an entry":      {Disclosure{Roles: map[string]Rule{"analyst": {TopK: -1}}}, "role analyst"},
		"role's name":      {Disclosure{Roles: map[string]Rule{"An\nalyst": {}}}, `"An\nalyst"`},
	} {
		err := test.d.check()
		if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	v := versionWith("label", "score")
	for _, d := range []Disclosure{
		{Rule: Rule{Outputs: []string{"label", "gone"}}},
		{Roles: map[string]Rule{"analyst": {Outputs: []string{"gone"}}}},
	} {
		if err := d.fits(v); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "label, score") {
			t.Errorf("%+v: %v", d, err)
		}
	}
	if err := (&Disclosure{Rule: Rule{Outputs: []string{"score"}}}).fits(v); err != nil {
		t.Error(err)
	}
}
