//go:build linux && (amd64 || arm64)

package worker

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain makes the test binary the worker too.
func TestMain(m *testing.M) {
	cageMain()
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		if how := lieOf(); how != "" {
			fail(lyingMain(os.Args[2:], how))
			os.Exit(0)
		}
		os.Exit(Child(os.Args[2:], openORT))
	}
	goleak.VerifyTestMain(m)
}
