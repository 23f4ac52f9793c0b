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
	envelope, err := inference.ScanPredict(b.data)
	if err != nil {
		return err
	}
	ref := models.Ref{Model: envelope.Model, Version: envelope.Version, Alias: envelope.Alias}
	result, err := s.inference.Predict(c.ctx(), c.who, ref, func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
		in, err := inference.DecodeJSON(envelope.Inputs, sig, mem)
		if err != nil {
			return nil, err
		}
		request := &inference.Request{Inputs: in, Outputs: envelope.Outputs}
		if rows := int64(inference.Rows(sig, in)); rows > 1 {
			return request, s.chargeRest(c, rows)
		}
		return request, nil
	})
	if err != nil {
		return err
	}
	defer result.Release()
	buf := answers.Get().(*[]byte)
	out, err := inference.AppendJSON((*buf)[:0], result, &envelope)
	if err != nil {
		return err
	}
	c.write(c.rt.status, typeJSON, out)
	// Under HTTP/2 the connection may still read from out when the client reset
	// the stream meanwhile; a buffer in use again would send him another's answer.
	if r.ProtoMajor == 1 && cap(out) <= largestKept {
		*buf = out
		answers.Put(buf)
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
