package store

import (
	"context"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
)

// overtaken are migrations during the first of which another process does some of them.
type overtaken struct {
	fs.FS
	once  *sync.Once
	other func()
}

func (o overtaken) Open(name string) (fs.File, error) {
	if name == "00001_initial.sql" {
		o.once.Do(o.other)
	}
	return o.FS.Open(name)
}

// migrated opens a file and brings it forward by the migrations given.
func migrated(t *testing.T, path string, migrations fs.FS) (*DB, error) {
	t.Helper()
	d := sqlite
	d.migrations = migrations
	db := open(t) // for all that Open sets, at a file of its own
	db.dialect, db.path = &d, path
	old := []interface{ Close() error }{db.writer, db.readers}
	var err error
	if db.writer, db.readers, err = openSQLite(context.Background(), path); err != nil {
		t.Fatal(err)
	}
	for _, c := range old {
		c.Close()
	}
	return db, db.migrate(context.Background())
}

// Who is overtaken by another that brings the schema forward goes on from where that one is.
func TestMigrationOvertaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "modelgate.db")
	first := fstest.MapFS{} // the migrations that the other has done by then
	for _, name := range []string{"00001_initial.sql", "00002_signing_keys.sql", "00003_service_accounts.sql"} {
		text, err := fs.ReadFile(sqlite.migrations, name)
		if err != nil {
			t.Fatal(err)
		}
		first[name] = &fstest.MapFile{Data: text}
	}
	met := false
	db, err := migrated(t, path, overtaken{sqlite.migrations, new(sync.Once), func() {
		met = true
		if _, err := migrated(t, path, first); err != nil {
			t.Error(err)
		}
	}})
	if err != nil || !met {
		t.Fatalf("overtaken %v: %v", met, err)
	}
	if fresh := version(t, open(t)); version(t, db) != fresh {
		t.Errorf("schema %d; want %d", version(t, db), fresh)
	}
}
