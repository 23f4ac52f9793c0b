package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"modelgate/audit"
	"modelgate/models"
)

// parse resolves a configuration as serve does.
func parse(t *testing.T, args ...string) (*Config, error) {
	t.Helper()
	var cli CLI
	app, err := kong.New(&cli, kong.Writers(new(bytes.Buffer), new(bytes.Buffer)), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := app.Parse(append([]string{"serve"}, args...)); err != nil {
		return nil, err
	}
	return &cli.Serve.Config, nil
}

func TestPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, file, "rate-predict: 1-S\nrate-login: 2-S\nmax-body: 1MiB\ntrusted-proxies: [10.0.0.0/8, 192.168.0.1]\ntimeout: 7s\npassword-grant: false\n")
	t.Setenv("MODELGATE_RATE_LOGIN", "3-S")
	t.Setenv("MODELGATE_MAX_BODY", "2MiB")
	c, err := parse(t, "--config", file, "--max-body", "4MiB")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct{ what, got, want string }{
		{"file over default", c.RatePredict, "1-S"},
		{"environment over file", c.RateLogin, "3-S"},
		{"flag over environment", c.MaxBody.String(), "4MiB"},
		{"list in the file", strings.Join(c.TrustedProxies, " "), "10.0.0.0/8 192.168.0.1"},
		{"duration in the file", c.Timeout.String(), (7 * time.Second).String()},
		{"default", c.MaxModel.String(), "512MiB"},
	} {
		if v.got != v.want {
			t.Errorf("%s: got %q, want %q", v.what, v.got, v.want)
		}
	}
	if c.PasswordGrant {
		t.Error("password-grant: false in the file had no effect")
	}
}

// TestModelLimits: what is set is what the check of model files goes by.
func TestModelLimits(t *testing.T) {
	for _, test := range []struct {
		args []string
		want models.Limits
	}{
		{nil, models.Limits{Size: 512 << 20, Nodes: 100_000, Depth: 16}},
		{[]string{"--max-model", "2GiB", "--max-model-nodes", "7", "--max-model-depth", "3"}, models.Limits{Size: 1<<31 - 1, Nodes: 7, Depth: 3}},
	} {
		c, err := parse(t, test.args...)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.modelLimits(); got != test.want {
			t.Errorf("%v: %+v, want %+v", test.args, got, test.want)
		}
	}
}

func TestConfigFileRefusals(t *testing.T) {
	for name, text := range map[string]string{
		"unknown key":    "rate-predcit: 1-S\n",
		"key of another": "json: true\n",
		"not YAML":       "a: [",
		"mapping":        "listen: {host: x}\n",
		"bad value":      "timeout: soon\n",
	} {
		file := filepath.Join(t.TempDir(), "config.yaml")
		write(t, file, text)
		if _, err := parse(t, "--config", file); err == nil {
			t.Errorf("%s: %q was taken", name, text)
		}
	}
	if _, err := parse(t, "--config", filepath.Join(t.TempDir(), "missing.yaml")); err == nil {
		t.Error("a missing file was taken")
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, cert, "")
	write(t, key, "")
	keys, loose := filepath.Join(dir, "upload.pem"), filepath.Join(dir, "loose.pem")
	// RFC 8410, section 10.1.
	const public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
	write(t, keys, public)
	write(t, loose, public)
	for path, mode := range map[string]os.FileMode{key: 0o644, loose: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args []string
		want string // in the message; empty: accepted
	}{
		{nil, ""},
		{[]string{"--listen", "0.0.0.0:80"}, "--insecure-http"},
		{[]string{"--listen", "example.com:80"}, "--insecure-http"},
		{[]string{"--listen", ":80"}, "--insecure-http"},
		{[]string{"--listen", "0.0.0.0:80", "--insecure-http"}, ""},
		{[]string{"--listen", "[::1]:80"}, ""},
		{[]string{"--listen", "localhost:0"}, ""},
		{[]string{"--listen", "8080"}, "HOST:PORT"},
		{[]string{"--tls-cert", cert}, "go together"},
		{[]string{"--tls-cert", cert, "--tls-key", key}, "chmod 600"},
		{[]string{"--master-key-file", filepath.Join(dir, "missing.key")}, "no such file"},
		{[]string{"--master-key-file", loose}, "chmod 600"},
		{[]string{"--master-key-file", keys, "--master-key", "x"}, "exclude each other"},
		{[]string{"--database-url", "postgres://x"}, "sqlite:PATH"},
		{[]string{"--rate-predict", "many"}, "600-M"},
		{[]string{"--rate-login", "0-M"}, "600-M"},
		{[]string{"--issuer", "models.example.com"}, "https://"},
		{[]string{"--trusted-proxies", "proxy"}, "10.0.0.0/8"},
		{[]string{"--access-ttl", "5s"}, "--access-ttl"},
		{[]string{"--browser-idle", "1m"}, "--browser-idle"},
		{[]string{"--browser-idle", "2h", "--browser-ttl", "1h"}, "--browser-idle"},
		{[]string{"--browser-ttl", "9000h"}, "--browser-ttl"},
		{[]string{"--max-sessions", "0"}, "--max-sessions"},
		{[]string{"--max-sessions", "1"}, ""},
		{[]string{"--max-connections=-1"}, "--max-connections"},
		{[]string{"--max-connections", "10", "--max-connections-per-address", "11"}, "--max-connections-per-address"},
		{[]string{"--max-connections-per-address=-1"}, "--max-connections-per-address"},
		{[]string{"--cors-origins", "https://app.example.com,http://localhost:5173"}, ""},
		{[]string{"--cors-origins", "*"}, "list each origin"},
		{[]string{"--cors-origins", "null"}, "every sandboxed page"},
		{[]string{"--cors-origins", "https://app.example.com,https://*.example.com"}, "list each origin"},
		{[]string{"--cors-origins", "http://app.example.com"}, "on the way"},
		{[]string{"--max-model", "3GiB"}, "2GiB"},
		{[]string{"--body-memory", "1MiB"}, "--max-body"},
		{[]string{"--slots=-1"}, "negative"},
		{[]string{"--max-body", "1023"}, "1KiB"},
		{[]string{"--session-memory", "9GiB"}, ""},
		{[]string{"--session-memory", "9GiB", "--isolation", "none"}, "--runtime-memory"},
		{[]string{"--session-memory", "4GiB", "--isolation", "none"}, ""},
		{[]string{"--max-model-nodes", "0"}, "--max-model-nodes"},
		{[]string{"--max-model-nodes", "10000001"}, "--max-model-nodes"},
		{[]string{"--max-model-depth", "33"}, "1 to 32"},
		{[]string{"--max-model-depth", "32"}, ""},
		{[]string{"--model-quota", "1MiB", "--disk-reserve", "1GiB"}, ""},
		{[]string{"--upload-keys", filepath.Join(dir, "missing.pem")}, "no such file"},
		{[]string{"--upload-keys", cert}, "PEM"},
		{[]string{"--upload-keys", loose}, "chmod go-w"},
		{[]string{"--upload-keys", keys}, ""},
	} {
		cfg, err := parse(t, c.args...)
		if err != nil {
			t.Errorf("%v: %v", c.args, err)
			continue
		}
		err = cfg.Check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: got %v, want a message with %q", c.args, err, c.want)
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "512KiB": 512 << 10, "32MiB": 32 << 20, "2GiB": 2 << 30} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || int64(b) != want || b.String() != text {
			t.Errorf("%s: %d %s %v, want %d", text, b, b, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "1MB", "MiB", "9999999999GiB", "1.5MiB"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken as %d", text, b)
		}
	}
}

