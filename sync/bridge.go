package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/bln"
	"namebridge/namecoach"
	"namebridge/state"
)

// Settings are the rules that an operator chooses.
type Settings struct {
	OrganizationID int64
	Username       string   // the BLN user who signs in; empty with a static token
	Events         []string // event access codes that count, in order of preference; none: all
	MatchBy        []Rule
	Layout         Layout
	MergingServer  bool // BLN_PUT_SEMANTICS=merge: only the fragment is sent
	Concurrency    int  // users written at once
	Lookback       time.Duration
	Settle         time.Duration
	Guard          Guard
}

// Bridge joins one NameCoach account to one BLN organization. Its methods may be called by several processes at once.
type Bridge struct {
	Name      string
	Settings  Settings
	NameCoach *namecoach.Client
	BLN       *bln.Client
	DB        *pgxpool.Pool
	Log       *slog.Logger
	Progress  func(Progress)                // may be nil; called from several goroutines
	Requests  func() (namecoach, bln int64) // requests sent so far by this process
}

// Progress is how far one phase of a run is. Total is 0 where it cannot be known.
type Progress struct {
	Phase       Phase
	Done, Total int
}

// Phase is a part of a run.
type Phase string

// The phases, in their order.
const (
	PhaseCollect Phase = "collect"
	PhaseList    Phase = "list"
	PhaseLink    Phase = "link"
	PhaseDecide  Phase = "decide"
	PhaseRead    Phase = "read" // by a plan only
	PhaseWrite   Phase = "write"
)

func (b *Bridge) progress(p Phase, done, total int) {
	if b.Progress != nil {
		b.Progress(Progress{p, done, total})
	}
}

// Errors that end a run and that callers tell apart.
var (
	// ErrHalted: a foreign key was damaged; no write is made until a person resumes.
	ErrHalted = errors.New("halted")
	// ErrBusy: another live process has this run.
	ErrBusy = errors.New("another process is doing this already")
)

// HaltedError says since when and why a bridge writes nothing.
type HaltedError struct {
	Since  time.Time
	Reason string
	Run    uuid.UUID
}

func (e *HaltedError) Error() string { return "halted: " + e.Reason }

// Is makes errors.Is(err, ErrHalted) true.
func (e *HaltedError) Is(target error) bool { return target == ErrHalted }

// PermissionError says that the BLN user cannot do what a bridge needs.
type PermissionError struct{ Role, Needs string }

func (e *PermissionError) Error() string {
	if e.Role == "" {
		return "BLN answers 403 (forbidden): the user that signs in may not " + e.Needs
	}
	return fmt.Sprintf("the BLN user that signs in has the role %q, which may not %s", e.Role, e.Needs)
}

// Result is what a run did, as the commands print it.
type Result struct {
	Run          uuid.UUID       `json:"run"`
	Kind         state.Kind      `json:"kind"`
	Status       state.RunStatus `json:"status"`
	Participants int             `json:"participants"`
	Users        int             `json:"users"`
	Linked       int             `json:"linked"`
	Written      int             `json:"written"`
	Cleared      int             `json:"cleared"`
	Unchanged    int             `json:"unchanged"`
	Held         Held            `json:"held"`
	Failed       int             `json:"failed"`
	Requests     Requests        `json:"requests"`
	Seconds      float64         `json:"seconds"`
}

// Held counts people and users that are not written, by reason.
type Held struct {
	Unmatched  int `json:"unmatched"`
	Ambiguous  int `json:"ambiguous"`
	Conflict   int `json:"conflict"`
	Unwritable int `json:"unwritable"`
	Refused    int `json:"refused"`
	Reverted   int `json:"reverted"`
}

// Sum is the number of all that are held.
func (h Held) Sum() int {
	return h.Unmatched + h.Ambiguous + h.Conflict + h.Unwritable + h.Refused + h.Reverted
}

