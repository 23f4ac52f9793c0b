package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// unfinished names master keys on their way, which only makeMasterKey makes.
const unfinished = ".master-*.new"

// sweepKeys removes what a start that was killed while it made the master key
// left in dir: the key under a second name, or half of one. While another start
// is at it, all stays. In a folder that this user may not list, such as one of
// secrets that others put there, he has made nothing.
func sweepKeys(dir string) error {
	names, err := leftovers(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil || len(names) == 0 {
		return err
	}
	unlock, err := lockDir(dir, false)
	if err != nil {
		return nil
	}
	defer unlock()
	return removeLeftovers(dir)
}

// removeLeftovers needs the lock of dir.
func removeLeftovers(dir string) error {
	names, err := leftovers(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("what a start that was killed left, perhaps the key itself, can't be removed: %w", err)
		}
	}
	return nil
}

func leftovers(dir string) (names []string, err error) {
	list, err := os.ReadDir(dir) // no pattern: the folder's name may look like one
	if err != nil {
		return nil, err
	}
	before, after, _ := strings.Cut(unfinished, "*")
	for _, f := range list {
		if f.Type().IsRegular() && strings.HasPrefix(f.Name(), before) && strings.HasSuffix(f.Name(), after) {
			names = append(names, filepath.Join(dir, f.Name()))
		}
	}
	return names, nil
}
