package main

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"modelgate/client"
)

// TestFullDisk: where no record of the audit log finds room, nothing that must be
// recorded is done, predictions go on, and all returns when there is room again.
func TestFullDisk(t *testing.T) {
	data := t.TempDir()
	p := start(t, data)
	admin := p.admin()
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	// Loads the model: the limit below holds for the memory of its process too.
	if _, err := label(admin, client.PredictRequest{Model: "iris", Inputs: irisRow}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.PutRole(t.Context(), "before", nil, "", 0); err != nil {
		t.Fatal(err)
	}
	failures := p.metric(`modelgate_audit_failures_total{reason="write"}`)
	info, err := os.Stat(auditPath(data))
	if err != nil {
		t.Fatal(err)
	}
	// A file can't grow beyond this: half a record still finds room.
	var room unix.Rlimit
	limit := unix.Rlimit{Cur: uint64(info.Size()) + 100}
	if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, nil, &room); err != nil {
		t.Fatal(err)
	}
	limit.Max = room.Max
	if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err = admin.PutRole(t.Context(), "unrecorded", nil, "", 0)
		refused(t, err, 503, "a change that can't be recorded")
		_, err = p.anonymous().Login(t.Context(), "admin", adminPassword)
		refused(t, err, 503, "a sign-in that can't be recorded")
		if _, err := label(admin, client.PredictRequest{Model: "iris", Inputs: irisRow}); err != nil {
			t.Errorf("a prediction: %v", err)
		}
	}
	if n := p.metric(`modelgate_audit_failures_total{reason="write"}`); n < failures+2 {
		t.Errorf("%d failures of the audit log were counted", n-failures)
	}
	if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, &room, nil); err != nil {
		t.Fatal(err)
	}
	within(t, time.Minute, "changes are recorded again", func() bool {
		_, err := admin.PutRole(t.Context(), "after", nil, "", 0)
		return err == nil
	})
	roles, err := admin.Roles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range roles {
		if r.Name == "unrecorded" {
			t.Error("what could not be recorded was done")
		}
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := command("", "audit", "verify", "--data", data); code != 0 {
		t.Errorf("audit verify: %s%s", out, errs)
	}
}
