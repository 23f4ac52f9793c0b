package inference

import (
	"context"
	"time"
)

// limited is a context that ends with its parent, or at a time. Unlike those of
// context.WithDeadline it allocates and starts nothing until somebody waits
// for its Done: the engine for ONNX Runtime asks Err now and then instead.
// It belongs to one goroutine, but for Err and Deadline.
type limited struct {
	context.Context
	until  time.Time
	waited context.Context
	cancel context.CancelFunc
}

// within returns parent, ended at a time. Its stop must be called.
func within(parent context.Context, until time.Time) limited {
	return limited{Context: parent, until: until}
}

func (t *limited) stop() {
	if t.cancel != nil {
		t.cancel()
	}
}

func (t *limited) Deadline() (time.Time, bool) {
	if sooner, ok := t.Context.Deadline(); ok && sooner.Before(t.until) {
		return sooner, true
	}
	return t.until, true
}

func (t *limited) Done() <-chan struct{} {
	if t.waited == nil {
		t.waited, t.cancel = context.WithDeadline(t.Context, t.until)
	}
	return t.waited.Done()
}

func (t *limited) Err() error {
	if err := t.Context.Err(); err != nil {
		return err
	}
	if !time.Now().Before(t.until) {
		return context.DeadlineExceeded
	}
	return nil
}
