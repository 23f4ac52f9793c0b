package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// model is one that is measured.
type model struct {
	name  string // as published, and as the file is called
	title string
	input string  // public name of its one input
	shape []int64 // of one row
	tiny  bool    // compared with the yardstick; others with the raw runtime
}

var measured = []model{
	{"iris", "iris (logistic regression)", "X", []int64{1, 4}, true},
	{"mlp_tiny", "MLP 4-16-3", "x", []int64{1, 4}, true},
	{"mlp_dense", "dense MLP, 6 MB", "x", []int64{1, 256}, false},
	{"squeezenet", "SqueezeNet", "x", []int64{1, 3, 224, 224}, false},
}

// crowd is the load of most rows; alone is one client.
const crowd, alone = 64, 1

// key names a measurement within a round. The servers are "hello", "gate",
// "quiet" (the gate without its access log) and "raw".
type key struct {
	server, model string
	clients       int
}

// round holds what was measured one right after the other.
type round map[key]Result

// measure runs all rounds. All servers live from the first to the last, and
// only one is under load at any time.
func measure(ctx context.Context, s settings) (*report, error) {
	folder, err := os.MkdirTemp("", "modelgate-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	r := &report{Begun: time.Now(), Load: loadAverage()}
	for _, m := range measured {
		if s.only == "" || s.only == m.name {
			r.Models = append(r.Models, m)
		}
	}
	if len(r.Models) == 0 {
		return nil, fmt.Errorf("no model is called %q", s.only)
	}
	hello, err := startHello(ctx, s.hello)
	if err != nil {
		return nil, err
	}
	defer hello.stop()
	gate, err := startGate(ctx, s, filepath.Join(folder, "gate"), r.Models, "--access-log")
	if err != nil {
		return nil, err
	}
	defer gate.stop()
	quiet, err := startGate(ctx, s, filepath.Join(folder, "quiet"), r.Models[:1], "--no-access-log")
	if err != nil {
		return nil, err
	}
	defer quiet.stop()
	for i := range s.rounds {
		fmt.Fprintf(os.Stderr, "bench: round %d of %d\n", i+1, s.rounds)
		one := round{}
		if err := one.run(ctx, s, r.Models, hello, gate, quiet); err != nil {
			return nil, err
		}
		r.Rounds = append(r.Rounds, one)
	}
	r.Took = time.Since(r.Begun)
	return r, nil
}

// run is one round. What is divided by each other is measured in neighbouring
// moments.
func (r round) run(ctx context.Context, s settings, models []model, hello, gate, quiet *server) (err error) {
	under := func(k key, at *server, request []byte) {
		if err == nil {
			r[k], err = loadChild(ctx, plan{Address: at.address, PID: at.pid(), Request: request,
				Clients: k.clients, Warmup: s.warmup, Duration: s.duration})
			if err != nil {
				err = fmt.Errorf("%s, %s, %d clients: %w", k.server, k.model, k.clients, err)
			}
		}
	}
	for i, m := range models {
		file := s.fileOf(m)
		if m.tiny {
			under(key{"hello", m.name, crowd}, hello, get(hello.address))
		}
		under(key{"gate", m.name, crowd}, gate, predict(gate, m))
		if i == 0 {
			under(key{"quiet", m.name, crowd}, quiet, predict(quiet, m))
		}
		if err == nil {
			r[key{"raw", m.name, 0}], err = childResult(ctx, nil, "raw", file, s.warmup.String(), s.duration.String())
		}
		if m.tiny {
			under(key{"hello", m.name, alone}, hello, get(hello.address))
		}
		under(key{"gate", m.name, alone}, gate, predict(gate, m))
	}
	return err
}

// fileOf is where a model lies: iris with the test data, the others where the
// script put them.
func (s settings) fileOf(m model) string {
	if m.name == "iris" {
		return filepath.Join("testdata", "iris.onnx")
	}
	return filepath.Join(s.models, m.name+".onnx")
}

func get(address string) []byte {
	return []byte("GET / HTTP/1.1\r\nHost: " + address + "\r\n\r\n")
}

// predict is one row of JSON with a token.
func predict(s *server, m model) []byte {
	body := fmt.Appendf(nil, `{"model":%q,"inputs":{%q:`, m.name, m.input)
	n := int64(1)
	for _, d := range m.shape {
		n *= d
	}
	numbers := values(n)
	body = append(nested(body, m.shape, &numbers), "}}"...)
	head := fmt.Sprintf("POST /predict HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n", s.address, s.token, len(body))
	return append([]byte(head), body...)
}

// nested writes the next of the numbers as arrays of that shape.
func nested(b []byte, shape []int64, numbers *[]float32) []byte {
	if len(shape) == 0 {
		b = strconv.AppendFloat(b, float64((*numbers)[0]), 'g', -1, 32)
		*numbers = (*numbers)[1:]
		return b
	}
	b = append(b, '[')
	for i := range shape[0] {
		if i > 0 {
			b = append(b, ',')
		}
		b = nested(b, shape[1:], numbers)
	}
	return append(b, ']')
}

// loadChild runs the load generator in a process of its own.
func loadChild(ctx context.Context, p plan) (Result, error) {
	input, err := json.Marshal(p)
	if err != nil {
		return Result{}, err
	}
	return childResult(ctx, input, "load")
}

func childResult(ctx context.Context, input []byte, args ...string) (result Result, err error) {
	self, err := os.Executable()
	if err != nil {
		return result, err
	}
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &errs
	cmd.Env = append(os.Environ(), childVariable+"=1")
	out, err := cmd.Output()
	if err != nil {
		return result, fmt.Errorf("%w: %s", err, bytes.TrimSpace(errs.Bytes()))
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return result, err
	}
	if result.Requests == 0 {
		return result, errors.New("nothing was answered within the time; raise -duration")
	}
	return result, nil
}

// childVariable tells a test binary that it was started as a child.
const childVariable = "MODELGATE_BENCH_CHILD"
