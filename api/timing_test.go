package api

import (
	"encoding/base32"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
)

// timed is one way to fail to sign in, each time on a fresh account.
type timed struct {
	name    string
	prepare func(account string)
	request func(account string) map[string]string
	took    []time.Duration
}

// TestSignInTimes is row A7: how long a refusal takes does not tell strangers
// whether there is an account, and of which kind. Every pair of ways to fail
// that get the same answer is compared by the area under the ROC curve of a
// guess by time: 0.5 is chance, and 0.4 to 0.6 is asked for.
//
// Each request goes over HTTP to an account that was never used before, and the
// ways take turns in random order. There is one retry: others use the machine.
func TestSignInTimes(t *testing.T) {
	if testing.Short() {
		t.Skip("measures time")
	}
	w := newWorld(t, noLimits, func(a *auth.Config, _ *Config) { a.Hashing = auth.Hashing{Memory: 2 << 10, Gate: 1} })
	hash := w.passwordHash()
	for try := range 2 {
		ways := w.waysToFail(hash, fmt.Sprintf("try%d", try))
		const samples, warm = 60, 4
		for i := range samples + warm {
			for _, k := range rand.Perm(len(ways)) {
				way := ways[k]
				name := fmt.Sprintf("a%d-%d-%d", try, k, i)
				way.prepare(name)
				body := way.request(name)
				began := time.Now()
				got := w.post("/login", "", body)
				took := time.Since(began)
				got.refused(401, "invalid_credentials")
				if i >= warm {
					way.took = append(way.took, took)
				}
			}
		}
		worst := 0.5
		var table strings.Builder
		fmt.Fprintf(&table, "| Refused | Median | AUC against an unknown name |\n| --- | --- | --- |\n")
		for _, way := range ways {
			score := auc(way.took, ways[0].took)
			fmt.Fprintf(&table, "| %s | %.1f ms | %.2f |\n", way.name, float64(slices.Sorted(slices.Values(way.took))[samples/2])/1e6, score)
			for _, other := range ways {
				if a := auc(way.took, other.took); a > worst {
					worst = a
				}
			}
		}
		t.Logf("try %d, %d of each, worst pair %.2f\n%s", try+1, samples, worst, table.String())
		if worst <= 0.6 {
			return
		}
	}
	t.Error("the time of a refusal tells more than chance")
}

// passwordHash is a real hash of userPassword, for accounts that are made
// directly in the database.
func (w *world) passwordHash() string {
	w.t.Helper()
	w.user("model")
	u, err := w.db.UserByName(w.t.Context(), "model")
	if err != nil {
		w.t.Fatal(err)
	}
	return u.PasswordHash
}

func (w *world) waysToFail(hash, id string) []*timed {
	w.t.Helper()
	ctx := w.t.Context()
	ok := func(err error) {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	account := func(u auth.User) func(string) {
		return func(name string) {
			u.ID, u.Username, u.Roles = "u_"+id+name, name, []string{"user"}
			ok(w.db.CreateUser(ctx, u, nil))
		}
	}
	secret := []byte("12345678901234567890")
	enrolled := func(name string) {
		account(auth.User{PasswordHash: hash})(name)
		userID := "u_" + id + name
		sealed := w.vault.Seal("totp", userID, secret)
		ok(w.db.UpdateTOTP(ctx, userID, func(auth.TOTP) (auth.TOTP, error) {
			return auth.TOTP{UserID: userID, Secret: sealed, Active: true, CreatedAt: w.clock.now()}, nil
		}))
	}
	try := func(password, otp string) func(string) map[string]string {
		return func(name string) map[string]string {
			m := map[string]string{"username": name, "password": password}
			if otp != "" {
				m["otp"] = otp
			}
			return m
		}
	}
	f := &factor{w: w, secret: base32.StdEncoding.EncodeToString(secret)}
	const wrong = "wrong password 1"
	return []*timed{
		{name: "unknown name", prepare: func(string) {}, request: try(userPassword, "")},
		{name: "wrong password", prepare: account(auth.User{PasswordHash: hash}), request: try(wrong, "")},
		{name: "disabled, right password", prepare: account(auth.User{PasswordHash: hash, Disabled: true}), request: try(userPassword, "")},
		{name: "disabled, wrong password", prepare: account(auth.User{PasswordHash: hash, Disabled: true}), request: try(wrong, "")},
		{name: "expired, right password", prepare: account(auth.User{PasswordHash: hash, PasswordExpires: w.clock.now()}), request: try(userPassword, "")},
		{name: "no password yet, or one of another provider", prepare: account(auth.User{}), request: try(userPassword, "")},
		{name: "service account", prepare: account(auth.User{Kind: auth.ServiceAccount}), request: try(userPassword, "")},
		{name: "second factor, wrong password", prepare: enrolled, request: try(wrong, "")},
		{name: "second factor, wrong password, some code", prepare: enrolled, request: try(wrong, "000000")},
		{name: "second factor, right password, wrong code", prepare: enrolled, request: func(name string) map[string]string {
			return try(userPassword, f.wrong())(name)
		}},
	}
}

// auc is the area under the ROC curve of telling a from b by their values.
func auc(a, b []time.Duration) float64 {
	wins := 0.0
	for _, x := range a {
		for _, y := range b {
			switch {
			case x > y:
				wins++
			case x == y:
				wins += 0.5
			}
		}
	}
	return wins / float64(len(a)*len(b))
}
