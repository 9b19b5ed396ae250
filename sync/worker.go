package sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"namebridge/internal/httpapi"
	"namebridge/state"
)

const (
	heartbeatEvery = 2 * time.Second
	// leaseMargin is how long after its last heartbeat a process still dares to write: less than state.Lease, by more
	// than clocks and pauses can take away.
	leaseMargin = (state.Lease - 3) * time.Second
	// stopWithin bounds how long a process that stops waits for what it has sent; Kubernetes gives it 30 s in all.
	stopWithin = 20 * time.Second
	// stopLost bounds it where the lease is over: nothing that is left to do can be stored.
	stopLost = 3 * time.Second
	// rescueAfter is when River itself takes a job for lost. We do much sooner, when its process is; and whether one gets on is
	// seen by the liveness check.
	rescueAfter = 24 * time.Hour
	// snoozeAtLeast is how long a job stays away at least that met a server that wants to be left alone.
	snoozeAtLeast = time.Second
)

// lease is the belief that what a process has claimed is its own, as long as its heartbeats succeed.
type lease struct {
	owner  uuid.UUID
	db     *pgxpool.Pool
	bridge string
	// over ends when what this process has claimed may no longer be its own, and not before: neither when a run is
	// interrupted nor when it fails. What was sent is finished under it.
	over context.Context
	lose context.CancelCauseFunc
	mu   sync.Mutex
	beat time.Time // start of the last heartbeat that succeeded

	// What is to be given back is chosen while no claim is on its way: of those the database knows more than we do.
	claiming sync.RWMutex // for reading: from a claim's statement until it is held
	held     sync.Map     // claim → nothing
	marking  sync.Mutex   // one user at a time is noted as gone, or as bearing other keys
	// unreleased: something may be claimed that nobody is at work on; the next heartbeat gives it back.
	unreleased atomic.Bool
}

// claim is a user that a process is at work on. One that was written and is claimed again at once is another claim.
type claim struct{ user, fence int64 }

// giveBack gives back all that this process has claimed and is not at work on.
func (l *lease) giveBack(ctx context.Context) error {
	l.claiming.Lock()
	defer l.claiming.Unlock()
	users := []int64{}
	l.held.Range(func(c, _ any) bool {
		users = append(users, c.(claim).user)
		return true
	})
	return state.ReleaseBut(ctx, l.db, l.bridge, l.owner, users)
}

// release gives back those of the claimed users that nothing has become of. Where the database is away, the next heartbeat
// does: what was written is no less written for that.
func (l *lease) release(ctx context.Context, claims []claim) {
	users, fences := make([]int64, len(claims)), make([]int64, len(claims))
	for i, c := range claims {
		users[i], fences[i] = c.user, c.fence
		l.held.Delete(c)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), heartbeatEvery)
	defer cancel()
	if len(claims) > 0 && state.ReleaseClaimed(ctx, l.db, l.bridge, users, fences) != nil {
		l.unreleased.Store(true)
	}
}

// errLease ends the work of a process that could not say that it is alive: by now another may have taken over.
var errLease = fmt.Errorf("%w has taken no sign of life for %v, so that another process may have taken over; nothing more was written",
	errDatabase, leaseMargin)

// alive says whether this process may still believe that what it has claimed is its own.
func (l *lease) alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over.Err() == nil && passed(l.beat, time.Now()) < leaseMargin
}

// passed is how long ago from was, by whichever clock says more: the monotonic one stands still while a machine sleeps, and
// the one on the wall may be set back.
func passed(from, now time.Time) time.Duration {
	return max(now.Sub(from), now.Round(0).Sub(from.Round(0)))
}

// worker is one process's share of the work on a bridge: a lease, and a client of the queue. Each bridge has its own, so
// that what befalls one does not touch another.
type worker struct {
	*lease
	b     *Bridge
	log   *slog.Logger
	queue *queue

	background sync.WaitGroup
	stopBeat   context.CancelFunc
	stopOnce   sync.Once
	stopErr    error
	problems   sync.Map // text → error: what has ended runs here for which somebody waits, as their rows tell it
	endedAny   chan struct{}
	busy       sync.Map // id of a job → turn
}

// mode is what a worker does beside the steps of its runs.
type mode int

const (
	helping  mode = iota // a one-shot command that writes: does whatever there is to do for its bridge
	planning             // one that writes nothing to BLN: takes jobs of plans only
	serving              // the daemon
)

