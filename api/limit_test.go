package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ulule/limiter/v3"

	"modelgate/auth"
	"modelgate/store"
	"modelgate/store/ratetest"
)

func limits(l Limits) option { return func(_ *auth.Config, c *Config) { c.Limits = l } }

// behindProxy lets tests come from many addresses.
func behindProxy(_ *auth.Config, c *Config) { c.TrustedProxies = []string{"127.0.0.0/8", "::1"} }

func from(address string) http.Header { return http.Header{"X-Forwarded-For": {address}} }

func (w *world) tryLogin(name, password, address string) answer {
	w.t.Helper()
	r := request{method: "POST", path: "/login", json: map[string]string{"username": name, "password": password}}
	if address != "" {
		r.header = from(address)
	}
	return w.do(r)
}

// limited checks a 429 with all that belongs to it, and returns the seconds to wait.
func (a answer) limited() int {
	a.t.Helper()
	a.refused(429, "rate_limited")
	wait, err := strconv.Atoi(a.Header.Get("Retry-After"))
	if err != nil || wait < 1 || wait > 3700 {
		a.t.Errorf("%s: Retry-After %q", a.what, a.Header.Get("Retry-After"))
	}
	return wait
}

// TestLoginPerAddress is rows L1, L3 and L4: sign-ins are counted per address,
// whatever proxy headers say, in a window that slides.
func TestLoginPerAddress(t *testing.T) {
	w := newWorld(t, limits(Limits{Login: "10-M"}))
	// The world's own login was the first.
	for i := range 9 {
		got := w.tryLogin("nobody"+strconv.Itoa(i), "wrong password 1", "10.0.0."+strconv.Itoa(i))
		got.refused(401, "invalid_credentials")
		if limit, left := got.Header.Get("X-RateLimit-Limit"), got.Header.Get("X-RateLimit-Remaining"); limit != "10" || left != strconv.Itoa(8-i) {
			t.Errorf("limit %q, remaining %q after %d", limit, left, i+2)
		}
	}
	for i, header := range []http.Header{{"X-Forwarded-For": {"203.0.113.9"}}, {"X-Real-Ip": {"203.0.113.9"}}, {"Forwarded": {"for=203.0.113.9"}},
		{"Cf-Connecting-Ip": {"203.0.113.9"}}, {"True-Client-Ip": {"203.0.113.9"}}} {
		w.do(request{method: "POST", path: "/login", header: header,
			json: map[string]string{"username": "nobody", "password": "wrong password 1"}}).limited()
		w.clock.advance(time.Duration(i) * time.Millisecond)
	}
	// The password grant is the same door, a right password no way round.
	w.form("/token", "", url.Values{"grant_type": {"password"}, "username": {"admin"}, "password": {adminPassword}}).is(429)
	wait := w.tryLogin("admin", adminPassword, "").limited()
	// Sessions and keys go on.
	w.get("/users/me", w.admin).is(200)
	w.clock.advance(time.Duration(wait-2) * time.Second)
	w.tryLogin("admin", adminPassword, "").limited()
	w.clock.advance(2 * time.Second)
	w.tryLogin("admin", adminPassword, "").is(200)
}

// TestLoginBoundaryBurst is row L3 over HTTP.
func TestLoginBoundaryBurst(t *testing.T) {
	w := newWorld(t, limits(Limits{Login: "10-M"}))
	w.clock.advance(time.Hour)
	granted := 0
	for range 13 { // one minute in steps of 5 s, with more than allowed at each
		for range 4 {
			if w.tryLogin("nobody", "wrong password 1", "").Status == 401 {
				granted++
			}
		}
		w.clock.advance(5 * time.Second)
	}
	// The last step is 60 s after the first, so the earliest may be back.
	if granted > 14 {
		t.Errorf("%d granted within 60 s at 10-M", granted)
	}
}

