package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"modelgate/auth"
)

var keyTests = []test{
	{"CreateKey", testCreateKey},
	{"KeysOf", testKeysOf},
	{"DeleteKey", testDeleteKey},
	{"TouchKey", testTouchKey},
	{"SweepKeys", testSweepKeys},
}

func newKey(id, user string) auth.Key {
	return auth.Key{ID: id, UserID: "id-" + user, Name: "key " + id, Hash: hash(id), CreatedAt: noon}
}

func checkKey(t *testing.T, got, want auth.Key) {
	t.Helper()
	if !slices.Equal(got.Models, want.Models) || (got.Models == nil) != (want.Models == nil) {
		t.Fatalf("scope of key %s: %#v; want %#v", got.ID, got.Models, want.Models)
	}
	equal(t, "id", got.ID, want.ID)
	equal(t, "user", got.UserID, want.UserID)
	equal(t, "name", got.Name, want.Name)
	equal(t, "hash", got.Hash, want.Hash)
	equal(t, "made at", got.CreatedAt, kept(want.CreatedAt))
	equal(t, "expires at", got.ExpiresAt, kept(want.ExpiresAt))
	equal(t, "last used", got.LastUsed, kept(want.LastUsed))
}

func testCreateKey(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	whole := newKey("whole", "ada")
	narrow := newKey("narrow", "ada")
	narrow.Models, narrow.ExpiresAt, narrow.LastUsed = []string{"iris", "digits"}, noon.Add(time.Hour), noon
	useless := newKey("useless", "ada")
	useless.Models = []string{} // no model: not the same as every model
	for _, k := range []auth.Key{whole, narrow, useless} {
		ok(t, s.CreateKey(ctx, k))
		got, err := s.KeyByHash(ctx, k.Hash)
		ok(t, err)
		checkKey(t, got, k)
	}
	_, err := s.KeyByHash(ctx, hash("unknown"))
	want(t, err, auth.ErrNotFound)
	want(t, s.CreateKey(ctx, newKey("k", "nobody")), auth.ErrNotFound)
	want(t, s.CreateKey(ctx, whole), auth.ErrTaken)
	same := newKey("k", "ada")
	same.Hash = whole.Hash
	want(t, s.CreateKey(ctx, same), auth.ErrTaken)
}

func testKeysOf(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addUser(t, s, "bob")
	ok(t, s.CreateKey(ctx, newKey("of-bob", "bob")))
	for i, at := range []int{1, 3, 2} {
		k := newKey(fmt.Sprint("k", at), "ada")
		k.CreatedAt = noon.Add(time.Duration(at) * time.Second)
		k.Models = []string{"iris"}[:i%2]
		ok(t, s.CreateKey(ctx, k))
	}
	list, err := s.KeysOf(ctx, "id-ada")
	ok(t, err)
	equal(t, "keys", len(list), 3)
	for i, id := range []string{"k3", "k2", "k1"} {
		equal(t, "key", list[i].ID, id)
		one, err := s.KeyByHash(ctx, hash(id))
		ok(t, err)
		checkKey(t, list[i], one)
	}
	list, err = s.KeysOf(ctx, "nobody")
	ok(t, err)
	equal(t, "keys of nobody", len(list), 0)
}

func testDeleteKey(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addUser(t, s, "bob")
	ok(t, s.CreateKey(ctx, newKey("k", "ada")))
	want(t, s.DeleteKey(ctx, "id-bob", "k"), auth.ErrNotFound) // another's
	_, err := s.KeyByHash(ctx, hash("k"))
	ok(t, err)
	ok(t, s.DeleteKey(ctx, "id-ada", "k"))
	_, err = s.KeyByHash(ctx, hash("k"))
	want(t, err, auth.ErrNotFound)
	want(t, s.DeleteKey(ctx, "id-ada", "k"), auth.ErrNotFound)
}

func testTouchKey(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	k := newKey("k", "ada")
	ok(t, s.CreateKey(ctx, k))
	errs := race(20, func(i int) error { return s.TouchKey(ctx, "k", noon.Add(time.Duration(i)*time.Second)) })
	equal(t, "touched", count(errs, nil), 20)
	got, err := s.KeyByHash(ctx, k.Hash)
	ok(t, err)
	k.LastUsed = noon.Add(19 * time.Second) // whatever their order, the latest stays
	checkKey(t, got, k)
	want(t, s.TouchKey(ctx, "unknown", noon), auth.ErrNotFound)
}

func testSweepKeys(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	ok(t, s.CreateKey(ctx, newKey("eternal", "ada")))
	mortal := newKey("mortal", "ada")
	mortal.ExpiresAt = noon.Add(time.Hour)
	ok(t, s.CreateKey(ctx, mortal))

	ok(t, s.Sweep(ctx, noon.Add(time.Hour-time.Microsecond)))
	_, err := s.KeyByHash(ctx, hash("mortal"))
	ok(t, err)
	ok(t, s.Sweep(ctx, noon.Add(time.Hour)))
	_, err = s.KeyByHash(ctx, hash("mortal"))
	want(t, err, auth.ErrNotFound)
	ok(t, s.Sweep(ctx, noon.Add(1000000*time.Hour)))
	_, err = s.KeyByHash(ctx, hash("eternal"))
	ok(t, err)
}
