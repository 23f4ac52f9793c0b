// Package testdata holds small real models with known answers. The program
// carries the three that --demo publishes; tests read the others as files.
package testdata

import "embed"

// Models are the files of the sample models.
//
//go:embed iris.onnx digits.onnx sentiment.onnx
var Models embed.FS
