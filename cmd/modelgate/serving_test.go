package main

import (
	"strings"
	"testing"

	"modelgate/client"
)

// TestBatchingAdvice: a push says in every case how it stands with shared
// runs, and what to do about it.
func TestBatchingAdvice(t *testing.T) {
	for _, c := range []struct {
		b    client.Batching
		want []string
	}{
		{client.Batching{Reason: `its operator "ReduceMax"`}, []string{"can't share", `"ReduceMax"`}},
		{client.Batching{Possible: true}, []string{"could share", "not measured", "try it", "--max-batch 32"}},
		{client.Batching{Possible: true, Gain: 1.1}, []string{"could share", "1.1 times", "That is little", "modelgate bench"}},
		{client.Batching{Possible: true, Gain: 4}, []string{"could share", "4.0 times", "--max-batch 32"}},
		{client.Batching{Possible: true, Active: true}, []string{"that wait share", "not measured"}},
		{client.Batching{Possible: true, Active: true, Gain: 1}, []string{"that wait share", "1.0 times", "--max-batch 0"}},
		{client.Batching{Possible: true, Active: true, Gain: 4}, []string{"that wait share", "4.0 times"}},
	} {
		got := batchingAdvice("m", &c.b)
		for _, want := range c.want {
			if !strings.Contains(got, want) || strings.Contains(got, "\n") {
				t.Errorf("%+v: %q does not say %q in one line", c.b, got, want)
			}
		}
	}
	if got := batchingAdvice("m", nil); got != "" {
		t.Errorf("of what was not looked at it says %q", got)
	}
}
