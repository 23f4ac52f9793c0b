package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"modelgate/client"
)

var irisRow = map[string]any{"X": [][]float64{{5.1, 3.5, 1.4, 0.2}}}

func push(t *testing.T, c *client.Client, name string, file []byte, spec client.Spec) client.Version {
	t.Helper()
	v, err := tryPush(c, name, file, spec)
	if err != nil {
		t.Fatalf("push of %s: %v", name, err)
	}
	return v
}

func tryPush(c *client.Client, name string, file []byte, spec client.Spec) (client.Version, error) {
	return c.Push(context.Background(), name, int64(len(file)), func() (io.Reader, error) { return bytes.NewReader(file), nil }, spec)
}

// label asks iris for one row and returns its class.
func label(c *client.Client, r client.PredictRequest) (int, error) {
	p, err := c.Predict(context.Background(), r)
	if err != nil {
		return 0, err
	}
	var labels []int
	if err := json.Unmarshal(p.Outputs["label"], &labels); err != nil || len(labels) != 1 {
		return 0, err
	}
	return labels[0], nil
}

// TestMainJob walks the way of a first user through the real program.
func TestMainJob(t *testing.T) {
	ctx := context.Background()
	p := start(t, t.TempDir())
	anonymous, admin := p.anonymous(), p.admin()

	// A data scientist uploads; nobody is let in by that.
	v := push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	if v.Version != 1 || v.State != "ready" || len(v.Inputs) != 1 || v.Inputs[0].Name != "X" {
		t.Fatalf("first version: %+v", v)
	}
	if _, err := anonymous.Register(ctx, "alice", "an unusual phrase 93"); err != nil {
		t.Fatal(err)
	}
	tokens, err := anonymous.Login(ctx, "Alice", "an unusual phrase 93")
	if err != nil {
		t.Fatal(err)
	}
	alice := p.with(tokens.AccessToken)
	ask := client.PredictRequest{Model: "iris", Inputs: irisRow}
	_, err = alice.Predict(ctx, ask)
	closed := refused(t, err, 403, "predict on a closed model")
	_, err = alice.Predict(ctx, client.PredictRequest{Model: "nothing", Inputs: irisRow})
	if absent := refused(t, err, 403, "predict on an absent model"); absent.Detail != closed.Detail || absent.Code != closed.Code {
		t.Errorf("a closed and an absent model answer differently: %+v, %+v", closed, absent)
	}
	_, err = anonymous.Predict(ctx, ask)
	refused(t, err, 401, "predict without a token")

	// The role is granted; the token she has already works from the next request.
	roles := []string{"user"}
	if _, err := admin.UpdateModel(ctx, "iris", client.ModelPatch{Roles: &roles}); err != nil {
		t.Fatal(err)
	}
	if got, err := label(alice, ask); err != nil || got != 0 {
		t.Fatalf("iris of the first row: %d, %v; want class 0", got, err)
	}
	prediction, err := alice.Predict(ctx, ask)
	if err != nil {
		t.Fatal(err)
	}
	var probabilities []map[string]float64
	if err := json.Unmarshal(prediction.Outputs["probabilities"], &probabilities); err != nil || probabilities[0]["0"] < 0.9 {
		t.Fatalf("probabilities %s: %v; want class 0 above 0.9", prediction.Outputs["probabilities"], err)
	}

	// Refresh, replay, and the family is dead.
	next, err := anonymous.Refresh(ctx, tokens.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	alice = p.with(next.AccessToken)
	if _, err := alice.Me(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = anonymous.Refresh(ctx, tokens.RefreshToken)
	refused(t, err, 401, "replay of a refresh token")
	_, err = anonymous.Refresh(ctx, next.RefreshToken)
	refused(t, err, 401, "the rotated token after the replay")
	_, err = alice.Me(ctx)
	refused(t, err, 401, "the access token after the replay")

	// Logout.
	alice = p.login("alice", "an unusual phrase 93")
	if err := alice.Logout(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = alice.Predict(ctx, ask)
	refused(t, err, 401, "predict after logout")

	swapUnderLoad(t, p, admin)

	if err := admin.DeleteModel(ctx, "iris"); err != nil {
		t.Fatal(err)
	}
	_, err = admin.Model(ctx, "iris")
	refused(t, err, 404, "a deleted model")
	if err := p.stop(); err != nil {
		t.Fatalf("SIGTERM: %v\n%s", err, p.output())
	}
}

// swapUnderLoad publishes a new default version while four callers predict; no
// request may fail, and all see the new one afterwards.
func swapUnderLoad(t *testing.T, p *program, admin *client.Client) {
	t.Helper()
	ctx := context.Background()
	bob := p.admin()
	ask := client.PredictRequest{Model: "iris", Inputs: irisRow}
	var stop atomic.Bool
	var served atomic.Int64
	var callers sync.WaitGroup
	begun := make(chan struct{}, 4)
	for range 4 {
		callers.Go(func() {
			for n := 0; !stop.Load(); n++ {
				if got, err := label(bob, ask); err != nil || got != 0 {
					t.Errorf("a prediction failed during the swap: %d, %v", got, err)
					return
				}
				served.Add(1)
				if n == 0 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range 4 {
		<-begun
	}
	v := push(t, admin, "iris", modelBytes(t, "iris_v2.onnx"), client.Spec{})
	if v.Version != 2 {
		t.Errorf("second version has number %d", v.Version)
	}
	two := 2
	if _, err := admin.UpdateModel(ctx, "iris", client.ModelPatch{DefaultVersion: &two, Aliases: &map[string]int{"stable": 1}}); err != nil {
		t.Error(err)
	}
	if err := admin.DeleteVersion(ctx, "iris", 1); err == nil {
		t.Error("version 1 was deleted while an alias names it")
	}
	if _, err := label(bob, client.PredictRequest{Model: "iris", Alias: "stable", Inputs: irisRow}); err != nil {
		t.Errorf("alias: %v", err)
	}
	if _, err := admin.UpdateModel(ctx, "iris", client.ModelPatch{Aliases: &map[string]int{}}); err != nil {
		t.Error(err)
	}
	if err := admin.DeleteVersion(ctx, "iris", 1); err != nil {
		t.Errorf("deleting the old version: %v", err)
	}
	before := served.Load()
	for served.Load() < before+20 && !t.Failed() {
		if _, err := label(bob, ask); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	callers.Wait()
	t.Logf("%d predictions during the swap", served.Load())
}

// TestRestart keeps users, models and logins over a SIGKILL.
func TestRestart(t *testing.T) {
	ctx := context.Background()
	data := t.TempDir()
	p := start(t, data)
	tokens, err := p.anonymous().Login(ctx, "admin", adminPassword)
	if err != nil {
		t.Fatal(err)
	}
	push(t, p.with(tokens.AccessToken), "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	p.kill()

	p = start(t, data, "MODELGATE_ADMIN_PASSWORD=another-long-phrase-5")
	admin := p.admin() // the first password still holds
	if got, err := label(admin, client.PredictRequest{Model: "iris", Inputs: irisRow}); err != nil || got != 0 {
		t.Fatalf("after SIGKILL: %d, %v", got, err)
	}
	next, err := p.anonymous().Refresh(ctx, tokens.RefreshToken)
	if err != nil {
		t.Fatalf("a login did not survive the restart: %v", err)
	}
	p.kill()
	p = start(t, data)
	_, err = p.anonymous().Refresh(ctx, tokens.RefreshToken)
	refused(t, err, 401, "a refresh token used before the crash")
	_, err = p.anonymous().Refresh(ctx, next.RefreshToken)
	refused(t, err, 401, "its family")
}

// TestExternalWeights sends PyTorch's own export with its weights inside and
// compares the answers with those of Python's onnxruntime.
func TestExternalWeights(t *testing.T) {
	ctx := context.Background()
	p := start(t, t.TempDir())
	admin := p.admin()
	file, external := readModel(t, filepath.Join("..", "..", "testdata", "external.onnx"))
	if external == 0 {
		t.Fatal("the model has no external weights; this test proves nothing")
	}
	push(t, admin, "external", file, client.Spec{})
	type tensor struct {
		Shape []int     `json:"shape"`
		Data  []float64 `json:"data"`
	}
	var expected struct {
		Cases []struct {
			Name            string
			Inputs, Outputs map[string]tensor
		}
	}
	if err := json.Unmarshal(modelBytes(t, "cases/external.json"), &expected); err != nil || len(expected.Cases) == 0 {
		t.Fatalf("%d cases, %v", len(expected.Cases), err)
	}
	for _, c := range expected.Cases {
		got, err := admin.Predict(ctx, client.PredictRequest{Model: "external", Inputs: c.Inputs})
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		for name, want := range c.Outputs {
			numbers := regexp.MustCompile(`[-+.0-9eE]+`).FindAllString(string(got.Outputs[name]), -1)
			if len(numbers) != len(want.Data) {
				t.Fatalf("%s: %s has %d numbers, want %d", c.Name, name, len(numbers), len(want.Data))
			}
			for i, text := range numbers {
				v, err := strconv.ParseFloat(text, 64)
				if err != nil || math.Abs(v-want.Data[i]) > 1e-5*math.Max(1, math.Abs(want.Data[i])) {
					t.Errorf("%s: %s[%d] = %s, want %v", c.Name, name, i, text, want.Data[i])
				}
			}
		}
	}
}

// TestRefusedChangeIsNotRecorded: the audit log says "allowed" of nothing that
// was refused.
func TestRefusedChangeIsNotRecorded(t *testing.T) {
	ctx := context.Background()
	p := start(t, t.TempDir())
	admin := p.admin()
	_, err := tryPush(admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{Roles: []string{"nonesuch"}})
	refused(t, err, 400, "a role that does not exist")
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	_, err = admin.UpdateModel(ctx, "iris", client.ModelPatch{Roles: &[]string{"nonesuch"}})
	refused(t, err, 400, "a role that does not exist")
	_, err = admin.UpdateModel(ctx, "iris", client.ModelPatch{Disclosure: json.RawMessage(`{"roles":{"nonesuch":{"top_k":1}}}`)})
	refused(t, err, 400, "a role that does not exist")
	for action, want := range map[string]int{"model.publish": 1, "model.update": 0} {
		list, err := admin.Audit(ctx, client.AuditQuery{Action: action})
		if err != nil || len(list) != want {
			t.Errorf("%s: %d records, %v; want %d", action, len(list), err, want)
		}
	}
}