// startWorker takes part in the work on a bridge, until stop. While others do already, it waits until they have noticed, so
// that all together keep to the servers' limits.
func startWorker(ctx context.Context, b *Bridge, m mode) (*worker, error) {
	w := &worker{lease: &lease{owner: uuid.New(), db: b.DB, bridge: b.Name}, b: b, log: b.Log, endedAny: make(chan struct{}, 1)}
	if b.Settings.MergingServer {
		shown, err := state.ProbedSemantics(ctx, w.db, b.Name)
		if err != nil {
			return nil, err
		}
		if shown != "merge" {
			w.log.Warn("BLN_PUT_SEMANTICS is merge, but the last probe has not shown that this server merges: every write sends the whole otherInfo, "+
				"which is safe on any server", "bridge", b.Name, "cure", "namebridge doctor --probe-write USER_ID")
			whole := *b
			whole.Settings.MergingServer = false
			b = &whole
			w.b = b
		}
	}
	queues := map[string]river.QueueConfig{
		stepQueue(b.Name): {MaxWorkers: stepWorkers}, urgentQueue(b.Name): {MaxWorkers: ownLanes}, bulkQueue(b.Name): {MaxWorkers: ownLanes},
	}
	if m == planning {
		queues = map[string]river.QueueConfig{planQueue(b.Name): {MaxWorkers: stepWorkers}}
	}
	config := &river.Config{
		ID: w.owner.String(), Queues: queues, Workers: w.workers(), Logger: slog.New(quiet{w.log.Handler(), new(sync.Map)}),
		// A step queues the next within milliseconds, and what comes within the cooldown of another is not told of, but polled.
		FetchCooldown: time.Millisecond, FetchPollInterval: time.Second,
		JobTimeout: -1, RescueStuckJobsAfter: rescueAfter,
		// What is done is told by our own tables.
		CompletedJobRetentionPeriod: 5 * time.Minute, CancelledJobRetentionPeriod: 5 * time.Minute, DiscardedJobRetentionPeriod: 24 * time.Hour,
	}
	var err error
	if w.queue, err = river.NewClient(riverpgxv5.New(w.db), config); err != nil {
		return nil, fmt.Errorf("the queue: %w", err)
	}
	w.beat = time.Now()
	var company state.Company
	err = state.InTx(ctx, w.db, func(tx pgx.Tx) (err error) {
		// This locks the bridge: of those that start at the same moment each one sees all that were before it.
		if _, err = state.EnsureBridge(ctx, tx, b.Name, b.Settings.OrganizationID); err != nil {
			return err
		}
		if err = state.NoteLayout(ctx, tx, b.Name, b.Settings.Layout.place(), b.Settings.Layout.fingerprint()); err != nil {
			return err
		}
		company, err = state.Heartbeat(ctx, tx, b.Name, w.owner)
		return err
	})
	if err != nil {
		return nil, err
	}
	if company.Recent {
		b.NameCoach.Join(company.Live)
		b.BLN.Join(company.Live)
	}
	life := context.WithoutCancel(ctx)
	w.over, w.lose = context.WithCancelCause(life)
	var beating context.Context
	beating, w.stopBeat = context.WithCancel(life)
	w.background.Go(func() { w.keepAlive(beating) })
	if company.Live > 1 {
		// Everybody's next heartbeat tells of us.
		if err := pause(ctx, heartbeatEvery+heartbeatEvery/4); err != nil {
			return nil, errors.Join(err, w.stop(ctx))
		}
	}
	if err := state.WakeJobs(ctx, w.db, b.Name); err != nil {
		return nil, errors.Join(err, w.stop(ctx))
	}
	if err := w.queue.Start(life); err != nil {
		return nil, errors.Join(fmt.Errorf("the queue: %w", err), w.stop(ctx))
	}
	return w, nil
}

// quiet lets through what of the queue's own log concerns people: errors, in words of ours around its own, and of one kind one
// a minute, since a database that is away makes many. What becomes of jobs we log ourselves.
type quiet struct {
	slog.Handler
	last *sync.Map // message → time
}

const queueTrouble = "the queue of jobs meets trouble, and tries again by itself"

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelError && q.Handler.Enabled(ctx, l)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if at, ok := q.last.Load(r.Message); ok && r.Time.Sub(at.(time.Time)) < time.Minute {
		return nil
	}
	q.last.Store(r.Message, r.Time)
	told := slog.NewRecord(r.Time, r.Level, queueTrouble, r.PC)
	told.AddAttrs(slog.String("queue_says", r.Message))
	r.Attrs(func(a slog.Attr) bool {
		told.AddAttrs(a)
		return true
	})
	return q.Handler.Handle(ctx, told)
}

func (q quiet) WithAttrs(as []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(as), q.last} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name), q.last} }

// keepAlive beats until ctx ends. A beat that fails is tried again, but a lease that has lapsed is lost for good: whoever
// wakes from a long pause must not go on as if nothing had happened.
func (w *worker) keepAlive(ctx context.Context) {
	lapse := time.AfterFunc(leaseMargin, func() { w.lose(errLease) })
	defer lapse.Stop()
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.over.Done():
			return
		case <-tick.C:
		}
		start := time.Now()
		beat, cancel := context.WithTimeout(ctx, heartbeatEvery)
		company, err := state.Heartbeat(beat, w.db, w.b.Name, w.owner)
		cancel()
		if err != nil {
			continue
		}
		if !w.alive() || !lapse.Reset(leaseMargin-time.Since(start)) {
			w.lose(errLease)
			return
		}
		w.mu.Lock()
		w.beat = start
		w.mu.Unlock()
		w.b.NameCoach.SetShare(company.Live)
		w.b.BLN.SetShare(company.Live)
		if w.unreleased.Load() && w.giveBack(ctx) == nil {
			w.unreleased.Store(false)
		}
		w.forgetEnded()
		if n, err := state.RescueJobs(ctx, w.db, w.b.Name, w.owner, keys(&w.busy)); err == nil && n > 0 {
			w.log.Info("took up jobs that nobody works on any more", "jobs", n)
		}
	}
}

