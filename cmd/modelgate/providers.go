package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"modelgate/auth"
)

// providerEntry is one identity provider as the file of --identity-providers
// has it. What the fields mean stands at auth.Provider.
type providerEntry struct {
	Name                 string           `yaml:"name"`
	Issuer               string           `yaml:"issuer"`
	SignIn               bool             `yaml:"sign_in"`
	ClientID             string           `yaml:"client_id"`
	ClientSecretEnv      string           `yaml:"client_secret_env"`
	ClientSecretFile     string           `yaml:"client_secret_file"`
	Scopes               []string         `yaml:"scopes"`
	APITokens            bool             `yaml:"api_tokens"`
	Audience             string           `yaml:"audience"`
	AcceptUntypedTokens  bool             `yaml:"accept_untyped_tokens"`
	Algorithms           []string         `yaml:"algorithms"`
	SecondFactor         secondFactor     `yaml:"second_factor"`
	TokenScopes          map[string]words `yaml:"token_scopes"`
	CreateUsers          bool             `yaml:"create_users"`
	UsernameClaim        string           `yaml:"username_claim"`
	RequireVerifiedEmail bool             `yaml:"require_verified_email"`
	AllowedDomains       []string         `yaml:"allowed_domains"`
	Roles                roleMapping      `yaml:"roles"`
	DefaultRoles         []string         `yaml:"default_roles"`
}

type roleMapping struct {
	Claim string           `yaml:"claim"`
	Map   map[string]words `yaml:"map"`
}

type secondFactor struct {
	ACR words `yaml:"acr"`
	AMR words `yaml:"amr"`
}

// words are a list, or one alone.
type words []string

// UnmarshalYAML implements yaml.InterfaceUnmarshaler.
func (w *words) UnmarshalYAML(read func(any) error) error {
	var one string
	if read(&one) == nil {
		*w = words{one}
		return nil
	}
	return read((*[]string)(w))
}

// identityProviders reads the file of --identity-providers; none without it.
// secretNames are the variables that it takes secrets from.
func (c *Config) identityProviders() (list []auth.Provider, secretNames []string, err error) {
	path := c.IdentityProviders
	if path == "" {
		return nil, nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("--identity-providers %s: %w", path, errors.Unwrap(err))
	}
	if info.Mode().Perm()&0o022 != 0 { // who can write it can make himself an administrator
		return nil, nil, fmt.Errorf("--identity-providers %s can be changed by other users (mode %#o); run: chmod go-w %s", path, info.Mode().Perm(), path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("--identity-providers %s: %w", path, errors.Unwrap(err))
	}
	var entries []providerEntry
	if err := yaml.UnmarshalWithOptions(text, &entries, yaml.Strict()); err != nil {
		return nil, nil, fmt.Errorf("--identity-providers %s: write a YAML list of providers: %w", path, err)
	}
	for _, e := range entries {
		secret, err := e.secret(filepath.Dir(path))
		if err != nil {
			return nil, nil, fmt.Errorf("--identity-providers %s: %s: %w", path, e.Name, err)
		}
		if e.ClientSecretEnv != "" {
			secretNames = append(secretNames, e.ClientSecretEnv)
		}
		list = append(list, e.provider(secret))
	}
	return list, secretNames, nil
}

// checkProviders checks the file of --identity-providers.
func (c *Config) checkProviders() error {
	list, _, err := c.identityProviders()
	if err != nil {
		return err
	}
	issuer := c.Issuer
	if host, _, err := net.SplitHostPort(c.Listen); issuer == "" && err == nil {
		if i := slices.IndexFunc(list, func(p auth.Provider) bool { return p.SignIn }); i >= 0 && !isLoopback(host) {
			return fmt.Errorf("--identity-providers: sign_in of %s needs --issuer, the URL by which browsers reach this server", list[i].Name)
		}
		issuer = "http://127.0.0.1" // what it will be, but for the port
	}
	if err := auth.CheckProviders(list, issuer); err != nil {
		return fmt.Errorf("--identity-providers %s: %w", c.IdentityProviders, err)
	}
	return nil
}

func (e *providerEntry) provider(secret string) auth.Provider {
	p := auth.Provider{
		Name: e.Name, Issuer: e.Issuer, SignIn: e.SignIn, ClientID: e.ClientID, ClientSecret: secret, Scopes: e.Scopes,
		APITokens: e.APITokens, Audience: e.Audience, AcceptUntypedTokens: e.AcceptUntypedTokens, Algorithms: e.Algorithms,
		CreateUsers: e.CreateUsers, UsernameClaim: e.UsernameClaim, RequireVerifiedEmail: e.RequireVerifiedEmail, AllowedDomains: e.AllowedDomains,
		RolesClaim: e.Roles.Claim, Roles: lists(e.Roles.Map), DefaultRoles: e.DefaultRoles,
		SecondFactorACR: e.SecondFactor.ACR, SecondFactorAMR: e.SecondFactor.AMR, TokenScopes: lists(e.TokenScopes),
	}
	return p
}

// lists is nil for none.
func lists(of map[string]words) map[string][]string {
	var m map[string][]string
	for name, list := range of {
		if m == nil {
			m = make(map[string][]string)
		}
		m[name] = list
	}
	return m
}

// secret reads the client's secret. It never stands in the file itself, which
// people copy around.
func (e *providerEntry) secret(folder string) (string, error) {
	var secret string
	switch {
	case e.ClientSecretEnv != "" && e.ClientSecretFile != "":
		return "", errors.New("client_secret_env and client_secret_file exclude each other")
	case e.ClientSecretEnv != "":
		if secret = os.Getenv(e.ClientSecretEnv); secret == "" {
			return "", fmt.Errorf("the variable %s of client_secret_env is not set, or empty", e.ClientSecretEnv)
		}
	case e.ClientSecretFile != "":
		path := e.ClientSecretFile
		if !filepath.IsAbs(path) {
			path = filepath.Join(folder, path)
		}
		if err := checkPrivate(path); err != nil {
			return "", fmt.Errorf("client_secret_file: %w", err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("client_secret_file %s: %w", path, errors.Unwrap(err))
		}
		if secret = strings.TrimSpace(string(text)); secret == "" {
			return "", fmt.Errorf("client_secret_file %s is empty", path)
		}
	}
	return secret, nil
}
