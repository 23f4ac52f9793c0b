package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"modelgate/api/oipgrpc"
	"modelgate/auth"
	"modelgate/inference"
	"modelgate/models"
)

// fault is a refusal that the api itself speaks: code and detail are shown to
// the caller, cause goes to the protected log only.
type fault struct {
	code   string
	detail string
	cause  error
	retry  int // seconds for Retry-After; 0: the code's own
}

func (f *fault) Error() string {
	if f.cause != nil {
		return f.code + ": " + f.detail + ": " + f.cause.Error()
	}
	return f.code + ": " + f.detail
}

func (f *fault) Unwrap() error { return f.cause }

func invalid(detail string) *fault { return &fault{code: "invalid_input", detail: detail} }

// outcome is how one code is answered.
type outcome struct {
	status int
	oauth  string // the word of RFC 6749 section 5.2 under /token, /revoke and /introspect
	retry  int    // seconds for Retry-After; 0: none
	rpc    oipgrpc.Code
}

// statusLeft stands in logs and metrics for requests whose client left before
// the answer.
const statusLeft = 499

// outcomes is the only table from an error's code to its answer. A code that
// stands nowhere here is an internal error, and the caller learns nothing of
// it but the request id.
var outcomes = map[string]outcome{
	"invalid_input":             {http.StatusBadRequest, "invalid_request", 0, oipgrpc.InvalidArgument},
	"weak_password":             {http.StatusBadRequest, "invalid_request", 0, oipgrpc.InvalidArgument},
	"invalid_credentials":       {http.StatusUnauthorized, "invalid_grant", 0, oipgrpc.Unauthenticated},
	"invalid_token":             {http.StatusUnauthorized, "invalid_grant", 0, oipgrpc.Unauthenticated},
	"forbidden":                 {http.StatusForbidden, "access_denied", 0, oipgrpc.PermissionDenied},
	"wrong_password":            {http.StatusForbidden, "access_denied", 0, oipgrpc.PermissionDenied},
	"reauthentication_required": {http.StatusForbidden, "access_denied", 0, oipgrpc.PermissionDenied},
	"otp_required":              {http.StatusUnauthorized, "invalid_grant", 0, oipgrpc.Unauthenticated},
	"wrong_code":                {http.StatusForbidden, "access_denied", 0, oipgrpc.PermissionDenied},
	"totp_required":             {http.StatusForbidden, "access_denied", 0, oipgrpc.PermissionDenied},
	"second_factor_required":    {http.StatusForbidden, "access_denied", 0, oipgrpc.PermissionDenied},
	"insufficient_scope":        {http.StatusForbidden, "insufficient_scope", 0, oipgrpc.PermissionDenied},
	"cross_origin":              {http.StatusForbidden, "access_denied", 0, oipgrpc.PermissionDenied},
	"not_found":                 {http.StatusNotFound, "invalid_request", 0, oipgrpc.NotFound},
	"method_not_allowed":        {http.StatusMethodNotAllowed, "invalid_request", 0, oipgrpc.Unimplemented},
	"timeout":                   {http.StatusRequestTimeout, "invalid_request", 0, oipgrpc.DeadlineExceeded},
	"taken":                     {http.StatusConflict, "invalid_request", 0, oipgrpc.AlreadyExists},
	"conflict":                  {http.StatusConflict, "invalid_request", 0, oipgrpc.FailedPrecondition},
	"linked":                    {http.StatusConflict, "invalid_request", 0, oipgrpc.AlreadyExists},
	"last_admin":                {http.StatusConflict, "invalid_request", 0, oipgrpc.FailedPrecondition},
	"builtin_role":              {http.StatusConflict, "invalid_request", 0, oipgrpc.FailedPrecondition},
	"in_use":                    {http.StatusConflict, "invalid_request", 0, oipgrpc.FailedPrecondition},
	"too_large":                 {http.StatusRequestEntityTooLarge, "invalid_request", 0, oipgrpc.ResourceExhausted},
	"out_of_memory":             {http.StatusRequestEntityTooLarge, "invalid_request", 0, oipgrpc.ResourceExhausted},
	"quota_exceeded":            {http.StatusRequestEntityTooLarge, "invalid_request", 0, oipgrpc.ResourceExhausted},
	"too_many_rows":             {http.StatusRequestEntityTooLarge, "invalid_request", 0, oipgrpc.ResourceExhausted},
	"unsupported_media_type":    {http.StatusUnsupportedMediaType, "invalid_request", 0, oipgrpc.Internal},
	"unsupported_encoding":      {http.StatusUnsupportedMediaType, "invalid_request", 0, oipgrpc.Unimplemented},
	"run_failed":                {http.StatusUnprocessableEntity, "invalid_request", 0, oipgrpc.InvalidArgument},
	"rate_limited":              {http.StatusTooManyRequests, "temporarily_unavailable", 1, oipgrpc.ResourceExhausted},
	"budget_exhausted":          {http.StatusTooManyRequests, "temporarily_unavailable", 60, oipgrpc.ResourceExhausted},
	"internal":                  {http.StatusInternalServerError, "server_error", 0, oipgrpc.Internal},
	"unavailable":               {http.StatusServiceUnavailable, "temporarily_unavailable", 1, oipgrpc.Unavailable},
	"model_unavailable":         {http.StatusServiceUnavailable, "temporarily_unavailable", 30, oipgrpc.Unavailable},
	"load_failed":               {http.StatusServiceUnavailable, "temporarily_unavailable", 30, oipgrpc.Unavailable},
	"load_timeout":              {http.StatusServiceUnavailable, "temporarily_unavailable", 30, oipgrpc.Unavailable},
	"unimplemented":             {http.StatusNotImplemented, "invalid_request", 0, oipgrpc.Unimplemented},
	"deadline":                  {http.StatusGatewayTimeout, "temporarily_unavailable", 0, oipgrpc.DeadlineExceeded},

	// RFC 6749 section 5.2, RFC 7009 section 2.2.1: these occur under the
	// OAuth routes alone.
	"invalid_request":        {http.StatusBadRequest, "invalid_request", 0, oipgrpc.InvalidArgument},
	"invalid_client":         {http.StatusUnauthorized, "invalid_client", 0, oipgrpc.Unauthenticated},
	"unauthorized_client":    {http.StatusBadRequest, "unauthorized_client", 0, oipgrpc.PermissionDenied},
	"invalid_scope":          {http.StatusBadRequest, "invalid_scope", 0, oipgrpc.InvalidArgument},
	"unsupported_grant_type": {http.StatusBadRequest, "unsupported_grant_type", 0, oipgrpc.InvalidArgument},
}

