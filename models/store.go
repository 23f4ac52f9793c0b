package models

import "context"

// Store keeps the catalogue's rows. All methods are safe for concurrent use,
// honour ctx and are atomic. Times are kept to the microsecond, in UTC. A
// missing row is ErrNotFound; a database that can't answer is ErrUnavailable
// with its cause. Roles that do not exist, in Roles or in the disclosure, are
// ErrInvalid, naming the role; so are a default version or an alias that names
// no version. Functions given to the methods may be called more than once and
// must have no effect of their own; they may write into the model they are
// given. An error they return is returned unchanged and nothing is written.
type Store interface {
	// Models returns every model with its versions, for the memory of Catalog,
	// by name.
	Models(ctx context.Context) ([]*Model, error)
	// Model returns one of them.
	Model(ctx context.Context, name string) (*Model, error)
	// AddVersion stores v as the next version of m.Name. When no such model
	// exists, m is created (its ID, owner, roles, ... as given) with v as
	// version 1 and default; else of m only the name counts, and f, called
	// with the model as it is, may refuse or change it (the default version,
	// for instance). Returns the model with all versions. An owner that does
	// not exist is ErrInvalid, an id in use ErrConflict.
	AddVersion(ctx context.Context, m *Model, v *Version, f func(old *Model, number int) (*Model, error)) (*Model, error)
	// UpdateModel replaces description, roles, disclosure, serving, default
	// version, aliases and UpdatedAt by those of the model that f returns; so
	// do AddVersion and DeleteVersion.
	UpdateModel(ctx context.Context, name string, f func(old *Model) (*Model, error)) (*Model, error)
	// SetState changes state and reason of a version.
	SetState(ctx context.Context, name string, number int, s State, reason string) (*Model, error)
	// DeleteModel removes the model and its versions.
	DeleteModel(ctx context.Context, name string) error
	// DeleteVersion removes one version when f, called with the model as it
	// would be without it (no default if it was that, no aliases of it),
	// agrees; f may choose another default.
	DeleteVersion(ctx context.Context, name string, number int, f func(rest *Model) (*Model, error)) (*Model, error)
}