// TestLoginPerAccount is row A9: guesses spread over many addresses slow
// down, and the owner is not locked out by them.
func TestLoginPerAccount(t *testing.T) {
	w := newWorld(t, limits(Limits{Login: "10-M"}), behindProxy)
	w.do(request{method: "POST", path: "/register", header: from("198.51.100.1"),
		json: map[string]string{"username": "ada", "password": userPassword}}).is(201)
	var pair tokens
	w.tryLogin("ada", userPassword, "198.51.100.1").is(200).decode(&pair)

	for i := range 10 {
		w.tryLogin("ADA", "wrong password 1", fmt.Sprintf("203.0.113.%d", i)).refused(401, "invalid_credentials")
	}
	for i := range 5 {
		w.tryLogin("ada", "wrong password 1", fmt.Sprintf("203.0.113.%d", 100+i)).limited()
	}
	// An account that does not exist slows down alike.
	for i := range 10 {
		w.tryLogin("nobody", "wrong password 1", fmt.Sprintf("203.0.114.%d", i)).refused(401, "invalid_credentials")
	}
	w.tryLogin("nobody", "wrong password 1", "203.0.114.99").limited()

	// The owner, from where he signed in before, is let in, and so is his session.
	w.tryLogin("ada", userPassword, "198.51.100.1").is(200)
	w.get("/users/me", pair.AccessToken).is(200)
	w.post("/refresh", "", map[string]string{"refresh_token": pair.RefreshToken}).is(200)
	// From a new place he waits at most a minute.
	w.tryLogin("ada", userPassword, "192.0.2.77").limited()
	w.clock.advance(62 * time.Second)
	w.tryLogin("ada", userPassword, "192.0.2.77").is(200)
}

// TestOwnerIsKnownAfterARestart is row A9 for a server that has just started, or
// another one on the same database: live sessions tell where the owner comes from.
func TestOwnerIsKnownAfterARestart(t *testing.T) {
	w := newWorld(t, limits(Limits{Login: "10-M"}), behindProxy)
	w.do(request{method: "POST", path: "/register", header: from("198.51.100.1"),
		json: map[string]string{"username": "ada", "password": userPassword}}).is(201)
	session := w.tryLogin("ada", userPassword, "2001:db8:1:2::1").is(200).field("access_token")
	w.api.rates.known.pairs = nil // as a restart does
	for i := range 10 {
		w.tryLogin("ada", "wrong password 1", fmt.Sprintf("203.0.113.%d", i)).refused(401, "invalid_credentials")
	}
	w.tryLogin("ada", userPassword, "203.0.113.77").limited() // a right guess of a stranger too
	w.tryLogin("ada", userPassword, "2001:db8:1:3::2").limited()
	w.tryLogin("ada", userPassword, "2001:db8:1:2::2").is(200) // of the same network
	w.api.rates.known.pairs = nil
	w.tryLogin("ada", "wrong password 1", "2001:db8:1:2::3").refused(401, "invalid_credentials") // an allowance of its own
	w.post("/logout", session, nil).is(204)
}

// TestSuccessesDoNotCount proves that an account's allowance is one of failures.
func TestSuccessesDoNotCount(t *testing.T) {
	w := newWorld(t, limits(Limits{Login: "10-M"}), behindProxy)
	for i := range 30 {
		w.tryLogin("admin", adminPassword, fmt.Sprintf("203.0.113.%d", i)).is(200)
	}
}

// TestIPv6 is row L2: a network of 64 bits is one address.
func TestIPv6(t *testing.T) {
	w := newWorld(t, limits(Limits{Login: "10-M"}), behindProxy)
	for i := range 10 {
		w.tryLogin(fmt.Sprintf("nobody%d", i), "wrong password 1", fmt.Sprintf("2001:db8:1:2::%x", i)).is(401)
	}
	w.tryLogin("somebody", "wrong password 1", "2001:db8:1:2:ffff:ffff:ffff:ffff").limited()
	w.tryLogin("somebody", "wrong password 1", "2001:db8:1:3::1").is(401)
}

