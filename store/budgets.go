package store

import (
	"context"
	"errors"
	"time"

	"modelgate/auth"
)

// TakeRows implements auth.Store.
func (db *DB) TakeRows(ctx context.Context, b auth.RowBudget, limit, least, most int64) (taken, left int64, err error) {
	err = db.write(ctx, func(t *tx) error {
		used, err := t.rowsUsed(b)
		if err != nil {
			return err
		}
		left = max(0, limit-used)
		if taken = min(most, left); taken < max(1, least) {
			taken = 0
			return nil
		}
		left -= taken
		// Whoever changed it meanwhile keeps it from being changed here.
		n, err := t.exec(`
			INSERT INTO daily_rows (user_id, day, model, used) VALUES (?, ?, ?, ?)
			ON CONFLICT (user_id, day, model) DO UPDATE SET used = excluded.used WHERE daily_rows.used = ?`,
			b.UserID, micros(b.Day), b.Model, used+taken, used)
		if err == nil && n == 0 {
			return &failure{err: errors.New("a budget was charged by two servers at once")}
		}
		return err
	})
	if err != nil {
		return 0, 0, authError(err)
	}
	return taken, left, nil
}

// rowsUsed is what is counted against one budget.
func (t *tx) rowsUsed(b auth.RowBudget) (used int64, err error) {
	err = t.row(func(s scan) error { return s(&used) },
		`SELECT used FROM daily_rows WHERE user_id = ? AND day = ? AND model = ?`, b.UserID, micros(b.Day), b.Model)
	if err == errAbsent {
		err = nil
	}
	return used, err
}

// ReturnRows implements auth.Store.
func (db *DB) ReturnRows(ctx context.Context, unused map[auth.RowBudget]int64) error {
	return authError(db.write(ctx, func(t *tx) error {
		for b, rows := range unused {
			_, err := t.exec(`UPDATE daily_rows SET used = CASE WHEN used < ? THEN 0 ELSE used - ? END
				WHERE user_id = ? AND day = ? AND model = ?`, rows, rows, b.UserID, micros(b.Day), b.Model)
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// RowsUsed implements auth.Store.
func (db *DB) RowsUsed(ctx context.Context, userID string, day time.Time) (map[string]int64, error) {
	used := map[string]int64{}
	err := db.read(ctx, func(t *tx) error {
		return t.rows(func(s scan) error {
			var model string
			var rows int64
			if err := s(&model, &rows); err != nil {
				return err
			}
			used[model] = rows
			return nil
		}, `SELECT model, used FROM daily_rows WHERE user_id = ? AND day = ?`, userID, micros(day))
	})
	if err != nil {
		return nil, authError(err)
	}
	return used, nil
}
