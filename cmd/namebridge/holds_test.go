package main

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
	"namebridge/migrations"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// desk is a database with people to review and nothing else: no API, and no secret of one.
type desk struct {
	*place
	db *pgxpool.Pool
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	url := testdb.URL(t, migrations.Up)
	db, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	d := &desk{&place{nil, map[string]string{"DATABASE_URL": url}}, db}
	d.exec(t, `INSERT INTO bridges (bridge, organization_id) VALUES ('default', 1)`)
	return d
}

// person makes somebody known on the NameCoach side.
func (d *desk) person(t *testing.T, key, institution string) {
	t.Helper()
	email, _ := strings.CutPrefix(key, "email:")
	if email == key {
		email = ""
	}
	d.exec(t, `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title, first_name, last_name, name_badge_link,
		recording_link, recording_id, recording_date, content, link_due) VALUES ('default', $1, $2, $3, $4, 'E', '', 'Jane', 'Roe', '', 'https://x', '', '', '', false)`,
		[]byte(key+institution), key, email, institution)
}

// user makes a directory user known.
func (d *desk) user(t *testing.T, id int64, email, external string) {
	t.Helper()
	d.exec(t, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep) VALUES ('default', $1, $2, $2, $3, 1)`, id, email, external)
}

func (d *desk) hold(t *testing.T, kind, subject, reason, detail string, users ...int64) {
	t.Helper()
	if err := state.StoreHolds(t.Context(), d.db, "default", kind, []state.Hold{{Subject: subject, Reason: reason, Detail: detail, Users: users}}, nil); err != nil {
		t.Fatal(err)
	}
}

// value reads a single value from the database.
func value[T any](t *testing.T, d *desk, sql string) (v T) {
	t.Helper()
	if err := d.db.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// everything is what the database says about links, holds and who is due.
func (d *desk) everything(t *testing.T) string {
	t.Helper()
	return value[string](t, d, `SELECT concat_ws(E'\n',
		(SELECT string_agg(l::text, E'\n' ORDER BY person) FROM links l), (SELECT string_agg(h::text, E'\n' ORDER BY kind, subject) FROM holds h),
		(SELECT string_agg(person || link_due, E'\n' ORDER BY participant) FROM participants), (SELECT string_agg(user_id || ' ' || decide_due, E'\n' ORDER BY user_id) FROM directory_users))`)
}

// links are all links, as person, user, rule and reason.
func (d *desk) links(t *testing.T) string {
	t.Helper()
	return value[string](t, d, `SELECT coalesce(string_agg(concat_ws(' ', person, user_id, rule, reason), E'\n' ORDER BY person), '') FROM links`)
}

// tellsOut checks what stdout must tell.
func (o outcome) tellsOut(t *testing.T, texts ...string) outcome {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(o.stdout, text) {
			t.Errorf("stdout does not tell %q:\n%s", text, o.stdout)
		}
	}
	return o
}

// discreet checks that stderr shows nobody's address.
func (o outcome) discreet(t *testing.T) outcome {
	t.Helper()
	if found := regexp.MustCompile(`\S+@\S+`).FindString(o.stderr); found != "" {
		t.Errorf("stderr shows %q:\n%s", found, o.stderr)
	}
	return o
}

// queue is a desk with one hold of each reason.
func queue(t *testing.T) *desk {
	t.Helper()
	d := newDesk(t)
	d.person(t, "email:jane.roe@acme.edu", "S-4471")
	d.user(t, 10344, "jane.roe@acme.edu", "")
	d.user(t, 20981, "j.roe@gmail.example", "S-4471")
	d.user(t, 30000, "sam@acme.edu", "")
	d.hold(t, state.HeldPerson, "email:jane.roe@acme.edu", "conflict", "externalId names user 20981, email names user 10344", 10344, 20981)
	d.hold(t, state.HeldPerson, "email:new@acme.edu", "unmatched", "no user of the directory has this address")
	d.hold(t, state.HeldPerson, "id:S-9", "ambiguous", "2 users have this externalId", 1, 2)
	d.hold(t, state.HeldUser, "30000", "unwritable", "birthYear")
	d.hold(t, state.HeldUser, "10344", "reverted", "put back by run 7f3a1b2c")
	d.hold(t, state.HeldUser, "20981", "refused", "recording_link: is not https")
	for i, subject := range []string{"10344", "email:new@acme.edu", "email:jane.roe@acme.edu", "30000", "id:S-9", "20981"} {
		d.exec(t, `UPDATE holds SET since = now() - make_interval(days => $2) WHERE subject = $1`, subject, i+3)
	}
	return d
}

func TestTheReviewQueueIsATableWithWhatToDo(t *testing.T) {
	t.Parallel()
	d := queue(t)
	o := d.run(t, "holds", "list").ends(t, 0).tellsOut(t, "who", "jane.roe@acme.edu (Jane Roe)", "10344, 20981", "externalId names user 20981, email names user 10344",
		"30000 (sam@acme.edu)", "birthYear", "S-9", "3 d", "Next", `namebridge holds link WHO USER_ID --reason "…"`, "namebridge holds release WHO", "LINK_HOSTS",
		`namebridge holds ignore WHO --reason "…"`)
	var order []string
	for line := range strings.Lines(o.stdout) {
		for _, r := range holdReasons {
			if len(order) < len(holdReasons) && strings.Contains(line, string(r)) {
				order = append(order, string(r))
			}
		}
	}
	if want := []string{"reverted", "unmatched", "conflict", "unwritable", "ambiguous", "refused"}; !slices.Equal(order, want) {
		t.Errorf("in the order %q, want the newest first: %q", order, want)
	}
	if strings.Contains(o.stdout, "more") {
		t.Errorf("nothing was left out: %s", o.stdout)
	}
	d.run(t, "holds", "list", "--limit", "2").ends(t, 0).tellsOut(t, "and 4 more: --limit 0 for all, --reason conflict")
	o = d.run(t, "holds", "list", "--reason", "conflict").ends(t, 0).tellsOut(t, "jane.roe@acme.edu")
	if strings.Contains(o.stdout, "S-9") || strings.Contains(o.stdout, "LINK_HOSTS") {
		t.Errorf("of one reason: %s", o.stdout)
	}
}

func TestAnEmptyReviewQueueSaysSo(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.run(t, "holds", "list").ends(t, 0).tellsOut(t, "Nobody is held: nothing to do.")
	d.run(t, "holds", "list", "--reason", "refused").ends(t, 0).tellsOut(t, "Nobody is held as refused: nothing to do.")
	if o := d.run(t, "holds", "list", "--output", "json").ends(t, 0); o.stdout != `{"bridge":"default","holds":[]}`+"\n" {
		t.Errorf("%q", o.stdout)
	}
	d.hold(t, state.HeldPerson, "email:a@acme.edu", "unmatched", "")
	d.run(t, "holds", "ignore", "a@acme.edu", "--reason", "x").ends(t, 0)
	d.run(t, "holds", "list").ends(t, 0).tellsOut(t, "Nobody is held: nothing to do.", "1 more is ignored: --all shows them")
}

func TestTheReviewQueueAsJSON(t *testing.T) {
	t.Parallel()
	d := queue(t)
	d.run(t, "holds", "ignore", "S-9", "--reason", "twins").ends(t, 0)
	object := d.run(t, "holds", "list", "--all", "--output", "json").ends(t, 0).object(t)
	if diff := cmp.Diff([]string{"bridge", "holds"}, keys(object)); diff != "" {
		t.Error(diff)
	}
	got := map[string]map[string]any{}
	for _, h := range object["holds"].([]any) {
		hold := h.(map[string]any)
		if diff := cmp.Diff([]string{"candidates", "detail", "ignored", "kind", "name", "next", "reason", "since", "user_id", "username", "who"}, keys(hold)); diff != "" {
			t.Errorf("keys of a hold: %s", diff)
		}
		if since := hold["since"].(string); !strings.HasSuffix(since, "Z") {
			t.Errorf("since %s", since)
		}
		delete(hold, "since")
		got[hold["reason"].(string)] = hold
	}
	twins := got["ambiguous"]["ignored"].(map[string]any)
	if diff := cmp.Diff([]string{"reason", "since"}, keys(twins)); diff != "" || twins["reason"] != "twins" {
		t.Errorf("ignored: %v", twins)
	}
	for _, want := range []map[string]any{
		{
			"who": "jane.roe@acme.edu", "kind": "person", "name": "Jane Roe", "user_id": nil, "username": "", "reason": "conflict", "ignored": nil,
			"detail": "externalId names user 20981, email names user 10344", "candidates": []any{10344.0, 20981.0},
			"next": `say which of the users it is: namebridge holds link jane.roe@acme.edu USER_ID --reason "…"`,
		},
		{
			"who": "30000", "kind": "user", "name": "", "user_id": 30000.0, "username": "sam@acme.edu", "reason": "unwritable", "ignored": nil,
			"detail": "birthYear", "candidates": []any{}, "next": "correct in BLN what the detail names; it is looked at again within a day, or at once with: namebridge holds release 30000",
		},
	} {
		if diff := cmp.Diff(want, got[want["reason"].(string)]); diff != "" {
			t.Error(diff)
		}
	}
	if len(got) != 6 {
		t.Errorf("%d reasons", len(got))
	}
	for args, want := range map[string]int{"": 5, "--limit 2": 2, "--limit 0": 5, "--reason refused": 1, "--all --reason ambiguous": 1, "--reason ambiguous": 0} {
		o := d.run(t, append([]string{"holds", "list", "-o", "json"}, strings.Fields(args)...)...).ends(t, 0)
		if n := len(o.object(t)["holds"].([]any)); n != want {
			t.Errorf("%s: %d holds, want %d", args, n, want)
		}
	}
}

// Tables show 50 unless told otherwise; JSON shows all.
func TestALongReviewQueueIsCutForPeopleOnly(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.exec(t, `INSERT INTO holds (bridge, kind, subject, reason, detail) SELECT 'default', 'person', 'email:' || n || '@x', 'unmatched', 'nobody' FROM generate_series(1, 1131) n`)
	d.run(t, "holds", "list").ends(t, 0).tellsOut(t, "and 1,081 more")
	o := d.run(t, "holds", "list", "--limit", "0").ends(t, 0)
	if n, headers := strings.Count(o.stdout, "nobody"), strings.Count(o.stdout, "detail"); n != 1131 || headers != 1 {
		t.Errorf("%d rows and %d headers", n, headers)
	}
	if n := len(d.run(t, "holds", "list", "--output", "json").ends(t, 0).object(t)["holds"].([]any)); n != 1131 {
		t.Errorf("%d holds as JSON", n)
	}
}

// What a table shows may be anybody's text: a terminal must not obey it, and a copied command must not run it.
func TestForeignTextIsHarmlessInTheReviewQueue(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.hold(t, state.HeldPerson, "id:$(reboot) 'x", "unmatched", "detail \x1b[31mred\nline\u202e")
	d.exec(t, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep) VALUES ('default', 7, E'\x1b]0;title\a', '', '', 1)`)
	d.hold(t, state.HeldUser, "7", "unwritable", "")
	o := d.run(t, "holds", "list").ends(t, 0)
	if strings.ContainsAny(o.stdout, "\x1b\a\u202e") {
		t.Errorf("%q", o.stdout)
	}
	for _, h := range d.run(t, "holds", "list", "-o", "json").ends(t, 0).object(t)["holds"].([]any) {
		if hold := h.(map[string]any); hold["kind"] == "person" {
			if want := `'$(reboot) '\''x'`; !strings.Contains(hold["next"].(string), "holds link "+want+" ") {
				t.Errorf("next: %s", hold["next"])
			}
		}
	}
}

