//go:build linux && (amd64 || arm64)

package worker

import (
	"os"
	"testing"
	"time"

	"modelgate/inference"
)

// TestLastWords: what a worker told before it ended is heard, also by who
// listens late. A worker that can't load its model ends at once.
func TestLastWords(t *testing.T) {
	e, err := Open(t.Context(), Config{Library: library(t), Memory: inference.NewMemory(64 << 20), MaxMemory: 1 << 30, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := e.start()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.greet(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	file, err := sealed([]byte("no model"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := send(p.control, modelMessage{Size: 8}, file); err != nil {
		t.Fatal(err)
	}
	<-p.exited
	var loaded loadedMessage
	if err := receive(p.control, &loaded); err != nil || loaded.Status != statusFailed || loaded.Cause == "" {
		t.Errorf("%v, %+v; want the runtime's words", err, loaded)
	}
	p.discard("exit: it was a test")
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// TestTalkWithoutEnd: what a worker writes without end is read slowly.
func TestTalkWithoutEnd(t *testing.T) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var s said
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.listen(from)
	}()
	began := time.Now()
	if _, err := to.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 150*talkPause {
		t.Errorf("a megabyte was read within %v", took)
	}
	to.Close()
	<-done
	from.Close()
}
