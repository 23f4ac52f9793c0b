package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"modelgate/audit"
)

// Identity ties a user to who he is at a provider: issuer and subject together
// (OpenID Connect Core section 5.7). Nothing else a provider says, no name and
// no mail address, finds a user.
type Identity struct {
	ID      string
	Issuer  string
	Subject string
	UserID  string
	// Managed is set where the provider made the user: his roles are what it
	// says, and he has no password here.
	Managed   bool
	CreatedBy string    // id of who linked it, perhaps deleted since; empty: the provider made the user, or it is not known
	Asserted  time.Time // iat of the newest token that was heard about him
	CreatedAt time.Time
}

// inadmissible is why somebody whom a provider knows is not let in. reason is
// for logs, detail for him.
type inadmissible struct{ reason, detail string }

func (e *inadmissible) Error() string { return e.reason }

var (
	errStranger = &inadmissible{"unknown_identity", "your account at the identity provider is not known here; ask an administrator to link it"}
	errMail     = &inadmissible{"mail", "your mail address at the identity provider is not verified, or is none that is let in here; ask an administrator"}
	errClaims   = &inadmissible{"claims", "the identity provider says something about you that can't be understood here; ask an administrator"}
	errGone     = &inadmissible{"disabled", "your account here is disabled; ask an administrator"}

	errForeign = ErrToken.With("the token is malformed, expired, or made for something else; get a new access token from your identity provider")
)

// admit finds the user of an assertion, makes him if that is wanted, and gives
// him the roles that a newer assertion says. An *inadmissible says why not. The
// caller has still to see whether he is disabled.
func (s *Service) admit(ctx context.Context, o Origin, p *provider, a assertion) (User, error) {
	if err := p.admits(a); err != nil {
		return User{}, err
	}
	user, id, err := s.cfg.Store.UserByIdentity(ctx, a.issuer, a.subject)
	if errors.Is(err, ErrNotFound) {
		if !p.CreateUsers {
			return User{}, errStranger
		}
		user, id, err = s.createForeign(ctx, o, p, a)
	}
	if err != nil {
		return User{}, err
	}
	if !id.Managed || !p.managesRoles() || user.Disabled || a.issued.Before(id.Asserted) {
		return user, nil
	}
	return s.assertRoles(ctx, o, p, a, user, a.issued.Equal(id.Asserted))
}

// admits decides by what an assertion must say, whoever it is about: roles that
// can be read, and a mail address, which names nobody here.
func (p *provider) admits(a assertion) error {
	if _, err := p.roleValues(a); err != nil {
		return err
	}
	if !p.RequireVerifiedEmail && p.AllowedDomains == nil {
		return nil
	}
	if string(a.members["email_verified"]) != "true" { // a claim of strings, "true", is not one
		return errMail
	}
	mail, err := a.text("email")
	if err != nil || mail == "" {
		return errMail
	}
	if p.AllowedDomains == nil {
		return nil
	}
	at := strings.LastIndexByte(mail, '@')
	if at <= 0 || !slices.Contains(p.AllowedDomains, lower(mail[at+1:])) {
		return errMail
	}
	return nil
}

// managesRoles says whether the users that the provider made have their roles
// from it.
func (p *Provider) managesRoles() bool { return p.RolesClaim != "" || len(p.DefaultRoles) > 0 }

// rolesOf are the roles that an assertion gives: nothing but what the mapping
// says, so that no word of a provider is a role by itself.
func (p *provider) rolesOf(a assertion, table map[string]Role) ([]string, error) {
	values, err := p.roleValues(a)
	if err != nil {
		return nil, err
	}
	given := slices.Clone(p.DefaultRoles)
	for _, v := range values {
		given = append(given, p.Roles[v]...)
	}
	roles := make([]string, 0, len(given))
	for _, r := range slices.Compact(slices.Sorted(slices.Values(given))) {
		if _, ok := table[r]; ok && len(roles) < maxRoles {
			roles = append(roles, r)
		}
	}
	return roles, nil
}

// roleValues are what the claim of roles holds, if there is one.
func (p *provider) roleValues(a assertion) ([]string, error) {
	if p.RolesClaim == "" {
		return nil, nil
	}
	values, err := textsOf(claimAt(a.members, p.RolesClaim))
	if err != nil {
		return nil, errClaims
	}
	return values, nil
}

// claimAt finds a claim by its name, which may hold dots, or else by a path of
// names through members of members.
func claimAt(members map[string]jsontext.Value, path string) jsontext.Value {
	if v, ok := members[path]; ok {
		return v
	}
	name, rest, deeper := strings.Cut(path, ".")
	v := members[name]
	if !deeper {
		return v
	}
	var inner map[string]jsontext.Value
	if v.Kind() != '{' || json.Unmarshal(v, &inner) != nil {
		return nil
	}
	return claimAt(inner, rest)
}

