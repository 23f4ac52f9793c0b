package inferencetest

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"modelgate/inference"
	"modelgate/models"
)

// Inputs and outputs keep their order, and only what is wanted comes back.
func testOrder(t *testing.T, s *suite) {
	session, mem := s.session(t, "two_io.onnx")
	a := tensor[float32](t, mem, models.Float32, []int64{2, 3}, 1, 2, 3, 4, 5, 6)
	b := tensor[float32](t, mem, models.Float32, []int64{2, 3}, 10, 20, 30, 1, 1, 1)
	difference, dot := []float32{-9, -18, -27, 3, 4, 5}, []float32{140, 15}
	check := func(want []int, in ...inference.Tensor) {
		t.Helper()
		for i, v := range run(t, session, want, in...) {
			if want[i] == 0 {
				expect(t, &v, models.Float32, []int64{2, 3}, difference...)
			} else {
				expect(t, &v, models.Float32, []int64{2, 1}, dot...)
			}
		}
	}
	for _, want := range [][]int{{0, 1}, {1, 0}, {0}, {1}, {}} {
		check(want, a, b)
	}
	difference = []float32{9, 18, 27, -3, -4, -5}
	check([]int{1, 0}, b, a)
}

// Every element type goes in and comes out bit by bit.
func testTypes(t *testing.T, s *suite) {
	session, mem := s.session(t, "types.onnx")
	inputs := session.Graph().Inputs
	for _, n := range []int64{5, 1, 0, 1000} {
		var in []inference.Tensor
		var want []int
		for i, g := range inputs {
			x, err := inference.NewTensor(mem, g.Type, []int64{n})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(x.Release)
			for k := range x.Data {
				x.Data[k] = byte(k*37 + i)
				if g.Type == models.Bool {
					x.Data[k] = byte(k % 2)
				}
			}
			for k := range x.Strings {
				x.Strings[k] = []string{"", "plain", "Grüße, 世界 🦊", "nul \x00 inside", "not \xff UTF-8"}[k%5]
			}
			in, want = append(in, x), append(want, i)
		}
		for i, v := range run(t, session, want, in...) {
			got, sent := &v.Tensor, &in[i]
			if got.Type != sent.Type || !slices.Equal(got.Shape, sent.Shape) {
				t.Errorf("%v: got %v %v", sent.Type, got.Type, got.Shape)
			}
			if !bytes.Equal(got.Data, sent.Data) || !slices.Equal(got.Strings, sent.Strings) {
				t.Errorf("%v of %d elements came back changed", sent.Type, n)
			}
			if sent.Type != models.String && n > 0 && &got.Data[0] == &sent.Data[0] {
				t.Errorf("%v: the output is the input's memory", sent.Type)
			}
		}
	}
}

func testScalar(t *testing.T, s *suite) {
	session, mem := s.session(t, "scalar.onnx")
	for _, x := range []float32{1.5, -0.25, 0} {
		v := run(t, session, []int{0, 1}, tensor(t, mem, models.Float32, []int64{}, x))
		expect(t, &v[0], models.Float32, []int64{}, 2*x)
		positive := uint8(0)
		if x > 0 {
			positive = 1
		}
		expect(t, &v[1], models.Bool, []int64{}, positive)
	}
}

// Open dimensions may change from run to run, and may be 0.
func testDynamic(t *testing.T, s *suite) {
	session, mem := s.session(t, "dynamic.onnx")
	for _, shape := range [][]int64{{1, 1, 1}, {2, 3, 4}, {0, 3, 4}, {2, 3, 0}, {5, 1, 2}, {2, 3, 4}, {1, 300, 70}} {
		n, _ := inference.Elements(shape)
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(i % 251)
		}
		batch, rows, columns := shape[0], shape[1], shape[2]
		turned, sums := make([]float32, n), make([]float32, batch*rows)
		for i, x := range data {
			b, r, c := int64(i)/(rows*columns), int64(i)/columns%rows, int64(i)%columns
			turned[(b*columns+c)*rows+r] = x
			sums[b*rows+r] += x
		}
		v := run(t, session, []int{0, 1}, tensor(t, mem, models.Float32, shape, data...))
		expect(t, &v[0], models.Float32, []int64{batch, columns, rows}, turned...)
		expect(t, &v[1], models.Float32, []int64{batch, rows}, sums...)
	}
}

func testSequences(t *testing.T, s *suite) {
	session, mem := s.session(t, "sequence.onnx")
	x := tensor[float32](t, mem, models.Float32, []int64{2, 3}, 1, 2, 3, 4, 5, 6)
	n := tensor[int64](t, mem, models.Int64, []int64{5}, 7, 8, 9, 10, 11)
	v := run(t, session, []int{1, 0}, x, n)
	for _, part := range v {
		if part.Kind != models.KindTensors {
			t.Fatalf("a value of kind %d is no sequence of tensors", part.Kind)
		}
	}
	if len(v[0].Tensors) != 3 || len(v[1].Tensors) != 2 {
		t.Fatalf("sequences of %d and %d tensors", len(v[0].Tensors), len(v[1].Tensors))
	}
	expectTensor[int64](t, &v[0].Tensors[0], models.Int64, []int64{2}, 7, 8)
	expectTensor[int64](t, &v[0].Tensors[1], models.Int64, []int64{2}, 9, 10)
	expectTensor[int64](t, &v[0].Tensors[2], models.Int64, []int64{1}, 11)
	expectTensor[float32](t, &v[1].Tensors[0], models.Float32, []int64{3}, 1, 2, 3)
	expectTensor[float32](t, &v[1].Tensors[1], models.Float32, []int64{3}, 4, 5, 6)
}

