package audit

import (
	"errors"
	"fmt"
	"os"

	"github.com/prometheus/client_golang/prometheus"
)

// intact says whether the file at the log's path is the one that is open, and
// as it was left: a log that is removed, replaced, cut, added to or edited at its
// end while the server runs is noticed at the next record, or by Run. With all, or
// while something is wrong, it reads again all of recent. The caller holds commit.
func (l *Log) intact(all bool) error {
	problem := l.changed(all || l.lost != "")
	l.metrics.intact.Set(1)
	if problem == "" {
		l.lost = ""
		return nil
	}
	l.metrics.intact.Set(0)
	err := fmt.Errorf("%w: %s. Nothing that must be recorded is done until this is mended: put the file back as it was, or stop the server and look into it with \"modelgate audit verify\"",
		ErrTampered, problem)
	if l.lost != problem {
		l.cfg.Logger.Error("the audit log was changed while the server runs; administration and sign-in are refused", "problem", problem)
		l.lost = problem
	}
	return err
}

// changed says what is wrong with the file, or "".
func (l *Log) changed(all bool) string {
	named, err := os.Lstat(l.cfg.Path)
	if errors.Is(err, os.ErrNotExist) {
		return "the file is gone"
	}
	ours, oursErr := l.file.Stat()
	if err := errors.Join(err, oursErr); err != nil {
		return "the file can't be looked at: " + err.Error()
	}
	if !os.SameFile(named, ours) {
		return "another file stands in its place"
	}
	if size := l.size.Load(); ours.Size() < size {
		return fmt.Sprintf("it was cut from %d bytes to %d", size, ours.Size())
	} else if ours.Size() > size {
		return fmt.Sprintf("it has grown from %d bytes to %d by another's hand", size, ours.Size())
	}
	return l.recent.changed(l.file, all)
}

// metrics are the room's counters. Labels take few values.
type metrics struct {
	records  *prometheus.CounterVec // by outcome
	failures *prometheus.CounterVec // by reason
	intact   prometheus.Gauge
	heads    prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "modelgate_audit_records_total", Help: "Records written to the audit log, by outcome."}, []string{"outcome"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "modelgate_audit_failures_total", Help: "Groups of records that could not be written: the disk failed (write), or the file was changed by others (tampered)."}, []string{"reason"}),
		intact: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "modelgate_audit_intact", Help: "1: the audit log is as it was left. 0: it was removed, replaced, cut, added to or edited while the server runs."}),
		heads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "modelgate_audit_heads_total", Help: "Signed heads written to the audit log."}),
	}
	m.intact.Set(1)
	for _, o := range []Outcome{Allowed, Denied, Failed} {
		m.records.WithLabelValues(string(o)) // a rise from nothing to 1 would not be seen
	}
	for _, reason := range []string{"write", "tampered"} {
		m.failures.WithLabelValues(reason)
	}
	return m
}

// failed counts a group of records that could not be written.
func (m *metrics) failed(err error) {
	reason := "write"
	if errors.Is(err, ErrTampered) {
		reason = "tampered"
	}
	m.failures.WithLabelValues(reason).Inc()
}

// Collectors are the room's metrics, for the server to register.
func (l *Log) Collectors() []prometheus.Collector {
	m := l.metrics
	return []prometheus.Collector{m.records, m.failures, m.intact, m.heads}
}
