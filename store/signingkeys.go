package store

import (
	"bytes"
	"context"
	"slices"

	"modelgate/auth"
)

func (t *tx) signingKeys() (list []auth.SigningKey, err error) {
	err = t.rows(func(s scan) error {
		var k auth.SigningKey
		err := s(&k.ID, &k.Sealed, moment{&k.CreatedAt}, moment{&k.ActiveAt}, moment{&k.RetireAt})
		list = append(list, k)
		return err
	}, `SELECT id, sealed, created_at, active_at, retire_at FROM signing_keys ORDER BY active_at, id`)
	return list, err
}

// SigningKeys implements auth.Store.
func (db *DB) SigningKeys(ctx context.Context) (list []auth.SigningKey, err error) {
	err = db.read(ctx, func(t *tx) error { list, err = t.signingKeys(); return err })
	if err != nil {
		return nil, authError(err)
	}
	return list, nil
}

// UpdateSigningKeys implements auth.Store.
func (db *DB) UpdateSigningKeys(ctx context.Context, f func(old []auth.SigningKey) ([]auth.SigningKey, error)) ([]auth.SigningKey, error) {
	var stored []auth.SigningKey
	err := db.write(ctx, func(t *tx) error {
		old, err := t.signingKeys()
		if err != nil {
			return err
		}
		next, err := f(slices.Clone(old))
		if err != nil {
			return err
		}
		if err := t.replaceSigningKeys(old, next); err != nil {
			return err
		}
		stored, err = t.signingKeys()
		return err
	})
	if err != nil {
		return nil, authError(err)
	}
	return stored, nil
}

// replaceSigningKeys writes what differs, so that nothing is told as changed that is not.
func (t *tx) replaceSigningKeys(old, next []auth.SigningKey) error {
	for _, k := range old {
		if !slices.ContainsFunc(next, func(n auth.SigningKey) bool { return n.ID == k.ID }) {
			if _, err := t.exec(`DELETE FROM signing_keys WHERE id = ?`, k.ID); err != nil {
				return err
			}
		}
	}
	for _, k := range next {
		if slices.ContainsFunc(old, func(o auth.SigningKey) bool { return sameSigningKey(o, k) }) {
			continue
		}
		_, err := t.exec(`
			INSERT INTO signing_keys (id, sealed, created_at, active_at, retire_at) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET sealed = excluded.sealed, active_at = excluded.active_at, retire_at = excluded.retire_at`,
			k.ID, k.Sealed, micros(k.CreatedAt), micros(k.ActiveAt), optional(k.RetireAt))
		if err != nil {
			return err
		}
	}
	return nil
}

func sameSigningKey(a, b auth.SigningKey) bool {
	return a.ID == b.ID && bytes.Equal(a.Sealed, b.Sealed) && micros(a.ActiveAt) == micros(b.ActiveAt) && micros(a.RetireAt) == micros(b.RetireAt)
}
