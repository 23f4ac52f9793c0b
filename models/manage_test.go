package models_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"modelgate/auth"
	"modelgate/models"
)

func TestUpdate(t *testing.T) {
	r := newRoom(t)
	r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}, Description: pointer("old")})
	r.publish(t, ann, "iris", sample(t, "iris_v2"), models.Spec{})
	m, err := r.catalog.Update(t.Context(), ann, "iris", models.Patch{
		Description: pointer("new\n\tlines"), Roles: &[]string{"user", "analyst", "user"},
		Disclosure:     &models.Disclosure{Rule: models.Rule{Decimals: pointer(2)}, Roles: map[string]models.Rule{"analyst": {}}},
		Serving:        &models.Serving{TimeoutMS: 100, Instances: 3, Queue: 50},
		DefaultVersion: pointer(2), Aliases: &map[string]int{"stable": 1, "canary": 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	if m.Description != "new\n\tlines" || !slices.Equal(m.Roles, []string{"analyst", "user"}) || *m.Disclosure.Decimals != 2 ||
		m.Serving != (models.Serving{TimeoutMS: 100, Instances: 3, Queue: 50}) || m.DefaultVersion != 2 || !maps.Equal(m.Aliases, map[string]int{"stable": 1, "canary": 2}) {
		t.Errorf("%+v", m)
	}
	same, err := r.catalog.Update(t.Context(), ann, "iris", models.Patch{Aliases: &map[string]int{"stable": 2}})
	if err != nil || same.Description != m.Description || len(same.Aliases) != 1 || same.DefaultVersion != 2 {
		t.Errorf("after a change of aliases: %+v (%v)", same, err)
	}
	if len(m.Aliases) != 2 {
		t.Error("a model handed out before was changed")
	}
	r.reopen(t)
	if access, err := r.catalog.Describe(t.Context(), ann, "iris"); err != nil || !reflect.DeepEqual(access.Model, same) {
		t.Errorf("after a restart: %+v (%v)", access.Model, err)
	}
	if got := r.audited(t)[2:]; !slices.Equal(got, []string{"ann model.update iris allowed", "ann model.update iris allowed"}) {
		t.Errorf("audited: %q", got)
	}
}

// TestUpdateRefused names what does not fit, and changes nothing.
func TestUpdateRefused(t *testing.T) {
	r := newRoom(t)
	r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{})
	_, v := r.publish(t, ann, "iris", sample(t, "iris_v2"), models.Spec{})
	if err := r.catalog.Quarantine(t.Context(), v, "it crashes"); err != nil {
		t.Fatal(err)
	}
	many := func(n int) map[string]int {
		m := map[string]int{}
		for i := range n {
			m[fmt.Sprint("a", i)] = 1
		}
		return m
	}
	manyRoles := slices.Sorted(maps.Keys(many(65)))
	before, _ := r.catalog.Describe(t.Context(), ann, "iris")
	for want, patch := range map[string]models.Patch{
		"nosuch":              {Description: pointer("x"), Roles: &[]string{"user", "nosuch"}},
		`"No Role"`:           {Roles: &[]string{"No Role"}},
		"65 roles":            {Roles: &manyRoles},
		"1024 bytes":          {Description: pointer(strings.Repeat("x", 1025))},
		"control characters":  {Description: pointer("a\x1b[31m")},
		"UTF-8":               {Description: pointer("\xff")},
		"no version 3":        {DefaultVersion: pointer(3)},
		"no version 0":        {DefaultVersion: pointer(0)},
		"out of service":      {DefaultVersion: pointer(2)},
		"means version 9":     {Aliases: &map[string]int{"a": 9}},
		`"Bad Alias"`:         {Aliases: &map[string]int{"Bad Alias": 1}},
		"taken for a version": {Aliases: &map[string]int{"12": 1}},
		"65 aliases":          {Aliases: pointer(many(65))},
		"output elsewhere":    {Disclosure: &models.Disclosure{Rule: models.Rule{Outputs: []string{"elsewhere"}}}},
		"top_k":               {Disclosure: &models.Disclosure{Rule: models.Rule{TopK: -1}}},
		"unknown-role":        {Disclosure: &models.Disclosure{Roles: map[string]models.Rule{"unknown-role": {}}}},
		"timeout_ms":          {Serving: &models.Serving{TimeoutMS: 3_600_001}},
		"max_batch must":      {Serving: &models.Serving{MaxBatch: 4097}},
		"instances must":      {Serving: &models.Serving{Instances: -1}},
		"queue must":          {Serving: &models.Serving{Queue: 100_001}},
	} {
		m, err := r.catalog.Update(t.Context(), ann, "iris", patch)
		if e := (*models.Error)(nil); m != nil || !errors.Is(err, models.ErrInvalid) || !errors.As(err, &e) || !strings.Contains(e.Detail, want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	after, _ := r.catalog.Describe(t.Context(), ann, "iris")
	if !reflect.DeepEqual(before, after) {
		t.Errorf("changed from %+v to %+v", before.Model, after.Model)
	}
	r.reopen(t)
	if after, _ = r.catalog.Describe(t.Context(), ann, "iris"); !reflect.DeepEqual(before, after) {
		t.Errorf("stored: %+v", after.Model)
	}
}

// TestMaxBatch: runs are shared only of what is proved, and what is published
// later runs without where it is not.
func TestMaxBatch(t *testing.T) {
	r := newRoom(t)
	measured := func(ctx context.Context, file []byte) (models.Trial, error) {
		trial, err := try(ctx, file)
		trial.Gain = 1.9
		return trial, err
	}
	batch := func(rows int) models.Patch { return models.Patch{Serving: &models.Serving{MaxBatch: rows}} }
	m, v, err := r.tryPublish(t, ann, "rows", sample(t, "two_io"), models.Spec{}, measured)
	if err != nil || v.Facts.Batching == nil || *v.Facts.Batching != (models.Batching{Possible: true, Gain: 1.9}) || m.Batches(v) {
		t.Fatalf("%+v, %v", v.Facts.Batching, err)
	}
	if m, err = r.catalog.Update(t.Context(), ann, "rows", batch(32)); err != nil || !m.Batches(m.Versions[0]) {
		t.Fatalf("%+v, %v", m, err)
	}
	m, v = r.publish(t, ann, "rows", sample(t, "rowmix"), models.Spec{Default: true})
	if m.Serving.MaxBatch != 32 || m.Batches(v) || v.Facts.Batching.Possible || !strings.Contains(v.Facts.Batching.Reason, "ReduceMax") || !m.Batches(m.Versions[0]) {
		t.Errorf("%+v, %+v", m.Serving, v.Facts.Batching)
	}
	// What is there may stay when something else changes, but not be changed.
	if _, err := r.catalog.Update(t.Context(), ann, "rows", models.Patch{Serving: &models.Serving{MaxBatch: 32, TimeoutMS: 5}}); err != nil {
		t.Error(err)
	}
	if _, err := r.catalog.Update(t.Context(), ann, "rows", batch(33)); !errors.Is(err, models.ErrInvalid) || !strings.Contains(err.Error(), "ReduceMax") {
		t.Errorf("without a proof: %v", err)
	}
	r.reopen(t)
	if access, err := r.catalog.Describe(t.Context(), ann, "rows"); err != nil || !reflect.DeepEqual(access.Model.Versions[1].Facts, v.Facts) || access.Model.Serving.MaxBatch != 32 {
		t.Errorf("after a restart: %+v (%v)", access.Model, err)
	}
	if _, err := r.catalog.Update(t.Context(), ann, "rows", batch(0)); err != nil {
		t.Error(err)
	}
}

// TestDeleteVersion: the default and what aliases mean stay as long as there
// is something to take their place; numbers are never used twice.
func TestDeleteVersion(t *testing.T) {
	r := newRoom(t)
	iris := sample(t, "iris")
	var ids []string
	for i := range 3 {
		_, v := r.publish(t, ann, "iris", variant(iris, i), models.Spec{Roles: []string{"user"}})
		ids = append(ids, v.ID)
	}
	if _, err := r.catalog.Update(t.Context(), ann, "iris", models.Patch{Aliases: &map[string]int{"canary": 3, "stable": 1}}); err != nil {
		t.Fatal(err)
	}
	wantError(t, "the default", r.catalog.DeleteVersion(t.Context(), ann, "iris", 1), models.ErrConflict)
	wantError(t, "an alias", r.catalog.DeleteVersion(t.Context(), ann, "iris", 3), models.ErrConflict)
	wantError(t, "none", r.catalog.DeleteVersion(t.Context(), ann, "iris", 4), models.ErrNotFound)
	if err := r.catalog.DeleteVersion(t.Context(), ann, "iris", 2); err != nil {
		t.Fatal(err)
	}
	if _, err := r.catalog.Update(t.Context(), ann, "iris", models.Patch{Aliases: &map[string]int{"stable": 1}}); err != nil {
		t.Fatal(err)
	}
	if err := r.catalog.DeleteVersion(t.Context(), ann, "iris", 3); err != nil {
		t.Fatal(err)
	}
	if err := r.catalog.DeleteVersion(t.Context(), ann, "iris", 1); err != nil {
		t.Fatalf("the last one: %v", err)
	}
	if want := []string{ids[1], ids[2], ids[0]}; !slices.Equal(r.retired, want) {
		t.Errorf("retired %v, want %v", r.retired, want)
	}
	if left := r.onDisk(t); len(left) != 0 {
		t.Errorf("on the disk: %v", left)
	}
	// The model is still there: to its owner without a version, to its callers
	// as something that has none.
	access, err := r.catalog.Describe(t.Context(), ann, "iris")
	if err != nil || access.Version != nil || access.Model.DefaultVersion != 0 || len(access.Model.Aliases) != 0 || len(access.Model.Roles) != 1 {
		t.Errorf("without versions: %+v (%v)", access, err)
	}
	_, err = r.catalog.Describe(t.Context(), eve, "iris")
	wantError(t, "eve reads", err, models.ErrNotFound)
	_, err = r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"})
	wantError(t, "eve calls", err, models.ErrNotFound)
	if items, _, _ := r.catalog.List(t.Context(), eve, "", 0); len(items) != 0 {
		t.Errorf("eve lists %v", items)
	}
	m, v := r.publish(t, ann, "iris", iris, models.Spec{})
	if v.Number != 4 || m.DefaultVersion != 4 {
		t.Errorf("the next version is %d, the default %d", v.Number, m.DefaultVersion)
	}
}

// TestDelete removes what nothing else needs, and tells who serves it.
func TestDelete(t *testing.T) {
	r := newRoom(t)
	iris := sample(t, "iris")
	_, shared := r.publish(t, ann, "kept", iris, models.Spec{})
	_, v1 := r.publish(t, ann, "gone", iris, models.Spec{Roles: []string{"user"}})
	_, v2 := r.publish(t, ann, "gone", sample(t, "two_io"), models.Spec{})
	if err := r.catalog.Delete(t.Context(), ann, "gone"); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.retired, []string{v1.ID, v2.ID}) {
		t.Errorf("retired %v", r.retired)
	}
	if left := r.onDisk(t); !slices.Equal(left, []string{shared.Digest}) {
		t.Errorf("on the disk: %v", left)
	}
	_, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "gone"})
	wantError(t, "eve calls", err, models.ErrClosed)
	_, err = r.catalog.Read(t.Context(), v1)
	wantError(t, "a reader who holds it", err, models.ErrNotFound)
	if _, err := r.catalog.Read(t.Context(), shared); err != nil {
		t.Errorf("what shares its contents: %v", err)
	}
	wantError(t, "twice", r.catalog.Delete(t.Context(), ann, "gone"), models.ErrClosed)
	if m, v := r.publish(t, bob, "gone", iris, models.Spec{}); v.Number != 1 || m.OwnerID != "bob" || len(m.Roles) != 0 {
		t.Errorf("the name is free again, but: %+v", m)
	}
}

