package models

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"modelgate/auth"
)

// Publish makes a staged file the next version of a model, which is made at
// need and then belongs to the caller. It takes over file: whatever the
// outcome, nothing temporary is left.
//
// The file is checked (Verify), loaded and run once (try), and then becomes
// visible in one step: blob, row, memory, so that a crash at any moment leaves
// the whole version or nothing. The first version of a model becomes its
// default, later ones only when spec says so. Description, roles, disclosure
// and serving of the spec, where given, replace those of an existing model.
//
// With Config.UploadKeys the file must bring a signature by one of them
// (spec.Signature), except where the server itself publishes (spec.Builtin).
//
// A refused file is *Rejected. MayPublish's errors, ErrQuota, ErrInvalid (a name or
// policy in spec that does not fit), ErrConflict (too many versions),
// ErrNoSpace and ErrUnavailable are the others; try's are passed on.
func (c *Catalog) Publish(ctx context.Context, who auth.Principal, name string, file *Staged, spec Spec, try Try) (*Model, *Version, error) {
	defer file.Discard()
	if err := c.MayPublish(ctx, who, name); err != nil {
		return nil, nil, err
	}
	if err := c.room(&who, name, file.Size); err != nil {
		return nil, nil, err
	}
	change := spec.patch()
	if err := change.check(); err != nil {
		return nil, nil, err
	}
	if err := c.rolesExist(ctx, &who, change); err != nil {
		return nil, nil, err
	}
	sig, facts, err := c.examine(ctx, name, file, spec, try)
	if err != nil {
		if r := (*Rejected)(nil); errors.As(err, &r) {
			c.log.Warn("model file refused", "request_id", who.Origin.RequestID, "user", who.Username, "model", name,
				"code", r.Code, "cause", fmt.Errorf("%w; digest %s", r, file.Digest))
		}
		return nil, nil, err
	}
	// The slow part of durability comes before the lock.
	if err := file.sync(); err != nil {
		return nil, nil, err
	}
	now := c.now().UTC()
	v := &Version{ID: rand.Text(), Model: name, Digest: file.Digest, Size: file.Size, State: Ready,
		Signature: sig, Facts: facts, CreatedBy: who.UserID, CreatedAt: now}
	return c.commit(ctx, who, name, file, v, change, spec.Default)
}

// examine checks a file and tries it. It is in memory for the trial only: what
// the check refuses never is.
func (c *Catalog) examine(ctx context.Context, name string, file *Staged, spec Spec, try Try) (Signature, Facts, error) {
	signer := ""
	if c.keys != nil && !spec.Builtin {
		var err error
		if signer, err = c.keys.check(name, file.Digest, spec.Signature); err != nil {
			return Signature{}, Facts{}, err
		}
	}
	select {
	case c.examining <- struct{}{}:
		defer func() { <-c.examining }()
	case <-ctx.Done():
		return Signature{}, Facts{}, ctx.Err()
	}
	var declared Graph
	var facts Facts
	err := file.view(func(data []byte) (err error) {
		declared, facts, err = Verify(data, c.limits)
		return err
	})
	if err != nil {
		return Signature{}, Facts{}, err
	}
	facts.SignedBy = signer
	// Names that can't be are told before the long part.
	if _, err := signature(declared, withTypes(declared), spec); err != nil {
		return Signature{}, Facts{}, err
	}
	data, err := file.bytes()
	if err != nil {
		return Signature{}, Facts{}, err
	}
	trial, err := try(ctx, data)
	if err != nil {
		return Signature{}, Facts{}, err
	}
	facts.Trial = trial.Outcome
	facts.Batching = &Batching{Gain: trial.Gain}
	facts.Batching.Possible, facts.Batching.Reason = RowWise(data)
	sig, err := signature(declared, trial.Graph, spec)
	facts.Batching.Reason = sig.named(facts.Batching.Reason)
	return sig, facts, err
}

// named puts the public name for a position into a reason of RowWise's, which
// knows no public names.
func (s *Signature) named(reason string) string {
	for side, specs := range map[string][]TensorSpec{"input": s.Inputs, "output": s.Outputs} {
		for i, spec := range specs {
			if rest, ok := strings.CutPrefix(reason, fmt.Sprintf("%s %d ", side, i+1)); ok {
				return fmt.Sprintf("%s %q %s", side, spec.Name, rest)
			}
		}
	}
	return reason
}

// withTypes gives outputs that declare no type one, so that names can be
// judged before the runtime says it.
func withTypes(g Graph) Graph {
	outputs := make([]GraphValue, len(g.Outputs))
	for i, v := range g.Outputs {
		if v.Type == Undefined {
			v.Kind, v.Type = KindTensor, Float32
		}
		outputs[i] = v
	}
	return Graph{Inputs: g.Inputs, Outputs: outputs}
}

