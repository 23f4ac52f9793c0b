package models_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/models"
	"modelgate/store"
)

const (
	crashDirEnv    = "MODELGATE_TEST_CRASH_DIR"    // set: this process is the one to be killed
	crashHoldEnv   = "MODELGATE_TEST_CRASH_HOLD"   // the event at which it stops and waits for that
	crashRoundsEnv = "MODELGATE_TEST_CRASH_ROUNDS" // how often; 30 when it is not set
)

// The events of one publication, in their order.
var crashEvents = []string{"half", "try", "row", "stored", "done"}

// TestCrash kills a publishing process again and again, at each step and in
// between. What was acknowledged is there whole afterwards; of what was not,
// there is either all or nothing.
func TestCrash(t *testing.T) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		publishUntilKilled(t, dir, os.Getenv(crashHoldEnv))
		return
	}
	rounds := 30
	if s := os.Getenv(crashRoundsEnv); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	r := newRoom(t)
	acknowledged := map[string]bool{} // digests
	for round := range rounds {
		if err := errors.Join(r.log.Close(), r.db.Close()); err != nil {
			t.Fatal(err)
		}
		event := crashEvents[round%len(crashEvents)]
		hold := round < 2*len(crashEvents) && round%2 == 0
		started := killAt(t, r.dir, event, 1+rand.IntN(4), hold, acknowledged)
		r.open(t, nil)
		checkWhole(t, r, acknowledged, started)
		if t.Failed() {
			t.Fatalf("in round %d, killed at %q (held: %v)", round, event, hold)
		}
	}
}

// killAt runs a publishing process until it told event n times, kills it, and
// adds the digests it acknowledged. It returns how many it had begun.
func killAt(t *testing.T, dir, event string, n int, hold bool, acknowledged map[string]bool) int {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestCrash$")
	child.Env = append(os.Environ(), crashDirEnv+"="+dir)
	if hold {
		child.Env = append(child.Env, crashHoldEnv+"="+event+strconv.Itoa(n))
	}
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	begun := 0
	killed := false
	lines := bufio.NewScanner(out)
	for lines.Scan() { // on past the kill: what it had acknowledged counts
		word, digest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "half":
			begun++
		case "done":
			acknowledged[digest] = true
		}
		if word == event {
			n--
		}
		if n == 0 && !killed {
			killed = true
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); !killed {
		t.Fatalf("the process ended by itself: %v", err)
	}
	return begun
}

// checkWhole looks at a room that was opened after a crash.
func checkWhole(t *testing.T, r *room, acknowledged map[string]bool, begun int) {
	t.Helper()
	stored := map[string]bool{}
	items, _, err := r.catalog.List(t.Context(), admin, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range items {
		if item.Version == nil {
			t.Errorf("model %s has no version", item.Model.Name)
		}
		for _, v := range item.Model.Versions {
			data, err := r.catalog.Read(t.Context(), v)
			if err != nil {
				t.Errorf("%s version %d: %v", v.Model, v.Number, err)
				continue
			}
			if _, _, err := models.Verify(data, models.Limits{}); err != nil || v.State != models.Ready {
				t.Errorf("%s version %d: %v", v.Model, v.Number, err)
			}
			stored[v.Digest] = true
		}
	}
	for digest := range acknowledged {
		if !stored[digest] {
			t.Errorf("an acknowledged version is lost: %s", digest)
		}
	}
	if extra := len(stored) - len(acknowledged); extra > 1 {
		t.Errorf("%d versions that nobody acknowledged", extra)
	}
	for digest := range stored {
		acknowledged[digest] = true // it is there now, and must stay
	}
	files := r.onDisk(t)
	for _, name := range files {
		if !stored[name] {
			t.Errorf("left on the disk: %s", name)
		}
	}
	if len(files) != len(stored) || begun == 0 {
		t.Errorf("%d files for %d versions, %d begun", len(files), len(stored), begun)
	}
	publishes := slices.DeleteFunc(r.audited(t), func(line string) bool { return !strings.Contains(line, "model.publish") })
	if len(publishes) < min(len(stored), 1000) {
		t.Errorf("%d records for %d versions", len(publishes), len(stored))
	}
}

// publishUntilKilled is the process to be killed.
func publishUntilKilled(t *testing.T, dir, hold string) {
	seen := map[string]int{}
	tell := func(event, more string) {
		fmt.Println(event, more)
		if seen[event]++; hold == event+strconv.Itoa(seen[event]) {
			select {} // until the signal comes
		}
	}
	ctx := context.Background()
	db, err := store.Open(ctx, filepath.Join(dir, "modelgate.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(ctx, audit.Config{Path: filepath.Join(dir, "audit.log"), Heads: db})
	if err != nil {
		t.Fatal(err)
	}
	files, err := models.OpenFiles(filepath.Join(dir, "models"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := models.New(ctx, models.Config{Store: telling{db, tell}, Files: files, Guard: auth.NewGuard(log)})
	if err != nil {
		t.Fatal(err)
	}
	file := sample(t, "iris")
	told := func(ctx context.Context, file []byte) (models.Trial, error) {
		tell("try", "")
		return try(ctx, file)
	}
	for {
		contents := variant(file, rand.Int())
		half := len(contents) / 2
		body := io.MultiReader(bytes.NewReader(contents[:half]), readFunc(func() { tell("half", "") }), bytes.NewReader(contents[half:]))
		staged, err := catalog.Stage(ctx, body)
		if err != nil {
			t.Fatal(err)
		}
		// Three models, so that first and later versions are among them.
		_, v, err := catalog.Publish(ctx, ann, fmt.Sprint("m", rand.IntN(3)), staged, models.Spec{}, told)
		if err != nil {
			t.Fatal(err)
		}
		tell("done", v.Digest)
	}
}

// readFunc is an empty file that does something when it is read.
type readFunc func()

func (f readFunc) Read([]byte) (int, error) { f(); return 0, io.EOF }

// telling is a store that tells when a version's row is written.
type telling struct {
	models.Store
	tell func(event, more string)
}

func (s telling) AddVersion(ctx context.Context, m *models.Model, v *models.Version, f func(*models.Model, int) (*models.Model, error)) (*models.Model, error) {
	s.tell("row", "")
	stored, err := s.Store.AddVersion(ctx, m, v, f)
	s.tell("stored", "")
	return stored, err
}
