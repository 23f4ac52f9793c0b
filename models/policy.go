package models

import (
	"context"

	"modelgate/auth"
)

// ErrTaken refuses to publish under a name that belongs to somebody else.
// That the name exists can't be hidden from who wants it for himself.
var ErrTaken = &Error{Code: "taken", Detail: "a model of that name belongs to somebody else; choose another name, or ask its owner or an administrator"}

// errNotManaged refuses a change to who may call the model and so knows it.
var errNotManaged = &Error{Code: ErrClosed.Code, Detail: "only the model's owner and holders of models:manage may change it"}

// Manages reports whether the caller may change the model and see what
// managers see: holders of models:manage, and its owner as long as he has
// models:write. An API key must have the model in its scope besides.
func (c *Catalog) Manages(who auth.Principal, m *Model) bool { return manages(&who, m) }

func manages(who *auth.Principal, m *Model) bool {
	return who.InScope(m.Name) && (who.Can(auth.ModelsManage) || owns(who, m) && who.Can(auth.ModelsWrite))
}

func owns(who *auth.Principal, m *Model) bool { return m.OwnerID != "" && m.OwnerID == who.UserID }

// calls reports whether the caller may call the model: by a role, as its owner
// (also when he may publish no more), or as one to whom all are open.
func calls(who *auth.Principal, m *Model) bool {
	return who.InScope(m.Name) && (who.HasAny(m.Roles) || owns(who, m) || callsAll(who))
}

// callsAll reports whether every model is open to the caller: to holders of
// models:manage. A provider's access token that delegates predict opens what is
// open to its user, though it may not delegate models:manage, by which he changes
// models and sees what managers see.
func callsAll(who *auth.Principal) bool {
	return who.Can(auth.ModelsManage) || who.Withheld&(auth.ModelsManage|auth.Predict) == auth.ModelsManage
}

// access decides whether the caller may call the model, and audits a denial.
// It is the only way from a name to a model for all that is done with it. A
// model that does not exist is denied like one that is closed, with the same
// error and the same record; those to whom all are open are told.
func (c *Catalog) access(ctx context.Context, who *auth.Principal, name, action string) (*Model, error) {
	m := c.snapshot().byName[name]
	if m == nil && callsAll(who) && who.InScope(name) {
		return nil, ErrNotFound
	}
	allowed := m != nil && calls(who, m)
	if err := c.guard.Decide(ctx, *who, allowed, ErrClosed, false, auth.Action{Name: action, Target: target(name)}); err != nil {
		return nil, err
	}
	return m, nil
}

// manage is access for who wants to change the model. An allowed change is
// recorded by allow, when it is known to be valid.
func (c *Catalog) manage(ctx context.Context, who *auth.Principal, name, action string) (*Model, error) {
	m := c.snapshot().byName[name]
	if m == nil && who.Can(auth.ModelsManage) && who.InScope(name) {
		return nil, ErrNotFound
	}
	denied := ErrClosed
	if m != nil && calls(who, m) {
		denied = errNotManaged
	}
	allowed := m != nil && manages(who, m)
	if err := c.guard.Decide(ctx, *who, allowed, denied, false, auth.Action{Name: action, Target: target(name)}); err != nil {
		return nil, err
	}
	return m, nil
}

// MayPublish decides whether the caller may publish under the name, before
// the body is read. It audits a denial. ErrNotAllowed: he may not publish at
// all; ErrTaken: the name is another's; ErrInvalid: it is no name.
func (c *Catalog) MayPublish(ctx context.Context, who auth.Principal, name string) error {
	var denied error
	m := c.snapshot().byName[name]
	switch {
	case !who.Can(auth.ModelsWrite):
		denied = ErrNotAllowed
	case !who.InScope(name):
		denied = ErrClosed
	case m != nil && !manages(&who, m):
		denied = ErrTaken
	}
	err := c.guard.Decide(ctx, who, denied == nil, denied, false, auth.Action{Name: "model.publish", Target: target(name)})
	if err == nil && !validName(name) {
		err = invalidName("model", name)
	}
	return err
}

// MayManage decides whether the caller manages the model, and audits a denial
// under action. ErrClosed: he does not, or there is no such model for him;
// ErrNotFound: he manages all, but there is none.
func (c *Catalog) MayManage(ctx context.Context, who auth.Principal, name, action string) error {
	_, err := c.manage(ctx, &who, name, action)
	return err
}

// allow records a change before it is made.
func (c *Catalog) allow(ctx context.Context, who *auth.Principal, action, name string, detail map[string]string) error {
	return c.guard.Decide(ctx, *who, true, nil, true, auth.Action{Name: action, Target: name, Detail: detail})
}

// target makes what a caller calls a model fit for the audit log: his own
// words may be of any length and hold anything.
func target(name string) string {
	if validName(name) {
		return name
	}
	return quote([]byte(name))
}
