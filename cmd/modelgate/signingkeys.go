package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"modelgate/auth"
	"modelgate/store"
)

// SigningKeyCmd is about the keys that sign access tokens.
type SigningKeyCmd struct {
	List   SigningKeyListCmd   `cmd:"" help:"List the keys."`
	Rotate SigningKeyRotateCmd `cmd:"" help:"Make a new key, which signs after the time of --key-lead. Nobody is logged out."`
	Retire SigningKeyRetireCmd `cmd:"" help:"Take a key away at once, because somebody else may know it. Clients refresh what it signed."`
}

// SigningKeyListCmd is GET /admin/signing-keys.
type SigningKeyListCmd struct{ Output }

func (c *SigningKeyListCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	list, err := api.SigningKeys(ctx)
	if err != nil {
		return err
	}
	return c.show(s, orEmpty(list), func(w io.Writer) {
		fmt.Fprintln(w, "ID\tSTATE\tCREATED\tSIGNS FROM\tVERIFIES UNTIL")
		for _, k := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", k.ID, k.State, when(&k.CreatedAt, "-"), when(&k.ActiveAt, "-"), when(k.RetireAt, "-"))
		}
	})
}

// SigningKeyRotateCmd is POST /admin/signing-keys.
type SigningKeyRotateCmd struct{ Output }

func (c *SigningKeyRotateCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	k, err := api.RotateSigningKey(ctx)
	if err != nil {
		return err
	}
	return c.show(s, k, func(w io.Writer) {
		fmt.Fprintf(w, "Key\t%s\nSigns from\t%s\n", k.ID, when(&k.ActiveAt, "-"))
	})
}

// SigningKeyRetireCmd is DELETE /admin/signing-keys/{id}.
type SigningKeyRetireCmd struct {
	ID string `arg:"" help:"The key's id; 'modelgate signing-key list' shows it."`
}

func (c *SigningKeyRetireCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	if err := api.RetireSigningKey(ctx, c.ID); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "Retired key %s. Access tokens that it signed are refused.\n", c.ID)
	return nil
}

// RewrapCmd seals anew what the database keeps sealed. It may run beside servers
// that have both master keys.
type RewrapCmd struct {
	Place
	MasterKey     string `env:"MODELGATE_MASTER_KEY" name:"master-key" placeholder:"KEY" help:"The new master key, a comma, and the old one. Prefer the variable, or the file."`
	MasterKeyFile string `env:"MODELGATE_MASTER_KEY_FILE" name:"master-key-file" type:"path" placeholder:"FILE" help:"File with the new master key and, on a line below, the old one. Default: keys/master.key in the data folder."`
	Discard       bool   `help:"The master key is lost: remove the signing keys that no given one opens. Second factors stay; users of those that nothing opens sign in with recovery codes."`
}

func (c *RewrapCmd) Run(ctx context.Context, s std) error {
	cfg := c.config()
	cfg.MasterKey, cfg.MasterKeyFile = c.MasterKey, c.MasterKeyFile
	db, err := store.Open(ctx, c.DatabasePath(), discardLogs())
	if err != nil {
		return err
	}
	defer db.Close()
	if !c.Discard {
		if err := needMasterKey(ctx, cfg, db); err != nil {
			return err
		}
	}
	vault, err := cfg.vault()
	if err != nil {
		return err
	}
	done, err := auth.Rewrap(ctx, db, vault, c.Discard)
	if done.Sealed > 0 || err == nil {
		fmt.Fprintf(s.err, "Sealed %s anew by the master key %s.\n", count(done.Sealed, "secret", "secrets"), vault.Name())
	}
	if names := usernames(ctx, db, done.Unopened); len(names) > 0 {
		fmt.Fprintf(s.err, "No given master key opens the second factors of %s: %s.\nThey stay; these users sign in with recovery codes, or need a reset ('modelgate user reset --totp').\n",
			count(len(names), "user", "users"), strings.Join(names, ", "))
	}
	if err != nil {
		if errors.Is(err, auth.ErrMasterKey) && !c.Discard {
			err = fmt.Errorf("%w: give the old master key as well, or if it is lost, --discard", err)
		}
		return err
	}
	if c.Discard {
		fmt.Fprintf(s.err, "Removed %s; clients refresh their access tokens.\n", count(done.Removed, "signing key", "signing keys"))
	}
	return nil
}

// needMasterKey refuses to go on where the file of the master key is missing and
// the database holds what a master key sealed, as after a restore: a new key would
// open none of it, and stand where the right one belongs.
func needMasterKey(ctx context.Context, cfg *Config, db *store.DB) error {
	path := masterKeyPath(cfg.Data)
	if cfg.MasterKey != "" || cfg.MasterKeyFile != "" {
		return nil
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	keys, err := db.SigningKeys(ctx)
	if err != nil {
		return err
	}
	factors, err := db.TOTPs(ctx, "", 1)
	if err != nil {
		return err
	}
	if len(keys)+len(factors) == 0 {
		return nil
	}
	return fmt.Errorf("the master key is missing, and the database holds secrets that it sealed: put it to %s (mode 0600), or give it by --master-key-file or MODELGATE_MASTER_KEY; if it is lost, run 'modelgate admin rewrap --discard'", path)
}

// usernames are what administrators know users by; of one that has gone
// meanwhile it is the id.
func usernames(ctx context.Context, db *store.DB, ids []string) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = id
		if u, err := db.User(ctx, id); err == nil {
			names[i] = u.Username
		}
	}
	return names
}