func TestALinkByHandIsKeptAndTold(t *testing.T) {
	t.Parallel()
	d := queue(t)
	d.exec(t, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('default', 'email:jane.roe@acme.edu', 20981, 'externalId'), ('default', 'email:john@acme.edu', 10344, 'email')`)
	o := d.run(t, "holds", "link", "Jane.Roe@ACME.edu ", "10344", "--reason", "  HR says so ").ends(t, 0).tellsOut(t,
		"jane.roe@acme.edu is joined to user 10344 (jane.roe@acme.edu) by hand. Before, user 20981 was linked (by externalId).",
		"1 other person is linked to user 10344, too", "User 10344 is held as reverted all the same", "namebridge holds release 10344",
		"The next collect writes it; now: namebridge collect\n")
	if o.stderr != "" {
		t.Errorf("stderr: %s", o.stderr)
	}
	if got := d.links(t); !strings.HasPrefix(got, "email:jane.roe@acme.edu 10344 hand HR says so\n") {
		t.Errorf("links:\n%s", got)
	}
	d.run(t, "holds", "link", "S-4471", "10344", "--reason", "the same, by institution id").ends(t, 0).tellsOut(t, "is joined to user 10344 (jane.roe@acme.edu) by hand already")
	d.run(t, "holds", "link", "email:jane.roe@acme.edu", "30000", "--reason", "a mistake").ends(t, 0).tellsOut(t, "Before, user 10344 was linked (by hand).", "held as unwritable")
	if got := d.links(t); !strings.HasPrefix(got, "email:jane.roe@acme.edu 30000 hand a mistake\n") {
		t.Errorf("links:\n%s", got)
	}
	if due := value[[]int64](t, d, `SELECT array_agg(user_id ORDER BY user_id) FROM directory_users WHERE decide_due`); !slices.Equal(due, []int64{10344, 20981, 30000}) {
		t.Errorf("due are %v", due)
	}
	if n := value[int](t, d, `SELECT count(*) FROM holds WHERE kind = 'person' AND subject = 'email:jane.roe@acme.edu'`); n != 0 {
		t.Error("who is linked by hand is still held")
	}
}

// What cannot be done changes nothing, says why, and shows nobody's address.
func TestADecisionThatCannotBeMadeChangesNothing(t *testing.T) {
	t.Parallel()
	d := queue(t)
	d.person(t, "email:bob@acme.edu", "S-2")
	d.person(t, "email:bobby@acme.edu", "S-2")
	d.person(t, "email:old@acme.edu", "")
	d.exec(t, `UPDATE participants SET replaced = true WHERE person = 'email:old@acme.edu'`)
	d.user(t, 30001, "b@acme.edu", "")
	d.user(t, 666, "left@acme.edu", "")
	d.exec(t, `UPDATE directory_users SET gone_at = now() WHERE user_id = 666`)
	d.exec(t, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('default', 'email:bob@acme.edu', 30001, 'email')`)
	// A person who is linked by hand, and held, and whose address is that of a user who is held.
	d.person(t, "email:double@acme.edu", "")
	d.user(t, 40000, "double@acme.edu", "")
	d.hold(t, state.HeldUser, "40000", "reverted", "")
	d.hold(t, state.HeldPerson, "email:double@acme.edu", "conflict", "")
	d.exec(t, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('default', 'email:double@acme.edu', 30001, 'hand')`)
	before := d.everything(t)
	const reason = "--reason=because"
	for name, c := range map[string]struct {
		args  []string
		code  int
		tells []string
	}{
		"link: a person whom nobody knows":  {[]string{"link", "nobody@acme.edu", "10344", reason}, 1, []string{"nobody that NameCoach has shown", "namebridge collect"}},
		"link: a user whom nobody knows":    {[]string{"link", "jane.roe@acme.edu", "999", reason}, 1, []string{"user 999", "namebridge sweep"}},
		"link: a user who has left":         {[]string{"link", "jane.roe@acme.edu", "666", reason}, 1, []string{"user 666 has left"}},
		"link: an institution id of two":    {[]string{"link", "S-2", "10344", reason}, 1, []string{"institution id of several people"}},
		"link: nothing left on NameCoach":   {[]string{"link", "old@acme.edu", "10344", reason}, 1, []string{"nothing of this person any more"}},
		"link: a user as WHO":               {[]string{"link", "user:30000", "10344", reason}, 2, []string{"WHO is somebody on NameCoach"}},
		"link: arguments changed over":      {[]string{"link", "10344", "jane.roe@acme.edu", reason}, 2, []string{"USER_ID is no BLN user id"}},
		"link: user 0":                      {[]string{"link", "jane.roe@acme.edu", "0", reason}, 2, []string{"USER_ID"}},
		"link: no such id":                  {[]string{"link", "jane.roe@acme.edu", "99999999999999999999", reason}, 2, []string{"USER_ID"}},
		"link: no WHO":                      {[]string{"link", " ", "10344", reason}, 2, []string{"WHO is neither"}},
		"link: WHO with control characters": {[]string{"link", "a\x00@acme.edu", "10344", reason}, 2, []string{"WHO is neither"}},
		"link: one argument":                {[]string{"link", "jane.roe@acme.edu", reason}, 2, []string{"give WHO and USER_ID, and nothing else: namebridge holds link WHO USER_ID --reason"}},
		"link: no reason":                   {[]string{"link", "jane.roe@acme.edu", "10344"}, 2, []string{"--reason is required"}},
		"link: an empty reason":             {[]string{"link", "jane.roe@acme.edu", "10344", "--reason", " \t"}, 2, []string{"--reason is required"}},
		"link: a reason of many bytes":      {[]string{"link", "jane.roe@acme.edu", "10344", "--reason", strings.Repeat("é", 251)}, 2, []string{"over 500 bytes"}},
		"link: a reason with controls":      {[]string{"link", "jane.roe@acme.edu", "10344", "--reason", "a\x1b[31m"}, 2, []string{"control characters"}},
		"link: a reason that is not UTF-8":  {[]string{"link", "jane.roe@acme.edu", "10344", "--reason", "a\xff"}, 2, []string{"not UTF-8"}},
		"ignore: nobody":                    {[]string{"ignore", "nobody@acme.edu", reason}, 1, []string{"nobody is known by this"}},
		"ignore: not held":                  {[]string{"ignore", "bob@acme.edu", reason}, 1, []string{"not held"}},
		"ignore: two holds":                 {[]string{"ignore", "double@acme.edu", reason}, 1, []string{"several holds"}},
		"ignore: no reason":                 {[]string{"ignore", "new@acme.edu"}, 2, []string{"--reason is required"}},
		"release: nobody":                   {[]string{"release", "nobody@acme.edu"}, 1, []string{"nobody is known by this"}},
		"release: held by the rules":        {[]string{"release", "new@acme.edu"}, 1, []string{"nothing to release", "held as unmatched", "correct the address or institution id", `namebridge holds link WHO USER_ID`}},
		"release: held for a link":          {[]string{"release", "20981"}, 1, []string{"held as refused", "LINK_HOSTS"}},
		"release: linked by a rule":         {[]string{"release", "bob@acme.edu"}, 1, []string{"nothing to release", "linked to user 30001 (by email)"}},
		"release: nothing about them":       {[]string{"release", "bobby@acme.edu"}, 1, []string{"neither linked by hand nor held"}},
		"release: two decisions":            {[]string{"release", "double@acme.edu"}, 1, []string{"several decisions"}},
		"release: no WHO":                   {[]string{"release"}, 2, []string{"give WHO, and nothing else: namebridge holds release WHO"}},
		"list: a reason that is none":       {[]string{"list", "--reason", "unmached"}, 2, []string{"unmatched, ambiguous, conflict, unwritable, refused"}},
		"list: less than none":              {[]string{"list", "--limit", "-1"}, 2, []string{"--limit -1"}},
		"list: another output":              {[]string{"list", "--output", "yaml"}, 2, []string{"neither table nor json"}},
		"list: another bridge":              {[]string{"list", "--bridge", "acme"}, 2, []string{"there is no bridge"}},
		"a command that is none":            {[]string{"lnk"}, 2, []string{"did you mean link"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := d.run(t, append([]string{"holds"}, c.args...)...).ends(t, c.code, c.tells...).discreet(t)
			if diff := cmp.Diff(before, d.everything(t)); diff != "" {
				t.Errorf("it has changed something: %s", diff)
			}
			switch name {
			case "link: an institution id of two":
				o.tellsOut(t, "email:bob@acme.edu", "email:bobby@acme.edu")
			case "release: two decisions":
				o.tellsOut(t, "email:double@acme.edu   joined by hand to user 30001", "user:40000   held as reverted")
			}
		})
	}
}

// Of several decisions, each can be named as it is listed.
func TestOneOfSeveralDecisionsIsReleasedByItsFullName(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.person(t, "email:double@acme.edu", "")
	d.user(t, 40000, "double@acme.edu", "")
	d.hold(t, state.HeldUser, "40000", "reverted", "")
	d.exec(t, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('default', 'email:double@acme.edu', 40000, 'hand')`)
	d.run(t, "holds", "release", "double@acme.edu").ends(t, 1, "several decisions").discreet(t)
	d.run(t, "holds", "release", "user:40000").ends(t, 0).tellsOut(t, "User 40000, held as reverted, is tried again.")
	if got := d.links(t); got != "email:double@acme.edu 40000 hand" {
		t.Errorf("links %q", got)
	}
	d.run(t, "holds", "release", "email:double@acme.edu").ends(t, 0).tellsOut(t, "no longer joined by hand to user 40000")
}

