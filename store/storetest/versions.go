package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"modelgate/models"
)

var versionTests = []test{
	{"AddVersion", testAddVersion},
	{"AddVersionRefused", testAddVersionRefused},
	{"AddVersionRace", testAddVersionRace},
	{"SetState", testSetState},
	{"DeleteVersion", testDeleteVersion},
	{"DeleteVersionRefused", testDeleteVersionRefused},
	{"NumbersAreNeverReused", testNumbersAreNeverReused},
}

func testAddVersion(t *testing.T, s Store) {
	ctx := t.Context()
	m, first := newModel("iris", "", "user")
	_, err := s.AddVersion(ctx, m, first, nil)
	ok(t, err)
	first.Number = 1

	// Of the model given only the name counts.
	second := newVersion("iris", "b")
	second.Number, second.Model = 9, "x"
	ignored := &models.Model{Name: "iris", ID: "x", OwnerID: "nobody", Description: "x", Roles: []string{"wizard"}}
	got, err := s.AddVersion(ctx, ignored, second, func(old *models.Model, number int) (*models.Model, error) {
		equal(t, "number", number, 2)
		sameModel(t, old, expect(m, 1, 2, first))
		return old, nil
	})
	ok(t, err)
	second.Number = 2
	checkModel(t, s, got, expect(m, 1, 3, first, second))

	// The function may change the model, and name the new version.
	third := newVersion("iris", "c")
	got, err = s.AddVersion(ctx, ignored, third, func(old *models.Model, number int) (*models.Model, error) {
		old.ID, old.NextVersion = "x", 50 // can't change
		old.DefaultVersion, old.Aliases = number, map[string]int{"canary": number}
		old.Description, old.Roles, old.UpdatedAt = "better", []string{"data-scientist"}, noon.Add(time.Hour)
		return old, nil
	})
	ok(t, err)
	third.Number = 3
	m.Description, m.Roles, m.UpdatedAt = "better", []string{"data-scientist"}, noon.Add(time.Hour)
	m.Aliases = map[string]int{"canary": 3}
	checkModel(t, s, got, expect(m, 3, 4, first, second, third))
}

func testAddVersionRefused(t *testing.T, s Store) {
	ctx := t.Context()
	before := addModel(t, s, "iris")
	refusal := errors.New("not today")
	_, err := s.AddVersion(ctx, &models.Model{Name: "iris"}, newVersion("iris", "b"),
		func(old *models.Model, _ int) (*models.Model, error) {
			old.Description = "x"
			return old, refusal
		})
	if err != refusal {
		t.Fatalf("error: %v; want the function's own", err)
	}
	_, err = s.AddVersion(ctx, &models.Model{Name: "iris"}, newVersion("iris", "a"), asItIs) // an id in use
	want(t, err, models.ErrConflict)
	_, err = s.AddVersion(ctx, &models.Model{Name: "iris"}, newVersion("iris", "b"),
		func(old *models.Model, number int) (*models.Model, error) {
			old.DefaultVersion = number + 1
			return old, nil
		})
	want(t, err, models.ErrInvalid)
	sameModel(t, load(t, s, "iris"), before)
}

// Versions that are added at once, the first one of the model among them, get the numbers 1 to n, each once.
func testAddVersionRace(t *testing.T, s Store) {
	ctx := t.Context()
	const n = 30
	got := make([]int, n)
	errs := race(n, func(i int) error {
		m, v := newModel("iris", "")
		v.ID = fmt.Sprint("v", i)
		told := 1
		after, err := s.AddVersion(ctx, m, v, func(old *models.Model, number int) (*models.Model, error) {
			told = number
			return old, nil
		})
		if err != nil {
			return err
		}
		at := slices.IndexFunc(after.Versions, func(v *models.Version) bool { return v.ID == fmt.Sprint("v", i) })
		if at < 0 || after.Versions[at].Number != told {
			return fmt.Errorf("told number %d, got %+v", told, after.Versions)
		}
		got[i] = told
		return nil
	})
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		t.Fatal(errs[i])
	}
	slices.Sort(got)
	for i, number := range got {
		equal(t, "number", number, i+1)
	}
	m := load(t, s, "iris")
	equal(t, "versions", len(m.Versions), n)
	equal(t, "next", m.NextVersion, n+1)
	equal(t, "default", m.DefaultVersion, 1)
}

