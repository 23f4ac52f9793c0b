package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ulule/limiter/v3"

	"modelgate/api"
	"modelgate/auth"
	"modelgate/models"
	"modelgate/store"
)

// Config is everything an operator can set. Each field is a flag, a
// MODELGATE_... variable and a key of the YAML file of --config (the flag's
// name). Flags win over the environment, the environment over `.env`, `.env`
// over the file, the file over the default.
type Config struct {
	// Where.
	Listen      string `env:"MODELGATE_LISTEN" default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Address of the HTTP API; port 0 takes a free one. Default: ${default}."`
	GRPCListen  string `env:"MODELGATE_GRPC_LISTEN" name:"grpc-listen" placeholder:"HOST:PORT" help:"Address of the Open Inference Protocol over gRPC, with the same certificate. Default: none, no gRPC."`
	Data        string `env:"MODELGATE_DATA" default:"./data" type:"path" placeholder:"DIR" help:"Folder of the database, models, keys and audit log. Made at need, readable by its owner only. Default: ${default}."`
	DatabaseURL string `env:"MODELGATE_DATABASE_URL" name:"database-url" placeholder:"URL" help:"Database; 'sqlite:PATH'. Default: modelgate.db in the data folder."`
	ONNXRuntime string `env:"MODELGATE_ONNXRUNTIME_LIB" name:"onnxruntime-lib" type:"path" placeholder:"FILE" help:"ONNX Runtime's shared library. Default: beside the program, then where 'make build' caches it."`
	Demo        bool   `env:"MODELGATE_DEMO" help:"Publish the sample models to role 'user' where they are missing."`

	// Identity.
	AdminPassword string        `env:"MODELGATE_ADMIN_PASSWORD" name:"admin-password" secret:"" placeholder:"PASSWORD" help:"Password of the user 'admin', who is made while nobody is an administrator; without effect after that. Default: a random one, printed once. Prefer the variable: flags can be seen by other users of the machine."`
	JWTSecret     string        `env:"MODELGATE_JWT_SECRET" name:"jwt-secret" secret:"" placeholder:"SECRET" help:"Sign access tokens with HS256 and this secret (32 random bytes or more) instead of Ed25519 keys in the database. Prefer the variable."`
	MasterKey     string        `env:"MODELGATE_MASTER_KEY" name:"master-key" secret:"" placeholder:"KEY" help:"Key that seals the secrets in the database: 32 random bytes in base64. Prefer the variable, or the file."`
	MasterKeyFile string        `env:"MODELGATE_MASTER_KEY_FILE" name:"master-key-file" type:"path" placeholder:"FILE" help:"File of the master key, readable by its owner only. Default: keys/master.key in the data folder, made on the first start."`
	KeyRotation   time.Duration `env:"MODELGATE_KEY_ROTATION" name:"key-rotation" default:"2160h" help:"How often a new key signs access tokens (1h or more); 0: by command alone."`
	KeyLead       time.Duration `env:"MODELGATE_KEY_LEAD" name:"key-lead" default:"10m" help:"How long a new signing key is published before it signs (5s to 24h)."`
	Issuer        string        `env:"MODELGATE_ISSUER" placeholder:"URL" help:"Issuer of access tokens, as clients reach this server. Default: the listening address."`
	Audience      string        `env:"MODELGATE_AUDIENCE" default:"modelgate" help:"Audience of access tokens."`
	AccessTTL     time.Duration `env:"MODELGATE_ACCESS_TTL" name:"access-ttl" default:"15m" help:"Life of an access token (1m to 24h)."`
	RefreshTTL    time.Duration `env:"MODELGATE_REFRESH_TTL" name:"refresh-ttl" default:"168h" help:"Life of an unused refresh token."`
	SessionTTL    time.Duration `env:"MODELGATE_SESSION_TTL" name:"session-ttl" default:"720h" help:"Longest life of a login, however often it is refreshed."`
	BrowserTTL    time.Duration `env:"MODELGATE_BROWSER_TTL" name:"browser-ttl" default:"12h" help:"Longest life of a sign-in with a browser."`
	BrowserIdle   time.Duration `env:"MODELGATE_BROWSER_IDLE" name:"browser-idle" default:"30m" help:"Life of a sign-in with a browser that sends no request (5m or more)."`
	MaxSessions   int           `env:"MODELGATE_MAX_SESSIONS" name:"max-sessions" default:"250" help:"Most live sign-ins of one account, of all kinds together; one more ends the one that was used longest ago."`
	Registration  string        `env:"MODELGATE_REGISTRATION" enum:"open,invite,closed" default:"open" help:"Who may make an account: ${enum}."`
	RequireTOTP   []string      `env:"MODELGATE_REQUIRE_TOTP" name:"require-totp" placeholder:"ROLE" help:"Roles whose holders need a second factor; who has none can do nothing but turn one on. Default: none."`
	PasswordGrant bool          `env:"MODELGATE_PASSWORD_GRANT" name:"password-grant" default:"true" negatable:"" help:"Take grant_type=password at /token."`

	IdentityProviders string `env:"MODELGATE_IDENTITY_PROVIDERS" name:"identity-providers" type:"path" placeholder:"FILE" help:"OpenID Connect providers (YAML) through which people sign in, or whose access tokens are taken. Default: none."`

	// Limits.
	RatePredict string        `env:"MODELGATE_RATE_PREDICT" name:"rate-predict" default:"6000-M" placeholder:"N-S|M|H|D" help:"Rows that one user may predict in a second, minute, hour or day. Roles may carry their own rate. Default: ${default}."`
	RateLogin   string        `env:"MODELGATE_RATE_LOGIN" name:"rate-login" default:"10-M" placeholder:"N-S|M|H|D" help:"Sign-in attempts per client address, and failures per account. Default: ${default}."`
	RateUnauth  string        `env:"MODELGATE_RATE_UNAUTHENTICATED" name:"rate-unauthenticated" default:"600-M" placeholder:"N-S|M|H|D" help:"Requests per client address that bring a bad credential, or that refresh or revoke one. Default: ${default}."`
	RedisURL    string        `env:"MODELGATE_REDIS_URL" name:"redis-url" secret:"" placeholder:"URL" help:"Redis in which servers share their rates: redis://HOST:6379/0, or rediss://USER:PASSWORD@HOST:6379/0 for TLS. Prefer the variable. Default: none, each server counts by itself."`
	MaxBody     Bytes         `env:"MODELGATE_MAX_BODY" name:"max-body" default:"32MiB" help:"Largest request body, uploads apart."`
	MaxModel    Bytes         `env:"MODELGATE_MAX_MODEL" name:"max-model" default:"512MiB" help:"Largest model file (at most 2GiB)."`
	ModelNodes  int           `env:"MODELGATE_MAX_MODEL_NODES" name:"max-model-nodes" default:"100000" help:"Most nodes of a model, functions counted anew at each call."`
	ModelDepth  int           `env:"MODELGATE_MAX_MODEL_DEPTH" name:"max-model-depth" default:"16" help:"Most graphs (If, Loop, Scan) inside one another in a model (1 to 32)."`
	ModelQuota  Bytes         `env:"MODELGATE_MODEL_QUOTA" name:"model-quota" default:"20GiB" help:"Most bytes of model files that belong to one owner; holders of models:manage have no bound."`
	DiskReserve Bytes         `env:"MODELGATE_DISK_RESERVE" name:"disk-reserve" default:"256MiB" help:"What uploads leave free on the disk, for the database and the audit log."`
	UploadKeys  string        `env:"MODELGATE_UPLOAD_KEYS" name:"upload-keys" type:"path" placeholder:"FILE" help:"Ed25519 public keys (PEM); uploads then need a signature by one of them. Default: none needed."`
	BodyMemory  Bytes         `env:"MODELGATE_BODY_MEMORY" name:"body-memory" default:"256MiB" help:"Memory for all request bodies at one time; more requests get 503."`
	TensorMem   Bytes         `env:"MODELGATE_TENSOR_MEMORY" name:"tensor-memory" default:"512MiB" help:"Memory for the tensors of all running predictions."`
	SessionMem  Bytes         `env:"MODELGATE_SESSION_MEMORY" name:"session-memory" default:"4GiB" help:"Memory that all loaded models together should take; the least recently used are closed beyond it."`
	RuntimeMem  Bytes         `env:"MODELGATE_RUNTIME_MEMORY" name:"runtime-memory" default:"4GiB" help:"Memory that one model may take for weights and while it computes; with --isolation=none all models together. What needs more fails."`
	Slots       int           `env:"MODELGATE_SLOTS" default:"0" help:"Predictions computed at once; 0: one per core."`
	Queue       int           `env:"MODELGATE_QUEUE" default:"1024" help:"Predictions that may wait for a slot; more get 503."`
	Timeout     time.Duration `env:"MODELGATE_TIMEOUT" default:"30s" help:"Longest run of one prediction."`
	LoadTimeout time.Duration `env:"MODELGATE_LOAD_TIMEOUT" name:"load-timeout" default:"30s" help:"Longest load of one model."`
	IdleClose   time.Duration `env:"MODELGATE_IDLE_CLOSE" name:"idle-close" default:"15m" help:"Close a loaded model that nobody called for so long."`
	Hashers     int           `env:"MODELGATE_HASHERS" default:"0" help:"Passwords hashed at once, each in a process of low priority that takes about 95 MiB meanwhile; 0: half of the cores."`

	// Transport and operation.
	TLSCert        string        `env:"MODELGATE_TLS_CERT" name:"tls-cert" type:"path" placeholder:"FILE" help:"Certificate chain (PEM); with --tls-key the API speaks HTTPS."`
	TLSKey         string        `env:"MODELGATE_TLS_KEY" name:"tls-key" type:"path" placeholder:"FILE" help:"Private key (PEM), readable by its owner only."`
	InsecureHTTP   bool          `env:"MODELGATE_INSECURE_HTTP" name:"insecure-http" help:"Speak plain HTTP on an address that is not loopback, for a proxy that speaks TLS in front."`
	TrustedProxies []string      `env:"MODELGATE_TRUSTED_PROXIES" name:"trusted-proxies" placeholder:"CIDR" help:"Proxies whose X-Forwarded-For is believed. Default: none."`
	CORSOrigins    []string      `env:"MODELGATE_CORS_ORIGINS" name:"cors-origins" placeholder:"ORIGIN" help:"Origins whose pages may read answers to their own tokens and keys, exactly as in https://app.example.com. Default: none."`
	MaxConnections int           `env:"MODELGATE_MAX_CONNECTIONS" name:"max-connections" default:"0" help:"Connections at once to each port. For more, idle ones are closed first, and where none is idle they wait until one ends. 0: 12000, or fewer where the limit of open files is low."`
	MaxPerAddress  int           `env:"MODELGATE_MAX_CONNECTIONS_PER_ADDRESS" name:"max-connections-per-address" default:"0" help:"Of these, from one client address (IPv6: network of 64 bits); more are refused while none of its own is idle. 0: half of them, and of this machine all. Trusted proxies have no such bound."`
	Isolation      string        `env:"MODELGATE_ISOLATION" enum:"sandbox,none" default:"sandbox" help:"Where models run: each in a sandboxed process ('sandbox'), or inside this one, which holds keys ('none'). Default: ${default}."`
	DrainTimeout   time.Duration `env:"MODELGATE_DRAIN_TIMEOUT" name:"drain-timeout" default:"35s" help:"How long requests in flight may take to end after SIGTERM."`
	AuditFileSize  Bytes         `env:"MODELGATE_AUDIT_FILE_SIZE" name:"audit-file-size" default:"64MiB" help:"Size from which a file of the audit log is closed and the next begun."`
	AuditFileAge   time.Duration `env:"MODELGATE_AUDIT_FILE_AGE" name:"audit-file-age" default:"0s" help:"Age from which a file of the audit log is closed and the next begun; 0s: any."`
	LogLevel       string        `env:"MODELGATE_LOG_LEVEL" name:"log-level" enum:"debug,info,warn,error" default:"info" help:"Least severe log line: ${enum}."`
	AccessLog      bool          `env:"MODELGATE_ACCESS_LOG" name:"access-log" default:"true" negatable:"" help:"One log line per request."`
}

