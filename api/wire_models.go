package api

import (
	"time"

	"modelgate/models"
)

// rule and disclosure are a model's policy on the wire; see models.Rule.
type rule struct {
	Outputs   []string `json:"outputs,omitzero"`
	TopK      int      `json:"top_k,omitzero"`
	Decimals  *int     `json:"decimals,omitzero"`
	LabelOnly bool     `json:"label_only,omitzero"`
	DailyRows int64    `json:"daily_rows,omitzero"`
}

type disclosure struct {
	rule
	Roles map[string]rule `json:"roles,omitzero"`
}

func (d *disclosure) model() *models.Disclosure {
	if d == nil {
		return nil
	}
	m := &models.Disclosure{Rule: models.Rule(d.rule)}
	for name, r := range d.Roles {
		if m.Roles == nil {
			m.Roles = make(map[string]models.Rule)
		}
		m.Roles[name] = models.Rule(r)
	}
	return m
}

func disclosureOf(m models.Disclosure) disclosure {
	d := disclosure{rule: rule(m.Rule)}
	for name, r := range m.Roles {
		if d.Roles == nil {
			d.Roles = make(map[string]rule)
		}
		d.Roles[name] = rule(r)
	}
	return d
}

type serving struct {
	TimeoutMS int  `json:"timeout_ms,omitzero"`
	MaxBatch  int  `json:"max_batch,omitzero"`
	Instances int  `json:"instances,omitzero"`
	Queue     int  `json:"queue,omitzero"`
	Pinned    bool `json:"pinned,omitzero"`
}

func (s *serving) model() *models.Serving {
	if s == nil {
		return nil
	}
	m := models.Serving(*s)
	return &m
}

type uploadSpec struct {
	Description *string     `json:"description"`
	Roles       []string    `json:"roles"`
	Inputs      []string    `json:"inputs"`
	Outputs     []string    `json:"outputs"`
	Disclosure  *disclosure `json:"disclosure"`
	Serving     *serving    `json:"serving"`
	Default     bool        `json:"default"`
}

func (u *uploadSpec) model() models.Spec {
	return models.Spec{Description: u.Description, Roles: u.Roles, Inputs: u.Inputs, Outputs: u.Outputs,
		Disclosure: u.Disclosure.model(), Serving: u.Serving.model(), Default: u.Default}
}

type modelPatch struct {
	Description    *string         `json:"description"`
	Roles          *[]string       `json:"roles"`
	Disclosure     *disclosure     `json:"disclosure"`
	Serving        *serving        `json:"serving"`
	DefaultVersion *int            `json:"default_version"`
	Aliases        *map[string]int `json:"aliases"`
}

func (p *modelPatch) model() models.Patch {
	return models.Patch{Description: p.Description, Roles: p.Roles, Disclosure: p.Disclosure.model(), Serving: p.Serving.model(),
		DefaultVersion: p.DefaultVersion, Aliases: p.Aliases}
}

// tensor is an input or output. Shape is null where the rank is not known; a
// dimension of -1 is open.
type tensor struct {
	Name     string   `json:"name"`
	Datatype string   `json:"datatype"`
	Shape    *[]int64 `json:"shape"`
}

func tensorOf(s models.TensorSpec) tensor {
	t := tensor{Name: s.Name, Datatype: s.Type.String()}
	shape := s.Shape
	switch s.Kind {
	case models.KindMaps:
		shape = []int64{-1, -1} // rows, keys
	case models.KindMap:
		shape = []int64{-1}
	case models.KindTensors:
		shape = nil
	}
	if shape != nil {
		t.Shape = &shape
	}
	return t
}

func tensorsOf(specs []models.TensorSpec) []tensor {
	list := make([]tensor, len(specs))
	for i, s := range specs {
		list[i] = tensorOf(s)
	}
	return list
}

// modelView is what every caller of a model may know of it.
type modelView struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Inputs      []tensor `json:"inputs"`
	Outputs     []tensor `json:"outputs"`
	DailyRows   int64    `json:"daily_rows,omitzero"` // the caller's budget of this model
}

