package store

import (
	"database/sql"
	"fmt"

	"modelgate/models"
)

// modelNamed returns the model with that name, or errAbsent.
func (t *tx) modelNamed(name string) (*models.Model, error) {
	var id string
	if err := t.row(func(s scan) error { return s(&id) }, `SELECT id FROM models WHERE name = ?`, name); err != nil {
		return nil, err
	}
	return t.model(id)
}

// model returns the model with that id, or errAbsent.
func (t *tx) model(id string) (*models.Model, error) {
	list, err := t.models(id)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errAbsent
	}
	return list[0], nil
}

// models returns one model, or all for an empty id, by name. It takes one statement for each table, however many models
// there are.
func (t *tx) models(id string) ([]*models.Model, error) {
	parent, child, args := "", "", []any(nil)
	if id != "" {
		parent, child, args = "WHERE id = ?", "WHERE model_id = ?", []any{id}
	}
	var list []*models.Model
	byID := map[string]*models.Model{}
	err := t.rows(func(s scan) error {
		m, err := scanModel(s)
		if err != nil {
			return err
		}
		list = append(list, m)
		byID[m.ID] = m
		return nil
	}, `SELECT id, name, description, owner_id, disclosure, serving, default_version, next_version, created_at, updated_at
		FROM models `+parent+` ORDER BY name`, args...)
	if err != nil {
		return nil, err
	}
	for _, part := range []struct {
		query string
		add   func(scan, map[string]*models.Model) error
	}{
		{`SELECT model_id, role FROM model_roles ` + child + ` ORDER BY model_id, role`, addRole},
		{`SELECT model_id, role, rule FROM model_rules ` + child, addRule},
		{`SELECT model_id, alias, number FROM model_aliases ` + child, addAlias},
		{`SELECT model_id, number, id, digest, size, state, reason, signature, facts, created_by, created_at
			FROM versions ` + child + ` ORDER BY model_id, number`, addVersion},
	} {
		if err := t.rows(func(s scan) error { return part.add(s, byID) }, part.query, args...); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func scanModel(s scan) (*models.Model, error) {
	m := &models.Model{Roles: []string{}, Aliases: map[string]int{}}
	var owner sql.NullString
	var number sql.NullInt64
	var disclosure, serving string
	err := s(&m.ID, &m.Name, &m.Description, &owner, &disclosure, &serving, &number, &m.NextVersion,
		moment{&m.CreatedAt}, moment{&m.UpdatedAt})
	if err != nil {
		return nil, err
	}
	m.OwnerID, m.DefaultVersion = owner.String, int(number.Int64)
	if m.Disclosure.Rule, err = decodeRule(disclosure); err != nil {
		return nil, err
	}
	return m, decode(serving, &m.Serving)
}

func addRole(s scan, in map[string]*models.Model) error {
	var id, role string
	if err := s(&id, &role); err != nil {
		return err
	}
	in[id].Roles = append(in[id].Roles, role)
	return nil
}

func addRule(s scan, in map[string]*models.Model) error {
	var id, role, stored string
	if err := s(&id, &role, &stored); err != nil {
		return err
	}
	rule, err := decodeRule(stored)
	if err != nil {
		return err
	}
	d := &in[id].Disclosure
	if d.Roles == nil {
		d.Roles = map[string]models.Rule{}
	}
	d.Roles[role] = rule
	return nil
}

func addAlias(s scan, in map[string]*models.Model) error {
	var id, alias string
	var number int
	if err := s(&id, &alias, &number); err != nil {
		return err
	}
	in[id].Aliases[alias] = number
	return nil
}

func addVersion(s scan, in map[string]*models.Model) error {
	v := &models.Version{}
	var modelID, signature, facts string
	err := s(&modelID, &v.Number, &v.ID, &v.Digest, &v.Size, &v.State, &v.Reason, &signature, &facts,
		&v.CreatedBy, moment{&v.CreatedAt})
	if err != nil {
		return err
	}
	if v.Signature, err = decodeSignature(signature); err != nil {
		return err
	}
	if err := decode(facts, &v.Facts); err != nil {
		return err
	}
	v.Model = in[modelID].Name
	in[modelID].Versions = append(in[modelID].Versions, v)
	return nil
}

// insertModel stores what replaceModel does not.
func (t *tx) insertModel(m *models.Model) error {
	_, err := t.exec(`
		INSERT INTO models (id, name, description, owner_id, disclosure, serving, next_version, created_at, updated_at)
		VALUES (?, ?, '', ?, '{}', '{}', ?, ?, ?)`,
		m.ID, m.Name, sql.NullString{String: m.OwnerID, Valid: m.OwnerID != ""}, m.NextVersion,
		micros(m.CreatedAt), micros(m.UpdatedAt))
	switch {
	case violates(err, unique):
		return models.ErrConflict
	case violates(err, foreign):
		return models.ErrInvalid.With("the user who would own the model does not exist any more")
	}
	return err
}

// insertVersion stores v under the model's next number, which is then used up for good.
func (t *tx) insertVersion(modelID string, number int, v *models.Version) error {
	signature, err := encodeSignature(v.Signature)
	if err != nil {
		return err
	}
	facts, err := encode(v.Facts)
	if err != nil {
		return err
	}
	_, err = t.exec(`
		INSERT INTO versions (model_id, number, id, digest, size, state, reason, signature, facts, created_by, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		modelID, number, v.ID, v.Digest, v.Size, string(v.State), v.Reason, signature, facts, v.CreatedBy, micros(v.CreatedAt))
	if violates(err, unique) {
		return models.ErrConflict
	}
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE models SET next_version = ? WHERE id = ?`, number+1, modelID)
	return err
}

// replaceModel stores the parts of a model that may change: description, roles, disclosure, serving, default version,
// aliases and the time of the change.
func (t *tx) replaceModel(id, name string, m *models.Model) error {
	disclosure, err := encodeRule(m.Disclosure.Rule)
	if err != nil {
		return err
	}
	serving, err := encode(m.Serving)
	if err != nil {
		return err
	}
	_, err = t.exec(`
		UPDATE models SET description = ?, disclosure = ?, serving = ?, default_version = ?, updated_at = ? WHERE id = ?`,
		m.Description, disclosure, serving, sql.NullInt64{Int64: int64(m.DefaultVersion), Valid: m.DefaultVersion != 0},
		micros(m.UpdatedAt), id)
	if violates(err, foreign) {
		return models.ErrInvalid.With(fmt.Sprintf("model %s has no version %d to be the default", name, m.DefaultVersion))
	}
	if err != nil {
		return err
	}
	return t.replaceParts(id, name, m)
}

func (t *tx) replaceParts(id, name string, m *models.Model) error {
	for _, statement := range []string{`DELETE FROM model_roles WHERE model_id = ?`,
		`DELETE FROM model_rules WHERE model_id = ?`, `DELETE FROM model_aliases WHERE model_id = ?`} {
		if _, err := t.exec(statement, id); err != nil {
			return err
		}
	}
	for _, role := range sorted(m.Roles) {
		_, err := t.exec(`INSERT INTO model_roles (model_id, role) VALUES (?, ?)`, id, role)
		if err := knownRole(err, role); err != nil {
			return err
		}
	}
	for role, rule := range m.Disclosure.Roles {
		stored, err := encodeRule(rule)
		if err != nil {
			return err
		}
		_, err = t.exec(`INSERT INTO model_rules (model_id, role, rule) VALUES (?, ?, ?)`, id, role, stored)
		if err := knownRole(err, role); err != nil {
			return err
		}
	}
	for alias, number := range m.Aliases {
		_, err := t.exec(`INSERT INTO model_aliases (model_id, alias, number) VALUES (?, ?, ?)`, id, alias, number)
		if violates(err, foreign) {
			return models.ErrInvalid.With(fmt.Sprintf("model %s has no version %d for the alias %q", name, number, alias))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func knownRole(err error, role string) error {
	if violates(err, foreign) {
		return models.ErrInvalid.With(fmt.Sprintf("there is no role %q; GET /admin/roles lists all", role))
	}
	return err
}
