package auth_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"modelgate/auth"
)

// TestMasterKeyInAFolderThatCannotBeListed: to read a key takes no right to see
// what else lies beside it.
func TestMasterKeyInAFolderThatCannotBeListed(t *testing.T) {
	dir, err := os.MkdirTemp("", "keys-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700); os.RemoveAll(dir) })
	path := filepath.Join(dir, "master.key")
	if err := os.WriteFile(path, []byte(masterKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o311); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 { // who may do all: to files, the thread is another's now
		const nobody = 65534
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if _, err := unix.SetfsuidRetUid(nobody); err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = unix.SetfsuidRetUid(0) }()
	}
	if _, err := os.ReadDir(dir); err == nil {
		t.Fatal("the folder can be listed")
	}
	if _, err := auth.OpenVault(path, ""); err != nil {
		t.Error(err)
	}
}
