// Command bench measures modelgate against the floor under it: ONNX Runtime
// alone, and an HTTP server that does nothing, in the same run. `make bench`
// starts it; docs/benchmarks.md tells the method and holds its last table.
//
// Every measured server, the load generator and the raw runtime are processes
// of their own. It must not be used by the program, and must not reach into a
// server: it knows the HTTP API and /proc. Linux only.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// settings of a run.
type settings struct {
	program  string // path of modelgate
	hello    string // path of the yardstick
	models   string // folder of the made models
	only     string // measure this model alone
	rounds   int
	warmup   time.Duration
	duration time.Duration
	docs     string // document to write the table into; "": none
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	var s settings
	flag.StringVar(&s.program, "modelgate", "bin/modelgate", "the program to measure")
	flag.StringVar(&s.hello, "hello", "bin/bench-hello", "the HTTP server that does nothing")
	flag.StringVar(&s.models, "models", "", "folder with the models that bench/models.py makes")
	flag.StringVar(&s.only, "only", "", "measure this model alone")
	flag.IntVar(&s.rounds, "rounds", 5, "how often all is measured in turn")
	flag.DurationVar(&s.warmup, "warmup", 200*time.Millisecond, "load before each measurement")
	flag.DurationVar(&s.duration, "duration", 1200*time.Millisecond, "length of each measurement")
	flag.StringVar(&s.docs, "docs", "", "write the table between the markers of this document")
	flag.Parse()
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

// child is `bench load`, which reads its plan from standard input, and `bench
// raw FILE WARMUP DURATION`. Both print a Result.
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
	default:
		return fmt.Errorf("unknown command %q", args)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}
