package storetest

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/models"
)

var modelTests = []test{
	{"Models", testModels},
	{"AddVersionCreates", testAddVersionCreates},
	{"AddVersionUnknown", testAddVersionUnknown},
	{"ModelRoundTrip", testModelRoundTrip},
	{"UpdateModel", testUpdateModel},
	{"UpdateModelRefused", testUpdateModelRefused},
	{"UpdateModelRace", testUpdateModelRace},
	{"DeleteModel", testDeleteModel},
}

// newModel is a model with a version that has something in every field.
func newModel(name, owner string, roles ...string) (*models.Model, *models.Version) {
	decimals := 3
	return &models.Model{
		ID: "model-" + name, Name: name, Description: "what " + name + " does", OwnerID: owner, Roles: roles,
		Disclosure: models.Disclosure{
			Rule:  models.Rule{Outputs: []string{"label"}, Decimals: &decimals},
			Roles: map[string]models.Rule{"user": {TopK: 2, LabelOnly: true}},
		},
		Serving: models.Serving{TimeoutMS: 250}, CreatedAt: noon, UpdatedAt: noon,
	}, newVersion(name, "a")
}

func newVersion(model, id string) *models.Version {
	return &models.Version{
		ID: model + "-" + id, Digest: strings.Repeat("ab", 32), Size: 3 << 30, State: models.Ready, Reason: "none",
		Signature: models.Signature{
			Inputs: []models.TensorSpec{
				{Name: "X", GraphValue: models.GraphValue{Name: "in/\xff:0", Type: models.Float32, Shape: []int64{-1, 4}}},
				{Name: "scalar", GraphValue: models.GraphValue{Name: "s", Type: models.BFloat16, Shape: []int64{}}},
			},
			Outputs: []models.TensorSpec{
				{Name: "p", GraphValue: models.GraphValue{Name: "p", Kind: models.KindMaps, Type: models.Float32, Key: models.Int64}},
				{Name: "t", GraphValue: models.GraphValue{Name: "t", Kind: models.KindTensors, Type: models.String}},
				{Name: "m", GraphValue: models.GraphValue{Name: "m", Kind: models.KindMap, Type: models.Float64, Key: models.String}},
				{Name: "c", GraphValue: models.GraphValue{Name: "c", Type: 14, Shape: []int64{0, 1 << 40}}}, // a type that is not served
			},
		},
		Facts:     models.Facts{Opset: 22, Operators: []string{"Add", "Gemm"}, Nodes: 7, Parameters: 1 << 40, Trial: "ran"},
		CreatedBy: "id-ada", CreatedAt: noon,
	}
}

// addModel publishes the first version of a model.
func addModel(t *testing.T, s Store, name string) *models.Model {
	t.Helper()
	m, v := newModel(name, "")
	got, err := s.AddVersion(t.Context(), m, v, nil)
	ok(t, err)
	return got
}

// expect is how a store returns a model: with the parts that it sets itself.
func expect(m *models.Model, defaultVersion, nextVersion int, versions ...*models.Version) *models.Model {
	e := *m
	e.Roles = slices.Sorted(slices.Values(m.Roles))
	e.DefaultVersion, e.NextVersion = defaultVersion, nextVersion
	e.CreatedAt, e.UpdatedAt = kept(m.CreatedAt), kept(m.UpdatedAt)
	e.Versions = nil
	for _, v := range versions {
		own := *v
		own.Model, own.CreatedAt = m.Name, kept(v.CreatedAt)
		e.Versions = append(e.Versions, &own)
	}
	return &e
}

// checkModel compares a model as it was returned and as the store has it with what it should be.
func checkModel(t *testing.T, s Store, returned, want *models.Model) {
	t.Helper()
	sameModel(t, returned, want)
	sameModel(t, load(t, s, want.Name), want)
}

// load finds a model among all.
func load(t *testing.T, s Store, name string) *models.Model {
	t.Helper()
	list, err := s.Models(t.Context())
	ok(t, err)
	i := slices.IndexFunc(list, func(m *models.Model) bool { return m.Name == name })
	if i < 0 {
		t.Fatalf("no model %s", name)
	}
	return list[i]
}

func sameModel(t *testing.T, got, want *models.Model) {
	t.Helper()
	g, w := *got, *want
	if !maps.Equal(g.Aliases, w.Aliases) {
		t.Fatalf("aliases: %v; want %v", g.Aliases, w.Aliases)
	}
	if !slices.Equal(g.Roles, w.Roles) {
		t.Fatalf("roles: %q; want %q", g.Roles, w.Roles)
	}
	if !reflect.DeepEqual(g.Disclosure.Rule, w.Disclosure.Rule) || len(g.Disclosure.Roles) != len(w.Disclosure.Roles) {
		t.Fatalf("disclosure: %+v; want %+v", g.Disclosure, w.Disclosure)
	}
	for role, rule := range w.Disclosure.Roles {
		if !reflect.DeepEqual(g.Disclosure.Roles[role], rule) {
			t.Fatalf("rule of %s: %+v; want %+v", role, g.Disclosure.Roles[role], rule)
		}
	}
	equal(t, "versions", len(g.Versions), len(w.Versions))
	for i := range w.Versions {
		if !reflect.DeepEqual(g.Versions[i], w.Versions[i]) {
			t.Fatalf("version:\n%+v; want\n%+v", g.Versions[i], w.Versions[i])
		}
	}
	for _, m := range []*models.Model{&g, &w} {
		m.Aliases, m.Roles, m.Disclosure, m.Versions = nil, nil, models.Disclosure{}, nil
	}
	if !reflect.DeepEqual(g, w) {
		t.Fatalf("model:\n%+v; want\n%+v", g, w)
	}
}

