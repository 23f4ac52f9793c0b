package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ulule/limiter/v3"

	"modelgate/auth"
)

// Limits are rates as limiter writes them: a number, "-", and S, M, H or D.
// Empty fields take the defaults.
type Limits struct {
	Predict string // rows per user, where his roles name no rate; "6000-M"
	Login   string // sign-ins per address, and failed ones per account; "10-M"
	// Unauthenticated bounds, per address, requests that bring a credential
	// which is not good, and /refresh and /revoke; "600-M".
	Unauthenticated string
}

// rates charges what callers do. Keys of the store: the bare user id for
// predictions; "login:", "register:", "reset:", "client:" and "stranger:" with an
// address; "account:" with a user name and "secret:" with a client id; "pair:"
// with one of them and an address; "change:" with a user id.
type rates struct {
	store limiter.Store
	// local takes over for predictions and strangers while store fails, so that
	// a lost Redis neither stops nor unbinds them. Sign-in refuses instead. What
	// store grants is counted here too, so that who has used up his rate at this
	// process does not get another one from the failure.
	local  *Sliding
	shared bool // store is not of this process alone

	predict, login, stranger limiter.Rate

	parsed atomic.Pointer[map[string]limiter.Rate] // rates of roles; copied on write
	known  knownPairs
	// signedIn lists the addresses where live sessions of an account began:
	// what known has forgotten with a restart, or never knew, since another
	// server let the owner in. nil: none.
	signedIn func(ctx context.Context, account string) ([]string, error)
	metrics  *metrics
	log      *slog.Logger
	now      func() time.Time
	warned   atomic.Int64 // Unix second of the last warning about store
}

// maxParsed bounds the cache of parsed role rates.
const maxParsed = 1000

func newRates(l Limits, store limiter.Store, now func() time.Time, m *metrics, log *slog.Logger) (*rates, error) {
	r := &rates{store: store, local: NewSliding(0, now), shared: store != nil, metrics: m, log: log, now: now}
	if store == nil {
		r.store = NewSliding(0, now)
	}
	if now == nil {
		r.now = time.Now
	}
	for _, rate := range []struct {
		name, text, fallback string
		to                   *limiter.Rate
	}{
		{"prediction", l.Predict, "6000-M", &r.predict},
		{"sign-in", l.Login, "10-M", &r.login},
		{"unauthenticated", l.Unauthenticated, "600-M", &r.stranger},
	} {
		text := rate.text
		if text == "" {
			text = rate.fallback
		}
		parsed, err := parseRate(text)
		if err != nil {
			return nil, fmt.Errorf("the %s rate: %w", rate.name, err)
		}
		*rate.to = parsed
	}
	r.parsed.Store(&map[string]limiter.Rate{})
	return r, nil
}

// parseRate reads "600-M".
func parseRate(text string) (limiter.Rate, error) {
	rate, err := limiter.NewRateFromFormatted(text)
	if err != nil || rate.Limit <= 0 {
		return limiter.Rate{}, fmt.Errorf("%q is no rate; write it as in 10-S, 600-M or 5000-H", text)
	}
	return rate, nil
}

// rateOf is the prediction rate of who.
func (r *rates) rateOf(who *auth.Principal) limiter.Rate {
	if who.Rate == "" {
		return r.predict
	}
	seen := r.parsed.Load()
	if rate, ok := (*seen)[who.Rate]; ok {
		return rate
	}
	rate, err := parseRate(who.Rate)
	if err != nil {
		// Roles are checked when they are made, so this is an old row.
		r.log.Warn("a role's rate can't be read; the server's is used", "rate", who.Rate)
		rate = r.predict
	}
	if len(*seen) < maxParsed {
		next := maps.Clone(*seen)
		next[who.Rate] = rate
		r.parsed.CompareAndSwap(seen, &next)
	}
	return rate
}

// chargePrediction takes n rows of who's rate, all or none.
func (r *rates) chargePrediction(ctx context.Context, who *auth.Principal, n int64) (limiter.Context, error) {
	lc, err := r.chargeAnyway(ctx, who.UserID, n, r.rateOf(who))
	if err != nil {
		return lc, err
	}
	if lc.Reached {
		r.metrics.refused("predict")
		return lc, r.tooMany(lc, "you have used up your rate; wait for the seconds in Retry-After")
	}
	return lc, nil
}

// chargeAnyway takes n units under key, from this process's own count while the
// store fails.
func (r *rates) chargeAnyway(ctx context.Context, key string, n int64, rate limiter.Rate) (limiter.Context, error) {
	lc, err := r.store.Increment(ctx, key, n, rate)
	switch {
	case err != nil:
		r.storeFailed(err)
		return r.local.Increment(ctx, key, n, rate)
	case r.shared && !lc.Reached:
		_, err = r.local.Increment(ctx, key, n, rate)
	}
	return lc, err
}

// tooManyRows refuses what no waiting would let through.
func (r *rates) tooManyRows(rows, limit int64) *fault {
	r.metrics.refused("rows")
	return &fault{code: "too_many_rows", detail: fmt.Sprintf(
		"%d rows at once are more than the %d that your rate allows in its whole period; send fewer", rows, limit)}
}

// chargeAddress takes one unit of the sign-in rate of an address. class is
// "login", "register", "reset", "external" or "client". It fails with unavailable
// when the store does: passwords are not to be guessed unlimited.
func (r *rates) chargeAddress(ctx context.Context, class, address string) (limiter.Context, error) {
	lc, err := r.store.Increment(ctx, class+":"+addressKey(address), 1, r.login)
	if err != nil {
		r.storeFailed(err)
		return lc, signInUnavailable(err)
	}
	if lc.Reached {
		r.metrics.refused(class)
		return lc, r.tooMany(lc, "too many attempts from your address; wait for the seconds in Retry-After")
	}
	return lc, nil
}

