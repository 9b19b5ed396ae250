package sync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"namebridge/state"
)

// A job only says "look here": what is to be done stands in our own tables, so that a job that comes twice, late or not at
// all does no harm. Jobs of runs do units of one phase; the transaction that ends a phase queues the job of the next.

// stepArgs names a run whose next step is to be done.
type stepArgs struct {
	Bridge string    `json:"bridge"`
	Run    uuid.UUID `json:"run"`
}

func (a stepArgs) step() stepArgs { return a }

// stepJob is a job that does units of a run's phase.
type stepJob interface {
	river.JobArgs
	step() stepArgs
}

// The jobs of runs, one kind a phase.
type (
	checkAccess   struct{ stepArgs }
	collectWindow struct{ stepArgs }
	collectTail   struct{ stepArgs }
	sweepPage     struct{ stepArgs }
	searchUsers   struct{ stepArgs }
	censusBatch   struct{ stepArgs }
	askPeople     struct{ stepArgs }
	linkPeople    struct{ stepArgs }
	decideUsers   struct{ stepArgs }
	auditUsers    struct{ stepArgs }
	readUsers     struct{ stepArgs }
	awaitWrites   struct{ stepArgs }
)

// Kind names the job in the queue.
func (checkAccess) Kind() string { return "check_access" }

// Kind names the job in the queue.
func (collectWindow) Kind() string { return "collect_window" }

// Kind names the job in the queue.
func (collectTail) Kind() string { return "collect_tail" }

// Kind names the job in the queue.
func (sweepPage) Kind() string { return "sweep_page" }

// Kind names the job in the queue.
func (searchUsers) Kind() string { return "search_users" }

// Kind names the job in the queue.
func (censusBatch) Kind() string { return "census_batch" }

// Kind names the job in the queue.
func (askPeople) Kind() string { return "ask_people" }

// Kind names the job in the queue.
func (linkPeople) Kind() string { return "link_people" }

// Kind names the job in the queue.
func (decideUsers) Kind() string { return "decide_users" }

// Kind names the job in the queue.
func (auditUsers) Kind() string { return "audit_users" }

// Kind names the job in the queue.
func (readUsers) Kind() string { return "read_users" }

// Kind names the job in the queue.
func (awaitWrites) Kind() string { return "await_writes" }

// stepOf makes the job of a phase; nil where there is no such phase.
func stepOf(p Phase, a stepArgs) river.JobArgs {
	switch p {
	case PhaseAccess:
		return checkAccess{a}
	case PhaseCollect:
		return collectWindow{a}
	case PhaseTail:
		return collectTail{a}
	case PhaseList:
		return sweepPage{a}
	case PhaseSearch:
		return searchUsers{a}
	case PhaseCensus:
		return censusBatch{a}
	case PhaseAsk:
		return askPeople{a}
	case PhaseLink:
		return linkPeople{a}
	case PhaseDecide:
		return decideUsers{a}
	case PhaseAudit:
		return auditUsers{a}
	case PhaseRead:
		return readUsers{a}
	case PhaseWrite:
		return awaitWrites{a}
	}
	return nil
}

// syncBatch writes pending users of a bridge, a batch after the other, until none is left. Lanes are worked side by side,
// by whichever replicas are free. The lanes for what is urgent leave the rest to others, so that no sweep is in the way
// of a change.
type syncBatch struct {
	Bridge string `json:"bridge"`
	Urgent bool   `json:"urgent"`
	Lane   int    `json:"lane"`
}

// Kind names the job in the queue.
func (syncBatch) Kind() string { return "sync_batch" }

func (s syncBatch) urgency() int16 {
	if s.Urgent {
		return state.CollectPriority
	}
	return state.BackfillPriority
}

// housekeeping looks for what was left behind and forgets what nobody needs any more.
type housekeeping struct {
	Bridge string `json:"bridge"`
}

// Kind names the job in the queue.
func (housekeeping) Kind() string { return "housekeeping" }

