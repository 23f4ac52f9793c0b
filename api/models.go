package api

import (
	"strconv"

	"modelgate/models"
)

// listModels lists the models open to the caller. An item has the fields that
// the caller may know of that model.
func (s *Server) listModels(c *call) (page[any], error) {
	after, limit, err := c.pageQuery()
	if err != nil {
		return page[any]{}, err
	}
	items, next, err := s.catalog.List(c.ctx(), c.who, after, limit)
	if err != nil {
		return page[any]{}, err
	}
	return pageOf(items, next, func(a models.Access) any { return s.show(c, a) }), nil
}

func (s *Server) model(c *call) (any, error) {
	a, err := s.catalog.Describe(c.ctx(), c.who, c.param("name"))
	if err != nil {
		return nil, err
	}
	return s.show(c, a), nil
}

// show chooses the fields by what the caller is to the model.
func (s *Server) show(c *call, a models.Access) any {
	view := viewOf(a)
	if !s.catalog.Manages(c.who, a.Model) {
		return view
	}
	return managedOf(view, a.Model)
}

func (s *Server) updateModel(c *call, in *modelPatch) (any, error) {
	m, err := s.catalog.Update(c.ctx(), c.who, c.param("name"), in.model())
	if err != nil {
		return nil, err
	}
	a, err := s.catalog.Describe(c.ctx(), c.who, m.Name)
	if err != nil {
		return nil, err
	}
	return s.show(c, a), nil
}

func (s *Server) deleteModel(c *call) (none, error) {
	return none{}, s.catalog.Delete(c.ctx(), c.who, c.param("name"))
}

func (s *Server) deleteVersion(c *call) (none, error) {
	number, err := strconv.Atoi(c.param("version"))
	if err != nil || number < 1 || strconv.Itoa(number) != c.param("version") {
		return none{}, invalid("a version is a number from 1 up")
	}
	return none{}, s.catalog.DeleteVersion(c.ctx(), c.who, c.param("name"), number)
}
