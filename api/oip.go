package api

import (
	"net/http"
	"strconv"

	"modelgate/inference"
	"modelgate/models"
)

// The Open Inference Protocol, version 2, over REST, with the binary tensor
// data extension: another way to write a prediction. Who may, what it costs
// and what is shown is decided where it is for /predict.

const (
	headerLength  = "Inference-Header-Content-Length"
	octetStream   = "application/octet-stream"
	noVersionText = "a version is a number from 1 up"
)

var typeOctets = []string{octetStream}

// inferring is what one infer request needs between its scan and its answer.
type inferring struct {
	call    *call
	scanned inference.Infer
	request inference.Request
}

// read decodes the inputs for a model that the caller may use, and charges
// their rows.
func (p *inferring) read(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
	in, err := inference.DecodeInfer(&p.scanned, sig, mem)
	if err != nil {
		return nil, err
	}
	p.request = inference.Request{Inputs: in, Outputs: p.scanned.Outputs}
	if rows := int64(inference.Rows(sig, in)); rows > 1 {
		return &p.request, p.call.s.chargeRest(p.call, rows)
	}
	return &p.request, nil
}

// infer is predict with another codec, and with compression both ways.
func (s *Server) infer(c *call) error {
	r := c.gin.Request
	if !oipMediaType(r) {
		return &fault{code: "unsupported_media_type", detail: "send Content-Type: application/json, or application/octet-stream with binary tensors"}
	}
	ref, err := c.oipRef()
	if err != nil {
		return err
	}
	header, err := headerOf(r)
	if err != nil {
		return err
	}
	lc, err := s.rates.chargePrediction(c.ctx(), &c.who, 1)
	c.rateHeaders(lc)
	if err != nil {
		return err
	}
	b, err := c.readCompressed(s.maxBody)
	defer b.release()
	if err != nil {
		return err
	}
	p := inferring{call: c}
	if p.scanned, err = inference.ScanInfer(b.data, header); err != nil {
		return err
	}
	if p.scanned.Model != "" && p.scanned.Model != ref.Model {
		return invalid("\"model_name\" is not the model of the path; leave it out, or send the same")
	}
	result, err := s.inference.Predict(c.ctx(), c.who, ref, p.read)
	if err != nil {
		return err
	}
	return c.writeInference(result, &p.scanned, &b)
}

// writeInference sends an answer, compressed where the client takes that. It
// frees the result and the request's body first: a slow reader holds neither.
func (c *call) writeInference(result *inference.Result, asked *inference.Infer, b *body) error {
	buf := answers.Get().(*[]byte)
	out, header, err := c.encodeInference(*buf, result, asked)
	b.release()
	if err != nil {
		return err
	}
	coding := wantedCoding(c.gin.Request)
	if coding != "" {
		packed, err := compress(coding, out)
		keepAnswer(buf, out)
		if err != nil {
			return err
		}
		buf, out = nil, packed
	}
	release, err := c.holdAnswer(out)
	if err != nil {
		return err
	}
	defer release()
	// Headers of the answer come last: a refusal must not have them.
	mediaType := typeJSON
	if header != inference.NoHeader {
		mediaType = typeOctets
		c.setNumber(headerLength, int64(header))
	}
	c.vary("Accept-Encoding")
	if coding != "" {
		c.setHeader("Content-Encoding", coding)
	}
	c.write(c.rt.status, mediaType, out)
	if buf != nil && c.gin.Request.ProtoMajor == 1 { // as in predict
		keepAnswer(buf, out)
	}
	return nil
}

// encodeInference writes the answer into buf's memory and frees result.
func (c *call) encodeInference(buf []byte, result *inference.Result, asked *inference.Infer) (out []byte, header int, err error) {
	defer result.Release()
	return inference.AppendInfer(buf[:0], result, asked, c.param("version"))
}

// oipMediaType reports whether the body may be what the protocol sends. Its
// clients often say nothing of the type.
func oipMediaType(r *http.Request) bool {
	return len(r.Header["Content-Type"]) == 0 || hasMediaType(r, "application/json") || hasMediaType(r, octetStream)
}

// headerOf reads the length of the JSON before binary tensors.
func headerOf(r *http.Request) (int, error) {
	switch given := r.Header[headerLength]; len(given) {
	case 0:
		return inference.NoHeader, nil
	case 1:
		n, err := inference.HeaderLength(given[0])
		if err == nil && n == 0 && hasMediaType(r, "application/json") {
			// The text would be taken for numbers.
			return 0, invalid("a body of Content-Type application/json is not the bytes of an input: leave " + headerLength +
				" out, or send Content-Type: application/octet-stream")
		}
		return n, err
	}
	return 0, invalid("the header " + headerLength + " is given more than once")
}

// oipRef is the model of the path, in its default version unless the path
// names one.
func (c *call) oipRef() (models.Ref, error) { return refOf(c.param("name"), c.param("version")) }

// refOf is a model in the version that text names; "": its default one.
func refOf(name, text string) (models.Ref, error) {
	ref := models.Ref{Model: name}
	if text == "" {
		return ref, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || strconv.Itoa(n) != text {
		return ref, invalid(noVersionText)
	}
	ref.Version = n
	return ref, nil
}
