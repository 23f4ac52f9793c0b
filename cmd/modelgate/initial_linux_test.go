package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/store"
)

// TestInitialPassword is the life of the password that the first start prints:
// it works, each start tells of it, and on a folder where it has expired the
// start says what to do.
func TestInitialPassword(t *testing.T) {
	data := t.TempDir()
	const own = "MODELGATE_ADMIN_PASSWORD="
	p := start(t, data, own)
	found := regexp.MustCompile(`(?m)^  Password: +(\S+)$`).FindStringSubmatch(p.output())
	if found == nil {
		t.Fatalf("no password was printed:\n%s", p.output())
	}
	password := found[1]
	until := regexp.MustCompile(`good until (\d{4}-\d\d-\d\d \d\d:\d\d UTC)`).FindStringSubmatch(p.output())
	if until == nil || !strings.Contains(p.output(), "'modelgate password'") {
		t.Fatalf("it is not said how long it works, or how to change it:\n%s", p.output())
	}
	end, err := time.Parse("2006-01-02 15:04 MST", until[1])
	if left := time.Until(end); err != nil || left > auth.InitialPasswordTTL || left < auth.InitialPasswordTTL-10*time.Minute {
		t.Errorf("it works until %v, %v", end, err)
	}
	p.login("admin", password)
	restart := func() {
		t.Helper()
		if err := p.stop(); err != nil {
			t.Fatal(err)
		}
		p = start(t, data, own)
	}
	warned := func() string {
		for line := range strings.Lines(p.output()) {
			if strings.Contains(line, `"level":"WARN"`) && strings.Contains(line, "first administrator") {
				return line
			}
		}
		return ""
	}
	restart()
	if line := warned(); !strings.Contains(line, "'modelgate password'") || !strings.Contains(line, until[1][:10]) {
		t.Errorf("the second start says %q", line)
	}
	p.login("admin", password)

	// Three days pass.
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	expireInitial(t, data)
	p = start(t, data, own)
	if line := warned(); !strings.Contains(line, "has expired") || !strings.Contains(line, "'modelgate admin reset-password'") {
		t.Errorf("the start on an old folder says %q", line)
	}
	_, err = p.anonymous().Login(context.Background(), "admin", password)
	if e := refused(t, err, 401, "the expired password"); e.Code != "invalid_credentials" {
		t.Errorf("%+v", e)
	}
	protected, err := os.ReadFile(filepath.Join(data, "protected.log"))
	if err != nil || !strings.Contains(string(protected), "'modelgate admin reset-password'") {
		t.Errorf("protected log: %s, %v", protected, err)
	}
	if strings.Contains(p.output()+string(protected), password) {
		t.Error("the password is in a log")
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	in := strings.NewReader("four quiet yellow boats\n")
	if _, errs, exit := inProcess(t, in, "admin", "reset-password", "--data", data, "--password-stdin"); exit != 0 {
		t.Fatalf("exit %d: %s", exit, errs)
	}
	p = start(t, data, own)
	p.login("admin", "four quiet yellow boats")
	if line := warned(); line != "" {
		t.Errorf("after the reset: %q", line)
	}
}

// expireInitial puts the end of the first administrator's password into the past.
func expireInitial(t *testing.T, data string) {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(data, "modelgate.db"), discardLogs())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	admin, err := db.UserByName(t.Context(), "admin")
	if err != nil || admin.PasswordExpires.IsZero() {
		t.Fatalf("%+v, %v", admin, err)
	}
	_, err = db.UpdateUser(t.Context(), admin.ID, func(u auth.User, _ int) (auth.User, error) {
		u.PasswordExpires = time.Now().Add(-time.Second)
		return u, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
