package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"modelgate/inference"
	"modelgate/inference/ort"
	"modelgate/models"
)

// raw runs a model of one input, of float32 or int64, in this process, one row at a time, on
// as many goroutines as there are cores, without any server around it.
func raw(path string, warmup, duration time.Duration) (result Result, err error) {
	library, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB"))
	if err != nil {
		return result, err
	}
	mem := inference.NewMemory(1 << 30)
	engine, err := ort.Open(library, ort.Config{Memory: mem})
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	model, err := os.ReadFile(path)
	if err != nil {
		return result, err
	}
	session, err := engine.Load(context.Background(), model, inference.Options{})
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	if _, err := runs(session, mem, warmup); err != nil {
		return result, err
	}
	pid := os.Getpid()
	before, err := cpuTime(pid)
	if err != nil {
		return result, err
	}
	start := time.Now()
	n, err := runs(session, mem, duration)
	if err != nil {
		return result, err
	}
	result = Result{Requests: n, Seconds: time.Since(start).Seconds(), PeakBytes: peak(pid), Version: engine.Version()}
	after, err := cpuTime(pid)
	result.CPU = (after - before).Seconds()
	return result, err
}

// runs counts the runs that fit into a time.
func runs(session inference.Session, mem *inference.Memory, d time.Duration) (int, error) {
	var count atomic.Int64
	errs := make([]error, runtime.GOMAXPROCS(0))
	end := time.Now().Add(d)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			n, err := repeat(session, mem, end)
			count.Add(n)
			errs[i] = err
		})
	}
	group.Wait()
	return int(count.Load()), errors.Join(errs...)
}

func repeat(session inference.Session, mem *inference.Memory, end time.Time) (n int64, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	graph := session.Graph()
	shape := oneRow(graph.Inputs[0].Shape)
	in, err := inference.NewTensor(mem, graph.Inputs[0].Type, shape)
	if err != nil {
		return 0, err
	}
	defer in.Release()
	// The same row as over HTTP.
	row := model{shape: shape, ids: graph.Inputs[0].Type == models.Int64}.bytes()
	if len(row) != len(in.Data) {
		return 0, fmt.Errorf("the model's input has %d bytes, not %d: neither float32 nor int64", len(in.Data), len(row))
	}
	copy(in.Data, row)
	want := make([]int, len(graph.Outputs))
	for i := range want {
		want[i] = i
	}
	for time.Now().Before(end) {
		out, err := session.Run(ctx, []inference.Tensor{in}, want)
		if err != nil {
			return n, err
		}
		for i := range out {
			out[i].Release()
		}
		n++
	}
	return n, nil
}

// oneRow is a shape whose free dimensions are 1.
func oneRow(shape []int64) []int64 {
	fixed := make([]int64, len(shape))
	for i, d := range shape {
		fixed[i] = max(1, d)
	}
	return fixed
}
