package models

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const testdata = "../testdata"

// runtimeCodes of the manifest are found by loading and running, not by
// looking.
var runtimeCodes = []string{"load_failed", "load_timeout", "run_timeout", "run_failed"}

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
	if err := json.Unmarshal(readFile(t, filepath.Join(testdata, "hostile", "manifest.json")), &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest) < 30 {
		t.Fatalf("the manifest lists only %d files", len(manifest))
	}
	for _, entry := range manifest {
		t.Run(entry.File, func(t *testing.T) {
			want := entry.Code
			if slices.Contains(runtimeCodes, want) {
				want = ""
			}
			_, _, err := Verify(readFile(t, filepath.Join(testdata, "hostile", entry.File)), Limits{})
			if got := codeOf(t, err); got != want {
				t.Errorf("%s: code %q, want %q (%v)", entry.Why, got, want, err)
			}
			if err != nil {
				t.Log(err)
			}
		})
	}
}

func TestVerifySamples(t *testing.T) {
	paths, _ := filepath.Glob(testdata + "/*.onnx")
	for _, p := range paths {
		g, f, err := Verify(readFile(t, p), Limits{})
		t.Logf("%s %+v %+v %v", p, g, f, err)
	}
}
