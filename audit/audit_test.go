package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// heads keeps the heads of logs in memory, as the database does. head is that of
// the log without a key, or of the one opened last.
type heads struct {
	mu    sync.Mutex
	head  Head
	id    string
	other map[string]Head
	fresh bool // nothing is known of the log yet
	tries int
	saves int
	err   error
}

func (h *heads) AuditHeads(context.Context) (map[string]Head, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := maps.Clone(h.other)
	if all == nil {
		all = map[string]Head{}
	}
	if !h.fresh {
		all[h.id] = h.head
	}
	return all, nil
}

func (h *heads) SetAuditHead(_ context.Context, log string, n Head) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fresh {
		h.id, h.fresh = log, false
	}
	if log != h.id {
		return fmt.Errorf("the log %q saves a head, not %q", log, h.id)
	}
	h.tries++
	if h.err != nil {
		return h.err
	}
	h.saves++
	if n.Seq > h.head.Seq {
		h.head = n
	}
	return nil
}

func (h *heads) ClaimAuditHead(_ context.Context, log string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.id == "" {
		h.id = log
	}
	return nil
}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2030, 1, 2, 3, 4, 5, 6789, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func config(t testing.TB, h *heads) (Config, *clock) {
	c := newClock()
	return Config{
		Path: filepath.Join(t.TempDir(), "audit", "audit.log"), Heads: h, Now: c.now,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}, c
}

func open(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func allow(n int) Entry {
	return Entry{Actor: "alice", ActorID: "u_1", Action: "user.update", Target: fmt.Sprint("u_", n), Outcome: Allowed}
}

func appendAll(t testing.TB, l *Log, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if err := l.Append(context.Background(), e); err != nil {
			t.Fatal(err)
		}
	}
}

func verifyFile(t testing.TB, cfg Config, head Head) Report {
	t.Helper()
	b, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	return verifyBytes(t, b, head)
}

