// Package store remembers for the other rooms: users, roles, login sessions, keys and one-time tickets (auth.Store), the
// catalogue's rows (models.Store) and the head of the audit log's chain (audit.Heads), in one SQL database.
//
// It decides nothing: who may do what, which password is good and what a caller may read belong to auth, models and
// audit. It sees no secret in clear, only hashes. It is the only package that knows database/sql, and nothing but cmd and
// tests imports it. What differs between databases stands in dialect.go and in migrations; every database passes the
// suite of store/storetest. Predictions never come here: the rooms answer them from memory.
//
// SQLite comes from modernc.org/sqlite, the C code translated to Go, and not from a cgo binding. That costs some speed,
// which sign-ins hide behind password hashing. It keeps foreign machine code out of the process that holds keys, leaves cgo
// to inference/ort alone and cross-compiles. The translation still manages memory by itself, so that the file is opened in
// SQLite's defensive mode, and one that is not modelgate's is refused.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/models"
)

// patience is how long an operation may take in all, waiting for its turn included, when its context allows more. Work
// takes milliseconds: whoever waits longer waits for a database that is locked from outside or a disk that stalls.
const patience = 8 * time.Second

// DB is an open database. Its methods are safe for concurrent use. Nothing waits longer than a few seconds for a locked
// database, whatever the context allows: the operation then fails as unavailable and has changed nothing.
type DB struct {
	dialect  *dialect
	path     string        // where the database is
	writer   *sql.DB       // one connection, for the one whose turn it is
	turn     chan struct{} // full while somebody writes; waiters get it in order, which neither database/sql nor a file lock grants
	readers  *sql.DB       // never write, never wait for the writer
	log      *slog.Logger
	patience time.Duration
	trace    func(query string) // sees every statement; nil outside tests
}

var (
	_ auth.Store   = (*DB)(nil)
	_ models.Store = (*DB)(nil)
	_ audit.Heads  = (*DB)(nil)
)

// Open opens the database at url, "sqlite:path" or a bare path of a file, which is created with mode 0600 at need, and
// brings its schema forward. It fails with a sentence that says what to do when the schema is newer than this program,
// when the file belongs to another program or is locked by one, and for databases that are not supported. A nil log
// discards.
func Open(ctx context.Context, url string, log *slog.Logger) (*DB, error) {
	path, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := prepareFile(path); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	db := &DB{dialect: &sqlite, path: path, turn: make(chan struct{}, 1), log: log, patience: patience}
	if db.writer, db.readers, err = openSQLite(ctx, path); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	if err := db.migrate(ctx); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, errors.Join(err, db.Close()))
	}
	return db, nil
}

// Close waits for running operations and closes the database. Later operations fail as unavailable.
func (db *DB) Close() error {
	return errors.Join(db.readers.Close(), db.writer.Close())
}

// parseURL returns the absolute path of the database file.
func parseURL(url string) (string, error) {
	scheme, path, found := strings.Cut(url, ":")
	switch {
	case !found:
		path = url
	case strings.HasPrefix(scheme, "postgres"):
		return "", errors.New("PostgreSQL is not supported yet; name a file as sqlite:PATH")
	case scheme != "sqlite":
		return "", fmt.Errorf("the database URL starts with %q; name a file as sqlite:PATH", scheme+":")
	}
	path = strings.TrimPrefix(path, "//")
	if path == "" || strings.HasPrefix(path, ":") {
		return "", errors.New("the database URL names no file; write sqlite:PATH")
	}
	return filepath.Abs(path)
}

// prepareFile makes the file, before the driver can with a wider mode.
func prepareFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = errors.New("is not a regular file")
	}
	return errors.Join(err, f.Close())
}
