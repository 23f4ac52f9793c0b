package store

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pressly/goose/v3"

	"modelgate/auth"
)

// open opens a fresh database in a file.
func open(t *testing.T) *DB {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "modelgate.db"))
}

func openAt(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestOpenURL(t *testing.T) {
	folder := t.TempDir()
	for _, url := range []string{
		filepath.Join(folder, "plain.db"),
		"sqlite:" + filepath.Join(folder, "scheme.db"),
		"sqlite://" + filepath.Join(folder, "slashes.db"),
		filepath.Join(folder, "new", "deep", "folder.db"),
		filepath.Join(folder, "odd name?mode=memory&x=%41#y.db"), // nothing of it is a parameter
	} {
		openAt(t, url)
		path := strings.TrimPrefix(strings.TrimPrefix(url, "sqlite:"), "//")
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for url, says := range map[string]string{
		"":                       "names no file",
		"sqlite:":                "names no file",
		"sqlite::memory:":        "names no file",
		":memory:":               "sqlite:PATH",
		"postgres://db/x":        "PostgreSQL is not supported yet",
		"postgresql://db/x":      "PostgreSQL is not supported yet",
		"mysql:db":               "sqlite:PATH",
		"sqlite:" + folder:       "is a directory",
		"/proc/nothing/here.db":  "no such file",
		"sqlite:" + os.DevNull:   "not a regular file",
		folder + "/plain.db/x.d": "not a directory",
	} {
		db, err := Open(t.Context(), url, nil)
		if err == nil {
			db.Close()
			t.Errorf("%q was opened", url)
		} else if !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; want it to say %q", url, err, says)
		}
	}
}

// Nobody else on the machine can read what is stored, however wide the umask or an existing file is.
func TestFileMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "modelgate.db")
	for _, prepare := range []func() error{
		func() error { return nil },
		func() error { return os.Chmod(path, 0o666) },
	} {
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
		db := openAt(t, path)
		if err := db.CreateUser(t.Context(), auth.User{ID: t.Name()}, nil); err != nil && !errors.Is(err, auth.ErrTaken) {
			t.Fatal(err)
		}
		for _, suffix := range []string{"", "-wal", "-shm"} {
			info, err := os.Stat(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != fs.FileMode(0o600) {
				t.Errorf("%s has mode %v", filepath.Base(path+suffix), info.Mode())
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info.Mode(), err)
	}
}

// What durability and integrity rest on is switched on in every connection of both pools.
func TestPragmas(t *testing.T) {
	db := open(t)
	for pool, conns := range map[*sql.DB]int{db.writer: 1, db.readers: 3} {
		var held []*sql.Conn
		for range conns { // held together, so that they are distinct
			conn, err := pool.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, conn)
			for pragma, want := range map[string]string{
				"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": busyTimeout,
				"query_only": map[bool]string{true: "1", false: "0"}[pool == db.readers], "secure_delete": "2",
				"temp_store": "2", "trusted_schema": "0",
			} {
				var got string
				if err := conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
					t.Errorf("%s is %q, %v; want %q", pragma, got, err, want)
				}
			}
		}
		for _, conn := range held {
			conn.Close()
		}
	}
	if _, err := db.readers.ExecContext(t.Context(), `DELETE FROM roles`); err == nil {
		t.Error("a reader could write")
	}
}

// A schema that a later version of the program made is refused, and not touched.
func TestNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "modelgate.db")
	db := openAt(t, path)
	know := version(t, db)
	if _, err := db.writer.ExecContext(t.Context(),
		`INSERT INTO goose_db_version (version_id, is_applied) VALUES (?, 1)`, know+1); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), path, nil)
	if err == nil {
		again.Close()
		t.Fatal("a newer schema was opened")
	}
	for _, says := range []string{"newer modelgate", "start that version", "restore a backup", path} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want it to say %q", err, says)
		}
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("the refused file was changed")
	}
}

