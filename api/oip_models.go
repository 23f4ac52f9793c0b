package api

import (
	"slices"
	"strconv"

	"modelgate/models"
)

// oipServerMetadata names the server and the extensions that are on.
type oipServerMetadata struct {
	Name       string   `json:"name"`
	Version    string   `json:"version"`
	Extensions []string `json:"extensions"`
}

type oipLive struct {
	Live bool `json:"live"`
}

type oipReady struct {
	Ready bool `json:"ready"`
}

// oipModelMetadata is what a caller may know of a model. Versions are for who
// manages it.
type oipModelMetadata struct {
	Name     string      `json:"name"`
	Versions []string    `json:"versions,omitzero"`
	Platform string      `json:"platform"`
	Inputs   []oipTensor `json:"inputs"`
	Outputs  []oipTensor `json:"outputs"`
}

// oipTensor is a tensor whose shape is always a list, as clients expect.
type oipTensor struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

type oipModelReady struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
}

// oipIndexed is a model in the repository's index.
type oipIndexed struct {
	Name    string `json:"name"`
	Version string `json:"version,omitzero"` // the default one, for who manages the model
	State   string `json:"state"`
	Reason  string `json:"reason"`
}

// platform is what metadata says of every model: what runs behind is nobody's
// business.
const platform = "modelgate"

func (s *Server) oipServer(*call) (oipServerMetadata, error) {
	return oipServerMetadata{"modelgate", s.version, []string{"model_repository", "model_configuration", "statistics", "binary_tensor_data"}}, nil
}

func (s *Server) oipLive(*call) (oipLive, error) { return oipLive{true}, nil }

func (s *Server) oipReady(c *call) (oipReady, error) {
	_, err := s.readiness(c)
	return oipReady{err == nil}, err
}

// oipModel describes the version that the path names, else the default one.
func (s *Server) oipModel(c *call) (oipModelMetadata, error) {
	return s.describe(c, c.param("name"), c.param("version"))
}

func (s *Server) describe(c *call, name, version string) (oipModelMetadata, error) {
	a, err := c.open(name, version)
	if err != nil {
		return oipModelMetadata{}, err
	}
	m := oipModelMetadata{Name: a.Model.Name, Platform: platform, Inputs: []oipTensor{}, Outputs: []oipTensor{}}
	for _, in := range a.Version.Signature.Inputs {
		m.Inputs = append(m.Inputs, oipTensorOf(in))
	}
	for _, i := range a.Outputs() {
		m.Outputs = append(m.Outputs, oipTensorOf(a.Rule.Spec(a.Version.Signature.Outputs[i])))
	}
	if s.catalog.Manages(c.who, a.Model) {
		m.Versions = []string{}
		for _, v := range a.Model.Versions {
			if v.State == models.Ready {
				m.Versions = append(m.Versions, strconv.Itoa(v.Number))
			}
		}
	}
	return m, nil
}

// oipModelReady fails for a model that can't be called. Its first call may
// still have to load it.
func (s *Server) oipModelReady(c *call) (oipModelReady, error) {
	a, err := c.open(c.param("name"), c.param("version"))
	if err != nil {
		return oipModelReady{}, err
	}
	return oipModelReady{a.Model.Name, true}, nil
}

// open asks the catalogue for a model; version "" is its default one.
func (c *call) open(name, version string) (models.Access, error) {
	ref, err := refOf(name, version)
	if err != nil {
		return models.Access{}, err
	}
	return c.s.catalog.Open(c.ctx(), c.who, ref)
}

// oipTensorOf is tensorOf with the shape [-1] where there is none to tell: an
// unknown rank, a sequence of tensors.
func oipTensorOf(spec models.TensorSpec) oipTensor {
	t := tensorOf(spec)
	if t.Shape == nil {
		return oipTensor{t.Name, t.Datatype, []int64{-1}}
	}
	return oipTensor{t.Name, t.Datatype, slices.Clip(*t.Shape)}
}

// indexRequest is the body of an index, which may be left out.
type indexRequest struct {
	Ready bool `json:"ready"` // only what can be called
}

// readOIP reads an optional JSON body into v.
func (c *call) readOIP(v any) error {
	if !oipMediaType(c.gin.Request) {
		return &fault{code: "unsupported_media_type", detail: "send JSON, with Content-Type: application/json, or no body"}
	}
	b, err := c.readCompressed(smallBody)
	defer b.release()
	if err != nil || len(b.data) == 0 {
		return err
	}
	return decodeJSON(b.data, v)
}

// oipIndex lists the models open to the caller.
func (s *Server) oipIndex(c *call) error {
	var in indexRequest
	if err := c.readOIP(&in); err != nil {
		return err
	}
	list, err := s.index(c, in.Ready)
	if err != nil {
		return err
	}
	return c.reply(list)
}

func (s *Server) index(c *call, readyOnly bool) ([]oipIndexed, error) {
	list := []oipIndexed{}
	err := s.eachModel(c, func(a models.Access) {
		if x := s.indexed(c, a); x.State == stateReady || !readyOnly {
			list = append(list, x)
		}
	})
	return list, err
}

// eachModel calls do for every model open to the caller.
func (s *Server) eachModel(c *call, do func(models.Access)) error {
	for after := ""; ; {
		items, next, err := s.catalog.List(c.ctx(), c.who, after, 1000)
		if err != nil {
			return err
		}
		for _, a := range items {
			do(a)
		}
		if after = next; after == "" {
			return nil
		}
	}
}

const (
	stateReady       = "READY"
	stateUnavailable = "UNAVAILABLE"
)

func (s *Server) indexed(c *call, a models.Access) oipIndexed {
	x := oipIndexed{Name: a.Model.Name, State: stateReady}
	switch {
	case a.Version == nil:
		x.State, x.Reason = stateUnavailable, "it has no version"
	case a.Version.State != models.Ready:
		x.State, x.Reason = stateUnavailable, "it is out of service"
	}
	if a.Version != nil && s.catalog.Manages(c.who, a.Model) {
		x.Version = strconv.Itoa(a.Version.Number)
	}
	return x
}

// done is the answer of what has nothing to say.
type done struct{}

// oipLoad says yes to who manages a model that can be called: models load
// themselves when they are called.
func (s *Server) oipLoad(c *call) error {
	name := c.param("name")
	if err := s.catalog.MayManage(c.ctx(), c.who, name, c.rt.action); err != nil {
		return err
	}
	if err := c.readOIP(&done{}); err != nil {
		return err
	}
	if err := s.loadable(c, name); err != nil {
		return err
	}
	return c.reply(done{})
}

func (s *Server) loadable(c *call, name string) error {
	_, err := s.catalog.Open(c.ctx(), c.who, models.Ref{Model: name})
	return err
}

// oipUnload is refused: that a model is not loaded closes it to nobody here.
func (s *Server) oipUnload(c *call) error {
	if err := s.catalog.MayManage(c.ctx(), c.who, c.param("name"), c.rt.action); err != nil {
		return err
	}
	return errUnload
}

var errUnload = invalid("models are unloaded by themselves when nobody calls them; to close one, PATCH /models/NAME with other roles, or DELETE it")
