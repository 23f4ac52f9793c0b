package audit

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const fullEnv = "MODELGATE_TEST_AUDIT_FULL"

// TestFullDisk: a record of which only a part finds room is refused, leaves
// nothing in the file, and the chain goes on when there is room again. The limit
// holds for a whole process, so the test is one of its own.
func TestFullDisk(t *testing.T) {
	if os.Getenv(fullEnv) == "" {
		child := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
		child.Env = append(os.Environ(), fullEnv+"=1")
		if out, err := child.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	h := &heads{fresh: true}
	cfg, _, _ := keyed(t, h)
	l := open(t, cfg)
	appendAll(t, l, allow(1), allow(2))
	before := mustRead(t, cfg.Path)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	room := func(bytes uint64) {
		t.Helper()
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: bytes, Max: limit.Max}); err != nil {
			t.Fatal(err)
		}
	}
	for _, left := range []uint64{0, 1, 100} {
		room(uint64(len(before)) + left)
		for range 2 {
			if err := l.Append(context.Background(), allow(3)); err == nil || !strings.Contains(err.Error(), "file too large") {
				t.Fatalf("%d bytes left: %v", left, err)
			}
		}
		if got := mustRead(t, cfg.Path); string(got) != string(before) {
			t.Fatalf("%d bytes left: the file is now %s", left, got)
		}
	}
	if n := metric(t, l, "modelgate_audit_failures_total", "write"); n != 6 {
		t.Errorf("%v failures were counted", n)
	}
	room(limit.Cur)
	appendAll(t, l, allow(4))
	l.Close()
	if rep := verifyAll(t, cfg, Check{Head: h.head, Keys: cfg.Key.Keys()}); rep.Problem != "" {
		t.Errorf("%+v", rep)
	}
}
