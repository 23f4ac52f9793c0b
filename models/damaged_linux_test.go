package models_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"modelgate/models"
)

// TestReadUnreadable: a disk that can't answer now, here for want of
// descriptors, is no reason to give a version up.
func TestReadUnreadable(t *testing.T) {
	r := newRoom(t)
	_, v := r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 3
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, err := r.catalog.Read(t.Context(), v)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	wantError(t, "read", err, models.ErrUnavailable)
	if _, err := r.catalog.Read(t.Context(), v); err != nil {
		t.Errorf("the disk is back: %v", err)
	}
}

// TestReadReplaced: what is no regular file in the place of a blob is never
// followed, waited for or read, and costs its own version alone.
func TestReadReplaced(t *testing.T) {
	for name, put := range map[string]func(t *testing.T, path string, whole []byte) error{
		"a link to the same contents": func(t *testing.T, path string, whole []byte) error {
			elsewhere := filepath.Join(t.TempDir(), "iris.onnx")
			return errors.Join(os.WriteFile(elsewhere, whole, 0o600), os.Symlink(elsewhere, path))
		},
		"a link to itself": func(t *testing.T, path string, _ []byte) error { return os.Symlink(path, path) },
		"a link to a pipe": func(t *testing.T, path string, _ []byte) error {
			pipe := filepath.Join(t.TempDir(), "pipe")
			return errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink(pipe, path))
		},
		"a pipe that nobody writes": func(_ *testing.T, path string, _ []byte) error { return syscall.Mkfifo(path, 0o600) },
		"a folder":                  func(_ *testing.T, path string, _ []byte) error { return os.Mkdir(path, 0o700) },
		"a socket": func(t *testing.T, path string, _ []byte) error {
			t.Chdir(filepath.Dir(path)) // names of sockets must be short
			l, err := net.Listen("unix", filepath.Base(path))
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		},
		"a file where its folder was": func(_ *testing.T, path string, _ []byte) error {
			return errors.Join(os.Remove(filepath.Dir(path)), os.WriteFile(filepath.Dir(path), nil, 0o600))
		},
		"other bytes of the same number": func(_ *testing.T, path string, whole []byte) error {
			return os.WriteFile(path, make([]byte, len(whole)), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			whole := sample(t, "iris")
			_, bad := r.publish(t, ann, "bad", whole, models.Spec{Roles: []string{"user"}})
			_, good := r.publish(t, ann, "good", sample(t, "iris_v2"), models.Spec{Roles: []string{"user"}})
			path := r.blob(bad.Digest)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := put(t, path, whole); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := r.catalog.Read(ctx, bad)
			wantError(t, "read", err, models.ErrQuarantined)
			_, err = r.catalog.Open(ctx, eve, models.Ref{Model: "bad"})
			wantError(t, "open", err, models.ErrQuarantined)
			if _, err := r.catalog.Read(ctx, good); err != nil {
				t.Errorf("the other: %v", err)
			}
		})
	}
}
