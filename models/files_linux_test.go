package models

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestStageFullDisk fills a real, tiny file system.
func TestStageFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mounting a small file system needs root and its capabilities: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	f, err := OpenFiles(dir, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	checkNoSpace(t, f)
}

// checkNoSpace uploads without end to a disk that has one.
func checkNoSpace(t *testing.T, f *Files) {
	t.Helper()
	s, err := f.Stage(t.Context(), zeros{})
	if s != nil || !errors.Is(err, ErrNoSpace) {
		t.Errorf("%+v, %v; want ErrNoSpace", s, err)
	}
	if e := (*Error)(nil); !errors.As(err, &e) || e.Detail != ErrNoSpace.Detail {
		t.Errorf("the caller would read %v", err)
	}
	if left := inside(t, f.tmp); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := f.Stage(t.Context(), io.LimitReader(zeros{}, 10)); err != nil {
		t.Errorf("there is room again, but: %v", err)
	}
}

const fileLimitEnv = "MODELGATE_TEST_FILE_LIMIT"

// TestStageFileLimit runs into the process's own limit on file sizes, in a
// process of its own.
func TestStageFileLimit(t *testing.T) {
	dir := os.Getenv(fileLimitEnv)
	if dir == "" {
		child := exec.Command(os.Args[0], "-test.run=^TestStageFileLimit$")
		child.Env = append(os.Environ(), fileLimitEnv+"="+filepath.Join(t.TempDir(), "models"))
		if out, err := child.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	f, err := OpenFiles(dir, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	limit := syscall.Rlimit{Cur: 64 << 10, Max: 64 << 10}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	checkNoSpace(t, f)
}

// TestViewCut: a staged file that is cut while it is looked at fails its own
// upload, and not the process.
func TestViewCut(t *testing.T) {
	f := openFiles(t, 1<<20)
	s := stage(t, f, make([]byte, 512<<10))
	err := s.view(func(data []byte) error {
		if err := s.file.Truncate(0); err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, b := range data {
			sum += int(b)
		}
		t.Errorf("read %d from nowhere", sum)
		return nil
	})
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
	// Other faults are nobody's to hide.
	defer func() {
		if recover() == nil {
			t.Error("a panic of the check was swallowed")
		}
	}()
	_ = stage(t, f, make([]byte, 10)).view(func([]byte) error { panic("a fault of the check") })
}
