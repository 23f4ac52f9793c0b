package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"modelgate/client"
)

// ServingFlags change how a model is run; what is not given stays.
type ServingFlags struct {
	MaxBatch  *int           `placeholder:"ROWS" help:"Let requests that wait share runs of up to so many rows; 0: no more."`
	Instances *int           `placeholder:"N" help:"Runs at once; 0: as many as the server runs."`
	Queue     *int           `placeholder:"N" help:"Predictions that may wait; 0: as many as the server lets wait."`
	Timeout   *time.Duration `placeholder:"DURATION" help:"Longest run, as in 500ms; 0s: the server's own."`
	Pinned    *bool          `negatable:"" help:"Keep the default version loaded; --no-pinned: no more. It takes memory from other models."`
}

func (f *ServingFlags) given() bool {
	return f.MaxBatch != nil || f.Instances != nil || f.Queue != nil || f.Timeout != nil || f.Pinned != nil
}

// over puts the flags over what a model has now.
func (f *ServingFlags) over(current client.Serving) client.Serving {
	for _, set := range []struct {
		flag *int
		to   *int
	}{{f.MaxBatch, &current.MaxBatch}, {f.Instances, &current.Instances}, {f.Queue, &current.Queue}} {
		if set.flag != nil {
			*set.to = *set.flag
		}
	}
	if f.Timeout != nil {
		current.TimeoutMS = int(f.Timeout.Milliseconds())
	}
	if f.Pinned != nil {
		current.Pinned = *f.Pinned
	}
	return current
}

// check refuses what can't be a number of something, and a limit that would
// become none.
func (f *ServingFlags) check() error {
	for _, n := range []struct {
		flag  string
		value *int
	}{{"--max-batch", f.MaxBatch}, {"--instances", f.Instances}, {"--queue", f.Queue}} {
		if n.value != nil && *n.value < 0 {
			return usageError{fmt.Errorf("%s %d is negative; take 0 or more", n.flag, *n.value)}
		}
	}
	if f.Timeout != nil && *f.Timeout != 0 && *f.Timeout < time.Millisecond {
		return usageError{errors.New("--timeout must be 1ms or more, or 0s for the server's own")}
	}
	return nil
}

// serving is the whole setting of a model with the flags put over it, since
// the server replaces it as a whole. A model that is not there yet has none.
func (f *ServingFlags) serving(ctx context.Context, api *client.Client, name string) (json.RawMessage, error) {
	if !f.given() {
		return nil, nil
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	var current client.Serving
	m, err := api.Model(ctx, name)
	var told *client.Error
	switch {
	case errors.As(err, &told) && (told.Status == 403 || told.Status == 404):
	case err != nil:
		return nil, err
	case len(m.Serving) > 0:
		if err := json.Unmarshal(m.Serving, &current); err != nil {
			return nil, err
		}
	}
	return json.Marshal(f.over(current))
}

// worthwhile is the gain from which on batches are recommended: less is within
// the noise of so short a measurement.
const worthwhile = 1.2

// batchingAdvice is what the server found out about shared runs of a version,
// in one line; "" when it says nothing.
func batchingAdvice(name string, b *client.Batching) string {
	if b == nil {
		return ""
	}
	if !b.Possible {
		return "Requests can't share runs of this version: " + printable(b.Reason) + "."
	}
	reckoned := fmt.Sprintf("reckoned from a few runs on rows of zeros, that gives about %.1f times as many predictions a second under load", b.Gain)
	if b.Gain == 0 {
		reckoned = "what that gains was not measured, as a run takes too long for it"
	}
	set := "modelgate model set " + name + " --max-batch "
	switch {
	case b.Active && (b.Gain == 0 || b.Gain >= worthwhile):
		return "Requests that wait share runs of this version; " + reckoned + "."
	case b.Active:
		return "Requests that wait share runs of this version; " + reckoned + ". That is little; a load test tells more (modelgate bench). To end it: " + set + "0"
	case b.Gain == 0:
		return "Requests could share runs of this version; " + reckoned + ". To try it under load: " + set + "32"
	case b.Gain >= worthwhile:
		return "Requests could share runs of this version; " + reckoned + ". To try it: " + set + "32"
	}
	return "Requests could share runs of this version; " + reckoned + ". That is little; a load test tells more (modelgate bench)."
}
