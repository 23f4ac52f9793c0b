package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHashersGiveWay: every thread of a process that hashes has its low
// priority, whichever of them Go computes on, and none of its parent's has.
func TestHashersGiveWay(t *testing.T) {
	before := nice(t, "self")[0]
	h := newHashers(1, slog.New(slog.DiscardHandler))
	defer h.close()
	h.command = modelgateHasher
	for range 3 {
		h.derive([]byte("a password"), []byte("some salt 123456"), 1, 8<<10, 1, 32)
	}
	p := <-h.idle
	defer func() { h.idle <- p }()
	for _, found := range nice(t, fmt.Sprint(p.cmd.Process.Pid)) {
		if found != fmt.Sprint(hashNice) {
			t.Errorf("a thread that may hash has nice %s, want %d", found, hashNice)
		}
	}
	for _, found := range nice(t, "self") {
		if found != before {
			t.Errorf("a thread of the parent has nice %s, %s before", found, before)
		}
	}
}

// hashersOf lists the processes that hash passwords for a server.
func hashersOf(t *testing.T, server int) (pids []int) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(paths) == 0 {
		t.Fatalf("/proc can't be read: %v", err)
	}
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(line), "\x00"+hashCommand) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(path), "status"))
		if err != nil || !strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", server)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// TestHashersEndWithTheServer: a process that is stopped does not see its input
// end, and ends all the same when the server is killed.
func TestHashersEndWithTheServer(t *testing.T) {
	p := start(t, t.TempDir(), "MODELGATE_HASHERS=1")
	p.admin() // has a password hashed
	pids := hashersOf(t, p.cmd.Process.Pid)
	if len(pids) != 1 {
		t.Fatalf("processes that hash: %v", pids)
	}
	handle, err := unix.PidfdOpen(pids[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	// Orphans are ours, who are of the same session. To those whose new parent is of
	// another the kernel sends SIGCONT, and they see that their input has ended.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	if err := unix.PidfdSendSignal(handle, unix.SIGSTOP, nil, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0); unix.Close(handle) })
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ready := []unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}
	within(t, 20*time.Second, "the stopped process ends", func() bool {
		n, err := unix.Poll(ready, 0)
		return n == 1 && err == nil
	})
	if _, err := unix.Wait4(pids[0], nil, 0, nil); err != nil {
		t.Errorf("%d is not ours: %v", pids[0], err)
	}
}

// TestHashersOfAReplacedProgram: after another program has taken the place of
// the server's file, passwords are hashed by the one that runs.
func TestHashersOfAReplacedProgram(t *testing.T) {
	needRuntime(t)
	folder := t.TempDir()
	path := filepath.Join(folder, "modelgate")
	copyTo(t, "/proc/self/exe", path, 0o755)
	p, err := launchBy(func(cmd *exec.Cmd) { cmd.Path = path }, t.TempDir(), folder, "MODELGATE_HASHERS=1")
	if err != nil {
		t.Fatal(err)
	}
	p.t = t
	t.Cleanup(p.kill)
	other := filepath.Join(folder, "other")
	if err := os.WriteFile(other, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	for _, pid := range hashersOf(t, p.cmd.Process.Pid) { // of the start
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	p.admin()
	if len(hashersOf(t, p.cmd.Process.Pid)) != 1 || strings.Contains(p.output(), "hashed by the server itself") {
		t.Errorf("no process of the program that runs hashes:\n%s", p.output())
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
