package models

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"modelgate/auth"
)

// Update changes a model as p says, all of it or nothing. Who may not is
// denied and audited (ErrClosed, alike for an absent model); ErrInvalid names
// what does not fit.
func (c *Catalog) Update(ctx context.Context, who auth.Principal, name string, p Patch) (*Model, error) {
	const action = "model.update"
	if _, err := c.manage(ctx, &who, name, action); err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	if err := c.rolesExist(ctx, &who, p); err != nil {
		return nil, err
	}
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer c.unlock()
	// It may have been deleted meanwhile.
	m, err := c.manage(ctx, &who, name, action)
	if err != nil {
		return nil, err
	}
	now := c.now().UTC()
	change := func(old *Model) (*Model, error) {
		if !manages(&who, old) {
			return nil, ErrClosed
		}
		return p.change(old, now)
	}
	if _, err := change(m); err != nil {
		return nil, err
	}
	if err := c.allow(ctx, &who, action, name, p.summary()); err != nil {
		return nil, err
	}
	if m, err = c.store.UpdateModel(ctx, name, change); err != nil {
		c.settle(ctx, err, "")
		return nil, err
	}
	c.put(name, m)
	return m, nil
}

// Delete removes a model with all versions. Requests in flight finish.
func (c *Catalog) Delete(ctx context.Context, who auth.Principal, name string) error {
	const action = "model.delete"
	if _, err := c.manage(ctx, &who, name, action); err != nil {
		return err
	}
	m, err := c.remove(ctx, &who, name)
	if err == nil {
		c.retire(m.Versions...)
	}
	return err
}

// remove is Delete under the lock; it returns the model as it was.
func (c *Catalog) remove(ctx context.Context, who *auth.Principal, name string) (*Model, error) {
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer c.unlock()
	m, err := c.manage(ctx, who, name, "model.delete")
	if err != nil {
		return nil, err
	}
	if err := c.allow(ctx, who, "model.delete", name, map[string]string{"versions": strconv.Itoa(len(m.Versions))}); err != nil {
		return nil, err
	}
	if err := c.store.DeleteModel(ctx, name); err != nil {
		c.settle(ctx, err, "")
		return nil, err
	}
	c.put(name, nil)
	digests := make([]string, len(m.Versions))
	for i, v := range m.Versions {
		digests[i] = v.Digest
	}
	c.collect(digests...)
	return m, nil
}

// DeleteVersion removes one version. Requests in flight finish. The default
// version and one that an alias means are ErrConflict as long as there are
// others to take their place: nobody's calls change behind his back. The last
// version may always go; the model then stays, without any, with its roles and
// policies, and the next version becomes its default.
func (c *Catalog) DeleteVersion(ctx context.Context, who auth.Principal, name string, number int) error {
	if _, err := c.manage(ctx, &who, name, "model.delete_version"); err != nil {
		return err
	}
	v, err := c.removeVersion(ctx, &who, name, number)
	if err == nil {
		c.retire(v)
	}
	return err
}

// removeVersion is DeleteVersion under the lock; it returns the version as it
// was.
func (c *Catalog) removeVersion(ctx context.Context, who *auth.Principal, name string, number int) (*Version, error) {
	const action = "model.delete_version"
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer c.unlock()
	m, err := c.manage(ctx, who, name, action)
	if err != nil {
		return nil, err
	}
	v := m.Version(number)
	if v == nil {
		return nil, ErrNotFound.With("the model has no such version")
	}
	if err := m.deletable(number); err != nil {
		return nil, err
	}
	if err := c.allow(ctx, who, action, name, map[string]string{"version": strconv.Itoa(number), "digest": v.Digest}); err != nil {
		return nil, err
	}
	now := c.now().UTC()
	m, err = c.store.DeleteVersion(ctx, name, number, func(rest *Model) (*Model, error) {
		if rest.DefaultVersion == 0 && len(rest.Versions) > 0 {
			return nil, ErrConflict // another process made it the default meanwhile
		}
		next := *rest
		next.UpdatedAt = now
		return &next, nil
	})
	if err != nil {
		c.settle(ctx, err, "")
		return nil, err
	}
	c.put(name, m)
	c.collect(v.Digest)
	return v, nil
}

