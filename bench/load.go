package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
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
	Mallocs   float64 // objects that the measured server allocated; 0: not asked
	PeakBytes int64   // their resident memory at its highest
	Grown     int64   // bytes of memory that they took; 0: not asked, or not to be had
	Version   string  // of the model runtime; only the raw runtime tells it
}

// PerSecond is the throughput.
func (r Result) PerSecond() float64 { return float64(r.Requests) / r.Seconds }

// CPUPerThousand is CPU seconds for 1000 requests.
func (r Result) CPUPerThousand() float64 { return r.CPU / float64(r.Requests) * 1000 }

// Allocations are those of one request.
func (r Result) Allocations() float64 { return r.Mallocs / float64(r.Requests) }

// plan of one measurement.
type plan struct {
	Address  string   // of the server
	PID      int      // of the server, whose CPU time is read
	Request  []byte   // whole, with its headers; for gRPC the message alone
	Others   [][]byte // further requests, taken in turn with the first
	GRPC     bool     // Request is a message for ModelInfer
	Token    string   // of gRPC, whose headers the generator writes
	Metrics  string   // URL of the server's metrics, where allocations are counted; "": nowhere
	Reader   string   // token that may read them
	Clients  int
	Warmup   time.Duration
	Duration time.Duration
	Lenient  bool // count refusals, where they else fail the measurement
	Redial   bool // count connections that the server closes, too, and open others
}

// wire is one connection to a server: HTTP/1.1 or gRPC.
type wire interface {
	// exchange sends a request and reads its whole answer; whatever is no
	// success is an error.
	exchange(request []byte) error
	Close() error
}

func (p *plan) dial() (wire, error) {
	if p.GRPC {
		return dialGRPC(p.Address, p.Token)
	}
	return dialHTTP(p.Address)
}

// load sends requests over one connection for each client, the next one when
// the last was answered. It speaks the protocols itself, so that the generator
// takes little of the machine that it shares with the server. Any answer but a
// success fails the measurement.
func load(p plan) (Result, error) {
	clients := make([]caller, p.Clients)
	requests := append([][]byte{p.Request}, p.Others...)
	for i := range clients {
		w, err := p.dial()
		if err != nil {
			return Result{}, err
		}
		defer func() { clients[i].wire.Close() }()
		clients[i] = caller{wire: w, requests: requests, next: i * len(requests) / len(clients), lenient: p.Lenient}
		if p.Redial {
			clients[i].redial = p.dial
		}
	}
	if err := each(clients, time.Now().Add(p.Warmup)); err != nil {
		return Result{}, err
	}
	allocated, err := p.allocations()
	if err != nil {
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
	if result.Mallocs, err = allocated(); err != nil {
		return Result{}, err
	}
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

// allocations begins to count what the server allocates; the function that it
// returns ends that. Reading the metrics allocates as well, which two readings
// in a row tell, and which is taken off.
func (p *plan) allocations() (func() (float64, error), error) {
	if p.Metrics == "" {
		return func() (float64, error) { return 0, nil }, nil
	}
	first, err := p.mallocs()
	if err != nil {
		return nil, err
	}
	second, err := p.mallocs()
	return func() (float64, error) {
		third, err := p.mallocs()
		return third - second - (second - first), err
	}, err
}

// mallocs is how many objects the server has allocated in its life.
func (p *plan) mallocs() (float64, error) {
	return metric(p.Metrics, p.Reader, "go_memstats_mallocs_total")
}

// metric reads one of a server's metrics, which has no labels.
func metric(url, token, name string) (float64, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("the metrics answered %s", resp.Status)
	}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("the metrics have no %s", name)
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
	wire     wire
	requests [][]byte
	next     int
	times    []time.Duration
	lenient  bool
	redial   func() (wire, error) // nil: a broken connection fails the measurement
	failed   int
}

// refusal is an answer other than a success, after which the connection goes on.
type refusal struct{ status, body []byte }

func (r *refusal) Error() string { return fmt.Sprintf("the server answered %q: %s", r.status, r.body) }

func (c *caller) until(end time.Time) error {
	for now := time.Now(); now.Before(end); {
		err := c.wire.exchange(c.requests[c.next%len(c.requests)])
		c.next++
		done := time.Now()
		var refused *refusal
		switch {
		case err == nil:
			c.times = append(c.times, done.Sub(now))
		case c.lenient && errors.As(err, &refused):
			c.failed++
		case c.redial != nil:
			// It was refused while it was still being sent.
			c.failed++
			c.wire.Close()
			if c.wire, err = c.redial(); err != nil {
				return err
			}
		default:
			return err
		}
		now = done
	}
	return nil
}
