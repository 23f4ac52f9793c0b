package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"modelgate/auth"
)

var browserTests = []test{
	{"BrowserSession", testBrowserSession},
	{"BrowserCutToSession", testBrowserCutToSession},
	{"TouchBrowser", testTouchBrowser},
	{"RenewBrowser", testRenewBrowser},
	{"RenewBrowserRace", testRenewBrowserRace},
	{"CookieIsNoRefreshToken", testCookieIsNoRefreshToken},
	{"EndBrowser", testEndBrowser},
	{"SweepBrowsers", testSweepBrowsers},
}

// newBrowser is a session that ends a day after noon; addBrowser gives it a cookie, named as it, that is idle an hour after.
func newBrowser(id, user string) auth.Session {
	session, _ := newSession(id, user)
	session.Kind, session.Provider, session.ProviderFactor = auth.BrowserSession, "corp", true
	return session
}

func addBrowser(t *testing.T, s Store, id, user string) auth.Session {
	t.Helper()
	session := newBrowser(id, user)
	ok(t, begin(t.Context(), s, session, token(id, time.Hour)))
	return session
}

// checkBrowser finds the session of a cookie, with its idle end after noon.
func checkBrowser(t *testing.T, s Store, cookie string, session auth.Session, idle time.Duration) {
	t.Helper()
	got, end, err := s.BrowserSession(t.Context(), hash(cookie), noon)
	ok(t, err)
	checkSession(t, got, session)
	equal(t, "idle end", end, kept(noon.Add(idle)))
}

func noBrowser(t *testing.T, s Store, cookie string, now time.Time) {
	t.Helper()
	session, end, err := s.BrowserSession(t.Context(), hash(cookie), now)
	want(t, err, auth.ErrNotFound)
	equal(t, "session with the error", session, auth.Session{})
	equal(t, "end with the error", end.IsZero(), true)
}

func testBrowserSession(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	session := addBrowser(t, s, "b", "ada")
	checkBrowser(t, s, "b", session, time.Hour)
	noBrowser(t, s, "unknown", noon)
	_, _, err := s.BrowserSession(ctx, hash("b"), noon.Add(time.Hour-time.Microsecond))
	ok(t, err)
	noBrowser(t, s, "b", noon.Add(time.Hour))
	got, err := s.Session(ctx, "b")
	ok(t, err)
	checkSession(t, got, session)
	want(t, begin(ctx, s, newBrowser("b2", "nobody"), token("b2", time.Hour)), auth.ErrNotFound)
	want(t, begin(ctx, s, newBrowser("b3", "ada"), token("b", time.Hour)), auth.ErrTaken)

	addSession(t, s, "s", "ada")
	list, err := s.SessionsOf(ctx, "id-ada", noon)
	ok(t, err)
	var kinds []string
	for _, one := range list {
		kinds = append(kinds, one.ID+":"+string(one.Kind))
	}
	slices.Sort(kinds)
	if !slices.Equal(kinds, []string{"b:browser", "s:"}) {
		t.Fatalf("sessions: %q", kinds)
	}
	list, err = s.SessionsOf(ctx, "id-ada", noon.Add(time.Hour))
	ok(t, err)
	equal(t, "sessions past their idle end", len(list), 0)
}

func testBrowserCutToSession(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	session := newBrowser("b", "ada")
	ok(t, begin(ctx, s, session, token("b", 100*time.Hour)))
	checkBrowser(t, s, "b", session, 24*time.Hour)
	_, err := s.RenewBrowser(ctx, hash("b"), token("c", 100*time.Hour), noon)
	ok(t, err)
	checkBrowser(t, s, "c", session, 24*time.Hour)
	ok(t, s.TouchBrowser(ctx, hash("c"), noon, noon.Add(100*time.Hour)))
	checkBrowser(t, s, "c", session, 24*time.Hour)
}

func testTouchBrowser(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	session := addBrowser(t, s, "b", "ada")
	for _, step := range []struct{ used, idle, wantUsed, wantIdle time.Duration }{
		{time.Minute, 2 * time.Hour, time.Minute, 2 * time.Hour},
		{30 * time.Second, 90 * time.Minute, time.Minute, 2 * time.Hour}, // late: neither goes back
		{3 * time.Minute, 3 * time.Hour, 3 * time.Minute, 3 * time.Hour},
	} {
		ok(t, s.TouchBrowser(ctx, hash("b"), noon.Add(step.used), noon.Add(step.idle)))
		session.LastUsed = noon.Add(step.wantUsed)
		checkBrowser(t, s, "b", session, step.wantIdle)
	}
	want(t, s.TouchBrowser(ctx, hash("unknown"), noon, noon.Add(time.Hour)), auth.ErrNotFound)
	// What has ended does not live again.
	want(t, s.TouchBrowser(ctx, hash("b"), noon.Add(3*time.Hour), noon.Add(9*time.Hour)), auth.ErrNotFound)
	noBrowser(t, s, "b", noon.Add(3*time.Hour))
	addSession(t, s, "s", "ada")
	want(t, s.TouchBrowser(ctx, hash("s"), noon, noon.Add(9*time.Hour)), auth.ErrNotFound)
}

