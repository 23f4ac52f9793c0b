-- +goose Up

-- The browser's session from which a sign-in went to a provider; empty: none. No reference, it may have ended.
ALTER TABLE external_sign_ins ADD COLUMN session_id TEXT NOT NULL DEFAULT '';
