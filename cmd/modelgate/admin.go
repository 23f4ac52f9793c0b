package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/store"
)

// AdminCmd repairs what needs no login.
type AdminCmd struct {
	ResetPassword ResetPasswordCmd `cmd:"" name:"reset-password" help:"Set a user's password on the data folder of a stopped server; for a lost administrator."`
	Rewrap        RewrapCmd        `cmd:"" help:"Seal the secrets in the database anew, by another master key."`
}

// ResetPasswordCmd writes to the database of a stopped server.
type ResetPasswordCmd struct {
	Place
	Username      string `arg:"" default:"admin" help:"The user. Default: admin."`
	PasswordStdin bool   `name:"password-stdin" help:"Read the new password from standard input."`
	TOTP          bool   `name:"totp" help:"Take the second factor away too; for who has lost it."`
}

func (c *ResetPasswordCmd) Run(ctx context.Context, s std) error {
	lock, err := lockData(c.Data)
	if err != nil {
		return err
	}
	defer lock.Close()
	db, err := store.Open(ctx, c.DatabasePath(), discardLogs())
	if err != nil {
		return err
	}
	defer db.Close()
	password, err := newPassword(s, bufio.NewReader(s.in), c.PasswordStdin)
	if err != nil {
		return err
	}
	log, err := openAudit(ctx, c.config(), db, discardLogs())
	if err != nil {
		return err
	}
	defer log.Close()
	if err := log.Append(ctx, audit.Entry{
		Actor: "offline", Action: "user.reset", Target: c.Username, Outcome: audit.Allowed, Reason: "data_folder",
	}); err != nil {
		return fmt.Errorf("the audit log can't be written, so nothing was changed: %w", err)
	}
	if err := auth.ResetOffline(ctx, db, auth.Hashing{}, c.Username, password); err != nil {
		return err
	}
	if c.TOTP {
		if _, err := auth.RemoveTOTPOffline(ctx, db, log, c.Username); err != nil {
			return err
		}
	}
	fmt.Fprintf(s.err, "The password of %s is set, and all his logins have ended. Start the server again.\n", c.Username)
	if u, err := db.UserByName(ctx, strings.ToLower(c.Username)); err == nil && u.TOTP {
		fmt.Fprintln(s.err, "He still needs the code of his second factor; who has lost it runs this again with --totp.")
	}
	return nil
}