// outward renames codes that tell things apart in here, but not to callers.
var outward = map[string]string{"not_allowed": "forbidden", "refresh_reused": "invalid_token", noCredential: "invalid_token"}

// noCredential is the code of a request that brings none at all.
const noCredential = "unauthenticated"

// refusal is an error as a caller sees it.
type refusal struct {
	status int
	code   string
	oauth  string
	rpc    oipgrpc.Code
	detail string
	retry  int
	bare   bool // no credential was sent, so that there is none to find fault with
}

const internalDetail = "something went wrong on our side; give the operator the request id"

// refuse turns any error into what the caller sees. It is the one place where
// that happens. Of a chain of errors the outermost that a room made counts.
func refuse(err error) refusal {
	code, detail, retry := "internal", internalDetail, 0
walk:
	for e := err; e != nil; e = errors.Unwrap(e) {
		switch e := e.(type) {
		case *models.Rejected:
			// The rule that the file breaks; models keeps it in public terms.
			return refusal{status: http.StatusUnprocessableEntity, code: e.Code, oauth: "invalid_request", rpc: oipgrpc.InvalidArgument, detail: e.Detail}
		case *fault:
			code, detail, retry = e.code, e.detail, e.retry
			break walk
		case *auth.Error:
			code, detail, retry = e.Code, e.Detail, seconds(e.Retry)
			break walk
		case *models.Error:
			code, detail = e.Code, e.Detail
			break walk
		case *inference.Error:
			code, detail, retry = e.Code, e.Detail, seconds(e.Retry)
			break walk
		}
	}
	if code == "internal" && errors.Is(err, context.Canceled) {
		// Either nobody reads this, or the server is closing.
		code, detail = "unavailable", "the request was given up before it was done; send it again"
	}
	if code == "internal" && errors.Is(err, context.DeadlineExceeded) {
		code, detail = "deadline", inference.ErrDeadline.Detail
	}
	if code == auth.ErrReused.Code {
		detail = auth.ErrToken.Detail
	}
	bare := code == noCredential
	if name, ok := outward[code]; ok {
		code = name
	}
	o, ok := outcomes[code]
	if !ok || code == "internal" {
		code, detail = "internal", internalDetail
		o = outcomes[code]
	}
	if bare {
		o.oauth = "invalid_client"
	}
	if retry == 0 {
		retry = o.retry
	}
	return refusal{status: o.status, code: code, oauth: o.oauth, rpc: o.rpc, detail: detail, retry: retry, bare: bare}
}

