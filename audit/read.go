package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// Read returns a page of records, newest first, from the current file and the
// closed ones that are there and not compressed. It reads blocks from the end,
// or from q.Before found by bisection, until the page is full; a rare actor or
// action may take it to the beginning of the log, so give ctx a deadline. It
// keeps no index. Folded denials and counts of predictions appear when their
// window ends.
func (l *Log) Read(ctx context.Context, q Query) (Page, error) {
	limit := q.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	r := pageReader{l: l, q: q, limit: min(limit, maxLimit), actor: fragment("actor", q.Actor), action: fragment("action", q.Action)}
	file, size, err := l.snapshot()
	if err != nil {
		return Page{}, err
	}
	defer file.Close()
	if err := r.read(ctx, file, size); err != nil || r.full {
		return r.page, err
	}
	closed, err := pieces(l.cfg.Path)
	if err != nil {
		return Page{}, err
	}
	for i := len(closed) - 1; i >= 0 && !r.full; i-- {
		p := closed[i]
		if r.oldest > 0 && p.first >= r.oldest || q.Before > 0 && p.first >= q.Before {
			continue // closed since the snapshot was taken, or newer than what is asked for
		}
		if p.gzip {
			break
		}
		if err := r.piece(ctx, p); errors.Is(err, os.ErrNotExist) {
			break // deleted or compressed meanwhile
		} else if err != nil {
			return Page{}, err
		}
	}
	return r.page, nil
}

// snapshot opens the current file and says how far it is written.
func (l *Log) snapshot() (*os.File, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.Open(l.cfg.Path)
	if err != nil {
		return nil, 0, fmt.Errorf("audit: read the log: %w", err)
	}
	return f, l.size.Load(), nil
}

// pageReader fills a page from one file after another.
type pageReader struct {
	l             *Log
	q             Query
	limit         int
	actor, action []byte
	page          Page
	oldest        uint64 // the first record of the current file
	full          bool
}

func (r *pageReader) piece(ctx context.Context, p piece) error {
	f, err := os.Open(p.path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("audit: read the log: %w", err)
	}
	return r.read(ctx, f, info.Size())
}

// read goes backwards through f[:end].
func (r *pageReader) read(ctx context.Context, f io.ReaderAt, end int64) error {
	q := r.q
	if r.oldest == 0 {
		var head [40]byte
		if n, _ := f.ReadAt(head[:], 0); n > 0 {
			r.oldest, _ = seqOf(head[:n])
		}
	}
	if q.Before > 0 {
		var err error
		if end, err = endBefore(f, end, q.Before); err != nil {
			return err
		}
	}
	return backwards(f, end, func(line []byte, _ int64) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if !bytes.Contains(line, r.actor) || !bytes.Contains(line, r.action) {
			return true, nil
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			// Verify tells where; the rest of the log stays readable.
			r.l.cfg.Logger.Error("a record of the audit log can't be read; see \"modelgate audit verify\"", "cause", errRecord)
			return true, nil
		}
		if q.Before > 0 && e.Seq >= q.Before || q.Actor != "" && e.Actor != q.Actor || q.Action != "" && e.Action != q.Action {
			return true, nil
		}
		if len(r.page.Items) == r.limit {
			r.page.Next = r.page.Items[r.limit-1].Seq
			r.full = true
			return false, nil
		}
		r.page.Items = append(r.page.Items, e)
		return true, nil
	})
}

// fragment is how a field with that value stands in a line: a cheap test
// before the line is decoded. The empty value is in every line.
func fragment(field, value string) []byte {
	if value == "" {
		return nil
	}
	b, err := json.Marshal(value)
	if err != nil {
		return nil
	}
	return append([]byte(`"`+field+`":`), b...)
}

// endBefore finds an offset at which a line ends such that every record before
// seq lies before it, and few others.
func endBefore(r io.ReaderAt, size int64, seq uint64) (int64, error) {
	// A line that begins at or after lo is before seq, unless hi is reached.
	lo, hi := int64(0), size
	for hi-lo > readBlock {
		mid := lo + (hi-lo)/2
		start, at, err := lineAfter(r, mid, hi)
		if err != nil {
			return 0, err
		}
		if start < hi && at < seq {
			lo = start
		} else {
			hi = mid
		}
	}
	// hi may be inside a line; the line it is in must be read whole.
	return lineEnd(r, hi, size)
}

// lineAfter finds the first line that begins after off, and its sequence
// number; start is limit if there is none before limit.
func lineAfter(r io.ReaderAt, off, limit int64) (start int64, seq uint64, err error) {
	for {
		start, err = lineEnd(r, off, limit)
		if err != nil || start >= limit {
			return limit, 0, err
		}
		var head [40]byte
		n, err := r.ReadAt(head[:], start)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, fmt.Errorf("audit: read the log: %w", err)
		}
		if seq, ok := seqOf(head[:n]); ok {
			return start, seq, nil
		}
		off = start + 1 // not a record: someone changed the file; go on
	}
}

// lineEnd returns the offset after the first newline at or after off-1, at most
// limit.
func lineEnd(r io.ReaderAt, off, limit int64) (int64, error) {
	if off == 0 {
		return 0, nil
	}
	buf := make([]byte, 4<<10)
	for off--; off < limit; off += int64(len(buf)) {
		n, err := r.ReadAt(buf[:min(int64(len(buf)), limit-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("audit: read the log: %w", err)
		}
		if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
			return off + int64(i) + 1, nil
		}
	}
	return limit, nil
}