// HeldByReason reads the counts of state.Totals.
func HeldByReason(n map[string]int) Held {
	return Held{n[string(Unmatched)], n[string(Ambiguous)], n[string(Conflict)], n[string(Unwritable)], n[string(Refused)], n[string(Reverted)]}
}

// Requests counts the requests sent to each API.
type Requests struct {
	NameCoach int64 `json:"namecoach"`
	BLN       int64 `json:"bln"`
}

const (
	heartbeatEvery = 2 * time.Second
	// leaseMargin is how long after its last heartbeat a process still dares to write: less than state.Lease, by more
	// than clocks and pauses can take away.
	leaseMargin = (state.Lease - 3) * time.Second
)

// run is one run that this process has taken: its lease and what it counts.
type run struct {
	*Bridge
	id      uuid.UUID
	kind    state.Kind
	owner   uuid.UUID
	started time.Time
	began   time.Time // by the database's clock, also where another process began it

	collected  int            // rows read so far
	losses     int            // windows whose staged rows were lost
	everything bool           // its walk is from the beginning, and should bring all rows there are
	planned    map[Action]int // by a plan: users that would be written or cleared
	staged     int            // clears that wait for a person

	// lease ends when what this process has claimed may no longer be its own, and not before: neither when the run is
	// interrupted nor when it fails. What was sent is finished under it.
	lease context.Context
	mu    sync.Mutex
	beat  time.Time // start of the last heartbeat that succeeded
}

// errLease ends a run whose process could not say that it is alive: by now another may have taken over.
var errLease = fmt.Errorf("%w has taken no sign of life for %v, so that another process may have taken over; nothing more was written",
	errDatabase, leaseMargin)

// alive says whether this process may still believe that what it has claimed is its own.
func (r *run) alive() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lease.Err() == nil && passed(r.beat, time.Now()) < leaseMargin
}

// passed is how long ago from was, by whichever clock says more: the monotonic one stands still while a machine sleeps, and
// the one on the wall may be set back.
func passed(from, now time.Time) time.Duration {
	return max(now.Sub(from), now.Round(0).Sub(from.Round(0)))
}

// keepAlive beats until ctx ends. A beat that fails is tried again, but a lease that has lapsed is lost for good: whoever
// wakes from a long pause must not go on as if nothing had happened.
func (r *run) keepAlive(ctx context.Context, lose context.CancelCauseFunc) {
	lapse := time.AfterFunc(leaseMargin, func() { lose(errLease) })
	defer lapse.Stop()
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		start := time.Now()
		beat, cancel := context.WithTimeout(ctx, heartbeatEvery)
		err := state.Heartbeat(beat, r.DB, r.Name, r.owner)
		cancel()
		if err != nil {
			continue
		}
		if !r.alive() || !lapse.Reset(leaseMargin-time.Since(start)) {
			lose(errLease)
			return
		}
		r.mu.Lock()
		r.beat = start
		r.mu.Unlock()
	}
}

