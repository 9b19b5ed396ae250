package state_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/state"
)

// beside does something beside an open transaction: it returns once that is over or waits for a lock, and its answer waits for the end.
func beside(t testing.TB, db *pgxpool.Pool, do func() error) (ended func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	ended = func() {
		t.Helper()
		must(t, <-done)
	}
	for {
		select {
		case err := <-done:
			done <- err
			return ended
		case <-time.After(5 * time.Millisecond):
		}
		if value[bool](t, db, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`) {
			return ended
		}
	}
}

// open begins a transaction that ends with the test at the latest, and with it what waits for it.
func open(t testing.TB, db *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx := get[pgx.Tx](t)(db.Begin(t.Context()))
	t.Cleanup(func() { _ = tx.Rollback(t.Context()) })
	standing(t, tx)
	return tx
}

// nothing stores that nothing is wanted of a user.
func nothing(t testing.TB, tx pgx.Tx, user int64) {
	t.Helper()
	get[int](t)(state.StoreWanted(t.Context(), tx, "a", state.Wish{Run: uuid.New(), Urgency: state.SweepPriority}, []state.Wanted{{UserID: user}}))
}

// Whoever decides has read the links before: one that comes meanwhile must not be taken for decided on.
func TestALinkThatComesWhileItsUserIsDecidedOnMakesItDueAgain(t *testing.T) {
	t.Parallel()
	db := directory(t, 2)
	exec(t, db, `UPDATE directory_users SET decide_due = true`)
	decision := open(t, db)
	if users := get[[]state.DueUser](t)(state.NextUsers(t.Context(), decision, "a", 0, 1, false)); len(users) != 1 {
		t.Fatalf("%+v", users)
	}
	was := value[string](t, db, `SELECT ctid::text FROM directory_users WHERE user_id = 2`)
	linked := beside(t, db, func() error {
		return state.InTx(t.Context(), db, func(tx pgx.Tx) error {
			return state.StoreDecisions(t.Context(), tx, "a", []state.Decided{
				{Person: "email:ada@x", UserID: 1, Rule: "email", Changed: true}, {Person: "email:bob@x", UserID: 2, Rule: "email", Changed: true},
			})
		})
	})
	nothing(t, decision, 1)
	must(t, decision.Commit(t.Context()))
	linked()
	if !value[bool](t, db, `SELECT decide_due FROM directory_users WHERE user_id = 1`) {
		t.Error("the user has a link that no decision has seen, and is not due")
	}
	if now := value[string](t, db, `SELECT ctid::text FROM directory_users WHERE user_id = 2`); now != was {
		t.Error("the row of a user who is due already was written anew")
	}
}

// The fear is the wrong person's voice: a decision that has waited for a link must not take the link that was with the rows that are. The
// voice that has moved away would stay, and nobody would be due to look again.
func TestADecisionThatWaitedForALinkKnowsTheLink(t *testing.T) {
	t.Parallel()
	db := directory(t, 2)
	p := participant("a@x", "E")
	store(t, db, "a", p)
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{{Person: p.Person, UserID: 1, Rule: "email", Changed: true}}))
	wish(t, db, "a", state.Wish{Run: uuid.New(), Urgency: state.SweepPriority}, state.Wanted{UserID: 1, Action: "write", Digest: []byte("d"), Source: p.ID, There: true})
	link := open(t, db) // the voice is found to be user 2's
	must(t, state.StoreDecisions(t.Context(), link, "a", []state.Decided{{Person: p.Person, UserID: 2, Rule: "email", WasUser: 1, Changed: true}}))
	var user state.DueUser
	var linked []state.LinkedParticipant
	decided := beside(t, db, func() error {
		return state.InTx(t.Context(), db, func(tx pgx.Tx) error { // a sweep decides on everybody
			users, err := state.NextUsers(t.Context(), tx, "a", 0, 1, false)
			if err != nil {
				return err
			}
			user = users[0]
			linked, err = state.ParticipantsOf(t.Context(), tx, "a", []int64{1})
			return err
		})
	})
	must(t, link.Commit(t.Context()))
	decided()
	if user.UserID != 1 || !user.Due || !user.SourceMoved || len(linked) != 0 {
		t.Errorf("user 1 shows a voice that is user 2's now, and the decision knows: %+v, linked %+v", user, linked)
	}
}

// What a person has released is written: a decision that has waited for it does not hold the user once more.
func TestADecisionThatWaitedForAReleaseKnowsTheRelease(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	want(t, db, "a", "write", 1)
	hold(t, db, state.HeldUser, state.Hold{Subject: "1", Reason: "reverted"})
	held := theHold(t, db)
	release := open(t, db)
	must(t, state.ReleaseHold(t.Context(), release, "a", held))
	var users []state.DueUser
	decided := beside(t, db, func() error {
		return state.InTx(t.Context(), db, func(tx pgx.Tx) (err error) {
			users, err = state.NextUsers(t.Context(), tx, "a", 0, 10, false)
			return err
		})
	})
	must(t, release.Commit(t.Context()))
	decided()
	if len(users) != 1 || !users[0].Due || users[0].HeldReason != "" {
		t.Errorf("a user who was released is decided on as %+v", users)
	}
}

// A voice that was nobody's for a while and is somebody else's now must not stay where it was until everybody is decided on.
func TestAVoiceThatWasNobodysMakesWhoShowsItDueWhenItIsLinked(t *testing.T) {
	t.Parallel()
	db := directory(t, 3)
	p := participant("a@x", "E")
	store(t, db, "a", p)
	there := func(user int64) {
		wish(t, db, "a", state.Wish{Run: uuid.New(), Urgency: state.SweepPriority}, state.Wanted{UserID: user, Action: "write", Digest: []byte("d"), Source: p.ID, There: true})
	}
	link := func(user, was int64) {
		must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{{Person: p.Person, UserID: user, Rule: "email", WasUser: was}}))
	}
	link(1, 0)
	there(1)
	link(0, 1)
	exec(t, db, `UPDATE directory_users SET decide_due = false`)
	link(2, 0)
	if due := value[string](t, db, `SELECT string_agg(user_id::text, ',' ORDER BY user_id) FROM directory_users WHERE decide_due`); due != "1,2" {
		t.Errorf("due: %s", due)
	}
}
