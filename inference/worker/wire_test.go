//go:build linux && (amd64 || arm64)

package worker

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"modelgate/inference"
	"modelgate/models"
)

func TestPack(t *testing.T) {
	for _, text := range [][]string{{}, {""}, {"a"}, {"", "äöü", "", "x\x00y"}, make([]string, 1000)} {
		b := make([]byte, packedSize(text))
		pack(b, text)
		got := make([]string, len(text))
		if err := unpack(string(b), got); err != nil || !slices.Equal(got, text) {
			t.Errorf("%q became %q (%v)", text, got, err)
		}
		if len(text) == 0 {
			continue
		}
		if unpack(string(b[:len(b)-1]), got) == nil {
			t.Errorf("%q, cut, was taken", text)
		}
		if unpack(string(b)+"x", got) == nil {
			t.Errorf("%q with a byte more was taken", text)
		}
	}
	ends := func(list ...uint64) string {
		var b []byte
		for _, n := range list {
			b = binary.LittleEndian.AppendUint64(b, n)
		}
		return string(b)
	}
	for what, packed := range map[string]string{
		"ends that go back":   ends(3, 1) + "abc",
		"an end beyond":       ends(1, 1<<63) + "abc",
		"an end of all bits":  ends(1, 1<<64-1) + "abc",
		"no table":            "abc",
		"bytes that are left": ends(1, 2) + "abc",
	} {
		if unpack(packed, make([]string, 2)) == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

// reading is a session without a worker, whose outputs hold that content.
func reading(t testing.TB, graph models.Graph, outputs []byte) (*session, *inference.Memory) {
	t.Helper()
	room := (len(outputs) + pageMask) &^ pageMask
	a, err := arenaOf(make([]byte, arenaSize(room)))
	if err != nil {
		t.Fatal(err)
	}
	copy(a.outputs(), outputs)
	mem := inference.NewMemory(1 << 20)
	return &session{engine: &Engine{cfg: Config{Memory: mem}}, process: &process{arena: a}, graph: graph}, mem
}

// fuzzed has an output of each kind.
var fuzzed = models.Graph{Outputs: []models.GraphValue{
	{Kind: models.KindTensor, Type: models.Float32},
	{Kind: models.KindTensor, Type: models.String},
	{Kind: models.KindTensors, Type: models.Int64},
	{Kind: models.KindMaps, Key: models.String, Type: models.Float32},
	{Kind: models.KindMap, Key: models.Int64, Type: models.Float32},
	{Kind: models.KindTensor, Type: models.Bool},
}}

// FuzzAnswer reads any answer whatsoever: it is refused, or its values are
// whole, and nothing of its size is allocated beyond the memory's budget.
func FuzzAnswer(f *testing.F) {
	const base = 0 // of places: relative to the outputs
	tensor := func(b []byte, typ models.DataType, at, size uint64, shape ...int64) []byte {
		x := inference.Tensor{Type: typ, Shape: shape}
		return appendTensor(b, &x, uint64(headSize+1<<16)+base+at, int(size))
	}
	f.Add(tensor([]byte{byte(models.KindTensor)}, models.Float32, 0, 16, 2, 2), []byte("0123456789abcdef"), uint8(0))
	f.Add(tensor([]byte{byte(models.KindTensor)}, models.String, 0, 9, 1), []byte("\x01\x00\x00\x00\x00\x00\x00\x00z"), uint8(1))
	f.Add(tensor([]byte{byte(models.KindTensors), 1, 0, 0, 0}, models.Int64, 0, 8), []byte("01234567"), uint8(2))
	f.Add(tensor(tensor([]byte{byte(models.KindMaps), 1, 0, 0, 0}, models.String, 0, 9, 1), models.Float32, 9, 4, 1),
		[]byte("\x01\x00\x00\x00\x00\x00\x00\x00zabcd"), uint8(3))
	f.Add(tensor(tensor([]byte{byte(models.KindMap), 1, 0, 0, 0}, models.Int64, 0, 8, 1), models.Float32, 8, 4, 1), []byte("01234567abcd"), uint8(4))
	f.Add(tensor([]byte{byte(models.KindTensor)}, models.Bool, 0, 2, 2), []byte("\x00\xff"), uint8(5))
	f.Add([]byte{byte(models.KindMaps), 255, 255, 255, 255}, []byte{}, uint8(3))
	f.Add(tensor([]byte{byte(models.KindTensor)}, models.Float32, 1<<63, 4, 1), []byte{}, uint8(0))
	f.Add(tensor([]byte{byte(models.KindTensor)}, models.Float32, 0, 0, 0, 1<<62, 1<<62), []byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, text, outputs []byte, output uint8) {
		if len(outputs) > 1<<16 {
			return
		}
		// One page set, so that places of the seeds are the same for all.
		s, mem := reading(t, fuzzed, append(outputs, make([]byte, 1<<16-len(outputs))...))
		want := []int{int(output) % len(fuzzed.Outputs)}
		d := decoder{session: s}
		defer func() {
			for _, b := range d.held {
				b.Release()
			}
			if n := mem.InUse(); n != 0 {
				t.Errorf("%d bytes were not released", n)
			}
		}()
		values, err := d.values(text, want, &fuzzed)
		if err == nil {
			for i := range values {
				complete(t, &values[i])
			}
		}
		release(values)
	})
}

// complete fails unless each tensor of v has the elements that its shape says.
func complete(t *testing.T, v *inference.Value) {
	t.Helper()
	list := append([]inference.Tensor{}, v.Tensors...)
	if v.Kind == models.KindTensor {
		list = append(list, v.Tensor)
	}
	for _, m := range v.Maps {
		list = append(list, m.Keys, m.Values)
	}
	for i := range list {
		x := &list[i]
		if n, ok := inference.Elements(x.Shape); !ok || int64(x.Len()) != n {
			t.Errorf("%d elements for the shape %v", x.Len(), x.Shape)
		}
		if x.Type == models.Bool && slices.ContainsFunc(x.Data, func(b byte) bool { return b > 1 }) {
			t.Error("a bool is neither 0 nor 1")
		}
	}
}

// A place is within the room, or it is none.
func TestArenaPlaces(t *testing.T) {
	s, _ := reading(t, models.Graph{}, make([]byte, 1<<16))
	a := &s.arena
	from, to := headSize+a.room, headSize+2*a.room
	for _, p := range []place{{uint64(from), 1}, {uint64(to - 1), 1}, {uint64(from), uint64(a.room)}, {1 << 63, 0}} {
		if b, ok := a.at(p, from, to); !ok || len(b) != int(p.Size) {
			t.Errorf("%v is refused", p)
		}
	}
	for _, p := range []place{{0, 1}, {uint64(from - 1), 1}, {uint64(to), 1}, {uint64(to - 1), 2}, {uint64(from), uint64(a.room) + 1},
		{1<<64 - 1, 1}, {1<<64 - 1, 2}, {uint64(from), 1<<64 - 1}, {1 << 63, 1 << 63}} {
		if _, ok := a.at(p, from, to); ok {
			t.Errorf("%v is taken", p)
		}
	}
	inside := a.inputs()[100:200]
	if at, ok := a.find(inside); !ok || at != uint64(headSize+100) {
		t.Errorf("found at %d (%v)", at, ok)
	}
	if _, ok := a.find(make([]byte, os.Getpagesize())); ok {
		t.Error("memory elsewhere was found in the arena")
	}
}

// TestLoadedMessage: what a worker says of its model is read as it was said,
// and never into many times its size.
func TestLoadedMessage(t *testing.T) {
	for _, graph := range []models.Graph{{}, lieGraph, {Inputs: make([]models.GraphValue, maxValues)}} {
		text, err := json.Marshal(loadedMessage{Graph: saidGraph{graph.Inputs, graph.Outputs}})
		if err != nil {
			t.Fatal(err)
		}
		var got loadedMessage
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(models.Graph{Inputs: got.Graph.Inputs, Outputs: got.Graph.Outputs}, graph) {
			t.Errorf("got %v of %v", got.Graph, graph)
		}
	}
	flood := []byte(`{"Graph":{"Outputs":[{}` + strings.Repeat(",{}", maxFrame/3-16) + `]}}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := json.Unmarshal(flood, new(loadedMessage)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a graph of millions of values: %v", err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 4*maxFrame {
		t.Errorf("it took %d bytes", took)
	}
}
