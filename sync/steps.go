package sync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"namebridge/internal/httpapi"
	"namebridge/state"
)

// Phase is a part of a run.
type Phase string

// The phases.
const (
	PhaseAccess  Phase = "access"  // may we do what the run needs?
	PhaseCollect Phase = "collect" // window by window
	PhaseTail    Phase = "tail"    // the newest edge
	PhaseList    Phase = "list"    // the directory, page by page
	PhaseSearch  Phase = "search"  // users whom NameCoach was never asked about
	PhaseCensus  Phase = "census"  // everyone who is linked
	PhaseAsk     Phase = "ask"     // about those who changed, on both sides
	PhaseLink    Phase = "link"
	PhaseDecide  Phase = "decide"
	PhaseAudit   Phase = "audit"
	PhaseRead    Phase = "read"  // everyone who would be written, by a plan
	PhaseWrite   Phase = "write" // what is pending is written by others meanwhile
)

// verdict is what a unit of work says about its phase.
type verdict int

const (
	more verdict = iota // there is more to do
	next                // the phase is over
	over                // and so is the run: nothing is left to do
)

// unit does a little of a phase, and commits it.
type unit func(*run, context.Context) (verdict, error)

type leg struct {
	phase Phase
	do    unit
}

// routes are the phases of each kind of run, in their order.
var routes = map[state.Kind][]leg{
	state.Collect: {
		{PhaseCollect, (*run).collectNext},
		{PhaseAsk, (*run).ask},
		{PhaseLink, (*run).linkNext},
		{PhaseDecide, (*run).decideNext},
		{PhaseWrite, (*run).awaitWrites},
	},
	state.Sweep: {
		{PhaseAccess, (*run).checkAccess},
		{PhaseList, (*run).listNext},
		{PhaseSearch, (*run).searchNext},
		{PhaseAudit, (*run).auditNext},
		{PhaseLink, (*run).linkNext},
		{PhaseDecide, (*run).decideNext},
		{PhaseWrite, (*run).awaitWrites},
	},
	state.Census: {
		{PhaseCensus, (*run).countNext}, {PhaseLink, (*run).linkNext}, {PhaseDecide, (*run).decideNext}, {PhaseWrite, (*run).awaitWrites},
	},
	state.Backfill: {
		{PhaseAccess, (*run).checkAccess},
		{PhaseCollect, (*run).collectNext},
		{PhaseTail, (*run).tail},
		{PhaseList, (*run).listNext},
		{PhaseLink, (*run).linkNext},
		{PhaseDecide, (*run).decideNext},
		{PhaseWrite, (*run).awaitWrites},
	},
	state.Plan: {
		{PhaseAccess, (*run).checkAccess},
		{PhaseCollect, (*run).collectNext},
		{PhaseTail, (*run).tail},
		{PhaseList, (*run).listNext},
		{PhaseLink, (*run).linkNext},
		{PhaseDecide, (*run).decideNext},
		{PhaseRead, (*run).foreseeNext},
		{PhaseWrite, (*run).awaitWrites}, // of a plan that was approved
	},
}

// following is what a phase is followed by: the empty phase is the end.
func following(kind state.Kind, phase Phase) Phase {
	route := routes[kind]
	for i, l := range route[:len(route)-1] {
		if l.phase == phase && (kind != state.Plan || phase != PhaseRead) {
			return route[i+1].phase
		}
	}
	return ""
}

// dueOnly says whether only those are linked and decided on to whom something has happened.
func (r *run) dueOnly() bool { return r.row.Kind == state.Collect || r.row.Kind == state.Census }

// run is a run as one job works on it.
type run struct {
	*Bridge // with clients that count for this run
	*lease
	queue   *queue
	row     state.Run
	phase   Phase
	sent    *sent
	lost    int    // windows whose staged rows were lost
	idle    bool   // a collect for which NameCoach had nothing: no walk of it is stored, and so far it has written nobody
	forward func() // says that the unit gets on: one may have to ask much
}

func (r *run) id() uuid.UUID { return r.row.Run }

// sent counts requests that are not noted yet.
type sent struct{ nameCoach, bln atomic.Int64 }

// count gives the bridge with clients that count for s.
func (b *Bridge) count(s *sent) *Bridge {
	counting := *b
	counting.NameCoach = b.NameCoach.Observed(func(httpapi.Observation) { s.nameCoach.Add(1) })
	counting.BLN = b.BLN.Observed(func(httpapi.Observation) { s.bln.Add(1) })
	return &counting
}

func (w *worker) run(row state.Run, phase Phase) *run {
	s := new(sent)
	counting := w.b.count(s)
	counting.BLN = counting.BLN.While(w.alive)
	if row.Priority <= state.CollectPriority {
		counting.NameCoach, counting.BLN = counting.NameCoach.Urgent(), counting.BLN.Urgent()
	}
	return &run{Bridge: counting, lease: w.lease, queue: w.queue, row: row, phase: phase, sent: s, forward: func() {}}
}