// createForeign makes the user of an assertion, with a name that nobody has.
func (s *Service) createForeign(ctx context.Context, o Origin, p *provider, a assertion) (User, Identity, error) {
	table, err := s.roleTable(ctx)
	if err != nil {
		return User{}, Identity{}, err
	}
	roles, err := p.rolesOf(a, table)
	if err != nil {
		return User{}, Identity{}, err
	}
	claimed, err := a.text(p.UsernameClaim)
	if err != nil {
		return User{}, Identity{}, errClaims
	}
	now := s.now()
	u := User{ID: newID("u_"), Roles: roles, CreatedAt: now, UpdatedAt: now}
	id := Identity{ID: newID("i_"), Issuer: a.issuer, Subject: a.subject, UserID: u.ID, Managed: true, Asserted: a.issued, CreatedAt: now}
	if u.Username, err = s.freeName(ctx, claimed); err != nil {
		return User{}, Identity{}, err
	}
	e := s.foreignEntry(o, p, a, u, "user.create")
	e.Detail["roles"] = strings.Join(roles, " ")
	if err := s.cfg.Audit.Append(ctx, e); err != nil {
		return User{}, Identity{}, ErrUnavailable.Because(err)
	}
	err = s.cfg.Store.CreateExternalUser(ctx, u, id)
	switch {
	case errors.Is(err, ErrLinked): // by another request of his, just now
		return s.cfg.Store.UserByIdentity(ctx, a.issuer, a.subject)
	case errors.Is(err, ErrTaken):
		return User{}, Identity{}, ErrUnavailable.With("the name was taken at the same time; try again")
	}
	return u, id, err
}

// reservedNames are nobody's from outside: they would be taken for ours.
var reservedNames = append([]string{adminRole, "root", "system"}, programNames...)

// freeName makes a user name of what a provider says, and one that is free of
// that: an existing user is never taken over, whatever he is called.
func (s *Service) freeName(ctx context.Context, claimed string) (string, error) {
	name := foreignName(claimed)
	if !slices.Contains(reservedNames, name) {
		_, err := s.cfg.Store.UserByName(ctx, name)
		if errors.Is(err, ErrNotFound) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
	}
	return name[:min(len(name), 55)] + "-" + newID("")[:8], nil // 40 random bits
}

// foreignName keeps of a name what a user name can hold.
func foreignName(claimed string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, lower(cut(claimed, 256)))
	name = strings.Trim(name, "-._")
	if name = strings.TrimRight(name[:min(len(name), 64)], "-._"); !validName(name, 2) {
		return "user"
	}
	return name
}

// foreignEntry is the record of what happens to a user on a provider's word.
func (s *Service) foreignEntry(o Origin, p *provider, a assertion, u User, action string) audit.Entry {
	return audit.Entry{
		Actor: u.Username, ActorID: u.ID, Action: action, Target: u.Username, Outcome: audit.Allowed, Reason: "identity_provider",
		Address: o.Address, Request: o.RequestID, Detail: map[string]string{"provider": p.Name, "subject": a.subject},
	}
}

// assertRoles stores that a newer assertion was heard, and the roles that it
// gives. An older token must not bring back what a newer one has taken: the
// store decides which is newer. Of two of one second nobody knows that, so the
// roles are those that both give; again says that it is the second.
func (s *Service) assertRoles(ctx context.Context, o Origin, p *provider, a assertion, user User, again bool) (User, error) {
	table, err := s.roleTable(ctx)
	if err != nil {
		return User{}, err
	}
	given, err := p.rolesOf(a, table)
	if err != nil {
		return User{}, err
	}
	if again && len(common(user.Roles, given)) == len(user.Roles) {
		return user, nil // most often the same token
	}
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return User{}, err
	}
	defer unlock()
	// What is recorded and judged is who he is now: another token may have been faster.
	user, id, err := s.cfg.Store.UserByIdentity(ctx, a.issuer, a.subject)
	switch {
	case errors.Is(err, ErrNotFound): // unlinked or deleted meanwhile
		return User{}, errStranger
	case err != nil:
		return User{}, err
	case !id.Managed || user.Disabled || a.issued.Before(id.Asserted):
		return user, nil
	}
	if table, err = s.roleTable(ctx); err != nil {
		return User{}, err
	}
	roles := given
	if a.issued.Equal(id.Asserted) {
		roles = common(user.Roles, given)
	}
	if !slices.Equal(roles, user.Roles) {
		e := s.foreignEntry(o, p, a, user, "user.update")
		e.Detail["roles"] = strings.Join(roles, " ")
		if err := s.cfg.Audit.Append(ctx, e); err != nil {
			return User{}, ErrUnavailable.Because(err)
		}
		defer s.cache.revoke(user.ID)
		if err := s.endLesserWays(ctx, o, p, a, user, table, roles); err != nil {
			return User{}, err
		}
	}
	next, err := s.cfg.Store.AssertIdentity(ctx, a.issuer, a.subject, a.issued, func(old User, otherAdmins int, again bool) (User, error) {
		next := old
		next.Roles, next.UpdatedAt = given, s.now()
		if again {
			next.Roles = common(old.Roles, given)
		}
		if isAdmin(old) && !isAdmin(next) && otherAdmins == 0 {
			return old, nil // the last administrator stays one
		}
		return next, nil
	})
	if errors.Is(err, ErrNotFound) { // unlinked or deleted meanwhile
		return User{}, errStranger
	}
	return next, err
}

