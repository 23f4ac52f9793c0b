-- +goose Up

-- Times are microseconds since 1970 in UTC. Hashes are SHA-256: what they stand for is never stored.

CREATE TABLE roles (
	name        TEXT NOT NULL PRIMARY KEY,
	permissions TEXT NOT NULL, -- JSON array of names
	rate        TEXT NOT NULL, -- "600-M", or empty
	builtin     INTEGER NOT NULL CHECK (builtin IN (0, 1)),
	created_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO roles (name, permissions, rate, builtin, created_at) VALUES
	('admin', '["users:manage","models:write","models:manage","audit:read","metrics:read"]', '', 1, unixepoch() * 1000000),
	('data-scientist', '["models:write"]', '', 1, unixepoch() * 1000000),
	('user', '[]', '', 1, unixepoch() * 1000000);

CREATE TABLE users (
	id            TEXT NOT NULL PRIMARY KEY,
	username      TEXT NOT NULL UNIQUE,
	password_hash TEXT NOT NULL, -- PHC string; empty until an invitation is taken
	disabled      INTEGER NOT NULL CHECK (disabled IN (0, 1)),
	created_at    INTEGER NOT NULL,
	updated_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE user_roles (
	user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	role    TEXT NOT NULL REFERENCES roles (name),
	PRIMARY KEY (user_id, role)
) STRICT, WITHOUT ROWID;
CREATE INDEX user_roles_role ON user_roles (role, user_id);

CREATE TABLE sessions (
	id         TEXT NOT NULL PRIMARY KEY,
	user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	client_id  TEXT NOT NULL,
	address    TEXT NOT NULL,
	user_agent TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	auth_time  INTEGER NOT NULL,
	last_used  INTEGER NOT NULL,
	expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_user ON sessions (user_id, created_at);

CREATE TABLE refresh_tokens (
	hash       BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
	session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
	expires_at INTEGER NOT NULL,
	used_at    INTEGER -- null: the live one
) STRICT, WITHOUT ROWID;
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_expiry ON refresh_tokens (expires_at);
-- However rotations race, a family has one live token.
CREATE UNIQUE INDEX refresh_tokens_live ON refresh_tokens (session_id) WHERE used_at IS NULL;

CREATE TABLE api_keys (
	id         TEXT NOT NULL PRIMARY KEY,
	user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	name       TEXT NOT NULL,
	hash       BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
	models     TEXT,    -- JSON array of names; null: every model of the user
	created_at INTEGER NOT NULL,
	expires_at INTEGER, -- null: never
	last_used  INTEGER  -- null: not yet
) STRICT;
CREATE INDEX api_keys_user ON api_keys (user_id, created_at);
CREATE INDEX api_keys_expiry ON api_keys (expires_at);

CREATE TABLE tickets (
	hash       BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
	kind       TEXT NOT NULL,
	user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	expires_at INTEGER NOT NULL,
	UNIQUE (user_id, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX tickets_expiry ON tickets (expires_at);

CREATE TABLE models (
	id              TEXT NOT NULL PRIMARY KEY,
	name            TEXT NOT NULL UNIQUE,
	description     TEXT NOT NULL,
	owner_id        TEXT REFERENCES users (id) ON DELETE SET NULL,
	disclosure      TEXT NOT NULL, -- JSON: the rule for all
	serving         TEXT NOT NULL, -- JSON
	default_version INTEGER,       -- null: none left
	next_version    INTEGER NOT NULL CHECK (next_version > 0), -- only grows: numbers are never used twice
	created_at      INTEGER NOT NULL,
	updated_at      INTEGER NOT NULL,
	FOREIGN KEY (id, default_version) REFERENCES versions (model_id, number)
) STRICT;
CREATE INDEX models_owner ON models (owner_id);
CREATE INDEX models_default ON models (id, default_version);

CREATE TABLE versions (
	model_id   TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
	number     INTEGER NOT NULL CHECK (number > 0),
	id         TEXT NOT NULL UNIQUE,
	digest     TEXT NOT NULL, -- hex SHA-256 of the file
	size       INTEGER NOT NULL,
	state      TEXT NOT NULL,
	reason     TEXT NOT NULL,
	signature  TEXT NOT NULL, -- JSON
	facts      TEXT NOT NULL, -- JSON
	created_by TEXT NOT NULL, -- a user, perhaps deleted since
	created_at INTEGER NOT NULL,
	PRIMARY KEY (model_id, number)
) STRICT;

-- Who may call a model.
CREATE TABLE model_roles (
	model_id TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
	role     TEXT NOT NULL REFERENCES roles (name),
	PRIMARY KEY (model_id, role)
) STRICT, WITHOUT ROWID;
CREATE INDEX model_roles_role ON model_roles (role);

-- What the holders of a role see instead of what models.disclosure says.
CREATE TABLE model_rules (
	model_id TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
	role     TEXT NOT NULL REFERENCES roles (name),
	rule     TEXT NOT NULL, -- JSON
	PRIMARY KEY (model_id, role)
) STRICT, WITHOUT ROWID;
CREATE INDEX model_rules_role ON model_rules (role);

CREATE TABLE model_aliases (
	model_id TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
	alias    TEXT NOT NULL,
	number   INTEGER NOT NULL,
	PRIMARY KEY (model_id, alias),
	FOREIGN KEY (model_id, number) REFERENCES versions (model_id, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX model_aliases_version ON model_aliases (model_id, number);

-- The end of the audit log's chain, beside the log itself, so that a cut tail is found.
CREATE TABLE audit_head (
	id   INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
	seq  INTEGER NOT NULL,
	hash TEXT NOT NULL
) STRICT;
