package audit

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// actionHead is a record that signs all before it: its detail has the id of
// the key and the signature of the SignedHead that ends right before it.
const actionHead = "audit.head"

// SignedHead says, with the signature of the log's key, that the chain had
// this head at that time. Whoever keeps one, and the public key, can prove of
// any later state of the log that nothing up to the head was changed.
type SignedHead struct {
	Head
	Time      time.Time // to the microsecond, UTC
	Key       string    // the id of the key
	Signature []byte
}

// headPrefix opens a signed head as text and names the version of its form.
const headPrefix = "modelgate-head-1"

// statement is what is signed.
func (h *SignedHead) statement() string {
	return fmt.Sprintf("%s:%s:%d:%s:%d", headPrefix, h.Key, h.Seq, h.Hash, h.Time.UnixMicro())
}

// String is the head in one word, for logs and for files kept elsewhere. Its
// fields are separated by colons: a name with the version of the form, the id
// of the key, the number and the hash of the record, the time in microseconds
// since 1970, and the signature (Ed25519, base64url) of all before the last
// colon.
func (h SignedHead) String() string {
	return h.statement() + ":" + base64.RawURLEncoding.EncodeToString(h.Signature)
}

var headWord = regexp.MustCompile(headPrefix + `:[0-9a-f]{32}:[0-9]{1,20}:[0-9a-f]{64}:[0-9]{1,19}:[A-Za-z0-9_-]{86}`)

// FindHeads finds the signed heads in a text, such as a collected log.
func FindHeads(text string) []SignedHead {
	var heads []SignedHead
	for _, word := range headWord.FindAllString(text, -1) {
		if h, err := parseHead(word); err == nil {
			heads = append(heads, h)
		}
	}
	return heads
}

func parseHead(word string) (SignedHead, error) {
	f := strings.Split(word, ":")
	if len(f) != 6 || f[0] != headPrefix {
		return SignedHead{}, errors.New("audit: no signed head")
	}
	seq, err := strconv.ParseUint(f[2], 10, 64)
	micros, err2 := strconv.ParseInt(f[4], 10, 64)
	signature, err3 := base64.RawURLEncoding.DecodeString(f[5])
	return SignedHead{Head{seq, f[3]}, time.UnixMicro(micros).UTC(), f[1], signature}, errors.Join(err, err2, err3)
}

// Check says whether the head was signed by one of the keys.
func (h *SignedHead) Check(keys PublicKeys) bool {
	public, ok := keys[h.Key]
	return ok && ed25519.Verify(public, []byte(h.statement()), h.Signature)
}

// headEntry makes the record that signs h.
func (k *Key) headEntry(h Head, now time.Time) *Entry {
	s := SignedHead{Head: h, Time: now, Key: k.id}
	s.Signature = ed25519.Sign(k.private, []byte(s.statement()))
	return &Entry{Action: actionHead, Outcome: Allowed, Count: 1, Detail: map[string]string{
		"key": k.id, "signature": base64.RawURLEncoding.EncodeToString(s.Signature)}}
}

// signedHead reads what headEntry wrote. A signature that can't be read is
// none, and is found false.
func (e *Entry) signedHead() SignedHead {
	signature, err := base64.RawURLEncoding.DecodeString(e.Detail["signature"])
	if err != nil {
		signature = nil
	}
	return SignedHead{Head{e.Seq - 1, e.Prev}, e.Time, e.Detail["key"], signature}
}
