package api

import (
	"io"
	"strconv"
	"sync"
	"time"
)

const (
	// accessPause is how long a line may wait for others.
	accessPause = 100 * time.Millisecond
	// accessMost is how many bytes may wait.
	accessMost = 32 << 10
)

// accessLog writes one JSON line for each request, in the form of slog's. Lines
// are gathered for a moment and written together: a system call for each would
// cost a tenth of a small prediction. What goes wrong is logged elsewhere, at
// once. A nil accessLog writes nothing.
type accessLog struct {
	mu    sync.Mutex
	w     io.Writer
	lines []byte // not written yet; guarded by mu
	timer *time.Timer
}

func newAccessLog(w io.Writer) *accessLog {
	if w == nil {
		return nil
	}
	l := &accessLog{w: w, lines: make([]byte, 0, accessMost+1024)}
	l.timer = time.AfterFunc(time.Hour, l.flush)
	l.timer.Stop()
	return l
}

// request writes the line of one request. All text must be plain: ids, route
// templates, standard methods. Paths, queries, credentials and bodies are never
// logged.
func (l *accessLog) request(at time.Time, id, method, route string, status int, took time.Duration, userID string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	if len(l.lines) == 0 {
		l.timer.Reset(accessPause)
	}
	b := append(l.lines, `{"time":"`...)
	b = at.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","level":"INFO","msg":"request","request_id":"`...)
	b = append(b, id...)
	b = append(b, `","method":"`...)
	b = append(b, method...)
	b = append(b, `","route":"`...)
	b = append(b, route...)
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, `,"duration":`...)
	b = strconv.AppendInt(b, int64(took), 10)
	b = append(b, `,"user_id":"`...)
	b = append(b, userID...)
	l.lines = append(b, '"', '}', '\n')
	if len(l.lines) >= accessMost {
		l.write()
	}
	l.mu.Unlock()
}

func (l *accessLog) flush() {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.write()
	l.mu.Unlock()
}

// write empties lines. A log that can't be written stops no request. The
// caller holds mu.
func (l *accessLog) write() {
	if len(l.lines) > 0 {
		_, _ = l.w.Write(l.lines)
		l.lines = l.lines[:0]
	}
}
