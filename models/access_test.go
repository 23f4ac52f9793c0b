package models_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"modelgate/auth"
	"modelgate/models"
)

// TestAccess walks who x which model, for predictions and for metadata.
func TestAccess(t *testing.T) {
	r := newRoom(t)
	r.publish(t, ann, "closed", sample(t, "iris"), models.Spec{})
	r.publish(t, ann, "open", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
	r.publish(t, ann, "special", sample(t, "iris"), models.Spec{Roles: []string{"analyst"}})
	people := map[string]auth.Principal{
		"eve":                           eve,
		"analyst":                       as(eve, func(p *auth.Principal) { p.Roles = []string{"analyst"} }),
		"owner":                         ann,
		"another owner":                 bob,
		"former owner":                  as(ann, func(p *auth.Principal) { p.Permissions = 0 }),
		"admin":                         admin,
		"nobody":                        {},
		"users' manager":                as(eve, func(p *auth.Principal) { p.Permissions = auth.UsersManage | auth.AuditRead }),
		"owner's key":                   as(ann, func(p *auth.Principal) { p.Models = []string{"closed", "absent"} }),
		"admin's key":                   as(admin, func(p *auth.Principal) { p.Models = []string{"open"} }),
		"key for nothing":               as(admin, func(p *auth.Principal) { p.Models = []string{} }),
		"stranger's key":                as(eve, func(p *auth.Principal) { p.Models = []string{"closed", "open"} }),
		"admin's token for predictions": as(admin, func(p *auth.Principal) { p.Permissions, p.Withheld = 0, p.Permissions|auth.Account }),
		"admin's token for no such":     as(admin, func(p *auth.Principal) { p.Permissions, p.Withheld = auth.ModelsWrite, auth.ModelsManage|auth.Predict }),
		"user's token for predictions":  as(eve, func(p *auth.Principal) { p.Withheld = auth.Account }),
	}
	open, closed, absent := "", models.ErrClosed.Code, models.ErrNotFound.Code
	want := map[string][4]string{ // closed, open, special, absent
		"eve":                           {closed, open, closed, closed},
		"analyst":                       {closed, closed, open, closed},
		"owner":                         {open, open, open, closed},
		"another owner":                 {closed, open, closed, closed},
		"former owner":                  {open, open, open, closed}, // calls, but changes nothing
		"admin":                         {open, open, open, absent},
		"nobody":                        {closed, closed, closed, closed},
		"users' manager":                {closed, open, closed, closed},
		"owner's key":                   {open, closed, closed, closed},
		"admin's key":                   {closed, open, closed, closed},
		"key for nothing":               {closed, closed, closed, closed},
		"stranger's key":                {closed, open, closed, closed},
		"admin's token for predictions": {open, open, open, absent},
		"admin's token for no such":     {closed, closed, closed, closed}, // as for who has no role of the model's
		"user's token for predictions":  {closed, open, closed, closed},
	}
	for name, who := range people {
		for i, model := range []string{"closed", "open", "special", "absent"} {
			access, err := r.catalog.Open(t.Context(), who, models.Ref{Model: model})
			described, errDescribe := r.catalog.Describe(t.Context(), who, model)
			if got := codeOf(err); got != want[name][i] || codeOf(errDescribe) != got {
				t.Errorf("%s: %s: %q and %q, want %q", name, model, got, codeOf(errDescribe), want[name][i])
			}
			if err == nil && (access.Model.Name != model || access.Version.Number != 1 || !reflect.DeepEqual(access, described)) {
				t.Errorf("%s: %s: %+v and %+v", name, model, access, described)
			}
			if err != nil && (access.Model != nil || described.Model != nil) {
				t.Errorf("%s: %s: an error and a model", name, model)
			}
		}
	}
}

func codeOf(err error) string {
	if e := (*models.Error)(nil); errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// TestClosedLikeAbsent: to those who can't manage all models, a model that is
// closed and one that does not exist are the same in every answer and record.
func TestClosedLikeAbsent(t *testing.T) {
	r := newRoom(t)
	m, v := r.publish(t, ann, "closed", sample(t, "iris"), models.Spec{})
	if err := r.catalog.DeleteVersion(t.Context(), ann, "closed", v.Number); err != nil {
		t.Fatal(err)
	}
	r.publish(t, ann, "closed", sample(t, "iris"), models.Spec{})
	before := len(r.audited(t))
	ways := map[string]func(name string) error{
		"predict": func(name string) error {
			_, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: name})
			return err
		},
		"old version": func(name string) error {
			_, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: name, Version: 1})
			return err
		},
		"alias": func(name string) error {
			_, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: name, Alias: "x"})
			return err
		},
		"read": func(name string) error { _, err := r.catalog.Describe(t.Context(), eve, name); return err },
		"update": func(name string) error {
			_, err := r.catalog.Update(t.Context(), eve, name, models.Patch{})
			return err
		},
		"invalid update": func(name string) error {
			_, err := r.catalog.Update(t.Context(), eve, name, models.Patch{Description: pointer("\x00")})
			return err
		},
		"delete":         func(name string) error { return r.catalog.Delete(t.Context(), eve, name) },
		"delete version": func(name string) error { return r.catalog.DeleteVersion(t.Context(), eve, name, 2) },
		"another writer": func(name string) error { return r.catalog.Delete(t.Context(), bob, name) },
	}
	for way, call := range ways {
		closed, absent := call("closed"), call("absent")
		if closed == nil || !reflect.DeepEqual(closed, absent) || !errors.Is(closed, models.ErrClosed) {
			t.Errorf("%s: closed: %v; absent: %v", way, closed, absent)
		}
	}
	// 4 actions of eve's, 1 of bob's, each on two names; repetitions fold.
	lines := r.audited(t)[before:]
	for _, name := range []string{"closed", "absent"} {
		for _, want := range []string{"eve model.predict", "eve model.read", "eve model.update", "eve model.delete", "eve model.delete_version", "bob model.delete"} {
			if line := fmt.Sprintf("%s %s denied", want, name); !slices.Contains(lines, line) {
				t.Errorf("no record %q", line)
			}
		}
	}
	if len(lines) != 12 {
		t.Errorf("%d records: %q", len(lines), lines)
	}
	items, next, err := r.catalog.List(t.Context(), eve, "", 0)
	if err != nil || len(items) != 0 || next != "" {
		t.Errorf("eve lists %v", items)
	}
	if m.Name != "closed" {
		t.Error("a model handed out before was changed")
	}
}

