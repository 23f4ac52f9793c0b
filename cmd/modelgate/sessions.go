package main

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// UserSessionsCmd is GET /admin/users/{id}/sessions.
type UserSessionsCmd struct {
	Output
	Username string `arg:"" help:"The user."`
}

func (c *UserSessionsCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	u, err := findUser(ctx, api, c.Username)
	if err != nil {
		return err
	}
	list, err := api.UserSessions(ctx, u.ID)
	if err != nil {
		return err
	}
	return c.show(s, orEmpty(list), func(w io.Writer) {
		fmt.Fprintln(w, "ID\tKIND\tADDRESS\tBEGUN\tLAST USED\tENDS\tUSER AGENT")
		for _, x := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%q\n", x.ID, x.Kind, x.Address,
				when(&x.CreatedAt, "-"), when(&x.LastUsed, "-"), when(&x.ExpiresAt, "-"), x.UserAgent) // quoted: the client chose it
		}
	})
}

// UserSignOutCmd is DELETE /admin/users/{id}/sessions, and DELETE
// /admin/sessions.
type UserSignOutCmd struct {
	Output
	Username string `arg:"" optional:"" help:"The user."`
	Session  string `placeholder:"ID" help:"End this sign-in alone; 'modelgate user sessions' shows the ids."`
	All      bool   `help:"End the sign-ins of all users, yours included."`
	Yes      bool   `short:"y" help:"With --all: don't ask."`
}

func (c *UserSignOutCmd) Run(ctx context.Context, s std) error {
	if c.All == (c.Username != "") || c.All && c.Session != "" {
		return usageError{errors.New("name a user, with --session ID for one of his sign-ins, or give --all for those of all users")}
	}
	if c.All {
		return c.everybody(ctx, s)
	}
	api, err := connect()
	if err != nil {
		return err
	}
	u, err := findUser(ctx, api, c.Username)
	if err != nil {
		return err
	}
	if c.Session != "" {
		err = api.EndUserSession(ctx, u.ID, c.Session)
	} else {
		err = api.EndUserSessions(ctx, u.ID)
	}
	if err != nil {
		return err
	}
	out := map[string]string{"username": u.Username}
	text := fmt.Sprintf("All sign-ins of %s have ended; his API keys go on.", u.Username)
	if c.Session != "" {
		out["session"], text = c.Session, fmt.Sprintf("Sign-in %s of %s has ended.", c.Session, u.Username)
	}
	return c.show(s, out, func(w io.Writer) { fmt.Fprintln(w, text) })
}

func (c *UserSignOutCmd) everybody(ctx context.Context, s std) error {
	if !c.Yes {
		if err := confirm(s, "End the sign-ins of all users, yours included?"); err != nil {
			return err
		}
	}
	api, err := connect()
	if err != nil {
		return err
	}
	if err := api.EndAllSessions(ctx); err != nil {
		return err
	}
	return c.show(s, map[string]bool{"all": true}, func(w io.Writer) {
		fmt.Fprintf(w, "All sign-ins of all users have ended, yours included; API keys go on.\nNext: modelgate login %s\n", api.URL())
	})
}
