package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what Open needs.
type Config struct {
	Path       string           // the JSON-lines file; made with mode 0600
	Heads      Heads            // nil: no head is kept elsewhere, and a cut tail is not seen
	Now        func() time.Time // nil: time.Now
	FoldWindow time.Duration    // how long repeated denials are folded; 0: one minute
	Logger     *slog.Logger     // nil: slog.Default
}

// ErrClosed is what a Log answers after Close.
var ErrClosed = errors.New("audit: the log is closed")

const (
	// headTimeout bounds how long a record waits for its head to be saved, and
	// headPause how soon after a failure it is tried again: a locked database
	// must not delay every denial.
	headTimeout = 2 * time.Second
	headPause   = 5 * time.Second
	// lastFlush bounds the writing of counts at the end.
	lastFlush = 5 * time.Second
)

// Log is the open audit log. All methods are safe for concurrent use.
type Log struct {
	cfg  Config
	file *os.File
	// commit is held (one element sent) by the one who writes to file.
	commit chan struct{}
	// size is the length of the file up to the last durable record; changed by
	// the holder of commit.
	size atomic.Int64

	head  Head // last durable record; owned by the holder of commit
	saved Head // what Heads knows; owned by the holder of commit
	// pause: no head is saved before then; owned by the holder of commit.
	pause time.Time
	// torn: bytes beyond size may be in the file after a failed write; owned by
	// the holder of commit.
	torn bool

	mu     sync.Mutex
	batch  *batch // takes entries until the next holder of commit writes it; guarded by mu
	closed bool   // guarded by mu

	folds   folds
	tallies tallies
}

// batch is a group of records that share one write and one fsync.
type batch struct {
	entries []*Entry      // guarded by Log.mu until taken
	done    chan struct{} // closed when written or failed
	err     error         // valid after done
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// Append adds a record. When it returns nil the record is on the disk;
// concurrent calls share one fsync. An error means that the record may not be
// relied on: the caller must not do what it describes.
//
// Denied and Failed records are folded: the first of its actor, action, target,
// reason and address is written at once, its likes within the window become
// one record with their Count when the window ends. A crash loses at most
// these counts.
//
// Fields are cut at 256 bytes.
func (l *Log) Append(ctx context.Context, e Entry) error {
	e = clean(e)
	if e.Outcome == Allowed {
		return l.write(ctx, &e)
	}
	key := foldKeyOf(&e)
	now := l.cfg.Now()
	ended, folded := l.folds.add(key, e, now, l.cfg.FoldWindow)
	if folded {
		return nil
	}
	first := e
	if ended == nil {
		if err := l.write(ctx, &first); err != nil {
			return err
		}
	} else if err := l.write(ctx, ended, &first); err != nil {
		l.folds.restore(ended)
		return err
	}
	l.folds.start(key, e, now)
	return nil
}

// write makes the entries durable, in order, in one batch with those of
// concurrent callers. ctx ends the wait for the batch, not the writing of it.
func (l *Log) write(ctx context.Context, entries ...*Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	b := l.batch
	b.entries = append(b.entries, entries...)
	l.mu.Unlock()

	select {
	case l.commit <- struct{}{}:
	case <-b.done:
		return b.err
	case <-ctx.Done():
		if l.withdraw(b, entries) {
			return ctx.Err()
		}
		<-b.done
		return b.err
	}
	defer func() { <-l.commit }()
	select {
	case <-b.done: // the one before us wrote it
	default:
		l.writeBatch()
	}
	return b.err
}

// withdraw takes entries out of b unless it is being written.
func (l *Log) withdraw(b *batch, entries []*Entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b != l.batch {
		return false
	}
	for i, e := range b.entries {
		if e == entries[0] {
			b.entries = append(b.entries[:i], b.entries[i+len(entries):]...)
			break
		}
	}
	return true
}

// writeBatch writes the waiting batch. The caller holds commit.
func (l *Log) writeBatch() {
	l.mu.Lock()
	b := l.batch
	l.batch = newBatch()
	l.mu.Unlock()
	if len(b.entries) > 0 {
		b.err = l.writeEntries(b.entries)
	}
	close(b.done)
}

// writeEntries chains, writes and syncs entries, then saves the head. The
// caller holds commit.
func (l *Log) writeEntries(entries []*Entry) error {
	if l.torn {
		if err := l.mend(); err != nil {
			return err
		}
	}
	head, now := l.head, l.cfg.Now().UTC().Truncate(time.Microsecond)
	var buf []byte
	for _, e := range entries {
		e.Seq, e.Prev, e.Time = head.Seq+1, head.Hash, now
		line, err := seal(e)
		if err != nil {
			return err
		}
		buf = append(buf, line...)
		head = headOf(e)
	}
	_, err := l.file.Write(buf)
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		l.torn = true
		if merr := l.mend(); merr != nil {
			err = errors.Join(err, merr)
		}
		return fmt.Errorf("audit: write a record: %w", err)
	}
	l.size.Add(int64(len(buf)))
	l.head = head
	l.saveHead()
	return nil
}

