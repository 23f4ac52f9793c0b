package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Session is one sign-in of a user.
type Session struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"` // "token" or "browser"
	ClientID  string    `json:"client_id"`
	Address   string    `json:"address"`    // where it began
	UserAgent string    `json:"user_agent"` // what the client called itself
	CreatedAt time.Time `json:"created_at"`
	LastUsed  time.Time `json:"last_used"` // any request by it, to the minute
	ExpiresAt time.Time `json:"expires_at"`
	Current   bool      `json:"current"` // the caller's own
}

// UserSessions lists the live sessions of a user, newest first.
func (c *Client) UserSessions(ctx context.Context, id string) ([]Session, error) {
	return page[Session](ctx, c, "/admin/users/"+url.PathEscape(id)+"/sessions", nil, 0)
}

// Identity is who a user is at an identity provider.
type Identity struct {
	ID        string    `json:"id"`
	Provider  string    `json:"provider"`
	Issuer    string    `json:"issuer"`
	Subject   string    `json:"subject"`
	Managed   bool      `json:"managed"` // the provider made the user and gives his roles
	CreatedAt time.Time `json:"created_at"`
}

// UserIdentities lists the identities of a user, oldest first.
func (c *Client) UserIdentities(ctx context.Context, id string) ([]Identity, error) {
	return page[Identity](ctx, c, "/admin/users/"+url.PathEscape(id)+"/identities", nil, 0)
}

// EndUserSession ends one session of a user at once.
func (c *Client) EndUserSession(ctx context.Context, id, session string) error {
	return c.call(ctx, http.MethodDelete, "/admin/users/"+url.PathEscape(id)+"/sessions/"+url.PathEscape(session), nil, nil)
}

// EndUserSessions ends every session of a user at once. His API keys, the
// secrets of a service account and the access tokens of an identity provider go
// on.
func (c *Client) EndUserSessions(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/admin/users/"+url.PathEscape(id)+"/sessions", nil, nil)
}

// EndAllSessions ends the sessions of all users, the caller's own included.
func (c *Client) EndAllSessions(ctx context.Context) error {
	return c.call(ctx, http.MethodDelete, "/admin/sessions", nil, nil)
}
