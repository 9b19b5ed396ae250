package sync_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"namebridge/internal/simulator"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// rename changes a row's event title, which reaches its user where the row speaks.
func (w *world) rename(id int64, title string) {
	w.UpdateParticipant(id, func(p *simulator.Participant) { p.EventTitle = title })
}

// correct says of a row that it is of another address, whose user is theirs.
func (w *world) correct(id int64, email string, user int64) {
	w.UpdateParticipant(id, func(p *simulator.Participant) { p.Email, p.For = email, user })
}

// Trap 27a: a row that is updated leaves the window and shifts the rest.
func TestRowsUpdatedWhileTheyAreReadAreNotMissed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		at, rows int // change that many rows before that page, counted over the whole run
		paging   bool
		byID     bool
	}{
		"one, before page 1":                  {1, 1, true, false},
		"one, before page 2":                  {2, 1, true, false},
		"many, before page 3":                 {3, 60, true, false},
		"many, before page 3, in fixed order": {3, 60, true, true},
		"one, before the last page":           {4, 1, true, false},
		"many, before the last page":          {4, 100, true, false},
		"all, before the last page":           {4, 1000, true, true},
		"many, in one answer":                 {1, 100, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var pages atomic.Int64
			w := start(t, simulator.Options{
				Seed: 31, Users: 120, PagingIgnored: !c.paging, OrderByID: c.byID,
				OnNameCoachPage: func(s *simulator.Simulator, _ int) {
					if int(pages.Add(1)) != c.at {
						return
					}
					for i, p := range s.Participants() {
						if i < c.rows {
							s.UpdateParticipant(p.ID, func(p *simulator.Participant) { p.EventTitle = fmt.Sprintf("Retitled %d", i) })
						}
					}
				},
			})
			w.Change(func(o *simulator.Options) { o.MaxPerPage = w.Truth().Totals.Participants/4 + 1 }) // four pages
			res := w.backfill(t)
			w.right(t)
			if truth := w.Truth().Totals; res.Participants != truth.Participants || truth.Unchanged != res.Written {
				t.Errorf("%+v, the truth is %+v", res, truth)
			}
		})
	}
}

// Trap 27a, without end: rows move before every page of the main walk.
func TestRowsThatKeepMovingAreBroughtByTheNextCollect(t *testing.T) {
	t.Parallel()
	var pages atomic.Int64
	w := start(t, simulator.Options{
		Seed: 32, Users: 120, MaxPerPage: 50,
		OnNameCoachPage: func(s *simulator.Simulator, _ int) {
			n := pages.Add(1)
			if all := s.Participants(); n < 200 {
				s.UpdateParticipant(all[int(n*7)%len(all)].ID, func(p *simulator.Participant) { p.EventTitle = fmt.Sprintf("Retitled %d", n) })
			}
		},
	})
	w.backfill(t)
	w.Change(func(o *simulator.Options) { o.OnNameCoachPage, o.ClockOffset = nil, time.Minute })
	w.collect(t)
	w.right(t)
}

// Trap 8: what was updated before a collect and shows only after it is within the next one's lookback.
func TestRowsThatShowLateAreBroughtByTheLookback(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 33, Users: 60, LateVisible: 6 * time.Minute})
	all := w.Participants()
	ada := w.user("late@demo.example", "")
	w.earlier(4*time.Minute, func() {
		for i := range 20 {
			w.rename(all[i].ID, "Late")
		}
		late := speaker("late", "late@demo.example", "", ada)
		late.Updated = time.Time{}
		w.AddParticipant(late)
	})
	w.backfill(t)
	w.collect(t)
	if w.fragment(t, ada) != nil || len(w.Mismatches(0)) < 5 {
		t.Fatal("nothing was late")
	}
	w.Change(func(o *simulator.Options) { o.ClockOffset = 3 * time.Minute })
	w.collect(t)
	w.right(t)
}

