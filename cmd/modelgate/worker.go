package main

import (
	"modelgate/inference"
	"modelgate/inference/ort"
	"modelgate/inference/worker"
)

// workerCommand is the hidden command by which the server starts itself again
// for each loaded model. It takes no flags and reads no settings, and nothing
// of the command line runs before it.
const workerCommand = "worker"

// runWorker is a model's process; it returns its exit code.
func runWorker(args []string) int {
	return worker.Child(args, func(path string, cfg worker.EngineConfig) (inference.Engine, string, error) {
		engine, err := ort.Open(path, ort.Config{Memory: cfg.Memory, MaxMemory: cfg.MaxMemory, Loading: cfg.Loading})
		if err != nil {
			return nil, "", err
		}
		return engine, engine.Version(), nil
	})
}
