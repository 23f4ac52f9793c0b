package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/client"
)

// TestBudgetSurvivesKills is rows L6 and P2 in the whole program: a server that is killed under load again and again grants
// no more rows in a day than the budget, and loses little of it.
func TestBudgetSurvivesKills(t *testing.T) {
	ctx := context.Background()
	const limit, ahead, callers, kills = 400, 4, 4, 3
	data := t.TempDir()
	day := func() int64 { return time.Now().Unix() / 86400 }
	began := day()
	p := start(t, data, "MODELGATE_RATE_PREDICT=1000000-S")
	admin := p.admin()
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{Roles: []string{"user"}})
	if _, err := admin.PutRole(ctx, "metered", []string{}, "", limit); err != nil {
		t.Fatal(err)
	}
	u, err := p.anonymous().Register(ctx, "alice", "an unusual phrase 93")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.UpdateUser(ctx, u.ID, client.UserPatch{Roles: &[]string{"user", "metered"}}); err != nil {
		t.Fatal(err)
	}
	key, err := p.login("alice", "an unusual phrase 93").CreateKey(ctx, "k", 0, nil)
	if err != nil {
		t.Fatal(err)
	}

	var granted atomic.Int64
	// load predicts until the budget is used up, or enough has been granted, and kills the server in the midst then.
	load := func(enough int64) (exhausted bool) {
		var over atomic.Bool
		var killed sync.Once
		var group sync.WaitGroup
		caller := p.with(key.Key)
		for range callers {
			group.Go(func() {
				for {
					_, err := label(caller, client.PredictRequest{Model: "iris", Inputs: irisRow})
					var told *client.Error
					switch {
					case errors.As(err, &told) && told.Code == "budget_exhausted":
						over.Store(true)
						return
					case err != nil:
						if enough == 0 {
							t.Errorf("a prediction failed: %v", err)
						}
						return
					}
					if granted.Add(1) == enough {
						killed.Do(p.kill)
					}
				}
			})
		}
		group.Wait()
		return over.Load()
	}
	for n := range int64(kills) {
		load((n + 1) * limit / (kills + 1))
		p.kill()
		p = start(t, data, "MODELGATE_RATE_PREDICT=1000000-S")
	}
	if !load(0) {
		t.Error("the budget was never used up")
	}
	most := int64(limit) * (day() - began + 1) // in case that midnight passed
	least := int64(limit - kills*(ahead+callers))
	t.Logf("%d rows granted of %d over %d kills", granted.Load(), limit, kills)
	if granted.Load() > most || granted.Load() < least {
		t.Errorf("%d rows granted; at most %d may, and at least %d should", granted.Load(), most, least)
	}
	me, err := p.with(key.Key).Me(ctx)
	if err != nil || len(me.Budgets) != 1 || me.Budgets[0].DailyRows != limit {
		t.Errorf("what is left: %+v, %v", me.Budgets, err)
	}
}
