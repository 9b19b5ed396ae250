package state_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

// written wants users written, each with the digest.
func written(digest string, users ...int64) (ws []state.Wanted) {
	for _, u := range users {
		ws = append(ws, state.Wanted{UserID: u, Action: "write", Value: []byte(`{"recording_link": "r"}`), Digest: []byte(digest), Source: []byte("s")})
	}
	return ws
}

// of is the users that were claimed, in order.
func of(cs []state.Claimed) (ids []int64) {
	for _, c := range cs {
		ids = append(ids, c.UserID)
	}
	slices.Sort(ids)
	return ids
}

// A change must reach its user within seconds, also while a sweep has thousands to write.
func TestAChangeIsClaimedBeforeASweepsUsers(t *testing.T) {
	t.Parallel()
	db := directory(t, 8)
	owner := live(t, db, "a")
	at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	backfill, sweep := state.Wish{Run: uuid.New(), Urgency: state.BackfillPriority}, state.Wish{Run: uuid.New(), Urgency: state.SweepPriority}
	collect, person := state.Wish{Run: uuid.New(), Urgency: state.CollectPriority, Window: &at}, state.Wish{Run: uuid.New(), Urgency: state.OnDemand}
	wish(t, db, "a", backfill, written("x", 1, 2)...)
	wish(t, db, "a", sweep, written("x", 3, 4)...)
	wish(t, db, "a", collect, written("x", 5, 6)...)
	wish(t, db, "a", person, written("x", 8)...)
	for _, c := range []struct {
		limit int
		want  []int64
		run   uuid.UUID
	}{{1, []int64{8}, person.Run}, {2, []int64{5, 6}, collect.Run}, {1, []int64{3}, sweep.Run}, {1, []int64{4}, sweep.Run}, {10, []int64{1, 2}, backfill.Run}} {
		cs := get[[]state.Claimed](t)(state.Claim(t.Context(), db, "a", state.BackfillPriority, owner, c.limit))
		if got := of(cs); !slices.Equal(got, c.want) {
			t.Fatalf("claimed: %v, want %v", got, c.want)
		}
		for _, claimed := range cs {
			if claimed.Run != c.run || (claimed.Window != nil) != (c.run == collect.Run) {
				t.Errorf("claimed as %+v", claimed)
			}
		}
	}
}

// Else a sweep's writes would be in the way of a change that comes meanwhile.
func TestALaneForWhatIsUrgentLeavesTheRest(t *testing.T) {
	t.Parallel()
	db := directory(t, 3)
	owner := live(t, db, "a")
	wish(t, db, "a", state.Wish{Run: uuid.New(), Urgency: state.SweepPriority}, written("x", 1, 2)...)
	wish(t, db, "a", state.Wish{Run: uuid.New(), Urgency: state.CollectPriority}, written("x", 3)...)
	look := func(urgency int16) bool {
		t.Helper()
		return get[state.Work](t)(state.FindWork(t.Context(), db, "a", urgency)).Claimable
	}
	if !look(state.CollectPriority) || look(state.OnDemand) {
		t.Error("it is not told of its work, or is told of others'")
	}
	for _, want := range [][]int64{{3}, nil} {
		if got := of(get[[]state.Claimed](t)(state.Claim(t.Context(), db, "a", state.CollectPriority, owner, 10))); !slices.Equal(got, want) {
			t.Errorf("claimed: %v, want %v", got, want)
		}
	}
	if look(state.CollectPriority) || !look(state.SweepPriority) {
		t.Error("it is told of others' work, or they are not told of theirs")
	}
}

