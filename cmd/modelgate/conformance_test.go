package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"modelgate/client"
)

var conformanceFolder = filepath.Join(root, "testdata", "conformance")

// TestConformance runs the conformance data of ONNX through the real program:
// every model is uploaded, asked in each way with every data set, and deleted.
//
// What does not pass must stand in unsupported.txt with its reason, and what
// stands there must not pass. Whatever Python's onnxruntime passes
// (reference.txt), the program passes, or refuses on purpose. The table of
// docs/conformance.md is held to the counts; -update writes it anew.
//
// With -short every 40th model is run.
func TestConformance(t *testing.T) {
	needRuntime(t)
	folder := conformanceData(t)
	cases := conformanceCases(t, folder)
	list := readUnsupported(t)
	if testing.Short() {
		cases = every(40, cases)
	}
	p := start(t, filepath.Join(t.TempDir(), "data"), "MODELGATE_RATE_PREDICT=1000000000-S", "MODELGATE_ACCESS_LOG=false",
		"LOCPATH="+t.TempDir()) // no locale but C, whatever this machine has
	tokens, err := p.anonymous().Login(t.Context(), "admin", adminPassword)
	if err != nil {
		t.Fatal(err)
	}
	// A run that nothing ends must not hold the test for as long.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	outcomes := make([]conformanceOutcome, len(cases))
	next := make(chan int)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for i := range next {
				outcomes[i] = conform(ctx, p, tokens.AccessToken, "m"+strconv.Itoa(i), &cases[i])
			}
		})
	}
	for i := range cases {
		next <- i
	}
	close(next)
	workers.Wait()

	met := map[string]conformanceOutcome{}
	for i := range cases {
		met[cases[i].name] = outcomes[i]
	}
	list.check(t, met)
	if !testing.Short() {
		list.checkWhole(t, met)
	}
}

// conformanceData fetches the data, or finds them fetched.
func conformanceData(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	fetch := exec.CommandContext(ctx, "sh", filepath.Join(conformanceFolder, "fetch.sh"))
	var stderr bytes.Buffer
	fetch.Stderr = &stderr
	out, err := fetch.Output()
	if err == nil {
		return strings.TrimSpace(string(out))
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("fetch.sh: %v\n%s", err, &stderr)
	}
	t.Skipf("the conformance data of ONNX can't be had from PyPI here: %v\n%s", err, &stderr)
	return ""
}

func every(n int, cases []onnxCase) (some []onnxCase) {
	for i := 0; i < len(cases); i += n {
		some = append(some, cases[i])
	}
	return some
}

// conformanceOutcome tells of one model what came of each way: "" where it
// passed, else a word of the list. detail is for people.
type conformanceOutcome struct {
	ways   map[string]string
	detail string
}

// conform uploads a model, asks it in each way, and deletes it.
func conform(ctx context.Context, p *program, token, name string, c *onnxCase) conformanceOutcome {
	o := conformanceOutcome{ways: map[string]string{}}
	all := func(outcome, detail string) conformanceOutcome {
		for _, w := range conformanceWays {
			o.ways[w.name] = outcome
		}
		o.detail = detail
		return o
	}
	model, err := os.ReadFile(c.path)
	if err != nil {
		return all("broken", err.Error())
	}
	user := p.with(token)
	v, err := user.Push(ctx, name, int64(len(model)), func() (io.Reader, error) { return bytes.NewReader(model), nil }, client.Spec{})
	var refusal *client.Error
	switch {
	case errors.As(err, &refusal):
		return all("upload:"+refusal.Code, refusal.Detail)
	case err != nil:
		return all("broken", err.Error())
	}
	if err := c.read(model); err != nil {
		return all("broken", err.Error())
	}
	for i := range c.sets {
		o.ask(ctx, p, token, name, &v, &c.sets[i])
	}
	if err := user.DeleteModel(ctx, name); err != nil {
		return all("broken", err.Error())
	}
	return o
}

// ask asks in each way. The first failure of a way is kept.
func (o *conformanceOutcome) ask(ctx context.Context, p *program, token, name string, v *client.Version, set *onnxSet) {
	var inBytes []onnxValue
	for _, w := range conformanceWays {
		got, outcome, detail := w.ask(ctx, p, token, name, v, set)
		switch {
		case outcome == "" && w.name == "binary":
			inBytes = got
		case outcome == "" && inBytes != nil:
			if err := sameNumbers(inBytes, got); err != nil {
				outcome, detail = "otherbits", err.Error()
			}
		}
		if o.ways[w.name] == "" && outcome != "" {
			o.ways[w.name] = outcome
			o.detail += w.name + ": " + detail + "; "
		}
	}
}
