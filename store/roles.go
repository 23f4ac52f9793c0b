package store

import (
	"context"
	"encoding/json"
	"fmt"

	"modelgate/auth"
)

// Roles implements auth.Store.
func (db *DB) Roles(ctx context.Context) ([]auth.Role, error) {
	var list []auth.Role
	err := db.read(ctx, func(t *tx) (err error) { list, err = t.roles(); return err })
	if err != nil {
		return nil, authError(err)
	}
	return list, nil
}

func (t *tx) roles() (list []auth.Role, err error) {
	err = t.rows(func(s scan) error {
		var r auth.Role
		var permissions string
		if err := s(&r.Name, &permissions, &r.Rate, &r.DailyRows, &r.Builtin, moment{&r.CreatedAt}); err != nil {
			return err
		}
		var err error
		if r.Permissions, err = parsePermissions(permissions); err != nil {
			return &failure{err: fmt.Errorf("role %s: %w", r.Name, err)}
		}
		list = append(list, r)
		return nil
	}, `SELECT name, permissions, rate, daily_rows, builtin, created_at FROM roles ORDER BY name`)
	return list, err
}

// rights are what each role gives.
func (t *tx) rights() (map[string]auth.Permission, error) {
	list, err := t.roles()
	m := make(map[string]auth.Permission, len(list))
	for _, r := range list {
		m[r.Name] = r.Permissions
	}
	return m, err
}

// Permissions are stored by name, so that a row says the same whatever number a right has in the program.
func parsePermissions(stored string) (auth.Permission, error) {
	var names []string
	if err := json.Unmarshal([]byte(stored), &names); err != nil {
		return 0, err
	}
	return auth.ParsePermissions(names)
}

// PutRole implements auth.Store. A role that exists stays built in, or not, and as old as it is. One that stays what it is is
// not written: each start puts the built-in ones, and whatever is written is told as a change.
func (db *DB) PutRole(ctx context.Context, r auth.Role) error {
	permissions, err := json.Marshal(sorted(r.Permissions.Names()))
	if err != nil {
		return err
	}
	return authError(db.write(ctx, func(t *tx) error {
		before, err := t.rights()
		if err != nil {
			return err
		}
		_, err = t.exec(`
			INSERT INTO roles (name, permissions, rate, daily_rows, builtin, created_at) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET permissions = excluded.permissions, rate = excluded.rate,
				daily_rows = excluded.daily_rows
			WHERE (roles.permissions, roles.rate, roles.daily_rows) <> (excluded.permissions, excluded.rate, excluded.daily_rows)`,
			r.Name, string(permissions), r.Rate, r.DailyRows, r.Builtin, micros(r.CreatedAt))
		if err != nil || r.Permissions&^before[r.Name] == 0 {
			return err
		}
		_, err = t.exec(`DELETE FROM tickets WHERE user_id IN (SELECT user_id FROM user_roles WHERE role = ?)`, r.Name)
		return err
	}))
}

// DeleteRole implements auth.Store. The foreign keys know who still has the role.
func (db *DB) DeleteRole(ctx context.Context, name string, f func() error) error {
	return authError(db.write(ctx, func(t *tx) error {
		n, err := t.exec(`DELETE FROM roles WHERE name = ?`, name)
		switch {
		case violates(err, foreign):
			return auth.ErrInUse
		case err != nil:
			return err
		case n == 0:
			return errAbsent
		}
		return f()
	}))
}
