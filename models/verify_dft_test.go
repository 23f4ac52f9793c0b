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
	}{
		{"inverse and one-sided", short, []msg{on("inverse"), on("onesided")}, "unsupported_operator"},
		{"in the other order", short, []msg{on("onesided"), on("inverse")}, "unsupported_operator"},
		{"the length left out before an axis", []string{"x", "", "axis"}, []msg{on("inverse"), on("onesided")}, "unsupported_operator"},
		{"attributes of a function", short, []msg{taken("inverse"), taken("onesided")}, "unsupported_operator"},
		{"with a length", long, []msg{on("inverse"), on("onesided")}, ""},
		{"forward", short, []msg{on("onesided")}, ""},
		{"forward, in so many words", short, []msg{off("inverse"), on("onesided")}, ""},
		{"two-sided", short, []msg{on("inverse"), off("onesided")}, ""},
		{"plain", short, nil, ""},
	}
	for _, test := range tests {
		dft := node("DFT", test.inputs, []string{"z"}, test.attributes...)
		branch := node("If", []string{"x"}, []string{"z"}, msg{}.str(1, "then_branch").sub(6, msg{}.sub(1, dft)))
		for where, file := range map[string]msg{
			"graph": modelWith(graphWith(add(1, dft))), "branch": modelWith(graphWith(add(1, branch))),
			"function": modelWith(graphWith(), add(25, function("own", "F", dft))),
		} {
			_, _, err := Verify(file, Limits{})
			if got := codeOf(t, err); got != test.want {
				t.Errorf("%s, in a %s: code %q, want %q (%v)", test.name, where, got, test.want, err)
			}
		}
	}
}
