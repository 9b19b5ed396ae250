package sync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"namebridge/bln"
	"namebridge/internal/httpapi"
	"namebridge/state"
)

// Beginning is before anything NameCoach has: a walk from here sees every participant.
var Beginning = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Backfill collects everything that NameCoach changed since since (zero: from the beginning), lists the whole directory,
// and writes everyone who should be written. Interrupted, the next call goes on where it was.
func (b *Bridge) Backfill(ctx context.Context, since time.Time) (Result, error) {
	return b.do(ctx, helping, state.NewRun{Kind: state.Backfill, Since: nullTime(since), Priority: state.BackfillPriority, Resume: true})
}

// Plan finds out what a backfill would do and keeps it, without writing anything to BLN. Whoever would be written is
// read, since only a user's own otherInfo tells whether it can be written.
func (b *Bridge) Plan(ctx context.Context) (Result, error) {
	return b.do(ctx, planning, state.NewRun{Kind: state.Plan, Priority: state.BackfillPriority, Resume: true})
}

// Collect brings in what NameCoach changed since the cursor, less the lookback, and writes the people it concerns. Keys
// that the directory does not know are asked for live. Before the first complete listing of the directory nobody is
// linked.
func (b *Bridge) Collect(ctx context.Context) (Result, error) {
	return b.do(ctx, helping, state.NewRun{Kind: state.Collect, Priority: state.CollectPriority})
}

// Sweep lists the whole directory, asks NameCoach about users that it was never asked about, links, compares every user
// with what should be there, and writes those that differ.
func (b *Bridge) Sweep(ctx context.Context) (Result, error) {
	return b.do(ctx, helping, state.NewRun{Kind: state.Sweep, Priority: state.SweepPriority, Resume: true})
}

// Census asks NameCoach about everyone who is linked, and clears those whom enough complete censuses in a row did not
// show, as far as the guard lets them through.
func (b *Bridge) Census(ctx context.Context) (Result, error) {
	return b.do(ctx, helping, state.NewRun{Kind: state.Census, Priority: state.SweepPriority})
}

// Settle links and writes at once those to whom something has happened, by what is known already.
func (b *Bridge) Settle(ctx context.Context) (Result, error) {
	return b.do(ctx, helping, state.NewRun{Kind: state.Collect, Priority: state.OnDemand, Phase: string(PhaseLink)})
}

// Approve lets through what the guard has staged in a run, or carries out a plan: exactly that, as far as it is still what
// is wanted. state.ErrStale: the run waits for nobody.
func (b *Bridge) Approve(ctx context.Context, run uuid.UUID, reason string) (Result, state.Approval, error) {
	res := Result{Run: run, Status: state.Failed}
	var a state.Approval
	w, err := startWorker(ctx, b, helping)
	if err != nil {
		return res, a, err
	}
	err = state.InTx(ctx, b.DB, func(tx pgx.Tx) (err error) {
		if a, err = state.ApproveRun(ctx, tx, b.Name, run, string(PhaseWrite), w.owner, reason); err != nil {
			return err
		}
		row, err := state.GetRun(ctx, tx, b.Name, run)
		if err != nil {
			return err
		}
		res.Kind = row.Kind
		if err := queueStep(ctx, w.queue, tx, b.Name, row, PhaseWrite); err != nil {
			return err
		}
		return queueWriters(ctx, w.queue, tx, b, state.OnDemand, a.Steps) // last: the first lane's job may have to be waited for
	})
	if err == nil {
		res, err = w.await(ctx, run)
	}
	return res, a, errors.Join(err, w.stop(ctx))
}

// do starts a run, or joins the one of its kind that is running, takes part in the work on the bridge until the run is
// ended, by whomever, and says what it came to. When ctx ends, so does a run that was started here.
func (b *Bridge) do(ctx context.Context, m mode, n state.NewRun) (Result, error) {
	failed := Result{Kind: n.Kind, Status: state.Failed}
	if n.Phase == "" {
		n.Phase = string(routes[n.Kind][0].phase)
	}
	w, err := startWorker(ctx, b, m)
	if err != nil {
		return failed, err
	}
	n.Hosted = &w.owner
	run, started, err := w.begin(ctx, n)
	if err != nil {
		return failed, errors.Join(err, w.stop(ctx))
	}
	if !started {
		b.Log.Info("this is being done already: helping with it", "bridge", b.Name, "run", run.Run, "kind", run.Kind)
	}
	res, err := w.await(ctx, run.Run)
	if stopping := w.stop(ctx); err == nil {
		err = stopping
	}
	return res, err
}

// askEvery is how often a one-shot command looks how far its run is.
const askEvery = 200 * time.Millisecond

// await waits until a run is ended, and shows how far it is.
func (w *worker) await(ctx context.Context, id uuid.UUID) (Result, error) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	over := map[Phase]bool{}
	for {
		row, err := state.GetRun(ctx, w.db, w.b.Name, id)
		switch {
		case ctx.Err() != nil, w.over.Err() != nil:
		case err != nil && errors.Is(err, state.ErrNotFound):
			return Result{Run: id, Status: state.Failed}, err
		case err != nil: // the database is away for a moment, or the lease will be over
		case row.Status != state.Running:
			w.b.show(row, over)
			return w.result(ctx, row)
		default:
			w.b.show(row, over)
		}
		select {
		case <-tick.C:
		case <-w.endedAny:
		case <-w.over.Done():
			return Result{Run: id, Kind: row.Kind, Status: state.Failed}, errLease
		case <-ctx.Done():
			return w.interrupt(ctx, id)
		}
	}
}

