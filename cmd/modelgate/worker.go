package main

import (
	"modelgate/inference/ort"
	"modelgate/inference/worker"
)

// workerCommand is the hidden command by which the server starts itself again
// for each loaded model. It takes no flags and reads no settings, and nothing
// of the command line runs before it.
const workerCommand = "worker"

// runWorker is a model's process; it returns its exit code.
func runWorker(args []string) int {
	return worker.Child(args, func(path string, cfg worker.EngineConfig) (worker.Runtime, error) {
		return ort.Open(path, ort.Config{Memory: cfg.Memory, MaxMemory: cfg.MaxMemory, Loading: cfg.Loading})
	})
}
