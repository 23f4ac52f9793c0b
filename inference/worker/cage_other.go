//go:build !linux || (!amd64 && !arm64)

package worker

import (
	"context"
	"errors"
	"os/exec"
)

var errNoCage = errors.New("models can be caged on Linux on amd64 and arm64 only; --isolation=none runs them inside the server, unprotected")

// cage is what Linux gives; see cage_linux.go.
type cage struct{}

func newCage(context.Context, cageConfig) (*cage, error) { return nil, errNoCage }

func (*cage) protections() Protections             { return Protections{} }
func (*cage) refusals() []error                    { return nil }
func (*cage) command(workerFiles, int64) *exec.Cmd { return nil }
func (*cage) start(*exec.Cmd) error                { return errNoCage }
func (*cage) close()                               {}
func enter([]string) (*inside, error)              { return nil, errNoCage }
func (*inside) shut() (Protections, error)         { return Protections{}, errNoCage }
