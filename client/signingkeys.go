package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// SigningKey is a key that signs access tokens.
type SigningKey struct {
	ID        string     `json:"id"`
	State     string     `json:"state"` // "next", "signing" or "retiring"
	CreatedAt time.Time  `json:"created_at"`
	ActiveAt  time.Time  `json:"active_at"`
	RetireAt  *time.Time `json:"retire_at,omitempty"` // nil: no later key is made
}

// SigningKeys lists the keys that sign access tokens, the oldest first.
func (c *Client) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	return page[SigningKey](ctx, c, "/admin/signing-keys", nil, 0)
}

// RotateSigningKey makes a new key, which is published at once and signs later.
func (c *Client) RotateSigningKey(ctx context.Context) (SigningKey, error) {
	var k SigningKey
	return k, c.call(ctx, http.MethodPost, "/admin/signing-keys", nil, &k)
}

// RetireSigningKey takes a key away at once; what it signed is refused.
func (c *Client) RetireSigningKey(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/admin/signing-keys/"+url.PathEscape(id), nil, nil)
}
