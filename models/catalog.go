package models

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"modelgate/auth"
)

// Config wires a Catalog. Store, Files and Guard are needed.
type Config struct {
	Store  Store
	Files  *Files
	Guard  *auth.Guard
	Limits Limits // of the static check
	// Quota is the most bytes of files that belong to one owner; 0: no bound.
	Quota int64
	// UploadKeys are the keys of which every upload needs a signature; nil: none.
	UploadKeys *UploadKeys
	// RolesExist fails with an error for the caller that names a role which does
	// not exist (auth.Service has it), before a change is recorded as allowed.
	// nil: only the Store looks, when the record is written already.
	RolesExist func(ctx context.Context, names []string) error
	Now        func() time.Time // nil: time.Now
	Logger     *slog.Logger     // the protected log; nil: none
}

// Catalog is the one way to models: it decides, audits, remembers. All of it
// is in memory as an immutable snapshot, so that reading takes no lock and no
// query; the Store is written through.
//
// One process may have a Catalog on a Store and Files at a time.
type Catalog struct {
	store  Store
	files  *Files
	guard  *auth.Guard
	limits Limits
	quota  quota
	keys   *UploadKeys
	now    func() time.Time
	log    *slog.Logger
	exist  func(ctx context.Context, roles []string) error

	current atomic.Pointer[snapshot]
	shown   atomic.Uint64 // counts what current was; changes under memory
	retired atomic.Pointer[func(versionID string)]
	changed atomic.Pointer[func()]
	// writing is held (one element sent) by who changes Store, blobs and
	// current, in this order; a channel, so that waiting honours ctx.
	writing chan struct{}
	// memory is held while current is replaced, by holders of writing and by
	// Follow. Nobody waits for the Store or a disk with it.
	memory sync.Mutex
	// examining bounds the files that are in memory to be checked and tried.
	examining chan struct{}
}

// examinations is how many uploads are checked and tried at once: one slow
// file does not stop the next, and memory holds two files at most.
const examinations = 2

