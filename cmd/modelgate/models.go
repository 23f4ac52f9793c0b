package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"modelgate/client"
)

// ModelsCmd lists models.
type ModelsCmd struct {
	Output
	Name string `arg:"" optional:"" help:"Show this one in full."`
}

func (c *ModelsCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	if c.Name != "" {
		m, err := api.Model(ctx, c.Name)
		if err != nil {
			return err
		}
		return c.show(s, m, func(w io.Writer) { showModel(w, m) })
	}
	list, err := api.Models(ctx)
	if err != nil {
		return err
	}
	return c.show(s, orEmpty(list), func(w io.Writer) {
		if len(list) == 0 {
			fmt.Fprintln(w, "No model is open to you yet; an administrator can give you a role that opens one.")
			return
		}
		fmt.Fprintln(w, "NAME\tINPUTS\tOUTPUTS\tDESCRIPTION")
		for _, m := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.Name, tensors(m.Inputs), tensors(m.Outputs), printable(m.Description))
		}
	})
}

func showModel(w io.Writer, m client.Model) {
	fmt.Fprintf(w, "Name\t%s\n", m.Name)
	if m.Description != "" {
		fmt.Fprintf(w, "Description\t%s\n", printable(m.Description))
	}
	for _, t := range m.Inputs {
		fmt.Fprintf(w, "Input\t%s\n", tensors([]client.Tensor{t}))
	}
	for _, t := range m.Outputs {
		fmt.Fprintf(w, "Output\t%s\n", tensors([]client.Tensor{t}))
	}
	if m.DailyRows != 0 {
		fmt.Fprintf(w, "Rows a day\t%d for you\n", m.DailyRows)
	}
	if m.Versions == nil { // the caller does not manage it
		return
	}
	fmt.Fprintf(w, "Roles\t%s\n", dash(strings.Join(m.Roles, ", ")))
	for _, set := range []struct {
		label string
		value json.RawMessage
	}{{"Disclosure", m.Disclosure}, {"Serving", m.Serving}} {
		var compact bytes.Buffer
		if json.Compact(&compact, set.value) == nil && compact.Len() > len("{}") {
			fmt.Fprintf(w, "%s\t%s\n", set.label, printable(compact.String()))
		}
	}
	for _, v := range m.Versions {
		mark := ""
		if v.Version == m.DefaultVersion {
			mark = " (default)"
		}
		fmt.Fprintf(w, "Version\t%d%s  %s  %s  %s\n", v.Version, mark, v.State, Bytes(v.Size), v.Digest)
		if v.Reason != "" {
			fmt.Fprintf(w, "\t%s\n", printable(v.Reason))
		}
		if f := v.Facts; f != nil {
			fmt.Fprintf(w, "\topset %d: %s; trial run: %s\n", f.Opset, printable(strings.Join(f.Operators, ", ")), f.Trial)
			if f.SignedBy != "" {
				fmt.Fprintf(w, "\tsigned by %s\n", printable(f.SignedBy))
			}
		}
		if b := v.Batching; b != nil {
			fmt.Fprintf(w, "\tshared runs: %s\n", sharing(b))
		}
	}
	for _, a := range sortedKeys(m.Aliases) {
		fmt.Fprintf(w, "Alias\t%s = version %d\n", a, m.Aliases[a])
	}
}

// sharing says whether requests share runs of a version.
func sharing(b *client.Batching) string {
	gain := ""
	if b.Gain > 0 {
		gain = fmt.Sprintf(", gain %.1f", b.Gain)
	}
	switch {
	case b.Active:
		return "yes" + gain
	case b.Possible:
		return "possible" + gain
	}
	return "no: " + printable(b.Reason)
}

// tensors writes "X FP32 [?,4]".
func tensors(list []client.Tensor) string {
	parts := make([]string, len(list))
	for i, t := range list {
		dims := make([]string, len(t.Shape))
		for j, d := range t.Shape {
			if dims[j] = strconv.FormatInt(d, 10); d < 0 {
				dims[j] = "?"
			}
		}
		parts[i] = fmt.Sprintf("%s %s [%s]", t.Name, t.Datatype, strings.Join(dims, ","))
	}
	return strings.Join(parts, ", ")
}

