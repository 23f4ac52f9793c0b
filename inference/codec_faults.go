package inference

import (
	"fmt"
	"math"

	"modelgate/models"
)

// where names the n-th element of the array being read.
func (r *tensorReader) where(n int) string {
	switch {
	case r.flat || len(r.path) == 0:
		return fmt.Sprintf("value %d", n)
	case len(r.path) == 1:
		return fmt.Sprintf("row %d, value %d", r.path[0], n)
	}
	return "value " + indices(r.path) + fmt.Sprintf("[%d]", n)
}

// indices writes a path as [1][0][2].
func indices(path []int64) string {
	var text []byte
	for _, k := range path {
		text = fmt.Appendf(text, "[%d]", k)
	}
	return string(text)
}

// ragged tells of an array at a level that differs from the first one there.
func (r *tensorReader) ragged(level, n int) error {
	if len(r.shape) == 2 {
		return inputError(r.spec, "is ragged: row %d has %d values, row 0 has %d; every row must be equally long", r.path[0], n, r.shape[1])
	}
	return inputError(r.spec, "is ragged: %s has %d entries, the ones before it have %d; arrays of one level must be equally long",
		indices(r.path[:level]), n, r.shape[level])
}

// shallow tells of something else where an array must begin.
func (r *tensorReader) shallow(level int) error {
	switch c := r.space(); {
	case c == 0 || c == ']' || c == ',':
		return r.fail("an array")
	case c == 'n':
		return inputError(r.spec, "has null where an array belongs; it wants %s", contract(r.spec))
	case level == 0:
		return inputError(r.spec, "wants %s: %d levels of arrays, got a single value", contract(r.spec), len(r.shape))
	}
	return inputError(r.spec, "wants %s: %d levels of arrays, got values at level %d; for one row write [[...]]",
		contract(r.spec), len(r.shape), level)
}

// bad tells why the literal at the scanner's position is no element.
func (r *tensorReader) bad(fault, n int) error {
	where, t := r.where(n), r.spec.Type
	if len(r.spec.Shape) == 0 && !r.flat {
		where = "the value"
	}
	switch fault {
	case outOfRange:
		return inputError(r.spec, "does not fit: %s is %s, beyond the range of %s%s", where, r.found(), t, rangeText(t))
	case notIntegral:
		return inputError(r.spec, "does not fit: %s is %s; %s takes whole numbers, written without fraction and exponent", where, r.found(), t)
	}
	wants := "numbers"
	switch t {
	case models.Bool:
		wants = "true or false"
	case models.String:
		wants = "strings"
	}
	got := ""
	switch c := r.space(); c {
	case 0, ',', ']', '}', ':':
		return r.fail("a value")
	case '[':
		if r.flat {
			return inputError(r.spec, "has nested arrays in \"data\"; where a shape is given the values stand in one flat array")
		}
		return inputError(r.spec, "wants %s: the arrays nest deeper than %d levels", contract(r.spec), len(r.shape))
	case '{':
		got = "an object"
	case '"':
		got = "a string"
	case 'n':
		got = "null"
	case 't', 'f':
		got = "a truth value"
	case 'N', 'I', 'i', '+':
		got = r.found()
	case '-':
		got = r.found() + ", which JSON does not have as a number"
	default:
		got = r.found()
	}
	return inputError(r.spec, "does not fit: %s is %s; %s takes %s%s", where, got, t, wants, finite(t))
}

// finite reminds of what JSON lacks.
func finite(t models.DataType) string {
	if t == models.Bool || t == models.String {
		return ""
	}
	return ", never null, NaN or Infinity"
}

// rangeText writes the range of an integer type.
func rangeText(t models.DataType) string {
	bits := 8 * t.Size()
	switch t {
	case models.Int8, models.Int16, models.Int32, models.Int64:
		return fmt.Sprintf(" (%d to %d)", int64(math.MinInt64)>>(64-bits), int64(math.MaxInt64)>>(64-bits))
	case models.Uint8, models.Uint16, models.Uint32, models.Uint64:
		return fmt.Sprintf(" (0 to %d)", uint64(math.MaxUint64)>>(64-bits))
	}
	return ""
}
