package sync_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/simulator"
	"namebridge/state"
)

// tracer sees each statement of a pool before it is sent, and when it was answered.
type tracer struct{ before, after func(sql string) }

type tracedSQL struct{}

func (tr *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	tr.before(d.SQL)
	return context.WithValue(ctx, tracedSQL{}, d.SQL)
}

func (tr *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	sql, _ := ctx.Value(tracedSQL{}).(string)
	tr.after(sql)
}

// traced gives a pool to the world's database whose statements are traced.
func (w *world) traced(t *testing.T, tr *tracer) *pgxpool.Pool {
	t.Helper()
	cfg := w.db.Config()
	cfg.ConnConfig.Tracer = tr
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// One writer for each user: what one lane gives back when its batch is done is never what another lane of the process has just claimed,
// else a second process could write, or look into, users that the first is at work on.
func TestALaneGivesBackNothingThatAnotherLaneHasJustClaimed(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 61, Users: 400})
	claimed := make(chan struct{}, 100)
	db := w.traced(t, &tracer{
		before: func(sql string) {
			if strings.Contains(sql, "SET claim_owner = NULL") && strings.Contains(sql, "<> ALL") {
				for len(claimed) > 0 {
					<-claimed
				}
				select { // what is to be given back is decided; now the other lane claims
				case <-claimed:
				case <-time.After(500 * time.Millisecond):
				}
			}
		},
		after: func(sql string) {
			if strings.Contains(sql, "SET claim_owner = $3, fence = fence + 1") {
				claimed <- struct{}{}
			}
		},
	})
	res, err := w.process(t, w.BLNURL(), db, nil).Backfill(t.Context(), time.Time{})
	if err != nil || res.Status != state.Done || res.Failed != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	w.right(t)
	var twice int
	if err := w.db.QueryRow(t.Context(), `SELECT count(*) FROM directory_users WHERE fence > 1`).Scan(&twice); err != nil {
		t.Fatal(err)
	}
	if twice > 0 {
		t.Errorf("%d users were claimed again while a lane was at work on them", twice)
	}
}

// A process that starts is seen by every other that starts, however close together: two never believe to be alone, each with the whole
// of the limits, nor does one change where the fragment stands while another begins with the former place.
func TestProcessesThatStartAtTheSameMomentSeeEachOther(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 62, Users: 20})
	ctx := t.Context()
	w.backfill(t)
	outcomes := make(chan error, 2)
	begin := func(key string) {
		b := w.bridge(t)
		b.Settings.Layout.Key = key
		go func() {
			_, err := b.Sweep(ctx)
			outcomes <- err
		}()
	}
	// Nobody can say that it is alive before both have come so far.
	w.whileLocked(t, `LOCK TABLE workers IN SHARE MODE`, 2, func() {
		begin("namecoach")
		w.waiting(t, 1)
		begin("badge")
	})
	refused := 0
	for range 2 {
		var unsettled *state.UnsettledError
		switch err := <-outcomes; {
		case errors.As(err, &unsettled):
			refused++
		case err != nil:
			t.Error(err)
		}
	}
	if refused != 1 {
		t.Errorf("%d of two processes with different keys were refused", refused)
	}
	w.right(t)
}

// Whoever looks into a write of a process that was only stopped for a while may find that this one has settled it meanwhile: that is no
// failure of anything.
func TestAWriteThatIsSettledWhileItIsLookedIntoEndsNoRun(t *testing.T) {
	t.Parallel()
	for _, arrives := range []bool{false, true} {
		t.Run(fmt.Sprintf("arrived: %v", arrives), func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			w.addSpeaker(`{"jobTitle":"Welder","Cohort":"2024"}`)
			foreign := w.ForeignDigests("namecoach")
			f := w.front(t)
			cable, db := w.cable(t)
			f.after = func(int, string) { cable.cut() }
			if _, err := w.process(t, f.url, db, nil).Backfill(t.Context(), time.Time{}); err == nil {
				t.Fatal("the process did not lose touch")
			}
			w.expire(t)
			if !arrives {
				if err := w.EditOtherInfo(w.Users()[0].ID, "namecoach", ""); err != nil {
					t.Fatal(err)
				}
			}
			heirs := w.front(t)
			var once sync.Once
			heirs.afterGet = func(string) {
				once.Do(func() {
					if _, err := w.db.Exec(t.Context(), `UPDATE journal SET state = 'unsent', before = NULL, settled_at = now() WHERE state = 'sending'`); err != nil {
						t.Error(err)
					}
				})
			}
			w.finishes(t, w.process(t, heirs.url, w.db, nil), foreign)
		})
	}
}

// The list for review has whom a person can do something about: not a user who cannot be written, once nothing is to be written any more.
func TestAnUnwritableUserForWhomNobodySpeaksAnyMoreIsNotHeld(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(t *testing.T, w *world, user, row int64) (held map[string]string){
		"the person is gone from NameCoach": func(t *testing.T, w *world, user, row int64) map[string]string {
			w.DeleteParticipant(row)
			w.census(t, state.Done)
			w.wantReasons(t, map[string]string{fmt.Sprint(user): "unwritable"}) // absence is not evidence yet
			w.census(t, state.Done)
			return map[string]string{}
		},
		"the person is another user's": func(t *testing.T, w *world, _, row int64) map[string]string {
			other := w.user("other@demo.example", "")
			w.correct(row, "other@demo.example", other)
			w.backfill(t)
			return map[string]string{}
		},
		"the user is gone from BLN": func(t *testing.T, w *world, user, _ int64) map[string]string {
			w.RemoveUser(user)
			w.sweep(t)
			return map[string]string{"email:ada@demo.example": "unmatched"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			w.crowd(3)
			user := w.user("ada@demo.example", "")
			if err := w.EditOtherInfo(user, "trades", "null"); err != nil {
				t.Fatal(err)
			}
			row := w.AddParticipant(speaker("ada", "ada@demo.example", "", user))
			w.backfill(t)
			w.wantReasons(t, map[string]string{fmt.Sprint(user): "unwritable"})
			w.wantReasons(t, leave(t, w, user, row))
		})
	}
}
