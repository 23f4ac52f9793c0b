package auth

import (
	"context"

	"modelgate/audit"
)

type Guard struct{ log *audit.Log }

type Action struct {
	Name   string
	Target string
	Detail map[string]string
}

func NewGuard(log *audit.Log) *Guard { return &Guard{log: log} }

func (g *Guard) Allow(ctx context.Context, who Principal, need Permission, a Action) error {
	return ErrUnavailable
}

func (g *Guard) Check(ctx context.Context, who Principal, need Permission, a Action) error {
	return ErrUnavailable
}

func (g *Guard) Decide(ctx context.Context, who Principal, allowed bool, denied error, record bool, a Action) error {
	return ErrUnavailable
}
