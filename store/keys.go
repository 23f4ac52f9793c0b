package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"modelgate/auth"
)

const selectKey = `SELECT id, user_id, name, hash, models, created_at, expires_at, last_used FROM api_keys `

func scanKey(s scan) (k auth.Key, err error) {
	var scope sql.NullString
	err = s(&k.ID, &k.UserID, &k.Name, digest{&k.Hash}, &scope,
		moment{&k.CreatedAt}, moment{&k.ExpiresAt}, moment{&k.LastUsed})
	if err == nil && scope.Valid {
		if err := json.Unmarshal([]byte(scope.String), &k.Models); err != nil {
			// A scope that can't be read must not become none.
			return auth.Key{}, &failure{err: err}
		}
	}
	return k, err
}

// CreateKey implements auth.Store.
func (db *DB) CreateKey(ctx context.Context, k auth.Key) error {
	var scope sql.NullString
	if k.Models != nil { // an empty scope is no model, and not every model
		names, err := json.Marshal(k.Models)
		if err != nil {
			return err
		}
		scope = sql.NullString{String: string(names), Valid: true}
	}
	return authError(db.write(ctx, func(t *tx) error {
		_, err := t.exec(`
			INSERT INTO api_keys (id, user_id, name, hash, models, created_at, expires_at, last_used)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			k.ID, k.UserID, k.Name, k.Hash[:], scope, micros(k.CreatedAt), optional(k.ExpiresAt), optional(k.LastUsed))
		return taken(err)
	}))
}

// KeyByHash implements auth.Store. An expired key is found until Sweep removes it.
func (db *DB) KeyByHash(ctx context.Context, hash [32]byte) (k auth.Key, err error) {
	err = db.read(ctx, func(t *tx) error {
		return t.row(func(s scan) error { k, err = scanKey(s); return err }, selectKey+`WHERE hash = ?`, hash[:])
	})
	return k, authError(err)
}

// KeysOf implements auth.Store.
func (db *DB) KeysOf(ctx context.Context, userID string) ([]auth.Key, error) {
	var list []auth.Key
	err := db.read(ctx, func(t *tx) error {
		return t.rows(func(s scan) error {
			k, err := scanKey(s)
			list = append(list, k)
			return err
		}, selectKey+`WHERE user_id = ? ORDER BY created_at DESC, id`, userID)
	})
	if err != nil {
		return nil, authError(err)
	}
	return list, nil
}

// DeleteKey implements auth.Store.
func (db *DB) DeleteKey(ctx context.Context, userID, id string) error {
	return authError(db.write(ctx, func(t *tx) error {
		return found(t.exec(`DELETE FROM api_keys WHERE id = ? AND user_id = ?`, id, userID))
	}))
}

// TouchKey implements auth.Store. The time never goes back.
func (db *DB) TouchKey(ctx context.Context, id string, used time.Time) error {
	return authError(db.write(ctx, func(t *tx) error {
		return found(t.exec(`UPDATE api_keys SET last_used = CASE WHEN last_used > ? THEN last_used ELSE ? END WHERE id = ?`,
			micros(used), micros(used), id))
	}))
}

// found fails when a statement changed no row.
func found(n int64, err error) error {
	if err == nil && n == 0 {
		return errAbsent
	}
	return err
}
