package api

import (
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// mirrorContract adds to the specification what consoleTable adds to the routes:
// each mirrored operation under consoleAPI, with the cookie as credential. Its
// answers are the same, and besides 403 where a page of another origin may be
// refused.
func mirrorContract(doc yaml.MapSlice) {
	paths := entry(doc, "paths")
	all, _ := paths.Value.(yaml.MapSlice)
	for _, item := range all {
		path, _ := item.Key.(string)
		operations, ok := item.Value.(yaml.MapSlice)
		if !ok || !mirrored(path) {
			continue
		}
		mirror := make(yaml.MapSlice, len(operations))
		for i, operation := range operations {
			mirror[i] = yaml.MapItem{Key: operation.Key, Value: mirrorOperation(operation)}
		}
		all = append(all, yaml.MapItem{Key: consoleAPI + path, Value: mirror})
	}
	paths.Value = all
}

func mirrorOperation(operation yaml.MapItem) any {
	fields, ok := operation.Value.(yaml.MapSlice)
	if !ok {
		return operation.Value // parameters of the whole path
	}
	fields = slices.Clone(fields)
	if id, ok := entry(fields, "operationId").Value.(string); ok {
		entry(fields, "operationId").Value = "console" + strings.ToUpper(id[:1]) + id[1:]
	}
	entry(fields, "tags").Value = []string{"Console"}
	if responses := entry(fields, "responses"); operation.Key != "get" {
		answers, _ := responses.Value.(yaml.MapSlice)
		if entry(answers, "403") == &absent {
			forbidden := yaml.MapSlice{{Key: "$ref", Value: "#/components/responses/Forbidden"}}
			responses.Value = append(slices.Clone(answers), yaml.MapItem{Key: "403", Value: forbidden})
		}
	}
	return append(fields, yaml.MapItem{Key: "security", Value: []yaml.MapSlice{{{Key: "session", Value: []string{}}}}})
}

// absent is what entry finds where there is nothing.
var absent yaml.MapItem

func entry(in yaml.MapSlice, key string) *yaml.MapItem {
	for i := range in {
		if in[i].Key == key {
			return &in[i]
		}
	}
	return &absent
}
