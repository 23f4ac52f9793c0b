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
	done, err := steps.Up(ctx)
	if err != nil {
		// Another process that starts at the same moment may have been faster.
		if have, know, again := steps.GetVersions(ctx); again == nil && have == know {
			return nil
		}
		return fmt.Errorf("bringing the schema from %d to %d: %w", have, know, err)
	}
	db.log.Info("database schema is up to date", slog.Int64("from", have), slog.Int64("to", know), slog.Int("steps", len(done)))
	return nil
}
