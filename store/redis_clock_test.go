package store

import (
	"testing"
	"time"

	"github.com/ulule/limiter/v3"

	"modelgate/store/ratetest"
)

// TestRedisClock proves that servers whose clocks differ share one window, by Redis's time.
func TestRedisClock(t *testing.T) {
	server := ratetest.StartRedis(t)
	one, two := unhurried(t, server.URL(), nil, nil), unhurried(t, server.URL(), nil, nil)
	rate := limiter.Rate{Limit: 5, Period: 3 * time.Second}
	for i, s := range []*Redis{one, two, one, two, one} {
		if c, err := s.Get(t.Context(), "k", rate); err != nil || c.Reached || c.Remaining != int64(4-i) {
			t.Fatalf("%d: %+v, %v", i, c, err)
		}
	}
	c, err := two.Get(t.Context(), "k", rate)
	if err != nil || !c.Reached {
		t.Fatalf("the sixth: %+v, %v", c, err)
	}
	if wait := c.Reset - time.Now().Unix(); wait < 1 || wait > 5 {
		t.Errorf("back in %d s, with a period of 3 s", wait)
	}
	deadline := time.Now().Add(20 * time.Second)
	for c.Reached && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond) // Redis's clock can't be set
		if c, err = one.Get(t.Context(), "k", rate); err != nil {
			t.Fatal(err)
		}
	}
	if c.Reached {
		t.Error("nothing comes back by Redis's own clock")
	}
}

// TestRedisStrangeValues writes what is no window where windows lie. It costs nobody anything: an error there would count as
// a Redis that fails.
func TestRedisStrangeValues(t *testing.T) {
	server := ratetest.StartRedis(t)
	rate := limiter.Rate{Limit: 5, Period: time.Minute}
	pack := func(numbers string) string {
		return "return redis.call('SET', KEYS[1], cmsgpack.pack(" + numbers + "))"
	}
	for name, script := range map[string]string{
		"text":            "return redis.call('SET', KEYS[1], 'hello')",
		"empty":           "return redis.call('SET', KEYS[1], '')",
		"cut":             "return redis.call('SET', KEYS[1], string.sub(cmsgpack.pack({60000000, 1, 1}), 1, 5))",
		"another type":    "return redis.call('RPUSH', KEYS[1], 'a')",
		"nothing in it":   pack("{}"),
		"a period alone":  pack("{60000000}"),
		"an even number":  pack("{60000000, 1}"),
		"words":           pack("{60000000, 'a', 'b'}"),
		"tables":          pack("{60000000, {1}, {2}}"),
		"names":           pack("{period = 60000000}"),
		"no period":       pack("{0, 1, 1}"),
		"not a number":    pack("{60000000, 0/0, 0/0}"),
		"infinite":        pack("{60000000, math.huge, math.huge}"),
		"below nothing":   pack("{60000000, 30000000, -1000}"),
		"halves":          pack("{60000000, 0.5, 0.5}"),
		"too many":        "local l = {60000000} for i = 2, 1001 do l[i] = i end return redis.call('SET', KEYS[1], cmsgpack.pack(l))",
		"deeply nested":   "return redis.call('SET', KEYS[1], string.rep(string.char(145), 1000))",
		"a huge announce": "return redis.call('SET', KEYS[1], string.char(221, 255, 255, 255, 255))",
	} {
		t.Run(name, func(t *testing.T) {
			server.Must("FLUSHALL")
			r := unhurried(t, server.URL(), nil, nil)
			if err := r.client.Eval(t.Context(), script, []string{redisKey("k")}).Err(); err != nil {
				t.Fatal(err)
			}
			for i := range 6 {
				c, err := r.Increment(t.Context(), "k", 1, rate)
				if err != nil || c.Reached != (i == 5) {
					t.Fatalf("%d: %+v, %v", i, c, err)
				}
			}
		})
	}
}

// TestRedisClockFarBack: Redis's clock was wrong by a day while somebody used up his rate. He waits for one period after
// it is right again, not for a day.
func TestRedisClockFarBack(t *testing.T) {
	server := ratetest.StartRedis(t)
	clock := ratetest.NewClock()
	r := unhurried(t, server.URL(), nil, clock.Now)
	rate := limiter.Rate{Limit: 5, Period: time.Minute}
	take := func() limiter.Context {
		t.Helper()
		c, err := r.Get(t.Context(), "k", rate)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	clock.Advance(24 * time.Hour)
	for range 5 {
		take()
	}
	clock.Advance(-24 * time.Hour)
	if c := take(); !c.Reached {
		t.Errorf("a clock that goes back frees what was used: %+v", c)
	}
	clock.Advance(30 * time.Second)
	if c := take(); !c.Reached {
		t.Errorf("freed before its time: %+v", c)
	}
	clock.Advance(32 * time.Second)
	if c := take(); c.Reached {
		t.Errorf("nothing comes back for a day: %+v", c)
	}
}
