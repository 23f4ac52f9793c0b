// Package models is the catalogue of machine-learning models: what is
// published, who may call it and what they may see of it.
//
// It must not run a model or know HTTP or SQL: inference runs, api speaks,
// store remembers. Every access to a model goes through Catalog, which
// decides and audits in one place.
package models

import (
	"slices"
	"time"
)

// State of a version.
type State string

const (
	Ready       State = "ready"
	Quarantined State = "quarantined" // its blob is missing or changed, or it keeps crashing
)

// Rule is what a caller may see of the outputs. The zero Rule shows all.
type Rule struct {
	Outputs   []string `json:"outputs,omitempty"`    // public names; nil: all
	TopK      int      `json:"top_k,omitempty"`      // 0: all; else the rest of the last axis is zeroed
	Decimals  *int     `json:"decimals,omitempty"`   // nil: as computed; else rounded half to even
	LabelOnly bool     `json:"label_only,omitempty"` // floats become the INT64 argmax over the last axis
	DailyRows int64    `json:"daily_rows,omitempty"` // budget of rows of this model per user and day; 0: none
}

// Disclosure is the policy of a model: a Rule for all, replaced for holders of
// the roles named. DailyRows of the Rule for all is not replaced: the smallest
// of it and of those under the caller's roles holds.
type Disclosure struct {
	Rule
	Roles map[string]Rule `json:"roles,omitempty"`
}

// Serving tunes how a model is run.
type Serving struct {
	TimeoutMS int `json:"timeout_ms,omitempty"` // of one run; 0: the server's; never above it
	MaxBatch  int `json:"max_batch,omitempty"`  // rows of several requests in one run; 0: every request runs by itself
	Instances int `json:"instances,omitempty"`  // runs at once; 0: as many as the server runs at all, which is also the most
	Queue     int `json:"queue,omitempty"`      // predictions that may wait; 0: the server's; never above it
	// Pinned keeps the default version loaded, at the cost of memory for others.
	Pinned bool `json:"pinned,omitempty"`
}

// Model is a published name. Values handed out by Catalog are immutable.
type Model struct {
	ID             string
	Name           string
	Description    string
	OwnerID        string   // empty when the owner was deleted
	Roles          []string // sorted; nobody else may call, but owner and models:manage
	Disclosure     Disclosure
	Serving        Serving
	DefaultVersion int // 0: none left
	Aliases        map[string]int
	NextVersion    int // numbers are never used twice
	CreatedAt      time.Time
	UpdatedAt      time.Time
	Versions       []*Version // by number
}

// Version returns the version with that number, or nil.
func (m *Model) Version(number int) *Version {
	i, found := slices.BinarySearchFunc(m.Versions, number, func(v *Version, number int) int { return v.Number - number })
	if !found {
		return nil
	}
	return m.Versions[i]
}

// Facts are what the static check found, for those who manage models.
type Facts struct {
	Opset      int64    `json:"opset"`
	Operators  []string `json:"operators"` // distinct, sorted, standard names only
	Nodes      int      `json:"nodes"`
	Parameters int64    `json:"parameters"`
	Trial      string   `json:"trial"` // "ran", or "inconclusive": zeros were no valid input
	// SignedBy is the fingerprint of the key that signed the upload; empty: none was
	// asked for.
	SignedBy string `json:"signed_by,omitempty"`
	// Batching is nil for versions published before it was looked at.
	Batching *Batching `json:"batching,omitempty"`
}

// Batching says whether requests may share runs of a version, for those who
// manage the model. Whether they do is looked at anew each time it is loaded.
type Batching struct {
	Possible bool    `json:"possible"`
	Reason   string  `json:"reason,omitempty"` // what stands against it
	Gain     float64 `json:"gain,omitempty"`   // see Trial; 0: not measured
}

// Batches reports whether requests share runs of this version, as the model is
// served.
func (m *Model) Batches(v *Version) bool {
	return m.Serving.MaxBatch > 1 && v.Facts.Batching != nil && v.Facts.Batching.Possible
}

// Version is one file of a model. Immutable.
type Version struct {
	ID        string
	Model     string // name
	Number    int
	Digest    string // lower-case hex SHA-256 of the file
	Size      int64
	State     State
	Reason    string // why it is quarantined, for those who manage models
	Signature Signature
	Facts     Facts
	CreatedBy string // user id
	CreatedAt time.Time
}

// Ref names a model and, at most one of both, a version or alias.
type Ref struct {
	Model   string
	Version int // 0: the default
	Alias   string
}

// Access is what Catalog.Open grants: one version, and what this caller may
// see of it.
type Access struct {
	Model   *Model
	Version *Version
	Rule    Rule // the strictest of what applies to the caller
}
