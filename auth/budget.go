package auth

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

// maxDailyRows is the largest budget.
const maxDailyRows = 1e12

// RowBudget names a budget of rows: a user's, over all models or of one, on
// one day. Days begin at midnight UTC.
type RowBudget struct {
	UserID string
	Model  string    // name; empty: all models together
	Day    time.Time // its first moment
}

// Budget is a budget and what is left of it today.
type Budget struct {
	Model string // name; empty: all models together
	Limit int64  // rows
	Left  int64  // rows
}

// Day is the day of t in UTC, as budgets count days.
func Day(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// Spend charges the rows of a prediction, before it runs, to the user's
// budgets of today: the one of his roles over all models, and the one of limit
// rows that he has of the model (0: none). All is charged or nothing. It costs
// nothing for who has no budget, and asks the database only when what was taken
// from it ahead is used up. ErrBudget: too little is left; too_many_rows: the
// whole budget would not do; ErrUnavailable: the database was needed and can't
// answer.
//
// What is charged is in the database before the prediction runs, so that no
// crash makes a budget larger. What was taken ahead and not used is lost for
// the day by a crash: at most a hundredth of the budget, and 1000 rows, for
// each server. Concurrent servers share the budget.
func (s *Service) Spend(ctx context.Context, who *Principal, model string, limit, rows int64) error {
	if who.DailyRows == 0 && limit == 0 {
		return nil
	}
	return s.budgets.spend(ctx, who.UserID, who.DailyRows, model, limit, rows)
}

// Budgets tells the caller what is left of his budgets today: the one of his
// roles, and those of the models that he has called. limit says what budget he
// has of a model (0: none).
func (s *Service) Budgets(ctx context.Context, who Principal, limit func(model string) int64) ([]Budget, error) {
	return s.budgets.list(ctx, who, limit)
}

const (
	// mostAhead bounds what is taken from a budget ahead of its use.
	mostAhead = 1000
	// askAgain is how long a budget that is used up is believed to be so. Other
	// servers may give back, and an administrator raises what he likes: then the
	// limit is another, and the database is asked at once.
	askAgain = time.Second
	// returnAtOnce bounds how long a return keeps other writers waiting.
	returnAtOnce = 500
)

// budgets are the rows that this process has taken from the database ahead.
type budgets struct {
	store   Store
	now     func() time.Time
	metrics *metrics
	mu      sync.Mutex
	held    map[RowBudget]*holding // guarded by mu
}

func newBudgets(store Store, now func() time.Time, m *metrics) *budgets {
	return &budgets{store: store, now: now, metrics: m, held: map[RowBudget]*holding{}}
}

// holding is what is held of one budget.
type holding struct {
	budget RowBudget
	turn   chan struct{} // holds one element while somebody reads or changes the rest
	rows   int64         // counted in the database, and not used yet
	limit  int64         // that the database was asked with last
	left   int64         // in the database then, beyond rows
	asked  time.Time     // when; zero: not yet
	idle   bool          // not used since the last flush
	gone   bool          // not in held any more
}

// hold returns the holding of a budget for the caller alone, until he lets go.
func (b *budgets) hold(ctx context.Context, budget RowBudget) (*holding, error) {
	for {
		b.mu.Lock()
		h := b.held[budget]
		if h == nil {
			h = &holding{budget: budget, turn: make(chan struct{}, 1)}
			b.held[budget] = h
		}
		b.mu.Unlock()
		select {
		case h.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !h.gone {
			return h, nil
		}
		h.let()
	}
}

func (h *holding) let() { <-h.turn }

func (b *budgets) spend(ctx context.Context, userID string, all int64, model string, limit, rows int64) error {
	now := b.now()
	day := Day(now)
	// Always in this order, so that no two wait for each other.
	var whole, part *holding
	var err error
	if all != 0 {
		if whole, err = b.holdRows(ctx, RowBudget{UserID: userID, Day: day}, now, all, rows); err != nil {
			return err
		}
		defer whole.let()
	}
	if limit != 0 {
		if part, err = b.holdRows(ctx, RowBudget{UserID: userID, Model: model, Day: day}, now, limit, rows); err != nil {
			return err
		}
		defer part.let()
		part.rows -= rows
	}
	if whole != nil {
		whole.rows -= rows
	}
	return nil
}

// holdRows is hold of a budget with so many rows in hand.
func (b *budgets) holdRows(ctx context.Context, budget RowBudget, now time.Time, limit, rows int64) (*holding, error) {
	h, err := b.hold(ctx, budget)
	if err != nil {
		return nil, err
	}
	if err := b.provide(ctx, h, now, limit, rows); err != nil {
		h.let()
		return nil, err
	}
	return h, nil
}

// provide makes sure that h holds so many rows.
func (b *budgets) provide(ctx context.Context, h *holding, now time.Time, limit, rows int64) error {
	h.idle = false
	if rows > limit {
		b.metrics.budgetRefused.Inc()
		return &Error{Code: "too_many_rows", Detail: fmt.Sprintf("%s at once are more than your budget of %s a day%s; send fewer", countRows(rows), countRows(limit), ofModel(h))}
	}
	if h.limit > limit && h.rows > 0 { // what was taken ahead is more than the smaller budget may have left
		unused := map[RowBudget]int64{h.budget: h.rows}
		h.rows = 0
		if err := b.store.ReturnRows(context.WithoutCancel(ctx), unused); err != nil {
			return err
		}
	}
	need := rows - h.rows
	if need <= 0 {
		return nil
	}
	if h.limit != limit || now.Sub(h.asked) >= askAgain || now.Before(h.asked) || h.left >= need {
		// It is counted whether the caller stays or not, so he can't leave in between.
		taken, left, err := b.store.TakeRows(context.WithoutCancel(ctx), h.budget, limit, need, max(need, ahead(limit)))
		if err != nil {
			return err
		}
		b.metrics.budgetLeases.Inc()
		h.rows += taken
		h.limit, h.left, h.asked = limit, left, now
		if h.rows >= rows {
			return nil
		}
	}
	b.metrics.budgetRefused.Inc()
	detail := fmt.Sprintf("your budget of %s a day%s is used up", countRows(limit), ofModel(h))
	if left := h.left + h.rows; left > 0 {
		are := "are"
		if left == 1 {
			are = "is"
		}
		detail = fmt.Sprintf("%s %s left today of your budget of %s a day%s", countRows(left), are, countRows(limit), ofModel(h))
	}
	refusal := ErrBudget.With(detail + "; it begins anew at midnight UTC")
	refusal.Retry = h.budget.Day.Add(24 * time.Hour).Sub(now)
	return refusal
}

// ahead is how many rows are taken at a time.
func ahead(limit int64) int64 { return min(max(limit/100, 1), mostAhead) }

func countRows(n int64) string {
	if n == 1 {
		return "1 row"
	}
	return fmt.Sprintf("%d rows", n)
}

func ofModel(h *holding) string {
	if h.budget.Model == "" {
		return ""
	}
	return " for the model " + h.budget.Model
}

// flush returns to the database what was not used since the last flush, or all
// that is held. Holdings of days that are over are dropped.
func (b *budgets) flush(ctx context.Context, all bool) error {
	today := Day(b.now())
	b.mu.Lock()
	list := make([]*holding, 0, len(b.held))
	for _, h := range b.held {
		list = append(list, h)
	}
	b.mu.Unlock()
	var failed error
	for len(list) > 0 {
		n := min(len(list), returnAtOnce)
		if err := b.giveBack(ctx, list[:n], today, all); err != nil {
			failed = err
		}
		list = list[n:]
	}
	return failed
}

// giveBack returns what some holdings have, if they are idle, and drops them.
// After an error the database may have counted the return or not: what they
// held is lost then.
func (b *budgets) giveBack(ctx context.Context, list []*holding, today time.Time, all bool) error {
	unused := map[RowBudget]int64{}
	var dropped []*holding
	for _, h := range list {
		select {
		case h.turn <- struct{}{}:
		default:
			continue // in use
		}
		if !all && !h.idle && !h.budget.Day.Before(today) {
			h.idle = true
			h.let()
			continue
		}
		if h.rows > 0 && !h.budget.Day.Before(today) {
			unused[h.budget] = h.rows
		}
		dropped = append(dropped, h)
	}
	var err error
	if len(unused) > 0 {
		err = b.store.ReturnRows(ctx, unused)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range dropped {
		h.gone = true
		delete(b.held, h.budget)
		h.let()
	}
	return err
}

func (b *budgets) list(ctx context.Context, who Principal, limit func(model string) int64) ([]Budget, error) {
	day := Day(b.now())
	used, err := b.store.RowsUsed(ctx, who.UserID, day)
	if err != nil {
		return nil, err
	}
	var list []Budget
	add := func(model string, limit int64) error {
		if limit == 0 {
			return nil
		}
		h, err := b.hold(ctx, RowBudget{UserID: who.UserID, Model: model, Day: day})
		if err != nil {
			return err
		}
		defer h.let()
		list = append(list, Budget{Model: model, Limit: limit, Left: max(0, limit-max(0, used[model]-h.rows))})
		return nil
	}
	if err := add("", who.DailyRows); err != nil {
		return nil, err
	}
	for _, model := range slices.Sorted(maps.Keys(used)) {
		if model == "" {
			continue
		}
		if err := add(model, limit(model)); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// checkDailyRows refuses what can't be a budget.
func checkDailyRows(rows int64) error {
	if rows < 0 || rows > maxDailyRows {
		return ErrInvalid.With("daily_rows must be from 1 to " + strconv.FormatInt(maxDailyRows, 10) + "; leave it out for no budget")
	}
	return nil
}
