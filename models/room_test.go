package models_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/models"
	"modelgate/store"
)

// room is a catalogue over a real database, real files and a real audit log.
type room struct {
	dir     string
	db      *store.DB
	log     *audit.Log
	store   models.Store // db, unless a test puts something before it
	files   *models.Files
	catalog *models.Catalog
	config  func(*models.Config) // changes what the catalogue is opened with

	mu      sync.Mutex
	retired []string // guarded by mu
}

// newRoom opens one with the users ann and bob (data-scientist), eve (user)
// and the role analyst.
func newRoom(t testing.TB) *room { return newRoomBefore(t, nil) }

// newRoomWith is newRoom with another configuration.
func newRoomWith(t testing.TB, config func(*models.Config)) *room {
	t.Helper()
	return makeRoom(t, &room{dir: t.TempDir(), config: config}, nil)
}

// newRoomBefore is newRoom with something before the database.
func newRoomBefore(t testing.TB, before func(models.Store) models.Store) *room {
	t.Helper()
	return makeRoom(t, &room{dir: t.TempDir()}, before)
}

func makeRoom(t testing.TB, r *room, before func(models.Store) models.Store) *room {
	t.Helper()
	r.open(t, before)
	ctx := t.Context()
	for _, name := range []string{"ann", "bob", "eve"} {
		err := r.db.CreateUser(ctx, auth.User{ID: name, Username: name, Roles: []string{"user"}, CreatedAt: time.Now(), UpdatedAt: time.Now()}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := r.db.PutRole(ctx, auth.Role{Name: "analyst", CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	return r
}

// open opens the room's folder, as after a restart.
func (r *room) open(t testing.TB, before func(models.Store) models.Store) {
	t.Helper()
	ctx := t.Context()
	var err error
	if r.db, err = store.Open(ctx, filepath.Join(r.dir, "modelgate.db"), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.db.Close() })
	if r.log, err = audit.Open(ctx, audit.Config{Path: filepath.Join(r.dir, "audit.log"), Heads: r.db}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.log.Close() })
	if r.files, err = models.OpenFiles(filepath.Join(r.dir, "models"), 1<<20); err != nil {
		t.Fatal(err)
	}
	r.store = r.db
	if before != nil {
		r.store = before(r.db)
	}
	cfg := models.Config{Store: r.store, Files: r.files, Guard: auth.NewGuard(r.log)}
	if r.config != nil {
		r.config(&cfg)
	}
	r.catalog, err = models.New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.catalog.Retired(func(id string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.retired = append(r.retired, id)
	})
}

// reopen closes the room and opens it again.
func (r *room) reopen(t testing.TB) {
	t.Helper()
	if err := errors.Join(r.log.Close(), r.db.Close()); err != nil {
		t.Fatal(err)
	}
	r.open(t, nil)
}

// The people of the tests.
var (
	ann   = auth.Principal{UserID: "ann", Username: "ann", Roles: []string{"data-scientist", "user"}, Permissions: auth.ModelsWrite}
	bob   = auth.Principal{UserID: "bob", Username: "bob", Roles: []string{"data-scientist", "user"}, Permissions: auth.ModelsWrite}
	eve   = auth.Principal{UserID: "eve", Username: "eve", Roles: []string{"user"}}
	admin = auth.Principal{Username: "root", Roles: []string{"admin"}, Permissions: auth.UsersManage | auth.ModelsWrite | auth.ModelsManage}
)

func as(who auth.Principal, change func(*auth.Principal)) auth.Principal {
	change(&who)
	return who
}

// sample reads a model of testdata.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", name+".onnx"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// variant is the same model in other bytes: one more entry of metadata.
func variant(model []byte, n int) []byte {
	entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), fmt.Sprint("variant", n))
	return protowire.AppendBytes(protowire.AppendTag(bytes.Clone(model), 14, protowire.BytesType), entry)
}

// try plays the runtime: it believes what the file declares, as a real one
// does of files that are well typed.
func try(_ context.Context, file []byte) (models.Trial, error) {
	g, _, err := models.Verify(file, models.Limits{})
	return models.Trial{Graph: g, Outcome: "ran"}, err
}

// publish must succeed. Only the goroutine of the test may call it.
func (r *room) publish(t testing.TB, who auth.Principal, name string, file []byte, spec models.Spec) (*models.Model, *models.Version) {
	t.Helper()
	m, v, err := r.tryPublish(t, who, name, file, spec, try)
	if err != nil {
		t.Fatal(err)
	}
	return m, v
}

func (r *room) tryPublish(t testing.TB, who auth.Principal, name string, file []byte, spec models.Spec, try models.Try) (*models.Model, *models.Version, error) {
	t.Helper()
	staged, err := r.catalog.Stage(t.Context(), bytes.NewReader(file))
	if err != nil {
		return nil, nil, err
	}
	return r.catalog.Publish(t.Context(), who, name, staged, spec, try)
}

// onDisk lists the room's model files, by base name.
func (r *room) onDisk(t testing.TB) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(filepath.Join(r.dir, "models"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, d.Name())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (r *room) blob(digest string) string {
	return filepath.Join(r.dir, "models", "blobs", digest[:2], digest)
}

// record is one line of the audit log in short.
func record(e audit.Entry) string {
	return strings.TrimSuffix(fmt.Sprintf("%s %s %s %s", e.Actor, e.Action, e.Target, e.Outcome), " ")
}

// audited returns the audit log in short, oldest first.
func (r *room) audited(t testing.TB) []string {
	t.Helper()
	page, err := r.log.Read(t.Context(), audit.Query{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for i := len(page.Items) - 1; i >= 0; i-- {
		lines = append(lines, record(page.Items[i]))
	}
	return lines
}

// wantError checks that an error has the code of want, and a sentence to show.
func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func pointer[T any](v T) *T { return &v }
