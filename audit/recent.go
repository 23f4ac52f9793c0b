package audit

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
)

// recent is what this process knows of what it has written to the file itself
// lately, so that an edit that keeps the length is noticed while the server runs,
// and not by Verify alone. Owned by the holder of Log.commit.
type recent struct {
	from int64     // offset from which on it is known
	size int64     // and up to which
	sum  hash.Hash // of these bytes
	tail []byte    // the last of them
}

const (
	// recentTail is what is compared before each record: about the last one.
	recentTail = 512
	// recentMost bounds what is read again every two seconds.
	recentMost = 1 << 20
)

// begin forgets all, and goes on at the end of a file of that size.
func (r *recent) begin(size int64) { *r = recent{from: size, size: size, sum: sha256.New()} }

// wrote takes over what was written to the end. With a signed head in it, what
// was before is known by that.
func (r *recent) wrote(lines []byte, signed bool) {
	if signed || r.size-r.from > recentMost {
		r.begin(r.size)
	}
	r.sum.Write(lines)
	r.size += int64(len(lines))
	r.tail = append(r.tail, lines[max(0, len(lines)-recentTail):]...)
	r.tail = append(r.tail[:0], r.tail[max(0, len(r.tail)-recentTail):]...)
}

// changed says what is wrong with these bytes in the file, or "": with the last
// of them, or with all.
func (r *recent) changed(file io.ReaderAt, all bool) string {
	tail := make([]byte, len(r.tail))
	if _, err := file.ReadAt(tail, r.size-int64(len(tail))); err != nil {
		return "the file can't be read: " + err.Error()
	}
	if !bytes.Equal(tail, r.tail) {
		return "its last records were edited"
	}
	if !all {
		return ""
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(file, r.from, r.size-r.from)); err != nil {
		return "the file can't be read: " + err.Error()
	}
	if !bytes.Equal(sum.Sum(nil), r.sum.Sum(nil)) {
		return fmt.Sprintf("records behind byte %d were edited", r.from)
	}
	return ""
}