func TestReleaseSaysWhatItHasReleased(t *testing.T) {
	t.Parallel()
	const writes = "The next collect writes it; now: namebridge collect"
	for name, c := range map[string]struct {
		who   string
		tells []string
		due   bool
	}{
		"a user held as reverted":              {"10344", []string{"User 10344, held as reverted, is tried again."}, true},
		"the same, as user:":                   {"user:10344", []string{"User 10344, held as reverted, is tried again."}, true},
		"the same, by its address":             {"jane.roe@acme.edu", []string{"User 10344, held as reverted, is tried again."}, true},
		"a user held as unwritable":            {"30000", []string{"User 30000, held as unwritable, is tried again."}, true},
		"the user of somebody who is linked":   {"kim@acme.edu", []string{"User 30000, held as unwritable, is tried again."}, true},
		"somebody linked by hand":              {"lee@acme.edu", []string{"lee@acme.edu is no longer joined by hand to user 20981", "the rules decide again"}, true},
		"the same, by the institution id":      {"S-77", []string{"lee@acme.edu is no longer joined by hand to user 20981"}, true},
		"a hold that is ignored":               {"new@acme.edu", []string{"new@acme.edu counts as held again: unmatched."}, false},
		"a hold without an address is ignored": {"S-9", []string{"S-9 counts as held again: ambiguous."}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := queue(t)
			d.person(t, "email:lee@acme.edu", "S-77")
			d.person(t, "email:kim@acme.edu", "")
			d.exec(t, `INSERT INTO links (bridge, person, user_id, rule, reason) VALUES ('default', 'email:lee@acme.edu', 20981, 'hand', 'x'), ('default', 'email:kim@acme.edu', 30000, 'email', NULL)`)
			d.run(t, "holds", "ignore", "new@acme.edu", "--reason", "x").ends(t, 0)
			d.run(t, "holds", "ignore", "S-9", "--reason", "x").ends(t, 0)
			o := d.run(t, "holds", "release", c.who).ends(t, 0).tellsOut(t, c.tells...)
			if strings.Contains(o.stdout, writes) != c.due {
				t.Errorf("%s", o.stdout)
			}
			if n := value[int](t, d, `SELECT count(*) FROM directory_users WHERE decide_due`); (n == 1) != c.due {
				t.Errorf("%d users are due", n)
			}
			d.run(t, "holds", "release", c.who).ends(t, 1, "nothing to release").discreet(t)
		})
	}
}

