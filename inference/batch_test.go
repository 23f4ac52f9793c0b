package inference_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"modelgate/auth"
	"modelgate/inference"
	"modelgate/models"
)

// row is an input of two_io whose dot is n.
func row(n int) string { return fmt.Sprintf(`{"a":[[%d,0,0]],"b":[[1,0,0]]}`, n) }

func rowAnswer(n int) string {
	return fmt.Sprintf(`{"model":"m","outputs":{"difference":[[%d,0,0]],"dot":[[%d]]}}`, n-1, n)
}

// batching publishes two_io as m, with batches, and holds one run at the gate
// of the only slot.
func batching(b *bench, most int) (*holder, <-chan answer) {
	b.put("m", 1, "two_io.onnx")
	b.allow("m", models.Rule{}, models.Serving{MaxBatch: most})
	h := &holder{open: b.fake.HoldRuns().Open}
	first := b.start(b.t.Context(), "m", row(1000))
	return h, first
}

// holder lets the held run go; those that come later pass.
type holder struct{ open func() }

func (h *holder) release(b *bench) {
	b.fake.HoldRuns().Open()
	h.open()
	synctest.Wait()
}

func expectRow(t *testing.T, n int, got answer) {
	t.Helper()
	if got.err != nil || got.text != rowAnswer(n) {
		t.Errorf("row %d: %s, %v", n, got.text, got.err)
	}
}

// Who comes to a free slot goes alone and at once; who waits goes together.
func TestWhatWaitsGoesTogether(t *testing.T) {
	bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
		held, first := batching(b, 4)
		var waiting []<-chan answer
		for n := range 6 {
			waiting = append(waiting, b.start(t.Context(), "m", row(n)))
		}
		if q, r := b.value("queued", ""), b.fake.Stats().Runs; q != 6 || r != 1 {
			t.Errorf("%v queued, %d runs", q, r)
		}
		held.release(b)
		expectRow(t, 1000, <-first)
		for n, w := range waiting {
			expectRow(t, n, <-w)
		}
		// One alone, four rows at most, and the two that were left.
		if r, told := b.fake.Stats().Runs, b.value("batch_predictions", "model=m"); r != 3 || told != 3 {
			t.Errorf("%d runs, %v told", r, told)
		}
		if len(b.counted) != 7 || b.value("queued", "") != 0 {
			t.Errorf("counted %q", b.counted)
		}
	})
}

// Without max_batch nothing is joined, nor when the graph is not proved.
func TestNobodySharesARunUnasked(t *testing.T) {
	for _, c := range []struct {
		file, inputs string
		most         int
	}{{"two_io.onnx", row(1), 0}, {"two_io.onnx", row(1), 1}, {"rowmix.onnx", `{"x":[[1,2,3,4]]}`, 64}} {
		bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
			b.put("m", 1, c.file)
			b.allow("m", models.Rule{}, models.Serving{MaxBatch: c.most})
			held := &holder{open: b.fake.HoldRuns().Open}
			var waiting []<-chan answer
			for range 4 {
				waiting = append(waiting, b.start(t.Context(), "m", c.inputs))
			}
			held.release(b)
			for _, w := range waiting {
				if a := <-w; a.err != nil {
					t.Error(a.err)
				}
			}
			if r := b.fake.Stats().Runs; r != 4 {
				t.Errorf("%s, max_batch %d: %d runs", c.file, c.most, r)
			}
		})
	}
}

