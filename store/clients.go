package store

import (
	"context"
	"time"

	"modelgate/auth"
)

// CreateService implements auth.Store.
func (db *DB) CreateService(ctx context.Context, u auth.User, first auth.ClientSecret) error {
	return authError(db.write(ctx, func(t *tx) error {
		if err := t.addUser(u); err != nil {
			return err
		}
		return t.addSecret(first)
	}))
}

// CreateSecret implements auth.Store.
func (db *DB) CreateSecret(ctx context.Context, c auth.ClientSecret) error {
	return authError(db.write(ctx, func(t *tx) error { return t.addSecret(c) }))
}

func (t *tx) addSecret(c auth.ClientSecret) error {
	_, err := t.exec(`INSERT INTO client_secrets (id, user_id, hash, created_by, created_at, expires_at, last_used) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		c.ID, c.UserID, c.Hash[:], c.CreatedBy, micros(c.CreatedAt), optional(c.ExpiresAt), optional(c.LastUsed))
	return taken(err)
}

// SecretsOf implements auth.Store.
func (db *DB) SecretsOf(ctx context.Context, userID string) ([]auth.ClientSecret, error) {
	var list []auth.ClientSecret
	err := db.read(ctx, func(t *tx) error {
		return t.rows(func(s scan) error {
			var c auth.ClientSecret
			err := s(&c.ID, &c.UserID, digest{&c.Hash}, &c.CreatedBy, moment{&c.CreatedAt}, moment{&c.ExpiresAt}, moment{&c.LastUsed})
			list = append(list, c)
			return err
		}, `SELECT id, user_id, hash, created_by, created_at, expires_at, last_used FROM client_secrets
			WHERE user_id = ? ORDER BY created_at DESC, id`, userID)
	})
	if err != nil {
		return nil, authError(err)
	}
	return list, nil
}

// DeleteSecret implements auth.Store. The sessions that were begun with it go by their foreign key.
func (db *DB) DeleteSecret(ctx context.Context, userID, id string) error {
	return authError(db.write(ctx, func(t *tx) error {
		return found(t.exec(`DELETE FROM client_secrets WHERE id = ? AND user_id = ?`, id, userID))
	}))
}

// TouchSecret implements auth.Store. The time never goes back.
func (db *DB) TouchSecret(ctx context.Context, id string, used time.Time) error {
	return authError(db.write(ctx, func(t *tx) error {
		return found(t.exec(`UPDATE client_secrets SET last_used = CASE WHEN last_used > ? THEN last_used ELSE ? END WHERE id = ?`,
			micros(used), micros(used), id))
	}))
}

// CreateClientSession implements auth.Store.
func (db *DB) CreateClientSession(ctx context.Context, s auth.Session, d auth.Displaced) ([]string, error) {
	return db.beginSession(ctx, s, d, func(*tx) error { return nil })
}
