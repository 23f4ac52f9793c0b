// Package storetest is the contract of auth.Store, models.Store and audit.Heads as tests: every sentence of their comments
// has one. Each database that store supports passes the whole suite.
//
// It knows the interfaces alone, and must not import store or a database: what only one of them can show, such as crashes
// and locked files, is tested beside it.
package storetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/models"
)

// Store is what a database must offer.
type Store interface {
	auth.Store
	models.Store
	audit.Heads
	io.Closer
}

// RunTests runs the suite. open returns a fresh store that holds nothing but the built-in roles; it closes the store when
// the test ends, also when the test has closed it already.
func RunTests(t *testing.T, open func(t *testing.T) Store) {
	t.Run("Auth", func(t *testing.T) { RunAuth(t, open) })
	t.Run("Models", func(t *testing.T) { RunModels(t, open) })
	t.Run("Heads", func(t *testing.T) { RunHeads(t, open) })
	t.Run("Faults", func(t *testing.T) { run(t, open, faultTests) })
}

// RunAuth runs the tests of auth.Store.
func RunAuth(t *testing.T, open func(t *testing.T) Store) {
	run(t, open, slices.Concat(userTests, adminTests, adminLockTests, roleTests, sessionTests, roomTests, browserTests, keyTests, clientTests, ticketTests, identityTests, budgetTests, signingKeyTests, changeTests, totpTests))
}

// RunModels runs the tests of models.Store.
func RunModels(t *testing.T, open func(t *testing.T) Store) {
	run(t, open, slices.Concat(modelTests, versionTests))
}

// RunHeads runs the tests of audit.Heads.
func RunHeads(t *testing.T, open func(t *testing.T) Store) { run(t, open, headTests) }

type test struct {
	name string
	run  func(t *testing.T, s Store)
}

func run(t *testing.T, open func(t *testing.T) Store, tests []test) {
	for _, one := range tests {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			one.run(t, open(t))
		})
	}
}

// noon is finer than a microsecond and not in UTC: a store keeps the one from becoming the other's problem.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 123_456_789, time.FixedZone("somewhere", 2*60*60))

// kept is what a store makes of a time.
func kept(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Microsecond)
}

func hash(secret string) [32]byte { return sha256.Sum256([]byte(secret)) }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error: %v; want %v", err, target)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %v; want %v", what, got, want)
	}
}

// race calls f n times at once and returns the errors in order.
func race(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	group.Wait()
	return errs
}

// count returns how many errors match; a nil target counts successes.
func count(errs []error, target error) (n int) {
	for _, err := range errs {
		if target == nil && err == nil || target != nil && errors.Is(err, target) {
			n++
		}
	}
	return n
}

// newUser is a user with a password.
func newUser(name string, roles ...string) auth.User {
	return auth.User{ID: "id-" + name, Username: name, PasswordHash: "$argon2id$" + name, Roles: roles,
		CreatedAt: noon, UpdatedAt: noon}
}

func addUser(t *testing.T, s Store, name string, roles ...string) auth.User {
	t.Helper()
	u := newUser(name, roles...)
	ok(t, s.CreateUser(t.Context(), u, nil))
	return u
}

func checkUser(t *testing.T, got, want auth.User) {
	t.Helper()
	want.CreatedAt, want.UpdatedAt, want.PasswordExpires = kept(want.CreatedAt), kept(want.UpdatedAt), kept(want.PasswordExpires)
	want.Roles = slices.Sorted(slices.Values(want.Roles))
	if !slices.Equal(got.Roles, want.Roles) {
		t.Fatalf("roles of %s: %q; want %q", got.Username, got.Roles, want.Roles)
	}
	got.Roles, want.Roles = nil, nil
	if got.ID != want.ID || got.Kind != want.Kind || got.Username != want.Username || got.PasswordHash != want.PasswordHash ||
		got.PasswordExpires != want.PasswordExpires || got.Disabled != want.Disabled || got.CreatedAt != want.CreatedAt || got.UpdatedAt != want.UpdatedAt {
		t.Fatalf("user:\n%+v; want\n%+v", got, want)
	}
}

func addRole(t *testing.T, s Store, name string) {
	t.Helper()
	ok(t, s.PutRole(t.Context(), auth.Role{Name: name, CreatedAt: noon}))
}

// newSession is a session of user that lasts a day; its first token is named after it and lasts an hour.
func newSession(id, user string) (auth.Session, auth.RefreshToken) {
	return auth.Session{ID: id, UserID: "id-" + user, ClientID: "modelgate", Address: "192.0.2.1", UserAgent: "curl/8",
		CreatedAt: noon, AuthTime: noon, LastUsed: noon, ExpiresAt: noon.Add(24 * time.Hour), SecondFactor: true}, token(id, time.Hour)
}

// token is a refresh token that lasts for d from noon.
func token(secret string, d time.Duration) auth.RefreshToken {
	return auth.RefreshToken{Hash: hash(secret), ExpiresAt: noon.Add(d)}
}

// begin begins a session in nobody's place.
func begin(ctx context.Context, s Store, session auth.Session, first auth.RefreshToken) error {
	_, err := s.CreateSession(ctx, session, first, auth.Displaced{})
	return err
}

// beginClient is begin for a service account.
func beginClient(ctx context.Context, s Store, session auth.Session) error {
	_, err := s.CreateClientSession(ctx, session, auth.Displaced{})
	return err
}

func addSession(t *testing.T, s Store, id, user string) auth.Session {
	t.Helper()
	session, first := newSession(id, user)
	ok(t, begin(t.Context(), s, session, first))
	return session
}

func checkSession(t *testing.T, got, want auth.Session) {
	t.Helper()
	want.CreatedAt, want.AuthTime = kept(want.CreatedAt), kept(want.AuthTime)
	want.LastUsed, want.ExpiresAt = kept(want.LastUsed), kept(want.ExpiresAt)
	equal(t, "session", got, want)
}

// canceled is a context that has ended.
func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
