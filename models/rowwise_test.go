package models

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rowwiseCase is an entry of testdata/rowwise.json; see make_rowwise.py there.
type rowwiseCase struct {
	Name   string
	Proved bool
	Model  []byte
}

func rowwiseCases(t testing.TB) []rowwiseCase {
	t.Helper()
	data, err := os.ReadFile("../testdata/rowwise.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []rowwiseCase
	if err := json.Unmarshal(data, &cases); err != nil || len(cases) < 200 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	return cases
}

// Every rule, both ways. What is proved here is run, with other rows poisoned,
// in inference/ort.
func TestRowWise(t *testing.T) {
	for _, c := range rowwiseCases(t) {
		if _, _, err := Verify(c.Model, Limits{}); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		proved, reason := RowWise(c.Model)
		if proved != c.Proved {
			t.Errorf("%s: proved %v (%s)", c.Name, proved, reason)
		}
		if proved != (reason == "") || strings.Contains(reason, "can't be read") {
			t.Errorf("%s: the reason is %q", c.Name, reason)
		}
	}
}

func TestRowWiseSamples(t *testing.T) {
	for name, want := range map[string]string{
		"bfloat": "", "defaults": "", "digits": "", "divide": "", "dynamic": "", "half": "", "ints": "", "iris": "", "iris_v2": "",
		"two_io": "", "types": "", "zipmap_strings": "",
		"rowmix": `"ReduceMax"`, "canary": `"GatherND"`, "sentiment": `"StringNormalizer"`, "sequence": `"SplitToSequence"`,
		"scalar": "no rows", "slow_run": "fixed number of rows",
	} {
		data, err := os.ReadFile(filepath.Join("../testdata", name+".onnx"))
		if err != nil {
			t.Fatal(err)
		}
		if proved, reason := RowWise(data); proved != (want == "") || !strings.Contains(reason, want) {
			t.Errorf("%s: proved %v (%s)", name, proved, reason)
		}
	}
}
