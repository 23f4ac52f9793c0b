package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Backup writes a consistent copy of the database, as of one moment, into a new file at path with mode 0600, while the
// database is in use. The file appears whole and synced, or not at all; one that exists is not overwritten.
func (db *DB) Backup(ctx context.Context, path string) error {
	folder, name := filepath.Split(path)
	if folder == "" {
		folder = "."
	}
	part, err := os.CreateTemp(folder, "."+name+".*.part") // mode 0600
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer os.Remove(part.Name())
	defer part.Close()
	if err := db.dialect.backup(ctx, db.path, part.Name()); err != nil {
		return fmt.Errorf("backup: %w", db.failed(ctx, err))
	}
	if err := part.Sync(); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	// A link, unlike a rename, fails when the name is taken.
	if err := os.Link(part.Name(), path); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return syncFolder(folder)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
