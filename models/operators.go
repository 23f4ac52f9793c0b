package models

import (
	_ "embed"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// operatorsText names the operators of ONNX's own domains; operators.py made
// it.
//
//go:embed operators.txt
var operatorsText string

// fragile are the operators on which an input without elements ends the
// process in ONNX Runtime 1.30.0, found by giving the models of ONNX's
// conformance data one empty dimension at a time: ConvTranspose reads where
// nothing is, the others abort. (Divisions by zero are caught, see
// inference/ort/fpe.c.)
var fragile = []string{"ConvTranspose", "GRU", "LSTM", "Unique"}

// anyFragile reports whether one of the operators is fragile.
func anyFragile(operators []string) bool {
	return slices.ContainsFunc(operators, func(name string) bool { return slices.Contains(fragile, name) })
}

// standard is what operators.txt says.
type standard struct {
	irVersion int64 // the newest
	domains   map[string]standardDomain
}

type standardDomain struct {
	name  string
	opset int64 // the newest version
	// operators maps a name to itself: looking up with bytes gives the name
	// without an allocation.
	operators map[string]string
}

var onnx = sync.OnceValue(func() standard {
	s := standard{domains: map[string]standardDomain{}}
	var current standardDomain
	for line := range strings.Lines(operatorsText) {
		word := strings.Fields(line)
		switch {
		case len(word) == 0 || word[0] == "#":
		case word[0] == "ir_version":
			s.irVersion, _ = strconv.ParseInt(word[1], 10, 64)
		case word[0] == "domain":
			current = standardDomain{name: word[1], operators: map[string]string{}}
			current.opset, _ = strconv.ParseInt(word[2], 10, 64)
			s.domains[word[1]] = current
		default:
			current.operators[word[0]] = word[0]
		}
	}
	// The specification knows its first domain by two names.
	s.domains[""] = s.domains["ai.onnx"]
	return s
})
