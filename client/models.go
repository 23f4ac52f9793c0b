package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"time"
)

// Tensor describes an input or output.
type Tensor struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"` // Open Inference Protocol names: "FP32", "BYTES", ...
	Shape    []int64 `json:"shape"`    // -1: any size
}

// Model is what the caller may know of a model; the fields from Owner on are
// for those who manage it.
type Model struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Inputs      []Tensor `json:"inputs"`
	Outputs     []Tensor `json:"outputs"`
	DailyRows   int64    `json:"daily_rows,omitempty"` // the caller's budget of rows of this model a day; 0: none

	Owner          string          `json:"owner,omitempty"` // user id
	Roles          []string        `json:"roles,omitzero"`
	Disclosure     json.RawMessage `json:"disclosure,omitempty"`
	Serving        json.RawMessage `json:"serving,omitempty"`
	DefaultVersion int             `json:"default_version,omitempty"`
	Aliases        map[string]int  `json:"aliases,omitzero"`
	CreatedAt      time.Time       `json:"created_at,omitzero"`
	UpdatedAt      time.Time       `json:"updated_at,omitzero"`
	Versions       []Version       `json:"versions,omitzero"`
}

// Version is one uploaded file of a model.
type Version struct {
	Name      string    `json:"name,omitempty"`
	Version   int       `json:"version"`
	Digest    string    `json:"digest"`         // "sha256:..."
	Size      int64     `json:"size,omitempty"` // bytes
	State     string    `json:"state"`
	Reason    string    `json:"reason,omitempty"` // why it is out of service
	Inputs    []Tensor  `json:"inputs,omitzero"`
	Outputs   []Tensor  `json:"outputs,omitzero"`
	Facts     *Facts    `json:"facts,omitempty"`
	Batching  *Batching `json:"batching,omitempty"`
	CreatedBy string    `json:"created_by,omitempty"` // user id
	CreatedAt time.Time `json:"created_at,omitzero"`
}

// Facts are what the server found in a version's file.
type Facts struct {
	Opset      int64    `json:"opset"`
	Operators  []string `json:"operators"`
	Nodes      int      `json:"nodes"`
	Parameters int64    `json:"parameters"`
	Trial      string   `json:"trial"`               // "ran", or "inconclusive": zeros were no valid input
	SignedBy   string   `json:"signed_by,omitempty"` // fingerprint of the key, where the server asks for signatures
}

// Batching says whether requests may share runs of a version.
type Batching struct {
	Possible bool    `json:"possible"`         // each row is computed by itself
	Active   bool    `json:"active"`           // and Serving.MaxBatch is set
	Reason   string  `json:"reason,omitempty"` // what stands against it
	Gain     float64 `json:"gain,omitempty"`   // reckoned: times as many predictions a second under load; 0: not measured
}

// Serving is how a model is run; 0 stands for the server's own setting.
type Serving struct {
	TimeoutMS int `json:"timeout_ms,omitempty"` // of one run
	MaxBatch  int `json:"max_batch,omitempty"`  // rows of several requests in one run; 0: none are joined
	Instances int `json:"instances,omitempty"`  // runs at once
	Queue     int `json:"queue,omitempty"`      // predictions that may wait
	// Pinned keeps the default version loaded.
	Pinned bool `json:"pinned,omitempty"`
}

// Models lists the models open to the caller.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	return page[Model](ctx, c, "/models", nil, 0)
}

// Model returns one.
func (c *Client) Model(ctx context.Context, name string) (Model, error) {
	var m Model
	return m, c.call(ctx, http.MethodGet, "/models/"+url.PathEscape(name), nil, &m)
}

// PredictRequest asks for one prediction. Inputs is an object by input name,
// or a bare array where the model has one input; anything that encodes to such
// JSON.
type PredictRequest struct {
	Model   string   `json:"model"`
	Version int      `json:"version,omitempty"`
	Alias   string   `json:"alias,omitempty"`
	ID      string   `json:"id,omitempty"`
	Inputs  any      `json:"inputs"`
	Outputs []string `json:"outputs,omitempty"`
}

// Prediction is the answer; each output is JSON as the server wrote it.
type Prediction struct {
	ID      string                     `json:"id,omitempty"`
	Model   string                     `json:"model"`
	Outputs map[string]json.RawMessage `json:"outputs"`
}

