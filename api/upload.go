package api

import (
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
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
// it, the optional parts "spec" and "signature". Whether the caller may publish is decided
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
	u := upload{name: name}
	defer u.done()
	err = s.readParts(c, source, params["boundary"], &u)
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
	if err := c.stillMay(); err != nil {
		return published{}, err
	}
	m, v, err := s.catalog.Publish(c.ctx(), c.who, name, u.file, u.model(), s.inference.Try)
	if err != nil {
		return published{}, err
	}
	return published{Name: m.Name, Version: v.Number, Digest: digest(v), State: v.State,
		Inputs: tensorsOf(v.Signature.Inputs), Outputs: tensorsOf(v.Signature.Outputs),
		Batching: batchingOf(m, v)}, nil
}

// upload is what the parts of an upload hold.
type upload struct {
	name      string
	file      *models.Staged // nil: none yet
	spec      *uploadSpec
	signature []byte
	metered   func() // gives the room of file back
}

func (u *upload) done() {
	if u.file != nil {
		u.file.Discard()
	}
	if u.metered != nil {
		u.metered()
	}
}

// model is what the upload says besides the file.
func (u *upload) model() models.Spec {
	var spec models.Spec
	if u.spec != nil {
		spec = u.spec.model()
	}
	spec.Signature = u.signature
	return spec
}

// readParts walks the parts.
func (s *Server) readParts(c *call, body io.Reader, boundary string, u *upload) error {
	parts := multipart.NewReader(body, boundary)
	for {
		part, err := parts.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return &fault{code: "invalid_input", detail: "the multipart body is broken or stops before its end; send it again", cause: err}
		}
		if err := s.readPart(c, part, u); err != nil {
			return err
		}
	}
	// To the very end, so that a client that leaves during the trial is noticed.
	if _, err := io.Copy(io.Discard, body); err != nil {
		return stopped(err)
	}
	if u.file == nil {
		return invalid(`the part "file" is missing; it holds the .onnx file`)
	}
	return nil
}

// readPart takes one part. A file name of the client's is never looked at. A part
// that says it is compressed is refused: it would be taken as it is, and what is
// unpacked may be of any size.
func (s *Server) readPart(c *call, part *multipart.Part, u *upload) (err error) {
	name := part.FormName()
	if encoding := part.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return &fault{code: "unsupported_encoding", detail: "a part is compressed; send it as it is, without Content-Encoding"}
	}
	switch {
	case name == "file" && u.file != nil, name == "spec" && u.spec != nil, name == "signature" && u.signature != nil:
		return invalid(`the part "` + name + `" is given twice`)
	case name == "file":
		var file io.Reader
		file, u.metered = s.catalog.Metered(c.who, u.name, part)
		u.file, err = s.catalog.Stage(c.ctx(), file)
		return err
	case name == "spec":
		data, err := readSmall(part, name, policyBody, "64 KiB")
		if err != nil {
			return err
		}
		u.spec = &uploadSpec{}
		return decodeJSON(data, u.spec)
	case name == "signature":
		data, err := readSmall(part, name, signatureBody, "1 KiB")
		if err != nil {
			return err
		}
		u.signature, err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(data)))
		if err != nil || len(u.signature) == 0 {
			return invalid(`the part "signature" is no base64; "modelgate push --sign-key FILE" makes one`)
		}
		return nil
	}
	return invalid(`a part is neither "file" nor "spec" nor "signature"`)
}

// signatureBody is more than any signature takes, line breaks included.
const signatureBody = 1 << 10

// readSmall reads a whole part of at most so many bytes.
func readSmall(part io.Reader, name string, most int64, text string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(part, most+1))
	if err != nil {
		return nil, stopped(err)
	}
	if int64(len(data)) > most {
		return nil, &fault{code: "too_large", detail: `the part "` + name + `" is larger than ` + text}
	}
	return data, nil
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
