package inference_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"modelgate/inference"
)

// poison has a caller end the model's process by n runs of his, and waits for
// every backoff to end.
func (b *bench) poison(name, model string, n int) {
	b.t.Helper()
	for range n {
		b.fake.CrashRuns(1, "signal: aborted")
		if a := <-b.as(name, model); !errors.Is(a.err, inference.ErrUnavailable) {
			b.t.Errorf("%s inside: %v", name, a.err)
		}
		pass(15 * time.Second)
	}
}

// Nobody takes a model from others by what he sends: he is refused himself.
func TestACallerWhoseInputsCrashAModel(t *testing.T) {
	var q quarantines
	bubble(t, inference.Config{Quarantine: q.put}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		b.put("other", 1, "two_io.onnx")
		b.poison("ann", "m", 3)
		a := <-b.as("ann", "m")
		if !errors.Is(a.err, inference.ErrUnavailable) || !strings.Contains(a.err.Error(), "closed to you for 10 minutes") {
			t.Errorf("refused: %v", a.err)
		}
		if b.value("callers_refused_total", "") != 1 || b.value("refused_total", "reason=caller") != 1 {
			t.Error("it was not counted")
		}
		for _, other := range [][2]string{{"bob", "m"}, {"ann", "other"}} {
			if a := <-b.as(other[0], other[1]); a.err != nil {
				t.Errorf("%s on %s: %v", other[0], other[1], a.err)
			}
		}
		b.put("m", 2, "two_io.onnx")
		if a := <-b.as("ann", "m"); a.err != nil {
			t.Errorf("another version: %v", a.err)
		}
		b.put("m", 1, "two_io.onnx")
		pass(10 * time.Minute)
		// Again and again, and never does it cost others more.
		for range 5 {
			b.poison("ann", "m", 3)
			if a := <-b.as("bob", "m"); a.err != nil {
				t.Errorf("bob: %v", a.err)
			}
			pass(10 * time.Minute)
		}
		if got := q.list(); len(got) != 0 {
			t.Errorf("quarantined: %q", got)
		}
	})
}

// On a busy model others are inside too when it crashes. Then runs go one at a
// time, so that it is seen whose run it is.
func TestACallerIsFoundOnABusyModel(t *testing.T) {
	var q quarantines
	bubble(t, inference.Config{Slots: 2, Quarantine: q.put}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		for i := range 5 {
			runs := b.fake.HoldRuns()
			first, second := b.as("ann", "m"), b.as("bob", "m")
			want := 2
			if i >= 2 {
				want = 1
			}
			if n := b.fake.Stats().Running; n != want {
				t.Errorf("%d runs are inside before crash %d, want %d", n, i+1, want)
			}
			b.fake.CrashRuns(1, "signal: aborted")
			runs.Pass(1)
			if a := <-first; !errors.Is(a.err, inference.ErrUnavailable) {
				t.Errorf("ann: %v", a.err)
			}
			if i < 2 {
				if a := <-second; !errors.Is(a.err, inference.ErrUnavailable) {
					t.Errorf("bob, inside too: %v", a.err)
				}
			} else {
				synctest.Wait()
				runs.Open()
				<-second // served, or refused for the backoff
			}
			pass(15 * time.Second)
		}
		if a := <-b.as("ann", "m"); !errors.Is(a.err, inference.ErrUnavailable) || !strings.Contains(a.err.Error(), "closed to you") {
			t.Errorf("ann: %v", a.err)
		}
		// Nothing is held against the model any more: runs go side by side.
		runs := b.fake.HoldRuns()
		all := []<-chan answer{b.as("bob", "m"), b.as("carol", "m")}
		if n := b.fake.Stats().Running; n != 2 {
			t.Errorf("%d runs side by side", n)
		}
		runs.Open()
		for _, done := range all {
			if a := <-done; a.err != nil {
				t.Errorf("others: %v", a.err)
			}
		}
		if len(q.list()) != 0 {
			t.Errorf("quarantined: %q", q.list())
		}
	})
}

// What crashes for one caller after another is the model's own fault.
func TestCrashesOfManyCallers(t *testing.T) {
	var q quarantines
	bubble(t, inference.Config{Quarantine: q.put}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		for _, name := range []string{"ann", "bob", "carol", "dave"} {
			b.poison(name, "m", 1)
		}
		b.poison("ann", "m", 1) // the second of one caller does not count
		if len(q.list()) != 0 {
			t.Errorf("too early: %q", q.list())
		}
		b.poison("erin", "m", 1)
		if got := q.list(); len(got) != 1 || b.value("callers_refused_total", "") != 0 {
			t.Errorf("%q", got)
		}
	})
}

// A process that is ended because a run did not end is held against who sent
// this run, not against who is inside meanwhile.
func TestARunThatDoesNotEnd(t *testing.T) {
	var q quarantines
	bubble(t, inference.Config{Timeout: 2 * time.Second, Slots: 2, Quarantine: q.put}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		for range 3 {
			b.fake.HoldRuns()
			slow := b.as("ann", "m")
			if a := <-slow; !errors.Is(a.err, inference.ErrDeadline) {
				t.Errorf("ann: %v", a.err)
			}
			quick := b.as("bob", "m")
			pass(time.Second)
			b.fake.Crash("deadline: a run did not end")
			if a := <-quick; !errors.Is(a.err, inference.ErrUnavailable) {
				t.Errorf("bob, inside: %v", a.err)
			}
			pass(20 * time.Second)
		}
		b.fake.HoldRuns().Open()
		if a := <-b.as("ann", "m"); a.err == nil || !strings.Contains(a.err.Error(), "closed to you") {
			t.Errorf("ann: %v", a.err)
		}
		if a := <-b.as("bob", "m"); a.err != nil {
			t.Errorf("bob: %v", a.err)
		}
		if n := b.value("crashes_total", "reason=deadline"); n != 3 || len(q.list()) != 0 {
			t.Errorf("%v crashes, quarantined: %q", n, q.list())
		}
	})
}
