package sync_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"namebridge/internal/simulator"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// nameCoachNow is the time on NameCoach's clock.
func (w *world) nameCoachNow() (now time.Time) {
	w.Change(func(o *simulator.Options) { now = o.Now().Add(o.ClockOffset) })
	return now
}

// changed is a change of one user's only row.
type changed struct {
	at    time.Time // on NameCoach's clock
	user  int64
	title string
}

// Traps 8 and 27: collects alone bring everything, whatever the three clocks say of each other and however late rows show, as long as the
// lookback is no shorter than that. Time passes on the servers' side alone, so a case goes through all offsets from its own on.
func TestNoGapWhateverTheClocksSay(t *testing.T) {
	t.Parallel()
	const settle, step, rounds, each = 30 * time.Second, 30 * time.Second, 5, 3
	for _, clocks := range []struct{ nameCoach, bln time.Duration }{
		{-90 * time.Second, 90 * time.Second}, {0, -90 * time.Second}, {0, 90 * time.Second}, {90 * time.Second, -90 * time.Second},
	} {
		for _, c := range []struct{ late, lookback time.Duration }{
			{0, 10 * time.Minute},
			{time.Minute, 10 * time.Minute},
			{time.Minute, 35 * time.Second}, // with the settle time, just enough
		} {
			t.Run(fmt.Sprintf("NameCoach %v, BLN %v, rows %v late, lookback %v", clocks.nameCoach, clocks.bln, c.late, c.lookback), func(t *testing.T) {
				t.Parallel()
				w := start(t, simulator.Options{ClockOffset: clocks.nameCoach, BLNClockOffset: clocks.bln - clocks.nameCoach})
				w.settings.Settle, w.settings.Lookback = settle, c.lookback
				w.crowd(rounds * each)
				w.backfill(t)
				w.right(t)
				w.Change(func(o *simulator.Options) { o.LateVisible = c.late })
				w.ResetCounts()
				var all []changed
				collect := func(round int) {
					var before time.Time
					b := w.bridge(t) // a process that knows nothing of NameCoach's clock
					for range 2 {    // but its own: the first collect learns it
						before = w.nameCoachNow()
						if res, err := b.Collect(t.Context()); err != nil || res.Status != state.Done {
							t.Fatalf("%+v, %v", res, err)
						}
						cursor := w.cursor(t)
						if now := w.nameCoachNow(); cursor.After(now.Add(-settle)) {
							t.Errorf("round %d: the cursor is %v behind NameCoach's clock, less than the settle time", round, now.Sub(cursor))
						}
						for _, made := range all {
							if made.at.Add(c.late).After(before) && made.at.Before(cursor.Add(-c.lookback)) {
								t.Errorf("round %d: the cursor and its lookback have passed a row that was not shown yet, by %v", round, cursor.Add(-c.lookback).Sub(made.at))
							}
						}
					}
					for _, made := range all {
						if got := says(w.fragment(t, made.user), "event_title"); !made.at.Add(c.late).After(before) && got != made.title {
							t.Errorf("round %d: what was changed %v ago, and shown %v ago, has not arrived: %q, want %q",
								round, before.Sub(made.at).Round(time.Second), before.Sub(made.at.Add(c.late)).Round(time.Second), got, made.title)
						}
					}
				}
				for round := range rounds {
					for i := range each {
						w.earlier(step*time.Duration(i)/each, func() {
							id := int64(round*each + i + 1)
							all = append(all, changed{w.nameCoachNow(), id, fmt.Sprintf("Title %d", id)})
							w.rename(id, all[len(all)-1].title)
						})
					}
					// Somebody new on both sides is asked for in BLN, by its clock.
					fresh := fmt.Sprintf("fresh%d", round)
					p := speaker(fresh, fresh+"@demo.example", "", w.user(fresh+"@demo.example", ""))
					p.Updated = time.Time{}
					all = append(all, changed{w.nameCoachNow(), p.For, p.EventTitle})
					w.AddParticipant(p)
					collect(round)
					w.Advance(step)
				}
				w.Advance(c.late)
				collect(rounds)
				w.right(t)
				if n := w.asked("namecoach participants.search") + w.asked("bln users.list"); n > 0 {
					t.Errorf("%d requests that no collect needs: %v", n, w.Counts())
				}

				// Who asks about everybody finds nothing that windows have missed.
				if res := w.run(t, state.Done, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Census(t.Context()) }); res.Written != 0 {
					t.Errorf("the census has found %d", res.Written)
				}
				w.Advance(c.lookback + settle + step)
				collect(rounds + 1)
				if b, err := state.GetBridge(context.WithoutCancel(t.Context()), w.db, "default"); err != nil || b.LateFound != 0 {
					t.Errorf("%d rows were found late, %v", b.LateFound, err)
				}
			})
		}
	}
}

// Who asks for less than has settled yet is answered all the same.
func TestABackfillSinceJustNowEnds(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(2)
	w.backfill(t)
	res := w.run(t, state.Done, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Backfill(t.Context(), time.Now()) })
	if res.Participants != 2 || res.Written != 0 {
		t.Errorf("%+v", res)
	}
	w.right(t)
}

// A clock of NameCoach's that runs ahead for a while and is set right costs nothing, also where nobody looks for longer than the lookback.
func TestAServerClockThatIsSetBackLeavesNoGap(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "")
	w.backfill(t)
	b := w.bridge(t) // one process throughout: it knows NameCoach's clock
	collect := func() {
		t.Helper()
		if res, err := b.Collect(t.Context()); err != nil {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	w.Change(func(o *simulator.Options) { o.ClockOffset += time.Hour })
	collect() // learns that it is an hour later
	collect()
	w.Change(func(o *simulator.Options) { o.ClockOffset -= time.Hour })
	collect()
	if ahead := w.cursor(t).Sub(w.nameCoachNow()); ahead < time.Hour/2 {
		t.Fatalf("the cursor is %v ahead", ahead)
	}
	w.exec(t, `UPDATE cursors SET moved_at = now() - interval '30 minutes'`)
	row := speaker("ada", "ada@demo.example", "", ada)
	row.Updated = w.nameCoachNow().Add(-25 * time.Minute)
	w.AddParticipant(row)
	collect()
	w.right(t)
	if ahead := w.cursor(t).Sub(w.nameCoachNow()); ahead > 0 {
		t.Errorf("the cursor is %v ahead of NameCoach's clock", ahead)
	}
}
