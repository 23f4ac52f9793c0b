package api

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"modelgate/inference"
)

// An answer that there is no memory for is refused like any other request:
// without the headers that the answer would have had.
func TestLargeAnswersAreRefusedPlainly(t *testing.T) {
	w := newWorldOn(t, true, noLimits)
	w.iris()
	id, ada := w.user("ada")
	rows := make([]float32, 4*4000) // less than what counts as large; their answer is more
	ask := func() answer {
		head := fmt.Sprintf(`{"parameters":{"binary_data_output":true},"outputs":[{"name":"probabilities"},{"name":"label"}],`+
			`"inputs":[{"name":"X","datatype":"FP32","shape":[%d,4],"parameters":{"binary_data_size":%d}}]}`, len(rows)/4, 4*len(rows))
		return w.do(request{method: "POST", path: "/v2/models/iris/infer", token: ada, body: head + string(floats(rows...)),
			contentType: octetStream, header: http.Header{headerLength: {fmt.Sprint(len(head))}, "Accept-Encoding": {"identity"}}})
	}
	refused := func(got answer, status int) {
		t.Helper()
		if got.oipRefused(status); got.Header.Get(headerLength) != "" || got.Header.Get("Vary") != "" {
			t.Errorf("the head of a refusal: %v", got.Header)
		}
	}
	if got := ask(); got.Status != 200 || got.Header.Get(headerLength) == "" || len(got.Body) <= firstRead {
		t.Fatalf("%d, %d bytes", got.Status, len(got.Body))
	}
	w.eventually("the answer is still held", w.idle)
	shares := w.api.shares
	if !shares.take(id, shares.most-firstRead) {
		t.Fatal("no share is left")
	}
	refused(ask(), 503)
	shares.give(id, shares.most-firstRead)
	most := shares.most
	shares.most = firstRead // no answer of this size will ever do
	refused(ask(), 413)
	shares.most = most
	ask().is(200)
	w.eventually("everything is given back", w.idle)
}

// TestRetryAfter: an error that knows when to try again says so, to the second
// and never too early.
func TestRetryAfter(t *testing.T) {
	for after, want := range map[time.Duration]int{0: 1, time.Millisecond: 1, 90 * time.Second: 90, 90*time.Second + 1: 91} {
		if got := refuse(inference.ErrUnavailable.After(after)).retry; got != want {
			t.Errorf("after %v: Retry-After %d, want %d", after, got, want)
		}
	}
}
