package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// costBy runs a benchmark of the gate, from its own binary, and makes a Result
// of its line.
func (b *bench) costBy(name string) func(context.Context) (Result, error) {
	return func(ctx context.Context) (result Result, err error) {
		cmd := exec.CommandContext(ctx, b.s.cost, "-test.run", "^$", "-test.bench", "^"+name+"$", "-test.benchtime", b.s.duration.String())
		out, err := cmd.CombinedOutput()
		if err != nil {
			return result, fmt.Errorf("%s: %w: %s", b.s.cost, err, bytes.TrimSpace(out))
		}
		return benchmarkLine(string(out), name)
	}
}

// hasRedis tells whether BenchmarkGateRedis can start a server.
func hasRedis() bool {
	_, err := exec.LookPath(cmp.Or(os.Getenv("MODELGATE_TEST_REDIS"), "redis-server"))
	return err == nil
}

// benchmarkLine reads what Go's benchmarks print, as in
// "BenchmarkGate-2   1000000   812.5 ns/op   815.0 cpu-ns/op   16 B/op   1 allocs/op".
func benchmarkLine(out, name string) (result Result, err error) {
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[0] != name && !strings.HasPrefix(fields[0], name+"-") {
			continue
		}
		if result.Requests, err = strconv.Atoi(fields[1]); err != nil {
			return result, err
		}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return result, err
			}
			switch fields[i+1] {
			case "ns/op":
				result.Seconds = value * float64(result.Requests) / 1e9
			case "cpu-ns/op":
				result.CPU = value * float64(result.Requests) / 1e9
			case "allocs/op":
				result.Mallocs = value * float64(result.Requests)
			}
		}
		return result, nil
	}
	return result, fmt.Errorf("%s did not run: %s", name, strings.TrimSpace(out))
}