func testModels(t *testing.T, s Store) {
	ctx := t.Context()
	list, err := s.Models(ctx)
	ok(t, err)
	equal(t, "models at first", len(list), 0)
	for _, name := range []string{"c", "a", "b"} {
		addModel(t, s, name)
	}
	for _, id := range []string{"b", "c"} {
		_, err := s.AddVersion(ctx, &models.Model{Name: "a"}, newVersion("a", id), asItIs)
		ok(t, err)
	}
	list, err = s.Models(ctx)
	ok(t, err)
	equal(t, "models", len(list), 3)
	for i, name := range []string{"a", "b", "c"} {
		equal(t, "name", list[i].Name, name)
		equal(t, "versions of "+name, len(list[i].Versions), []int{3, 1, 1}[i])
		for n, v := range list[i].Versions {
			equal(t, "number", v.Number, n+1)
			equal(t, "model of a version", v.Model, name)
		}
		one, err := s.Model(ctx, name)
		ok(t, err)
		if !reflect.DeepEqual(one, list[i]) {
			t.Fatalf("one model: %+v; want %+v", one, list[i])
		}
	}
	_, err = s.Model(ctx, "unknown")
	want(t, err, models.ErrNotFound)
}

func testAddVersionCreates(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	m, v := newModel("iris", "id-ada", "user", "data-scientist")
	m.DefaultVersion, m.NextVersion, v.Number, v.Model = 7, 7, 7, "x" // the store's to set
	m.Aliases = map[string]int{"stable": 1}
	got, err := s.AddVersion(ctx, m, v, func(*models.Model, int) (*models.Model, error) {
		t.Error("called for a new model")
		return nil, errors.New("no")
	})
	ok(t, err)
	v.Number = 1
	checkModel(t, s, got, expect(m, 1, 2, v))

	// A second one with that id, or a version with an id in use: nothing is made.
	m, v = newModel("other", "")
	m.ID = "model-iris"
	_, err = s.AddVersion(ctx, m, v, asItIs)
	want(t, err, models.ErrConflict)
	m, v = newModel("other", "")
	v.ID = "iris-a"
	_, err = s.AddVersion(ctx, m, v, asItIs)
	want(t, err, models.ErrConflict)
	list, err := s.Models(ctx)
	ok(t, err)
	equal(t, "models", len(list), 1)
}

func testAddVersionUnknown(t *testing.T, s Store) {
	ctx := t.Context()
	names := func(word string, change func(*models.Model)) {
		t.Helper()
		m, v := newModel("iris", "", "user")
		change(m)
		_, err := s.AddVersion(ctx, m, v, asItIs)
		want(t, err, models.ErrInvalid)
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %s: %v", word, err)
		}
		list, err := s.Models(ctx)
		ok(t, err)
		equal(t, "models made", len(list), 0)
	}
	names("wizard", func(m *models.Model) { m.Roles = []string{"user", "wizard"} })
	names("wizard", func(m *models.Model) { m.Disclosure.Roles["wizard"] = models.Rule{} })
	names("own", func(m *models.Model) { m.OwnerID = "nobody" })
	names("stable", func(m *models.Model) { m.Aliases = map[string]int{"stable": 2} })
}

// Nil and empty, zero and absent mean different things in a model; none may turn into the other.
func testModelRoundTrip(t *testing.T, s Store) {
	ctx := t.Context()
	zero := 0
	for _, rule := range []models.Rule{
		{}, {Outputs: []string{}}, {Outputs: []string{"b", "a"}}, {Decimals: &zero}, {TopK: 1}, {LabelOnly: true}, {DailyRows: 1e12},
	} {
		m, v := newModel("iris", "")
		m.Disclosure = models.Disclosure{Rule: rule, Roles: map[string]models.Rule{"user": rule}}
		got, err := s.AddVersion(ctx, m, v, nil)
		ok(t, err)
		v.Number = 1
		checkModel(t, s, got, expect(m, 1, 2, v))
		ok(t, s.DeleteModel(ctx, "iris"))
	}
	bare := &models.Model{ID: "bare", Name: "bare"}
	v := &models.Version{ID: "v"}
	got, err := s.AddVersion(ctx, bare, v, nil)
	ok(t, err)
	v.Number = 1
	checkModel(t, s, got, expect(bare, 1, 2, v))
}

