package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modelgate/client"
)

// tritonClient is the client that users of Triton have.
const tritonClient = "tritonclient[http]==2.73.0"

// TestTritonClient runs Python's tritonclient against the real program, as a
// user with no rights but his models.
func TestTritonClient(t *testing.T) {
	if testing.Short() {
		t.Skip("it installs packages")
	}
	python := venv(t, tritonClient)
	p := start(t, filepath.Join(t.TempDir(), "data"), "MODELGATE_DEMO=true")
	admin := p.admin()
	for _, name := range []string{"half", "bfloat", "types"} {
		push(t, admin, name, modelBytes(t, name+".onnx"), client.Spec{Roles: []string{"user"}})
	}
	if _, err := p.anonymous().Register(t.Context(), "alice", "an unusual phrase 93"); err != nil {
		t.Fatal(err)
	}
	tokens, err := p.anonymous().Login(t.Context(), "alice", "an unusual phrase 93")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	script := exec.CommandContext(ctx, python, filepath.Join("testdata", "triton_client.py"),
		strings.TrimPrefix(p.url, "http://"), tokens.AccessToken, filepath.Join(root, "testdata", "cases"))
	out, err := script.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "refusals\n") {
		t.Errorf("the client's script: %v\n%s", err, out)
	}
}

// venv returns the Python of a new virtual environment with the packages in
// it. Where they can't be had the test is skipped, but not under CI.
func venv(t *testing.T, packages ...string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "venv")
	python := filepath.Join(folder, "bin", "python")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	install := append([]string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"}, packages...)
	for _, step := range [][]string{append([]string{"python3"}, "-m", "venv", folder), append([]string{python}, install...)} {
		out, err := exec.CommandContext(ctx, step[0], step[1:]...).CombinedOutput()
		if err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v: %v\n%s", step, err, out)
		}
		t.Skipf("%s can't be installed from PyPI here: %v\n%s", strings.Join(packages, " "), err, out)
	}
	return python
}