// progress is how far a phase is. Total is 0 where it cannot be known.
type progress struct {
	Done  int `json:"done"`
	Total int `json:"total"`
}

// reached is how far a unit has brought its phase: nil where that is as it was.
type reached struct {
	place    any
	progress *progress
}

// commit does one unit's transaction, and notes in it how far the run has come. state.ErrStale: the run was ended
// meanwhile, or another process is further: nothing is committed.
func (r *run) commit(ctx context.Context, do func(pgx.Tx) (reached, error)) error {
	nc, bl := r.sent.nameCoach.Swap(0), r.sent.bln.Swap(0)
	step := state.Step{NameCoach: nc, BLNSent: bl}
	err := state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		to, err := do(tx)
		if err != nil {
			return err
		}
		if to.place != nil {
			if step.Place, err = json.Marshal(to.place); err != nil {
				return fmt.Errorf("run %s: %w", r.id(), err)
			}
		}
		if to.progress != nil {
			if step.Progress, err = json.Marshal(to.progress); err != nil {
				return fmt.Errorf("run %s: %w", r.id(), err)
			}
		}
		return state.NoteStep(ctx, tx, r.Name, r.row, step)
	})
	if err != nil {
		r.sent.nameCoach.Add(nc)
		r.sent.bln.Add(bl)
		return err
	}
	if step.Place != nil {
		r.row.Place = step.Place
	}
	if step.Progress != nil {
		r.row.Progress = step.Progress
	}
	return nil
}

// done is how far the phase is.
func (r *run) done() (p progress) {
	_ = json.Unmarshal(r.row.Progress, &p) // what is not there is the beginning
	return p
}

// place reads where the phase is into p, which stays as it is at the phase's beginning.
func (r *run) place(p any) error {
	if r.row.Place == nil {
		return nil
	}
	if err := json.Unmarshal(r.row.Place, p); err != nil {
		return fmt.Errorf("place of run %s in %s: %w", r.id(), r.phase, err)
	}
	return nil
}

// step does units of a run's phase until it is over, or the slice is. finish completes the job, in the transaction that
// queues what follows.
func (w *worker) step(ctx context.Context, job int64, a stepArgs, phase Phase, last bool, finish func(context.Context, pgx.Tx) error) error {
	row, err := state.GetRun(ctx, w.db, w.b.Name, a.Run)
	switch {
	case errors.Is(err, state.ErrNotFound):
		return nil
	case err != nil:
		return err
	case row.Status != state.Running, row.Phase != string(phase):
		return w.drop(ctx, a, phase, finish)
	}
	r := w.run(row, phase)
	r.forward = func() { w.forward(job) }
	err = ofDatabase(w.units(ctx, r, finish))
	switch {
	case err == nil, ctx.Err() != nil:
		return err
	case errors.Is(err, state.ErrStale):
		// Another process has brought the run further, or somebody has ended it.
		return w.drop(ctx, a, phase, finish)
	case errors.As(err, new(*httpapi.PausedError)):
		return err
	case last, row.Hosted != nil, r.hopeless(err):
		return w.end(ctx, r, err, finish)
	}
	w.log.Warn("a step failed and will be tried again", "bridge", w.b.Name, "run", a.Run, "kind", row.Kind, "phase", phase, "problem", err)
	return err
}

// ofDatabase marks an error of the database as such, wherever it came up.
func ofDatabase(err error) error {
	if err == nil || errors.Is(err, errDatabase) || !errors.As(err, new(*pgconn.PgError)) && !lost(err) && !pgconn.Timeout(err) {
		return err
	}
	return database(err)
}

// drop completes a job whose step is not there to be done, unless the run has been gone on with meanwhile: whoever did so
// found this job there, and has queued none.
func (w *worker) drop(ctx context.Context, a stepArgs, phase Phase, finish func(context.Context, pgx.Tx) error) error {
	return state.InTx(ctx, w.db, func(tx pgx.Tx) error {
		if err := finish(ctx, tx); err != nil {
			return err
		}
		row, err := state.GetRun(ctx, tx, w.b.Name, a.Run)
		if err != nil || row.Status != state.Running || row.Phase != string(phase) {
			return err
		}
		return queueStep(ctx, w.queue, tx, w.b.Name, row, phase)
	})
}

// hopeless says of an error that trying again soon is no use.
func (r *run) hopeless(err error) bool {
	return errors.Is(err, ErrHalted) || isRefusal(err) || errors.As(err, new(*ListingError)) || errors.As(err, new(*IncompleteError))
}

