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
	Key        *Key             // signs heads, and its id names the log in Heads; nil: no signed heads, and no name
	HeadEvery  time.Duration    // how soon a signed head follows a record at the latest; 0: five minutes
	MaxSize    int64            // bytes from which a file is closed and the next begun; 0: 64 MiB
	MaxAge     time.Duration    // age of its first record from which a file is closed; 0: any
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
	// watch is how often the file is looked at where nothing is written.
	watch = 2 * time.Second

	defaultHeadEvery = 5 * time.Minute
	defaultMaxSize   = 64 << 20
)

// Log is the open audit log. All methods are safe for concurrent use.
type Log struct {
	cfg     Config
	metrics *metrics
	file    *os.File // replaced under mu by the holder of commit, used by him
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
	// first and begun are number and time of the file's first record, zero in an
	// empty file; owned by the holder of commit.
	first uint64
	begun time.Time
	// rotateAfter: no rotation before then; owned by the holder of commit.
	rotateAfter time.Time
	// unsigned counts the records after the last signed head, signedAt is its
	// time; owned by the holder of commit.
	unsigned int
	signedAt time.Time
	// recent is what was written to the file lately; owned by the holder of commit.
	recent recent
	// lost is what intact found wrong last; owned by the holder of commit.
	lost string
	// step is told how far a rotation is. Tests end the process there.
	step func(done string)

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
		l.rotateIfDue()
		b.err = l.writeEntries(b.entries, false)
	}
	close(b.done)
}

// writeEntries chains, writes and syncs entries and the signed heads that are
// due (sign: one at the end in any case), then saves the head. The caller holds
// commit.
func (l *Log) writeEntries(entries []*Entry, sign bool) (err error) {
	defer func() {
		if err != nil {
			l.metrics.failed(err)
		}
	}()
	if l.torn {
		if err := l.mend(); err != nil {
			return err
		}
	}
	// All of what a head is to sign for, before it does.
	signs := sign || l.unsigned+len(entries) >= HeadRecords || l.headDue(l.cfg.Now())
	if err := l.intact(signs); err != nil {
		return err
	}
	c, err := l.link(entries, sign)
	if err != nil {
		return err
	}
	_, err = l.file.Write(c.lines)
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
	l.size.Add(int64(len(c.lines)))
	l.recent.wrote(c.lines, len(c.signed) > 0)
	l.head, l.unsigned = c.head, c.unsigned
	if l.first == 0 {
		l.first, l.begun = c.first, c.now
	}
	for _, e := range entries {
		l.metrics.records.WithLabelValues(string(e.Outcome)).Inc()
	}
	for _, e := range c.signed {
		l.signedAt = c.now
		l.metrics.heads.Inc()
		// Whoever collects this log has the head where nobody here can change it.
		l.cfg.Logger.Info("signed head of the audit log", "seq", e.Seq-1, "head", e.signedHead().String())
	}
	l.saveHead()
	return nil
}

// chained is a group of records on its way to the file.
type chained struct {
	lines    []byte
	first    uint64 // number of the first of them
	head     Head   // of the last
	now      time.Time
	unsigned int      // records after the last signed head
	signed   []*Entry // the signed heads among them
}

// link gives the entries their place in the chain, with signed heads between
// and after them where they are due.
func (l *Log) link(entries []*Entry, sign bool) (*chained, error) {
	c := &chained{first: l.head.Seq + 1, head: l.head, now: l.cfg.Now().UTC().Truncate(time.Microsecond), unsigned: l.unsigned}
	add := func(e *Entry) error {
		e.Seq, e.Prev, e.Time = c.head.Seq+1, c.head.Hash, c.now
		line, err := seal(e)
		if err != nil {
			return err
		}
		c.lines = append(c.lines, line...)
		c.head = headOf(e)
		c.unsigned++
		return nil
	}
	addHead := func() error {
		e := l.cfg.Key.headEntry(c.head, c.now)
		if err := add(e); err != nil {
			return err
		}
		c.unsigned, c.signed = 0, append(c.signed, e)
		return nil
	}
	for _, e := range entries {
		if err := add(e); err != nil {
			return nil, err
		}
		if l.cfg.Key != nil && c.unsigned >= HeadRecords {
			if err := addHead(); err != nil {
				return nil, err
			}
		}
	}
	if c.unsigned > 0 && (sign && l.cfg.Key != nil || l.headDue(c.now)) {
		return c, addHead()
	}
	return c, nil
}

// headDue says whether it is time for a signed head. The caller holds commit.
func (l *Log) headDue(now time.Time) bool {
	age := now.Sub(l.signedAt)
	return l.cfg.Key != nil && (age < 0 || age >= l.cfg.HeadEvery)
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
	if err := l.cfg.Heads.SetAuditHead(ctx, l.cfg.Key.ID(), l.head); err != nil {
		l.pause = time.Now().Add(headPause)
		l.cfg.Logger.Error("the head of the audit log could not be saved; it will be tried again", "seq", l.head.Seq, "cause", err)
		return
	}
	l.saved = l.head
}

// Run writes folded denials and the counts of predictions once per fold window,
// and a last time when ctx ends. It signs heads and rotates when it is time,
// and sees to it that nobody else changed the file.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(l.cfg.FoldWindow)
	defer tick.Stop()
	look := time.NewTicker(watch)
	defer look.Stop()
	for {
		select {
		case <-tick.C:
		case <-look.C:
			l.look()
			continue
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
	select { // nothing to write, but a head may be due, or the file be old
	case l.commit <- struct{}{}:
		defer func() { <-l.commit }()
		if l.unsigned > 0 && l.headDue(l.cfg.Now()) {
			if err := l.writeEntries(nil, true); err != nil {
				return err
			}
		}
		l.rotateIfDue()
		l.saveHead()
	case <-ctx.Done():
	}
	return nil
}

// look sees whether the file is intact, unless it is being written anyway.
func (l *Log) look() {
	select {
	case l.commit <- struct{}{}:
		if !l.torn {
			_ = l.intact(true) // says so in the log and the metrics
		}
		<-l.commit
	default:
	}
}

// Close writes what is folded or tallied, signs the head and closes the file.
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
	if l.cfg.Key != nil && l.unsigned > 0 {
		err = errors.Join(err, l.writeEntries(nil, true))
	}
	l.pause = time.Time{}
	l.saveHead()
	return errors.Join(err, l.file.Close())
}
