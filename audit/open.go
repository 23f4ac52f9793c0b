package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// ErrTampered is in the chain of Open's error when the log contradicts the
// saved head or itself.
var ErrTampered = errors.New("the audit log was changed outside modelgate")

// Open opens the log, or begins one.
//
// It holds the log against the saved head, reading from the end back to that
// head only (Verify reads all):
//
//   - a half-written last record, which the head does not know, is what a crash
//     leaves: it is cut off and a record audit.repair says so;
//   - a log that goes on consistently beyond the head is what a crash between
//     the two leaves, or a restored database: the head follows;
//   - a log that ends before the head, or has another record in its place, was
//     changed: ErrTampered, and the server must not start on it. The operator
//     looks into it with `modelgate audit verify` and then moves the file away;
//   - no file where the head knows of records: a new file goes on with the
//     chain, and its first record, audit.begin, says that it does.
//
// One process at a time may have the log open.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.FoldWindow <= 0 {
		cfg.FoldWindow = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	l := &Log{cfg: cfg, commit: make(chan struct{}, 1), batch: newBatch()}
	l.folds.m = make(map[foldKey]*fold)
	l.tallies.m = make(map[tallyKey]*tally)
	l.tallies.full = make(chan struct{}, 1)
	if cfg.Heads != nil {
		var err error
		if l.saved, err = cfg.Heads.AuditHead(ctx); err != nil {
			return nil, fmt.Errorf("audit: read the saved head: %w", err)
		}
	}
	if err := l.openFile(); err != nil {
		return nil, err
	}
	if err := l.recover(ctx); err != nil {
		l.file.Close()
		return nil, err
	}
	return l, nil
}

func (l *Log) openFile() error {
	path := l.cfg.Path
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("audit: make the folder of the log: %w", err)
	}
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		if err := l.begin(); err != nil {
			return fmt.Errorf("audit: begin the log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("audit: open the log: %w", err)
	}
	if err := errors.Join(lock(f), f.Chmod(0o600)); err != nil {
		f.Close()
		return fmt.Errorf("audit: %s: %w", path, err)
	}
	l.file = f
	return nil
}

