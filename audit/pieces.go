package audit

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A log is a row of files: the current one, at Config.Path, and closed ones
// beside it, each named by the number of its first record. A closed file is
// never written again; the operator may compress it with gzip, move it away,
// or delete it, the oldest first.

// piece is one closed file.
type piece struct {
	path  string
	first uint64 // the number of its first record, by its name
	gzip  bool
}

// closedName is the name of a closed file: audit-000000000001.log.
func closedName(path string, first uint64) string {
	ext := filepath.Ext(path)
	return fmt.Sprintf("%s-%012d%s", strings.TrimSuffix(path, ext), first, ext)
}

// IsClosedFile says whether name, without its folder, is that of a closed file
// of a log with that name, compressed or not.
func IsClosedFile(log, name string) bool {
	_, ok := parsePiece(log, name)
	return ok
}

func parsePiece(log, name string) (piece, bool) {
	ext := filepath.Ext(log)
	rest, ok := strings.CutPrefix(name, strings.TrimSuffix(log, ext)+"-")
	if !ok {
		return piece{}, false
	}
	rest, zipped := strings.CutSuffix(rest, ".gz")
	digits, ok := strings.CutSuffix(rest, ext)
	if !ok || len(digits) < 12 || strings.Trim(digits, "0123456789") != "" {
		return piece{}, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return piece{first: first, gzip: zipped}, err == nil && first > 0
}

// pieces lists the closed files of the log at path, the oldest first. Of one
// that is there both plain and compressed, the plain one counts.
func pieces(path string) ([]piece, error) {
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("audit: list the files of the log: %w", err)
	}
	var list []piece
	for _, n := range names {
		if p, ok := parsePiece(filepath.Base(path), n.Name()); ok && n.Type().IsRegular() {
			p.path = filepath.Join(filepath.Dir(path), n.Name())
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b piece) int {
		switch {
		case a.first < b.first || a.first == b.first && !a.gzip && b.gzip:
			return -1
		case a.first == b.first && a.gzip == b.gzip:
			return 0
		}
		return 1
	})
	return slices.CompactFunc(list, func(a, b piece) bool { return a.first == b.first }), nil
}

// walk calls f with every file of the log at path, the oldest first. It may run
// while the log is written and rotated.
func walk(ctx context.Context, path string, f func(name string, r io.Reader, last bool) error) error {
	var done uint64 // the first record of the newest file given to f
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		// The current file before the list: when the list then has nothing new,
		// what was opened is what follows the closed files, whatever its name
		// has become meanwhile.
		current, err := os.Open(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("audit: open the log: %w", err)
		}
		missing := err != nil
		list, err := pieces(path)
		if err != nil {
			if !missing {
				current.Close()
			}
			return err
		}
		list = slices.DeleteFunc(list, func(p piece) bool { return p.first <= done })
		if len(list) == 0 {
			if missing {
				return nil
			}
			err := f(path, current, true)
			current.Close()
			return err
		}
		if !missing {
			current.Close()
		}
		for _, p := range list {
			if err := p.read(f); err != nil {
				return err
			}
			done = p.first
		}
	}
}

func (p piece) read(f func(name string, r io.Reader, last bool) error) error {
	file, err := os.Open(p.path)
	if err != nil {
		return fmt.Errorf("audit: open a closed file: %w", err)
	}
	defer file.Close()
	if !p.gzip {
		return f(p.path, file, false)
	}
	z, err := gzip.NewReader(file)
	if err != nil {
		return fmt.Errorf("audit: %s: %w", p.path, err)
	}
	return f(p.path, z, false)
}

// backwards is backwards over a closed file that is not compressed.
func (p piece) backwards(f func(line []byte, off int64) (bool, error)) error {
	file, err := os.Open(p.path)
	if err != nil {
		return fmt.Errorf("audit: open a closed file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("audit: read the log: %w", err)
	}
	return backwards(file, info.Size(), f)
}
