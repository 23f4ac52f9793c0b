package main

import (
	"fmt"
	"slices"
)

// Targets that the plots show as well: CPU per request over gin hello's, and
// requests per second over raw runs.
const tinyTarget, denseTarget = 1.45, 1.1

// workerTarget is that of CPU per request of a tiny model in its worker over
// that in the server's process.
const workerTarget = 1.1

// row is a ratio, or another figure that the table of targets asks for.
type row struct {
	what    string
	target  string  // as written; "": none
	most    float64 // the target as a number, whichever of the two is not 0
	least   float64 //
	of      func(r round) float64
	needs   []key  // what it is computed from
	missing string // why it is not measured, where that is known beforehand
}

// cpuOver is the CPU time of a request of a over that of b.
func cpuOver(a, b key) func(round) float64 {
	return func(r round) float64 { return r[a].CPUPerThousand() / r[b].CPUPerThousand() }
}

func atMost(r row, most float64) row {
	r.most, r.target = most, fmt.Sprintf("<= %.4g", most)
	return r
}

func atLeast(r row, least float64) row {
	r.least, r.target = least, fmt.Sprintf(">= %.4g", least)
	return r
}

// ratio is a row of two measurements.
func ratio(what string, of func(round) float64, needs ...key) row {
	return row{what: what, of: of, needs: needs}
}

// rows are those of the models that were measured, and of the table of targets.
func (r *report) rows() []row {
	var all []row
	for i, m := range r.Models {
		switch m.family {
		case tiny:
			all = append(all, tinyRows(m, i == 0)...)
		case dense:
			all = append(all, denseRows(m, r.Missing[m.name])...)
		case networks:
			all = append(all, networkRows(m)...)
		}
	}
	all = append(all, r.isolationRows()...)
	return append(all, r.growthRows()...)
}

func tinyRows(m model, first bool) []row {
	hello := key{"hello", m.name, crowd}
	gate, binary, grpc := key{"gate", m.name, crowd}, key{"binary", m.name, crowd}, key{"grpc", m.name, crowd}
	quiet, bare, cost := key{"quiet", m.name, crowd}, key{"bare", m.name, crowd}, key{"cost", m.name, 0}
	shared := key{"cost redis", m.name, 0}
	over := func(what string, k key) row {
		return ratio(m.title+", 64 clients, "+what+": CPU per request / gin hello's", cpuOver(k, hello), k, hello)
	}
	rows := []row{atMost(over("JSON", gate), tinyTarget)}
	if !first {
		return rows
	}
	micros := func(k key) func(round) float64 { return func(r round) float64 { return r[k].CPUPerThousand() * 1000 } }
	return append(rows,
		atMost(over("binary", binary), tinyTarget),
		over("gRPC", grpc),
		over("JSON, without the access log", quiet),
		over("JSON, without a gate (the bare server)", bare),
		atMost(ratio("authentication, authorisation, limit and audit: CPU us per request, their parts in a row", micros(cost), cost), 2),
		ratio("authentication, authorisation, limit and audit, with rates in Redis: CPU us per request, Redis's own apart", micros(shared), shared),
		ratio("authentication, authorisation, limit and audit, with rates in Redis: us that one caller waits",
			func(r round) float64 { return r[shared].Seconds / float64(r[shared].Requests) * 1e6 }, shared),
		ratio("all that modelgate does and the bare server does not, access log apart: CPU us per request",
			func(r round) float64 { return micros(quiet)(r) - micros(bare)(r) }, quiet, bare),
		atMost(ratio("allocations per tiny request, JSON", func(r round) float64 { return r[gate].Allocations() }, gate), 31),
		ratio("allocations per tiny request, binary", func(r round) float64 { return r[binary].Allocations() }, binary),
		ratio("allocations per tiny request, gRPC", func(r round) float64 { return r[grpc].Allocations() }, grpc),
	)
}

// ways are how a prediction is asked for.
var ways = []struct{ server, title string }{{"gate", "JSON"}, {"binary", "binary"}, {"grpc", "gRPC"}}

