package models

import (
	_ "embed"
	"strconv"
	"strings"
	"sync"
)

// operatorsText names the operators of ONNX's own domains; operators.py made
// it.
//
//go:embed operators.txt
var operatorsText string

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