func TestAHoldThatIsIgnoredIsNotListedUntilItsReasonChanges(t *testing.T) {
	t.Parallel()
	d := queue(t)
	d.run(t, "holds", "ignore", "new@acme.edu", "--reason", "a guest").ends(t, 0).tellsOut(t, "new@acme.edu stays held as unmatched", "namebridge holds release new@acme.edu")
	d.run(t, "holds", "ignore", "30000", "--reason", "left to HR").ends(t, 0).tellsOut(t, "30000 stays held as unwritable")
	if o := d.run(t, "holds", "list").ends(t, 0).tellsOut(t, "2 more are ignored: --all shows them"); strings.Contains(o.stdout, "new@acme.edu") {
		t.Errorf("%s", o.stdout)
	}
	d.run(t, "holds", "list", "--all").ends(t, 0).tellsOut(t, "new@acme.edu", "unmatched, ignored", "(ignored: a guest)")
	d.hold(t, state.HeldPerson, "email:new@acme.edu", "unmatched", "once more")
	if o := d.run(t, "holds", "list").ends(t, 0); strings.Contains(o.stdout, "new@acme.edu") {
		t.Errorf("the same reason: %s", o.stdout)
	}
	d.hold(t, state.HeldPerson, "email:new@acme.edu", "conflict", "another matter")
	d.run(t, "holds", "list").ends(t, 0).tellsOut(t, "new@acme.edu", "another matter")
}

