package store

import (
	"context"
	"time"
)

// sweepBatch bounds how long a step of Sweep keeps other writers waiting.
const sweepBatch = 500

// sweeps remove what has expired, at most LIMIT rows a time. A session has expired when its live token has, and goes with
// all its tokens; those of service accounts have no token, and expire by themselves. Used tokens are kept until they would
// have expired, so that their replay is seen. What was counted on a day goes a week after the day's end, not with it: a
// clock that was ahead for a while must not give budgets anew.
var sweeps = []string{
	`DELETE FROM sessions WHERE id IN (SELECT session_id FROM refresh_tokens WHERE expires_at <= ? AND used_at IS NULL LIMIT ?)`,
	`DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE secret_id IS NOT NULL AND expires_at <= ? LIMIT ?)`,
	`DELETE FROM refresh_tokens WHERE hash IN (SELECT hash FROM refresh_tokens WHERE expires_at <= ? AND used_at IS NOT NULL LIMIT ?)`,
	`DELETE FROM api_keys WHERE id IN (SELECT id FROM api_keys WHERE expires_at <= ? LIMIT ?)`,
	`DELETE FROM client_secrets WHERE id IN (SELECT id FROM client_secrets WHERE expires_at <= ? LIMIT ?)`,
	`DELETE FROM external_sign_ins WHERE hash IN (SELECT hash FROM external_sign_ins WHERE expires_at <= ? LIMIT ?)`,
	`DELETE FROM tickets WHERE hash IN (SELECT hash FROM tickets WHERE expires_at <= ? LIMIT ?)`,
	`DELETE FROM daily_rows WHERE (user_id, day, model) IN (SELECT user_id, day, model FROM daily_rows WHERE day <= ? - 8*86400000000 LIMIT ?)`,
}

// Sweep implements auth.Store.
func (db *DB) Sweep(ctx context.Context, now time.Time) error {
	for _, statement := range sweeps {
		for more := true; more; {
			err := db.write(ctx, func(t *tx) error {
				n, err := t.exec(statement, micros(now), sweepBatch)
				more = n == sweepBatch
				return err
			})
			if err != nil {
				return authError(err)
			}
		}
	}
	return authError(db.write(ctx, func(t *tx) error {
		_, err := t.exec(`DELETE FROM changes WHERE id <= (SELECT max(id) FROM changes) - ?`, keptChanges)
		return err
	}))
}

// Ping implements auth.Store: it reads a row of the file.
func (db *DB) Ping(ctx context.Context) error {
	return authError(db.read(ctx, func(t *tx) error {
		var name string
		return t.row(func(s scan) error { return s(&name) }, `SELECT name FROM roles WHERE name = 'admin'`)
	}))
}
