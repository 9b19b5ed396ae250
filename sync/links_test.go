package sync_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"namebridge/internal/simulator"
	bridgesync "namebridge/sync"
)

// interrupted carries out a run that is interrupted by the n-th request to an endpoint. An answer would let the run go on until it has noticed,
// so there is none before it has ended, but for a write, to whose end every run sees first.
func (w *world) interrupted(t *testing.T, endpoint string, n int, do func(context.Context, *bridgesync.Bridge) (bridgesync.Result, error)) {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	ended := make(chan struct{})
	w.ResetCounts()
	w.Change(func(o *simulator.Options) {
		o.OnRequest = func(_ *simulator.Simulator, e string, i int) {
			if e == endpoint && i >= n {
				interrupt()
				select {
				case <-ended:
				case <-time.After(5 * time.Second):
				}
			}
		}
	})
	res, err := do(ctx, w.bridge(t))
	close(ended)
	if !errors.Is(err, context.Canceled) || ctx.Err() == nil {
		t.Fatalf("not interrupted: %+v, %v", res, err)
	}
	w.Change(func(o *simulator.Options) { o.OnRequest = nil })
}

// Rule 3: by half a directory somebody looks like the only one, whichever run it is that links.
func TestNoRunLinksBeforeTheDirectoryIsWhole(t *testing.T) {
	t.Parallel()
	for name, link := range map[string]func(context.Context, *bridgesync.Bridge) (bridgesync.Result, error){
		"census":    censuses,
		"on demand": func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Settle(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{MaxPerPage: 10})
			first := w.user("first@demo.example", "S-1")
			w.crowd(15)
			w.AddUser(simulator.NewUser{Username: "twin@demo.example", ExternalID: "S-1", Created: time.Date(2025, 5, 1, 0, 0, 0, 0, time.UTC)})
			row := speaker("x", "", "S-1", 0)
			row.Held = "ambiguous"
			w.AddParticipant(row)
			w.interrupted(t, "bln users.list", 2, func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Sweep(ctx) })
			w.collect(t)
			if res, err := link(t.Context(), w.bridge(t)); err != nil || res.Linked != 0 || value[int](t, w, `SELECT count(*) FROM links`) != 0 {
				t.Errorf("linked by half a directory: %+v, %v", res, err)
			}
			w.sweep(t)
			w.wantReasons(t, map[string]string{"id:S-1": "ambiguous"})
			w.right(t)
			if w.fragment(t, first) != nil {
				t.Errorf("one of two with the same id was written: %s", w.UserOtherInfo(first))
			}
		})
	}
}

// Rule 3: what a collect could not ask BLN is asked by whoever links next.
func TestWhoeverLinksAsksLiveWhatWasNotAnswered(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "")
	w.AddParticipant(speaker("ada", "ada@demo.example", "", ada))
	w.backfill(t)
	added := w.user("added@demo.example", "S-9") // whom the next listing would show
	p := speaker("x", "ada@demo.example", "S-9", 0)
	p.EventAccessCode, p.EventSlug, p.Held, p.Updated = "OTHER", "other", "conflict", time.Time{}
	w.settled(func() { w.AddParticipant(p) })
	silent := w.process(t, w.BLNURL(), w.db, answering(func(r *http.Request) int {
		if r.URL.Query().Has("query") {
			return http.StatusForbidden
		}
		return 0
	}))
	if res, err := silent.Collect(t.Context()); err == nil {
		t.Fatalf("a collect that could not ask: %+v", res)
	}
	w.ResetCounts()
	if res, err := w.bridge(t).Census(t.Context()); err != nil || res.Written != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	if h := w.holds(t)["email:ada@demo.example"]; h.reason != "conflict" || fmt.Sprint(h.users) != fmt.Sprint([]int64{ada, added}) {
		t.Errorf("held %+v", h)
	}
	if n := w.asked("bln users.query"); n != 1 {
		t.Errorf("%d questions about one id", n)
	}
}

// The answer that a write is made from says whose record it is: where it bears another key than the one its person was linked by, the
// voice is not written there, but to whom it belongs now.
func TestAVoiceIsNotWrittenToAUserWhoBearsAnotherKeyByNow(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	was, is := w.user("former", "S-1"), w.user("present", "")
	row := w.AddParticipant(speaker("x", "", "S-1", was))
	w.backfill(t)
	w.setExternalID(t, was, "OLD-1")
	w.setExternalID(t, is, "S-1")
	w.settled(func() {
		w.UpdateParticipant(row, func(p *simulator.Participant) {
			p.RecordingID, p.RecordingLink, p.For = "recording_new", "https://namewaves.s3.amazonaws.com/new.mp3", is
		})
	})
	w.collect(t)
	w.right(t)
}

// A complete listing has looked for everybody whom NameCoach had shown before it: asking about each would take hours.
func TestOnlyWhoChangedSinceTheListingBeganIsAskedLive(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(3)
	var rows []int64
	for i := range 20 {
		rows = append(rows, w.AddParticipant(speaker(fmt.Sprint("x", i), fmt.Sprintf("x%d@elsewhere.example", i), fmt.Sprintf("X-%d", i), 0)))
	}
	w.collect(t)
	if res := w.sweep(t); res.Linked != 3 || res.Held.Unmatched != 20 || w.asked("bln users.query") != 0 {
		t.Errorf("%+v, %d questions", res, w.asked("bln users.query"))
	}
	w.settled(func() { w.rename(rows[0], "Faculty") })
	if w.collect(t); w.asked("bln users.query") != 1 {
		t.Errorf("%d questions, where one has changed", w.asked("bln users.query"))
	}
	w.right(t)
}

// A run is over when all is done that it has found out: who turns out to be gone is looked for again before it ends.
func TestARunEndsNotBeforeThePeopleOfTheGoneAreLinkedAnew(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 3, simulator.Options{})
	w.rude = true // it reads somebody who is gone
	gone, ended := make(chan struct{}), make(chan struct{})
	db := w.traced(t, &tracer{
		before: func(sql string) {
			if strings.Contains(sql, "pg_advisory_xact_lock(hashtextextended('namebridge participants") {
				select {
				case <-gone: // to link takes its time
					select {
					case <-ended:
					case <-time.After(500 * time.Millisecond):
					}
				default:
				}
			}
		},
		after: func(sql string) {
			switch {
			case strings.Contains(sql, "SET gone_at = now() WHERE bridge = $1 AND user_id"):
				close(gone)
			case strings.Contains(sql, "UPDATE runs SET status = $3, ended_at = now()"):
				close(ended)
			}
		},
	})
	w.settled(func() { w.rename(rows[0], "Faculty") })
	w.RemoveUser(users[0])
	if res, err := w.process(t, w.BLNURL(), db, nil).Collect(t.Context()); err != nil || res.Held.Unmatched != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	select {
	case <-gone:
	default:
		t.Error("nobody was found to be gone")
	}
	if n := value[int](t, w, `SELECT count(*) FROM participants WHERE link_due`); n != 0 {
		t.Errorf("%d people are still to be linked", n)
	}
}