const (
	// The lanes of one bridge, over all replicas, and how many of each kind one process works at once.
	urgentLanes, bulkLanes = 2, 4
	ownLanes               = 2
	// stepWorkers is more than runs of one bridge can be under way at once, so that none waits for another.
	stepWorkers = 8
	// stepAttempts is how often a step of the daemon's is tried before its run is given up. A collect is given up soon: the
	// next one is due in minutes and goes on from the same cursor.
	stepAttempts, collectAttempts = 12, 3
	// laneAttempts is for ever, as far as the queue can count: what is pending has to be written some day.
	laneAttempts = 1000
	// slice is how long a job goes on with its units before it queues itself again: a unit takes milliseconds, and a turn
	// through the queue does, too.
	slice = 10 * time.Second
)

// The queues of a bridge: one bridge's work never waits for another's.
func stepQueue(bridge string) string   { return bridge }
func urgentQueue(bridge string) string { return bridge + "_now" }
func bulkQueue(bridge string) string   { return bridge + "_bulk" }

// planQueue is worked by plan commands alone: they write nothing to BLN, and so must take nobody else's jobs.
func planQueue(bridge string) string { return bridge + "_plan" }

// unique makes a second job of the same kind and arguments one with the first, until that is done.
var unique = river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled,
}}

type queue = river.Client[pgx.Tx]

// errOtherVersion is what is wrong with a run in a phase that is not known here.
var errOtherVersion = errors.New("it is in a phase that this version of namebridge does not know")

// queueStep queues the job for what run has to do next.
func queueStep(ctx context.Context, q *queue, tx pgx.Tx, bridge string, run state.Run, phase Phase) error {
	args := stepOf(phase, stepArgs{bridge, run.Run})
	if args == nil {
		return fmt.Errorf("queue %q of run %s: %w", phase, run.Run, errOtherVersion)
	}
	o := &river.InsertOpts{Queue: stepQueue(bridge), Priority: int(run.Priority), UniqueOpts: unique, MaxAttempts: stepAttempts}
	switch {
	case run.Kind == state.Collect:
		o.MaxAttempts = collectAttempts
	case run.Kind == state.Plan && phase != PhaseWrite:
		o.Queue = planQueue(bridge)
	}
	if _, err := q.InsertTx(ctx, tx, args, o); err != nil {
		return fmt.Errorf("queue %s of run %s: %w", phase, run.Run, err)
	}
	return nil
}

// queueWriters queues jobs for n users that have become pending with an urgency.
func queueWriters(ctx context.Context, q *queue, tx pgx.Tx, b *Bridge, urgency int16, n int) error {
	if n <= 0 || urgency >= state.Planned {
		return nil
	}
	urgent := urgency <= state.CollectPriority
	lanes := bulkLanes
	if urgent {
		lanes = urgentLanes
	}
	atOnce := b.Settings.atOnce()
	lanes = min(lanes, (n+atOnce-1)/atOnce)
	fail := func(err error) error { return fmt.Errorf("queue writers of bridge %s: %w", b.Name, err) }
	// Where its job is there already it is locked until tx ends, so that the lane, should it be about to end, then sees what is pending.
	first := syncBatch{b.Name, urgent, 0}
	if _, err := q.InsertTx(ctx, tx, first, first.options(urgency)); err != nil {
		return fail(err)
	}
	if lanes == 1 {
		return nil
	}
	// The others are a help, and none that is there is touched: the queue locks jobs in orders of its own, so that nobody may wait for one
	// while having another. Nobody else queues any meanwhile, since the first is locked.
	list, err := q.JobListTx(ctx, tx, river.NewJobListParams().Kinds(first.Kind()).Queues(first.options(urgency).Queue).States(unique.ByState...))
	if err != nil {
		return fail(err)
	}
	there := map[int]bool{}
	for _, job := range list.Jobs {
		var a syncBatch
		if err := json.Unmarshal(job.EncodedArgs, &a); err != nil {
			return fail(err)
		}
		there[a.Lane] = true
	}
	var jobs []river.InsertManyParams
	for lane := 1; lane < lanes; lane++ {
		if a := (syncBatch{b.Name, urgent, lane}); !there[lane] {
			jobs = append(jobs, river.InsertManyParams{Args: a, InsertOpts: a.options(urgency)})
		}
	}
	if len(jobs) == 0 {
		return nil
	}
	if _, err := q.InsertManyTx(ctx, tx, jobs); err != nil {
		return fail(err)
	}
	return nil
}

