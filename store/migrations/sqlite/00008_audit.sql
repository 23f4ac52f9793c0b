-- +goose Up

-- The ends of the chains of audit logs. Servers with data folders of their own may share a database: each has a log, named
-- by the id of its key. The log of before has none until it is opened.
CREATE TABLE audit_heads (
	log  TEXT NOT NULL PRIMARY KEY,
	seq  INTEGER NOT NULL,
	hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO audit_heads (log, seq, hash) SELECT '', seq, hash FROM audit_head;
DROP TABLE audit_head;