func TestAnUrgentWishKeepsItsRunAndAPlanTakesNothing(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	run := func(bridge string, kind state.Kind, over bool) uuid.UUID {
		t.Helper()
		r, _, err := state.StartRun(t.Context(), db, bridge, state.NewRun{Kind: kind})
		must(t, err)
		if over {
			must(t, state.EndRun(t.Context(), db, bridge, r, state.Failed, nil, ""))
		}
		return r.Run
	}
	for name, c := range map[string]struct {
		first, second int16
		over          bool   // the first run is
		digest        string // of the second's wish
		urgency       int16
		taken         bool // it is the second's now
		version       int64
	}{
		"the same, less urgent":               {state.CollectPriority, state.SweepPriority, false, "x", state.CollectPriority, false, 1},
		"the same, as urgent":                 {state.SweepPriority, state.SweepPriority, false, "x", state.SweepPriority, true, 1},
		"the same, planned":                   {state.SweepPriority, state.Planned, false, "x", state.SweepPriority, false, 1},
		"another, planned":                    {state.SweepPriority, state.Planned, false, "y", state.SweepPriority, false, 2},
		"the same, more urgent":               {state.SweepPriority, state.CollectPriority, false, "x", state.CollectPriority, true, 1},
		"the same, less urgent, of one ended": {state.CollectPriority, state.SweepPriority, true, "x", state.CollectPriority, true, 1},
		"another, less urgent":                {state.CollectPriority, state.SweepPriority, false, "y", state.SweepPriority, true, 2},
		"another, more urgent":                {state.SweepPriority, state.CollectPriority, false, "y", state.CollectPriority, true, 2},
		"what was planned":                    {state.Planned, state.SweepPriority, true, "x", state.SweepPriority, true, 1},
		"what was planned, more or less":      {state.Planned, state.SweepPriority, true, "y", state.SweepPriority, true, 2},
	} {
		get[state.Bridge](t)(state.EnsureBridge(t.Context(), db, name, 1))
		get[int64](t)(state.StoreDirectory(t.Context(), db, name, 1, []state.DirectoryUser{user(1, "u@x", "")}, false))
		first, second := run(name, state.Sweep, c.over), run(name, state.Collect, false)
		wish(t, db, name, state.Wish{Run: first, Urgency: c.first}, written("x", 1)...)
		exec(t, db, `UPDATE directory_users SET attempts = 2, retry_at = now() - interval '1 second' WHERE bridge = $1`, name)
		wish(t, db, name, state.Wish{Run: second, Urgency: c.second}, written(c.digest, 1)...)
		wantRun, attempts := first, 2
		if c.taken {
			wantRun = second
		}
		if c.digest == "y" {
			attempts = 0 // what failed was another thing
		}
		if got := value[int16](t, db, `SELECT urgency FROM directory_users WHERE bridge = $1`, name); got != c.urgency {
			t.Errorf("%s: the urgency is %d", name, got)
		}
		cs := get[[]state.Claimed](t)(state.Claim(t.Context(), db, name, state.BackfillPriority, uuid.New(), 1))
		if len(cs) != 1 || cs[0].Run != wantRun || cs[0].Version != c.version || cs[0].Attempts != attempts || string(cs[0].WantedDigest) != c.digest {
			t.Errorf("%s: claimed as %+v, want it of %v", name, cs, wantRun)
		}
	}
}

// A run that looks at everybody does what others have left undone. What a run that is under way wants is its own to wait for.
func TestOnlyWhatRunsThatAreOverHaveLeftIsTakenUp(t *testing.T) {
	t.Parallel()
	db := directory(t, 14)
	running, _ := begin(t, db, state.NewRun{Kind: state.Collect})
	over := ended(t, db, state.Backfill, state.Failed)
	sweep, _ := begin(t, db, state.NewRun{Kind: state.Sweep})
	owner, gone := live(t, db, "a"), live(t, db, "a")
	silence(t, db, gone, state.Lease+1)
	add := func(run uuid.UUID, urgency int16, users ...int64) {
		t.Helper()
		wish(t, db, "a", state.Wish{Run: run, Urgency: urgency}, written("x", users...)...)
	}
	add(running.Run, state.CollectPriority, 1)
	add(over.Run, state.BackfillPriority, 2, 5, 6, 7, 8)
	add(sweep.Run, state.SweepPriority, 3, 4)
	add(over.Run, state.OnDemand, 9)
	add(uuid.New(), state.Planned, 10)
	add(over.Run, state.BackfillPriority, 11, 13)
	wish(t, db, "a", state.Wish{Run: over.Run, Urgency: state.BackfillPriority}, state.Wanted{UserID: 12, Action: "clear"})
	exec(t, db, `UPDATE directory_users SET attempts = 3, retry_at = now() + interval '1 hour' WHERE user_id IN (1, 2, 3, 7, 13)`)
	exec(t, db, `UPDATE directory_users SET claim_owner = CASE WHEN user_id = 5 THEN $1::uuid ELSE $2 END WHERE user_id IN (5, 6)`, owner, gone)
	exec(t, db, `UPDATE directory_users SET wanted_run = NULL WHERE user_id = 11`)
	markGone(t, db, "a", 8)
	wish(t, db, "a", state.Wish{Run: over.Run}, state.Wanted{UserID: 13}) // called off
	must(t, state.Adopt(t.Context(), db, "a", sweep.Run, state.SweepPriority))

	names := map[uuid.UUID]string{running.Run: "running", over.Run: "over", sweep.Run: "sweep"}
	got := map[int64]string{}
	rows, err := db.Query(t.Context(), `SELECT user_id, wanted_run, concat_ws(' ', urgency, attempts, retry_at IS NOT NULL, wanted_version, released_version) FROM directory_users WHERE wanted_version > 0`)
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var id int64
		var run uuid.UUID
		var rest string
		must(t, rows.Scan(&id, &run, &rest))
		got[id] = names[run] + " " + rest
	}
	must(t, rows.Err())
	want := map[int64]string{
		1:  "running 2 3 t 1 0", // of a run that is under way
		2:  "sweep 3 0 f 1 0",   // failed: tried at once
		3:  "sweep 3 0 f 1 0",   // its own that failed
		4:  "sweep 3 0 f 1 0",   // its own
		5:  "sweep 3 0 f 1 0",   // somebody is at it
		6:  "sweep 3 0 f 1 0",   // nobody is any more
		7:  "sweep 3 0 f 1 0",
		8:  "over 4 0 f 1 0",  // gone
		9:  "sweep 1 0 f 1 0", // it stays as urgent as it was
		10: "sweep 3 0 f 1 0", // planned
		11: "sweep 3 0 f 1 0", // nobody's
		12: "sweep 3 0 f 1 0", // nobody has let it through by that
		13: "over 4 0 f 1 0",  // nothing is wanted any more
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := get[int](t)(state.CountPendingOf(t.Context(), db, "a", sweep.Run, state.SweepPriority)); n != 9 { // all but the one that the guard has not let through
		t.Errorf("%d are pending for the sweep", n)
	}
}

