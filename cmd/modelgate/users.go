package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"modelgate/client"
)

// UserCmd administers accounts.
type UserCmd struct {
	Add     UserAddCmd     `cmd:"" help:"Make an account; prints an invitation for its user, or the secret of a service account."`
	List    UserListCmd    `cmd:"" help:"List all accounts."`
	Roles   UserRolesCmd   `cmd:"" help:"Replace the roles of a user; holds from his next request."`
	Disable UserDisableCmd `cmd:"" help:"Lock a user out at once, everywhere."`
	Enable  UserEnableCmd  `cmd:"" help:"Let a disabled user in again."`
	Reset   UserResetCmd   `cmd:"" help:"Print a one-time token to set a new password with, or the first one of who has no good invitation."`
	Delete  UserDeleteCmd  `cmd:"" help:"Delete an account with its logins and keys."`
	Secret  SecretCmd      `cmd:"" help:"Secrets of service accounts."`

	Sessions UserSessionsCmd `cmd:"" help:"List the sign-ins of a user."`
	SignOut  UserSignOutCmd  `cmd:"" name:"sign-out" help:"End the sign-ins of a user, one of them, or those of all users."`
}

// UserAddCmd is POST /admin/users.
type UserAddCmd struct {
	Output
	Username string   `arg:"" help:"User name: a-z, 0-9, '.', '_', '-'."`
	Role     []string `short:"r" default:"user" placeholder:"ROLE" help:"Roles (repeat, or separate by commas). Default: ${default}."`
	Service  bool     `help:"A service account: an OAuth client for a program, without a password."`

	Expires time.Duration `placeholder:"DURATION" help:"With --service: life of its secret, as in 2160h. Default: it never expires."`
}

func (c *UserAddCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	if c.Service {
		u, err := api.CreateService(ctx, c.Username, c.Role, c.Expires)
		if err != nil {
			return err
		}
		return c.show(s, u, func(w io.Writer) {
			fmt.Fprintf(w, "User\t%s\nRoles\t%s\n", u.Username, strings.Join(u.Roles, ", "))
			showSecret(w, api.URL(), u.ClientID, u.ClientSecret, u.ExpiresAt)
		})
	}
	if c.Expires != 0 {
		return usageError{errors.New("--expires is for the secret of a service account: add --service")}
	}
	u, err := api.CreateUser(ctx, c.Username, c.Role)
	if err != nil {
		return err
	}
	return c.show(s, u, func(w io.Writer) {
		fmt.Fprintf(w, "User\t%s\nRoles\t%s\nInvitation\t%s\n", u.Username, strings.Join(u.Roles, ", "), u.InviteToken)
		fmt.Fprintf(w, "\nHand it over. Within 72 hours it is taken once, with a password to choose, by:\n  modelgate accept %s\n", api.URL())
	})
}

// UserListCmd is GET /admin/users.
type UserListCmd struct{ Output }

