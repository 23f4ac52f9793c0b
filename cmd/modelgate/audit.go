package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"modelgate/audit"
	"modelgate/client"
	"modelgate/store"
)

// AuditCmd is about the audit log.
type AuditCmd struct {
	List   AuditListCmd   `cmd:"" help:"Show the newest records (needs audit:read)."`
	Export AuditExportCmd `cmd:"" help:"Write the records as JSON lines, the oldest first."`
	Verify AuditVerifyCmd `cmd:"" help:"Check hash chain and signed heads on the data folder: edited, removed and cut records are found."`
	Key    AuditKeyCmd    `cmd:"" help:"Show the public key of signed heads, to be kept elsewhere."`
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
	PublicKey string   `name:"public-key" type:"existingfile" placeholder:"FILE" help:"Public keys (PEM), as 'modelgate audit key' printed them, that signed heads are checked with. Default: the key in the data folder."`
	Head      []string `name:"head" placeholder:"HEAD|@FILE" help:"A signed head that was kept elsewhere, or a file with any text that holds some, such as a collected log; '@-' for standard input. The log must still have them."`
}

func (c *AuditVerifyCmd) Run(ctx context.Context, s std) error {
	key, err := audit.ReadKey(c.auditKeyPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	check := audit.Check{}
	if key != nil {
		check.Keys = key.Keys()
	}
	if c.PublicKey != "" {
		text, err := os.ReadFile(c.PublicKey)
		if err != nil {
			return err
		}
		if check.Keys, err = audit.ParsePublicKeys(text); err != nil {
			return usageError{fmt.Errorf("--public-key %s: %w", c.PublicKey, err)}
		}
	}
	if check.Heads, err = readHeads(s, c.Head); err != nil {
		return err
	}
	if check.Head, err = c.savedHead(ctx, key); err != nil { // before the log: a running server may add to both
		return err
	}
	report, err := audit.VerifyFiles(ctx, c.auditPath(), check)
	if err != nil {
		return err
	}
	if report.Files == 0 && report.Problem == "" {
		fmt.Fprintln(s.out, "There is no audit log yet.")
		return nil
	}
	if err := c.show(s, report, func(w io.Writer) {
		if report.Problem == "" {
			fmt.Fprintln(w, verified(report))
		}
	}); err != nil {
		return err
	}
	if report.Problem != "" {
		return fmt.Errorf("the log is damaged at record %d: %s; keep the files as evidence and look at what happened before %s",
			report.At, strings.TrimSuffix(report.Problem, "."), "you trust later records")
	}
	return nil
}

// savedHead is the head that the database knows of the log with that key; of a
// folder without a key, that of the log without a name or of the only one.
func (c *AuditVerifyCmd) savedHead(ctx context.Context, key *audit.Key) (audit.Head, error) {
	db, err := store.Open(ctx, c.DatabasePath(), discardLogs())
	if err != nil {
		return audit.Head{}, err
	}
	defer db.Close()
	heads, err := db.AuditHeads(ctx)
	if err != nil {
		return audit.Head{}, err
	}
	if head, ok := heads[key.ID()]; ok {
		return head, nil
	}
	if head, ok := heads[""]; ok {
		return head, nil
	}
	if len(heads) == 0 {
		return audit.Head{}, nil
	}
	return audit.Head{}, fmt.Errorf("the database knows no log with the key of this folder (%s), but %s of others; put the key of the log back",
		auditKeyPath(c.Data), count(len(heads), "log", "logs"))
}

// readHeads finds signed heads in what --head gave.
func readHeads(s std, words []string) ([]audit.SignedHead, error) {
	var heads []audit.SignedHead
	for _, word := range words {
		text := []byte(word)
		if name, ok := strings.CutPrefix(word, "@"); ok {
			var err error
			if name == "-" {
				text, err = io.ReadAll(s.in)
			} else {
				text, err = os.ReadFile(name)
			}
			if err != nil {
				return nil, err
			}
		}
		found := audit.FindHeads(string(text))
		if len(found) == 0 {
			return nil, usageError{fmt.Errorf("--head %s holds no signed head; it is a word that begins with modelgate-head-1:, as the server's log has it", word)}
		}
		heads = append(heads, found...)
	}
	return heads, nil
}

// verified says what a report without a problem proves. A log whose first files
// were moved away says nothing about the records in those.
func verified(r audit.Report) string {
	text := fmt.Sprintf("The log is whole: %s, none edited, removed or cut.", count(int(r.Records), "record", "records"))
	if r.Signed > 0 {
		text += fmt.Sprintf("\nSigned up to record %d, at %s.", r.Signed, r.SignedAt.Format(time.RFC3339))
	}
	if r.Kept > 0 {
		text += fmt.Sprintf("\nIt has %s kept elsewhere.", count(r.Kept, "signed head", "signed heads"))
	}
	if r.Older > 0 {
		text += fmt.Sprintf("\n%s of records that are not here: nothing can be said of them.", count(r.Older, "head given is", "heads given are"))
	}
	if first := r.Head.Seq - r.Records + 1; r.Records > 0 && first > 1 {
		text += fmt.Sprintf("\nIt continues after record %d: the records up to that one are not in this folder. Verify them where they were moved to.", first-1)
	}
	return text
}

// AuditKeyCmd shows the key that signed heads are checked with.
type AuditKeyCmd struct{ Place }

func (c *AuditKeyCmd) Run(s std) error {
	key, err := audit.ReadKey(c.auditKeyPath())
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no key of the audit log in %s yet; the server makes it at its start", c.Data)
	}
	if err != nil {
		return err
	}
	_, err = s.out.Write(key.Public())
	return err
}

// AuditExportCmd is GET /admin/audit/export, or with --data the same from the
// files.
type AuditExportCmd struct {
	Data  string `type:"path" placeholder:"DIR" help:"Read the files of this data folder, without the server. Default: ask the server (needs audit:read)."`
	Since string `placeholder:"TIME" help:"Only records of this moment and later, as in 2026-03-01 or 2026-03-01T12:00:00Z."`
	Until string `placeholder:"TIME" help:"Only records before this moment."`
}

func (c *AuditExportCmd) Run(ctx context.Context, s std) error {
	var r audit.Range
	var err error
	for _, end := range []struct {
		flag, text string
		to         *time.Time
	}{{"since", c.Since, &r.Since}, {"until", c.Until, &r.Until}} {
		if *end.to, err = parseMoment(end.text); err != nil {
			return usageError{fmt.Errorf("--%s %q is no time; write it as 2026-03-01 (UTC) or 2026-03-01T12:00:00Z", end.flag, end.text)}
		}
	}
	if c.Data != "" {
		if _, err := os.Stat(auditPath(c.Data)); err != nil {
			return fmt.Errorf("no audit log in %s; name its folder with --data", c.Data)
		}
		out := bufio.NewWriterSize(s.out, 64<<10)
		if _, err := audit.Export(ctx, auditPath(c.Data), r, out); err != nil {
			return err
		}
		return out.Flush()
	}
	api, err := connect()
	if err != nil {
		return err
	}
	return api.ExportAudit(ctx, r.Since, r.Until, s.out)
}

// parseMoment reads a moment, or a day in UTC; the empty text is the zero time.
func parseMoment(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day, nil
	}
	return time.Parse(time.RFC3339, text)
}

// count writes "1 record" or "2 records".
func count(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + more
}

func discardLogs() *slog.Logger { return slog.New(slog.DiscardHandler) }