// A sequence of maps has one map per row, with keys of either kind.
func testMaps(t *testing.T, s *suite) {
	e, mem := s.engine(t)
	for name, key := range map[string]models.DataType{"iris.onnx": models.Int64, "zipmap_strings.onnx": models.String} {
		session := s.load(t, e, name)
		for _, rows := range []int64{2, 1, 64} {
			data := make([]float32, 4*rows)
			for i := range data {
				data[i] = float32(i%7) + 0.5
			}
			v := run(t, session, []int{0, 1}, tensor(t, mem, models.Float32, []int64{rows, 4}, data...))
			if v[1].Kind != models.KindMaps || int64(len(v[1].Maps)) != rows {
				t.Fatalf("%s: a value of kind %d with %d maps for %d rows", name, v[1].Kind, len(v[1].Maps), rows)
			}
			for i := range v[1].Maps {
				checkMap(t, name, &v[1].Maps[i], key)
			}
		}
	}
}

// checkMap wants the probabilities of three classes.
func checkMap(t *testing.T, name string, m *inference.Map, key models.DataType) {
	t.Helper()
	if m.Keys.Type != key || !slices.Equal(m.Keys.Shape, []int64{3}) || !slices.Equal(m.Values.Shape, []int64{3}) {
		t.Fatalf("%s: keys %v %v, values %v", name, m.Keys.Type, m.Keys.Shape, m.Values.Shape)
	}
	if key == models.String && !slices.Equal(m.Keys.Strings, []string{"setosa", "versicolor", "virginica"}) {
		t.Fatalf("%s: keys %q", name, m.Keys.Strings)
	}
	if key == models.Int64 && !slices.Equal(inference.View[int64](&m.Keys), []int64{0, 1, 2}) {
		t.Fatalf("%s: keys %v", name, inference.View[int64](&m.Keys))
	}
	sum := 0.0
	for _, p := range inference.View[float32](&m.Values) {
		sum += float64(p)
	}
	if math.Abs(sum-1) > 1e-4 {
		t.Fatalf("%s: probabilities %v", name, inference.View[float32](&m.Values))
	}
}

// Inputs come back as they were and stay the caller's.
func testInputs(t *testing.T, s *suite) {
	session, mem := s.session(t, "two_io.onnx")
	a := tensor[float32](t, mem, models.Float32, []int64{1, 3}, 1, 2, 3)
	b := tensor[float32](t, mem, models.Float32, []int64{1, 3}, 4, 5, 6)
	v := run(t, session, []int{0}, a, b)
	copy(inference.View[float32](&a), []float32{-1, -1, -1})
	expect[float32](t, &v[0], models.Float32, []int64{1, 3}, -3, -3, -3)
	expectTensor[float32](t, &b, models.Float32, []int64{1, 3}, 4, 5, 6)
	again := run(t, session, []int{0}, a, b)
	expect[float32](t, &again[0], models.Float32, []int64{1, 3}, -5, -6, -7)
}

// Tensors need not come from a Memory.
func testHeapInputs(t *testing.T, s *suite) {
	session, _ := s.session(t, "two_io.onnx")
	one := []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0} // 1, 0, -2
	in := inference.Tensor{Type: models.Float32, Shape: []int64{1, 3}, Data: one}
	v := run(t, session, []int{1, 0}, in, in)
	expect[float32](t, &v[0], models.Float32, []int64{1, 1}, 5)
	expect[float32](t, &v[1], models.Float32, []int64{1, 3}, 0, 0, 0)
	empty := inference.Tensor{Type: models.Float32, Shape: []int64{0, 3}}
	v = run(t, session, []int{0}, empty, empty)
	expect[float32](t, &v[0], models.Float32, []int64{0, 3})
}

