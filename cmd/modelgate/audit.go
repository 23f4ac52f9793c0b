package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"modelgate/audit"
	"modelgate/client"
	"modelgate/store"
)

// AuditCmd is about the audit log.
type AuditCmd struct {
	List   AuditListCmd   `cmd:"" help:"Show the newest records (needs audit:read)."`
	Verify AuditVerifyCmd `cmd:"" help:"Check the hash chain on the data folder: edited, removed and cut records are found."`
}

// AuditListCmd is GET /admin/audit.
type AuditListCmd struct {
	Output
	Actor  string `placeholder:"NAME" help:"Only this user."`
	Action string `placeholder:"ACTION" help:"Only this action, as in user.login."`
	Limit  int    `short:"n" default:"50" help:"How many records."`
}

func (c *AuditListCmd) Run(ctx context.Context, s std) error {
	api, err := connect()
	if err != nil {
		return err
	}
	list, err := api.Audit(ctx, client.AuditQuery{Actor: c.Actor, Action: c.Action, Limit: c.Limit})
	if err != nil {
		return err
	}
	return c.show(s, orEmpty(list), func(w io.Writer) {
		fmt.Fprintln(w, "TIME\tACTOR\tACTION\tTARGET\tOUTCOME\tREASON\tCOUNT\tADDRESS")
		for _, e := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", e.Time.Local().Format("2006-01-02 15:04:05"),
				dash(printable(e.Actor)), e.Action, dash(printable(e.Target)), e.Outcome, dash(e.Reason), e.Count, dash(e.Address))
		}
	})
}

// AuditVerifyCmd reads the log and the database, changes neither, and may run
// beside the server.
type AuditVerifyCmd struct {
	Place
	Output
}

func (c *AuditVerifyCmd) Run(ctx context.Context, s std) error {
	db, err := store.Open(ctx, c.DatabasePath(), discardLogs())
	if err != nil {
		return err
	}
	defer db.Close()
	head, err := db.AuditHead(ctx) // before the log: a running server may add to both
	if err != nil {
		return err
	}
	f, err := os.Open(c.auditPath())
	if errors.Is(err, os.ErrNotExist) && head.Seq == 0 {
		fmt.Fprintln(s.out, "There is no audit log yet.")
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	report, err := audit.Verify(f, head)
	if err != nil {
		return err
	}
	if err := c.show(s, report, func(w io.Writer) {
		if report.Problem == "" {
			fmt.Fprintln(w, verified(report))
		}
	}); err != nil {
		return err
	}
	if report.Problem != "" {
		return fmt.Errorf("the log is damaged at record %d: %s; keep the file as evidence and look at what happened before %s",
			report.At, strings.TrimSuffix(report.Problem, "."), "you trust later records")
	}
	return nil
}

// verified says what a report without a problem proves. A file that was begun
// after another was moved away says nothing about the records in that one.
func verified(r audit.Report) string {
	text := fmt.Sprintf("The log is whole: %s, none edited, removed or cut.", count(int(r.Records), "record", "records"))
	if first := r.Head.Seq - r.Records + 1; r.Records > 0 && first > 1 {
		text += fmt.Sprintf("\nIt continues after record %d: the records up to that one are not in this file. Verify them in the file that was moved away.", first-1)
	}
	return text
}

// count writes "1 record" or "2 records".
func count(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + more
}

func discardLogs() *slog.Logger { return slog.New(slog.DiscardHandler) }