func testUpdateModel(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	m, v := newModel("iris", "id-ada", "user")
	_, err := s.AddVersion(ctx, m, v, nil)
	ok(t, err)
	second := newVersion("iris", "b")
	_, err = s.AddVersion(ctx, m, second, asItIs)
	ok(t, err)
	v.Number, second.Number = 1, 2
	other := addModel(t, s, "other")

	after := &models.Model{
		ID: "x", Name: "x", OwnerID: "x", NextVersion: 100, CreatedAt: noon.Add(time.Hour), // can't change
		Description: "new", Roles: []string{"data-scientist", "user", "user"},
		Disclosure: models.Disclosure{Rule: models.Rule{TopK: 9}, Roles: map[string]models.Rule{"admin": {TopK: 8}}},
		Serving:    models.Serving{TimeoutMS: 1}, DefaultVersion: 2, Aliases: map[string]int{"old": 1, "new": 2},
		UpdatedAt: noon.Add(time.Minute),
	}
	got, err := s.UpdateModel(ctx, "iris", func(old *models.Model) (*models.Model, error) {
		sameModel(t, old, expect(m, 1, 3, v, second))
		return after, nil
	})
	ok(t, err)
	after.ID, after.Name, after.OwnerID, after.CreatedAt = m.ID, m.Name, m.OwnerID, m.CreatedAt
	after.Roles = []string{"data-scientist", "user"}
	checkModel(t, s, got, expect(after, 2, 3, v, second))

	// A function may write into what it is given.
	got, err = s.UpdateModel(ctx, "iris", func(old *models.Model) (*models.Model, error) {
		old.ID, old.Name, old.NextVersion = "x", "x", 1
		old.Roles = append(old.Roles[:0], "admin")
		delete(old.Aliases, "old")
		old.Aliases["newest"] = 2
		old.Disclosure = models.Disclosure{}
		old.DefaultVersion = 0
		old.Versions = nil
		return old, nil
	})
	ok(t, err)
	after.Roles, after.Aliases, after.Disclosure = []string{"admin"}, map[string]int{"new": 2, "newest": 2}, models.Disclosure{}
	checkModel(t, s, got, expect(after, 0, 3, v, second))
	sameModel(t, load(t, s, "other"), other)
}

func testUpdateModelRefused(t *testing.T, s Store) {
	ctx := t.Context()
	before := addModel(t, s, "iris")
	addModel(t, s, "other")
	refusal := errors.New("not today")
	_, err := s.UpdateModel(ctx, "iris", func(old *models.Model) (*models.Model, error) {
		old.Description = "x"
		return old, refusal
	})
	if err != refusal {
		t.Fatalf("error: %v; want the function's own", err)
	}
	for word, change := range map[string]func(*models.Model){
		"wizard":    func(m *models.Model) { m.Roles = []string{"user", "wizard"} },
		"sorcerer":  func(m *models.Model) { m.Disclosure.Roles = map[string]models.Rule{"sorcerer": {}} },
		"version 2": func(m *models.Model) { m.DefaultVersion = 2 },
		"stable":    func(m *models.Model) { m.Aliases = map[string]int{"stable": 9} },
	} {
		_, err := s.UpdateModel(ctx, "iris", func(old *models.Model) (*models.Model, error) {
			old.Description = "half made"
			change(old)
			return old, nil
		})
		want(t, err, models.ErrInvalid)
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %s: %v", word, err)
		}
	}
	_, err = s.UpdateModel(ctx, "absent", asIs)
	want(t, err, models.ErrNotFound)
	sameModel(t, load(t, s, "iris"), before)
}

// Updates that overlap build on each other: none is lost.
func testUpdateModelRace(t *testing.T, s Store) {
	ctx := t.Context()
	addModel(t, s, "iris")
	errs := race(30, func(int) error {
		_, err := s.UpdateModel(ctx, "iris", func(old *models.Model) (*models.Model, error) {
			old.Serving.TimeoutMS++
			return old, nil
		})
		return err
	})
	equal(t, "updates made", count(errs, nil), 30)
	equal(t, "updates kept", load(t, s, "iris").Serving.TimeoutMS, 280)
}

func testDeleteModel(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	m, v := newModel("iris", "id-ada", "user")
	m.Aliases = map[string]int{"stable": 1}
	_, err := s.AddVersion(ctx, m, v, nil)
	ok(t, err)
	other := addModel(t, s, "other")
	ok(t, s.DeleteModel(ctx, "iris"))
	want(t, s.DeleteModel(ctx, "iris"), models.ErrNotFound)
	list, err := s.Models(ctx)
	ok(t, err)
	equal(t, "models left", len(list), 1)
	sameModel(t, list[0], other)

	// Nothing of the old one is left to come back, and its owner lives on.
	m, v = newModel("iris", "")
	got, err := s.AddVersion(ctx, m, v, asItIs)
	ok(t, err)
	v.Number = 1
	checkModel(t, s, got, expect(m, 1, 2, v))
	_, err = s.User(ctx, "id-ada")
	ok(t, err)
	ok(t, s.DeleteUser(ctx, "id-ada", func(auth.User, int) error { return nil }))
}

// asIs and asItIs agree to what happens and change nothing.
func asIs(m *models.Model) (*models.Model, error) { return m, nil }

func asItIs(m *models.Model, _ int) (*models.Model, error) { return m, nil }