func testRenewBrowser(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	session := addBrowser(t, s, "b", "ada")
	other := addBrowser(t, s, "other", "ada")
	now := noon.Add(30 * time.Minute)
	got, err := s.RenewBrowser(ctx, hash("b"), token("c", 2*time.Hour), now)
	ok(t, err)
	session.AuthTime, session.LastUsed = now, now
	checkSession(t, got, session)
	checkBrowser(t, s, "c", session, 2*time.Hour)
	checkBrowser(t, s, "other", other, time.Hour)
	noBrowser(t, s, "b", noon)
	_, err = s.RenewBrowser(ctx, hash("b"), token("d", time.Hour), now) // the old one, again
	want(t, err, auth.ErrNotFound)
	_, err = s.RenewBrowser(ctx, hash("c"), token("d", 9*time.Hour), noon.Add(2*time.Hour)) // past its end
	want(t, err, auth.ErrNotFound)
	_, err = s.RenewBrowser(ctx, hash("c"), token("other", time.Hour), now) // the cookie of another session
	want(t, err, auth.ErrTaken)
	checkBrowser(t, s, "c", session, 2*time.Hour)
	addSession(t, s, "s", "ada")
	_, err = s.RenewBrowser(ctx, hash("s"), token("d", time.Hour), noon)
	want(t, err, auth.ErrNotFound)
}

func testRenewBrowserRace(t *testing.T, s Store) {
	addUser(t, s, "ada")
	addBrowser(t, s, "b", "ada")
	errs := race(20, func(i int) error {
		_, err := s.RenewBrowser(t.Context(), hash("b"), token(fmt.Sprint("next", i), time.Hour), noon)
		return err
	})
	equal(t, "winners", count(errs, nil), 1)
	equal(t, "too late", count(errs, auth.ErrNotFound), 19)
	for i, err := range errs {
		if err != nil {
			noBrowser(t, s, fmt.Sprint("next", i), noon)
		}
	}
}

// The two kinds of secrets are never taken for each other, whatever their callers check.
func testCookieIsNoRefreshToken(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	session := addBrowser(t, s, "b", "ada")
	addSession(t, s, "s", "ada")
	_, err := s.Rotate(ctx, hash("b"), token("x", time.Hour), noon)
	want(t, err, auth.ErrNotFound)
	_, err = s.SessionOfRefresh(ctx, hash("b"), noon)
	want(t, err, auth.ErrNotFound)
	noBrowser(t, s, "s", noon)
	checkBrowser(t, s, "b", session, time.Hour)
}

func testEndBrowser(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	for _, id := range []string{"a", "b", "c"} {
		addBrowser(t, s, id, "ada")
	}
	addSession(t, s, "s", "ada")
	ok(t, s.EndSession(ctx, "a"))
	noBrowser(t, s, "a", noon)
	want(t, s.TouchBrowser(ctx, hash("a"), noon, noon.Add(time.Hour)), auth.ErrNotFound)
	ended, err := s.EndSessions(ctx, "id-ada", "b")
	ok(t, err)
	slices.Sort(ended)
	if !slices.Equal(ended, []string{"c", "s"}) {
		t.Fatalf("ended %q", ended)
	}
	noBrowser(t, s, "c", noon)
	ok(t, s.DeleteUser(ctx, "id-ada", func(auth.User, int) error { return nil }))
	noBrowser(t, s, "b", noon)
}

func testSweepBrowsers(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addBrowser(t, s, "idle", "ada")
	busy := addBrowser(t, s, "busy", "ada")
	ok(t, s.TouchBrowser(ctx, hash("busy"), noon.Add(time.Minute), noon.Add(2*time.Hour)))
	ok(t, s.Sweep(ctx, noon.Add(time.Hour)))
	_, err := s.Session(ctx, "idle")
	want(t, err, auth.ErrNotFound)
	busy.LastUsed = noon.Add(time.Minute)
	checkBrowser(t, s, "busy", busy, 2*time.Hour)
	ok(t, s.Sweep(ctx, noon.Add(2*time.Hour)))
	_, err = s.Session(ctx, "busy")
	want(t, err, auth.ErrNotFound)
}
