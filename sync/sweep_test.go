package sync_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"namebridge/internal/simulator"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

func TestASweepRepairsWhatOthersDidToTheFragment(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 61, Users: 60})
	w.backfill(t)
	var written []int64
	for id, u := range w.Truth().Users {
		if u.Fragment != nil {
			written = append(written, id)
		}
	}
	slices.Sort(written)
	for i, value := range []string{
		``, `null`, `{}`, `"mine"`, `[1]`, `7`, `{"name_badge_link":"https://evil.example/"}`, `{"recording_link":{"deep":true}}`,
		`{"name_badge_link":null,"recording_link":null,"recording_id":null,"recording_date":null,"event_title":null}`,
	} {
		if err := w.EditOtherInfo(written[i], "namecoach", value); err != nil {
			t.Fatal(err)
		}
	}
	w.SetOtherInfo(written[9], `{"other":"all that was there is gone"}`)
	res := w.sweep(t)
	w.right(t)
	if res.Written != 10 || w.asked("bln users.get") != 10 || w.asked("bln users.put") != 10 {
		t.Errorf("%+v, %v", res, w.Counts())
	}
	w.quiet(t, "bln auth.login", "bln organization.get", "bln users.search", "bln users.list", "bln users.get", "bln users.put")
	if res := w.sweep(t); res.Written != 0 || w.asked("bln users.get") != 0 {
		t.Errorf("a second sweep: %+v", res)
	}
}

// Traps 27, 45: accounts that were removed or merged.
func TestRemovedAndMergedUsersAreResolvedAnew(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 62, Users: 60})
	removed, merged := w.user("removed@demo.example", ""), w.user("merged@demo.example", "M-1")
	w.AddParticipant(speaker("removed", "removed@demo.example", "", removed))
	mine := w.AddParticipant(speaker("merged", "merged@demo.example", "", merged))
	w.backfill(t)
	w.RemoveUser(removed)
	w.RemoveUser(merged)
	survivor := w.user("merged@demo.example", "M-2")
	w.belongs(mine, survivor)
	truth := w.Truth().Totals
	res := w.sweep(t)
	w.right(t)
	counted(t, res, truth)
	if res.Written != 1 || w.fragment(t, survivor) == nil || w.reasons(t)["email:removed@demo.example"] != "unmatched" {
		t.Errorf("%+v, held %v", res, w.holds(t))
	}
}

// Trap 45: a user who is listed and yet not found when read is no failure of everybody else.
func TestAUserWhoIsGoneWhenReadIsLookedForAgain(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 63, Users: 60})
	ada := w.user("ada@demo.example", "")
	w.AddParticipant(speaker("ada", "ada@demo.example", "", ada))
	w.Change(func(o *simulator.Options) { o.NotFoundUsers = map[int64]bool{ada: true} })
	res := w.backfill(t)
	if truth := w.Truth().Totals; res.Failed != 0 || res.Written != truth.Unchanged || truth.Written != 1 {
		t.Errorf("%+v, the truth is %+v", res, truth)
	}
	w.Change(func(o *simulator.Options) { o.NotFoundUsers = nil })
	w.sweep(t)
	w.right(t)
}

// What somebody else put under our key of a user whom NameCoach does not explain is not ours to clear.
func TestWhatNobodyExplainsStays(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	const theirs = `{"name_badge_link":"https://www.name-coach.com/by-hand","note":"typed in"}`
	eve := w.user("eve@demo.example", "")
	badgeless := w.user("bob@demo.example", "")
	for _, id := range []int64{eve, badgeless} {
		if err := w.EditOtherInfo(id, "namecoach", theirs); err != nil {
			t.Fatal(err)
		}
	}
	silent := speaker("bob", "bob@demo.example", "", badgeless)
	silent.NameBadgeLink, silent.RecordingLink, silent.RecordingID = "", " ", ""
	w.AddParticipant(silent)
	w.AddParticipant(speaker("ada", "ada@demo.example", "", w.user("ada@demo.example", "")))
	for _, run := range []func(*testing.T) bridgesync.Result{w.backfill, w.sweep, w.backfill} {
		res := run(t)
		for _, id := range []int64{eve, badgeless} {
			if got := string(w.members(t, id)["namecoach"]); got != theirs {
				t.Errorf("%s of user %d: %s", res.Kind, id, got)
			}
		}
		if res.Cleared != 0 || w.asked("bln users.get") > 1 {
			t.Errorf("%+v", res)
		}
	}
}

