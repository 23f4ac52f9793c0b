package storetest

import (
	"fmt"
	"testing"
	"time"

	"modelgate/auth"
)

var clientTests = []test{
	{"CreateService", testCreateService},
	{"SecretsOf", testSecretsOf},
	{"DeleteSecret", testDeleteSecret},
	{"TouchSecret", testTouchSecret},
	{"ClientSession", testClientSession},
	{"DeleteService", testDeleteService},
	{"SweepSecrets", testSweepSecrets},
}

func newSecret(id, user string) auth.ClientSecret {
	return auth.ClientSecret{ID: id, UserID: "id-" + user, Hash: hash(id), CreatedBy: "id-maker", CreatedAt: noon}
}

func newService(name string, roles ...string) auth.User {
	u := newUser(name, roles...)
	u.Kind, u.PasswordHash = auth.ServiceAccount, ""
	return u
}

// addService makes a service account whose secret is called like it.
func addService(t *testing.T, s Store, name string) auth.User {
	t.Helper()
	u := newService(name)
	ok(t, s.CreateService(t.Context(), u, newSecret(name, name)))
	return u
}

func newClientSession(id, user, secret string) auth.Session {
	return auth.Session{ID: id, UserID: "id-" + user, ClientID: "id-" + user, SecretID: secret, Address: "192.0.2.1", UserAgent: "curl/8",
		CreatedAt: noon, LastUsed: noon, ExpiresAt: noon.Add(time.Hour)}
}

func checkSecret(t *testing.T, got, want auth.ClientSecret) {
	t.Helper()
	want.CreatedAt, want.ExpiresAt, want.LastUsed = kept(want.CreatedAt), kept(want.ExpiresAt), kept(want.LastUsed)
	equal(t, "secret", got, want)
}

func testCreateService(t *testing.T, s Store) {
	ctx := t.Context()
	u := newService("robot", "user")
	first := newSecret("c", "robot")
	first.ExpiresAt = noon.Add(time.Hour)
	ok(t, s.CreateService(ctx, u, first))
	got, err := s.UserByName(ctx, "robot")
	ok(t, err)
	checkUser(t, got, u)
	list, err := s.SecretsOf(ctx, u.ID)
	ok(t, err)
	equal(t, "secrets", len(list), 1)
	checkSecret(t, list[0], first)

	// An update does not make a person of it.
	got, err = s.UpdateUser(ctx, u.ID, func(old auth.User, _ int) (auth.User, error) {
		old.Kind = auth.Person
		return old, nil
	})
	ok(t, err)
	checkUser(t, got, u)

	want(t, s.CreateService(ctx, u, newSecret("d", "robot")), auth.ErrTaken)
	// The secret of another: nothing of the new account is made.
	stolen := newSecret("e", "other")
	stolen.Hash = first.Hash
	want(t, s.CreateService(ctx, newService("other"), stolen), auth.ErrTaken)
	_, err = s.UserByName(ctx, "other")
	want(t, err, auth.ErrNotFound)
	want(t, s.CreateService(ctx, newService("third", "wizard"), newSecret("f", "third")), auth.ErrInvalid)
}

func testSecretsOf(t *testing.T, s Store) {
	ctx := t.Context()
	addService(t, s, "robot")
	addService(t, s, "other")
	for i := range 2 {
		c := newSecret(fmt.Sprint("c", i), "robot")
		c.CreatedAt = noon.Add(time.Duration(i+1) * time.Second)
		ok(t, s.CreateSecret(ctx, c))
	}
	list, err := s.SecretsOf(ctx, "id-robot")
	ok(t, err)
	equal(t, "secrets", len(list), 3)
	for i, id := range []string{"c1", "c0", "robot"} {
		equal(t, "secret", list[i].ID, id)
	}
	list, err = s.SecretsOf(ctx, "nobody")
	ok(t, err)
	equal(t, "secrets of nobody", len(list), 0)
	want(t, s.CreateSecret(ctx, newSecret("c", "nobody")), auth.ErrNotFound)
	want(t, s.CreateSecret(ctx, newSecret("c0", "robot")), auth.ErrTaken)
}