// queueLane queues one lane again.
func queueLane(ctx context.Context, q *queue, tx pgx.Tx, a syncBatch) error {
	if _, err := q.InsertTx(ctx, tx, a, a.options(a.urgency())); err != nil {
		return fmt.Errorf("queue a writer of bridge %s: %w", a.Bridge, err)
	}
	return nil
}

func (s syncBatch) options(urgency int16) *river.InsertOpts {
	o := &river.InsertOpts{Queue: bulkQueue(s.Bridge), Priority: int(urgency), UniqueOpts: unique, MaxAttempts: laneAttempts}
	if s.Urgent {
		o.Queue = urgentQueue(s.Bridge)
	}
	return o
}

// complete ends a job within the transaction that does what follows from it.
func complete[T river.JobArgs](ctx context.Context, tx pgx.Tx, job *river.Job[T]) error {
	if _, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job); err != nil {
		return fmt.Errorf("complete job %s: %w", job.Kind, err)
	}
	return nil
}

// stepWorker works the steps of one phase.
type stepWorker[T stepJob] struct {
	river.WorkerDefaults[T]
	w     *worker
	phase Phase
}

// Work does units of the phase, until it is over or the slice is.
func (s *stepWorker[T]) Work(ctx context.Context, job *river.Job[T]) error {
	return s.w.work(ctx, job.ID, func(ctx context.Context) error {
		a := job.Args.step()
		return s.w.step(ctx, job.ID, a, s.phase, job.Attempt >= job.MaxAttempts, func(ctx context.Context, tx pgx.Tx) error { return complete(ctx, tx, job) })
	})
}

// NextRetry is when a step that failed is tried again.
func (s *stepWorker[T]) NextRetry(job *river.Job[T]) time.Time {
	return time.Now().Add(retryAfter(job.Attempt - 1))
}

type laneWorker struct {
	river.WorkerDefaults[syncBatch]
	w *worker
}

// Work writes pending users until none is left, or the slice is over.
func (l *laneWorker) Work(ctx context.Context, job *river.Job[syncBatch]) error {
	return l.w.work(ctx, job.ID, func(ctx context.Context) error {
		return l.w.writeLane(ctx, job.ID, job.Args, func(ctx context.Context, tx pgx.Tx) error { return complete(ctx, tx, job) })
	})
}

// NextRetry is when a lane that failed is tried again: the server is away, or refuses us. Soon after it is back; that a wrong
// password locks nobody out is seen to where it signs in.
func (l *laneWorker) NextRetry(job *river.Job[syncBatch]) time.Time {
	return time.Now().Add(min(retryAfter(job.Attempt), time.Minute))
}

type housekeeper struct {
	river.WorkerDefaults[housekeeping]
	w *worker
}

// Work tidies one bridge up.
func (h *housekeeper) Work(ctx context.Context, job *river.Job[housekeeping]) error {
	return h.w.work(ctx, job.ID, h.w.keepHouse)
}

func (w *worker) workers() *river.Workers {
	all := river.NewWorkers()
	river.AddWorker(all, &stepWorker[checkAccess]{w: w, phase: PhaseAccess})
	river.AddWorker(all, &stepWorker[collectWindow]{w: w, phase: PhaseCollect})
	river.AddWorker(all, &stepWorker[collectTail]{w: w, phase: PhaseTail})
	river.AddWorker(all, &stepWorker[sweepPage]{w: w, phase: PhaseList})
	river.AddWorker(all, &stepWorker[searchUsers]{w: w, phase: PhaseSearch})
	river.AddWorker(all, &stepWorker[censusBatch]{w: w, phase: PhaseCensus})
	river.AddWorker(all, &stepWorker[askPeople]{w: w, phase: PhaseAsk})
	river.AddWorker(all, &stepWorker[linkPeople]{w: w, phase: PhaseLink})
	river.AddWorker(all, &stepWorker[decideUsers]{w: w, phase: PhaseDecide})
	river.AddWorker(all, &stepWorker[auditUsers]{w: w, phase: PhaseAudit})
	river.AddWorker(all, &stepWorker[readUsers]{w: w, phase: PhaseRead})
	river.AddWorker(all, &stepWorker[awaitWrites]{w: w, phase: PhaseWrite})
	river.AddWorker(all, &laneWorker{w: w})
	river.AddWorker(all, &housekeeper{w: w})
	return all
}
