package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Report is what Verify found.
type Report struct {
	Records uint64 `json:"records"` // good ones, from the beginning up to the problem
	Files   int    `json:"files"`   // in which they stand
	Head    Head   `json:"head"`    // of the last of them
	// Signed is the number of the last record that a signed head in the log
	// covers, SignedAt when it was signed; zero: none does, or no key was given.
	Signed   uint64    `json:"signed"`
	SignedAt time.Time `json:"signed_at"`
	// Kept is how many of the heads kept elsewhere agree with the log, and
	// Older how many are of records before the first one here.
	Kept    int    `json:"kept_heads"`
	Older   int    `json:"older_heads"`
	Problem string `json:"problem"` // empty: intact
	At      uint64 `json:"at"`      // the sequence number at which the problem stands
}

// Check is what a log is held against besides itself.
type Check struct {
	// Head was saved in the database. Zero: a tail cut off, or a chain made
	// anew, is not found by it.
	Head Head
	// Keys check the signed heads in the log, and Heads. Nil: they are not
	// looked at.
	Keys PublicKeys
	// Heads were kept elsewhere.
	Heads []SignedHead
}

// HeadRecords is the most records that stand between two signed heads.
const HeadRecords = 1000

// Verify reads a whole log from one stream and finds any byte edited, any
// record added, taken out or moved, and, held against the head that was saved
// elsewhere, a tail cut off or a chain made anew. The zero head can't tell the
// latter two. Bytes of a half-written record after the saved head are no
// problem: a log that is being written, or was at a crash, has them, and Open
// cuts them off.
//
// A file that continues the chain of one moved away begins with audit.begin.
//
// The error is of reading r only.
func Verify(r io.Reader, head Head) (Report, error) {
	v, err := newVerifier(Check{Head: head})
	if err == nil {
		err = v.read("the log", r, true)
	}
	return v.report(), err
}

// VerifyFiles is Verify of all files of the log at path, which may be in use.
// With keys it also finds a signed head that none of them made, and a log whose
// end has none. With heads kept elsewhere it finds any change before them,
// whoever made it: also one who had the disk, the database and the key.
func VerifyFiles(ctx context.Context, path string, c Check) (Report, error) {
	v, err := newVerifier(c)
	if err != nil {
		return Report{}, err
	}
	err = walk(ctx, path, func(name string, r io.Reader, last bool) error {
		if v.rep.Problem != "" {
			return nil
		}
		return v.read(name, r, last)
	})
	return v.report(), err
}

// verifier goes through the files of a log in their order.
type verifier struct {
	Check
	kept map[uint64]SignedHead // Heads by their record
	rep  Report
}

func newVerifier(c Check) (*verifier, error) {
	v := &verifier{Check: c, kept: map[uint64]SignedHead{}}
	for _, h := range c.Heads {
		if !h.Check(c.Keys) {
			return v, fmt.Errorf("the head of record %d, of %s, was not signed by a key that was given", h.Seq, h.Time.Format(time.RFC3339))
		}
		if other, ok := v.kept[h.Seq]; ok && other.Hash != h.Hash {
			return v, fmt.Errorf("two of the heads differ about record %d, though both are signed: who holds the key made the chain anew", h.Seq)
		}
		v.kept[h.Seq] = h
	}
	return v, nil
}

func (v *verifier) problem(at uint64, format string, args ...any) {
	v.rep.Problem, v.rep.At = fmt.Sprintf(format, args...), at
}

// read goes through one file, until its end or a problem.
func (v *verifier) read(name string, r io.Reader, last bool) error {
	v.rep.Files++
	br := bufio.NewReaderSize(r, maxLine)
	for inFile := 0; ; inFile++ {
		line, err := br.ReadSlice('\n')
		at := v.rep.Head.Seq + 1
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			v.problem(at, "where record %d should be stands a line longer than any record", at)
			return nil
		case err != nil && !errors.Is(err, io.EOF):
			return fmt.Errorf("audit: read %s: %w", name, err)
		case len(line) == 0:
			return nil
		}
		e, perr := parse(line)
		if perr != nil && err != nil && last && v.Head.Seq > 0 && v.rep.Head.Seq >= v.Head.Seq {
			return nil
		}
		if perr == nil && err != nil && !last {
			v.problem(at, "the closed file with record %d was cut at its end", at)
			return nil
		}
		if perr != nil {
			v.problem(at, "record %d was changed, or is no record", at)
			return nil
		}
		if v.record(&e, inFile == 0); v.rep.Problem != "" {
			return nil
		}
	}
}

// record holds one record against those before it and what was saved.
func (v *verifier) record(e *Entry, firstOfFile bool) {
	before := v.rep.Head
	at := before.Seq + 1
	switch {
	case !follows(e, before):
		switch {
		case v.rep.Records == 0:
			v.problem(e.Seq, "the log begins at record %d, and not as a new file does: records before it were taken out", e.Seq)
		case firstOfFile && e.Action == actionBegin && e.Seq > at:
			v.problem(at, "records %d to %d are in no file: put the file that holds them back beside the others", at, e.Seq-1)
		default:
			v.problem(at, "record %d is missing or was replaced: what stands there does not follow record %d", at, before.Seq)
		}
		return
	case e.Seq == v.Head.Seq && e.Hash != v.Head.Hash || e.Seq == v.Head.Seq+1 && v.Head.Seq > 0 && e.Prev != v.Head.Hash:
		v.problem(v.Head.Seq, "record %d is not the one the database knows: the chain was made anew", v.Head.Seq)
		return
	}
	if v.rep.Records == 0 {
		v.keep(Head{e.Seq - 1, e.Prev})
	}
	v.keep(headOf(e))
	if e.Action == actionHead && v.Keys != nil {
		s := e.signedHead()
		if !s.Check(v.Keys) {
			v.problem(e.Seq, "record %d is a signed head, but its signature is not of a key that was given", e.Seq)
			return
		}
		v.rep.Signed, v.rep.SignedAt = s.Seq, s.Time
	}
	if v.rep.Problem == "" {
		v.rep.Records++
		v.rep.Head = headOf(e)
	}
}

// keep compares a record with the head that was kept of it, if one was.
func (v *verifier) keep(h Head) {
	s, ok := v.kept[h.Seq]
	if !ok {
		return
	}
	delete(v.kept, h.Seq)
	if s.Hash != h.Hash {
		v.problem(h.Seq, "record %d is not the one of the head signed at %s: records up to it were changed and the chain made anew", h.Seq, s.Time.Format(time.RFC3339))
		return
	}
	v.rep.Kept++
}

// report finishes at the end of the last file.
func (v *verifier) report() Report {
	r := &v.rep
	if r.Problem != "" {
		return *r
	}
	first := r.Head.Seq - r.Records + 1
	missing := v.Head.Seq
	for _, seq := range slices.Sorted(func(yield func(uint64) bool) {
		for seq := range v.kept {
			if !yield(seq) {
				return
			}
		}
	}) {
		if r.Records > 0 && seq < first {
			r.Older++
		} else {
			missing = max(missing, seq)
		}
	}
	switch {
	case r.Head.Seq < missing:
		r.At = r.Head.Seq + 1
		r.Problem = fmt.Sprintf("records %d to %d are missing at the end", r.At, missing)
	case v.Keys != nil && r.Head.Seq-max(r.Signed, first-1) > HeadRecords+1:
		r.At = max(r.Signed, first-1) + 1
		r.Problem = fmt.Sprintf("records %d to %d have no signed head behind them, though one follows at most %d records: they were not written by who holds the key", r.At, r.Head.Seq, HeadRecords)
	}
	return *r
}
