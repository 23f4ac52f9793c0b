package store

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"modelgate/auth"
	"modelgate/store/storetest"
)

// whole are the statements that mean to read a whole table, by how they begin. All others must find their rows by an index,
// so that they cost the same with a million users.
var whole = []string{
	"SELECT name, permissions, rate, daily_rows, builtin, created_at FROM roles ORDER BY name",
	"SELECT id, sealed, created_at, active_at, retire_at FROM signing_keys ORDER BY", // three or so
	"SELECT id, name, description, owner_id, disclosure, serving, default_version, next_version, created_at, updated_at FROM models ORDER BY name",
	"SELECT model_id, role FROM model_roles ORDER BY",
	"SELECT model_id, role, rule FROM model_rules",
	"SELECT model_id, alias, number FROM model_aliases",
	"SELECT log, seq, hash FROM audit_heads", // a row for each server
	"SELECT model_id, number, id, digest, size, state, reason, signature, facts, created_by, created_at FROM versions ORDER BY",
}

// TestSQLite runs the conformance suite, and asks the database how it runs every statement of it.
func TestSQLite(t *testing.T) {
	var mu sync.Mutex
	statements := map[string]bool{} // guarded by mu
	t.Run("suite", func(t *testing.T) {
		storetest.RunTests(t, func(t *testing.T) storetest.Store {
			db := open(t)
			db.trace = func(query string) {
				mu.Lock()
				defer mu.Unlock()
				statements[strings.Join(strings.Fields(query), " ")] = true
			}
			return db
		})
	})
	t.Run("plans", func(t *testing.T) { checkPlans(t, statements) })
}

func checkPlans(t *testing.T, statements map[string]bool) {
	db := open(t)
	if len(statements) < 40 {
		t.Errorf("only %d statements were seen", len(statements))
	}
	for statement := range statements {
		scans := scansOf(t, db, statement)
		meant := slices.ContainsFunc(whole, func(start string) bool {
			return strings.HasPrefix(statement, start) && !strings.Contains(statement, "WHERE")
		})
		if meant == (len(scans) == 0) {
			t.Errorf("%s\nscans %q", statement, scans)
		}
	}
	// The test would see a statement that scans.
	if len(scansOf(t, db, `SELECT id FROM users WHERE password_hash = ?`)) == 0 {
		t.Error("a scan was not found")
	}
}

// scansOf returns the steps of a statement that walk over a whole table or sort without an index.
func scansOf(t *testing.T, db *DB, statement string) (scans []string) {
	t.Helper()
	args := make([]any, strings.Count(statement, "?"))
	rows, err := db.writer.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+statement, args...)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(step, "SCAN") && step != "SCAN CONSTANT ROW" {
			scans = append(scans, step)
		}
	}
	return scans
}

// Each reference is indexed on its own side too: the removal of what it refers to would walk the table otherwise.
func TestReferencesAreIndexed(t *testing.T) {
	db := open(t)
	references := column(t, db, `
		SELECT m.name || '(' || (SELECT group_concat("from", ',') FROM
			(SELECT "from" FROM pragma_foreign_key_list(m.name) WHERE id = f.id ORDER BY seq)) || ')'
		FROM sqlite_schema m, pragma_foreign_key_list(m.name) f WHERE m.type = 'table' AND f.seq = 0`)
	indexes := column(t, db, `
		SELECT m.name || '(' || (SELECT group_concat(name, ',') FROM
			(SELECT name FROM pragma_index_info(i.name) ORDER BY seqno)) || ')'
		FROM sqlite_schema m, pragma_index_list(m.name) i WHERE m.type = 'table' AND NOT i.partial`)
	if len(references) < 12 {
		t.Fatalf("references: %q", references)
	}
	for _, reference := range references {
		start := strings.TrimSuffix(reference, ")")
		if !slices.ContainsFunc(indexes, func(index string) bool {
			return index == reference || strings.HasPrefix(index, start+",")
		}) {
			t.Errorf("no index for %s", reference)
		}
	}
}

// column returns a column of text.
func column(t *testing.T, db *DB, query string, args ...any) (list []string) {
	t.Helper()
	rows, err := db.readers.QueryContext(t.Context(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

// A million users, each with a session, cost a lookup no more than a thousand do.
func BenchmarkUsers(b *testing.B) {
	for _, users := range []int{1_000, 1_000_000} {
		db, err := Open(b.Context(), b.TempDir()+"/modelgate.db", nil)
		if err != nil {
			b.Fatal(err)
		}
		for _, statement := range []string{
			`INSERT INTO users SELECT printf('id%07d', value), printf('user%07d', value), 'x', 0, 0, 0 FROM generate_series`,
			`INSERT INTO user_roles SELECT id, 'user' FROM users`,
			`INSERT INTO sessions SELECT printf('s%07d', value), printf('id%07d', value), '', '', '', 0, 0, 0, 4102444800000000 FROM generate_series`,
		} {
			series := fmt.Sprintf(`WITH RECURSIVE generate_series (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM generate_series WHERE value < %d) `, users)
			if _, err := db.writer.Exec(series + statement); err != nil {
				b.Fatal(err)
			}
		}
		n := 0
		for name, call := range map[string]func(i int) error{
			"UserByName": func(i int) error { _, err := db.UserByName(b.Context(), fmt.Sprintf("user%07d", i)); return err },
			"Session":    func(i int) error { _, err := db.Session(b.Context(), fmt.Sprintf("s%07d", i)); return err },
			"Users":      func(i int) error { _, err := db.Users(b.Context(), fmt.Sprintf("user%07d", i), 50); return err },
			"CreateSession": func(i int) error {
				n++
				id := fmt.Sprint("new", n)
				session := auth.Session{ID: id, UserID: fmt.Sprintf("id%07d", i), ExpiresAt: far}
				_, err := db.CreateSession(b.Context(), session, auth.RefreshToken{Hash: secret(id), ExpiresAt: far}, auth.Displaced{Most: 50})
				return err
			},
		} {
			b.Run(fmt.Sprintf("%s/%d", name, users), func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					if err := call(i*7919%users + 1); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