func testSetState(t *testing.T, s Store) {
	ctx := t.Context()
	m, first := newModel("iris", "", "user")
	_, err := s.AddVersion(ctx, m, first, nil)
	ok(t, err)
	second := newVersion("iris", "b")
	_, err = s.AddVersion(ctx, m, second, asItIs)
	ok(t, err)
	first.Number, second.Number = 1, 2

	got, err := s.SetState(ctx, "iris", 2, models.Quarantined, "its file changed")
	ok(t, err)
	second.State, second.Reason = models.Quarantined, "its file changed"
	checkModel(t, s, got, expect(m, 1, 3, first, second))
	got, err = s.SetState(ctx, "iris", 2, models.Ready, "")
	ok(t, err)
	second.State, second.Reason = models.Ready, ""
	checkModel(t, s, got, expect(m, 1, 3, first, second))

	_, err = s.SetState(ctx, "iris", 3, models.Quarantined, "")
	want(t, err, models.ErrNotFound)
	_, err = s.SetState(ctx, "absent", 1, models.Quarantined, "")
	want(t, err, models.ErrNotFound)
}

func testDeleteVersion(t *testing.T, s Store) {
	ctx := t.Context()
	m, v := newModel("iris", "", "user")
	_, err := s.AddVersion(ctx, m, v, nil)
	ok(t, err)
	versions := []*models.Version{v, newVersion("iris", "b"), newVersion("iris", "c")}
	for i, v := range versions {
		if i > 0 {
			_, err := s.AddVersion(ctx, m, v, asItIs)
			ok(t, err)
		}
		v.Number = i + 1
	}
	m.Aliases = map[string]int{"old": 1, "stable": 2, "newest": 3}
	_, err = s.UpdateModel(ctx, "iris", func(old *models.Model) (*models.Model, error) {
		old.Aliases = m.Aliases
		return old, nil
	})
	ok(t, err)

	// Not the default: that stays.
	m.Aliases = map[string]int{"old": 1, "newest": 3}
	got, err := s.DeleteVersion(ctx, "iris", 2, func(rest *models.Model) (*models.Model, error) {
		sameModel(t, rest, expect(m, 1, 4, versions[0], versions[2]))
		return rest, nil
	})
	ok(t, err)
	checkModel(t, s, got, expect(m, 1, 4, versions[0], versions[2]))

	// The default: the function chooses another.
	m.Aliases = map[string]int{"newest": 3}
	m.UpdatedAt = noon.Add(time.Hour)
	got, err = s.DeleteVersion(ctx, "iris", 1, func(rest *models.Model) (*models.Model, error) {
		equal(t, "default of the rest", rest.DefaultVersion, 0)
		rest.DefaultVersion, rest.UpdatedAt = 3, m.UpdatedAt
		return rest, nil
	})
	ok(t, err)
	checkModel(t, s, got, expect(m, 3, 4, versions[2]))

	// The last one: a model without versions is left.
	m.Aliases = nil
	got, err = s.DeleteVersion(ctx, "iris", 3, asIs)
	ok(t, err)
	checkModel(t, s, got, expect(m, 0, 4))
}

func testDeleteVersionRefused(t *testing.T, s Store) {
	ctx := t.Context()
	before := addModel(t, s, "iris")
	refusal := errors.New("not today")
	_, err := s.DeleteVersion(ctx, "iris", 1, func(rest *models.Model) (*models.Model, error) { return rest, refusal })
	if err != refusal {
		t.Fatalf("error: %v; want the function's own", err)
	}
	_, err = s.DeleteVersion(ctx, "iris", 1, func(rest *models.Model) (*models.Model, error) {
		rest.DefaultVersion = 1 // the one that goes
		return rest, nil
	})
	want(t, err, models.ErrInvalid)
	_, err = s.DeleteVersion(ctx, "iris", 2, asIs)
	want(t, err, models.ErrNotFound)
	_, err = s.DeleteVersion(ctx, "absent", 1, asIs)
	want(t, err, models.ErrNotFound)
	sameModel(t, load(t, s, "iris"), before)
}

func testNumbersAreNeverReused(t *testing.T, s Store) {
	ctx := t.Context()
	addModel(t, s, "iris")
	for number := 1; number < 5; number++ {
		_, err := s.DeleteVersion(ctx, "iris", number, asIs)
		ok(t, err)
		got, err := s.AddVersion(ctx, &models.Model{Name: "iris"}, newVersion("iris", fmt.Sprint(number)), asItIs)
		ok(t, err)
		equal(t, "versions", len(got.Versions), 1)
		equal(t, "number", got.Versions[0].Number, number+1)
		equal(t, "next", got.NextVersion, number+2)
		equal(t, "default", got.DefaultVersion, 0) // nobody chose one
	}
}
