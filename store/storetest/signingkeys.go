package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"modelgate/auth"
)

var signingKeyTests = []test{
	{"UpdateSigningKeys", testUpdateSigningKeys},
	{"SigningKeyRace", testSigningKeyRace},
}

func signingKey(id string, active time.Duration) auth.SigningKey {
	return auth.SigningKey{ID: id, Sealed: []byte("sealed " + id), CreatedAt: noon, ActiveAt: noon.Add(active)}
}

func checkSigningKeys(t *testing.T, got []auth.SigningKey, want ...auth.SigningKey) {
	t.Helper()
	equal(t, "signing keys", len(got), len(want))
	for i, w := range want {
		g := got[i]
		equal(t, "id", g.ID, w.ID)
		equal(t, "sealed", string(g.Sealed), string(w.Sealed))
		equal(t, "made at", g.CreatedAt, kept(w.CreatedAt))
		equal(t, "active at", g.ActiveAt, kept(w.ActiveAt))
		equal(t, "retired at", g.RetireAt, kept(w.RetireAt))
	}
}

func testUpdateSigningKeys(t *testing.T, s Store) {
	ctx := t.Context()
	replace := func(keys ...auth.SigningKey) []auth.SigningKey {
		t.Helper()
		stored, err := s.UpdateSigningKeys(ctx, func([]auth.SigningKey) ([]auth.SigningKey, error) { return keys, nil })
		ok(t, err)
		listed, err := s.SigningKeys(ctx)
		ok(t, err)
		checkSigningKeys(t, listed, stored...)
		return stored
	}
	list, err := s.SigningKeys(ctx)
	ok(t, err)
	checkSigningKeys(t, list)
	second, first := signingKey("a", time.Hour), signingKey("b", 0)
	checkSigningKeys(t, replace(second, first), first, second)
	first.RetireAt, first.Sealed = noon.Add(2*time.Hour), []byte("sealed anew")
	checkSigningKeys(t, replace(first, second), first, second)
	refused := errors.New("no")
	_, err = s.UpdateSigningKeys(ctx, func(old []auth.SigningKey) ([]auth.SigningKey, error) {
		checkSigningKeys(t, old, first, second)
		return nil, refused
	})
	want(t, err, refused)
	checkSigningKeys(t, replace(second), second)
	checkSigningKeys(t, replace())
}

// Of servers that rotate at once, one makes a key.
func testSigningKeyRace(t *testing.T, s Store) {
	ctx := t.Context()
	made := errors.New("made by another")
	errs := race(20, func(i int) error {
		_, err := s.UpdateSigningKeys(ctx, func(old []auth.SigningKey) ([]auth.SigningKey, error) {
			if len(old) > 0 {
				return nil, made
			}
			return []auth.SigningKey{signingKey(fmt.Sprint(i), 0)}, nil
		})
		return err
	})
	equal(t, "made", count(errs, nil), 1)
	equal(t, "refused", count(errs, made), 19)
	list, err := s.SigningKeys(ctx)
	ok(t, err)
	if len(list) != 1 || !bytes.HasPrefix(list[0].Sealed, []byte("sealed")) {
		t.Fatalf("%+v", list)
	}
}