// mend cuts off what a failed write left behind, so that the next record does
// not follow half a line.
func (l *Log) mend() error {
	if err := l.file.Truncate(l.size.Load()); err != nil {
		return fmt.Errorf("audit: cut off a half-written record: %w", err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("audit: cut off a half-written record: %w", err)
	}
	l.torn = false
	return nil
}

// saveHead tells Heads where the chain ends. A failure is no failure of the
// record, which is on the disk and chained: the next write, or Run, saves a
// later head, and Open accepts a log that is ahead of its head.
func (l *Log) saveHead() {
	if l.cfg.Heads == nil || l.saved == l.head || time.Now().Before(l.pause) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), headTimeout)
	defer cancel()
	if err := l.cfg.Heads.SetAuditHead(ctx, l.head); err != nil {
		l.pause = time.Now().Add(headPause)
		l.cfg.Logger.Error("the head of the audit log could not be saved; it will be tried again", "seq", l.head.Seq, "cause", err)
		return
	}
	l.saved = l.head
}

// Run writes folded denials and the counts of predictions once per fold window,
// and a last time when ctx ends.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(l.cfg.FoldWindow)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.tallies.full:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
			defer cancel()
			return l.flush(last, true)
		}
		if err := l.flush(ctx, false); err != nil && ctx.Err() == nil {
			l.cfg.Logger.Error("audit counts could not be written; they are kept and tried again", "cause", err)
		}
	}
}

// flush writes the folds whose window has ended (all: every one) and all
// tallies. What could not be written is kept.
func (l *Log) flush(ctx context.Context, all bool) error {
	var entries []*Entry
	folds := l.folds.take(l.cfg.Now(), l.cfg.FoldWindow, all)
	tallies := l.tallies.take()
	entries = append(entries, folds...)
	for k, t := range tallies {
		entries = append(entries, t.entry(k))
	}
	if len(entries) > 0 {
		if err := l.write(ctx, entries...); err != nil {
			for _, e := range folds {
				l.folds.restore(e)
			}
			l.tallies.restore(tallies)
			return err
		}
		return nil
	}
	select { // nothing to write, but an earlier head may wait to be saved
	case l.commit <- struct{}{}:
		l.saveHead()
		<-l.commit
	case <-ctx.Done():
	}
	return nil
}

// Close writes what is folded or tallied and closes the file.
func (l *Log) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), lastFlush)
	defer cancel()
	err := l.flush(ctx, true)
	if errors.Is(err, ErrClosed) {
		return nil
	}
	l.mu.Lock()
	again := l.closed
	l.closed = true
	l.mu.Unlock()
	if again {
		return nil
	}
	l.commit <- struct{}{}
	defer func() { <-l.commit }()
	l.writeBatch()
	l.pause = time.Time{}
	l.saveHead()
	return errors.Join(err, l.file.Close())
}
