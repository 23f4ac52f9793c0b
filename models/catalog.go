package models

import (
	"context"

	"modelgate/auth"
)

// Catalog is what is published.
type Catalog struct{}

// Open decides whether who may call ref, and returns what he may see of it.
func (c *Catalog) Open(ctx context.Context, who auth.Principal, ref Ref) (Access, error) {
	return Access{}, ErrClosed
}

// Read returns the file of a version.
func (c *Catalog) Read(ctx context.Context, v *Version) ([]byte, error) {
	return nil, ErrUnavailable
}
