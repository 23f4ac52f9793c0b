//go:build unix

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"modelgate/auth"
)

// The operating system refuses to write more: as TestFull, in a process of its own, since the limit is the process's.
func TestFileSizeLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "modelgate.db")
	c := start(t, "full", path)
	made, err := strconv.Atoi(c.line(t))
	if err != nil {
		t.Fatal(err)
	}
	c.end(t)
	checkFilled(t, openAt(t, path), made+1) // the child has found room for one more
}

func childFull(ctx context.Context, path string) error {
	db, err := Open(ctx, path, nil)
	if err != nil {
		return err
	}
	info, err := os.Stat(path + "-wal")
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	room := limit
	limit.Cur = uint64(info.Size()) + 100_000
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	made, err := fill(db)
	if !errors.Is(err, auth.ErrUnavailable) {
		return fmt.Errorf("after %d users: %w", made, err)
	}
	if err := db.Ping(ctx); err != nil {
		return fmt.Errorf("reading while there is no room: %w", err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &room); err != nil {
		return err
	}
	u := auth.User{ID: "more", Username: "more", Roles: []string{"user", "admin"}}
	if err := db.CreateUser(ctx, u, nil); err != nil {
		return fmt.Errorf("when there is room again: %w", err)
	}
	fmt.Println(made)
	return db.Close()
}
