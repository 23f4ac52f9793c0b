package store

import (
	"context"
	"slices"
	"time"

	"modelgate/auth"
)

const selectIdentity = `SELECT id, issuer, subject, user_id, managed, created_by, asserted_at, created_at FROM external_identities `

func scanIdentity(s scan) (i auth.Identity, err error) {
	err = s(&i.ID, &i.Issuer, &i.Subject, &i.UserID, &i.Managed, &i.CreatedBy, moment{&i.Asserted}, moment{&i.CreatedAt})
	return i, err
}

func (t *tx) identity(issuer, subject string) (i auth.Identity, err error) {
	err = t.row(func(s scan) error { i, err = scanIdentity(s); return err }, selectIdentity+`WHERE issuer = ? AND subject = ?`, issuer, subject)
	return i, err
}

// UserByIdentity implements auth.Store.
func (db *DB) UserByIdentity(ctx context.Context, issuer, subject string) (u auth.User, i auth.Identity, err error) {
	err = db.snapshot(ctx, func(t *tx) error {
		if i, err = t.identity(issuer, subject); err != nil {
			return err
		}
		u, err = t.user(`WHERE u.id = ?`, i.UserID)
		return err
	})
	if err != nil {
		return auth.User{}, auth.Identity{}, authError(err)
	}
	return u, i, nil
}

// CreateExternalUser implements auth.Store.
func (db *DB) CreateExternalUser(ctx context.Context, u auth.User, i auth.Identity) error {
	return authError(db.write(ctx, func(t *tx) error {
		if _, err := t.identity(i.Issuer, i.Subject); err != errAbsent {
			return linkedUnless(err)
		}
		if err := t.addUser(u); err != nil {
			return err
		}
		return t.addIdentity(i)
	}))
}

// linkedUnless is ErrLinked where an identity was found.
func linkedUnless(err error) error {
	if err == nil {
		return auth.ErrLinked
	}
	return err
}

func (t *tx) addIdentity(i auth.Identity) error {
	_, err := t.exec(`
		INSERT INTO external_identities (id, issuer, subject, user_id, managed, created_by, asserted_at, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		i.ID, i.Issuer, i.Subject, i.UserID, i.Managed, i.CreatedBy, optional(i.Asserted), micros(i.CreatedAt))
	if violates(err, unique) {
		return auth.ErrLinked
	}
	return taken(err)
}

// LinkIdentity implements auth.Store.
func (db *DB) LinkIdentity(ctx context.Context, i auth.Identity) error {
	return authError(db.write(ctx, func(t *tx) error { return t.addIdentity(i) }))
}

// IdentitiesOf implements auth.Store.
func (db *DB) IdentitiesOf(ctx context.Context, userID string) ([]auth.Identity, error) {
	var list []auth.Identity
	err := db.read(ctx, func(t *tx) error {
		return t.rows(func(s scan) error {
			i, err := scanIdentity(s)
			list = append(list, i)
			return err
		}, selectIdentity+`WHERE user_id = ? ORDER BY created_at, id`, userID)
	})
	if err != nil {
		return nil, authError(err)
	}
	return list, nil
}

// UnlinkIdentity implements auth.Store.
func (db *DB) UnlinkIdentity(ctx context.Context, userID, id string) error {
	return authError(db.write(ctx, func(t *tx) error {
		return found(t.exec(`DELETE FROM external_identities WHERE id = ? AND user_id = ?`, id, userID))
	}))
}

// AssertIdentity implements auth.Store. The statement that compares the times decides which of several is the newest.
func (db *DB) AssertIdentity(ctx context.Context, issuer, subject string, issued time.Time,
	f func(old auth.User, otherAdmins int, again bool) (auth.User, error)) (auth.User, error) {
	var stored auth.User
	err := db.write(ctx, func(t *tx) error {
		i, err := t.identity(issuer, subject)
		if err != nil {
			return err
		}
		if stored, err = t.user(`WHERE u.id = ?`, i.UserID); err != nil {
			return err
		}
		n, err := t.exec(`UPDATE external_identities SET asserted_at = ? WHERE id = ? AND (asserted_at IS NULL OR asserted_at <= ?)`,
			micros(issued), i.ID, micros(issued))
		if err != nil || n == 0 {
			return err
		}
		others, err := t.otherAdmins(i.UserID)
		if err != nil {
			return err
		}
		given := stored
		given.Roles = slices.Clone(stored.Roles) // f may write into it
		next, err := f(given, others, !i.Asserted.IsZero() && micros(i.Asserted) == micros(issued))
		if err != nil || slices.Equal(sorted(next.Roles), stored.Roles) { // as it is at nearly every token
			return err
		}
		stored, err = t.replaceUser(stored, func(auth.User) (auth.User, error) { return next, nil })
		return err
	})
	if err != nil {
		return auth.User{}, authError(err)
	}
	return stored, nil
}

// CreateSignIn implements auth.Store.
func (db *DB) CreateSignIn(ctx context.Context, in auth.SignIn, now time.Time, most int) error {
	return authError(db.write(ctx, func(t *tx) error {
		if _, err := t.exec(`DELETE FROM external_sign_ins WHERE expires_at <= ?`, micros(now)); err != nil {
			return err
		}
		var n int
		err := t.row(func(s scan) error { return s(&n) }, `SELECT count(*) FROM external_sign_ins WHERE expires_at > ?`, micros(now))
		if err != nil {
			return err
		}
		if n >= most {
			return auth.ErrSignIns
		}
		_, err = t.exec(`INSERT INTO external_sign_ins (hash, provider, fresh, session_id, expires_at) VALUES (?, ?, ?, ?, ?)`,
			in.Hash[:], in.Provider, in.Fresh, in.SessionID, micros(in.ExpiresAt))
		return taken(err)
	}))
}

// TakeSignIn implements auth.Store: whoever removes the row has it.
func (db *DB) TakeSignIn(ctx context.Context, hash [32]byte, now time.Time) (in auth.SignIn, err error) {
	err = db.write(ctx, func(t *tx) error {
		return t.row(func(s scan) error {
			return s(digest{&in.Hash}, &in.Provider, &in.Fresh, &in.SessionID, moment{&in.ExpiresAt})
		},
			`DELETE FROM external_sign_ins WHERE hash = ? AND expires_at > ? RETURNING hash, provider, fresh, session_id, expires_at`,
			hash[:], micros(now))
	})
	if err != nil {
		return auth.SignIn{}, authError(err)
	}
	return in, nil
}
