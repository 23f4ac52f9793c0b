package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Result is what one measurement saw.
type Result struct {
	Requests  int     // answered while it was measured
	Failed    int     // refused meanwhile, where the plan allows that
	Seconds   float64 // that took
	P50, P99  float64 // milliseconds; 0 for the raw runtime
	CPU       float64 // seconds of the measured processes
	PeakBytes int64   // their resident memory at its highest
	Version   string  // of the model runtime; only the raw runtime tells it
}

// PerSecond is the throughput.
func (r Result) PerSecond() float64 { return float64(r.Requests) / r.Seconds }

// CPUPerThousand is CPU seconds for 1000 requests.
func (r Result) CPUPerThousand() float64 { return r.CPU / float64(r.Requests) * 1000 }

// plan of one measurement.
type plan struct {
	Address  string // of the server
	PID      int    // of the server, whose CPU time is read
	Request  []byte // whole, with its headers
	Clients  int
	Warmup   time.Duration
	Duration time.Duration
	Lenient  bool // count refusals, where they else fail the measurement
}

// load sends the request over one connection for each client, again when it
// was answered. It writes and reads HTTP/1.1 by hand, so that the generator
// takes little of the machine that it shares with the server. Any answer but
// 200 fails the measurement.
func load(p plan) (Result, error) {
	clients := make([]caller, p.Clients)
	for i := range clients {
		conn, err := net.Dial("tcp", p.Address)
		if err != nil {
			return Result{}, err
		}
		defer conn.Close()
		clients[i] = caller{conn: conn, r: bufio.NewReaderSize(conn, 64<<10), request: p.Request, lenient: p.Lenient}
	}
	if err := each(clients, time.Now().Add(p.Warmup)); err != nil {
		return Result{}, err
	}
	resetPeak(p.PID)
	before, err := cpuTime(p.PID)
	if err != nil {
		return Result{}, err
	}
	for i := range clients {
		clients[i].times, clients[i].failed = make([]time.Duration, 0, 1<<16), 0
	}
	start := time.Now()
	if err := each(clients, start.Add(p.Duration)); err != nil {
		return Result{}, err
	}
	result := Result{Seconds: time.Since(start).Seconds()}
	after, err := cpuTime(p.PID)
	if err != nil {
		return Result{}, err
	}
	result.CPU = (after - before).Seconds()
	result.PeakBytes = peak(p.PID)
	var times []time.Duration
	for i := range clients {
		times = append(times, clients[i].times...)
		result.Failed += clients[i].failed
	}
	slices.Sort(times)
	result.Requests = len(times)
	result.P50, result.P99 = quantile(times, 0.5), quantile(times, 0.99)
	return result, nil
}

// each runs all callers until the end.
func each(clients []caller, end time.Time) error {
	errs := make([]error, len(clients))
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() { errs[i] = clients[i].until(end) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// quantile in milliseconds of sorted times.
func quantile(times []time.Duration, q float64) float64 {
	if len(times) == 0 {
		return 0
	}
	return float64(times[int(q*float64(len(times)-1))]) / float64(time.Millisecond)
}

// caller is one client with its connection.
type caller struct {
	conn    net.Conn
	r       *bufio.Reader
	request []byte
	times   []time.Duration
	lenient bool
	failed  int
}

// refusal is an answer other than 200.
type refusal struct{ status, body []byte }

func (r *refusal) Error() string { return fmt.Sprintf("the server answered %q: %s", r.status, r.body) }

func (c *caller) until(end time.Time) error {
	for now := time.Now(); now.Before(end); {
		if _, err := c.conn.Write(c.request); err != nil {
			return err
		}
		err := c.answer()
		done := time.Now()
		var refused *refusal
		switch {
		case err == nil:
			c.times = append(c.times, done.Sub(now))
		case c.lenient && errors.As(err, &refused):
			c.failed++
		default:
			return err
		}
		now = done
	}
	return nil
}

// answer reads one answer of known length (RFC 9112, section 6.2), which is all
// that the measured servers send.
func (c *caller) answer() error {
	status, length := []byte(nil), -1
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if first {
			status = append(status, line...)
			continue
		}
		if len(line) == 0 {
			break
		}
		const name = "content-length:"
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("%q without a Content-Length", status)
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		body := make([]byte, min(length, 500))
		if _, err := io.ReadFull(c.r, body); err != nil {
			return err
		}
		if _, err := c.r.Discard(length - len(body)); err != nil {
			return err
		}
		return &refusal{status, body}
	}
	_, err := c.r.Discard(length)
	return err
}
