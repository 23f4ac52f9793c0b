package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/pressly/goose/v3"
	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"
)

// A dialect is what one kind of database does in its own way. Statements elsewhere in the package keep to what SQLite 3.44
// and PostgreSQL both understand, with ? for parameters, and decide races by what they change (a conditional UPDATE, a
// unique index) and not by SQLite's single writer alone.
type dialect struct {
	goose      goose.Dialect
	migrations fs.FS
	// rebind writes the placeholders the database's way.
	rebind func(query string) string
	// violated tells which constraint an error is about.
	violated func(error) violation
	// backup writes a consistent copy of the database into the empty file at path.
	backup func(ctx context.Context, database, path string) error
}

// A violation is a constraint that a statement would have broken.
type violation int

const (
	none    violation = iota // the error is something else
	unique                   // a value that exists already
	foreign                  // a reference to a row that does not exist, or the removal of one that is referred to
)

//go:embed migrations
var migrations embed.FS

var sqlite = dialect{
	goose:      goose.DialectSQLite3,
	migrations: sub(migrations, "migrations/sqlite"),
	rebind:     func(query string) string { return query },
	violated:   violatedSQLite,
	backup:     backupSQLite,
}

func sub(from fs.FS, folder string) fs.FS {
	below, err := fs.Sub(from, folder)
	if err != nil {
		panic(err) // the name is not a path: a mistake in this file
	}
	return below
}

// applicationID marks a SQLite file as ours.
const applicationID = 0x6d676174 // "mgat"

// busyMilliseconds is how long a statement waits for a lock of another process, when its context allows it.
const busyMilliseconds = 5000

var busyTimeout = strconv.Itoa(busyMilliseconds)

// openSQLite opens the database file at path, which must exist and may be empty.
//
// Durability: WAL with synchronous=FULL syncs the log at each commit, so that what was acknowledged survives a power cut.
// Writers begin with BEGIN IMMEDIATE (txlock), so that no transaction finds at its first write that what it has read is
// out of date. Nothing goes to temporary files, and what is deleted is overwritten.
func openSQLite(ctx context.Context, path string) (writer, readers *sql.DB, err error) {
	if err := admitSQLite(ctx, path); err != nil {
		return nil, nil, err
	}
	// A new connection must not wait for a lock, since nothing there would heed the caller's context: none of these needs
	// the file.
	query := url.Values{
		"_busy_timeout": {busyTimeout}, "_synchronous": {"FULL"}, "_foreign_keys": {"on"}, "_txlock": {"immediate"},
		"_defensive": {"1"}, "_dqs": {"0"},
		"_pragma": {"secure_delete(FAST)", "temp_store(MEMORY)", "trusted_schema(OFF)", "journal_size_limit(67108864)"},
	}
	if writer, err = connectSQLite(path, query, 1); err != nil {
		return nil, nil, err
	}
	query.Set("_query_only", "on")
	if readers, err = connectSQLite(path, query, max(4, runtime.GOMAXPROCS(0))); err != nil {
		return nil, nil, errors.Join(err, writer.Close())
	}
	return writer, readers, nil
}

// connectSQLite returns a pool that keeps its connections.
func connectSQLite(path string, query url.Values, size int) (*sql.DB, error) {
	file := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()} // escapes what SQLite would take for parameters
	pool, err := sql.Open("sqlite", file.String())
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(size)
	return pool, nil
}

// admitSQLite refuses a file that is not ours, without a change to it, marks an empty one as ours and switches to WAL.
func admitSQLite(ctx context.Context, path string) (err error) {
	probe, err := connectSQLite(path, url.Values{"_busy_timeout": {busyTimeout}, "_txlock": {"immediate"}}, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(advice(err), probe.Close()) }()
	if err := claimSQLite(ctx, probe); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil { // before the files beside it take their mode from it
		return err
	}
	return useWAL(ctx, probe)
}

// useWAL switches to a write-ahead log, for good. Unlike other statements the switch does not wait for a lock by itself.
func useWAL(ctx context.Context, probe *sql.DB) error {
	give := time.NewTimer(busyMilliseconds * time.Millisecond)
	defer give.Stop()
	for {
		var journal string
		err := probe.QueryRowContext(ctx, `PRAGMA journal_mode = WAL`).Scan(&journal)
		switch {
		case err == nil && journal != "wal":
			return fmt.Errorf("the file system does not support write-ahead logging (the journal is %q);"+
				" put the data folder on a local disk", journal)
		case code(err)&0xff != codes.SQLITE_BUSY:
			return err
		}
		select {
		case <-give.C:
			return err
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(5 * time.Millisecond): // the other process gives no sign
		}
	}
}

// claimSQLite works in one transaction that keeps others out: of several processes that find the file empty one marks it,
// and the mark stands before any table, so that a crash can't make the file a stranger.
func claimSQLite(ctx context.Context, probe *sql.DB) error {
	tx, err := probe.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var id, tables int
	err = tx.QueryRowContext(ctx, `SELECT application_id, (SELECT count(*) FROM sqlite_schema) FROM pragma_application_id`).
		Scan(&id, &tables)
	switch {
	case err != nil:
		return err
	case id == applicationID:
		return nil
	case id != 0 || tables > 0:
		return errors.New("the file is the database of another program; name another file")
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA application_id = %d`, applicationID)); err != nil {
		return err
	}
	return tx.Commit()
}

// advice adds what the operator can do about an error at start.
func advice(err error) error {
	switch code(err) & 0xff {
	case codes.SQLITE_NOTADB:
		return fmt.Errorf("the file is no SQLite database; name another, or restore a backup: %w", err)
	case codes.SQLITE_BUSY:
		return fmt.Errorf("another program keeps the file locked; stop it and start again: %w", err)
	}
	return err
}

// code is SQLite's extended result code in an error, 0 when there is none.
func code(err error) int {
	if refused, ok := errors.AsType[*driver.Error](err); ok {
		return refused.Code()
	}
	return 0
}

// backupSQLite reads on a connection of its own: a copy may take long, and one of the readers may not write any file.
func backupSQLite(ctx context.Context, database, path string) (err error) {
	source, err := connectSQLite(database, url.Values{"_busy_timeout": {busyTimeout}}, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	_, err = source.ExecContext(ctx, `VACUUM INTO ?`, path)
	return err
}

func violatedSQLite(err error) violation {
	switch code(err) {
	case codes.SQLITE_CONSTRAINT_UNIQUE, codes.SQLITE_CONSTRAINT_PRIMARYKEY, codes.SQLITE_CONSTRAINT_ROWID:
		return unique
	case codes.SQLITE_CONSTRAINT_FOREIGNKEY:
		return foreign
	}
	return none
}
