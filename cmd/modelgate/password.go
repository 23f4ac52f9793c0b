package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"golang.org/x/term"

	"modelgate/client"
)

// Cleartext is shared by the commands that are given a server and send it a
// password.
type Cleartext struct {
	InsecureHTTP bool `name:"insecure-http" help:"Send the password over plain HTTP to another machine; who is on the way can read it."`
}

// client refuses to send a password where others can read it.
func (c Cleartext) client(server string) (*client.Client, error) {
	api, err := newClient(server)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) && !c.InsecureHTTP {
		return nil, usageError{fmt.Errorf("%s is another machine, and plain HTTP would show the password on the way; "+
			"use https://, or give --insecure-http where the network is yours alone", server)}
	}
	return api, nil
}

// PasswordCmd is POST /users/me/password.
type PasswordCmd struct {
	PasswordStdin bool `name:"password-stdin" help:"Read from standard input, a line each: the current password, the new one, and the code of a second factor where there is one."`
}

func (c *PasswordCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	in := bufio.NewReader(s.in)
	current, err := readPassword(s, in, "Current password", c.PasswordStdin)
	if err != nil {
		return err
	}
	next, err := newPassword(s, in, c.PasswordStdin)
	if err != nil {
		return err
	}
	err = api.ChangePassword(ctx, current, next, "")
	if isCode(err, "otp_required") {
		code, asked := readCode(s, in, "Code, or a recovery code", c.PasswordStdin)
		if asked != nil {
			return asked
		}
		err = api.ChangePassword(ctx, current, next, code)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(s.err, "The password at %s is changed; your other logins there have ended.\n", api.URL())
	return nil
}

// AcceptCmd is POST /register with an invitation, or POST /password-reset.
type AcceptCmd struct {
	URL           string `arg:"" help:"The server, as in http://127.0.0.1:8080."`
	Token         string `placeholder:"TOKEN" help:"The invitation (mgi_...) or reset token (mgp_...); asked for when left out."`
	PasswordStdin bool   `name:"password-stdin" help:"Read the new password from standard input; needs --token."`
	Cleartext
}

func (c *AcceptCmd) Run(ctx context.Context, s std) error {
	api, err := c.client(c.URL)
	if err != nil {
		return err
	}
	in := bufio.NewReader(s.in)
	token := strings.TrimSpace(c.Token)
	if token == "" {
		if c.PasswordStdin || !terminal(s) {
			return usageError{errors.New("no terminal to ask for the token on; give --token and --password-stdin")}
		}
		if token, err = readPassword(s, in, "Invitation or reset token", false); err != nil {
			return err
		}
		token = strings.TrimSpace(token)
	}
	invitation := strings.HasPrefix(token, "mgi_")
	if !invitation && !strings.HasPrefix(token, "mgp_") {
		return usageError{errors.New("this is no invitation (mgi_...) and no reset token (mgp_...); copy it whole")}
	}
	password, err := newPassword(s, in, c.PasswordStdin)
	if err != nil {
		return err
	}
	if !invitation {
		if err := used(api.ResetPassword(ctx, token, password)); err != nil {
			return err
		}
		fmt.Fprintf(s.err, "The password is set, and all former logins have ended. Next: modelgate login %s --username YOUR-NAME\n", api.URL())
		return nil
	}
	u, err := api.Accept(ctx, token, password)
	if err := used(err); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "Welcome, %s. Next: modelgate login %s --username %s\n", u.Username, api.URL(), u.Username)
	return nil
}

// used says of a refused token what a login could not mend.
func used(err error) error {
	var refused *client.Error
	if errors.As(err, &refused) && refused.Status == http.StatusUnauthorized {
		return errors.New("the server does not take this token: it was used, has expired or is of another server; ask an administrator for a new one")
	}
	return err
}

// terminal reports whether s.in is one, which can be asked on.
func terminal(s std) bool {
	f, ok := s.in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// newPassword is readPassword for one that is being chosen: without an echo a
// slip would lock its user out, so a person types it twice.
func newPassword(s std, in *bufio.Reader, fromStdin bool) (string, error) {
	password, err := readPassword(s, in, "New password", fromStdin)
	if err != nil || fromStdin {
		return password, err
	}
	again, err := readPassword(s, in, "The same again", false)
	if err != nil {
		return "", err
	}
	if again != password {
		return "", errors.New("the two differ, so nothing was changed; try again")
	}
	return password, nil
}

// readPassword reads from the terminal without echo, or one line of standard
// input. Only the line's end is cut: blanks belong to a password.
func readPassword(s std, in *bufio.Reader, label string, fromStdin bool) (string, error) {
	if !fromStdin && terminal(s) {
		fmt.Fprintf(s.err, "%s: ", label)
		b, err := term.ReadPassword(int(s.in.(*os.File).Fd()))
		fmt.Fprintln(s.err)
		return string(b), err
	}
	if !fromStdin {
		return "", errors.New("no terminal to ask for the password on; give --password-stdin")
	}
	line, err := in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"); line == "" {
		return "", fmt.Errorf("standard input ended before the %s; write it there on a line of its own", strings.ToLower(label))
	}
	return line, nil
}
