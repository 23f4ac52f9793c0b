package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
	"rsc.io/qr"

	"modelgate/client"
)

// TOTPCmd is a second factor for one's own account.
type TOTPCmd struct {
	Enable   TOTPEnableCmd   `cmd:"" help:"Ask for a code of an authenticator application at every sign-in."`
	Disable  TOTPDisableCmd  `cmd:"" help:"Take the second factor away."`
	Recovery TOTPRecoveryCmd `cmd:"" help:"Make new recovery codes; the old ones are dead."`
}

// Proof is what the server may ask of who changes his second factor.
type Proof struct {
	PasswordStdin bool `name:"password-stdin" help:"Read from standard input, a line each: the password, then the code."`
}

// TOTPEnableCmd is POST /users/me/totp and its confirmation.
type TOTPEnableCmd struct{ Proof }

func (c *TOTPEnableCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	in := bufio.NewReader(s.in)
	var begun client.TOTP
	err = c.proved(s, in, func(password string) (err error) {
		begun, err = api.BeginTOTP(ctx, password)
		return err
	})
	if err != nil {
		return err
	}
	if err := showTOTP(s.out, begun); err != nil {
		return err
	}
	codes, err := c.confirm(ctx, s, in, api)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.err, "From now on every sign-in needs a code. Your other logins have ended.")
	return showRecovery(s, codes)
}

// confirm sends the first code. A person may mistype it: the secret that was
// shown stays good for another try.
func (c *TOTPEnableCmd) confirm(ctx context.Context, s std, in *bufio.Reader, api *client.Client) ([]string, error) {
	tries := 1
	if terminal(s) && !c.PasswordStdin {
		tries = 3
	}
	for {
		code, err := readCode(s, in, "Code that the application shows", c.PasswordStdin)
		var codes []string
		if err == nil {
			codes, err = api.ConfirmTOTP(ctx, code)
		}
		mistyped := isCode(err, "wrong_code") || errors.Is(err, errEmptyCode)
		if tries--; mistyped && tries > 0 {
			fmt.Fprintln(s.err, "That is not the code. Type the one that the application shows now.")
			continue
		}
		if isCode(err, "wrong_code") { // its words are for who has recovery codes
			return nil, errors.New("the code is wrong, so the second factor stays off; check the clock of the application's device, " +
				"and run 'modelgate totp enable' again: it makes a new secret")
		}
		return codes, err
	}
}

// TOTPDisableCmd is DELETE /users/me/totp.
type TOTPDisableCmd struct{ Proof }

func (c *TOTPDisableCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	err = c.provedByBoth(s, func(password, code string) error { return api.RemoveTOTP(ctx, password, code) })
	if err != nil {
		return err
	}
	fmt.Fprintln(s.err, "The second factor is gone, and your other logins have ended.")
	return nil
}

// TOTPRecoveryCmd is POST /users/me/recovery-codes.
type TOTPRecoveryCmd struct{ Proof }

func (c *TOTPRecoveryCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	var codes []string
	err = c.provedByBoth(s, func(password, code string) (err error) {
		codes, err = api.RenewRecoveryCodes(ctx, password, code)
		return err
	})
	if err != nil {
		return err
	}
	return showRecovery(s, codes)
}

// proved does what needs the password, unless the sign-in was a moment ago: so
// it is asked for only when the server wants it.
func (p Proof) proved(s std, in *bufio.Reader, do func(password string) error) error {
	password := ""
	if p.PasswordStdin {
		var err error
		if password, err = readPassword(s, in, "Password", true); err != nil {
			return err
		}
	}
	err := do(password)
	if !isCode(err, "reauthentication_required") || password != "" {
		return err
	}
	if password, err = readPassword(s, in, "Password", false); err != nil {
		return err
	}
	return do(password)
}

// provedByBoth asks for the code first: it is needed in any case.
func (p Proof) provedByBoth(s std, do func(password, code string) error) error {
	in := bufio.NewReader(s.in)
	if !p.PasswordStdin {
		code, err := readCode(s, in, "Code, or a recovery code", false)
		if err != nil {
			return err
		}
		return p.proved(s, in, func(password string) error { return do(password, code) })
	}
	return p.proved(s, in, func(password string) error {
		code, err := readCode(s, in, "Code, or a recovery code", true)
		if err != nil {
			return err
		}
		return do(password, code)
	})
}

// isCode reports whether the server refused with that code.
func isCode(err error, code string) bool {
	var refused *client.Error
	return errors.As(err, &refused) && refused.Code == code
}

var errEmptyCode = errors.New("there was no code; type the one that the application shows now. With --password-stdin it is the line below the password")

// readCode asks for a code, which may be seen: it is good once.
func readCode(s std, in *bufio.Reader, label string, fromStdin bool) (string, error) {
	if !fromStdin && !terminal(s) {
		return "", errors.New("no terminal to ask for the code on; give --password-stdin, or --otp to log in")
	}
	if terminal(s) {
		fmt.Fprintf(s.err, "%s: ", label)
	}
	line, err := in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", errEmptyCode
	}
	return line, nil
}

// showTOTP writes the secret, and on a terminal the QR code to photograph.
func showTOTP(w io.Writer, t client.TOTP) error {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		code, err := qr.Encode(t.URI, qr.L)
		if err != nil {
			return err
		}
		drawQR(w, code)
	}
	fmt.Fprintf(w, "Add this to an authenticator application:\n  Secret  %s\n  URI     %s\n", t.Secret, t.URI)
	return nil
}

// drawQR writes two rows of modules as one line, in black on white whatever the
// terminal's own colours are, with the margin of four modules that readers need.
func drawQR(w io.Writer, code *qr.Code) {
	const margin = 4
	halves := map[[2]bool]string{{false, false}: "█", {false, true}: "▀", {true, false}: "▄", {true, true}: " "} // dark: top, bottom
	for y := -margin; y < code.Size+margin; y += 2 {
		fmt.Fprint(w, "\x1b[40;97m")
		for x := -margin; x < code.Size+margin; x++ {
			fmt.Fprint(w, halves[[2]bool{code.Black(x, y), code.Black(x, y+1)}])
		}
		fmt.Fprint(w, "\x1b[0m\n")
	}
}

func showRecovery(s std, codes []string) error {
	fmt.Fprintln(s.err, "Recovery codes, each good for one sign-in without the application. They are shown only now; keep them apart from it:")
	for _, c := range codes {
		if _, err := fmt.Fprintln(s.out, c); err != nil {
			return err
		}
	}
	return nil
}
