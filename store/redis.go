package store

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/ulule/limiter/v3"
)

// Redis is a limiter.Store that servers share: the same true window as
// api.Sliding, decided by one script inside Redis, by Redis's clock, so that
// servers need not agree on the time. What a server that lost the answer does
// not know may have been granted: never is more granted than the limit.
//
// A call is one round trip and takes 100 ms at most, waiting for a connection
// included. After the first that fails all calls fail at once, without waiting,
// until Run has found Redis to work again. The caller decides what a failure
// means.
//
// Keys of Redis are "modelgate:rate:{HASH}": names and addresses don't go
// there in clear. Each holds at most 61 slots (about 900 bytes), and goes with
// its period.
//
// All methods are safe for concurrent use.
type Redis struct {
	client   *redis.Client
	patience time.Duration // of a call
	log      *slog.Logger
	now      func() time.Time // nil: Redis's clock; tests have their own
	down     atomic.Bool      // since the last failure
	failed   chan struct{}    // holds one element when Run has to look
	up       prometheus.GaugeFunc
}

const (
	// redisPatience is how long a call may take in all.
	redisPatience = 100 * time.Millisecond
	// redisProbes is how often Run asks a Redis that is down.
	redisProbes = 200 * time.Millisecond
	// redisSlack is what windows outlast their period: Redis's clock may step.
	redisSlack = 10 * time.Second
	redisKeys  = "modelgate:rate:"
)

//go:embed redis.lua
var redisLua string

var window = redis.NewScript(redisLua)

// quiet keeps the client from writing to standard error by itself: its errors
// come back to us.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// ParseRedis reads redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE], or
// rediss:// for TLS. Its errors don't repeat the URL, which may hold a password.
func ParseRedis(text string) (*redis.Options, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "redis" && u.Scheme != "rediss", u.Hostname() == "", u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("is no URL of a Redis; write it as in redis://HOST:6379/0, or rediss://USER:PASSWORD@HOST:6379/0 for TLS")
	}
	o, err := redis.ParseURL(text)
	if err != nil {
		return nil, errors.New("is no URL of a Redis: what follows the host is the number of a database, as in redis://HOST:6379/0")
	}
	return o, nil
}

// OpenRedis returns the store in the Redis at url. It asks nothing of it: Run
// does. A nil log discards.
func OpenRedis(url string, log *slog.Logger) (*Redis, error) {
	o, err := ParseRedis(url)
	if err != nil {
		return nil, err
	}
	return openRedis(o, log, redisPatience), nil
}

func openRedis(o *redis.Options, log *slog.Logger, patience time.Duration) *Redis {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	redis.SetLogger(quiet{})
	o.Protocol, o.DisableIdentity = 2, true // nothing is asked of a new connection that an old Redis or a proxy may not know
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	o.ContextTimeoutEnabled, o.MaxRetries = true, -1
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = patience, patience, patience, patience
	o.DialerRetries = 1
	o.PoolSize = 4 * max(4, runtime.GOMAXPROCS(0))
	o.MaxActiveConns, o.PipelinePoolSize = o.PoolSize, -1
	o.ReadBufferSize, o.WriteBufferSize = 4<<10, 4<<10
	r := &Redis{client: redis.NewClient(o), patience: patience, log: log, failed: make(chan struct{}, 1)}
	r.up = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "modelgate_limit_store_up", Help: "Whether rates are counted in Redis (1), or it fails and predictions are counted in this process (0).",
	}, func() float64 {
		if r.down.Load() {
			return 0
		}
		return 1
	})
	return r
}

// Collectors are the metrics, for the server to register.
func (r *Redis) Collectors() []prometheus.Collector { return []prometheus.Collector{r.up} }

// Close ends the connections. Later calls fail.
func (r *Redis) Close() error { return r.client.Close() }

