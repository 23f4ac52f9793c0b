package store

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"time"

	"modelgate/auth"
)

const sessionColumns = `s.id, s.user_id, s.client_id, s.address, s.user_agent, s.created_at, s.auth_time, s.last_used, s.expires_at, coalesce(s.secret_id, ''), s.kind, s.second_factor,
	s.provider, s.provider_factor`

// intoSession returns the variables that sessionColumns fill.
func intoSession(s *auth.Session) []any {
	return []any{&s.ID, &s.UserID, &s.ClientID, &s.Address, &s.UserAgent,
		moment{&s.CreatedAt}, moment{&s.AuthTime}, moment{&s.LastUsed}, moment{&s.ExpiresAt}, &s.SecretID, &s.Kind, &s.SecondFactor, &s.Provider, &s.ProviderFactor}
}

// CreateSession implements auth.Store.
func (db *DB) CreateSession(ctx context.Context, s auth.Session, first auth.RefreshToken, d auth.Displaced) ([]string, error) {
	return db.beginSession(ctx, s, d, func(t *tx) error { return t.addToken(s, first) })
}

// beginSession stores a session and what continues it, and ends those in whose place it comes.
func (db *DB) beginSession(ctx context.Context, s auth.Session, d auth.Displaced, further func(*tx) error) ([]string, error) {
	var ended []string
	err := db.write(ctx, func(t *tx) error {
		if d.ID != "" {
			if err := found(t.exec(`DELETE FROM sessions WHERE id = ?`, d.ID)); err != nil {
				return err
			}
		}
		_, err := t.exec(`
			INSERT INTO sessions (id, user_id, client_id, address, user_agent, created_at, auth_time, last_used, expires_at, secret_id, kind,
				second_factor, provider, provider_factor)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			s.ID, s.UserID, s.ClientID, s.Address, s.UserAgent,
			micros(s.CreatedAt), micros(s.AuthTime), micros(s.LastUsed), micros(s.ExpiresAt),
			sql.NullString{String: s.SecretID, Valid: s.SecretID != ""}, string(s.Kind), s.SecondFactor, s.Provider, s.ProviderFactor)
		if err := taken(err); err != nil {
			return err
		}
		if err := further(t); err != nil {
			return err
		}
		ended, err = t.crowdOut(s, d)
		return err
	})
	if err != nil {
		return nil, authError(err)
	}
	return ended, nil
}

// liveSession is the condition under which a session s goes on after a moment, which it takes twice.
const liveSession = `s.expires_at > ? AND (s.secret_id IS NOT NULL OR EXISTS
	(SELECT 1 FROM refresh_tokens r WHERE r.session_id = s.id AND r.used_at IS NULL AND r.expires_at > ?))`

// crowdOut ends the sessions of a user that one which has just begun leaves no room for. Writers take turns, so that
// sessions which begin at once see each other: a database in which they don't would have to lock the user's row first. It
// ends no more than a batch, so that who has very many, since the bound is new, is not kept from signing in.
func (t *tx) crowdOut(begun auth.Session, d auth.Displaced) (ended []string, err error) {
	if d.Most <= 0 {
		return nil, nil
	}
	type other struct {
		id            string
		used, created time.Time
	}
	var others []other
	now := micros(begun.CreatedAt)
	err = t.rows(func(s scan) error {
		var o other
		err := s(&o.id, moment{&o.used}, moment{&o.created})
		if d.Used != nil {
			if used := d.Used(o.id); used.After(o.used) {
				o.used = used
			}
		}
		others = append(others, o)
		return err
	}, `SELECT s.id, s.last_used, s.created_at FROM sessions s WHERE s.user_id = ? AND s.id <> ? AND `+liveSession,
		begun.UserID, begun.ID, now, now)
	if err != nil || len(others) < d.Most {
		return nil, err
	}
	slices.SortFunc(others, func(a, b other) int {
		return cmp.Or(a.used.Compare(b.used), a.created.Compare(b.created), cmp.Compare(a.id, b.id))
	})
	for _, o := range others[:min(len(others)-d.Most+1, sweepBatch)] {
		if err := t.endSession(o.id); err != nil {
			return nil, err
		}
		ended = append(ended, o.id)
	}
	return ended, nil
}

// taken turns a violated constraint of an INSERT into the room's words: the row exists already, or its user does not.
func taken(err error) error {
	switch {
	case violates(err, unique):
		return auth.ErrTaken
	case violates(err, foreign):
		return errAbsent
	}
	return err
}

// addToken makes a token the live one of a session that has none. It ends with the session at the latest: whether a session
// can go on is to be seen from its live token alone.
func (t *tx) addToken(s auth.Session, r auth.RefreshToken) error {
	expires := min(micros(r.ExpiresAt), micros(s.ExpiresAt))
	_, err := t.exec(`INSERT INTO refresh_tokens (hash, session_id, expires_at) VALUES (?, ?, ?)`, r.Hash[:], s.ID, expires)
	return taken(err)
}

// Session implements auth.Store.
func (db *DB) Session(ctx context.Context, id string) (auth.Session, error) {
	return db.session(ctx, `SELECT `+sessionColumns+` FROM sessions s WHERE s.id = ?`, id)
}

// SessionOfRefresh implements auth.Store.
func (db *DB) SessionOfRefresh(ctx context.Context, hash [32]byte, now time.Time) (auth.Session, error) {
	return db.session(ctx, `SELECT `+sessionColumns+` FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id
		WHERE r.hash = ? AND r.used_at IS NULL AND r.expires_at > ? AND s.kind = ''`, hash[:], micros(now))
}

func (db *DB) session(ctx context.Context, query string, args ...any) (auth.Session, error) {
	var found auth.Session
	err := db.read(ctx, func(t *tx) error {
		return t.row(func(s scan) error { return s(intoSession(&found)...) }, query, args...)
	})
	if err != nil {
		return auth.Session{}, authError(err)
	}
	return found, nil
}

// SessionsOf implements auth.Store.
func (db *DB) SessionsOf(ctx context.Context, userID string, now time.Time) ([]auth.Session, error) {
	var list []auth.Session
	err := db.read(ctx, func(t *tx) error {
		return t.rows(func(s scan) error {
			var one auth.Session
			err := s(intoSession(&one)...)
			list = append(list, one)
			return err
		}, `SELECT `+sessionColumns+` FROM sessions s WHERE s.user_id = ? AND `+liveSession+` ORDER BY s.created_at DESC, s.id`,
			userID, micros(now), micros(now))
	})
	if err != nil {
		return nil, authError(err)
	}
	return list, nil
}

// Rotate implements auth.Store.
func (db *DB) Rotate(ctx context.Context, old [32]byte, next auth.RefreshToken, now time.Time) (auth.Session, error) {
	var session auth.Session
	var reused bool
	err := db.write(ctx, func(t *tx) error {
		var expires time.Time
		err := t.row(func(s scan) error {
			return s(append(intoSession(&session), &reused, moment{&expires})...)
		}, `SELECT `+sessionColumns+`, r.used_at IS NOT NULL, r.expires_at
			FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id WHERE r.hash = ? AND s.kind = ''`, old[:])
		switch {
		case err != nil:
			return err
		case reused:
			return t.endSession(session.ID)
		case micros(expires) <= micros(now):
			return auth.ErrToken
		}
		// Of several that read the token as unused this statement lets one pass, on any database.
		n, err := t.exec(`UPDATE refresh_tokens SET used_at = ? WHERE hash = ? AND used_at IS NULL`, micros(now), old[:])
		if err != nil {
			return err
		}
		if reused = n == 0; reused {
			return t.endSession(session.ID)
		}
		if _, err := t.exec(`UPDATE sessions SET last_used = ? WHERE id = ?`, micros(now), session.ID); err != nil {
			return err
		}
		session.LastUsed = time.UnixMicro(micros(now)).UTC()
		return t.addToken(session, next)
	})
	switch {
	case err != nil:
		return auth.Session{}, authError(err)
	case reused:
		return session, auth.ErrReused // after the commit: the end of the session must last
	}
	return session, nil
}

// endSession removes a session; its tokens go with it by their foreign key.
func (t *tx) endSession(id string) error {
	_, err := t.exec(`DELETE FROM sessions WHERE id = ?`, id)
	return err
}

// TouchSession implements auth.Store. The time never goes back.
func (db *DB) TouchSession(ctx context.Context, id string, used time.Time) error {
	return authError(db.write(ctx, func(t *tx) error {
		return found(t.exec(`UPDATE sessions SET last_used = CASE WHEN last_used > ? THEN last_used ELSE ? END WHERE id = ?`,
			micros(used), micros(used), id))
	}))
}

// EndSession implements auth.Store.
func (db *DB) EndSession(ctx context.Context, id string) error {
	return authError(db.write(ctx, func(t *tx) error { return t.endSession(id) }))
}

// EndSessions implements auth.Store.
func (db *DB) EndSessions(ctx context.Context, userID, except string) ([]string, error) {
	var ended []string
	err := db.write(ctx, func(t *tx) error {
		return t.rows(func(s scan) error {
			var id string
			err := s(&id)
			ended = append(ended, id)
			return err
		}, `DELETE FROM sessions WHERE user_id = ? AND id <> ? RETURNING id`, userID, except)
	})
	if err != nil {
		return nil, authError(err)
	}
	return ended, nil
}

// EndAllSessions implements auth.Store. It walks through the ids, so that sessions which begin behind it don't keep it busy.
func (db *DB) EndAllSessions(ctx context.Context) error {
	last := ""
	for more := true; more; {
		err := db.write(ctx, func(t *tx) error {
			n := 0
			err := t.rows(func(s scan) error {
				var id string
				err := s(&id)
				last, n = max(last, id), n+1
				return err
			}, `DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE id > ? ORDER BY id LIMIT ?) RETURNING id`, last, sweepBatch)
			more = n == sweepBatch
			return err
		})
		if err != nil {
			return authError(err)
		}
	}
	return nil
}