// begin makes the file: empty for a new chain, or with the record audit.begin
// when the head knows of an earlier file. The file appears whole or not at all.
func (l *Log) begin() error {
	var first []byte
	if l.saved.Seq > 0 {
		e := Entry{
			Seq: l.saved.Seq + 1, Prev: l.saved.Hash, Time: l.cfg.Now().UTC().Truncate(time.Microsecond),
			Action: actionBegin, Outcome: Allowed, Count: 1, Reason: "file_missing",
			Detail: map[string]string{"records_before": strconv.FormatUint(l.saved.Seq, 10)},
		}
		var err error
		if first, err = seal(&e); err != nil {
			return err
		}
		l.cfg.Logger.Warn("the audit log was not found; a new file goes on with its chain", "records_before", l.saved.Seq)
	}
	path := l.cfg.Path
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(first)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, replaces nothing, but not every file system has it.
	if err := os.Link(tmp.Name(), path); errors.Is(err, os.ErrExist) {
		return err
	} else if err != nil {
		if err := os.Rename(tmp.Name(), path); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// tail is what the end of the file looks like.
type tail struct {
	last Entry // newest good record; zero: none
	end  int64 // offset of the end of it, with its newline if it has one
	open bool  // it lacks its newline
	cut  int64 // bytes after end that are no record
	torn bool  // the bytes after end lack a newline, or are a single line
}

// recover brings the file into order and sets head, size and the saved head.
func (l *Log) recover(ctx context.Context) error {
	info, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	t, err := l.readTail(ctx, info.Size())
	if err != nil {
		return err
	}
	if t.last.Seq < l.saved.Seq {
		return l.tampered(fmt.Sprintf("it ends at record %d, but the database knows of record %d: records were cut off or changed", t.last.Seq, l.saved.Seq))
	}
	if t.cut > 0 && !t.torn {
		return l.tampered(fmt.Sprintf("what follows record %d is no record", t.last.Seq))
	}
	if t.cut > 0 {
		if err := l.file.Truncate(t.end); err != nil {
			return fmt.Errorf("audit: cut off a half-written record: %w", err)
		}
	}
	if t.open {
		if _, err := l.file.Write([]byte{'\n'}); err != nil {
			return fmt.Errorf("audit: end the last record: %w", err)
		}
		t.end++
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	l.size.Store(t.end)
	if t.last.Seq > 0 {
		l.head = headOf(&t.last)
	}
	if t.cut > 0 {
		l.cfg.Logger.Warn("a half-written record at the end of the audit log was cut off", "after_record", t.last.Seq, "bytes", t.cut)
		return l.write(ctx, &Entry{
			Action: actionRepair, Outcome: Allowed, Count: 1, Reason: "half_written",
			Detail: map[string]string{"bytes": strconv.FormatInt(t.cut, 10)},
		})
	}
	l.saveHead()
	return nil
}

// readTail walks from the end of the file back to the saved head.
func (l *Log) readTail(ctx context.Context, size int64) (tail, error) {
	var t tail
	var next Entry // the record after the one at hand
	bad := 0       // lines after the last good record
	done := false
	err := backwards(l.file, size, func(line []byte, off int64) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		e, err := parse(line)
		if err != nil {
			if next.Seq > 0 {
				return false, l.tampered(fmt.Sprintf("the record before record %d was changed", next.Seq))
			}
			bad++
			t.torn = bad == 1 && halfWritten(line)
			return true, nil
		}
		if next.Seq == 0 {
			t.last, t.end = e, off+int64(len(line))
			t.open = line[len(line)-1] != '\n'
			t.cut = size - t.end
		} else if h := headOf(&e); next.Seq != h.Seq+1 || next.Prev != h.Hash {
			return false, l.tampered(fmt.Sprintf("record %d does not follow record %d", next.Seq, e.Seq))
		}
		next = e
		if l.saved.Seq > 0 && e.Seq <= l.saved.Seq {
			if e.Seq == l.saved.Seq && e.Hash != l.saved.Hash {
				return false, l.tampered(fmt.Sprintf("record %d is not the one the database knows", e.Seq))
			}
			done = true
			return false, nil
		}
		return true, nil
	})
	if errors.Is(err, errLongLine) {
		err = l.tampered(err.Error())
	}
	if err != nil {
		return t, err
	}
	if next.Seq == 0 {
		t.cut = size
		return t, nil
	}
	if !done && !follows(&next, Head{}) { // the walk ended at the beginning of the file
		return t, l.tampered(fmt.Sprintf("it begins at record %d, and not as a new file does", next.Seq))
	}
	if !done && l.saved.Seq > 0 && (next.Seq != l.saved.Seq+1 || next.Prev != l.saved.Hash) {
		return t, l.tampered(fmt.Sprintf("it begins after record %d, but the database knows of record %d", next.Seq-1, l.saved.Seq))
	}
	return t, nil
}

// halfWritten says whether the line can be the beginning of a record, so that
// a file that is no audit log is not cut.
func halfWritten(line []byte) bool {
	start := []byte(`{"seq":`)
	if line[len(line)-1] == '\n' {
		// A file system may have kept the length of a write but not all of it.
		return bytes.HasPrefix(line, start) && bytes.IndexByte(line, 0) >= 0
	}
	n := min(len(line), len(start))
	return bytes.Equal(line[:n], start[:n]) || len(bytes.Trim(line, "\x00")) == 0
}

func (l *Log) tampered(problem string) error {
	return fmt.Errorf("%w: %s. Look into it with \"modelgate audit verify\". To go on, keep the file as evidence and move it away (%s): a new file then continues the chain and says so in its first record", ErrTampered, problem, l.cfg.Path)
}

var errLongLine = errors.New("a line is longer than any record")

const readBlock = 64 << 10

// backwards calls f with every line of r[:end] and its offset, the last line
// first, until f says no. Only the last line may lack its newline. A line
// longer than any record ends the walk.
func backwards(r io.ReaderAt, end int64, f func(line []byte, off int64) (more bool, err error)) error {
	var data []byte // r[pos:] up to the end of the newest line not yet given
	pos := end
	for pos > 0 || len(data) > 0 {
		i := -1
		if len(data) > 0 {
			i = bytes.LastIndexByte(data[:len(data)-1], '\n')
		}
		if i < 0 && pos > 0 {
			if len(data) > maxLine {
				return errLongLine
			}
			n := min(readBlock, pos)
			block := make([]byte, n, n+int64(len(data)))
			if _, err := r.ReadAt(block, pos-n); err != nil {
				return fmt.Errorf("audit: read the log: %w", err)
			}
			data = append(block, data...)
			pos -= n
			continue
		}
		line := data[i+1:]
		data = data[:i+1]
		more, err := f(line, pos+int64(i+1))
		if err != nil || !more {
			return err
		}
	}
	return nil
}
