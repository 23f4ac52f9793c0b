package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/ulule/limiter/v3"
	"golang.org/x/sync/errgroup"

	"modelgate/api"
	"modelgate/audit"
	"modelgate/auth"
	"modelgate/inference"
	"modelgate/inference/ort"
	"modelgate/inference/worker"
	"modelgate/models"
	"modelgate/store"
)

// ServeCmd runs the server.
type ServeCmd struct{ Flags }

// Run opens, wires, serves and drains: the only place that sees all rooms.
func (c *ServeCmd) Run(ctx context.Context, s std, app *kong.Kong) error {
	if err := c.Config.Check(); err != nil {
		return usageError{err}
	}
	log, protected, err := openLogs(s.err, c.LogLevel, protectedPath(c.Data))
	if err != nil {
		return err
	}
	defer protected.Close()
	_, secrets, _ := c.identityProviders() // Check has read it
	for _, name := range unknownEnv(app.Model, os.Environ()) {
		if slices.Contains(secrets, name) {
			continue
		}
		log.Warn("this variable is no setting of modelgate; it has no effect", "name", name)
	}
	pace(&c.Config)
	srv, err := open(ctx, &c.Config, log, s)
	if err != nil {
		return err
	}
	defer srv.close()
	return srv.run(ctx, s)
}

// Go's collector. gcPercent lets garbage grow to four times what lives, which is
// little: tensors, bodies and models are not in Go's heap. Against Go's own 100
// it takes a tenth off the CPU time of a small prediction, for some 15 MiB; 800
// takes no more off. The texts of large answers are in the heap: before it has
// grown by as much as these may take (body-memory) and goHeap, the collector
// runs as often as it must.
const (
	gcPercent = 400
	goHeap    = 256 << 20
)

// pace sets how often Go's collector runs, where the variables GOGC and
// GOMEMLIMIT don't.
func pace(cfg *Config) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(cfg.BodyMemory) + goHeap)
	}
}

// server holds what open made, in the order it must be closed from the end.
type server struct {
	cfg      *Config
	log      *slog.Logger
	doors    doors
	listener net.Listener
	http     *http.Server
	rpc      net.Listener // nil: no gRPC
	grpc     *http.Server
	service  *inference.Service
	api      *api.Server
	auth     *auth.Service
	audit    *audit.Log
	draining atomic.Bool
	admin    string // the first administrator's random password, once
	closers  []func() error

	background []func(context.Context) error // run beside the rooms' own
}

func (s *server) closeLater(f func() error) { s.closers = append(s.closers, f) }

// close undoes open, last first.
func (s *server) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		if err := s.closers[i](); err != nil {
			s.log.Error("closing failed", "cause", err)
		}
	}
	s.closers = nil
}

// open makes every room. On failure what was made is closed.
func open(ctx context.Context, cfg *Config, log *slog.Logger, std std) (srv *server, err error) {
	srv = &server{cfg: cfg, log: log}
	defer func() {
		if err != nil {
			srv.close()
		}
	}()
	lock, err := lockData(cfg.Data)
	if err != nil {
		return srv, err
	}
	srv.closeLater(lock.Close)
	// The address first: a port in use must not cost a start that had
	// printed the administrator's password already.
	if srv.doors, err = openDoors(ctx, cfg, log); err != nil {
		return srv, err
	}
	srv.closeLater(srv.doors.close)
	srv.listener, srv.rpc = srv.doors.http, srv.doors.grpc
	db, err := store.Open(ctx, cfg.DatabasePath(), log)
	if err != nil {
		return srv, err
	}
	srv.closeLater(db.Close)
	if srv.audit, err = openAudit(ctx, cfg, db, log); err != nil {
		return srv, err
	}
	srv.closeLater(srv.audit.Close)
	// The runtime comes before the first administrator, for the same reason as
	// the address.
	memory := inference.NewMemory(int64(cfg.TensorMem))
	registry := prometheus.NewRegistry()
	engine, err := srv.openEngine(ctx, memory, registry)
	if err != nil {
		return srv, err
	}
	guard := auth.NewGuard(srv.audit)
	if err := srv.openAuth(ctx, db, guard, std); err != nil {
		return srv, err
	}
	catalog, err := srv.openCatalog(ctx, db, guard)
	if err != nil {
		return srv, err
	}
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(srv.auth.Collectors()...)
	registry.MustRegister(srv.doors.collectors()...)
	registry.MustRegister(srv.audit.Collectors()...)
	registry.MustRegister(guard.Collectors()...)
	srv.auth.OnChanges(catalog.Follow)
	srv.openInference(engine, memory, catalog, registry)
	if cfg.Demo {
		if err := publishSamples(ctx, catalog, srv.service, log); err != nil {
			return srv, err
		}
	}
	return srv, srv.openAPI(std, db, guard, catalog, registry)
}