func (w *worker) units(ctx context.Context, r *run, finish func(context.Context, pgx.Tx) error) error {
	if err := r.checkHalt(ctx); err != nil {
		return err
	}
	var do unit
	for _, l := range routes[r.row.Kind] {
		if l.phase == r.phase {
			do = l.do
		}
	}
	if do == nil {
		return fmt.Errorf("a %s has no phase %q: it was begun by another version of namebridge", r.row.Kind, r.phase)
	}
	for began := time.Now(); ; {
		v, err := do(r, ctx)
		if err != nil {
			return err
		}
		r.forward()
		then := r.phase
		switch {
		case v == more && time.Since(began) < slice:
			continue
		case v == next:
			then = following(r.row.Kind, r.phase)
		case v == over:
			then = ""
		}
		if then == "" {
			return w.end(ctx, r, nil, finish)
		}
		nc, bl := r.sent.nameCoach.Swap(0), r.sent.bln.Swap(0)
		return state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
			if err := finish(ctx, tx); err != nil {
				return err
			}
			if then != r.phase {
				if err := state.NextPhase(ctx, tx, r.Name, r.row, string(then)); err != nil {
					return err
				}
			}
			if err := state.CountRequests(ctx, tx, r.Name, r.id(), nc, bl); err != nil {
				return err
			}
			return queueStep(ctx, r.queue, tx, r.Name, r.row, then)
		})
	}
}

// end counts what the run came to and closes it, with the problem that ended it, if any. finish may be nil.
func (w *worker) end(ctx context.Context, r *run, problem error, finish func(context.Context, pgx.Tx) error) error {
	res := Result{Run: r.id(), Kind: r.row.Kind, Status: state.Done}
	var place writing
	if r.phase == PhaseWrite {
		if err := r.place(&place); err != nil {
			return err
		}
	}
	text := ""
	switch {
	case errors.Is(problem, ErrHalted):
		res.Status, text = state.Halted, problem.Error()
	case problem != nil:
		res.Status, text = state.Failed, problem.Error()
	case place.Staged > 0, place.Waiting && r.row.Kind != state.Collect: // a collect has done its own work
		res.Status = state.Quarantined
	}
	text = Storable(text, len(text))
	if problem != nil && r.row.Hosted != nil { // somebody waits for it, and may see that it is ended before we do
		w.problems.Store(text, problem)
	}
	nc, bl := r.sent.nameCoach.Swap(0), r.sent.bln.Swap(0)
	err := state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if finish != nil {
			if err := finish(ctx, tx); err != nil {
				return err
			}
		}
		if nc+bl > 0 {
			if err := state.CountRequests(ctx, tx, r.Name, r.id(), nc, bl); err != nil {
				return err
			}
		}
		if err := r.sum(ctx, tx, &res); err != nil {
			return err
		}
		if problem == nil && !r.idle {
			if err := state.DropCursor(ctx, tx, r.Name, r.id().String()); err != nil {
				return err
			}
		}
		if err := r.hasten(ctx, tx, problem); err != nil {
			return err
		}
		return state.EndRun(ctx, tx, r.Name, r.row, res.Status, res, text)
	})
	if errors.Is(err, state.ErrStale) { // somebody else has ended it, or gone on with it
		if finish == nil {
			return nil
		}
		return w.drop(ctx, stepArgs{r.Name, r.id()}, r.phase, finish)
	}
	if err != nil {
		return err
	}
	took := time.Duration(res.Seconds * float64(time.Second))
	r.Metrics.RunEnded(r.Name, r.row.Kind, res.Status, took)
	log := w.log.With("bridge", r.Name, "run", r.id(), "kind", r.row.Kind, "status", res.Status, "seconds", res.Seconds,
		"written", res.Written, "cleared", res.Cleared, "failed", res.Failed)
	switch {
	case problem != nil && r.row.Hosted != nil && *r.row.Hosted == w.owner:
		log.Debug("a run ended", "problem", problem) // the command that waits for it says why
	case problem != nil:
		log.Error("a run ended", "problem", problem)
	case r.row.Hosted == nil && res.Written+res.Cleared+res.Failed > 0, res.Status != state.Done:
		log.Info("a run ended")
	default:
		log.Debug("a run ended")
	}
	select {
	case w.endedAny <- struct{}{}:
	default:
	}
	return nil
}

// sum fills in what a run came to, as the database knows it.
func (r *run) sum(ctx context.Context, q state.Querier, res *Result) error {
	row, err := state.GetRun(ctx, q, r.Name, r.id())
	if err != nil {
		return err
	}
	now, err := state.Now(ctx, q)
	if err != nil {
		return err
	}
	since := row.StartedAt
	if row.ResumedAt != nil {
		since = *row.ResumedAt
	}
	res.Seconds = now.Sub(since).Round(time.Millisecond).Seconds()
	res.Requests = Requests{NameCoach: row.RequestsNamecoach, BLN: row.RequestsBLN}
	totals, err := state.CountTotals(ctx, q, r.Name)
	if err != nil {
		return err
	}
	res.Participants, res.Users, res.Linked, res.Held = totals.Participants, totals.Users, totals.Linked, HeldByReason(totals.Held)
	if r.row.Kind == state.Plan && r.phase != PhaseWrite {
		res.Unchanged = totals.Synced
		res.Written, res.Cleared, err = state.CountPlanned(ctx, q, r.Name, r.id())
		return err
	}
	if !r.idle {
		res.Written, res.Cleared, err = state.CountWrites(ctx, q, r.Name, r.id())
	}
	res.Failed, res.Unchanged = totals.Failed, max(totals.Synced-res.Written, 0)
	return err
}
