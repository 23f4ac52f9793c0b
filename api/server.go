package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/ulule/limiter/v3"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/inference"
	"modelgate/models"
)

// Config wires a Server. Auth, Guard, Catalog, Inference and Audit are needed;
// zero fields of the rest take the defaults named.
type Config struct {
	Auth      *auth.Service
	Guard     *auth.Guard
	Catalog   *models.Catalog
	Inference *inference.Service
	Audit     *audit.Log

	Metrics   *prometheus.Registry // shown under /admin/metrics; nil: a new one
	Logger    *slog.Logger         // "cause" attributes are for a protected log only; nil: none
	AccessLog io.Writer            // gets one JSON line for each request, many at a time; nil: none

	Limits         Limits
	Store          limiter.Store // of rates; nil: NewSliding
	TrustedProxies []string      // networks whose X-Forwarded-For is believed; none: nobody's
	Origins        []string      // whose pages may read answers to bearer credentials (CORS); none: nobody's
	MaxBody        int64         // bytes of a body of /predict; 0: 32 MiB
	MaxModel       int64         // bytes of an uploaded file; 0: 512 MiB
	BodyBudget     int64         // bytes of all bodies at once; 0: 256 MiB, never below MaxBody
	BodyGrace      time.Duration // in which a small body must have come; 0: 15 s
	WriteGrace     time.Duration // in which a small answer must be taken; 0: 30 s

	Issuer        string // of tokens; when it is a URL, also where the OAuth routes are said to be
	PasswordGrant bool   // POST /token takes grant_type=password
	TLS           bool   // clients come over TLS: answers carry HSTS

	Ready   func(context.Context) error // what GET /readyz asks, at most twice a second; nil: always ready
	Version string                      // for the metrics and GET /v2
	Now     func() time.Time            // of the rates; nil: the clock
}

// Server answers HTTP.
type Server struct {
	auth      *auth.Service
	guard     *auth.Guard
	catalog   *models.Catalog
	inference *inference.Service
	audit     *audit.Log

	gatherer  *prometheus.Registry
	metrics   *metrics
	log       *slog.Logger
	accessLog *accessLog

	rates         *rates
	proxies       proxies
	origins       origins
	bodies        *inference.Memory // of predictions, and of large answers
	reserve       *inference.Memory // of small bodies: whoever fills the other keeps nobody from signing in
	small         *inference.Memory // of small gRPC messages: large ones keep nobody from a small prediction
	shares        *shares
	maxBody       int64
	maxModel      int64
	bodyGrace     time.Duration
	writeGrace    time.Duration
	issuer        string
	passwordGrant bool
	tls           bool
	version       string

	ready func(context.Context) error
	probe probe

	routes  []*route
	rpcs    rpcServer
	openapi []byte
	docs    docs
	engine  *gin.Engine
}

