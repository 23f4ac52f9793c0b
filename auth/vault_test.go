package auth_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"modelgate/auth"
)

func masterKey() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.StdEncoding.EncodeToString(b)
}

func openVault(t testing.TB, path, secret string) *auth.Vault {
	t.Helper()
	v, err := auth.OpenVault(path, secret)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVault(t *testing.T) {
	v := openVault(t, "", masterKey())
	plain := []byte("JBSWY3DPEHPK3PXP")
	sealed := v.Seal("totp", "u_1", plain)
	if len(sealed) != len(plain)+36 || bytes.Contains(sealed, plain) {
		t.Errorf("sealed: %x", sealed)
	}
	if got, err := v.Open("totp", "u_1", sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%q, %v", got, err)
	}
	if bytes.Equal(v.Seal("totp", "u_1", plain), sealed) {
		t.Error("the same value is sealed to the same bytes: equal secrets can be seen")
	}
	for i := range sealed {
		for _, bit := range []byte{1, 0x80} {
			changed := bytes.Clone(sealed)
			changed[i] ^= bit
			if got, err := v.Open("totp", "u_1", changed); err == nil {
				t.Errorf("byte %d changed: opened as %q", i, got)
			}
		}
		if got, err := v.Open("totp", "u_1", sealed[:i]); err == nil {
			t.Errorf("cut to %d bytes: opened as %q", i, got)
		}
	}
	for _, other := range [][2]string{{"totp", "u_2"}, {"signing_key", "u_1"}, {"", "totpu_1"}, {"totpu", "_1"}, {"totpu_1", ""}} {
		if _, err := v.Open(other[0], other[1], sealed); err == nil || errors.Is(err, auth.ErrMasterKey) {
			t.Errorf("opened as %q of %q: %v", other[0], other[1], err)
		}
	}
	if _, err := openVault(t, "", masterKey()).Open("totp", "u_1", sealed); !errors.Is(err, auth.ErrMasterKey) || !strings.Contains(err.Error(), v.Name()) {
		t.Errorf("with another master key: %v", err)
	}
}

// TestVaultReplacesItsKey: the first key seals, all of them open.
func TestVaultReplacesItsKey(t *testing.T) {
	before, after := masterKey(), masterKey()
	old := openVault(t, "", before)
	sealed := old.Seal("totp", "u_1", []byte("x"))
	both := openVault(t, "", after+","+before)
	if got, err := both.Open("totp", "u_1", sealed); err != nil || string(got) != "x" {
		t.Fatalf("%q, %v", got, err)
	}
	if !both.Stale(sealed) || old.Stale(sealed) {
		t.Error("stale is what the first key did not seal")
	}
	again := both.Seal("totp", "u_1", []byte("x"))
	if both.Stale(again) {
		t.Error("sealed anew, and still stale")
	}
	if _, err := openVault(t, "", after).Open("totp", "u_1", again); err != nil {
		t.Error(err)
	}
	if _, err := old.Open("totp", "u_1", again); !errors.Is(err, auth.ErrMasterKey) {
		t.Errorf("the old key opens what the new one sealed: %v", err)
	}
}

func TestVaultFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "master.key")
	first := make([]*auth.Vault, 8)
	var group sync.WaitGroup
	for i := range first { // servers that start at once make one key
		group.Go(func() { first[i] = openVault(t, path, "") })
	}
	group.Wait()
	for _, v := range first {
		if v == nil || v.Name() != first[0].Name() {
			t.Fatal("two master keys were made")
		}
	}
	for name, mode := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if openVault(t, "", strings.TrimSpace(string(text))).Name() != first[0].Name() {
		t.Error("the variable and the file are read otherwise")
	}
	if other := openVault(t, filepath.Join(t.TempDir(), "master.key"), ""); other.Name() == first[0].Name() {
		t.Error("two fresh starts have one master key")
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := auth.OpenVault(path, ""); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %#o: %v", mode, err)
		}
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Chmod(filepath.Dir(path), 0o770)); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.OpenVault(path, ""); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("others may put a key there: %v", err)
	}
	if _, err := auth.OpenVault(t.TempDir(), ""); err == nil {
		t.Error("a folder was taken for a key")
	}
}

// TestKilledMasterKey: what a start that was killed while it made the key left
// beside it is removed by the next one, whether the key was there already or not,
// but not while another start is at it; what is not ours stays.
func TestKilledMasterKey(t *testing.T) {
	for _, before := range []bool{true, false} {
		dir := filepath.Join(t.TempDir(), "keys")
		path := filepath.Join(dir, "master.key")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if before {
			openVault(t, path, "")
			if err := os.Link(path, filepath.Join(dir, ".master-1.new")); err != nil {
				t.Fatal(err)
			}
		}
		for name, text := range map[string]string{".master-2.new": masterKey()[:20], ".master-3.new": "", "new-4": masterKey(), "master.key.new": masterKey()} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if before {
			unlock, err := auth.LockDir(dir, false)
			if err != nil {
				t.Fatal(err)
			}
			openVault(t, path, "")
			if names, err := os.ReadDir(dir); err != nil || len(names) != 6 {
				t.Errorf("while another start is at it, left are %v, %v", names, err)
			}
			unlock()
		}
		v := openVault(t, path, "")
		names, err := os.ReadDir(dir)
		if err != nil || len(names) != 3 {
			t.Errorf("left are %v, %v", names, err)
		}
		if openVault(t, path, "").Name() != v.Name() {
			t.Error("the key is another after the second start")
		}
	}
}

func TestWeakMasterKeysAreRefused(t *testing.T) {
	for what, text := range map[string]string{
		"short":        base64.StdEncoding.EncodeToString([]byte("short")),
		"31 bytes":     base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7, 99, 200}, 11)[:31]),
		"hexadecimal":  hex.EncodeToString([]byte(masterKey())[:32]),
		"no base64":    strings.Repeat("!", 44),
		"zeros":        base64.StdEncoding.EncodeToString(make([]byte, 32)),
		"counted":      "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
		"one byte":     base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xa7}, 32)),
		"words":        base64.StdEncoding.EncodeToString([]byte("this is a secret key of 32 bytes")),
		"sample":       base64.StdEncoding.EncodeToString([]byte("change-me-in-production-please!!")),
		"repeated":     base64.StdEncoding.EncodeToString([]byte(strings.Repeat("s3cr", 8))),
		"second":       masterKey() + "," + base64.StdEncoding.EncodeToString(make([]byte, 32)),
		"only a comma": " , ",
	} {
		_, err := auth.OpenVault("", text)
		if err == nil {
			t.Errorf("%s: accepted", what)
			continue
		}
		if len(text) > 8 && strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "openssl") {
			t.Errorf("%s: the message shows the key or no way out: %v", what, err)
		}
	}
	empty := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.OpenVault(empty, ""); err == nil || !strings.Contains(err.Error(), "openssl") {
		t.Errorf("an empty file: %v", err)
	}
	refused := 0
	const rounds = 2000
	for range rounds {
		if _, err := auth.OpenVault("", masterKey()); err != nil {
			refused++
		}
	}
	if refused > 4 { // one in a thousand by chance
		t.Errorf("%d of %d random keys refused", refused, rounds)
	}
}
