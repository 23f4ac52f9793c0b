package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"modelgate/auth"
	"modelgate/inference"
	"modelgate/models"
	"modelgate/testdata"
)

// samples are the models of --demo; their files are in testdata.
var samples = []struct{ name, file, description string }{
	{"iris", "iris.onnx", "Species of an iris from four lengths in cm: 0 setosa, 1 versicolor, 2 virginica."},
	{"digits", "digits.onnx", "Handwritten digit of an 8x8 image, pixels 0 to 16."},
	{"sentiment", "sentiment.onnx", "Whether a short English sentence is positive or negative."},
}

// publishSamples opens the sample models that are missing to role user.
func publishSamples(ctx context.Context, catalog *models.Catalog, service *inference.Service, log *slog.Logger) error {
	who := auth.Principal{Username: "modelgate serve --demo", Permissions: auth.ModelsWrite | auth.ModelsManage}
	for _, s := range samples {
		if _, err := catalog.Describe(ctx, who, s.name); !errors.Is(err, models.ErrNotFound) {
			if err != nil {
				return err
			}
			continue
		}
		file, err := testdata.Models.ReadFile(s.file)
		if err != nil {
			return err
		}
		staged, err := catalog.Stage(ctx, bytes.NewReader(file))
		if err != nil {
			return err
		}
		spec := models.Spec{Description: &s.description, Roles: []string{"user"}, Builtin: true}
		if _, _, err := catalog.Publish(ctx, who, s.name, staged, spec, service.Try); err != nil {
			staged.Discard()
			return fmt.Errorf("sample model %s: %w", s.name, err)
		}
		log.Info("sample model published", "model", s.name)
	}
	return nil
}
