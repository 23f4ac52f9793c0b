-- +goose Up

-- '': a family of refresh tokens. 'browser': the session of a cookie; its row in refresh_tokens holds the hash of the
-- cookie's value and the session's idle end, and is changed in place, never used up.
ALTER TABLE sessions ADD COLUMN kind TEXT NOT NULL DEFAULT '';