// TestNotManaged: who may call a model knows that it exists, and reads why he
// may not change it.
func TestNotManaged(t *testing.T) {
	r := newRoom(t)
	r.publish(t, ann, "open", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
	_, err := r.catalog.Update(t.Context(), bob, "open", models.Patch{Roles: &[]string{}})
	wantError(t, "update", err, models.ErrClosed)
	if e := (*models.Error)(nil); !errors.As(err, &e) || e.Detail == models.ErrClosed.Detail {
		t.Errorf("bob reads %v", err)
	}
	wantError(t, "delete", r.catalog.Delete(t.Context(), bob, "open"), models.ErrClosed)
	wantError(t, "delete a version", r.catalog.DeleteVersion(t.Context(), bob, "open", 1), models.ErrClosed)
	_, err = r.catalog.Update(t.Context(), admin, "absent", models.Patch{})
	wantError(t, "admin", err, models.ErrNotFound)
	wantError(t, "admin deletes", r.catalog.Delete(t.Context(), admin, "absent"), models.ErrNotFound)
	if _, err := r.catalog.Update(t.Context(), as(admin, func(p *auth.Principal) { p.Permissions = auth.ModelsManage }), "open", models.Patch{Roles: &[]string{"analyst"}}); err != nil {
		t.Errorf("models:manage alone: %v", err)
	}
	if _, err := r.catalog.Open(t.Context(), eve, models.Ref{Model: "open"}); !errors.Is(err, models.ErrClosed) {
		t.Errorf("the role was taken, but eve opens it: %v", err)
	}
}

func TestMayPublish(t *testing.T) {
	r := newRoom(t)
	r.publish(t, ann, "taken", sample(t, "iris"), models.Spec{})
	key := as(ann, func(p *auth.Principal) { p.Models = []string{"taken"} })
	for _, test := range []struct {
		what string
		who  auth.Principal
		name string
		want error
	}{
		{"new", bob, "new", nil},
		{"one's own", ann, "taken", nil},
		{"another's", bob, "taken", models.ErrTaken},
		{"admin", admin, "taken", nil},
		{"no right at all", eve, "new", models.ErrNotAllowed},
		{"no right, taken name", eve, "taken", models.ErrNotAllowed},
		{"no name", ann, "No Name", models.ErrInvalid},
		{"no name, no right", eve, "../x", models.ErrNotAllowed},
		{"key in its scope", key, "taken", nil},
		{"key outside of its scope", key, "new", models.ErrClosed},
	} {
		err := r.catalog.MayPublish(t.Context(), test.who, test.name)
		if !errors.Is(err, test.want) || test.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", test.what, err, test.want)
		}
		before := r.onDisk(t)
		if _, _, err := r.tryPublish(t, test.who, test.name, sample(t, "iris"), models.Spec{}, try); test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: Publish answers %v", test.what, err)
		}
		if test.want != nil && !slices.Equal(r.onDisk(t), before) {
			t.Errorf("%s: left on the disk: %v", test.what, r.onDisk(t))
		}
	}
}