// seconds rounds up.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// problem is RFC 9457's application/problem+json. Type is always about:blank:
// code tells errors apart.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Code      string `json:"code"`
	RequestID string `json:"request_id"`
}

// oauthError is RFC 6749 section 5.2.
type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

// oauthRoute reports whether errors of the path are RFC 6749's.
func oauthRoute(path string) bool {
	return path == "/token" || path == "/revoke" || path == "/introspect"
}

// oipRoute reports whether errors of the path are the Open Inference
// Protocol's.
func oipRoute(path string) bool { return path == "/v2" || strings.HasPrefix(path, "/v2/") }

// oipError is an error of the Open Inference Protocol.
type oipError struct {
	Error string `json:"error"`
}

// body encodes the refusal for the path that was asked for, with its media type.
func (r refusal) body(path, requestID string) (data []byte, mediaType string) {
	var v any
	mediaType = "application/problem+json"
	switch {
	case oauthRoute(path):
		v, mediaType = oauthError{r.oauth, printable(r.detail)}, "application/json"
	case oipRoute(path):
		v, mediaType = oipError{r.detail}, "application/json"
	default:
		v = problem{"about:blank", http.StatusText(r.status), r.status, r.detail, r.code, requestID}
	}
	data, _ = json.Marshal(v, jsontext.AllowInvalidUTF8(true)) // strings and a number: nothing can fail
	return data, mediaType
}

// printable keeps the characters that RFC 6749 and RFC 6750 permit in an
// error_description: %x20-21, %x23-5B, %x5D-7E.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r == '\\' || r < 0x20 || r > 0x7e:
			return '?'
		}
		return r
	}, s)
}

// challenge returns the WWW-Authenticate of a refusal (RFC 6750 section 3), or
// "". bearer says whether the route reads a bearer credential at all: a wrong
// password is no invalid token.
// A browser is to show its own page: there is no registered scheme for cookies,
// and what stands in its place makes no browser ask for a password.
func (r refusal) challenge(bearer, browser bool) string {
	const realm = `Bearer realm="modelgate"`
	switch {
	case browser && r.status == http.StatusUnauthorized:
		return `Cookie realm="modelgate"`
	case r.code == "invalid_client":
		return clientChallenge
	case bearer && r.code == "invalid_token" && !r.bare:
		return realm + `, error="invalid_token", error_description="` + printable(r.detail) + `"`
	case r.status == http.StatusUnauthorized:
		return realm
	case bearer && r.code == "forbidden":
		return realm + `, error="insufficient_scope"`
	case bearer && r.code == "insufficient_scope":
		return realm + `, error="insufficient_scope", error_description="` + printable(r.detail) + `"`
	case bearer && r.code == "second_factor_required":
		return realm + `, error="insufficient_user_authentication", error_description="` + printable(r.detail) + `"` // RFC 9470
	case bearer && r.code == "reauthentication_required":
		// RFC 9470: the password has to be proved again.
		return realm + `, error="insufficient_user_authentication", max_age="` + strconv.Itoa(reauthenticateWithin) + `"`
	}
	return ""
}

// clientChallenge asks for the credentials of a client (RFC 6749 section 5.2).
const clientChallenge = `Basic realm="modelgate"`

// reauthenticateWithin is the seconds after a proof of the password within
// which credentials may be changed.
const reauthenticateWithin = 600