// Two people decide at the same time: one link stands, and both were told the truth about what was there before.
func TestTwoReplicasThatLinkAtOnceTakeTurns(t *testing.T) {
	t.Parallel()
	d := queue(t)
	var wait sync.WaitGroup
	out := make([]outcome, 2)
	for i, user := range []string{"10344", "20981"} {
		wait.Go(func() {
			out[i] = d.runIn(t.Context(), "holds", "link", "jane.roe@acme.edu", user, "--reason", "by "+user)
		})
	}
	wait.Wait()
	first := 0
	if strings.Contains(out[1].stdout, "Before, no user was linked") {
		first = 1
	}
	users := []string{"10344", "20981"}
	out[first].ends(t, 0).tellsOut(t, "Before, no user was linked.")
	out[1-first].ends(t, 0).tellsOut(t, "Before, user "+users[first]+" was linked (by hand).")
	if got, want := d.links(t), "email:jane.roe@acme.edu "+users[1-first]+" hand by "+users[1-first]; got != want {
		t.Errorf("links %q, want %q", got, want)
	}
	if n := value[int](t, d, `SELECT count(*) FROM directory_users WHERE decide_due`); n != 2 {
		t.Errorf("%d users are due, want both", n)
	}
}

// Whatever the directory says of a person, the user that was chosen by hand is the one that the rules choose.
func TestTheRulesChooseWhomAPersonHasChosen(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	random := rand.New(rand.NewPCG(4, 2))
	const users = 12
	ids := []string{"S-1", "S-2", "S-3", ""}
	for id := int64(1); id <= users; id++ {
		d.user(t, id, fmt.Sprintf("p%d@acme.edu", random.IntN(6)), ids[random.IntN(len(ids))])
	}
	chosen := map[string]int64{}
	for i := range 8 {
		key, institution := fmt.Sprintf("email:p%d@acme.edu", i), ids[random.IntN(3)]
		if i >= 6 {
			institution = fmt.Sprint("X-", i)
			key = "id:" + institution
		}
		d.person(t, key, institution)
		chosen[key] = 1 + random.Int64N(users)
		d.run(t, "holds", "link", key, strconv.FormatInt(chosen[key], 10), "--reason", "chosen").ends(t, 0)
	}
	people, err := state.NextPeople(t.Context(), d.db, "default", "", 100, true, nil)
	if err != nil || len(people) != len(chosen) {
		t.Fatalf("%d people are due, want %d: %v", len(people), len(chosen), err)
	}
	for _, p := range people {
		email, _ := strings.CutPrefix(p.Person, "email:")
		if email == p.Person {
			email = ""
		}
		emails := []string{email}
		found, err := state.Candidates(t.Context(), d.db, "default", p.InstitutionIDs, emails, true)
		if err != nil {
			t.Fatal(err)
		}
		candidates := make([]bridgesync.Candidate, len(found))
		for i, c := range found {
			candidates[i] = bridgesync.Candidate(c)
		}
		for _, rules := range [][]bridgesync.Rule{{bridgesync.RuleExternalID, bridgesync.RuleEmail}, {bridgesync.RuleEmail}, {bridgesync.RuleOtherEmail}, nil} {
			decision := bridgesync.Link(bridgesync.Person{Key: p.Person, Email: email, InstitutionIDs: p.InstitutionIDs, Hand: p.Hand}, candidates, rules)
			if decision.UserID != chosen[p.Person] || decision.Rule != bridgesync.RuleHand || decision.Reason != "" {
				t.Errorf("%s by %v: %+v, want user %d by hand", p.Person, rules, decision, chosen[p.Person])
			}
		}
	}
}

