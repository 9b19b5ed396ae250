package sync

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"namebridge/internal/httpapi"
	"namebridge/state"
)

const (
	// writeBatch is how many users one claim takes at most.
	writeBatch = 100
	// claimFor is about how long a lane should be busy with one claim: for that long a user may have to wait whose wish has
	// become urgent meanwhile.
	claimFor = time.Second
)

// writer writes pending users, for whichever runs want them.
type writer struct {
	*run
	journal  gather[*state.Intent]
	settle   gather[state.Outcome]
	failures atomic.Int64 // in a row
	verified atomic.Int64
	denied   atomic.Int64 // users who answered 403 at the first try
	gone     atomic.Int64 // users that BLN no longer knows, or not by the keys that they were linked by
	landed   atomic.Int64 // earlier writes that were found to have been carried out
	stopped  atomic.Bool  // damage was done: nothing more is sent but to put it back
	looked   []claim      // users whose writes were looked into: held until what was found out is followed
}

func (r *run) newWriter() *writer {
	w := &writer{run: r, journal: gather[*state.Intent]{base: r.over}, settle: gather[state.Outcome]{base: r.over}}
	w.journal.do = func(ctx context.Context, in []*state.Intent) error { return state.Journal(ctx, r.DB, r.Name, in) }
	w.settle.do = func(ctx context.Context, out []state.Outcome) error {
		return state.InTx(ctx, r.DB, func(tx pgx.Tx) error { return state.Settle(ctx, tx, r.Name, out) })
	}
	return w
}

// atOnce is how many users one lane works on at once: all lanes of a process together fill its places.
func (s Settings) atOnce() int { return max(s.Concurrency/ownLanes, 1) }

// writeLane writes pending users, batch after batch, until none is left that this lane is for, or the slice is over.
func (w *worker) writeLane(ctx context.Context, job int64, a syncBatch, finish func(context.Context, pgx.Tx) error) error {
	r := w.run(state.Run{Priority: a.urgency()}, "")
	lane := r.newWriter()
	size := r.Settings.atOnce()
	for began := time.Now(); ; {
		err := lane.recover(ctx)
		if err == nil {
			err = lane.follow(ctx, w, a)
		}
		if err != nil {
			w.release(ctx, lane.looked)
			return w.laneFailed(ctx, a, err)
		}
		stored, err := state.GetBridge(ctx, w.db, w.b.Name)
		if err != nil || stored.HaltedAt != nil {
			return err // who resumes queues again what is pending
		}
		if time.Since(began) > slice {
			return w.endLane(ctx, a, finish)
		}
		w.claiming.RLock()
		claimed, err := state.Claim(ctx, w.db, w.b.Name, a.urgency(), w.owner, size)
		claims := make([]claim, len(claimed))
		for i, c := range claimed {
			claims[i] = claim{c.UserID, c.Fence}
			w.held.Store(claims[i], nil)
		}
		w.claiming.RUnlock()
		if err != nil {
			w.unreleased.Store(true) // it may have been carried out all the same
			return err
		}
		if len(claimed) == 0 {
			return w.endLane(ctx, a, finish)
		}
		start := time.Now()
		err = lane.batch(ctx, claimed)
		size = min(max(int(float64(len(claimed))*claimFor.Seconds()/time.Since(start).Seconds()), r.Settings.atOnce()), writeBatch)
		if err == nil {
			err = lane.follow(ctx, w, a)
		}
		w.release(ctx, claims)
		if err != nil {
			return w.laneFailed(ctx, a, err)
		}
		w.forward(job)
	}
}

// follow draws the conclusions from what was found out about users by reading and writing them: who has got what was
// decided without knowing that, and whose people may be another user's now (BLN 645). Runs wait for it, since the users
// are still claimed.
func (w *writer) follow(ctx context.Context, by *worker, a syncBatch) error {
	landed, gone := w.landed.Swap(0), w.gone.Swap(0)
	if landed+gone+int64(len(w.looked)) == 0 {
		return nil
	}
	wish, err := by.laneWish(ctx, a)
	if err != nil {
		return err
	}
	if gone > 0 {
		if err := w.linkDue(ctx); err != nil {
			return err
		}
	}
	err = w.decideDue(ctx, wish)
	w.release(ctx, w.looked)
	w.looked = nil
	return err
}

// laneWish is as whose wish a lane stores what it finds out: the most urgent run's that waits for lanes like it.
func (w *worker) laneWish(ctx context.Context, a syncBatch) (state.Wish, error) {
	wish := state.Wish{Urgency: a.urgency()}
	runs, err := state.RunningRuns(ctx, w.db, w.b.Name)
	for _, row := range runs {
		if row.Phase == string(PhaseWrite) && row.Priority <= a.urgency() {
			wish.Run = row.Run
			break
		}
	}
	return wish, err
}

