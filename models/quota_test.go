package models_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"modelgate/models"
)

// TestQuota: an owner's versions together stay within the quota, whoever
// uploads them; holders of models:manage have none.
func TestQuota(t *testing.T) {
	iris := sample(t, "iris")
	size := int64(len(iris))
	r := newRoomWith(t, func(c *models.Config) { c.Quota = 2*size + 100 })
	r.publish(t, ann, "one", iris, models.Spec{Roles: []string{"user"}})
	r.publish(t, ann, "two", iris, models.Spec{}) // the same contents count again
	files := r.onDisk(t)
	for _, name := range []string{"one", "three"} {
		_, _, err := r.tryPublish(t, ann, name, variant(iris, 1), models.Spec{}, neverTried(t))
		wantError(t, name, err, models.ErrQuota)
		if e := (*models.Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Detail, "delete versions") {
			t.Errorf("the caller would read %v", err)
		}
	}
	if left := r.onDisk(t); len(left) != len(files) {
		t.Errorf("on the disk: %v", left)
	}
	r.publish(t, bob, "his", iris, models.Spec{})
	r.publish(t, admin, "one", variant(iris, 2), models.Spec{Default: true})
	// Three versions are ann's now, one of them by an administrator: of these
	// two must go before another fits.
	again := func() error {
		_, _, err := r.tryPublish(t, ann, "new", variant(iris, 3), models.Spec{}, try)
		return err
	}
	if err := r.catalog.DeleteVersion(t.Context(), ann, "one", 1); err != nil {
		t.Fatal(err)
	}
	wantError(t, "one deleted", again(), models.ErrQuota)
	if err := r.catalog.Delete(t.Context(), ann, "two"); err != nil {
		t.Fatal(err)
	}
	if err := again(); err != nil {
		t.Errorf("after room was made: %v", err)
	}
}

// TestQuotaMeters: uploads on their way count as well, and give their room back.
func TestQuotaMeters(t *testing.T) {
	r := newRoomWith(t, func(c *models.Config) { c.Quota = 1000 })
	first, done := r.catalog.Metered(ann, "one", bytes.NewReader(make([]byte, 600)))
	if _, err := io.Copy(io.Discard, first); err != nil {
		t.Fatal(err)
	}
	second, doneToo := r.catalog.Metered(ann, "two", bytes.NewReader(make([]byte, 600)))
	_, err := io.Copy(io.Discard, second)
	wantError(t, "two at once", err, models.ErrQuota)
	other, doneOther := r.catalog.Metered(bob, "his", bytes.NewReader(make([]byte, 1000)))
	if _, err := io.Copy(io.Discard, other); err != nil {
		t.Errorf("another's: %v", err)
	}
	doneOther()
	done()
	doneToo()
	doneToo()
	third, done := r.catalog.Metered(ann, "one", bytes.NewReader(make([]byte, 1000)))
	if _, err := io.Copy(io.Discard, third); err != nil {
		t.Errorf("after both were done: %v", err)
	}
	done()
	endless, done := r.catalog.Metered(ann, "one", forever{})
	n, err := io.Copy(io.Discard, endless)
	wantError(t, "without end", err, models.ErrQuota)
	if n > 64<<10 {
		t.Errorf("%d bytes were read against a quota of 1000", n)
	}
	done()
	managed, done := r.catalog.Metered(admin, "one", bytes.NewReader(make([]byte, 5000)))
	if _, err := io.Copy(io.Discard, managed); err != nil {
		t.Errorf("who manages all: %v", err)
	}
	done()
}

// forever is an endless upload of zeros.
type forever struct{}

func (forever) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// neverTried fails the test when a file comes as far as the runtime.
func neverTried(t *testing.T) models.Try {
	return func(context.Context, []byte) (models.Trial, error) {
		t.Error("it was tried all the same")
		return models.Trial{}, nil
	}
}

// TestStageHead: what can't be a model is refused by its first bytes, without
// the rest being read.
func TestStageHead(t *testing.T) {
	r := newRoom(t) // files of 1 MiB at most
	for name, test := range map[string]struct{ head, hint string }{
		"zeros":         {"", "no ONNX model"},
		"a zip archive": {"PK\x03\x04", "torch.onnx.export"},
		"gzip":          {"\x1f\x8b\x08", "gzip"},
		"a pickle":      {"\x80\x04\x95", "pickle"},
		"HDF5":          {"\x89HDF\r\n\x1a\n", "HDF5"},
		"text":          {"Hello, world", "no ONNX model"},
		"GGUF":          {"GGUF\x03\x00\x00\x00", "GGUF"},
		"TF Lite":       {"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"},
		"ORT's format":  {"\x12\x84\x80\x00ORTM", "ONNX Runtime's own"},
	} {
		file := &counted{r: io.MultiReader(strings.NewReader(test.head), io.LimitReader(forever{}, 1<<30))}
		staged, err := r.catalog.Stage(t.Context(), file)
		refused := (*models.Rejected)(nil)
		if staged != nil || !errors.As(err, &refused) || refused.Code != "not_onnx" || !strings.Contains(refused.Detail, test.hint) {
			t.Errorf("%s: %+v, %v", name, staged, err)
		}
		if file.n > 1<<20 {
			t.Errorf("%s: %d bytes were read", name, file.n)
		}
	}
	if left := r.onDisk(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	// What is shorter than any look, or begins like a model, is for the check.
	for _, head := range []string{"", "x", "\x08\x0a\x12\x00\x3a\x00xxxxxx"} {
		staged, err := r.catalog.Stage(t.Context(), strings.NewReader(head))
		if err != nil {
			t.Errorf("%q: %v", head, err)
			continue
		}
		staged.Discard()
	}
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// TestKeepFree: uploads leave room on the disk.
func TestKeepFree(t *testing.T) {
	r := newRoom(t)
	r.files.KeepFree(1 << 60)
	_, _, err := r.tryPublish(t, admin, "iris", sample(t, "iris"), models.Spec{}, try)
	wantError(t, "a disk that is too full", err, models.ErrNoSpace)
	if left := r.onDisk(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	r.files.KeepFree(1)
	r.publish(t, admin, "iris", sample(t, "iris"), models.Spec{})
}
