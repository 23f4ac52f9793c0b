package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"modelgate/client"
)

// The clients that users of Triton and of KServe have, and gRPC's own for
// health and reflection.
var (
	tritonClient = []string{"tritonclient[grpc,http]==2.73.0", "grpcio-health-checking==1.81.1", "grpcio-reflection==1.81.1"}
	kserveClient = []string{"kserve==0.21.0"}
)

// TestTritonClient runs Python's tritonclient against the real program, over
// REST and gRPC, as a user with no rights but his models.
func TestTritonClient(t *testing.T) {
	python := venv(t, tritonClient...)
	p, token := forClients(t)
	boss, err := p.anonymous().Login(t.Context(), "admin", adminPassword)
	if err != nil {
		t.Fatal(err)
	}
	cases := filepath.Join(root, "testdata", "cases")
	for _, c := range []struct {
		name, last string
		arguments  []string
	}{
		{"triton_client.py", "refusals\n", []string{strings.TrimPrefix(p.url, "http://"), token, cases}},
		{"triton_grpc_client.py", "reflection\n", []string{p.grpcAddress(), token, boss.AccessToken, cases}},
	} {
		t.Run(c.name, func(t *testing.T) { runScript(t, python, c.last, c.name, c.arguments...) })
	}
}

// TestKServeClient does the same with the clients of KServe.
func TestKServeClient(t *testing.T) {
	python := venv(t, kserveClient...)
	p, token := forClients(t)
	runScript(t, python, " answers\n", "kserve_client.py", p.url, p.grpcAddress(), token, filepath.Join(root, "testdata", "cases"))
}

// TestClientExamples runs what the documents tell users of these clients to
// write. Each prints the one label that stands behind it.
func TestClientExamples(t *testing.T) {
	p, token := forClients(t)
	addresses := strings.NewReplacer(exampleURL, p.url, "127.0.0.1:8080", strings.TrimPrefix(p.url, "http://"), "127.0.0.1:8081", p.grpcAddress())
	count := 0
	for _, name := range []string{"README.md", "docs/api.md"} {
		for _, b := range blocks(readDoc(t, name)) {
			if b.kind != "py" {
				continue
			}
			count++
			t.Run(fmt.Sprintf("%s:%d", filepath.Base(name), b.line), func(t *testing.T) {
				packages := tritonClient
				if strings.Contains(b.text, "kserve") {
					packages = kserveClient
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				cmd := exec.CommandContext(ctx, venv(t, packages...), "-c", addresses.Replace(b.text))
				cmd.Env = append(os.Environ(), "TOKEN="+token, "IRIS_KEY="+token)
				if out, err := cmd.Output(); err != nil || string(out) != "[0]\n" || !strings.Contains(b.text, "# [0]") {
					t.Errorf("%v, printed %q", err, out)
				}
			})
		}
	}
	if count < 5 {
		t.Errorf("%d examples were found", count)
	}
}

// forClients starts the program with models of all kinds, and returns the
// token of a user who may call them.
func forClients(t *testing.T) (*program, string) {
	t.Helper()
	p := start(t, filepath.Join(t.TempDir(), "data"), "MODELGATE_DEMO=true", "MODELGATE_GRPC_LISTEN=127.0.0.1:0")
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
	return p, tokens.AccessToken
}

// runScript runs a client's script of testdata to its last line.
func runScript(t *testing.T, python, last, name string, arguments ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, python, append([]string{filepath.Join("testdata", name)}, arguments...)...).CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), last) {
		t.Errorf("the client's script: %v\n%s", err, out)
	}
}

// grpcAddress is where the program said that it speaks gRPC.
func (p *program) grpcAddress() string {
	p.t.Helper()
	said := regexp.MustCompile(`"grpc":"([^"]+)"`).FindStringSubmatch(p.output())
	if said == nil {
		p.t.Fatalf("the server did not tell its gRPC address:\n%s", p.output())
	}
	return said[1]
}

// venv returns the Python of a virtual environment with the packages in it,
// kept in the user's cache. Where they can't be had the test is skipped, but
// not under CI.
func venv(t *testing.T, packages ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it installs packages")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	cache = filepath.Join(cache, "modelgate")
	kept := filepath.Join(cache, fmt.Sprintf("clients-%x", sha256.Sum256([]byte(strings.Join(packages, " ")))))
	python := filepath.Join(kept, "bin", "python")
	if _, err := os.Stat(python); err == nil {
		return python
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	// Elsewhere first, so that what is kept is whole.
	folder, err := os.MkdirTemp(cache, "clients-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	install := append([]string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--only-binary", ":all:"}, packages...)
	for _, step := range [][]string{{"python3", "-m", "venv", folder}, append([]string{filepath.Join(folder, "bin", "python")}, install...)} {
		out, err := exec.CommandContext(ctx, step[0], step[1:]...).CombinedOutput()
		if err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v: %v\n%s", step, err, out)
		}
		t.Skipf("%s can't be installed from PyPI here: %v\n%s", strings.Join(packages, " "), err, out)
	}
	if err := os.Rename(folder, kept); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	return python
}
