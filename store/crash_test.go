package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/models"
)

// A server is killed again and again while it writes. Whatever it had acknowledged is there, and nothing is half made.
func TestKilled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "modelgate.db")
	openAt(t, path).Close()
	acknowledged := map[string]int{} // the last number of each stream, over all rounds
	for round := range 8 {
		c := start(t, "write", path)
		note := func() {
			stream, number, _ := strings.Cut(c.lines.Text(), " ")
			n, err := strconv.Atoi(number)
			if err != nil || n != acknowledged[stream]+1 {
				t.Fatalf("round %d: %q after %d", round, c.lines.Text(), acknowledged[stream])
			}
			acknowledged[stream] = n
		}
		for range 10 + 37*round { // not always at the same step
			if !c.lines.Scan() {
				t.Fatal("the child ended by itself")
			}
			note()
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for c.lines.Scan() { // what it said before it died counts too
			note()
		}
		c.Wait()

		db, err := Open(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkIntegrity(t, db)
		for stream := range writes {
			at := progress(t, db, stream)
			if at != acknowledged[stream] && at != acknowledged[stream]+1 { // the last one may have lacked but its answer
				t.Fatalf("round %d: %s is at %d; %d was acknowledged", round, stream, at, acknowledged[stream])
			}
			acknowledged[stream] = at
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The lock of administration holds between processes, and one that is killed leaves none.
func TestAdminLockOfAnotherProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "modelgate.db")
	db := openAt(t, path)
	c := start(t, "admin", path)
	c.line(t)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := db.LockAdmin(short); !errors.Is(err, auth.ErrUnavailable) {
		t.Fatalf("while another process has it: %v", err)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	unlock, err := db.LockAdmin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// writes are what the child does at once, in streams of numbered steps. Where a stream has got to can be seen in the
// database, which progress finds out; the child goes on from there.
var writes = map[string]func(ctx context.Context, db *DB, n int) error{
	"user": func(ctx context.Context, db *DB, n int) error {
		id := fmt.Sprint("u", n)
		u := auth.User{ID: id, Username: fmt.Sprintf("u%08d", n), Roles: []string{"admin", "user"}, PasswordHash: "x"}
		return db.CreateUser(ctx, u, &auth.Ticket{Hash: secret(id), UserID: id, Kind: auth.Invitation, ExpiresAt: far})
	},
	"refresh": func(ctx context.Context, db *DB, n int) error {
		if n == 1 {
			if err := db.CreateUser(ctx, auth.User{ID: "r", Username: "r"}, nil); err != nil && !errors.Is(err, auth.ErrTaken) {
				return err
			}
			_, err := db.CreateSession(ctx, auth.Session{ID: "r", UserID: "r", ExpiresAt: far}, auth.RefreshToken{Hash: secret("r1"), ExpiresAt: far}, auth.Displaced{})
			return err
		}
		_, err := db.Rotate(ctx, secret(fmt.Sprint("r", n-1)), auth.RefreshToken{Hash: secret(fmt.Sprint("r", n)), ExpiresAt: far}, time.Time{})
		return err
	},
	"version": func(ctx context.Context, db *DB, n int) error {
		m := &models.Model{ID: "m", Name: "m", Roles: []string{"user"}}
		_, err := db.AddVersion(ctx, m, &models.Version{ID: fmt.Sprint("v", n)}, func(old *models.Model, number int) (*models.Model, error) {
			old.DefaultVersion, old.Aliases = number, map[string]int{"newest": number}
			return old, nil
		})
		return err
	},
	"head": func(ctx context.Context, db *DB, n int) error {
		return db.SetAuditHead(ctx, "log", audit.Head{Seq: uint64(n), Hash: fmt.Sprint("h", n)})
	},
}

var far = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

func secret(s string) [32]byte { return sha256.Sum256([]byte(s)) }

func childWrite(ctx context.Context, path string) error {
	db, err := Open(ctx, path, nil)
	if err != nil {
		return err
	}
	db.patience = time.Minute // a slow disk is no failure here
	failed := make(chan error)
	for stream, write := range writes {
		n, err := reached(ctx, db, stream)
		if err != nil {
			return err
		}
		go func() {
			for {
				n++
				if err := write(ctx, db, n); err != nil {
					failed <- fmt.Errorf("%s %d: %w", stream, n, err)
					return
				}
				fmt.Fprintf(os.Stdout, "%s %d\n", stream, n)
			}
		}()
	}
	return <-failed
}

// reached is the last step of a stream that took effect.
func reached(ctx context.Context, db *DB, stream string) (n int, err error) {
	query := map[string]string{
		"user":    `SELECT count(*) FROM users WHERE id <> 'r'`,
		"refresh": `SELECT count(*) FROM refresh_tokens`,
		"version": `SELECT count(*) FROM versions`,
		"head":    `SELECT coalesce(max(seq), 0) FROM audit_heads`,
	}[stream]
	err = db.readers.QueryRowContext(ctx, query).Scan(&n)
	return n, err
}

// progress is reached for a test; it also finds steps that were taken by halves.
func progress(t *testing.T, db *DB, stream string) int {
	t.Helper()
	ctx := t.Context()
	n, err := reached(ctx, db, stream)
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		return 0
	}
	switch stream {
	case "user":
		list, err := db.Users(ctx, "u", n+1)
		if err != nil || len(list) != n {
			t.Fatalf("%d users, %v; want %d", len(list), err, n)
		}
		var tickets int
		err = db.readers.QueryRowContext(ctx, `SELECT count(*) FROM tickets`).Scan(&tickets)
		if err != nil || tickets != n {
			t.Errorf("%d tickets for %d users, %v", tickets, n, err)
		}
		for i, u := range list {
			if u.ID != fmt.Sprint("u", i+1) || len(u.Roles) != 2 {
				t.Errorf("user %d: %+v", i, u)
			}
		}
	case "refresh":
		for i := 1; i <= n; i++ {
			_, err := db.SessionOfRefresh(ctx, secret(fmt.Sprint("r", i)), time.Time{})
			if (err == nil) != (i == n) {
				t.Errorf("token %d of %d: %v", i, n, err)
			}
		}
	case "version":
		list, err := db.Models(ctx)
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		m := list[0]
		if m.DefaultVersion != n || m.NextVersion != n+1 || len(m.Roles) != 1 || m.Versions[n-1].ID != fmt.Sprint("v", n) {
			t.Errorf("of %d versions: %+v", n, m)
		}
	case "head":
		if h, err := db.AuditHeads(ctx); err != nil || h["log"].Hash != fmt.Sprint("h", n) {
			t.Errorf("head %d: %v, %v", n, h, err)
		}
	}
	return n
}
