package inference

import (
	"context"
	"errors"
	"fmt"
	"time"

	"modelgate/models"
)

// trialElements bounds an input of a trial run. Larger ones have fixed sizes
// that no request of ours could fill either.
const trialElements = 1 << 26

// Try loads a checked file and runs it once, with zeros and empty strings for
// inputs and 1 for every open dimension. It fits models.Try.
//
// The outcome is "ran", or "inconclusive" when the model does not take zeros,
// which says nothing against it. *models.Rejected, in public terms: load_failed,
// load_timeout, run_timeout, unsupported_type, too_large, out_of_memory, crashed.
// Other errors are
// ErrUnavailable, ErrQueueFull and ctx's: the file may be good.
func (s *Service) Try(ctx context.Context, file []byte) (models.Trial, error) {
	memory := int64(len(file))
	if err := s.pool.enter(ctx, memory); err != nil {
		return models.Trial{}, err
	}
	defer s.pool.leave(memory)
	session, err := s.engine.Load(ctx, file, Options{LoadTimeout: s.loading})
	if err != nil {
		return models.Trial{}, s.loadError(ctx, err)
	}
	defer func() {
		if err := session.Close(); err != nil {
			s.log.Error("closing a session after its trial", "cause", err)
		}
	}()
	graph := session.Graph()
	if err := servable(&graph); err != nil {
		return models.Trial{}, err
	}
	outcome, err := s.trialRun(ctx, session, &graph)
	if err != nil {
		return models.Trial{}, err
	}
	trial := models.Trial{Graph: graph, Outcome: outcome}
	if proved, _ := models.RowWise(file); proved && outcome == "ran" {
		trial.Gain = s.gain(ctx, session, &graph)
		if c := lostBy(session); c != nil && ctx.Err() == nil {
			return models.Trial{}, crashed(c)
		}
	}
	return trial, nil
}

// loadError tells what speaks against the file from what doesn't.
func (s *Service) loadError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, ErrLoadTimeout):
		return &models.Rejected{Code: "load_timeout", Cause: err,
			Detail: fmt.Sprintf("loading the model took more than %v, which is all this server gives it; simplify it, for instance by folding constants before the export", s.loading)}
	case outOfMemory(err):
		return &models.Rejected{Code: "out_of_memory", Cause: err,
			Detail: "loading the model takes more memory than this server gives a model; make it smaller, for instance by quantization, or ask the operator for more"}
	case crashOf(err) != nil:
		return crashed(err)
	case errors.Is(err, ErrLoad):
		return &models.Rejected{Code: "load_failed", Cause: err,
			Detail: "the runtime can't load this model; check it with onnx.checker.check_model(path, full_check=True) and by loading it with onnxruntime in Python"}
	case errors.Is(err, ErrUnavailable):
		return ErrUnavailable.Because(err)
	}
	return fmt.Errorf("trial load: %w", err)
}

// outOfMemory reports whether a load or a run hit the bound of a model's memory,
// or its process was ended for it.
func outOfMemory(err error) bool {
	c := crashOf(err)
	return errors.Is(err, ErrNoMemory) || c != nil && c.class() == "memory"
}

// crashed refuses a file whose process ended during its trial.
func crashed(cause error) error {
	return &models.Rejected{Code: "crashed", Cause: cause,
		Detail: "loading the model, or running it once with zeros, ended its process. Load and run it with onnxruntime in Python: if that fails too, export it anew with a current exporter; if not, tell the operator, whose log says more"}
}

// lostBy tells how a session was lost; nil: it was not.
func lostBy(s Session) *Crash {
	select {
	case <-s.Lost():
		return whyLost(s)
	default:
		return nil
	}
}

// servable refuses models whose inputs can't be sent or whose outputs can't be
// shown.
func servable(g *models.Graph) error {
	for i := range g.Inputs {
		if v := &g.Inputs[i]; v.Kind != models.KindTensor || !v.Type.Served() || v.Shape == nil {
			return &models.Rejected{Code: "unsupported_type",
				Detail: fmt.Sprintf("the input at position %d is not a tensor of numbers, bools or strings with a known number of dimensions", i)}
		}
	}
	for i := range g.Outputs {
		v := &g.Outputs[i]
		keyed := v.Kind == models.KindMaps || v.Kind == models.KindMap
		if v.Kind > models.KindMap || !v.Type.Served() || keyed && v.Key != models.Int64 && v.Key != models.String {
			return &models.Rejected{Code: "unsupported_type",
				Detail: fmt.Sprintf("the output at position %d is neither a tensor, a sequence of tensors nor a map of numbers, bools or strings", i)}
		}
	}
	return nil
}

// trialRun runs the model once, in a slot like any other run.
func (s *Service) trialRun(ctx context.Context, session Session, g *models.Graph) (outcome string, err error) {
	in, err := trialInputs(g, session.Room(), 1)
	defer releaseAll(in)
	if err != nil {
		return "", err
	}
	want := make([]int, len(g.Outputs))
	for i := range want {
		want[i] = i
	}
	t, err := s.slots.acquire(ctx, terms{lane: &s.trials, now: time.Now()}, false)
	if err != nil {
		return "", err
	}
	defer s.slots.release(t)
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	values, err := session.Run(bounded, in, want)
	for i := range values {
		values[i].Release()
	}
	switch {
	case err == nil && bounded.Err() == nil:
		return "ran", nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case bounded.Err() != nil:
		return "", &models.Rejected{Code: "run_timeout", Cause: err,
			Detail: fmt.Sprintf("a trial run with one row of zeros took more than %v, which is all this server gives a prediction", s.timeout)}
	case errors.Is(err, ErrTooLarge):
		return "", &models.Rejected{Code: "too_large", Cause: err,
			Detail: "the outputs for one row of zeros are larger than this server takes"}
	case outOfMemory(err):
		return "", &models.Rejected{Code: "out_of_memory", Cause: err,
			Detail: "a trial run with one row of zeros takes more memory than this server gives a model; make the model smaller, or ask the operator for more"}
	case crashOf(err) != nil:
		return "", crashed(err)
	case errors.Is(err, ErrUnavailable):
		return "", ErrUnavailable.Because(err)
	}
	s.log.Info("a trial run was inconclusive", "cause", err)
	return "inconclusive", nil
}

// trialInputs makes that many rows of zeros and empty strings. What it made is
// returned with an error too.
func trialInputs(g *models.Graph, mem *Memory, rows int64) ([]Tensor, error) {
	in := make([]Tensor, 0, len(g.Inputs))
	for i := range g.Inputs {
		shape := make([]int64, len(g.Inputs[i].Shape))
		for k, d := range g.Inputs[i].Shape {
			shape[k] = d
			if d < 0 {
				shape[k] = 1
			}
		}
		if len(shape) > 0 && g.Inputs[i].Shape[0] < 0 {
			shape[0] = rows
		}
		n, ok := Elements(shape)
		t, err := Tensor{}, error(ErrTooLarge)
		if ok && n <= trialElements {
			t, err = NewTensor(mem, g.Inputs[i].Type, shape)
		}
		if errors.Is(err, ErrTooLarge) {
			return in, &models.Rejected{Code: "too_large", Cause: err,
				Detail: fmt.Sprintf("the input at position %d is larger than this server takes", i)}
		}
		if err != nil {
			return in, err
		}
		clear(t.Data)
		in = append(in, t)
	}
	return in, nil
}
