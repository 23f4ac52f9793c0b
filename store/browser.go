package store

import (
	"context"
	"time"

	"modelgate/auth"
)

// The session of a browser has one row of refresh_tokens, which holds the hash of its cookie and its idle end. So sessions of
// both kinds are listed, ended and swept by the same statements.

// BrowserSession implements auth.Store.
func (db *DB) BrowserSession(ctx context.Context, hash [32]byte, now time.Time) (found auth.Session, idleEnd time.Time, err error) {
	err = db.read(ctx, func(t *tx) error { return t.browser(&found, &idleEnd, hash, now) })
	if err != nil {
		return auth.Session{}, time.Time{}, authError(err)
	}
	return found, idleEnd, nil
}

func (t *tx) browser(into *auth.Session, idleEnd *time.Time, hash [32]byte, now time.Time) error {
	return t.row(func(s scan) error { return s(append(intoSession(into), moment{idleEnd})...) },
		`SELECT `+sessionColumns+`, r.expires_at FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id
			WHERE r.hash = ? AND r.expires_at > ? AND s.kind = 'browser'`, hash[:], micros(now))
}

// TouchBrowser implements auth.Store.
func (db *DB) TouchBrowser(ctx context.Context, hash [32]byte, used, idleEnd time.Time) error {
	return authError(db.write(ctx, func(t *tx) error {
		var session auth.Session
		var end time.Time
		if err := t.browser(&session, &end, hash, used); err != nil {
			return err
		}
		if _, err := t.exec(`UPDATE sessions SET last_used = ? WHERE id = ? AND last_used < ?`,
			micros(used), session.ID, micros(used)); err != nil {
			return err
		}
		next := min(micros(idleEnd), micros(session.ExpiresAt))
		_, err := t.exec(`UPDATE refresh_tokens SET expires_at = ? WHERE hash = ? AND expires_at < ?`, next, hash[:], next)
		return err
	}))
}

// RenewBrowser implements auth.Store.
func (db *DB) RenewBrowser(ctx context.Context, old [32]byte, next auth.RefreshToken, now time.Time) (auth.Session, error) {
	var session auth.Session
	err := db.write(ctx, func(t *tx) error {
		var end time.Time
		if err := t.browser(&session, &end, old, now); err != nil {
			return err
		}
		// Of several that read the old cookie as live this statement lets one pass, on any database.
		expires := min(micros(next.ExpiresAt), micros(session.ExpiresAt))
		if err := found(t.exec(`UPDATE refresh_tokens SET hash = ?, expires_at = ? WHERE hash = ?`, next.Hash[:], expires, old[:])); err != nil {
			return taken(err)
		}
		session.AuthTime, session.LastUsed = time.UnixMicro(micros(now)).UTC(), time.UnixMicro(micros(now)).UTC()
		_, err := t.exec(`UPDATE sessions SET auth_time = ?, last_used = ? WHERE id = ?`, micros(now), micros(now), session.ID)
		return err
	})
	if err != nil {
		return auth.Session{}, authError(err)
	}
	return session, nil
}
