-- +goose Up

-- Keys that sign access tokens. The private part is sealed by the master key, which is not in the database.
CREATE TABLE signing_keys (
	id         TEXT NOT NULL PRIMARY KEY, -- thumbprint of the public part (RFC 7638)
	sealed     BLOB NOT NULL,
	created_at INTEGER NOT NULL,
	active_at  INTEGER NOT NULL, -- signs from then on, until a later one does
	retire_at  INTEGER           -- verifies until then; null: there is no later one
) STRICT, WITHOUT ROWID;

-- What somebody may do has changed: servers that share the database look here for what others did, and drop what they
-- remember of it. Triggers write it, so that no statement can forget it, whoever makes it. Numbers only grow, also when
-- the old rows are removed.
CREATE TABLE changes (
	id      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	kind    TEXT NOT NULL, -- 'user', 'role', 'model', 'keys'
	subject TEXT NOT NULL  -- a user's id, a role's or a model's name
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER users_changed AFTER UPDATE ON users
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', new.id); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER users_deleted AFTER DELETE ON users
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.id); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER user_roles_added AFTER INSERT ON user_roles
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', new.user_id); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER user_roles_deleted AFTER DELETE ON user_roles
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER sessions_changed AFTER UPDATE OF user_id, client_id, auth_time, expires_at ON sessions
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER sessions_deleted AFTER DELETE ON sessions
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER api_keys_changed AFTER UPDATE OF user_id, hash, models, expires_at ON api_keys
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER roles_added AFTER INSERT ON roles
BEGIN INSERT INTO changes (kind, subject) VALUES ('role', new.name); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER roles_changed AFTER UPDATE ON roles
BEGIN INSERT INTO changes (kind, subject) VALUES ('role', new.name); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER roles_deleted AFTER DELETE ON roles
BEGIN INSERT INTO changes (kind, subject) VALUES ('role', old.name); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER models_added AFTER INSERT ON models
BEGIN INSERT INTO changes (kind, subject) VALUES ('model', new.name); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER models_changed AFTER UPDATE ON models -- also when roles, rules, aliases or the owner change
BEGIN INSERT INTO changes (kind, subject) VALUES ('model', new.name); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER models_deleted AFTER DELETE ON models
BEGIN INSERT INTO changes (kind, subject) VALUES ('model', old.name); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER versions_changed AFTER UPDATE OF state ON versions
BEGIN INSERT INTO changes (kind, subject) SELECT 'model', name FROM models WHERE id = new.model_id; END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER signing_keys_added AFTER INSERT ON signing_keys
BEGIN INSERT INTO changes (kind, subject) VALUES ('keys', ''); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER signing_keys_changed AFTER UPDATE ON signing_keys
BEGIN INSERT INTO changes (kind, subject) VALUES ('keys', ''); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER signing_keys_deleted AFTER DELETE ON signing_keys
BEGIN INSERT INTO changes (kind, subject) VALUES ('keys', ''); END;
-- +goose StatementEnd
