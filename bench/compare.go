package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"modelgate/inference"
	"modelgate/inference/ort"
)

// compared are the models of the comparison, by name.
var compared = []string{"mlp_tiny", "mlp_dense", "squeezenet"}

// crowdOf is the number of clients that are more than a server has cores. An
// image is 1.6 MB of JSON, and 64 of them would measure how long a queue is.
func crowdOf(m model) int {
	if len(m.shape) == 4 {
		return 16
	}
	return crowd
}

// tolerance is how far an answer may lie from that of the runtime alone.
const tolerance = 1e-5

// entrant is a server that takes part.
type entrant struct {
	contender
	at     *server           // nil if it did not start
	why    string            // it did not start
	broken map[key]string    // why a load could not be measured
	sent   map[string][]byte // requests by body and model
}

// comparison is all that was measured of several servers.
type comparison struct {
	report
	Entrants []*entrant
	Runtime  string // version of ONNX Runtime in this process
}

// compare measures modelgate and the servers that bench/compare/install.sh
// tells of, and writes the table.
func compare(ctx context.Context, s settings, servers string) error {
	folder, err := os.MkdirTemp("", "modelgate-compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := adoptOrphans(); err != nil {
		return err
	}
	defer killStrays()
	c, err := newComparison(ctx, s, folder, servers)
	if err != nil {
		return err
	}
	defer c.stop()
	for i := range s.rounds {
		fmt.Fprintf(os.Stderr, "bench: round %d of %d\n", i+1, s.rounds)
		one, err := c.round(ctx, s, i)
		if err != nil {
			return err
		}
		c.Rounds = append(c.Rounds, one)
	}
	c.Took = time.Since(c.Begun)
	text := c.markdown()
	fmt.Print(text)
	if s.docs == "" {
		return nil
	}
	document, err := os.ReadFile(s.docs)
	if err != nil {
		return err
	}
	written, err := betweenMarks(string(document), compareBegin, compareEnd, text)
	if err != nil {
		return fmt.Errorf("%s: %w", s.docs, err)
	}
	return os.WriteFile(s.docs, []byte(written), 0o644)
}

// newComparison starts all servers and holds their answers against those of
// the runtime alone.
func newComparison(ctx context.Context, s settings, folder, servers string) (*comparison, error) {
	c := &comparison{report: report{Begun: time.Now(), Load: loadAverage()}}
	var files []string
	for _, name := range compared {
		at := slices.IndexFunc(measured, func(m model) bool { return m.name == name })
		if at < 0 {
			return nil, fmt.Errorf("the model %q of the comparison is not among those measured", name)
		}
		if s.only == "" || s.only == name {
			c.Models = append(c.Models, measured[at])
			files = append(files, s.fileOf(measured[at]))
		}
	}
	if len(c.Models) == 0 {
		return nil, fmt.Errorf("no model of the comparison is called %q", s.only)
	}
	want, version, err := references(files)
	if err != nil {
		return nil, err
	}
	c.Runtime = version
	gate, err := startGate(ctx, s, filepath.Join(folder, "gate"), c.Models, "--access-log")
	if err != nil {
		return nil, err
	}
	c.Entrants = []*entrant{{contender: ours, at: gate}}
	pythons := pythonsOf(servers)
	for _, other := range others {
		e := &entrant{contender: other}
		c.Entrants = append(c.Entrants, e)
		fmt.Fprintln(os.Stderr, "bench: starting", other.title)
		// More than once, as PyTriton gives its own processes a second to find
		// each other, which is little on a busy machine.
		for range 4 {
			if e.at, err = other.start(ctx, pythons[other.name], filepath.Join(folder, other.name), files); err == nil {
				break
			}
			e.at, e.why = nil, err.Error()
			killStrays(c.servers()...)
		}
	}
	for _, e := range c.Entrants {
		e.prepare(ctx, c.Models, want)
	}
	if len(c.Entrants[0].broken) > 0 { // nothing to compare with
		c.stop()
		return nil, fmt.Errorf("modelgate: %v", c.Entrants[0].broken)
	}
	return c, nil
}