// Bytes is a size such as 512KiB, 32MiB, 2GiB or a plain number of bytes.
type Bytes int64

var byteUnits = []struct {
	suffix string
	size   int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	s, unit := string(text), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			s, unit = rest, u.size
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n <= 0 || n > (1<<50)/unit {
		return fmt.Errorf("%q is not a size; write it as 512KiB, 32MiB, 2GiB or a number of bytes", text)
	}
	*b = Bytes(n * unit)
	return nil
}

func (b Bytes) String() string {
	for i := len(byteUnits) - 1; i >= 0; i-- {
		if u := byteUnits[i]; int64(b) >= u.size && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// TLS reports whether the API speaks HTTPS itself.
func (c *Config) TLS() bool { return c.TLSCert != "" }

// Values of Isolation.
const (
	isolationSandbox = "sandbox"
	isolationNone    = "none"
)

// slots is how many predictions are computed at once.
func (c *Config) slots() int { return cmp.Or(c.Slots, runtime.GOMAXPROCS(0)) }

// hashers is how many passwords are hashed at once.
func (c *Config) hashers() int { return cmp.Or(c.Hashers, max(1, runtime.NumCPU()/2)) }

// DatabasePath is the file of the SQLite database.
func (c *Config) DatabasePath() string {
	if c.DatabaseURL == "" {
		return filepath.Join(c.Data, "modelgate.db")
	}
	return strings.TrimPrefix(strings.TrimPrefix(c.DatabaseURL, "sqlite:"), "//")
}

// vault opens the vault of the master key.
func (c *Config) vault() (*auth.Vault, error) {
	v, err := auth.OpenVault(cmp.Or(c.MasterKeyFile, masterKeyPath(c.Data)), c.MasterKey)
	if err != nil && c.MasterKey != "" {
		return nil, fmt.Errorf("--master-key: %w", err)
	}
	return v, err
}

// Check checks the values against each other. Every message says what to
// write instead.
func (c *Config) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	c.checkListen(bad, "listen", c.Listen, "127.0.0.1:8080")
	if c.GRPCListen != "" {
		c.checkListen(bad, "grpc-listen", c.GRPCListen, "127.0.0.1:8081")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		bad("--tls-cert and --tls-key go together; give both or none")
	}
	if c.TLSKey != "" {
		if err := checkPrivate(c.TLSKey); err != nil {
			errs = append(errs, err)
		}
	}
	if c.MasterKey != "" && c.MasterKeyFile != "" {
		bad("--master-key and --master-key-file exclude each other; give one of them")
	}
	if c.MasterKeyFile != "" {
		// Only the default file is made: where one was named and is not there, a
		// new key would stand in for the one that the secrets were sealed with.
		if err := checkPrivate(c.MasterKeyFile); err != nil {
			errs = append(errs, fmt.Errorf("--master-key-file: %w", err))
		}
	}
	if scheme, _, ok := strings.Cut(c.DatabaseURL, ":"); c.DatabaseURL != "" && (!ok || scheme != "sqlite") {
		bad("--database-url: only sqlite:PATH is supported")
	}
	if c.Issuer != "" {
		if u, err := url.Parse(c.Issuer); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
			bad("--issuer %q is no URL; write it as in https://models.example.com", c.Issuer)
		}
	}
	for _, r := range []struct{ flag, rate string }{{"rate-predict", c.RatePredict}, {"rate-login", c.RateLogin}, {"rate-unauthenticated", c.RateUnauth}} {
		if rate, err := limiter.NewRateFromFormatted(r.rate); err != nil || rate.Limit < 1 {
			bad("--%s %q is no rate; write a number and S, M, H or D, as in 600-M", r.flag, r.rate)
		}
	}
	if c.RedisURL != "" {
		if _, err := store.ParseRedis(c.RedisURL); err != nil {
			bad("--redis-url %w", err)
		}
	}
	for _, p := range c.TrustedProxies {
		if _, err := netip.ParsePrefix(p); err != nil {
			if _, err := netip.ParseAddr(p); err != nil {
				bad("--trusted-proxies %q is no address or network; write it as in 10.0.0.0/8", p)
			}
		}
	}
	for _, o := range c.CORSOrigins {
		if err := api.CheckOrigin(o); err != nil {
			bad("--cors-origins: %w", err)
		}
	}
	if _, err := c.uploadKeys(); err != nil {
		errs = append(errs, err)
	}
	if err := c.checkProviders(); err != nil {
		errs = append(errs, err)
	}
	c.checkRanges(bad)
	return errors.Join(errs...)
}

