package models

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"unsafe"
)

// Files keeps model files by content: blobs/<first two hex digits>/<SHA-256>,
// and uploads on their way there in tmp/ of the same file system, so that a
// file arrives by one rename or not at all. Every name on the disk is made
// here; a client's file name is never used.
//
// One process at a time may use a folder: the sweep at start takes whatever
// lies in tmp/ for left over.
type Files struct {
	blobs, tmp string
	max        int64
	keepFree   int64
}

const digestLen = 2 * sha256.Size // hex digits

// OpenFiles makes blobs/ and tmp/ under dir at need (0700). max is the most
// bytes of one file.
func OpenFiles(dir string, max int64) (*Files, error) {
	if max < 1 {
		return nil, fmt.Errorf("models: the size limit of a file is %d bytes; it must be positive", max)
	}
	f := &Files{blobs: filepath.Join(dir, "blobs"), tmp: filepath.Join(dir, "tmp"), max: max}
	for _, folder := range []string{f.blobs, f.tmp} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, fmt.Errorf("models: the folder of model files: %w", err)
		}
	}
	if err := syncDir(dir); err != nil {
		return nil, fmt.Errorf("models: the folder of model files: %w", err)
	}
	return f, nil
}

// KeepFree sets how many bytes of the file system uploads leave free, for the
// database and the audit log: without these nothing can be done any more, not
// even room be made. It must be called before the first Stage.
func (f *Files) KeepFree(bytes int64) { f.keepFree = bytes }

// full fails when less than KeepFree is free.
func (f *Files) full() error {
	if f.keepFree <= 0 {
		return nil
	}
	free, err := freeBytes(f.tmp)
	if err != nil {
		return diskError(err)
	}
	if free < f.keepFree {
		return ErrNoSpace.Because(fmt.Errorf("%s are free, and %s are to be left so", bytesText(free), bytesText(f.keepFree)))
	}
	return nil
}

// Staged is an uploaded file that belongs to no version yet. Catalog.Publish
// takes it over; who does not publish it calls Discard.
type Staged struct {
	Digest string // lower-case hex SHA-256
	Size   int64

	file *os.File
	once sync.Once
	kept bool // renamed to its blob; guarded by Catalog's write lock
}

// Discard closes the file and removes what has not become a blob. It may be
// called at any time and more than once.
func (s *Staged) Discard() {
	s.once.Do(func() {
		s.file.Close()
		if !s.kept {
			os.Remove(s.file.Name())
		}
	})
}

// Stage copies r to a temporary file and hashes it on the way. A file above
// the size limit is ErrTooLarge; a full disk, or one with less free than
// KeepFree says, ErrNoSpace; r failing half-way ErrInvalid with r's error as
// cause, unless that is an *Error or *Rejected itself; ctx ending, its error.
// Then nothing is left on the disk.
func (f *Files) Stage(ctx context.Context, r io.Reader) (*Staged, error) {
	file, err := os.CreateTemp(f.tmp, "upload-*") // 0600
	if err != nil {
		return nil, diskError(err)
	}
	s := &Staged{file: file}
	hash := sha256.New()
	// One byte above the limit tells a file that is too large from one that
	// just fits.
	s.Size, err = f.copyUpload(ctx, io.MultiWriter(file, hash), io.LimitReader(r, f.max+1))
	if err == nil && s.Size > f.max {
		err = ErrTooLarge.With(fmt.Sprintf("the file is larger than the %s this server takes; ask its operator to raise the limit", bytesText(f.max)))
	}
	if err != nil {
		s.Discard()
		return nil, err
	}
	s.Digest = hex.EncodeToString(hash.Sum(nil))
	return s, nil
}

// lookAfter is how many bytes of an upload are written between two looks at how
// many are free.
const lookAfter = 16 << 20

// copyUpload is io.Copy that looks at ctx between reads, leaves room on the
// disk, and tells the faults of the sender from those of the disk.
func (f *Files) copyUpload(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	buf := make([]byte, 128<<10)
	var total, look int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		if total >= look {
			if err := f.full(); err != nil {
				return total, err
			}
			look = total + lookAfter
		}
		n, readErr := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return total, diskError(err)
			}
			total += int64(n)
		}
		switch {
		case readErr == io.EOF:
			return total, nil
		case readErr != nil && ctx.Err() != nil:
			return total, ctx.Err()
		case told(readErr):
			return total, readErr
		case readErr != nil:
			return total, ErrInvalid.With("the upload stopped before the file was whole; send it again").Because(readErr)
		}
	}
}

// told reports whether an error is fit for the caller as it is.
func told(err error) bool {
	var refused *Rejected
	var own *Error
	return errors.As(err, &refused) || errors.As(err, &own)
}

// view calls f with the contents of the staged file, mapped into memory where
// the system can: then they take none but what the system's cache can give up.
// f may not keep them.
func (s *Staged) view(f func([]byte) error) error {
	if s.Size == 0 {
		return f(nil)
	}
	data, unmap, err := mapFile(s.file, s.Size)
	if err != nil {
		return diskError(err)
	}
	defer unmap()
	return readable(data, f)
}

