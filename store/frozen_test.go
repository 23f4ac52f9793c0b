package store

import (
	"bytes"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/models"
)

var update = flag.Bool("update", false, "freeze the newest schema, if testdata has it not yet")

// Databases of every schema that was ever released, with a row in each table, are brought forward and read. They are
// written once, with -update, and never again.
func TestFrozenSchemas(t *testing.T) {
	fresh := open(t)
	newest := version(t, fresh)
	if name := frozen(newest); *update {
		if _, err := os.Stat(name); err == nil {
			t.Fatalf("%s is frozen; a change of the schema is a new migration", name)
		}
		fillFrozen(t, fresh)
		if err := os.WriteFile(name, dump(t, fresh), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := schema(t, open(t))
	all := kept(t)
	if !slices.Contains(all, newest) {
		t.Errorf("schema %d is not frozen; once it changes no more: go test ./store -run TestFrozenSchemas -update", newest)
	}
	for _, v := range all {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "modelgate.db")
			thaw(t, frozen(v), path)
			db := openAt(t, path)
			if got := version(t, db); got != newest {
				t.Errorf("schema %d; want %d", got, newest)
			}
			if got := schema(t, db); !slices.Equal(got, want) {
				t.Errorf("brought forward, the schema is\n%s\nbut a fresh one is\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			checkIntegrity(t, db)
			checkFrozen(t, db, v)
			checkFrozenAdditions(t, db, v)
			openAt(t, path) // once forward, there is nothing to do
		})
	}
}

// kept lists the schemas in testdata.
func kept(t *testing.T) (list []int) {
	t.Helper()
	files, err := filepath.Glob("testdata/schema_*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("no schema is frozen: %v", err)
	}
	for _, name := range files {
		var v int
		if _, err := fmt.Sscanf(name, "testdata/schema_%d.sql", &v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		list = append(list, v)
	}
	return list
}

func frozen(version int) string { return fmt.Sprintf("testdata/schema_%d.sql", version) }

// thaw makes a database of a frozen one.
func thaw(t *testing.T, from, path string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(string(text)); err != nil {
		t.Fatal(err)
	}
	rows, err := db.Query(`SELECT name FROM sqlite_schema WHERE type = 'table'`)
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, name)
	}
	for _, name := range tables {
		var n int
		if err := db.QueryRow(`SELECT count(*) FROM "` + name + `"`).Scan(&n); err != nil || n == 0 {
			t.Errorf("%s: %d rows in %s, %v", from, n, name, err)
		}
	}
}

// schema describes tables, references, indexes and triggers, and what is built in.
func schema(t *testing.T, db *DB) []string {
	t.Helper()
	list := column(t, db, `
		SELECT m.name || '.' || c.name || ' ' || c.type || ' null ' || (1 - c."notnull") || ' key ' || c.pk || ' default ' || coalesce(c.dflt_value, '-')
		FROM sqlite_schema m, pragma_table_xinfo(m.name) c WHERE m.type = 'table'
		UNION ALL
		SELECT m.name || ' (' || f."from" || ') to ' || f."table" || ' (' || f."to" || ') delete ' || f.on_delete || ' place ' || f.seq
		FROM sqlite_schema m, pragma_foreign_key_list(m.name) f WHERE m.type = 'table'
		UNION ALL
		SELECT m.name || ' index ' || i.name || ' unique ' || i."unique" || ' partial ' || i.partial || ' ' || c.seqno || ' ' || coalesce(c.name, '-')
		FROM sqlite_schema m, pragma_index_list(m.name) i, pragma_index_info(i.name) c WHERE m.type = 'table'
		UNION ALL
		SELECT 'trigger ' || sql FROM sqlite_schema WHERE type = 'trigger'
		UNION ALL
		SELECT 'built in ' || name || ' ' || permissions || ' ' || rate FROM roles WHERE builtin`)
	slices.Sort(list)
	return list
}

