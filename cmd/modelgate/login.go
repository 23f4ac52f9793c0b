package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"

	"modelgate/client"
)

// LoginCmd keeps a login for the commands that follow.
type LoginCmd struct {
	URL           string `arg:"" help:"The server, as in http://127.0.0.1:8080."`
	Username      string `short:"u" placeholder:"NAME" help:"User name; asked for when left out."`
	PasswordStdin bool   `name:"password-stdin" help:"Read the password from standard input."`
	OTP           string `name:"otp" placeholder:"CODE" help:"Code of your second factor, or a recovery code; asked for on a terminal when left out."`
	Cleartext
}

func (c *LoginCmd) Run(ctx context.Context, s std) error {
	api, err := c.client(c.URL)
	if err != nil {
		return err
	}
	store, err := openCredentials()
	if err != nil {
		return err
	}
	in := bufio.NewReader(s.in)
	if c.Username == "" {
		if c.PasswordStdin {
			return errors.New("--password-stdin needs --username")
		}
		if c.Username, err = ask(s, in, "User name", defaultUser()); err != nil {
			return err
		}
	}
	password, err := readPassword(s, in, "Password", c.PasswordStdin)
	if err != nil {
		return err
	}
	otp := c.OTP
	t, err := api.LoginOTP(ctx, c.Username, password, otp)
	if isCode(err, "otp_required") && terminal(s) {
		if otp, err = readCode(s, in, "Code, or a recovery code", false); err != nil {
			return err
		}
		t, err = api.LoginOTP(ctx, c.Username, password, otp)
	}
	if isCode(err, "otp_required") {
		return errors.New("this account has a second factor: give the code of its authenticator application, or a recovery code, with --otp")
	}
	if err != nil {
		return err
	}
	kept := login{URL: api.URL(), Username: strings.ToLower(c.Username)}.with(t)
	if err := store.locked(func() error { return store.save(kept) }); err != nil {
		return fmt.Errorf("can't keep the login: %w", err)
	}
	next := "'modelgate models' lists what is open to you."
	if api, err := store.connect(); err == nil && otp == "" && mustEnrol(ctx, api) {
		next = enrolFirst
	}
	fmt.Fprintf(s.err, "Logged in to %s as %s. %s\n", kept.URL, kept.Username, next)
	if set := variables(); set != "" {
		fmt.Fprintf(s.err, "But commands go by the environment before this login: 'unset %s' to use it.\n", set)
	}
	return nil
}

const enrolFirst = "Your role needs a second factor, and you have none yet: run 'modelgate totp enable' first; all else is refused until then."

// mustEnrol asks whether the server wants a second factor of the caller before
// anything else, by a question that it would refuse then. A failure says
// nothing: the next command meets it too.
func mustEnrol(ctx context.Context, api *client.Client) bool {
	_, err := api.Keys(ctx)
	return isCode(err, "totp_required")
}

// variables names those that take the place of the kept login; empty: none are set.
func variables() string {
	var set []string
	for _, name := range []string{"MODELGATE_URL", "MODELGATE_TOKEN"} {
		if os.Getenv(name) != "" {
			set = append(set, name)
		}
	}
	return strings.Join(set, " ")
}

func defaultUser() string {
	if u, err := user.Current(); err == nil && u.Username != "root" {
		return strings.ToLower(u.Username)
	}
	return "admin"
}

func ask(s std, in *bufio.Reader, label, preset string) (string, error) {
	fmt.Fprintf(s.err, "%s [%s]: ", label, preset)
	line, err := in.ReadString('\n')
	if err != nil && line == "" {
		return "", errors.New("no terminal to ask on; give --username and --password-stdin")
	}
	if line = strings.TrimSpace(line); line == "" {
		return preset, nil
	}
	return line, nil
}

// LogoutCmd ends the kept login.
type LogoutCmd struct{}

func (c *LogoutCmd) Run(ctx context.Context, s std) error {
	store, err := openCredentials()
	if err != nil {
		return err
	}
	if set := variables(); set != "" { // told last, whatever becomes of the login
		defer fmt.Fprintf(s.err, "The environment is as it was, and commands go on by it: 'unset %s' ends that.\n", set)
	}
	kept, err := store.load()
	if errors.Is(err, errNoLogin) {
		fmt.Fprintln(s.err, "There was no login to end.")
		return nil
	}
	api, err := store.connect()
	if err == nil {
		err = api.Logout(ctx)
	}
	if rm := store.remove(); rm != nil {
		return rm
	}
	if err != nil {
		return fmt.Errorf("the login is forgotten here, but the server was not told: %w", err)
	}
	fmt.Fprintf(s.err, "Logged out: the login of %s at %s has ended.\n", kept.Username, kept.URL)
	return nil
}

// WhoamiCmd shows who the server takes the caller for.
type WhoamiCmd struct{ Output }

func (c *WhoamiCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	u, err := api.Me(ctx)
	if err != nil {
		return err
	}
	answer := struct {
		Server    string `json:"server"`
		MustEnrol bool   `json:"totp_required,omitempty"` // nothing else is open before a second factor is on
		client.User
	}{api.URL(), !u.TOTP && mustEnrol(ctx, api), u}
	return c.show(s, answer, func(w io.Writer) {
		fmt.Fprintf(w, "Server\t%s\nUser\t%s\nRoles\t%s\nSecond factor\t%s\n", answer.Server, u.Username, strings.Join(u.Roles, ", "), onOff(u.TOTP))
		for _, b := range u.Budgets {
			of := "all models"
			if b.Model != "" {
				of = b.Model
			}
			fmt.Fprintf(w, "Rows today\t%d of %d left, of %s\n", b.Left, b.DailyRows, of)
		}
		if answer.MustEnrol {
			fmt.Fprintln(w, enrolFirst)
		}
	})
}