// Inputs may lie in the session's room, elsewhere, or some here and some there;
// they stay as they are.
func testRoom(t *testing.T, s *suite) {
	session, mem := s.session(t, "two_io.onnx")
	room := session.Room()
	if room == nil {
		t.Fatal("the session has no room for its inputs")
	}
	before := room.InUse()
	elsewhere := inference.NewMemory(1 << 20)
	for _, from := range [][2]*inference.Memory{{room, room}, {mem, mem}, {elsewhere, elsewhere}, {room, elsewhere}, {elsewhere, room}} {
		t.Run("", func(t *testing.T) { // whose end releases the tensors
			a := tensor[float32](t, from[0], models.Float32, []int64{2, 3}, 5, 5, 5, 10, 10, 10)
			b := tensor[float32](t, from[1], models.Float32, []int64{2, 3}, 3, 3, 3, 6, 6, 6)
			for range 2 {
				v := run(t, session, []int{1, 0}, a, b)
				expect[float32](t, &v[0], models.Float32, []int64{2, 1}, 45, 180)
				expect[float32](t, &v[1], models.Float32, []int64{2, 3}, 2, 2, 2, 4, 4, 4)
			}
			expectTensor[float32](t, &a, models.Float32, []int64{2, 3}, 5, 5, 5, 10, 10, 10)
			expectTensor[float32](t, &b, models.Float32, []int64{2, 3}, 3, 3, 3, 6, 6, 6)
		})
	}
	if n := room.InUse(); n != before {
		t.Errorf("%d bytes of the room are in use; before the runs, %d were", n, before)
	}
}

// What does not fit the graph is an error, never a read beyond what is there.
func testMisfits(t *testing.T, s *suite) {
	session, mem := s.session(t, "two_io.onnx")
	a := tensor[float32](t, mem, models.Float32, []int64{1, 3}, 1, 2, 3)
	in := func(x inference.Tensor) []inference.Tensor { return []inference.Tensor{a, x} }
	for name, c := range map[string]struct {
		in   []inference.Tensor
		want []int
	}{
		"no inputs":        {nil, []int{0}},
		"one input":        {[]inference.Tensor{a}, []int{0}},
		"three inputs":     {[]inference.Tensor{a, a, a}, []int{0}},
		"another type":     {in(tensor[int32](t, mem, models.Int32, []int64{1, 3}, 1, 2, 3)), []int{0}},
		"another rank":     {in(tensor[float32](t, mem, models.Float32, []int64{3}, 1, 2, 3)), []int{0}},
		"another size":     {in(tensor[float32](t, mem, models.Float32, []int64{1, 4}, 1, 2, 3, 4)), []int{0}},
		"too little data":  {in(inference.Tensor{Type: models.Float32, Shape: []int64{1, 3}, Data: a.Data[:8]}), []int{0}},
		"too much data":    {in(inference.Tensor{Type: models.Float32, Shape: []int64{0, 3}, Data: a.Data}), []int{0}},
		"a vast shape":     {in(inference.Tensor{Type: models.Float32, Shape: []int64{6148914691236517207, 3}, Data: a.Data[:4]}), []int{0}},
		"a negative shape": {in(inference.Tensor{Type: models.Float32, Shape: []int64{-1, -3}, Data: a.Data}), []int{0}},
		"output 2":         {in(a), []int{2}},
		"output -1":        {in(a), []int{-1}},
		"output 0 twice":   {in(a), []int{0, 0}},
	} {
		values, err := session.Run(t.Context(), c.in, c.want)
		if err == nil || values != nil {
			t.Errorf("%s: no error", name)
			continue
		}
		refused(t, err, inference.ErrRun)
	}
}

// A run that fails leaves the session as good as before.
func testFailedRun(t *testing.T, s *suite) {
	session, mem := s.session(t, "divide.onnx")
	seven := tensor[int64](t, mem, models.Int64, []int64{1}, 7)
	for range 3 {
		values, err := session.Run(t.Context(), []inference.Tensor{seven, tensor[int64](t, mem, models.Int64, []int64{1}, 0)}, []int{0})
		if values != nil {
			t.Error("a failed run gave values")
		}
		refused(t, err, inference.ErrRun)
		v := run(t, session, []int{0}, seven, tensor[int64](t, mem, models.Int64, []int64{1}, 2))
		expect[int64](t, &v[0], models.Int64, []int64{1}, 3)
	}
}

// Outputs count for the memory that the engine was given.
func testOutputsBeyondMemory(t *testing.T, s *suite) {
	mem, inputs := inference.NewMemory(1<<16), inference.NewMemory(budget)
	e := s.open(t, mem)
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	session, err := e.Load(t.Context(), s.file(t, "types.onnx"), inference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	runWith := func(n int64) error {
		var in []inference.Tensor
		var want []int
		for i, g := range session.Graph().Inputs {
			x, err := inference.NewTensor(inputs, g.Type, []int64{n})
			if err != nil {
				t.Fatal(err)
			}
			defer x.Release()
			clear(x.Data)
			in, want = append(in, x), append(want, i)
		}
		values, err := session.Run(t.Context(), in, want)
		for i := range values {
			values[i].Release()
		}
		return err
	}
	if err := runWith(10); err != nil {
		t.Fatal(err)
	}
	for n, code := range map[int64]*inference.Error{20_000: inference.ErrTooLarge, 3_000: inference.ErrUnavailable} {
		err := runWith(n)
		if e, ok := err.(*inference.Error); !ok || e.Code != code.Code {
			t.Errorf("%d elements: got %v, want the code %s", n, err, code.Code)
		}
		if mem.InUse() != 0 {
			t.Errorf("%d elements: %d bytes were not released", n, mem.InUse())
		}
	}
	if err := runWith(10); err != nil {
		t.Error(err)
	}
}
