package store

import (
	"encoding/json"
	"fmt"
	"slices"

	"modelgate/models"
)

// Parts of a model that no statement looks into are stored as JSON. Where the room's own JSON form, which is made for
// callers, drops what the store must keep, the stored form is written out here; a conversion between the two stops
// compiling when they grow apart.

// storedRule keeps apart "all outputs" (null) and "no output" ([]), which the room's omitempty does not.
type storedRule struct {
	Outputs   []string `json:"outputs"`
	TopK      int      `json:"top_k"`
	Decimals  *int     `json:"decimals"`
	LabelOnly bool     `json:"label_only"`
	DailyRows int64    `json:"daily_rows"`
}

func encodeRule(r models.Rule) (string, error) { return encode(storedRule(r)) }

func decodeRule(stored string) (models.Rule, error) {
	var r storedRule
	err := decode(stored, &r)
	return models.Rule(r), err
}

// storedTensor is models.TensorSpec with the name of the graph, which need not be UTF-8, as bytes; the type numbers are
// ONNX's own. A null shape is an unknown rank, [] is rank 0.
type storedTensor struct {
	Name  string          `json:"name"`
	Graph []byte          `json:"graph"`
	Kind  string          `json:"kind"`
	Type  models.DataType `json:"type"`
	Key   models.DataType `json:"key"`
	Shape []int64         `json:"shape"`
}

type storedSignature struct {
	Inputs  []storedTensor `json:"inputs"`
	Outputs []storedTensor `json:"outputs"`
}

// kinds are the stored words, by models.Kind. Never change one.
var kinds = []string{
	models.KindTensor: "tensor", models.KindMaps: "maps", models.KindTensors: "tensors", models.KindMap: "map",
}

func encodeSignature(s models.Signature) (string, error) {
	var stored storedSignature
	for _, side := range []struct {
		from []models.TensorSpec
		to   *[]storedTensor
	}{{s.Inputs, &stored.Inputs}, {s.Outputs, &stored.Outputs}} {
		for _, spec := range side.from {
			if int(spec.Kind) >= len(kinds) {
				return "", fmt.Errorf("store: no word for kind %d", spec.Kind)
			}
			*side.to = append(*side.to, storedTensor{spec.Name, []byte(spec.GraphValue.Name), kinds[spec.Kind],
				spec.Type, spec.Key, spec.Shape})
		}
	}
	return encode(stored)
}

func decodeSignature(text string) (s models.Signature, err error) {
	var stored storedSignature
	if err := decode(text, &stored); err != nil {
		return s, err
	}
	for _, side := range []struct {
		from []storedTensor
		to   *[]models.TensorSpec
	}{{stored.Inputs, &s.Inputs}, {stored.Outputs, &s.Outputs}} {
		for _, t := range side.from {
			kind := slices.Index(kinds, t.Kind)
			if kind < 0 {
				return s, &failure{err: fmt.Errorf("stored signature: unknown kind %q", t.Kind)}
			}
			*side.to = append(*side.to, models.TensorSpec{Name: t.Name, GraphValue: models.GraphValue{
				Name: string(t.Graph), Kind: models.Kind(kind), Type: t.Type, Key: t.Key, Shape: t.Shape}})
		}
	}
	return s, nil
}

func encode(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

// decode fails as the database does: what it holds can't be read.
func decode(text string, into any) error {
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return &failure{err: fmt.Errorf("stored JSON: %w", err)}
	}
	return nil
}
