package api

import (
	"sync"

	"modelgate/inference"
	"modelgate/models"
)

// answers are buffers that answers of /predict are written to.
var answers = sync.Pool{New: func() any { return new([]byte) }}

// largestKept is how large a buffer goes back to answers.
const largestKept = 1 << 20

// keepAnswer gives buf, which has grown to out, back to answers. Nothing may
// read from it any more.
func keepAnswer(buf *[]byte, out []byte) {
	if cap(out) <= largestKept {
		*buf = out
		answers.Put(buf)
	}
}

// prediction is what one request to /predict needs between its scan and its
// answer. It is used again, so that the hot path makes no garbage of its own.
type prediction struct {
	call     *call
	envelope inference.Envelope
	request  inference.Request
	decoder  inference.JSONDecoder
	decode   inference.Decode // the method read, bound once
}

var predictions = sync.Pool{New: func() any {
	p := new(prediction)
	p.decode = p.read
	return p
}}

// done gives p back. Inference has returned by then and keeps nothing of it.
func (p *prediction) done() {
	*p = prediction{decode: p.decode}
	predictions.Put(p)
}

// read decodes the inputs for a model that the caller may use, and charges
// their rows.
func (p *prediction) read(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
	in, err := p.decoder.Decode(p.envelope.Inputs, sig, mem)
	if err != nil {
		return nil, err
	}
	p.request = inference.Request{Inputs: in, Outputs: p.envelope.Outputs}
	if rows := int64(inference.Rows(sig, in)); rows > 1 {
		return &p.request, p.call.s.chargeRest(p.call, rows)
	}
	return &p.request, nil
}

// predict is the one hot route: one unit of the caller's rate, the bounded
// body, one scan, and inference with decode called back once the caller was
// let in. The rest of the rows is charged before anything runs.
func (s *Server) predict(c *call) error {
	r := c.gin.Request
	if !hasMediaType(r, "application/json") {
		return &fault{code: "unsupported_media_type", detail: "send JSON, with Content-Type: application/json"}
	}
	// Before the body, so that a caller who is over his rate costs nothing.
	lc, err := s.rates.chargePrediction(c.ctx(), &c.who, 1)
	c.rateHeaders(lc)
	if err != nil {
		return err
	}
	b, err := c.readBody(s.maxBody)
	defer b.release()
	if err != nil {
		return err
	}
	p := predictions.Get().(*prediction)
	defer p.done()
	p.call = c
	if p.envelope, err = inference.ScanPredict(b.data); err != nil {
		return err
	}
	ref := models.Ref{Model: p.envelope.Model, Version: p.envelope.Version, Alias: p.envelope.Alias}
	result, err := s.inference.Predict(c.ctx(), c.who, ref, p.decode)
	if err != nil {
		return err
	}
	buf := answers.Get().(*[]byte)
	out, err := encode(*buf, result, &p.envelope)
	// Nothing of the request is held while a slow client reads its answer.
	b.release()
	if err != nil {
		return err
	}
	release, err := c.holdAnswer(out)
	if err != nil {
		return err
	}
	defer release()
	c.write(c.rt.status, typeJSON, out)
	// Under HTTP/2 the connection may still read from out when the client reset
	// the stream meanwhile; a buffer in use again would send him another's answer.
	if r.ProtoMajor == 1 {
		keepAnswer(buf, out)
	}
	return nil
}

// chargeRest takes what a prediction costs beyond the unit charged at first.
func (s *Server) chargeRest(c *call, rows int64) error {
	if limit := s.rates.rateOf(&c.who).Limit; rows > limit {
		return s.rates.tooManyRows(rows, limit)
	}
	lc, err := s.rates.chargePrediction(c.ctx(), &c.who, rows-1)
	c.rateHeaders(lc)
	return err
}

// encode writes the answer into buf's memory and frees result.
func encode(buf []byte, result *inference.Result, e *inference.Envelope) ([]byte, error) {
	defer result.Release()
	return inference.AppendJSON(buf[:0], result, e)
}
