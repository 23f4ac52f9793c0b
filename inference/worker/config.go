package worker

import (
	"log/slog"
	"time"

	"modelgate/inference"
)

// Config of an Engine.
type Config struct {
	// Library is the path of ONNX Runtime.
	Library string
	// Memory gives the outputs their room, and bounds the inputs as well.
	Memory *inference.Memory
	// MaxMemory bounds the bytes that one model takes for weights and while it
	// computes.
	MaxMemory int64
	// Threads is how many runs of one model go on at once.
	Threads int
	// Grace is how long a run that was told to end may go on before its worker
	// is killed; 0: 2 s.
	Grace time.Duration
	// Logger is the protected log, for what workers write. nil: none.
	Logger *slog.Logger
}

// OpenEngine opens the engine that a worker runs its model by, and tells its
// runtime's version. path is where the runtime's library lies, as the worker may
// open it.
type OpenEngine func(path string, cfg EngineConfig) (engine inference.Engine, version string, err error)

// EngineConfig is what OpenEngine is told.
type EngineConfig struct {
	Memory    *inference.Memory // for outputs
	MaxMemory int64             // bytes for weights and computing
	// Loading is called first on the goroutine of each load, which must end with
	// the load: it makes the goroutine's thread yield to others.
	Loading func()
}
