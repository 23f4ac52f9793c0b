package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"modelgate/auth"
	"modelgate/models"
)

// tx runs statements, in a transaction or on their own, within the time that one operation has.
type tx struct {
	db  *DB
	ctx context.Context
	on  interface { // *sql.Tx or *sql.DB
		ExecContext(context.Context, string, ...any) (sql.Result, error)
		QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	}
}

// A failure is the database's own error, in contrast to what a room or its callback decided. violated tells whether a
// constraint refused the statement.
type failure struct {
	err      error
	violated violation
}

func (f *failure) Error() string { return "database: " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

var errPatience = errors.New("the database was locked or too busy for too long")

// write runs do in a transaction and commits it when do returns nil. Nothing is written otherwise.
func (db *DB) write(ctx context.Context, do func(*tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, db.patience, errPatience)
	defer cancel()
	select {
	case db.turn <- struct{}{}:
		defer func() { <-db.turn }()
	case <-ctx.Done():
		return db.failed(ctx, ctx.Err())
	}
	return db.transact(ctx, db.writer, nil, do)
}

// snapshot runs do on one state of the database, which it can't change.
func (db *DB) snapshot(ctx context.Context, do func(*tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, db.patience, errPatience)
	defer cancel()
	return db.transact(ctx, db.readers, &sql.TxOptions{ReadOnly: true}, do)
}

// read runs do, whose statements may each see another state.
func (db *DB) read(ctx context.Context, do func(*tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, db.patience, errPatience)
	defer cancel()
	return do(&tx{db, ctx, db.readers})
}

func (db *DB) transact(ctx context.Context, on *sql.DB, options *sql.TxOptions, do func(*tx) error) error {
	began, err := on.BeginTx(ctx, options)
	if err != nil {
		return db.failed(ctx, err)
	}
	defer began.Rollback() // does nothing after a commit; ends the transaction also when do panics
	if err := do(&tx{db, ctx, began}); err != nil {
		return err
	}
	if err := began.Commit(); err != nil {
		return db.failed(ctx, err)
	}
	return nil
}

// failed wraps what the database answered. An ended context says why by itself: the driver's own words for it vary.
func (db *DB) failed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	return &failure{err, db.dialect.violated(err)}
}

func (t *tx) prepare(query string) string {
	if t.db.trace != nil {
		t.db.trace(query)
	}
	return t.db.dialect.rebind(query)
}

// exec runs a statement and returns the number of rows it changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	result, err := t.on.ExecContext(t.ctx, t.prepare(query), args...)
	if err != nil {
		return 0, t.db.failed(t.ctx, err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return 0, t.db.failed(t.ctx, err)
	}
	return n, nil
}

// scan fills variables from one row.
type scan func(into ...any) error

// rows calls each for every row of a query.
func (t *tx) rows(each func(scan) error, query string, args ...any) error {
	rows, err := t.on.QueryContext(t.ctx, t.prepare(query), args...)
	if err != nil {
		return t.db.failed(t.ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		err := each(func(into ...any) error {
			if err := rows.Scan(into...); err != nil {
				return t.db.failed(t.ctx, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return t.db.failed(t.ctx, err)
	}
	return nil
}

// row calls one for the first row of a query; without a row it fails with errAbsent.
func (t *tx) row(one func(scan) error, query string, args ...any) error {
	found := false
	err := t.rows(func(s scan) error {
		if found {
			return nil
		}
		found = true
		return one(s)
	}, query, args...)
	if err == nil && !found {
		return errAbsent
	}
	return err
}

// errAbsent stands for a missing row until the room's own error takes its place.
var errAbsent = errors.New("no such row")

// violates reports whether a constraint of that kind refused a statement.
func violates(err error, v violation) bool {
	f, ok := err.(*failure)
	return ok && f.violated == v
}

// authError turns the errors of this package into those of auth.Store; all others are the caller's own and pass.
func authError(err error) error {
	if err == errAbsent {
		return auth.ErrNotFound
	}
	if f, ok := err.(*failure); ok {
		return auth.ErrUnavailable.Because(f)
	}
	return err
}

// modelsError is authError for models.Store.
func modelsError(err error) error {
	if err == errAbsent {
		return models.ErrNotFound
	}
	if f, ok := err.(*failure); ok {
		return models.ErrUnavailable.Because(f)
	}
	return err
}

// micros is how a time is stored: microseconds since 1970.
func micros(t time.Time) int64 { return t.UnixMicro() }

// optional stores a zero time as null.
func optional(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMicro(), Valid: !t.IsZero()}
}

// moment scans a time; null is the zero time.
type moment struct{ into *time.Time }

func (m moment) Scan(value any) error {
	switch v := value.(type) {
	case nil:
		*m.into = time.Time{}
	case int64:
		*m.into = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("a time is stored as %T", value)
	}
	return nil
}

// digest scans a SHA-256 hash.
type digest struct{ into *[32]byte }

func (d digest) Scan(value any) error {
	v, ok := value.([]byte)
	if !ok || len(v) != len(d.into) {
		return errors.New("a hash is not stored as 32 bytes")
	}
	copy(d.into[:], v)
	return nil
}
