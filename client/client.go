// Package client speaks modelgate's HTTP API. The command line and the API's
// tests use it, and so can any Go program.
//
// It must not import the server's rooms: what it knows is the public contract
// of api/openapi.yaml.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Credentials gives the bearer token of each request.
type Credentials interface {
	// Token returns an access token or API key; "" sends none.
	Token(ctx context.Context) (string, error)
	// Renew is called once when the server refused rejected; it reports
	// whether Token has a better one now.
	Renew(ctx context.Context, rejected string) (bool, error)
}

// Static is an API key or access token that is never renewed.
type Static string

func (s Static) Token(context.Context) (string, error)       { return string(s), nil }
func (s Static) Renew(context.Context, string) (bool, error) { return false, nil }

// Client is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
	cred Credentials

	userAgent string // empty: Go's own
}

// Option changes a Client.
type Option func(*Client)

// WithHTTP replaces http.DefaultClient.
func WithHTTP(h *http.Client) Option { return func(c *Client) { c.http = h } }

// WithCredentials sends a bearer token with each request.
func WithCredentials(cred Credentials) Option { return func(c *Client) { c.cred = cred } }

// WithToken is WithCredentials(Static(token)).
func WithToken(token string) Option { return WithCredentials(Static(token)) }

// WithUserAgent replaces the User-Agent of Go's HTTP client.
func WithUserAgent(agent string) Option { return func(c *Client) { c.userAgent = agent } }

// New returns a client of the server at base, as in "https://models.example.com".
func New(base string, opts ...Option) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("%q is no server address; write it as in http://127.0.0.1:8080", base)
	}
	c := &Client{base: strings.TrimRight(base, "/"), http: http.DefaultClient, cred: Static("")}
	for _, o := range opts {
		o(c)
	}
	return c, nil
}

// URL is the server's address as New was given it, without a slash at its end.
func (c *Client) URL() string { return c.base }

// Error is a refusal by the server.
type Error struct {
	Status     int
	Code       string // stable short word: "forbidden", "rate_limited", ...
	Detail     string // what to do
	RequestID  string
	RetryAfter time.Duration // 0: not given
}

func (e *Error) Error() string {
	s := e.Detail
	if s == "" {
		s = e.Code
	}
	if s == "" {
		s = "the server answered " + strconv.Itoa(e.Status) + " " + http.StatusText(e.Status)
	}
	if e.Status >= 500 && e.RequestID != "" {
		s += " (request " + e.RequestID + ")"
	}
	return s
}

const maxAnswer = 1 << 30 // bytes of one answer that the client holds

// call sends one request; in is JSON-encoded unless it is nil; out is decoded
// unless it is nil, or gets the answer as it comes if it is an io.Writer.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	return c.send(ctx, method, path, "application/json", out, func() (io.Reader, int64) {
		if in == nil {
			return nil, 0
		}
		return bytes.NewReader(body), int64(len(body))
	})
}

// send retries once with renewed credentials; body is called for each try. A
// nil body function's reader sends none; size -1 sends chunks.
func (c *Client) send(ctx context.Context, method, path, contentType string, out any, body func() (io.Reader, int64)) error {
	for try := 0; ; try++ {
		token, err := c.cred.Token(ctx)
		if err != nil {
			return err
		}
		err = c.once(ctx, method, path, contentType, token, out, body)
		var refused *Error
		if try > 0 || token == "" || !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized || refused.Code == "otp_required" {
			return err // otp_required is said to who has a good token
		}
		better, renewErr := c.cred.Renew(ctx, token)
		if renewErr != nil {
			return renewErr
		}
		if !better {
			return err
		}
	}
}

func (c *Client) once(ctx context.Context, method, path, contentType, token string, out any, body func() (io.Reader, int64)) error {
	r, size := body()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, r)
	if err != nil {
		return err
	}
	if r != nil {
		req.ContentLength = size
		req.Header.Set("Content-Type", contentType)
	}
	if c.userAgent != "" {
		req.Header.Set("User-Agent", c.userAgent)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("can't reach %s: %w", c.base, unwrapURL(err))
	}
	defer resp.Body.Close()
	if w, ok := out.(io.Writer); ok && resp.StatusCode < 300 {
		if _, err := io.Copy(w, resp.Body); err != nil {
			return fmt.Errorf("the answer of %s stopped halfway: %w", c.base, err)
		}
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("the answer of %s stopped halfway: %w", c.base, err)
	}
	if resp.StatusCode >= 300 {
		return refusal(resp, data)
	}
	if out == nil {
		return nil
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = data
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("the answer of %s is not what a modelgate server sends: %w", c.base, err)
	}
	return nil
}

// unwrapURL drops the method and address that http.Client repeats.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func refusal(resp *http.Response, data []byte) error {
	e := &Error{Status: resp.StatusCode, RequestID: resp.Header.Get("X-Request-Id")}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); strings.HasSuffix(kind, "json") {
		var p struct {
			Code        string `json:"code"`
			Detail      string `json:"detail"`
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}
		if json.Unmarshal(data, &p) == nil {
			e.Code, e.Detail = p.Code, p.Detail
			if e.Code == "" {
				e.Code, e.Detail = p.Error, p.Description
			}
		}
	}
	switch {
	case e.Code != "":
	case WantsHTTPS(resp.StatusCode, data):
		e.Detail = "the server speaks HTTPS; write its address with https://"
	case resp.StatusCode == http.StatusHTTPVersionNotSupported:
		e.Detail = "the server takes no HTTP/1 there; it may be its port for gRPC, while this needs that of the HTTP API"
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

// WantsHTTPS reports whether an answer to plain HTTP is one of a server that
// speaks HTTPS, by status and body.
func WantsHTTPS(status int, body []byte) bool {
	return status == http.StatusBadRequest && bytes.Contains(body, []byte("HTTP request to an HTTPS server")) // Go's words
}

// page walks a list that is answered in pages.
func page[T any](ctx context.Context, c *Client, path string, query url.Values, limit int) ([]T, error) {
	var all []T
	if query == nil {
		query = url.Values{}
	}
	for {
		var answer struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		p := path
		if len(query) > 0 {
			p += "?" + query.Encode()
		}
		if err := c.call(ctx, http.MethodGet, p, nil, &answer); err != nil {
			return nil, err
		}
		all = append(all, answer.Items...)
		if limit > 0 && len(all) >= limit {
			return all[:limit], nil
		}
		if answer.Next == "" || len(answer.Items) == 0 {
			return all, nil
		}
		query.Set("after", answer.Next)
	}
}
