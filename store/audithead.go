package store

import (
	"context"

	"modelgate/audit"
)

// AuditHeads implements audit.Heads.
func (db *DB) AuditHeads(ctx context.Context) (map[string]audit.Head, error) {
	heads := map[string]audit.Head{}
	err := db.read(ctx, func(t *tx) error {
		clear(heads)
		return t.rows(func(s scan) error {
			var log string
			var h audit.Head
			err := s(&log, &h.Seq, &h.Hash)
			heads[log] = h
			return err
		}, `SELECT log, seq, hash FROM audit_heads`)
	})
	return heads, err
}

// SetAuditHead implements audit.Heads.
func (db *DB) SetAuditHead(ctx context.Context, log string, h audit.Head) error {
	return db.write(ctx, func(t *tx) error {
		_, err := t.exec(`
			INSERT INTO audit_heads (log, seq, hash) VALUES (?, ?, ?)
			ON CONFLICT (log) DO UPDATE SET seq = excluded.seq, hash = excluded.hash WHERE excluded.seq > audit_heads.seq`,
			log, h.Seq, h.Hash)
		return err
	})
}

// ClaimAuditHead implements audit.Heads.
func (db *DB) ClaimAuditHead(ctx context.Context, log string) error {
	return db.write(ctx, func(t *tx) error {
		_, err := t.exec(`
			UPDATE audit_heads SET log = ? WHERE log = '' AND NOT EXISTS (SELECT 1 FROM audit_heads WHERE log = ?)`, log, log)
		return err
	})
}
