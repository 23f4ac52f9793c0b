package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// built makes the program and a stand-in for the library, and returns the
// arguments of run.
func built(t *testing.T) (program, library, checksums, image string) {
	t.Helper()
	folder := t.TempDir()
	program, library = filepath.Join(folder, "modelgate"), filepath.Join(folder, "libonnxruntime.so")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", program, "./cmd/modelgate")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := os.WriteFile(library, []byte("ELF VERS_1.30.7 of the operator's own"), 0o600); err != nil {
		t.Fatal(err)
	}
	return program, library, "../../inference/ort/onnxruntime.sha256", "../../Dockerfile"
}

// TestProgram builds the program once for the tests of its bill.
func TestProgram(t *testing.T) {
	program, library, checksums, image := built(t)
	t.Run("everything linked is listed", func(t *testing.T) { linked(t, program, library, checksums, image) })
	t.Run("licences", func(t *testing.T) { licences(t, program, library, checksums, image) })
}

// linked holds the bill against what the go command says
// of the program, and against the packages that it would link.
func linked(t *testing.T, program, library, checksums, image string) {
	t.Helper()
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := run(out, program, library, checksums, image, "1.2.3", false); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same build gives two bills")
	}
	var doc document
	if err := json.Unmarshal(first.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Format != "CycloneDX" || doc.Metadata.Component.Version != "1.2.3" {
		t.Errorf("%+v", doc.Metadata)
	}
	listed := map[string]component{}
	refs := map[string]bool{}
	for _, c := range doc.Components {
		listed[c.Name+"@"+c.Version] = c
		if refs[c.Ref] || c.PURL == "" {
			t.Errorf("%s has no name of its own: %q", c.Name, c.Ref)
		}
		refs[c.Ref] = true
	}
	text, err := exec.Command("go", "version", "-m", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := 0
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "dep" {
			continue
		}
		linked++
		c, ok := listed[f[1]+"@"+f[2]]
		if !ok {
			t.Errorf("%s %s is linked, but not in the bill", f[1], f[2])
		} else if len(f) > 3 && (len(c.Properties) != 1 || c.Properties[0].Value != f[3]) {
			t.Errorf("%s: %v, want the sum %s", f[1], c.Properties, f[3])
		}
	}
	list := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}}{{end}}{{end}}", "./cmd/modelgate")
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range strings.Fields(string(out)) {
		if _, ok := listed[m]; !ok {
			t.Errorf("packages of %s are linked, but it is not in the bill", m)
		}
	}
	if linked < 30 || len(doc.Components) != linked+3 || len(doc.Dependencies[0].On) != len(doc.Components) {
		t.Errorf("%d modules are linked, %d components are listed", linked, len(doc.Components))
	}
	if _, ok := listed["onnxruntime@1.30.7"]; !ok {
		t.Error("ONNX Runtime is not listed")
	}
}

// permitted are the licences that modelgate may be distributed with as it is.
// Another one is a decision, not an oversight.
var permitted = map[string]bool{"Apache-2.0": true, "MIT": true, "BSD-3-Clause": true, "BSD-2-Clause": true, "MPL-2.0": true, "ISC": true}

func licences(t *testing.T, program, library, checksums, image string) {
	t.Helper()
	var out bytes.Buffer
	if err := run(&out, program, library, checksums, image, "", true); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for i, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		f := strings.Fields(line)
		if i > 0 && !permitted[f[len(f)-1]] && !strings.Contains(line, "distroless") {
			t.Errorf("a licence that nobody decided about: %s", line)
		}
	}
}

func TestIdentify(t *testing.T) {
	for text, want := range map[string]string{
		"Apache License\n   Version 2.0, January 2004":                                          "Apache-2.0",
		"Permission is hereby granted, free of charge,\nto any person obtaining a copy of":      "MIT",
		"Redistribution and use in source and binary forms ... Neither the name of X":           "BSD-3-Clause",
		"Redistribution and use in source and binary forms, with or without":                    "BSD-2-Clause",
		"GNU AFFERO GENERAL PUBLIC LICENSE":                                                     "",
		"All rights reserved.":                                                                  "",
		"Mozilla Public License, version 2.0":                                                   "MPL-2.0",
		"Permission to use, copy, modify, and distribute this software for any purpose with or": "ISC",
	} {
		if got := identify(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