// What a list calls somebody, every command understands, and means no one else by it.
func TestWhoeverIsListedCanBeNamed(t *testing.T) {
	t.Parallel()
	cmd := &cobra.Command{}
	for _, h := range []state.ListedHold{
		{Kind: state.HeldPerson, Subject: "email:jane@acme.edu"},
		{Kind: state.HeldPerson, Subject: "email:no-address"},
		{Kind: state.HeldPerson, Subject: "email:id:x"},
		{Kind: state.HeldPerson, Subject: "email:-o@x"},
		{Kind: state.HeldPerson, Subject: "id:S-1"},
		{Kind: state.HeldPerson, Subject: "id:a@x"},
		{Kind: state.HeldPerson, Subject: "id:email:x"},
		{Kind: state.HeldPerson, Subject: "id:user:7"},
		{Kind: state.HeldPerson, Subject: "id:10344"},
		{Kind: state.HeldPerson, Subject: "id:-5"},
		{Kind: state.HeldPerson, Subject: "row:00ff"},
		{Kind: state.HeldUser, Subject: "10344"},
		{Kind: state.HeldPerson, Subject: "id:two words"},
	} {
		name := whoIs(h)
		who, err := parseWho(cmd, name)
		switch kind, rest, _ := strings.Cut(h.Subject, ":"); {
		case err != nil:
			t.Errorf("%s is called %s: %v", h.Subject, name, err)
		case h.Kind == state.HeldUser:
			if fmt.Sprint(who.UserID) != h.Subject {
				t.Errorf("%s is called %s, which is %+v", h.Subject, name, who)
			}
		case who.Person == h.Subject, kind == "email" && who.Email == rest, kind == "id" && who.ID == rest:
		default:
			t.Errorf("%s is called %s, which is %+v", h.Subject, name, who)
		}
		if strings.HasPrefix(name, "-") {
			t.Errorf("%s is called %s, which is a flag", h.Subject, name)
		}
	}
}

