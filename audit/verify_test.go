package audit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// sample is a small log with its lines and its head.
func sample(t testing.TB) (cfg Config, h *heads, b []byte, lines [][]byte) {
	t.Helper()
	h = &heads{}
	cfg, _ = config(t, h)
	l := open(t, cfg)
	for i := range 5 {
		e := allow(i)
		e.Detail = map[string]string{"b": "2", "a": "1"}
		appendAll(t, l, e)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, h, b, bytes.SplitAfter(bytes.TrimSuffix(b, []byte{'\n'}), []byte{'\n'})
}

func TestVerifyFindsEveryChange(t *testing.T) {
	_, h, b, lines := sample(t)
	if rep := verifyBytes(t, b, h.head); rep.Problem != "" || rep.Records != 5 {
		t.Fatalf("the log itself: %+v", rep)
	}
	for i := range b { // every byte, three ways
		for _, flip := range []byte{1, 0x20, 0x80} {
			changed := slices.Clone(b)
			changed[i] ^= flip
			if rep := verifyBytes(t, changed, h.head); rep.Problem == "" {
				t.Fatalf("byte %d ^ %#x is not found", i, flip)
			}
		}
	}
	for i := range b {
		if rep := verifyBytes(t, b[:i], h.head); rep.Problem == "" && i < len(b)-1 {
			t.Fatalf("a cut at byte %d of %d is not found", i, len(b))
		}
		spaced := slices.Insert(slices.Clone(b), i, ' ')
		if rep := verifyBytes(t, spaced, h.head); rep.Problem == "" {
			t.Fatalf("a space at byte %d is not found", i)
		}
	}
	lines[4] = append(slices.Clone(lines[4]), '\n')
	for i := range lines {
		without := slices.Delete(slices.Clone(lines), i, i+1)
		if rep := verifyBytes(t, bytes.Join(without, nil), h.head); rep.Problem == "" || rep.At == 0 {
			t.Fatalf("record %d taken out is not found: %+v", i+1, rep)
		}
		twice := slices.Insert(slices.Clone(lines), i, lines[i])
		if rep := verifyBytes(t, bytes.Join(twice, nil), h.head); rep.Problem == "" {
			t.Fatalf("record %d twice is not found", i+1)
		}
	}
	lines[1], lines[2] = lines[2], lines[1]
	if rep := verifyBytes(t, bytes.Join(lines, nil), h.head); rep.Problem == "" || rep.At != 2 {
		t.Fatalf("records changed places: %+v", rep)
	}
}

// A chain made anew, right in itself, is given away by the head.
func TestVerifyFindsANewChain(t *testing.T) {
	_, h, _, _ := sample(t)
	var b []byte
	var head Head
	for i := range 6 {
		e := clean(allow(100 + i))
		e.Seq, e.Prev = head.Seq+1, head.Hash
		line, err := seal(&e)
		if err != nil {
			t.Fatal(err)
		}
		b, head = append(b, line...), headOf(&e)
	}
	if rep := verifyBytes(t, b, Head{}); rep.Problem != "" {
		t.Fatalf("the chain should be right in itself: %+v", rep)
	}
	if rep := verifyBytes(t, b, h.head); rep.Problem == "" || rep.At != 5 {
		t.Fatalf("%+v", rep)
	}
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefusesAChangedTail(t *testing.T) {
	cfg, h, b, lines := sample(t)
	other := &heads{}
	otherCfg, _ := config(t, other)
	l := open(t, otherCfg)
	for i := range 5 {
		appendAll(t, l, allow(i+50))
	}
	l.Close()
	foreign, err := os.ReadFile(otherCfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	changed := slices.Clone(b)
	changed[len(b)-20] ^= 1
	cases := map[string][]byte{
		"a record cut":            bytes.Join(lines[:4], nil),
		"half a record cut":       b[:len(b)-30],
		"emptied":                 {},
		"last record changed":     changed,
		"another chain":           foreign,
		"no audit log":            []byte("root:x:0:0:root:/root:/bin/sh\n"),
		"no audit log, one line":  []byte("precious"),
		"a line without newlines": bytes.Repeat([]byte("x"), 3<<20),
		"junk after the end":      append(slices.Clone(b), "junk\n"...),
		"junk, no newline":        append(slices.Clone(b), "junk"...),
		"two half records":        append(slices.Clone(b), "{\"seq\":6,\n{\"seq\":7,"...),
	}
	for name, content := range cases {
		t.Run(name, func(t *testing.T) {
			write(t, cfg.Path, content)
			l, err := Open(context.Background(), cfg)
			if err == nil {
				l.Close()
			}
			if !errors.Is(err, ErrTampered) {
				t.Fatalf("got %v, want ErrTampered", err)
			}
			if after, _ := os.ReadFile(cfg.Path); !bytes.Equal(after, content) {
				t.Fatal("the evidence was changed")
			}
		})
	}
	if h.head.Seq != 5 {
		t.Fatalf("the head moved to %d", h.head.Seq)
	}
}

// A crash may leave any part of a record that nobody was promised.
func TestOpenMendsAHalfWrittenRecord(t *testing.T) {
	cfg, h, b, lines := sample(t)
	promised := b[:len(b)-len(lines[4])-1]
	var e Entry
	e, err := parse(lines[3])
	if err != nil {
		t.Fatal(err)
	}
	for i := len(promised) + 1; i < len(b); i++ {
		h.head = headOf(&e)
		write(t, cfg.Path, b[:i])
		l, err := Open(context.Background(), cfg)
		if err != nil {
			t.Fatalf("cut at %d: %v", i, err)
		}
		appendAll(t, l, allow(9))
		page, _ := l.Read(context.Background(), Query{Action: actionRepair})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		whole := i == len(b)-1 // only the newline is missing: the record is kept
		if len(page.Items) != 1 && !whole {
			t.Fatalf("cut at %d: the repair is not in the log", i)
		}
		if rep := verifyFile(t, cfg, h.head); rep.Problem != "" || rep.Records != 6 {
			t.Fatalf("cut at %d: %+v", i, rep)
		}
	}
	h.head = headOf(&e)
	write(t, cfg.Path, append(slices.Clone(promised), make([]byte, 512)...)) // as some file systems leave it
	open(t, cfg)
}

func TestOpenLetsTheHeadFollow(t *testing.T) {
	for known := range 5 {
		cfg, h, _, lines := sample(t)
		h.head = Head{}
		if known > 0 {
			e, err := parse(lines[known-1])
			if err != nil {
				t.Fatal(err)
			}
			h.head = headOf(&e)
		}
		open(t, cfg)
		if h.head.Seq != 5 {
			t.Fatalf("known %d: the head is %d", known, h.head.Seq)
		}
	}
	cfg, h, b, lines := sample(t) // but not over a changed record in between
	e, _ := parse(lines[0])
	h.head = headOf(&e)
	b[len(lines[0])+len(lines[1])+30] ^= 1
	write(t, cfg.Path, b)
	if _, err := Open(context.Background(), cfg); !errors.Is(err, ErrTampered) {
		t.Fatalf("%v", err)
	}
}

func TestMovedAwayFileIsContinued(t *testing.T) {
	cfg, h, _, _ := sample(t)
	before := h.head
	if err := os.Rename(cfg.Path, cfg.Path+".1"); err != nil {
		t.Fatal(err)
	}
	l := open(t, cfg)
	appendAll(t, l, allow(7))
	l.Close()
	b, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	first, err := parse(b[:bytes.IndexByte(b, '\n')])
	if err != nil || first.Action != actionBegin || first.Seq != before.Seq+1 || first.Prev != before.Hash {
		t.Fatalf("%+v, %v", first, err)
	}
	if rep := verifyBytes(t, b, h.head); rep.Problem != "" || rep.Records != 2 || rep.Head.Seq != 7 {
		t.Fatalf("%+v", rep)
	}
	if rep := verifyBytes(t, b[bytes.IndexByte(b, '\n')+1:], h.head); rep.Problem == "" {
		t.Fatal("the first record of a continued file can be taken out")
	}
	if left, _ := filepath.Glob(cfg.Path + ".new-*"); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
	open(t, cfg)
	h.head = before // a crash before the head was saved
	open(t, Config{Path: copyOf(t, cfg.Path), Heads: h})
}

func copyOf(t *testing.T, path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	write(t, to, b)
	return to
}

func TestVerifyWhileBeingWritten(t *testing.T) {
	_, h, b, _ := sample(t)
	half := append(slices.Clone(b), `{"seq":6,"time":`...)
	if rep := verifyBytes(t, half, h.head); rep.Problem != "" || rep.Records != 5 {
		t.Fatalf("%+v", rep)
	}
	if rep := verifyBytes(t, half, Head{}); rep.Problem == "" {
		t.Fatal("without a head half a record is a problem")
	}
}

func FuzzVerify(f *testing.F) {
	_, h, b, _ := sample(f)
	f.Add(b)
	f.Add([]byte("{\"seq\":1}\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		rep, err := Verify(bytes.NewReader(in), h.head)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Problem == "" && !bytes.HasPrefix(in, b[:len(b)-1]) {
			t.Fatalf("another log passes: %q", in)
		}
	})
}
