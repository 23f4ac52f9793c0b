package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Report is what Verify found.
type Report struct {
	Records uint64 `json:"records"` // good ones, from the beginning up to the problem
	Head    Head   `json:"head"`    // of the last of them
	Problem string `json:"problem"` // empty: intact
	At      uint64 `json:"at"`      // the sequence number at which the problem stands
}

// Verify reads a whole log and finds any byte edited, any record added, taken
// out or moved, and, held against the head that was saved elsewhere, a tail cut
// off or a chain made anew. The zero head can't tell the latter two. Bytes of a
// half-written record after the saved head are no problem: a log that is being
// written, or was at a crash, has them, and Open cuts them off.
//
// A file that continues the chain of one moved away begins with audit.begin.
//
// The error is of reading r only.
func Verify(r io.Reader, head Head) (Report, error) {
	var rep Report
	br := bufio.NewReaderSize(r, maxLine)
	problem := func(at uint64, format string, args ...any) (Report, error) {
		rep.Problem, rep.At = fmt.Sprintf(format, args...), at
		return rep, nil
	}
	for {
		line, err := br.ReadSlice('\n')
		at := rep.Head.Seq + 1
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return problem(at, "where record %d should be stands a line longer than any record", at)
		case err != nil && !errors.Is(err, io.EOF):
			return rep, fmt.Errorf("audit: read the log: %w", err)
		case len(line) == 0:
			return rep.against(head)
		}
		e, perr := parse(line)
		if perr != nil && err != nil && head.Seq > 0 && rep.Head.Seq >= head.Seq {
			return rep.against(head)
		}
		if perr != nil {
			return problem(at, "record %d was changed, or is no record", at)
		}
		if !follows(&e, rep.Head) {
			if rep.Records == 0 {
				return problem(e.Seq, "the log begins at record %d, and not as a new file does: records before it were taken out", e.Seq)
			}
			return problem(at, "record %d is missing or was replaced: what stands there does not follow record %d", at, rep.Head.Seq)
		}
		if e.Seq == head.Seq && e.Hash != head.Hash || e.Seq == head.Seq+1 && head.Seq > 0 && e.Prev != head.Hash {
			return problem(head.Seq, "record %d is not the one the database knows: the chain was made anew", head.Seq)
		}
		rep.Records++
		rep.Head = headOf(&e)
	}
}

// against finishes a report at the end of the file.
func (r Report) against(head Head) (Report, error) {
	if r.Head.Seq < head.Seq {
		r.At = r.Head.Seq + 1
		r.Problem = fmt.Sprintf("records %d to %d are missing at the end", r.At, head.Seq)
	}
	return r, nil
}
