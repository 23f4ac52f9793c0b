package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"modelgate/auth"
)

// roomTests are about sessions that end because another begins, and about the end of all.
var roomTests = []test{
	{"CrowdOut", testCrowdOut},
	{"CrowdOutUsed", testCrowdOutUsed},
	{"CrowdOutKinds", testCrowdOutKinds},
	{"CrowdOutRace", testCrowdOutRace},
	{"CrowdOutMany", testCrowdOutMany},
	{"Replace", testReplace},
	{"ReplaceRace", testReplaceRace},
	{"EndAllSessions", testEndAllSessions},
	{"TouchSession", testTouchSession},
}

// left are the sessions of a user that there are at a moment, sorted.
func left(t *testing.T, s Store, user string, now time.Time) (ids []string) {
	t.Helper()
	list, err := s.SessionsOf(t.Context(), "id-"+user, now)
	ok(t, err)
	for _, one := range list {
		ids = append(ids, one.ID)
	}
	slices.Sort(ids)
	return ids
}

func checkLeft(t *testing.T, s Store, user string, now time.Time, want ...string) {
	t.Helper()
	if got := left(t, s, user, now); !slices.Equal(got, want) {
		t.Fatalf("sessions left: %q; want %q", got, want)
	}
}

// Those that were used longest ago go, however old they are; those of others and what has ended already don't count.
func testCrowdOut(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addUser(t, s, "bob")
	addSession(t, s, "of-bob", "bob")
	add := func(id string, after time.Duration, most int, want ...string) {
		t.Helper()
		session, _ := newSession(id, "ada")
		session.CreatedAt, session.LastUsed = noon.Add(after), noon.Add(after)
		ended, err := s.CreateSession(ctx, session, token(id, 3*time.Hour), auth.Displaced{Most: most})
		ok(t, err)
		slices.Sort(ended)
		if !slices.Equal(ended, want) {
			t.Fatalf("%s ended %q; want %q", id, ended, want)
		}
	}
	add("idle", -3*time.Hour, 3) // its token expires at noon and three hours
	short, first := newSession("short", "ada")
	first.ExpiresAt = noon.Add(time.Minute)
	ok(t, begin(ctx, s, short, first))
	add("a", 2*time.Minute, 3) // short has ended then
	add("b", 3*time.Minute, 3)
	checkLeft(t, s, "ada", noon.Add(3*time.Minute), "a", "b", "idle")
	_, err := s.Rotate(ctx, hash("idle"), token("idle2", 5*time.Hour), noon.Add(4*time.Minute)) // now the last that was used
	ok(t, err)
	add("c", 5*time.Minute, 3, "a")
	checkLeft(t, s, "ada", noon.Add(5*time.Minute), "b", "c", "idle")
	_, err = s.SessionOfRefresh(ctx, hash("a"), noon.Add(5*time.Minute))
	want(t, err, auth.ErrNotFound)
	add("d", 6*time.Minute, 0) // no bound
	add("e", 7*time.Minute, 2, "b", "c", "idle")
	checkLeft(t, s, "ada", noon.Add(7*time.Minute), "d", "e")
	// One that was used in the future, by a server whose clock is ahead, does not put out the new one.
	add("f", time.Minute, 1, "d", "e")
	checkLeft(t, s, "ada", noon.Add(time.Minute), "f")
	checkLeft(t, s, "bob", noon, "of-bob")

	// What does not begin ends nothing.
	twin, _ := newSession("f", "ada")
	_, err = s.CreateSession(ctx, twin, token("x", time.Hour), auth.Displaced{Most: 1})
	want(t, err, auth.ErrTaken)
	twin, _ = newSession("g", "ada")
	_, err = s.CreateSession(ctx, twin, token("f", time.Hour), auth.Displaced{Most: 1})
	want(t, err, auth.ErrTaken)
	checkLeft(t, s, "ada", noon.Add(time.Minute), "f")
}

// Who knows better when a session was used is believed, unless the store knows of a later use.
func testCrowdOutUsed(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	for i, id := range []string{"a", "b", "c"} {
		session, first := newSession(id, "ada")
		session.LastUsed = noon.Add(time.Duration(i) * time.Minute)
		ok(t, begin(ctx, s, session, first))
	}
	used := map[string]time.Time{"a": noon.Add(5 * time.Minute), "c": noon.Add(-time.Hour)}
	next, first := newSession("d", "ada")
	ended, err := s.CreateSession(ctx, next, first, auth.Displaced{Most: 3, Used: func(id string) time.Time { return used[id] }})
	ok(t, err)
	if !slices.Equal(ended, []string{"b"}) {
		t.Fatalf("ended %q", ended)
	}
	checkLeft(t, s, "ada", noon, "a", "c", "d")
}

func testTouchSession(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	session := addBrowser(t, s, "b", "ada")
	errs := race(20, func(i int) error { return s.TouchSession(ctx, "b", noon.Add(time.Duration(i)*time.Second)) })
	equal(t, "touched", count(errs, nil), 20)
	session.LastUsed = noon.Add(19 * time.Second) // whatever their order, the latest stays
	checkBrowser(t, s, "b", session, time.Hour)
	want(t, s.TouchSession(ctx, "unknown", noon), auth.ErrNotFound)
}

