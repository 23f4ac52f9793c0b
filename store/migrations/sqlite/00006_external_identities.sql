-- +goose Up

-- Who a user is at an identity provider.
CREATE TABLE external_identities (
	id          TEXT NOT NULL PRIMARY KEY,
	issuer      TEXT NOT NULL,
	subject     TEXT NOT NULL,
	user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	managed     INTEGER NOT NULL CHECK (managed IN (0, 1)), -- 1: the provider made the user and says his roles
	asserted_at INTEGER,                                    -- iat of the newest token heard; null: none yet
	created_at  INTEGER NOT NULL,
	UNIQUE (issuer, subject)
) STRICT;
CREATE INDEX external_identities_user ON external_identities (user_id, created_at);

-- As of users' other credentials (00002). That a newer token was heard changes nothing.
-- +goose StatementBegin
CREATE TRIGGER external_identities_changed AFTER UPDATE OF issuer, subject, user_id, managed ON external_identities
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER external_identities_deleted AFTER DELETE ON external_identities
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
-- +goose StatementEnd

-- Sign-ins that have gone to a provider and not come back yet.
CREATE TABLE external_sign_ins (
	hash       BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
	provider   TEXT NOT NULL,
	fresh      INTEGER NOT NULL CHECK (fresh IN (0, 1)),
	expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX external_sign_ins_expiry ON external_sign_ins (expires_at);
