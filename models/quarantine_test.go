package models_test

import (
	"context"
	"os"
	"slices"
	"testing"

	"modelgate/models"
)

// TestReadDamaged: a file that is missing or changed costs its version alone.
func TestReadDamaged(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"missing": os.Remove,
		"changed": func(path string) error {
			data, err := os.ReadFile(path)
			if err == nil {
				data[len(data)/2] ^= 1
				err = os.WriteFile(path, data, 0o600)
			}
			return err
		},
		"shorter": func(path string) error { return os.Truncate(path, 10) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			_, good := r.publish(t, ann, "good", sample(t, "two_io"), models.Spec{Roles: []string{"user"}})
			_, bad := r.publish(t, ann, "bad", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
			if err := spoil(r.blob(bad.Digest)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_, err := r.catalog.Read(t.Context(), bad)
				wantError(t, "read", err, models.ErrQuarantined)
			}
			if !slices.Equal(r.retired, []string{bad.ID}) {
				t.Errorf("retired %v", r.retired)
			}
			check := func() {
				t.Helper()
				_, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "bad"})
				wantError(t, "open", err, models.ErrQuarantined)
				access, err := r.catalog.Describe(t.Context(), ann, "bad")
				if err != nil || access.Version.State != models.Quarantined || access.Version.Reason == "" {
					t.Errorf("described: %+v (%v)", access.Version, err)
				}
				if _, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "good"}); err != nil {
					t.Errorf("the other: %v", err)
				}
				if _, err := r.catalog.Read(t.Context(), good); err != nil {
					t.Errorf("the other: %v", err)
				}
			}
			check()
			if got := r.audited(t); !slices.Contains(got, "modelgate model.quarantine bad allowed") {
				t.Errorf("audited: %q", got)
			}
			r.reopen(t)
			check()
			// The same file once more is a version that works, and at the next
			// start the old one works again as well.
			r.publish(t, ann, "bad", sample(t, "iris"), models.Spec{Default: true})
			access, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "bad"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.catalog.Read(t.Context(), access.Version); err != nil {
				t.Errorf("published again: %v", err)
			}
			r.reopen(t)
			access, err = r.catalog.Open(t.Context(), eve, models.Ref{Model: "bad", Version: 1})
			if err != nil || access.Version.State != models.Ready {
				t.Errorf("its file is whole again, but: %v", err)
			}
			if got := r.audited(t); !slices.Contains(got, "modelgate model.restore bad allowed") {
				t.Errorf("audited: %q", got)
			}
		})
	}
}

// stuck is a store that can't store a state.
type stuck struct{ models.Store }

func (stuck) SetState(context.Context, string, int, models.State, string) (*models.Model, error) {
	return nil, errLost
}

// TestQuarantineUnrecorded: a database and a log that fail don't keep a
// damaged version in service.
func TestQuarantineUnrecorded(t *testing.T) {
	r := newRoomBefore(t, func(s models.Store) models.Store { return stuck{s} })
	_, v := r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.blob(v.Digest)); err != nil {
		t.Fatal(err)
	}
	_, err := r.catalog.Read(t.Context(), v)
	wantError(t, "read", err, models.ErrQuarantined)
	_, err = r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"})
	wantError(t, "open", err, models.ErrQuarantined)
	if v.State != models.Ready {
		t.Error("a version handed out before was changed")
	}
}

// TestQuarantineCrashing: a version that was taken out for crashing does not
// come back by itself.
func TestQuarantineCrashing(t *testing.T) {
	r := newRoom(t)
	_, v := r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
	for range 2 {
		if err := r.catalog.Quarantine(t.Context(), v, "it crashed 3 times in a minute"); err != nil {
			t.Fatal(err)
		}
	}
	r.reopen(t)
	_, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"})
	wantError(t, "open", err, models.ErrQuarantined)
	if got := r.audited(t); len(got) != 2 {
		t.Errorf("audited: %q", got)
	}
}

// TestQuarantinedForCrashes: those who manage the model see why, and the same
// file published once more is a version that works; the old one stays where it
// is, its file being whole all the time.
func TestQuarantinedForCrashes(t *testing.T) {
	r := newRoom(t)
	_, v := r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
	const reason = "its process ended 5 times within 1m0s, the last time so: signal: segmentation fault"
	if err := r.catalog.Quarantine(t.Context(), v, reason); err != nil {
		t.Fatal(err)
	}
	access, err := r.catalog.Describe(t.Context(), ann, "iris")
	if err != nil || access.Version.State != models.Quarantined || access.Version.Reason != reason {
		t.Errorf("described: %+v (%v)", access.Version, err)
	}
	_, again := r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{})
	if again.Number != 2 || again.Digest != v.Digest || again.State != models.Ready {
		t.Errorf("published again: %+v", again)
	}
	check := func() {
		t.Helper()
		access, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris", Version: 2})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.catalog.Read(t.Context(), access.Version); err != nil {
			t.Errorf("reading it: %v", err)
		}
		_, err = r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris", Version: 1})
		wantError(t, "the old one", err, models.ErrQuarantined)
	}
	check()
	if _, err := r.catalog.Update(t.Context(), ann, "iris", models.Patch{DefaultVersion: pointer(2)}); err != nil {
		t.Errorf("making it the default: %v", err)
	}
	r.reopen(t)
	check()
	if err := r.catalog.DeleteVersion(t.Context(), ann, "iris", 1); err != nil {
		t.Errorf("deleting the old one: %v", err)
	}
	access, err = r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"})
	if err != nil || access.Version.Number != 2 {
		t.Errorf("the default: %+v (%v)", access.Version, err)
	}
}
