-- +goose Up

-- Rows that holders of a role may predict in a day, over all models; 0: as many as they like.
ALTER TABLE roles ADD COLUMN daily_rows INTEGER NOT NULL DEFAULT 0;

-- What is counted against budgets of a day. It goes with the day, and so needs no reference to the user.
CREATE TABLE daily_rows (
	user_id TEXT NOT NULL,
	day     INTEGER NOT NULL, -- its first moment, UTC
	model   TEXT NOT NULL,    -- name; empty: all models together
	used    INTEGER NOT NULL CHECK (used >= 0),
	PRIMARY KEY (user_id, day, model)
) STRICT, WITHOUT ROWID;
CREATE INDEX daily_rows_day ON daily_rows (day);
