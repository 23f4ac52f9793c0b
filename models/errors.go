package models

// Error is what the room tells a caller: a stable code and a sentence that is
// safe to show. Cause goes to the protected log only.
type Error struct {
	Code   string
	Detail string
	Cause  error
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

// With returns a copy of e with another detail.
func (e *Error) With(detail string) *Error {
	return &Error{Code: e.Code, Detail: detail, Cause: e.Cause}
}

// Because returns a copy of e that carries a cause for the log.
func (e *Error) Because(cause error) *Error {
	return &Error{Code: e.Code, Detail: e.Detail, Cause: cause}
}

// The codes of the room. api maps them to a status.
var (
	// ErrClosed stands alike for a model that does not exist and one that is
	// not open to the caller.
	ErrClosed      = &Error{Code: "forbidden", Detail: "no such model, or it is not open to you; GET /models lists yours"}
	ErrNotAllowed  = &Error{Code: "not_allowed", Detail: "publishing needs the permission models:write; ask an administrator"}
	ErrNotFound    = &Error{Code: "not_found", Detail: "no such model; GET /models lists all"}
	ErrInvalid     = &Error{Code: "invalid_input", Detail: "the request is not valid"}
	ErrConflict    = &Error{Code: "conflict", Detail: "somebody else changed this at the same moment; look at it and try again"}
	ErrTooLarge    = &Error{Code: "too_large", Detail: "the file is larger than this server takes"}
	ErrNoSpace     = &Error{Code: "unavailable", Detail: "the server has no room for the file; tell its operator"}
	ErrUnavailable = &Error{Code: "unavailable", Detail: "the service can't do this at the moment; try again in a few seconds"}
	ErrQuarantined = &Error{Code: "model_unavailable", Detail: "this version was taken out of service; tell its owner"}
)

// Rejected refuses a file: Code is the rule it breaks ("external_data",
// "not_onnx", ...), Detail a sentence for the uploader.
type Rejected struct {
	Code   string
	Detail string
	Cause  error // for the protected log
}

func (r *Rejected) Error() string {
	s := "model refused: " + r.Code + ": " + r.Detail
	if r.Cause != nil {
		s += ": " + r.Cause.Error()
	}
	return s
}

func (r *Rejected) Unwrap() error { return r.Cause }