// A caller who has his share of runs holds up himself, not those who would go
// in one run with him: neither when they come behind him, nor when he leaves.
func TestABatchWaitsForNobodysShare(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
			for _, name := range []string{"m", "slow", "slower"} {
				b.put(name, 1, "two_io.onnx")
			}
			b.allow("m", models.Rule{}, models.Serving{MaxBatch: 8})
			held := &holder{open: b.fake.HoldRuns().Open}
			slow, slower := b.start(t.Context(), "slow", row(1)), b.start(t.Context(), "slower", row(2))
			pass(time.Second) // both are under way, one of them without a slot
			b.fake.HoldRuns().Open()
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			first, second := b.start(ctx, "m", row(3)), b.start(ctx, "m", row(4))
			pass(time.Second) // so is the other
			if r := b.fake.Stats().Runs; r != 2 {
				t.Fatalf("%d runs of one caller", r)
			}
			if leaves {
				leave()
				synctest.Wait()
			}
			bob := auth.Principal{UserID: "bob", Username: "bob"}
			done := make(chan answer, 1)
			go func() {
				text, err := ask(t.Context(), b.Service, bob, "m", row(5))
				done <- answer{text, err}
			}()
			synctest.Wait()
			select {
			case got := <-done:
				expectRow(t, 5, got)
			default:
				t.Error("another caller waits")
			}
			held.release(b)
			for _, w := range []<-chan answer{slow, slower} {
				if a := <-w; a.err != nil {
					t.Error(a.err)
				}
			}
			if a := <-first; (a.err != nil) != leaves {
				t.Errorf("the first: %v", a)
			}
			if a := <-second; (a.err != nil) != leaves {
				t.Errorf("the second: %v", a)
			}
		})
	}
}

// Rows of another shape, several rows, other outputs and another rule each get
// their own.
func TestABatchOfUnlikes(t *testing.T) {
	bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
		held, first := batching(b, 8)
		several := b.start(t.Context(), "m", `{"a":[[1,0,0],[2,0,0]],"b":[[1,0,0],[1,0,0]]}`)
		alone := make([]string, 9)
		for i := range alone {
			alone[i] = "[1,0,0]"
		}
		many := strings.Join(alone, ",")
		large := b.start(t.Context(), "m", `{"a":[`+many+`],"b":[`+many+`]}`)
		dot := make(chan answer, 1)
		go func() {
			text, err := b.predict(t.Context(), "m", row(5), "dot")
			dot <- answer{text, err}
		}()
		synctest.Wait()
		held.release(b)
		expectRow(t, 1000, <-first)
		if a := <-several; a.err != nil || a.text != `{"model":"m","outputs":{"difference":[[0,0,0],[1,0,0]],"dot":[[1],[2]]}}` {
			t.Errorf("several rows: %v", a)
		}
		if a := <-dot; a.err != nil || a.text != `{"model":"m","outputs":{"dot":[[5]]}}` {
			t.Errorf("one output: %v", a)
		}
		if a := <-large; a.err != nil || strings.Count(a.text, "[1]") != 9 {
			t.Errorf("more rows than a batch: %v", a)
		}
		if r := b.fake.Stats().Runs; r != 3 {
			t.Errorf("%d runs", r)
		}
	})
	bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
		b.put("d", 1, "dynamic.onnx")
		b.allow("d", models.Rule{}, models.Serving{MaxBatch: 8})
		held := &holder{open: b.fake.HoldRuns().Open}
		var waiting []<-chan answer
		for _, x := range []string{`[[[1]]]`, `[[[1,2]]]`, `[[[3]]]`, `[[[4,5]]]`, `[[[6]]]`} {
			waiting = append(waiting, b.start(t.Context(), "d", `{"x":`+x+`}`))
		}
		held.release(b)
		for i, sum := range []string{"[[1]]", "[[3]]", "[[3]]", "[[9]]", "[[6]]"} {
			if a := <-waiting[i]; a.err != nil || !strings.Contains(a.text, `"row_sums":`+sum) {
				t.Errorf("%d: %v", i, a)
			}
		}
		if r := b.fake.Stats().Runs; r != 3 { // the first, then each shape
			t.Errorf("%d runs", r)
		}
	})
}

