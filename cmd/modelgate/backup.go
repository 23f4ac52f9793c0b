package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modelgate/audit"
	"modelgate/store"
)

// databaseName is the database's name in a backup, whatever it was.
const databaseName = "modelgate.db"

// BackupCmd writes one tar file. It may run beside the server: the database
// is copied as of one moment, blobs never change, and the audit log is copied
// after the database, so that it holds every record the database knows.
type BackupCmd struct {
	Place
	Out       string `arg:"" type:"path" help:"The tar file to write; it must not exist. It holds hashes and models: keep it safe."`
	MasterKey bool   `name:"with-master-key" help:"Put the file keys/master.key in too. Who has such a backup has the signing keys. Default: keep the master key elsewhere."`
}

func (c *BackupCmd) Run(ctx context.Context, s std) error {
	out, err := os.OpenFile(c.Out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("can't write the backup to %s: %w; name another file in a folder that you may write to", c.Out, pathReason(err))
	}
	n, err := c.write(ctx, out)
	if err == nil {
		err = out.Sync()
	}
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err != nil {
		os.Remove(c.Out)
		return err
	}
	fmt.Fprintf(s.err, "Wrote %d files to %s.\n", n, c.Out)
	if !c.MasterKey {
		fmt.Fprintln(s.err, "The master key is not among them, and a restored server needs it: keep a copy of it elsewhere.")
	}
	return nil
}

func (c *BackupCmd) write(ctx context.Context, out io.Writer) (files int, err error) {
	db, err := store.Open(ctx, c.DatabasePath(), discardLogs())
	if err != nil {
		return 0, err
	}
	defer db.Close()
	dir, err := os.MkdirTemp(filepath.Dir(c.Out), ".modelgate-backup-*")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	snapshot := filepath.Join(dir, databaseName)
	if err := db.Backup(ctx, snapshot); err != nil {
		return 0, err
	}
	w := tar.NewWriter(out)
	if err := addFile(w, snapshot, databaseName); err != nil {
		return 0, err
	}
	files = 1
	closed := closedAudit(c.Data)
	err = filepath.WalkDir(c.Data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		name, _ := filepath.Rel(c.Data, path)
		if !d.Type().IsRegular() || !inBackup(filepath.ToSlash(name)) || path == masterKeyPath(c.Data) && !c.MasterKey {
			return nil
		}
		files++
		if err := addFile(w, path, filepath.ToSlash(name)); err != nil {
			return fmt.Errorf("%s changed while it was copied; run the backup again: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if closedAudit(c.Data) != closed {
		return 0, errors.New("the audit log went on in a new file while it was copied; run the backup again")
	}
	return files, w.Close()
}

// closedAudit counts the closed files of the audit log.
func closedAudit(data string) (n int) {
	names, err := os.ReadDir(data)
	if err != nil {
		return -1
	}
	for _, name := range names {
		if audit.IsClosedFile(auditName, name.Name()) {
			n++
		}
	}
	return n
}

// inBackup leaves out the live database, whose snapshot is in already, what
// uploads have not finished, and the lock.
func inBackup(name string) bool {
	return name == auditName || audit.IsClosedFile(auditName, name) || strings.HasPrefix(name, "keys/") || strings.HasPrefix(name, "models/blobs/")
}

// addFile copies what the file holds at this moment; a log that grows
// meanwhile is cut at its last whole line by the reader of the restored one.
func addFile(w *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime().Truncate(time.Second), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = io.CopyN(w, f, info.Size())
	return err
}

// RestoreCmd fills an empty data folder.
type RestoreCmd struct {
	In   string `arg:"" type:"existingfile" help:"The tar file that 'modelgate backup' wrote."`
	Data string `env:"MODELGATE_DATA" default:"./data" type:"path" placeholder:"DIR" help:"The data folder; it must be empty or missing. Default: ${default}."`
}

func (c *RestoreCmd) Run(ctx context.Context, s std) (err error) {
	if entries, err := os.ReadDir(c.Data); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty; move what is in it away, or name another folder with --data", c.Data)
	}
	in, err := os.Open(c.In)
	if err != nil {
		return err
	}
	defer in.Close()
	// Everything goes to a folder beside the last one first: a restore that
	// stops halfway leaves no half data folder.
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(c.Data)), 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(filepath.Clean(c.Data)), ".modelgate-restore-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	n, err := extract(ctx, in, dir)
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, filepath.Join(dir, databaseName), discardLogs())
	if err != nil {
		return fmt.Errorf("the backup's database can't be used: %w", err)
	}
	if err := db.Close(); err != nil {
		return err
	}
	if err := os.Remove(c.Data); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(dir, c.Data); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "Restored %d files to %s.\n", n, c.Data)
	if _, err := os.Stat(masterKeyPath(c.Data)); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(s.err, "The backup held no master key: put the one of that time to %s (mode 0600), or give it by --master-key-file or MODELGATE_MASTER_KEY.\n", masterKeyPath(c.Data))
	}
	fmt.Fprintf(s.err, "Run 'modelgate audit verify --data %s', then start the server.\n", c.Data)
	return nil
}

var errNoBackup = errors.New("this is no whole backup: the file was cut short or is another; copy it again, or take an earlier one")

// notWhole leaves the disk's own errors as they are; all others of reading a
// tar file mean the same to who restores one.
func notWhole(err error) error {
	var disk *fs.PathError
	if errors.As(err, &disk) {
		return err
	}
	return errNoBackup
}

// extract writes the files of a backup below dir and nowhere else.
func extract(ctx context.Context, in io.Reader, dir string) (files int, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	r := tar.NewReader(in)
	database := false
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, notWhole(err)
		}
		if h.Typeflag != tar.TypeReg || h.Name != databaseName && !inBackup(h.Name) {
			return 0, fmt.Errorf("this is no backup of modelgate: it holds %q", h.Name)
		}
		database = database || h.Name == databaseName
		if err := extractFile(ctx, root, h.Name, r); err != nil {
			return 0, err
		}
		files++
	}
	if !database {
		return 0, fmt.Errorf("%w: it holds no database", errNoBackup)
	}
	return files, nil
}

func extractFile(ctx context.Context, root *os.Root, name string, r io.Reader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return notWhole(err)
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