// TestResolve picks versions by number, alias and default.
func TestResolve(t *testing.T) {
	r := newRoom(t)
	iris := sample(t, "iris")
	for i := range 3 {
		r.publish(t, ann, "iris", variant(iris, i), models.Spec{Roles: []string{"user"}})
	}
	_, err := r.catalog.Update(t.Context(), ann, "iris", models.Patch{DefaultVersion: pointer(2), Aliases: &map[string]int{"canary": 3}})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		ref  models.Ref
		want int
		err  error
	}{
		{models.Ref{}, 2, nil},
		{models.Ref{Version: 1}, 1, nil},
		{models.Ref{Alias: "canary"}, 3, nil},
		{models.Ref{Version: 4}, 0, models.ErrNotFound},
		{models.Ref{Version: -1}, 0, models.ErrInvalid},
		{models.Ref{Alias: "gone"}, 0, models.ErrNotFound},
		{models.Ref{Version: 1, Alias: "canary"}, 0, models.ErrInvalid},
	} {
		test.ref.Model = "iris"
		access, err := r.catalog.Open(t.Context(), eve, test.ref)
		if !errors.Is(err, test.err) || err == nil && access.Version.Number != test.want {
			t.Errorf("%+v: %+v, %v", test.ref, access.Version, err)
		}
	}
}

func TestList(t *testing.T) {
	r := newRoom(t)
	iris := sample(t, "iris")
	var all, open []string
	for i := range 7 {
		name := fmt.Sprintf("m%d", i)
		spec := models.Spec{}
		if i%2 == 0 {
			spec.Roles = []string{"user"}
			open = append(open, name)
		}
		all = append(all, name)
		r.publish(t, ann, name, iris, spec)
	}
	if err := r.catalog.DeleteVersion(t.Context(), ann, "m2", 1); err != nil {
		t.Fatal(err)
	}
	open = slices.DeleteFunc(open, func(s string) bool { return s == "m2" })
	for _, test := range []struct {
		who  auth.Principal
		want []string
	}{
		{ann, all}, {admin, all}, {eve, open}, {bob, open},
		{as(ann, func(p *auth.Principal) { p.Models = []string{"m3", "m4", "zzz"} }), []string{"m3", "m4"}},
		{as(eve, func(p *auth.Principal) { p.Roles = nil }), nil},
	} {
		for _, limit := range []int{0, 1, 2, len(test.want), 5000} {
			var got []string
			for after := ""; ; {
				items, next, err := r.catalog.List(t.Context(), test.who, after, limit)
				if err != nil || limit > 0 && len(items) > limit {
					t.Fatalf("%d items (%v)", len(items), err)
				}
				for _, a := range items {
					got = append(got, a.Model.Name)
				}
				if after = next; next == "" {
					break
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%s by %d: %v, want %v", test.who.Username, limit, got, test.want)
			}
		}
	}
	if items, _, _ := r.catalog.List(t.Context(), ann, "m2x", 1); len(items) != 1 || items[0].Model.Name != "m3" {
		t.Errorf("after a name that is not there: %+v", items)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.catalog.List(ctx, ann, "", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("for nobody: %v", err)
	}
}

// TestOpenDisclosure hands out the rule of the caller's roles, to owners and
// administrators as well.
func TestOpenDisclosure(t *testing.T) {
	r := newRoom(t)
	r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}, Disclosure: &models.Disclosure{
		Rule:  models.Rule{Outputs: []string{"label"}},
		Roles: map[string]models.Rule{"analyst": {TopK: 1}},
	}})
	r.reopen(t)
	both := as(eve, func(p *auth.Principal) { p.Roles = []string{"analyst", "user"} })
	for _, test := range []struct {
		who  auth.Principal
		want models.Rule
		seen []int
	}{
		{eve, models.Rule{Outputs: []string{"label"}}, []int{0}},
		{ann, models.Rule{Outputs: []string{"label"}}, []int{0}},
		{admin, models.Rule{Outputs: []string{"label"}}, []int{0}},
		{both, models.Rule{TopK: 1}, []int{0, 1}},
	} {
		access, err := r.catalog.Open(t.Context(), test.who, models.Ref{Model: "iris"})
		if err != nil || !reflect.DeepEqual(access.Rule, test.want) || !slices.Equal(access.Outputs(), test.seen) {
			t.Errorf("%s: %+v, outputs %v (%v)", test.who.Username, access.Rule, access.Outputs(), err)
		}
	}
}

// TestOpenIsCheap: the hot path allocates nothing.
func TestOpenIsCheap(t *testing.T) {
	r := newRoom(t)
	r.publish(t, ann, "iris", sample(t, "iris"), models.Spec{Roles: []string{"user"}})
	ctx := t.Context()
	n := testing.AllocsPerRun(1000, func() {
		access, err := r.catalog.Open(ctx, eve, models.Ref{Model: "iris"})
		if err != nil || len(access.Outputs()) != 2 {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkOpen shows that the cost does not grow with the catalogue.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := newRoomBefore(b, func(s models.Store) models.Store { return crowd{s, n} })
			ref := models.Ref{Model: fmt.Sprint("m", n/2)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.catalog.Open(b.Context(), eve, ref); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// crowd is a store with n models more.
type crowd struct {
	models.Store
	n int
}

func (c crowd) Models(ctx context.Context) ([]*models.Model, error) {
	list, err := c.Store.Models(ctx)
	for i := range c.n {
		name := fmt.Sprint("m", i)
		list = append(list, &models.Model{Name: name, Roles: []string{"user"}, DefaultVersion: 1,
			Versions: []*models.Version{{ID: name, Model: name, Number: 1, State: models.Ready}}})
	}
	return list, err
}