// viewOf shows the outputs that the caller gets, as he gets them.
func viewOf(a models.Access) modelView {
	v := modelView{Name: a.Model.Name, Description: a.Model.Description, Inputs: []tensor{}, Outputs: []tensor{}, DailyRows: a.Rule.DailyRows}
	if a.Version == nil {
		return v
	}
	v.Inputs = tensorsOf(a.Version.Signature.Inputs)
	for _, i := range a.Outputs() {
		v.Outputs = append(v.Outputs, tensorOf(a.Rule.Spec(a.Version.Signature.Outputs[i])))
	}
	return v
}

// managedView is what who manages a model sees besides.
type managedView struct {
	modelView
	Owner          string         `json:"owner"` // user id; empty: deleted
	Roles          []string       `json:"roles"`
	Disclosure     disclosure     `json:"disclosure"`
	Serving        serving        `json:"serving"`
	DefaultVersion int            `json:"default_version"` // 0: none left
	Aliases        map[string]int `json:"aliases"`
	CreatedAt      time.Time      `json:"created_at"`
	UpdatedAt      time.Time      `json:"updated_at"`
	Versions       []versionView  `json:"versions"`
}

type versionView struct {
	Version   int          `json:"version"`
	Digest    string       `json:"digest"`
	Size      int64        `json:"size"` // bytes
	State     models.State `json:"state"`
	Reason    string       `json:"reason,omitzero"`
	Inputs    []tensor     `json:"inputs"`
	Outputs   []tensor     `json:"outputs"`
	Facts     facts        `json:"facts"`
	Batching  *batching    `json:"batching,omitzero"` // nil: published before it was looked at
	CreatedBy string       `json:"created_by"`        // user id
	CreatedAt time.Time    `json:"created_at"`
}

type facts struct {
	Opset      int64    `json:"opset"`
	Operators  []string `json:"operators"`
	Nodes      int      `json:"nodes"`
	Parameters int64    `json:"parameters"`
	Trial      string   `json:"trial"`
	SignedBy   string   `json:"signed_by,omitzero"` // fingerprint of a key
}

// batching says whether requests may share runs of a version, and whether they
// do.
type batching struct {
	Possible bool    `json:"possible"`
	Active   bool    `json:"active"`
	Reason   string  `json:"reason,omitzero"`
	Gain     float64 `json:"gain,omitzero"`
}

func batchingOf(m *models.Model, v *models.Version) *batching {
	b := v.Facts.Batching
	if b == nil {
		return nil
	}
	return &batching{Possible: b.Possible, Active: m.Batches(v), Reason: b.Reason, Gain: b.Gain}
}

func factsOf(f models.Facts) facts {
	return facts{Opset: f.Opset, Operators: f.Operators, Nodes: f.Nodes, Parameters: f.Parameters, Trial: f.Trial, SignedBy: f.SignedBy}
}

func managedOf(view modelView, m *models.Model) managedView {
	v := managedView{modelView: view, Owner: m.OwnerID, Roles: m.Roles, Disclosure: disclosureOf(m.Disclosure),
		Serving: serving(m.Serving), DefaultVersion: m.DefaultVersion, Aliases: m.Aliases,
		CreatedAt: m.CreatedAt.UTC(), UpdatedAt: m.UpdatedAt.UTC(), Versions: make([]versionView, len(m.Versions))}
	for i, x := range m.Versions {
		v.Versions[i] = versionView{Version: x.Number, Digest: digest(x), Size: x.Size, State: x.State, Reason: x.Reason,
			Inputs: tensorsOf(x.Signature.Inputs), Outputs: tensorsOf(x.Signature.Outputs), Facts: factsOf(x.Facts), Batching: batchingOf(m, x),
			CreatedBy: x.CreatedBy, CreatedAt: x.CreatedAt.UTC()}
	}
	return v
}

func digest(v *models.Version) string { return "sha256:" + v.Digest }

// published is the answer to an upload.
type published struct {
	Name    string       `json:"name"`
	Version int          `json:"version"`
	Digest  string       `json:"digest"`
	State   models.State `json:"state"`
	Inputs  []tensor     `json:"inputs"`
	Outputs []tensor     `json:"outputs"`
	// Batching is never nil.
	Batching *batching `json:"batching"`
}
