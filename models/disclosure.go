package models

import (
	"fmt"
	"maps"
	"slices"
)

// rule returns what a holder of roles sees: the model's own Rule, or, when
// there are entries under some of his roles, the strictest of those. The
// model's own Rule does not count beside an entry, so that an entry may also
// show more. Owners and administrators are held to it like everyone else:
// what they test is what callers get, and who wants to see more changes the
// policy. The daily budget of the model's own Rule holds for everybody, so that
// an entry can only make it smaller.
func (d *Disclosure) rule(roles []string) Rule {
	if len(d.Roles) == 0 {
		return d.Rule
	}
	found, strictest := false, Rule{}
	for _, role := range roles {
		r, ok := d.Roles[role]
		switch {
		case !ok:
		case !found:
			found, strictest = true, r
		default:
			strictest = strictest.and(r)
		}
	}
	if !found {
		return d.Rule
	}
	strictest.DailyRows = smaller(strictest.DailyRows, d.Rule.DailyRows)
	return strictest
}

// smaller returns the smaller budget; 0 is none.
func smaller(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// and returns the Rule that shows what both r and o show, field by field. Its
// Outputs are empty and not nil when the two have none in common: then no
// output is shown.
func (r Rule) and(o Rule) Rule {
	both := Rule{Outputs: r.Outputs, TopK: r.TopK, Decimals: r.Decimals, LabelOnly: r.LabelOnly || o.LabelOnly,
		DailyRows: smaller(r.DailyRows, o.DailyRows)}
	switch {
	case r.Outputs == nil:
		both.Outputs = o.Outputs
	case o.Outputs != nil:
		both.Outputs = []string{}
		for _, name := range r.Outputs {
			if slices.Contains(o.Outputs, name) {
				both.Outputs = append(both.Outputs, name)
			}
		}
	}
	if r.TopK == 0 || o.TopK != 0 && o.TopK < r.TopK {
		both.TopK = o.TopK
	}
	if r.Decimals == nil || o.Decimals != nil && *o.Decimals < *r.Decimals {
		both.Decimals = o.Decimals
	}
	return both
}

// positions are the numbers that Outputs hands out when nothing is hidden.
var positions = func() (p [256]int) {
	for i := range p {
		p[i] = i
	}
	return p
}()

// Outputs lists the indices into Version.Signature.Outputs that the Rule lets
// through, ascending. The slice may be shared; it must not be written to.
func (a *Access) Outputs() []int {
	outputs := a.Version.Signature.Outputs
	if a.Rule.Outputs == nil && len(outputs) <= len(positions) {
		return positions[:len(outputs):len(outputs)]
	}
	shown := make([]int, 0, len(outputs))
	for i := range outputs {
		if a.Rule.Outputs == nil || slices.Contains(a.Rule.Outputs, outputs[i].Name) {
			shown = append(shown, i)
		}
	}
	return shown
}

// Spec returns what metadata says of an output that the rule shows. Under
// label_only a float tensor becomes INT64 without its last axis (rank 0 stays
// rank 0), each tensor of a sequence likewise, a sequence of maps to floats
// becomes INT64 [N], and a single map rank 0: for maps the label is the index
// among the sorted keys. Other rules change values, not types.
func (r Rule) Spec(o TensorSpec) TensorSpec {
	if !r.LabelOnly || !isFloat(o.Type) {
		return o
	}
	o.Type, o.Key = Int64, Undefined
	switch o.Kind {
	case KindMaps:
		o.Kind, o.Shape = KindTensor, []int64{-1}
	case KindMap:
		o.Kind, o.Shape = KindTensor, []int64{}
	default:
		if n := len(o.Shape); n > 0 {
			o.Shape = slices.Clone(o.Shape[:n-1])
		}
	}
	return o
}

func isFloat(t DataType) bool {
	switch t {
	case Float16, BFloat16, Float32, Float64:
		return true
	}
	return false
}

// check refuses a policy that means nothing; fits compares it with a version.
func (d *Disclosure) check() error {
	if err := d.Rule.check("disclosure"); err != nil {
		return err
	}
	if len(d.Roles) > maxRoles {
		return ErrInvalid.With(fmt.Sprintf("the disclosure has entries for %d roles; at most %d are kept", len(d.Roles), maxRoles))
	}
	for _, role := range slices.Sorted(maps.Keys(d.Roles)) {
		if !validName(role) {
			return invalidName("role", role)
		}
		if err := d.Roles[role].check("disclosure for role " + role); err != nil {
			return err
		}
	}
	return nil
}

func (r Rule) check(where string) error {
	switch {
	case r.Outputs != nil && len(r.Outputs) == 0:
		// In JSON an absent list means all: an empty one is a mistake or a
		// misunderstanding, and either way unsafe to guess at.
		return ErrInvalid.With(where + ": outputs is an empty list; name at least one output, or leave it out to show all")
	case len(r.Outputs) > len(positions):
		return ErrInvalid.With(fmt.Sprintf("%s: outputs names %d outputs; a model has at most %d", where, len(r.Outputs), len(positions)))
	case r.TopK < 0:
		return ErrInvalid.With(where + ": top_k must be at least 1; leave it out to show all")
	case r.Decimals != nil && (*r.Decimals < 0 || *r.Decimals > maxDecimals):
		return ErrInvalid.With(fmt.Sprintf("%s: decimals must be 0 to %d", where, maxDecimals))
	}
	if r.DailyRows < 0 || r.DailyRows > maxDailyRows {
		return ErrInvalid.With(fmt.Sprintf("%s: daily_rows must be 1 to %d; leave it out for no budget", where, int64(maxDailyRows)))
	}
	for i, name := range r.Outputs {
		if !validTensorName(name) {
			return ErrInvalid.With(fmt.Sprintf("%s: %s is no name of an output; GET /models/NAME shows them", where, quote([]byte(name))))
		}
		if slices.Contains(r.Outputs[:i], name) {
			return ErrInvalid.With(fmt.Sprintf("%s: the output %s is named twice", where, name))
		}
	}
	return nil
}

// maxDailyRows is the largest budget.
const maxDailyRows = 1e12

// maxDecimals is what a float64 holds for numbers around 1.
const maxDecimals = 15

// fits refuses outputs that the version does not have.
func (d *Disclosure) fits(v *Version) error {
	names := slices.Clone(d.Outputs)
	for _, role := range slices.Sorted(maps.Keys(d.Roles)) {
		names = append(names, d.Roles[role].Outputs...)
	}
	for _, name := range names {
		if v.Signature.Output(name) < 0 {
			return ErrInvalid.With(fmt.Sprintf("the disclosure names the output %s, which version %d does not have; it has %s. Change the disclosure in the same request",
				name, v.Number, outputNames(&v.Signature)))
		}
	}
	return nil
}

func outputNames(s *Signature) string {
	text := ""
	for i := range s.Outputs {
		if i == 8 {
			return text + ", ..."
		}
		if i > 0 {
			text += ", "
		}
		text += s.Outputs[i].Name
	}
	return text
}
