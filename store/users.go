package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"modelgate/auth"
)

// Roles are gathered in the same statement: their names hold no spaces.
const selectUser = `
	SELECT u.id, u.kind, u.username, u.password_hash, u.password_expires, u.disabled, u.created_at, u.updated_at,
		(SELECT string_agg(r.role, ' ') FROM user_roles r WHERE r.user_id = u.id),
		EXISTS (SELECT 1 FROM totp f WHERE f.user_id = u.id AND f.active)
	FROM users u `

func scanUser(s scan) (u auth.User, err error) {
	var roles sql.NullString
	err = s(&u.ID, &u.Kind, &u.Username, &u.PasswordHash, moment{&u.PasswordExpires}, &u.Disabled, moment{&u.CreatedAt}, moment{&u.UpdatedAt}, &roles, &u.TOTP)
	u.Roles = strings.Fields(roles.String)
	slices.Sort(u.Roles)
	return u, err
}

func (t *tx) user(where string, args ...any) (u auth.User, err error) {
	err = t.row(func(s scan) error { u, err = scanUser(s); return err }, selectUser+where, args...)
	return u, err
}

// CreateUser implements auth.Store.
func (db *DB) CreateUser(ctx context.Context, u auth.User, ticket *auth.Ticket) error {
	return authError(db.write(ctx, func(t *tx) error {
		if err := t.addUser(u); err != nil || ticket == nil {
			return err
		}
		return t.putTicket(*ticket)
	}))
}

