package inference

import "modelgate/models"

// Envelope is the body of POST /predict with its inputs still unread.
type Envelope struct {
	Model   string
	Version int
	Alias   string
	ID      string
	HasID   bool
	Outputs []string
	Inputs  []byte // raw JSON, points into the body
}

// ScanPredict reads the top-level keys of a body.
func ScanPredict(body []byte) (Envelope, error) { return Envelope{}, ErrInput }

// DecodeJSON reads the inputs into tensors, in signature order.
func DecodeJSON(inputs []byte, sig *models.Signature, mem *Memory) ([]Tensor, error) {
	return nil, ErrInput
}

// AppendJSON appends the answer to dst.
func AppendJSON(dst []byte, r *Result, e *Envelope) ([]byte, error) { return dst, ErrRun }
