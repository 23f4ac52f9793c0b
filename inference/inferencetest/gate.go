package inferencetest

import (
	"context"
	"sync"
	"testing"
	"time"
)

// Gate holds runs or loads of a Fake until a test lets them go, so that tests
// step what goes on at once without sleeping. All methods are safe for
// concurrent use; those on a nil Gate let everybody through.
type Gate struct {
	arrived chan struct{} // one for each who arrived; never full in a test
	passes  chan struct{}
	opened  chan struct{} // closed by Open
	once    sync.Once
}

// room is how many may arrive at a gate unseen, or be let through beforehand.
const room = 1 << 16

func newGate() *Gate {
	return &Gate{arrived: make(chan struct{}, room), passes: make(chan struct{}, room), opened: make(chan struct{})}
}

// Await returns once n more have arrived. The test fails when they don't
// within ten seconds.
func (g *Gate) Await(t testing.TB, n int) {
	t.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for i := range n {
		select {
		case <-g.arrived:
		case <-limit.C:
			t.Fatalf("only %d of %d arrived at the gate", i, n)
		}
	}
}

// Pass lets n through, now or when they arrive.
func (g *Gate) Pass(n int) {
	for range n {
		g.passes <- struct{}{}
	}
}

// Open lets all through, now and later.
func (g *Gate) Open() { g.once.Do(func() { close(g.opened) }) }

// wait returns when the gate lets the caller through, with ctx's error, or with
// errLost when lost is closed.
func (g *Gate) wait(ctx context.Context, lost <-chan struct{}) error {
	if g == nil {
		return nil
	}
	select {
	case g.arrived <- struct{}{}:
	default:
	}
	select {
	case <-g.opened:
		return nil
	case <-g.passes:
		return nil
	case <-lost:
		return errLost
	case <-ctx.Done():
		return ctx.Err()
	}
}
