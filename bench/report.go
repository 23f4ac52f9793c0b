package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is all that was measured.
type report struct {
	Begun  time.Time
	Took   time.Duration
	Load   string // the machine's load average before the first round
	Models []model
	Rounds []round
}

// notYet are the rows of the table of targets that nothing here measures.
var notYet = []struct{ what, target string }{
	{"MobileNetV2 or SqueezeNet, binary body: raw CPU / served CPU", ">= 0.88"},
	{"ResNet-50, binary and JSON body: raw CPU / served CPU", ">= 0.95 and 0.88"},
	{"added cost of authentication, authorisation, limit and audit", "<= 2 us"},
	{"sandboxed worker against in-process, tiny model: CPU per request", "<= 1.10"},
	{"allocations per tiny request", "<= 31"},
	{"cost per request with 1,000 models, 1,000,000 users, 10,000 connections / with one", "1"},
}

// row is a ratio and what is asked of it.
type row struct {
	what, target string
	of           func(round) float64
}

// rows are the ratios of what was measured.
func (r *report) rows() []row {
	var all []row
	for i, m := range r.Models {
		gate, raw := key{"gate", m.name, crowd}, key{"raw", m.name, 0}
		if m.tiny {
			hello := key{"hello", m.name, crowd}
			all = append(all, row{m.title + ", 64 clients: CPU per request / gin hello's", "<= 1.45",
				func(r round) float64 { return r[gate].CPUPerThousand() / r[hello].CPUPerThousand() }})
			if i == 0 {
				quiet := key{"quiet", m.name, crowd}
				all = append(all, row{"the same without the access log", "<= 1.45",
					func(r round) float64 { return r[quiet].CPUPerThousand() / r[hello].CPUPerThousand() }})
			}
			continue
		}
		throughput, cpu := "", ">= 0.46"
		if m.name == "mlp_dense" {
			throughput, cpu = ">= 1.1", ""
		}
		all = append(all,
			row{m.title + ", JSON body, 64 clients: requests/s / raw runs/s", throughput,
				func(r round) float64 { return r[gate].PerSecond() / r[raw].PerSecond() }},
			row{m.title + ", JSON body, 64 clients: raw CPU / served CPU", cpu,
				func(r round) float64 { return r[raw].CPUPerThousand() / r[gate].CPUPerThousand() }})
	}
	return all
}

// spread is the median of the rounds with the least and the largest.
func spread(rounds []round, of func(round) float64) string {
	median, least, most := middle(rounds, of)
	return fmt.Sprintf("%s (%s to %s)", figure(median), figure(least), figure(most))
}

func middle(rounds []round, of func(round) float64) (median, least, most float64) {
	list := make([]float64, len(rounds))
	for i, r := range rounds {
		list[i] = of(r)
	}
	slices.Sort(list)
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2, list[0], list[len(list)-1]
}

// figure writes three digits, as more would be noise.
func figure(f float64) string {
	if f == 0 || math.IsInf(f, 0) || math.IsNaN(f) {
		return "-"
	}
	decimals := max(0, 2-int(math.Floor(math.Log10(math.Abs(f)))))
	return fmt.Sprintf("%.*f", min(decimals, 4), f)
}

// markdown, in lines short enough for a document, is what goes into the document.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores of %s, load average before it %s,\n%s, ONNX Runtime %s; %d rounds in %s. "+
		"A cell is the median of the rounds, and in\nbrackets the least and the most.\n\n",
		r.Begun.UTC().Format("2006-01-02"), runtime.NumCPU(), processor(), r.Load, runtime.Version(), r.runtimeVersion(),
		len(r.Rounds), r.Took.Round(time.Second))
	b.WriteString("| Ratio | Measured | Target |\n| --- | --- | --- |\n")
	for _, row := range r.rows() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", row.what, spread(r.Rounds, row.of), row.target)
	}
	for _, row := range notYet {
		fmt.Fprintf(&b, "| %s | not measured yet | %s |\n", row.what, row.target)
	}
	b.WriteString("\nThe figures behind them:\n\n" +
		"| What | Clients | Requests/s | p50 ms | p99 ms | CPU s per 1000 requests | Peak RSS MiB |\n" +
		"| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, k := range r.keys() {
		cell := func(of func(Result) float64) string {
			return spread(r.Rounds, func(one round) float64 { return of(one[k]) })
		}
		peak, _, _ := middle(r.Rounds, func(one round) float64 { return float64(one[k].PeakBytes) / (1 << 20) })
		clients, p50, p99 := fmt.Sprint(k.clients), cell(func(r Result) float64 { return r.P50 }), cell(func(r Result) float64 { return r.P99 })
		if k.server == "raw" {
			clients, p50, p99 = "-", "-", "-"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %.0f |\n", r.title(k), clients,
			cell(Result.PerSecond), p50, p99, cell(Result.CPUPerThousand), peak)
	}
	return b.String()
}

// keys are the measurements in the order of the table.
func (r *report) keys() []key {
	var list []key
	for _, m := range r.Models {
		for _, k := range []key{{"hello", m.name, crowd}, {"gate", m.name, crowd}, {"quiet", m.name, crowd}, {"raw", m.name, 0},
			{"hello", m.name, alone}, {"gate", m.name, alone}} {
			if _, ok := r.Rounds[0][k]; ok {
				list = append(list, k)
			}
		}
	}
	return list
}

func (r *report) title(k key) string {
	at := slices.IndexFunc(r.Models, func(m model) bool { return m.name == k.model })
	title := r.Models[at].title
	switch k.server {
	case "hello":
		return "gin hello world, beside " + title
	case "gate":
		return "modelgate, " + title
	case "quiet":
		return "modelgate without access log, " + title
	}
	return "ONNX Runtime alone, " + title
}

func (r *report) runtimeVersion() string {
	for _, result := range r.Rounds[0] {
		if result.Version != "" {
			return result.Version
		}
	}
	return "unknown"
}

// The table stands between these lines of the document.
const beginMark, endMark = "<!-- begin: make bench -->", "<!-- end: make bench -->"

// between puts text between the markers of a document and leaves the rest.
func between(document, text string) (string, error) {
	return betweenMarks(document, beginMark, endMark, text)
}

func betweenMarks(document, begin, end, text string) (string, error) {
	before, rest, ok := strings.Cut(document, begin+"\n")
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", errors.New("the lines " + begin + " and " + end + " are not there, in this order")
	}
	return before + begin + "\n\n" + text + "\n" + end + after, nil
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(data), " ")
	return first
}

// processor is the model name of the first core.
func processor() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(data)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return "an unknown processor"
}