// All kinds count together.
func testCrowdOutKinds(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addBrowser(t, s, "b", "ada")
	addSession(t, s, "s", "ada")
	ok(t, s.TouchBrowser(ctx, hash("b"), noon.Add(time.Minute), noon.Add(2*time.Hour)))
	next, first := newSession("t", "ada")
	next.CreatedAt, next.LastUsed = noon.Add(2*time.Minute), noon.Add(2*time.Minute)
	ended, err := s.CreateSession(ctx, next, first, auth.Displaced{Most: 2})
	ok(t, err)
	if !slices.Equal(ended, []string{"s"}) {
		t.Fatalf("ended %q", ended)
	}
	checkLeft(t, s, "ada", noon.Add(2*time.Minute), "b", "t")

	addService(t, s, "robot")
	for i := range 5 {
		session := newClientSession(fmt.Sprint("c", i), "robot", "robot")
		session.CreatedAt, session.LastUsed = noon.Add(time.Duration(i)*time.Second), noon.Add(time.Duration(i)*time.Second)
		ended, err := s.CreateClientSession(ctx, session, auth.Displaced{Most: 3})
		ok(t, err)
		equal(t, "ended", len(ended), max(0, min(1, i-2)))
	}
	checkLeft(t, s, "robot", noon, "c2", "c3", "c4")
	expired := newClientSession("d", "robot", "robot")
	expired.CreatedAt, expired.ExpiresAt = noon.Add(time.Hour), noon.Add(2*time.Hour) // the others have expired
	ended, err = s.CreateClientSession(ctx, expired, auth.Displaced{Most: 1})
	ok(t, err)
	equal(t, "ended", len(ended), 0)
}

// However many begin at once, no more are left.
func testCrowdOutRace(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	const most = 5
	errs := race(100, func(i int) error {
		session, first := newSession(fmt.Sprint("s", i), "ada")
		_, err := s.CreateSession(ctx, session, first, auth.Displaced{Most: most})
		if list, err := s.SessionsOf(ctx, "id-ada", noon); err != nil || len(list) > most {
			return fmt.Errorf("%d sessions, %v", len(list), err)
		}
		return err
	})
	equal(t, "begun", count(errs, nil), 100)
	equal(t, "left", len(left(t, s, "ada", noon)), most)
}

// Who has very many is brought down in steps, and never kept out.
func testCrowdOutMany(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	for i := range 520 {
		addSession(t, s, fmt.Sprint("s", i), "ada")
	}
	for i, most := range []int{21, 2} { // 521 less 500
		next, first := newSession(fmt.Sprint("next", i), "ada")
		_, err := s.CreateSession(ctx, next, first, auth.Displaced{Most: 2})
		ok(t, err)
		equal(t, "left", len(left(t, s, "ada", noon)), most)
	}
}

// One session comes in the place of another, in one step.
func testReplace(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addBrowser(t, s, "old", "ada")
	addSession(t, s, "other", "ada")
	next := newBrowser("new", "ada")
	ended, err := s.CreateSession(ctx, next, token("new", time.Hour), auth.Displaced{ID: "old"})
	ok(t, err)
	equal(t, "ended by the bound", len(ended), 0)
	checkLeft(t, s, "ada", noon, "new", "other")
	noBrowser(t, s, "old", noon)

	// In the place of what has gone nothing begins.
	_, err = s.CreateSession(ctx, newBrowser("late", "ada"), token("late", time.Hour), auth.Displaced{ID: "old", Most: 1})
	want(t, err, auth.ErrNotFound)
	// What does not begin takes nobody's place.
	_, err = s.CreateSession(ctx, newBrowser("x", "nobody"), token("x", time.Hour), auth.Displaced{ID: "other"})
	want(t, err, auth.ErrNotFound)
	_, err = s.CreateSession(ctx, newBrowser("new", "ada"), token("x", time.Hour), auth.Displaced{ID: "other"})
	want(t, err, auth.ErrTaken)
	checkLeft(t, s, "ada", noon, "new", "other")
	// What is replaced leaves room.
	ended, err = s.CreateSession(ctx, newBrowser("newer", "ada"), token("newer", time.Hour), auth.Displaced{ID: "new", Most: 2})
	ok(t, err)
	equal(t, "ended by the bound", len(ended), 0)
	checkLeft(t, s, "ada", noon, "newer", "other")
}

// Of many that come in the place of one session one does.
func testReplaceRace(t *testing.T, s Store) {
	ctx := t.Context()
	addUser(t, s, "ada")
	addBrowser(t, s, "old", "ada")
	errs := race(20, func(i int) error {
		id := fmt.Sprint("new", i)
		_, err := s.CreateSession(ctx, newBrowser(id, "ada"), token(id, time.Hour), auth.Displaced{ID: "old"})
		return err
	})
	equal(t, "winners", count(errs, nil), 1)
	equal(t, "losers", count(errs, auth.ErrNotFound), 19)
	equal(t, "left", len(left(t, s, "ada", noon)), 1)
}

func testEndAllSessions(t *testing.T, s Store) {
	ctx := t.Context()
	ok(t, s.EndAllSessions(ctx))
	addUser(t, s, "ada")
	addUser(t, s, "bob")
	addService(t, s, "robot")
	ok(t, beginClient(ctx, s, newClientSession("c", "robot", "robot")))
	addBrowser(t, s, "b", "bob")
	for i := range 520 { // in more than one step
		addSession(t, s, fmt.Sprint("s", i), "ada")
	}
	ok(t, s.CreateKey(ctx, newKey("k", "ada")))
	ok(t, s.EndAllSessions(ctx))
	for _, user := range []string{"ada", "bob", "robot"} {
		checkLeft(t, s, user, noon)
	}
	for _, id := range []string{"c", "b", "s0", "s519"} {
		_, err := s.Session(ctx, id)
		want(t, err, auth.ErrNotFound)
	}
	_, err := s.SessionOfRefresh(ctx, hash("s7"), noon)
	want(t, err, auth.ErrNotFound)
	_, err = s.KeyByHash(ctx, newKey("k", "ada").Hash)
	ok(t, err)
	addSession(t, s, "again", "ada")
	checkLeft(t, s, "ada", noon, "again")
}
