//go:build linux && (amd64 || arm64)

package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"modelgate/inference"
)

// Engine runs each model in a sandboxed process of its own. Safe for
// concurrent use.
type Engine struct {
	cfg     Config
	cage    *cage
	library *os.File
	room    int // bytes of each room of the shared memory
	version string
	holds   Protections
	metrics *metrics
	watch   inference.Watcher

	mu       sync.Mutex
	closed   bool                  // guarded by mu
	sessions map[*session]struct{} // open ones; guarded by mu
	loading  int                   // guarded by mu
}

// startTime bounds a worker's start, without its model.
const startTime = 30 * time.Second

// Open finds out what the kernel offers, and starts one worker to see that the
// runtime can be used. The error tells the operator what to do.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Memory == nil || cfg.MaxMemory <= 0 || cfg.Threads <= 0 {
		return nil, errors.New("worker: Config.Memory, MaxMemory and Threads are needed")
	}
	if cfg.Grace == 0 {
		cfg.Grace = 2 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{cfg: cfg, metrics: newMetrics(), sessions: map[*session]struct{}{}, room: (int(cfg.Memory.Budget()) + pageMask) &^ pageMask}
	var err error
	if e.library, err = os.Open(cfg.Library); err != nil {
		return nil, fmt.Errorf("ONNX Runtime can't be read: %w", err)
	}
	if e.cage, err = newCage(ctx, cageConfig{}); err != nil {
		e.library.Close()
		return nil, err
	}
	for _, refused := range e.cage.refusals() {
		cfg.Logger.Info("the kernel refused a way to start models' processes", "reason", refused.Error())
	}
	if err := e.try(ctx); err != nil {
		e.cage.close()
		e.library.Close()
		return nil, err
	}
	e.watch.Start(e.stopEnded)
	return e, nil
}

// try starts a worker without a model.
func (e *Engine) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	p, err := e.start()
	if err != nil {
		return err
	}
	defer p.discard("exit: it was a trial")
	ready, err := e.greet(ctx, p)
	if err != nil {
		return fmt.Errorf("models can't be run in the sandbox: %w", err)
	}
	e.version, e.holds = ready.Version, ready.Protections
	e.metrics.show(e.holds)
	return nil
}

// Version of the runtime, such as "1.30.0".
func (e *Engine) Version() string { return e.version }

// Protections is what holds of every worker.
func (e *Engine) Protections() Protections { return e.holds }

// Collectors are the room's metrics.
func (e *Engine) Collectors() []prometheus.Collector { return e.metrics.collectors() }

// greet waits until the worker is ready for its model.
func (e *Engine) greet(ctx context.Context, p *process) (readyMessage, error) {
	stop := p.endWith(ctx)
	defer stop()
	var ready readyMessage
	err := send(p.control, helloMessage{Threads: e.cfg.Threads, MaxMemory: e.cfg.MaxMemory})
	if err == nil {
		err = receive(p.control, &ready)
	}
	if err == nil {
		return ready, nil
	}
	// It tells why it does not go on, before it ends.
	p.bury("exit: it did not get ready")
	if ended := ctx.Err(); ended != nil {
		return ready, ended
	}
	if text := p.said.text(); text != "" {
		return ready, fmt.Errorf("%s (ONNX Runtime is %s)", strings.ReplaceAll(text, libraryPath, "it"), e.cfg.Library)
	}
	return ready, fmt.Errorf("%w (%s)", err, p.why())
}

// Close frees the engine. It fails, and frees nothing, while sessions are open
// or being loaded.
func (e *Engine) Close() error {
	e.mu.Lock()
	if open := len(e.sessions) + e.loading; e.closed || open > 0 {
		e.mu.Unlock()
		if open > 0 {
			return fmt.Errorf("worker: %d sessions are still open", open)
		}
		return nil
	}
	e.closed = true
	e.mu.Unlock()
	e.watch.Stop()
	e.cage.close()
	return e.library.Close()
}

