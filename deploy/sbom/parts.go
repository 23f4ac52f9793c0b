package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	kindLibrary   = "library"
	kindContainer = "container"
)

// modules are those that the linker put into the program, by name, and Go's
// standard library.
func modules(info *buildinfo.BuildInfo) ([]part, error) {
	parts := []part{{
		kind: kindLibrary, name: "std", version: strings.TrimPrefix(info.GoVersion, "go"),
		purl: "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go"), licence: "BSD-3-Clause",
	}}
	var names []string
	for _, m := range info.Deps {
		if m.Replace != nil {
			return nil, fmt.Errorf("%s is replaced by %s: what was built is not what go.mod says", m.Path, m.Replace.Path)
		}
		names = append(names, m.Path+"@"+m.Version)
	}
	folders, err := moduleFolders(names)
	if err != nil {
		return nil, err
	}
	for _, m := range info.Deps {
		id := ""
		if folder := folders[m.Path]; folder != "" {
			if id, err = licenceOf(folder); err != nil {
				return nil, fmt.Errorf("the licence of %s: %w", m.Path, err)
			}
		}
		parts = append(parts, part{kind: kindLibrary, name: m.Path, version: m.Version,
			purl: "pkg:golang/" + strings.ToLower(m.Path) + "@" + m.Version, licence: id, sum: m.Sum})
	}
	slices.SortStableFunc(parts[1:], func(a, b part) int { return strings.Compare(a.name, b.name) })
	return parts, nil
}

// moduleFolders asks the go command where modules are in its cache.
func moduleFolders(names []string) (map[string]string, error) {
	cmd := exec.Command("go", append([]string{"mod", "download", "-json"}, names...)...)
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go mod download: %w: %s", err, failed.Bytes())
	}
	folders := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Dir string }
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return folders, nil
		} else if err != nil {
			return nil, fmt.Errorf("go mod download: %w", err)
		}
		folders[m.Path] = m.Dir
	}
}

// licenceOf reads a module's licence file. A module with none, or with one that
// is not known here, has the licence "".
func licenceOf(folder string) (string, error) {
	names, err := os.ReadDir(folder)
	if err != nil {
		return "", err
	}
	for _, n := range names {
		upper := strings.ToUpper(n.Name())
		if n.IsDir() || !strings.HasPrefix(upper, "LICENSE") && !strings.HasPrefix(upper, "LICENCE") && !strings.HasPrefix(upper, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, n.Name()))
		if err != nil {
			return "", err
		}
		if id := identify(string(text)); id != "" {
			return id, nil
		}
	}
	return "", nil
}

// identify names a licence by the words that it alone has, white space apart.
func identify(text string) string {
	text = strings.ToLower(strings.Join(strings.Fields(text), " "))
	has := func(words string) bool { return strings.Contains(text, words) }
	switch {
	case has("apache license") && has("version 2.0"):
		return "Apache-2.0"
	case has("mozilla public license") && has("version 2.0"):
		return "MPL-2.0"
	case has("gnu") && has("general public license"):
		return ""
	case has("permission is hereby granted, free of charge, to any person obtaining a copy"):
		return "MIT"
	case has("redistribution and use in source and binary forms") && (has("neither the name") || has("endorse or promote")):
		return "BSD-3-Clause"
	case has("redistribution and use in source and binary forms"):
		return "BSD-2-Clause"
	case has("permission to use, copy, modify, and/or distribute this software for any purpose"),
		has("permission to use, copy, modify, and distribute this software for any purpose"):
		return "ISC"
	}
	return ""
}

// runtime is ONNX Runtime, which the program opens when it runs.
func runtime(library, checksums string) (part, error) {
	file, err := os.ReadFile(library)
	if err != nil {
		return part{}, fmt.Errorf("%w; run make build first", err)
	}
	sum := sha256.Sum256(file)
	p := part{kind: kindLibrary, name: "onnxruntime", licence: "MIT", sha256: hex.EncodeToString(sum[:]),
		provider: "the shared library beside the program"}
	pinned, err := os.ReadFile(checksums)
	if err != nil {
		return part{}, err
	}
	// VERSION PLATFORM SOURCE SHA256, in some order that holds the digest.
	for line := range strings.Lines(string(pinned)) {
		if strings.Contains(line, p.sha256) {
			p.version = regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(line)
		}
	}
	if p.version == "" { // the operator's own
		found := regexp.MustCompile(`VERS_(\d+\.\d+\.\d+)`).FindSubmatch(file)
		if found == nil {
			return part{}, fmt.Errorf("%s is no library of ONNX Runtime", library)
		}
		p.version = string(found[1])
	}
	p.purl = "pkg:github/microsoft/onnxruntime@v" + p.version
	return p, nil
}

// baseImage is what the container image is built on: it brings the C and C++
// libraries, and has a bill of its own.
func baseImage(dockerfile string) (part, error) {
	text, err := os.ReadFile(dockerfile)
	if err != nil {
		return part{}, err
	}
	from := regexp.MustCompile(`(?m)^FROM ([^\s:]+):(\S+)`).FindAllStringSubmatch(string(text), -1)
	if len(from) == 0 {
		return part{}, fmt.Errorf("%s names no base image", dockerfile)
	}
	name, tag := from[len(from)-1][1], from[len(from)-1][2]
	registry, path, ok := strings.Cut(name, "/")
	purl := "pkg:docker/" + name + "@" + tag
	if ok {
		purl = "pkg:docker/" + path + "@" + tag + "?repository_url=" + registry
	}
	return part{kind: kindContainer, name: name, version: tag, purl: purl,
		provider: "the base of the container image: C and C++ libraries, their loader, CA certificates; outside a container the system's"}, nil
}
