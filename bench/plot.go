package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// plotFolder is where the plots lie, beside the document.
const plotFolder = "benchmarks"

// drawing is one plot.
type drawing struct{ name, title, svg string }

// bar is one measurement in a plot of bars.
type bar struct {
	label               string
	median, least, most float64
	target              float64 // drawn as a mark; 0: none
	ours                bool
}

// curve is one line in a plot of curves.
type curve struct {
	label  string
	points []point
}

// point is what was measured at x.
type point struct{ x, median, least, most float64 }

// plots writes the drawings into a folder.
func (r *report) plots(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, d := range r.drawings() {
		if err := os.WriteFile(filepath.Join(folder, d.name+".svg"), []byte(d.svg), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// drawings are one for each family that was measured.
func (r *report) drawings() (list []drawing) {
	add := func(name, title, axis string, bars []bar) {
		if len(bars) > 0 {
			list = append(list, drawing{name, title, drawBars(title, axis, bars)})
		}
	}
	bars := func(family string, of func(round, key) float64, target func(m model, server string) float64, servers ...string) (all []bar) {
		for _, m := range r.Models {
			for _, server := range servers {
				k := key{server, m.name, m.clients()}
				if server == "raw" {
					k.clients = 0
				}
				if _, ok := r.Rounds[0][k]; ok && m.family == family {
					b := bar{label: r.title(k), target: target(m, server), ours: server != "raw" && server != "hello" && server != "bare"}
					b.median, b.least, b.most = middle(r.Rounds, func(one round) float64 { return of(one, k) })
					all = append(all, b)
				}
			}
		}
		return all
	}
	micros := func(r round, k key) float64 { return r[k].CPUPerThousand() * 1000 }
	perSecond := func(r round, k key) float64 { return r[k].PerSecond() }
	median := func(of func(round, key) float64, k key) float64 {
		f, _, _ := middle(r.Rounds, func(one round) float64 { return of(one, k) })
		return f
	}
	add(tiny, "Tiny models, 64 clients: CPU time of one request", "microseconds of the server's CPU time",
		bars(tiny, micros, func(m model, server string) float64 {
			if server != "gate" && server != "binary" {
				return 0
			}
			return tinyTarget * median(micros, key{"hello", m.name, crowd})
		}, "raw", "hello", "bare", "gate", "gate inside", "quiet", "binary", "binary inside", "grpc"))
	add(dense, "Dense MLP of 6 MB, 64 clients: throughput", "predictions per second",
		bars(dense, perSecond, func(m model, server string) float64 {
			if m.maxBatch == 0 {
				return 0
			}
			return denseTarget * median(perSecond, key{"raw", baseName(m), 0})
		}, "raw", "gate", "binary", "grpc"))
	add(networks, "Convolutions and a transformer, 8 clients: what the runtime gets of the CPU time", "CPU time of the runtime alone / of modelgate",
		r.networkBars())
	if curves := r.growthCurves(); len(curves) > 0 {
		const title = "Growth, 64 clients: CPU time of one request"
		list = append(list, drawing{growth, title, drawCurves(title, "how many there are", "CPU time / that with the fewest", curves)})
	}
	return list
}

func (r *report) networkBars() (all []bar) {
	for _, m := range r.Models {
		if m.family != networks {
			continue
		}
		for _, w := range networkRows(m) {
			if w.measured(r) {
				b := bar{label: strings.NewReplacer(": raw CPU / served CPU", "", fmt.Sprintf(", %d clients", several), "").Replace(w.what), target: w.least, ours: true}
				b.median, b.least, b.most = middle(r.Rounds, w.of)
				all = append(all, b)
			}
		}
	}
	return all
}

func (r *report) growthCurves() (curves []curve) {
	for _, g := range r.Growths {
		c := curve{label: g.title}
		for _, n := range g.counts {
			p := point{x: float64(max(1, n))}
			p.median, p.least, p.most = middle(r.Rounds, cpuOver(g.key(n), g.key(g.counts[0])))
			c.points = append(c.points, p)
		}
		curves = append(curves, c)
	}
	return curves
}

// The look of all plots. They carry their own ground, and turn dark where the
// reader's screen is: a page's own colours don't reach into an image.
const (
	plotWidth, plotTop, plotBottom = 860, 44, 46
	plotStyle                      = `<style>
.ground{fill:#ffffff}text{fill:#1f2328;font:13px system-ui,sans-serif}.title{font-size:15px;font-weight:600}
.small{font-size:11px;fill:#59636e}.grid{stroke:#d1d9e0}.whisker{stroke:#1f2328;stroke-width:1.5;fill:none}
.ours{fill:#0969da}.other{fill:#818b98}.target{stroke:#cf222e;stroke-width:2.5}
.c0{fill:#0969da;stroke:#0969da}.c1{fill:#bc4c00;stroke:#bc4c00}.c2{fill:#1a7f37;stroke:#1a7f37}.c3{fill:#8250df;stroke:#8250df}.curve{fill:none;stroke-width:2.5}
@media(prefers-color-scheme:dark){.ground{fill:#0d1117}text{fill:#e6edf3}.small{fill:#9198a1}.grid{stroke:#3d444d}
.whisker{stroke:#e6edf3}.ours{fill:#4493f8}.other{fill:#656c76}.target{stroke:#f85149}
.c0{fill:#4493f8;stroke:#4493f8}.c1{fill:#f0883e;stroke:#f0883e}.c2{fill:#3fb950;stroke:#3fb950}.c3{fill:#ab7df8;stroke:#ab7df8}.curve{fill:none}}
</style>`
)

// canvas is an SVG (version 1.1) under way.
type canvas struct{ strings.Builder }

func newCanvas(title string, height int) *canvas {
	c := new(canvas)
	c.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img">`, plotWidth, height)
	c.add(`<title>%s</title>`, html.EscapeString(title))
	c.add(plotStyle)
	c.add(`<rect class="ground" width="%d" height="%d" rx="6"/>`, plotWidth, height)
	c.text(16, 26, "title", "start", title)
	return c
}

func (c *canvas) add(format string, args ...any) { fmt.Fprintf(c, format+"\n", args...) }

func (c *canvas) text(x, y float64, class, anchor, text string) {
	c.add(`<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>`, x, y, class, anchor, html.EscapeString(text))
}

func (c *canvas) line(class string, x1, y1, x2, y2 float64) {
	c.add(`<line class="%s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, class, x1, y1, x2, y2)
}

// steps are round numbers from 0 to the first at or above most.
func steps(most float64) (list []float64) {
	unit := math.Pow(10, math.Floor(math.Log10(most)))
	for _, part := range []float64{0.1, 0.2, 0.25, 0.5, 1, 2} {
		if step := part * unit; most/step <= 8 {
			for i := 0.0; ; i++ {
				list = append(list, i*step)
				if i*step >= most {
					return list
				}
			}
		}
	}
	return []float64{0, most}
}

func drawBars(title, axis string, bars []bar) string {
	const left, right, pitch = 330, 90, 26
	most := 0.0
	for _, b := range bars {
		most = max(most, b.most, b.target)
	}
	grid := steps(most)
	end := float64(plotTop + pitch*len(bars))
	x := func(v float64) float64 { return left + (plotWidth-left-right)*v/grid[len(grid)-1] }
	c := newCanvas(title, int(end)+plotBottom)
	for _, v := range grid {
		c.line("grid", x(v), plotTop, x(v), end)
		c.text(x(v), end+16, "small", "middle", short(v))
	}
	if slices.ContainsFunc(bars, func(b bar) bool { return b.target > 0 }) {
		axis += " (red: the target)"
	}
	c.text(x(grid[len(grid)-1]/2), end+36, "small", "middle", axis)
	for i, b := range bars {
		y := float64(plotTop + pitch*i)
		class := "other"
		if b.ours {
			class = "ours"
		}
		c.text(left-8, y+17, "", "end", b.label)
		c.add(`<rect class="%s" x="%d" y="%.1f" width="%.1f" height="%d"/>`, class, left, y+5, x(b.median)-left, pitch-10)
		middle := y + pitch/2
		c.add(`<path class="whisker" d="M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8"/>`, x(b.least), middle, x(b.most), x(b.least), middle-4,
			x(b.most), middle-4)
		if b.target > 0 {
			c.line("target", x(b.target), y+2, x(b.target), y+pitch-2)
		}
		c.text(max(x(b.most), x(b.target))+6, y+17, "small", "start", figure(b.median))
	}
	c.add("</svg>")
	return c.String()
}

// drawCurves has a logarithmic horizontal axis.
func drawCurves(title, across, up string, curves []curve) string {
	const left, right, height = 60, 220, 300
	most, largest := 0.0, 1.0
	for _, line := range curves {
		for _, p := range line.points {
			most, largest = max(most, p.most), max(largest, math.Log10(p.x))
		}
	}
	grid := steps(most)
	bottom := float64(plotTop + 16 + height)
	x := func(v float64) float64 { return left + (plotWidth-left-right)*math.Log10(v)/largest }
	y := func(v float64) float64 { return bottom - height*v/grid[len(grid)-1] }
	c := newCanvas(title, int(bottom)+plotBottom)
	c.text(16, plotTop+2, "small", "start", up)
	for _, v := range grid {
		c.line("grid", left, y(v), plotWidth-right, y(v))
		c.text(left-6, y(v)+4, "small", "end", short(v))
	}
	for e := 0; e <= int(largest); e++ {
		v := math.Pow(10, float64(e))
		c.line("grid", x(v), bottom, x(v), y(grid[len(grid)-1]))
		c.text(x(v), bottom+16, "small", "middle", thousands(int(v)))
	}
	c.text(x(math.Pow(10, largest/2)), bottom+36, "small", "middle", across)
	for i, line := range curves {
		class := fmt.Sprintf("c%d", i%4)
		var path []string
		for _, p := range line.points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x(p.x), y(p.median)))
			c.line(class, x(p.x), y(p.least), x(p.x), y(p.most))
			c.add(`<circle class="%s" cx="%.1f" cy="%.1f" r="4"/>`, class, x(p.x), y(p.median))
		}
		c.add(`<polyline class="curve %s" points="%s"/>`, class, strings.Join(path, " "))
		c.add(`<rect class="%s" x="%d" y="%d" width="12" height="12"/>`, class, plotWidth-right+16, plotTop+16+24*i)
		c.text(plotWidth-right+34, float64(plotTop+27+24*i), "", "start", line.label)
	}
	c.add("</svg>")
	return c.String()
}

// short writes a number on an axis.
func short(v float64) string {
	if v >= 1000 {
		return thousands(int(v))
	}
	return fmt.Sprintf("%.3g", v)
}
