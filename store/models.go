package store

import (
	"context"
	"errors"
	"fmt"

	"modelgate/models"
)

// Models implements models.Store.
func (db *DB) Models(ctx context.Context) (list []*models.Model, err error) {
	err = db.snapshot(ctx, func(t *tx) error { list, err = t.models(""); return err })
	if err != nil {
		return nil, modelsError(err)
	}
	return list, nil
}

// Model implements models.Store.
func (db *DB) Model(ctx context.Context, name string) (m *models.Model, err error) {
	err = db.snapshot(ctx, func(t *tx) error { m, err = t.modelNamed(name); return err })
	if err != nil {
		return nil, modelsError(err)
	}
	return m, nil
}

// AddVersion implements models.Store.
func (db *DB) AddVersion(ctx context.Context, m *models.Model, v *models.Version,
	f func(old *models.Model, number int) (*models.Model, error)) (*models.Model, error) {
	return db.changeModel(ctx, m.Name, func(t *tx, old *models.Model) (*models.Model, error) {
		if old == nil {
			first := *m
			first.DefaultVersion, first.NextVersion = 1, 1
			if err := t.insertModel(&first); err != nil {
				return nil, err
			}
			return &first, t.insertVersion(first.ID, 1, v)
		}
		id, number := old.ID, old.NextVersion // f may write into old
		changed, err := call(func() (*models.Model, error) { return f(old, number) })
		if err != nil {
			return nil, err
		}
		return changed, t.insertVersion(id, number, v)
	})
}

// UpdateModel implements models.Store.
func (db *DB) UpdateModel(ctx context.Context, name string, f func(old *models.Model) (*models.Model, error)) (*models.Model, error) {
	return db.changeModel(ctx, name, func(_ *tx, old *models.Model) (*models.Model, error) {
		if old == nil {
			return nil, errAbsent
		}
		return call(func() (*models.Model, error) { return f(old) })
	})
}

// DeleteVersion implements models.Store.
func (db *DB) DeleteVersion(ctx context.Context, name string, number int,
	f func(rest *models.Model) (*models.Model, error)) (*models.Model, error) {
	return db.changeModel(ctx, name, func(t *tx, m *models.Model) (*models.Model, error) {
		if m == nil {
			return nil, errAbsent
		}
		if m.Version(number) == nil {
			return nil, noVersion(name, number)
		}
		without(m, number)
		if _, err := t.exec(`UPDATE models SET default_version = NULL WHERE id = ? AND default_version = ?`, m.ID, number); err != nil {
			return nil, err
		}
		if _, err := t.exec(`DELETE FROM versions WHERE model_id = ? AND number = ?`, m.ID, number); err != nil {
			return nil, err
		}
		return call(func() (*models.Model, error) { return f(m) })
	})
}

// without makes a model what it is when a version is gone.
func without(m *models.Model, number int) {
	rest := make([]*models.Version, 0, len(m.Versions))
	for _, v := range m.Versions {
		if v.Number != number {
			rest = append(rest, v)
		}
	}
	m.Versions = rest
	for alias, n := range m.Aliases {
		if n == number {
			delete(m.Aliases, alias)
		}
	}
	if m.DefaultVersion == number {
		m.DefaultVersion = 0
	}
}

// changeModel stores what change makes of the model with that name, nil when there is none, and returns it as it is then.
func (db *DB) changeModel(ctx context.Context, name string,
	change func(t *tx, old *models.Model) (*models.Model, error)) (*models.Model, error) {
	var stored *models.Model
	err := db.write(ctx, func(t *tx) error {
		old, err := t.modelNamed(name)
		if err != nil && err != errAbsent {
			return err
		}
		id := ""
		if old != nil {
			id = old.ID
		}
		changed, err := change(t, old)
		if err != nil {
			return err
		}
		if id == "" {
			id = changed.ID
		}
		if err := t.replaceModel(id, name, changed); err != nil {
			return err
		}
		stored, err = t.model(id)
		return err
	})
	if err != nil {
		return nil, modelsError(err)
	}
	return stored, nil
}

// call lets a callback of the room decide.
func call(f func() (*models.Model, error)) (*models.Model, error) {
	m, err := f()
	if err == nil && m == nil {
		err = errors.New("store: the callback returned neither a model nor an error")
	}
	return m, err
}

// SetState implements models.Store.
func (db *DB) SetState(ctx context.Context, name string, number int, s models.State, reason string) (*models.Model, error) {
	var stored *models.Model
	err := db.write(ctx, func(t *tx) error {
		m, err := t.modelNamed(name)
		if err != nil {
			return err
		}
		n, err := t.exec(`UPDATE versions SET state = ?, reason = ? WHERE model_id = ? AND number = ?`,
			string(s), reason, m.ID, number)
		if err != nil {
			return err
		}
		if n == 0 {
			return noVersion(name, number)
		}
		stored, err = t.model(m.ID)
		return err
	})
	if err != nil {
		return nil, modelsError(err)
	}
	return stored, nil
}

func noVersion(name string, number int) error {
	return models.ErrNotFound.With(fmt.Sprintf("model %s has no version %d", name, number))
}

// DeleteModel implements models.Store. The foreign keys take the versions along.
func (db *DB) DeleteModel(ctx context.Context, name string) error {
	return modelsError(db.write(ctx, func(t *tx) error {
		return found(t.exec(`DELETE FROM models WHERE name = ?`, name))
	}))
}