// chargeStranger counts something that an unknown caller did at most so often.
func (r *rates) chargeStranger(ctx context.Context, address string) error {
	key := "stranger:" + addressKey(address)
	lc, err := r.chargeAnyway(ctx, key, 1, r.stranger)
	if err != nil {
		return err
	}
	if lc.Reached {
		r.metrics.refused("stranger")
		return r.tooMany(lc, "too many requests without a good credential from your address; wait for the seconds in Retry-After")
	}
	return nil
}

// attempt is one try at an account's password.
type attempt struct {
	rates *rates
	key   string // "": the name can't be an account's
	pair  string // to remember; "": none
}

// attempt reserves one failure of the account. Only failures count in the end:
// succeeded and abandoned give the unit back. All strangers together share one
// allowance per account, so that guesses spread over many addresses slow down;
// an address from which the account has signed in before has its own, so that
// strangers can't lock the owner out; that it has is remembered, or to be seen
// from a live session. Live sessions and keys are not touched
// by any of this.
func (r *rates) attempt(ctx context.Context, account, address string) (attempt, error) {
	account = strings.ToLower(account)
	if account == "" || len(account) > 64 {
		return attempt{rates: r}, nil
	}
	pair := account + "|" + addressKey(address)
	if r.known.has(pair) {
		return r.try(ctx, "pair:"+pair, pair)
	}
	a, err := r.try(ctx, "account:"+account, pair)
	if f := (*fault)(nil); !errors.As(err, &f) || f.code != "rate_limited" || r.signedIn == nil {
		return a, err
	}
	addresses, lookup := r.signedIn(ctx, account)
	if lookup != nil {
		return a, lookup
	}
	for _, known := range addresses {
		if addressKey(known) == addressKey(address) {
			r.known.add(pair)
			return r.try(ctx, "pair:"+pair, pair)
		}
	}
	return a, err
}

// attemptClient is attempt for an OAuth client, with the rate of its address
// where it has not proved itself before: a client that has is held up by its
// own failures alone, since it may come often.
func (r *rates) attemptClient(ctx context.Context, id, address string) (attempt, error) {
	pair := "client:" + id + "|" + addressKey(address)
	if r.known.has(pair) {
		return r.try(ctx, "pair:"+pair, pair)
	}
	if _, err := r.chargeAddress(ctx, "client", address); err != nil || len(id) > 64 {
		return attempt{rates: r}, err
	}
	return r.try(ctx, "secret:"+id, pair)
}

// try reserves one failure under key.
func (r *rates) try(ctx context.Context, key, pair string) (attempt, error) {
	a := attempt{rates: r, key: key, pair: pair}
	lc, err := r.store.Increment(ctx, a.key, 1, r.login)
	if err != nil {
		r.storeFailed(err)
		return a, signInUnavailable(err)
	}
	if lc.Reached {
		r.metrics.refused("account")
		return a, r.tooMany(lc, "too many wrong passwords or secrets for this account; wait for the seconds in Retry-After")
	}
	return a, nil
}

// succeeded gives the unit back and remembers the address.
func (a attempt) succeeded(ctx context.Context) {
	if a.pair != "" {
		a.rates.known.add(a.pair)
	}
	a.abandoned(ctx)
}

// abandoned gives the unit back: the password was neither right nor wrong.
func (a attempt) abandoned(ctx context.Context) {
	if a.key == "" {
		return
	}
	if _, err := a.rates.store.Increment(context.WithoutCancel(ctx), a.key, -1, a.rates.login); err != nil {
		a.rates.storeFailed(err)
	}
}

func signInUnavailable(cause error) *fault {
	return &fault{code: "unavailable", detail: "signing in is not possible at the moment; try again in a few seconds", cause: cause, retry: 5}
}

func (r *rates) tooMany(lc limiter.Context, detail string) *fault {
	return &fault{code: "rate_limited", detail: detail, retry: int(max(1, lc.Reset-r.now().Unix()))}
}

// storeFailed counts a failure of the shared store, and logs one a minute.
func (r *rates) storeFailed(err error) {
	r.metrics.limitStoreErrors.Inc()
	now := r.now().Unix()
	if last := r.warned.Load(); now-last >= 60 && r.warned.CompareAndSwap(last, now) {
		r.log.Error("the store of rates fails: sign-in refuses, predictions count in this process", "cause", err.Error())
	}
}

// addressKey groups what one host can have: an IPv6 network of 64 bits, an IPv4 address.
func addressKey(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil || !a.Is6() {
		return address
	}
	return HostNetwork(a).String()
}

// knownPairs remembers from which addresses accounts have signed in, in this
// process. Only a proved password adds one; to forget one is harmless, so when
// it is full any goes.
type knownPairs struct {
	mu    sync.Mutex
	pairs map[string]struct{} // guarded by mu
}

const maxKnownPairs = 1 << 16

func (k *knownPairs) has(pair string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.pairs[pair]
	return ok
}

func (k *knownPairs) add(pair string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pairs == nil {
		k.pairs = make(map[string]struct{})
	}
	for old := range k.pairs {
		if len(k.pairs) < maxKnownPairs {
			break
		}
		delete(k.pairs, old)
	}
	k.pairs[pair] = struct{}{}
}