// checkListen refuses addresses on which others could read along.
func (c *Config) checkListen(bad func(string, ...any), flag, address, example string) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		bad("--%s %q is no address; write HOST:PORT, as in %s", flag, address, example)
	} else if !c.TLS() && !c.InsecureHTTP && !isLoopback(host) {
		bad("--%s %s is reachable from other machines, and plain HTTP would show them passwords and tokens; "+
			"give --tls-cert and --tls-key, or --insecure-http if a proxy in front speaks TLS", flag, address)
	}
}

func (c *Config) checkRanges(bad func(string, ...any)) {
	durations := []struct {
		flag     string
		value    time.Duration
		min, max time.Duration
	}{
		{"access-ttl", c.AccessTTL, time.Minute, 24 * time.Hour},
		{"refresh-ttl", c.RefreshTTL, c.AccessTTL, 365 * 24 * time.Hour},
		{"session-ttl", c.SessionTTL, c.AccessTTL, 365 * 24 * time.Hour},
		{"browser-ttl", c.BrowserTTL, 5 * time.Minute, 30 * 24 * time.Hour},
		{"browser-idle", c.BrowserIdle, 5 * time.Minute, c.BrowserTTL},
		{"key-lead", c.KeyLead, 5 * time.Second, 24 * time.Hour},
		{"timeout", c.Timeout, 10 * time.Millisecond, time.Hour},
		{"load-timeout", c.LoadTimeout, 10 * time.Millisecond, time.Hour},
		{"idle-close", c.IdleClose, time.Second, 365 * 24 * time.Hour},
		{"drain-timeout", c.DrainTimeout, 0, time.Hour},
		{"audit-file-age", c.AuditFileAge, 0, 10 * 365 * 24 * time.Hour},
	}
	for _, d := range durations {
		if d.value < d.min || d.value > d.max {
			bad("--%s %s is out of range; take %s to %s", d.flag, d.value, d.min, d.max)
		}
	}
	if c.KeyRotation != 0 && (c.KeyRotation < time.Hour || c.KeyRotation <= c.KeyLead) {
		bad("--key-rotation %s is out of range; take 1h or more, above --key-lead, or 0 to rotate by command alone", c.KeyRotation)
	}
	if c.Slots < 0 || c.Queue < 0 || c.Hashers < 0 {
		bad("--slots, --queue and --hashers can't be negative")
	}
	if c.MaxSessions < 1 {
		bad("--max-sessions %d lets nobody sign in; take 1 or more", c.MaxSessions)
	}
	if c.MaxConnections < 0 {
		bad("--max-connections %d lets nobody in; take 1 or more, or 0 for what the limit of open files allows", c.MaxConnections)
	}
	if c.MaxPerAddress < 0 || c.MaxConnections > 0 && c.MaxPerAddress > c.MaxConnections {
		bad("--max-connections-per-address %d is out of range; take 1 to --max-connections, or 0 for half of them", c.MaxPerAddress)
	}
	if c.MaxModel > 2<<30 {
		bad("--max-model %s is above 2GiB, the largest ONNX file there is", c.MaxModel)
	}
	if c.ModelNodes < 1 || c.ModelNodes > 10_000_000 {
		bad("--max-model-nodes %d is out of range; take 1 to 10000000", c.ModelNodes)
	}
	if c.ModelDepth < 1 || c.ModelDepth > maxModelDepth {
		bad("--max-model-depth %d is out of range; take 1 to %d, beyond which no parser of ONNX goes", c.ModelDepth, maxModelDepth)
	}
	if c.AuditFileSize < minAuditFile {
		bad("--audit-file-size %s is below %s; there would be a file for every few records", c.AuditFileSize, minAuditFile)
	}
	if c.MaxBody < minBody {
		bad("--max-body %s is below %s; a login would not fit", c.MaxBody, minBody)
	}
	if c.Isolation == isolationNone && c.SessionMem > c.RuntimeMem {
		bad("--session-memory %s is above --runtime-memory %s, which with --isolation=none all loaded models are part of; lower the one or raise the other",
			c.SessionMem, c.RuntimeMem)
	}
	if c.BodyMemory < c.MaxBody {
		bad("--body-memory %s is below --max-body %s; the largest body must fit", c.BodyMemory, c.MaxBody)
	}
	if c.GRPCListen != "" && c.GRPCListen == c.Listen && !strings.HasSuffix(c.Listen, ":0") { // port 0: a free one each
		bad("--grpc-listen is the address of --listen; gRPC needs a port of its own")
	}
}