func (c *UserListCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	list, err := api.Users(ctx)
	if err != nil {
		return err
	}
	return c.show(s, orEmpty(list), func(w io.Writer) {
		fmt.Fprintln(w, "USERNAME\tROLES\tSTATE\tKIND\tTOTP\tCREATED\tID")
		for _, u := range list {
			state := "enabled"
			if u.Disabled {
				state = "disabled"
			}
			kind := u.Kind
			if kind == "" {
				kind = "person"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", u.Username, strings.Join(u.Roles, ","), state, kind, onOff(u.TOTP), u.CreatedAt.Format("2006-01-02"), u.ID)
		}
	})
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// findUser takes a user name, as people know it; the API knows ids.
func findUser(ctx context.Context, api *client.Client, username string) (client.User, error) {
	list, err := api.Users(ctx)
	if err != nil {
		return client.User{}, err
	}
	for _, u := range list {
		if u.Username == strings.ToLower(username) || u.ID == username {
			return u, nil
		}
	}
	return client.User{}, fmt.Errorf("no user %q; 'modelgate user list' shows all", username)
}

// changeUser finds the user and applies the patch.
func changeUser(ctx context.Context, s std, o Output, username string, p client.UserPatch) error {
	api, err := connect()
	if err != nil {
		return err
	}
	u, err := findUser(ctx, api, username)
	if err != nil {
		return err
	}
	if u, err = api.UpdateUser(ctx, u.ID, p); err != nil {
		return err
	}
	return o.show(s, u, func(w io.Writer) {
		state := "enabled"
		if u.Disabled {
			state = "disabled"
		}
		fmt.Fprintf(w, "User\t%s\nRoles\t%s\nState\t%s\n", u.Username, strings.Join(u.Roles, ", "), state)
	})
}

// UserRolesCmd replaces roles.
type UserRolesCmd struct {
	Output
	Username string   `arg:"" help:"The user."`
	Roles    []string `arg:"" help:"All roles the user shall have."`
}

func (c *UserRolesCmd) Run(ctx context.Context, s std) error {
	var roles []string
	for _, r := range c.Roles {
		roles = append(roles, strings.Split(r, ",")...)
	}
	return changeUser(ctx, s, c.Output, c.Username, client.UserPatch{Roles: &roles})
}

// UserDisableCmd disables.
type UserDisableCmd struct {
	Output
	Username string `arg:"" help:"The user."`
}

func (c *UserDisableCmd) Run(ctx context.Context, s std) error {
	disabled := true
	return changeUser(ctx, s, c.Output, c.Username, client.UserPatch{Disabled: &disabled})
}

// UserEnableCmd enables.
type UserEnableCmd struct {
	Output
	Username string `arg:"" help:"The user."`
}

func (c *UserEnableCmd) Run(ctx context.Context, s std) error {
	disabled := false
	return changeUser(ctx, s, c.Output, c.Username, client.UserPatch{Disabled: &disabled})
}

// UserResetCmd is POST /admin/users/{id}/reset.
type UserResetCmd struct {
	Output
	Username string `arg:"" help:"The user."`
	TOTP     bool   `name:"totp" help:"The token takes his second factor away too; for who has lost it."`
}

func (c *UserResetCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	u, err := findUser(ctx, api, c.Username)
	if err != nil {
		return err
	}
	token, err := api.ResetUser(ctx, u.ID, c.TOTP)
	if err != nil {
		return err
	}
	return c.show(s, map[string]string{"username": u.Username, "reset_token": token}, func(w io.Writer) {
		fmt.Fprintf(w, "Reset token\t%s\n\nHand it over. Within an hour it is taken once, with a new password, by:\n  modelgate accept %s\n", token, api.URL())
		if c.TOTP {
			fmt.Fprintln(w, "His second factor goes then, too.")
		}
	})
}

// UserDeleteCmd is DELETE /admin/users/{id}.
type UserDeleteCmd struct {
	Username string `arg:"" help:"The user."`
	Yes      bool   `short:"y" help:"Don't ask."`
}

func (c *UserDeleteCmd) Run(ctx context.Context, s std) error {
	if !c.Yes {
		if err := confirm(s, "Delete user "+c.Username+" with all logins and keys?"); err != nil {
			return err
		}
	}
	api, err := connect()
	if err != nil {
		return err
	}
	u, err := findUser(ctx, api, c.Username)
	if err != nil {
		return err
	}
	if err := api.DeleteUser(ctx, u.ID); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "Deleted user %s.\n", u.Username)
	return nil
}

// RoleCmd administers roles.
type RoleCmd struct {
	List   RoleListCmd   `cmd:"" help:"List all roles."`
	Set    RoleSetCmd    `cmd:"" help:"Make or replace a role."`
	Delete RoleDeleteCmd `cmd:"" help:"Delete a role that nobody has."`
}

// RoleListCmd is GET /admin/roles.
type RoleListCmd struct{ Output }

func (c *RoleListCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	list, err := api.Roles(ctx)
	if err != nil {
		return err
	}
	return c.show(s, orEmpty(list), func(w io.Writer) { showRoles(w, list) })
}

func showRoles(w io.Writer, list []client.Role) {
	fmt.Fprintln(w, "NAME\tPERMISSIONS\tRATE\tROWS A DAY")
	for _, r := range list {
		rows := ""
		if r.DailyRows != 0 {
			rows = strconv.FormatInt(r.DailyRows, 10)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Name, dash(strings.Join(r.Permissions, ",")), dash(r.RateLimit), dash(rows))
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// RoleSetCmd is PUT /admin/roles/{name}.
type RoleSetCmd struct {
	Output
	Name       string   `arg:"" help:"The role: a-z, 0-9, '.', '_', '-'."`
	Permission []string `short:"p" placeholder:"PERMISSION" help:"users:manage, models:write, models:manage, audit:read or metrics:read. None: the role only opens models."`
	Rate       string   `placeholder:"N-S|M|H|D" help:"Rows its holders may predict, as in 600-M."`
	DailyRows  int64    `placeholder:"N" help:"Budget of rows that each holder may predict in a day (UTC), over all models. Default: none."`
}

func (c *RoleSetCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	r, err := api.PutRole(ctx, c.Name, orEmpty(c.Permission), c.Rate, c.DailyRows)
	if err != nil {
		return err
	}
	return c.show(s, r, func(w io.Writer) { showRoles(w, []client.Role{r}) })
}

// RoleDeleteCmd is DELETE /admin/roles/{name}.
type RoleDeleteCmd struct {
	Name string `arg:"" help:"The role."`
}

func (c *RoleDeleteCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	if err := api.DeleteRole(ctx, c.Name); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "Deleted role %s.\n", c.Name)
	return nil
}
