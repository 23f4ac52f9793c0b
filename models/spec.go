package models

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds that keep a model's rows small.
const (
	maxVersions    = 1000
	maxRoles       = 64
	maxAliases     = 64
	maxDescription = 1024 // bytes
	maxTimeoutMS   = 3_600_000
	maxBatchRows   = 4096
	maxInstances   = 1024
	maxQueue       = 100_000
)

// Spec is the optional part of an upload. Roles nil keeps those of an existing
// model and opens a new one to nobody; the same holds for the other fields.
type Spec struct {
	Description *string     `json:"description,omitempty"`
	Roles       []string    `json:"roles,omitempty"`
	Inputs      []string    `json:"inputs,omitempty"`  // public names by position; "" keeps the derived one
	Outputs     []string    `json:"outputs,omitempty"` // likewise
	Disclosure  *Disclosure `json:"disclosure,omitempty"`
	Serving     *Serving    `json:"serving,omitempty"`
	Default     bool        `json:"default,omitempty"` // make this version the default
	Signature   []byte      `json:"-"`                 // of UploadMessage, where the catalogue has keys
	// Builtin marks what the server itself publishes of what it was built with.
	// Nobody signs that; it is part of a program that its operator trusts.
	Builtin bool `json:"-"`
}

// patch is what a spec changes of the model.
func (s *Spec) patch() Patch {
	p := Patch{Description: s.Description, Disclosure: s.Disclosure, Serving: s.Serving}
	if s.Roles != nil {
		p.Roles = &s.Roles
	}
	return p
}

// Trial is what a trial load found: the graph as the runtime sees it, and how
// a run with zeros ended ("ran", or "inconclusive" when zeros were no valid
// input). Gain is how many times as many predictions a second there would be when
// several share a run; 0 when that was not measured.
type Trial struct {
	Graph   Graph
	Outcome string
	Gain    float64
}

// Try loads a checked file and runs it once. It fails with *Rejected when the
// runtime refuses; other errors say nothing about the file.
type Try func(ctx context.Context, file []byte) (Trial, error)

// Patch changes a model; nil fields stay. Roles and Aliases are replaced as a
// whole, so is Disclosure.
type Patch struct {
	Description    *string         `json:"description,omitempty"`
	Roles          *[]string       `json:"roles,omitempty"`
	Disclosure     *Disclosure     `json:"disclosure,omitempty"`
	Serving        *Serving        `json:"serving,omitempty"`
	DefaultVersion *int            `json:"default_version,omitempty"`
	Aliases        *map[string]int `json:"aliases,omitempty"`
}

// check refuses what can't be right for any model.
func (p *Patch) check() error {
	if p.Description != nil {
		if err := checkDescription(*p.Description); err != nil {
			return err
		}
	}
	if p.Roles != nil {
		if len(*p.Roles) > maxRoles {
			return ErrInvalid.With(fmt.Sprintf("%d roles are too many; a model is open to at most %d", len(*p.Roles), maxRoles))
		}
		for _, role := range *p.Roles {
			if !validName(role) {
				return invalidName("role", role)
			}
		}
	}
	if p.Disclosure != nil {
		if err := p.Disclosure.check(); err != nil {
			return err
		}
	}
	if p.Serving != nil {
		if err := p.Serving.check(); err != nil {
			return err
		}
	}
	if p.Aliases != nil {
		return checkAliases(*p.Aliases)
	}
	return nil
}

// batchable fails when requests can't share runs of the default version.
func (m *Model) batchable() error {
	v := m.Version(m.DefaultVersion)
	if v == nil || v.Facts.Batching != nil && v.Facts.Batching.Possible {
		return nil
	}
	reason := "it was published before this was looked at; publish its file again"
	if v.Facts.Batching != nil {
		reason = v.Facts.Batching.Reason
	}
	return ErrInvalid.With(fmt.Sprintf("serving: max_batch can't be set, since requests can't share runs of version %d: %s", v.Number, reason))
}

