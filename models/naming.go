package models

import (
	"fmt"
	"slices"
	"strconv"
)

// The names of the public contract: models, roles and aliases are
// [a-z0-9][a-z0-9._-]{0,63}, tensors [A-Za-z_][A-Za-z0-9_]{0,63}.

const maxPublicName = 64

func validName(s string) bool {
	if len(s) == 0 || len(s) > maxPublicName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}

func validTensorName(s string) bool {
	if len(s) == 0 || len(s) > maxPublicName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return true
}

func invalidName(what, name string) error {
	return ErrInvalid.With(fmt.Sprintf("%s is not a valid %s name; use 1 to %d of a-z, 0-9, '.', '_' and '-', the first a letter or digit",
		quote([]byte(name)), what, maxPublicName))
}

// publicNames gives every value a public name: the one asked for by position
// ("" or nothing asks for none), else the graph's when that is a plain
// identifier, else "input_0", "output_1", ... by position. A derived name that
// is used already gets "_1", "_2", ... appended. Names asked for that are not
// valid, too many or used twice are ErrInvalid.
func publicNames(side string, values []GraphValue, asked []string) ([]TensorSpec, error) {
	if len(asked) > len(values) {
		return nil, ErrInvalid.With(fmt.Sprintf("the spec names %d %ss, but the model has %d", len(asked), side, len(values)))
	}
	specs := make([]TensorSpec, len(values))
	used := make(map[string]bool, len(values))
	for i, v := range values {
		name := ""
		if i < len(asked) {
			name = asked[i]
		}
		switch {
		case name != "" && !validTensorName(name):
			return nil, ErrInvalid.With(fmt.Sprintf("%s is no name for the %s at position %d; use up to %d letters, digits and '_', the first no digit",
				quote([]byte(name)), side, i, maxPublicName))
		case name == "" && validTensorName(v.Name):
			name = v.Name
		}
		if name != "" && used[name] {
			return nil, ErrInvalid.With(fmt.Sprintf("two %ss would have the name %s; name both in the spec", side, name))
		}
		used[name] = true
		specs[i] = TensorSpec{Name: name, GraphValue: v}
		specs[i].Shape = slices.Clone(v.Shape)
	}
	for i := range specs {
		if specs[i].Name != "" {
			continue
		}
		base := side + "_" + strconv.Itoa(i)
		name := base
		for n := 1; used[name]; n++ {
			name = base + "_" + strconv.Itoa(n)
		}
		used[name] = true
		specs[i].Name = name
	}
	return specs, nil
}

// signature makes the public contract of a file of what its graph declares
// and what the runtime says of it. Both must name the same inputs and outputs
// in the same order; types and shapes are the runtime's word.
func signature(declared, actual Graph, spec Spec) (Signature, error) {
	for _, side := range []struct {
		what             string
		declared, actual []GraphValue
	}{{"inputs", declared.Inputs, actual.Inputs}, {"outputs", declared.Outputs, actual.Outputs}} {
		same := slices.EqualFunc(side.declared, side.actual, func(d, a GraphValue) bool { return d.Name == a.Name })
		if !same {
			return Signature{}, refuse("bad_model", "the runtime finds other %s in the model than the file declares", side.what)
		}
	}
	for i, v := range actual.Inputs {
		if err := servedInput(v); err != nil {
			return Signature{}, err
		}
		if !wellFormed(v.Shape) || len(v.Shape) != len(declared.Inputs[i].Shape) {
			return Signature{}, refuse("bad_model", "the runtime finds another shape of an input than the file declares")
		}
	}
	for _, v := range actual.Outputs {
		if !servedOutput(v) || !wellFormed(v.Shape) {
			return Signature{}, refuse("unsupported_type", "the output %s is neither a tensor, a sequence of tensors nor a map, of floats, integers, bools or strings", quote([]byte(v.Name)))
		}
	}
	inputs, err := publicNames("input", actual.Inputs, spec.Inputs)
	if err != nil {
		return Signature{}, err
	}
	outputs, err := publicNames("output", actual.Outputs, spec.Outputs)
	if err != nil {
		return Signature{}, err
	}
	return Signature{Inputs: inputs, Outputs: outputs}, nil
}

func wellFormed(shape []int64) bool {
	return !slices.ContainsFunc(shape, func(d int64) bool { return d < -1 })
}
