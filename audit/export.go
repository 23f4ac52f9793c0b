package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Range is a stretch of time; a zero end is open.
type Range struct {
	Since time.Time // records of this moment and later
	Until time.Time // records before this moment
}

func (r Range) has(t time.Time) bool {
	return (r.Since.IsZero() || !t.Before(r.Since)) && (r.Until.IsZero() || t.Before(r.Until))
}

// Export writes the records of that time from all files of the log at path,
// the oldest first, one line each, as they stand there: byte for byte what
// their hashes are of. It holds one line in memory, may run while the log is
// written, and leaves out a line that is not whole yet. A line that is no
// record can have no time: it is left out if r bounds the time, and passed on
// otherwise. It proves nothing; Verify does.
func Export(ctx context.Context, path string, r Range, w io.Writer) (records int, err error) {
	bounded := r != Range{}
	err = walk(ctx, path, func(name string, in io.Reader, last bool) error {
		lines := bufio.NewReaderSize(in, maxLine)
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			line, err := lines.ReadSlice('\n')
			switch {
			case errors.Is(err, io.EOF) && (len(line) == 0 || last):
				return nil
			case errors.Is(err, bufio.ErrBufferFull):
				return fmt.Errorf("audit: %s: %w", name, errLongLine)
			case err != nil && !errors.Is(err, io.EOF):
				return fmt.Errorf("audit: read %s: %w", name, err)
			}
			if bounded {
				var at struct {
					Time time.Time `json:"time"`
				}
				if json.Unmarshal(line, &at) != nil || !r.has(at.Time) {
					continue
				}
			}
			if _, err := w.Write(line); err != nil {
				return err
			}
			records++
		}
	})
	return records, err
}

// Export is Export of this log.
func (l *Log) Export(ctx context.Context, r Range, w io.Writer) (records int, err error) {
	return Export(ctx, l.cfg.Path, r, w)
}
