package store

import (
	"context"

	"modelgate/auth"
)

const (
	// keptChanges are how many of the newest changes outlive a Sweep.
	keptChanges = 10_000
	// mostChanges is the longest list of changes that is handed out.
	mostChanges = 1_000
)

// Changes implements auth.Store and models.Store. The rows are written by triggers, in the transaction of what they tell.
// Writers take turns, so that rows become visible in the order of their numbers, without gaps: a database in which they
// don't would have to be asked otherwise.
func (db *DB) Changes(ctx context.Context, mark int64) (auth.Changes, error) {
	var found auth.Changes
	err := db.snapshot(ctx, func(t *tx) error {
		var oldest int64
		err := t.row(func(s scan) error { return s(&oldest, &found.Mark) },
			`SELECT coalesce((SELECT min(id) FROM changes), 0), coalesce((SELECT max(id) FROM changes), 0)`)
		if err != nil || found.Mark == mark {
			return err
		}
		if found.All = mark < 0 || mark > found.Mark || mark < oldest-1 || found.Mark-mark > mostChanges; found.All {
			return nil
		}
		return t.rows(func(s scan) error {
			var c auth.Change
			err := s(&c.Kind, &c.Subject)
			found.List = append(found.List, c)
			return err
		}, `SELECT kind, subject FROM changes WHERE id > ? GROUP BY kind, subject ORDER BY min(id)`, mark)
	})
	if err != nil {
		return auth.Changes{}, authError(err)
	}
	return found, nil
}