// New builds the server. It starts nothing.
func New(cfg Config) (*Server, error) {
	s := &Server{
		auth: cfg.Auth, guard: cfg.Guard, catalog: cfg.Catalog, inference: cfg.Inference, audit: cfg.Audit,
		gatherer: cfg.Metrics, log: cfg.Logger, accessLog: newAccessLog(cfg.AccessLog),
		maxBody: or(cfg.MaxBody, 32<<20), maxModel: or(cfg.MaxModel, 512<<20),
		bodyGrace: or(cfg.BodyGrace, bodyGrace), writeGrace: or(cfg.WriteGrace, writeGrace),
		issuer: cfg.Issuer, passwordGrant: cfg.PasswordGrant, tls: cfg.TLS, version: cfg.Version, ready: cfg.Ready,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.gatherer == nil {
		s.gatherer = prometheus.NewRegistry()
	}
	s.bodies = inference.NewMemory(max(or(cfg.BodyBudget, 256<<20), 2*s.maxBody))
	s.reserve, s.small = inference.NewMemory(smallReserve), inference.NewMemory(smallReserve)
	s.shares = &shares{most: max(s.bodies.Budget()/2, 2*s.maxBody+1<<20), held: map[string]int64{}}
	held := func() float64 { return float64(s.bodies.InUse() + s.reserve.InUse() + s.small.InUse()) }
	var err error
	if s.metrics, err = newMetrics(s.gatherer, cfg.Version, held); err != nil {
		return nil, fmt.Errorf("api: metrics: %w", err)
	}
	if s.proxies, err = parseProxies(cfg.TrustedProxies); err != nil {
		return nil, err
	}
	if s.origins, err = parseOrigins(cfg.Origins); err != nil {
		return nil, err
	}
	if s.rates, err = newRates(cfg.Limits, cfg.Store, cfg.Now, s.metrics, s.log); err != nil {
		return nil, err
	}
	if s.auth != nil {
		s.rates.signedIn = s.auth.Addresses
	}
	if s.openapi, err = openapiJSON(); err != nil {
		return nil, fmt.Errorf("api: openapi.yaml: %w", err)
	}
	if s.docs, err = docsPage(); err != nil {
		return nil, fmt.Errorf("api: the documentation page: %w", err)
	}
	if err := s.build(); err != nil {
		return s, err
	}
	return s, s.buildRPC()
}

func or[T comparable](v, fallback T) T {
	var unset T
	if v == unset {
		return fallback
	}
	return v
}

// newEngine makes a router that routes and does nothing more: no middleware,
// no redirects, no guesses about the path, no trust in proxies.
func newEngine() (*gin.Engine, error) {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.ForwardedByClientIP = false
	e.RedirectTrailingSlash, e.RedirectFixedPath, e.RemoveExtraSlash = false, false, false
	e.HandleMethodNotAllowed = true
	return e, e.SetTrustedProxies(nil)
}

// build makes the router of HTTP.
func (s *Server) build() error {
	e, err := newEngine()
	if err != nil {
		return err
	}
	s.routes = s.table()
	s.routes = append(s.routes, s.consoleTable(s.routes)...)
	for _, r := range s.routes {
		r.metrics = s.metrics.forRoute(r.Path, r.Method, r.status)
		e.Handle(r.Method, ginPath(r.Path), s.serve(r))
	}
	unmatched := func(path string, h handler) gin.HandlerFunc {
		r := &route{Route: Route{Path: path}, handle: h}
		r.metrics = s.metrics.forRoute(path, "", 0)
		return s.serve(r)
	}
	e.NoRoute(unmatched("unmatched", func(*call) error { return errNoRoute }))
	e.NoMethod(unmatched("wrong method", wrongMethod))
	s.engine = e
	return nil
}

// Handler returns the way in. It has deadlines of its own for bodies and
// answers; its http.Server should bound the rest, as ReadHeaderTimeout and
// IdleTimeout do.
func (s *Server) Handler() http.Handler { return s.engine }

// Run gives memory that no body needs back to the system, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, m := range []*inference.Memory{s.bodies, s.reserve, s.small} {
				m.Trim()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Close writes the lines of the access log that still wait. It is called when
// the last request has been answered.
func (s *Server) Close() { s.accessLog.flush() }

// Access says who may call a route at all.
type Access string

const (
	Public         Access = "public"           // no credentials are asked for; OAuth routes look at those of clients
	Bearer         Access = "bearer"           // an access token or API key
	BearerOrClient Access = "bearer or client" // or the credentials of an OAuth client
	Cookie         Access = "cookie"           // the cookie of a browser that signed in
)

// Route is one line of the route table.
type Route struct {
	Method     string
	Path       string // "/models/{name}"
	Access     Access
	Permission auth.Permission // needed besides a credential; 0: none, what the caller is decides further in
	Or         auth.Permission // does as well as Permission; 0: nothing does
}

// Routes lists every route there is.
func (s *Server) Routes() []Route {
	list := make([]Route, len(s.routes))
	for i, r := range s.routes {
		list[i] = r.Route
	}
	return list
}

// rateClass says what is charged before a route's body is read.
type rateClass string

const (
	noRate       rateClass = ""
	strangerRate rateClass = "stranger" // the generous rate of unknown callers
	loginRate    rateClass = "login"    // the sign-in rate, counted apart for each of these
	registerRate rateClass = "register"
	resetRate    rateClass = "reset"
	externalRate rateClass = "external" // sign-in through identity providers
)

// route is a Route with what it does.
type route struct {
	Route
	status   int       // of success
	rate     rateClass // per address
	action   string    // what a denial is called in the audit log
	handle   handler
	enrol    bool // also for who must turn on a second factor first
	predicts bool // of prediction and reading models, else of the caller's account; where there is no Permission
	rpc      bool // a gRPC method: answered with a status in trailers
	metrics  *routeMetrics
}

func open(method, path string, status int, rate rateClass, h handler) *route {
	return &route{Route: Route{method, path, Public, 0, 0}, status: status, rate: rate, handle: h}
}

func signedIn(method, path string, status int, h handler) *route {
	return &route{Route: Route{method, path, Bearer, 0, 0}, status: status, handle: h}
}

// predicting is signedIn for predictions and for reading models: a provider's
// access token has to delegate no more than that.
func predicting(method, path string, status int, h handler) *route {
	r := signedIn(method, path, status, h)
	r.predicts = true
	return r
}

// delegation is what a provider's access token must delegate to be used here,
// besides Permission.
func (r *route) delegation() auth.Permission {
	switch {
	case r.Permission != 0:
		return 0 // that it does delegate, then
	case r.predicts:
		return auth.Predict
	}
	return auth.Account
}

// enrolling opens a route to those as well whose role needs a second factor
// that they have not.
func enrolling(r *route) *route {
	r.enrol = true
	return r
}

func bearerOrClient(method, path string, status int, h handler) *route {
	return &route{Route: Route{method, path, BearerOrClient, 0, 0}, status: status, handle: h}
}

func allowed(method, path string, need auth.Permission, action string, status int, h handler) *route {
	return &route{Route: Route{method, path, Bearer, need, 0}, status: status, action: action, handle: h}
}

// managed is allowed for owners, with models:write, and for who manages all
// models. Which model is whose, the catalogue knows.
func managed(method, path string, action string, status int, h handler) *route {
	return &route{Route: Route{method, path, Bearer, auth.ModelsWrite, auth.ModelsManage}, status: status, action: action, handle: h}
}

// Sizes of JSON bodies.
const (
	smallReserve = 32 << 20 // all of them together
	smallBody    = 16 << 10 // names and passwords
	policyBody   = 64 << 10 // roles, models' policies, upload specs
)

// table is every route with its method, who may call it, what is charged to
// its address, and the status of success. A route that is not here does not
// exist; one without a permission here decides by what the caller owns or
// which roles a model is open to.
func (s *Server) table() []*route {
	return slices.Concat(s.accountRoutes(), s.adminRoutes(), s.modelRoutes())
}

const (
	get, head, post, put, patch, del = http.MethodGet, http.MethodHead, http.MethodPost,
		http.MethodPut, http.MethodPatch, http.MethodDelete
)

// accountRoutes are those about the server, and about the caller himself.
func (s *Server) accountRoutes() []*route {
	return []*route{
		open(get, "/", 200, noRate, plain(s.root)),
		open(get, "/healthz", 200, noRate, plain(s.health)),
		open(head, "/healthz", 200, noRate, plain(s.health)),
		open(get, "/readyz", 200, noRate, plain(s.readiness)),
		open(head, "/readyz", 200, noRate, plain(s.readiness)),
		open(get, "/openapi.json", 200, noRate, s.serveOpenAPI),
		open(get, "/docs", 200, noRate, s.serveDocs),
		open(get, "/.well-known/jwks.json", 200, noRate, s.jwks),
		open(get, "/.well-known/oauth-authorization-server", 200, noRate, plain(s.metadata)),

		open(post, "/register", 201, registerRate, bound(smallBody, s.register)),
		open(post, "/login", 200, loginRate, bound(smallBody, s.login)),
		open(post, "/refresh", 200, strangerRate, bound(smallBody, s.refresh)),
		open(post, "/password-reset", 204, resetRate, bound(smallBody, s.resetPassword)),
		open(post, "/token", 200, noRate, s.token),
		open(post, "/revoke", 200, strangerRate, s.revoke),
		bearerOrClient(post, "/introspect", 200, s.introspect),
		enrolling(signedIn(post, "/logout", 204, plain(s.logout))),

		enrolling(signedIn(get, "/users/me", 200, plain(s.me))),
		enrolling(signedIn(post, "/users/me/password", 204, bound(smallBody, s.changePassword))),
		enrolling(signedIn(post, "/users/me/totp", 200, optional(smallBody, s.beginTOTP))),
		enrolling(signedIn(post, "/users/me/totp/confirm", 200, bound(smallBody, s.confirmTOTP))),
		signedIn(del, "/users/me/totp", 204, bound(smallBody, s.removeTOTP)),
		signedIn(post, "/users/me/recovery-codes", 200, bound(smallBody, s.renewRecoveryCodes)),
		signedIn(get, "/users/me/keys", 200, plain(s.keys)),
		signedIn(post, "/users/me/keys", 201, bound(smallBody, s.createKey)),
		signedIn(del, "/users/me/keys/{id}", 204, plain(s.deleteKey)),
		signedIn(get, "/users/me/sessions", 200, plain(s.sessions)),
		signedIn(del, "/users/me/sessions", 204, plain(s.endSessions)),
		signedIn(del, "/users/me/sessions/{id}", 204, plain(s.endSession)),
	}
}

// adminRoutes are those about others.
func (s *Server) adminRoutes() []*route {
	return []*route{
		allowed(get, "/admin/users", auth.UsersManage, "user.list", 200, plain(s.users)),
		allowed(post, "/admin/users", auth.UsersManage, "user.create", 201, bound(smallBody, s.createUser)),
		allowed(get, "/admin/users/{id}", auth.UsersManage, "user.read", 200, plain(s.user)),
		allowed(patch, "/admin/users/{id}", auth.UsersManage, "user.update", 200, bound(smallBody, s.updateUser)),
		allowed(del, "/admin/users/{id}", auth.UsersManage, "user.delete", 204, plain(s.deleteUser)),
		allowed(post, "/admin/users/{id}/reset", auth.UsersManage, "user.reset", 200, optional(smallBody, s.resetUser)),
		allowed(get, "/admin/users/{id}/secrets", auth.UsersManage, "secret.list", 200, plain(s.secrets)),
		allowed(post, "/admin/users/{id}/secrets", auth.UsersManage, "secret.create", 201, bound(smallBody, s.createSecret)),
		allowed(del, "/admin/users/{id}/secrets/{secret}", auth.UsersManage, "secret.delete", 204, plain(s.deleteSecret)),
		allowed(get, "/admin/users/{id}/identities", auth.UsersManage, "identity.list", 200, plain(s.identities)),
		allowed(post, "/admin/users/{id}/identities", auth.UsersManage, "identity.link", 201, bound(smallBody, s.linkIdentity)),
		allowed(del, "/admin/users/{id}/identities/{identity}", auth.UsersManage, "identity.unlink", 204, plain(s.unlinkIdentity)),
		allowed(get, "/admin/users/{id}/sessions", auth.UsersManage, "session.list", 200, plain(s.sessionsOf)),
		allowed(del, "/admin/users/{id}/sessions", auth.UsersManage, "session.end", 204, plain(s.endSessionsOf)),
		allowed(del, "/admin/users/{id}/sessions/{session}", auth.UsersManage, "session.end", 204, plain(s.endSessionOf)),
		allowed(del, "/admin/sessions", auth.UsersManage, "session.end_all", 204, plain(s.endEverySession)),
		allowed(get, "/admin/roles", auth.UsersManage, "role.list", 200, plain(s.roles)),
		allowed(put, "/admin/roles/{name}", auth.UsersManage, "role.put", 200, bound(smallBody, s.putRole)),
		allowed(del, "/admin/roles/{name}", auth.UsersManage, "role.delete", 204, plain(s.deleteRole)),
		allowed(get, "/admin/signing-keys", auth.UsersManage, "signing_key.list", 200, plain(s.signingKeys)),
		allowed(post, "/admin/signing-keys", auth.UsersManage, "signing_key.rotate", 201, plain(s.rotateSigningKey)),
		allowed(del, "/admin/signing-keys/{id}", auth.UsersManage, "signing_key.retire", 204, plain(s.retireSigningKey)),
		allowed(get, "/admin/audit", auth.AuditRead, "audit.read", 200, plain(s.auditLog)),
		allowed(get, "/admin/audit/export", auth.AuditRead, "audit.export", 200, s.exportAudit),
		allowed(get, "/admin/metrics", auth.MetricsRead, "metrics.read", 200, s.showMetrics),
	}
}

// modelRoutes are those about models, and predictions.
func (s *Server) modelRoutes() []*route {
	return []*route{
		predicting(get, "/models", 200, plain(s.listModels)),
		predicting(get, "/models/{name}", 200, plain(s.model)),
		managed(post, "/models/{name}/versions", "model.publish", 201, plain(s.upload)),
		managed(patch, "/models/{name}", "model.update", 200, bound(policyBody, s.updateModel)),
		managed(del, "/models/{name}", "model.delete", 204, plain(s.deleteModel)),
		managed(del, "/models/{name}/versions/{version}", "model.delete_version", 204, plain(s.deleteVersion)),

		predicting(post, "/predict", 200, s.predict),

		predicting(get, "/v2", 200, plain(s.oipServer)),
		open(get, "/v2/health/live", 200, noRate, plain(s.oipLive)),
		open(get, "/v2/health/ready", 200, noRate, plain(s.oipReady)),
		predicting(get, "/v2/models/{name}", 200, plain(s.oipModel)),
		predicting(get, "/v2/models/{name}/versions/{version}", 200, plain(s.oipModel)),
		predicting(get, "/v2/models/stats", 200, plain(s.allStatistics)), // a model of that name is found under its versions
		predicting(get, "/v2/models/{name}/stats", 200, plain(s.oipStatistics)),
		predicting(get, "/v2/models/{name}/versions/{version}/stats", 200, plain(s.oipStatistics)),
		predicting(get, "/v2/models/{name}/config", 200, plain(s.oipConfig)),
		predicting(get, "/v2/models/{name}/versions/{version}/config", 200, plain(s.oipConfig)),
		predicting(get, "/v2/models/{name}/ready", 200, plain(s.oipModelReady)),
		predicting(get, "/v2/models/{name}/versions/{version}/ready", 200, plain(s.oipModelReady)),
		predicting(post, "/v2/models/{name}/infer", 200, s.infer),
		predicting(post, "/v2/models/{name}/versions/{version}/infer", 200, s.infer),
		predicting(post, "/v2/repository/index", 200, s.oipIndex),
		managed(post, "/v2/repository/models/{name}/load", "model.load", 200, s.oipLoad),
		managed(post, "/v2/repository/models/{name}/unload", "model.unload", 400, s.oipUnload),
	}
}

// ginPath writes "/models/{name}" as "/models/:name".
func ginPath(path string) string {
	return strings.NewReplacer("{", ":", "}", "").Replace(path)
}

// base is the server's address as the OAuth metadata gives it: the issuer
// when it is a URL, else what the request was sent to.
func (s *Server) base(r *http.Request) string {
	if u, err := url.Parse(s.issuer); err == nil && u.Host != "" {
		return strings.TrimRight(s.issuer, "/")
	}
	if s.tls || r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}
