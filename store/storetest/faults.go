package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/models"
)

var faultTests = []test{
	{"Canceled", testCanceled},
	{"Deadline", testDeadline},
	{"Closed", testClosed},
	{"Panic", testPanic},
	{"ReadInCallback", testReadInCallback},
	{"Ping", func(t *testing.T, s Store) { ok(t, s.Ping(t.Context())) }},
}

// calls is every method, on what prepareCalls has made. None of them may take effect when it fails.
func calls(s Store) map[string]func(context.Context) error {
	all := userCalls(s)
	maps.Copy(all, credentialCalls(s))
	maps.Copy(all, modelCalls(s))
	return all
}

func userCalls(s Store) map[string]func(context.Context) error {
	session, first := newSession("new", "ada")
	change := func(u auth.User, _ int) (auth.User, error) {
		u.PasswordHash = "changed"
		return u, nil
	}
	return map[string]func(context.Context) error{
		"CreateUser": func(ctx context.Context) error { return s.CreateUser(ctx, newUser("new"), nil) },
		"User":       func(ctx context.Context) error { _, err := s.User(ctx, "id-ada"); return err },
		"UserByName": func(ctx context.Context) error { _, err := s.UserByName(ctx, "ada"); return err },
		"Users":      func(ctx context.Context) error { _, err := s.Users(ctx, "", 10); return err },
		"UpdateUser": func(ctx context.Context) error { _, err := s.UpdateUser(ctx, "id-ada", change); return err },
		"RenewHash": func(ctx context.Context) error {
			_, err := s.RenewHash(ctx, "id-ada", newUser("ada").PasswordHash, "renewed")
			return err
		},
		"DeleteUser": func(ctx context.Context) error {
			return s.DeleteUser(ctx, "id-ada", func(auth.User, int) error { return nil })
		},
		"LockAdmin": func(ctx context.Context) error {
			unlock, err := s.LockAdmin(ctx)
			if err == nil {
				unlock()
			}
			return err
		},
		"Roles":         func(ctx context.Context) error { _, err := s.Roles(ctx); return err },
		"PutRole":       func(ctx context.Context) error { return s.PutRole(ctx, auth.Role{Name: "new"}) },
		"DeleteRole":    func(ctx context.Context) error { return s.DeleteRole(ctx, "analyst", yes) },
		"CreateSession": func(ctx context.Context) error { return begin(ctx, s, session, first) },
		"Session":       func(ctx context.Context) error { _, err := s.Session(ctx, "s"); return err },
		"SessionsOf":    func(ctx context.Context) error { _, err := s.SessionsOf(ctx, "id-ada", noon); return err },
		"Rotate": func(ctx context.Context) error {
			_, err := s.Rotate(ctx, hash("s"), token("next", time.Hour), noon)
			return err
		},
		"SessionOfRefresh": func(ctx context.Context) error { _, err := s.SessionOfRefresh(ctx, hash("s"), noon); return err },
		"BrowserSession": func(ctx context.Context) error {
			_, _, err := s.BrowserSession(ctx, hash("b"), noon)
			return err
		},
		"TouchBrowser": func(ctx context.Context) error {
			return s.TouchBrowser(ctx, hash("b"), noon.Add(time.Minute), noon.Add(2*time.Hour))
		},
		"RenewBrowser": func(ctx context.Context) error {
			_, err := s.RenewBrowser(ctx, hash("b"), token("next", time.Hour), noon)
			return err
		},
		"TouchSession":   func(ctx context.Context) error { return s.TouchSession(ctx, "s", noon.Add(time.Minute)) },
		"EndSession":     func(ctx context.Context) error { return s.EndSession(ctx, "s") },
		"EndSessions":    func(ctx context.Context) error { _, err := s.EndSessions(ctx, "id-ada", ""); return err },
		"EndAllSessions": func(ctx context.Context) error { return s.EndAllSessions(ctx) },
	}
}

