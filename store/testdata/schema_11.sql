-- A database of schema 11 with a row in every table. Never edit this file.
PRAGMA foreign_keys = OFF;
PRAGMA application_id = 1835491700;
BEGIN;
CREATE TABLE goose_db_version (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		version_id INTEGER NOT NULL,
		is_applied INTEGER NOT NULL,
		tstamp TIMESTAMP DEFAULT (datetime('now'))
	);
CREATE TABLE roles (
	name        TEXT NOT NULL PRIMARY KEY,
	permissions TEXT NOT NULL, -- JSON array of names
	rate        TEXT NOT NULL, -- "600-M", or empty
	builtin     INTEGER NOT NULL CHECK (builtin IN (0, 1)),
	created_at  INTEGER NOT NULL
, daily_rows INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
CREATE TABLE users (
	id            TEXT NOT NULL PRIMARY KEY,
	username      TEXT NOT NULL UNIQUE,
	password_hash TEXT NOT NULL, -- PHC string; empty until an invitation is taken
	disabled      INTEGER NOT NULL CHECK (disabled IN (0, 1)),
	created_at    INTEGER NOT NULL,
	updated_at    INTEGER NOT NULL
, kind TEXT NOT NULL DEFAULT '' CHECK (kind IN ('', 'service')), password_expires INTEGER) STRICT, WITHOUT ROWID;
CREATE TABLE user_roles (
	user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	role    TEXT NOT NULL REFERENCES roles (name),
	PRIMARY KEY (user_id, role)
) STRICT, WITHOUT ROWID;
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
, secret_id TEXT REFERENCES client_secrets (id) ON DELETE CASCADE, kind TEXT NOT NULL DEFAULT '', second_factor INTEGER NOT NULL DEFAULT 0 CHECK (second_factor IN (0, 1)), provider TEXT NOT NULL DEFAULT '', provider_factor INTEGER NOT NULL DEFAULT 0 CHECK (provider_factor IN (0, 1))) STRICT;
CREATE TABLE refresh_tokens (
	hash       BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
	session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
	expires_at INTEGER NOT NULL,
	used_at    INTEGER -- null: the live one
) STRICT, WITHOUT ROWID;
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
CREATE TABLE tickets (
	hash       BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
	kind       TEXT NOT NULL,
	user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	expires_at INTEGER NOT NULL, drops_totp INTEGER NOT NULL DEFAULT 0 CHECK (drops_totp IN (0, 1)),
	UNIQUE (user_id, kind)
) STRICT, WITHOUT ROWID;
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
CREATE TABLE model_roles (
	model_id TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
	role     TEXT NOT NULL REFERENCES roles (name),
	PRIMARY KEY (model_id, role)
) STRICT, WITHOUT ROWID;
CREATE TABLE model_rules (
	model_id TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
	role     TEXT NOT NULL REFERENCES roles (name),
	rule     TEXT NOT NULL, -- JSON
	PRIMARY KEY (model_id, role)
) STRICT, WITHOUT ROWID;
CREATE TABLE model_aliases (
	model_id TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
	alias    TEXT NOT NULL,
	number   INTEGER NOT NULL,
	PRIMARY KEY (model_id, alias),
	FOREIGN KEY (model_id, number) REFERENCES versions (model_id, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE TABLE signing_keys (
	id         TEXT NOT NULL PRIMARY KEY, -- thumbprint of the public part (RFC 7638)
	sealed     BLOB NOT NULL,
	created_at INTEGER NOT NULL,
	active_at  INTEGER NOT NULL, -- signs from then on, until a later one does
	retire_at  INTEGER           -- verifies until then; null: there is no later one
) STRICT, WITHOUT ROWID;
CREATE TABLE changes (
	id      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	kind    TEXT NOT NULL, -- 'user', 'role', 'model', 'keys'
	subject TEXT NOT NULL  -- a user's id, a role's or a model's name
) STRICT;
CREATE TABLE client_secrets (
	id         TEXT NOT NULL PRIMARY KEY,
	user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	hash       BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
	created_at INTEGER NOT NULL,
	expires_at INTEGER, -- null: never
	last_used  INTEGER  -- null: not yet
, created_by TEXT NOT NULL DEFAULT '') STRICT;
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
CREATE TABLE external_identities (
	id          TEXT NOT NULL PRIMARY KEY,
	issuer      TEXT NOT NULL,
	subject     TEXT NOT NULL,
	user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	managed     INTEGER NOT NULL CHECK (managed IN (0, 1)), -- 1: the provider made the user and says his roles
	asserted_at INTEGER,                                    -- iat of the newest token heard; null: none yet
	created_at  INTEGER NOT NULL, created_by TEXT NOT NULL DEFAULT '',
	UNIQUE (issuer, subject)
) STRICT;
CREATE TABLE external_sign_ins (
	hash       BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
	provider   TEXT NOT NULL,
	fresh      INTEGER NOT NULL CHECK (fresh IN (0, 1)),
	expires_at INTEGER NOT NULL
, session_id TEXT NOT NULL DEFAULT '') STRICT, WITHOUT ROWID;
CREATE TABLE daily_rows (
	user_id TEXT NOT NULL,
	day     INTEGER NOT NULL, -- its first moment, UTC
	model   TEXT NOT NULL,    -- name; empty: all models together
	used    INTEGER NOT NULL CHECK (used >= 0),
	PRIMARY KEY (user_id, day, model)
) STRICT, WITHOUT ROWID;
CREATE TABLE audit_heads (
	log  TEXT NOT NULL PRIMARY KEY,
	seq  INTEGER NOT NULL,
	hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "goose_db_version" VALUES (1,0,1,'2026-11-26 18:58:42');
INSERT INTO "goose_db_version" VALUES (2,1,1,'2026-11-26 18:58:42');
INSERT INTO "goose_db_version" VALUES (3,2,1,'2026-11-26 18:58:42');
INSERT INTO "goose_db_version" VALUES (4,3,1,'2026-11-26 18:58:42');
INSERT INTO "goose_db_version" VALUES (5,4,1,'2026-11-26 18:58:42');
INSERT INTO "goose_db_version" VALUES (6,5,1,'2026-11-26 18:58:42');
INSERT INTO "goose_db_version" VALUES (7,6,1,'2026-11-26 18:58:42');
INSERT INTO "goose_db_version" VALUES (8,7,1,'2026-11-26 18:58:42');
INSERT INTO "goose_db_version" VALUES (9,8,1,'2026-11-26 18:58:42');
INSERT INTO "goose_db_version" VALUES (10,9,1,'2026-11-26 18:58:42');
INSERT INTO "goose_db_version" VALUES (11,10,1,'2026-11-26 18:58:42');
INSERT INTO "goose_db_version" VALUES (12,11,1,'2026-11-26 18:58:42');
INSERT INTO "sqlite_sequence" VALUES ('goose_db_version',12);
INSERT INTO "sqlite_sequence" VALUES ('changes',7);
INSERT INTO "roles" VALUES ('admin','["users:manage","models:write","models:manage","audit:read","metrics:read"]','',1,1795719522000000,0);
INSERT INTO "roles" VALUES ('analyst','["audit:read"]','600-M',0,1772366400123456,0);
INSERT INTO "roles" VALUES ('data-scientist','["models:write"]','',1,1795719522000000,0);
INSERT INTO "roles" VALUES ('user','[]','',1,1795719522000000,0);
INSERT INTO "users" VALUES ('c','robot','',0,1772366400123456,1772366400123456,'service',NULL);
INSERT INTO "users" VALUES ('u','ada','$argon2id$x',0,1772366400123456,1772366400123456,'',4102444800000000);
INSERT INTO "user_roles" VALUES ('u','admin');
INSERT INTO "user_roles" VALUES ('u','analyst');
INSERT INTO "sessions" VALUES ('s','u','modelgate','192.0.2.1','curl/8',1772366400123456,1772366400123456,1772366400123456,4102444800000000,NULL,'',0,'',0);
INSERT INTO "sessions" VALUES ('b','u','modelgate','192.0.2.2','Firefox',1772366400123456,1772366400123456,1772366400123456,4102444800000000,NULL,'browser',1,'',0);
INSERT INTO "sessions" VALUES ('e','u','modelgate','192.0.2.3','Firefox',1772366400123456,1772366400123456,1772366400123456,4102444800000000,NULL,'browser',0,'corp',1);
INSERT INTO "refresh_tokens" VALUES (X'247610F4DEDD4AB7247D07DBDA19C81CA9817F85820742CAD49D407FFAE9E4ED','s',4102444800000000,NULL);
INSERT INTO "refresh_tokens" VALUES (X'3C4623849A49A53911C4A3E48D8CEAD8A1858960BCCDEA7A1B978D73EC2F06D7','e',4102444800000000,NULL);
INSERT INTO "refresh_tokens" VALUES (X'D7E83E28A04B537E64424546B14CAF9B67BAD2F28DABCE68116E0D372319FA00','b',4102444800000000,NULL);
INSERT INTO "refresh_tokens" VALUES (X'F839161355091FCD9E33F571E0B11C60217A5009F9973E769C13D7858DB162CC','s',4102444800000000,1772366400123456);
INSERT INTO "api_keys" VALUES ('k','u','ci',X'2C70E12B7A0646F92279F427C7B38E7334D8E5389CFF167A1DC30E73F826B683','["iris"]',1772366400123456,4102444800000000,1772366400123456);
INSERT INTO "tickets" VALUES (X'14069429150ABCBF244C4C2FB2C4C46A49C93CA9457263ECD9EBB176DE3A58BB','password_reset','u',4102444800000000,0);
INSERT INTO "models" VALUES ('m','iris','flowers','u','{"outputs":["label"],"top_k":0,"decimals":2,"label_only":false,"daily_rows":0}','{"timeout_ms":100}',1,2,1772366400123456,1772366400123456);
INSERT INTO "versions" VALUES ('m',1,'v','abababababababababababababababababababababababababababababababab',1234,'ready','','{"inputs":[{"name":"X","graph":"eDow","kind":"tensor","type":1,"key":0,"shape":[-1,4]}],"outputs":[{"name":"label","graph":"bA==","kind":"maps","type":1,"key":7,"shape":null}]}','{"opset":15,"operators":["ZipMap"],"nodes":1,"parameters":2,"trial":"ran"}','u',1772366400123456);
INSERT INTO "model_roles" VALUES ('m','analyst');
INSERT INTO "model_rules" VALUES ('m','analyst','{"outputs":null,"top_k":1,"decimals":null,"label_only":true,"daily_rows":0}');
INSERT INTO "model_aliases" VALUES ('m','stable',1);
INSERT INTO "signing_keys" VALUES ('kid',X'7365616C6564',1772366400123456,1772366400123456,4102444800000000);
INSERT INTO "changes" VALUES (1,'role','analyst');
INSERT INTO "changes" VALUES (2,'user','u');
INSERT INTO "changes" VALUES (3,'user','u');
INSERT INTO "changes" VALUES (4,'model','iris');
INSERT INTO "changes" VALUES (5,'model','iris');
INSERT INTO "changes" VALUES (6,'model','iris');
INSERT INTO "changes" VALUES (7,'keys','');
INSERT INTO "client_secrets" VALUES ('cs','c',X'948FE603F61DC036B5C596DC09FE3CE3F3D30DC90F024C85F3C82DB2CCAB679D',1772366400123456,4102444800000000,1772366400123456,'m');
INSERT INTO "totp" VALUES ('u',X'7365616C6564',0,'s',58000000,1772366400123456,X'8C585378513F5F7A2E1456EE54042605FDB890392BECEFADD2AB180FD02FB341AE448AC86C4E8E4DEC645729708EF41873AE79C6DFF84EFF73360989487F08E5',1772366400123456);
INSERT INTO "external_identities" VALUES ('i','https://id.example.com','sub','u',1,1772366400123456,1772366400123456,'m');
INSERT INTO "external_sign_ins" VALUES (X'48D7C508CC0CA58AEBCE521A3588FCA017D7CE5AB891EC395D1F5FAF447D7221','corp',0,4102444800000000,'b');
INSERT INTO "daily_rows" VALUES ('u',1772323200000000,'iris',1);
INSERT INTO "audit_heads" VALUES ('',42,'abc');
CREATE INDEX user_roles_role ON user_roles (role, user_id);
CREATE INDEX sessions_user ON sessions (user_id, created_at);
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_expiry ON refresh_tokens (expires_at);
CREATE UNIQUE INDEX refresh_tokens_live ON refresh_tokens (session_id) WHERE used_at IS NULL;
CREATE INDEX api_keys_user ON api_keys (user_id, created_at);
CREATE INDEX api_keys_expiry ON api_keys (expires_at);
CREATE INDEX tickets_expiry ON tickets (expires_at);
CREATE INDEX models_owner ON models (owner_id);
CREATE INDEX models_default ON models (id, default_version);
CREATE INDEX model_roles_role ON model_roles (role);
CREATE INDEX model_rules_role ON model_rules (role);
CREATE INDEX model_aliases_version ON model_aliases (model_id, number);
CREATE TRIGGER users_changed AFTER UPDATE ON users
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', new.id); END;
CREATE TRIGGER users_deleted AFTER DELETE ON users
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.id); END;
CREATE TRIGGER user_roles_added AFTER INSERT ON user_roles
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', new.user_id); END;
CREATE TRIGGER user_roles_deleted AFTER DELETE ON user_roles
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
CREATE TRIGGER sessions_changed AFTER UPDATE OF user_id, client_id, auth_time, expires_at ON sessions
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
CREATE TRIGGER sessions_deleted AFTER DELETE ON sessions
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
CREATE TRIGGER api_keys_changed AFTER UPDATE OF user_id, hash, models, expires_at ON api_keys
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
CREATE TRIGGER roles_added AFTER INSERT ON roles
BEGIN INSERT INTO changes (kind, subject) VALUES ('role', new.name); END;
CREATE TRIGGER roles_changed AFTER UPDATE ON roles
BEGIN INSERT INTO changes (kind, subject) VALUES ('role', new.name); END;
CREATE TRIGGER roles_deleted AFTER DELETE ON roles
BEGIN INSERT INTO changes (kind, subject) VALUES ('role', old.name); END;
CREATE TRIGGER models_added AFTER INSERT ON models
BEGIN INSERT INTO changes (kind, subject) VALUES ('model', new.name); END;
CREATE TRIGGER models_changed AFTER UPDATE ON models -- also when roles, rules, aliases or the owner change
BEGIN INSERT INTO changes (kind, subject) VALUES ('model', new.name); END;
CREATE TRIGGER models_deleted AFTER DELETE ON models
BEGIN INSERT INTO changes (kind, subject) VALUES ('model', old.name); END;
CREATE TRIGGER versions_changed AFTER UPDATE OF state ON versions
BEGIN INSERT INTO changes (kind, subject) SELECT 'model', name FROM models WHERE id = new.model_id; END;
CREATE TRIGGER signing_keys_added AFTER INSERT ON signing_keys
BEGIN INSERT INTO changes (kind, subject) VALUES ('keys', ''); END;
CREATE TRIGGER signing_keys_changed AFTER UPDATE ON signing_keys
BEGIN INSERT INTO changes (kind, subject) VALUES ('keys', ''); END;
CREATE TRIGGER signing_keys_deleted AFTER DELETE ON signing_keys
BEGIN INSERT INTO changes (kind, subject) VALUES ('keys', ''); END;
CREATE INDEX client_secrets_user ON client_secrets (user_id, created_at);
CREATE INDEX client_secrets_expiry ON client_secrets (expires_at);
CREATE INDEX sessions_secret ON sessions (secret_id);
CREATE INDEX sessions_client_expiry ON sessions (expires_at) WHERE secret_id IS NOT NULL;
CREATE INDEX external_identities_user ON external_identities (user_id, created_at);
CREATE TRIGGER external_identities_changed AFTER UPDATE OF issuer, subject, user_id, managed ON external_identities
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
CREATE TRIGGER external_identities_deleted AFTER DELETE ON external_identities
BEGIN INSERT INTO changes (kind, subject) VALUES ('user', old.user_id); END;
CREATE INDEX external_sign_ins_expiry ON external_sign_ins (expires_at);
CREATE INDEX daily_rows_day ON daily_rows (day);
COMMIT;
