package audit

import (
	"bufio"
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
// head, and on to the last signed head in the file, since the next one will sign
// for what is between (Verify reads all):
//
//   - a half-written last record, which the head does not know, is what a crash
//     leaves: it is cut off and a record audit.repair says so;
//   - a log that goes on consistently beyond the head is what a crash between
//     the two leaves, or a restored database: the head follows;
//   - a log that ends before the head, or has another record in its place, was
//     changed: ErrTampered, and the server must not start on it. The operator
//     looks into it with `modelgate audit verify` and then moves the file away;
//   - no file where the head knows of records: a new file goes on with the
//     chain, and its first record, audit.begin, says that it does. If the last
//     closed file ends at the head or later, a crash during rotation left it so.
//     If not, the file was removed: the record's reason is file_missing;
//   - a log of which Heads knows nothing, while it knows others: the key was
//     replaced or the file is another's, and ErrTampered.
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
	if cfg.HeadEvery <= 0 {
		cfg.HeadEvery = defaultHeadEvery
	}
	if cfg.MaxSize <= 0 {
		cfg.MaxSize = defaultMaxSize
	}
	l := &Log{cfg: cfg, metrics: newMetrics(), commit: make(chan struct{}, 1), batch: newBatch(), step: func(string) {}}
	l.folds.m = make(map[foldKey]*fold)
	l.tallies.m = make(map[tallyKey]*tally)
	l.tallies.full = make(chan struct{}, 1)
	if err := l.readHead(ctx); err != nil {
		return nil, err
	}
	if err := l.openFile(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(l.sweep(), l.recover(ctx)); err != nil {
		l.file.Close()
		return nil, err
	}
	return l, nil
}

// readHead finds the saved head of this log.
func (l *Log) readHead(ctx context.Context) error {
	if l.cfg.Heads == nil {
		return nil
	}
	id := l.cfg.Key.ID()
	heads, err := l.cfg.Heads.AuditHeads(ctx)
	if err != nil {
		return fmt.Errorf("audit: read the saved head: %w", err)
	}
	if _, unnamed := heads[""]; unnamed && id != "" {
		if err := l.cfg.Heads.ClaimAuditHead(ctx, id); err != nil {
			return fmt.Errorf("audit: take over the saved head: %w", err)
		}
		if heads, err = l.cfg.Heads.AuditHeads(ctx); err != nil {
			return fmt.Errorf("audit: read the saved head: %w", err)
		}
	}
	head, known := heads[id]
	if l.saved = head; known {
		return nil
	}
	if len(heads) > 0 {
		if err := l.refuseForeign(); err != nil {
			return err
		}
		l.cfg.Logger.Info("this audit log is new to the database, which knows others", "log", id, "others", len(heads))
	}
	if err := l.cfg.Heads.SetAuditHead(ctx, id, Head{}); err != nil {
		return fmt.Errorf("audit: save the first head: %w", err)
	}
	return nil
}

// refuseForeign stops a log that has records, though the database, which knows
// the logs of other keys, never heard of it: else who takes away the key could
// also cut the log.
func (l *Log) refuseForeign() error {
	closed, err := pieces(l.cfg.Path)
	if err != nil {
		return err
	}
	info, err := os.Stat(l.cfg.Path)
	if len(closed) == 0 && (errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0) {
		return nil
	}
	return fmt.Errorf("%w: the database knows nothing of a log with this key (%s), but of others. If the key was replaced, put the old one back. "+
		"To begin a new log, keep all its files as evidence and move them away (%s and closed ones beside it)", ErrTampered, l.cfg.Key.ID(), l.cfg.Path)
}

func (l *Log) openFile(ctx context.Context) error {
	path := l.cfg.Path
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("audit: make the folder of the log: %w", err)
	}
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		if err := l.begin(ctx); err != nil {
			return fmt.Errorf("audit: begin the log: %w", err)
		}
	}
	f, err := openLocked(path)
	if err != nil {
		return fmt.Errorf("audit: open the log: %w", err)
	}
	l.file = f
	return nil
}

// openLocked opens a file of the log to be added to, by this process alone.
func openLocked(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(lock(f), f.Chmod(0o600)); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// Another process may have closed this file by rotation before the lock.
	ours, err := f.Stat()
	named, err2 := os.Stat(path)
	if err := errors.Join(err, err2); err != nil || !os.SameFile(ours, named) {
		f.Close()
		return nil, errors.Join(fmt.Errorf("%s was replaced while it was opened; try again", path), err)
	}
	return f, nil
}

// begin makes the file: empty for a new chain, or with the record audit.begin
// when there is an earlier file. The file appears whole or not at all.
func (l *Log) begin(ctx context.Context) error {
	head, reason, err := l.closedHead(ctx)
	if err != nil {
		return err
	}
	var first []byte
	if head.Seq > 0 {
		if first, err = seal(l.beginEntry(head, reason)); err != nil {
			return err
		}
	}
	if reason == "file_missing" {
		l.cfg.Logger.Warn("the audit log was not found; a new file goes on with its chain", "records_before", head.Seq)
	}
	tmp, err := l.newFile(first)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	path := l.cfg.Path
	// A link, unlike a rename, replaces nothing, but not every file system has it.
	if err := os.Link(tmp, path); errors.Is(err, os.ErrExist) {
		return err
	} else if err != nil {
		if err := os.Rename(tmp, path); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(path))
}

