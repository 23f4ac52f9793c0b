package storetest

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/auth"
)

var adminLockTests = []test{{"LockAdmin", testLockAdmin}}

func testLockAdmin(t *testing.T, s Store) {
	ctx := t.Context()
	var inside atomic.Int32
	for i, err := range race(50, func(int) error {
		unlock, err := s.LockAdmin(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		defer inside.Add(-1)
		if inside.Add(1) != 1 {
			t.Error("two have the lock")
		}
		_, err = s.Roles(ctx)
		return err
	}) {
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	unlock, err := s.LockAdmin(ctx)
	ok(t, err)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = s.LockAdmin(short)
	want(t, err, auth.ErrUnavailable)
	addUser(t, s, "ada") // others go on
	unlock()
	unlock, err = s.LockAdmin(ctx)
	ok(t, err)
	unlock()
}