// TestSharedContents: models that have the same file come and go at the same
// time, and none that is there ever lacks it.
func TestSharedContents(t *testing.T) {
	r := newRoom(t)
	iris := sample(t, "iris")
	var g sync.WaitGroup
	for p := range 3 {
		g.Go(func() {
			for i := range 10 {
				name := fmt.Sprintf("m%d-%d", p, i)
				_, v, err := r.tryPublish(t, ann, name, iris, models.Spec{}, try)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := r.catalog.Read(t.Context(), v); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if i%3 == 0 {
					continue
				}
				if err := r.catalog.Delete(t.Context(), ann, name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	items, _, _ := r.catalog.List(t.Context(), ann, "", 0)
	for _, a := range items {
		if _, err := r.catalog.Read(t.Context(), a.Version); err != nil {
			t.Errorf("%s: %v", a.Model.Name, err)
		}
	}
	if len(items) != 12 || len(r.onDisk(t)) != 1 {
		t.Errorf("%d models, on the disk %v", len(items), r.onDisk(t))
	}
}

// TestWaiting: who waits for the write lock honours his context.
func TestWaiting(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	r := newRoomBefore(t, func(s models.Store) models.Store { return slowStore{s, entered, release} })
	r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
	var g sync.WaitGroup
	g.Go(func() {
		if _, err := r.catalog.Update(t.Context(), ann, "iris", models.Patch{Description: pointer("x")}); err != nil {
			t.Error(err)
		}
	})
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.catalog.Update(ctx, ann, "iris", models.Patch{})
	wantError(t, "update", err, context.Canceled)
	wantError(t, "delete", r.catalog.Delete(ctx, ann, "iris"), context.Canceled)
	wantError(t, "delete version", r.catalog.DeleteVersion(ctx, ann, "iris", 1), context.Canceled)
	if _, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"}); err != nil {
		t.Errorf("a caller waits for a writer: %v", err)
	}
	close(release)
	g.Wait()
}

// slowStore holds UpdateModel up.
type slowStore struct {
	models.Store
	entered, release chan struct{}
}

func (s slowStore) UpdateModel(ctx context.Context, name string, f func(*models.Model) (*models.Model, error)) (*models.Model, error) {
	s.entered <- struct{}{}
	<-s.release
	return s.Store.UpdateModel(ctx, name, f)
}

func TestManages(t *testing.T) {
	r := newRoom(t)
	m, _ := r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
	for _, test := range []struct {
		what string
		who  auth.Principal
		want bool
	}{
		{"owner", ann, true},
		{"owner who may not write any more", as(ann, func(p *auth.Principal) { p.Permissions = 0 }), false},
		{"owner with a key for others", as(ann, func(p *auth.Principal) { p.Models = []string{"x"} }), false},
		{"another writer", bob, false},
		{"caller", eve, false},
		{"admin", admin, true},
		{"admin by a token for predictions", as(admin, func(p *auth.Principal) { p.Permissions, p.Withheld = 0, p.Permissions }), false},
	} {
		if got := r.catalog.Manages(test.who, m); got != test.want {
			t.Errorf("%s: %v", test.what, got)
		}
	}
	orphan := *m
	orphan.OwnerID = ""
	if r.catalog.Manages(auth.Principal{Permissions: auth.ModelsWrite}, &orphan) {
		t.Error("somebody without an id manages a model without an owner")
	}
}

// TestPinned: the default versions of pinned models are known, and who keeps
// them loaded hears of every change.
func TestPinned(t *testing.T) {
	r := newRoom(t)
	heard := 0
	r.catalog.Changed(func() { heard++ })
	pinned := func(what string, want ...*models.Version) {
		t.Helper()
		if heard == 0 {
			t.Errorf("%s: nobody heard of it", what)
		}
		heard = 0
		got := r.catalog.Pinned()
		same := len(got) == len(want)
		for i := 0; same && i < len(got); i++ {
			same = got[i].ID == want[i].ID
		}
		if !same {
			t.Errorf("%s: %v are pinned, want %v", what, got, want)
		}
	}
	keep := &models.Serving{Pinned: true}
	_, first := r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Serving: keep})
	pinned("published", first)
	_, other := r.publish(t, ann, "a", sample(t, "two_io"), models.Spec{})
	pinned("another", first)
	if _, err := r.catalog.Update(t.Context(), ann, "a", models.Patch{Serving: keep}); err != nil {
		t.Fatal(err)
	}
	pinned("set", other, first)
	_, second := r.publish(t, ann, "iris", sample(t, "iris_v2"), models.Spec{Default: true})
	pinned("another default", other, second)
	r.reopen(t)
	r.catalog.Changed(func() { heard++ })
	heard++
	pinned("after a restart", other, second)
	if err := r.catalog.Quarantine(t.Context(), second, "it crashes"); err != nil {
		t.Fatal(err)
	}
	pinned("out of service", other)
	if _, err := r.catalog.Update(t.Context(), ann, "iris", models.Patch{DefaultVersion: pointer(1)}); err != nil {
		t.Fatal(err)
	}
	pinned("back to the first", other, first)
	if err := r.catalog.DeleteVersion(t.Context(), ann, "a", 1); err != nil {
		t.Fatal(err)
	}
	pinned("without a version", first)
	if err := r.catalog.Delete(t.Context(), ann, "iris"); err != nil {
		t.Fatal(err)
	}
	pinned("deleted")
	_, err := r.catalog.Update(t.Context(), eve, "a", models.Patch{Serving: keep})
	wantError(t, "a caller", err, models.ErrClosed)
}
