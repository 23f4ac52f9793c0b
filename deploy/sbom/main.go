// Command sbom writes what a build of modelgate is made of: a bill of materials
// in CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/), or with -report a
// table for people. It reads the program itself, and not go.mod: what is listed
// is what the linker put in.
//
// The same build gives the same bytes: no time, no random serial number. It
// needs the module cache that the build has filled, and no network.
package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

func main() {
	report := flag.Bool("report", false, "print a table instead")
	library := flag.String("library", "bin/libonnxruntime.so", "ONNX Runtime's library, beside the program")
	checksums := flag.String("checksums", "inference/ort/onnxruntime.sha256", "the pinned checksums of ONNX Runtime")
	image := flag.String("image", "Dockerfile", "the file whose last FROM is the base of the image")
	version := flag.String("version", "unknown", "the version of the program, as the linker stamped it")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: sbom [flags] PROGRAM >sbom.json")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(os.Stdout, flag.Arg(0), *library, *checksums, *image, *version, *report); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, program, library, checksums, image, version string, report bool) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return fmt.Errorf("%s: %w; run make build first", program, err)
	}
	parts, err := modules(info)
	if err != nil {
		return err
	}
	ort, err := runtime(library, checksums)
	if err != nil {
		return err
	}
	base, err := baseImage(image)
	if err != nil {
		return err
	}
	parts = append(parts, ort, base)
	if report {
		return table(out, parts)
	}
	return write(out, version, parts)
}

// part is one thing that a build contains.
type part struct {
	kind     string // CycloneDX's word: library, container
	name     string
	version  string
	purl     string
	licence  string // SPDX identifier; "" unknown
	sha256   string // of a file, in hexadecimal
	sum      string // of a module, as go.sum has it
	provider string // property "provided by": what brings it
}

var errLicence = errors.New("a licence is not known")

// table prints the parts for people. A module without a known licence is an
// error after all of them were printed.
func table(out io.Writer, parts []part) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tLICENCE")
	var unknown []string
	for _, p := range parts {
		licence := p.licence
		if licence == "" && p.kind == kindLibrary {
			licence = "unknown"
			unknown = append(unknown, p.name)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.name, p.version, licence)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%w: %s", errLicence, strings.Join(unknown, ", "))
	}
	return nil
}

// The JSON of CycloneDX, as far as it is used.
type (
	document struct {
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Component component `json:"component"`
	}
	component struct {
		Type       string     `json:"type"`
		Ref        string     `json:"bom-ref"`
		Name       string     `json:"name"`
		Version    string     `json:"version,omitempty"`
		Hashes     []hash     `json:"hashes,omitempty"`
		Licences   []licence  `json:"licenses,omitempty"`
		PURL       string     `json:"purl,omitempty"`
		Properties []property `json:"properties,omitempty"`
	}
	hash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	licence struct {
		Licence struct {
			ID string `json:"id"`
		} `json:"license"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref string   `json:"ref"`
		On  []string `json:"dependsOn"`
	}
)

func spdx(id string) []licence {
	if id == "" {
		return nil
	}
	var l licence
	l.Licence.ID = id
	return []licence{l}
}

func write(out io.Writer, version string, parts []part) error {
	root := component{Type: "application", Name: "modelgate", Version: version,
		PURL: "pkg:golang/modelgate@" + version, Licences: spdx("Apache-2.0")}
	root.Ref = root.PURL
	doc := document{Format: "CycloneDX", Spec: "1.6", Version: 1, Metadata: metadata{root}}
	all := dependency{Ref: root.Ref}
	for _, p := range parts {
		c := component{Type: p.kind, Ref: p.purl, Name: p.name, Version: p.version, PURL: p.purl, Licences: spdx(p.licence)}
		if p.sha256 != "" {
			c.Hashes = []hash{{"SHA-256", p.sha256}}
		}
		if p.sum != "" {
			c.Properties = append(c.Properties, property{"go.sum", p.sum})
		}
		if p.provider != "" {
			c.Properties = append(c.Properties, property{"provided by", p.provider})
		}
		doc.Components = append(doc.Components, c)
		all.On = append(all.On, p.purl)
	}
	doc.Dependencies = []dependency{all}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(doc)
}
