package store

import (
	"context"

	"modelgate/audit"
)

// AuditHead implements audit.Heads.
func (db *DB) AuditHead(ctx context.Context) (audit.Head, error) {
	var h audit.Head
	err := db.read(ctx, func(t *tx) error {
		return t.row(func(s scan) error { return s(&h.Seq, &h.Hash) }, `SELECT seq, hash FROM audit_head WHERE id = 1`)
	})
	if err == errAbsent {
		err = nil
	}
	return h, err
}

// SetAuditHead implements audit.Heads.
func (db *DB) SetAuditHead(ctx context.Context, h audit.Head) error {
	return db.write(ctx, func(t *tx) error {
		_, err := t.exec(`
			INSERT INTO audit_head (id, seq, hash) VALUES (1, ?, ?)
			ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, hash = excluded.hash WHERE excluded.seq > audit_head.seq`,
			h.Seq, h.Hash)
		return err
	})
}