func TestRegisterAndResetAreLimited(t *testing.T) {
	w := newWorld(t, limits(Limits{Login: "10-M"}))
	for range 10 {
		w.post("/register", "", map[string]string{"username": "x", "password": "y"}).is(400)
		w.post("/password-reset", "", map[string]string{"reset_token": "x", "password": userPassword}).refused(401, "invalid_token")
	}
	w.post("/register", "", map[string]string{"username": "x", "password": "y"}).limited()
	w.post("/password-reset", "", map[string]string{"reset_token": "x", "password": userPassword}).limited()
	// Counted apart: signing in goes on.
	w.tryLogin("admin", adminPassword, "").is(200)
}

// TestPasswordChangeIsLimited keeps a stolen token from guessing the password.
func TestPasswordChangeIsLimited(t *testing.T) {
	w := newWorld(t, limits(Limits{Login: "10-M"}))
	change := func() answer {
		return w.post("/users/me/password", w.admin, map[string]string{"current_password": "wrong password 1", "new_password": "another unusual phrase 4"})
	}
	for range 10 {
		change().refused(403, "wrong_password")
	}
	change().limited()
}

func TestBadTokensAreLimited(t *testing.T) {
	w := newWorld(t, limits(Limits{Unauthenticated: "20-M"}))
	for range 20 {
		w.get("/users/me", "mg_wrong").refused(401, "invalid_token")
	}
	w.get("/users/me", "mg_wrong").limited()
	w.get("/users/me", w.admin).is(200) // good ones are not held up
	w.get("/users/me", "").refused(401, "invalid_token")
	w.clock.advance(62 * time.Second)
	w.get("/users/me", "mg_wrong").refused(401, "invalid_token")
}

// TestPredictionRate is row L2: a user has one allowance, whatever tokens and
// keys he uses, and a role's rate replaces the server's.
func TestPredictionRate(t *testing.T) {
	w := newWorld(t, limits(Limits{Predict: "5-M", Login: "1000-S"}))
	_, first := w.user("ada")
	second := w.login("ada", userPassword)
	key := w.post("/users/me/keys", second, map[string]string{"name": "k"}).is(201).field("key")
	ask := func(token string) answer { return w.post("/predict", token, irisRow) }
	for i, token := range []string{first, second, key, first, key} {
		got := ask(token).is(403) // there is no model; the request costs its unit all the same
		if left := got.Header.Get("X-RateLimit-Remaining"); left != strconv.Itoa(4-i) {
			t.Errorf("remaining %s after %d", left, i+1)
		}
	}
	for _, token := range []string{first, second, key, w.login("ada", userPassword)} {
		ask(token).limited()
	}
	ask(w.admin).is(404) // others have their own

	w.role("fast")
	w.do(request{method: "PUT", path: "/admin/roles/fast", token: w.admin, json: `{"rate_limit":"50-M"}`}).is(200)
	id := w.get("/users/me", first).is(200).field("id")
	w.do(request{method: "PATCH", path: "/admin/users/" + id, token: w.admin, json: `{"roles":["user","fast"]}`}).is(200)
	if got := ask(first).is(403); got.Header.Get("X-RateLimit-Limit") != "50" || got.Header.Get("X-RateLimit-Remaining") != "44" {
		t.Errorf("a role's rate: limit %s, remaining %s", got.Header.Get("X-RateLimit-Limit"), got.Header.Get("X-RateLimit-Remaining"))
	}
}

// brokenStore is a store of rates that can't be reached, as a Redis that was
// stopped: the interface is the seam, and failing is all there is to it.
type brokenStore struct{ limiter.Store }

var errStore = errors.New("dial tcp 127.0.0.1:6379: connection refused")

func (brokenStore) Get(context.Context, string, limiter.Rate) (limiter.Context, error) {
	return limiter.Context{}, errStore
}

func (brokenStore) Increment(context.Context, string, int64, limiter.Rate) (limiter.Context, error) {
	return limiter.Context{}, errStore
}

