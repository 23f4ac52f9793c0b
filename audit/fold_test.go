package audit

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

func TestRepeatedDenialsFold(t *testing.T) {
	h := &heads{}
	cfg, clk := config(t, h)
	l := open(t, cfg)
	deny := Entry{Actor: "bob", Action: "model.open", Target: "iris", Outcome: Denied, Reason: "forbidden", Address: "192.0.2.1"}
	for range 100 {
		appendAll(t, l, deny)
	}
	other := deny
	other.Target = "digits"
	appendAll(t, l, other)
	if rep := verifyFile(t, cfg, h.head); rep.Records != 2 {
		t.Fatalf("%d records for 100 like denials and another, want 2", rep.Records)
	}
	if err := l.flush(context.Background(), false); err != nil { // the window still runs
		t.Fatal(err)
	}
	clk.advance(time.Minute)
	appendAll(t, l, deny) // ends the window by itself
	page, _ := l.Read(context.Background(), Query{})
	if len(page.Items) != 4 || page.Items[1].Count != 99 || page.Items[0].Count != 1 || page.Items[1].Target != "iris" {
		t.Fatalf("%+v", page.Items)
	}
	appendAll(t, l, deny, deny)
	clk.advance(time.Minute)
	if err := l.flush(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	page, _ = l.Read(context.Background(), Query{})
	if len(page.Items) != 5 || page.Items[0].Count != 2 {
		t.Fatalf("%+v", page.Items)
	}
	if len(l.folds.m) != 0 {
		t.Fatalf("%d folds are kept after their window", len(l.folds.m))
	}
}

func TestFoldsAreBounded(t *testing.T) {
	f := folds{m: map[foldKey]*fold{}}
	now := newClock().t
	for i := range 2 * maxFolds {
		f.start(foldKey{actor: fmt.Sprint(i)}, Entry{}, now)
	}
	if len(f.m) != maxFolds {
		t.Fatalf("%d folds, want at most %d", len(f.m), maxFolds)
	}
}

func TestPredictionsAreTallied(t *testing.T) {
	h := &heads{}
	cfg, _ := config(t, h)
	l := open(t, cfg)
	for range 1000 {
		l.CountPrediction("u_1", "alice", "iris", 2, 3)
	}
	l.CountPrediction("u_2", "bob", "iris", 2, 1)
	if h.saves != 0 {
		t.Fatal("a prediction waited for the disk")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, cfg)
	page, err := l.Read(context.Background(), Query{Actor: "alice", Action: "model.predict"})
	if err != nil || len(page.Items) != 1 {
		t.Fatalf("%+v, %v", page, err)
	}
	e := page.Items[0]
	if e.Count != 1000 || e.Detail["rows"] != "3000" || e.Detail["version"] != "2" || e.Target != "iris" || e.ActorID != "u_1" || e.Outcome != Allowed {
		t.Fatalf("%+v", e)
	}
}

func TestTalliesAreBoundedAndLoseNothing(t *testing.T) {
	cfg, _ := config(t, &heads{})
	l := open(t, cfg)
	for i := range maxTallies + 500 {
		l.CountPrediction(fmt.Sprint(i), "x", "iris", 1, 1)
	}
	if n := len(l.tallies.m); n > maxTallies+1 {
		t.Fatalf("%d tallies", n)
	}
	select {
	case <-l.tallies.full:
	default:
		t.Fatal("Run is not woken when the counts are full")
	}
	var calls int64
	for _, c := range l.tallies.take() {
		calls += c.calls
	}
	if calls != maxTallies+500 {
		t.Fatalf("%d calls counted", calls)
	}
}

func TestCountsSurviveAFailingDisk(t *testing.T) {
	cfg, _ := config(t, &heads{})
	l := open(t, cfg)
	deny := Entry{Actor: "bob", Action: "model.open", Outcome: Denied}
	appendAll(t, l, deny, deny)
	l.CountPrediction("u_1", "alice", "iris", 1, 1)
	good := l.file
	bad, err := os.Open(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	l.file = bad
	if err := l.flush(context.Background(), true); err == nil {
		t.Fatal("no error")
	}
	l.file = good
	if err := l.flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	page, _ := l.Read(context.Background(), Query{})
	if len(page.Items) != 3 {
		t.Fatalf("%+v", page.Items)
	}
}

func TestRunFlushesAtTheEnd(t *testing.T) {
	cfg, _ := config(t, &heads{})
	l := open(t, cfg)
	l.CountPrediction("u_1", "alice", "iris", 1, 1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if page, _ := l.Read(context.Background(), Query{}); len(page.Items) != 1 {
		t.Fatalf("%+v", page)
	}
}
