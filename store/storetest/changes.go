package storetest

import (
	"slices"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/models"
)

var changeTests = []test{
	{"Changes", testChanges},
	{"ModelChanges", testModelChanges},
	{"SigningKeyChanges", testSigningKeyChanges},
	{"ChangeMarks", testChangeMarks},
	{"ChangesWithTheirCause", testChangesWithTheirCause},
}

// told does something and checks that exactly these changes are told of it.
func told(t *testing.T, s Store, what string, do func() error, want ...auth.Change) {
	t.Helper()
	before, err := s.Changes(t.Context(), -1)
	ok(t, err)
	if err := do(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	got, err := s.Changes(t.Context(), before.Mark)
	ok(t, err)
	if got.All || !slices.Equal(got.List, want) {
		t.Errorf("%s: told %+v; want %v", what, got, want)
	}
}

// Whatever ends or alters what somebody may do is told; what doesn't is not, so that nobody asks the database for nothing.
func testChanges(t *testing.T, s Store) {
	ctx := t.Context()
	ada, bob := auth.Change{Kind: auth.UserChanged, Subject: "id-ada"}, auth.Change{Kind: auth.UserChanged, Subject: "id-bob"}
	ops := auth.Change{Kind: auth.RoleChanged, Subject: "ops"}
	role := auth.Role{Name: "ops", Permissions: auth.AuditRead, CreatedAt: noon}
	put := func() error { return s.PutRole(ctx, role) }
	told(t, s, "a new role", put, ops)
	told(t, s, "the same role", put)
	role.Rate = "10-M"
	told(t, s, "another rate", put, ops)
	role.DailyRows = 1000
	told(t, s, "another budget", put, ops)
	role.Permissions = auth.ModelsWrite
	told(t, s, "other permissions", put, ops)

	addUser(t, s, "ada")
	addUser(t, s, "bob")
	update := func(f func(*auth.User)) func() error {
		return func() error {
			_, err := s.UpdateUser(ctx, "id-ada", func(u auth.User, _ int) (auth.User, error) { f(&u); return u, nil })
			return err
		}
	}
	told(t, s, "roles", update(func(u *auth.User) { u.Roles = []string{"ops"} }), ada)
	told(t, s, "disabling", update(func(u *auth.User) { u.Disabled = true }), ada)
	told(t, s, "a password", update(func(u *auth.User) { u.PasswordHash = "other" }), ada)
	told(t, s, "a ticket", func() error {
		return s.PutTicket(ctx, auth.Ticket{Hash: hash("t"), Kind: auth.PasswordReset, UserID: "id-ada", ExpiresAt: noon.Add(time.Hour)})
	})
	told(t, s, "a redeemed ticket", func() error {
		_, err := s.Redeem(ctx, hash("t"), auth.PasswordReset, noon, func(u auth.User) (auth.User, error) { return u, nil })
		return err
	}, ada)

	session := func(id, user string) func() error {
		return func() error {
			return begin(ctx, s, auth.Session{ID: id, UserID: "id-" + user, ExpiresAt: noon.Add(time.Hour)},
				auth.RefreshToken{Hash: hash(id), ExpiresAt: noon.Add(time.Hour)})
		}
	}
	rotate := func() error {
		_, err := s.Rotate(ctx, hash("s1"), auth.RefreshToken{Hash: hash("s1 next"), ExpiresAt: noon.Add(time.Hour)}, noon)
		return err
	}
	told(t, s, "a login", session("s1", "ada"))
	told(t, s, "the use of a login", func() error { return s.TouchSession(ctx, "s1", noon) })
	told(t, s, "a refresh", rotate)
	told(t, s, "a replay", func() error { want(t, rotate(), auth.ErrReused); return nil }, ada)
	ok(t, session("s2", "ada")())
	told(t, s, "a logout", func() error { return s.EndSession(ctx, "s2") }, ada)
	ok(t, session("s3", "ada")())
	told(t, s, "the end of all sessions", func() error { _, err := s.EndSessions(ctx, "id-ada", ""); return err }, ada)

	for what, d := range map[string]auth.Displaced{"a login in another's place": {ID: "s5"}, "a login too many": {Most: 1}} {
		session, first := newSession("s6", "ada")
		before, token := newSession("s5", "ada")
		ok(t, begin(ctx, s, before, token))
		told(t, s, what, func() error { _, err := s.CreateSession(ctx, session, first, d); return err }, ada)
		told(t, s, "the end of all users' sessions", func() error { return s.EndAllSessions(ctx) }, ada)
	}

	told(t, s, "an API key", func() error { return s.CreateKey(ctx, newKey("k", "bob")) })
	told(t, s, "the use of a key", func() error { return s.TouchKey(ctx, "k", noon) })
	told(t, s, "the end of a key", func() error { return s.DeleteKey(ctx, "id-bob", "k") }, bob)

	ok(t, session("s4", "ada")())
	told(t, s, "the end of a user", func() error { return s.DeleteUser(ctx, "id-ada", agree) }, ada)
	told(t, s, "a role less", func() error { return s.DeleteRole(ctx, "ops", yes) }, ops)
}

func agree(auth.User, int) error { return nil }

// The same of models.
func testModelChanges(t *testing.T, s Store) {
	ctx := t.Context()
	iris := auth.Change{Kind: auth.ModelChanged, Subject: "iris"}
	ok(t, s.PutRole(ctx, auth.Role{Name: "ops", CreatedAt: noon}))
	addUser(t, s, "bob")
	update := func(f func(*models.Model)) func() error {
		return func() error {
			_, err := s.UpdateModel(ctx, "iris", func(m *models.Model) (*models.Model, error) { f(m); return m, nil })
			return err
		}
	}
	told(t, s, "a model", func() error {
		_, err := s.AddVersion(ctx, &models.Model{ID: "m", Name: "iris", OwnerID: "id-bob", Roles: []string{"ops"}}, &models.Version{ID: "v"}, nil)
		return err
	}, iris)
	told(t, s, "a model's roles", update(func(m *models.Model) { m.Roles = nil }), iris)
	told(t, s, "a model's policy", update(func(m *models.Model) { m.Disclosure.LabelOnly = true }), iris)
	told(t, s, "a version", func() error {
		_, err := s.AddVersion(ctx, &models.Model{Name: "iris"}, &models.Version{ID: "v2"}, func(old *models.Model, _ int) (*models.Model, error) { return old, nil })
		return err
	}, iris)
	told(t, s, "a quarantine", func() error { _, err := s.SetState(ctx, "iris", 2, models.Quarantined, "damaged"); return err }, iris)
	told(t, s, "a version less", func() error {
		_, err := s.DeleteVersion(ctx, "iris", 2, func(m *models.Model) (*models.Model, error) { return m, nil })
		return err
	}, iris)
	told(t, s, "the end of the owner", func() error { return s.DeleteUser(ctx, "id-bob", agree) },
		iris, auth.Change{Kind: auth.UserChanged, Subject: "id-bob"})
	told(t, s, "a model less", func() error { return s.DeleteModel(ctx, "iris") }, iris)
}

// The same of signing keys.
func testSigningKeyChanges(t *testing.T, s Store) {
	ctx := t.Context()
	keys := auth.Change{Kind: auth.KeysChanged}
	write := func(list ...auth.SigningKey) func() error {
		return func() error {
			_, err := s.UpdateSigningKeys(ctx, func([]auth.SigningKey) ([]auth.SigningKey, error) { return list, nil })
			return err
		}
	}
	a, b := signingKey("a", 0), signingKey("b", time.Hour)
	told(t, s, "a signing key", write(a), keys)
	told(t, s, "the same signing key", write(a))
	a.RetireAt = noon.Add(time.Hour)
	told(t, s, "a rotation", write(a, b), keys)
	told(t, s, "a signing key less", write(b), keys)
}

func testChangeMarks(t *testing.T, s Store) {
	ctx := t.Context()
	ask := func(mark int64) auth.Changes {
		t.Helper()
		got, err := s.Changes(ctx, mark)
		ok(t, err)
		return got
	}
	if got := ask(-1); !got.All || len(got.List) != 0 {
		t.Errorf("of the beginning: %+v", got)
	}
	start := ask(-1).Mark
	for _, name := range []string{"b", "a", "b"} {
		ok(t, s.PutRole(ctx, auth.Role{Name: name, Rate: "1-S", CreatedAt: noon}))
		ok(t, s.DeleteRole(ctx, name, yes))
	}
	got := ask(start)
	want := []auth.Change{{Kind: auth.RoleChanged, Subject: "b"}, {Kind: auth.RoleChanged, Subject: "a"}}
	if got.All || !slices.Equal(got.List, want) {
		t.Errorf("%+v; want %v", got, want)
	}
	if again := ask(got.Mark); again.All || len(again.List) != 0 || again.Mark != got.Mark {
		t.Errorf("when nothing happened: %+v", again)
	}
	if got := ask(got.Mark + 1); !got.All {
		t.Errorf("a mark of another database: %+v", got)
	}
	ok(t, s.Sweep(ctx, noon))
	if after := ask(start); after.All || !slices.Equal(after.List, want) {
		t.Errorf("swept too early: %+v", after)
	}
}

// A change is told in the transaction that makes it: with the one undone, so is the other.
func testChangesWithTheirCause(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	told(t, s, "a refused change", func() error {
		_, err := s.UpdateUser(ctx, "id-ada", func(u auth.User, _ int) (auth.User, error) {
			u.Roles = []string{"user", "missing"}
			return u, nil
		})
		want(t, err, auth.ErrInvalid)
		return nil
	})
}
