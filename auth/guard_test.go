package auth_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/audit"
	"modelgate/auth"
)

func gather(t testing.TB, c prometheus.Collector) string {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintln(families)
}

func TestGuard(t *testing.T) {
	e := newEnv(t)
	g := auth.NewGuard(e.audit)
	writer := auth.Principal{UserID: "u_w", Username: "wanda", Permissions: auth.ModelsWrite, Origin: origin}
	act := func(name string) auth.Action {
		return auth.Action{Name: name, Target: "iris", Detail: map[string]string{"version": "2"}}
	}
	last := func(name string) *audit.Entry {
		if r := e.records(name); len(r) > 0 {
			return &r[0]
		}
		return nil
	}

	want(t, g.Allow(e.ctx, writer, auth.ModelsWrite, act("a.allow")), nil)
	if r := last("a.allow"); r == nil || r.Outcome != audit.Allowed || r.Actor != "wanda" || r.ActorID != "u_w" || r.Target != "iris" ||
		r.Detail["version"] != "2" || r.Address != origin.Address || r.Request != origin.RequestID || r.Reason != "" {
		t.Errorf("%+v", r)
	}
	err := g.Allow(e.ctx, writer, auth.ModelsWrite|auth.AuditRead, act("a.deny"))
	want(t, err, auth.ErrForbidden)
	contains(t, detail(err), "audit:read")
	if r := last("a.deny"); r == nil || r.Outcome != audit.Denied || r.Reason != "forbidden" {
		t.Errorf("%+v", r)
	}
	want(t, g.Check(e.ctx, writer, auth.ModelsWrite, act("c.allow")), nil)
	want(t, g.Check(e.ctx, writer, 0, act("c.allow")), nil)
	if r := last("c.allow"); r != nil {
		t.Errorf("a read is recorded: %+v", r)
	}
	want(t, g.Check(e.ctx, writer, auth.UsersManage, act("c.deny")), auth.ErrForbidden)
	for _, c := range g.Collectors() {
		text := gather(t, c)
		contains(t, text, `value:"a.deny"`)
		contains(t, text, `value:"forbidden"`)
	}
	if r := last("c.deny"); r == nil || r.Outcome != audit.Denied {
		t.Errorf("%+v", r)
	}
	denied := auth.ErrForbidden.With("no such model, or it is not open to you")
	want(t, g.Decide(e.ctx, writer, true, denied, false, act("d.allow")), nil)
	if r := last("d.allow"); r != nil {
		t.Errorf("%+v", r)
	}
	want(t, g.Decide(e.ctx, writer, true, denied, true, act("d.record")), nil)
	if r := last("d.record"); r == nil || r.Outcome != audit.Allowed {
		t.Errorf("%+v", r)
	}
	if err := g.Decide(e.ctx, writer, false, denied, false, act("d.deny")); err != error(denied) {
		t.Errorf("%v", err)
	}
	if r := last("d.deny"); r == nil || r.Outcome != audit.Denied {
		t.Errorf("%+v", r)
	}
	// Who hangs up is recorded nevertheless.
	gone, cancel := context.WithCancel(e.ctx)
	cancel()
	want(t, g.Check(gone, writer, auth.UsersManage, act("gone")), auth.ErrForbidden)
	if last("gone") == nil {
		t.Error("a denial is not recorded when the caller has left")
	}
	want(t, g.Allow(gone, writer, 0, act("gone.too")), auth.ErrUnavailable)

	want(t, e.audit.Close(), nil)
	for name, err := range map[string]error{
		"allow": g.Allow(e.ctx, writer, auth.ModelsWrite, act("z")), "deny": g.Allow(e.ctx, writer, auth.UsersManage, act("z")),
		"check": g.Check(e.ctx, writer, auth.UsersManage, act("z")), "decide": g.Decide(e.ctx, writer, false, denied, true, act("z")),
	} {
		if !errors.Is(err, auth.ErrUnavailable) {
			t.Errorf("%s without a log: %v", name, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	e := newEnv(t)
	e.register("alice")
	for range 3 {
		e.Login(e.ctx, origin, "x", "alice", "not the password", "")
	}
	e.Login(e.ctx, origin, "x", "nobody", "not the password", "")
	tok := e.login("alice")
	e.who(tok.Access)
	e.who(tok.Access)
	e.dead("a forged token", tok.Access+"x")
	e.dead("no key", "mgk_none")
	ended := e.login("alice")
	want(t, e.Logout(e.ctx, e.who(ended.Access)), nil)
	e.dead("a token that was logged out", ended.Access)
	bob, bobs := e.user("bob")
	_, err := e.UpdateUser(e.ctx, e.admin, bob.ID, auth.UserPatch{Disabled: ptr(true)})
	want(t, err, nil)
	e.dead("a token of a disabled user", bobs.Access)
	old := e.login("alice")
	e.clock.advance(time.Hour)
	e.dead("an old token", old.Access)
	r := prometheus.NewRegistry()
	r.MustRegister(e.Collectors()...)
	families, err := r.Gather()
	want(t, err, nil)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got[f.GetName()+" "+strings.Join(labels, " ")] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, w := range map[string]float64{
		"modelgate_signin_failures_total user.login wrong_password": 3, "modelgate_signin_failures_total user.login unknown_user": 1,
		"modelgate_token_lookups_total hit": 1, "modelgate_token_lookups_total miss": 8,
		"modelgate_credential_rejections_total invalid": 2, "modelgate_credential_rejections_total expired": 1, "modelgate_password_hash_refused_total ": 0,
	} {
		if got[name] != w {
			t.Errorf("%s is %v, want %v", name, got[name], w)
		}
	}
	if n, there := got["modelgate_signin_failures_total user.refresh reused"]; !there || n != 0 {
		t.Error("a failure that has not happened yet is not counted as 0")
	}
	if got["modelgate_password_hash_wait_seconds "] < 6 {
		t.Errorf("%v", got)
	}
}
