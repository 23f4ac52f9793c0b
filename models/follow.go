package models

import (
	"context"
	"errors"
	"reflect"

	"modelgate/auth"
)

// Follow brings the memory to what the Store says of the models that were changed,
// by whatever process: who may call them, what they see, which versions there are.
// The listeners of Retired and Changed hear of it. It waits for nobody who
// publishes. An error means that memory may be out of date; call it again with the
// same changes.
//
// What was changed through this Catalog is in its memory already, and stays as it
// is.
func (c *Catalog) Follow(ctx context.Context, changes auth.Changes) error {
	if changes.All {
		return c.followAll(ctx)
	}
	for _, change := range changes.List {
		if change.Kind != auth.ModelChanged {
			continue
		}
		if err := c.follow(ctx, change.Subject); err != nil {
			return err
		}
	}
	return nil
}

// follow replaces one model. A model that this process changed after it was read
// is read again: what was read may be older.
func (c *Catalog) follow(ctx context.Context, name string) error {
	for {
		shown := c.shown.Load()
		m, err := c.store.Model(ctx, name)
		if errors.Is(err, ErrNotFound) {
			m, err = nil, nil
		}
		if err != nil {
			return err
		}
		if m != nil {
			complete(m)
		}
		if retired, ok := c.replace(shown, name, m); ok {
			c.retire(retired...)
			return nil
		}
	}
}

// replace puts the model that was read when the count of changes was shown, unless
// it is another by now, and returns the versions that went out of service.
func (c *Catalog) replace(shown uint64, name string, m *Model) (retired []*Version, ok bool) {
	c.memory.Lock()
	defer c.memory.Unlock()
	if c.shown.Load() != shown {
		return nil, false
	}
	old := c.snapshot().byName[name]
	if reflect.DeepEqual(old, m) {
		return nil, true
	}
	c.show(c.snapshot().with(name, m))
	return gone(old, m), true
}

// followAll replaces the whole memory.
func (c *Catalog) followAll(ctx context.Context) error {
	for {
		shown := c.shown.Load()
		list, err := c.store.Models(ctx)
		if err != nil {
			return err
		}
		for _, m := range list {
			complete(m)
		}
		if retired, ok := c.replaceAll(shown, newSnapshot(list)); ok {
			c.retire(retired...)
			return nil
		}
	}
}

func (c *Catalog) replaceAll(shown uint64, next *snapshot) (retired []*Version, ok bool) {
	c.memory.Lock()
	defer c.memory.Unlock()
	if c.shown.Load() != shown {
		return nil, false
	}
	for _, old := range c.snapshot().sorted {
		retired = append(retired, gone(old, next.byName[old.Name])...)
	}
	c.show(next)
	return retired, true
}

// gone returns the versions in service that a model has no more.
func gone(old, m *Model) (list []*Version) {
	if old == nil {
		return nil
	}
	for _, v := range old.Versions {
		if v.State != Ready {
			continue
		}
		if m != nil && m.ID == old.ID {
			if now := m.Version(v.Number); now != nil && now.ID == v.ID && now.State == Ready {
				continue
			}
		}
		list = append(list, v)
	}
	return list
}