// do takes the run of kind and since, or goes on with one that was interrupted or failed, and carries body out. A collect
// always starts anew: its end is now. The result is complete whether or not body fails.
func (b *Bridge) do(ctx context.Context, kind state.Kind, since *time.Time, body func(context.Context, *run) error) (Result, error) {
	r := &run{Bridge: b, kind: kind, owner: uuid.New(), started: time.Now(), planned: map[Action]int{}}
	failed := Result{Kind: kind, Status: state.Failed}
	stored, err := state.EnsureBridge(ctx, b.DB, b.Name, b.Settings.OrganizationID)
	if err != nil {
		return failed, err
	}
	err = state.InTx(ctx, b.DB, func(tx pgx.Tx) error { return state.NoteLayout(ctx, tx, b.Name, b.Settings.Layout.fingerprint()) })
	if err != nil {
		return failed, err
	}
	r.beat = time.Now()
	if err := state.Heartbeat(ctx, b.DB, b.Name, r.owner); err != nil {
		return failed, err
	}
	var taken state.Run
	err = state.InTx(ctx, b.DB, func(tx pgx.Tx) (err error) {
		taken, err = state.TakeRun(ctx, tx, b.Name, kind, since, r.owner, kind != state.Collect)
		return err
	})
	if err != nil {
		if errors.Is(err, state.ErrStale) {
			err = fmt.Errorf("%s %s of bridge %s: %w", kind, taken.Run, b.Name, ErrBusy)
		}
		leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), heartbeatEvery)
		defer cancel()
		return failed, errors.Join(err, state.Leave(leave, b.DB, b.Name, r.owner))
	}
	r.id, r.began = taken.Run, taken.StartedAt

	lease, lose := context.WithCancelCause(context.WithoutCancel(ctx))
	r.lease = lease
	work, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(lease, func() { cancel(errLease) })
	var background sync.WaitGroup
	background.Go(func() { r.keepAlive(work, lose) })
	err = r.checkHalt(stored)
	switch {
	case err == nil, kind == state.Plan:
		err = body(work, r)
	default:
		// What a write has damaged is put back, halted or not.
		err = errors.Join(err, r.newWriter().recover(work))
	}
	cancel(nil)
	background.Wait()
	if lease.Err() != nil && !errors.Is(err, ErrHalted) {
		err = errLease
	}
	stop()
	lose(nil)
	return r.end(ctx, err)
}

func (r *run) checkHalt(b state.Bridge) error {
	if b.HaltedAt == nil {
		return nil
	}
	e := &HaltedError{Since: *b.HaltedAt}
	if b.HaltReason != nil {
		e.Reason = *b.HaltReason
	}
	if b.HaltRun != nil {
		e.Run = *b.HaltRun
	}
	return e
}

// end counts what the run came to and closes it. An interrupted run stays open, for the next process to go on with.
func (r *run) end(ctx context.Context, problem error) (Result, error) {
	// What was interrupted must still be given back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	res := Result{Run: r.id, Kind: r.kind, Status: state.Done, Seconds: time.Since(r.started).Round(time.Millisecond).Seconds()}
	if r.Requests != nil {
		res.Requests.NameCoach, res.Requests.BLN = r.Requests()
	}
	totals, err := state.CountTotals(ctx, r.DB, r.Name)
	problem = errors.Join(problem, err)
	res.Participants, res.Users, res.Linked = totals.Participants, totals.Users, totals.Linked
	res.Held = HeldByReason(totals.Held)
	if r.kind == state.Plan {
		res.Written, res.Cleared, res.Unchanged = r.planned[Write], r.planned[Clear], totals.Synced
	} else {
		written, cleared, err := state.CountWrites(ctx, r.DB, r.Name, r.id)
		problem = errors.Join(problem, err)
		res.Written, res.Cleared, res.Failed = written, cleared, totals.Failed
		res.Unchanged = max(totals.Synced-written, 0)
	}
	if r.staged > 0 {
		res.Status = state.Quarantined
	}
	text := ""
	switch {
	case problem == nil:
	case errors.Is(problem, ErrHalted):
		res.Status, text = state.Halted, problem.Error()
	default:
		res.Status, text = state.Failed, problem.Error()
	}
	var closing error
	switch {
	case errors.Is(problem, errLease): // the run may be another process's by now
	case errors.Is(problem, context.Canceled):
		closing = state.ReleaseRun(ctx, r.DB, r.Name, r.id, r.owner)
	default:
		closing = state.EndRun(ctx, r.DB, r.Name, r.id, r.owner, res.Status, res, text)
		if problem == nil {
			closing = errors.Join(closing, state.DropCursor(ctx, r.DB, r.Name, r.id.String()))
		}
	}
	closing = errors.Join(closing, state.Release(ctx, r.DB, r.Name, r.owner), state.Leave(ctx, r.DB, r.Name, r.owner))
	if problem == nil {
		problem = closing
	}
	return res, problem
}
