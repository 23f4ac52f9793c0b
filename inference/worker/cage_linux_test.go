//go:build amd64 || arm64

package worker

import (
	"fmt"
	"os"
	"testing"
)

// TestMain makes the test binary a worker when a cage of it starts one.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "worker" {
		child()
	}
	os.Exit(m.Run())
}

func child() {
	in, err := enter(os.Args[2:])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_ = in
	os.Exit(3)
}

func TestProbe(t *testing.T) {
	c, err := newCage(t.Context(), cageConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	t.Logf("%+v", c.protections())
	t.Log(c.refusals())
	t.Log(c.protections().Missing())
}
