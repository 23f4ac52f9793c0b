// Command fill makes a stored modelgate large, for the benchmarks of growth: it
// copies the user "caller" and one model inside the database of a server that is
// stopped, and gives the first thousand users an API key each. Making a million
// users and a thousand models through the API would take hours, most of it
// password hashing and trial runs.
//
// It knows the tables of store/migrations, hence its place outside the rooms; it
// must never be pointed at a database that anyone needs.
package main

import (
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"log"
	"math/big"
	"os"
	"slices"
	"strings"

	_ "modernc.org/sqlite"
)

// Filled is what fill prints.
type Filled struct {
	Users, Models int      // there are now, those of the server's own included
	Keys          []string // one for each active user
}

func main() {
	log.SetFlags(0)
	path := flag.String("db", "", "the database")
	users := flag.Int("users", 1, "callers to be there afterwards")
	active := flag.Int("active", 1, "how many of them get a key")
	models := flag.Int("models", 1, "models to be there afterwards")
	model := flag.String("model", "", "the model to copy")
	flag.Parse()
	filled, err := fill(*path, *model, *users, *active, *models)
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(filled); err != nil {
		log.Fatal(err)
	}
}

func fill(path, model string, users, active, models int) (filled Filled, err error) {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=synchronous(OFF)&_pragma=foreign_keys(OFF)&_pragma=cache_size(-200000)")
	if err != nil {
		return filled, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	tx, err := db.Begin()
	if err != nil {
		return filled, err
	}
	defer func() { _ = tx.Rollback() }() // it may be committed
	f := filler{tx: tx}
	var user, original string
	f.one("SELECT id FROM users WHERE username = 'caller'", &user)
	f.one("SELECT id FROM models WHERE name = '"+model+"'", &original)
	const userID, modelID = "printf('u_bench%015d', i)", "printf('m_bench%015d', i)"
	f.copy("users", "id = '"+user+"'", users, map[string]string{"id": userID, "username": "printf('caller%d', i)"})
	f.copy("user_roles", "user_id = '"+user+"'", users, map[string]string{"user_id": userID})
	f.copy("models", "id = '"+original+"'", models, map[string]string{"id": modelID, "name": "printf('" + model + "-%d', i)"})
	f.copy("versions", "model_id = '"+original+"'", models, map[string]string{"model_id": modelID, "id": "printf('v_bench%015d', i)"})
	f.copy("model_roles", "model_id = '"+original+"'", models, map[string]string{"model_id": modelID})
	for i := range active {
		id, key := user, secret()
		if i > 0 {
			id = fmt.Sprintf("u_bench%015d", i+1)
		}
		hash := sha256.Sum256([]byte(key))
		f.exec("INSERT INTO api_keys (id, user_id, name, hash, created_at) VALUES (?, ?, 'bench', ?, unixepoch() * 1000000)",
			fmt.Sprintf("k_bench%015d", i), id, hash[:])
		filled.Keys = append(filled.Keys, key)
	}
	f.one("SELECT count(*) FROM users", &filled.Users)
	f.one("SELECT count(*) FROM models", &filled.Models)
	if f.err != nil {
		return filled, f.err
	}
	return filled, tx.Commit()
}

// filler runs statements until one fails.
type filler struct {
	tx  *sql.Tx
	err error
}

func (f *filler) exec(statement string, args ...any) {
	if f.err == nil {
		if _, f.err = f.tx.Exec(statement, args...); f.err != nil {
			f.err = fmt.Errorf("%s: %w", statement, f.err)
		}
	}
}

func (f *filler) one(query string, into any) {
	if f.err == nil {
		if f.err = f.tx.QueryRow(query).Scan(into); f.err != nil {
			f.err = fmt.Errorf("%s: %w", query, f.err)
		}
	}
}

// copy repeats the rows of a table that the condition names, until there are n
// of each, with other values in some columns: expressions of i, which counts
// from 2. All other columns, also those of later migrations, are taken over.
func (f *filler) copy(table, condition string, n int, other map[string]string) {
	if f.err != nil || n < 2 {
		return
	}
	rows, err := f.tx.Query("SELECT name FROM pragma_table_info('" + table + "')")
	if err != nil {
		f.err = err
		return
	}
	var names, values []string
	for rows.Next() {
		var name string
		if f.err = rows.Scan(&name); f.err != nil {
			break
		}
		names = append(names, name)
		if expression, ok := other[name]; ok {
			values = append(values, expression)
		} else {
			values = append(values, name)
		}
	}
	if err := rows.Close(); f.err == nil {
		f.err = err
	}
	for name := range other {
		if !slices.Contains(names, name) && f.err == nil {
			f.err = fmt.Errorf("%s has no column %s; fill knows another schema", table, name)
		}
	}
	f.exec(fmt.Sprintf("WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "+
		"INSERT INTO %s (%s) SELECT %s FROM n CROSS JOIN (SELECT * FROM %s WHERE %s)",
		n, table, strings.Join(names, ", "), strings.Join(values, ", "), table, condition))
}

// secret is an API key as auth makes them: 43 digits to the base of 62, and six
// of their CRC-32.
func secret() string {
	var b [32]byte
	rand.Read(b[:])
	body := "mg_" + base62(new(big.Int).SetBytes(b[:]), 43)
	return body + base62(big.NewInt(int64(crc32.ChecksumIEEE([]byte(body)))), 6)
}

func base62(n *big.Int, digits int) string {
	s := n.Text(62)
	return strings.Repeat("0", digits-len(s)) + s
}
