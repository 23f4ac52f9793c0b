-- +goose Up

-- The second factor of a user, sealed with the server's master key, and what is left of his recovery codes.
CREATE TABLE totp (
	user_id    TEXT NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
	secret     BLOB NOT NULL,    -- sealed
	active     INTEGER NOT NULL CHECK (active IN (0, 1)),
	session_id TEXT NOT NULL,    -- while not active: who began it; no reference, it may have ended
	last_step  INTEGER NOT NULL, -- time steps up to this are used up
	guesses    INTEGER NOT NULL, -- until when wrong codes count
	codes      BLOB NOT NULL CHECK (length(codes) % 32 = 0), -- SHA-256 of each recovery code, one after the other
	created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Whether a reset takes the second factor away too.
ALTER TABLE tickets ADD COLUMN drops_totp INTEGER NOT NULL DEFAULT 0 CHECK (drops_totp IN (0, 1));
