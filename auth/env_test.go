package auth_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/store"
)

const (
	issuer   = "https://models.test"
	audience = "modelgate"
	password = "lorry under seven bridges"
)

// cheap keeps hundreds of sign-ins short; the real cost has tests of its own.
var cheap = auth.Hashing{Memory: 64, Time: 1, Parallel: 1, Gate: 2}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// env is a Service on a real database and audit log in a folder of its own.
type env struct {
	*auth.Service
	t     testing.TB
	ctx   context.Context
	dir   string
	clock *clock
	now   func() time.Time // clock's, unless an option sets another
	db    *store.DB
	store *hooked
	audit *audit.Log
	keys  *auth.Keyring
	vault *auth.Vault
	logs  *bytes.Buffer // what was logged; read it after the work is done
	admin auth.Principal
}

// hooked lets a test stop the Service at a database call, and counts them.
type hooked struct {
	auth.Store
	polls  atomic.Int64 // calls of Changes
	mu     sync.Mutex
	calls  int
	before func(method string) error // guarded by mu
	after  func(method string)       // guarded by mu
}

func (h *hooked) hook(method string) (func(), error) {
	h.mu.Lock()
	if method != "Changes" { // of that there is one a second
		h.calls++
	}
	before, after := h.before, h.after
	h.mu.Unlock()
	if before != nil {
		if err := before(method); err != nil {
			return func() {}, err
		}
	}
	return func() {
		if after != nil {
			after(method)
		}
	}, nil
}

func (h *hooked) set(before func(string) error, after func(string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before, h.after = before, after
}

func (h *hooked) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls
}

func (h *hooked) User(ctx context.Context, id string) (auth.User, error) {
	after, err := h.hook("User")
	if err != nil {
		return auth.User{}, err
	}
	defer after()
	return h.Store.User(ctx, id)
}

func (h *hooked) UserByName(ctx context.Context, name string) (auth.User, error) {
	after, err := h.hook("UserByName")
	if err != nil {
		return auth.User{}, err
	}
	defer after()
	return h.Store.UserByName(ctx, name)
}

func (h *hooked) LockAdmin(ctx context.Context) (func(), error) {
	after, err := h.hook("LockAdmin")
	if err != nil {
		return nil, err
	}
	defer after()
	return h.Store.LockAdmin(ctx)
}

func (h *hooked) Session(ctx context.Context, id string) (auth.Session, error) {
	after, err := h.hook("Session")
	if err != nil {
		return auth.Session{}, err
	}
	defer after()
	return h.Store.Session(ctx, id)
}

func (h *hooked) Roles(ctx context.Context) ([]auth.Role, error) {
	after, err := h.hook("Roles")
	if err != nil {
		return nil, err
	}
	defer after()
	return h.Store.Roles(ctx)
}

func (h *hooked) CreateSession(ctx context.Context, s auth.Session, r auth.RefreshToken, d auth.Displaced) ([]string, error) {
	after, err := h.hook("CreateSession")
	if err != nil {
		return nil, err
	}
	defer after()
	return h.Store.CreateSession(ctx, s, r, d)
}

func (h *hooked) TouchBrowser(ctx context.Context, hash [32]byte, used, idleEnd time.Time) error {
	after, err := h.hook("TouchBrowser")
	if err != nil {
		return err
	}
	defer after()
	return h.Store.TouchBrowser(ctx, hash, used, idleEnd)
}

func (h *hooked) KeyByHash(ctx context.Context, hash [32]byte) (auth.Key, error) {
	after, err := h.hook("KeyByHash")
	if err != nil {
		return auth.Key{}, err
	}
	defer after()
	return h.Store.KeyByHash(ctx, hash)
}

func (h *hooked) Changes(ctx context.Context, mark int64) (auth.Changes, error) {
	h.polls.Add(1)
	after, err := h.hook("Changes")
	if err != nil {
		return auth.Changes{}, err
	}
	defer after()
	return h.Store.Changes(ctx, mark)
}

func (h *hooked) TouchKey(ctx context.Context, id string, used time.Time) error {
	after, err := h.hook("TouchKey")
	if err != nil {
		return err
	}
	defer after()
	return h.Store.TouchKey(ctx, id, used)
}

type option func(*auth.Config)

// newEnv makes a Service whose administrator's principal is e.admin.
func newEnv(t testing.TB, options ...option) *env {
	t.Helper()
	return newEnvIn(t, t.TempDir(), options...)
}

