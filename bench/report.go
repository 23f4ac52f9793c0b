package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// report is all that was measured.
type report struct {
	Begun   time.Time
	Took    time.Duration
	Load    string // the machine's load average before the first round
	Models  []model
	Growths []growing
	Missing map[string]string // models that the server refused, and why
	Rounds  []round
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
	return fmt.Sprintf("%.*f", min(decimals, 6), f)
}

// roundsOf says how many there were.
func roundsOf(n int) string {
	if n == 1 {
		return "1 round"
	}
	return strconv.Itoa(n) + " rounds"
}

// markdown, in lines short enough for a document, is what goes into the document.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores of %s, load average before it %s,\n%s, ONNX Runtime %s; %s in %s. "+
		"A cell is the median of the rounds, and in\nbrackets the least and the most.\n\n",
		r.Begun.UTC().Format("2006-01-02"), runtime.NumCPU(), processor(), r.Load, runtime.Version(), r.runtimeVersion(),
		roundsOf(len(r.Rounds)), r.Took.Round(time.Second))
	b.WriteString("| What | Measured | Target | Verdict |\n| --- | --- | --- | --- |\n")
	for _, row := range r.rows() {
		if row.measured(r) {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", row.what, spread(r.Rounds, row.of), row.target, row.verdict(r.Rounds))
		} else {
			fmt.Fprintf(&b, "| %s | %s | %s | |\n", row.what, row.unmeasured(), row.target)
		}
	}
	for _, p := range r.drawings() {
		fmt.Fprintf(&b, "\n![%s](%s/%s.svg)\n", p.title, plotFolder, p.name)
	}
	b.WriteString("\nThe figures behind them:\n\n" +
		"| What | Clients | Requests/s | p50 ms | p99 ms | CPU s per 1000 requests | Allocations | Peak RSS MiB |\n" +
		"| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, k := range r.keys() {
		b.WriteString(r.line(k))
	}
	return b.String()
}

// line is the row of one measurement in the table of figures.
func (r *report) line(k key) string {
	cell := func(of func(Result) float64) string {
		if r.Rounds[0][k].PeakBytes == 0 && k.clients == 0 {
			return "-"
		}
		return spread(r.Rounds, func(one round) float64 { return of(one[k]) })
	}
	median := func(of func(Result) float64) float64 {
		m, _, _ := middle(r.Rounds, func(one round) float64 { return of(one[k]) })
		return m
	}
	clients, p50, p99 := "-", "-", "-"
	if k.clients > 0 {
		clients = strconv.Itoa(k.clients)
		p50, p99 = cell(func(r Result) float64 { return r.P50 }), cell(func(r Result) float64 { return r.P99 })
	}
	allocations, peak := figure(median(Result.Allocations)), figure(median(func(r Result) float64 { return float64(r.PeakBytes) / (1 << 20) }))
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.title(k), clients,
		cell(Result.PerSecond), p50, p99, spread(r.Rounds, func(one round) float64 { return one[k].CPUPerThousand() }), allocations, peak)
}

// keys are the measurements in the order of the table.
func (r *report) keys() (list []key) {
	add := func(k key) {
		if _, ok := r.Rounds[0][k]; ok {
			list = append(list, k)
		}
	}
	for _, m := range r.Models {
		for _, clients := range []int{m.clients(), alone} {
			for _, server := range []string{"hello", "gate", "gate inside", "quiet", "bare", "binary", "binary inside", "grpc"} {
				add(key{server, m.name, clients})
			}
		}
		add(key{"cost", m.name, 0})
		add(key{"cost redis", m.name, 0})
		add(key{"raw", m.name, 0})
	}
	for _, g := range r.Growths {
		for _, n := range g.counts {
			add(g.key(n))
		}
	}
	return append(list, r.mixed()...)
}

// title says what was measured.
func (r *report) title(k key) string {
	for _, g := range r.Growths {
		if n, err := strconv.Atoi(k.model); err == nil && g.what == k.server {
			return "modelgate, " + g.title + ": " + thousands(n)
		}
	}
	title := k.model
	if at := slices.IndexFunc(measured, func(m model) bool { return m.name == k.model }); at >= 0 {
		title = measured[at].title
	}
	switch k.server {
	case "hello":
		return "gin hello world, beside " + title
	case "gate":
		return "modelgate, JSON, " + title
	case "binary":
		return "modelgate, binary, " + title
	case "grpc":
		return "modelgate, gRPC, " + title
	case "gate inside":
		return "modelgate in-process, JSON, " + title
	case "binary inside":
		return "modelgate in-process, binary, " + title
	case "loads":
		return fmt.Sprintf("modelgate, %d loads of %s", copies, title)
	case "loads inside":
		return fmt.Sprintf("modelgate in-process, %d loads of %s", copies, title)
	case "quiet":
		return "modelgate without access log, JSON, " + title
	case "bare":
		return "bare server, JSON, " + title
	case "mixed":
		return "modelgate, JSON, bodies of mixed sizes, " + title
	case "cost":
		return "the parts of the gate in a row"
	case "cost redis":
		return "the parts of the gate in a row, rates in Redis"
	}
	return "ONNX Runtime alone, " + title
}

// thousands writes a number with commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
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
