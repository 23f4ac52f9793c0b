package audit

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestExport(t *testing.T) {
	h := &heads{fresh: true}
	cfg, clk := small(t, h)
	l := open(t, cfg)
	start := clk.now()
	for i := range 30 {
		appendAll(t, l, allow(i))
		clk.advance(time.Minute)
	}
	if len(closedFiles(t, cfg)) < 2 {
		t.Fatal("there is one file only")
	}
	var all bytes.Buffer
	n, err := l.Export(context.Background(), Range{}, &all)
	if err != nil || uint64(n) != h.head.Seq {
		t.Fatalf("%d records, %v", n, err)
	}
	if rep := verifyBytes(t, all.Bytes(), h.head); rep.Problem != "" || rep.Records != uint64(n) {
		t.Fatalf("an export of everything is no whole log: %+v", rep)
	}
	var some bytes.Buffer
	r := Range{Since: start.Add(10 * time.Minute), Until: start.Add(20 * time.Minute)}
	if _, err := Export(context.Background(), cfg.Path, r, &some); err != nil {
		t.Fatal(err)
	}
	var targets []string
	for line := range bytes.Lines(some.Bytes()) {
		e, err := parse(line)
		if err != nil {
			t.Fatal(err)
		}
		if e.Action == "user.update" {
			targets = append(targets, e.Target)
		}
	}
	// Times in the log end at the microsecond, so the record of the first moment is a little before it.
	if len(targets) != 10 || targets[0] != "u_11" || targets[9] != "u_20" {
		t.Fatalf("%v", targets)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Export(ctx, Range{}, &some); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
}

// Readers and rotations at once: no page has a gap.
func TestReadWhileRotating(t *testing.T) {
	h := &heads{fresh: true}
	cfg, _ := small(t, h)
	l := open(t, cfg)
	appendAll(t, l, allow(0))
	done := make(chan error)
	go func() {
		for i := range 300 {
			if err := l.Append(context.Background(), allow(i)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		page, err := l.Read(context.Background(), Query{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range page.Items {
			if e.Seq != page.Items[0].Seq-uint64(i) {
				t.Fatalf("record %d follows %d", e.Seq, page.Items[i-1].Seq)
			}
		}
		if last := page.Items[len(page.Items)-1].Seq; last != 1 && len(page.Items) < 1000 {
			t.Fatalf("the oldest of %s records is %d", strconv.Itoa(len(page.Items)), last)
		}
		if rep := verifyAll(t, cfg, Check{Keys: cfg.Key.Keys()}); rep.Problem != "" && !strings.Contains(rep.Problem, "no record") {
			t.Fatalf("verify beside the writer: %+v", rep)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}
