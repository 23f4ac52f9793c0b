package models

import (
	"fmt"
	"io"
	"sync"

	"modelgate/auth"
)

// ErrQuota refuses a file for which its owner has no room left.
var ErrQuota = &Error{Code: "quota_exceeded", Detail: "the owner's models would take more room than this server keeps for one owner; delete versions that nobody needs, or ask its operator"}

// quota bounds the bytes of files that belong to one owner: what is stored, each
// version with its whole size, and what is on its way.
type quota struct {
	limit int64 // 0: none

	mu     sync.Mutex
	coming map[string]int64 // by user id, what Metered has read; guarded by mu
}

// owes returns the user who answers for what who publishes under the name: the
// model's owner, or who makes it. "" stands for nobody: holders of
// models:manage have no quota, and neither has a model whose owner was deleted.
func (c *Catalog) owes(who *auth.Principal, name string) string {
	switch m := c.snapshot().byName[name]; {
	case c.quota.limit == 0 || who.Can(auth.ModelsManage):
		return ""
	case m != nil:
		return m.OwnerID
	}
	return who.UserID
}

// stored counts the bytes of an owner's versions.
func (c *Catalog) stored(owner string) (n int64) {
	for _, m := range c.snapshot().sorted {
		if m.OwnerID == owner {
			for _, v := range m.Versions {
				n += v.Size
			}
		}
	}
	return n
}

// room fails when size more bytes are not within the quota of who answers for
// the name.
func (c *Catalog) room(who *auth.Principal, name string, size int64) error {
	owner := c.owes(who, name)
	if owner == "" || c.stored(owner)+size <= c.quota.limit {
		return nil
	}
	return c.errQuota()
}

func (c *Catalog) errQuota() error {
	return ErrQuota.With(fmt.Sprintf("the owner's models would take more than the %s that this server keeps for one owner; delete versions that nobody needs, or ask its operator", bytesText(c.quota.limit)))
}

// Metered returns a reader of an upload to the name that fails with ErrQuota as
// soon as it gave more than its owner has room for, all uploads on their way
// counted, so that many at once can't fill the disk either. done must be called
// when the upload is published or discarded.
func (c *Catalog) Metered(who auth.Principal, name string, r io.Reader) (metered io.Reader, done func()) {
	owner := c.owes(&who, name)
	if owner == "" {
		return r, func() {}
	}
	m := &meter{c: c, r: r, owner: owner, stored: c.stored(owner)}
	return m, m.done
}

type meter struct {
	c      *Catalog
	r      io.Reader
	owner  string
	stored int64
	given  int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	q := &m.c.quota
	q.mu.Lock()
	defer q.mu.Unlock()
	m.given += int64(n)
	q.coming[m.owner] += int64(n)
	if q.coming[m.owner] > q.limit-m.stored {
		return n, m.c.errQuota()
	}
	return n, err
}

func (m *meter) done() {
	q := &m.c.quota
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.coming[m.owner] -= m.given; q.coming[m.owner] == 0 {
		delete(q.coming, m.owner)
	}
	m.given = 0
}
