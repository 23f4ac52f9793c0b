//go:build linux && (amd64 || arm64)

package worker

import (
	"os"
	"testing"
)

// TestMain makes the test binary the worker too.
func TestMain(m *testing.M) {
	cageMain()
	if len(os.Args) > 1 && os.Args[1] == "worker" { // a probe
		_, err := enter(os.Args[2:])
		fail(err)
	}
	os.Exit(m.Run())
}
