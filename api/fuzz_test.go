package api

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzForm holds the form reader against net/url's: what it takes, net/url
// reads alike, each name once.
func FuzzForm(f *testing.F) {
	for _, seed := range []string{"", "a=b", "grant_type=password&username=a&password=b", "a=1&a=2", "a=%zz", "%61=1&a=2", "a=+b%20c", "&&=&a", "a=b;c=d", "a=%ff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		form, err := parseForm(text)
		if err != nil {
			if r := refuse(err); r.status != 400 || r.oauth != "invalid_request" {
				t.Errorf("%q: %+v", text, r)
			}
			return
		}
		want, err := url.ParseQuery(strings.ReplaceAll(text, ";", "%3b"))
		if err != nil {
			t.Fatalf("%q is taken, net/url: %v", text, err)
		}
		for name, values := range want {
			if len(values) != 1 || form[name] != values[0] {
				t.Errorf("%q: %s is %q, net/url has %q", text, name, form[name], values)
			}
		}
	})
}

// FuzzDecodeJSON: whatever comes, the answer is a value that fits or one
// sentence in the caller's terms.
func FuzzDecodeJSON(f *testing.F) {
	for _, seed := range []string{`{}`, `null`, `{"roles":["a"]}`, `{"disclosure":{"roles":{"x":{"top_k":1}}}}`, `{"roles":null}`, `{"a":1}`, `[`, `{"aliases":{"a":1,"a":2}}`,
		`{"disclosure":{"top_k":"x"}}`, "{\"\xff\":1}", `{"default_version":1e400}`, strings.Repeat(`{"disclosure":`, 100)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := decodeJSON(data, new(modelPatch))
		if err == nil {
			return
		}
		r := refuse(err)
		if r.status != 400 || r.code != "invalid_input" || r.detail == "" || len(r.detail) > 800 {
			t.Errorf("%q: %+v", data, r)
		}
		if utf8.Valid(data) && !utf8.ValidString(r.detail) {
			t.Errorf("%q: the sentence %q is no UTF-8", data, r.detail)
		}
		for _, inner := range []string{"api.", "modelPatch", "jsontext", "Go "} {
			if strings.Contains(r.detail, inner) && !strings.Contains(string(data), inner) {
				t.Errorf("%q: the sentence %q speaks of the inside", data, r.detail)
			}
		}
	})
}
