package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"modelgate/auth"
)

var sessionTests = []test{
	{"CreateSession", testCreateSession},
	{"SessionsOf", testSessionsOf},
	{"Rotate", testRotate},
	{"RotateReused", testRotateReused},
	{"RotateExpired", testRotateExpired},
	{"RotateCutToSession", testRotateCutToSession},
	{"RotateRace", testRotateRace},
	{"RotateWhileEnding", testRotateWhileEnding},
	{"SessionOfRefresh", testSessionOfRefresh},
	{"EndSession", testEndSession},
	{"EndSessions", testEndSessions},
	{"SweepSessions", testSweepSessions},
}

func testCreateSession(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	made, first := newSession("s", "ada")
	made.AuthTime, made.LastUsed = noon.Add(-time.Second), noon.Add(time.Second)
	made.Provider, made.ProviderFactor = "corp", true
	ok(t, begin(ctx, s, made, first))
	got, err := s.Session(ctx, "s")
	ok(t, err)
	checkSession(t, got, made)

	_, err = s.Session(ctx, "other")
	want(t, err, auth.ErrNotFound)
	stranger, first := newSession("s2", "nobody")
	want(t, begin(ctx, s, stranger, first), auth.ErrNotFound)
	again, _ := newSession("s", "ada")
	want(t, begin(ctx, s, again, token("x", time.Hour)), auth.ErrTaken)
	// The token of another session: nothing of the new one is made.
	other, _ := newSession("s3", "ada")
	want(t, begin(ctx, s, other, token("s", time.Hour)), auth.ErrTaken)
	_, err = s.Session(ctx, "s3")
	want(t, err, auth.ErrNotFound)
}

func testSessionsOf(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addUser(t, s, "bob")
	addSession(t, s, "of-bob", "bob")
	for i, id := range []string{"old", "new", "middle"} {
		session, first := newSession(id, "ada")
		session.CreatedAt = noon.Add(time.Duration([]int{0, 2, 1}[i]) * time.Minute)
		ok(t, begin(ctx, s, session, first))
	}
	short, first := newSession("short", "ada") // ends before its token would
	short.ExpiresAt = noon.Add(time.Minute)
	ok(t, begin(ctx, s, short, first))

	ids := func(now time.Time) (ids []string) {
		list, err := s.SessionsOf(ctx, "id-ada", now)
		ok(t, err)
		for _, one := range list {
			full, err := s.Session(ctx, one.ID)
			ok(t, err)
			equal(t, "listed session", one, full)
			ids = append(ids, one.ID)
		}
		return ids
	}
	check := func(now time.Time, want ...string) {
		t.Helper()
		if got := ids(now); !slices.Equal(got, want) {
			t.Fatalf("sessions: %q; want %q", got, want)
		}
	}
	check(noon, "new", "middle", "old", "short")
	check(noon.Add(time.Minute), "new", "middle", "old")
	_, err := s.Rotate(ctx, hash("old"), token("old2", 3*time.Hour), noon)
	ok(t, err)
	check(noon.Add(time.Hour), "old") // idle for too long, the others
	check(noon.Add(24 * time.Hour))
	list, err := s.SessionsOf(ctx, "nobody", noon)
	ok(t, err)
	equal(t, "sessions of nobody", len(list), 0)
}

func testRotate(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	session := addSession(t, s, "s", "ada")
	for i := range 5 {
		old := "s"
		if i > 0 {
			old = fmt.Sprint("s", i-1)
		}
		now := noon.Add(time.Duration(i) * time.Minute)
		got, err := s.Rotate(ctx, hash(old), token(fmt.Sprint("s", i), time.Hour), now)
		ok(t, err)
		session.LastUsed = now
		checkSession(t, got, session)
		got, err = s.Session(ctx, "s")
		ok(t, err)
		checkSession(t, got, session)
	}
	got, err := s.Rotate(ctx, hash("unknown"), token("x", time.Hour), noon)
	want(t, err, auth.ErrNotFound)
	equal(t, "session with the error", got, auth.Session{})
}