// From the hold to the record: what a person decides is written, moved where they decide anew, and given back to the rules.
func TestADecisionIsWritten(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	one := p.AddUser(simulator.NewUser{Username: "jane@people.example", ExternalID: "S-1", OtherInfo: `{"jobTitle":"x"}`})
	two := p.AddUser(simulator.NewUser{Username: "other@people.example", ExternalID: "S-2", OtherInfo: `{"jobTitle":"y"}`})
	p.AddParticipant(simulator.Participant{
		Kind: simulator.Recorded, Held: "conflict", Email: "jane@people.example", InstitutionID: "S-2", EventAccessCode: "E1", EventTitle: "Staff",
		NameBadgeLink: "https://www.name-coach.com/jane", RecordingLink: "https://namewaves.s3.amazonaws.com/jane.mp3", RecordingID: "1",
	})
	shows := func(user int64) bool { return strings.Contains(p.UserOtherInfo(user), "jane.mp3") }
	p.run(t, "backfill").ends(t, 0)
	p.run(t, "holds", "list").ends(t, 0).tellsOut(t, "jane@people.example", "conflict")
	if shows(one) || shows(two) {
		t.Fatal("who is held was written")
	}
	p.run(t, "holds", "link", "jane@people.example", fmt.Sprint(one), "--reason", "it is Jane").ends(t, 0)
	p.run(t, "collect").ends(t, 0)
	if !shows(one) || shows(two) {
		t.Errorf("after the link: %s, %s", p.UserOtherInfo(one), p.UserOtherInfo(two))
	}
	p.run(t, "backfill").ends(t, 0)
	if !shows(one) || shows(two) {
		t.Errorf("after a backfill: %s, %s", p.UserOtherInfo(one), p.UserOtherInfo(two))
	}
	p.run(t, "holds", "link", "S-2", fmt.Sprint(two), "--reason", "it was not").ends(t, 0)
	p.run(t, "collect").ends(t, 0)
	if shows(one) || !shows(two) {
		t.Errorf("after another link: %s, %s", p.UserOtherInfo(one), p.UserOtherInfo(two))
	}
	p.run(t, "holds", "release", "jane@people.example").ends(t, 0).tellsOut(t, "cleared again", "Done: 1 user cleared.", "jane@people.example is held as conflict")
	if shows(one) || shows(two) {
		t.Errorf("after the release: %s, %s", p.UserOtherInfo(one), p.UserOtherInfo(two))
	}
	p.run(t, "holds", "list").ends(t, 0).tellsOut(t, "jane@people.example", "conflict")
	for _, m := range p.Mismatches(5) {
		t.Error(m)
	}
}