// common are the roles of a that are in b too.
func common(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(r string) bool { return !slices.Contains(b, r) })
}

// managedBy returns the provider that sets a user's roles, or nil.
func (s *Service) managedBy(ctx context.Context, userID string) (*provider, error) {
	if len(s.providers.list) == 0 {
		return nil, nil
	}
	ids, err := s.cfg.Store.IdentitiesOf(ctx, userID)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		for _, p := range s.providers.list {
			if id.Managed && p.Issuer == id.Issuer {
				return p, nil
			}
		}
	}
	return nil, nil
}

// Identities lists the identities of a user, oldest first. Needs users:manage.
func (s *Service) Identities(ctx context.Context, who Principal, userID string) ([]Identity, error) {
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, Action{Name: "identity.list", Target: userID}); err != nil {
		return nil, err
	}
	if _, err := s.cfg.Store.User(ctx, userID); err != nil {
		return nil, noSuchUser(err)
	}
	return s.cfg.Store.IdentitiesOf(ctx, userID)
}

// ProviderOf names the provider of an issuer; "" when there is none any more.
func (s *Service) ProviderOf(issuer string) string {
	for _, p := range s.providers.list {
		if p.Issuer == issuer {
			return p.Name
		}
	}
	return ""
}

// mayLink decides and records whether somebody may link or unlink: he needs
// users:manage, and every permission that the user has, since an identity is as
// good as his password. The caller holds the admin lock.
func (s *Service) mayLink(ctx context.Context, who Principal, userID string, a Action) error {
	user, err := s.cfg.Store.User(ctx, userID)
	if err != nil {
		return noSuchUser(err)
	}
	if user.Kind != "" {
		return ErrInvalid.With("a service account is nobody at an identity provider; it has secrets")
	}
	table, err := s.roleTable(ctx)
	if err != nil {
		return err
	}
	if user.ID == who.UserID { // a stolen access token must not become an identity
		err := ErrForbidden.With("nobody links identities to himself; ask another administrator")
		return s.cfg.Guard.Decide(ctx, who, false, err, true, a)
	}
	if err := mayTouch(who, table, user, 0, false); err != nil {
		return s.refuse(ctx, who, a, err)
	}
	return s.cfg.Guard.Allow(ctx, who, UsersManage, a)
}

// LinkIdentity lets who has a subject at a provider be a user, who keeps the
// roles that he has here. Needs users:manage, every permission that the user
// has, and a sign-in of the last 10 minutes. ErrLinked when somebody has the identity already.
func (s *Service) LinkIdentity(ctx context.Context, who Principal, userID, name, subject string) (Identity, error) {
	a := s.target(ctx, Action{Name: "identity.link", Detail: map[string]string{"provider": cut(name, 64), "subject": cut(subject, maxSubject)}}, userID)
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return Identity{}, err
	}
	if err := s.fresh(ctx, who, freshAuth, a); err != nil { // it lasts, like a key
		return Identity{}, err
	}
	i := slices.IndexFunc(s.providers.list, func(p *provider) bool { return p.Name == name })
	if i < 0 {
		return Identity{}, ErrInvalid.With("there is no identity provider of that name; the server's operator sets them")
	}
	if !validSubject(subject) {
		return Identity{}, ErrInvalid.With(fmt.Sprintf("a subject has 1 to %d printable ASCII characters", maxSubject))
	}
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return Identity{}, err
	}
	defer unlock()
	if err := s.mayLink(ctx, who, userID, a); err != nil {
		return Identity{}, err
	}
	id := Identity{ID: newID("i_"), Issuer: s.providers.list[i].Issuer, Subject: subject, UserID: userID, CreatedBy: who.UserID, CreatedAt: s.now()}
	if err := s.cfg.Store.LinkIdentity(ctx, id); err != nil {
		return Identity{}, noSuchUser(err)
	}
	return id, nil
}

var errNoIdentity = ErrNotFound.With("the user has no such identity")

// UnlinkIdentity takes an identity from a user, and ends his sessions. Needs
// what LinkIdentity does.
func (s *Service) UnlinkIdentity(ctx context.Context, who Principal, userID, identityID string) error {
	a := s.target(ctx, Action{Name: "identity.unlink", Detail: map[string]string{"identity": cut(identityID, 64)}}, userID)
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return err
	}
	if err := s.fresh(ctx, who, freshAuth, a); err != nil {
		return err
	}
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// Looked for before it is recorded as gone.
	identities, err := s.cfg.Store.IdentitiesOf(ctx, userID)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(identities, func(i Identity) bool { return i.ID == identityID }) {
		return errNoIdentity
	}
	if err := s.mayLink(ctx, who, userID, a); err != nil {
		return err
	}
	defer s.cache.revoke(userID)
	if err := s.cfg.Store.UnlinkIdentity(ctx, userID, identityID); err != nil {
		if errors.Is(err, ErrNotFound) {
			return errNoIdentity
		}
		return err
	}
	_, err = s.cfg.Store.EndSessions(context.WithoutCancel(ctx), userID, "")
	return err
}
