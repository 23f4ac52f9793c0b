package store

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pressly/goose/v3"
)

// migrate brings the schema forward, each step in a transaction of its own. There is no way back: an older program
// refuses what a newer one has written, and testdata keeps a database of every schema that was ever released.
func (db *DB) migrate(ctx context.Context) error {
	// The global registry would let any imported package add steps.
	steps, err := goose.NewProvider(db.dialect.goose, db.writer, db.dialect.migrations, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	have, know, err := steps.GetVersions(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("reading the schema's version: %w", err)
	case have > know:
		return fmt.Errorf("was written by a newer modelgate (its schema is %d, this program knows %d);"+
			" start that version, or restore a backup made before the upgrade", have, know)
	case have == know:
		return nil
	}
	from, made := have, 0
	for {
		done, err := steps.Up(ctx)
		made += len(done)
		if err == nil {
			break
		}
		// Another process that starts at the same moment may have been faster, and be on its way still. As long as the
		// schema has come forward, what is left is tried again.
		now, _, again := steps.GetVersions(ctx)
		if again != nil || now <= have {
			return fmt.Errorf("bringing the schema from %d to %d: %w", have, know, err)
		}
		if now == know {
			return nil
		}
		have = now
	}
	db.log.Info("database schema is up to date", slog.Int64("from", from), slog.Int64("to", know), slog.Int("steps", made))
	return nil
}
