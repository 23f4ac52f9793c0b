package models

import (
	"context"
	"io"
	"log/slog"
	"time"

	"modelgate/auth"
)

// Config wires a Catalog.
type Config struct {
	Store  Store
	Files  *Files
	Guard  *auth.Guard
	Limits Limits
	Now    func() time.Time
	Logger *slog.Logger
}

// Catalog is the room's one door.
type Catalog struct{ cfg Config }

// New fills the memory of the catalogue.
func New(ctx context.Context, cfg Config) (*Catalog, error) { return &Catalog{cfg: cfg}, nil }

// Retired sets the listener.
func (c *Catalog) Retired(f func(versionID string)) {}

// Open decides.
func (c *Catalog) Open(ctx context.Context, who auth.Principal, ref Ref) (Access, error) {
	return Access{}, ErrUnavailable
}

// Describe is Open for metadata.
func (c *Catalog) Describe(ctx context.Context, who auth.Principal, name string) (Access, error) {
	return Access{}, ErrUnavailable
}

// List pages.
func (c *Catalog) List(ctx context.Context, who auth.Principal, after string, limit int) (items []Access, next string, err error) {
	return nil, "", ErrUnavailable
}

// MayPublish asks before the body is read.
func (c *Catalog) MayPublish(ctx context.Context, who auth.Principal, name string) error {
	return ErrUnavailable
}

// Stage copies an upload.
func (c *Catalog) Stage(ctx context.Context, r io.Reader) (*Staged, error) {
	return c.cfg.Files.Stage(ctx, r)
}

// Publish stores a version.
func (c *Catalog) Publish(ctx context.Context, who auth.Principal, name string, file *Staged, spec Spec, try Try) (*Model, *Version, error) {
	return nil, nil, ErrUnavailable
}

// Update changes a model.
func (c *Catalog) Update(ctx context.Context, who auth.Principal, name string, p Patch) (*Model, error) {
	return nil, ErrUnavailable
}

// Delete removes a model.
func (c *Catalog) Delete(ctx context.Context, who auth.Principal, name string) error {
	return ErrUnavailable
}

// DeleteVersion removes a version.
func (c *Catalog) DeleteVersion(ctx context.Context, who auth.Principal, name string, number int) error {
	return ErrUnavailable
}

// Manages reports.
func (c *Catalog) Manages(who auth.Principal, m *Model) bool { return false }

// Read returns a file.
func (c *Catalog) Read(ctx context.Context, v *Version) ([]byte, error) { return nil, ErrUnavailable }