// openAudit opens the audit log of a data folder, with the key that signs it.
func openAudit(ctx context.Context, cfg *Config, db *store.DB, log *slog.Logger) (*audit.Log, error) {
	key, err := audit.OpenKey(auditKeyPath(cfg.Data))
	if err != nil {
		return nil, err
	}
	return audit.Open(ctx, audit.Config{
		Path: auditPath(cfg.Data), Heads: db, Key: key, Logger: log,
		MaxSize: int64(cfg.AuditFileSize), MaxAge: cfg.AuditFileAge,
	})
}

func (s *server) openAuth(ctx context.Context, db *store.DB, guard *auth.Guard, std std) error {
	cfg := s.cfg
	if err := needMasterKey(ctx, cfg, db); err != nil {
		return err
	}
	vault, err := cfg.vault()
	if err != nil {
		return err
	}
	keys, err := auth.OpenKeyring(ctx, auth.KeyringConfig{
		Secret: cfg.JWTSecret, Store: db, Vault: vault, Dir: keysPath(cfg.Data),
		Every: cfg.KeyRotation, Lead: cfg.KeyLead, AccessTTL: cfg.AccessTTL, Logger: s.log,
	})
	if err != nil {
		return err
	}
	providers, _, err := cfg.identityProviders()
	if err != nil {
		return err
	}
	hashing := newHashers(cfg.hashers(), s.log)
	s.closeLater(func() error { hashing.close(); return nil })
	s.auth, err = auth.New(auth.Config{
		Store: db, Guard: guard, Audit: s.audit, Keys: keys, Vault: vault,
		Issuer: s.issuer(), Audience: cfg.Audience,
		AccessTTL: cfg.AccessTTL, RefreshTTL: cfg.RefreshTTL, SessionTTL: cfg.SessionTTL,
		BrowserTTL: cfg.BrowserTTL, BrowserIdle: cfg.BrowserIdle, MaxSessions: cfg.MaxSessions,
		Registration: auth.Registration(cfg.Registration), PasswordGrant: cfg.PasswordGrant, Providers: providers,
		RequireTOTP: cfg.RequireTOTP,
		Hashing:     auth.Hashing{Gate: cfg.hashers(), Derive: hashing.derive}, Logger: s.log,
	})
	if err != nil {
		return err
	}
	generated, created, err := s.auth.EnsureAdmin(ctx, cfg.AdminPassword)
	if err != nil {
		if errors.Is(err, auth.ErrWeakPassword) {
			err = fmt.Errorf("--admin-password: %w", err)
		}
		return fmt.Errorf("the first administrator can't be made: %w", err)
	}
	if s.admin = generated; created && generated != "" {
		fmt.Fprintf(std.err, "\n  First administrator: admin\n  Password:            %s\n"+
			"  (shown only now, and good until %s: log in and change it with 'modelgate password';\n"+
			"  after that, or when it is lost, 'modelgate admin reset-password' on the stopped server sets another)\n\n",
			generated, time.Now().Add(auth.InitialPasswordTTL).UTC().Format("2006-01-02 15:04 MST"))
	}
	return nil
}