// servers are those that run.
func (c *comparison) servers() (list []*server) {
	for _, e := range c.Entrants {
		if e.at != nil {
			list = append(list, e.at)
		}
	}
	return list
}

func (c *comparison) stop() {
	for _, s := range c.servers() {
		s.stop()
	}
}

// round loads every server with every model, one after the other. Each round
// begins with another server, so that none always follows the same one.
func (c *comparison) round(ctx context.Context, s settings, n int) (round, error) {
	one := round{}
	for _, m := range c.Models {
		duration := s.duration
		if len(m.shape) == 4 {
			duration *= 2 // there are few answers a second
		}
		raw, err := childResult(ctx, nil, "raw", s.fileOf(m), s.warmup.String(), s.duration.String())
		if err != nil {
			return nil, err
		}
		one[key{server: "raw", model: m.name}] = raw
		for _, clients := range []int{crowdOf(m), alone} {
			for i := range c.Entrants {
				e := c.Entrants[(i+n)%len(c.Entrants)]
				for _, b := range e.bodies {
					e.measure(ctx, one, b, m.name, plan{Clients: clients, Warmup: s.warmup, Duration: duration, Lenient: true})
					if err := ctx.Err(); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	return one, nil
}

// measure is one load on one server. One that breaks is not tried again.
func (e *entrant) measure(ctx context.Context, one round, b body, model string, p plan) {
	k := key{server: e.name + "/" + b.name, model: model, clients: p.Clients}
	if e.at == nil || e.broken[key{server: k.server, model: model}] != "" || e.broken[k] != "" {
		return
	}
	p.Address, p.PID, p.Request = e.at.address, e.at.pid(), e.sent[b.name+"/"+model]
	result, err := loadChild(ctx, p)
	if err != nil {
		e.broken[k] = err.Error()
		return
	}
	one[k] = result
}

// prepare writes the requests and checks that they are answered as the runtime
// alone answers. What is not, is noted with no number of clients.
func (e *entrant) prepare(ctx context.Context, models []model, want map[string][]float64) {
	e.broken, e.sent = map[key]string{}, map[string][]byte{}
	if e.at == nil {
		return
	}
	for _, b := range e.bodies {
		for _, m := range models {
			request := b.request(e.at, m)
			e.sent[b.name+"/"+m.name] = request
			got, err := ask(ctx, e.at.address, request, b.numbers)
			if err == nil {
				err = near(got, want[m.name])
			}
			if err != nil {
				e.broken[key{server: e.name + "/" + b.name, model: m.name}] = err.Error()
			}
		}
	}
}

// near tells where two answers differ by more than the tolerance.
func near(got, want []float64) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d numbers were answered, not %d", len(got), len(want))
	}
	for i := range want {
		if !(math.Abs(got[i]-want[i]) <= tolerance) { // so that NaN is far from all
			return fmt.Errorf("number %d of the answer is %g, not %g", i, got[i], want[i])
		}
	}
	return nil
}

// references are the first outputs of models of one input, as the runtime in
// this process computes them, and its version.
func references(files []string) (want map[string][]float64, version string, err error) {
	library, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB"))
	if err != nil {
		return nil, "", err
	}
	mem := inference.NewMemory(1 << 30)
	engine, err := ort.Open(library, ort.Config{Memory: mem})
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	want = map[string][]float64{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".onnx")
		if want[name], err = reference(engine, mem, file); err != nil {
			return nil, "", fmt.Errorf("%s: %w", name, err)
		}
	}
	return want, engine.Version(), nil
}

func reference(engine *ort.Engine, mem *inference.Memory, file string) (list []float64, err error) {
	model, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	session, err := engine.Load(context.Background(), model, inference.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	graph := session.Graph()
	in, err := inference.NewTensor(mem, graph.Inputs[0].Type, oneRow(graph.Inputs[0].Shape))
	if err != nil {
		return nil, err
	}
	defer in.Release()
	copy(in.Data, littleEndian(values(int64(in.Len()))))
	out, err := session.Run(context.Background(), []inference.Tensor{in}, []int{0})
	if err != nil {
		return nil, err
	}
	defer out[0].Release()
	return fromLittleEndian(out[0].Tensor.Data), nil
}
