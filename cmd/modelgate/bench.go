package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"modelgate/client"
)

// BenchCmd loads a model of a running server, as its callers would.
type BenchCmd struct {
	Output
	Model       string        `arg:"" help:"The model; 'modelgate models' lists yours."`
	Inputs      string        `arg:"" optional:"" help:"JSON as for 'modelgate predict'; @FILE reads a file. Left out: ones and \"text\", made by the model's inputs."`
	Concurrency []int         `short:"c" default:"1,4,16,64" placeholder:"N,..." help:"Callers at once, one level after the other (${default})."`
	Duration    time.Duration `short:"d" default:"5s" help:"How long each level is measured."`
	Warmup      time.Duration `default:"500ms" help:"How long each level runs before."`
	Rows        int           `placeholder:"N" help:"Rows in each request, where the inputs are made."`
}

// Bounds of a bench: what is meant as a measurement must not become a siege.
const (
	maxLevels      = 16
	maxCallers     = 1024
	maxBenchTime   = 10 * time.Minute
	maxMadeNumbers = 1 << 24
)

// BenchReport is what --json prints. Times are milliseconds.
type BenchReport struct {
	Model        string       `json:"model"`
	RequestBytes int          `json:"request_bytes"`
	Rows         int          `json:"rows,omitempty"` // in each request; 0: the inputs were given
	Started      time.Time    `json:"started"`
	Levels       []BenchLevel `json:"levels"`
	Stopped      string       `json:"stopped,omitempty"` // why not all levels are there
	Advice       string       `json:"advice,omitempty"`
}

// BenchLevel is one number of callers.
type BenchLevel struct {
	Concurrency int                `json:"concurrency"`
	Seconds     float64            `json:"seconds"`
	Requests    uint64             `json:"requests"` // answered with a prediction
	PerSecond   float64            `json:"requests_per_second"`
	Latency     map[string]float64 `json:"latency_ms,omitempty"` // p50, p90, p99, max
	RateLimited int64              `json:"rate_limited"`
	Errors      map[string]failure `json:"errors"` // by code, those of the rate apart
}

func (c *BenchCmd) Run(ctx context.Context, s std) error {
	if err := c.check(); err != nil {
		return err
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	body, err := c.body(ctx, api)
	if err != nil {
		return err
	}
	l := &load{send: func(ctx context.Context) error {
		_, err := api.PredictBytes(ctx, body)
		return err
	}}
	if err := l.send(ctx); err != nil { // also loads the model
		var refused *client.Error
		if errors.As(err, &refused) && refused.Status == http.StatusTooManyRequests {
			return fmt.Errorf("%w\n%s", err, rateAdvice)
		}
		return err
	}
	report := BenchReport{Model: c.Model, RequestBytes: len(body), Started: time.Now().UTC().Truncate(time.Second), Levels: []BenchLevel{}}
	if c.Inputs == "" {
		report.Rows = max(1, c.Rows)
	}
	c.sweep(ctx, s, l, &report)
	var limited int64
	var answered uint64
	for _, level := range report.Levels {
		limited += level.RateLimited
		answered += level.Requests
	}
	switch {
	case limited > 0 && answered == 0 && c.Warmup > 0:
		report.Advice = "The warm-up used up the rate of predictions, so nothing was measured. Give --warmup 0s, or a higher rate: " + moreRate
	case limited > 0:
		report.Advice = rateAdvice
	}
	err = c.show(s, report, func(w io.Writer) { report.table(w) })
	if err == nil && answered == 0 && ctx.Err() == nil {
		return errors.New("no prediction was answered while it was measured; the report says why")
	}
	return err
}

// check bounds what was asked for.
func (c *BenchCmd) check() error {
	if len(c.Concurrency) == 0 || len(c.Concurrency) > maxLevels {
		return fmt.Errorf("--concurrency takes 1 to %d numbers", maxLevels)
	}
	for _, n := range c.Concurrency {
		if n < 1 || n > maxCallers {
			return fmt.Errorf("--concurrency %d is out of range; take 1 to %d callers", n, maxCallers)
		}
	}
	if c.Duration < 10*time.Millisecond || c.Duration > maxBenchTime || c.Warmup < 0 || c.Warmup > maxBenchTime {
		return fmt.Errorf("--duration is 10ms to %s, --warmup 0s to %[1]s", maxBenchTime)
	}
	if c.Rows < 0 || c.Rows > 0 && c.Inputs != "" {
		return errors.New("--rows is 1 or more, and for inputs that are made; leave out the inputs or --rows")
	}
	return nil
}

// connect is the usual client with a connection for each caller.
func (c *BenchCmd) connect() (*client.Client, error) {
	url, cred, err := whereTo()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, maxCallers
	transport.ForceAttemptHTTP2 = false // a connection each, as callers have them
	transport.TLSNextProto = nil
	return newClient(url, client.WithHTTP(&http.Client{Transport: transport}),
		client.WithCredentials(&remembered{from: cred}))
}

// remembered spares the file of the login a read for each request.
type remembered struct {
	from client.Credentials

	mu    sync.Mutex
	token string    // guarded by mu
	until time.Time // guarded by mu
}

func (r *remembered) Token(ctx context.Context) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.until) {
		return r.token, nil
	}
	token, err := r.from.Token(ctx)
	if err == nil {
		r.token, r.until = token, time.Now().Add(time.Second)
	}
	return token, err
}

