package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"modelgate/auth"
)

// Copies that are taken while users are made, one after the other, hold the first ones up to some moment, each whole, and
// can be opened like any database.
func TestBackup(t *testing.T) {
	db := open(t)
	folder := t.TempDir()
	db.patience = time.Minute // a slow disk is no failure here
	ctx, cancel := context.WithCancel(t.Context())
	made := make(chan int)
	stopped := make(chan error, 1)
	go func() {
		defer close(made)
		for i := 1; ; i++ {
			if err := writes["user"](ctx, db, i); err != nil {
				stopped <- err
				return
			}
			select {
			case made <- i:
			default:
			}
		}
	}()
	for i := range 5 {
		before := <-made
		path := filepath.Join(folder, fmt.Sprint("copy", i))
		if err := db.Backup(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		after := <-made
		if info, err := os.Stat(path); err != nil || info.Mode() != fs.FileMode(0o600) {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		restored := openAt(t, path)
		checkIntegrity(t, restored)
		if n := progress(t, restored, "user"); n < before || n > after {
			t.Errorf("%d users in a copy begun after %d and done before %d", n, before, after)
		}
		if err := create(t.Context(), restored, "another"); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A backup that fails leaves nothing behind, and overwrites nothing.
func TestBackupRefused(t *testing.T) {
	db := open(t)
	folder := t.TempDir()
	taken := filepath.Join(folder, "taken")
	if err := os.WriteFile(taken, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := db.Backup(t.Context(), taken); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto a file that exists: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Backup(ctx, filepath.Join(folder, "never")); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := db.Backup(t.Context(), filepath.Join(folder, "absent", "copy")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into no folder: %v", err)
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if text, err := os.ReadFile(taken); err != nil || string(text) != "precious" {
		t.Errorf("%s, %v", text, err)
	}
}

// Nothing that a caller could present is in the files, live or in a copy: only what it hashes to.
func TestSecretsAreNotStored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "modelgate.db")
	db := openAt(t, path)
	ctx := t.Context()
	secrets := []string{"canary-refresh-1", "canary-refresh-2", "canary-api-key", "canary-invitation", "canary-client-secret"}
	hashed := func(s string) [32]byte { return sha256.Sum256([]byte(s)) }
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(db.CreateUser(ctx, auth.User{ID: "u", Username: "u"}, &auth.Ticket{Hash: hashed(secrets[3]), UserID: "u", ExpiresAt: far}))
	_, err := db.CreateSession(ctx, auth.Session{ID: "s", UserID: "u", ExpiresAt: far}, auth.RefreshToken{Hash: hashed(secrets[0]), ExpiresAt: far}, auth.Displaced{})
	ok(err)
	_, err = db.Rotate(ctx, hashed(secrets[0]), auth.RefreshToken{Hash: hashed(secrets[1]), ExpiresAt: far}, time.Now())
	ok(err)
	ok(db.CreateKey(ctx, auth.Key{ID: "k", UserID: "u", Hash: hashed(secrets[2])}))
	ok(db.CreateService(ctx, auth.User{ID: "c", Kind: auth.ServiceAccount, Username: "c"}, auth.ClientSecret{ID: "c", UserID: "c", Hash: hashed(secrets[4])}))
	ok(db.Backup(ctx, path+".copy"))

	found := map[string]bool{}
	for _, name := range []string{path, path + "-wal", path + ".copy"} {
		content, err := os.ReadFile(name)
		ok(err)
		for _, s := range secrets {
			if bytes.Contains(content, []byte(s)) {
				t.Errorf("%s is in %s", s, name)
			}
			h := hashed(s)
			if bytes.Contains(content, h[:]) {
				found[s] = true // the search would see it
			}
		}
	}
	if len(found) != len(secrets) {
		t.Errorf("hashes found: %v", found)
	}
}
