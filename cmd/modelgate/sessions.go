package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"modelgate/client"
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
	identities, err := api.UserIdentities(ctx, u.ID) // asked for first: afterwards the caller's own login may be gone
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
	text := fmt.Sprintf("All sign-ins of %s have ended; %s", u.Username, goesOn(u, len(identities) > 0))
	if kept, err := keptLogin(); err == nil && c.Session == "" && kept.Username == u.Username {
		text += "\nThat was your own login. Next: modelgate login " + kept.URL
	}
	if c.Session != "" {
		out["session"], text = c.Session, fmt.Sprintf("Sign-in %s of %s has ended.", c.Session, u.Username)
	}
	return c.show(s, out, func(w io.Writer) { fmt.Fprintln(w, text) })
}

// goesOn says by what a user still comes in who was signed out everywhere.
func goesOn(u client.User, provided bool) string {
	if u.Kind == "service" {
		return fmt.Sprintf("its secrets get new tokens: 'modelgate user secret list %s' shows them, 'modelgate user secret revoke %[1]s ID' takes one away.", u.Username)
	}
	text := "his API keys go on."
	if provided {
		text += fmt.Sprintf(" Access tokens of his identity provider go on too, where they are taken; 'modelgate user disable %s' keeps him out.", u.Username)
	}
	return text
}

// keptLogin is the login that commands go by; errNoLogin where variables take
// its place.
func keptLogin() (login, error) {
	if variables() != "" {
		return login{}, errNoLogin
	}
	s, err := openCredentials()
	if err != nil {
		return login{}, err
	}
	return s.load()
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
		fmt.Fprintf(w, "All sign-ins of all users have ended, yours included; API keys, secrets of service accounts and identity providers go on.\nNext: modelgate login %s\n", api.URL())
	})
}
