package inference

import (
	"context"
	"math"
	"slices"
	"time"

	"modelgate/models"
)

// Bounds of a measurement. It holds a slot, hence it is shorter than a long
// run.
const (
	measureFor    = 150 * time.Millisecond // no further round begins after it
	measureAtMost = 200 * time.Millisecond
	measureRounds = 40 // at most
	fewestRounds  = 3  // of which a median says something
	measureRows   = 16
	measureSlow   = 4 // rows, where a single one takes slowRow
	slowRow       = 4 * time.Millisecond
	// aroundRun is what a prediction costs besides its run, about: a tiny model's
	// runs become many times cheaper in batches, its predictions do not.
	aroundRun = 20 * time.Microsecond
)

// gain reckons how many times as many predictions of one row a second there
// are when several rows go in one run, from medians of single runs and batches
// in turn, so that what else the machine does weighs on both alike. The rows are
// zeros with open inner dimensions of 1; other rows may behave otherwise. 0 says
// that it could not be measured within measureAtMost.
func (s *Service) gain(ctx context.Context, session Session, g *models.Graph) float64 {
	t, err := s.slots.acquire(ctx, terms{lane: &s.trials, now: time.Now()}, false)
	if err != nil {
		return 0
	}
	defer s.slots.release(t)
	ctx, cancel := context.WithTimeout(ctx, measureAtMost)
	defer cancel()
	one, ok := s.timed(ctx, session, g, 1)
	if !ok {
		return 0
	}
	rows := int64(measureRows)
	if one > slowRow {
		rows = measureSlow
	}
	var single, batch []time.Duration
	for began := time.Now(); len(batch) < measureRounds && time.Since(began) < measureFor; {
		one, ok1 := s.timed(ctx, session, g, 1)
		many, ok2 := s.timed(ctx, session, g, rows)
		if !ok1 || !ok2 {
			break
		}
		single, batch = append(single, one), append(batch, many)
	}
	if len(batch) < fewestRounds || median(batch) <= 0 {
		return 0
	}
	shared := median(batch)/time.Duration(rows) + aroundRun
	return math.Round(float64(median(single)+aroundRun)/float64(shared)*10) / 10
}

// timed is the time of one run of that many rows; false when it failed.
func (s *Service) timed(ctx context.Context, session Session, g *models.Graph, rows int64) (time.Duration, bool) {
	in, err := trialInputs(g, session.Room(), rows)
	defer releaseAll(in)
	if err != nil {
		return 0, false
	}
	want := make([]int, len(g.Outputs))
	for i := range want {
		want[i] = i
	}
	began := time.Now()
	values, err := session.Run(ctx, in, want)
	took := time.Since(began)
	for i := range values {
		values[i].Release()
	}
	return took, err == nil
}

func median(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}
