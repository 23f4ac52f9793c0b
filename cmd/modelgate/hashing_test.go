package main

import (
	"bytes"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
)

// modelgateHasher starts what tests have on their PATH: under its own name a
// test binary runs its tests.
func modelgateHasher() (*exec.Cmd, error) { return exec.Command("modelgate", hashCommand), nil }

// TestHashers: other processes compute what argon2 does, several at once; one
// that has died is replaced, and where none can be started the server computes
// by itself.
func TestHashers(t *testing.T) {
	var log bytes.Buffer
	h := newHashers(2, slog.New(slog.NewTextHandler(&log, nil)))
	h.command = modelgateHasher
	salt := []byte("some salt 123456")
	check := func(password string) {
		t.Helper()
		want := argon2.IDKey([]byte(password), salt, 2, 64, 1, 32)
		if got := h.derive([]byte(password), salt, 2, 64, 1, 32); !bytes.Equal(got, want) {
			t.Errorf("%q: %x, want %x", password, got, want)
		}
	}
	var group sync.WaitGroup
	for _, password := range []string{"", "x", "пароль", strings.Repeat("long", 256)} {
		group.Go(func() { check(password) })
	}
	group.Wait()
	for range 2 { // both die while they wait for work
		p := <-h.idle
		if p != nil {
			if err := p.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		h.idle <- p
	}
	for range 3 {
		check("after a death")
	}
	if log.Len() > 0 {
		t.Errorf("the server computed by itself: %s", log.String())
	}
	h.close()

	h = newHashers(1, slog.New(slog.NewTextHandler(&log, nil)))
	h.command = func() (*exec.Cmd, error) { return exec.Command("/nonexistent"), nil }
	check("alone")
	if !strings.Contains(log.String(), "hashed by the server itself") {
		t.Error("nothing is logged of it")
	}
	h.close()
}

// TestHangingHasher: a process that is stopped costs its own sign-in some time,
// and neither the following ones nor the end of the server.
func TestHangingHasher(t *testing.T) {
	var log bytes.Buffer
	h := newHashers(1, slog.New(slog.NewTextHandler(&log, nil)))
	h.command = modelgateHasher
	salt := []byte("some salt 123456")
	h.derive([]byte("x"), salt, 1, 64, 1, 32) // starts it
	stopped := <-h.idle
	if err := stopped.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	h.idle <- stopped
	h.patience = 50 * time.Millisecond
	want := argon2.IDKey([]byte("password"), salt, 1, 64, 1, 32)
	answered := make(chan []byte, 1)
	go func() { answered <- h.derive([]byte("password"), salt, 1, 64, 1, 32) }()
	select {
	case got := <-answered:
		if !bytes.Equal(got, want) {
			t.Errorf("%x, want %x", got, want)
		}
	case <-time.After(2 * time.Minute):
		_ = stopped.cmd.Process.Kill() // lets the goroutine end
		t.Fatal("a stopped process stops all sign-ins")
	}
	if stopped.cmd.ProcessState == nil {
		t.Error("the stopped process was not ended")
	}
	h.close()
}
