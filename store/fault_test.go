package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/models"
)

func create(ctx context.Context, db *DB, name string) error {
	return db.CreateUser(ctx, auth.User{ID: name, Username: name, Roles: []string{"user"}}, nil)
}

// Another process holds the file for a while: writes wait for it, reads do not.
func TestLockedThenReleased(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "modelgate.db")
	db := openAt(t, path)
	locker := start(t, "lock", path)
	locker.line(t)

	if _, err := db.Users(t.Context(), "", 10); err != nil {
		t.Errorf("a read while the file is locked: %v", err)
	}
	var writers sync.WaitGroup
	begun := make(chan struct{}, 10)
	errs := make(chan error, 10)
	for i := range 10 {
		writers.Go(func() {
			begun <- struct{}{}
			errs <- create(context.Background(), db, fmt.Sprint("u", i))
		})
	}
	for range 10 {
		<-begun
	}
	select {
	case err := <-errs:
		t.Errorf("a write passed the lock: %v", err)
	default:
	}
	locker.end(t)
	writers.Wait()
	for range 10 {
		if err := <-errs; err != nil {
			t.Errorf("a write after the lock: %v", err)
		}
	}
}

// Another process holds the file for longer than anybody should wait: everyone gets an answer in time, also those who
// queue behind others, and nothing has changed. Whoever leaves gets it at once.
func TestLockedForLong(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "modelgate.db")
	db := openAt(t, path)
	db.patience = 300 * time.Millisecond
	locker := start(t, "lock", path)
	locker.line(t)

	var group sync.WaitGroup
	began := time.Now()
	for i := range 20 {
		group.Go(func() {
			err := create(context.Background(), db, fmt.Sprint("u", i))
			if !errors.Is(err, auth.ErrUnavailable) || !errors.Is(err, errPatience) {
				t.Errorf("write: %v", err)
			}
		})
	}
	group.Go(func() {
		_, err := db.SetState(context.Background(), "iris", 1, models.Ready, "")
		if !errors.Is(err, models.ErrUnavailable) || !errors.Is(err, errPatience) {
			t.Errorf("write: %v", err)
		}
	})
	group.Wait()
	if took := time.Since(began); took > 15*db.patience { // one after the other would be 21 times
		t.Errorf("the last answer took %v", took)
	}

	db.patience = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { left <- create(ctx, db, "leaver") }()
	cancel()
	if err := <-left; !errors.Is(err, auth.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("whoever leaves: %v", err)
	}
	// The lock's own limit holds when the context has none.
	if _, err := db.writer.Exec(`PRAGMA busy_timeout = 100`); err != nil {
		t.Fatal(err)
	}
	if err := create(t.Context(), db, "patient"); !errors.Is(err, auth.ErrUnavailable) || !strings.Contains(err.Error(), "locked") {
		t.Errorf("write: %v", err)
	}
	locker.end(t)
	if list, err := db.Users(t.Context(), "", 10); err != nil || len(list) != 0 {
		t.Errorf("users: %v, %v", list, err)
	}
	if err := create(t.Context(), db, "after"); err != nil {
		t.Error(err)
	}
}

// A program that starts while another holds the file says so.
func TestOpenLocked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "modelgate.db")
	locker := start(t, "lock", path) // of a file without WAL: readers are kept out as well
	locker.line(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if db, err := Open(ctx, path, nil); err == nil {
		db.Close()
		t.Fatal("opened a locked file")
	} else if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("within the context's time: %v", err)
	}
	if db, err := Open(t.Context(), path, nil); err == nil { // waits for as long as any statement does
		db.Close()
		t.Fatal("opened a locked file")
	} else if !strings.Contains(err.Error(), "another program keeps the file locked") {
		t.Errorf("when the context has time: %v", err)
	}
	locker.end(t)
	openAt(t, path)
}

// Without room for more pages writes fail as unavailable, whole; reads go on, and so do writes when there is room again.
func TestFull(t *testing.T) {
	db := open(t)
	var pages, limit int
	if err := db.writer.QueryRow(`PRAGMA page_count`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	if err := db.writer.QueryRow(fmt.Sprint(`PRAGMA max_page_count = `, pages+2)).Scan(&limit); err != nil || limit != pages+2 {
		t.Fatal(limit, err)
	}
	made, err := fill(db)
	if !errors.Is(err, auth.ErrUnavailable) || !strings.Contains(err.Error(), "full") {
		t.Fatalf("after %d users: %v", made, err)
	}
	if err := db.writer.QueryRow(fmt.Sprint(`PRAGMA max_page_count = `, 1<<30)).Scan(&limit); err != nil {
		t.Fatal(err)
	}
	checkFilled(t, db, made)
}

// fill creates users until that fails, and returns how many there are.
func fill(db *DB) (int, error) {
	for i := range 100_000 {
		name := fmt.Sprintf("u%06d", i)
		u := auth.User{ID: name, Username: name, PasswordHash: strings.Repeat("x", 500), Roles: []string{"user", "admin"}}
		if err := db.CreateUser(context.Background(), u, nil); err != nil {
			return i, err
		}
	}
	return 0, errors.New("there is room for 100,000 users")
}

// checkFilled wants the users that fill made, each whole, and room for another.
func checkFilled(t *testing.T, db *DB, made int) {
	t.Helper()
	list, err := db.Users(t.Context(), "", 200_000)
	if err != nil || len(list) != made || made == 0 {
		t.Fatalf("%d users, %v; %d were acknowledged", len(list), err, made)
	}
	for _, u := range list {
		if len(u.Roles) != 2 {
			t.Errorf("half made: %v", u)
		}
	}
	if err := create(t.Context(), db, "another"); err != nil {
		t.Error(err)
	}
	checkIntegrity(t, db)
}

func checkIntegrity(t *testing.T, db *DB) {
	t.Helper()
	var verdict string
	if err := db.readers.QueryRow(`PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity: %s, %v", verdict, err)
	}
	var broken int
	if err := db.readers.QueryRow(`SELECT count(*) FROM pragma_foreign_key_check`).Scan(&broken); err != nil || broken != 0 {
		t.Errorf("%d broken references, %v", broken, err)
	}
}

// A callback that writes to the store it is called by can't succeed, but it gets its answer.
func TestWriteInCallback(t *testing.T) {
	t.Parallel()
	db := open(t)
	if err := create(t.Context(), db, "ada"); err != nil {
		t.Fatal(err)
	}
	db.patience = 200 * time.Millisecond
	_, err := db.UpdateUser(t.Context(), "ada", func(u auth.User, _ int) (auth.User, error) {
		return u, db.EndSession(t.Context(), "s")
	})
	if !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("error: %v", err)
	}
	db.patience = patience
	if err := create(t.Context(), db, "bob"); err != nil {
		t.Error(err)
	}
}

// Two processes use one file: neither loses what the other wrote, and both wait for their turn.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "modelgate.db")
	dbs := []*DB{openAt(t, path), openAt(t, path)} // a lock of the file knows no difference
	if err := create(t.Context(), dbs[0], "ada"); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			_, err := dbs[i%2].UpdateUser(context.Background(), "ada", func(u auth.User, _ int) (auth.User, error) {
				u.PasswordHash += "x"
				return u, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, db := range dbs {
		if u, err := db.User(t.Context(), "ada"); err != nil || len(u.PasswordHash) != 20 {
			t.Errorf("%+v, %v", u, err)
		}
	}
}
