package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
)

const description = "Serve ONNX models to people you don't fully trust: identity, per-model roles, rate limits and an audit log in one program."

// CLI is the tree of subcommands; each has a file of its own.
type CLI struct {
	Serve  ServeCmd  `cmd:"" group:"Server" help:"Run the server."`
	Config ConfigCmd `cmd:"" group:"Server" help:"Print the resolved configuration, secrets masked."`

	Login    LoginCmd    `cmd:"" group:"Client" help:"Log in to a server; later commands use it."`
	Logout   LogoutCmd   `cmd:"" group:"Client" help:"End the login here and on the server."`
	Accept   AcceptCmd   `cmd:"" group:"Client" help:"Take an invitation, or a token to reset a password with."`
	Password PasswordCmd `cmd:"" group:"Client" help:"Change your password."`
	TOTP     TOTPCmd     `cmd:"" name:"totp" group:"Client" help:"A second factor for your account: codes of an authenticator application."`
	Whoami   WhoamiCmd   `cmd:"" group:"Client" help:"Show the server, user and roles in use."`
	Models   ModelsCmd   `cmd:"" group:"Client" help:"List the models open to you, or show one."`
	Predict  PredictCmd  `cmd:"" group:"Client" help:"Ask a model for a prediction."`
	Bench    BenchCmd    `cmd:"" group:"Client" help:"Load a model with requests and tell throughput and latencies."`
	Push     PushCmd     `cmd:"" group:"Client" help:"Upload a model or a new version of one."`
	Model    ModelCmd    `cmd:"" group:"Client" help:"Change or delete a model."`
	Key      KeyCmd      `cmd:"" group:"Client" help:"API keys for machines."`

	User  UserCmd  `cmd:"" group:"Administration" help:"Users and their roles."`
	Role  RoleCmd  `cmd:"" group:"Administration" help:"Roles, which open models and carry permissions and rates."`
	Audit AuditCmd `cmd:"" group:"Administration" help:"Read or verify the audit log."`

	SigningKey SigningKeyCmd `cmd:"" name:"signing-key" group:"Administration" help:"Keys that sign access tokens."`

	Admin   AdminCmd   `cmd:"" group:"Offline, on the data folder" help:"Repairs that need no login."`
	Backup  BackupCmd  `cmd:"" group:"Offline, on the data folder" help:"Copy the data folder but for the master key, also while the server runs."`
	Restore RestoreCmd `cmd:"" group:"Offline, on the data folder" help:"Put a backup into an empty data folder; the master key comes back apart."`

	Healthcheck HealthcheckCmd            `cmd:"" group:"Other" help:"Exit 0 when a server answers as ready (for containers)."`
	Help        HelpCmd                   `cmd:"" group:"Other" help:"Explain a command."`
	Version     VersionCmd                `cmd:"" group:"Other" help:"Print the version, as --version does."`
	Completion  kongcompletion.Completion `cmd:"" group:"Other" help:"Print the shell's completion code."`
}

func commandPath(e *kong.ParseError) string {
	if e.Context == nil || e.Context.Selected() == nil {
		return ""
	}
	return strings.TrimPrefix(e.Context.Selected().Path(), "modelgate ") + " "
}

// Output is shared by the commands that list something.
type Output struct {
	JSON bool `name:"json" help:"Print JSON, for programs."`
}

// show prints v as JSON when asked to, else what table writes.
func (o Output) show(s std, v any, table func(w io.Writer)) error {
	if o.JSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	w := tabwriter.NewWriter(s.out, 0, 4, 2, ' ', 0)
	table(w)
	return w.Flush()
}

// VersionCmd prints what was built.
type VersionCmd struct{ Output }

func (c *VersionCmd) Run(s std) error {
	v := map[string]string{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
	return c.show(s, v, func(w io.Writer) {
		fmt.Fprintf(w, "modelgate %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	})
}

// HelpCmd is COMMAND --help in another order.
type HelpCmd struct {
	Command []string `arg:"" optional:"" help:"The command, as in: model set."`
}

func (c *HelpCmd) Run(app *kong.Kong) error {
	ctx, err := kong.Trace(app, c.Command)
	if err == nil {
		err = ctx.Error
	}
	if err != nil {
		return usageError{fmt.Errorf("%w; 'modelgate --help' lists the commands", err)}
	}
	return ctx.PrintUsage(false)
}

// ConfigCmd prints what serve would use.
type ConfigCmd struct {
	Flags
	Output
}

func (c *ConfigCmd) Run(s std) error {
	if err := c.Config.Check(); err != nil {
		return usageError{err}
	}
	settings := c.Config.Settings()
	return c.show(s, settings, func(w io.Writer) {
		for _, v := range settings {
			fmt.Fprintf(w, "%s\t%s\t%s\n", v.Key, v.Value, v.Env)
		}
	})
}

// Flags are the server's settings as flags.
type Flags struct {
	File   ConfigFile `name:"config" env:"MODELGATE_CONFIG" type:"path" placeholder:"FILE" help:"YAML file of settings, keyed by the flags' names."`
	Config `embed:""`
}
