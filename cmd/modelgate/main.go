// Command modelgate is the server and its command line: it reads the
// configuration, wires the rooms together and runs them. It holds no rule of
// its own: who may do what is decided in auth and models.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
)

// version is set by the linker (make build).
var version = "dev"

func main() {
	if len(os.Args) > 1 && os.Args[1] == workerCommand {
		os.Exit(runWorker(os.Args[2:]))
	}
	if len(os.Args) == 2 && os.Args[1] == hashCommand {
		os.Exit(runHasher(os.Stdin, os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], std{os.Stdin, os.Stdout, os.Stderr}))
}

// std is what a command reads and writes.
type std struct {
	in       io.Reader
	out, err io.Writer
}

// run is main without the process: 0 is success, 1 a failure, 2 wrong usage.
func run(ctx context.Context, args []string, s std) int {
	if err := loadDotEnv(); err != nil {
		fmt.Fprintln(s.err, "modelgate:", err)
		return 2
	}
	if len(args) == 1 && args[0] == "--version" { // no flag: some commands have a --version of their own
		args = []string{"version"}
	}
	var cli CLI
	exit := -1
	app := kong.Must(&cli, kong.Name("modelgate"), kong.Description(description),
		kong.Writers(s.out, s.err), kong.Exit(func(code int) { exit = code }),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(s))
	kongcompletion.Register(app)
	command, err := app.Parse(args)
	if exit >= 0 { // --help and the like have answered
		return exit
	}
	if err != nil {
		var usage *kong.ParseError
		if errors.As(err, &usage) {
			return fail(s, fmt.Errorf("%s; see 'modelgate %s--help'", mistake(usage), commandPath(usage)), 2)
		}
		return fail(s, err, 2)
	}
	if err := command.Run(app); err != nil {
		var usage usageError
		if errors.As(err, &usage) {
			return fail(s, err, 2)
		}
		return fail(s, err, 1)
	}
	return 0
}