// deletable tells why a version can't go.
func (m *Model) deletable(number int) error {
	if len(m.Versions) == 1 {
		return nil
	}
	if m.DefaultVersion == number {
		return ErrConflict.With(fmt.Sprintf("version %d is the default; make another version the default first", number))
	}
	for _, alias := range slices.Sorted(maps.Keys(m.Aliases)) {
		if m.Aliases[alias] == number {
			return ErrConflict.With(fmt.Sprintf("the alias %s means version %d; point it at another version first", alias, number))
		}
	}
	return nil
}

// quarantineTimeout bounds the record and the row of a quarantine, which goes
// on when the caller who met the damage leaves.
const quarantineTimeout = 5 * time.Second

// Quarantine puts a version out of service at once: its blob is damaged, or it
// keeps crashing. It is audited as done by "modelgate" itself; a log or a
// database that fails does not keep the version in service, but then it is
// tried again after a restart. A version whose file is whole again at the next
// start is restored; publishing the file once more makes it whole.
func (c *Catalog) Quarantine(ctx context.Context, v *Version, reason string) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	quarantined := c.quarantine(ctx, v, reason)
	c.unlock()
	if quarantined {
		c.retire(v)
	}
	return nil
}

func (c *Catalog) quarantine(ctx context.Context, v *Version, reason string) bool {
	now := c.snapshot().version(v.Model, v.ID)
	if now == nil || now.State != Ready {
		return false
	}
	c.log.Error("version put out of service", "model", v.Model, "version", v.Number, "cause", reason+"; digest "+v.Digest)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quarantineTimeout)
	defer cancel()
	self := auth.Principal{Username: "modelgate"}
	detail := map[string]string{"version": strconv.Itoa(v.Number), "reason": reason}
	if err := c.allow(ctx, &self, "model.quarantine", v.Model, detail); err != nil {
		c.log.Error("recording a quarantine", "cause", err)
	}
	m, err := c.store.SetState(ctx, v.Model, v.Number, Quarantined, reason)
	if err != nil {
		c.log.Error("storing a quarantine", "cause", err)
		m = c.snapshot().byName[v.Model].withState(v.ID, Quarantined, reason)
	}
	c.put(v.Model, m)
	return true
}

// restore puts versions back into service whose files are whole again: after
// a start without the right disk, or when a backup brought them back. Versions
// that crashed stay where they are. Only New calls it.
func (c *Catalog) restore(ctx context.Context) error {
	for _, m := range c.snapshot().sorted {
		for _, v := range m.Versions {
			if v.State != Quarantined || !strings.HasPrefix(v.Reason, errDamaged.Error()) {
				continue
			}
			if _, err := c.files.read(ctx, v.Digest, v.Size); err != nil {
				continue
			}
			self := auth.Principal{Username: "modelgate"}
			if err := c.allow(ctx, &self, "model.restore", m.Name, map[string]string{"version": strconv.Itoa(v.Number)}); err != nil {
				return err
			}
			changed, err := c.store.SetState(ctx, m.Name, v.Number, Ready, "")
			if err != nil {
				return err
			}
			c.put(m.Name, changed)
			c.log.Info("version back in service: its file is whole again", "model", m.Name, "version", v.Number)
		}
	}
	return nil
}

// withState returns a copy of the model with a version in another state.
func (m *Model) withState(id string, s State, reason string) *Model {
	next := *m
	next.Versions = slices.Clone(m.Versions)
	for i, v := range next.Versions {
		if v.ID == id {
			changed := *v
			changed.State, changed.Reason = s, reason
			next.Versions[i] = &changed
		}
	}
	return &next
}

// summary is what the audit log keeps of a change.
func (p *Patch) summary() map[string]string {
	d := map[string]string{}
	if p.Description != nil {
		d["description"] = "changed"
	}
	if p.Roles != nil {
		d["roles"] = strings.Join(*p.Roles, ",")
	}
	if p.Disclosure != nil {
		d["disclosure"] = p.Disclosure.summary()
	}
	if p.Serving != nil {
		p.Serving.summary(d)
	}
	if p.DefaultVersion != nil {
		d["default_version"] = strconv.Itoa(*p.DefaultVersion)
	}
	if p.Aliases != nil {
		var pairs []string
		for _, alias := range slices.Sorted(maps.Keys(*p.Aliases)) {
			pairs = append(pairs, alias+"="+strconv.Itoa((*p.Aliases)[alias]))
		}
		d["aliases"] = strings.Join(pairs, ",")
	}
	return d
}