func verifyBytes(t testing.TB, b []byte, head Head) Report {
	t.Helper()
	rep, err := Verify(bytes.NewReader(b), head)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestAppendIsReadAndVerified(t *testing.T) {
	h := &heads{}
	cfg, clk := config(t, h)
	l := open(t, cfg)
	for i := range 7 {
		appendAll(t, l, allow(i))
		clk.advance(time.Second)
	}
	if h.head.Seq != 7 {
		t.Fatalf("the head saved is %d, want 7", h.head.Seq)
	}
	page, err := l.Read(context.Background(), Query{Limit: 3})
	if err != nil || len(page.Items) != 3 || page.Items[0].Seq != 7 || page.Items[2].Seq != 5 || page.Next != 5 {
		t.Fatalf("first page: %+v, %v", page, err)
	}
	page, err = l.Read(context.Background(), Query{Limit: 4, Before: page.Next})
	if err != nil || len(page.Items) != 4 || page.Items[3].Seq != 1 || page.Next != 0 {
		t.Fatalf("last page: %+v, %v", page, err)
	}
	if got := page.Items[3]; got.Target != "u_0" || got.Count != 1 || !got.Time.Equal(newClock().t.Truncate(time.Microsecond)) {
		t.Fatalf("first record: %+v", got)
	}
	if rep := verifyFile(t, cfg, h.head); rep.Problem != "" || rep.Records != 7 || rep.Head != h.head {
		t.Fatalf("verify: %+v", rep)
	}
	info, err := os.Stat(cfg.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
}

func TestReopenGoesOn(t *testing.T) {
	h := &heads{}
	cfg, _ := config(t, h)
	l := open(t, cfg)
	appendAll(t, l, allow(1), allow(2))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(context.Background(), allow(3)); !errors.Is(err, ErrClosed) {
		t.Fatalf("append after close: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	appendAll(t, open(t, cfg), allow(3))
	if rep := verifyFile(t, cfg, h.head); rep.Problem != "" || rep.Records != 3 {
		t.Fatalf("%+v", rep)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	cfg, _ := config(t, &heads{})
	open(t, cfg)
	if l, err := Open(context.Background(), cfg); err == nil {
		l.Close()
		t.Fatal("a second writer was let in")
	}
}

// Concurrent appends share one write: ten that wait behind a writer cost one.
func TestGroupCommit(t *testing.T) {
	h := &heads{}
	cfg, _ := config(t, h)
	l := open(t, cfg)
	l.commit <- struct{}{} // somebody writes
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if err := l.Append(context.Background(), allow(i)); err != nil {
				t.Error(err)
			}
		})
	}
	for waiting := 0; waiting < 10; runtime.Gosched() {
		l.mu.Lock()
		waiting = len(l.batch.entries)
		l.mu.Unlock()
	}
	<-l.commit
	wg.Wait()
	if h.saves != 1 {
		t.Fatalf("%d writes for 10 concurrent records, want 1", h.saves)
	}
	if rep := verifyFile(t, cfg, h.head); rep.Problem != "" || rep.Records != 10 {
		t.Fatalf("%+v", rep)
	}
}

func TestWaiterLeaves(t *testing.T) {
	h := &heads{}
	cfg, _ := config(t, h)
	l := open(t, cfg)
	l.commit <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Append(ctx, allow(1)) }()
	for waiting := 0; waiting < 1; runtime.Gosched() {
		l.mu.Lock()
		waiting = len(l.batch.entries)
		l.mu.Unlock()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	<-l.commit
	appendAll(t, l, allow(2))
	if rep := verifyFile(t, cfg, h.head); rep.Records != 1 {
		t.Fatalf("the record of the caller who left was written: %+v", rep)
	}
}

// A disk that fails makes Append fail, and the log heals when the disk does.
func TestFailingDisk(t *testing.T) {
	h := &heads{}
	cfg, _ := config(t, h)
	l := open(t, cfg)
	appendAll(t, l, allow(1))
	good := l.file
	bad, err := os.Open(cfg.Path) // can't be written
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	l.file = bad
	if err := l.Append(context.Background(), allow(2)); err == nil {
		t.Fatal("a record that could not be written was accepted")
	}
	deny := Entry{Actor: "bob", Action: "model.open", Target: "iris", Outcome: Denied}
	for range 2 { // the second must not be folded into a first that is not there
		if err := l.Append(context.Background(), deny); err == nil {
			t.Fatal("a denial that could not be written was accepted")
		}
	}
	l.file = good
	if _, err := good.Write([]byte(`{"seq":2,"half`)); err != nil { // what a full disk leaves
		t.Fatal(err)
	}
	appendAll(t, l, allow(3), deny)
	if rep := verifyFile(t, cfg, h.head); rep.Problem != "" || rep.Records != 3 {
		t.Fatalf("%+v", rep)
	}
}

func TestHeadThatCantBeSavedIsSavedLater(t *testing.T) {
	h := &heads{err: errors.New("database is locked")}
	cfg, _ := config(t, h)
	l := open(t, cfg)
	appendAll(t, l, allow(1))
	if h.tries != 1 {
		t.Fatalf("%d tries", h.tries)
	}
	appendAll(t, l, allow(2)) // does not wait for a database that is locked again
	if h.tries != 1 {
		t.Fatal("every record waits for a database that is locked")
	}
	h.err = nil
	l.pause = time.Time{}
	if err := l.flush(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	if h.head.Seq != 2 {
		t.Fatalf("head %+v", h.head)
	}
}

// What a caller chose stays within one record, and is bounded.
func TestInjection(t *testing.T) {
	h := &heads{}
	cfg, _ := config(t, h)
	l := open(t, cfg)
	hostile := []string{
		"a\r\n{\"seq\":99,\"actor\":\"admin\"}", "\x1b[2J\x1b[31mred", `","outcome":"allowed","x":"`, "nul\x00", "\u2028\u2029", "\u202e right to left",
		"\u009b31m C1", "\x7f", "bad utf-8 \xff\xfe", "\ufffd", strings.Repeat("é", 500), strings.Repeat("\x01", 5000), "<script>&",
	}
	for _, s := range hostile {
		appendAll(t, l, Entry{Actor: s, Action: "user.login", Target: s, Outcome: Allowed, Reason: s, Address: s, Request: s, Detail: map[string]string{s: s}})
	}
	b, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte{'\n'}); n != len(hostile) {
		t.Fatalf("%d lines for %d records", n, len(hostile))
	}
	for i, c := range string(b) {
		if c < 0x20 && c != '\n' || c >= 0x7f && c < 0xa0 || c == 0x202e {
			t.Fatalf("byte %d: a control character %U in the file", i, c)
		}
	}
	if rep := verifyBytes(t, b, h.head); rep.Problem != "" || rep.Records != uint64(len(hostile)) {
		t.Fatalf("%+v", rep)
	}
	page, _ := l.Read(context.Background(), Query{Actor: hostile[0]})
	if len(page.Items) != 1 || page.Items[0].Actor != hostile[0] {
		t.Fatalf("%+v", page)
	}
	page, _ = l.Read(context.Background(), Query{})
	for _, e := range page.Items {
		if len(e.Actor) > maxField || len(e.Target) > maxField {
			t.Fatalf("a field of %d bytes", len(e.Actor))
		}
	}
}

func TestReadPagesAndFilters(t *testing.T) {
	cfg, _ := config(t, &heads{})
	l := open(t, cfg)
	const n = 3000 // many blocks
	var entries []*Entry
	for i := range n {
		e := clean(Entry{Actor: fmt.Sprint("user", i%7), Action: fmt.Sprint("act.", i%3), Target: strings.Repeat("t", i%200), Outcome: Allowed})
		entries = append(entries, &e)
	}
	if err := l.write(context.Background(), entries...); err != nil {
		t.Fatal(err)
	}
	for _, before := range []uint64{0, 1, 2, 3, 100, 1499, 1500, 2999, 3000, 3001, 1 << 60} {
		page, err := l.Read(context.Background(), Query{Before: before, Limit: 5})
		if err != nil {
			t.Fatal(err)
		}
		newest := min(before-1, n) // 0 wraps to the newest
		if want := min(newest, 5); len(page.Items) != int(want) {
			t.Fatalf("before %d: %d items, want %d", before, len(page.Items), want)
		}
		for i, e := range page.Items {
			if e.Seq != newest-uint64(i) {
				t.Fatalf("before %d: item %d is record %d", before, i, e.Seq)
			}
		}
	}
	seen := 0
	for q := (Query{Actor: "user3", Action: "act.1", Limit: 20}); ; {
		page, err := l.Read(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Items {
			if e.Actor != "user3" || e.Action != "act.1" {
				t.Fatalf("%+v", e)
			}
			seen++
		}
		if q.Before = page.Next; q.Before == 0 {
			break
		}
	}
	want := 0
	for i := range n {
		if i%7 == 3 && i%3 == 1 {
			want++
		}
	}
	if seen != want {
		t.Fatalf("%d records found, want %d", seen, want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Read(ctx, Query{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	if page, err := l.Read(context.Background(), Query{Limit: 1 << 30}); err != nil || len(page.Items) != maxLimit {
		t.Fatalf("%d items, %v", len(page.Items), err)
	}
}

// A process that is killed loses no record it had been promised.
func TestKilledWriter(t *testing.T) {
	if path := os.Getenv("AUDIT_TEST_WRITER"); path != "" {
		l, err := Open(context.Background(), Config{Path: path})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		for i := 0; ; i++ {
			if err := l.Append(context.Background(), allow(i)); err != nil {
				os.Exit(1)
			}
			fmt.Println("kept", i)
		}
	}
	cfg, _ := config(t, &heads{})
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$")
	cmd.Env = append(os.Environ(), "AUDIT_TEST_WRITER="+cfg.Path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var kept uint64
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "kept") {
			kept++
		} else {
			t.Error(lines.Text())
		}
		if kept == 50 {
			cmd.Process.Kill()
		}
	}
	cmd.Wait()
	appendAll(t, open(t, cfg), allow(0))
	if rep := verifyFile(t, cfg, Head{}); rep.Problem != "" || rep.Records < kept+1 {
		t.Fatalf("%d kept, found %+v", kept, rep)
	}
}

func BenchmarkAppend(b *testing.B) {
	cfg, _ := config(b, &heads{})
	l := open(b, cfg)
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Append(context.Background(), allow(1)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCountPrediction(b *testing.B) {
	cfg, _ := config(b, &heads{})
	l := open(b, cfg)
	b.ReportAllocs()
	for b.Loop() {
		l.CountPrediction("u_1", "alice", "iris", 1, 1)
	}
}
