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
	"slices"
	"time"
)

// key names a measurement within a round. The servers are "hello" and "bare"
// (the yardsticks), "raw" (no server), "gate" (modelgate, POST /predict),
// "binary" (modelgate, Open Inference Protocol over REST, binary both ways),
// "gate inside" and "binary inside" (the same with models in the server's
// process), "grpc" (the same protocol over gRPC), "quiet" (gate without its
// access log), "cost" (the benchmark of the gate's parts), "cost redis"
// (the same with rates in Redis), "loads" and "loads
// inside" (loads of a model's copies), and what grows, whose model is its
// number.
type key struct {
	server, model string
	clients       int
}

// round holds what was measured one right after the other.
type round map[key]Result

// step is one measurement of a round.
type step struct {
	key key
	run func(context.Context) (Result, error)
}

// bench is a run: servers that live from the first round to the last, of which
// only one is under load at any time.
type bench struct {
	s       settings
	r       *report
	folder  string
	servers []*server
	hello   *server
	bare    *server
	gate    *server
	inside  *server // gate with --isolation=none
	quiet   *server
}

// say tells how far the run has come.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: %4.0f s: %s\n", time.Since(b.r.Begun).Seconds(), fmt.Sprintf(format, args...))
}

// measure runs all rounds.
func measure(ctx context.Context, s settings) (r *report, err error) {
	folder, err := os.MkdirTemp("", "modelgate-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	r = &report{Begun: time.Now(), Load: loadAverage(), Missing: map[string]string{}}
	if r.Models, err = s.chosen(); err != nil {
		return nil, err
	}
	if s.grows() {
		r.Growths = s.growths()
	}
	b := &bench{s: s, r: r, folder: folder}
	defer func() { stopAll(b.servers) }()
	steps, err := b.prepare(ctx)
	if err != nil {
		return nil, err
	}
	for i := range s.rounds {
		one := round{}
		for j, step := range steps {
			b.say("round %d of %d, %d of %d: %s", i+1, s.rounds, j+1, len(steps), r.title(step.key))
			if one[step.key], err = step.run(ctx); err != nil {
				return nil, errors.Join(fmt.Errorf("%s, %d clients: %w", r.title(step.key), step.key.clients, err), deaths(b.servers))
			}
		}
		r.Rounds = append(r.Rounds, one)
	}
	r.Took = time.Since(r.Begun)
	return r, nil
}

// prepare starts the servers and returns what each round measures. What is
// divided by each other is measured in neighbouring moments.
func (b *bench) prepare(ctx context.Context) (steps []step, err error) {
	b.say("starting the servers and publishing the models")
	keep := func(at *server, err error) (*server, error) {
		if err == nil {
			b.servers = append(b.servers, at)
		}
		return at, err
	}
	if b.hello, err = keep(startYardstick(ctx, filepath.Join(b.folder, "hello.log"), b.s.hello)); err != nil {
		return nil, err
	}
	if len(b.r.Models) > 0 {
		if b.gate, err = keep(startGate(ctx, b.s, filepath.Join(b.folder, "gate"), b.r.Models, "--access-log")); err != nil {
			return nil, err
		}
		b.r.Missing = b.gate.missing
	}
	if within := slices.DeleteFunc(slices.Clone(b.r.Models), func(m model) bool { return !m.inside }); len(within) > 0 {
		if b.inside, err = keep(startGate(ctx, b.s, filepath.Join(b.folder, "inside"), within, "--access-log", "--isolation=none")); err != nil {
			return nil, err
		}
	}
	for i, m := range b.r.Models {
		if i == 0 && m.family == tiny {
			if b.bare, err = keep(startYardstick(ctx, filepath.Join(b.folder, "bare.log"), b.s.bare, b.s.fileOf(m))); err != nil {
				return nil, err
			}
			if b.quiet, err = keep(startGate(ctx, b.s, filepath.Join(b.folder, "quiet"), []model{m}, "--no-access-log")); err != nil {
				return nil, err
			}
		}
		if b.r.Missing[m.name] == "" {
			steps = append(steps, b.modelSteps(m, i == 0)...)
		}
		if m.copied {
			more, err := b.loadSteps(ctx, m)
			if err != nil {
				return nil, err
			}
			steps = append(steps, more...)
		}
	}
	if b.s.grows() {
		more, err := b.growthSteps(ctx)
		if err != nil {
			return nil, err
		}
		steps = append(steps, more...)
	}
	return steps, nil
}

// modelSteps are what is measured of one model. The first tiny one is measured
// in every way there is.
func (b *bench) modelSteps(m model, first bool) (steps []step) {
	add := func(k key, p plan) {
		steps = append(steps, step{k, func(ctx context.Context) (Result, error) { return loadChild(ctx, p) }})
	}
	counted := b.counted
	if m.family == networks {
		// So few requests that other allocations of the process would show.
		counted = func(p plan) plan { return p }
	}
	call := func(clients int) {
		add(key{"gate", m.name, clients}, counted(b.plan(b.gate, predict(b.gate, m), clients)))
		if m.inside {
			add(key{"gate inside", m.name, clients}, b.plan(b.inside, predict(b.inside, m), clients))
		}
		if m.family == tiny && first && clients > alone {
			add(key{"quiet", m.name, clients}, b.plan(b.quiet, predict(b.quiet, m), clients))
			add(key{"bare", m.name, clients}, b.plan(b.bare, predict(b.bare, m), clients))
		}
		if m.family == tiny && !first {
			return
		}
		add(key{"binary", m.name, clients}, counted(b.plan(b.gate, infer(b.gate, m), clients)))
		if m.inside {
			add(key{"binary inside", m.name, clients}, b.plan(b.inside, infer(b.inside, m), clients))
		}
		if b.gate.grpc != "" {
			p := counted(b.plan(b.gate, inferMessage(m), clients))
			p.Address, p.GRPC, p.Token = b.gate.grpc, true, b.gate.token
			add(key{"grpc", m.name, clients}, p)
		}
	}
	if m.family == tiny {
		add(key{"hello", m.name, crowd}, b.plan(b.hello, get(b.hello.address), crowd))
	}
	if m.maxBatch == 0 {
		steps = append(steps, step{key{"raw", m.name, 0}, func(ctx context.Context) (Result, error) {
			return childResult(ctx, nil, "raw", b.s.fileOf(m), b.s.warmup.String(), b.s.duration.String())
		}})
	}
	call(m.clients())
	if m.family == tiny && first {
		if b.s.cost != "" {
			steps = append(steps, step{key{"cost", m.name, 0}, b.costBy("BenchmarkGate")})
			if hasRedis() {
				steps = append(steps, step{key{"cost redis", m.name, 0}, b.costBy("BenchmarkGateRedis")})
			}
		}
		add(key{"hello", m.name, alone}, b.plan(b.hello, get(b.hello.address), alone))
		call(alone)
	}
	if m.family == dense {
		add(key{"gate", m.name, alone}, b.plan(b.gate, predict(b.gate, m), alone))
	}
	return steps
}

func (b *bench) plan(at *server, request []byte, clients int) plan {
	return plan{Address: at.address, PID: at.pid(), Request: request, Clients: clients, Warmup: b.s.warmup, Duration: b.s.duration}
}

// counted has the gate's allocations counted.
func (b *bench) counted(p plan) plan {
	p.Metrics, p.Reader = "http://"+b.gate.address+"/admin/metrics", b.gate.admin
	return p
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