func (r *remembered) Renew(ctx context.Context, rejected string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until = time.Time{}
	return r.from.Renew(ctx, rejected)
}

// body is the request that is sent again and again.
func (c *BenchCmd) body(ctx context.Context, api *client.Client) ([]byte, error) {
	inputs := []byte(c.Inputs)
	var err error
	switch {
	case c.Inputs == "":
		var m client.Model
		if m, err = api.Model(ctx, c.Model); err == nil {
			inputs, err = madeInputs(m.Inputs, max(1, c.Rows))
		}
	case strings.HasPrefix(c.Inputs, "@"):
		if inputs, err = os.ReadFile(c.Inputs[1:]); err != nil {
			err = fmt.Errorf("can't read the inputs: %w", err)
		}
	}
	if err != nil {
		return nil, err
	}
	if !json.Valid(inputs) {
		return nil, errNotJSON
	}
	return json.Marshal(client.PredictRequest{Model: c.Model, Inputs: json.RawMessage(inputs)})
}

// madeInputs is JSON that fits the inputs: ones, true and "text". The first
// dimension, where it is free, is rows; the other free ones are 1. Ones rather
// than zeros, as some models divide.
func madeInputs(inputs []client.Tensor, rows int) ([]byte, error) {
	b := []byte{'{'}
	left, free := maxMadeNumbers, false
	for i, t := range inputs {
		shape := make([]int, len(t.Shape))
		n := 1
		for j, d := range t.Shape {
			switch {
			case d >= 0:
				shape[j] = int(min(d, math.MaxInt32))
			case j == 0:
				shape[j], free = rows, true
			default:
				shape[j] = 1
			}
			if n *= max(1, shape[j]); n > left {
				return nil, fmt.Errorf("input %s is too large to be made here; give the inputs as @FILE", t.Name)
			}
		}
		left -= n
		if i > 0 {
			b = append(b, ',')
		}
		name, err := json.Marshal(t.Name)
		if err != nil {
			return nil, err
		}
		b = appendNested(append(append(b, name...), ':'), shape, element(t.Datatype))
	}
	if rows > 1 && !free {
		return nil, fmt.Errorf("the model's inputs have a fixed size, so --rows %d does not fit", rows)
	}
	return append(b, '}'), nil
}

func element(datatype string) string {
	switch datatype {
	case "BYTES":
		return `"text"`
	case "BOOL":
		return "true"
	}
	return "1"
}

func appendNested(b []byte, shape []int, element string) []byte {
	if len(shape) == 0 {
		return append(b, element...)
	}
	b = append(b, '[')
	for i := range shape[0] {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendNested(b, shape[1:], element)
	}
	return append(b, ']')
}

// sweep measures the levels until one shows that the next would measure the
// rate and not the server.
func (c *BenchCmd) sweep(ctx context.Context, s std, l *load, report *BenchReport) {
	bar := c.progress(s)
	defer bar.done()
	for _, callers := range c.Concurrency {
		pause, fatal := l.pending()
		switch {
		case fatal != nil:
			report.Stopped = fatal.Error()
		case pause > c.Duration:
			report.Stopped = fmt.Sprintf("your rate is used up for another %s", pause.Round(time.Second))
		}
		if report.Stopped != "" || !sleep(ctx, pause) {
			break
		}
		bar.level(callers)
		t, elapsed := l.level(ctx, callers, c.Warmup, c.Duration)
		report.Levels = append(report.Levels, levelOf(callers, t, elapsed))
	}
	if ctx.Err() != nil {
		report.Stopped = "interrupted"
	} else if _, fatal := l.pending(); fatal != nil {
		report.Stopped = fatal.Error()
	}
}

