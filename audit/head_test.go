package audit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// keyed is a configuration with a key, and what the log says.
func keyed(t testing.TB, h *heads) (Config, *clock, *bytes.Buffer) {
	t.Helper()
	cfg, clk := config(t, h)
	key, err := OpenKey(filepath.Join(t.TempDir(), "keys", "audit.key"))
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	cfg.Key, cfg.Logger = key, slog.New(slog.NewJSONHandler(&text, nil))
	return cfg, clk, &text
}

func verifyAll(t testing.TB, cfg Config, c Check) Report {
	t.Helper()
	rep, err := VerifyFiles(context.Background(), cfg.Path, c)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// actions are those of all records, the oldest first.
func actions(t testing.TB, cfg Config) (list []string) {
	t.Helper()
	err := walk(context.Background(), cfg.Path, func(_ string, r io.Reader, _ bool) error {
		b, err := io.ReadAll(r)
		for _, line := range bytes.SplitAfter(b, []byte{'\n'}) {
			if len(line) > 0 {
				e, perr := parse(line)
				if perr != nil {
					t.Fatalf("%v: %q", perr, line)
				}
				list = append(list, e.Action)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "audit.key")
	if _, err := ReadKey(path); !os.IsNotExist(unwrapped(err)) {
		t.Fatalf("no file: %v", err)
	}
	first, err := OpenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	again, err := OpenKey(path)
	if err != nil || again.ID() != first.ID() || len(first.ID()) != 32 {
		t.Fatalf("%v, %v", again, err)
	}
	keys, err := ParsePublicKeys(append([]byte("a note\n"), first.Public()...))
	if err != nil || len(keys) != 1 || keys[first.ID()] == nil {
		t.Fatalf("%v, %v", keys, err)
	}
	if bytes.Contains(first.Public(), []byte("PRIVATE")) {
		t.Fatal("the private key is shown")
	}
	for name, text := range map[string][]byte{"empty": {}, "private key": mustRead(t, path), "no PEM": []byte("ssh-ed25519 AAAA")} {
		if _, err := ParsePublicKeys(text); err == nil {
			t.Errorf("%s is taken for a public key", name)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Fatalf("a key that others can read: %v", err)
	}
	write(t, path+"2", []byte("no key"))
	if _, err := OpenKey(path + "2"); err == nil || !strings.Contains(err.Error(), "no Ed25519 key") {
		t.Fatalf("%v", err)
	}
}

func unwrapped(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		err = u.Unwrap()
	}
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Heads are signed by time, by number and at the end, and not where there is
// nothing new.
func TestHeadsAreSigned(t *testing.T) {
	h := &heads{fresh: true}
	cfg, clk, text := keyed(t, h)
	l := open(t, cfg)
	appendAll(t, l, allow(1), allow(2))
	clk.advance(4 * time.Minute)
	appendAll(t, l, allow(3))
	clk.advance(time.Minute)
	if err := l.flush(context.Background(), false); err != nil { // as Run does
		t.Fatal(err)
	}
	for range 3 {
		clk.advance(time.Hour)
		if err := l.flush(context.Background(), false); err != nil {
			t.Fatal(err)
		}
	}
	appendAll(t, l, allow(4))
	clk.advance(time.Second)
	appendAll(t, l, allow(5))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	u, s := "user.update", actionHead
	if got, want := actions(t, cfg), []string{u, s, u, u, s, u, s, u, s}; !slices.Equal(got, want) {
		t.Fatalf("records %v, want %v", got, want)
	}
	rep := verifyAll(t, cfg, Check{Head: h.head, Keys: cfg.Key.Keys()})
	if rep.Problem != "" || rep.Records != 9 || rep.Signed != 8 || !rep.SignedAt.Equal(clk.t.Truncate(time.Microsecond)) {
		t.Fatalf("%+v", rep)
	}
	if h.id != cfg.Key.ID() {
		t.Fatalf("the head is saved as that of %q", h.id)
	}
	// The ordinary log has every head, and each proves the log.
	kept := FindHeads(text.String())
	if len(kept) != 4 || kept[3].Seq != 8 {
		t.Fatalf("the log told of %v", kept)
	}
	rep = verifyAll(t, cfg, Check{Keys: cfg.Key.Keys(), Heads: kept})
	if rep.Problem != "" || rep.Kept != 4 {
		t.Fatalf("%+v", rep)
	}
	open(t, cfg).Close()
	if n := len(actions(t, cfg)); n != 9 {
		t.Fatalf("a start and a stop made %d records", n-9)
	}
}

func TestHeadEveryThousandRecords(t *testing.T) {
	h := &heads{fresh: true}
	cfg, _, _ := keyed(t, h)
	cfg.HeadEvery = 1000 * time.Hour
	l := open(t, cfg)
	entries := make([]*Entry, 2*HeadRecords+10)
	for i := range entries {
		e := clean(allow(i))
		entries[i] = &e
	}
	if err := l.write(context.Background(), entries...); err != nil { // one write
		t.Fatal(err)
	}
	list := actions(t, cfg)
	if list[HeadRecords] != actionHead || list[2*HeadRecords+1] != actionHead {
		t.Fatal("a head is missing after a thousand records")
	}
	keys := cfg.Key.Keys()
	if rep := verifyAll(t, cfg, Check{Head: h.head, Keys: keys}); rep.Problem != "" {
		t.Fatalf("%+v", rep)
	}
	// Who has the disk and the database, but not the key, can't go on for long.
	cfg.Key = nil
	l.Close()
	forged := &heads{head: h.head, id: ""}
	cfg.Heads = forged
	l = open(t, cfg)
	if err := l.write(context.Background(), entries...); err != nil {
		t.Fatal(err)
	}
	if rep := verifyAll(t, cfg, Check{Head: forged.head, Keys: keys}); !strings.Contains(rep.Problem, "no signed head") {
		t.Fatalf("%+v", rep)
	}
}

// rewrite makes the chain of a log anew, with changes, as who has the disk and
// the database can. With the key the heads are signed anew as well.
func rewrite(t testing.TB, cfg Config, key *Key, change func(e *Entry) (keep bool)) (head Head) {
	t.Helper()
	var out []byte
	for _, line := range bytes.SplitAfter(mustRead(t, cfg.Path), []byte{'\n'}) {
		if len(line) == 0 {
			continue
		}
		e, err := parse(line)
		if err != nil {
			t.Fatal(err)
		}
		if !change(&e) {
			continue
		}
		e.Seq, e.Prev = head.Seq+1, head.Hash
		if e.Action == actionHead && key != nil {
			e.Detail = key.headEntry(head, e.Time).Detail
		}
		if line, err = seal(&e); err != nil {
			t.Fatal(err)
		}
		head = headOf(&e)
		out = append(out, line...)
	}
	write(t, cfg.Path, out)
	return head
}

// TestSignedHeadsAgainstForgers: what the database's head can't find, because
// the forger has the database too, signed heads find; and what these can't,
// because he has the key as well, a head kept elsewhere finds.
func TestSignedHeadsAgainstForgers(t *testing.T) {
	h := &heads{fresh: true}
	cfg, clk, text := keyed(t, h)
	l := open(t, cfg)
	for i := range 6 {
		appendAll(t, l, allow(i))
		clk.advance(10 * time.Minute)
	}
	l.Close()
	keys, kept := cfg.Key.Keys(), FindHeads(text.String())
	whole := mustRead(t, cfg.Path)
	last := kept[len(kept)-1]
	stranger, err := OpenKey(filepath.Join(t.TempDir(), "other.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyFiles(context.Background(), cfg.Path, Check{Keys: stranger.Keys(), Heads: kept}); err == nil {
		t.Fatal("heads that no given key signed are taken")
	}
	if rep := verifyAll(t, cfg, Check{Keys: stranger.Keys()}); !strings.Contains(rep.Problem, "not of a key") {
		t.Fatalf("%+v", rep)
	}
	spoil := func(e *Entry) bool {
		if e.Target == "u_2" {
			e.Target = "u_9"
		}
		return true
	}
	cases := []struct {
		name   string
		forge  func() Head
		inside string // what is found with the key and the forged database alone
	}{
		{"the end cut", func() Head { return rewrite(t, cfg, nil, func(e *Entry) bool { return e.Seq < 5 }) }, ""},
		{"a record changed", func() Head { return rewrite(t, cfg, nil, spoil) }, "not of a key"},
		{"by who has the key", func() Head { return rewrite(t, cfg, cfg.Key, spoil) }, ""},
		{"heads by another key", func() Head { return rewrite(t, cfg, stranger, spoil) }, "not of a key"},
		{"a record taken out, by who has the key", func() Head {
			return rewrite(t, cfg, cfg.Key, func(e *Entry) bool { return e.Target != "u_2" })
		}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			write(t, cfg.Path, whole)
			head := c.forge()
			if rep := verifyAll(t, cfg, Check{Head: head}); rep.Problem != "" {
				t.Fatalf("the forged chain is not right in itself: %+v", rep)
			}
			rep := verifyAll(t, cfg, Check{Head: head, Keys: keys})
			if (c.inside == "") != (rep.Problem == "") || !strings.Contains(rep.Problem, c.inside) {
				t.Fatalf("without a head from elsewhere: %+v", rep)
			}
			if rep := verifyAll(t, cfg, Check{Head: head, Keys: keys, Heads: []SignedHead{last}}); rep.Problem == "" {
				t.Fatal("a head kept elsewhere does not give it away")
			}
		})
	}
	write(t, cfg.Path, whole)
	forked := SignedHead{Head: Head{last.Seq, strings.Repeat("0", 64)}, Time: last.Time, Key: last.Key}
	forked.Signature = cfg.Key.sign(forked)
	if _, err := VerifyFiles(context.Background(), cfg.Path, Check{Keys: keys, Heads: []SignedHead{last, forked}}); err == nil {
		t.Fatal("two signed heads of one record are no contradiction")
	}
}

func (k *Key) sign(h SignedHead) []byte {
	e := k.headEntry(h.Head, h.Time)
	e.Seq, e.Prev, e.Time = h.Seq+1, h.Hash, h.Time
	return e.signedHead().Signature
}

func TestSignedHeadAsText(t *testing.T) {
	key, err := OpenKey(filepath.Join(t.TempDir(), "k"))
	if err != nil {
		t.Fatal(err)
	}
	h := SignedHead{Head: Head{7, strings.Repeat("ab", 32)}, Time: newClock().t.Truncate(time.Microsecond), Key: key.ID()}
	h.Signature = key.sign(h)
	word := h.String()
	found := FindHeads("{\"head\":\"" + word + "\"}\nx " + word + "\n" + word[:len(word)-1] + "\nmodelgate-head-1:::::")
	if len(found) != 2 || found[0].String() != word || !found[1].Check(key.Keys()) {
		t.Fatalf("%v", found)
	}
	for i := range word {
		b := []byte(word)
		b[i] ^= 1
		for _, h := range FindHeads(string(b)) {
			// The last bits of base64 stand for nothing.
			if h.Check(key.Keys()) && h.String() != word {
				t.Fatalf("a change at %d passes: %s", i, b)
			}
		}
	}
}

// TestLogsOfOneDatabase: each server's log has a head of its own; the log of an
// earlier version is taken over; and a key that is not the log's does not pass.
func TestLogsOfOneDatabase(t *testing.T) {
	old := &heads{}
	cfg, _, _ := keyed(t, old)
	key := cfg.Key
	cfg.Key = nil
	l := open(t, cfg)
	appendAll(t, l, allow(1), allow(2))
	l.Close()
	cfg.Key = key
	l = open(t, cfg) // the upgrade
	appendAll(t, l, allow(3))
	l.Close()
	if old.id != key.ID() || old.head.Seq < 3 {
		t.Fatalf("the head is of %q, %+v", old.id, old.head)
	}
	if rep := verifyAll(t, cfg, Check{Head: old.head, Keys: key.Keys()}); rep.Problem != "" || rep.Signed < 3 {
		t.Fatalf("%+v", rep)
	}

	second, _, _ := keyed(t, nil)
	shared := &heads{fresh: true, other: map[string]Head{old.id: old.head}}
	second.Heads = shared
	l = open(t, second)
	if shared.id != second.Key.ID() || shared.head.Seq != 0 {
		t.Fatalf("a new log is not known before its first record: %+v", shared)
	}
	appendAll(t, l, allow(1))
	l.Close()
	open(t, second).Close()

	// The key is taken away and the log cut: a new key must not hide it.
	other, _, _ := keyed(t, nil)
	cfg.Key, cfg.Heads = other.Key, &heads{fresh: true, other: map[string]Head{old.id: old.head}}
	if l, err := Open(context.Background(), cfg); err == nil {
		l.Close()
		t.Fatal("a log of another key was opened")
	} else if !strings.Contains(fmt.Sprint(err), "put the old one back") {
		t.Fatal(err)
	}
}
