package main

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCausesStayInTheProtectedLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "protected.log")
	var out bytes.Buffer
	log, file, err := openLogs(&out, "info", path)
	if err != nil {
		t.Fatal(err)
	}
	log.Error("run failed", "request_id", "r1", "cause", errors.New("node CANARY"))
	log.With("cause", "CANARY in With").Warn("bound", "request_id", "r2")
	log.WithGroup("g").Warn("grouped", "cause", "CANARY in a group")
	log.Info("plain", "request_id", "r3")
	log.Debug("quiet", "request_id", "r4")
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "CANARY") {
		t.Errorf("the open log holds a cause:\n%s", out.String())
	}
	for _, id := range []string{"r1", "r2", "r3"} {
		if !strings.Contains(out.String(), id) {
			t.Errorf("the open log lacks %s:\n%s", id, out.String())
		}
	}
	if strings.Contains(out.String(), "r4") {
		t.Error("a debug line was written at level info")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(data, []byte("CANARY")); n != 3 {
		t.Errorf("the protected log holds %d causes, want 3:\n%s", n, data)
	}
	if bytes.Contains(data, []byte("r3")) {
		t.Error("the protected log holds a line without cause")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o, want 600", info.Mode().Perm())
	}
}

func TestProtectedLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "protected.log")
	file, err := openRotating(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(file, nil))
	for range 100 {
		log.Info(strings.Repeat("x", 100))
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + ".1"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 1000 {
			t.Errorf("%s has %d bytes, want at most 1000", p, info.Size())
		}
	}
}