// memoryDir is a folder in memory where there is one: what a test does thousands
// of times need not wait for a disk.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "modelgate-test-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newEnvIn(t testing.TB, dir string, options ...option) *env {
	t.Helper()
	ctx := context.Background()
	e := &env{t: t, ctx: ctx, dir: dir, clock: &clock{t: time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)}, logs: new(bytes.Buffer)}
	logger := slog.New(slog.NewJSONHandler(lockedWriter{new(sync.Mutex), e.logs}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if e.db, err = store.Open(ctx, filepath.Join(e.dir, "modelgate.db"), logger); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.db.Close() })
	e.store = &hooked{Store: e.db}
	if e.audit, err = audit.Open(ctx, audit.Config{Path: e.auditPath(), Heads: e.db, Logger: logger, Now: e.clock.now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.audit.Close() })
	if e.vault, err = auth.OpenVault(filepath.Join(e.dir, "keys", "master.key"), ""); err != nil {
		t.Fatal(err)
	}
	cfg := auth.Config{
		Store: e.store, Guard: auth.NewGuard(e.audit), Audit: e.audit, Vault: e.vault, Issuer: issuer, Audience: audience,
		Hashing: cheap, Now: e.clock.now, Logger: logger,
	}
	for _, o := range options {
		o(&cfg)
	}
	e.now = cfg.Now
	if cfg.Keys == nil {
		if cfg.Keys, err = auth.OpenKeyring(ctx, e.keyring()); err != nil {
			t.Fatal(err)
		}
	}
	e.keys = cfg.Keys
	if e.Service, err = auth.New(cfg); err != nil {
		t.Fatal(err)
	}
	if _, created, err := e.EnsureAdmin(ctx, password); err != nil || !created {
		t.Fatalf("first administrator: %v, %v", created, err)
	}
	e.admin = e.who(e.login("admin").Access)
	return e
}

// keyring is how the keyring of e is opened.
func (e *env) keyring() auth.KeyringConfig {
	return auth.KeyringConfig{Store: e.db, Vault: e.vault, Dir: filepath.Join(e.dir, "keys"), Now: e.now, Logger: slog.New(slog.DiscardHandler)}
}

// replica is another Service on the database of e, as another server has it, with
// a vault and keys of its own.
func (e *env) replica(options ...option) *env {
	e.t.Helper()
	r := *e
	r.store = &hooked{Store: e.db}
	var err error
	if r.vault, err = auth.OpenVault(filepath.Join(e.dir, "keys", "master.key"), ""); err != nil {
		e.t.Fatal(err)
	}
	if r.keys, err = auth.OpenKeyring(e.ctx, r.keyring()); err != nil {
		e.t.Fatal(err)
	}
	cfg := auth.Config{
		Store: r.store, Guard: auth.NewGuard(e.audit), Audit: e.audit, Keys: r.keys, Vault: r.vault, Issuer: issuer, Audience: audience,
		Hashing: cheap, Now: e.now, Logger: slog.New(slog.DiscardHandler),
	}
	for _, o := range options {
		o(&cfg)
	}
	if r.Service, err = auth.New(cfg); err != nil {
		e.t.Fatal(err)
	}
	return &r
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (e *env) auditPath() string { return filepath.Join(e.dir, "audit.log") }

var origin = auth.Origin{Address: "192.0.2.7", RequestID: "req-1"}

func (e *env) register(name string) auth.User {
	e.t.Helper()
	u, err := e.Register(e.ctx, origin, name, password)
	if err != nil {
		e.t.Fatalf("register %s: %v", name, err)
	}
	return u
}

func (e *env) login(name string) auth.Tokens {
	e.t.Helper()
	tok, err := e.Login(e.ctx, origin, "test/1", name, password, "")
	if err != nil {
		e.t.Fatalf("login %s: %v", name, err)
	}
	return tok
}

// user registers and logs in.
func (e *env) user(name string) (auth.User, auth.Tokens) {
	e.t.Helper()
	u := e.register(name)
	return u, e.login(name)
}

// Authenticate is the Service's, from origin.
func (e *env) Authenticate(ctx context.Context, credential string) (auth.Principal, error) {
	return e.Service.Authenticate(ctx, origin, credential)
}

func (e *env) who(credential string) auth.Principal {
	e.t.Helper()
	who, err := e.Authenticate(e.ctx, credential)
	if err != nil {
		e.t.Fatalf("authenticate: %v", err)
	}
	return who
}

func (e *env) dead(what, credential string) {
	e.t.Helper()
	if who, err := e.Authenticate(e.ctx, credential); !errors.Is(err, auth.ErrToken) {
		e.t.Errorf("%s: still alive: %+v, %v", what, who, err)
	}
}

// grant makes a user of a role with permissions, logged in.
func (e *env) manager(name string, permissions ...string) auth.Principal {
	e.t.Helper()
	if _, err := e.PutRole(e.ctx, e.admin, name+"-role", permissions, "", 0); err != nil {
		e.t.Fatal(err)
	}
	u, tok := e.user(name)
	e.give(u.ID, name+"-role")
	return e.who(tok.Access)
}

func (e *env) give(id string, roles ...string) {
	e.t.Helper()
	if _, err := e.UpdateUser(e.ctx, e.admin, id, auth.UserPatch{Roles: &roles}); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) auditFile() string {
	e.t.Helper()
	b, err := os.ReadFile(e.auditPath())
	if err != nil {
		e.t.Fatal(err)
	}
	return string(b)
}

// records lists the records of an action, newest first.
func (e *env) records(action string) []audit.Entry {
	e.t.Helper()
	page, err := e.audit.Read(e.ctx, audit.Query{Action: action})
	if err != nil {
		e.t.Fatal(err)
	}
	return page.Items
}

func want(t testing.TB, err error, target error) {
	t.Helper()
	if target == nil && err != nil || target != nil && !errors.Is(err, target) {
		t.Fatalf("got %v, want %v", err, target)
	}
}

// detail is what the caller reads.
func detail(err error) string {
	if e := (*auth.Error)(nil); errors.As(err, &e) {
		return e.Detail
	}
	return ""
}

func ptr[T any](v T) *T { return &v }

func contains(t testing.TB, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("%q is not in %q", part, text)
	}
}
