package store

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"
)

// children are what this test binary does instead of testing when it starts itself again: the other process that holds the
// file, is killed, or has no room left.
var children = map[string]func(ctx context.Context, path string) error{
	"admin": childAdmin,
	"lock":  childLock,
	"write": childWrite,
	"full":  childFull,
}

const childVariable = "MODELGATE_STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if run := children[os.Getenv(childVariable)]; run != nil {
		if err := run(context.Background(), os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// A child is another process at the same file.
type child struct {
	*exec.Cmd
	lines *bufio.Scanner // what it says
	input io.Closer      // it ends when this does
}

func start(t *testing.T, what, path string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0], path)}
	c.Env = append(os.Environ(), childVariable+"="+what)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.input, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	c.lines = bufio.NewScanner(out)
	return c
}

// line waits for the child to say something.
func (c *child) line(t *testing.T) string {
	t.Helper()
	if !c.lines.Scan() {
		t.Fatalf("the child ended: %v", c.lines.Err())
	}
	return c.lines.Text()
}

// end lets the child go and waits for it.
func (c *child) end(t *testing.T) {
	t.Helper()
	c.input.Close()
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
}

// childAdmin takes the lock of administration and does not let go of it.
func childAdmin(ctx context.Context, path string) error {
	db, err := Open(ctx, path, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.LockAdmin(ctx); err != nil {
		return err
	}
	fmt.Println("locked")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// childLock holds the file against everybody until its input ends.
func childLock(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, `BEGIN EXCLUSIVE`); err != nil {
		return err
	}
	fmt.Println("locked")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, `ROLLBACK`)
	return err
}
