package state_test

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

// A row whose address was corrected is told by its voice, which is at another address now: that takes the recording, or a badge that nobody else has.
func TestARowOfSomebodyElseTakesAPlaceByItsRecordingOrByABadgeOfItsOwn(t *testing.T) {
	t.Parallel()
	row := func(email, badge, recording, id string) state.Participant {
		p := participant(email, "E")
		p.NameBadgeLink, p.RecordingLink, p.RecordingID = badge, recording, id
		return p
	}
	elsewhere := row("came@x", "https://b", "https://r", "1")
	elsewhere.EventAccessCode = "F"
	for name, c := range map[string]struct {
		was, came state.Participant
		other     *state.Participant // seen like the one that was
		silent    bool               // and the other speaks for nobody
		doubted   bool               // though nothing takes its place
		takes     bool
	}{
		"badge and recording":                    {was: row("was@x", "https://b", "https://r", "1"), came: row("came@x", "https://b", "https://r", "1"), takes: true},
		"the recording with another badge":       {was: row("was@x", "https://b", "https://r", "1"), came: row("came@x", "https://c", "https://r", "1"), takes: true},
		"a recording without an id, signed anew": {was: row("was@x", "https://b", "https://r?s=1", ""), came: row("came@x", "https://b", "https://r?s=2", ""), takes: true},
		"the badge with another recording":       {was: row("was@x", "https://b", "https://r", "1"), came: row("came@x", "https://b", "https://q", "2"), takes: true},
		"the badge with another, without an id":  {was: row("was@x", "https://b", "https://r", ""), came: row("came@x", "https://b", "https://q", ""), takes: true},
		"the badge without the recording":        {was: row("was@x", "https://b", "https://r", "1"), came: row("came@x", "https://b", "", ""), doubted: true},
		"another recording, a badge that a third has": {
			was: row("was@x", "https://b", "https://r", "1"), came: row("came@x", "https://b", "https://q", "2"), other: new(row("other@x", "https://b", "", "")),
		},
		"a badge, never recorded":                   {was: row("was@x", "https://b", "", ""), came: row("came@x", "https://b", "", ""), takes: true},
		"a badge, recorded since":                   {was: row("was@x", "https://b", "", ""), came: row("came@x", "https://b", "https://r", "1"), takes: true},
		"a badge that a third has":                  {was: row("was@x", "https://b", "", ""), came: row("came@x", "https://b", "", ""), other: new(row("other@x", "https://b", "", ""))},
		"a badge that a third had":                  {was: row("was@x", "https://b", "", ""), came: row("came@x", "https://b", "", ""), other: new(row("other@x", "https://b", "", "")), silent: true, takes: true},
		"a recording, and a badge that a third has": {was: row("was@x", "https://b", "https://r", "1"), came: row("came@x", "https://b", "https://r", "1"), other: new(row("other@x", "https://b", "", "")), takes: true},
		"nothing at all":                            {was: row("was@x", "", "", ""), came: row("came@x", "", "", "")},
		"all of it, in another event":               {was: row("was@x", "https://b", "https://r", "1"), came: elsewhere},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t, "a")
			store(t, db, "a", c.was)
			if c.other != nil {
				store(t, db, "a", *c.other)
				exec(t, db, `UPDATE participants SET replaced = $1, missing_since = CASE WHEN $1 THEN now() END WHERE participant = $2`, c.silent, c.other.ID)
			}
			exec(t, db, `UPDATE participants SET doubt_due = false, seen_at = now() - interval '1 day', created_at = now() - interval '2 days'`)
			store(t, db, "a", c.came)
			suspects := get[[]state.KnownPerson](t)(state.Suspects(t.Context(), db, "a", nil))
			if doubted := slices.Contains(suspects, state.KnownPerson{Person: "email:was@x", Email: "was@x"}); doubted != (c.takes || c.doubted) {
				t.Errorf("doubted is %v", suspects)
			}
			missing := func(asked ...string) bool {
				t.Helper()
				must(t, state.InTx(t.Context(), db, func(tx pgx.Tx) error {
					return state.MarkMissing(t.Context(), tx, "a", time.Now().Add(-time.Hour), &state.Asked{Emails: asked})
				}))
				return value[bool](t, db, `SELECT replaced FROM participants WHERE person = 'email:was@x'`)
			}
			exec(t, db, `UPDATE participants SET missing_since = now() - interval '1 hour' WHERE person = 'email:was@x'`) // one census did not show it
			if missing("came@x") {
				t.Error("a row that nobody was asked about now speaks for nobody")
			}
			if got := missing("was@x"); got != c.takes {
				t.Errorf("not shown, it speaks for nobody: %v, want %v", got, c.takes)
			}
		})
	}
}