func denseRows(m model, missing string) (rows []row) {
	raw := key{"raw", baseName(m), 0}
	for _, w := range ways {
		k := key{w.server, m.name, crowd}
		r := ratio(m.title+", 64 clients, "+w.title+": requests/s / raw runs/s",
			func(r round) float64 { return r[k].PerSecond() / r[raw].PerSecond() }, k, raw)
		r.missing = missing
		if m.maxBatch > 0 {
			r = atLeast(r, denseTarget)
		}
		rows = append(rows, r)
	}
	if m.maxBatch > 0 {
		// Nobody waits for company.
		lone, single := key{"gate", m.name, alone}, key{"gate", baseName(m), alone}
		r := ratio(m.title+", 1 client, JSON: p50 / without batches", func(r round) float64 { return r[lone].P50 / r[single].P50 }, lone, single)
		r.missing = missing
		rows = append(rows, r)
	}
	return rows
}

// baseName is the model whose raw runs a model is compared with.
func baseName(m model) string {
	if m.file != "" {
		return m.file
	}
	return m.name
}

// networkTargets are those of raw CPU / served CPU.
var networkTargets = map[string]struct{ binary, json float64 }{
	"squeezenet":  {0.88, 0.46},
	"mobilenetv2": {0.88, 0.46},
	"resnet50":    {0.95, 0.88},
}

func networkRows(m model) (rows []row) {
	raw, target := key{"raw", m.name, 0}, networkTargets[m.name]
	for _, w := range ways {
		k := key{w.server, m.name, several}
		r := ratio(fmt.Sprintf("%s, %d clients, %s: raw CPU / served CPU", m.title, several, w.title), cpuOver(raw, k), raw, k)
		switch {
		case w.server == "binary" && target.binary > 0:
			r = atLeast(r, target.binary)
		case w.server == "gate" && target.json > 0:
			r = atLeast(r, target.json)
		}
		rows = append(rows, r)
	}
	return rows
}

// steady is how much more a request may cost where the target says that it costs
// the same: what two measurements of the same thing differ by.
const steady = 1.1

func (r *report) growthRows() (rows []row) {
	for _, g := range r.Growths {
		few := g.key(g.counts[0])
		for _, n := range g.counts[1:] {
			many := g.key(n)
			one := ratio(fmt.Sprintf("CPU per request, %s: %s / %s", g.title, thousands(n), thousands(g.counts[0])),
				cpuOver(many, few), many, few)
			if n == g.counts[len(g.counts)-1] {
				one = atMost(one, steady)
			}
			rows = append(rows, one)
		}
	}
	for _, k := range r.mixed() {
		of := func(one round) float64 { return float64(one[k].PeakBytes) / (1 << 20) }
		rows = append(rows,
			ratio("peak memory, 64 clients, bodies of mixed sizes: MiB", of, k),
			atMost(ratio("the same / in the first round", func(one round) float64 { return of(one) / of(r.Rounds[0]) }, k), steady),
			ratio("of these requests, answered: %", func(r round) float64 {
				return 100 * float64(r[k].Requests) / float64(r[k].Requests+r[k].Failed)
			}, k))
	}
	return rows
}

// mixed are the measurements of memory that were made.
func (r *report) mixed() (keys []key) {
	for _, m := range measured {
		if _, ok := r.Rounds[0][mixedKey(m)]; ok {
			keys = append(keys, mixedKey(m))
		}
	}
	return keys
}

// verdict says whether the median holds the target, and whether every round did.
func (w row) verdict(rounds []round) string {
	if w.most == 0 && w.least == 0 {
		return ""
	}
	median, least, most := middle(rounds, w.of)
	good := func(f float64) bool { return f >= w.least && (w.most == 0 || f <= w.most) }
	switch {
	case !good(median):
		return "falls short"
	case !good(least) || !good(most):
		return "holds, not in every round"
	}
	return "holds"
}

// measured tells whether all that the row needs was measured.
func (w row) measured(r *report) bool {
	return w.missing == "" && len(r.Rounds) > 0 && !slices.ContainsFunc(w.needs, func(k key) bool {
		_, ok := r.Rounds[0][k]
		return !ok
	})
}

// unmeasured is what stands in the table instead of a figure.
func (w row) unmeasured() string {
	switch {
	case w.missing != "":
		return "not measured: " + w.missing
	case slices.ContainsFunc(w.needs, func(k key) bool { return k.server == "grpc" }):
		return "not measured: the server has no --grpc-listen"
	case slices.ContainsFunc(w.needs, func(k key) bool { return k.server == "cost redis" }):
		return "not measured: there is no redis-server"
	}
	return "not measured"
}