// result is what an ended run came to.
func (w *worker) result(ctx context.Context, row state.Run) (Result, error) {
	res := Result{Run: row.Run, Kind: row.Kind, Status: row.Status}
	if row.Counts != nil {
		if err := json.Unmarshal(row.Counts, &res); err != nil {
			return res, fmt.Errorf("counts of run %s: %w", row.Run, err)
		}
	}
	text := "it does not say why"
	if row.Error != nil {
		text = *row.Error
		// Of several that ended it at once, the row says which one did.
		if problem, ok := w.problems.Load(text); ok {
			return res, problem.(error)
		}
	}
	switch row.Status {
	case state.Done, state.Quarantined:
		return res, nil
	case state.Halted:
		if stored, err := state.GetBridge(ctx, w.db, w.b.Name); err == nil && stored.HaltedAt != nil {
			return res, haltOf(stored)
		}
		return res, &HaltedError{Since: time.Now(), Reason: strings.TrimPrefix(text, "halted: "), Run: row.Run}
	}
	return res, errors.New(text)
}

// interrupt ends the run, if it is this command's own, when the command is stopped: the next of its kind goes on with it.
func (w *worker) interrupt(ctx context.Context, id uuid.UUID) (Result, error) {
	done := context.WithoutCancel(ctx)
	// Jobs end first: what they have sent is finished and counted.
	stopping := w.stop(ctx)
	bound, cancel := context.WithTimeout(done, stopWithin/2)
	defer cancel()
	row, err := state.GetRun(bound, w.db, w.b.Name, id)
	if err != nil {
		return Result{Run: id, Status: state.Failed}, errors.Join(context.Cause(ctx), stopping, err)
	}
	res := Result{Run: id, Kind: row.Kind, Status: state.Failed}
	r := w.run(row, Phase(row.Phase))
	err = state.InTx(bound, w.db, func(tx pgx.Tx) error {
		if err := r.sum(bound, tx, &res); err != nil {
			return err
		}
		if row.Status != state.Running || row.Hosted == nil || *row.Hosted != w.owner {
			return nil // it is others' work
		}
		return state.EndRun(bound, tx, w.b.Name, row, state.Failed, res, "interrupted")
	})
	return res, errors.Join(context.Cause(ctx), err)
}

// show tells the command that waits for a run how far it is: of each phase that is over once, which over keeps.
func (b *Bridge) show(row state.Run, over map[Phase]bool) {
	var p struct {
		progress
		Before  map[Phase]int `json:"before"`
		Written int           `json:"written"` // users, also while other phases went on
	}
	if b.Progress == nil || row.Progress == nil || json.Unmarshal(row.Progress, &p) != nil {
		return
	}
	for _, l := range routes[row.Kind] {
		if done, ended := p.Before[l.phase]; ended && !over[l.phase] {
			over[l.phase] = true
			b.Progress(Progress{Phase: l.phase, Done: done, Over: true})
		}
	}
	now := Progress{Phase: Phase(row.Phase), Done: p.Done, Total: p.Total, Over: row.Status == state.Done || row.Status == state.Quarantined}
	switch {
	case now.Done+now.Total == 0: // it has not begun, or has nothing to do
	case now.Phase == PhaseWrite:
		before := p.Written - p.Done
		now.Done, now.Total = p.Written, p.Total+before
		var sum Result
		if now.Over && row.ResumedAt == nil && json.Unmarshal(row.Counts, &sum) == nil { // the last batches are counted after their writes
			now.Done = max(now.Done, sum.Written+sum.Cleared)
		}
		fallthrough
	default:
		b.Progress(now)
	}
}

// checkAccess signs in to BLN and makes sure that the organization is there and that the user who signs in may do what
// the run needs: "not in BLN" from a partial view would be no fact (BLN 7223, 7612).
func (r *run) checkAccess(ctx context.Context) (verdict, error) {
	if err := r.BLN.SignIn(ctx); err != nil {
		return more, err
	}
	if _, err := r.BLN.Organization(ctx); err != nil {
		return more, err
	}
	if r.Settings.Username == "" {
		return next, nil // a token does not say who it is; a 403 will
	}
	writing := r.row.Kind != state.Plan
	needs := "update the users of the organization"
	if !writing {
		needs = "list the users of the organization"
	}
	users, err := r.BLN.UsersByIdentifier(ctx, []string{r.Settings.Username})
	if isStatus(err, 403) {
		return more, &PermissionError{Needs: "list the users of the organization"}
	}
	if err != nil {
		return more, err
	}
	for _, u := range users {
		if strings.EqualFold(u.Username, r.Settings.Username) && u.Role != "admin" && (writing || u.Role != "auditor") {
			return more, &PermissionError{Role: u.Role, Needs: needs}
		}
	}
	return next, nil
}

// isRefusal says that a server has refused us, not a request.
func isRefusal(err error) bool {
	return errors.As(err, new(*bln.SignInError)) || errors.As(err, new(*PermissionError)) || isStatus(err, 401)
}

func isStatus(err error, status int) bool {
	var e *httpapi.Error
	return errors.As(err, &e) && e.Status == status
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}