// commit makes the version visible.
func (c *Catalog) commit(ctx context.Context, who auth.Principal, name string, file *Staged, v *Version, change Patch, asDefault bool) (*Model, *Version, error) {
	if err := c.lock(ctx); err != nil {
		return nil, nil, err
	}
	defer c.unlock()
	// The name may have become another's meanwhile.
	if err := c.MayPublish(ctx, who, name); err != nil {
		return nil, nil, err
	}
	created := &Model{ID: rand.Text(), Name: name, OwnerID: who.UserID, CreatedAt: v.CreatedAt}
	add := func(old *Model, number int) (*Model, error) {
		if !manages(&who, old) {
			return nil, ErrTaken
		}
		return withVersion(old, v, number, change, asDefault)
	}
	number := 1
	var err error
	if old := c.snapshot().byName[name]; old != nil {
		number = old.NextVersion
		_, err = add(old, number)
	} else {
		created, err = withVersion(created, v, number, change, true)
	}
	if err != nil {
		return nil, nil, err
	}
	// As above, in what is known by now.
	if err := c.room(&who, name, v.Size); err != nil {
		return nil, nil, err
	}
	detail := map[string]string{"version": strconv.Itoa(number), "digest": v.Digest}
	if v.Facts.SignedBy != "" {
		detail["signed_by"] = v.Facts.SignedBy
	}
	if change.Roles != nil {
		detail["roles"] = strings.Join(*change.Roles, ",")
	}
	if err := c.allow(ctx, &who, "model.publish", name, detail); err != nil {
		return nil, nil, err
	}
	if err := c.files.keep(file); err != nil {
		c.settle(ctx, err, v.Digest)
		return nil, nil, err
	}
	m, err := c.store.AddVersion(ctx, created, v, add)
	if err != nil {
		c.settle(ctx, err, v.Digest)
		return nil, nil, err
	}
	c.put(name, m)
	for _, stored := range m.Versions {
		if stored.ID == v.ID {
			return m, stored, nil
		}
	}
	return nil, nil, ErrUnavailable.Because(fmt.Errorf("models: the store lost version %s", v.ID))
}

// withVersion returns what a model becomes with another version.
func withVersion(old *Model, v *Version, number int, change Patch, asDefault bool) (*Model, error) {
	if len(old.Versions) >= maxVersions {
		return nil, ErrConflict.With(fmt.Sprintf("the model has %d versions, which is the most that are kept; delete some first", maxVersions))
	}
	next := change.apply(old, v.CreatedAt)
	if asDefault || old.DefaultVersion == 0 {
		next.DefaultVersion = number
	}
	current := next.Version(next.DefaultVersion)
	if next.DefaultVersion == number {
		numbered := *v
		numbered.Number = number
		current = &numbered
	}
	if current != nil {
		if err := next.Disclosure.fits(current); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// settleTimeout bounds the look at the Store after it failed.
const settleTimeout = 5 * time.Second

// settle finds out, after a change failed with cause, what the Store holds in
// truth (a commit may have succeeded although its answer was lost), and
// removes a blob that no version has. When the Store does not answer, memory
// stays as it was and the blob is left to the sweep at the next start. The
// caller holds writing.
func (c *Catalog) settle(ctx context.Context, cause error, digest string) {
	if errors.Is(cause, ErrInvalid) { // refused, so that nothing was written
		c.collect(digest)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := c.load(ctx); err != nil {
		c.log.Error("reading the catalogue after a failed change", "cause", err)
		return
	}
	c.collect(digest)
}

// collect removes the blobs among digests that no version has. A failure
// leaves rubbish, to be swept at the next start, and no harm. The caller holds
// writing, so that no publication is on its way to the same contents.
func (c *Catalog) collect(digests ...string) {
	known := c.snapshot().digests()
	for _, digest := range digests {
		if digest == "" || known[digest] {
			continue
		}
		if err := c.files.remove(digest); err != nil {
			c.log.Error("removing a model file that nothing needs", "cause", fmt.Errorf("%s: %w", digest, err))
		}
	}
}

// rolesExist looks at every role that a change names.
func (c *Catalog) rolesExist(ctx context.Context, who *auth.Principal, change Patch) error {
	if c.exist == nil {
		return nil
	}
	var names []string
	if change.Roles != nil {
		names = append(names, *change.Roles...)
	}
	if change.Disclosure != nil {
		for name := range change.Disclosure.Roles {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	err := c.exist(ctx, names)
	if told := (*auth.Error)(nil); errors.As(err, &told) && told.Is(auth.ErrInvalid) && !who.Can(auth.UsersManage) {
		// He can't list the roles.
		missing := told.Detail[:max(0, strings.LastIndexByte(told.Detail, ';'))]
		return told.With(missing + "; ask an administrator for its name")
	}
	return err
}