// New fills the memory of the catalogue from the Store, and sweeps what a
// crash left behind: temporary files, and blobs that no version has. Versions
// that were out of service for a damaged file are back when it is whole again.
func New(ctx context.Context, cfg Config) (*Catalog, error) {
	c := &Catalog{
		store: cfg.Store, files: cfg.Files, guard: cfg.Guard, limits: cfg.Limits, now: cfg.Now, log: cfg.Logger, exist: cfg.RolesExist,
		quota: quota{limit: cfg.Quota, coming: map[string]int64{}}, keys: cfg.UploadKeys,
		writing: make(chan struct{}, 1), examining: make(chan struct{}, examinations),
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if err := c.load(ctx); err != nil {
		return nil, fmt.Errorf("models: reading the catalogue: %w", err)
	}
	done, err := c.files.sweep(c.snapshot().digests())
	if err != nil {
		return nil, fmt.Errorf("models: sweeping leftovers: %w", err)
	}
	if done.temporary > 0 || done.orphans > 0 {
		c.log.Info("swept leftovers of interrupted uploads", "temporary_files", done.temporary, "blobs", done.orphans)
	}
	if done.kept > 0 {
		c.log.Warn("the database knows no model, but there are model files; they were left alone. Is it the right database?", "blobs", done.kept)
	}
	if err := c.restore(ctx); err != nil {
		return nil, fmt.Errorf("models: putting a version back into service: %w", err)
	}
	return c, nil
}

// Retired sets the one listener: f is called, outside of all locks, when a
// version was deleted or quarantined. It must not block.
func (c *Catalog) Retired(f func(versionID string)) { c.retired.Store(&f) }

func (c *Catalog) retire(versions ...*Version) {
	if f := c.retired.Load(); f != nil {
		for _, v := range versions {
			(*f)(v.ID)
		}
	}
}

// Changed sets the one listener: f is called when a model was published,
// changed or deleted. It must not block, and not call the Catalog.
func (c *Catalog) Changed(f func()) { c.changed.Store(&f) }

// show makes a snapshot what all see. The caller holds memory.
func (c *Catalog) show(s *snapshot) {
	c.current.Store(s)
	c.shown.Add(1)
	if f := c.changed.Load(); f != nil {
		(*f)()
	}
}

// Pinned returns the default versions of pinned models, those in service, by
// the name of the model. It costs a look at every model.
func (c *Catalog) Pinned() []*Version {
	var list []*Version
	for _, m := range c.snapshot().sorted {
		if !m.Serving.Pinned {
			continue
		}
		if v := m.Version(m.DefaultVersion); v != nil && v.State == Ready {
			list = append(list, v)
		}
	}
	return list
}

// snapshot is the catalogue at one moment. Immutable.
type snapshot struct {
	byName map[string]*Model
	sorted []*Model // by name
}

func (c *Catalog) snapshot() *snapshot { return c.current.Load() }

func newSnapshot(list []*Model) *snapshot {
	s := &snapshot{byName: make(map[string]*Model, len(list)), sorted: list}
	slices.SortFunc(list, func(a, b *Model) int { return strings.Compare(a.Name, b.Name) })
	for _, m := range list {
		s.byName[m.Name] = m
	}
	return s
}

// version finds a version as it is now, by id.
func (s *snapshot) version(model, id string) *Version {
	if m := s.byName[model]; m != nil {
		for _, v := range m.Versions {
			if v.ID == id {
				return v
			}
		}
	}
	return nil
}

// digests returns the blobs that versions have.
func (s *snapshot) digests() map[string]bool {
	known := map[string]bool{}
	for _, m := range s.sorted {
		for _, v := range m.Versions {
			known[v.Digest] = true
		}
	}
	return known
}

// load replaces the memory by what the Store says. Only New and holders of
// writing call it.
func (c *Catalog) load(ctx context.Context) error {
	list, err := c.store.Models(ctx)
	if err != nil {
		return err
	}
	for _, m := range list {
		complete(m)
	}
	c.memory.Lock()
	defer c.memory.Unlock()
	c.show(newSnapshot(list))
	return nil
}

// complete adds to what the Store gave what is not stored. Versions that are
// in memory already are complete, and not written to.
func complete(m *Model) {
	for _, v := range m.Versions {
		if !v.Signature.NeverEmpty && anyFragile(v.Facts.Operators) {
			v.Signature.NeverEmpty = true
		}
	}
}

// put replaces one model of the memory, or removes it when m is nil. Only
// holders of writing call it.
func (c *Catalog) put(name string, m *Model) {
	if m != nil {
		complete(m)
	}
	c.memory.Lock()
	defer c.memory.Unlock()
	c.show(c.snapshot().with(name, m))
}

// with returns a snapshot with one model replaced, or without it when m is nil.
func (s *snapshot) with(name string, m *Model) *snapshot {
	next := &snapshot{byName: maps.Clone(s.byName), sorted: slices.Clone(s.sorted)}
	i, found := slices.BinarySearchFunc(next.sorted, name, func(m *Model, name string) int { return strings.Compare(m.Name, name) })
	switch {
	case m == nil && found:
		next.sorted = slices.Delete(next.sorted, i, i+1)
		delete(next.byName, name)
	case m != nil && found:
		next.sorted[i], next.byName[name] = m, m
	case m != nil:
		next.sorted = slices.Insert(next.sorted, i, m)
		next.byName[name] = m
	}
	return next
}

// lock takes writing, or fails when ctx ends first.
func (c *Catalog) lock(ctx context.Context) error {
	select {
	case c.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Catalog) unlock() { <-c.writing }

// Open decides whether the caller may call the version, audits a denial, and
// returns what he gets to see. ErrClosed: no such model, or not for him;
// ErrNotFound: the model is open to him (or he manages all), but there is no
// such model, version or alias; ErrQuarantined: the version is out of service;
// ErrInvalid: both a version and an alias.
//
// It costs a map lookup and the comparison of roles.
func (c *Catalog) Open(ctx context.Context, who auth.Principal, ref Ref) (Access, error) {
	m, err := c.access(ctx, &who, ref.Model, "model.predict")
	if err != nil {
		return Access{}, err
	}
	v, err := m.resolve(ref)
	if err != nil {
		return Access{}, err
	}
	if v.State != Ready {
		return Access{}, ErrQuarantined
	}
	return Access{Model: m, Version: v, Rule: m.Disclosure.rule(who.Roles)}, nil
}

// DailyRows is the caller's budget of rows a day of a model that is open to
// him; 0: none, or no such model for him.
func (c *Catalog) DailyRows(who auth.Principal, name string) int64 {
	m := c.snapshot().byName[name]
	if m == nil || !calls(&who, m) {
		return 0
	}
	return m.Disclosure.rule(who.Roles).DailyRows
}

var (
	errNoVersion = ErrNotFound.With("the model has no such version or alias; leave both out for the default")
	errNoneLeft  = ErrNotFound.With("the model has no version at the moment; tell its owner")
)

// resolve finds the version that ref means.
func (m *Model) resolve(ref Ref) (*Version, error) {
	number := ref.Version
	switch {
	case number < 0:
		return nil, ErrInvalid.With("version must be a positive number")
	case number > 0 && ref.Alias != "":
		return nil, ErrInvalid.With("give a version or an alias, not both")
	case ref.Alias != "":
		if number = m.Aliases[ref.Alias]; number == 0 {
			return nil, errNoVersion
		}
	case number == 0:
		if number = m.DefaultVersion; number == 0 {
			return nil, errNoneLeft
		}
	}
	if v := m.Version(number); v != nil {
		return v, nil
	}
	return nil, errNoVersion
}

// Describe is Open for metadata, of the default version. It also answers for
// a version out of service and, to those who manage the model, when no version
// is left: Version is nil then.
func (c *Catalog) Describe(ctx context.Context, who auth.Principal, name string) (Access, error) {
	m, err := c.access(ctx, &who, name, "model.read")
	if err != nil {
		return Access{}, err
	}
	v := m.Version(m.DefaultVersion)
	if v == nil && !manages(&who, m) {
		return Access{}, errNoneLeft
	}
	return Access{Model: m, Version: v, Rule: m.Disclosure.rule(who.Roles)}, nil
}

// List returns the models that are open to the caller, as Describe does, by
// name from the first one greater than after, at most limit (100 when that is
// not positive, never more than 1000). next is the after of the next page,
// empty at the end.
func (c *Catalog) List(ctx context.Context, who auth.Principal, after string, limit int) (items []Access, next string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, 1000)
	sorted := c.snapshot().sorted
	i, found := slices.BinarySearchFunc(sorted, after, func(m *Model, after string) int { return strings.Compare(m.Name, after) })
	if found {
		i++
	}
	for _, m := range sorted[i:] {
		v := m.Version(m.DefaultVersion)
		if !calls(&who, m) || v == nil && !manages(&who, m) {
			continue
		}
		if len(items) == limit {
			return items, items[limit-1].Model.Name, nil
		}
		items = append(items, Access{Model: m, Version: v, Rule: m.Disclosure.rule(who.Roles)})
	}
	return items, "", nil
}

// Stage copies an upload to a temporary file; see Files.Stage. What can't be
// ONNX by its first bytes is a *Rejected before the rest is read.
func (c *Catalog) Stage(ctx context.Context, r io.Reader) (*Staged, error) {
	return c.files.Stage(ctx, &headReader{r: r})
}

// Read returns the whole file of a version, its digest verified. A blob that
// is missing or changed puts the version out of service: it is audited, the
// listener of Retired is told, and the answer is ErrQuarantined. A version
// that was deleted meanwhile is ErrNotFound; a disk that can't answer
// ErrUnavailable.
func (c *Catalog) Read(ctx context.Context, v *Version) ([]byte, error) {
	now := c.snapshot().version(v.Model, v.ID)
	switch {
	case now == nil:
		return nil, errNoVersion
	case now.State != Ready:
		return nil, ErrQuarantined
	}
	data, err := c.files.read(ctx, v.Digest, v.Size)
	switch {
	case err == nil:
		return data, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !errors.Is(err, errDamaged):
		c.log.Error("reading a model file", "model", v.Model, "version", v.Number, "cause", err)
		return nil, ErrUnavailable.Because(err)
	}
	if err := c.Quarantine(ctx, v, err.Error()); err != nil {
		return nil, err
	}
	if c.snapshot().version(v.Model, v.ID) == nil {
		return nil, errNoVersion // it was deleted under the reader's hands
	}
	return nil, ErrQuarantined.Because(err)
}