func testDeleteSecret(t *testing.T, s Store) {
	ctx := t.Context()
	addService(t, s, "robot")
	addService(t, s, "other")
	ok(t, s.CreateSecret(ctx, newSecret("second", "robot")))
	ok(t, beginClient(ctx, s, newClientSession("s1", "robot", "robot")))
	ok(t, beginClient(ctx, s, newClientSession("s2", "robot", "second")))
	want(t, s.DeleteSecret(ctx, "id-other", "robot"), auth.ErrNotFound) // another's
	_, err := s.Session(ctx, "s1")
	ok(t, err)

	ok(t, s.DeleteSecret(ctx, "id-robot", "robot"))
	want(t, s.DeleteSecret(ctx, "id-robot", "robot"), auth.ErrNotFound)
	_, err = s.Session(ctx, "s1")
	want(t, err, auth.ErrNotFound)
	_, err = s.Session(ctx, "s2") // begun with the other secret
	ok(t, err)
	want(t, beginClient(ctx, s, newClientSession("s3", "robot", "robot")), auth.ErrNotFound)
}

func testTouchSecret(t *testing.T, s Store) {
	ctx := t.Context()
	addService(t, s, "robot")
	errs := race(20, func(i int) error { return s.TouchSecret(ctx, "robot", noon.Add(time.Duration(i)*time.Second)) })
	equal(t, "touched", count(errs, nil), 20)
	list, err := s.SecretsOf(ctx, "id-robot")
	ok(t, err)
	c := newSecret("robot", "robot")
	c.LastUsed = noon.Add(19 * time.Second) // whatever their order, the latest stays
	checkSecret(t, list[0], c)
	want(t, s.TouchSecret(ctx, "unknown", noon), auth.ErrNotFound)
}

func testClientSession(t *testing.T, s Store) {
	ctx := t.Context()
	addService(t, s, "robot")
	made := newClientSession("s", "robot", "robot")
	ok(t, beginClient(ctx, s, made))
	got, err := s.Session(ctx, "s")
	ok(t, err)
	checkSession(t, got, made)
	for late, n := range map[time.Duration]int{time.Hour - time.Microsecond: 1, time.Hour: 0} { // until the access token expires
		list, err := s.SessionsOf(ctx, "id-robot", noon.Add(late))
		ok(t, err)
		equal(t, "sessions", len(list), n)
	}
	want(t, beginClient(ctx, s, made), auth.ErrTaken)
	want(t, beginClient(ctx, s, newClientSession("t", "nobody", "robot")), auth.ErrNotFound)
	want(t, beginClient(ctx, s, newClientSession("t", "robot", "unknown")), auth.ErrNotFound)

	ended, err := s.EndSessions(ctx, "id-robot", "")
	ok(t, err)
	equal(t, "ended", len(ended), 1)
	_, err = s.Session(ctx, "s")
	want(t, err, auth.ErrNotFound)
}

func testDeleteService(t *testing.T, s Store) {
	ctx := t.Context()
	u := addService(t, s, "robot")
	ok(t, beginClient(ctx, s, newClientSession("s", "robot", "robot")))
	ok(t, s.DeleteUser(ctx, u.ID, func(old auth.User, _ int) error { checkUser(t, old, u); return nil }))
	list, err := s.SecretsOf(ctx, u.ID)
	ok(t, err)
	equal(t, "secrets", len(list), 0)
	_, err = s.Session(ctx, "s")
	want(t, err, auth.ErrNotFound)
	addService(t, s, "robot") // name and secret are free again
}

func testSweepSecrets(t *testing.T, s Store) {
	ctx := t.Context()
	addService(t, s, "robot")
	mortal := newSecret("mortal", "robot")
	mortal.ExpiresAt = noon.Add(2 * time.Hour)
	ok(t, s.CreateSecret(ctx, mortal))
	ok(t, beginClient(ctx, s, newClientSession("s", "robot", "robot")))
	secrets := func(n int) {
		t.Helper()
		list, err := s.SecretsOf(ctx, "id-robot")
		ok(t, err)
		equal(t, "secrets", len(list), n)
	}

	ok(t, s.Sweep(ctx, noon.Add(time.Hour-time.Microsecond)))
	_, err := s.Session(ctx, "s")
	ok(t, err)
	ok(t, s.Sweep(ctx, noon.Add(time.Hour)))
	_, err = s.Session(ctx, "s")
	want(t, err, auth.ErrNotFound)
	secrets(2)
	ok(t, s.Sweep(ctx, noon.Add(2*time.Hour)))
	secrets(1)
	ok(t, s.Sweep(ctx, noon.Add(1000000*time.Hour)))
	secrets(1)
}
