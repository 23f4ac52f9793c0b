package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"runtime"

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
	// admit refuses a database that can't be ours before anything is written to it.
	admit func(ctx context.Context, db *sql.DB) error
	// violated tells which constraint an error is about.
	violated func(error) violation
	// backup writes a consistent copy into the empty file at path.
	backup func(ctx context.Context, db *sql.DB, path string) error
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
	admit:      admitSQLite,
	violated:   violatedSQLite,
	backup: func(ctx context.Context, db *sql.DB, path string) error {
		_, err := db.ExecContext(ctx, "VACUUM INTO ?", path)
		return err
	},
}

func sub(from fs.FS, folder string) fs.FS {
	below, err := fs.Sub(from, folder)
	if err != nil {
		panic(err) // the name is not a path: a mistake in this file
	}
	return below
}

// applicationID marks a SQLite file as ours; migrations/sqlite/00001_initial.sql writes it.
const applicationID = 0x6d676174 // "mgat"

// busyMilliseconds is how long a statement waits for a lock of another process, when its context allows it.
const busyMilliseconds = "5000"

// openSQLite opens nothing yet: database/sql connects when it is first asked.
//
// Durability: WAL with synchronous=FULL syncs the log at each commit, so that what was acknowledged survives a power cut.
// Writers begin with BEGIN IMMEDIATE (txlock), so that no transaction finds at its first write that what it has read is
// out of date. Nothing goes to temporary files, and what is deleted is overwritten.
func openSQLite(path string) (writer, readers *sql.DB, err error) {
	query := url.Values{
		"_busy_timeout": {busyMilliseconds}, "_journal_mode": {"WAL"}, "_synchronous": {"FULL"}, "_foreign_keys": {"on"},
		"_txlock": {"immediate"}, "_defensive": {"1"}, "_dqs": {"0"},
		"_pragma": {"secure_delete(FAST)", "temp_store(MEMORY)", "trusted_schema(OFF)", "journal_size_limit(67108864)"},
	}
	file := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	if writer, err = sql.Open("sqlite", file.String()); err != nil {
		return nil, nil, err
	}
	writer.SetMaxOpenConns(1)

	query.Set("_query_only", "on")
	file.RawQuery = query.Encode()
	if readers, err = sql.Open("sqlite", file.String()); err != nil {
		return nil, nil, errors.Join(err, writer.Close())
	}
	size := max(4, runtime.GOMAXPROCS(0))
	readers.SetMaxOpenConns(size)
	readers.SetMaxIdleConns(size)
	return writer, readers, nil
}

func admitSQLite(ctx context.Context, db *sql.DB) error {
	var id, tables int
	var journal string
	err := db.QueryRowContext(ctx, "SELECT application_id, (SELECT count(*) FROM sqlite_schema), journal_mode FROM"+
		" pragma_application_id, pragma_journal_mode").Scan(&id, &tables, &journal)
	var refused *driver.Error
	switch {
	case errors.As(err, &refused) && refused.Code()&0xff == codes.SQLITE_NOTADB:
		return fmt.Errorf("the file is no SQLite database; name another, or restore a backup: %w", err)
	case errors.As(err, &refused) && refused.Code()&0xff == codes.SQLITE_BUSY:
		return fmt.Errorf("another program keeps the file locked; stop it and start again: %w", err)
	case err != nil:
		return err
	case tables > 0 && id != applicationID:
		return errors.New("the file is the database of another program; name another file")
	case journal != "wal":
		return fmt.Errorf("the file system does not support write-ahead logging (the journal is %q);"+
			" put the data folder on a local disk", journal)
	}
	return nil
}

func violatedSQLite(err error) violation {
	var refused *driver.Error
	if !errors.As(err, &refused) {
		return none
	}
	switch refused.Code() {
	case codes.SQLITE_CONSTRAINT_UNIQUE, codes.SQLITE_CONSTRAINT_PRIMARYKEY, codes.SQLITE_CONSTRAINT_ROWID:
		return unique
	case codes.SQLITE_CONSTRAINT_FOREIGNKEY:
		return foreign
	}
	return none
}
