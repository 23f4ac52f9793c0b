package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"modelgate/client"
)

// inProcess runs the command line in this process, with a home of its own.
func inProcess(t *testing.T, in io.Reader, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	var out, errs bytes.Buffer
	exit = run(t.Context(), args, std{in, &out, &errs})
	return out.String(), errs.String(), exit
}

// TestTOTPCommands is a second factor from the command line: turned on by
// program, used on a terminal, renewed, reset by an administrator and offline.
func TestTOTPCommands(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	data := t.TempDir()
	p := start(t, data, "MODELGATE_RATE_LOGIN=1000-M")
	does := func(in string, args ...string) string {
		t.Helper()
		out, errs, exit := inProcess(t, strings.NewReader(in), args...)
		if exit != 0 {
			t.Fatalf("%v: exit %d: %s", args, exit, errs)
		}
		return out
	}
	fails := func(want, in string, args ...string) {
		t.Helper()
		if _, errs, exit := inProcess(t, strings.NewReader(in), args...); exit != 1 || !strings.Contains(errs, want) {
			t.Fatalf("%v: exit %d: %s; want %q", args, exit, errs, want)
		}
	}
	password := adminPassword + "\n"
	login := []string{"login", p.url, "--username", "admin", "--password-stdin"}
	does(password, login...)
	secret, recovery := enableTOTP(t, password)
	if out := does("", "whoami"); !strings.Contains(out, "Second factor  on") {
		t.Errorf("%s", out)
	}
	// The login began without a code, so that a new password takes one, on the third line.
	const next = "four quiet yellow boats\n"
	fails("there was no code", password+next, "password", "--password-stdin")
	fails("the code is wrong", password+next+"aaaaa-aaaaa-aaaaa-aaaaa-aaaaa\n", "password", "--password-stdin")
	does(password+next+recovery[3]+"\n", "password", "--password-stdin")
	does(next, append(login, "--otp", recovery[4])...)
	does(next+password, "password", "--password-stdin") // this one has just begun with one
	fails("is on already; 'modelgate totp disable' takes it away", password, "totp", "enable", "--password-stdin")
	fails("--otp", password, login...)
	fails("password or code", password, append(login, "--otp", "nonsense")...)
	does(password, append(login, "--otp", recovery[0])...)
	fails("password or code", password, append(login, "--otp", recovery[0])...)

	// On a terminal it is asked for. The step after the one that confirmed.
	keyboard, screen := openTerminal(t)
	if _, err := keyboard.WriteString(password + totpCode(t, secret, time.Now().Add(30*time.Second)) + "\n"); err != nil {
		t.Fatal(err)
	}
	if _, errs, exit := inProcess(t, screen, "login", p.url, "--username", "admin"); exit != 0 || !strings.Contains(errs, "recovery code: ") {
		t.Fatalf("exit %d: %s", exit, errs)
	}

	fails("no terminal", "", "totp", "recovery")
	fails("the code is wrong", password+"aaaaa-aaaaa-aaaaa-aaaaa-aaaaa\n", "totp", "recovery", "--password-stdin")
	renewed := strings.Fields(does(password+recovery[1]+"\n", "totp", "recovery", "--password-stdin"))
	if len(renewed) != 10 {
		t.Fatalf("%q", renewed)
	}
	fails("the code is wrong", password+recovery[2]+"\n", "totp", "disable", "--password-stdin")
	if out := does("", "user", "list"); !regexp.MustCompile(`admin +admin +enabled +person +on `).MatchString(out) {
		t.Errorf("%s", out)
	}
	fails("another administrator", "", "user", "reset", "--totp", "admin")
	does(password+renewed[0]+"\n", "totp", "disable", "--password-stdin")
	does(password, login...)
	_, _ = enableTOTP(t, password)

	// All is lost but the data folder.
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	does("four quiet yellow boats\n", "admin", "reset-password", "--data", data, "--password-stdin", "--totp")
	p = start(t, data)
	does("four quiet yellow boats\n", "login", p.url, "--username", "admin", "--password-stdin")
}