func credentialCalls(s Store) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"CreateKey": func(ctx context.Context) error { return s.CreateKey(ctx, newKey("new", "ada")) },
		"KeyByHash": func(ctx context.Context) error { _, err := s.KeyByHash(ctx, hash("k")); return err },
		"KeysOf":    func(ctx context.Context) error { _, err := s.KeysOf(ctx, "id-ada"); return err },
		"DeleteKey": func(ctx context.Context) error { return s.DeleteKey(ctx, "id-ada", "k") },
		"TouchKey":  func(ctx context.Context) error { return s.TouchKey(ctx, "k", noon) },
		"CreateService": func(ctx context.Context) error {
			return s.CreateService(ctx, newService("new"), newSecret("new", "new"))
		},
		"CreateSecret": func(ctx context.Context) error { return s.CreateSecret(ctx, newSecret("new", "robot")) },
		"SecretsOf":    func(ctx context.Context) error { _, err := s.SecretsOf(ctx, "id-robot"); return err },
		"DeleteSecret": func(ctx context.Context) error { return s.DeleteSecret(ctx, "id-robot", "robot") },
		"TouchSecret":  func(ctx context.Context) error { return s.TouchSecret(ctx, "robot", noon) },
		"CreateClientSession": func(ctx context.Context) error {
			return beginClient(ctx, s, newClientSession("new", "robot", "robot"))
		},
		"PutTicket": func(ctx context.Context) error {
			return s.PutTicket(ctx, newTicket("new", "ada", auth.PasswordReset))
		},
		"Redeem": func(ctx context.Context) error {
			_, err := s.Redeem(ctx, hash("t"), auth.PasswordReset, noon, same)
			return err
		},
		"UserByIdentity": func(ctx context.Context) error { _, _, err := s.UserByIdentity(ctx, provider, "sub"); return err },
		"CreateExternalUser": func(ctx context.Context) error {
			return s.CreateExternalUser(ctx, newUser("new"), newIdentity("new", "new", "new"))
		},
		"LinkIdentity":   func(ctx context.Context) error { return s.LinkIdentity(ctx, newIdentity("new", "new", "ada")) },
		"IdentitiesOf":   func(ctx context.Context) error { _, err := s.IdentitiesOf(ctx, "id-ada"); return err },
		"UnlinkIdentity": func(ctx context.Context) error { return s.UnlinkIdentity(ctx, "id-ada", "i") },
		"AssertIdentity": func(ctx context.Context) error {
			_, err := s.AssertIdentity(ctx, provider, "sub", noon, become("admin"))
			return err
		},
		"CreateSignIn": func(ctx context.Context) error { return s.CreateSignIn(ctx, newSignIn("new"), noon, 10) },
		"TakeSignIn":   func(ctx context.Context) error { _, err := s.TakeSignIn(ctx, hash("in"), noon); return err },
		"UpdateTOTP": func(ctx context.Context) error {
			return s.UpdateTOTP(ctx, "id-ada", func(auth.TOTP) (auth.TOTP, error) { return newTOTP("ada"), nil })
		},
		"TOTPs": func(ctx context.Context) error { _, err := s.TOTPs(ctx, "", 10); return err },
		"TakeRows": func(ctx context.Context) error {
			_, _, err := s.TakeRows(ctx, ofDay("id-ada", "iris", 0), 10, 1, 1)
			return err
		},
		"ReturnRows": func(ctx context.Context) error {
			return s.ReturnRows(ctx, map[auth.RowBudget]int64{ofDay("id-ada", "", 0): 2})
		},
		"RowsUsed": func(ctx context.Context) error { _, err := s.RowsUsed(ctx, "id-ada", noon); return err },
	}
}

