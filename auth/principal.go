// Package auth knows who a caller is and what he may do: users, passwords,
// tokens, login sessions, keys, roles, and the Guard that allows and audits.
//
// It must not know about HTTP, models or SQL: api turns credentials into
// calls, models asks a Principal for its rights, store implements Store.
package auth

import (
	"slices"
	"time"
)

// Permission is a set of rights, one bit each.
type Permission uint32

const (
	UsersManage  Permission = 1 << iota // users:manage: users and roles
	ModelsWrite                         // models:write: create models, manage one's own
	ModelsManage                        // models:manage: manage every model
	AuditRead                           // audit:read
	MetricsRead                         // metrics:read

	// Predict and Account are in no role: whoever proves himself has them, but by
	// a provider's access token only what it delegates (Provider.TokenScopes).
	// Guard.Delegated asks for them.
	Predict // predict: predictions, and reading models
	Account // account: the caller's own keys, sessions and factors
)

// Origin says where a request came from; it goes into the audit log.
type Origin struct {
	Address   string // client address without port, after trusted proxies
	RequestID string
}

// Principal is a proved identity with its rights, as of this request. It is a
// value; the slices in it are shared and must not be written to.
type Principal struct {
	UserID      string
	Kind        UserKind
	Username    string
	Roles       []string // sorted
	Permissions Permission
	Withheld    Permission // what his access token, a provider's, does not delegate to who shows it
	SessionID   string     // empty for API keys
	KeyID       string     // empty for access tokens
	Provider    string     // whose access token it was, if not our own
	Subject     string     // of that token
	Models      []string   // an API key's scope; nil: no restriction
	AuthTime    time.Time  // last proof of the password, here or at a provider; zero for API keys and service accounts
	// SecondFactor says that the sign-in of his session took a code of his second factor.
	SecondFactor bool
	MustEnrol    bool   // his role needs a second factor that he has not: he may turn one on, and nothing else
	Rate         string // most generous rate of the roles ("600-M"), empty: the server's
	DailyRows    int64  // largest budget of rows a day that a role names; 0: none does
	Origin       Origin
}

// Can reports whether every right in p is held.
func (w *Principal) Can(p Permission) bool { return w.Permissions&p == p }

// HasAny reports whether one of the roles is held.
func (w *Principal) HasAny(roles []string) bool {
	for _, r := range roles {
		if slices.Contains(w.Roles, r) {
			return true
		}
	}
	return false
}

// InScope reports whether the credential may be used for the model at all.
// It grants nothing by itself.
func (w *Principal) InScope(model string) bool {
	return w.Models == nil || slices.Contains(w.Models, model)
}
