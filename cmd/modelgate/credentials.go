package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"modelgate/client"
)

// login is what `modelgate login` keeps: one server, mode 0600.
type login struct {
	URL      string    `json:"url"`
	Username string    `json:"username"`
	Access   string    `json:"access_token"`
	Expires  time.Time `json:"access_expires"`
	Refresh  string    `json:"refresh_token"`
}

// credentialStore is the file in the user's configuration folder. A refresh
// token works once, so two commands that renew at the same time take turns by
// a lock beside the file; else the second would look like a thief's replay.
type credentialStore struct{ path string }

func openCredentials() (*credentialStore, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return nil, fmt.Errorf("no folder to keep the login in: %w; set HOME, or MODELGATE_URL and MODELGATE_TOKEN", err)
	}
	return &credentialStore{filepath.Join(dir, "modelgate", "login.json")}, nil
}

var errNoLogin = errors.New("not logged in; run 'modelgate login URL', or set MODELGATE_URL and MODELGATE_TOKEN (an API key)")

func (s *credentialStore) load() (login, error) {
	var l login
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, errNoLogin
	}
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(data, &l); err != nil || l.URL == "" {
		return l, fmt.Errorf("%s is damaged; run 'modelgate login URL' to write it anew", s.path)
	}
	return l, nil
}

func (s *credentialStore) save(l login) error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(s.path), ".login-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(data); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), s.path)
}

func (s *credentialStore) remove() error {
	err := os.Remove(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// locked runs f while no other modelgate command does.
func (s *credentialStore) locked(f func() error) error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(s.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	return f()
}

// Token implements client.Credentials.
func (s *credentialStore) Token(ctx context.Context) (string, error) {
	l, err := s.load()
	if err != nil {
		return "", err
	}
	if time.Until(l.Expires) > 10*time.Second {
		return l.Access, nil
	}
	if _, err := s.Renew(ctx, l.Access); err != nil {
		return "", err
	}
	l, err = s.load()
	return l.Access, err
}

// Renew implements client.Credentials.
func (s *credentialStore) Renew(ctx context.Context, rejected string) (better bool, err error) {
	err = s.locked(func() error {
		l, err := s.load()
		if err != nil {
			return err
		}
		if l.Access != rejected { // another command was faster
			better = true
			return nil
		}
		c, err := newClient(l.URL)
		if err != nil {
			return err
		}
		t, err := c.Refresh(ctx, l.Refresh)
		if err != nil {
			var refused *client.Error
			if errors.As(err, &refused) && refused.Status == http.StatusUnauthorized {
				return fmt.Errorf("your login at %s has ended; run 'modelgate login %s'", l.URL, l.URL)
			}
			return err
		}
		better = true
		return s.save(l.with(t))
	})
	return better, err
}

func (l login) with(t client.Tokens) login {
	l.Access, l.Refresh = t.AccessToken, t.RefreshToken
	l.Expires = time.Now().Add(time.Duration(t.ExpiresIn) * time.Second)
	return l
}

// userAgent is what the command line calls itself; lists of sessions show it.
func userAgent() string { return "modelgate/" + version }

func newClient(url string, opts ...client.Option) (*client.Client, error) {
	return client.New(url, append(opts, client.WithUserAgent(userAgent()))...)
}

// connect returns a client for the kept login, or for MODELGATE_URL and
// MODELGATE_TOKEN where they are set.
func connect() (*client.Client, error) {
	url, cred, err := whereTo()
	if err != nil {
		return nil, err
	}
	return newClient(url, client.WithCredentials(cred))
}

// whereTo is the server of connect, and who calls it.
func whereTo() (string, client.Credentials, error) {
	if os.Getenv("MODELGATE_TOKEN") != "" && os.Getenv("MODELGATE_URL") == "" {
		return "", nil, errors.New("MODELGATE_TOKEN is set but MODELGATE_URL is not; set both, or neither to use the login of 'modelgate login'")
	}
	if url := os.Getenv("MODELGATE_URL"); url != "" {
		token := os.Getenv("MODELGATE_TOKEN")
		if token == "" {
			return "", nil, errors.New("MODELGATE_URL is set but MODELGATE_TOKEN is not; set it to an API key (modelgate key create)")
		}
		return url, client.Static(token), nil
	}
	s, err := openCredentials()
	if err != nil {
		return "", nil, err
	}
	l, err := s.load()
	if err != nil {
		return "", nil, err
	}
	return l.URL, s, nil
}

// connect returns a client for the kept login, whatever the environment says.
func (s *credentialStore) connect() (*client.Client, error) {
	l, err := s.load()
	if err != nil {
		return nil, err
	}
	return newClient(l.URL, client.WithCredentials(s))
}