// Load starts a worker and lets it load the model, whose bytes it gets as
// memory that nobody can change. When ctx or the time limit ends first, the
// worker is killed.
//
// Errors: ErrLoad, with a *Crash as cause when the load ended the worker;
// and so for ErrNoMemory; ErrLoadTimeout (also when ctx ended; Cause is its error);
// ErrUnavailable when no worker can be started or the engine is closed.
func (e *Engine) Load(ctx context.Context, model []byte, opts inference.Options) (inference.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, inference.ErrLoadTimeout.Because(err)
	}
	if len(model) == 0 {
		return nil, inference.ErrLoad.Because(errors.New("the file is empty"))
	}
	if err := e.enter(); err != nil {
		return nil, err
	}
	defer e.leave()
	if opts.LoadTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, opts.LoadTimeout)
		defer cancel()
	}
	p, err := e.start()
	if err != nil {
		return nil, inference.ErrUnavailable.Because(err)
	}
	p.model = cmp.Or(opts.About, "of an upload")
	s, err := e.load(ctx, p, model)
	if err != nil {
		p.discard("exit: its model was not loaded")
		e.report(p)
		return nil, err
	}
	e.cfg.Logger.Info("a model's process started", "pid", p.cmd.Process.Pid, "model", p.model)
	e.mu.Lock()
	e.sessions[s] = struct{}{}
	e.mu.Unlock()
	return s, nil
}

// enter counts a load, so that Close waits for its end; leave ends it.
func (e *Engine) enter() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return inference.ErrUnavailable.Because(errors.New("the engine is closed"))
	}
	e.loading++
	return nil
}

func (e *Engine) leave() {
	e.mu.Lock()
	e.loading--
	e.mu.Unlock()
}

// load gives a new worker its model.
func (e *Engine) load(ctx context.Context, p *process, model []byte) (*session, error) {
	ready, err := e.greet(ctx, p)
	if err == nil && ready.Version != e.version {
		err = fmt.Errorf("ONNX Runtime was %s when the server started, and is %s now; restart the server", e.version, ready.Version)
	}
	if err != nil {
		if ended := ctx.Err(); ended != nil {
			return nil, inference.ErrLoadTimeout.Because(ended)
		}
		return nil, inference.ErrUnavailable.Because(err)
	}
	file, err := sealed(model)
	if err != nil {
		return nil, inference.ErrUnavailable.Because(err)
	}
	defer file.Close()
	stop := p.endWith(ctx)
	defer stop()
	var loaded loadedMessage
	err = send(p.control, modelMessage{Size: int64(len(model))}, file)
	if err == nil {
		err = receive(p.control, &loaded)
	}
	if err != nil || !stop() {
		p.bury("exit: it did not load its model")
		if ended := ctx.Err(); ended != nil {
			return nil, inference.ErrLoadTimeout.Because(ended)
		}
		return nil, inference.ErrLoad.Because(p.crash(true))
	}
	if loaded.Status != statusDone {
		return nil, loadError(loaded.Status, loaded.Cause)
	}
	return newSession(e, p, &loaded), nil
}

func loadError(status uint32, text string) error {
	cause := errors.New(strings.ToValidUTF8(text, "?"))
	if status == statusNoMemory {
		return inference.ErrLoad.Because(inference.ErrNoMemory.With("loading it takes more than its process may have").Because(cause))
	}
	return inference.ErrLoad.Because(cause)
}

// sealed returns memory that holds the model and can't be changed.
func sealed(model []byte) (*os.File, error) {
	file, err := memfd("modelgate-model", 0)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(model)
	if err == nil {
		_, err = unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// report logs what an ended worker said.
func (e *Engine) report(p *process) {
	if text := p.said.text(); text != "" {
		e.cfg.Logger.Warn("a model's process wrote to its output", "pid", p.cmd.Process.Pid, "model", p.model, "end", p.why(), "cause", text)
	}
}

// remove forgets a session that is closed.
func (e *Engine) remove(s *session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sessions, s)
}

// stopEnded tells workers to end the runs whose context has ended, and kills
// those that don't. It reports whether any run is going on.
func (e *Engine) stopEnded() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	running := false
	now := time.Now()
	for s := range e.sessions {
		running = s.stopEnded(now) || running
	}
	return running
}