// A batch that fails falls apart, and what is wrong is told to who sent it.
func TestABatchThatFailsFallsApart(t *testing.T) {
	bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
		b.put("m", 1, "divide.onnx")
		b.allow("m", models.Rule{}, models.Serving{MaxBatch: 8})
		held := &holder{open: b.fake.HoldRuns().Open}
		first := b.start(t.Context(), "m", `{"a":[8],"b":[2]}`)
		good := b.start(t.Context(), "m", `{"a":[9],"b":[3]}`)
		bad := b.start(t.Context(), "m", `{"a":[9],"b":[0]}`)
		other := b.start(t.Context(), "m", `{"a":[10],"b":[2]}`)
		held.release(b)
		for w, want := range map[<-chan answer]string{first: "4", good: "3", other: "5"} {
			if a := <-w; a.err != nil || !strings.Contains(a.text, "["+want+"]") {
				t.Errorf("%v, want %s", a, want)
			}
		}
		if a := <-bad; !errors.Is(a.err, inference.ErrRun) {
			t.Errorf("the bad one: %v", a)
		}
		if r := b.fake.Stats().Runs; r != 5 || b.value("batches_split_total", "") != 1 {
			t.Errorf("%d runs", r)
		}
	})
}

// Who leaves while he waits is not computed, whether he leads or follows, and
// the others are served in their turn.
func TestLeavingABatchThatWaits(t *testing.T) {
	bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
		held, first := batching(b, 8)
		leaving, leave := context.WithCancel(t.Context())
		leader := b.start(leaving, "m", row(1))
		stays := b.start(t.Context(), "m", row(2))
		follower := b.start(leaving, "m", row(3))
		another := b.start(t.Context(), "m", row(4))
		leave()
		for _, w := range []<-chan answer{leader, follower} {
			if a := <-w; !errors.Is(a.err, context.Canceled) {
				t.Errorf("left: %v", a)
			}
		}
		if q := b.value("queued", ""); q != 2 {
			t.Errorf("%v queued", q)
		}
		held.release(b)
		expectRow(t, 1000, <-first)
		expectRow(t, 2, <-stays)
		expectRow(t, 4, <-another)
		if r := b.fake.Stats().Runs; r != 2 {
			t.Errorf("%d runs", r)
		}
	})
}

// Who leaves a run that others share leaves it to them; it ends with the last.
func TestLeavingARunThatIsShared(t *testing.T) {
	bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
		held, first := batching(b, 8)
		leaving, leave := context.WithCancel(t.Context())
		leader := b.start(leaving, "m", row(1))
		stays := b.start(t.Context(), "m", row(2))
		follower := b.start(leaving, "m", row(3))
		shared := b.fake.HoldRuns()
		held.open()
		synctest.Wait()
		expectRow(t, 1000, <-first)
		leave()
		if a := <-follower; !errors.Is(a.err, context.Canceled) {
			t.Errorf("a follower left: %v", a)
		}
		shared.Open()
		expectRow(t, 2, <-stays)
		<-leader // whose answer came, or was not waited for

		held, first = batching(b, 8)
		leaving, leave = context.WithCancel(t.Context())
		leader, follower = b.start(leaving, "m", row(1)), b.start(leaving, "m", row(3))
		b.fake.HoldRuns() // never opened
		held.open()
		<-first
		synctest.Wait()
		leave()
		for _, w := range []<-chan answer{leader, follower} {
			if a := <-w; !errors.Is(a.err, context.Canceled) {
				t.Errorf("all left: %v", a)
			}
		}
	})
}

// A batch that takes too long falls apart; each then has its own limit.
func TestABatchHasADeadline(t *testing.T) {
	bubble(t, inference.Config{Slots: 1, Timeout: time.Second}, func(t *testing.T, b *bench) {
		held, first := batching(b, 8)
		one, two := b.start(t.Context(), "m", row(1)), b.start(t.Context(), "m", row(2))
		b.fake.HoldRuns() // never opened
		held.open()
		<-first
		if a := <-one; !errors.Is(a.err, inference.ErrDeadline) {
			t.Errorf("the leader: %v", a)
		}
		if a := <-two; !errors.Is(a.err, inference.ErrQueueFull) { // all the while there was no slot for him
			t.Errorf("who followed: %v", a)
		}
	})
}

