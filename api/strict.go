package api

import (
	"errors"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// strictly makes go-json-experiment refuse unknown members. Names in another
// case, names given twice, invalid UTF-8 and trailing data it refuses by
// itself; depth is bounded by the types and, below them, by the library.
var strictly = json.JoinOptions(json.RejectUnknownMembers(true), json.MatchCaseInsensitiveNames(false),
	jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))

// checker is a request type with rules of its own.
type checker interface {
	// check says what is missing or contradictory.
	check() error
}

// decodeJSON reads data into v and checks it. Errors are in terms of the
// caller's fields.
func decodeJSON(data []byte, v any) error {
	if len(data) == 0 {
		return invalid("the body is empty; send a JSON object")
	}
	if err := json.Unmarshal(data, v, strictly); err != nil {
		return invalid(describeJSON(err))
	}
	// A decoder takes null for nothing said, which is not what all mean by it:
	// in a patch it could mean "remove", in a scope or a policy "none".
	if field, found := findNull(data); found {
		return invalid(field + " must not be null; give it a value or leave it out")
	}
	if c, ok := v.(checker); ok {
		return c.check()
	}
	return nil
}

// findNull returns the place of the first null in valid JSON.
func findNull(data []byte) (field string, found bool) {
	d := jsontext.NewDecoder(strings.NewReader(string(data)))
	for {
		token, err := d.ReadToken()
		if err != nil {
			return "", false
		}
		if token.Kind() == 'n' {
			return fieldName(d.StackPointer()), true
		}
	}
}

// describeJSON turns a decoder's error into a sentence for the caller. The
// library's own words name Go types.
func describeJSON(err error) string {
	var syntax *jsontext.SyntacticError
	var meaning *json.SemanticError
	switch {
	case errors.As(err, &meaning) && errors.Is(err, json.ErrUnknownName):
		return fieldName(meaning.JSONPointer) + " is not known here; names are case-sensitive"
	case errors.As(err, &meaning):
		return fieldName(meaning.JSONPointer) + " must be " + wanted(meaning.GoType)
	case errors.Is(err, jsontext.ErrDuplicateName) && errors.As(err, &syntax):
		return fieldName(syntax.JSONPointer) + " is given twice"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the JSON ends before it is complete"
	case errors.As(err, &syntax):
		return "the body is not valid JSON, at byte " + strconv.FormatInt(syntax.ByteOffset, 10)
	}
	return "the body is not valid JSON"
}

// fieldName writes a JSON pointer as a caller thinks of it: "disclosure.top_k".
func fieldName(p jsontext.Pointer) string {
	if p == "" {
		return "the body"
	}
	var b strings.Builder
	for token := range p.Tokens() {
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(token)
		if b.Len() > 100 {
			break
		}
	}
	return "the field " + strconv.Quote(shorten(b.String(), 100))
}

// shorten cuts s after at most n bytes, between characters.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

// wanted says in JSON's terms what a Go type takes.
func wanted(t reflect.Type) string {
	if t == nil {
		return "something else"
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "an integer"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	}
	return "an object"
}
