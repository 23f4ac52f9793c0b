package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// copies is how many copies of a model are loaded to see what one of them takes.
const copies = 20

// cage is a way to run models: what it is to the flag, to the keys of loads and
// to readers, and how many processes a model has of its own.
type cage struct {
	isolation, server, title string
	processes                int
}

var cages = []cage{
	{"sandbox", "loads", "in the sandbox", 1},
	{"none", "loads inside", "in-process", 0},
}

func loadsKey(m model, server string) key { return key{server, m.name, 0} }

// loadSteps prepare a database with copies of a model, and return the steps that
// load them into a new server of each kind.
func (b *bench) loadSteps(ctx context.Context, m model) (steps []step, err error) {
	b.say("making %d copies of %s", copies+1, m.title)
	data := filepath.Join(b.folder, "copies of "+m.name)
	f, err := fillData(ctx, b.s, data, m, 1, copies+1)
	if err != nil {
		return nil, err
	}
	for _, c := range cages {
		steps = append(steps, step{loadsKey(m, c.server), func(ctx context.Context) (Result, error) {
			return b.loads(ctx, data, m, f, c)
		}})
	}
	return steps, nil
}

// loads starts a server, has it load the copies of a model one after the other
// by one request for each, and ends it. Its Result has the time that the server
// took for the loads, the CPU time of the requests, and the memory that the
// copies take after them. The first copy is not counted: with it goes what is
// needed once.
func (b *bench) loads(ctx context.Context, data string, m model, f filled, c cage) (result Result, err error) {
	gate, err := launchGate(ctx, b.s, data, "--no-access-log", "--isolation", c.isolation)
	if err != nil {
		return result, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, deaths([]*server{gate}))
		}
		gate.stop()
	}()
	if gate.admin, err = login(ctx, gate, "admin"); err != nil { // tokens are good for one address
		return result, err
	}
	wire, err := dialHTTP(gate.address)
	if err != nil {
		return result, err
	}
	defer wire.Close()
	load := func(n int) error {
		if err := wire.exchange(predictAs(gate, copyOf(m, n), f.Keys[0])); err != nil {
			return fmt.Errorf("copy %d: %w", n, err)
		}
		return nil
	}
	if err := load(0); err != nil {
		return result, err
	}
	before, err := loadedBy(gate)
	if err != nil {
		return result, err
	}
	for n := range copies {
		if err := load(n + 1); err != nil {
			return result, err
		}
	}
	after, err := loadedBy(gate)
	if err != nil {
		return result, err
	}
	if after.sessions != copies+1 || after.Requests != copies+1 {
		return result, fmt.Errorf("of %d models, %.0f are loaded after %d loads", copies+1, after.sessions, after.Requests)
	}
	if n := after.processes - before.processes; n != copies*c.processes {
		return result, fmt.Errorf("for %d models %s there are %d processes more", copies, c.title, n)
	}
	return Result{Requests: after.Requests - before.Requests, Seconds: after.Seconds - before.Seconds,
		CPU: after.CPU - before.CPU, Grown: after.Grown - before.Grown}, nil
}

// loaded is what a server has loaded in its life: how often (Requests), in which
// time, and what it takes now.
type loaded struct {
	Result
	sessions  float64 // loaded now
	processes int     // the server's own, and those of models
}

func loadedBy(at *server) (l loaded, err error) {
	var loads float64
	for name, into := range map[string]*float64{"load_seconds_count": &loads, "load_seconds_sum": &l.Seconds, "sessions": &l.sessions} {
		if *into, err = metric("http://"+at.address+"/admin/metrics", at.admin, "modelgate_inference_"+name); err != nil {
			return l, err
		}
	}
	l.Requests = int(loads)
	l.processes = len(family(at.pid()))
	cpu, err := cpuTime(at.pid())
	if err != nil {
		return l, err
	}
	l.CPU = cpu.Seconds()
	if l.Grown, err = memory(at.pid()); errors.Is(err, fs.ErrPermission) {
		return l, nil // the report says so
	}
	return l, err
}

// isolationRows are what the sandbox costs.
func (r *report) isolationRows() (rows []row) {
	for _, m := range r.Models {
		if m.inside {
			rows = append(rows, insideRows(m)...)
		}
	}
	for _, m := range r.Models {
		if m.copied {
			rows = append(rows, r.loadRows(m)...)
		}
	}
	return rows
}

// loadRows are what a loaded model takes, in both ways.
func (r *report) loadRows(m model) (rows []row) {
	for _, c := range cages {
		k := loadsKey(m, c.server)
		rows = append(rows,
			ratio(fmt.Sprintf("load of %s %s: ms", m.title, c.title), func(r round) float64 { return r[k].Seconds / float64(r[k].Requests) * 1000 }, k),
			ratio(fmt.Sprintf("load of %s %s: CPU ms, with its first request", m.title, c.title), func(r round) float64 { return r[k].CPUPerThousand() }, k))
	}
	for _, c := range cages {
		k := loadsKey(m, c.server)
		one := ratio(fmt.Sprintf("memory of one loaded %s %s: MiB", m.title, c.title),
			func(r round) float64 { return float64(r[k].Grown) / float64(r[k].Requests) / (1 << 20) }, k)
		if len(r.Rounds) > 0 && r.Rounds[0][k].Grown == 0 {
			one.missing = "only root may read /proc/PID/smaps_rollup of workers"
		}
		rows = append(rows, one)
	}
	return rows
}

// insideRows compare the default, a sandboxed worker, with in-process runs: for
// a tiny model the price may be a tenth, for larger ones it must be below what
// can be measured.
func insideRows(m model) (rows []row) {
	most := workerTarget
	if m.family != tiny {
		most = steady
	}
	for _, w := range ways[:2] {
		row := func(clients int, of string, figure func(with, without Result) float64) row {
			with, without := key{w.server, m.name, clients}, key{w.server + " inside", m.name, clients}
			return ratio(fmt.Sprintf("sandboxed worker against in-process, %s, %s, %s: %s", m.title, clientsOf(clients), w.title, of),
				func(r round) float64 { return figure(r[with], r[without]) }, with, without)
		}
		cpu := func(with, without Result) float64 { return with.CPUPerThousand() / without.CPUPerThousand() }
		rows = append(rows, atMost(row(m.clients(), "CPU per request", cpu), most))
		if m.family == tiny {
			rows = append(rows, row(alone, "CPU per request", cpu),
				row(alone, "p50, us more", func(with, without Result) float64 { return (with.P50 - without.P50) * 1000 }))
		}
	}
	return rows
}

// clientsOf words a number of clients.
func clientsOf(clients int) string {
	if clients == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", clients)
}