func (s *Serving) check() error {
	for _, f := range []struct {
		name        string
		value, most int
		zero        string
	}{
		{"timeout_ms", s.TimeoutMS, maxTimeoutMS, "the server's own"},
		{"max_batch", s.MaxBatch, maxBatchRows, "off"},
		{"instances", s.Instances, maxInstances, "as many as the server runs at once"},
		{"queue", s.Queue, maxQueue, "the server's own"},
	} {
		if f.value < 0 || f.value > f.most {
			return ErrInvalid.With(fmt.Sprintf("serving: %s must be 0 (%s) to %d", f.name, f.zero, f.most))
		}
	}
	return nil
}

func checkDescription(s string) error {
	if len(s) > maxDescription || !utf8.ValidString(s) {
		return ErrInvalid.With(fmt.Sprintf("description must be UTF-8 text of at most %d bytes", maxDescription))
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }); i >= 0 {
		return ErrInvalid.With("description has control characters; only line feeds and tabs are kept")
	}
	return nil
}

func checkAliases(aliases map[string]int) error {
	if len(aliases) > maxAliases {
		return ErrInvalid.With(fmt.Sprintf("%d aliases are too many; a model has at most %d", len(aliases), maxAliases))
	}
	for _, alias := range slices.Sorted(maps.Keys(aliases)) {
		if !validName(alias) {
			return invalidName("alias", alias)
		}
		if strings.Trim(alias, "0123456789") == "" {
			return ErrInvalid.With(fmt.Sprintf("the alias %s could be taken for a version; begin it with a letter", alias))
		}
	}
	return nil
}

// apply returns a copy of the model with the changes made.
func (p *Patch) apply(old *Model, now time.Time) *Model {
	next := *old
	next.UpdatedAt = now
	if p.Description != nil {
		next.Description = *p.Description
	}
	if p.Roles != nil {
		next.Roles = slices.Clone(*p.Roles)
		slices.Sort(next.Roles)
		next.Roles = slices.Compact(next.Roles)
	}
	if p.Disclosure != nil {
		next.Disclosure = *p.Disclosure
	}
	if p.Serving != nil {
		next.Serving = *p.Serving
	}
	if p.DefaultVersion != nil {
		next.DefaultVersion = *p.DefaultVersion
	}
	if p.Aliases != nil {
		next.Aliases = maps.Clone(*p.Aliases)
	}
	return &next
}

// change is apply for a model that has its versions: default, aliases and
// disclosure must fit them.
func (p *Patch) change(old *Model, now time.Time) (*Model, error) {
	next := p.apply(old, now)
	if p.DefaultVersion != nil {
		v := next.Version(next.DefaultVersion)
		switch {
		case v == nil:
			return nil, ErrInvalid.With(fmt.Sprintf("default_version: the model has no version %d", *p.DefaultVersion))
		case v.State != Ready:
			return nil, ErrInvalid.With(fmt.Sprintf("default_version: version %d is out of service; publish it again", v.Number))
		}
	}
	if p.Aliases != nil {
		for _, alias := range slices.Sorted(maps.Keys(next.Aliases)) {
			if next.Version(next.Aliases[alias]) == nil {
				return nil, ErrInvalid.With(fmt.Sprintf("aliases: %s means version %d, which the model does not have", alias, next.Aliases[alias]))
			}
		}
	}
	// A change of something else must not fail on what was there before.
	if p.Serving != nil && p.Serving.MaxBatch > 1 && p.Serving.MaxBatch != old.Serving.MaxBatch {
		if err := next.batchable(); err != nil {
			return nil, err
		}
	}
	if v := next.Version(next.DefaultVersion); v != nil && (p.Disclosure != nil || p.DefaultVersion != nil) {
		if err := next.Disclosure.fits(v); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// summary tells the audit log what is set.
func (s *Serving) summary(into map[string]string) {
	for _, f := range []struct {
		name  string
		value int
	}{{"timeout_ms", s.TimeoutMS}, {"max_batch", s.MaxBatch}, {"instances", s.Instances}, {"queue", s.Queue}} {
		into[f.name] = strconv.Itoa(f.value)
	}
	into["pinned"] = strconv.FormatBool(s.Pinned)
}

// summary is the policy as JSON, for the audit log.
func (d *Disclosure) summary() string {
	text, err := json.Marshal(d)
	if err != nil {
		return "changed"
	}
	return string(text)
}