// dump writes a database as statements, as `sqlite3 FILE .dump` does.
func dump(t *testing.T, db *DB) []byte {
	t.Helper()
	var out bytes.Buffer
	fmt.Fprintf(&out, "-- A database of schema %d with a row in every table. Never edit this file.\n", version(t, db))
	fmt.Fprintf(&out, "PRAGMA foreign_keys = OFF;\nPRAGMA application_id = %d;\nBEGIN;\n", applicationID)
	for _, statement := range column(t, db, `SELECT sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY rowid`) {
		fmt.Fprintf(&out, "%s;\n", statement)
	}
	for _, table := range column(t, db, `SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid`) {
		columns := column(t, db, `SELECT 'quote("' || name || '")' FROM pragma_table_info(?)`, table)
		for _, row := range column(t, db, `SELECT `+strings.Join(columns, ` || ',' || `)+` FROM "`+table+`"`) {
			fmt.Fprintf(&out, "INSERT INTO \"%s\" VALUES (%s);\n", table, row)
		}
	}
	for _, statement := range column(t, db, `SELECT sql FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL ORDER BY rowid`) {
		fmt.Fprintf(&out, "%s;\n", statement)
	}
	fmt.Fprintln(&out, "COMMIT;")
	return out.Bytes()
}

// frozenTime is when everything in the frozen databases happened.
var frozenTime = time.Date(2026, 3, 1, 12, 0, 0, 123_456_000, time.UTC)

func frozenModel() (*models.Model, *models.Version) {
	decimals := 2
	return &models.Model{ID: "m", Name: "iris", Description: "flowers", OwnerID: "u", Roles: []string{"analyst"},
			Disclosure: models.Disclosure{Rule: models.Rule{Outputs: []string{"label"}, Decimals: &decimals},
				Roles: map[string]models.Rule{"analyst": {TopK: 1, LabelOnly: true}}},
			Serving: models.Serving{TimeoutMS: 100}, Aliases: map[string]int{"stable": 1}, CreatedAt: frozenTime, UpdatedAt: frozenTime},
		&models.Version{ID: "v", Digest: strings.Repeat("ab", 32), Size: 1234, State: models.Ready, CreatedBy: "u", CreatedAt: frozenTime,
			Signature: models.Signature{
				Inputs:  []models.TensorSpec{{Name: "X", GraphValue: models.GraphValue{Name: "x:0", Type: models.Float32, Shape: []int64{-1, 4}}}},
				Outputs: []models.TensorSpec{{Name: "label", GraphValue: models.GraphValue{Name: "l", Kind: models.KindMaps, Type: models.Float32, Key: models.Int64}}}},
			Facts: models.Facts{Opset: 15, Operators: []string{"ZipMap"}, Nodes: 1, Parameters: 2, Trial: "ran"}}
}

var frozenBrowser = auth.Session{ID: "b", Kind: auth.BrowserSession, UserID: "u", ClientID: "modelgate", Address: "192.0.2.2", UserAgent: "Firefox",
	CreatedAt: frozenTime, AuthTime: frozenTime, LastUsed: frozenTime, ExpiresAt: far, SecondFactor: true}

var frozenExternal = auth.Session{ID: "e", Kind: auth.BrowserSession, UserID: "u", ClientID: "modelgate", Address: "192.0.2.3", UserAgent: "Firefox",
	CreatedAt: frozenTime, AuthTime: frozenTime, LastUsed: frozenTime, ExpiresAt: far, Provider: "corp", ProviderFactor: true}

var frozenIdentity = auth.Identity{ID: "i", Issuer: "https://id.example.com", Subject: "sub", UserID: "u", Managed: true, CreatedBy: "m", Asserted: frozenTime, CreatedAt: frozenTime}

var frozenSecret = auth.ClientSecret{ID: "cs", UserID: "c", Hash: secret("client"), CreatedBy: "m", CreatedAt: frozenTime, ExpiresAt: far, LastUsed: frozenTime}

var frozenTOTP = auth.TOTP{UserID: "u", Secret: []byte("sealed"), SessionID: "s", LastStep: 58_000_000, Guesses: frozenTime,
	Codes: [][32]byte{secret("recovery"), secret("another")}, CreatedAt: frozenTime}

