//go:build !linux || !(amd64 || arm64)

package worker

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/inference"
)

var errPlatform = errors.New("the sandbox for models needs Linux on amd64 or arm64; --isolation=none runs models inside the server, unprotected")

// Engine does not exist on this platform.
type Engine struct{ inference.Engine }

// Open fails.
func Open(context.Context, Config) (*Engine, error) { return nil, errPlatform }

// Version of the runtime.
func (*Engine) Version() string { return "" }

// Protections is what holds of every worker.
func (*Engine) Protections() Protections { return Protections{} }

// Collectors are the room's metrics.
func (*Engine) Collectors() []prometheus.Collector { return Unsandboxed() }

// Child fails.
func Child([]string, OpenEngine) int {
	fmt.Fprintln(os.Stderr, "worker:", errPlatform)
	return 1
}