func testRotateReused(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	for _, late := range []time.Duration{time.Minute, 2 * time.Hour, 48 * time.Hour} { // within, idle, past the end
		session := addSession(t, s, "s", "ada")
		other := addSession(t, s, "other", "ada")
		for _, step := range [][2]string{{"s", "s1"}, {"s1", "s2"}} {
			_, err := s.Rotate(ctx, hash(step[0]), token(step[1], time.Hour), noon)
			ok(t, err)
		}
		got, err := s.Rotate(ctx, hash("s"), token("stolen", time.Hour), noon.Add(late))
		want(t, err, auth.ErrReused)
		checkSession(t, got, session)
		_, err = s.Session(ctx, "s")
		want(t, err, auth.ErrNotFound)
		for _, secret := range []string{"s", "s1", "s2", "stolen"} {
			_, err := s.Rotate(ctx, hash(secret), token("more", time.Hour), noon)
			want(t, err, auth.ErrNotFound)
		}
		got, err = s.SessionOfRefresh(ctx, hash("other"), noon)
		ok(t, err)
		checkSession(t, got, other)
		ok(t, s.EndSession(ctx, "other"))
	}
}

func testRotateExpired(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addSession(t, s, "s", "ada")
	for _, late := range []time.Duration{time.Hour, 25 * time.Hour} {
		_, err := s.Rotate(ctx, hash("s"), token("x", 48*time.Hour), noon.Add(late))
		want(t, err, auth.ErrToken)
	}
	// A refusal uses nothing up.
	_, err := s.Rotate(ctx, hash("s"), token("s1", time.Hour), noon.Add(time.Hour-time.Microsecond))
	ok(t, err)
}

func testRotateCutToSession(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addSession(t, s, "s", "ada")
	_, err := s.Rotate(ctx, hash("s"), token("s1", 100*time.Hour), noon)
	ok(t, err)
	_, err = s.SessionOfRefresh(ctx, hash("s1"), noon.Add(24*time.Hour-time.Microsecond))
	ok(t, err)
	_, err = s.Rotate(ctx, hash("s1"), token("s2", 100*time.Hour), noon.Add(24*time.Hour))
	want(t, err, auth.ErrToken)
}

// Of many that use one token at once a single one succeeds. The others are replays: they end the session, and with it
// what the winner got.
func testRotateRace(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addSession(t, s, "s", "ada")
	errs := race(50, func(i int) error {
		session, err := s.Rotate(ctx, hash("s"), token(fmt.Sprint("next", i), time.Hour), noon)
		if (err == nil || count([]error{err}, auth.ErrReused) == 1) && session.ID != "s" {
			return fmt.Errorf("no session beside %v", err)
		}
		return err
	})
	equal(t, "winners", count(errs, nil), 1)
	equal(t, "replays that ended the session", count(errs, auth.ErrReused), 1)
	equal(t, "replays after its end", count(errs, auth.ErrNotFound), 48)
	_, err := s.Session(ctx, "s")
	want(t, err, auth.ErrNotFound)
	for i := range errs {
		_, err := s.SessionOfRefresh(ctx, hash(fmt.Sprint("next", i)), noon)
		want(t, err, auth.ErrNotFound)
	}
	list, err := s.SessionsOf(ctx, "id-ada", noon)
	ok(t, err)
	equal(t, "sessions left", len(list), 0)
}

// A rotation and the end of its session at once: the session is over either way.
func testRotateWhileEnding(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	for range 10 {
		addSession(t, s, "s", "ada")
		errs := race(2, func(i int) error {
			if i == 0 {
				return s.EndSession(ctx, "s")
			}
			_, err := s.Rotate(ctx, hash("s"), token("next", time.Hour), noon)
			return err
		})
		ok(t, errs[0])
		if errs[1] != nil {
			want(t, errs[1], auth.ErrNotFound)
		}
		_, err := s.SessionOfRefresh(ctx, hash("next"), noon)
		want(t, err, auth.ErrNotFound)
	}
}

func testSessionOfRefresh(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	session := addSession(t, s, "s", "ada")
	got, err := s.SessionOfRefresh(ctx, hash("s"), noon)
	ok(t, err)
	checkSession(t, got, session)
	for _, late := range []time.Duration{time.Hour, 24 * time.Hour} {
		_, err = s.SessionOfRefresh(ctx, hash("s"), noon.Add(late))
		want(t, err, auth.ErrNotFound)
	}
	_, err = s.SessionOfRefresh(ctx, hash("unknown"), noon)
	want(t, err, auth.ErrNotFound)
	_, err = s.Rotate(ctx, hash("s"), token("s1", time.Hour), noon)
	ok(t, err)
	_, err = s.SessionOfRefresh(ctx, hash("s"), noon) // used; and asking is no replay
	want(t, err, auth.ErrNotFound)
	_, err = s.SessionOfRefresh(ctx, hash("s1"), noon)
	ok(t, err)
}

