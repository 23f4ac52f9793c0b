package audit

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// small makes files of about five records.
func small(t testing.TB, h *heads) (Config, *clock) {
	cfg, clk, _ := keyed(t, h)
	cfg.MaxSize = 1500
	return cfg, clk
}

func closedFiles(t testing.TB, cfg Config) []piece {
	t.Helper()
	list, err := pieces(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// The name of a folder is no pattern.
func TestStrangeFolder(t *testing.T) {
	cfg, _ := small(t, &heads{fresh: true})
	parent := filepath.Dir(cfg.Path)
	cfg.Path = filepath.Join(parent, "[*", filepath.Base(cfg.Path))
	l := open(t, cfg)
	appendAll(t, l, allow(1))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	left, others := cfg.Path+".new-1", filepath.Join(parent, "[x", filepath.Base(cfg.Path)+".new-1")
	if err := errors.Join(os.WriteFile(left, nil, 0o600), os.Mkdir(filepath.Dir(others), 0o700), os.WriteFile(others, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	open(t, cfg)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a crash left is still there: %v", err)
	}
	if _, err := os.Stat(others); err != nil {
		t.Errorf("another folder's file: %v", err)
	}
}

func TestRotation(t *testing.T) {
	h := &heads{fresh: true}
	cfg, clk := small(t, h)
	l := open(t, cfg)
	for i := range 60 {
		appendAll(t, l, allow(i))
		clk.advance(time.Second)
	}
	list := closedFiles(t, cfg)
	if len(list) < 5 || filepath.Base(list[0].path) != "audit-000000000001.log" {
		t.Fatalf("%d closed files: %v", len(list), list)
	}
	for _, p := range list {
		b := mustRead(t, p.path)
		lines := bytes.SplitAfter(bytes.TrimSuffix(b, []byte{'\n'}), []byte{'\n'})
		first, err := parse(lines[0])
		last, err2 := parse(lines[len(lines)-1])
		if err := errors.Join(err, err2); err != nil || first.Seq != p.first || last.Action != actionHead {
			t.Errorf("%s begins with %d and ends with %s (%v)", p.path, first.Seq, last.Action, err)
		}
		if info, _ := os.Stat(p.path); info.Mode().Perm() != 0o400 || int64(len(b)) > cfg.MaxSize+1500 {
			t.Errorf("%s: mode %v, %d bytes", p.path, info.Mode(), len(b))
		}
	}
	check := Check{Head: h.head, Keys: cfg.Key.Keys()}
	rep := verifyAll(t, cfg, check)
	if rep.Problem != "" || rep.Files != len(list)+1 || rep.Head != h.head {
		t.Fatalf("%+v", rep)
	}
	// Pages go across files, and so do filters.
	var seen []string
	for q := (Query{Action: "user.update", Limit: 7}); ; {
		page, err := l.Read(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Items {
			seen = append(seen, e.Target)
		}
		if q.Before = page.Next; q.Before == 0 {
			break
		}
	}
	for i, target := range seen {
		if target != fmt.Sprint("u_", 59-i) {
			t.Fatalf("record %d of the pages is %s", i, target)
		}
	}
	if len(seen) != 60 {
		t.Fatalf("%d records read", len(seen))
	}
	l.Close()
	l = open(t, cfg)
	appendAll(t, l, allow(60))
	l.Close()
	check.Head = h.head
	if rep := verifyAll(t, cfg, check); rep.Problem != "" {
		t.Fatalf("after a restart: %+v", rep)
	}
}

func TestRotationByAge(t *testing.T) {
	h := &heads{fresh: true}
	cfg, clk := small(t, h)
	cfg.MaxSize, cfg.MaxAge = 1<<20, 24*time.Hour
	l := open(t, cfg)
	appendAll(t, l, allow(1))
	clk.advance(23 * time.Hour)
	appendAll(t, l, allow(2))
	if n := len(closedFiles(t, cfg)); n != 0 {
		t.Fatalf("%d files closed after 23 hours", n)
	}
	clk.advance(time.Hour)
	if err := l.flush(context.Background(), false); err != nil { // as Run does where nothing is written
		t.Fatal(err)
	}
	if n := len(closedFiles(t, cfg)); n != 1 {
		t.Fatalf("%d files closed after 24 hours", n)
	}
	l.Close()
	clk.advance(24 * time.Hour)
	l = open(t, cfg) // the age is that of the file's first record
	appendAll(t, l, allow(3))
	if n := len(closedFiles(t, cfg)); n != 2 {
		t.Fatalf("%d files closed after two days", n)
	}
}

// A change in a closed file, or a file taken out of the middle, is found; what
// is taken away at the beginning is said.
func TestVerifyAcrossFiles(t *testing.T) {
	h := &heads{fresh: true}
	cfg, _ := small(t, h)
	l := open(t, cfg)
	for i := range 40 {
		appendAll(t, l, allow(i))
	}
	l.Close()
	list := closedFiles(t, cfg)
	check := Check{Head: h.head, Keys: cfg.Key.Keys()}
	middle := list[1]
	whole := mustRead(t, middle.path)
	replace := func(b []byte) {
		t.Helper()
		if err := os.Remove(middle.path); err != nil {
			t.Fatal(err)
		}
		write(t, middle.path, b)
	}
	for i := 0; i < len(whole); i += 7 {
		b := slices.Clone(whole)
		b[i] ^= 1
		replace(b)
		if rep := verifyAll(t, cfg, check); rep.Problem == "" {
			t.Fatalf("byte %d of a closed file", i)
		}
	}
	for _, cut := range []int{1, 100, len(whole) - 1, bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1} {
		replace(whole[:cut])
		if rep := verifyAll(t, cfg, check); rep.Problem == "" {
			t.Fatalf("a closed file cut at %d", cut)
		}
	}
	if err := os.Remove(middle.path); err != nil {
		t.Fatal(err)
	}
	if rep := verifyAll(t, cfg, check); !strings.Contains(rep.Problem, "in no file") || rep.At != middle.first {
		t.Fatalf("%+v", rep)
	}
	// Compressed, it counts.
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(whole)
	w.Close()
	write(t, middle.path+".gz", z.Bytes())
	if rep := verifyAll(t, cfg, check); rep.Problem != "" {
		t.Fatalf("with a compressed file: %+v", rep)
	}
	l = open(t, cfg)
	if page, err := l.Read(context.Background(), Query{Limit: 1000}); err != nil || page.Items[len(page.Items)-1].Seq != list[2].first {
		t.Fatalf("pages end at record %d, %v", page.Items[len(page.Items)-1].Seq, err)
	}
	l.Close()
	for _, p := range []string{list[0].path, middle.path + ".gz"} { // what retention does
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	check.Head = h.head
	if rep := verifyAll(t, cfg, check); rep.Problem != "" || rep.Head.Seq-rep.Records+1 != list[2].first {
		t.Fatalf("%+v", rep)
	}
	open(t, cfg).Close()
	// Without the current file, the end is missing, and the next start says so.
	if err := os.Remove(cfg.Path); err != nil {
		t.Fatal(err)
	}
	if rep := verifyAll(t, cfg, check); !strings.Contains(rep.Problem, "missing at the end") {
		t.Fatalf("%+v", rep)
	}
	l = open(t, cfg)
	page, err := l.Read(context.Background(), Query{Action: actionBegin, Limit: 1})
	if err != nil || len(page.Items) != 1 || page.Items[0].Reason != "file_missing" {
		t.Fatalf("%+v, %v", page, err)
	}
}

// TestCrashInRotation ends the process at each step of a rotation; the next
// start goes on without a gap and without losing a record.
func TestCrashInRotation(t *testing.T) {
	if dir := os.Getenv("AUDIT_TEST_ROTATE"); dir != "" {
		h := &heads{fresh: true}
		key, err := OpenKey(filepath.Join(dir, "audit.key"))
		if err != nil {
			t.Fatal(err)
		}
		l, err := Open(context.Background(), Config{Path: filepath.Join(dir, "audit.log"), Key: key, Heads: h, MaxSize: 1500})
		if err != nil {
			t.Fatal(err)
		}
		l.step = func(done string) {
			if done == os.Getenv("AUDIT_TEST_STEP") {
				os.Exit(7)
			}
		}
		for i := 0; ; i++ {
			if err := l.Append(context.Background(), allow(i)); err != nil {
				t.Fatal(err)
			}
			b := fmt.Sprintf("%d %s", h.head.Seq, h.head.Hash)
			if err := os.WriteFile(filepath.Join(dir, "kept"), []byte(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, step := range []string{"signed", "made", "closed", "exchanged"} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command(os.Args[0], "-test.run=^TestCrashInRotation$")
			cmd.Env = append(os.Environ(), "AUDIT_TEST_ROTATE="+dir, "AUDIT_TEST_STEP="+step)
			out, err := cmd.CombinedOutput()
			if e := (*exec.ExitError)(nil); !errors.As(err, &e) || e.ExitCode() != 7 {
				t.Fatalf("%v: %s", err, out)
			}
			var kept Head
			if _, err := fmt.Sscan(string(mustRead(t, filepath.Join(dir, "kept"))), &kept.Seq, &kept.Hash); err != nil {
				t.Fatal(err)
			}
			key, err := ReadKey(filepath.Join(dir, "audit.key"))
			if err != nil {
				t.Fatal(err)
			}
			h := &heads{id: key.ID(), head: kept} // what the database knew at the latest
			cfg := Config{Path: filepath.Join(dir, "audit.log"), Key: key, Heads: h, MaxSize: 1500, Logger: slog.New(slog.DiscardHandler)}
			if rep := verifyAll(t, cfg, Check{Head: kept, Keys: key.Keys()}); rep.Problem != "" {
				t.Fatalf("what the crash left: %+v", rep)
			}
			l := open(t, cfg)
			for i := range 20 {
				appendAll(t, l, allow(100+i))
			}
			begun, err := l.Read(context.Background(), Query{Action: actionBegin})
			if err != nil || len(begun.Items) == 0 {
				t.Fatalf("%v, %v", begun, err)
			}
			for _, e := range begun.Items {
				if e.Reason != "rotation" {
					t.Errorf("record %d says that the file was missing: %+v", e.Seq, e)
				}
			}
			l.Close()
			if rep := verifyAll(t, cfg, Check{Head: h.head, Keys: key.Keys()}); rep.Problem != "" || rep.Head.Seq < kept.Seq+20 {
				t.Fatalf("%+v after %+v", rep, kept)
			}
			if left, _ := filepath.Glob(cfg.Path + ".new-*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			for _, p := range closedFiles(t, cfg) {
				if info, _ := os.Stat(p.path); info.Mode().Perm() != 0o400 {
					t.Errorf("%s has mode %v", p.path, info.Mode())
				}
			}
		})
	}
}

// The saved head may be files behind: the walk at the start goes back to it,
// and finds what was changed on the way.
func TestOpenWalksAcrossFiles(t *testing.T) {
	h := &heads{fresh: true}
	cfg, _ := small(t, h)
	l := open(t, cfg)
	appendAll(t, l, allow(0))
	old := h.head
	for i := range 30 {
		appendAll(t, l, allow(i))
	}
	l.Close()
	now := h.head
	h.head = old
	open(t, cfg).Close()
	if h.head.Seq < now.Seq {
		t.Fatalf("the head is %+v, want %+v or later", h.head, now)
	}
	p := closedFiles(t, cfg)[1]
	b := mustRead(t, p.path)
	b[len(b)/2] ^= 1
	os.Remove(p.path)
	write(t, p.path, b)
	h.head = old
	if l, err := Open(context.Background(), cfg); !errors.Is(err, ErrTampered) {
		if err == nil {
			l.Close()
		}
		t.Fatalf("%v", err)
	}
}

// A rotation that fails costs no record: the file grows.
func TestRotationFails(t *testing.T) {
	h := &heads{fresh: true}
	cfg, _ := small(t, h)
	l := open(t, cfg)
	appendAll(t, l, allow(0))
	write(t, closedName(cfg.Path, 1), []byte("in the way\n"))
	for i := range 20 {
		appendAll(t, l, allow(i))
	}
	if err := os.Remove(closedName(cfg.Path, 1)); err != nil {
		t.Fatal(err)
	}
	if rep := verifyAll(t, cfg, Check{Head: h.head, Keys: cfg.Key.Keys()}); rep.Problem != "" || rep.Files != 1 {
		t.Fatalf("%+v", rep)
	}
	l.rotateAfter = time.Time{} // a minute later
	appendAll(t, l, allow(21))
	if rep := verifyAll(t, cfg, Check{Head: h.head, Keys: cfg.Key.Keys()}); rep.Problem != "" || rep.Files != 2 {
		t.Fatalf("%+v", rep)
	}
}

// metric is the value of a series, by its only label.
func metric(t testing.TB, l *Log, name, label string) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(l.Collectors()...)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("there is no %s of %q", name, label)
	return 0
}
