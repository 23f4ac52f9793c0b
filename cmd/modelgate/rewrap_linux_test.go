package main

import (
	"crypto/rand"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReplaceTheMasterKey follows docs/operations.md: beside a running server
// that has both keys, and when the key is lost. Second factors survive both.
func TestReplaceTheMasterKey(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	data := t.TempDir()
	p := start(t, data)
	restart := func() {
		t.Helper()
		if err := p.stop(); err != nil {
			t.Fatal(err)
		}
		p = start(t, data)
	}
	logIn := func(otp string) (said string, exit int) {
		t.Helper()
		_, said, exit = inProcess(t, strings.NewReader(adminPassword+"\n"), "login", p.url, "--username", "admin", "--password-stdin", "--otp", otp)
		return said, exit
	}
	rewrap := func(exit int, says []string, args ...string) {
		t.Helper()
		_, said, got := inProcess(t, strings.NewReader(""), append([]string{"admin", "rewrap", "--data", data}, args...)...)
		for _, words := range says {
			if got != exit || !strings.Contains(said, words) {
				t.Fatalf("exit %d: %s; want exit %d, %q", got, said, exit, words)
			}
		}
	}
	masterKey := func() string {
		key := make([]byte, 32)
		rand.Read(key)
		return base64.StdEncoding.EncodeToString(key) + "\n"
	}
	if said, exit := logIn(""); exit != 0 {
		t.Fatal(said)
	}
	secret, recovery := enableTOTP(t, adminPassword+"\n")

	old, err := os.ReadFile(masterKeyPath(data))
	if err != nil {
		t.Fatal(err)
	}
	fresh := masterKey()
	write(t, masterKeyPath(data), fresh+string(old))
	restart()
	rewrap(0, []string{"Sealed 2 secrets anew"})
	rewrap(0, []string{"Sealed 0 secrets anew"})
	write(t, masterKeyPath(data), fresh)
	restart()
	// Of the next step: the one of now may have been used to confirm.
	if said, exit := logIn(totpCode(t, secret, time.Now().Add(30*time.Second))); exit != 0 {
		t.Errorf("a code after the master key was replaced: %s", said)
	}

	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(masterKeyPath(data)); err != nil {
		t.Fatal(err)
	}
	if _, err := launch(data, t.TempDir()); err == nil || !strings.Contains(err.Error(), "the master key is missing") {
		t.Errorf("a start without the master key: %v", err)
	}
	rewrap(1, []string{"the master key is missing", "--discard"})
	if _, err := os.Stat(masterKeyPath(data)); err == nil {
		t.Error("another master key stands where the missing one belongs")
	}
	write(t, masterKeyPath(data), masterKey())
	rewrap(1, []string{"--discard", "old master key"})
	rewrap(0, []string{"second factors of 1 user: admin", "recovery codes", "Removed 1 signing key;"}, "--discard")
	p = start(t, data)
	if said, exit := logIn(""); exit == 0 {
		t.Errorf("the password alone is enough: %s", said)
	}
	if said, exit := logIn(recovery[0]); exit != 0 {
		t.Errorf("a recovery code after the master key was lost: %s", said)
	}
}
