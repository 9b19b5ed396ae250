package migrations_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"namebridge/internal/postgres/testdb"
	"namebridge/migrations"
)

// firstRelease is the newest migration of the first release: from then on there is always a release before, whose processes run
// on the new schema during an upgrade, and after a rollback.
const firstRelease = 3

// object is something of the schema that a program can depend on.
type object struct {
	Kind, Name string // "column", "runs.phase"
	Of         string // the table it belongs to, "" for one that stands by itself
	Definition string
	Optional   bool // a column that an INSERT need not name
	Strict     bool // it can refuse what a program writes that does not know of it
}

func (o object) String() string { return o.Kind + " " + o.Name }

// objects is the schema of the database, the queue's tables included, as far as a program can depend on it.
func objects(t *testing.T, c *pgx.Conn) map[string]object {
	t.Helper()
	rows, err := c.Query(t.Context(), `WITH tables AS (
			SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'goose\_%')
		SELECT CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'view' WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind, relname AS name, '' AS of,
			concat_ws(' ', relkind, relpersistence, relrowsecurity, CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END) AS definition, true AS optional, false AS strict
		FROM tables WHERE relkind IN ('r', 'p', 'v', 'm', 'S')
		UNION ALL
		SELECT 'column', relname || '.' || attname, relname,
			concat_ws(' ', format_type(atttypid, atttypmod), 'collation ' || attcollation, 'identity ' || nullif(attidentity::text, ''), 'generated ' || nullif(attgenerated::text, ''),
				'default ' || pg_get_expr(adbin, adrelid), CASE WHEN attnotnull THEN 'not null' END),
			NOT attnotnull OR atthasdef OR attidentity <> '', false
		FROM tables JOIN pg_attribute ON attrelid = tables.oid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
		WHERE relkind IN ('r', 'p', 'v', 'm') AND attnum > 0 AND NOT attisdropped
		UNION ALL
		SELECT 'constraint', relname || '.' || conname, relname, pg_get_constraintdef(pg_constraint.oid), true, true
		FROM tables JOIN pg_constraint ON conrelid = tables.oid WHERE contype <> 'n' -- a NOT NULL is its column's
		UNION ALL
		SELECT 'index', i.relname, tables.relname, pg_get_indexdef(indexrelid), true, indisunique
		FROM tables JOIN pg_index ON indrelid = tables.oid JOIN pg_class i ON i.oid = indexrelid
		WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u', 'x'))
		UNION ALL
		SELECT 'trigger', relname || '.' || tgname, relname, pg_get_triggerdef(pg_trigger.oid), true, true
		FROM tables JOIN pg_trigger ON tgrelid = tables.oid WHERE NOT tgisinternal
		UNION ALL
		SELECT 'rule', relname || '.' || rulename, relname, pg_get_ruledef(pg_rewrite.oid), true, true
		FROM tables JOIN pg_rewrite ON ev_class = tables.oid WHERE relkind IN ('r', 'p')
		UNION ALL
		SELECT 'policy', relname || '.' || polname, relname, concat_ws(' ', polcmd, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)), true, true
		FROM tables JOIN pg_policy ON polrelid = tables.oid
		UNION ALL
		SELECT 'type', typname, '', concat_ws(' ', typtype, (SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = pg_type.oid),
			CASE typtype WHEN 'd' THEN format_type(typbasetype, typtypmod) END), true, false
		FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')
		UNION ALL
		SELECT 'function', proname || '(' || pg_get_function_identity_arguments(oid) || ')', '', pg_get_functiondef(oid), true, false
		FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind IN ('f', 'p')`)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[object])
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]object{}
	for _, o := range all {
		found[o.String()] = o
	}
	return found
}

// holds says whether the table or view is there.
func holds(all map[string]object, table string) bool {
	return all["table "+table] != (object{}) || all["view "+table] != (object{})
}