// readable calls f, and answers ErrUnavailable when a page of data can't be
// read: the disk fails, or somebody cut the file.
func readable(data []byte, f func([]byte) error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(before)
	defer func() {
		if p := recover(); p != nil {
			if fault, ok := p.(interface{ Addr() uintptr }); !ok || !spans(data, fault.Addr()) {
				panic(p)
			}
			err = ErrUnavailable.Because(fmt.Errorf("reading an upload: %v", p))
		}
	}()
	return f(data)
}

func spans(data []byte, address uintptr) bool {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	return address >= start && address < start+uintptr(len(data))
}

// bytes reads the whole staged file.
func (s *Staged) bytes() ([]byte, error) {
	data := make([]byte, s.Size)
	if _, err := s.file.ReadAt(data, 0); err != nil {
		return nil, diskError(err)
	}
	return data, nil
}

// sync brings the contents to the disk, so that the rename of keep can't come
// before them.
func (s *Staged) sync() error {
	if err := s.file.Sync(); err != nil {
		return diskError(err)
	}
	return nil
}

// keep makes s a blob. When it returns nil the blob outlasts a loss of power.
// A blob of that content may be there already; it is replaced by its like,
// which mends one that rotted.
func (f *Files) keep(s *Staged) error {
	path := f.path(s.Digest)
	folder := filepath.Dir(path)
	if err := os.MkdirAll(f.blobs, 0o700); err != nil { // somebody may have cleared the folder
		return diskError(err)
	}
	if err := os.Mkdir(folder, 0o700); err == nil {
		err = syncDir(f.blobs)
		if err != nil {
			return diskError(err)
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return diskError(err)
	}
	if err := os.Rename(s.file.Name(), path); err != nil {
		return diskError(err)
	}
	s.kept = true
	if err := syncDir(folder); err != nil {
		return diskError(err)
	}
	return nil
}

// remove deletes a blob; one that is gone is no error.
func (f *Files) remove(digest string) error {
	path := f.path(digest)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// errDamaged is what read answers for a blob that is missing or is not what
// its name says: nothing that trying again would mend.
var errDamaged = errors.New("the blob is missing or changed")

// read returns the blob with that digest and size, verified.
func (f *Files) read(ctx context.Context, digest string, size int64) ([]byte, error) {
	file, err := openPlain(f.path(digest))
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%w: it is missing", errDamaged)
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENXIO): // a symbolic link, a socket
		return nil, fmt.Errorf("%w: it is no regular file", errDamaged)
	case err != nil:
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: it is no regular file", errDamaged)
	}
	// The size comes first: what to allocate is the catalogue's word, not the
	// disk's.
	if info.Size() != size {
		return nil, fmt.Errorf("%w: it has %d bytes instead of %d", errDamaged, info.Size(), size)
	}
	data := make([]byte, size)
	hash := sha256.New()
	for rest := data; len(rest) > 0; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		chunk := rest[:min(len(rest), 4<<20)]
		switch _, err := io.ReadFull(file, chunk); {
		case err == io.EOF || err == io.ErrUnexpectedEOF: // cut under our hands
			return nil, fmt.Errorf("%w: it ends early", errDamaged)
		case err != nil:
			return nil, err
		}
		hash.Write(chunk)
		rest = rest[len(chunk):]
	}
	if hex.EncodeToString(hash.Sum(nil)) != digest {
		return nil, fmt.Errorf("%w: its contents changed", errDamaged)
	}
	return data, nil
}

// swept says what sweep did.
type swept struct {
	temporary, orphans int
	kept               int // orphans left alone since no blob at all is known
}

// sweep removes temporary files and blobs that no version has. It must run
// before the first Stage. When known is empty and there are several blobs, a
// wrong or restored database is likelier than that much rubbish, and they stay.
func (f *Files) sweep(known map[string]bool) (swept, error) {
	var done swept
	entries, err := os.ReadDir(f.tmp)
	if err != nil {
		return done, err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(f.tmp, e.Name())); err != nil {
			return done, err
		}
		done.temporary++
	}
	orphans, err := f.orphans(known)
	if err != nil {
		return done, err
	}
	if len(known) == 0 && len(orphans) > 1 {
		done.kept = len(orphans)
		return done, nil
	}
	for _, digest := range orphans {
		if err := f.remove(digest); err != nil {
			return done, err
		}
		done.orphans++
	}
	return done, nil
}

// orphans lists the digests of blobs that are not known.
func (f *Files) orphans(known map[string]bool) ([]string, error) {
	var found []string
	folders, err := os.ReadDir(f.blobs)
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		if !folder.IsDir() || len(folder.Name()) != 2 {
			continue
		}
		blobs, err := os.ReadDir(filepath.Join(f.blobs, folder.Name()))
		if err != nil {
			return nil, err
		}
		for _, b := range blobs {
			name := b.Name()
			if isDigest(name) && name[:2] == folder.Name() && !known[name] {
				found = append(found, name)
			}
		}
	}
	return found, nil
}

func (f *Files) path(digest string) string { return filepath.Join(f.blobs, digest[:2], digest) }

func isDigest(s string) bool {
	if len(s) != digestLen {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// syncDir makes the names in a folder durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// diskError tells a full disk (also a used-up quota or the process's own limit
// on file sizes) from other faults.
func diskError(err error) error {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, full) {
			return ErrNoSpace.Because(err)
		}
	}
	return ErrUnavailable.Because(err)
}

// bytesText writes a size for people, to a tenth of its unit.
func bytesText(n int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= unit.size {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(unit.size)), ".0") + " " + unit.name
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