// closedHead is where the chain ended while there was a file: at the end of the
// last closed file, if the database knows of nothing later, else at the saved
// head.
func (l *Log) closedHead(ctx context.Context) (Head, string, error) {
	if list, err := pieces(l.cfg.Path); err != nil {
		return Head{}, "", err
	} else if n := len(list); n > 0 && !list[n-1].gzip {
		f, err := os.Open(list[n-1].path)
		if err != nil {
			return Head{}, "", err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return Head{}, "", err
		}
		t, err := l.readTail(ctx, f, info.Size(), list[:n-1])
		if err != nil {
			return Head{}, "", err
		}
		if t.cut == 0 && !t.open && t.last.Seq >= l.saved.Seq {
			return headOf(&t.last), "rotation", nil
		}
	}
	if l.saved.Seq == 0 {
		return Head{}, "", nil
	}
	return l.saved, "file_missing", nil
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
	closed, err := pieces(l.cfg.Path)
	if err != nil {
		return err
	}
	t, err := l.readTail(ctx, l.file, info.Size(), closed)
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
	l.recent.begin(t.end)
	if t.last.Seq > 0 {
		l.head = headOf(&t.last)
		if l.signedAt = t.last.Time; t.last.Action != actionHead {
			l.unsigned, l.signedAt = 1, time.Time{} // how many there are does not matter: a head is due
		}
		if err := l.readFirst(); err != nil {
			return err
		}
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

// readFirst sets first and begun.
func (l *Log) readFirst() error {
	line, err := bufio.NewReader(io.NewSectionReader(l.file, 0, maxLine)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("audit: read the log: %w", err)
	}
	if seq, ok := seqOf(line); ok {
		l.first = seq
		if e, err := parse(line); err == nil { // Verify tells of one that was changed
			l.begun = e.Time
		}
	}
	return nil
}

// readTail walks from the end of a file of the log back to the saved head, over
// the closed files before it where it must.
func (l *Log) readTail(ctx context.Context, file io.ReaderAt, size int64, closed []piece) (tail, error) {
	w := tailWalk{l: l, size: size}
	err := backwards(file, size, w.line(ctx))
	for err == nil && !w.done && w.next.Action == actionBegin && len(closed) > 0 && !closed[len(closed)-1].gzip {
		w.boundary = true
		err = closed[len(closed)-1].backwards(w.line(ctx))
		closed = closed[:len(closed)-1]
		if w.gap {
			break
		}
	}
	if errors.Is(err, errLongLine) {
		err = l.tampered(err.Error())
	}
	if err != nil {
		return w.tail, err
	}
	next := &w.next
	if next.Seq == 0 {
		w.cut = size
		return w.tail, nil
	}
	if !w.done && !follows(next, Head{}) { // the walk ended at the beginning of the file
		return w.tail, l.tampered(fmt.Sprintf("it begins at record %d, and not as a new file does", next.Seq))
	}
	if !w.done && l.saved.Seq > 0 && (next.Seq != l.saved.Seq+1 || next.Prev != l.saved.Hash) {
		return w.tail, l.tampered(fmt.Sprintf("it begins after record %d, but the database knows of record %d", next.Seq-1, l.saved.Seq))
	}
	return w.tail, nil
}

// tailWalk is a walk backwards through the records at the end of a log.
type tailWalk struct {
	l    *Log
	size int64
	tail
	next     Entry // the record after the one at hand
	bad      int   // lines after the last good record
	boundary bool  // the line at hand is the last of a closed file
	gap      bool  // the closed file does not end where the next one begins: the walk is over
	done     bool  // the saved head was met
	beyond   int   // records before it that were read
}

// line takes the lines, the last first.
func (w *tailWalk) line(ctx context.Context) func(line []byte, off int64) (bool, error) {
	return func(line []byte, off int64) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		e, err := parse(line)
		if err != nil {
			if w.next.Seq > 0 {
				return false, w.l.tampered(fmt.Sprintf("the record before record %d was changed", w.next.Seq))
			}
			w.bad++
			w.torn = w.bad == 1 && halfWritten(line)
			return true, nil
		}
		boundary := w.boundary
		w.boundary = false
		if w.next.Seq == 0 {
			w.last, w.end = e, off+int64(len(line))
			w.open = line[len(line)-1] != '\n'
			w.cut = w.size - w.end
		} else if h := headOf(&e); w.next.Seq != h.Seq+1 || w.next.Prev != h.Hash {
			if boundary { // the file between them was moved away
				w.gap = true
				return false, nil
			}
			return false, w.l.tampered(fmt.Sprintf("record %d does not follow record %d", w.next.Seq, e.Seq))
		}
		w.next = e
		if w.done {
			w.beyond++
			return e.Action != actionHead && w.beyond < HeadRecords, nil
		}
		saved := w.l.saved
		if saved.Seq > 0 && e.Seq <= saved.Seq {
			if e.Seq == saved.Seq && e.Hash != saved.Hash {
				return false, w.l.tampered(fmt.Sprintf("record %d is not the one the database knows", e.Seq))
			}
			w.done = true
			return w.l.cfg.Key != nil && e.Action != actionHead, nil
		}
		return true, nil
	}
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
	return fmt.Errorf("%w: %s. Look into it with \"modelgate audit verify\". To go on, keep the file as evidence and move it away (%s; if a closed file beside it is at fault, that too): a new file then continues the chain and says so in its first record", ErrTampered, problem, l.cfg.Path)
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