func TestWhatIsLeftOfARun(t *testing.T) {
	t.Parallel()
	db := directory(t, 2)
	owner, gone, run := live(t, db, "a"), live(t, db, "a"), uuid.New()
	silence(t, db, gone, state.Lease+1)
	wish(t, db, "a", state.Wish{Run: run, Urgency: state.SweepPriority}, written("x", 1, 2)...)
	for name, c := range map[string]struct {
		prepare string // $1: a live process, $2: one that is gone
		want    state.Pending
		retry   bool
	}{
		"it may be claimed":                            {`SELECT $1::uuid, $2::uuid`, state.Pending{Ready: true}, false},
		"one of two may be":                            {`UPDATE directory_users SET claim_owner = CASE WHEN user_id = 1 THEN $1 ELSE $2::uuid END`, state.Pending{Ready: true}, false},
		"somebody is at it":                            {`UPDATE directory_users SET claim_owner = coalesce($1, $2::uuid)`, state.Pending{Claimed: true}, false},
		"nobody is at it any more":                     {`UPDATE directory_users SET claim_owner = coalesce($2, $1::uuid)`, state.Pending{Ready: true}, false},
		"it failed and waits":                          {`UPDATE directory_users SET retry_at = now() + interval '1 hour' WHERE $1::uuid <> $2::uuid`, state.Pending{}, true},
		"one has failed, somebody is at one":           {`UPDATE directory_users SET retry_at = now() + interval '1 hour', claim_owner = CASE WHEN user_id = 1 THEN $1 WHEN false THEN $2::uuid END`, state.Pending{Claimed: true}, false},
		"it has waited":                                {`UPDATE directory_users SET retry_at = now() WHERE $1::uuid <> $2::uuid`, state.Pending{Ready: true}, false},
		"it waits for a person":                        {`UPDATE directory_users SET removes = true WHERE $1::uuid <> $2::uuid`, state.Pending{}, false},
		"it was done":                                  {`UPDATE directory_users SET applied_version = wanted_version WHERE $1::uuid <> $2::uuid`, state.Pending{}, false},
		"it is gone":                                   {`UPDATE directory_users SET gone_at = now() WHERE $1::uuid <> $2::uuid`, state.Pending{}, false},
		"it is gone, and its people are not looked at": {`UPDATE directory_users SET gone_at = now(), applied_version = wanted_version, claim_owner = coalesce($1, $2::uuid)`, state.Pending{Claimed: true}, false},
		"others want it":                               {`UPDATE directory_users SET wanted_run = $1 WHERE $1::uuid <> $2::uuid`, state.Pending{}, false},
		"it is planned":                                {`UPDATE directory_users SET urgency = 5 WHERE $1::uuid <> $2::uuid`, state.Pending{}, false},
		"it was done, but somebody's write is open": {`WITH done AS (UPDATE directory_users SET applied_version = wanted_version)
			INSERT INTO journal (bridge, run, user_id, fence, action, state) SELECT 'a', $1, 1, 1, 'write', 'sending' WHERE $1::uuid <> $2::uuid`, state.Pending{Ready: true}, false},
	} {
		undone(t, db, func(tx pgx.Tx) {
			exec(t, tx, c.prepare, owner, gone)
			got := get[state.Pending](t)(state.PendingOf(t.Context(), tx, "a", run, state.SweepPriority))
			if (got.Retry != nil) != c.retry || c.retry && time.Until(*got.Retry).Round(time.Minute) != time.Hour {
				t.Errorf("%s: the retry is at %v", name, got.Retry)
			}
			got.Retry = nil
			if got != c.want {
				t.Errorf("%s: %+v, want %+v", name, got, c.want)
			}
		})
	}
}
