package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"modelgate/audit"
	"modelgate/auth"
)

// auditLog pages through the audit log, newest first. The cursor is the
// number of the last record shown.
func (s *Server) auditLog(c *call) (page[auditEntry], error) {
	after, limit, err := c.pageQuery()
	if err != nil {
		return page[auditEntry]{}, err
	}
	values := c.gin.Request.URL.Query()
	q := audit.Query{Limit: limit, Actor: strings.ToLower(values.Get("actor")), Action: values.Get("action")}
	if after != "" {
		if q.Before, err = strconv.ParseUint(after, 10, 64); err != nil || q.Before == 0 {
			return page[auditEntry]{}, invalid("after must be the next of the page before")
		}
	}
	p, err := s.audit.Read(c.ctx(), q)
	if err != nil {
		return page[auditEntry]{}, auth.ErrUnavailable.Because(err) // the disk, or a file that somebody took away
	}
	next := ""
	if p.Next != 0 {
		next = strconv.FormatUint(p.Next, 10)
	}
	return pageOf(p.Items, next, auditEntryOf), nil
}

// exportAudit sends the records of a time as they stand in the log, the oldest
// first. Who takes all of it is recorded, unlike who reads a page.
func (s *Server) exportAudit(c *call) error {
	if _, _, err := c.pageQuery(); err != nil { // for names given twice
		return err
	}
	var r audit.Range
	values := c.gin.Request.URL.Query()
	detail := map[string]string{}
	for name, to := range map[string]*time.Time{"since": &r.Since, "until": &r.Until} {
		if !values.Has(name) {
			continue
		}
		t, err := time.Parse(time.RFC3339, values.Get(name))
		if err != nil {
			return invalid(name + " must be a time as in 2026-03-01T12:00:00Z")
		}
		*to, detail[name] = t, t.UTC().Format(time.RFC3339)
	}
	if err := s.guard.Allow(c.ctx(), c.who, auth.AuditRead, auth.Action{Name: "audit.export", Detail: detail}); err != nil {
		return err
	}
	out := lineStream{c: c}
	if _, err := s.audit.Export(c.ctx(), r, &out); err != nil {
		if !out.started {
			return auth.ErrUnavailable.Because(err)
		}
		c.err = err
		panic(http.ErrAbortHandler) // half of it is on its way: only a cut tells the client so
	}
	return out.end()
}

// typeLines is one JSON value a line.
var typeLines = []string{"application/x-ndjson"}

// lineStream is an answer of unknown length, sent a block at a time. Each block
// has its own time to be taken.
type lineStream struct {
	c       *call
	block   []byte
	started bool
}

const streamBlock = 64 << 10

func (l *lineStream) Write(line []byte) (int, error) {
	l.block = append(l.block, line...)
	if len(l.block) < streamBlock {
		return len(line), nil
	}
	return len(line), l.send()
}

func (l *lineStream) send() error {
	c := l.c
	if !l.started {
		l.started = true
		c.status = c.rt.status
		c.gin.Writer.Header()["Content-Type"] = typeLines
		c.sendHeaders()
		c.gin.Writer.WriteHeader(c.status)
	}
	c.writeUntil(time.Now().Add(c.s.writeGrace + time.Duration(len(l.block))*time.Second/slowestRead))
	_, err := c.gin.Writer.Write(l.block)
	l.block = l.block[:0]
	return err
}

func (l *lineStream) end() error {
	if !l.started { // all of it is small
		l.c.write(l.c.rt.status, typeLines, l.block)
		return nil
	}
	if err := l.send(); err != nil {
		l.c.err = err
		panic(http.ErrAbortHandler)
	}
	return nil
}
