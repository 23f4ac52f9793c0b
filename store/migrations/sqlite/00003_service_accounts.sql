-- +goose Up

-- Service accounts are users that are programs. They have no password and prove themselves by a secret.
ALTER TABLE users ADD COLUMN kind TEXT NOT NULL DEFAULT '' CHECK (kind IN ('', 'service'));

CREATE TABLE client_secrets (
	id         TEXT NOT NULL PRIMARY KEY,
	user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	hash       BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
	created_at INTEGER NOT NULL,
	expires_at INTEGER, -- null: never
	last_used  INTEGER  -- null: not yet
) STRICT;
CREATE INDEX client_secrets_user ON client_secrets (user_id, created_at);
CREATE INDEX client_secrets_expiry ON client_secrets (expires_at);

-- A session that was begun with a secret ends with it, and has no refresh tokens. Null: a person's.
ALTER TABLE sessions ADD COLUMN secret_id TEXT REFERENCES client_secrets (id) ON DELETE CASCADE;
CREATE INDEX sessions_secret ON sessions (secret_id);
CREATE INDEX sessions_client_expiry ON sessions (expires_at) WHERE secret_id IS NOT NULL;
