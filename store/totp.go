package store

import (
	"context"
	"errors"
	"fmt"

	"modelgate/auth"
)

const selectTOTP = `SELECT user_id, secret, active, session_id, last_step, guesses, codes, created_at FROM totp `

func scanTOTP(s scan) (f auth.TOTP, err error) {
	err = s(&f.UserID, &f.Secret, &f.Active, &f.SessionID, &f.LastStep, moment{&f.Guesses}, digests{&f.Codes}, moment{&f.CreatedAt})
	return f, err
}

// TOTPs implements auth.Store.
func (db *DB) TOTPs(ctx context.Context, after string, limit int) ([]auth.TOTP, error) {
	if limit <= 0 {
		return nil, nil
	}
	var list []auth.TOTP
	err := db.read(ctx, func(t *tx) error {
		return t.rows(func(s scan) error {
			f, err := scanTOTP(s)
			list = append(list, f)
			return err
		}, selectTOTP+`WHERE user_id > ? ORDER BY user_id LIMIT ?`, after, limit)
	})
	if err != nil {
		return nil, authError(err)
	}
	return list, nil
}

// UpdateTOTP implements auth.Store.
func (db *DB) UpdateTOTP(ctx context.Context, userID string, f func(old auth.TOTP) (auth.TOTP, error)) error {
	return authError(db.write(ctx, func(t *tx) error {
		if err := t.row(func(scan) error { return nil }, `SELECT id FROM users WHERE id = ?`, userID); err != nil {
			return err
		}
		var old auth.TOTP
		err := t.row(func(s scan) (err error) { old, err = scanTOTP(s); return err }, selectTOTP+`WHERE user_id = ?`, userID)
		if err != nil && err != errAbsent {
			return err
		}
		next, err := f(old)
		if err != nil {
			return err
		}
		if old.Active != (next.UserID != "" && next.Active) {
			// What the user may do has changed: who watches users sees it.
			if _, err := t.exec(`UPDATE users SET updated_at = updated_at WHERE id = ?`, userID); err != nil {
				return err
			}
		}
		return t.putTOTP(userID, next)
	}))
}

// putTOTP stores a second factor in the place of what was there; one of nobody removes it.
func (t *tx) putTOTP(userID string, n auth.TOTP) error {
	if n.UserID == "" {
		_, err := t.exec(`DELETE FROM totp WHERE user_id = ?`, userID)
		return err
	}
	codes := make([]byte, 0, len(n.Codes)*32)
	for _, c := range n.Codes {
		codes = append(codes, c[:]...)
	}
	_, err := t.exec(`INSERT INTO totp (user_id, secret, active, session_id, last_step, guesses, codes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (user_id) DO UPDATE SET secret = excluded.secret, active = excluded.active, session_id = excluded.session_id,
			last_step = excluded.last_step, guesses = excluded.guesses, codes = excluded.codes, created_at = excluded.created_at`,
		userID, n.Secret, n.Active, n.SessionID, n.LastStep, micros(n.Guesses), codes, micros(n.CreatedAt))
	return err
}

// digests scans SHA-256 hashes that stand one after the other.
type digests struct{ into *[][32]byte }

func (d digests) Scan(value any) error {
	v, ok := value.([]byte)
	if !ok {
		return fmt.Errorf("hashes are stored as %T", value)
	}
	if len(v)%32 != 0 {
		return errors.New("hashes are not stored as 32 bytes each")
	}
	*d.into = nil
	for ; len(v) > 0; v = v[32:] {
		*d.into = append(*d.into, [32]byte(v))
	}
	return nil
}