func (s *server) openCatalog(ctx context.Context, db *store.DB, guard *auth.Guard) (*models.Catalog, error) {
	cfg := s.cfg
	files, err := models.OpenFiles(modelsPath(cfg.Data), int64(cfg.MaxModel))
	if err != nil {
		return nil, err
	}
	files.KeepFree(int64(cfg.DiskReserve))
	keys, err := cfg.uploadKeys()
	if err != nil {
		return nil, err
	}
	return models.New(ctx, models.Config{
		Store: db, Files: files, Guard: guard, Logger: s.log, RolesExist: s.auth.RolesExist,
		Limits: cfg.modelLimits(), Quota: int64(cfg.ModelQuota), UploadKeys: keys,
	})
}

func (s *server) issuer() string {
	if s.cfg.Issuer != "" {
		return s.cfg.Issuer
	}
	return s.url()
}

// grpcAddress is where gRPC is spoken, as clients write it; "" for nowhere.
func (s *server) grpcAddress() string {
	if s.rpc == nil {
		return ""
	}
	return localAddress(s.rpc.Addr().String())
}

func (s *server) url() string {
	scheme := "http://"
	if s.cfg.TLS() {
		scheme = "https://"
	}
	return scheme + localAddress(s.listener.Addr().String())
}

func (s *server) openEngine(ctx context.Context, memory *inference.Memory, registry *prometheus.Registry) (inference.Engine, error) {
	path, err := ort.FindLibrary(s.cfg.ONNXRuntime)
	if err != nil {
		return nil, err
	}
	if s.cfg.Isolation == isolationNone {
		engine, err := ort.Open(path, ort.Config{Memory: memory, MaxMemory: int64(s.cfg.RuntimeMem)})
		if err != nil {
			return nil, err
		}
		s.closeLater(engine.Close)
		registry.MustRegister(worker.Unsandboxed()...)
		s.log.Warn("models run inside this process (isolation none): a hostile model file could read its keys; publish only files you trust")
		return engine, nil
	}
	engine, err := worker.Open(ctx, worker.Config{Library: path, Memory: memory, MaxMemory: int64(s.cfg.RuntimeMem), Threads: s.cfg.slots(), Logger: s.log})
	if err != nil {
		return nil, err
	}
	s.closeLater(engine.Close)
	registry.MustRegister(engine.Collectors()...)
	s.log.Info("models run in sandboxed processes of their own", "onnxruntime", engine.Version(), "layers_missing", len(engine.Protections().Missing()))
	for _, gap := range engine.Protections().Missing() {
		s.log.Warn("the sandbox of models lacks a layer", "layer", gap.Label, "what", gap.Text)
	}
	return engine, nil
}

func (s *server) openInference(engine inference.Engine, memory *inference.Memory, catalog *models.Catalog, registry *prometheus.Registry) {
	cfg := s.cfg
	s.service = inference.New(inference.Config{
		Engine: engine, Catalog: catalog, Memory: memory, Slots: cfg.slots(), Queue: cfg.Queue,
		Timeout: cfg.Timeout, LoadTimeout: cfg.LoadTimeout, IdleClose: cfg.IdleClose, SessionMemory: int64(cfg.SessionMem),
		Charge: func(ctx context.Context, who auth.Principal, access models.Access, rows int) error {
			return s.auth.Spend(ctx, &who, access.Model.Name, access.Rule.DailyRows, int64(rows))
		},
		Count: func(who auth.Principal, v *models.Version, rows int) {
			s.audit.CountPrediction(who.UserID, who.Username, v.Model, v.Number, rows)
		},
		Metrics: registry, Logger: s.log,
	})
	catalog.Retired(s.service.Retire)
	catalog.Changed(s.service.Refresh)
	s.closeLater(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return s.service.Close(ctx)
	})
}