// What is taken from somebody because a link by hand was wrong is judged by the guard like anything else.
func TestAReleaseThatTakesMoreThanTheGuardLetsThroughWaits(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{}).strict()
	user := p.AddUser(simulator.NewUser{Username: "jane@people.example", ExternalID: "S-1"})
	p.AddParticipant(simulator.Participant{
		Kind: simulator.Recorded, Held: "unmatched", Email: "other@people.example", EventAccessCode: "E1", EventTitle: "Staff",
		NameBadgeLink: "https://www.name-coach.com/other", RecordingLink: "https://namewaves.s3.amazonaws.com/other.mp3", RecordingID: "1",
	})
	p.run(t, "backfill").ends(t, 0)
	p.run(t, "holds", "link", "other@people.example", fmt.Sprint(user), "--reason", "a guess").ends(t, 0)
	o := p.run(t, "holds", "release", "other@people.example").ends(t, 3).tellsOut(t, "QUARANTINED", "namebridge runs approve ")
	if !strings.Contains(p.UserOtherInfo(user), "other.mp3") {
		t.Fatalf("the guard let it through: %s", p.UserOtherInfo(user))
	}
	_, id, _ := strings.Cut(o.stdout, "namebridge runs approve ")
	p.run(t, "runs", "approve", id[:8], "--reason", "it was wrong").ends(t, 0)
	if strings.Contains(p.UserOtherInfo(user), "other.mp3") {
		t.Errorf("after the approval: %s", p.UserOtherInfo(user))
	}
}

// Commands that ask nobody but the database know the bridge to work on by its name alone.
func TestReviewingNeedsABridgeWhereThereAreSeveral(t *testing.T) {
	t.Parallel()
	d := queue(t)
	d.exec(t, `INSERT INTO bridges (bridge, organization_id) VALUES ('acme', 2)`)
	both := d.with(map[string]string{"BRIDGES": "acme,default"})
	both.run(t, "holds", "list").ends(t, 2, "name one with --bridge: acme, default")
	both.run(t, "holds", "list", "--bridge", "acme").ends(t, 0).tellsOut(t, "Nobody is held")
	both.run(t, "holds", "list", "--bridge", "default").ends(t, 0).tellsOut(t, "jane.roe@acme.edu", `holds link WHO USER_ID --reason "…" --bridge default`)
	both.run(t, "holds", "link", "jane.roe@acme.edu", "10344", "--reason", "x", "--bridge", "default").ends(t, 0).tellsOut(t, "now: namebridge collect --bridge default\n")
	both.run(t, "holds", "link", "jane.roe@acme.edu", "10344", "--reason", "x", "--bridge", "acme").ends(t, 1, "nobody that NameCoach has shown").discreet(t)
	d.with(map[string]string{"DATABASE_URL": ""}).run(t, "holds", "list").ends(t, 2, "DATABASE_URL")
}

// A halted bridge writes nothing: what is decided waits.
func TestADecisionOnAHaltedBridgeSaysThatItWaits(t *testing.T) {
	t.Parallel()
	d := queue(t)
	d.exec(t, `UPDATE bridges SET halted_at = now(), halt_reason = 'x'`)
	d.run(t, "holds", "link", "jane.roe@acme.edu", "20981", "--reason", "x").ends(t, 0).tellsOut(t, "halted", "namebridge resume")
	d.run(t, "holds", "release", "10344").ends(t, 0).tellsOut(t, "halted", "namebridge resume")
}
