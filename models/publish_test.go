package models_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"modelgate/auth"
	"modelgate/models"
)

// TestPublish follows a model through two versions and a restart.
func TestPublish(t *testing.T) {
	r := newRoom(t)
	first := sample(t, "iris")
	m, v := r.publish(t, ann, "iris", first, models.Spec{Description: pointer("flowers"), Roles: []string{"user", "analyst", "user"}})
	sum := sha256.Sum256(first)
	if v.Number != 1 || v.Model != "iris" || v.State != models.Ready || v.Digest != hex.EncodeToString(sum[:]) || v.Size != int64(len(first)) ||
		v.CreatedBy != "ann" || v.CreatedAt.IsZero() || v.Facts.Trial != "ran" || v.Facts.Nodes != 3 {
		t.Errorf("version %+v", v)
	}
	if m.DefaultVersion != 1 || m.OwnerID != "ann" || m.Description != "flowers" || !slices.Equal(m.Roles, []string{"analyst", "user"}) || m.CreatedAt.IsZero() {
		t.Errorf("model %+v", m)
	}
	if _, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"}); err != nil {
		t.Errorf("eve can't open it: %v", err)
	}
	// A later version does not become the default by itself; what the spec
	// leaves out stays.
	m, v = r.publish(t, ann, "iris", sample(t, "iris_v2"), models.Spec{Serving: &models.Serving{TimeoutMS: 500}})
	if v.Number != 2 || m.DefaultVersion != 1 || m.Description != "flowers" || len(m.Roles) != 2 || m.Serving.TimeoutMS != 500 {
		t.Errorf("after the second version: %+v", m)
	}
	m, v = r.publish(t, admin, "iris", variant(first, 1), models.Spec{Default: true, Roles: []string{}, Description: pointer("")})
	if v.Number != 3 || m.DefaultVersion != 3 || len(m.Roles) != 0 || m.Description != "" || m.OwnerID != "ann" {
		t.Errorf("after the third version: %+v", m)
	}
	if files := r.onDisk(t); len(files) != 3 {
		t.Errorf("on the disk: %v", files)
	}
	want := []string{"ann model.publish iris allowed", "ann model.publish iris allowed", "root model.publish iris allowed"}
	if got := r.audited(t); !slices.Equal(got, want) {
		t.Errorf("audited: %q", got)
	}
	r.reopen(t)
	access, err := r.catalog.Describe(t.Context(), ann, "iris")
	if err != nil || !reflect.DeepEqual(access.Model, m) {
		t.Errorf("after a restart: %+v (%v)\nbefore: %+v", access.Model, err, m)
	}
	for _, v := range access.Model.Versions {
		if data, err := r.catalog.Read(t.Context(), v); err != nil || int64(len(data)) != v.Size {
			t.Errorf("version %d: %d bytes (%v)", v.Number, len(data), err)
		}
	}
}

// TestPublishNames: nothing that is not a plain identifier becomes public
// unless the spec says so.
func TestPublishNames(t *testing.T) {
	r := newRoom(t)
	_, v := r.publish(t, ann, "canary", sample(t, "canary"), models.Spec{})
	if v.Signature.Inputs[0].Name != "input_0" || v.Signature.Outputs[0].Name != "output_0" {
		t.Errorf("names %+v", v.Signature)
	}
	_, v = r.publish(t, ann, "canary", sample(t, "canary"), models.Spec{Inputs: []string{"features"}, Outputs: []string{"scores"}})
	if v.Signature.Input("features") != 0 || v.Signature.Output("scores") != 0 {
		t.Errorf("names %+v", v.Signature)
	}
	for _, spec := range []models.Spec{{Inputs: []string{"a", "b"}}, {Outputs: []string{"no name"}}} {
		never := func(context.Context, []byte) (models.Trial, error) {
			t.Error("a spec that can't be was tried")
			return models.Trial{}, nil
		}
		_, _, err := r.tryPublish(t, ann, "canary", sample(t, "canary"), spec, never)
		wantError(t, fmt.Sprint(spec), err, models.ErrInvalid)
	}
}

// TestPublishNeverEmpty: models that empty inputs would be the end of are
// known, also after a restart.
func TestPublishNeverEmpty(t *testing.T) {
	r := newRoom(t)
	for name, want := range map[string]bool{"hostile/empty_gru": true, "iris": false} {
		model := strings.TrimPrefix(name, "hostile/")
		_, v := r.publish(t, ann, model, sample(t, name), models.Spec{})
		if v.Signature.NeverEmpty != want {
			t.Errorf("%s: NeverEmpty is %v", name, v.Signature.NeverEmpty)
		}
	}
	r.reopen(t)
	for model, want := range map[string]bool{"empty_gru": true, "iris": false} {
		access, err := r.catalog.Open(t.Context(), ann, models.Ref{Model: model})
		if err != nil || access.Version.Signature.NeverEmpty != want {
			t.Errorf("%s after a restart: NeverEmpty is %v (%v)", model, access.Version.Signature.NeverEmpty, err)
		}
	}
}

