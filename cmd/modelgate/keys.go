package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"modelgate/client"
)

// KeyCmd is about the caller's own API keys.
type KeyCmd struct {
	Create KeyCreateCmd `cmd:"" help:"Make a key; it is shown once."`
	List   KeyListCmd   `cmd:"" help:"List your keys."`
	Revoke KeyRevokeCmd `cmd:"" help:"End a key at once."`
}

// KeyCreateCmd is POST /users/me/keys.
type KeyCreateCmd struct {
	Output
	Name    string        `arg:"" help:"What the key is for."`
	Expires time.Duration `placeholder:"DURATION" help:"Life of the key, as in 720h. Default: it never expires."`
	Model   []string      `short:"m" placeholder:"NAME" help:"Only for these models (repeat, or separate by commas)."`
}

func (c *KeyCreateCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	k, err := api.CreateKey(ctx, c.Name, c.Expires, c.Model)
	if err != nil {
		return err
	}
	return c.show(s, k, func(w io.Writer) {
		fmt.Fprintf(w, "Key\t%s\nId\t%s\nExpires\t%s\n\nIt is not shown again. Programs send it as: Authorization: Bearer KEY\n", k.Key, k.ID, when(k.ExpiresAt, "never"))
	})
}

// KeyListCmd is GET /users/me/keys.
type KeyListCmd struct{ Output }

func (c *KeyListCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	list, err := api.Keys(ctx)
	if err != nil {
		return err
	}
	return c.show(s, orEmpty(list), func(w io.Writer) { showKeys(w, list) })
}

func showKeys(w io.Writer, list []client.Key) {
	fmt.Fprintln(w, "ID\tNAME\tMODELS\tCREATED\tEXPIRES\tLAST USED")
	for _, k := range list {
		models := "all of yours"
		if k.Models != nil {
			models = strings.Join(k.Models, ",")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, printable(k.Name), models, when(&k.CreatedAt, "-"), when(k.ExpiresAt, "never"), when(k.LastUsed, "never"))
	}
}

func when(t *time.Time, none string) string {
	if t == nil || t.IsZero() {
		return none
	}
	return t.Local().Format("2006-01-02 15:04")
}

// KeyRevokeCmd is DELETE /users/me/keys/{id}.
type KeyRevokeCmd struct {
	ID string `arg:"" help:"The key's id; 'modelgate key list' shows it."`
}

func (c *KeyRevokeCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	if err := api.DeleteKey(ctx, c.ID); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "Revoked key %s.\n", c.ID)
	return nil
}