func (t *tx) addUser(u auth.User) error {
	_, err := t.exec(`
		INSERT INTO users (id, kind, username, password_hash, password_expires, disabled, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		u.ID, string(u.Kind), u.Username, u.PasswordHash, optional(u.PasswordExpires), u.Disabled, micros(u.CreatedAt), micros(u.UpdatedAt))
	if violates(err, unique) {
		return auth.ErrTaken
	}
	if err != nil {
		return err
	}
	return t.giveRoles(u.ID, u.Roles)
}

// giveRoles adds one role at a time, so that the one that does not exist can be named.
func (t *tx) giveRoles(userID string, roles []string) error {
	for _, role := range sorted(roles) {
		_, err := t.exec(`INSERT INTO user_roles (user_id, role) VALUES (?, ?)`, userID, role)
		if violates(err, foreign) {
			return auth.ErrInvalid.With(fmt.Sprintf("there is no role %q; GET /admin/roles lists all", role))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sorted returns the distinct names in order, in a slice of its own that is never nil.
func sorted(names []string) []string {
	names = append(make([]string, 0, len(names)), names...)
	slices.Sort(names)
	return slices.Compact(names)
}

// User implements auth.Store.
func (db *DB) User(ctx context.Context, id string) (u auth.User, err error) {
	err = db.read(ctx, func(t *tx) error { u, err = t.user(`WHERE u.id = ?`, id); return err })
	return u, authError(err)
}

// UserByName implements auth.Store.
func (db *DB) UserByName(ctx context.Context, username string) (u auth.User, err error) {
	err = db.read(ctx, func(t *tx) error { u, err = t.user(`WHERE u.username = ?`, username); return err })
	return u, authError(err)
}

// Users implements auth.Store.
func (db *DB) Users(ctx context.Context, after string, limit int) ([]auth.User, error) {
	if limit <= 0 {
		return nil, nil
	}
	var list []auth.User
	err := db.read(ctx, func(t *tx) error {
		return t.rows(func(s scan) error {
			u, err := scanUser(s)
			list = append(list, u)
			return err
		}, selectUser+`WHERE u.username > ? ORDER BY u.username LIMIT ?`, after, limit)
	})
	if err != nil {
		return nil, authError(err)
	}
	return list, nil
}

// otherAdmins counts the people who are enabled administrators with a password, besides one user.
func (t *tx) otherAdmins(userID string) (n int, err error) {
	err = t.row(func(s scan) error { return s(&n) }, `
		SELECT count(*) FROM user_roles r JOIN users u ON u.id = r.user_id
		WHERE r.role = 'admin' AND u.id <> ? AND u.kind = '' AND NOT u.disabled AND u.password_hash <> ''`, userID)
	return n, err
}

// UpdateUser implements auth.Store.
func (db *DB) UpdateUser(ctx context.Context, id string, f func(old auth.User, otherAdmins int) (auth.User, error)) (auth.User, error) {
	var stored auth.User
	err := db.write(ctx, func(t *tx) error {
		old, err := t.user(`WHERE u.id = ?`, id)
		if err != nil {
			return err
		}
		others, err := t.otherAdmins(id)
		if err != nil {
			return err
		}
		stored, err = t.replaceUser(old, func(u auth.User) (auth.User, error) { return f(u, others) })
		return err
	})
	if err != nil {
		return auth.User{}, authError(err)
	}
	return stored, nil
}

// RenewHash implements auth.Store.
func (db *DB) RenewHash(ctx context.Context, id, old, next string) (u auth.User, err error) {
	err = db.write(ctx, func(t *tx) error {
		if err := found(t.exec(`UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?`, next, id, old)); err != nil {
			return err
		}
		u, err = t.user(`WHERE u.id = ?`, id)
		return err
	})
	if err != nil {
		return auth.User{}, authError(err)
	}
	return u, nil
}

// replaceUser stores what f makes of the user and returns it as it is stored.
func (t *tx) replaceUser(old auth.User, f func(auth.User) (auth.User, error)) (auth.User, error) {
	given := old
	given.Roles = slices.Clone(old.Roles) // f may write into it
	u, err := f(given)
	if err != nil {
		return auth.User{}, err
	}
	_, err = t.exec(`UPDATE users SET password_hash = ?, password_expires = ?, disabled = ?, created_at = ?, updated_at = ? WHERE id = ?`,
		u.PasswordHash, optional(u.PasswordExpires), u.Disabled, micros(u.CreatedAt), micros(u.UpdatedAt), old.ID)
	if err != nil {
		return auth.User{}, err
	}
	if u.PasswordHash != old.PasswordHash { // whoever holds a ticket from before must not replace the new one
		if err := t.voidTickets(old.ID); err != nil {
			return auth.User{}, err
		}
	}
	if u.Disabled {
		if _, err := t.exec(`DELETE FROM sessions WHERE user_id = ?`, old.ID); err != nil {
			return auth.User{}, err
		}
	}
	if !slices.Equal(old.Roles, sorted(u.Roles)) {
		if _, err := t.exec(`DELETE FROM user_roles WHERE user_id = ?`, old.ID); err != nil {
			return auth.User{}, err
		}
		if err := t.giveRoles(old.ID, u.Roles); err != nil {
			return auth.User{}, err
		}
		if err := t.voidRaised(old.ID, old.Roles, u.Roles); err != nil {
			return auth.User{}, err
		}
	}
	return t.user(`WHERE u.id = ?`, old.ID)
}

// voidRaised removes the tickets of a user whose roles give him more than before: whoever had them made may have no more
// rights than he had.
func (t *tx) voidRaised(userID string, before, after []string) error {
	rights, err := t.rights()
	if err != nil {
		return err
	}
	sum := func(roles []string) (p auth.Permission) {
		for _, r := range roles {
			p |= rights[r]
		}
		return p
	}
	if sum(after)&^sum(before) == 0 {
		return nil
	}
	return t.voidTickets(userID)
}

// DeleteUser implements auth.Store. What hangs on the user goes or is let go by the foreign keys.
func (db *DB) DeleteUser(ctx context.Context, id string, f func(old auth.User, otherAdmins int) error) error {
	return authError(db.write(ctx, func(t *tx) error {
		old, err := t.user(`WHERE u.id = ?`, id)
		if err != nil {
			return err
		}
		others, err := t.otherAdmins(id)
		if err != nil {
			return err
		}
		if err := f(old, others); err != nil {
			return err
		}
		_, err = t.exec(`DELETE FROM users WHERE id = ?`, id)
		return err
	}))
}