func testEndSession(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addSession(t, s, "s", "ada")
	addSession(t, s, "other", "ada")
	_, err := s.Rotate(ctx, hash("s"), token("s1", time.Hour), noon)
	ok(t, err)
	for range 2 {
		ok(t, s.EndSession(ctx, "s"))
		_, err := s.Session(ctx, "s")
		want(t, err, auth.ErrNotFound)
		for _, secret := range []string{"s", "s1"} {
			_, err := s.Rotate(ctx, hash(secret), token("s2", time.Hour), noon)
			want(t, err, auth.ErrNotFound)
		}
	}
	_, err = s.SessionOfRefresh(ctx, hash("other"), noon)
	ok(t, err)
}

func testEndSessions(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addUser(t, s, "bob")
	addSession(t, s, "of-bob", "bob")
	for _, id := range []string{"a", "b", "c"} {
		addSession(t, s, id, "ada")
	}
	end := func(except string, want ...string) {
		t.Helper()
		ended, err := s.EndSessions(ctx, "id-ada", except)
		ok(t, err)
		slices.Sort(ended)
		if !slices.Equal(ended, want) {
			t.Fatalf("ended %q; want %q", ended, want)
		}
		for _, id := range ended {
			_, err := s.Session(ctx, id)
			equal(t, "session gone", count([]error{err}, auth.ErrNotFound), 1)
			_, err = s.SessionOfRefresh(ctx, hash(id), noon)
			equal(t, "token gone", count([]error{err}, auth.ErrNotFound), 1)
		}
	}
	end("b", "a", "c")
	end("b")
	_, err := s.SessionOfRefresh(ctx, hash("b"), noon)
	ok(t, err)
	end("of-bob", "b") // another's session is not his to except, nor to end
	addSession(t, s, "d", "ada")
	end("", "d")
	end("")
	_, err = s.Session(ctx, "of-bob")
	ok(t, err)
}

func testSweepSessions(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addSession(t, s, "idle", "ada")
	busy := addSession(t, s, "busy", "ada")
	_, err := s.Rotate(ctx, hash("busy"), token("busy1", 10*time.Hour), noon)
	ok(t, err)
	busy.LastUsed = noon

	// Not a microsecond too early.
	ok(t, s.Sweep(ctx, noon.Add(time.Hour-time.Microsecond)))
	for _, id := range []string{"idle", "busy"} {
		_, err := s.Session(ctx, id)
		ok(t, err)
	}
	ok(t, s.Sweep(ctx, noon.Add(time.Hour)))
	_, err = s.Session(ctx, "idle")
	want(t, err, auth.ErrNotFound)
	_, err = s.Rotate(ctx, hash("busy"), token("x", time.Hour), noon) // the used token was swept: unknown now, no replay
	want(t, err, auth.ErrNotFound)
	got, err := s.SessionOfRefresh(ctx, hash("busy1"), noon.Add(2*time.Hour))
	ok(t, err)
	checkSession(t, got, busy)
	// A used token is kept as long as it would have lasted.
	_, err = s.Rotate(ctx, hash("busy1"), token("busy2", 20*time.Hour), noon.Add(2*time.Hour))
	ok(t, err)
	ok(t, s.Sweep(ctx, noon.Add(9*time.Hour)))
	_, err = s.Rotate(ctx, hash("busy1"), token("x", time.Hour), noon.Add(9*time.Hour))
	want(t, err, auth.ErrReused)

	ended, first := newSession("ended", "ada")
	first.ExpiresAt = noon.Add(1000 * time.Hour)
	ok(t, begin(ctx, s, ended, first))
	ok(t, s.Sweep(ctx, noon.Add(24*time.Hour)))
	_, err = s.Session(ctx, "ended")
	want(t, err, auth.ErrNotFound)
}