// moved is a world in which n of total people's externalId has gone over to another user each.
func moved(t *testing.T, n, total int) (w *world, from, to []int64) {
	t.Helper()
	w = start(t, simulator.Options{})
	for i := range total {
		id := w.user(fmt.Sprintf("from%03d", i), fmt.Sprintf("S-%03d", i))
		w.AddParticipant(speaker(fmt.Sprint("p", i), "", fmt.Sprintf("S-%03d", i), id))
		from = append(from, id)
	}
	for i := range n {
		to = append(to, w.user(fmt.Sprintf("to%03d", i), ""))
	}
	if res := w.backfill(t); res.Written != total {
		t.Fatalf("%+v", res)
	}
	for i := range n {
		w.setExternalID(t, from[i], fmt.Sprintf("OLD-%03d", i))
		w.setExternalID(t, to[i], fmt.Sprintf("S-%03d", i))
	}
	return w, from[:n], to
}

// Somebody else's voice must not stay on a record.
func TestAPersonWhoIsAnotherUserNowIsClearedFromTheOld(t *testing.T) {
	t.Parallel()
	for n, total := range map[int]int{3: 10, 20: 30} {
		w, from, to := moved(t, n, total)
		plan := w.plan(t)
		if plan.Written != n || plan.Cleared != n {
			t.Errorf("planned %+v", plan)
		}
		res := w.sweep(t)
		if res.Written != n || res.Cleared != n {
			t.Errorf("%+v", res)
		}
		for i := range n {
			if w.fragment(t, from[i]) != nil || w.fragment(t, to[i]) == nil {
				t.Errorf("from %s to %s", w.UserOtherInfo(from[i]), w.UserOtherInfo(to[i]))
			}
			if _, there := w.members(t, from[i])["namecoach"]; !there {
				t.Errorf("user %d: our key is gone, want null", from[i])
			}
		}
		if res := w.sweep(t); res.Written+res.Cleared != 0 || w.asked("bln users.get") != 0 {
			t.Errorf("a second sweep: %+v", res)
		}
	}
}

// What somebody has changed since we wrote it is not cleared.
func TestWhatSomebodyChangedMeanwhileIsNotCleared(t *testing.T) {
	t.Parallel()
	w, from, to := moved(t, 1, 5)
	if err := w.EditOtherInfo(from[0], "namecoach", `{"name_badge_link":"https://www.name-coach.com/mine"}`); err != nil {
		t.Fatal(err)
	}
	res := w.sweep(t)
	if res.Written != 1 || res.Cleared != 0 || w.fragment(t, from[0]) == nil || w.fragment(t, to[0]) == nil {
		t.Errorf("%+v", res)
	}
}

// Rule 5.
func TestTooManyClearsWaitForAPerson(t *testing.T) {
	t.Parallel()
	w, from, to := moved(t, 21, 40)
	sweep := func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Sweep(t.Context()) }
	var first uuid.UUID
	for _, written := range []int{21, 0} {
		res := w.run(t, state.Quarantined, sweep)
		if written > 0 {
			first = res.Run
		}
		if res.Written != written || res.Cleared != 0 {
			t.Errorf("%+v", res)
		}
		var steps int
		if err := w.db.QueryRow(t.Context(), `SELECT count(*) FROM plan_steps WHERE run = $1 AND action = 'clear'`, first).Scan(&steps); err != nil || steps != 21 {
			t.Errorf("%d steps wait, %v", steps, err)
		}
		for i := range from {
			if w.fragment(t, from[i]) == nil || w.fragment(t, to[i]) == nil {
				t.Errorf("from %s to %s", w.UserOtherInfo(from[i]), w.UserOtherInfo(to[i]))
			}
		}
	}
	w.settings.Guard.MaxClearPercent = 100
	if res := w.run(t, state.Quarantined, sweep); res.Cleared != 0 {
		t.Errorf("with a wider guard, what waits for a person waits for a person: %+v", res)
	}
	if res, _, err := w.bridge(t).Approve(t.Context(), first, "they have left"); err != nil || res.Cleared != 21 {
		t.Errorf("%+v, %v", res, err)
	}
}

