package auth

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/audit"
)

// Guard is where a permission is decided and the decision recorded, in one
// step: no caller can do the one and forget the other.
type Guard struct {
	log     *audit.Log
	denials *prometheus.CounterVec // by action and reason: words of the program, never a caller's
}

// Action is what somebody wants to do, in the words of the audit log. Nothing
// secret may stand in it.
type Action struct {
	Name   string // "user.update"
	Target string
	Detail map[string]string
}

// NewGuard makes the guard that writes to log.
func NewGuard(log *audit.Log) *Guard {
	return &Guard{log: log, denials: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "modelgate_denials_total", Help: "Actions that a known caller was denied, by action and reason.",
	}, []string{"action", "reason"})}
}

// Collectors are the guard's metrics, for the server to register.
func (g *Guard) Collectors() []prometheus.Collector { return []prometheus.Collector{g.denials} }

// denialTimeout bounds how long a denial may take to record. The caller's own
// context does not: whoever hangs up early is recorded all the same.
const denialTimeout = 10 * time.Second

// Allow decides whether who holds need, and records the decision before it
// returns. ErrForbidden names the permission that is lacking; ErrUnavailable
// means that the record can't be written, and the action must not happen. For
// every change.
func (g *Guard) Allow(ctx context.Context, who Principal, need Permission, a Action) error {
	if !who.Can(need) {
		return g.deny(ctx, who, lacking(who, need), a)
	}
	if err := g.log.Append(ctx, record(who, a, audit.Allowed, "")); err != nil {
		return ErrUnavailable.Because(err)
	}
	return nil
}

// Check decides like Allow, and records a denial only. For reads. need 0 is
// always allowed.
func (g *Guard) Check(ctx context.Context, who Principal, need Permission, a Action) error {
	if who.Can(need) {
		return nil
	}
	return g.deny(ctx, who, lacking(who, need), a)
}

// Delegated decides whether the credential of who may be used for need, which is
// Predict or Account, and records a denial. ErrScope for a provider's access token
// that does not delegate it.
func (g *Guard) Delegated(ctx context.Context, who Principal, need Permission, a Action) error {
	if who.Withheld&need == 0 {
		return nil
	}
	return g.deny(ctx, who, notDelegated(need), a)
}

// Decide records a decision made by another rule than a permission, such as a
// model's roles or who owns it. allowed: nil, and a record if one is asked for.
// Not allowed: denied, recorded.
func (g *Guard) Decide(ctx context.Context, who Principal, allowed bool, denied error, record bool, a Action) error {
	switch {
	case !allowed:
		return g.deny(ctx, who, denied, a)
	case record:
		return g.Allow(ctx, who, 0, a)
	}
	return nil
}

func (g *Guard) deny(ctx context.Context, who Principal, denied error, a Action) error {
	reason := "forbidden"
	if e := (*Error)(nil); errors.As(denied, &e) {
		reason = e.Code
	}
	g.denials.WithLabelValues(a.Name, reason).Inc()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), denialTimeout)
	defer cancel()
	if err := g.log.Append(ctx, record(who, a, audit.Denied, reason)); err != nil {
		return ErrUnavailable.Because(err)
	}
	return denied
}

// lacking is why who does not hold need: he lacks it himself, or his token does.
func lacking(who Principal, need Permission) error {
	if need&^who.Permissions&^who.Withheld == 0 {
		return notDelegated(need &^ who.Permissions)
	}
	return ErrForbidden.With("this needs the permission " + strings.Join(need.Names(), ", ") + ", which none of your roles gives; ask an administrator")
}

func record(who Principal, a Action, outcome audit.Outcome, reason string) audit.Entry {
	detail := a.Detail
	if who.KeyID != "" { // the same person, but not the same credential
		detail = make(map[string]string, len(a.Detail)+1)
		maps.Copy(detail, a.Detail)
		detail["key"] = who.KeyID
	}
	return audit.Entry{
		Actor: who.Username, ActorID: who.UserID, Action: a.Name, Target: a.Target, Outcome: outcome, Reason: reason,
		Address: who.Origin.Address, Request: who.Origin.RequestID, Detail: detail,
	}
}
