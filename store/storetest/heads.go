package storetest

import (
	"fmt"
	"testing"

	"modelgate/audit"
)

var headTests = []test{
	{"AuditHead", testAuditHead},
	{"AuditHeadRace", testAuditHeadRace},
}

func testAuditHead(t *testing.T, s Store) {
	ctx := t.Context()
	check := func(want audit.Head) {
		t.Helper()
		got, err := s.AuditHead(ctx)
		ok(t, err)
		equal(t, "head", got, want)
	}
	check(audit.Head{})
	ok(t, s.SetAuditHead(ctx, audit.Head{Seq: 5, Hash: "five"}))
	check(audit.Head{Seq: 5, Hash: "five"})
	for _, seq := range []uint64{0, 4, 5} { // lower or equal: ignored
		ok(t, s.SetAuditHead(ctx, audit.Head{Seq: seq, Hash: "other"}))
		check(audit.Head{Seq: 5, Hash: "five"})
	}
	ok(t, s.SetAuditHead(ctx, audit.Head{Seq: 1 << 62, Hash: "far"}))
	check(audit.Head{Seq: 1 << 62, Hash: "far"})
}

func testAuditHeadRace(t *testing.T, s Store) {
	ctx := t.Context()
	errs := race(50, func(i int) error {
		seq := uint64(i*7%50 + 1)
		return s.SetAuditHead(ctx, audit.Head{Seq: seq, Hash: fmt.Sprint("hash", seq)})
	})
	equal(t, "set", count(errs, nil), 50)
	got, err := s.AuditHead(ctx)
	ok(t, err)
	equal(t, "head", got, audit.Head{Seq: 50, Hash: "hash50"})
}
