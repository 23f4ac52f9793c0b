package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A record is one line: the JSON of an Entry with its fields in the order they
// are declared, no white space, keys of Detail sorted, hash last. Its hash is
// the SHA-256 of that JSON with an empty hash. Prev is the hash of the record
// before, so a change of any byte breaks every record after it.

const (
	maxField   = 256     // bytes of a field that a caller may choose
	maxDetails = 32      // pairs in Detail
	maxLine    = 1 << 20 // bytes of a line; the caps above allow less than half
)

// actionBegin opens a file that goes on with the chain of another one, which
// was moved away. A file that begins otherwise begins with record 1.
const actionBegin = "audit.begin"

// actionRepair follows a half-written record that was cut off after a crash.
const actionRepair = "audit.repair"

// seal sets e.Hash and returns the record's line with its newline.
func seal(e *Entry) ([]byte, error) {
	e.Hash = ""
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("audit: encode a record: %w", err)
	}
	sum := sha256.Sum256(b)
	e.Hash = hex.EncodeToString(sum[:])
	b = append(b[:len(b)-len(`"}`)], e.Hash...)
	return append(b, "\"}\n"...), nil
}

var errRecord = errors.New("not a record, or changed")

// parse reads a line, with or without its newline, and proves that not one
// byte of it was changed since it was sealed. It proves nothing about the
// record's neighbours.
func parse(line []byte) (Entry, error) {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil {
		return Entry{}, errRecord
	}
	hash := e.Hash
	again, err := seal(&e)
	if err != nil || e.Hash != hash || !bytes.Equal(again[:len(again)-1], line) {
		return Entry{}, errRecord
	}
	return e, nil
}

// seqOf reads the sequence number of a line without decoding the rest.
func seqOf(line []byte) (uint64, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"seq":`))
	if !ok {
		return 0, false
	}
	digits, _, ok := bytes.Cut(rest, []byte{','})
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(string(digits), 10, 64)
	return n, err == nil
}

// follows says whether e may stand right after a record with head h; the zero
// h stands for the beginning of a file.
func follows(e *Entry, h Head) bool {
	if h == (Head{}) {
		return e.Seq == 1 && e.Prev == "" || e.Seq > 1 && e.Action == actionBegin
	}
	return e.Seq == h.Seq+1 && e.Prev == h.Hash
}

func headOf(e *Entry) Head { return Head{Seq: e.Seq, Hash: e.Hash} }

// clean bounds what a caller chose. JSON escapes line breaks and the escape
// character; the rest of what could deceive who reads the file on a terminal
// (C1 controls, direction overrides) is replaced here.
func clean(e Entry) Entry {
	e.Actor = text(e.Actor)
	e.ActorID = text(e.ActorID)
	e.Action = text(e.Action)
	e.Target = text(e.Target)
	e.Outcome = Outcome(text(string(e.Outcome)))
	e.Reason = text(e.Reason)
	e.Address = text(e.Address)
	e.Request = text(e.Request)
	if e.Count < 1 {
		e.Count = 1
	}
	if len(e.Detail) > 0 {
		d := make(map[string]string, len(e.Detail))
		for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
			if len(d) == maxDetails {
				break
			}
			d[text(k)] = text(e.Detail[k])
		}
		e.Detail = d
	}
	return e
}

func text(s string) string {
	if plain(s) {
		return s
	}
	if len(s) > maxField {
		cut := maxField
		for cut > maxField-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	return strings.Map(func(r rune) rune {
		if r >= 0x7f && !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, s) // also turns every invalid byte into U+FFFD
}

func plain(s string) bool {
	if len(s) > maxField {
		return false
	}
	for i := range len(s) {
		if s[i] >= 0x7f {
			return false
		}
	}
	return true
}