func levelOf(callers int, t *tally, elapsed time.Duration) BenchLevel {
	level := BenchLevel{Concurrency: callers, Seconds: round(elapsed.Seconds()), Requests: t.times.n,
		RateLimited: t.failures["rate_limited"].Count, Errors: t.failures}
	delete(level.Errors, "rate_limited")
	if t.times.n > 0 {
		level.PerSecond = round(float64(t.times.n) / elapsed.Seconds())
		ms := func(d time.Duration) float64 { return round(float64(d) / float64(time.Millisecond)) }
		level.Latency = map[string]float64{"p50": ms(t.times.quantile(0.5)), "p90": ms(t.times.quantile(0.9)),
			"p99": ms(t.times.quantile(0.99)), "max": ms(t.times.longest)}
	}
	return level
}

func round(f float64) float64 { return math.Round(f*1000) / 1000 }

// table is the report for people.
func (r *BenchReport) table(w io.Writer) {
	fmt.Fprintln(w, "CALLERS\tREQUESTS/S\tP50 MS\tP90 MS\tP99 MS\tMAX MS\tERRORS\tRATE LIMITED")
	for _, l := range r.Levels {
		var failed int64
		for _, f := range l.Errors {
			failed += f.Count
		}
		cell := func(name string) string {
			if l.Latency == nil {
				return "-"
			}
			return strconv.FormatFloat(l.Latency[name], 'f', 2, 64)
		}
		fmt.Fprintf(w, "%d\t%.0f\t%s\t%s\t%s\t%s\t%d\t%d\n",
			l.Concurrency, l.PerSecond, cell("p50"), cell("p90"), cell("p99"), cell("max"), failed, l.RateLimited)
	}
	for _, l := range r.Levels {
		for _, code := range sortedKeys(l.Errors) {
			f := l.Errors[code]
			fmt.Fprintf(w, "With %d callers, %d times %s: %s\n", l.Concurrency, f.Count, printable(code), printable(f.Detail))
		}
	}
	if r.Stopped != "" {
		fmt.Fprintf(w, "Stopped early: %s.\n", strings.TrimSuffix(r.Stopped, "."))
	}
	if r.Advice != "" {
		fmt.Fprintln(w, r.Advice)
	}
}

// Advice where a rate was in the way. Roles that are built in, and one's own,
// can't be changed, hence the second user.
const (
	moreRate = "make a role with one ('modelgate role set ROLE --rate N-M') and give it to a second user who also has the model's role, " +
		"or start the server with --rate-predict (MODELGATE_RATE_PREDICT)."
	rateAdvice = "The rate of predictions was in the way, so the figures don't show what the server can do. For a higher one, " + moreRate
)

// benchBar shows how far a sweep has come; nil shows nothing.
type benchBar struct {
	bar  *progressbar.ProgressBar
	stop chan struct{}
	end  sync.WaitGroup
}

// progress draws on a terminal only.
func (c *BenchCmd) progress(s std) *benchBar {
	f, ok := s.err.(*os.File)
	if c.JSON || !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	total := (c.Warmup + c.Duration) * time.Duration(len(c.Concurrency))
	b := &benchBar{stop: make(chan struct{}), bar: progressbar.NewOptions64(total.Milliseconds(),
		progressbar.OptionSetWriter(f), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetPredictTime(false))}
	start := time.Now()
	b.end.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-b.stop:
				return
			case <-tick.C:
				_ = b.bar.Set64(min(time.Since(start), total-time.Millisecond).Milliseconds())
			}
		}
	})
	return b
}

func (b *benchBar) level(callers int) {
	if b != nil {
		b.bar.Describe(fmt.Sprintf("%4d callers", callers))
	}
}

func (b *benchBar) done() {
	if b != nil {
		close(b.stop)
		b.end.Wait()
		_ = b.bar.Finish()
	}
}