// TestPublishFails leaves nothing: no model, no row, no blob, no temporary
// file, whatever goes wrong.
func TestPublishFails(t *testing.T) {
	refused := &models.Rejected{Code: "load_failed", Detail: "the runtime can't load this model"}
	away := errors.New("the runtime is away")
	fails := func(err error) models.Try {
		return func(context.Context, []byte) (models.Trial, error) { return models.Trial{}, err }
	}
	lies := func(ctx context.Context, file []byte) (models.Trial, error) {
		trial, err := try(ctx, file)
		trial.Graph.Outputs = trial.Graph.Outputs[:1]
		return trial, err
	}
	iris := sample(t, "iris")
	tests := []struct {
		name string
		file []byte
		spec models.Spec
		try  models.Try
		want error
		code string // of a Rejected
	}{
		{"no ONNX", []byte("hello"), models.Spec{}, nil, nil, "not_onnx"},
		{"truncated", iris[:len(iris)/2], models.Spec{}, nil, nil, "truncated"},
		{"external data", sample(t, "external"), models.Spec{}, nil, nil, "external_data"},
		{"the runtime refuses", iris, models.Spec{}, fails(refused), nil, "load_failed"},
		{"the runtime is away", iris, models.Spec{}, fails(away), away, ""},
		{"the runtime sees another graph", iris, models.Spec{}, lies, nil, "bad_model"},
		{"unknown role", iris, models.Spec{Roles: []string{"user", "nosuch"}}, try, models.ErrInvalid, ""},
		{"unknown role of the disclosure", iris, models.Spec{Disclosure: &models.Disclosure{Roles: map[string]models.Rule{"nosuch": {}}}}, try, models.ErrInvalid, ""},
		{"no name of a role", iris, models.Spec{Roles: []string{"No Role"}}, nil, models.ErrInvalid, ""},
		{"unknown output", iris, models.Spec{Disclosure: &models.Disclosure{Rule: models.Rule{Outputs: []string{"nosuch"}}}}, try, models.ErrInvalid, ""},
		{"bad rule", iris, models.Spec{Disclosure: &models.Disclosure{Rule: models.Rule{TopK: -1}}}, nil, models.ErrInvalid, ""},
		{"description too long", iris, models.Spec{Description: pointer(string(make([]byte, 5000)))}, nil, models.ErrInvalid, ""},
		{"bad timeout", iris, models.Spec{Serving: &models.Serving{TimeoutMS: -1}}, nil, models.ErrInvalid, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, existing := range []bool{false, true} {
				r := newRoom(t)
				if existing {
					r.publish(t, ann, "iris", variant(iris, 1), models.Spec{})
				}
				files := r.onDisk(t)
				try := test.try
				if try == nil {
					try = func(context.Context, []byte) (models.Trial, error) {
						t.Error("it was tried all the same")
						return models.Trial{}, nil
					}
				}
				m, v, err := r.tryPublish(t, ann, "iris", test.file, test.spec, try)
				if m != nil || v != nil {
					t.Errorf("published %+v", v)
				}
				rejected := (*models.Rejected)(nil)
				if test.code != "" && (!errors.As(err, &rejected) || rejected.Code != test.code) || test.code == "" && !errors.Is(err, test.want) {
					t.Errorf("%v; want %v%s", err, test.want, test.code)
				}
				if left := r.onDisk(t); !slices.Equal(left, files) {
					t.Errorf("on the disk: %v", left)
				}
				access, err := r.catalog.Describe(t.Context(), ann, "iris")
				if existing && (err != nil || len(access.Model.Versions) != 1) || !existing && !errors.Is(err, models.ErrClosed) {
					t.Errorf("in the catalogue: %+v (%v)", access.Model, err)
				}
			}
		})
	}
}

// TestPublishLimits: the bounds of the configuration are those of the check.
func TestPublishLimits(t *testing.T) {
	for code, test := range map[string]struct {
		file   string
		limits models.Limits
	}{
		"too_many_nodes": {"iris", models.Limits{Nodes: 2}},
		"nesting":        {"hostile/nested_if_8", models.Limits{Depth: 7}},
		"too_large":      {"iris", models.Limits{Size: 1000}},
	} {
		r := newRoomWith(t, func(c *models.Config) { c.Limits = test.limits })
		_, _, err := r.tryPublish(t, ann, "model", sample(t, test.file), models.Spec{}, neverTried(t))
		if rejected := (*models.Rejected)(nil); !errors.As(err, &rejected) || rejected.Code != code {
			t.Errorf("%+v: %v", test.limits, err)
		}
	}
}

