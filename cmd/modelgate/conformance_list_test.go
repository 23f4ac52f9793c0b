package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the counts of docs/conformance.md anew")

// conformanceReason is a group of unsupported.txt.
type conformanceReason struct {
	key, by, words string
	ways           map[string]string // what each way meets; none: it passes
	models         []string
}

// unsupportedList is unsupported.txt, and reference.txt beside it.
type unsupportedList struct {
	reasons []conformanceReason
	// reference has what Python's onnxruntime does not pass, with the word for
	// it, and how many models it knows and passes.
	reference               map[string]string
	referenceModels, passed int
}

// The two who may refuse a model: the runtime itself, or the program, though
// the runtime may know it.
const byRuntime, byChoice = "runtime", "chosen"

func readUnsupported(t *testing.T) *unsupportedList {
	t.Helper()
	l := &unsupportedList{reference: map[string]string{}}
	for line := range strings.Lines(readDoc(t, "testdata/conformance/unsupported.txt")) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || words[0] == "#":
		case strings.HasPrefix(line, "["):
			l.reasons = append(l.reasons, parseReason(t, words))
		case strings.HasPrefix(line, "  ") && len(words) == 1:
			last := &l.reasons[len(l.reasons)-1]
			last.models = append(last.models, words[0])
		default:
			l.reasons[len(l.reasons)-1].words += strings.TrimSpace(line)
		}
	}
	for line := range strings.Lines(readDoc(t, "testdata/conformance/reference.txt")) {
		var word, name string
		if _, err := fmt.Sscan(line, &word, &name); err != nil || word == "#" {
			continue
		}
		switch word {
		case "models":
			fmt.Sscan(name, &l.referenceModels)
		case "passed":
			fmt.Sscan(name, &l.passed)
		default:
			l.reference[name] = word
		}
	}
	if len(l.reasons) == 0 || l.passed == 0 {
		t.Fatal("unsupported.txt or reference.txt is empty")
	}
	return l
}

// parseReason reads "[key] by way=outcome...".
func parseReason(t *testing.T, words []string) conformanceReason {
	t.Helper()
	r := conformanceReason{key: strings.Trim(words[0], "[]"), by: words[1], ways: map[string]string{}}
	if r.by != byRuntime && r.by != byChoice {
		t.Fatalf("%s: %q refuses; it is %s or %s", r.key, r.by, byRuntime, byChoice)
	}
	for _, word := range words[2:] {
		way, outcome, _ := strings.Cut(word, "=")
		for _, w := range conformanceWays {
			if way == "all" || way == w.name {
				r.ways[w.name] = outcome
			}
		}
	}
	return r
}

// check compares what was met with the list, for the models that were run.
func (l *unsupportedList) check(t *testing.T, met map[string]conformanceOutcome) {
	t.Helper()
	expected := map[string]map[string]string{}
	for _, r := range l.reasons {
		for _, name := range r.models {
			if expected[name] == nil {
				expected[name] = map[string]string{}
			}
			for way, outcome := range r.ways {
				if expected[name][way] != "" {
					t.Errorf("%s stands in unsupported.txt twice", name)
				}
				expected[name][way] = outcome
			}
			if r.by == byRuntime && l.reference[name] == "" {
				t.Errorf("%s: %s is said to be the runtime's own doing, but Python's onnxruntime passes it", name, r.key)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(met)) {
		for _, w := range conformanceWays {
			got, want := met[name].ways[w.name], expected[name][w.name]
			switch {
			case got == want:
			case want == "":
				t.Errorf("%s fails by %s (%s): %s", name, w.name, got, met[name].detail)
			case got == "":
				t.Errorf("%s passes by %s, but unsupported.txt says %s", name, w.name, want)
			default:
				t.Errorf("%s fails by %s with %s, but unsupported.txt says %s: %s", name, w.name, got, want, met[name].detail)
			}
		}
	}
}

// checkWhole compares the lists with all the models there are, and the
// document with the counts.
func (l *unsupportedList) checkWhole(t *testing.T, met map[string]conformanceOutcome) {
	t.Helper()
	for _, r := range l.reasons {
		for _, name := range r.models {
			if _, ok := met[name]; !ok {
				t.Errorf("unsupported.txt has %s under %s, but there is no such model", name, r.key)
			}
		}
	}
	for name := range l.reference {
		if _, ok := met[name]; !ok {
			t.Errorf("reference.txt has %s, but there is no such model", name)
		}
	}
	if l.referenceModels != len(met) || l.passed+len(l.reference) != len(met) {
		t.Errorf("reference.txt counts %d models, of which %d passed and %d did not; there are %d: make it anew",
			l.referenceModels, l.passed, len(l.reference), len(met))
	}
	holdCounts(t, l.counts(met))
}

// counts is the generated part of docs/conformance.md.
func (l *unsupportedList) counts(met map[string]conformanceOutcome) string {
	passed := map[string]int{}
	some := 0
	for _, o := range met {
		ways := 0
		for _, w := range conformanceWays {
			if o.ways[w.name] == "" {
				passed[w.name]++
				ways++
			}
		}
		switch ways {
		case len(conformanceWays):
			passed["every"]++
		case 0:
		default:
			some++
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Of %d models, %d pass in every way, %d in some, %d in none: %d with tensors in bytes, %d with tensors in JSON,\n"+
		"%d by `POST /predict`. Python's onnxruntime passes %d.\n\n", len(met), passed["every"], some, len(met)-passed["every"]-some,
		passed["binary"], passed["json"], passed["predict"], l.passed)
	b.WriteString("| Reason | Models | Python passes | Why |\n| --- | ---: | ---: | --- |\n")
	for _, r := range l.reasons {
		python := 0
		for _, name := range r.models {
			if l.reference[name] == "" {
				python++
			}
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %s |\n", r.key, len(r.models), python, r.words)
	}
	return b.String()
}

// holdCounts compares the part of the document between its two marks, or
// writes it.
func holdCounts(t *testing.T, want string) {
	t.Helper()
	const doc, from, to = "docs/conformance.md", "<!-- counts: made by TestConformance -->\n", "<!-- end of counts -->\n"
	text := readDoc(t, doc)
	before, rest, ok := strings.Cut(text, from)
	old, after, closed := strings.Cut(rest, to)
	switch {
	case !ok || !closed:
		t.Fatalf("%s lacks the marks of its counts", doc)
	case old == want:
	case *update:
		if err := os.WriteFile(filepath.Join(root, doc), []byte(before+from+want+to+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s has other counts than were met; go test ./cmd/modelgate -run TestConformance -update writes them. Met:\n%s", doc, want)
	}
}