// A directory that suddenly shows a part of its users is an incomplete one: nobody is unlinked because of it.
func TestADirectoryThatShrankIsNotBelievedAtOnce(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 64, Users: 120})
	w.backfill(t)
	linked := w.Truth().Totals.Linked
	left := 40
	for _, u := range w.Users() {
		if u.Kind == simulator.Recorded && left > 0 { // no other kind changes whose anybody else's rows are
			w.RemoveUser(u.ID)
			left--
		}
	}
	res, err := w.bridge(t).Sweep(t.Context())
	var listing *bridgesync.ListingError
	if !errors.As(err, &listing) || res.Status != state.Failed || res.Linked != linked || res.Written != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	truth := w.Truth().Totals
	counted(t, w.sweep(t), truth)
	w.right(t)
}

// A transaction that Postgres ended for a deadlock is made again, for the same people and users.
func TestADeadlockLeavesNobodyOut(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"links FOR EACH ROW", "directory_users FOR EACH ROW WHEN (NEW.wanted IS NOT NULL)"} {
		w := start(t, simulator.Options{Seed: 6, Users: 60})
		if _, err := w.db.Exec(t.Context(), `CREATE SEQUENCE once;
			CREATE FUNCTION dead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF nextval('once') = 1 THEN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END IF; RETURN NEW; END $$;
			CREATE TRIGGER dead BEFORE INSERT OR UPDATE ON `+table+` EXECUTE FUNCTION dead()`); err != nil {
			t.Fatal(err)
		}
		truth := w.Truth().Totals
		counted(t, w.backfill(t), truth)
		w.right(t)
	}
}

// Runs of different kinds may list at once: they share one listing, and each goes on where the other has brought it.
func TestRunsThatListAtOnceDoNotHinderEachOther(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 7, Users: 600, BLNLatency: 20 * time.Millisecond})
	w.collect(t)
	var all sync.WaitGroup
	for _, do := range []func(*bridgesync.Bridge) (bridgesync.Result, error){
		func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Backfill(t.Context(), time.Time{}) },
		func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Sweep(t.Context()) },
		func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Plan(t.Context()) },
	} {
		b := w.bridge(t)
		all.Go(func() {
			if res, err := do(b); err != nil {
				t.Errorf("%s: %v", res.Kind, err)
			}
		})
	}
	all.Wait()
	w.right(t)
	var listed, present int
	if err := w.db.QueryRow(t.Context(), `SELECT (SELECT rows FROM listings ORDER BY sweep DESC LIMIT 1),
		(SELECT count(*) FROM directory_users WHERE gone_at IS NULL)`).Scan(&listed, &present); err != nil || listed != present {
		t.Errorf("the listing counted %d of %d users, %v", listed, present, err)
	}
}

// Whoever completes a listing has it, and then users: whoever stores a page does not have its users while waiting for the listing.
func TestAPageIsStoredWithItsListingBeforeItsUsers(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 8, Users: 20})
	w.backfill(t)
	w.exec(t, `INSERT INTO listings (bridge, sweep) SELECT 'default', max(sweep) + 1 FROM listings`)
	other, err := w.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(), `SET LOCAL idle_in_transaction_session_timeout = 0; SELECT FROM listings WHERE completed_at IS NULL FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	var sweeping sync.WaitGroup
	sweeping.Go(func() {
		if res, err := w.bridge(t).Sweep(t.Context()); err != nil || res.Status != state.Done {
			t.Errorf("%+v, %v", res, err)
		}
	})
	w.waiting(t, 1)
	if _, err := other.Exec(t.Context(), `SELECT FROM directory_users FOR UPDATE NOWAIT`); err != nil {
		t.Errorf("while it waits: %v", err)
	}
	if err := other.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	sweeping.Wait()
}