// switchedStore works until it is switched off.
type switchedStore struct {
	limiter.Store
	broken bool
}

func (s *switchedStore) Increment(ctx context.Context, key string, n int64, rate limiter.Rate) (limiter.Context, error) {
	if s.broken {
		return brokenStore{}.Increment(ctx, key, n, rate)
	}
	return s.Store.Increment(ctx, key, n, rate)
}

// TestStoreDown is row L5: without the store of rates nobody signs in, and
// predictions go on under this process's own count.
func TestStoreDown(t *testing.T) {
	shared := new(switchedStore)
	w := newWorld(t, limits(Limits{Predict: "5-M"}), func(_ *auth.Config, c *Config) {
		shared.Store = NewSliding(0, nil)
		c.Store = shared
	})
	_, ada := w.user("ada")
	pair := w.tokens("ada", userPassword)
	shared.broken = true

	for _, r := range []request{
		{method: "POST", path: "/login", json: map[string]string{"username": "admin", "password": adminPassword}},
		{method: "POST", path: "/register", json: map[string]string{"username": "eve", "password": userPassword}},
		{method: "POST", path: "/password-reset", json: map[string]string{"reset_token": "x", "password": userPassword}},
	} {
		got := w.do(r)
		got.refused(503, "unavailable")
		if got.Header.Get("Retry-After") == "" || strings.Contains(string(got.Body), "6379") {
			t.Errorf("%s: %v %s", r.path, got.Header, got.Body)
		}
	}
	w.form("/token", "", url.Values{"grant_type": {"password"}, "username": {"admin"}, "password": {adminPassword}}).is(503)
	w.form("/token", "", url.Values{"grant_type": {"client_credentials"}, "client_id": {"u_x"}, "client_secret": {"x"}}).is(503)
	w.post("/users/me/password", ada, map[string]string{"current_password": userPassword, "new_password": "another unusual phrase 4"}).refused(503, "unavailable")
	w.form("/revoke", "", url.Values{"token": {"mg_wrong"}}).is(200)

	for range 5 {
		w.post("/predict", ada, irisRow).is(403)
	}
	w.post("/predict", ada, irisRow).limited()
	w.get("/users/me", ada).is(200)
	w.get("/users/me", "mg_wrong").refused(401, "invalid_token")
	w.post("/refresh", "", map[string]string{"refresh_token": pair.RefreshToken}).is(200)
	if !strings.Contains(w.log.String(), "the store of rates fails") {
		t.Error("the log says nothing of the store")
	}
	if n := strings.Count(w.log.String(), "the store of rates fails"); n > 1 {
		t.Errorf("%d log lines in one minute", n)
	}
	shared.broken = false
	w.tryLogin("admin", adminPassword, "").is(200)
}

