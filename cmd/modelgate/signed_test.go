package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"modelgate/client"
)

// TestSignedUploads does by hand what docs/api.md says, and by `modelgate push`,
// against a server that takes signed models only.
func TestSignedUploads(t *testing.T) {
	needRuntime(t)
	for _, tool := range []string{"openssl", "curl", "sha256sum", "base64"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("signing by hand needs %s, which is not here", tool)
		}
	}
	_, section, _ := strings.Cut(readDoc(t, "docs/api.md"), "### Signed uploads")
	var commands []string
	for _, b := range blocks(section) {
		if b.kind == "bash" {
			commands = append(commands, b.text)
		}
	}
	if len(commands) != 2 {
		t.Fatalf("docs/api.md has %d blocks of commands on signed uploads, not two", len(commands))
	}
	folder := t.TempDir()
	testdata, err := filepath.Abs(filepath.Join(root, "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(testdata, filepath.Join(folder, "testdata")); err != nil {
		t.Fatal(err)
	}
	var env []string
	run := func(command string) string {
		t.Helper()
		cmd := exec.Command("sh", "-euc", command)
		cmd.Dir, cmd.Env = folder, append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, command, out)
		}
		return string(out)
	}
	run(commands[0])
	// The samples of the server itself need no signature.
	p := start(t, filepath.Join(t.TempDir(), "data"), "MODELGATE_DEMO=true", "MODELGATE_UPLOAD_KEYS="+filepath.Join(folder, "sign.pub"))
	tokens, err := p.anonymous().Login(context.Background(), "admin", adminPassword)
	if err != nil {
		t.Fatal(err)
	}
	env = []string{"URL=" + p.url, "ADMIN=Authorization: Bearer " + tokens.AccessToken,
		"MODELGATE_URL=" + p.url, "MODELGATE_TOKEN=" + tokens.AccessToken}
	if out := run(commands[1]); !strings.Contains(out, `"version":1`) {
		t.Errorf("by hand: %s", out)
	}
	run("modelgate push petals testdata/external.onnx --sign-key sign.pem --quiet")

	admin := p.with(tokens.AccessToken)
	m, err := admin.Model(context.Background(), "petals")
	if err != nil || len(m.Versions) != 2 {
		t.Fatalf("%+v (%v)", m, err)
	}
	fingerprint := "SHA256:" + strings.TrimRight(strings.TrimSpace(run("openssl pkey -pubin -in sign.pub -outform DER | openssl dgst -sha256 -binary | base64")), "=")
	for _, v := range m.Versions {
		if v.Facts.SignedBy != fingerprint {
			t.Errorf("version %d: signed by %q, not %q", v.Version, v.Facts.SignedBy, fingerprint)
		}
	}
	if out := run("modelgate models petals"); !strings.Contains(out, "signed by "+fingerprint) {
		t.Errorf("the command line shows\n%s", out)
	}
	for what, spec := range map[string]client.Spec{"unsigned": {}, "signed by nobody": {Signature: make([]byte, 64)}} {
		_, err := tryPush(admin, "petals", modelBytes(t, "iris.onnx"), spec)
		if e := refused(t, err, 422, what); e.Code != "signature" {
			t.Errorf("%s: %v", what, e)
		}
	}
	run("openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048 -out rsa.pem")
	for _, bad := range []struct{ mode, key, want string }{
		{"644", "sign.pem", "chmod 600"},
		{"644", "sign.pub", "is a public key"},
		{"600", "rsa.pem", "-out NEW.pem"}, // openssl would overwrite the key that is there
	} {
		out := run("chmod " + bad.mode + " " + bad.key + "; ! modelgate push petals testdata/iris.onnx --quiet --sign-key " + bad.key)
		if !strings.Contains(out, bad.want) {
			t.Errorf("--sign-key %s: %s", bad.key, out)
		}
	}
}
