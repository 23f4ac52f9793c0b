package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
	"github.com/joho/godotenv"
)

const envPrefix = "MODELGATE_"

// notFromDotEnv are the variables that decide whom a client command talks to
// and which file is read: the folder of a stranger must not choose them.
var notFromDotEnv = []string{"MODELGATE_URL", "MODELGATE_TOKEN", "MODELGATE_CONFIG"}

// loadDotEnv takes the MODELGATE_ variables of ./.env that the environment
// does not have. Other names are left alone: a stray .env must not change the
// process.
func loadDotEnv() error {
	values, err := godotenv.Read(".env")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf(".env in this folder can't be read: %w; mend or remove it", err)
	}
	for k, v := range values {
		if _, set := os.LookupEnv(k); !set && strings.HasPrefix(k, envPrefix) && !slices.Contains(notFromDotEnv, k) {
			if err := os.Setenv(k, v); err != nil {
				return fmt.Errorf(".env: %w", err)
			}
		}
	}
	return nil
}

// ConfigFile is the --config flag: a YAML file whose keys are names of flags.
type ConfigFile string

// BeforeResolve hangs the file's values into the resolution of flags.
func (f ConfigFile) BeforeResolve(k *kong.Kong, ctx *kong.Context, trace *kong.Path) error {
	path := string(ctx.FlagValue(trace.Flag).(ConfigFile))
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("--config %s is not YAML: %w", path, err)
	}
	r := &fileResolver{path: path, values: make(map[string]string, len(doc))}
	for key, v := range doc {
		if r.values[key], err = scalar(v); err != nil {
			return fmt.Errorf("--config %s: %s: %w", path, key, err)
		}
	}
	if err := r.check(k.Model); err != nil {
		return err
	}
	ctx.AddResolver(r)
	return nil
}

// scalar turns a YAML value into what the flag would be given.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			s, err := scalar(e)
			if err != nil {
				return "", err
			}
			parts[i] = s
		}
		return strings.Join(parts, ","), nil
	case map[string]any, map[any]any:
		return "", errors.New("a mapping is not a value here")
	default:
		return fmt.Sprint(v), nil
	}
}

type fileResolver struct {
	path   string
	values map[string]string
}

func (r *fileResolver) Validate(*kong.Application) error { return nil }

// check refuses keys that are no flag of the server: a mistyped limit must not
// be a silent default.
func (r *fileResolver) check(app *kong.Application) error {
	known := map[string]bool{}
	eachFlag(app.Node, func(f *kong.Flag) { known[f.Name] = known[f.Name] || len(f.Tag.Envs) > 0 })
	for key := range r.values {
		if !known[key] || key == "config" {
			return fmt.Errorf("--config %s: unknown key %q; 'modelgate config' lists the keys", r.path, key)
		}
	}
	return nil
}

func eachFlag(n *kong.Node, f func(*kong.Flag)) {
	for _, flag := range n.Flags {
		f(flag)
	}
	for _, child := range n.Children {
		eachFlag(child, f)
	}
}

// Resolve yields to the environment: kong asks resolvers for every flag that
// is not on the command line, set variables included.
func (r *fileResolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, env := range flag.Tag.Envs {
		if _, set := os.LookupEnv(env); set {
			return nil, nil
		}
	}
	if v, ok := r.values[flag.Name]; ok {
		return v, nil
	}
	return nil, nil
}

// unknownEnv lists MODELGATE_ variables that no flag reads.
func unknownEnv(app *kong.Application, environ []string) []string {
	known := map[string]bool{"MODELGATE_URL": true, "MODELGATE_TOKEN": true}
	eachFlag(app.Node, func(f *kong.Flag) {
		for _, e := range f.Tag.Envs {
			known[e] = true
		}
	})
	var unknown []string
	for _, kv := range environ {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, envPrefix) && !known[name] {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}
