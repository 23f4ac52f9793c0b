package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Who makes a client secret or links an identity knows a way to be that user, and
// needs every right that the user has then. When the user is to get more rights,
// the way has to be made by somebody who has these as well, now: else who could
// not take a permission for himself would have it by another's hand. Nothing is
// ended for it, since programs may be at work with a secret: the change is
// refused until who wants it has made the way anew. Tickets need no such rule:
// the Store voids them.

// errMadeByOthers is why a user or role does not get more permissions.
var errMadeByOthers = &Error{Code: "conflict"}

// wayIn is something by which somebody is a user without his password.
type wayIn struct {
	what, id string
	by       string // id of who made it; empty: not known
}

// lesserWays are the ways to be a user that were made by somebody who lacks a
// permission, is disabled, deleted or not known. What a provider says of the
// users that it made is its own.
func (s *Service) lesserWays(ctx context.Context, table map[string]Role, userID string, gained Permission) ([]wayIn, error) {
	secrets, err := s.cfg.Store.SecretsOf(ctx, userID)
	if err != nil {
		return nil, err
	}
	identities, err := s.cfg.Store.IdentitiesOf(ctx, userID)
	if err != nil {
		return nil, err
	}
	var ways []wayIn
	for _, c := range secrets {
		if !c.expired(s.now()) {
			ways = append(ways, wayIn{"client secret", c.ID, c.CreatedBy})
		}
	}
	for _, id := range identities {
		if !id.Managed {
			ways = append(ways, wayIn{"identity", id.ID, id.CreatedBy})
		}
	}
	var lesser []wayIn
	for _, w := range ways {
		maker, err := s.cfg.Store.User(ctx, w.by)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if maker.ID == "" || maker.Disabled || gained&^permissionsOf(table, maker.Roles) != 0 {
			lesser = append(lesser, w)
		}
	}
	return lesser, nil
}

// mayRaise refuses more permissions for a user while somebody who lacks one of
// them has made a way to be him.
func (s *Service) mayRaise(ctx context.Context, who Principal, table map[string]Role, u User, gained Permission, a Action) error {
	if gained == 0 {
		return nil
	}
	lesser, err := s.lesserWays(ctx, table, u.ID, gained)
	if err != nil || len(lesser) == 0 {
		return err
	}
	var named []string
	for _, w := range lesser {
		named = append(named, w.what+" "+w.id)
	}
	return s.cfg.Guard.Decide(ctx, who, false, errMadeByOthers.With(fmt.Sprintf(
		"%s would get %s, and somebody who lacks it, or is gone, has made a way to be him: take away %s and make it anew yourself, then repeat this",
		u.Username, strings.Join(gained.Names(), ", "), strings.Join(named, ", "))), true, a)
}

// mayRaiseHolders is mayRaise for everybody who has a role that gains
// permissions.
func (s *Service) mayRaiseHolders(ctx context.Context, who Principal, table map[string]Role, role string, gained Permission, a Action) error {
	if gained == 0 {
		return nil
	}
	for after := ""; ; {
		page, err := s.cfg.Store.Users(ctx, after, maxPage)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, u := range page {
			if !slices.Contains(u.Roles, role) {
				continue
			}
			if err := s.mayRaise(ctx, who, table, u, gained&^permissionsOf(table, u.Roles), a); err != nil {
				return err
			}
		}
		after = page[len(page)-1].Username
	}
}

// endLesserWays takes away the identities of a user whom his provider gives more
// permissions, where somebody who lacks them has linked them: there is nobody
// who could be asked first. The caller holds the admin lock.
func (s *Service) endLesserWays(ctx context.Context, o Origin, p *provider, a assertion, u User, table map[string]Role, roles []string) error {
	gained := permissionsOf(table, roles) &^ permissionsOf(table, u.Roles)
	if gained == 0 {
		return nil
	}
	lesser, err := s.lesserWays(ctx, table, u.ID, gained)
	if err != nil || len(lesser) == 0 {
		return err
	}
	defer s.cache.revoke(u.ID)
	for _, w := range lesser {
		e := s.foreignEntry(o, p, a, u, "identity.unlink")
		e.Detail["identity"] = w.id
		if err := s.cfg.Audit.Append(ctx, e); err != nil {
			return ErrUnavailable.Because(err)
		}
		if err := s.cfg.Store.UnlinkIdentity(ctx, u.ID, w.id); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	_, err = s.cfg.Store.EndSessions(context.WithoutCancel(ctx), u.ID, "")
	return err
}