// minAuditFile is the least --audit-file-size.
const minAuditFile = Bytes(64 << 10)

// minBody is the least --max-body.
const minBody = Bytes(1 << 10)

// maxModelDepth is the most --max-model-depth: parsers of protocol buffers go 100
// messages deep, and a graph inside another is three.
const maxModelDepth = 32

// defaultConnections is how many connections a port takes where nobody says;
// spareFiles are what else the server may have open by then: the database, logs,
// and what goes to the models' processes.
const defaultConnections, spareFiles = 12_000, 1024

// connections is how many connections each port takes at once.
func (c *Config) connections() int {
	if c.MaxConnections > 0 {
		return c.MaxConnections
	}
	ports := uint64(1)
	if c.GRPCListen != "" {
		ports = 2
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return spareFiles
	}
	return int(max(1, min(defaultConnections, (files.Cur-min(spareFiles, files.Cur/2))/ports)))
}

// connectionsOfOne is how many connections one client address may have to a port.
func (c *Config) connectionsOfOne() int { return cmp.Or(c.MaxPerAddress, (c.connections()+1)/2) }

// modelLimits are the bounds of the static check.
func (c *Config) modelLimits() models.Limits {
	return models.Limits{Size: min(int64(c.MaxModel), math.MaxInt32), Nodes: c.ModelNodes, Depth: c.ModelDepth}
}