// Those who wait in a batch count for the queues.
func TestABatchCountsForTheQueue(t *testing.T) {
	bubble(t, inference.Config{Slots: 1, Queue: 3}, func(t *testing.T, b *bench) {
		held, first := batching(b, 8)
		var waiting []<-chan answer
		for n := range 3 {
			waiting = append(waiting, b.start(t.Context(), "m", row(n)))
		}
		if a := <-b.start(t.Context(), "m", row(9)); !errors.Is(a.err, inference.ErrQueueFull) {
			t.Errorf("beyond the queue: %v", a)
		}
		held.release(b)
		<-first
		for n, w := range waiting {
			expectRow(t, n, <-w)
		}
		b.allow("m", models.Rule{}, models.Serving{MaxBatch: 8, Queue: 1})
		held = &holder{open: b.fake.HoldRuns().Open}
		first = b.start(t.Context(), "m", row(1))
		second := b.start(t.Context(), "m", row(2))
		if a := <-b.start(t.Context(), "m", row(9)); !errors.Is(a.err, inference.ErrQueueFull) || !strings.Contains(a.err.Error(), "this model") {
			t.Errorf("beyond the model's queue: %v", a)
		}
		held.release(b)
		expectRow(t, 1, <-first)
		expectRow(t, 2, <-second)
	})
}

// No row of one caller comes to another's answer, whatever comes and goes, and
// no memory is lost: the real runtime under load. Of rowmix, whose graph mixes
// rows, no two predictions share a run although it asks for it.
func TestRowsKeepApartUnderLoad(t *testing.T) {
	h := newHouse(t)
	for _, name := range []string{"rowmix", "two_io", "iris", "types"} {
		if _, err := h.publish(t.Context(), name, name+".onnx"); err != nil {
			t.Fatal(err)
		}
	}
	served := models.Serving{MaxBatch: 16, TimeoutMS: 30_000}
	service := inference.NewService(inference.Config{Engine: h.engine, Catalog: h.catalog, Memory: h.mem, Slots: 2}, // asked for whatever the catalogue says
		func(ctx context.Context, who auth.Principal, ref models.Ref) (models.Access, error) {
			a, err := h.catalog.Open(ctx, who, ref)
			if err == nil {
				m := *a.Model
				m.Serving = served
				a.Model = &m
			}
			return a, err
		}, h.catalog.Read)
	defer func() {
		if err := service.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	var group sync.WaitGroup
	var answers atomic.Int64
	for caller := range 24 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 1))
			for range 60 {
				n := caller*1000 + random.IntN(1000)
				model, inputs := loadCase(random.IntN(4), n)
				want, err := ask(t.Context(), h.service, h.owner, model, inputs) // alone
				if err != nil {
					t.Error(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				if random.IntN(8) == 0 {
					go cancel()
				}
				got, err := ask(ctx, service, h.owner, model, inputs)
				if err == nil && got != want {
					t.Errorf("%s: got %s, want %s", model, got, want)
				}
				if err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", model, err)
				}
				if err == nil {
					answers.Add(1)
				}
				cancel()
			}
		})
	}
	group.Wait()
	if answers.Load() < 1000 {
		t.Errorf("only %d answers", answers.Load())
	}
}

// loadCase is a prediction that bears the mark n.
func loadCase(kind, n int) (model, inputs string) {
	switch kind {
	case 0: // each row plus the greatest of its batch
		return "rowmix", fmt.Sprintf(`{"x":[[%d,0,0,0]]}`, n)
	case 1:
		return "two_io", row(n)
	case 2: // maps
		return "iris", fmt.Sprintf(`{"X":[[%d.1,3.5,%d.4,0.2]]}`, 4+n%4, 1+n%6)
	}
	small := strings.ReplaceAll(`{"fp32":[#],"fp64":[#],"fp16":[#],"bf16":[#],"int8":[#],"int16":[#],"int32":[#],"int64":[#],"uint8":[#],"uint16":[#],"uint32":[#],"uint64":[#]`,
		"#", fmt.Sprint(n%100))
	return "types", fmt.Sprintf(`%s,"bool":[%v],"string":["row %d"]}`, small, n%2 == 0, n)
}
