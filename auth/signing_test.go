package auth_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"modelgate/auth"
)

// slowKeys calls after, once, when the keys are read and not handed out yet.
type slowKeys struct {
	auth.Store
	after func()
}

func (s *slowKeys) SigningKeys(ctx context.Context) ([]auth.SigningKey, error) {
	keys, err := s.Store.SigningKeys(ctx)
	if f := s.after; f != nil {
		s.after = nil
		f()
	}
	return keys, err
}

// What a server read before a key was retired must not bring the key back.
func TestRetiredKeyStaysAway(t *testing.T) {
	e := newEnv(t)
	slow := &slowKeys{Store: e.db}
	r := e.replica(func(c *auth.Config) {
		opened := e.keyring()
		opened.Store = slow
		k, err := auth.OpenKeyring(e.ctx, opened)
		want(t, err, nil)
		c.Keys = k
	})
	first := r.kids()[0]
	want(t, r.Poll(e.ctx), nil)
	_, err := e.RotateSigningKey(e.ctx, e.admin)
	want(t, err, nil)
	slow.after = func() { want(t, r.RetireSigningKey(e.ctx, e.admin, first), nil) }
	want(t, r.Poll(e.ctx), nil)
	if got := r.kids(); slow.after != nil || slices.Contains(got, first) {
		t.Errorf("the retired key is back: %v", got)
	}
}

// A clock that was ahead while a key was made leaves a server that signs.
func TestClockBeforeAllKeys(t *testing.T) {
	e := newEnv(t)
	opened := e.keyring()
	opened.Every = 24 * time.Hour
	replica := func() *env {
		return e.replica(func(c *auth.Config) {
			k, err := auth.OpenKeyring(e.ctx, opened)
			want(t, err, nil)
			c.Keys = k
		})
	}
	r := replica()
	r.user("alice")
	e.clock.advance(1000 * time.Hour)
	for range 2 { // a new key, and the old one goes
		want(t, r.KeepKeys(e.ctx), nil)
		e.clock.advance(time.Hour)
	}
	if got := r.kids(); len(got) != 1 {
		t.Fatal(got)
	}
	e.clock.advance(-1001 * time.Hour)
	for _, s := range []*env{r, replica()} { // also after a start
		tok, err := s.Login(e.ctx, origin, "", "alice", password, "")
		want(t, err, nil)
		s.who(tok.Access)
	}
	// It can be replaced by one of this time.
	admin := e.admin
	admin.AuthTime = e.now()
	want(t, r.RetireSigningKey(e.ctx, admin, r.kids()[0]), nil)
	list, err := r.SigningKeys(e.ctx, e.admin)
	want(t, err, nil)
	if len(list) != 1 || list[0].ActiveAt.After(e.now()) || list[0].State != auth.KeySigning {
		t.Errorf("%+v", list)
	}
}

// The name of a folder is no pattern.
func TestKeyFilesInAStrangeFolder(t *testing.T) {
	e := newEnv(t)
	e.putKeys()
	opened := e.keyring()
	opened.Dir = filepath.Join(e.dir, "keys [*")
	want(t, os.Mkdir(opened.Dir, 0o700), nil)
	file := filepath.Join(opened.Dir, "a.pem")
	key := pemKey(t, file)
	k, err := auth.OpenKeyring(e.ctx, opened)
	want(t, err, nil)
	if _, err := os.Stat(file); k.SignerID() != kidOf(t, key) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key was not taken over: %v", err)
	}
}