// uploadKeys reads the keys of --upload-keys; nil: uploads need no signature.
func (c *Config) uploadKeys() (*models.UploadKeys, error) {
	if c.UploadKeys == "" {
		return nil, nil
	}
	info, err := os.Stat(c.UploadKeys)
	if err != nil {
		return nil, fmt.Errorf("--upload-keys %s: %w", c.UploadKeys, errors.Unwrap(err))
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("--upload-keys %s can be changed by other users (mode %#o); run: chmod go-w %s", c.UploadKeys, info.Mode().Perm(), c.UploadKeys)
	}
	text, err := os.ReadFile(c.UploadKeys)
	if err != nil {
		return nil, fmt.Errorf("--upload-keys %s: %w", c.UploadKeys, errors.Unwrap(err))
	}
	keys, err := models.ParseUploadKeys(text)
	if err != nil {
		return nil, fmt.Errorf("--upload-keys %s: %w", c.UploadKeys, err)
	}
	return keys, nil
}

// isLoopback is strict: a host name could resolve to anything but "localhost".
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// checkPrivate refuses a key file that others can read.
func checkPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("key file %s: %w", path, errors.Unwrap(err))
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("key file %s can be read by other users (mode %#o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return nil
}

// Setting is one resolved value, for `modelgate config`.
type Setting struct {
	Key   string `json:"key"`
	Env   string `json:"env"`
	Value string `json:"value"`
}

// Settings lists the resolved values in the order of the struct; secrets are
// masked.
func (c *Config) Settings() []Setting {
	v := reflect.ValueOf(c).Elem()
	out := make([]Setting, 0, v.NumField())
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		s := Setting{Key: tag.Get("name"), Env: tag.Get("env"), Value: fmt.Sprint(v.Field(i).Interface())}
		if s.Key == "" {
			s.Key = strings.ToLower(v.Type().Field(i).Name)
		}
		if list, ok := v.Field(i).Interface().([]string); ok {
			s.Value = strings.Join(list, ",")
		}
		if _, secret := tag.Lookup("secret"); secret && s.Value != "" {
			s.Value = "********"
		}
		out = append(out, s)
	}
	return out
}
