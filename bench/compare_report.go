package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// The table stands between these lines of the document.
const compareBegin, compareEnd = "<!-- begin: make compare -->", "<!-- end: make compare -->"

// markdown is what goes into the document.
func (c *comparison) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores of %s, load average before it %s,\n%s, ONNX Runtime %s; %s in %s. "+
		"A cell is the median of the rounds, and in\nbrackets the least and the most.\n\n",
		c.Begun.UTC().Format("2006-01-02 15:04 UTC"), runtime.NumCPU(), processor(), c.Load, runtime.Version(), c.Runtime,
		roundsOf(len(c.Rounds)), c.Took.Round(time.Second))
	c.ratios(&b)
	for _, m := range c.Models {
		c.figures(&b, m)
	}
	c.failures(&b)
	return b.String()
}

// ratios tells how modelgate stands to each server with the same kind of body.
func (c *comparison) ratios(b *strings.Builder) {
	b.WriteString("How many times as many requests per second modelgate answered, and how many times as much CPU time the other\n" +
		"took for a request, with many clients:\n\n| Against | Body |")
	for _, m := range c.Models {
		fmt.Fprintf(b, " %s: requests/s | CPU |", m.title)
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" --- | --- |", len(c.Models)) + "\n")
	for _, e := range c.Entrants[1:] {
		for _, body := range e.bodies {
			fmt.Fprintf(b, "| %s | %s |", e.title, body.name)
			for _, m := range c.Models {
				its := key{server: e.name + "/" + body.name, model: m.name, clients: crowdOf(m)}
				gate := key{server: ours.name + "/" + body.name, model: m.name, clients: crowdOf(m)}
				fmt.Fprintf(b, " %s | %s |",
					c.ratio(gate, its, func(gate, its Result) float64 { return gate.PerSecond() / its.PerSecond() }),
					c.ratio(gate, its, func(gate, its Result) float64 { return its.CPUPerThousand() / gate.CPUPerThousand() }))
			}
			b.WriteString("\n")
		}
	}
}

// ratio of two measurements over the rounds that have both.
func (c *comparison) ratio(one, other key, of func(one, other Result) float64) string {
	rounds := c.with(one, other)
	if len(rounds) == 0 {
		return "-"
	}
	return spread(rounds, func(r round) float64 { return of(r[one], r[other]) })
}

// with are the rounds in which all of these were measured.
func (c *comparison) with(keys ...key) (rounds []round) {
next:
	for _, r := range c.Rounds {
		for _, k := range keys {
			if _, ok := r[k]; !ok {
				continue next
			}
		}
		rounds = append(rounds, r)
	}
	return rounds
}

// figures are all measurements of a model.
func (c *comparison) figures(b *strings.Builder, m model) {
	fmt.Fprintf(b, "\n%s:\n\n| Server | Body | Clients | Requests/s | p50 ms | p99 ms | CPU s per 1000 requests | Peak RSS MiB | Errors |\n"+
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n", m.title)
	for _, clients := range []int{crowdOf(m), alone} {
		for _, e := range c.Entrants {
			for _, body := range e.bodies {
				k := key{server: e.name + "/" + body.name, model: m.name, clients: clients}
				fmt.Fprintf(b, "| %s | %s | %d |%s\n", e.title, body.name, clients, c.cells(k))
			}
		}
	}
	raw := key{server: "raw", model: m.name}
	cell := func(of func(Result) float64) string {
		return spread(c.Rounds, func(r round) float64 { return of(r[raw]) })
	}
	peak, _, _ := middle(c.Rounds, func(r round) float64 { return float64(r[raw].PeakBytes) / (1 << 20) })
	fmt.Fprintf(b, "| ONNX Runtime alone, no server | - | - | %s | - | - | %s | %.0f | 0 |\n",
		cell(Result.PerSecond), cell(Result.CPUPerThousand), peak)
}

// cells are the figures of one measurement.
func (c *comparison) cells(k key) string {
	rounds := c.with(k)
	if len(rounds) == 0 {
		return " not measured | - | - | - | - | - |"
	}
	cell := func(of func(Result) float64) string {
		return spread(rounds, func(r round) float64 { return of(r[k]) })
	}
	peak, _, _ := middle(rounds, func(r round) float64 { return float64(r[k].PeakBytes) / (1 << 20) })
	failed, all := 0, 0
	for _, r := range rounds {
		failed += r[k].Failed
		all += r[k].Failed + r[k].Requests
	}
	errors := "0"
	if failed > 0 {
		errors = fmt.Sprintf("%d of %d", failed, all)
	}
	return fmt.Sprintf(" %s | %s | %s | %s | %.0f | %s |", cell(Result.PerSecond), cell(func(r Result) float64 { return r.P50 }),
		cell(func(r Result) float64 { return r.P99 }), cell(Result.CPUPerThousand), peak, errors)
}

// failures tells of every server what version it was, and what could not be
// measured and why.
func (c *comparison) failures(b *strings.Builder) {
	b.WriteString("\nVersions, and what could not be measured:\n\n")
	for _, e := range c.Entrants[1:] {
		said := fmt.Sprintf("- %s: %s.", e.title, version(e.name))
		switch {
		case e.at == nil:
			said += " Not measured: " + e.why + "."
		case len(e.broken) == 0:
			said += " All was measured, and all answers were those of ONNX Runtime alone."
		}
		b.WriteString(wrapped(said, "  "))
		for _, m := range c.Models {
			for _, body := range e.bodies {
				for _, clients := range []int{0, crowdOf(m), alone} {
					k := key{server: e.name + "/" + body.name, model: m.name, clients: clients}
					if why := e.broken[k]; why != "" {
						said := fmt.Sprintf("- %s, %s, %s: %s", m.title, body.name, whenBroken(clients), why)
						b.WriteString("  " + wrapped(said, "    "))
					}
				}
			}
		}
	}
}

func whenBroken(clients int) string {
	switch clients {
	case 0:
		return "the answer before measuring"
	case 1:
		return "one client"
	}
	return fmt.Sprintf("%d clients", clients)
}

// version is the first package of what is installed for a server.
func version(name string) string {
	data, err := os.ReadFile(filepath.Join("bench", "compare", name, "requirements.txt"))
	if err != nil {
		return "unknown version"
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return "`" + line + "`"
		}
	}
	return "unknown version"
}

// wrapped breaks a text into lines short enough for the document, and cuts one
// that would fill it.
func wrapped(text, indent string) string {
	const width, most = 115, 60
	var b strings.Builder
	length := 0
	for i, word := range strings.Fields(text) {
		word = word[:min(len(word), width)]
		switch {
		case i == most:
			b.WriteString(" ...\n")
			return b.String()
		case length+len(word) > width:
			b.WriteString("\n" + indent)
			length = 0
		case i > 0:
			b.WriteByte(' ')
		}
		b.WriteString(word)
		length += len(word) + 1
	}
	return b.String() + "\n"
}
