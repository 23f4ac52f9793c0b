-- +goose Up

-- At which identity provider the user of a browser's session proved himself ('': here), and whether it told of a second
-- factor. Neither changes while the session lasts.
ALTER TABLE sessions ADD COLUMN provider TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN provider_factor INTEGER NOT NULL DEFAULT 0 CHECK (provider_factor IN (0, 1));
