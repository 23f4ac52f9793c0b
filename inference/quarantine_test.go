package inference_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/inference"
	"modelgate/inference/inferencetest"
	"modelgate/models"
	"modelgate/store"
)

// A crash loop, through the real catalogue: the version is out of service with
// its reason, the audit log has it, and its file published again works.
func TestACrashLoopInTheCatalogue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		db, err := store.Open(t.Context(), filepath.Join(dir, "db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		log, err := audit.Open(t.Context(), audit.Config{Path: filepath.Join(dir, "audit.log"), Heads: db})
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		files, err := models.OpenFiles(filepath.Join(dir, "models"), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		owner := auth.Principal{UserID: "u1", Username: "olga", Permissions: auth.ModelsWrite}
		if err := db.CreateUser(t.Context(), auth.User{ID: owner.UserID, Username: owner.Username}, nil); err != nil {
			t.Fatal(err)
		}
		catalog, err := models.New(t.Context(), models.Config{Store: db, Files: files, Guard: auth.NewGuard(log)})
		if err != nil {
			t.Fatal(err)
		}
		mem := inference.NewMemory(64 << 20)
		fake := inferencetest.NewFake(mem)
		service := inference.New(inference.Config{Engine: fake, Catalog: catalog, Memory: mem})
		catalog.Retired(service.Retire)
		catalog.Changed(service.Refresh)
		h := &house{catalog: catalog, service: service, engine: fake, mem: mem, owner: owner}
		b := &bench{Service: service, t: t}
		stop := b.live()
		if _, err := h.publish(t.Context(), "m", "two_io.onnx"); err != nil {
			t.Fatal(err)
		}
		if _, err := catalog.Update(t.Context(), owner, "m", models.Patch{Serving: &models.Serving{Pinned: true}}); err != nil {
			t.Fatal(err)
		}
		for range 5 { // it comes back by itself each time
			synctest.Wait()
			if n := fake.Stats().Open; n != 1 {
				t.Fatalf("%d sessions are open", n)
			}
			fake.Crash("signal: segmentation fault")
			pass(15 * time.Second)
		}
		_, err = ask(t.Context(), service, owner, "m", pair)
		if !errors.Is(err, models.ErrQuarantined) || fake.Stats().Open != 0 {
			t.Errorf("after the crash loop: %v, %+v", err, fake.Stats())
		}
		access, err := catalog.Describe(t.Context(), owner, "m")
		if err != nil || access.Version.State != models.Quarantined || !strings.HasPrefix(access.Version.Reason, "its process ended 5 times") {
			t.Errorf("described: %+v (%v)", access.Version, err)
		}
		if _, err := h.publish(t.Context(), "m", "two_io.onnx"); err != nil {
			t.Fatal(err)
		}
		two := 2
		if _, err := catalog.Update(t.Context(), owner, "m", models.Patch{DefaultVersion: &two}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := fake.Stats().Open; n != 1 {
			t.Errorf("%d sessions of the new version", n)
		}
		if _, err := ask(t.Context(), service, owner, "m", pair); err != nil {
			t.Errorf("published again: %v", err)
		}
		stop()
		if err := service.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