func modelCalls(s Store) map[string]func(context.Context) error {
	m, v := newModel("new", "")
	rename := func(m *models.Model) (*models.Model, error) {
		m.Description = "changed"
		return m, nil
	}
	return map[string]func(context.Context) error{
		"Sweep":  func(ctx context.Context) error { return s.Sweep(ctx, noon.Add(1000*time.Hour)) },
		"Ping":   func(ctx context.Context) error { return s.Ping(ctx) },
		"Models": func(ctx context.Context) error { _, err := s.Models(ctx); return err },
		"AddVersion": func(ctx context.Context) error {
			_, err := s.AddVersion(ctx, m, v, asItIs)
			return err
		},
		"UpdateModel":    func(ctx context.Context) error { _, err := s.UpdateModel(ctx, "iris", rename); return err },
		"SetState":       func(ctx context.Context) error { _, err := s.SetState(ctx, "iris", 1, "changed", ""); return err },
		"DeleteModel":    func(ctx context.Context) error { return s.DeleteModel(ctx, "iris") },
		"DeleteVersion":  func(ctx context.Context) error { _, err := s.DeleteVersion(ctx, "iris", 1, asIs); return err },
		"AuditHeads":     func(ctx context.Context) error { _, err := s.AuditHeads(ctx); return err },
		"SetAuditHead":   func(ctx context.Context) error { return s.SetAuditHead(ctx, "log", audit.Head{Seq: 9}) },
		"ClaimAuditHead": func(ctx context.Context) error { return s.ClaimAuditHead(ctx, "log") },
	}
}

func prepareCalls(t *testing.T, s Store) {
	t.Helper()
	addUser(t, s, "ada", "user")
	addRole(t, s, "analyst")
	addSession(t, s, "s", "ada")
	addBrowser(t, s, "b", "ada")
	ok(t, s.CreateKey(t.Context(), newKey("k", "ada")))
	addService(t, s, "robot")
	ok(t, s.PutTicket(t.Context(), newTicket("t", "ada", auth.PasswordReset)))
	ok(t, s.LinkIdentity(t.Context(), newIdentity("i", "sub", "ada")))
	ok(t, s.CreateSignIn(t.Context(), newSignIn("in"), noon, 10))
	addModel(t, s, "iris")
	take(t, s, ofDay("id-ada", "", 0), 10, 3, 3, 3, 7)
}

// checkUntouched finds out whether any of the calls took effect.
func checkUntouched(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	u, err := s.User(ctx, "id-ada")
	ok(t, err)
	checkUser(t, u, newUser("ada", "user"))
	list, err := s.Users(ctx, "", 10)
	ok(t, err)
	equal(t, "users", len(list), 2)
	secrets, err := s.SecretsOf(ctx, "id-robot")
	ok(t, err)
	equal(t, "secrets", len(secrets), 1)
	checkSecret(t, secrets[0], newSecret("robot", "robot"))
	robots, err := s.EndSessions(ctx, "id-robot", "")
	ok(t, err)
	equal(t, "sessions of the service account", len(robots), 0)
	roles, err := s.Roles(ctx)
	ok(t, err)
	equal(t, "roles", len(roles), 4)
	sessions, err := s.SessionsOf(ctx, "id-ada", noon)
	ok(t, err)
	equal(t, "sessions", len(sessions), 2)
	checkBrowser(t, s, "b", newBrowser("b", "ada"), time.Hour)
	checkTOTP(t, totpOf(t, s, "id-ada"), auth.TOTP{})
	keys, err := s.KeysOf(ctx, "id-ada")
	ok(t, err)
	equal(t, "keys", len(keys), 1)
	checkKey(t, keys[0], newKey("k", "ada"))
	ids, err := s.IdentitiesOf(ctx, "id-ada")
	ok(t, err)
	equal(t, "identities", len(ids), 1)
	checkIdentity(t, ids[0], newIdentity("i", "sub", "ada"))
	_, err = s.TakeSignIn(ctx, hash("in"), noon)
	ok(t, err)
	ok(t, s.CreateSignIn(ctx, newSignIn("new"), noon, 10)) // is not there yet
	_, err = s.Redeem(ctx, hash("t"), auth.PasswordReset, noon, same)
	ok(t, err)
	_, err = s.Rotate(ctx, hash("s"), token("other", time.Hour), noon)
	ok(t, err)
	used, err := s.RowsUsed(ctx, "id-ada", auth.Day(noon))
	ok(t, err)
	equal(t, "rows used", fmt.Sprint(used), "map[:3]")
	m, v := newModel("iris", "")
	v.Number = 1
	all, err := s.Models(ctx)
	ok(t, err)
	equal(t, "models", len(all), 1)
	sameModel(t, all[0], expect(m, 1, 2, v))
	heads, err := s.AuditHeads(ctx)
	ok(t, err)
	equal(t, "heads", len(heads), 0)
}