func TestClientAddress(t *testing.T) {
	for _, test := range []struct {
		name    string
		trusted []string
		peer    string
		header  []string
		want    string
	}{
		{"none trusted", nil, "192.0.2.1:4711", []string{"203.0.113.9"}, "192.0.2.1"},
		{"peer not trusted", []string{"10.0.0.0/8"}, "192.0.2.1:4711", []string{"203.0.113.9"}, "192.0.2.1"},
		{"one proxy", []string{"10.0.0.0/8"}, "10.1.2.3:4711", []string{"203.0.113.9"}, "203.0.113.9"},
		{"forged in front", []string{"10.0.0.0/8"}, "10.1.2.3:4711", []string{"1.1.1.1, 203.0.113.9"}, "203.0.113.9"},
		{"two proxies", []string{"10.0.0.0/8"}, "10.1.2.3:4711", []string{"1.1.1.1, 203.0.113.9, 10.9.9.9"}, "203.0.113.9"},
		{"two lines", []string{"10.0.0.0/8"}, "10.1.2.3:4711", []string{"1.1.1.1", "203.0.113.9, 10.9.9.9"}, "203.0.113.9"},
		{"all proxies", []string{"10.0.0.0/8"}, "10.1.2.3:4711", []string{"10.7.7.7"}, "10.7.7.7"},
		{"no header", []string{"10.0.0.0/8"}, "10.1.2.3:4711", nil, "10.1.2.3"},
		{"rubbish", []string{"10.0.0.0/8"}, "10.1.2.3:4711", []string{"203.0.113.9, rubbish"}, "10.1.2.3"},
		{"with port", []string{"10.1.2.3"}, "10.1.2.3:4711", []string{"203.0.113.9:80"}, "203.0.113.9"},
		{"IPv6", []string{"fd00::/8"}, "[fd00::1]:4711", []string{"2001:db8::1"}, "2001:db8::1"},
		{"IPv6 in brackets", []string{"fd00::/8"}, "[fd00::1]:4711", []string{"[2001:db8::1]:80"}, "2001:db8::1"},
		{"IPv4 in IPv6", []string{"10.0.0.0/8"}, "[::ffff:10.1.2.3]:4711", []string{"203.0.113.9"}, "203.0.113.9"},
		{"long", []string{"0.0.0.0/0"}, "10.1.2.3:4711", []string{strings.Repeat("10.0.0.1,", 10_000) + "10.0.0.2"}, "10.0.0.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := parseProxies(test.trusted)
			if err != nil {
				t.Fatal(err)
			}
			got := p.client(&http.Request{RemoteAddr: test.peer, Header: http.Header{"X-Forwarded-For": test.header}})
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
	if _, err := parseProxies([]string{"not-an-address"}); err == nil {
		t.Error("a trusted proxy that is no address is taken")
	}
}

func TestRates(t *testing.T) {
	for _, bad := range []string{"10", "10-", "-M", "0-M", "-5-M", "x-M", "10-X", "10-M-M", "99999999999999999999-M"} {
		if _, err := New(Config{Limits: Limits{Login: bad}}); err == nil || !strings.Contains(err.Error(), "10-S") {
			t.Errorf("rate %q: %v; want a refusal that shows how to write one", bad, err)
		}
	}
}

// TestTwoServersShareAWindow is row L2 over several servers: with one Redis a user has one allowance at all of them, and
// when it is gone each server knows what it let through itself.
func TestTwoServersShareAWindow(t *testing.T) {
	redis := ratetest.StartRedis(t)
	open := func() *store.Redis {
		s, err := store.OpenRedis(redis.URL(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	w := newWorld(t, limits(Limits{Predict: "9-H", Login: "1000-S"}), func(_ *auth.Config, c *Config) { c.Store = open() })
	second, err := New(Config{Auth: w.auth, Guard: w.api.guard, Catalog: w.models, Inference: w.api.inference, Audit: w.audit,
		Limits: Limits{Predict: "9-H", Login: "1000-S"}, Store: open()})
	if err != nil {
		t.Fatal(err)
	}
	_, ada := w.user("ada")
	_, eve := w.user("eve")
	two := w.in(t)
	two.api = second
	two.serve()
	for i := range 9 {
		at := []*world{w, two, w}[i%3] // six at the first, three at the second
		if left := at.post("/predict", ada, irisRow).is(403).Header.Get("X-RateLimit-Remaining"); left != strconv.Itoa(8-i) {
			t.Errorf("remaining %s after %d", left, i+1)
		}
	}
	for _, at := range []*world{w, two} {
		if got := at.post("/predict", ada, irisRow); got.Status != 429 || got.Header.Get("Retry-After") == "" {
			t.Errorf("the tenth: %d %s", got.Status, got.Body)
		}
	}
	two.post("/predict", eve, irisRow).is(403)

	redis.Kill()
	granted := map[*world]int{}
	for _, at := range []*world{w, two} {
		for range 12 {
			if at.post("/predict", ada, irisRow).Status == 403 {
				granted[at]++
			}
		}
	}
	if granted[w] != 3 || granted[two] != 6 {
		t.Errorf("without Redis %d and %d more went through; 3 and 6 are left of what each server has seen", granted[w], granted[two])
	}
}
