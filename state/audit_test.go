package state_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/google/go-cmp/cmp"

	"namebridge/state"
)

// shown has bridge a write users, so that they show the digest.
func shown(t testing.TB, db state.Querier, digest string, users ...int64) {
	t.Helper()
	wish(t, db, "a", state.Wish{Urgency: state.BackfillPriority}, written(digest, users...)...)
	var outcomes []state.Outcome
	for _, c := range get[[]state.Claimed](t)(state.Claim(t.Context(), db, "a", state.BackfillPriority, live(t, db, "a"), len(users))) {
		outcomes = append(outcomes, state.Outcome{UserID: c.UserID, Fence: c.Fence, Applied: true, Version: c.Version, Digest: c.WantedDigest, Source: c.WantedSource})
	}
	if len(outcomes) != len(users) {
		t.Fatalf("%d of %d were written", len(outcomes), len(users))
	}
	must(t, state.Settle(t.Context(), db, "a", outcomes))
}

// audits are the users whose audit is due.
func audits(t testing.TB, db state.Querier, limit int) (ids []int64) {
	t.Helper()
	for _, u := range get[[]state.AuditedUser](t)(state.NextAudits(t.Context(), db, "a", limit)) {
		ids = append(ids, u.UserID)
	}
	return ids
}

// A backfill writes everybody within hours: their audits must not all be due on one day.
func TestFirstAuditsAreSpreadOverAMonth(t *testing.T) {
	t.Parallel()
	const users = 1000
	db := directory(t, users)
	shown(t, db, "x", upTo(users)...)
	if due := audits(t, db, users); len(due) != 0 {
		t.Errorf("%d are due at once", len(due))
	}
	// Between two days and thirty, a quarter of them each week, give or take.
	got := value[string](t, db, `SELECT concat_ws(' ', min(audit_at) > now() + interval '47 hours', max(audit_at) <= now() + interval '30 days',
		min(n) > 150, max(n) < 350, count(*)) FROM (SELECT *, count(*) OVER (PARTITION BY width_bucket(audit_at, ARRAY[now() + interval '9 days', now() + interval '16 days', now() + interval '23 days'])) n
			FROM directory_users) d`)
	if got != "t t t t 1000" {
		t.Errorf("spread: %s", got)
	}
}

func TestOnlyThoseWhoShowWhatIsWantedAreAuditedTheLongestDueFirst(t *testing.T) {
	t.Parallel()
	db := directory(t, 9)
	shown(t, db, "x", 1, 2, 3, 4, 5, 6, 7)
	exec(t, db, `UPDATE directory_users SET audit_at = now() - user_id * interval '1 hour' WHERE audit_at IS NOT NULL`)
	exec(t, db, `UPDATE directory_users SET audit_at = now() + interval '1 hour' WHERE user_id = 4`)
	markGone(t, db, "a", 5)
	wish(t, db, "a", state.Wish{Urgency: state.BackfillPriority}, written("y", 6)...)
	wish(t, db, "a", state.Wish{Urgency: state.BackfillPriority}, state.Wanted{UserID: 7, Action: "clear"})
	must(t, letThrough(t.Context(), db, "a", uuid.Nil))
	cs := get[[]state.Claimed](t)(state.Claim(t.Context(), db, "a", state.BackfillPriority, live(t, db, "a"), 10))
	for _, c := range cs {
		if c.Action == "clear" {
			must(t, state.Settle(t.Context(), db, "a", []state.Outcome{{UserID: 7, Fence: c.Fence, Applied: true, Version: c.Version}}))
		}
	}
	exec(t, db, `UPDATE directory_users SET audit_at = now() - interval '1 day' WHERE user_id IN (7, 8)`)
	// 4 is not due, 5 is gone, 6 is to be written, 7 was cleared, 8 and 9 were never written.
	if got := audits(t, db, 10); !slices.Equal(got, []int64{3, 2, 1}) {
		t.Errorf("due: %v", got)
	}
	if got := audits(t, db, 2); !slices.Equal(got, []int64{3, 2}) {
		t.Errorf("of two: %v", got)
	}
}