func (s *server) openAPI(std std, db *store.DB, guard *auth.Guard, catalog *models.Catalog, registry *prometheus.Registry) error {
	cfg := s.cfg
	var accessLog io.Writer
	if cfg.AccessLog && s.log.Enabled(context.Background(), slog.LevelInfo) {
		accessLog = std.err
	}
	shared, err := s.openRates(registry)
	if err != nil {
		return err
	}
	a, err := api.New(api.Config{
		Store: shared,
		Auth:  s.auth, Guard: guard, Catalog: catalog, Inference: s.service, Audit: s.audit,
		Metrics: registry, Logger: s.log,
		Limits:         api.Limits{Predict: cfg.RatePredict, Login: cfg.RateLogin, Unauthenticated: cfg.RateUnauth},
		TrustedProxies: cfg.TrustedProxies, Origins: cfg.CORSOrigins,
		MaxBody: int64(cfg.MaxBody), MaxModel: int64(cfg.MaxModel), BodyBudget: int64(cfg.BodyMemory),
		Issuer: s.issuer(), TLS: cfg.TLS(), Version: version,
		PasswordGrant: cfg.PasswordGrant, AccessLog: accessLog,
		Ready: func(ctx context.Context) error {
			if s.draining.Load() {
				return errors.New("draining")
			}
			return db.Ping(ctx)
		},
	})
	if err != nil {
		return err
	}
	s.api = a
	s.closeLater(func() error { a.Close(); return nil })
	errorLog := slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	s.http = a.HTTPServer()
	s.http.ErrorLog = errorLog
	s.grpc = a.RPCServer()
	s.grpc.ErrorLog = errorLog
	for i, server := range []*http.Server{s.http, s.grpc}[:len(s.doors.bounds)] { // as openDoors opened them
		s.doors.bounds[i].follow(server)
	}
	return nil
}

// openRates is the store of rates that servers share, or nil for the one in
// this process.
func (s *server) openRates(registry *prometheus.Registry) (limiter.Store, error) {
	if s.cfg.RedisURL == "" {
		return nil, nil
	}
	r, err := store.OpenRedis(s.cfg.RedisURL, s.log)
	if err != nil {
		return nil, fmt.Errorf("--redis-url %w", err)
	}
	s.closeLater(r.Close)
	registry.MustRegister(r.Collectors()...)
	s.background = append(s.background, r.Run)
	return r, nil
}

// run serves until ctx ends, then drains: the listener closes, requests in
// flight end, and only then what they use.
func (s *server) run(ctx context.Context, std std) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var work errgroup.Group
	for _, f := range append(s.background, s.audit.Run, s.auth.Run, s.service.Run, s.api.Run, s.doors.run) {
		work.Go(func() error { return f(background) })
	}
	served := make(chan error, 2)
	go func() { served <- s.http.Serve(s.listener) }()
	if s.rpc != nil {
		go func() { served <- s.grpc.Serve(s.rpc) }()
	}
	s.log.Info("serving", "address", s.url(), "grpc", s.grpcAddress(), "version", version)
	s.greet(std.err)
	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		s.draining.Store(true)
		s.service.Drain()
		s.log.Info("draining", "timeout", s.cfg.DrainTimeout.String())
		s.drain(ctx)
	}
	stop()
	if ended := work.Wait(); err == nil && ended != nil && !errors.Is(ended, context.Canceled) {
		err = ended
	}
	s.log.Info("stopped")
	return err
}

// drain lets what is in flight end, over HTTP and gRPC at the same time.
func (s *server) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	var ways errgroup.Group
	for _, way := range []*http.Server{s.http, s.grpc} {
		ways.Go(func() error {
			if err := way.Shutdown(ctx); err != nil {
				s.log.Warn("requests were still running at the end of the drain", "cause", err)
				way.Close()
			}
			return nil
		})
	}
	_ = ways.Wait()
}

// greet tells a person what to type next.
func (s *server) greet(w io.Writer) {
	fmt.Fprintf(w, "\nmodelgate listens on %s; its documentation is at %s/docs\n", s.url(), s.url())
	if address := s.grpcAddress(); address != "" {
		fmt.Fprintf(w, "The Open Inference Protocol is spoken over gRPC on %s\n", address)
	}
	if !s.cfg.Demo {
		return
	}
	password := "its password"
	if s.admin != "" {
		password = "the password above"
	}
	program := os.Args[0]
	fmt.Fprintf(w, `
A first prediction, in another terminal (log in with %s):

  %s login %s --username admin
  %s models
  %s predict iris '[[5.1,3.5,1.4,0.2]]'

`, password, program, s.url(), program, program)
}
