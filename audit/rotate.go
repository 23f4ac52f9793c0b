package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// rotatePause is how soon after a failure rotation is tried again. Records go
// on into the old file meanwhile.
const rotatePause = time.Minute

// closedMode: nobody writes to a closed file, its owner included.
const closedMode = 0o400

// rotateDue says whether the file is to be closed. The caller holds commit.
func (l *Log) rotateDue() bool {
	if l.first == 0 || l.torn || time.Now().Before(l.rotateAfter) {
		return false
	}
	if l.size.Load() >= l.cfg.MaxSize {
		return true
	}
	return l.cfg.MaxAge > 0 && l.cfg.Now().Sub(l.begun) >= l.cfg.MaxAge
}

// rotateIfDue closes the file that is full or old and begins the next. A
// failure costs no record: the file just grows. The caller holds commit.
func (l *Log) rotateIfDue() {
	if !l.rotateDue() {
		return
	}
	if err := l.rotate(); err != nil {
		l.rotateAfter = time.Now().Add(rotatePause)
		l.cfg.Logger.Error("the audit log could not be rotated; the file grows until it can", "cause", err)
	}
}

// rotate signs the end of the file, makes the next one, whose first record
// continues the chain, and lets it take the name of the old one. A crash leaves
//
//   - before the first rename: a temporary file, which the next start removes;
//   - between the two: no current file, and a closed one that holds the head: the
//     next start makes the next file (begin);
//   - after the second: all of it, but perhaps not the closed file's mode.
//
// The caller holds commit.
func (l *Log) rotate() error {
	if l.cfg.Key != nil && l.unsigned > 0 {
		if err := l.writeEntries(nil, true); err != nil {
			return err
		}
	} else if err := l.intact(true); err != nil {
		return err
	}
	closed := closedName(l.cfg.Path, l.first)
	if _, err := os.Lstat(closed); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("audit: %s is there already", closed)
	}
	first := l.beginEntry(l.head, "rotation")
	first.Detail["file"] = filepath.Base(closed)
	line, err := seal(first)
	if err != nil {
		return err
	}
	l.step("signed")
	tmp, err := l.newFile(line)
	if err != nil {
		return fmt.Errorf("audit: make the next file: %w", err)
	}
	defer os.Remove(tmp)
	next, err := openLocked(tmp)
	if err != nil {
		return fmt.Errorf("audit: make the next file: %w", err)
	}
	l.step("made")
	old, err := l.exchange(tmp, closed, next, int64(len(line)))
	if err != nil {
		next.Close()
		return fmt.Errorf("audit: close the file: %w", err)
	}
	l.recent.begin(0)
	l.recent.wrote(line, false)
	l.step("exchanged")
	l.head, l.first, l.begun = headOf(first), first.Seq, first.Time
	l.unsigned++
	l.metrics.records.WithLabelValues(string(Allowed)).Inc()
	l.saveHead()
	l.cfg.Logger.Info("the audit log goes on in a new file", "closed", filepath.Base(closed), "first_record", first.Seq)
	return errors.Join(old.Chmod(closedMode), old.Close(), syncDir(filepath.Dir(l.cfg.Path)))
}

// exchange gives the current file its closed name and tmp the current one, and
// makes next the file that is written. Readers see the files before or after.
func (l *Log) exchange(tmp, closed string, next *os.File, size int64) (old *os.File, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := os.Rename(l.cfg.Path, closed); err != nil {
		return nil, err
	}
	l.step("closed")
	if err := os.Rename(tmp, l.cfg.Path); err != nil {
		return nil, errors.Join(err, os.Rename(closed, l.cfg.Path))
	}
	old, l.file = l.file, next
	l.size.Store(size)
	return old, nil
}

// beginEntry is the first record of a file that continues the chain after h.
func (l *Log) beginEntry(h Head, reason string) *Entry {
	return &Entry{
		Seq: h.Seq + 1, Prev: h.Hash, Time: l.cfg.Now().UTC().Truncate(time.Microsecond),
		Action: actionBegin, Outcome: Allowed, Count: 1, Reason: reason,
		Detail: map[string]string{"records_before": strconv.FormatUint(h.Seq, 10)},
	}
}

// newFile writes a temporary file beside the log.
func (l *Log) newFile(first []byte) (name string, err error) {
	path := l.cfg.Path
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = tmp.Write(first)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		os.Remove(tmp.Name())
		return "", err
	}
	return tmp.Name(), nil
}

// sweep removes what a crash in newFile left, and takes the right to write from
// closed files. The caller has the lock of the log.
func (l *Log) sweep() error {
	dir, name := filepath.Split(l.cfg.Path)
	files, err := os.ReadDir(filepath.Clean(dir)) // no pattern: the folder's name may look like one
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), name+".new-") {
			continue
		}
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
			return fmt.Errorf("audit: remove what a crash left: %w", err)
		}
	}
	list, err := pieces(l.cfg.Path)
	if err != nil {
		return err
	}
	for _, p := range list {
		if err := os.Chmod(p.path, closedMode); err != nil {
			// Another's, perhaps moved in: it need not be ours to be read.
			l.cfg.Logger.Warn("a closed file of the audit log can't be made read-only", "file", filepath.Base(p.path), "cause", err)
		}
	}
	return nil
}