// checkUnavailable wants a room's word for a database that can't answer, with the cause.
func checkUnavailable(t *testing.T, method string, err, cause error) {
	t.Helper()
	switch method {
	case "AuditHeads", "SetAuditHead", "ClaimAuditHead":
		if err == nil {
			t.Errorf("%s: no error", method)
		}
	case "Models", "AddVersion", "UpdateModel", "SetState", "DeleteModel", "DeleteVersion":
		if !errors.Is(err, models.ErrUnavailable) {
			t.Errorf("%s: %v; want %v", method, err, models.ErrUnavailable)
		}
	default:
		if !errors.Is(err, auth.ErrUnavailable) {
			t.Errorf("%s: %v; want %v", method, err, auth.ErrUnavailable)
		}
	}
	if cause != nil && !errors.Is(err, cause) {
		t.Errorf("%s: %v; want the cause %v in it", method, err, cause)
	}
	if err != nil && errors.Unwrap(err) == nil {
		t.Errorf("%s: %v has no cause", method, err)
	}
}

func testCanceled(t *testing.T, s Store) {
	prepareCalls(t, s)
	for method, call := range calls(s) {
		checkUnavailable(t, method, call(canceled()), context.Canceled)
	}
	checkUntouched(t, s)
}

// A context that ends in the middle of a change undoes it.
func testDeadline(t *testing.T, s Store) {
	prepareCalls(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.UpdateUser(ctx, "id-ada", func(u auth.User, _ int) (auth.User, error) {
		cancel()
		u.PasswordHash = "changed"
		return u, nil
	})
	checkUnavailable(t, "UpdateUser", err, context.Canceled)
	ctx, cancel = context.WithCancel(t.Context())
	_, err = s.UpdateModel(ctx, "iris", func(m *models.Model) (*models.Model, error) {
		cancel()
		m.Description = "changed"
		return m, nil
	})
	checkUnavailable(t, "UpdateModel", err, context.Canceled)
	checkUntouched(t, s)
}

func testClosed(t *testing.T, s Store) {
	prepareCalls(t, s)
	ok(t, s.Close())
	for method, call := range calls(s) {
		checkUnavailable(t, method, call(t.Context()), nil)
	}
}

// A function that panics changes nothing and leaves nothing locked.
func testPanic(t *testing.T, s Store) {
	prepareCalls(t, s)
	for _, call := range []func(){
		func() {
			s.UpdateUser(t.Context(), "id-ada", func(auth.User, int) (auth.User, error) { panic("boom") })
		},
		func() { s.DeleteUser(t.Context(), "id-ada", func(auth.User, int) error { panic("boom") }) },
		func() {
			s.Redeem(t.Context(), hash("t"), auth.PasswordReset, noon, func(auth.User) (auth.User, error) { panic("boom") })
		},
		func() { s.UpdateTOTP(t.Context(), "id-ada", func(auth.TOTP) (auth.TOTP, error) { panic("boom") }) },
		func() {
			s.UpdateModel(t.Context(), "iris", func(*models.Model) (*models.Model, error) { panic("boom") })
		},
		func() {
			s.DeleteVersion(t.Context(), "iris", 1, func(*models.Model) (*models.Model, error) { panic("boom") })
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic got lost")
				}
			}()
			call()
		}()
	}
	checkUntouched(t, s)
}

// A function may read from the store, and sees what was before.
func testReadInCallback(t *testing.T, s Store) {
	ctx := t.Context()
	ada := addUser(t, s, "ada", "user")
	_, err := s.UpdateUser(ctx, ada.ID, func(u auth.User, _ int) (auth.User, error) {
		seen, err := s.User(ctx, ada.ID)
		if err != nil {
			return u, err
		}
		checkUser(t, seen, ada)
		u.PasswordHash = "changed"
		return u, nil
	})
	ok(t, err)
}