// endLane ends a lane's job: for good where there is nothing for it, else to be queued again. A change that came while the
// job was there has queued none, so the last look is made when the job is over already, in the same transaction.
func (w *worker) endLane(ctx context.Context, a syncBatch, finish func(context.Context, pgx.Tx) error) error {
	return state.InTx(ctx, w.db, func(tx pgx.Tx) error {
		if err := finish(ctx, tx); err != nil {
			return err
		}
		left, err := state.FindWork(ctx, tx, w.b.Name, a.urgency())
		if err != nil || !left.Claimable && !left.Open {
			return err
		}
		return queueLane(ctx, w.queue, tx, a)
	})
}

// laneFailed says of a failure that is not about one user what becomes of the runs that wait for their users: they end
// with it, but what they want stays pending, and the lane goes on trying.
func (w *worker) laneFailed(ctx context.Context, a syncBatch, problem error) error {
	problem = ofDatabase(problem)
	if ctx.Err() != nil || errors.Is(problem, errLease) || errors.As(problem, new(*httpapi.PausedError)) {
		return problem
	}
	runs, err := state.RunningRuns(ctx, w.db, w.b.Name)
	if err != nil {
		return errors.Join(problem, err)
	}
	for _, row := range runs {
		if row.Phase != string(PhaseWrite) || a.Urgent && row.Priority > state.CollectPriority {
			continue
		}
		if row.Hosted == nil && lost(problem) { // whoever waits for a command is told; the daemon's runs have time
			continue
		}
		if err := w.end(ctx, w.run(row, PhaseWrite), problem, nil); err != nil {
			return errors.Join(problem, err)
		}
	}
	if errors.Is(problem, ErrHalted) {
		return nil
	}
	w.log.Warn("writing stopped and will be tried again", "bridge", w.b.Name, "problem", problem)
	return problem
}

// remains is what a batch's users came to that were not settled one by one.
type remains struct {
	mu       sync.Mutex
	failed   []state.Failure
	removals []state.Claimed // that nobody has judged
	withdraw []state.Claimed
	holds    []state.Hold
	tried    []state.Claimed // beside those who were claimed to be written
}

// batch is one unit of work: it brings up to writeBatch claimed users to what is wanted.
func (w *writer) batch(ctx context.Context, claimed []state.Claimed) error {
	var rest remains
	group, each := errgroup.WithContext(ctx)
	group.SetLimit(max(w.Settings.Concurrency, 1))
	for _, c := range claimed {
		group.Go(func() error {
			if err := each.Err(); err != nil {
				return err
			}
			return w.one(each, c, &rest, func() error { return w.tryUser(each, c, &rest, nil) })
		})
	}
	err := group.Wait()
	// What the others came to is stored even where one of them ended the run.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), gatherTimeout)
	defer cancel()
	return errors.Join(err, w.store(after, &rest), w.attribute(after, claimed))
}

// attribute counts the requests of a batch for the runs that wanted its users, each by its share of them, and that they are done.
func (w *writer) attribute(ctx context.Context, claimed []state.Claimed) error {
	users := map[uuid.UUID]int64{}
	for _, c := range claimed {
		users[c.Run]++
	}
	left, requests := int64(len(claimed)), w.sent.bln.Swap(0)
	var err error
	for run, n := range users {
		share := requests * n / left
		requests, left = requests-share, left-n
		err = errors.Join(err, state.CountWritten(ctx, w.DB, w.Name, run, n, share))
	}
	return err
}

func (w *writer) store(ctx context.Context, rest *remains) error {
	return state.InTx(ctx, w.DB, func(tx pgx.Tx) error { return w.storeIn(ctx, tx, rest) })
}

func (w *writer) storeIn(ctx context.Context, tx pgx.Tx, rest *remains) error {
	var users []int64
	for _, f := range rest.failed {
		users = append(users, f.UserID)
	}
	for _, c := range slices.Concat(rest.removals, rest.withdraw) {
		users = append(users, c.UserID)
	}
	if len(users) == 0 {
		return nil
	}
	// All of them before any hold: that belongs to whoever has its user.
	if err := state.LockUsers(ctx, tx, w.Name, users); err != nil {
		return err
	}
	if len(rest.failed) > 0 {
		if err := state.Fail(ctx, tx, w.Name, rest.failed); err != nil {
			return err
		}
		soonest := slices.MinFunc(rest.failed, func(a, b state.Failure) int { return cmp.Compare(a.RetryAfter, b.RetryAfter) }).RetryAfter
		if err := state.HastenSchedule(ctx, tx, w.Name, state.Housekeeping, soonest); err != nil {
			return err
		}
	}
	if len(rest.removals) > 0 {
		if err := state.FoundRecordings(ctx, tx, w.Name, rest.removals); err != nil {
			return err
		}
	}
	if len(rest.withdraw) == 0 {
		return nil
	}
	if err := state.StoreHolds(ctx, tx, w.Name, state.HeldUser, rest.holds, nil); err != nil {
		return err
	}
	return state.Withdraw(ctx, tx, w.Name, rest.withdraw)
}

func (r *remains) hold(c state.Claimed, reason Reason, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.withdraw = append(r.withdraw, c)
	r.holds = append(r.holds, state.Hold{Subject: strconv.FormatInt(c.UserID, 10), Reason: string(reason), Detail: Storable(detail, maxDetail), Content: c.ListedContent})
}