// fillFrozen puts a row into every table.
func fillFrozen(t *testing.T, db *DB) {
	t.Helper()
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(db.PutRole(ctx, auth.Role{Name: "analyst", Permissions: auth.AuditRead, Rate: "600-M", CreatedAt: frozenTime}))
	ok(db.CreateUser(ctx, auth.User{ID: "u", Username: "ada", PasswordHash: "$argon2id$x", PasswordExpires: far, Roles: []string{"admin", "analyst"},
		CreatedAt: frozenTime, UpdatedAt: frozenTime},
		&auth.Ticket{Hash: secret("ticket"), Kind: auth.PasswordReset, UserID: "u", ExpiresAt: far}))
	_, err := db.CreateSession(ctx, auth.Session{ID: "s", UserID: "u", ClientID: "modelgate", Address: "192.0.2.1", UserAgent: "curl/8",
		CreatedAt: frozenTime, AuthTime: frozenTime, LastUsed: frozenTime, ExpiresAt: far}, auth.RefreshToken{Hash: secret("used"), ExpiresAt: far}, auth.Displaced{})
	ok(err)
	_, err = db.Rotate(ctx, secret("used"), auth.RefreshToken{Hash: secret("live"), ExpiresAt: far}, frozenTime)
	ok(err)
	_, err = db.CreateSession(ctx, frozenBrowser, auth.RefreshToken{Hash: secret("cookie"), ExpiresAt: far}, auth.Displaced{})
	ok(err)
	_, err = db.CreateSession(ctx, frozenExternal, auth.RefreshToken{Hash: secret("external"), ExpiresAt: far}, auth.Displaced{})
	ok(err)
	ok(db.CreateKey(ctx, auth.Key{ID: "k", UserID: "u", Name: "ci", Hash: secret("key"), Models: []string{"iris"},
		CreatedAt: frozenTime, ExpiresAt: far, LastUsed: frozenTime}))
	ok(db.UpdateTOTP(ctx, "u", func(auth.TOTP) (auth.TOTP, error) {
		return frozenTOTP, nil
	}))
	ok(db.CreateService(ctx, auth.User{ID: "c", Kind: auth.ServiceAccount, Username: "robot", CreatedAt: frozenTime, UpdatedAt: frozenTime},
		frozenSecret))
	ok(db.LinkIdentity(ctx, frozenIdentity))
	ok(db.CreateSignIn(ctx, auth.SignIn{Hash: secret("sign-in"), Provider: "corp", SessionID: "b", ExpiresAt: far}, frozenTime, 10))
	m, v := frozenModel()
	_, err = db.AddVersion(ctx, m, v, nil)
	ok(err)
	ok(db.SetAuditHead(ctx, "", audit.Head{Seq: 42, Hash: "abc"}))
	_, _, err = db.TakeRows(ctx, auth.RowBudget{UserID: "u", Model: "iris", Day: auth.Day(frozenTime)}, 10, 1, 1)
	ok(err)
	_, err = db.UpdateSigningKeys(ctx, func([]auth.SigningKey) ([]auth.SigningKey, error) { return []auth.SigningKey{frozenSigningKey}, nil })
	ok(err)
}

var frozenSigningKey = auth.SigningKey{ID: "kid", Sealed: []byte("sealed"), CreatedAt: frozenTime, ActiveAt: frozenTime, RetireAt: far}

