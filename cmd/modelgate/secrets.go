package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"modelgate/client"
)

// SecretCmd is about the secrets of service accounts.
type SecretCmd struct {
	List   SecretListCmd   `cmd:"" help:"List the secrets of a service account."`
	Rotate SecretRotateCmd `cmd:"" help:"Give a service account another secret; the old one stays good until it is revoked."`
	Revoke SecretRevokeCmd `cmd:"" help:"End a secret, and what was got with it, at once."`
}

// showSecret tells how a program uses a secret, which is not shown again.
func showSecret(w io.Writer, url, id, secret string, expires *time.Time) {
	fmt.Fprintf(w, "Client id\t%s\nClient secret\t%s\nExpires\t%s\n", id, secret, when(expires, "never"))
	fmt.Fprintf(w, "\nIt is not shown again. Programs get access tokens by OAuth 2 client credentials at %s/token\n", url)
}

// findService takes the name of a service account.
func findService(ctx context.Context, username string) (*client.Client, client.User, error) {
	api, err := connect()
	if err != nil {
		return nil, client.User{}, err
	}
	u, err := findUser(ctx, api, username)
	return api, u, err
}

// SecretListCmd is GET /admin/users/{id}/secrets.
type SecretListCmd struct {
	Output
	Username string `arg:"" help:"The service account."`
}

func (c *SecretListCmd) Run(ctx context.Context, s std) error {
	api, u, err := findService(ctx, c.Username)
	if err != nil {
		return err
	}
	list, err := api.Secrets(ctx, u.ID)
	if err != nil {
		return err
	}
	return c.show(s, orEmpty(list), func(w io.Writer) {
		fmt.Fprintln(w, "ID\tCREATED\tEXPIRES\tLAST USED")
		for _, x := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", x.ID, when(&x.CreatedAt, "-"), when(x.ExpiresAt, "never"), when(x.LastUsed, "never"))
		}
	})
}

// SecretRotateCmd is POST /admin/users/{id}/secrets.
type SecretRotateCmd struct {
	Output
	Username string        `arg:"" help:"The service account."`
	Expires  time.Duration `placeholder:"DURATION" help:"Life of the secret, as in 2160h. Default: it never expires."`
}

func (c *SecretRotateCmd) Run(ctx context.Context, s std) error {
	api, u, err := findService(ctx, c.Username)
	if err != nil {
		return err
	}
	made, err := api.CreateSecret(ctx, u.ID, c.Expires)
	if err != nil {
		return err
	}
	return c.show(s, made, func(w io.Writer) {
		fmt.Fprintf(w, "Id\t%s\n", made.ID)
		showSecret(w, api.URL(), made.ClientID, made.ClientSecret, made.ExpiresAt)
		fmt.Fprintf(w, "When they have it, end the old one:\n  modelgate user secret revoke %s ID   ('modelgate user secret list %s' shows the ids)\n", u.Username, u.Username)
	})
}

// SecretRevokeCmd is DELETE /admin/users/{id}/secrets/{secret}.
type SecretRevokeCmd struct {
	Username string `arg:"" help:"The service account."`
	ID       string `arg:"" help:"The secret's id; 'modelgate user secret list' shows it."`
}

func (c *SecretRevokeCmd) Run(ctx context.Context, s std) error {
	api, u, err := findService(ctx, c.Username)
	if err != nil {
		return err
	}
	if err := api.DeleteSecret(ctx, u.ID, c.ID); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "Revoked secret %s of %s.\n", c.ID, u.Username)
	return nil
}
