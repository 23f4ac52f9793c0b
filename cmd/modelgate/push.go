package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"modelgate/client"
)

// PushCmd uploads a model.
type PushCmd struct {
	Output
	Name        string   `arg:"" help:"Name of the model; a new version if it exists."`
	File        string   `arg:"" type:"existingfile" help:"The .onnx file. Weights that stand in files beside it are sent within it."`
	Role        []string `short:"r" placeholder:"ROLE" help:"Open the model to this role (repeat, or separate by commas). Without one, only you and administrators may call it."`
	Description *string  `placeholder:"TEXT" help:"A sentence for its callers."`
	Input       []string `placeholder:"NAME" help:"Public names of the inputs, in order."`
	OutputName  []string `name:"output" placeholder:"NAME" help:"Public names of the outputs, in order."`
	Disclosure  string   `placeholder:"JSON" help:"What callers may see, as in '{\"label_only\":true}'."`
	Default     bool     `help:"Make this version the default at once."`
	SignKey     string   `name:"sign-key" type:"existingfile" placeholder:"FILE" help:"Sign the upload with this Ed25519 private key (PEM), for servers that ask for it."`
	ServingFlags
	Quiet bool `short:"q" help:"No progress bar."`
}

func (c *PushCmd) Run(ctx context.Context, s std) error {
	spec := client.Spec{Description: c.Description, Roles: c.Role, Inputs: c.Input, Outputs: c.OutputName, Default: c.Default}
	if c.Disclosure != "" {
		if !json.Valid([]byte(c.Disclosure)) {
			return errors.New(`--disclosure is not JSON; write it as in '{"outputs":["label"]}'`)
		}
		spec.Disclosure = json.RawMessage(c.Disclosure)
	}
	if err := checkRoles(c.Role, "leave --role out to open the model to no role"); err != nil {
		return err
	}
	api, err := connect()
	if err != nil {
		return err
	}
	if spec.Serving, err = c.serving(ctx, api, c.Name); err != nil {
		return err
	}
	model, err := openModel(c.File)
	if err != nil {
		return err
	}
	defer model.Close()
	if n := model.External(); n > 0 {
		fmt.Fprintf(s.err, "Including %s in other files.\n", count(n, "tensor that stands", "tensors that stand"))
	}
	if c.SignKey != "" {
		if spec.Signature, err = sign(c.SignKey, c.Name, model.Reader()); err != nil {
			return err
		}
	}
	bar := c.progress(s, model.Size())
	v, err := api.Push(ctx, c.Name, model.Size(), func() (io.Reader, error) {
		bar.Reset()
		r := progressbar.NewReader(model.Reader(), bar)
		return &r, nil
	}, spec)
	_ = bar.Exit()
	if err != nil {
		return err
	}
	if err := c.show(s, v, func(w io.Writer) {
		fmt.Fprintf(w, "Model\t%s\nVersion\t%d\nState\t%s\nDigest\t%s\nInputs\t%s\nOutputs\t%s\n",
			v.Name, v.Version, v.State, v.Digest, tensors(v.Inputs), tensors(v.Outputs))
	}); err != nil || c.JSON {
		return err
	}
	if advice := batchingAdvice(c.Name, v.Batching); advice != "" {
		fmt.Fprintln(s.err, advice)
	}
	if v.Version == 1 {
		return nil
	}
	// The upload is done: a question that fails now must not look like its failure.
	if m, err := api.Model(ctx, c.Name); err == nil {
		fmt.Fprintln(s.err, answering(m, v.Version))
	}
	return nil
}

// sign signs what is sent of a model with the private key in a file: PKCS #8 in
// PEM, as "openssl genpkey -algorithm ed25519" writes it.
func sign(path, model string, file io.Reader) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--sign-key %s: %w", path, errors.Unwrap(err))
	}
	block, _ := pem.Decode(text)
	if block != nil && block.Type == "PUBLIC KEY" { // its mode does not matter
		return nil, fmt.Errorf("--sign-key %s is a public key; give the private key that belongs to it", path)
	}
	if err := checkPrivate(path); err != nil {
		return nil, err
	}
	var key ed25519.PrivateKey
	if block != nil && block.Type == "PRIVATE KEY" {
		parsed, _ := x509.ParsePKCS8PrivateKey(block.Bytes)
		key, _ = parsed.(ed25519.PrivateKey)
	}
	if key == nil {
		return nil, fmt.Errorf("--sign-key %s holds no Ed25519 private key in PEM without a password; make one, in a file of its own, with: openssl genpkey -algorithm ed25519 -out NEW.pem", path)
	}
	return client.Sign(key, model, file)
}

// answering says which version callers get who name none.
func answering(m client.Model, pushed int) string {
	switch m.DefaultVersion {
	case pushed:
		return fmt.Sprintf("Version %d answers from now on.", pushed)
	case 0:
		return fmt.Sprintf("No version answers callers who name none. To change that: modelgate model set %s --default-version %d", m.Name, pushed)
	}
	return fmt.Sprintf("Version %d still answers callers who name none. To switch: modelgate model set %s --default-version %d",
		m.DefaultVersion, m.Name, pushed)
}

// progress draws on a terminal only; when everything is sent it says what the
// server does with it.
func (c *PushCmd) progress(s std, size int64) *progressbar.ProgressBar {
	f, ok := s.err.(*os.File)
	if c.Quiet || c.JSON || !ok || !term.IsTerminal(int(f.Fd())) {
		return progressbar.DefaultBytesSilent(size)
	}
	return progressbar.NewOptions64(size, progressbar.OptionSetWriter(f), progressbar.OptionSetDescription("Sending"),
		progressbar.OptionShowBytes(true), progressbar.OptionSetWidth(30), progressbar.OptionThrottle(100e6),
		progressbar.OptionOnCompletion(func() { fmt.Fprintln(f, "\nSent; the server checks and tries the model.") }))
}
