package api

import (
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"time"

	"modelgate/models"
)

const (
	// uploadMost is how long an upload may take in all. What bounds it before is
	// that it may never pause for longer than the grace of a small body.
	uploadMost = time.Hour
	// uploadExtra is what a multipart body may hold besides the file.
	uploadExtra = 1 << 20
)

// upload takes a model file as multipart: the part "file" and, before or after
// it, the optional part "spec". Whether the caller may publish is decided
// before the body is read; the file goes to the disk as it comes.
func (s *Server) upload(c *call) (published, error) {
	name := c.param("name")
	if err := s.catalog.MayPublish(c.ctx(), c.who, name); err != nil {
		return published{}, err
	}
	r := c.gin.Request
	if err := plainEncoding(r); err != nil {
		return published{}, err
	}
	if r.ContentLength > s.maxModel+uploadExtra {
		return published{}, models.ErrTooLarge
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" || len(params["boundary"]) > 70 {
		return published{}, &fault{code: "unsupported_media_type", detail: `send multipart/form-data with a part "file" (the .onnx file) and, if need be, a part "spec" (JSON)`}
	}
	source := &steady{c: c, r: http.MaxBytesReader(c.gin.Writer, r.Body, s.maxModel+uploadExtra), start: time.Now()}
	file, spec, err := s.readParts(c, source, params["boundary"])
	if file != nil {
		defer file.Discard()
	}
	if err != nil {
		// What the reader met is nearer to the truth than what it was taken for.
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(source.err, &tooLarge):
			return published{}, models.ErrTooLarge
		case source.err != nil && source.err != io.EOF:
			return published{}, stopped(source.err)
		}
		return published{}, err
	}
	m, v, err := s.catalog.Publish(c.ctx(), c.who, name, file, spec.model(), s.inference.Try)
	if err != nil {
		return published{}, err
	}
	return published{Name: m.Name, Version: v.Number, Digest: digest(v), State: v.State,
		Inputs: tensorsOf(v.Signature.Inputs), Outputs: tensorsOf(v.Signature.Outputs),
		Batching: batchingOf(m, v)}, nil
}

// readParts walks the parts. The staged file is returned also with an error.
func (s *Server) readParts(c *call, body io.Reader, boundary string) (file *models.Staged, spec uploadSpec, err error) {
	parts := multipart.NewReader(body, boundary)
	hasSpec := false
	for {
		part, err := parts.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return file, spec, &fault{code: "invalid_input", detail: "the multipart body is broken or stops before its end; send it again", cause: err}
		}
		// A file name of the client's is never looked at.
		switch part.FormName() {
		case "file":
			if file != nil {
				return file, spec, invalid(`the part "file" is given twice`)
			}
			if file, err = s.catalog.Stage(c.ctx(), part); err != nil {
				return file, spec, err
			}
		case "spec":
			if hasSpec {
				return file, spec, invalid(`the part "spec" is given twice`)
			}
			hasSpec = true
			data, err := io.ReadAll(io.LimitReader(part, policyBody+1))
			if err != nil {
				return file, spec, stopped(err)
			}
			if len(data) > policyBody {
				return file, spec, &fault{code: "too_large", detail: `the part "spec" is larger than 64 KiB`}
			}
			if err := decodeJSON(data, &spec); err != nil {
				return file, spec, err
			}
		default:
			return file, spec, invalid(`a part is neither "file" nor "spec"`)
		}
	}
	// To the very end, so that a client that leaves during the trial is noticed.
	if _, err := io.Copy(io.Discard, body); err != nil {
		return file, spec, stopped(err)
	}
	if file == nil {
		return nil, spec, invalid(`the part "file" is missing; it holds the .onnx file`)
	}
	return file, spec, nil
}

// steady renews the read deadline as long as bytes come, up to uploadMost.
// A client that stops for longer than the server's grace is cut.
type steady struct {
	c       *call
	r       io.Reader
	start   time.Time
	renewed time.Time
	err     error // the first that the body gave
}

func (s *steady) Read(p []byte) (int, error) {
	if now := time.Now(); now.Sub(s.renewed) > s.c.s.bodyGrace/8 {
		s.renewed = now
		end := now.Add(s.c.s.bodyGrace)
		if last := s.start.Add(uploadMost); last.Before(end) {
			end = last
		}
		s.c.readUntil(end)
	}
	n, err := s.r.Read(p)
	if err != nil && s.err == nil {
		s.err = err
	}
	return n, err
}
