// Package inference runs published models: one predict path for every
// transport, live sessions that are shared and drained, tensors and their
// codecs.
//
// It must not decide who may call (models.Catalog does), must not know HTTP or
// gRPC, and must not link a model runtime: engines do, in inference/ort and
// inference/worker.
package inference

import (
	"context"
	"time"

	"modelgate/models"
)

// Options bound one load.
type Options struct {
	// LoadTimeout bounds Load; 0: no bound but ctx. An engine that can't end a
	// load in its own process returns at the bound and lets the load die or
	// finish behind it.
	LoadTimeout time.Duration
	// About says in the log which model it is; "": a trial.
	About string
}

// Engine turns model files into sessions. Implementations: ort (in process),
// worker (a sandboxed process each), inferencetest (fake). All pass
// inferencetest.RunTests.
type Engine interface {
	// Load builds a session from the bytes of a checked file. Errors are *Error
	// with code "load_failed", "load_timeout" (the time is up, or ctx ended; the
	// Cause is ctx's error) or "unavailable" (closed, or too much is being
	// loaded); their Cause holds the runtime's words. A load that ended its
	// process has a *Crash among its causes, one that hit the bound of its memory
	// ErrNoMemory. A load that ran out of
	// time may read model for a while yet, so its bytes must never change.
	Load(ctx context.Context, model []byte, opts Options) (Session, error)
	// Close frees the engine. It is idempotent, and fails while sessions are
	// open.
	Close() error
}

// Crash is how a session was lost. Its Reason begins with one of the words of
// crashClasses, which the metrics count, and a colon: "signal: killed".
type Crash struct {
	Reason string // for operators and who manages the model, in words of this program
	Inside bool   // the run was, or may have been, under way, so that it may be the reason
}

func (c *Crash) Error() string { return "the session was lost: " + c.Reason }

// Session is one loaded model. Run may be called concurrently; Close may not
// overlap with Run: Pool counts references.
type Session interface {
	// Graph is what the runtime says of inputs and outputs, in its order.
	Graph() models.Graph
	// Run computes the outputs whose indices (into Graph().Outputs) are in
	// want, in that order, each at most once. in has one tensor for each of
	// Graph().Inputs; the session neither keeps nor frees them. It returns soon
	// after ctx ends, with its error, and computes nothing when ctx has ended
	// already. Other errors are *Error with code "run_failed" (with ErrNoMemory
	// among its causes when the run hit the bound of the model's memory),
	// "unavailable" (the session is closed or lost, no memory is left) or
	// "too_large" (outputs that exceed the whole memory). The caller releases
	// every value.
	Run(ctx context.Context, in []Tensor, want []int) ([]Value, error)
	// Room is where inputs are best put: Run reads what lies there in place, and
	// copies what lies elsewhere.
	Room() *Memory
	// Lost is closed once the session's process has ended by itself, or was ended
	// because it did not answer; closing the session does not close it. Runs
	// inside it, and later ones, whatever their inputs, are ErrUnavailable with a
	// *Crash among their causes; the session is to be closed. nil: the session has no process of its own.
	Lost() <-chan struct{}
	// Quick reports that runs are so short of late, and so much cheaper in
	// company, that more of them should be under way than compute at once. A
	// session in this process is never quick.
	Quick() bool
	// Memory is the resident bytes, weights included, as far as they are known
	// at the moment.
	Memory() int64
	// Close frees the session. It is idempotent. While runs go on, against the
	// contract, it fails and leaves the freeing to the last of them; later runs
	// are "unavailable".
	Close() error
}