// enableTOTP turns a second factor on as a program would: by pipes.
func enableTOTP(t *testing.T, password string) (secret string, recovery []string) {
	t.Helper()
	in, type_ := io.Pipe()
	shown, out := io.Pipe()
	done := make(chan string, 1)
	go func() {
		var errs bytes.Buffer
		exit := run(t.Context(), []string{"totp", "enable", "--password-stdin"}, std{in, out, &errs})
		out.Close()
		in.Close()
		done <- fmt.Sprint(exit, errs.String())
	}()
	if _, err := io.WriteString(type_, password); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(shown); lines.Scan(); {
		word := strings.Fields(lines.Text())
		switch {
		case len(word) == 2 && word[0] == "Secret":
			secret = word[1]
		case len(word) == 2 && word[0] == "URI":
			if !strings.Contains(word[1], secret) {
				t.Errorf("URI %s", word[1])
			}
			if _, err := io.WriteString(type_, totpCode(t, secret, time.Now())+"\n"); err != nil {
				t.Fatal(err)
			}
		case len(word) == 1 && strings.Count(word[0], "-") == 4:
			recovery = append(recovery, word[0])
		}
	}
	if said := <-done; !strings.HasPrefix(said, "0") || len(recovery) != 10 {
		t.Fatalf("%s; %d recovery codes", said, len(recovery))
	}
	return secret, recovery
}

// TestMistypedFirstCode: on a terminal a slip does not cost the secret that was
// shown; what comes by a pipe is tried once. Who must have a second factor is
// told so in commands.
func TestMistypedFirstCode(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	p := start(t, t.TempDir(), "MODELGATE_RATE_LOGIN=1000-M", "MODELGATE_REQUIRE_TOTP=admin")
	does := func(want, in string, exit int, args ...string) {
		t.Helper()
		out, errs, got := inProcess(t, strings.NewReader(in), args...)
		if got != exit || !strings.Contains(out+errs, want) || strings.Contains(out+errs, "POST ") {
			t.Fatalf("%v: exit %d, want %d and %q: %s%s", args, got, exit, want, out, errs)
		}
	}
	password := adminPassword + "\n"
	does("run 'modelgate totp enable' first", password, 0, "login", p.url, "--username", "admin", "--password-stdin")
	does("run 'modelgate totp enable' first", "", 0, "whoami")
	does(`"totp_required": true`, "", 0, "whoami", "--json")
	does("none yet; begin with 'modelgate totp enable'", "", 1, "models")
	does("begin with 'modelgate totp enable'", "", 1, "user", "list")
	does("so the second factor stays off", password+"1\n", 1, "totp", "enable", "--password-stdin")

	if said := enableByHand(t, "1", "", "2"); !strings.HasPrefix(said, "1") || strings.Contains(said, "recovery") ||
		strings.Count(said, "That is not the code") != 2 || !strings.Contains(said, "the code is wrong, so the second factor stays off") {
		t.Errorf("three slips: %s", said)
	}
	if said := enableByHand(t, "1", "", "right"); !strings.HasPrefix(said, "0") {
		t.Errorf("the third try: %s", said)
	}
	if out, _, exit := inProcess(t, strings.NewReader(""), "whoami"); exit != 0 || strings.Contains(out, "first") {
		t.Errorf("%s", out)
	}
}

// enableByHand turns a second factor on at a terminal, where codes are typed
// one after the other ("right": that of the secret), and returns the exit code
// with what was said.
func enableByHand(t *testing.T, codes ...string) string {
	t.Helper()
	keyboard, screen := openTerminal(t)
	shown, out := io.Pipe()
	done := make(chan string, 1)
	go func() {
		var errs bytes.Buffer
		exit := run(t.Context(), []string{"totp", "enable"}, std{screen, out, &errs})
		out.Close()
		done <- fmt.Sprint(exit, errs.String())
	}()
	for lines := bufio.NewScanner(shown); lines.Scan(); {
		if word := strings.Fields(lines.Text()); len(word) == 2 && word[0] == "Secret" {
			typed := strings.ReplaceAll(strings.Join(codes, "\n")+"\n", "right", totpCode(t, word[1], time.Now()))
			if _, err := keyboard.WriteString(typed); err != nil {
				t.Fatal(err)
			}
		}
	}
	return <-done
}

// TestQRCode: on a terminal the secret is drawn, all lines of one width.
func TestQRCode(t *testing.T) {
	keyboard, screen := openTerminal(t)
	var text []string
	read := make(chan bool)
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(keyboard); lines.Scan(); {
			text = append(text, lines.Text())
			if strings.Contains(lines.Text(), "URI") {
				return
			}
		}
	}()
	uri := "otpauth://totp/modelgate%20127.0.0.1:admin?algorithm=SHA1&digits=6&issuer=modelgate%20127.0.0.1&period=30&secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
	if err := showTOTP(screen, client.TOTP{Secret: "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", URI: uri}); err != nil {
		t.Fatal(err)
	}
	<-read
	rows := 0
	for _, line := range text {
		if strings.HasPrefix(line, "\x1b[40;97m") {
			rows++
		}
	}
	if rows < 25 || rows > 40 {
		t.Errorf("%d lines of QR code:\n%s", rows, strings.Join(text, "\n"))
	}
}
