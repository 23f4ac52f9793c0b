package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestHashersGiveWay: every thread of a process that hashes has its low
// priority, whichever of them Go computes on, and none of its parent's has.
func TestHashersGiveWay(t *testing.T) {
	h := newHashers(1, slog.New(slog.DiscardHandler))
	defer h.close()
	h.command = func() (string, error) { return exec.LookPath("modelgate") }
	for range 3 {
		h.derive([]byte("a password"), []byte("some salt 123456"), 1, 8<<10, 1, 32)
	}
	p := <-h.idle
	defer func() { h.idle <- p }()
	own := nice(t, "self")
	for _, found := range nice(t, fmt.Sprint(p.cmd.Process.Pid)) {
		if found != fmt.Sprint(hashNice) {
			t.Errorf("a thread that may hash has nice %s, want %d", found, hashNice)
		}
	}
	for _, found := range own {
		if found == fmt.Sprint(hashNice) {
			t.Error("a thread of the parent has the priority of hashing")
		}
	}
}

// nice reads the nice values of all threads of a process.
func nice(t *testing.T, pid string) (all []string) {
	t.Helper()
	threads, err := filepath.Glob("/proc/" + pid + "/task/*/stat")
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads of %s: %v, %v", pid, threads, err)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		_, fields, _ := strings.Cut(string(text), ") ")
		all = append(all, strings.Fields(fields)[16])
	}
	return all
}
