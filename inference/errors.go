package inference

import "time"

// Error is what the room tells a caller: a stable code and a sentence in
// public terms. Cause (the runtime's words, graph names) goes to the protected
// log only.
type Error struct {
	Code   string
	Detail string
	Cause  error
	Retry  time.Duration // after which it may help to try again; 0: not known
}

func (e *Error) Error() string {
	s := e.Code + ": " + e.Detail
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Cause }

// Is matches by code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// After returns a copy of e that says when to try again.
func (e *Error) After(d time.Duration) *Error {
	return &Error{Code: e.Code, Detail: e.Detail, Cause: e.Cause, Retry: d}
}

// With returns a copy of e with another detail.
func (e *Error) With(detail string) *Error {
	return &Error{Code: e.Code, Detail: detail, Cause: e.Cause, Retry: e.Retry}
}

// Because returns a copy of e that carries a cause for the log.
func (e *Error) Because(cause error) *Error {
	return &Error{Code: e.Code, Detail: e.Detail, Cause: cause, Retry: e.Retry}
}

// The codes of the room. api maps them to a status.
var (
	ErrInput    = &Error{Code: "invalid_input", Detail: "the inputs don't fit the model; GET /models/NAME shows what it takes"}
	ErrTooLarge = &Error{Code: "too_large", Detail: "the tensors are larger than this server takes"}
	ErrRun      = &Error{Code: "run_failed", Detail: "the model could not compute with these inputs; check their values and sizes against GET /models/NAME"}
	// ErrNoMemory stands for itself, or among the causes of ErrLoad and ErrRun.
	ErrNoMemory    = &Error{Code: "out_of_memory", Detail: "with these inputs the model needs more memory than it may take; send less at once, or ask the operator for more"}
	ErrDeadline    = &Error{Code: "deadline", Detail: "the model took too long; send less at once or ask the operator for a longer limit"}
	ErrQueueFull   = &Error{Code: "unavailable", Detail: "too many predictions are waiting; try again in a moment"}
	ErrUnavailable = &Error{Code: "unavailable", Detail: "the model can't be served at the moment; try again in a few seconds"}
	ErrLoad        = &Error{Code: "load_failed", Detail: "the runtime can't load this model"}
	ErrLoadTimeout = &Error{Code: "load_timeout", Detail: "loading took too long"}
)
