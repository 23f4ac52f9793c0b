package models

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func openFiles(t *testing.T, max int64) *Files {
	t.Helper()
	f, err := OpenFiles(filepath.Join(t.TempDir(), "models"), max)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// inside lists the regular files of a folder, by path.
func inside(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func stage(t *testing.T, f *Files, data []byte) *Staged {
	t.Helper()
	s, err := f.Stage(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Discard)
	return s
}

func TestStage(t *testing.T) {
	f := openFiles(t, 1<<20)
	data := bytes.Repeat([]byte("abcdefg"), 100_000)
	s, err := f.Stage(t.Context(), iotest.OneByteReader(bytes.NewReader(data[:5000])))
	if err != nil || s.Size != 5000 || s.Digest != digestOf(data[:5000]) {
		t.Fatalf("staged %+v (%v)", s, err)
	}
	s.Discard()
	s.Discard()
	s = stage(t, f, data)
	if got, err := s.bytes(); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the staged bytes differ (%v)", err)
	}
	files := inside(t, f.tmp)
	if len(files) != 1 {
		t.Fatalf("temporary files: %v", files)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v)", info.Mode(), err)
	}
	for _, dir := range []string{f.tmp, f.blobs} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("mode of %s: %v (%v)", dir, info.Mode(), err)
		}
	}
	s.Discard()
	if left := inside(t, f.tmp); len(left) != 0 {
		t.Errorf("left after Discard: %v", left)
	}
}

func TestStageEmpty(t *testing.T) {
	f := openFiles(t, 10)
	s := stage(t, f, nil)
	if data, err := s.bytes(); err != nil || len(data) != 0 || s.Size != 0 {
		t.Errorf("an empty file: %d bytes (%v)", len(data), err)
	}
}

// cancelReader cancels a context after its first bytes.
type cancelReader struct {
	cancel context.CancelFunc
	reads  int
}

func (r *cancelReader) Read(p []byte) (int, error) {
	if r.reads++; r.reads == 2 {
		r.cancel()
	}
	return copy(p, "bytes"), nil
}

// TestStageFails leaves nothing on the disk, whatever goes wrong.
func TestStageFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	broken := errors.New("connection reset")
	tests := []struct {
		name string
		ctx  context.Context
		from io.Reader
		want error
	}{
		{"a byte too large", t.Context(), strings.NewReader(strings.Repeat("x", 1001)), ErrTooLarge},
		{"endless", t.Context(), zeros{}, ErrTooLarge},
		{"stops half-way", t.Context(), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)), broken},
		{"ends early", t.Context(), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF)), ErrInvalid},
		{"the caller leaves", ctx, &cancelReader{cancel: cancel}, context.Canceled},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := openFiles(t, 1000)
			s, err := f.Stage(test.ctx, test.from)
			if s != nil || !errors.Is(err, test.want) {
				t.Errorf("%+v, %v; want %v", s, err, test.want)
			}
			if left := inside(t, filepath.Dir(f.tmp)); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
	f := openFiles(t, 1000)
	if s := stage(t, f, make([]byte, 1000)); s.Size != 1000 {
		t.Error("a file just as large as allowed was refused")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestKeepAndRead(t *testing.T) {
	f := openFiles(t, 1<<20)
	data := []byte("contents")
	s := stage(t, f, data)
	if err := errors.Join(s.sync(), f.keep(s)); err != nil {
		t.Fatal(err)
	}
	s.Discard()
	path := filepath.Join(f.blobs, s.Digest[:2], s.Digest)
	if left := append(inside(t, f.tmp), inside(t, f.blobs)...); !slices.Equal(left, []string{path}) {
		t.Fatalf("on the disk: %v", left)
	}
	got, err := f.read(t.Context(), s.Digest, s.Size)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read %q (%v)", got, err)
	}
	for name, spoil := range map[string]func() error{
		"changed": func() error { return os.WriteFile(path, []byte("Contents"), 0o600) },
		"shorter": func() error { return os.WriteFile(path, data[:4], 0o600) },
		"longer":  func() error { return os.WriteFile(path, append(data, '!'), 0o600) },
		"missing": func() error { return os.Remove(path) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.read(t.Context(), s.Digest, s.Size); !errors.Is(err, errDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		again := stage(t, f, data)
		if err := errors.Join(again.sync(), f.keep(again)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.read(t.Context(), s.Digest, s.Size); err != nil {
			t.Errorf("%s: the same contents once more did not mend it: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.read(ctx, s.Digest, s.Size); !errors.Is(err, context.Canceled) {
		t.Errorf("read for nobody: %v", err)
	}
	if err := errors.Join(f.remove(s.Digest), f.remove(s.Digest)); err != nil {
		t.Errorf("removing twice: %v", err)
	}
	if left := inside(t, f.blobs); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestSweep(t *testing.T) {
	f := openFiles(t, 1<<20)
	var digests []string
	for _, data := range []string{"one", "two", "three"} {
		s := stage(t, f, []byte(data))
		if err := f.keep(s); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, s.Digest)
	}
	stage(t, f, []byte("left over"))
	foreign := filepath.Join(f.blobs, digests[0][:2], "README")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done, err := f.sweep(map[string]bool{})
	if err != nil || done != (swept{temporary: 1, kept: 3}) || len(inside(t, f.blobs)) != 4 {
		t.Errorf("with an empty catalogue: %+v (%v)", done, err)
	}
	done, err = f.sweep(map[string]bool{digests[1]: true})
	if err != nil || done != (swept{orphans: 2}) {
		t.Errorf("with one version: %+v (%v)", done, err)
	}
	want := []string{foreign, f.path(digests[1])}
	slices.Sort(want)
	if left := inside(t, filepath.Dir(f.blobs)); !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
	if done, err = f.sweep(map[string]bool{}); err != nil || done != (swept{orphans: 1}) {
		t.Errorf("a single blob and an empty catalogue: %+v (%v)", done, err)
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{5: "5 bytes", 1 << 10: "1 KiB", 1536: "1.5 KiB", 512 << 20: "512 MiB", 1<<31 - 1: "2 GiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}
