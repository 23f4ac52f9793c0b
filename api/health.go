package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/goccy/go-yaml"
)

// root says what this is.
func (s *Server) root(*call) (about, error) {
	return about{Name: "modelgate", Docs: "/docs", OpenAPI: "/openapi.json"}, nil
}

func (s *Server) health(*call) (status, error) { return status{"ok"}, nil }

// readiness says whether work should be sent here. It tells nothing of why
// not.
func (s *Server) readiness(c *call) (status, error) {
	if s.ready != nil {
		if err := s.probe.ask(s.ready); err != nil {
			return status{}, &fault{code: errNotReady.code, detail: errNotReady.detail, cause: err}
		}
	}
	return status{"ready"}, nil
}

var errNotReady = &fault{code: "unavailable", detail: "not ready to serve"}

// probe keeps an answer for a moment, so that callers without credentials
// can't make the database busy.
type probe struct {
	mu    sync.Mutex
	asked time.Time // guarded by mu
	err   error     // guarded by mu
}

const (
	probeKept    = 500 * time.Millisecond
	probeTimeout = 2 * time.Second
)

func (p *probe) ask(ready func(context.Context) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.asked) < probeKept {
		return p.err
	}
	// Not the request's context: its answer is for others as well.
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	p.err, p.asked = ready(ctx), time.Now()
	return p.err
}

//go:embed openapi.yaml
var openapiYAML []byte

// openapiJSON is openapi.yaml as JSON, its keys in the order written, with the
// routes that the console mirrors. Both this and docsPage are made of constants,
// once.
var openapiJSON = sync.OnceValues(func() ([]byte, error) {
	var doc yaml.MapSlice
	if err := yaml.UnmarshalWithOptions(openapiYAML, &doc, yaml.UseOrderedMap()); err != nil {
		return nil, err
	}
	mirrorContract(doc)
	return yaml.MarshalWithOptions(doc, yaml.JSON())
})

func (s *Server) serveOpenAPI(c *call) error {
	c.setHeader("Cache-Control", briefly)
	c.write(http.StatusOK, typeJSON, s.openapi)
	return nil
}

func (s *Server) serveDocs(c *call) error {
	c.setHeader("Cache-Control", briefly)
	c.setHeader("Content-Security-Policy", s.docs.policy)
	c.write(http.StatusOK, []string{"text/html; charset=utf-8"}, s.docs.page)
	return nil
}

//go:embed docs.html
var docsHTML string

// docs is the documentation page, with a policy that lets it have its own style
// element and nothing else.
type docs struct {
	page   []byte
	policy string
}

// operation is what the page shows of one.
type operation struct {
	Tags        []string `json:"tags"`
	Summary     string   `json:"summary"`
	Description string   `json:"description"`
}

// contract is the part of the specification that the page shows.
type contract struct {
	Info struct {
		Description string `json:"description"`
	} `json:"info"`
	Tags []struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	} `json:"tags"`
	Paths map[string]struct {
		Get    *operation `json:"get"`
		Post   *operation `json:"post"`
		Put    *operation `json:"put"`
		Patch  *operation `json:"patch"`
		Delete *operation `json:"delete"`
	} `json:"paths"`
}

// docsRow is one operation on the page.
type docsRow struct{ Method, Path, Summary, Description string }

// under lists the operations with a tag, by path.
func (c *contract) under(tag string) (rows []docsRow) {
	for _, path := range slices.Sorted(maps.Keys(c.Paths)) {
		item := c.Paths[path]
		for _, x := range []struct {
			method string
			op     *operation
		}{{"GET", item.Get}, {"POST", item.Post}, {"PUT", item.Put}, {"PATCH", item.Patch}, {"DELETE", item.Delete}} {
			if x.op != nil && slices.Contains(x.op.Tags, tag) {
				rows = append(rows, docsRow{x.method, path, x.op.Summary, strings.TrimSpace(x.op.Description)})
			}
		}
	}
	return rows
}

// docsPage renders the documentation from the specification, once. The page
// needs no script and nothing from elsewhere.
var docsPage = sync.OnceValues(func() (docs, error) {
	openapi, err := openapiJSON()
	if err != nil {
		return docs{}, err
	}
	var c contract
	if err := json.Unmarshal(openapi, &c); err != nil {
		return docs{}, err
	}
	type section struct {
		Name, Description string
		Rows              []docsRow
	}
	var page struct {
		Intro    []string
		Sections []section
	}
	page.Intro = strings.Split(strings.TrimSpace(c.Info.Description), "\n\n")
	for _, tag := range c.Tags {
		page.Sections = append(page.Sections, section{tag.Name, tag.Description, c.under(tag.Name)})
	}
	t, err := template.New("docs").Parse(docsHTML)
	if err != nil {
		return docs{}, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, page); err != nil {
		return docs{}, err
	}
	_, style, _ := strings.Cut(b.String(), "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	hash := sha256.Sum256([]byte(style))
	return docs{page: b.Bytes(), policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
		"'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"}, nil
})
