package migrations_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"namebridge/internal/postgres/testdb"
	"namebridge/migrations"
)

func TestMain(m *testing.M) { os.Exit(testdb.Main(m).Run()) }

var update = flag.Bool("update", false, "write docs/schema.sql anew")

// describe is the schema of the database at url, as a person would read it: tables with their columns, constraints, indexes and
// comments, all in order of their names, columns in their own. What keeps the migrations' own books is left out.
func describe(t *testing.T, url string) string {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(t.Context()) }()
	rows, err := c.Query(t.Context(), `WITH tables AS (
			SELECT oid, relname, relpersistence, reloptions FROM pg_class
			WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname NOT LIKE 'goose\_%' AND relname NOT LIKE 'river\_%'),
		columns AS (
			SELECT attrelid, string_agg('    ' || quote_ident(attname) || ' ' || format_type(atttypid, atttypmod)
				|| CASE attidentity WHEN 'a' THEN ' GENERATED ALWAYS AS IDENTITY' ELSE '' END
				|| coalesce(' DEFAULT ' || pg_get_expr(adbin, adrelid), '') || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END, E',\n' ORDER BY attnum) AS list
			FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attnum > 0 AND NOT attisdropped GROUP BY attrelid),
		constraints AS (
			SELECT conrelid, string_agg(E',\n    ' || pg_get_constraintdef(oid), '' ORDER BY contype = 'p' DESC, conname) AS list
			FROM pg_constraint WHERE contype IN ('p', 'u', 'f', 'c') GROUP BY conrelid),
		indexes AS (
			SELECT indrelid, string_agg(pg_get_indexdef(indexrelid) || E';\n', '' ORDER BY indexrelid::regclass::text) AS list
			FROM pg_index WHERE NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u')) GROUP BY indrelid),
		comments AS (
			SELECT objoid, string_agg('COMMENT ON ' || CASE objsubid WHEN 0 THEN 'TABLE ' || relname ELSE 'COLUMN ' || relname || '.' || attname END
				|| ' IS ' || quote_literal(description) || E';\n', '' ORDER BY objsubid) AS list
			FROM pg_description JOIN tables ON objoid = oid LEFT JOIN pg_attribute ON attrelid = objoid AND attnum = objsubid AND objsubid > 0
			WHERE classoid = 'pg_class'::regclass GROUP BY objoid)
		SELECT 'CREATE ' || CASE relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END || 'TABLE ' || relname || E' (\n' || columns.list || coalesce(constraints.list, '')
			|| E'\n)' || coalesce(' WITH (' || array_to_string(reloptions, ', ') || ')', '') || E';\n' || coalesce(indexes.list, '') || coalesce(comments.list, '')
		FROM tables JOIN columns ON attrelid = oid LEFT JOIN constraints ON conrelid = oid LEFT JOIN indexes ON indrelid = oid LEFT JOIN comments ON objoid = oid
		ORDER BY relname COLLATE "C"`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.Join(tables, "\n"), " public.", " ")
}

func migrated(t *testing.T) string {
	t.Helper()
	return testdb.URL(t, migrations.Up)
}

// docs/schema.sql is the schema to read in one place; go test ./migrations -update writes it.
func TestTheDocumentedSchemaIsTheOneThatMigrationsMake(t *testing.T) {
	t.Parallel()
	const path = "../docs/schema.sql"
	got := "-- The whole schema, to be read: what all migrations come to. Written by go test ./migrations -update.\n\n" + describe(t, migrated(t))
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("run go test ./migrations -update (-documented +made): %s", diff)
	}
}

func TestProcessesThatMigrateAtOnceWaitForEachOther(t *testing.T) {
	t.Parallel()
	want := describe(t, migrated(t))
	for _, processes := range []int{2, 8} {
		url := testdb.URL(t, nil)
		var all sync.WaitGroup
		for range processes {
			all.Go(func() {
				if err := migrations.Up(t.Context(), url); err != nil {
					t.Errorf("%d at once: %v", processes, err)
				}
			})
		}
		all.Wait()
		if diff := cmp.Diff(want, describe(t, url)); diff != "" {
			t.Errorf("%d at once (-want +got): %s", processes, diff)
		}
	}
}

func TestDownTakesEverythingAwayAndUpBringsItBack(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	before := describe(t, url)
	all, err := migrations.List(t.Context(), url)
	if err != nil || len(all) == 0 {
		t.Fatalf("%v, %v", all, err)
	}
	for i, m := range all {
		if !m.Applied || m.Version != int64(i+1) || !strings.HasPrefix(m.Name, fmt.Sprintf("%05d_", m.Version)) {
			t.Errorf("after up: %+v", m)
		}
	}
	// Each step down and up again leaves the same, so that a rollback is always one.
	for version := all[len(all)-1].Version - 1; version >= 0; version-- {
		if err := migrations.Down(t.Context(), url, version); err != nil {
			t.Fatal(err)
		}
		if version == 0 {
			if left := describe(t, url); left != "" {
				t.Errorf("after down there is left: %s", left)
			}
			if all, err := migrations.List(t.Context(), url); err != nil || all[0].Applied {
				t.Errorf("after down: %+v, %v", all, err)
			}
		}
		if err := migrations.Up(t.Context(), url); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, describe(t, url)); diff != "" {
			t.Errorf("down to %d and up (-want +got): %s", version, diff)
		}
	}
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Errorf("up once more: %v", err)
	}
}

func TestListingChangesNothing(t *testing.T) {
	t.Parallel()
	url := testdb.URL(t, nil)
	all, err := migrations.List(t.Context(), url)
	if err != nil || len(all) == 0 || all[0].Applied {
		t.Errorf("%+v, %v", all, err)
	}
	if made := describe(t, url); made != "" {
		t.Errorf("it made %s", made)
	}
}

// Every row belongs to a bridge, and says so first: no statement can forget it and still use the primary key.
func TestEveryTableIsKeyedByItsBridgeAndCommented(t *testing.T) {
	t.Parallel()
	c, err := pgx.Connect(t.Context(), migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(t.Context()) }()
	rows, err := c.Query(t.Context(), `SELECT relname, relpersistence = 'u' AS unlogged, coalesce(obj_description(c.oid, 'pg_class'), '') AS comment,
			coalesce((SELECT attnotnull FROM pg_attribute WHERE attrelid = c.oid AND attname = 'bridge'), false) AS has_bridge,
			coalesce((SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] WHERE indrelid = c.oid AND indisprimary), '') AS leads
		FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname NOT LIKE 'goose\_%' AND relname NOT LIKE 'river\_%'`)
	if err != nil {
		t.Fatal(err)
	}
	type table struct {
		Relname, Comment, Leads string
		Unlogged, HasBridge     bool
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByName[table])
	if err != nil || len(tables) < 10 {
		t.Fatalf("%d tables, %v", len(tables), err)
	}
	for _, tb := range tables {
		// Rows of a window that is still being read have no key of their own: the same one may come on two pages.
		if !tb.HasBridge || tb.Leads != "bridge" && !tb.Unlogged || tb.Comment == "" {
			t.Errorf("%s: bridge column %t, primary key led by %q, comment %q", tb.Relname, tb.HasBridge, tb.Leads, tb.Comment)
		}
	}
}

// A connection string holds a password.
func TestAConnectionStringIsNotRepeatedInAnError(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"postgres://u:s3cret@localhost:port/x", "postgres://u:s3cret@[::1/x", "postgres://u:s3cret@127.0.0.1:1/x?connect_timeout=1"} {
		if err := migrations.Up(t.Context(), url); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v", err)
		}
	}
}
