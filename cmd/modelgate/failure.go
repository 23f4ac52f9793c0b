package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"modelgate/auth"
	"modelgate/client"
	"modelgate/models"
)

// usageError is a mistake in flags or settings: it ends the program with 2, as
// a flag that does not exist does.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// fail prints err with what to do next and returns code.
func fail(s std, err error, code int) int {
	fmt.Fprintln(s.err, "modelgate:", plain(err))
	if hint := hintFor(err); hint != "" {
		fmt.Fprintln(s.err, hint)
	}
	return code
}

// plain is err in words for a person. The rooms put a code before theirs, which
// programs read from the API's answers; here it would only be in the way.
func plain(err error) string {
	text := err.Error()
	var identity *auth.Error
	if errors.As(err, &identity) {
		text = strings.Replace(text, identity.Code+": "+identity.Detail, identity.Detail, 1)
	}
	var catalog *models.Error
	if errors.As(err, &catalog) {
		text = strings.Replace(text, catalog.Code+": "+catalog.Detail, catalog.Detail, 1)
	}
	var refused *client.Error
	if errors.As(err, &refused) && refused.Detail != "" {
		text = strings.Replace(text, refused.Detail, inCommands(refused), 1)
		if refused.Status == http.StatusUnprocessableEntity { // docs/api.md lists by code what uploads are refused for
			text += " (" + refused.Code + ")"
		}
	}
	return text
}

// inCommands says a refusal of the server in words of the command line: it
// names commands for routes, and leaves out a header that nobody sees here.
func inCommands(e *client.Error) string {
	text := routes.Replace(e.Detail)
	if e.RetryAfter > 0 { // told by the hint
		text = strings.Replace(text, "; wait for the seconds in Retry-After, or", "; wait, or", 1)
		text = strings.TrimSuffix(text, "; wait for the seconds in Retry-After")
	}
	return text
}

// negative is what kong says of a number below 0, which it takes for a flag. Of
// the types that read themselves ("value") only Bytes can be negative.
var negative = regexp.MustCompile(`^(--[a-z-]+): expected (int|value|duration) value but got "(-\d+)" \(.*$`)

// noTime is what kong says of a time that it can't read, and where that stands
// unless it is a flag.
var noTime = regexp.MustCompile(`^(--[a-z-]+): expected duration but got ("[^"]*"): .*?( \(from envar .*\))?$`)

// mistake is an error of kong's in words for a person.
func mistake(err *kong.ParseError) string {
	if m := negative.FindStringSubmatch(err.Error()); m != nil {
		instead := map[string]string{"int": "0 or more", "value": "a size, such as 512MiB or 2GiB", "duration": "a time, such as 30s or 15m"}
		return fmt.Sprintf("%s %s is negative; take %s", m[1], m[3], instead[m[2]])
	}
	if m := noTime.FindStringSubmatch(err.Error()); m != nil {
		return fmt.Sprintf("%s: %s is no time%s; write it in h, m and s, such as 720h (30 days), 15m or 1h30m", m[1], m[2], m[3])
	}
	return err.Error()
}

// hintFor says what the command line can do about a failure.
func hintFor(err error) string {
	var refused *client.Error
	if errors.As(err, &refused) {
		return hintForRefusal(refused)
	}
	var name *net.DNSError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "Is the server running there? 'modelgate serve' starts one; 'modelgate login URL' goes to another."
	case errors.As(err, &name):
		return "Check the server's name, and that this machine can look it up."
	case errors.Is(err, http.ErrSchemeMismatch):
		return "It speaks plain HTTP; write its address with http://."
	case errors.As(err, &authority):
		return "If the certificate is from an authority of your own, set SSL_CERT_FILE to that authority's certificate."
	}
	return ""
}

func hintForRefusal(e *client.Error) string {
	switch e.Code {
	case "invalid_token", "unauthenticated":
		if os.Getenv("MODELGATE_URL") != "" {
			return "Set MODELGATE_TOKEN to a key of that server ('modelgate key create' makes one), or unset it and MODELGATE_URL."
		}
		return "Run '" + loginCommand() + "' and repeat the command."
	case "reauthentication_required":
		if os.Getenv("MODELGATE_URL") != "" {
			return "Unset MODELGATE_URL and MODELGATE_TOKEN, run '" + loginCommand() + "' and repeat the command within 10 minutes."
		}
		return "Run '" + loginCommand() + "' again and repeat the command within 10 minutes."
	case "rate_limited":
		if e.RetryAfter > 0 {
			return fmt.Sprintf("Try again in %s.", e.RetryAfter)
		}
	}
	return ""
}

// loginCommand logs in to the server that the failed command spoke to.
func loginCommand() string {
	url, _, err := whereTo()
	if err != nil {
		url = "URL"
	}
	return "modelgate login " + url
}

// routes are those that the server's refusals send a caller to, the longer
// before what it begins with, and the commands that stand for them.
var routes = strings.NewReplacer(
	"GET /models/NAME", "'modelgate models NAME'",
	"GET /models", "'modelgate models'",
	"GET /admin/roles", "'modelgate role list'",
	"GET /admin/users", "'modelgate user list'",
	"GET /users/me/keys", "'modelgate key list'",
	"POST /users/me/totp, or modelgate totp enable", "'modelgate totp enable'",
	"POST /users/me/totp", "'modelgate totp enable'",
	"DELETE /users/me/totp", "'modelgate totp disable'",
)

// transportReason drops the method and address that http.Client repeats.
func transportReason(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
