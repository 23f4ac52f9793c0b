package inference

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestLimited(t *testing.T) {
	parent, leave := context.WithCancel(t.Context())
	long := within(parent, time.Now().Add(time.Hour))
	defer long.stop()
	if long.Err() != nil {
		t.Error("it ended at once")
	}
	derived, cancel := context.WithCancel(&long) // waits for Done
	defer cancel()
	leave()
	<-long.Done()
	<-derived.Done()
	if err := long.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("left, it gave %v", err)
	}
	short := within(t.Context(), time.Now().Add(time.Millisecond))
	defer short.stop()
	<-short.Done()
	if err := short.Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("late, it gave %v", err)
	}
	unasked := within(t.Context(), time.Now().Add(-1))
	if err := unasked.Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("past its time, without a timer, it gave %v", err)
	}
	unasked.stop()
	sooner, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	overtaken := within(sooner, time.Now().Add(time.Hour))
	if until, ok := overtaken.Deadline(); !ok || until.After(time.Now()) {
		t.Errorf("a parent that ends sooner gave %v", until)
	}
}