// Trap 8: the cursor is on NameCoach's clock, whatever ours says.
func TestClocksThatDisagreeLoseNothing(t *testing.T) {
	t.Parallel()
	for _, offset := range []time.Duration{-90 * time.Second, 90 * time.Second} {
		t.Run(offset.String(), func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{Seed: 34, Users: 60, ClockOffset: offset})
			all := w.Participants()
			w.rename(all[0].ID, "Just before")
			w.backfill(t)
			w.right(t)
			// A collect's own client does not know the clock before its first answer.
			for i, ago := range []time.Duration{0, 10 * time.Second, time.Minute, 3 * time.Minute} {
				w.earlier(ago, func() { w.rename(all[i+1].ID, "Between") })
			}
			w.collect(t)
			if now := time.Now().Add(offset); w.cursor(t).After(now) {
				t.Errorf("the cursor %s is ahead of NameCoach's clock %s", w.cursor(t), now)
			}
			// Whatever was too new for that one is not for the next, some minutes later on both clocks.
			b := w.bridge(t)
			w.Change(func(o *simulator.Options) { o.ClockOffset += 4 * time.Minute })
			for range 2 { // the first learns the clock
				if _, err := b.Collect(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			w.right(t)
		})
	}
}

// Trap 3: a server that cuts answers and says how many rows there are.
func TestAnswersCutShortAreSplit(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 35, Users: 300, PagingIgnored: true, TruncateRows: 260})
	truth := w.Truth().Totals
	counted(t, w.backfill(t), truth)
	w.right(t)
	if n := w.asked("namecoach participants.list"); n > 40 {
		t.Errorf("%d requests for %d rows in answers of at most 260", n, truth.Participants)
	}
}

// Trap 3: a server that says no total. Round numbers of rows look like an answer that was cut.
func TestWithoutTotalsNothingIsMissed(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]simulator.Options{
		"one answer":        {PagingIgnored: true},
		"answers of 100":    {MaxPerPage: 100},
		"answers cut at 50": {PagingIgnored: true, TruncateRows: 50},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o.Seed, o.Users, o.NoMeta = 36, 150, true
			w := start(t, o)
			truth := w.Truth().Totals
			counted(t, w.backfill(t), truth)
			w.right(t)
		})
	}
}

// imported is a world whose rows were all updated in one second: n users with each rows.
func imported(t *testing.T, o simulator.Options, n, each int) *world {
	t.Helper()
	w := start(t, o)
	at := time.Date(2024, 6, 1, 12, 0, 0, 0, time.UTC)
	for i := range n {
		email := fmt.Sprintf("u%04d@demo.example", i)
		id := w.AddUser(simulator.NewUser{Username: email, Created: at.Add(time.Duration(i/150) * time.Second)})
		for j := range each {
			p := speaker(fmt.Sprintf("u%04d-%d", i, j), email, "", id)
			p.EventAccessCode, p.Updated = fmt.Sprintf("E%d", j), at.Add(time.Duration(i%1000)*time.Millisecond)
			w.AddParticipant(p)
		}
	}
	return w
}

func TestABulkImportOfOneSecondIsReadInPages(t *testing.T) {
	t.Parallel()
	w := imported(t, simulator.Options{MaxPerPage: 1000}, 60, 50)
	counted(t, w.backfill(t), simulator.Totals{Participants: 3000, Users: 60, Linked: 60, Written: 60, Held: heldCounts(bridgesync.Held{})})
	w.right(t)
}

func TestASingleAnswerOfEverythingIsEnough(t *testing.T) {
	t.Parallel()
	w := imported(t, simulator.Options{PagingIgnored: true}, 60, 50)
	w.backfill(t)
	w.right(t)
	if n := w.asked("namecoach participants.list"); n > 2 {
		t.Errorf("%d requests, want one for everything and one for the newest edge", n)
	}
}

