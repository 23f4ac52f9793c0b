package audit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
)

// TestChangedWhileRunning: whatever is done to the file while it is open, the
// next record is refused, the metric says so, and nothing of the evidence is
// overwritten; put back, the log goes on.
func TestChangedWhileRunning(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, path string) (undo func()){
		"removed": func(t *testing.T, path string) func() {
			os.Rename(path, path+".away")
			return func() { os.Rename(path+".away", path) }
		},
		"replaced": func(t *testing.T, path string) func() {
			b := mustRead(t, path)
			os.Rename(path, path+".away")
			write(t, path, b)
			return func() { os.Rename(path+".away", path) }
		},
		"a link in its place": func(t *testing.T, path string) func() {
			os.Rename(path, path+".away")
			os.Symlink(path+".away", path)
			return func() { os.Rename(path+".away", path) }
		},
		"cut": func(t *testing.T, path string) func() {
			b := mustRead(t, path)
			os.Truncate(path, int64(len(b)/2))
			return func() { os.WriteFile(path, b, 0o600) }
		},
		"emptied": func(t *testing.T, path string) func() {
			b := mustRead(t, path)
			os.Truncate(path, 0)
			return func() { os.WriteFile(path, b, 0o600) }
		},
		"added to": func(t *testing.T, path string) func() {
			b := mustRead(t, path)
			f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			f.WriteString("{}\n")
			f.Close()
			return func() { os.Truncate(path, int64(len(b))) }
		},
		"its last record edited": func(t *testing.T, path string) func() {
			return edit(t, path, `"target":"u_7"`, `"target":"u_1"`)
		},
		"an earlier record edited": func(t *testing.T, path string) func() {
			return edit(t, path, `"target":"u_1"`, `"target":"u_9"`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := &heads{fresh: true}
			cfg, _, text := keyed(t, h)
			l := open(t, cfg)
			for i := range 7 {
				appendAll(t, l, allow(i+1))
			}
			undo := change(t, cfg.Path)
			l.look() // what Run does where nothing is written
			if v := metric(t, l, "modelgate_audit_intact", ""); v != 0 {
				t.Errorf("modelgate_audit_intact is %v", v)
			}
			for range 2 {
				if err := l.Append(context.Background(), allow(3)); !errors.Is(err, ErrTampered) {
					t.Fatalf("%v", err)
				}
			}
			if v := metric(t, l, "modelgate_audit_failures_total", "tampered"); v != 2 {
				t.Errorf("%v refusals counted", v)
			}
			if n := strings.Count(text.String(), "was changed while the server runs"); n != 1 {
				t.Errorf("told %d times: %s", n, text)
			}
			undo()
			appendAll(t, l, allow(4))
			if v := metric(t, l, "modelgate_audit_intact", ""); v != 1 {
				t.Errorf("modelgate_audit_intact is %v", v)
			}
			l.Close()
			if rep := verifyAll(t, cfg, Check{Head: h.head, Keys: cfg.Key.Keys()}); rep.Problem != "" {
				t.Fatalf("%+v", rep)
			}
		})
	}
}

// edit changes a text in a file for one of the same length.
func edit(t *testing.T, path, from, to string) (undo func()) {
	t.Helper()
	b := mustRead(t, path)
	at := bytes.Index(b, []byte(from))
	if at < 0 || len(from) != len(to) {
		t.Fatalf("no %s in %s", from, b)
	}
	put := func(text string) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte(text), int64(at))
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	put(to)
	return func() { put(from) }
}

// TestEditsAreNotedBefore: an edit of the last record is noticed by the next one,
// one of any record since the last signed head by the next head, by the closing
// of the file, and after that in the next file.
func TestEditsAreNotedBefore(t *testing.T) {
	cfg, clk, _ := keyed(t, &heads{fresh: true})
	cfg.MaxSize = 6000
	l := open(t, cfg)
	for range 2 { // in a first file, and in one that was begun while it ran
		for i := range 6 {
			appendAll(t, l, allow(i))
		}
		undo := edit(t, cfg.Path, `"target":"u_5"`, `"target":"u_6"`)
		if err := l.Append(context.Background(), allow(6)); !errors.Is(err, ErrTampered) {
			t.Errorf("the last record was edited: %v", err)
		}
		undo()
		appendAll(t, l, allow(6), allow(7)) // all of it is read again
		undo = edit(t, cfg.Path, `"target":"u_1"`, `"target":"u_8"`)
		appendAll(t, l, allow(8)) // an earlier one is not, before each
		clk.advance(2 * defaultHeadEvery)
		if err := l.Append(context.Background(), allow(9)); !errors.Is(err, ErrTampered) {
			t.Errorf("a head signs for what was edited: %v", err)
		}
		undo()
		appendAll(t, l, allow(9))
		first := l.first
		for i := 10; l.first == first; i++ {
			appendAll(t, l, allow(i))
		}
	}
	undo := edit(t, cfg.Path, `"target":"u_`, `"target":"v_`)
	if l.Close(); metric(t, l, "modelgate_audit_intact", "") != 0 {
		t.Error("the end signs for what was edited")
	}
	undo()
}

// TestEditsAreNoticedAtTheStart: what a server refused to go on with, the next
// start refuses as well, so that no head signs for it.
func TestEditsAreNoticedAtTheStart(t *testing.T) {
	cfg, _, _ := keyed(t, &heads{fresh: true})
	l := open(t, cfg)
	for i := range 7 {
		appendAll(t, l, allow(i))
	}
	undo := edit(t, cfg.Path, `"target":"u_1"`, `"target":"u_9"`)
	if err := l.Close(); !errors.Is(err, ErrTampered) {
		t.Errorf("the end of the server: %v", err)
	}
	edited := mustRead(t, cfg.Path)
	if l, err := Open(context.Background(), cfg); !errors.Is(err, ErrTampered) {
		t.Errorf("the next start: %v", err)
		if err == nil {
			l.Close()
		}
	}
	if !bytes.Equal(mustRead(t, cfg.Path), edited) {
		t.Error("the evidence was changed")
	}
	undo()
	l = open(t, cfg)
	appendAll(t, l, allow(8))
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
