package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"modelgate/client"
)

// PredictCmd asks a model.
type PredictCmd struct {
	Model   string   `arg:"" help:"The model; 'modelgate models' lists yours."`
	Inputs  string   `arg:"" help:"JSON: an object by input name, or a bare array where the model has one input. @FILE reads a file, - standard input."`
	Version int      `placeholder:"N" xor:"which" help:"This version instead of the default one."`
	Alias   string   `placeholder:"NAME" xor:"which" help:"The version this alias names."`
	Output  []string `short:"o" placeholder:"NAME" help:"Only these outputs."`
	JSON    bool     `name:"json" help:"Print the server's whole answer."`
}

func (c *PredictCmd) Run(ctx context.Context, s std) error {
	inputs, err := c.read(s)
	if err != nil {
		return err
	}
	api, err := connect()
	if err != nil {
		return err
	}
	p, err := api.Predict(ctx, client.PredictRequest{
		Model: c.Model, Version: c.Version, Alias: c.Alias, Inputs: json.RawMessage(inputs), Outputs: c.Output,
	})
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(s.out)
		enc.SetEscapeHTML(false)
		return enc.Encode(p)
	}
	for _, name := range sortedKeys(p.Outputs) {
		fmt.Fprintf(s.out, "%s: %s\n", name, p.Outputs[name])
	}
	return nil
}

func (c *PredictCmd) read(s std) ([]byte, error) {
	data := []byte(c.Inputs)
	var err error
	switch {
	case c.Inputs == "-":
		data, err = io.ReadAll(s.in)
	case strings.HasPrefix(c.Inputs, "@"):
		data, err = os.ReadFile(c.Inputs[1:])
	}
	if err != nil {
		return nil, fmt.Errorf("can't read the inputs: %w", err)
	}
	if !json.Valid(data) {
		return nil, errNotJSON
	}
	return data, nil
}

var errNotJSON = errors.New(`the inputs are not JSON; write them as in '[[5.1,3.5,1.4,0.2]]' or '{"X":[[5.1,3.5,1.4,0.2]]}'`)