// stop ends the worker: what was sent is finished, everything else is given back. It waits for stopWithin at most; what is
// unfinished then is picked up by others when the lease is over.
func (w *worker) stop(ctx context.Context) error {
	w.stopOnce.Do(func() {
		within := stopWithin
		if w.over.Err() != nil {
			within = stopLost
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
		defer cancel()
		if err := w.queue.StopAndCancel(ctx); err != nil {
			w.stopErr = fmt.Errorf("stop the queue: %w", err)
		}
		w.stopBeat()
		w.background.Wait()
		if w.over.Err() == nil {
			w.stopErr = errors.Join(w.stopErr, state.Release(ctx, w.db, w.b.Name, w.owner), state.Leave(ctx, w.db, w.b.Name, w.owner))
		}
		w.lose(nil)
	})
	return w.stopErr
}

// work does a job. What ends it that is nobody's fault, ours stopping, a connection to the database that was lost or a
// server that wants to be left alone for a while, puts it off.
func (w *worker) work(ctx context.Context, job int64, do func(context.Context) error) error {
	w.forward(job)
	defer func() { w.busy.Store(job, turn{time.Now(), true}) }()
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(w.over, func() { cancel(errLease) })()
	err := do(work)
	var paused *httpapi.PausedError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil || w.over.Err() != nil:
		return river.JobSnooze(0)
	case errors.As(err, &paused):
		return river.JobSnooze(max(time.Until(paused.Until), snoozeAtLeast))
	case lost(err):
		return river.JobSnooze(snoozeAtLeast)
	}
	return err
}

// lost says of an error that the connection to the database was lost, or could not be made. Who tries again then must not
// wait longer for each time that it is restarted.
func lost(err error) bool {
	var answered *pgconn.PgError
	switch {
	case errors.As(err, &answered): // class 08: connection exception; 57P: shutting down, starting up
		return strings.HasPrefix(answered.Code, "08") || strings.HasPrefix(answered.Code, "57P")
	case errors.As(err, new(*httpapi.Error)):
		return false
	}
	return errors.As(err, new(*pgconn.ConnectError)) || pgconn.SafeToRetry(err) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, new(*net.OpError))
}

func keys(m *sync.Map) []int64 {
	ids := []int64{}
	m.Range(func(id, _ any) bool {
		ids = append(ids, id.(int64))
		return true
	})
	return ids
}

// turn is when a job last got on, or ended.
type turn struct {
	at    time.Time
	ended bool
}

// endedFor is how long a job that has ended here is left to the queue to note so.
const endedFor = 30 * time.Second

func (w *worker) forward(job int64) { w.busy.Store(job, turn{at: time.Now()}) }

// forgetEnded forgets the jobs that have ended a while ago: what the queue has not noted by then, it will not.
func (w *worker) forgetEnded() {
	w.busy.Range(func(job, t any) bool {
		if t := t.(turn); t.ended && time.Since(t.at) > endedFor {
			w.busy.Delete(job)
		}
		return true
	})
}

// stalled is how long the job that has not come forward for longest has not.
func (w *worker) stalled() (longest time.Duration) {
	w.busy.Range(func(_, t any) bool {
		if t := t.(turn); !t.ended {
			longest = max(longest, time.Since(t.at))
		}
		return true
	})
	return longest
}

// begin starts a run and queues its first step, or joins the one that is running.
func (w *worker) begin(ctx context.Context, n state.NewRun) (run state.Run, started bool, err error) {
	err = state.InTx(ctx, w.db, func(tx pgx.Tx) error {
		if run, started, err = state.StartRun(ctx, tx, w.b.Name, n); err != nil {
			return err
		}
		if !started && stepOf(Phase(run.Phase), stepArgs{}) == nil {
			if err := state.EndRun(ctx, tx, w.b.Name, run, state.Failed, Result{Run: run.Run, Kind: run.Kind, Status: state.Failed}, errOtherVersion.Error()); err != nil {
				return err
			}
			n.Resume = false
			if run, started, err = state.StartRun(ctx, tx, w.b.Name, n); err != nil {
				return err
			}
		}
		// Also for one that runs: should its job be lost, it is there again; else it is one with the job that is there. The job before the
		// run, as whoever ends a step has them.
		if err := queueStep(ctx, w.queue, tx, w.b.Name, run, Phase(run.Phase)); err != nil || started || n.Hosted == nil {
			return err
		}
		return state.HostRun(ctx, tx, w.b.Name, run.Run, *n.Hosted)
	})
	return run, started, err
}
