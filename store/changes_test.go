package store

import (
	"testing"

	"modelgate/auth"
)

// Sweep keeps the newest changes. Who comes back after more than these is told that he missed some, and so is who would get
// a very long list.
func TestOldChangesAreSwept(t *testing.T) {
	db := open(t)
	ctx := t.Context()
	insert := func(n int) {
		t.Helper()
		_, err := db.writer.ExecContext(ctx, `
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			INSERT INTO changes (kind, subject) SELECT 'user', 'u' FROM n`, n)
		if err != nil {
			t.Fatal(err)
		}
	}
	ask := func(mark int64) auth.Changes {
		t.Helper()
		got, err := db.Changes(ctx, mark)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	start := ask(-1).Mark
	insert(mostChanges)
	if got := ask(start); got.All || len(got.List) != 1 {
		t.Errorf("%d changes: %+v", mostChanges, got)
	}
	insert(1)
	if got := ask(start); !got.All {
		t.Errorf("one more: %+v", got)
	}
	insert(keptChanges + 5)
	last := ask(-1).Mark
	if err := db.Sweep(ctx, frozenTime); err != nil {
		t.Fatal(err)
	}
	if n := column(t, db, `SELECT count(*) FROM changes`); n[0] != "10000" {
		t.Errorf("%s changes are left", n[0])
	}
	if got := ask(last - 5); got.All || len(got.List) != 1 || got.Mark != last {
		t.Errorf("after the sweep: %+v", got)
	}
	if _, err := db.writer.ExecContext(ctx, `DELETE FROM changes`); err != nil {
		t.Fatal(err)
	}
	if got := ask(last); !got.All {
		t.Errorf("rows that were removed are not missed: %+v", got)
	}
	insert(1)
	if got := ask(0).Mark; got != last+1 {
		t.Errorf("the number of a change was used again: %d after %d", got, last)
	}
}
