package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/client"
)

// command runs the command line in this process.
func command(in string, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(context.Background(), args, std{strings.NewReader(in), &o, &e})
	return code, o.String(), e.String()
}

// TestAuditEvidence goes the way of an auditor with the real program: a log of
// several files, its key and a collected head kept elsewhere, a log that is
// taken away while the server runs, exports, a backup, and a forger.
func TestAuditEvidence(t *testing.T) {
	ctx := context.Background()
	data := t.TempDir()
	p := start(t, data, "MODELGATE_AUDIT_FILE_SIZE=64KiB")
	admin := p.admin()
	for i := range 250 {
		if _, err := admin.PutRole(ctx, fmt.Sprint("role", i%5), nil, "", 0); err != nil {
			t.Fatal(err)
		}
	}
	closed, err := filepath.Glob(filepath.Join(data, "audit-*.log"))
	if err != nil || len(closed) == 0 {
		t.Fatalf("no file was closed: %v", err)
	}
	elsewhere := t.TempDir()
	public, collected := keepElsewhere(t, p, data, elsewhere)
	verify := func(want int, says string, more ...string) {
		t.Helper()
		code, out, errs := command("", append([]string{"audit", "verify", "--data", data}, more...)...)
		if code != want || !strings.Contains(out+errs, says) {
			t.Fatalf("audit verify %v: exit %d, want %d with %q:\n%s%s", more, code, want, says, out, errs)
		}
	}
	verify(0, "none edited, removed or cut") // beside the server
	verify(0, "signed heads kept elsewhere", "--public-key", public, "--head", "@"+collected)

	var online bytes.Buffer
	if err := admin.ExportAudit(ctx, time.Time{}, time.Time{}, &online); err != nil {
		t.Fatal(err)
	}
	_, offline, _ := command("", "audit", "export", "--data", data)
	if online.Len() == 0 || online.String() != offline {
		t.Errorf("the server exports %d bytes, the command on its files %d", online.Len(), len(offline))
	}

	// Somebody takes the log away while the server runs.
	p.metric("modelgate_audit_heads_total") // signs in, which can't be done afterwards
	path := auditPath(data)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	_, err = admin.PutRole(ctx, "unseen", nil, "", 0)
	refused(t, err, 503, "a change that can't be recorded")
	_, err = admin.Audit(ctx, client.AuditQuery{})
	refused(t, err, 503, "reading a log that is gone")
	if p.metric("modelgate_audit_intact") != 0 {
		t.Error("the metric says that the log is intact")
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.PutRole(ctx, "seen", nil, "", 0); err != nil {
		t.Fatal(err)
	}
	if p.metric("modelgate_audit_intact") != 1 {
		t.Error("the metric says that the log is not intact")
	}

	tar, restored := filepath.Join(elsewhere, "backup.tar"), filepath.Join(elsewhere, "restored")
	for _, args := range [][]string{{"backup", tar, "--data", data}, {"restore", tar, "--data", restored},
		{"audit", "verify", "--data", restored, "--public-key", public, "--head", "@" + collected}} {
		if code, out, errs := command("", args...); code != 0 {
			t.Fatalf("%v: %d, %s%s", args, code, out, errs)
		}
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	verify(0, "none edited, removed or cut", "--public-key", public)
	verify(2, "no signed head", "--head", "nonsense")
	verify(2, "no Ed25519 public key", "--public-key", auditKeyPath(data))

	// Files closed long ago are deleted: that is said, and no failure. One out of
	// the middle is.
	if err := os.Remove(closed[0]); err != nil {
		t.Fatal(err)
	}
	if len(closed) == 1 {
		verify(0, "It continues after record")
	}
	var seen bytes.Buffer
	if code := run(ctx, []string{"audit", "export", "--data", data, "--since", "yesterday"}, std{strings.NewReader(""), &seen, &seen}); code != 2 {
		t.Errorf("--since yesterday: exit %d: %s", code, seen.String())
	}
}

// keepElsewhere writes the public key and the server's log into another folder.
func keepElsewhere(t *testing.T, p *program, data, elsewhere string) (public, collected string) {
	t.Helper()
	public, collected = filepath.Join(elsewhere, "audit.pub"), filepath.Join(elsewhere, "collected.log")
	code, key, errs := command("", "audit", "key", "--data", data)
	if code != 0 || !strings.HasPrefix(key, "-----BEGIN PUBLIC KEY-----") {
		t.Fatalf("audit key: %d, %q, %s", code, key, errs)
	}
	for name, text := range map[string]string{public: key, collected: p.output()} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(audit.FindHeads(p.output())) < 2 {
		t.Fatalf("the server's log has no signed heads:\n%s", p.output())
	}
	return public, collected
}