// printable keeps a stranger's text from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// orEmpty makes an empty list [] in JSON, not null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// ModelCmd changes models.
type ModelCmd struct {
	Set    ModelSetCmd    `cmd:"" help:"Change roles, description, default version, aliases, disclosure, or how it is run."`
	Delete ModelDeleteCmd `cmd:"" help:"Delete a model, or one version of it."`
}

// ModelSetCmd is PATCH /models/{name}.
type ModelSetCmd struct {
	Output
	Name           string         `arg:"" help:"The model."`
	Role           []string       `short:"r" xor:"role" placeholder:"ROLE" help:"Open the model to these roles and no others (repeat, or separate by commas)."`
	NoRoles        bool           `name:"no-roles" xor:"role" help:"Close the model to all but its owner and administrators."`
	Description    *string        `placeholder:"TEXT" help:"New description."`
	DefaultVersion *int           `name:"default-version" placeholder:"N" help:"Version that callers get who name none."`
	Alias          map[string]int `placeholder:"NAME=N" help:"Aliases and their versions; replaces all."`
	Disclosure     string         `placeholder:"JSON" help:"What callers may see, as in '{\"top_k\":3}'; '{}' shows everything."`
	ServingFlags
}

func (c *ModelSetCmd) Run(ctx context.Context, s std) error {
	if err := checkRoles(c.Role, "to close the model to all roles, give --no-roles"); err != nil {
		return err
	}
	p := client.ModelPatch{Description: c.Description, DefaultVersion: c.DefaultVersion}
	if c.Role != nil || c.NoRoles {
		roles := orEmpty(c.Role)
		p.Roles = &roles
	}
	if c.Alias != nil {
		p.Aliases = &c.Alias
	}
	if c.Disclosure != "" {
		if !json.Valid([]byte(c.Disclosure)) {
			return errors.New(`--disclosure is not JSON; write it as in '{"outputs":["label"]}'`)
		}
		p.Disclosure = json.RawMessage(c.Disclosure)
	}
	if p.Roles == nil && p.Aliases == nil && p.Description == nil && p.DefaultVersion == nil && p.Disclosure == nil && !c.given() {
		return errors.New("nothing to change; give --role, --no-roles, --description, --default-version, --alias, --disclosure, --max-batch, --instances, --queue or --timeout")
	}
	api, err := connect()
	if err != nil {
		return err
	}
	if p.Serving, err = c.serving(ctx, api, c.Name); err != nil {
		return err
	}
	m, err := api.UpdateModel(ctx, c.Name, p)
	if err != nil {
		return err
	}
	return c.show(s, m, func(w io.Writer) { showModel(w, m) })
}

// checkRoles refuses empty names, as an unset variable of a shell gives them:
// they must not close or open anything silently.
func checkRoles(roles []string, instead string) error {
	if roles != nil && len(roles) == 0 || slices.Contains(roles, "") {
		return usageError{errors.New("--role: a role's name is empty; " + instead)}
	}
	return nil
}

// ModelDeleteCmd is DELETE on a model or version.
type ModelDeleteCmd struct {
	Name    string `arg:"" help:"The model."`
	Version int    `placeholder:"N" help:"Only this version."`
	Yes     bool   `short:"y" help:"Don't ask."`
}

func (c *ModelDeleteCmd) Run(ctx context.Context, s std) error {
	what := "model " + c.Name + " with all its versions"
	if c.Version > 0 {
		what = fmt.Sprintf("version %d of model %s", c.Version, c.Name)
	}
	if !c.Yes {
		if err := confirm(s, "Delete "+what+"?"); err != nil {
			return err
		}
	}
	api, err := connect()
	if err != nil {
		return err
	}
	if c.Version > 0 {
		err = api.DeleteVersion(ctx, c.Name, c.Version)
	} else {
		err = api.DeleteModel(ctx, c.Name)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(s.err, "Deleted %s.\n", what)
	return nil
}

// confirm asks on the terminal; without one it refuses.
func confirm(s std, question string) error {
	fmt.Fprintf(s.err, "%s [y/N] ", question)
	var answer string
	if _, err := fmt.Fscanln(s.in, &answer); err != nil || !strings.EqualFold(answer, "y") && !strings.EqualFold(answer, "yes") {
		return errors.New("nothing was done; answer y, or give --yes")
	}
	return nil
}
