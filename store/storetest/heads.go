package storetest

import (
	"fmt"
	"maps"
	"testing"

	"modelgate/audit"
)

var headTests = []test{
	{"AuditHeads", testAuditHeads},
	{"AuditHeadClaim", testAuditHeadClaim},
	{"AuditHeadRace", testAuditHeadRace},
}

func checkHeads(t *testing.T, s Store, want map[string]audit.Head) {
	t.Helper()
	got, err := s.AuditHeads(t.Context())
	ok(t, err)
	if !maps.Equal(got, want) {
		t.Fatalf("heads %v, want %v", got, want)
	}
}

func testAuditHeads(t *testing.T, s Store) {
	ctx := t.Context()
	checkHeads(t, s, map[string]audit.Head{})
	ok(t, s.SetAuditHead(ctx, "a", audit.Head{}))
	checkHeads(t, s, map[string]audit.Head{"a": {}})
	five := audit.Head{Seq: 5, Hash: "five"}
	ok(t, s.SetAuditHead(ctx, "a", five))
	for _, seq := range []uint64{0, 4, 5} { // lower or equal: ignored
		ok(t, s.SetAuditHead(ctx, "a", audit.Head{Seq: seq, Hash: "other"}))
		checkHeads(t, s, map[string]audit.Head{"a": five})
	}
	far := audit.Head{Seq: 1 << 62, Hash: "far"}
	ok(t, s.SetAuditHead(ctx, "b", far)) // another log
	checkHeads(t, s, map[string]audit.Head{"a": five, "b": far})
}

func testAuditHeadClaim(t *testing.T, s Store) {
	ctx := t.Context()
	ok(t, s.ClaimAuditHead(ctx, "none")) // there is nothing to claim
	checkHeads(t, s, map[string]audit.Head{})
	old := audit.Head{Seq: 5, Hash: "five"}
	ok(t, s.SetAuditHead(ctx, "", old))
	ok(t, s.SetAuditHead(ctx, "has", audit.Head{Seq: 7, Hash: "seven"}))
	ok(t, s.ClaimAuditHead(ctx, "has")) // has one
	checkHeads(t, s, map[string]audit.Head{"": old, "has": {Seq: 7, Hash: "seven"}})
	errs := race(20, func(i int) error { return s.ClaimAuditHead(ctx, fmt.Sprint("log", i)) })
	equal(t, "claims", count(errs, nil), 20)
	got, err := s.AuditHeads(ctx)
	ok(t, err)
	delete(got, "has")
	equal(t, "claimed", len(got), 1)
	for log, h := range got {
		if log == "" || h != old {
			t.Fatalf("%q has %v", log, h)
		}
	}
}

func testAuditHeadRace(t *testing.T, s Store) {
	ctx := t.Context()
	errs := race(50, func(i int) error {
		seq := uint64(i*7%50 + 1)
		return s.SetAuditHead(ctx, "log", audit.Head{Seq: seq, Hash: fmt.Sprint("hash", seq)})
	})
	equal(t, "set", count(errs, nil), 50)
	checkHeads(t, s, map[string]audit.Head{"log": {Seq: 50, Hash: "hash50"}})
}
