package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// causeKey marks the attribute that may hold what must not spread: the
// runtime's words, graph names, paths, digests. Rooms log it as
// logger.Error("...", "request_id", id, "cause", err).
const causeKey = "cause"

// openLogs returns the server's logger: JSON lines to w, and records that have
// a cause, with it, to the protected log as well. Lines on w never have one:
// they go to collectors that more people read than the data folder.
func openLogs(w io.Writer, level, path string) (*slog.Logger, io.Closer, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, nil, err
	}
	file, err := openRotating(path, maxProtectedLog)
	if err != nil {
		return nil, nil, fmt.Errorf("can't write to the data folder %s: %w; name one that you may write to with --data", filepath.Dir(path), pathReason(err))
	}
	h := &splitHandler{
		open:      slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l}),
		protected: slog.NewJSONHandler(file, &slog.HandlerOptions{Level: slog.LevelDebug}),
	}
	return slog.New(h), file, nil
}

// splitHandler sends each record to open without its causes, and to protected
// in full when it has one.
type splitHandler struct {
	open, protected slog.Handler
	cause           bool // an attribute given to With was a cause
}

func (h *splitHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.open.Enabled(ctx, l) || l >= slog.LevelWarn
}

func (h *splitHandler) Handle(ctx context.Context, r slog.Record) error {
	plain := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	cause := h.cause
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == causeKey {
			cause = true
		} else {
			plain.AddAttrs(a)
		}
		return true
	})
	var err error
	if cause {
		err = h.protected.Handle(ctx, r)
	}
	if h.open.Enabled(ctx, r.Level) {
		if e := h.open.Handle(ctx, plain); e != nil {
			err = e
		}
	}
	return err
}

func (h *splitHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.protected = h.protected.WithAttrs(attrs)
	plain := make([]slog.Attr, 0, len(attrs))
	for _, a := range attrs {
		if a.Key == causeKey {
			c.cause = true
		} else {
			plain = append(plain, a)
		}
	}
	c.open = h.open.WithAttrs(plain)
	return &c
}

func (h *splitHandler) WithGroup(name string) slog.Handler {
	return &splitHandler{h.open.WithGroup(name), h.protected.WithGroup(name), h.cause}
}

// maxProtectedLog is how large the protected log grows before it is moved to
// NAME.1, which it replaces: hostile requests must not fill the disk.
const maxProtectedLog = 16 << 20

// rotating is a file of bounded size, readable by its owner only.
type rotating struct {
	mu   sync.Mutex
	path string
	max  int64
	file *os.File // guarded by mu
	size int64    // guarded by mu
}

func openRotating(path string, max int64) (*rotating, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	r := &rotating{path: path, max: max}
	return r, r.open()
}

func (r *rotating) open() error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	r.file, r.size = f, info.Size()
	return nil
}

// Write implements io.Writer; slog gives it whole lines.
func (r *rotating) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return 0, os.ErrClosed
	}
	if r.size+int64(len(line)) > r.max && r.size > 0 {
		r.file.Close()
		r.file = nil
		if err := os.Rename(r.path, r.path+".1"); err != nil {
			return 0, err
		}
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(line)
	r.size += int64(n)
	return n, err
}

// Close implements io.Closer.
func (r *rotating) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}