func version(t *testing.T, db *DB) (n int) {
	t.Helper()
	if err := db.writer.QueryRowContext(t.Context(), `SELECT max(version_id) FROM goose_db_version`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A file that belongs to something else is left as it is.
func TestForeignFile(t *testing.T) {
	folder := t.TempDir()
	text := filepath.Join(folder, "notes.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(folder, "other.db")
	db, err := sql.Open("sqlite", other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`CREATE TABLE albums (id INTEGER)`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	for path, says := range map[string]string{text: "no SQLite database", other: "another program"} {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		db, err := Open(t.Context(), path, nil)
		if err == nil {
			db.Close()
			t.Errorf("%s was opened", path)
		} else if !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want it to say %q", err, says)
		}
		after, err := os.ReadFile(path)
		if err != nil || string(before) != string(after) {
			t.Errorf("%s was changed (%v)", path, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("the mode of %s was changed: %v, %v", path, info.Mode(), err)
		}
	}
}

// Several that start at the same moment on a fresh file all succeed, and the schema is made once.
func TestOpenAtOnce(t *testing.T) {
	for range 5 {
		path := filepath.Join(t.TempDir(), "modelgate.db")
		begin := make(chan struct{})
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				<-begin
				db, err := Open(context.Background(), path, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(db.Ping(context.Background()), db.Close()); err != nil {
					t.Error(err)
				}
			})
		}
		close(begin)
		group.Wait()
	}
}

// A first start that was cut off between any two of its steps is taken up where it ended.
func TestInterruptedStart(t *testing.T) {
	ctx := t.Context()
	steps := []func(path string) error{
		prepareFile,
		func(path string) error {
			probe, err := connectSQLite(path, nil, 1)
			if err != nil {
				return err
			}
			return errors.Join(claimSQLite(ctx, probe), probe.Close())
		},
		func(path string) error { return admitSQLite(ctx, path) },
		func(path string) error { // the table of versions, without any
			writer, readers, err := openSQLite(ctx, path)
			if err != nil {
				return err
			}
			steps, err := goose.NewProvider(sqlite.goose, writer, sqlite.migrations)
			if err != nil {
				return err
			}
			_, _, err = steps.GetVersions(ctx)
			return errors.Join(err, writer.Close(), readers.Close())
		},
	}
	for reached := range steps {
		path := filepath.Join(t.TempDir(), "modelgate.db")
		for _, step := range steps[:reached+1] {
			if err := step(path); err != nil {
				t.Fatal(err)
			}
		}
		db := openAt(t, path)
		if err := create(ctx, db, "ada"); err != nil {
			t.Errorf("after %d steps: %v", reached+1, err)
		}
	}
}

// What was stored is there when the file is opened again.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "modelgate.db")
	for i := range 3 {
		db := openAt(t, path)
		list, err := db.Users(t.Context(), "", 10)
		if err != nil || len(list) != i {
			t.Fatalf("%d users, %v; want %d", len(list), err, i)
		}
		name := strings.Repeat("x", i+1)
		if err := db.CreateUser(t.Context(), auth.User{ID: name, Username: name}, nil); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Only hashes are stored, by the form of the columns: 32 bytes, and no text.
func TestHashColumns(t *testing.T) {
	db := open(t)
	if err := db.CreateUser(t.Context(), auth.User{ID: "u"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := db.CreateSession(t.Context(), auth.Session{ID: "s", UserID: "u"}, auth.RefreshToken{}, auth.Displaced{}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.writer.ExecContext(t.Context(), `INSERT INTO totp VALUES ('u', x'', 1, '', 0, 0, zeroblob(33), 0)`); err == nil {
		t.Error("recovery codes that are no hashes were accepted")
	}
	for _, value := range []string{`'0123456789abcdef0123456789abcdef'`, `x'00'`, `'mg_secret'`, `zeroblob(33)`, `NULL`, `1`} {
		for _, insert := range []string{
			`INSERT INTO refresh_tokens (session_id, expires_at, used_at, hash) VALUES ('s', 0, 0, `,
			`INSERT INTO api_keys (id, user_id, name, created_at, hash) VALUES ('k', 'u', '', 0, `,
			`INSERT INTO client_secrets (id, user_id, created_at, hash) VALUES ('c', 'u', 0, `,
			`INSERT INTO tickets (kind, user_id, expires_at, hash) VALUES ('invitation', 'u', 0, `,
		} {
			if _, err := db.writer.ExecContext(t.Context(), insert+value+`)`); err == nil {
				t.Errorf("%s%s) was accepted", insert, value)
			}
		}
	}
}
