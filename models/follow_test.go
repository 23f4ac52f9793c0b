package models_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"modelgate/auth"
	"modelgate/models"
)

// replica is another catalogue on the database and the files of r, as another
// server has it.
func (r *room) replica(t *testing.T, before func(models.Store) models.Store) *room {
	t.Helper()
	other := &room{dir: r.dir, db: r.db, log: r.log, store: r.db}
	if before != nil {
		other.store = before(r.db)
	}
	var err error
	if other.files, err = models.OpenFiles(filepath.Join(r.dir, "models"), 1<<20); err != nil {
		t.Fatal(err)
	}
	other.catalog, err = models.New(t.Context(), models.Config{Store: other.store, Files: other.files, Guard: auth.NewGuard(r.log)})
	if err != nil {
		t.Fatal(err)
	}
	other.catalog.Retired(func(id string) {
		other.mu.Lock()
		defer other.mu.Unlock()
		other.retired = append(other.retired, id)
	})
	return other
}

// mark is the moment that changes can be asked from.
func (r *room) mark(t testing.TB) int64 {
	t.Helper()
	c, err := r.db.Changes(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	return c.Mark
}

// since are the changes since a moment.
func (r *room) since(t testing.TB, mark int64) auth.Changes {
	t.Helper()
	c, err := r.db.Changes(t.Context(), mark)
	if err != nil || c.All {
		t.Fatal(c, err)
	}
	return c
}

// TestFollow: what one server changes of a model holds on another that follows,
// whether it is told of the model or that it missed something.
func TestFollow(t *testing.T) {
	for _, all := range []bool{false, true} {
		t.Run(fmt.Sprint("all ", all), func(t *testing.T) {
			r := newRoom(t)
			_, first := r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
			other := r.replica(t, nil)
			step := func(what string, do func() error) {
				t.Helper()
				mark := r.mark(t)
				if err := do(); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				changes := r.since(t, mark)
				if changes.All = all; all {
					changes.List = nil
				}
				if err := other.catalog.Follow(t.Context(), changes); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			call := func(who auth.Principal, name string) error {
				_, err := other.catalog.Open(t.Context(), who, models.Ref{Model: name})
				return err
			}
			if err := call(eve, "iris"); err != nil {
				t.Fatal(err)
			}
			update := func(p models.Patch) func() error {
				return func() error { _, err := r.catalog.Update(t.Context(), ann, "iris", p); return err }
			}
			step("a role less", update(models.Patch{Roles: &[]string{}}))
			if err := call(eve, "iris"); !errors.Is(err, models.ErrClosed) {
				t.Errorf("a role that was taken away still opens the model: %v", err)
			}
			step("the role again", update(models.Patch{Roles: &[]string{"user"}, Disclosure: &models.Disclosure{Rule: models.Rule{LabelOnly: true}}}))
			access, err := other.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"})
			if err != nil || !access.Rule.LabelOnly {
				t.Errorf("the policy is not followed: %+v, %v", access.Rule, err)
			}
			var second *models.Version
			step("a version", func() error {
				_, second = r.publish(t, ann, "iris", sample(t, "iris_v2"), models.Spec{Default: true})
				return nil
			})
			if access, err := other.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"}); err != nil || access.Version.ID != second.ID {
				t.Errorf("another default: %+v, %v", access.Version, err)
			}
			step("a version less", func() error { return r.catalog.DeleteVersion(t.Context(), ann, "iris", 1) })
			step("a model", func() error {
				r.publish(t, ann, "new", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
				return nil
			})
			if err := call(eve, "new"); err != nil {
				t.Errorf("a new model: %v", err)
			}
			step("the end of its owner", func() error { return r.db.DeleteUser(t.Context(), "ann", func(auth.User, int) error { return nil }) })
			if err := call(ann, "new"); err != nil { // by her role
				t.Error(err)
			}
			if m, err := other.catalog.Describe(t.Context(), admin, "new"); err != nil || m.Model.OwnerID != "" {
				t.Errorf("the owner is gone: %+v, %v", m.Model, err)
			}
			step("a quarantine", func() error { return r.catalog.Quarantine(t.Context(), second, "it crashes") })
			if err := call(eve, "iris"); !errors.Is(err, models.ErrQuarantined) {
				t.Errorf("in service: %v", err)
			}
			step("a model less", func() error { return r.catalog.Delete(t.Context(), admin, "iris") })
			if err := call(eve, "iris"); !errors.Is(err, models.ErrClosed) {
				t.Errorf("a deleted model: %v", err)
			}
			if want := []string{first.ID, second.ID}; !slices.Equal(other.retired, want) {
				t.Errorf("retired: %v, want %v", other.retired, want)
			}
		})
	}
}

// TestFollowFails: a catalogue that can't read what changed says so, so that
// nobody is let in by what it remembers.
func TestFollowFails(t *testing.T) {
	r := newRoom(t)
	r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{})
	failing := &unreadable{}
	other := r.replica(t, func(s models.Store) models.Store { failing.Store = s; return failing })
	failing.err = models.ErrUnavailable
	change := auth.Changes{List: []auth.Change{{Kind: auth.UserChanged, Subject: "u"}}}
	if err := other.catalog.Follow(t.Context(), change); err != nil {
		t.Errorf("a change of something else: %v", err)
	}
	change.List[0] = auth.Change{Kind: auth.ModelChanged, Subject: "iris"}
	for _, all := range []bool{false, true} {
		change.All = all
		if err := other.catalog.Follow(t.Context(), change); !errors.Is(err, models.ErrUnavailable) {
			t.Errorf("all %v: %v", all, err)
		}
	}
}

// unreadable is a store that does not answer.
type unreadable struct {
	models.Store
	err    error
	before func() // each read
}

func (u *unreadable) Models(ctx context.Context) ([]*models.Model, error) {
	if u.err != nil {
		return nil, u.err
	}
	return u.Store.Models(ctx)
}

func (u *unreadable) Model(ctx context.Context, name string) (*models.Model, error) {
	if u.err != nil {
		return nil, u.err
	}
	m, err := u.Store.Model(ctx, name)
	if u.before != nil {
		u.before()
	}
	return m, err
}

// TestFollowIsNotBehind: what Follow read before this process made a change must
// not take its place, and Follow waits for nobody who makes one.
func TestFollowIsNotBehind(t *testing.T) {
	s := &unreadable{}
	r := newRoomBefore(t, func(db models.Store) models.Store { s.Store = db; return s })
	r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
	change := auth.Changes{List: []auth.Change{{Kind: auth.ModelChanged, Subject: "iris"}}}
	var once sync.Once
	s.before = func() { // between the read and its use
		once.Do(func() {
			if _, err := r.catalog.Update(t.Context(), ann, "iris", models.Patch{Roles: &[]string{}}); err != nil {
				t.Error(err)
			}
		})
	}
	if err := r.catalog.Follow(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if _, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"}); !errors.Is(err, models.ErrClosed) {
		t.Errorf("a role that was taken away is back: %v", err)
	}

	s.before = nil
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 50 {
			if err := r.catalog.Follow(t.Context(), change); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := range 50 {
		roles := []string{"user"}[:i%2]
		if _, err := r.catalog.Update(t.Context(), ann, "iris", models.Patch{Roles: &roles}); err != nil {
			t.Error(err)
		}
		if _, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"}); (err == nil) != (i%2 == 1) {
			t.Errorf("update %d is not what holds after it: %v", i, err)
		}
	}
	<-done
}