func TestAnAuditMakesDueWhomSomebodyElseHasChanged(t *testing.T) {
	t.Parallel()
	db := directory(t, 6)
	shown(t, db, "x", 1, 2, 3, 4, 5, 6)
	exec(t, db, `UPDATE directory_users SET audit_at = now() - interval '1 hour', decide_due = user_id = 6`)
	seen := map[int64][]byte{1: []byte("x"), 2: []byte("other"), 3: nil, 4: []byte("other"), 5: []byte("other"), 6: []byte("x")}
	var as []state.Audit
	for _, u := range get[[]state.AuditedUser](t)(state.NextAudits(t.Context(), db, "a", 10)) {
		as = append(as, state.Audit{UserID: u.UserID, Applied: u.AppliedDigest, Seen: seen[u.UserID]})
	}
	// Meanwhile one was written, and another is to be.
	shown(t, db, "y", 4)
	exec(t, db, `UPDATE directory_users SET audit_at = now() - interval '1 hour' WHERE user_id = 4`)
	wish(t, db, "a", state.Wish{Urgency: state.BackfillPriority}, written("y", 5)...)
	if drifted := get[int64](t)(state.StoreAudits(t.Context(), db, "a", as)); drifted != 2 {
		t.Errorf("%d have drifted", drifted)
	}
	got := map[int64]string{}
	for id := range seen {
		got[id] = value[string](t, db, `SELECT concat_ws(' ', CASE WHEN decide_due THEN 'due' END, 'shows ' || coalesce(encode(listed_fragment, 'escape'), 'nothing'),
			'by us ' || coalesce(encode(applied_digest, 'escape'), 'nothing'), CASE WHEN audit_at < now() THEN 'again' WHEN audit_at > now() + interval '29 days' THEN 'in a month' END)
			FROM directory_users WHERE user_id = $1`, id)
	}
	if diff := cmp.Diff(map[int64]string{
		1: "shows x by us x in a month",
		2: "due shows other by us x in a month",
		3: "due shows nothing by us nothing in a month",
		4: "shows y by us y again", // written since
		5: "shows x by us x again", // to be written
		6: "due shows x by us x in a month",
	}, got); diff != "" {
		t.Error(diff)
	}
	if drifted := get[int64](t)(state.StoreAudits(t.Context(), db, "a", nil)); drifted != 0 {
		t.Errorf("of nobody %d have drifted", drifted)
	}
}

// What somebody has removed is written again, and is a loss to nobody.
func TestWhatAnAuditFindsRemovedIsWantedAgain(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	shown(t, db, "x", 1)
	get[int64](t)(state.StoreAudits(t.Context(), db, "a", []state.Audit{{UserID: 1, Applied: []byte("x")}}))
	badge := state.Wanted{UserID: 1, Action: "write", Value: []byte(`{"recording_link": null}`), Digest: []byte("badge")}
	if n := wish(t, db, "a", state.Wish{Urgency: state.SweepPriority}, badge); n != 1 {
		t.Error("it is not pending")
	}
	if ids, _ := claim(t, db, live(t, db, "a"), 1); len(ids) != 1 {
		t.Error("nothing stands there, and yet the guard keeps it")
	}
	if at := value[time.Time](t, db, `SELECT audit_at FROM directory_users`); time.Until(at) < 29*24*time.Hour {
		t.Errorf("the next audit is at %v", at)
	}
}

// One who cannot be read must not be in the way of the others, sweep after sweep.
func TestWhoCannotBeReadIsAuditedADayLater(t *testing.T) {
	t.Parallel()
	db := directory(t, 3)
	shown(t, db, "x", 1, 2, 3)
	exec(t, db, `UPDATE directory_users SET audit_at = now() - user_id * interval '1 hour'`)
	must(t, state.PostponeAudits(t.Context(), db, "a", []int64{3, 1}))
	if got := audits(t, db, 10); !slices.Equal(got, []int64{2}) {
		t.Errorf("due: %v", got)
	}
	exec(t, db, `UPDATE directory_users SET audit_at = audit_at - interval '1 day'`)
	if got := audits(t, db, 10); len(got) != 3 {
		t.Errorf("a day later: %v", got)
	}
	must(t, state.PostponeAudits(t.Context(), db, "a", nil))
}
