package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"modelgate/client"
)

// uploadCrashRoundsEnv is how often TestCrashedUploads kills the server; 10
// times when it is not set.
const uploadCrashRoundsEnv = "MODELGATE_TEST_UPLOAD_CRASH_ROUNDS"

// TestCrashedUploads kills the server at any moment of uploads and predictions,
// again and again. What it had acknowledged is there afterwards and serves,
// nothing half-made is, and no process of a model outlives it.
func TestCrashedUploads(t *testing.T) {
	rounds := 10
	if s := os.Getenv(uploadCrashRoundsEnv); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	data := t.TempDir()
	settings := append(quietly, "MODELGATE_ISSUER=http://modelgate.test")
	p := start(t, data, settings...)
	key, err := p.admin().CreateKey(t.Context(), "uploads", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := crashedUploads{acknowledged: map[string]bool{}}
	began := time.Now()
	for round := range rounds {
		c.killWhileUploading(t, p, key.Key)
		wantNoWorkers(t, p.cmd.Process.Pid)
		p = start(t, data, settings...)
		c.check(t, p, key.Key)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	t.Logf("%d rounds of %v; %d uploads were acknowledged, %d versions are there", rounds, time.Since(began)/time.Duration(rounds), c.count, len(c.acknowledged))
}

// crashedUploads is what is known to be on a server.
type crashedUploads struct {
	mu           sync.Mutex
	acknowledged map[string]bool // digests; guarded by mu
	count        int             // guarded by mu
}

// killWhileUploading has two clients upload and one predict, and kills the
// server a while after the first acknowledgement, or before it.
func (c *crashedUploads) killWhileUploading(t *testing.T, p *program, key string) {
	t.Helper()
	file := modelBytes(t, "iris_v2.onnx")
	acknowledged := make(chan struct{}, 1000)
	var group sync.WaitGroup
	admin := p.with(key)
	for range 2 {
		group.Go(func() {
			for {
				v, err := tryPush(admin, fmt.Sprint("m", rand.IntN(3)), unlike(file), client.Spec{})
				if err != nil {
					if e, ok := err.(*client.Error); ok {
						t.Errorf("an upload was refused: %v", e)
					}
					return // the server is gone
				}
				c.mu.Lock()
				c.acknowledged[v.Digest] = true
				c.count++
				c.mu.Unlock()
				acknowledged <- struct{}{}
			}
		})
	}
	group.Go(func() {
		for status := 1; status != 0; { // a model that is not there yet is no failure
			status, _ = predictAs(p.url, key, []byte(`{"model":"m0","inputs":[[5.1,3.5,1.4,0.2]]}`))
		}
	})
	for range rand.IntN(3) {
		<-acknowledged
	}
	time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond) // at any moment of the next ones
	p.kill()
	group.Wait()
}

// unlike returns the model with other contents, which don't change what it
// computes.
func unlike(model []byte) []byte {
	entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), fmt.Sprint("variant", rand.Int()))
	entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), make([]byte, 256<<10)) // so that it takes a while to come
	return protowire.AppendBytes(protowire.AppendTag(bytes.Clone(model), 14, protowire.BytesType), entry)
}

// check compares what a restarted server has with what was acknowledged.
func (c *crashedUploads) check(t *testing.T, p *program, key string) {
	t.Helper()
	admin := p.with(key)
	stored := map[string]bool{}
	for n := range 3 {
		name := fmt.Sprint("m", n)
		m, err := admin.Model(t.Context(), name)
		if e, ok := err.(*client.Error); ok && e.Status == 404 {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range m.Versions {
			if stored[v.Digest] = true; v.State != "ready" {
				t.Errorf("%s version %d is %s: %s", name, v.Version, v.State, v.Reason)
			}
		}
		newest := m.Versions[len(m.Versions)-1].Version
		if got, err := label(admin, client.PredictRequest{Model: name, Version: newest, Inputs: irisRow}); err != nil || got != 0 {
			t.Errorf("%s version %d: class %d, %v", name, newest, got, err)
		}
	}
	for digest := range c.acknowledged {
		if !stored[digest] {
			t.Errorf("an acknowledged version is lost: %s", digest)
		}
	}
	if extra := len(stored) - len(c.acknowledged); extra > 2 {
		t.Errorf("%d versions that nobody acknowledged; two uploads were under way", extra)
	}
	for digest := range stored {
		c.acknowledged[digest] = true // it is there now, and must stay
	}
	c.checkFiles(t, p.data)
}

// checkFiles wants the file of each version whole on the disk, and no other.
func (c *crashedUploads) checkFiles(t *testing.T, data string) {
	t.Helper()
	var found []string
	err := filepath.WalkDir(modelsPath(data), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, "sha256:"+digestOf(t, path))
			if !strings.HasSuffix(found[len(found)-1], filepath.Base(path)) {
				t.Errorf("left on the disk: %s", path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for digest := range c.acknowledged {
		if !slices.Contains(found, digest) {
			t.Errorf("no file of %s", digest)
		}
	}
	if len(found) != len(c.acknowledged) {
		t.Errorf("%d files for %d versions", len(found), len(c.acknowledged))
	}
}

func digestOf(t *testing.T, path string) string {
	t.Helper()
	contents, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(contents)
	return hex.EncodeToString(sum[:])
}
