-- +goose Up

-- Until when a password that the program made signs in; null: its user chose it, and it does not expire.
ALTER TABLE users ADD COLUMN password_expires INTEGER;

-- Whether the sign-in took a code of the user's second factor.
ALTER TABLE sessions ADD COLUMN second_factor INTEGER NOT NULL DEFAULT 0 CHECK (second_factor IN (0, 1));

-- Who made a way in for another user: a user, perhaps deleted since; empty: not known.
ALTER TABLE client_secrets ADD COLUMN created_by TEXT NOT NULL DEFAULT '';
ALTER TABLE external_identities ADD COLUMN created_by TEXT NOT NULL DEFAULT '';