// contractions are what a program that was made for the schema before could stumble over in the one after.
func contractions(before, after map[string]object) (all []string) {
	for name, was := range before {
		switch is, there := after[name]; {
		case !there && was.Of != "" && !holds(after, was.Of):
			// It has gone with its table, which is told.
		case !there:
			all = append(all, name+" is gone")
		case is.Definition != was.Definition:
			all = append(all, fmt.Sprintf("%s was %q and is %q", name, was.Definition, is.Definition))
		}
	}
	for name, is := range after {
		if !holds(before, is.Of) || before[name] != (object{}) {
			continue // of a new table, or not new
		}
		switch {
		case !is.Optional:
			all = append(all, name+" is new, must not be null and has no default: an INSERT that does not know it fails")
		case is.Strict:
			all = append(all, name+" is new, and can refuse what was written before")
		}
	}
	slices.Sort(all)
	return all
}

var contract = regexp.MustCompile(`(?m)\A(?:--.*\n)*?-- contract: needs release (\d+\.\d+\.\d+)\s*$`)

// judge says what is wrong with a migration: its text, what it takes away, and the releases that there have been.
func judge(source string, taken []string, released []string) string {
	needs := contract.FindStringSubmatch(source)
	switch {
	case needs == nil && len(taken) > 0:
		return "the release before cannot run on the schema after it:\n  " + strings.Join(taken, "\n  ") +
			"\nAdd what is new beside the old, release that, and take the old away in a later release, by a migration that begins with" +
			"\n-- contract: needs release X.Y.Z (the first that runs without it). See docs/upgrading.md."
	case needs != nil && len(taken) == 0:
		return "it takes nothing away: its line `contract` has to go"
	case needs != nil && !slices.Contains(released, needs[1]):
		return "CHANGELOG.md knows no release " + needs[1] + ": what is taken away has to be unused in a release that is out"
	}
	return ""
}

// releases are those that CHANGELOG.md tells of.
func releases(t *testing.T) (all []string) {
	t.Helper()
	changelog, err := os.ReadFile("../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^## v?(\d+\.\d+\.\d+)\b`).FindAllStringSubmatch(string(changelog), -1) {
		all = append(all, m[1])
	}
	return all
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(t.Context()) })
	return c
}