// Run asks Redis whether it works, now and then again after each failure until
// it does, and ends with ctx.
func (r *Redis) Run(ctx context.Context) error {
	r.look()
	tick := time.NewTimer(0)
	defer tick.Stop()
	var told time.Time // when the log was told of the last change
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.failed:
		}
		// At once: one lost connection is no outage.
		for first, err := true, r.probe(ctx); err != nil; err = r.probe(ctx) {
			if first && time.Since(told) > time.Minute {
				r.log.Error("the Redis of rates does not answer; sign-in is refused and predictions are counted in this process until it does; the cause is in protected.log", "cause", err)
				told = time.Now()
			}
			first = false
			tick.Reset(redisProbes)
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
		if r.down.CompareAndSwap(true, false) {
			r.log.Info("rates are counted in Redis again")
		}
	}
}

// look wakes Run.
func (r *Redis) look() {
	select {
	case r.failed <- struct{}{}:
	default:
	}
}

// probe does what calls do, a change included: a Redis that is full, or a
// replica that only reads, must not pass for one that works.
func (r *Redis) probe(ctx context.Context) error {
	_, err := r.run(ctx, "probe", 1, limiter.Rate{Limit: math.MaxUint32, Period: time.Second})
	return err
}

var (
	errRedisDown = errors.New("Redis failed a moment ago, and has not been found to work since")
	errNoPeriod  = errors.New("a rate needs a positive period")
)

// Get takes one unit.
func (r *Redis) Get(ctx context.Context, key string, rate limiter.Rate) (limiter.Context, error) {
	return r.Increment(ctx, key, 1, rate)
}

// Peek takes nothing; Reached says that no unit is left.
func (r *Redis) Peek(ctx context.Context, key string, rate limiter.Rate) (limiter.Context, error) {
	c, err := r.Increment(ctx, key, 0, rate)
	c.Reached = c.Remaining == 0
	return c, err
}

// Reset forgets the key.
func (r *Redis) Reset(ctx context.Context, key string, rate limiter.Rate) (limiter.Context, error) {
	if r.down.Load() {
		return limiter.Context{}, errRedisDown
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.patience)
	defer cancel()
	if err := r.client.Del(ctx, redisKey(key)).Err(); err != nil {
		return limiter.Context{}, r.failure(err)
	}
	return r.Increment(ctx, key, 0, rate)
}

// Increment takes count units, or none and Reached is true; a negative count
// gives back. It goes on when ctx ends: whoever leaves is charged.
func (r *Redis) Increment(ctx context.Context, key string, count int64, rate limiter.Rate) (limiter.Context, error) {
	if rate.Period <= 0 {
		return limiter.Context{}, errNoPeriod
	}
	if r.down.Load() {
		return limiter.Context{}, errRedisDown
	}
	c, err := r.run(ctx, key, count, rate)
	if err != nil {
		return limiter.Context{}, r.failure(err)
	}
	return c, nil
}

// failure makes all further calls fail at once, until Run says otherwise.
func (r *Redis) failure(err error) error {
	r.down.Store(true)
	r.look()
	return err
}

func (r *Redis) run(ctx context.Context, key string, count int64, rate limiter.Rate) (limiter.Context, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.patience)
	defer cancel()
	limit := min(max(rate.Limit, 0), math.MaxUint32)
	clock, now := time.Now, ""
	if r.now != nil {
		clock, now = r.now, strconv.FormatInt(r.now().UnixMicro(), 10)
	}
	keep := rate.Period + rate.Period/30 + redisSlack
	reply, err := window.Run(ctx, r.client, []string{redisKey(key)},
		count, limit, (rate.Period + time.Microsecond - 1).Microseconds(), keep.Milliseconds(), now).Int64Slice()
	if err != nil {
		return limiter.Context{}, err
	}
	if len(reply) != 3 {
		return limiter.Context{}, fmt.Errorf("Redis answered a script with %d numbers instead of 3", len(reply))
	}
	// Reset is by this server's clock, as its callers see it.
	return limiter.Context{Limit: limit, Remaining: max(0, limit-reply[1]), Reached: reply[0] == 1,
		Reset: (clock().UnixMicro() + max(0, reply[2]) + 999_999) / 1_000_000}, nil
}

// redisKey is where a key's window lies. The braces keep it whole in a cluster.
func redisKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return redisKeys + "{" + base64.RawURLEncoding.EncodeToString(sum[:16]) + "}"
}
