//go:build linux && (amd64 || arm64)

package worker

import (
	"os"
	"testing"

	"modelgate/inference"
	"modelgate/inference/inferencetest"
	"modelgate/inference/ort"
)

func openORT(path string, cfg EngineConfig) (Runtime, error) {
	return ort.Open(path, ort.Config{Memory: cfg.Memory, MaxMemory: cfg.MaxMemory, Loading: cfg.Loading})
}

const testdata = "../../testdata"

func library(t testing.TB) string {
	t.Helper()
	path, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB"))
	if err != nil {
		t.Skipf("ONNX Runtime is needed (make test fetches it): %v", err)
	}
	return path
}

func TestContract(t *testing.T) {
	inferencetest.RunTests(t, testdata, func(t *testing.T, mem *inference.Memory) inference.Engine {
		e, err := Open(t.Context(), Config{Library: library(t), Memory: mem, MaxMemory: 1 << 30, Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		return e
	})
}
