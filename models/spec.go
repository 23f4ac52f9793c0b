package models

import "context"

// Spec is the optional part of an upload.
type Spec struct {
	Description *string     `json:"description,omitempty"`
	Roles       []string    `json:"roles,omitempty"`
	Inputs      []string    `json:"inputs,omitempty"`
	Outputs     []string    `json:"outputs,omitempty"`
	Disclosure  *Disclosure `json:"disclosure,omitempty"`
	Serving     *Serving    `json:"serving,omitempty"`
	Default     bool        `json:"default,omitempty"`
}

// Trial is what a trial load found.
type Trial struct {
	Graph   Graph
	Outcome string // "ran" | "inconclusive"
}

// Try loads and runs a file once.
type Try func(ctx context.Context, file []byte) (Trial, error)

// Patch changes a model.
type Patch struct {
	Description    *string         `json:"description,omitempty"`
	Roles          *[]string       `json:"roles,omitempty"`
	Disclosure     *Disclosure     `json:"disclosure,omitempty"`
	Serving        *Serving        `json:"serving,omitempty"`
	DefaultVersion *int            `json:"default_version,omitempty"`
	Aliases        *map[string]int `json:"aliases,omitempty"`
}