// Predict runs a model.
func (c *Client) Predict(ctx context.Context, r PredictRequest) (Prediction, error) {
	var p Prediction
	return p, c.call(ctx, http.MethodPost, "/predict", r, &p)
}

// Spec is what an upload says besides the file; nil fields keep what is.
type Spec struct {
	Description *string         `json:"description,omitempty"`
	Roles       []string        `json:"roles,omitempty"`
	Inputs      []string        `json:"inputs,omitempty"`  // public names by position
	Outputs     []string        `json:"outputs,omitempty"` // public names by position
	Disclosure  json.RawMessage `json:"disclosure,omitempty"`
	Serving     json.RawMessage `json:"serving,omitempty"`
	Default     bool            `json:"default,omitempty"`
	Signature   []byte          `json:"-"` // see Sign; sent as a part of its own
}

// Push uploads size bytes of an ONNX file as the next version of name. open is
// called once for each try, so that a renewed login can send it again.
func (c *Client) Push(ctx context.Context, name string, size int64, open func() (io.Reader, error), spec Spec) (Version, error) {
	var v Version
	head, tail, contentType, err := envelope(spec)
	if err != nil {
		return v, err
	}
	var opened error
	err = c.send(ctx, http.MethodPost, "/models/"+url.PathEscape(name)+"/versions", contentType, &v, func() (io.Reader, int64) {
		file, err := open()
		if err != nil {
			opened = err
			return bytes.NewReader(nil), 0
		}
		return io.MultiReader(bytes.NewReader(head), io.LimitReader(file, size), bytes.NewReader(tail)), int64(len(head)) + size + int64(len(tail))
	})
	if opened != nil {
		return v, opened
	}
	return v, err
}

// envelope is a multipart body without its file: what stands before and after.
func envelope(spec Spec) (head, tail []byte, contentType string, err error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	part := func(name, extra, kind string) (io.Writer, error) {
		return w.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {fmt.Sprintf(`form-data; name=%q%s`, name, extra)},
			"Content-Type":        {kind},
		})
	}
	p, err := part("spec", "", "application/json")
	if err != nil {
		return nil, nil, "", err
	}
	if err := json.NewEncoder(p).Encode(spec); err != nil {
		return nil, nil, "", err
	}
	if spec.Signature != nil {
		if p, err = part("signature", "", "text/plain"); err != nil {
			return nil, nil, "", err
		}
		if _, err := io.WriteString(p, base64.StdEncoding.EncodeToString(spec.Signature)); err != nil {
			return nil, nil, "", err
		}
	}
	if _, err := part("file", `; filename="model.onnx"`, "application/octet-stream"); err != nil {
		return nil, nil, "", err
	}
	n := b.Len()
	if err := w.Close(); err != nil {
		return nil, nil, "", err
	}
	all := b.Bytes()
	return all[:n:n], all[n:], w.FormDataContentType(), nil
}

// ModelPatch changes what is not nil.
type ModelPatch struct {
	Description    *string         `json:"description,omitempty"`
	Roles          *[]string       `json:"roles,omitempty"`
	Disclosure     json.RawMessage `json:"disclosure,omitempty"`
	Serving        json.RawMessage `json:"serving,omitempty"`
	DefaultVersion *int            `json:"default_version,omitempty"`
	Aliases        *map[string]int `json:"aliases,omitempty"`
}

// UpdateModel changes a model; it holds from the next request.
func (c *Client) UpdateModel(ctx context.Context, name string, p ModelPatch) (Model, error) {
	var m Model
	return m, c.call(ctx, http.MethodPatch, "/models/"+url.PathEscape(name), p, &m)
}

// DeleteModel removes a model with all versions.
func (c *Client) DeleteModel(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/models/"+url.PathEscape(name), nil, nil)
}

// DeleteVersion removes one version.
func (c *Client) DeleteVersion(ctx context.Context, name string, version int) error {
	return c.call(ctx, http.MethodDelete, "/models/"+url.PathEscape(name)+"/versions/"+strconv.Itoa(version), nil, nil)
}

// PredictBytes sends a body of /predict that was made before, and returns the
// answer as it came: for who sends the same one often, or keeps answers whole.
func (c *Client) PredictBytes(ctx context.Context, body []byte) ([]byte, error) {
	var answer []byte
	err := c.send(ctx, http.MethodPost, "/predict", "application/json", &answer, func() (io.Reader, int64) {
		return bytes.NewReader(body), int64(len(body))
	})
	return answer, err
}