// A single second that the list does not show whole is read by the directory's own keys.
func TestASecondThatCannotBeSplitIsReadThroughSearch(t *testing.T) {
	t.Parallel()
	w := imported(t, simulator.Options{PagingIgnored: true, TruncateRows: 200}, 201, 1)
	after := speaker("after", "u0001@demo.example", "", w.Users()[1].ID)
	after.EventAccessCode, after.Updated = "A", after.Updated.Add(time.Hour)
	w.AddParticipant(after)
	res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
	if err != nil || res.Written != 201 {
		t.Errorf("%+v, %v", res, err)
	}
	w.right(t)
	if n := w.asked("namecoach participants.search"); n == 0 || n > 10 {
		t.Errorf("%d searches", n)
	}
}

// Rule 3.4: the search must bring as many rows as the list says there are. Here it cannot: the server's search tells
// capitals apart (trap 27b), or somebody in that second is not in BLN.
func TestASecondThatSearchCannotCompleteKeepsTheCursor(t *testing.T) {
	t.Parallel()
	for name, hide := range map[string]func(*world){
		"other spelling": func(w *world) {
			for _, p := range w.Participants() {
				if p.ID%2 == 0 {
					w.DeleteParticipant(p.ID)
					p.Email = strings.ToUpper(p.Email[:1]) + p.Email[1:]
					w.AddParticipant(p)
				}
			}
		},
		"an outsider": func(w *world) {
			rows := w.Participants()
			outside := speaker("outside", "outside@elsewhere.example", "", 0)
			outside.Updated = rows[0].Updated
			w.AddParticipant(outside)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := imported(t, simulator.Options{PagingIgnored: true, TruncateRows: 200, EmailCaseSensitiveSearch: true}, 300, 1)
			hide(w)
			before := w.Participants()[0].Updated
			_, err := w.bridge(t).Backfill(t.Context(), time.Time{})
			if _, ok := errors.AsType[*bridgesync.IncompleteError](err); !ok {
				t.Fatalf("ended with %v", err)
			}
			if at := w.cursor(t); at.After(before) {
				t.Errorf("the cursor went on to %v, over rows of %v", at, before)
			}
		})
	}
}

// A question whose answer the server cuts short is asked in halves.
func TestASearchThatBringsTooMuchIsHalved(t *testing.T) {
	t.Parallel()
	w := imported(t, simulator.Options{PagingIgnored: true, TruncateRows: 300}, 400, 1)
	res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
	if err != nil || res.Written != 400 {
		t.Errorf("%+v, %v", res, err)
	}
	w.right(t)
}

// The same where search cannot show it whole either: the cursor stays before it, and the operator is told.
func TestASecondThatCannotBeReadWholeStopsTheCursor(t *testing.T) {
	t.Parallel()
	w := imported(t, simulator.Options{PagingIgnored: true, TruncateRows: 4}, 60, 5) // one person has more rows than one answer
	before := speaker("before", "u0000@demo.example", "", w.Users()[0].ID)
	before.Updated = before.Updated.Add(-time.Hour)
	w.AddParticipant(before)
	b := w.bridge(t)
	for _, do := range []func(context.Context) (bridgesync.Result, error){
		func(ctx context.Context) (bridgesync.Result, error) { return b.Backfill(ctx, time.Time{}) }, b.Collect,
	} {
		res, err := do(t.Context())
		var incomplete *bridgesync.IncompleteError
		if !errors.As(err, &incomplete) || res.Status != state.Failed || res.Written != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
		if !strings.Contains(err.Error(), "2024-06-01T") || strings.Contains(err.Error(), "@") {
			t.Errorf("the error does not say when, or names an address: %v", err)
		}
		if got := w.cursor(t); !got.Before(before.Updated.Add(time.Hour).Add(time.Second)) {
			t.Errorf("the cursor moved to %s", got)
		}
	}
	// What was in the way is gone: the same run goes on.
	w.Change(func(o *simulator.Options) { o.TruncateRows = 0 })
	if res, err := b.Backfill(t.Context(), time.Time{}); err != nil || res.Written != 60 {
		t.Errorf("afterwards: %+v, %v", res, err)
	}
	w.right(t)
}
