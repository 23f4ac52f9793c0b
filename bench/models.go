package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// The families of measurements, each with a plot of its own.
const (
	tiny     = "tiny"     // against an HTTP server that does nothing
	dense    = "dense"    // throughput, with and without batches
	networks = "networks" // convolutions and transformers: against the runtime
	growth   = "growth"   // many models, users and connections
)

var families = []string{tiny, dense, networks, growth}

// model is one that is measured.
type model struct {
	name     string // as published
	title    string
	input    string  // public name of its one input
	shape    []int64 // of one row
	family   string
	file     string // what its file is called; "": as the model
	ids      bool   // the input is int64 ids, else float32
	maxBatch int    // rows of different requests that may go together; 0: none
	inside   bool   // measured in the server's process as well
	copied   bool   // many copies are loaded
}

var measured = []model{
	{name: "mlp_tiny", title: "MLP 4-16-3", input: "x", shape: []int64{1, 4}, family: tiny},
	{name: "iris", title: "iris (random forest of 15 trees)", input: "X", shape: []int64{1, 4}, family: tiny},
	{name: "mlp_dense", title: "dense MLP, 6 MB", input: "x", shape: []int64{1, 256}, family: dense},
	{name: "mlp_dense_batched", title: "dense MLP, 6 MB, batched", input: "x", shape: []int64{1, 256}, family: dense, file: "mlp_dense",
		maxBatch: 64},
	{name: "squeezenet", title: "SqueezeNet", input: "x", shape: []int64{1, 3, 224, 224}, family: networks, copied: true},
	{name: "mobilenetv2", title: "MobileNetV2", input: "x", shape: []int64{1, 3, 224, 224}, family: networks, inside: true},
	{name: "resnet50", title: "ResNet-50", input: "x", shape: []int64{1, 3, 224, 224}, family: networks, inside: true},
	{name: "encoder", title: "transformer encoder", input: "x", shape: []int64{1, 128}, family: networks, ids: true},
}

// crowd is the load of most rows, several that of models whose runs take so
// long that more clients would only wait, and alone is one client.
const crowd, several, alone = 64, 8, 1

// clients are those that put the model under load.
func (m model) clients() int {
	if m.family == networks {
		return several
	}
	return crowd
}

// fileOf is where a model lies: iris with the test data, the others where the
// script put them.
func (s settings) fileOf(m model) string {
	switch {
	case m.name == "iris":
		return filepath.Join("testdata", "iris.onnx")
	case m.file != "":
		return filepath.Join(s.models, m.file+".onnx")
	}
	return filepath.Join(s.models, m.name+".onnx")
}

// chosen are the families and models that the flags leave.
func (s settings) chosen() (list []model, err error) {
	for _, f := range s.families {
		if !slices.Contains(families, f) {
			return nil, fmt.Errorf("there is no family %q; take some of %s", f, strings.Join(families, ","))
		}
	}
	for _, m := range measured {
		if s.only == m.name || s.only == "" && slices.Contains(s.families, m.family) {
			list = append(list, m)
		}
	}
	if len(list) > 0 && list[0].family == tiny {
		// The first tiny one is measured in every way there is.
		list[0].inside, list[0].copied = true, true
	}
	if s.only != "" && len(list) == 0 {
		return nil, fmt.Errorf("no model is called %q", s.only)
	}
	return list, nil
}

// grows tells whether growth is measured, which goes with no model in
// particular.
func (s settings) grows() bool { return slices.Contains(s.families, growth) }

// small is the model that growth is measured with.
func (s settings) small() model {
	if s.only == "iris" {
		return measured[1] // the one that needs no script to make it
	}
	return measured[0]
}
