package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal returns both ends of a new terminal: what is written to the
// first is typed on the second.
func openTerminal(t *testing.T) (keyboard, screen *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { screen.Close() })
	return keyboard, screen
}

// TestNewPasswordIsTypedTwice: what is typed without an echo must be the same
// both times.
func TestNewPasswordIsTypedTwice(t *testing.T) {
	for _, c := range []struct {
		typed, want string
	}{
		{"four quiet yellow boats\nfour quiet yellow boats\n", "four quiet yellow boats"},
		{"four quiet yellow boats\nfour quiet yellow goats\n", ""},
	} {
		keyboard, screen := openTerminal(t)
		if _, err := keyboard.WriteString(c.typed); err != nil {
			t.Fatal(err)
		}
		var shown bytes.Buffer
		got, err := newPassword(std{screen, new(bytes.Buffer), &shown}, bufio.NewReader(screen), false)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("typed %q: got %q, %v", c.typed, got, err)
		}
		if !strings.Contains(shown.String(), "The same again: ") {
			t.Errorf("it was not asked for twice: %q", shown.String())
		}
	}
}