func TestDotEnv(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, ".env", "MODELGATE_RATE_LOGIN=7-M\nMODELGATE_RATE_PREDICT=8-M\nSTRANGER=1\n")
	t.Setenv("MODELGATE_RATE_PREDICT", "9-M")
	t.Setenv("MODELGATE_RATE_LOGIN", "") // restored after the test
	os.Unsetenv("MODELGATE_RATE_LOGIN")
	if err := loadDotEnv(); err != nil {
		t.Fatal(err)
	}
	if got := os.Getenv("MODELGATE_RATE_LOGIN"); got != "7-M" {
		t.Errorf("from .env: %q", got)
	}
	if got := os.Getenv("MODELGATE_RATE_PREDICT"); got != "9-M" {
		t.Errorf(".env won over the environment: %q", got)
	}
	if _, set := os.LookupEnv("STRANGER"); set {
		t.Error(".env set a variable that is not ours")
	}
}

// TestExitCodes: a wrong setting is wrong usage, whoever finds it.
func TestExitCodes(t *testing.T) {
	for _, args := range [][]string{
		{"serve", "--timeout", "soon"},
		{"serve", "--slots=-1", "--data", t.TempDir()},
		{"config", "--slots=-1"},
		{"login", "http://192.0.2.1"},
		{"model", "set", "iris", "--role", ""},
		{"help", "frobnicate"},
	} {
		var errs bytes.Buffer
		if code := run(context.Background(), args, std{strings.NewReader(""), new(bytes.Buffer), &errs}); code != 2 {
			t.Errorf("%q: exit %d, want 2: %s", args, code, errs.String())
		}
	}
}

// TestVerifiedSaysWhatIsProved: a file begun after another was moved away is
// whole, but not all there is.
func TestVerifiedSaysWhatIsProved(t *testing.T) {
	all := verified(audit.Report{Records: 1, Head: audit.Head{Seq: 1}})
	if !strings.Contains(all, "whole: 1 record,") || strings.Contains(all, "continues") {
		t.Error(all)
	}
	rest := verified(audit.Report{Records: 2, Head: audit.Head{Seq: 9}})
	if !strings.Contains(rest, "whole: 2 records,") || !strings.Contains(rest, "continues after record 7") {
		t.Error(rest)
	}
}

// TestSettingsMaskSecrets fails when a field that sounds secret is not marked.
func TestSettingsMaskSecrets(t *testing.T) {
	var out, errs bytes.Buffer
	code := run(context.Background(), []string{"config", "--admin-password", "CANARY-password", "--jwt-secret", "CANARY-secret", "--master-key", "CANARY-master", "--json"}, std{nil, &out, &errs})
	if code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	if strings.Contains(out.String(), "CANARY") {
		t.Errorf("a secret is shown:\n%s", out.String())
	}
	if strings.Count(out.String(), "********") != 3 {
		t.Errorf("want three masked values:\n%s", out.String())
	}
}

func TestUnknownEnv(t *testing.T) {
	var cli CLI
	app, err := kong.New(&cli)
	if err != nil {
		t.Fatal(err)
	}
	got := unknownEnv(app.Model, []string{"MODELGATE_RATE_PREDCIT=1", "MODELGATE_LISTEN=x", "MODELGATE_TOKEN=x", "PATH=/bin"})
	if len(got) != 1 || got[0] != "MODELGATE_RATE_PREDCIT" {
		t.Errorf("got %v", got)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
