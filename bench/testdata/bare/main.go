// Command bare is a yardstick of the benchmarks: the server that is left of
// modelgate without a gate. It answers POST /predict on the same framework,
// with the same codec, the same runtime and as many runs at once as cores, but
// asks nobody who he is, decides, counts, limits, measures and records nothing,
// and sends no headers of its own. It is no part of the program, hence its
// place outside the rooms; it must not grow.
package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"sync"

	"github.com/gin-gonic/gin"

	"modelgate/inference"
	"modelgate/inference/ort"
	"modelgate/models"
)

// scratch is the memory of one request.
type scratch struct{ in, out []byte }

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: bare ADDRESS MODEL.onnx")
	}
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func serve(address, path string) error {
	library, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB"))
	if err != nil {
		return err
	}
	mem := inference.NewMemory(1 << 30)
	engine, err := ort.Open(library, ort.Config{Memory: mem})
	if err != nil {
		return err
	}
	model, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	session, err := engine.Load(context.Background(), model, inference.Options{})
	if err != nil {
		return err
	}
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.GET("/", func(c *gin.Context) { c.Status(http.StatusOK) })
	router.POST("/predict", predict(session, mem))
	return router.Run(address)
}

// predict is one handler for all requests.
func predict(session inference.Session, mem *inference.Memory) gin.HandlerFunc {
	sig, want := contract(session.Graph())
	turns := make(chan struct{}, runtime.GOMAXPROCS(0))
	pool := sync.Pool{New: func() any { return new(scratch) }}
	return func(c *gin.Context) {
		s := pool.Get().(*scratch)
		defer pool.Put(s)
		if c.Request.ContentLength < 0 || c.Request.ContentLength > 32<<20 {
			c.Status(http.StatusLengthRequired)
			return
		}
		if n := int(c.Request.ContentLength); cap(s.in) < n {
			s.in = make([]byte, n)
		} else {
			s.in = s.in[:n]
		}
		if _, err := io.ReadFull(c.Request.Body, s.in); err != nil {
			c.Status(http.StatusBadRequest)
			return
		}
		out, err := answer(c.Request.Context(), session, mem, sig, want, turns, s)
		if err != nil {
			c.String(http.StatusBadRequest, "%v", err)
			return
		}
		s.out = out
		c.Data(http.StatusOK, "application/json", out)
	}
}

// answer goes from a body to the JSON of the outputs.
func answer(ctx context.Context, session inference.Session, mem *inference.Memory, sig *models.Signature, want []int,
	turns chan struct{}, s *scratch) ([]byte, error) {
	envelope, err := inference.ScanPredict(s.in)
	if err != nil {
		return nil, err
	}
	in, err := inference.DecodeJSON(envelope.Inputs, sig, mem)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range in {
			in[i].Release()
		}
	}()
	turns <- struct{}{}
	values, err := session.Run(ctx, in, want)
	<-turns
	if err != nil {
		return nil, err
	}
	result := inference.Result{Model: envelope.Model, Outputs: make([]inference.Output, len(values))}
	defer result.Release()
	for i := range values {
		result.Outputs[i] = inference.Output{Name: sig.Outputs[i].Name, Value: values[i]}
	}
	return inference.AppendJSON(s.out[:0], &result, &envelope)
}

// contract makes graph names public, as they are.
func contract(graph models.Graph) (sig *models.Signature, want []int) {
	sig = new(models.Signature)
	for _, v := range graph.Inputs {
		sig.Inputs = append(sig.Inputs, models.TensorSpec{Name: v.Name, GraphValue: v})
	}
	for i, v := range graph.Outputs {
		sig.Outputs = append(sig.Outputs, models.TensorSpec{Name: v.Name, GraphValue: v})
		want = append(want, i)
	}
	return sig, want
}
