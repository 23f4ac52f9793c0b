// Package audit keeps the append-only, hash-chained record of who did what:
// administration, sign-ins and denials one record each, predictions as counts
// per user, version and minute.
//
// It must not decide anything (auth.Guard and models.Catalog decide), and it
// must never be given a secret: no password, token, key or tensor value.
package audit

import (
	"context"
	"time"
)

// Outcome says what was decided of an action.
type Outcome string

const (
	// Allowed: the action was permitted. The record is written before the
	// action takes effect, and so does not say that it did.
	Allowed Outcome = "allowed"
	// Denied: the actor was refused: he lacked the right, or a rule stood
	// against it. Nothing was done.
	Denied Outcome = "denied"
	// Failed: the actor could not prove an identity (wrong password, replayed
	// refresh token).
	Failed Outcome = "failed"
)

// Entry is one record of the log. Seq, Time, Count, Prev and Hash are set by
// Log; callers fill the rest.
type Entry struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Actor   string    `json:"actor"` // user name as claimed or proved; empty when unknown
	ActorID string    `json:"actor_id,omitempty"`
	Action  string    `json:"action"` // "user.login", "model.publish", "model.predict", ...
	Target  string    `json:"target,omitempty"`
	Outcome Outcome   `json:"outcome"`
	Reason  string    `json:"reason,omitempty"` // short stable word, e.g. "wrong_password"
	Address string    `json:"address,omitempty"`
	Request string    `json:"request_id,omitempty"`
	// Count is how many like events this record stands for: 1 unless repeated
	// denials were folded or predictions tallied.
	Count  int64             `json:"count"`
	Detail map[string]string `json:"detail,omitempty"`
	Prev   string            `json:"prev"` // hash of the record before, hex SHA-256
	Hash   string            `json:"hash"` // of this record with Hash empty, hex SHA-256
}

// Head is the end of a chain: the sequence number and hash of its last record.
// The zero Head stands for an empty log.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// Heads keeps the heads of chains somewhere else than the logs themselves, so
// that a cut tail is found. The database implements it; it is an interface
// because audit stands below store. A database that several servers share has
// the heads of all their logs, each under the id of the log.
type Heads interface {
	// AuditHeads returns the heads of all logs, by their ids.
	AuditHeads(ctx context.Context) (map[string]Head, error)
	// SetAuditHead replaces the head of a log, the first time also by the zero
	// Head. It never moves Seq backwards: a lower or equal Seq is ignored, so
	// that concurrent writers can't undo each other.
	SetAuditHead(ctx context.Context, log string, h Head) error
	// ClaimAuditHead gives the head that has no log's id, as one of an earlier
	// version, to log, unless that has a head already. Of concurrent callers
	// one gets it.
	ClaimAuditHead(ctx context.Context, log string) error
}

// Query selects records, newest first. Zero fields select everything.
type Query struct {
	Before uint64 // only records with a smaller Seq; 0: from the newest
	Limit  int    // at most this many; 0: 100, capped at 1000
	Actor  string // exact user name
	Action string // exact action
}

// Page is one answer to a Query. Next is the Before of the next page, 0 at the end.
type Page struct {
	Items []Entry
	Next  uint64
}