// TestStageThenLeave: who stages and does not publish leaves nothing either.
func TestStageThenLeave(t *testing.T) {
	r := newRoom(t)
	staged, err := r.catalog.Stage(t.Context(), bytes.NewReader(sample(t, "iris")))
	if err != nil {
		t.Fatal(err)
	}
	staged.Discard()
	if _, err := r.catalog.Stage(t.Context(), iotest.ErrReader(errors.New("gone"))); !errors.Is(err, models.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if left := r.onDisk(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestPublishDisclosure: the policy fits the default version, or the version
// does not become it.
func TestPublishDisclosure(t *testing.T) {
	r := newRoom(t)
	r.publish(t, ann, "m", sample(t, "iris"), models.Spec{Disclosure: &models.Disclosure{Rule: models.Rule{Outputs: []string{"label"}}}})
	if _, _, err := r.tryPublish(t, ann, "m", sample(t, "two_io"), models.Spec{Default: true}, try); !errors.Is(err, models.ErrInvalid) {
		t.Errorf("a default without the outputs of the policy: %v", err)
	}
	r.publish(t, ann, "m", sample(t, "two_io"), models.Spec{})
	if _, err := r.catalog.Update(t.Context(), ann, "m", models.Patch{DefaultVersion: pointer(2)}); !errors.Is(err, models.ErrInvalid) {
		t.Errorf("by PATCH: %v", err)
	}
	m, err := r.catalog.Update(t.Context(), ann, "m", models.Patch{DefaultVersion: pointer(2), Disclosure: &models.Disclosure{Rule: models.Rule{Outputs: []string{"dot"}}}})
	if err != nil || m.DefaultVersion != 2 {
		t.Errorf("both at once: %v", err)
	}
	m, _ = r.publish(t, ann, "m", sample(t, "iris"), models.Spec{Default: true, Disclosure: &models.Disclosure{}})
	if m.DefaultVersion != 3 || m.Disclosure.Outputs != nil {
		t.Errorf("with the version: %+v", m)
	}
}

// unsure is a store whose answer to AddVersion is lost, or that is away.
type unsure struct {
	models.Store
	away, lost *bool
}

var errLost = models.ErrUnavailable.Because(errors.New("connection reset"))

func (u unsure) AddVersion(ctx context.Context, m *models.Model, v *models.Version, f func(*models.Model, int) (*models.Model, error)) (*models.Model, error) {
	if *u.away {
		return nil, errLost
	}
	stored, err := u.Store.AddVersion(ctx, m, v, f)
	if err == nil && *u.lost {
		err = errLost
	}
	return stored, err
}

// TestPublishStoreFails: when the database fails, a version is there whole, if
// its row arrived, or not at all.
func TestPublishStoreFails(t *testing.T) {
	var away, lost bool
	r := newRoomBefore(t, func(s models.Store) models.Store { return unsure{s, &away, &lost} })
	away = true
	_, _, err := r.tryPublish(t, ann, "iris", sample(t, "iris"), models.Spec{}, try)
	wantError(t, "away", err, models.ErrUnavailable)
	if left := r.onDisk(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := r.catalog.Describe(t.Context(), ann, "iris"); !errors.Is(err, models.ErrClosed) {
		t.Errorf("in the catalogue: %v", err)
	}
	away, lost = false, true
	_, _, err = r.tryPublish(t, ann, "iris", sample(t, "iris"), models.Spec{}, try)
	wantError(t, "lost", err, models.ErrUnavailable)
	access, err := r.catalog.Describe(t.Context(), ann, "iris")
	if err != nil {
		t.Fatalf("the row is there, but: %v", err)
	}
	if _, err := r.catalog.Read(t.Context(), access.Version); err != nil {
		t.Errorf("the row is there, but its file: %v", err)
	}
}

// TestAuditFails: without a record nothing changes, and nobody is denied
// silently; who may call goes on calling.
func TestAuditFails(t *testing.T) {
	r := newRoom(t)
	m, v := r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
	files := r.onDisk(t)
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, publish := r.tryPublish(t, ann, "new", sample(t, "two_io"), models.Spec{}, try)
	_, update := r.catalog.Update(t.Context(), ann, "iris", models.Patch{Roles: &[]string{}})
	_, denied := r.catalog.Open(t.Context(), as(eve, func(p *auth.Principal) { p.Roles = nil }), models.Ref{Model: "iris"})
	for what, err := range map[string]error{
		"publish": publish, "update": update, "denied": denied,
		"delete": r.catalog.Delete(t.Context(), ann, "iris"), "delete version": r.catalog.DeleteVersion(t.Context(), ann, "iris", 1),
	} {
		wantError(t, what, err, auth.ErrUnavailable)
	}
	access, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"})
	if err != nil || access.Model != m || access.Version != v {
		t.Errorf("eve opens %+v (%v)", access, err)
	}
	if left := r.onDisk(t); !slices.Equal(left, files) {
		t.Errorf("on the disk: %v", left)
	}
}

// TestPublishUnderLoad: versions are swapped without a caller ever missing
// the model, and publishers don't lose each other's versions.
func TestPublishUnderLoad(t *testing.T) {
	r := newRoom(t)
	iris := sample(t, "iris")
	r.publish(t, ann, "iris", iris, models.Spec{Roles: []string{"user"}})
	stop := make(chan struct{})
	var callers, publishers sync.WaitGroup
	for range 2 {
		callers.Go(func() {
			last := 0
			for {
				select {
				case <-stop:
					return
				default:
				}
				access, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"})
				if err != nil || access.Version.State != models.Ready {
					t.Errorf("a caller got %v", err)
					return
				}
				if access.Version.Number < last {
					t.Errorf("the default went from %d back to %d", last, access.Version.Number)
				}
				last = access.Version.Number
			}
		})
	}
	const each = 5
	for p := range 3 {
		publishers.Go(func() {
			for i := range each {
				_, _, err := r.tryPublish(t, ann, "iris", variant(iris, p*each+i), models.Spec{Default: true}, try)
				_, _, errOther := r.tryPublish(t, ann, fmt.Sprintf("other%d-%d", p, i), iris, models.Spec{}, try)
				if err := errors.Join(err, errOther); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishers.Wait()
	close(stop)
	callers.Wait()
	access, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "iris"})
	if err != nil || len(access.Model.Versions) != 1+3*each || access.Version.Number != 1+3*each {
		t.Errorf("%d versions, default %d (%v)", len(access.Model.Versions), access.Version.Number, err)
	}
	items, _, _ := r.catalog.List(t.Context(), ann, "", 100)
	if len(items) != 1+3*each {
		t.Errorf("%d models", len(items))
	}
}

// TestPublishRace: of two that want one name one gets it, and the other reads
// why not.
func TestPublishRace(t *testing.T) {
	r := newRoom(t)
	var errs [2]error
	var g sync.WaitGroup
	for i, who := range []auth.Principal{ann, bob} {
		g.Go(func() { _, _, errs[i] = r.tryPublish(t, who, "iris", sample(t, "iris"), models.Spec{}, try) })
	}
	g.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), models.ErrTaken) {
		t.Errorf("%v and %v", errs[0], errs[1])
	}
	if items, _, _ := r.catalog.List(t.Context(), admin, "", 0); len(items) != 1 || len(items[0].Model.Versions) != 1 {
		t.Errorf("in the catalogue: %+v", items)
	}
}

// TestPublishCancelled: who leaves while others are examined does not wait.
func TestPublishCancelled(t *testing.T) {
	r := newRoom(t)
	busy := make(chan struct{})
	release := make(chan struct{})
	slow := func(ctx context.Context, file []byte) (models.Trial, error) {
		busy <- struct{}{}
		<-release
		return try(ctx, file)
	}
	var g sync.WaitGroup
	for i := range 2 {
		g.Go(func() {
			if _, _, err := r.tryPublish(t, ann, fmt.Sprint("slow", i), sample(t, "iris"), models.Spec{}, slow); err != nil {
				t.Error(err)
			}
		})
		<-busy
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	staged, err := r.catalog.Stage(t.Context(), bytes.NewReader(sample(t, "iris")))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.catalog.Publish(ctx, ann, "late", staged, models.Spec{}, try); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(release)
	g.Wait()
	if files, _ := filepath.Glob(filepath.Join(r.dir, "models", "tmp", "*")); len(files) != 0 {
		t.Errorf("left: %v", files)
	}
}

// TestSweepAtStart: what a crash left goes, what versions have stays.
func TestSweepAtStart(t *testing.T) {
	r := newRoom(t)
	_, v := r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{})
	orphan := "ab" + v.Digest[2:]
	if err := os.MkdirAll(filepath.Dir(r.blob(orphan)), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{r.blob(orphan), filepath.Join(r.dir, "models", "tmp", "upload-123")} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.reopen(t)
	if got := r.onDisk(t); !slices.Equal(got, []string{v.Digest}) {
		t.Errorf("on the disk: %v", got)
	}
}