// During an upgrade, and after a rollback, the release before runs on the new schema.
func TestEveryMigrationSinceTheFirstReleaseOnlyExpands(t *testing.T) {
	t.Parallel()
	url, released := testdb.URL(t, nil), releases(t)
	if err := migrations.UpTo(t.Context(), url, 1); err != nil {
		t.Fatal(err)
	}
	c := connect(t, url)
	all, err := migrations.List(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	before := objects(t, c)
	for _, m := range all[1:] {
		if err := migrations.UpTo(t.Context(), url, m.Version); err != nil {
			t.Fatal(err)
		}
		after := objects(t, c)
		taken := contractions(before, after)
		before = after
		switch {
		case m.Version == 2: // before the first release, and the proof that this test sees what it should
			if !slices.Contains(taken, "column runs.owner is gone") {
				t.Errorf("%s has taken a column away, and this is not seen: %v", m.Name, taken)
			}
		case m.Version > firstRelease:
			if problem := judge(migrations.Source(m.Name), taken, released); problem != "" {
				t.Errorf("%s: %s", m.Name, problem)
			}
		}
	}
}

// trial is a schema to try migrations on.
const trial = `CREATE TYPE mood AS ENUM ('good', 'bad');
	CREATE TABLE people (bridge text NOT NULL, id bigint PRIMARY KEY, name text, mood mood NOT NULL DEFAULT 'good', born date);
	CREATE INDEX people_born ON people (born);
	CREATE UNIQUE INDEX people_name ON people (bridge, name);
	CREATE TABLE pets (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner bigint NOT NULL REFERENCES people ON DELETE CASCADE, age int DEFAULT 1 CHECK (age > 0));
	CREATE VIEW named AS SELECT id, name FROM people WHERE name IS NOT NULL;
	CREATE FUNCTION years(p pets) RETURNS int LANGUAGE sql AS 'SELECT p.age'`

func TestWhatExpandsPasses(t *testing.T) {
	t.Parallel()
	for name, statements := range map[string]string{
		"a column that may be null":            `ALTER TABLE people ADD COLUMN died date`,
		"a column with a default":              `ALTER TABLE people ADD COLUMN tries int NOT NULL DEFAULT 0`,
		"a column that numbers itself":         `ALTER TABLE people ADD COLUMN n bigint GENERATED ALWAYS AS IDENTITY`,
		"a column that is computed":            `ALTER TABLE pets ADD COLUMN months int GENERATED ALWAYS AS (age * 12) STORED`,
		"a table with all that belongs to one": `CREATE TABLE cars (id bigint PRIMARY KEY, owner bigint NOT NULL UNIQUE REFERENCES people, doors int NOT NULL CHECK (doors > 0))`,
		"an index":                             `CREATE INDEX people_mood ON people (mood) WHERE born IS NULL`,
		"a view, a type, a function":           `CREATE VIEW born AS SELECT born FROM people; CREATE TYPE size AS ENUM ('s'); CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'`,
		"words":                                `COMMENT ON TABLE people IS 'DROP TABLE people'; COMMENT ON COLUMN people.born IS 'ALTER TYPE'`,
		"a DROP that drops nothing":            `DROP TABLE IF EXISTS nobody`,
		"what is made and dropped again":       `CREATE TABLE interim (id int); DROP TABLE interim`,
		"nothing":                              `SELECT 1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if taken := tried(t, statements); len(taken) > 0 {
				t.Errorf("it is refused: %q", taken)
			}
		})
	}
}

func TestWhatTheReleaseBeforeCouldStumbleOverIsFound(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ statements, tells string }{
		"a table dropped":                  {`DROP TABLE pets CASCADE`, "table pets is gone"},
		"a table renamed":                  {`ALTER TABLE pets RENAME TO animals`, "table pets is gone"},
		"a column dropped":                 {`ALTER TABLE people DROP COLUMN born`, "column people.born is gone"},
		"a column renamed":                 {`ALTER TABLE people RENAME COLUMN born TO birth`, "column people.born is gone"},
		"in capitals and quotes":           {`aLtEr TABLE "people" dRoP "born"`, "column people.born is gone"},
		"where no text shows it":           {`DO $$ BEGIN EXECUTE 'ALTER TABLE people ' || reverse('PORD') || ' COLUMN born'; END $$`, "column people.born is gone"},
		"another type":                     {`ALTER TABLE pets ALTER COLUMN age TYPE bigint`, "column pets.age was"},
		"no longer null":                   {`ALTER TABLE people ALTER COLUMN born SET NOT NULL`, "column people.born was"},
		"null now":                         {`ALTER TABLE people ALTER COLUMN mood DROP NOT NULL`, "column people.mood was"},
		"no default any more":              {`ALTER TABLE people ALTER COLUMN mood DROP DEFAULT`, "column people.mood was"},
		"a new column that must be given":  {`ALTER TABLE people ADD COLUMN tries int NOT NULL`, "column people.tries is new, must not be null"},
		"a new rule for rows":              {`ALTER TABLE people ADD CONSTRAINT old CHECK (born < '2020-01-01')`, "constraint people.old is new"},
		"a rule that is not yet validated": {`ALTER TABLE people ADD CONSTRAINT old CHECK (born < '2020-01-01') NOT VALID`, "constraint people.old is new"},
		"a reference":                      {`ALTER TABLE people ADD COLUMN pet bigint REFERENCES pets`, "constraint people.people_pet_fkey is new"},
		"a rule that is gone":              {`ALTER TABLE pets DROP CONSTRAINT pets_age_check`, "constraint pets.pets_age_check is gone"},
		"unique now":                       {`CREATE UNIQUE INDEX one_born ON people (born)`, "index one_born is new"},
		"no longer unique":                 {`DROP INDEX people_name`, "index people_name is gone"},
		"slower":                           {`DROP INDEX people_born`, "index people_born is gone"},
		"a trigger":                        {`CREATE TRIGGER t BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`, "trigger people.t is new"},
		"a word nobody knows":              {`ALTER TYPE mood ADD VALUE 'odd'`, "type mood was"},
		"a view with less":                 {`DROP VIEW named; CREATE VIEW named AS SELECT id FROM people`, "column named.name is gone"},
		"a view dropped":                   {`DROP VIEW named`, "view named is gone"},
		"a function that says otherwise":   {`CREATE OR REPLACE FUNCTION years(p pets) RETURNS int LANGUAGE sql AS 'SELECT 0'`, "function years(p pets) was"},
		"rows that are hidden":             {`ALTER TABLE people ENABLE ROW LEVEL SECURITY`, "table people was"},
		"rows that a crash takes":          {`DROP TABLE pets CASCADE; CREATE UNLOGGED TABLE pets (id bigint)`, "table pets was"},
		"a sequence dropped":               {`ALTER TABLE pets ALTER COLUMN id DROP IDENTITY`, "sequence pets_id_seq is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			taken := tried(t, test.statements)
			if !slices.ContainsFunc(taken, func(s string) bool { return strings.HasPrefix(s, test.tells) }) {
				t.Errorf("it says %q, not %q", taken, test.tells)
			}
		})
	}
}

// tried is what statements take away from the trial's schema.
func tried(t *testing.T, statements string) []string {
	t.Helper()
	c := connect(t, testdb.URL(t, nil))
	if _, err := c.Exec(t.Context(), trial); err != nil {
		t.Fatal(err)
	}
	before := objects(t, c)
	if _, err := c.Exec(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
	after := objects(t, c)
	if len(before) < 15 || !slices.Contains(slices.Collect(maps.Keys(before)), "column people.born") {
		t.Fatalf("the trial's schema is not seen: %v", before)
	}
	return contractions(before, after)
}

func TestAContractionNamesAReleaseThatRunsWithoutIt(t *testing.T) {
	t.Parallel()
	released, taken := []string{"1.2.0", "1.1.0"}, []string{"column runs.owner is gone"}
	const up = "-- +goose Up\nALTER TABLE runs DROP COLUMN owner;\n"
	for name, test := range map[string]struct {
		source string
		taken  []string
		tells  string // "": it passes
	}{
		"nothing is taken":                         {up, nil, ""},
		"taken, in a release that is out":          {"-- contract: needs release 1.1.0\n" + up, taken, ""},
		"with more words before":                   {"-- Nobody reads it since 1.1.0.\n-- contract: needs release 1.1.0\n\n" + up, taken, ""},
		"taken without a word":                     {up, taken, "column runs.owner is gone"},
		"the word is not at the beginning":         {up + "-- contract: needs release 1.1.0\n", taken, "column runs.owner is gone"},
		"no release is named":                      {"-- contract: needs release soon\n" + up, taken, "column runs.owner is gone"},
		"one that is not out":                      {"-- contract: needs release 1.3.0\n" + up, taken, "knows no release 1.3.0"},
		"the word stands there, nothing is taken":  {"-- contract: needs release 1.1.0\n" + up, nil, "takes nothing away"},
		"the queue's tables, which have no header": {"", taken, "column runs.owner is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problem := judge(test.source, test.taken, released)
			if test.tells == "" && problem != "" || !strings.Contains(problem, test.tells) {
				t.Errorf("it says %q, want %q", problem, test.tells)
			}
		})
	}
}

// A program that was rolled back finds a schema that is newer than it: it leaves it alone, and says which one it is.
func TestASchemaThatIsNewerThanTheProgramIsLeftAlone(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	c := connect(t, url)
	for _, statement := range []string{
		`CREATE TABLE tomorrow (bridge text PRIMARY KEY)`, `ALTER TABLE runs ADD COLUMN tomorrow text`,
		`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)`,
	} {
		if _, err := c.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	before := objects(t, c)
	for range 2 {
		if err := migrations.Up(t.Context(), url); err != nil {
			t.Fatal(err)
		}
	}
	if changed := contractions(before, objects(t, c)); len(changed) > 0 {
		t.Errorf("it was changed: %q", changed)
	}
	all, err := migrations.List(t.Context(), url)
	if err != nil || slices.ContainsFunc(all, func(m migrations.Status) bool { return !m.Applied || m.Unknown != (m.Version > migrations.Newest()) }) {
		t.Errorf("%+v, %v", all, err)
	}
	if last := all[len(all)-1]; last.Version != 99 || all[len(all)-2].Version != migrations.Newest() {
		t.Errorf("what is newer is not told: %+v", all)
	}
	if err := migrations.Down(t.Context(), url, firstRelease); err == nil {
		t.Error("it takes back what it does not know")
	}
}
