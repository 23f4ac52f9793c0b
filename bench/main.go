// Command bench measures modelgate against the floor under it, in the same run:
// ONNX Runtime alone, an HTTP server that does nothing, and one that predicts
// without a gate. `make bench` starts it; docs/benchmarks.md tells the method
// and holds its last tables and plots.
//
// Every measured server, the load generator and the raw runtime are processes
// of their own. It must not be used by the program, and must not reach into a
// server: it knows the HTTP API, the protocol of gRPC and /proc. Linux only.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// settings of a run.
type settings struct {
	program  string // path of modelgate
	hello    string // path of the HTTP server that does nothing
	bare     string // path of the server without a gate
	fill     string // path of what fills databases
	cost     string // path of the benchmark of the gate's parts; "": not measured
	models   string // folder of the made models
	only     string // measure this model alone
	families []string
	quick    bool // less growth
	rounds   int
	warmup   time.Duration
	duration time.Duration
	docs     string // document to write the tables into, with its plots beside it; "": none
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	var s settings
	var chosen string
	flag.StringVar(&s.program, "modelgate", "bin/modelgate", "the program to measure")
	flag.StringVar(&s.hello, "hello", "bin/bench-hello", "the HTTP server that does nothing")
	flag.StringVar(&s.bare, "bare", "bin/bench-bare", "the server that predicts without a gate")
	flag.StringVar(&s.fill, "fill", "bin/bench-fill", "the program that fills databases")
	flag.StringVar(&s.cost, "cost", "bin/bench-cost", "the tests of bench, compiled; empty leaves the row of their benchmark out")
	flag.StringVar(&s.models, "models", "", "folder with the models that bench/models.py makes")
	flag.StringVar(&s.only, "only", "", "measure this model alone, and growth if it is among the families")
	flag.StringVar(&chosen, "families", strings.Join(families, ","), "what to measure")
	flag.BoolVar(&s.quick, "quick", false, "one short round with less growth, to see that all works")
	flag.IntVar(&s.rounds, "rounds", 5, "how often all is measured in turn")
	flag.DurationVar(&s.warmup, "warmup", 250*time.Millisecond, "load before each measurement")
	flag.DurationVar(&s.duration, "duration", 1500*time.Millisecond, "length of each measurement")
	flag.StringVar(&s.docs, "docs", "", "write the tables between the markers of this document, and the plots beside it")
	flag.Parse()
	s.families = strings.Split(chosen, ",")
	if all := strings.Join(families, ","); s.only != "" && chosen == all {
		s.families = nil
	}
	if s.quick {
		s.rounds, s.warmup, s.duration = 1, 100*time.Millisecond, 300*time.Millisecond
	}
	if s.docs != "" && (s.quick || s.only != "" || len(s.families) < len(families)) {
		log.Printf("%s stays as it is: this run measures a part, or too shortly", s.docs)
		s.docs = ""
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s, flag.Args()); err != nil {
		stop()
		log.Fatal(err)
	}
}

// run measures, or is one of the children that do the work.
func run(ctx context.Context, s settings, args []string) error {
	if len(args) == 2 && args[0] == "compare" {
		return compare(ctx, s, args[1])
	}
	if len(args) > 0 {
		return child(args)
	}
	report, err := measure(ctx, s)
	if err != nil {
		return err
	}
	text := report.markdown()
	fmt.Print(text)
	if s.docs == "" {
		return nil
	}
	if err := report.plots(filepath.Join(filepath.Dir(s.docs), plotFolder)); err != nil {
		return err
	}
	document, err := os.ReadFile(s.docs)
	if err != nil {
		return err
	}
	written, err := between(string(document), text)
	if err != nil {
		return fmt.Errorf("%s: %w", s.docs, err)
	}
	return os.WriteFile(s.docs, []byte(written), 0o644)
}

// child is `bench load`, which reads its plan from standard input, `bench raw
// FILE WARMUP DURATION`, which both print a Result, or `bench hold`.
func child(args []string) (err error) {
	var result Result
	switch {
	case len(args) == 1 && args[0] == "load":
		var p plan
		if err := json.NewDecoder(os.Stdin).Decode(&p); err != nil {
			return err
		}
		result, err = load(p)
	case len(args) == 4 && args[0] == "raw":
		var warmup, duration time.Duration
		if warmup, err = time.ParseDuration(args[2]); err != nil {
			return err
		}
		if duration, err = time.ParseDuration(args[3]); err != nil {
			return err
		}
		result, err = raw(args[1], warmup, duration)
	case len(args) == 1 && args[0] == "hold":
		return holdChild()
	default:
		return fmt.Errorf("unknown command %q", args)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}