// checkFrozen reads what fillFrozen wrote with the schema of from, whatever has become of it since.
func checkFrozen(t *testing.T, db *DB, from int) {
	t.Helper()
	ctx := t.Context()
	same := func(what string, got, want any, err error) {
		t.Helper()
		if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); err != nil || g != w {
			t.Errorf("%s:\n%s, %v; want\n%s", what, g, err, w)
		}
	}
	var expires time.Time
	browser, identity := frozenBrowser, frozenIdentity
	if from >= 10 {
		expires = far
	} else {
		browser.SecondFactor, identity.CreatedBy = false, ""
	}
	u, err := db.UserByName(ctx, "ada")
	same("user", u, auth.User{ID: "u", Username: "ada", PasswordHash: "$argon2id$x", PasswordExpires: expires, Roles: []string{"admin", "analyst"},
		CreatedAt: frozenTime, UpdatedAt: frozenTime}, err)
	roles, err := db.Roles(ctx)
	i := slices.IndexFunc(roles, func(r auth.Role) bool { return r.Name == "analyst" })
	if err != nil || i < 0 {
		t.Fatalf("roles: %+v, %v", roles, err)
	}
	same("role", roles[i], auth.Role{Name: "analyst", Permissions: auth.AuditRead, Rate: "600-M", CreatedAt: frozenTime}, nil)
	session := auth.Session{ID: "s", UserID: "u", ClientID: "modelgate", Address: "192.0.2.1", UserAgent: "curl/8",
		CreatedAt: frozenTime, AuthTime: frozenTime, LastUsed: frozenTime, ExpiresAt: far}
	s, err := db.SessionOfRefresh(ctx, secret("live"), frozenTime)
	same("session", s, session, err)
	if from >= 5 {
		s, _, err := db.BrowserSession(ctx, secret("cookie"), frozenTime)
		same("browser's session", s, browser, err)
	}
	if from >= 6 {
		_, i, err := db.UserByIdentity(ctx, "https://id.example.com", "sub")
		same("identity", i, identity, err)
	}
	k, err := db.KeyByHash(ctx, secret("key"))
	same("key", k, auth.Key{ID: "k", UserID: "u", Name: "ci", Hash: secret("key"), Models: []string{"iris"},
		CreatedAt: frozenTime, ExpiresAt: far, LastUsed: frozenTime}, err)
	heads, err := db.AuditHeads(ctx)
	same("head", heads, map[string]audit.Head{"": {Seq: 42, Hash: "abc"}}, err)

	list, err := db.Models(ctx)
	if err != nil || len(list) != 1 || len(list[0].Versions) != 1 {
		t.Fatalf("models: %+v, %v", list, err)
	}
	m, v := frozenModel()
	m.DefaultVersion, m.NextVersion, v.Number, v.Model = 1, 2, 1, "iris"
	same("version", *list[0].Versions[0], *v, nil)
	same("decimals", *list[0].Disclosure.Decimals, *m.Disclosure.Decimals, nil)
	list[0].Disclosure.Decimals, m.Disclosure.Decimals, list[0].Versions = nil, nil, nil
	same("model", *list[0], *m, nil)

	_, err = db.Redeem(ctx, secret("ticket"), auth.PasswordReset, frozenTime, func(u auth.User) (auth.User, error) { return u, nil })
	same("ticket", nil, nil, err)
	if _, err := db.Rotate(ctx, secret("used"), auth.RefreshToken{}, frozenTime); err == nil || !strings.Contains(err.Error(), "refresh_reused") {
		t.Errorf("replay of a used token: %v", err)
	}
}

// checkFrozenAdditions reads what later schemas have added.
func checkFrozenAdditions(t *testing.T, db *DB, from int) {
	t.Helper()
	ctx := t.Context()
	if from >= 2 {
		keys, err := db.SigningKeys(ctx)
		if err != nil || len(keys) != 1 || !sameSigningKey(keys[0], frozenSigningKey) || !keys[0].CreatedAt.Equal(frozenTime) {
			t.Errorf("signing keys: %+v, %v", keys, err)
		}
		if changes, err := db.Changes(ctx, 0); err != nil || changes.Mark == 0 {
			t.Errorf("changes: %+v, %v", changes, err)
		}
	}
	if from >= 3 {
		frozenSecret := frozenSecret
		if from < 10 {
			frozenSecret.CreatedBy = ""
		}
		if u, err := db.User(ctx, "c"); err != nil || u.Kind != auth.ServiceAccount {
			t.Errorf("service account: %+v, %v", u, err)
		}
		if list, err := db.SecretsOf(ctx, "c"); err != nil || len(list) != 1 || list[0] != frozenSecret {
			t.Errorf("secrets: %+v, %v", list, err)
		}
	}
	if from >= 4 {
		list, err := db.TOTPs(ctx, "", 2)
		if err != nil || fmt.Sprintf("%+v", list) != fmt.Sprintf("%+v", []auth.TOTP{frozenTOTP}) {
			t.Errorf("second factors: %+v, %v", list, err)
		}
	}
	if from >= 6 {
		in, err := db.TakeSignIn(ctx, secret("sign-in"), frozenTime)
		if err != nil || in.Provider != "corp" || (in.SessionID == "b") != (from >= 9) {
			t.Errorf("sign-in: %+v, %v", in, err)
		}
	}
	if from >= 7 {
		if used, err := db.RowsUsed(ctx, "u", auth.Day(frozenTime)); err != nil || used["iris"] != 1 {
			t.Errorf("rows used: %v, %v", used, err)
		}
	}
	if from >= 11 {
		s, _, err := db.BrowserSession(ctx, secret("external"), frozenTime)
		if want := frozenExternal; err != nil || fmt.Sprintf("%+v", s) != fmt.Sprintf("%+v", want) {
			t.Errorf("session of a provider: %+v, %v", s, err)
		}
	}
}
