package inference

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/auth"
	"modelgate/models"
)

// Request is what a transport decoded for one prediction.
type Request struct {
	Inputs  []Tensor // in signature order
	Outputs []string // public names; nil: all that are disclosed
}

// Decode turns a transport's bytes into a Request. It is called once the
// caller was allowed and the model is loaded. Its error is returned by Predict
// unchanged. The Inputs of a Request belong to Predict, also when an error
// comes with it.
type Decode func(sig *models.Signature, mem *Memory) (*Request, error)

// Result is one answer. Its memory is given back by Release.
type Result struct {
	Model   string
	Version int
	Rows    int
	Outputs []Output
}

// Output is one value under its public name.
type Output struct {
	Name  string
	Value Value
}

// Release frees the outputs. It may be called on nil and more than once.
func (r *Result) Release() {
	if r == nil {
		return
	}
	for i := range r.Outputs {
		r.Outputs[i].Value.Release()
	}
	r.Outputs = nil
}

// Config wires a Service. Engine, Catalog and Memory are needed.
type Config struct {
	Engine        Engine
	Catalog       *models.Catalog
	Memory        *Memory
	Slots         int           // runs at once; 0: cores
	Queue         int           // predictions that may wait for a slot; 0: 256
	Timeout       time.Duration // of one run; 0: 30 s
	LoadTimeout   time.Duration // of one load; 0: 60 s
	IdleClose     time.Duration // a session unused for so long is closed; 0: 10 min
	SessionMemory int64         // bytes for all live sessions; 0: no bound
	// Count is told of every successful prediction. It must not block.
	Count   func(who auth.Principal, v *models.Version, rows int)
	Metrics prometheus.Registerer // nil: none
	Logger  *slog.Logger          // the protected log; nil: none
}

// Service runs published models.
type Service struct {
	cfg Config
}

// New returns a Service without live sessions.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// Predict runs one prediction.
func (s *Service) Predict(ctx context.Context, who auth.Principal, ref models.Ref, decode Decode) (*Result, error) {
	return nil, ErrUnavailable
}

// Try loads a file and runs it once. It fits models.Try.
func (s *Service) Try(ctx context.Context, file []byte) (models.Trial, error) {
	return models.Trial{}, ErrUnavailable
}

// Retire drains and closes the session of a version that was deleted or
// quarantined.
func (s *Service) Retire(versionID string) {}

// Run closes idle sessions until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Close drains: it waits for the predictions that run, or for ctx.
func (s *Service) Close(ctx context.Context) error { return nil }

// Rows is what a prediction costs: the largest leading dimension among the
// inputs whose leading dimension the model leaves open; at least 1.
func Rows(sig *models.Signature, in []Tensor) int { return 1 }
