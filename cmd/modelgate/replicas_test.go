package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/client"
)

// replicas starts two servers on one database, one folder of models and one
// master key, each with a data folder of its own.
func replicas(t *testing.T, env ...string) (a, b *program) {
	t.Helper()
	one, other := t.TempDir(), t.TempDir()
	env = append([]string{"MODELGATE_ISSUER=https://models.test", "MODELGATE_RATE_LOGIN=10000-M", "MODELGATE_RATE_PREDICT=100000000-M"}, env...)
	a = start(t, one, env...)
	if err := os.Symlink(filepath.Join(one, "models"), filepath.Join(other, "models")); err != nil {
		t.Fatal(err)
	}
	b = start(t, other, append(env, "MODELGATE_DATABASE_URL=sqlite:"+filepath.Join(one, "modelgate.db"),
		"MODELGATE_MASTER_KEY_FILE="+masterKeyPath(one))...)
	return a, b
}

// soon waits until f says that a refusal has come, and fails when it is much
// later than the two seconds of the documents.
func soon(t *testing.T, what string, f func() error, status int) {
	t.Helper()
	began := time.Now()
	for {
		err := f()
		if e, ok := err.(*client.Error); ok && e.Status == status {
			t.Logf("%s: after %s", what, time.Since(began).Round(time.Millisecond))
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if time.Since(began) > 10*time.Second { // a machine under load is no reason to fail
			t.Fatalf("%s: not seen by the other server after %s", what, time.Since(began))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestReplicas is row T13 with two processes: what is ended at one server is
// ended at the other, where it was well known.
func TestReplicas(t *testing.T) {
	a, b := replicas(t)
	ctx := t.Context()
	admin := a.admin()
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{Roles: []string{"user"}})
	sign := func(name string) client.Tokens {
		t.Helper()
		if _, err := a.anonymous().Register(ctx, name, "an unusual phrase 93"); err != nil {
			t.Fatal(err)
		}
		tokens, err := a.anonymous().Login(ctx, name, "an unusual phrase 93")
		if err != nil {
			t.Fatal(err)
		}
		return tokens
	}
	ann, bob, eve := sign("ann"), sign("bob"), sign("eve")
	predict := func(c *client.Client) func() error {
		return func() error {
			_, err := label(c, client.PredictRequest{Model: "iris", Inputs: irisRow})
			return err
		}
	}
	waitForModel(t, predict(b.with(eve.AccessToken)))
	for _, tok := range []client.Tokens{ann, bob, eve} {
		if err := predict(b.with(tok.AccessToken))(); err != nil {
			t.Fatalf("a token of one server at the other: %v", err)
		}
	}
	if err := a.with(ann.AccessToken).Logout(ctx); err != nil {
		t.Fatal(err)
	}
	soon(t, "logout", predict(b.with(ann.AccessToken)), 401)
	me, err := a.with(bob.AccessToken).Me(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.UpdateUser(ctx, me.ID, client.UserPatch{Disabled: boolean(true)}); err != nil {
		t.Fatal(err)
	}
	soon(t, "disabling", predict(b.with(bob.AccessToken)), 401)
	if _, err := admin.UpdateModel(ctx, "iris", client.ModelPatch{Roles: &[]string{}}); err != nil {
		t.Fatal(err)
	}
	soon(t, "a role less of a model", predict(b.with(eve.AccessToken)), 403)
	// And the other way.
	if _, err := b.admin().UpdateModel(ctx, "iris", client.ModelPatch{Roles: &[]string{"user"}}); err != nil {
		t.Fatal(err)
	}
	waitForModel(t, predict(a.with(eve.AccessToken)))
	keys, err := admin.SigningKeys(ctx)
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	if err := admin.RetireSigningKey(ctx, keys[0].ID); err != nil {
		t.Fatal(err)
	}
	soon(t, "a signing key", predict(b.with(eve.AccessToken)), 401)
	next, err := b.anonymous().Refresh(ctx, eve.RefreshToken)
	if err != nil {
		t.Fatalf("the session does not go on: %v", err)
	}
	for _, p := range []*program{a, b} {
		if err := predict(p.with(next.AccessToken))(); err != nil {
			t.Errorf("signed by the new key: %v", err)
		}
	}
}

func boolean(v bool) *bool { return &v }

// waitForModel waits until the other server knows that the model is open.
func waitForModel(t *testing.T, f func() error) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if e, ok := err.(*client.Error); !ok || e.Status != http.StatusForbidden || time.Since(began) > 10*time.Second {
			t.Fatal(err)
		}
	}
}

// TestRotationOfReplicas is row T12 with two processes: while many predict, log
// in and refresh at both, a new key takes over, and nobody is refused.
func TestRotationOfReplicas(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until a new key signs")
	}
	a, b := replicas(t, "MODELGATE_KEY_LEAD=5s", "MODELGATE_ACCESS_LOG=false")
	admin := a.admin()
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{Roles: []string{"user"}})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	servers := []*program{a, b}
	var work sync.WaitGroup
	var calls, refreshes atomic.Int64
	signers := sync.Map{}
	for i := range 4 {
		name := fmt.Sprintf("caller-%d", i)
		if _, err := a.anonymous().Register(ctx, name, "an unusual phrase 93"); err != nil {
			t.Fatal(err)
		}
		tokens, err := servers[i%2].anonymous().Login(ctx, name, "an unusual phrase 93")
		if err != nil {
			t.Fatal(err)
		}
		waitForModel(t, func() error {
			_, err := label(b.with(tokens.AccessToken), client.PredictRequest{Model: "iris", Inputs: irisRow})
			return err
		})
		work.Go(func() {
			for n := 0; ctx.Err() == nil && !t.Failed(); n++ {
				for _, p := range servers {
					if _, err := label(p.with(tokens.AccessToken), client.PredictRequest{Model: "iris", Inputs: irisRow}); err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					calls.Add(1)
				}
				if n%20 != 19 {
					continue
				}
				next, err := servers[n/20%2].anonymous().Refresh(context.WithoutCancel(ctx), tokens.RefreshToken)
				if err != nil {
					t.Errorf("%s: refresh: %v", name, err)
					return
				}
				tokens = next
				refreshes.Add(1)
				signers.Store(signerOf(t, tokens.AccessToken), true)
			}
		})
	}
	made, err := admin.RotateSigningKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); !t.Failed(); time.Sleep(50 * time.Millisecond) {
		if _, signs := signers.Load(made.ID); signs && refreshes.Load() > 50 {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatal("the new key does not sign")
		}
	}
	stop()
	work.Wait()
	seen := 0
	signers.Range(func(any, any) bool { seen++; return true })
	t.Logf("%d predictions and %d refreshes, signed by %d keys", calls.Load(), refreshes.Load(), seen)
	if seen != 2 {
		t.Errorf("%d keys signed", seen)
	}
}

// signerOf is the kid of a token.
func signerOf(t *testing.T, token string) string {
	first, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(first)
	var header struct {
		Kid string `json:"kid"`
	}
	if err != nil || json.Unmarshal(text, &header) != nil {
		t.Errorf("a token without a header: %v", err)
	}
	return header.Kid
}
