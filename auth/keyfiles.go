package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Earlier versions kept signing keys as files in the data folder. What follows
// takes them over.

const keyBlock = "PRIVATE KEY" // PKCS #8

// keyFile is a signing key of an earlier version.
type keyFile struct {
	name    string
	private ed25519.PrivateKey
}

func (f keyFile) id() string { return thumbprint(f.private.Public().(ed25519.PublicKey)) }

// begin makes the first key, or takes over those that are files, where the Store
// has none, and returns the keys of the Store. Of the files the one with the last
// name signs, as it did; the others verify what they have signed.
func (k *Keyring) begin(ctx context.Context) ([]SigningKey, error) {
	files, err := readKeyFiles(k.cfg.Dir)
	if err != nil {
		return nil, err
	}
	rows, err := k.cfg.Store.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		if rows, err = k.first(ctx, files); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		if !slices.ContainsFunc(rows, func(row SigningKey) bool { return row.ID == f.id() }) {
			return nil, fmt.Errorf("%s is not one of the keys in the database, where they are kept now; remove it, and make new keys with 'modelgate signing-key rotate'", f.name)
		}
	}
	for _, f := range files {
		if err := os.Remove(f.name); err != nil {
			return nil, fmt.Errorf("it is in the database now, sealed, and must not lie about in clear: %w", err)
		}
		k.cfg.Logger.Info("a signing key was taken over into the database, and its file removed", "kid", f.id())
	}
	return rows, nil
}

// first stores the first keys; of servers that start at once one does.
func (k *Keyring) first(ctx context.Context, files []keyFile) ([]SigningKey, error) {
	now := k.cfg.Now().UTC().Truncate(time.Microsecond)
	var keys []SigningKey
	for i, f := range files {
		key := k.seal(f.private, now)
		key.ActiveAt = now.Add(-time.Duration(len(files)-1-i) * time.Second)
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		key, err := k.newKey(now)
		if err != nil {
			return nil, err
		}
		key.ActiveAt = now
		keys = append(keys, key)
	}
	return k.cfg.Store.UpdateSigningKeys(ctx, func(old []SigningKey) ([]SigningKey, error) {
		if len(old) > 0 {
			return old, nil
		}
		return k.settled(slices.Clone(keys), now), nil
	})
}

// readKeyFiles reads the *.pem of a folder, in the order of their names. Files
// that others may read, and a folder that they may write to, are refused.
func readKeyFiles(dir string) ([]keyFile, error) {
	if dir == "" {
		return nil, nil
	}
	list, err := os.ReadDir(dir) // in order, and no pattern: the folder's name may look like one
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, f := range list {
		if filepath.Ext(f.Name()) == ".pem" {
			names = append(names, filepath.Join(dir, f.Name()))
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	if err := refuseWritable(dir, "the signing keys"); err != nil {
		return nil, err
	}
	var files []keyFile
	for _, name := range names {
		private, err := readKeyFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, keyFile{name, private})
	}
	return files, nil
}

func readKeyFile(name string) (ed25519.PrivateKey, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("others than its owner may use %s (mode %#o): run chmod 600 %s; if somebody may have read it, remove it, and a new one is made (clients refresh their tokens)", name, mode, name)
	}
	b := make([]byte, 4096)
	n, err := f.Read(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	block, _ := pem.Decode(b[:n])
	if block == nil || block.Type != keyBlock {
		return nil, fmt.Errorf("%s: not a PEM file with a %q; remove it, and a new key is made if it was the only one", name, keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s: not an Ed25519 key in PKCS #8", name)
	}
	return private, nil
}
