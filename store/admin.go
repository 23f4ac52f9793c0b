package store

import (
	"context"
	"os"
	"time"

	"modelgate/auth"
)

// adminEvery is how often who waits for another process looks whether it is his turn.
const adminEvery = 2 * time.Millisecond

// LockAdmin implements auth.Store: by a lock on a file beside the database, of which the system lets go when its holder dies.
// It can't be the database's own file: to close that would take SQLite's locks from this process.
func (db *DB) LockAdmin(ctx context.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, db.patience, errPatience)
	defer cancel()
	if err := db.Ping(ctx); err != nil { // also when it was closed
		return nil, err
	}
	f, err := os.OpenFile(db.path+"-admin", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, auth.ErrUnavailable.Because(err)
	}
	again := time.NewTicker(adminEvery)
	defer again.Stop()
	for {
		locked, err := tryLock(f)
		if locked {
			return func() { f.Close() }, nil
		}
		if err == nil {
			select {
			case <-again.C:
				continue
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
		f.Close()
		return nil, auth.ErrUnavailable.Because(err)
	}
}
