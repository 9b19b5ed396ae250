package sync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"namebridge/bln"
	"namebridge/internal/httpapi"
	"namebridge/state"
)

const (
	// writeBatch is how many users one claim takes.
	writeBatch = 100
	// lanes is how many batches are under way at once, so that the end of one does not leave the line idle.
	lanes = 2
	// maxDetail is where a reason is cut, in bytes.
	maxDetail = 1000
	// maxProperties is how many otherInfo may have (BLN 7463).
	maxProperties = 100
	// tries is how often a user is tried within one look, after an outcome that was unknown.
	tries = 3
	// patience is how long a run waits for users that failed to be ripe for another try.
	patience = 90 * time.Second
	// hopeless is how many failures in a row, without one success, end a run: the server is away.
	hopeless = 25
	// finish bounds what is done for a user once its write may have been sent, whatever else ends meanwhile.
	finish = 2 * time.Minute
)

// writer is the writing part of a run.
type writer struct {
	*run
	journal  gather[*state.Intent]
	settle   gather[state.Outcome]
	total    int
	done     atomic.Int64
	failures atomic.Int64 // in a row
	verified atomic.Int64
}

func (r *run) newWriter() *writer {
	w := &writer{run: r}
	w.journal.do = func(ctx context.Context, in []*state.Intent) error { return state.Journal(ctx, r.DB, r.Name, in) }
	w.settle.do = func(ctx context.Context, out []state.Outcome) error {
		return state.InTx(ctx, r.DB, func(tx pgx.Tx) error { return state.Settle(ctx, tx, r.Name, out) })
	}
	return w
}

// write brings every pending user to what is wanted, until none is left that can be. Earlier writes whose outcome is not
// known are looked into first.
func (r *run) write(ctx context.Context) error {
	if err := state.ForgetFailures(ctx, r.DB, r.Name); err != nil {
		return err
	}
	w := r.newWriter()
	pending, err := state.CountPending(ctx, r.DB, r.Name)
	if err != nil {
		return err
	}
	w.total = pending.Writes
	clears, err := r.letClears(ctx, pending.Clears)
	if err != nil {
		return err
	}
	for {
		if err := w.recover(ctx); err != nil {
			return err
		}
		group, lane := errgroup.WithContext(ctx)
		for range lanes {
			group.Go(func() error { return w.lane(lane, clears) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		p, err := state.CountPending(ctx, r.DB, r.Name)
		if err != nil {
			return err
		}
		again := p.Claimed > 0 || p.Ready > 0 || p.Retry != nil && time.Until(*p.Retry) < patience
		if !again {
			break
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return r.learnRows(ctx)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// letClears says whether this run may clear. Too many clears at once are staged for a person to approve; everything else
// goes on.
func (r *run) letClears(ctx context.Context, clears int) (bool, error) {
	totals, err := state.CountTotals(ctx, r.DB, r.Name)
	if err != nil {
		return false, err
	}
	if !r.Settings.Guard.Stages(clears, totals.Linked) {
		return true, nil
	}
	r.staged = clears
	return false, state.StageClears(ctx, r.DB, r.Name, r.id)
}

func (w *writer) lane(ctx context.Context, clears bool) error {
	for {
		claimed, err := state.Claim(ctx, w.DB, w.Name, w.owner, writeBatch, clears)
		if err != nil || len(claimed) == 0 {
			return err
		}
		if err := w.batch(ctx, claimed); err != nil {
			return err
		}
	}
}

// remains is what a batch's users came to that were not settled one by one.
type remains struct {
	mu       sync.Mutex
	failed   []state.Failure
	withdraw []state.Claimed
	holds    []state.Hold
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
			err := w.one(each, c, &rest, func() error { return w.tryUser(each, c, &rest) })
			w.progress(PhaseWrite, int(w.done.Add(1)), w.total)
			return err
		})
	}
	err := group.Wait()
	// What the others came to is stored even where one of them ended the run.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), gatherTimeout)
	defer cancel()
	return errors.Join(err, w.store(after, &rest))
}

func (w *writer) store(ctx context.Context, rest *remains) error {
	return state.InTx(ctx, w.DB, func(tx pgx.Tx) error {
		if len(rest.failed) > 0 {
			if err := state.Fail(ctx, tx, w.Name, rest.failed); err != nil {
				return err
			}
		}
		if len(rest.withdraw) == 0 {
			return nil
		}
		if err := state.StoreHolds(ctx, tx, w.Name, state.HeldUser, rest.holds, nil); err != nil {
			return err
		}
		users, fences := make([]int64, len(rest.withdraw)), make([]int64, len(rest.withdraw))
		for i, c := range rest.withdraw {
			users[i], fences[i] = c.UserID, c.Fence
		}
		return state.Withdraw(ctx, tx, w.Name, users, fences)
	})
}

// one does what is to be done for one user. The error is one that ends the run; what concerns only this user goes to rest.
func (w *writer) one(ctx context.Context, c state.Claimed, rest *remains, do func() error) error {
	err := do()
	var (
		signIn *bln.SignInError
		denied *PermissionError
	)
	switch {
	case err == nil:
		w.failures.Store(0)
		return nil
	case errors.Is(err, ErrHalted), errors.As(err, &signIn), errors.As(err, &denied), errors.Is(err, errDatabase), ctx.Err() != nil:
		return err
	}
	rest.mu.Lock()
	rest.failed = append(rest.failed, state.Failure{UserID: c.UserID, Fence: c.Fence, Problem: Storable(err.Error(), maxDetail), RetryAfter: retryAfter(c.Attempts)})
	rest.mu.Unlock()
	w.Log.Warn("a user could not be written and will be tried again", "bridge", w.Name, "user", c.UserID, "attempt", c.Attempts+1, "problem", err)
	if w.failures.Add(1) >= hopeless {
		return fmt.Errorf("%d users in a row could not be written, the last one: %w", hopeless, err)
	}
	return nil
}

// errDatabase marks a failure of our own database: without a journal nothing may be written.
var errDatabase = errors.New("the database")

// retryAfter grows from a moment to an hour.
func retryAfter(attempts int) time.Duration {
	switch attempts {
	case 0:
		return 2 * time.Second
	case 1:
		return 10 * time.Second
	case 2:
		return time.Minute
	}
	return time.Hour
}

func (r *remains) hold(c state.Claimed, reason Reason, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.withdraw = append(r.withdraw, c)
	r.holds = append(r.holds, state.Hold{Subject: strconv.FormatInt(c.UserID, 10), Reason: string(reason), Detail: Storable(detail, maxDetail), Content: c.ListedContent})
}

func (w *writer) tryUser(ctx context.Context, c state.Claimed, rest *remains) error {
	for try := 1; ; try++ {
		user, err := w.BLN.User(ctx, c.UserID)
		if isStatus(err, 404) {
			return database(state.MarkGone(ctx, w.DB, w.Name, c.UserID)) // merged or removed (BLN 645): its people are linked anew
		}
		if err != nil {
			return err
		}
		m, problem := w.merge(user, c)
		switch {
		case problem != "":
			rest.hold(c, Unwritable, problem)
			return nil
		case m.there:
			return database(w.settle.Do(state.Outcome{UserID: c.UserID, Fence: c.Fence, Applied: true, Version: c.Version, Digest: c.WantedDigest, Source: c.WantedSource}))
		case m.notOurs:
			rest.mu.Lock()
			rest.withdraw = append(rest.withdraw, c)
			rest.mu.Unlock()
			return nil
		}
		again, err := w.send(ctx, c, m, rest)
		if !again || try == tries {
			return err
		}
		if err := pause(ctx, time.Duration(try)*time.Second/2); err != nil {
			return err
		}
	}
}

// merged is a user's otherInfo before a write, and what the write is.
type merged struct {
	before  bln.OtherInfo
	send    bln.OtherInfo // the whole, or just our members where the server merges
	members []Member
	there   bool // what is wanted stands there already
	notOurs bool // to be cleared, but somebody else has changed it
}

// merge makes the write for one user as just read. A problem is why it cannot be written, for people to read.
func (r *run) merge(user bln.User, c state.Claimed) (m merged, problem string) {
	if user.OtherInfoErr != nil {
		return m, "its otherInfo cannot be read without loss: " + user.OtherInfoErr.Error()
	}
	layout := r.Settings.Layout
	m.before = user.OtherInfo
	seen := layout.Seen(m.before.Get)
	if bytes.Equal(seen, c.WantedDigest) {
		m.there = true
		return m, ""
	}
	var fragment Fragment
	if Action(c.Action) == Write {
		if err := json.Unmarshal(c.Wanted, &fragment); err != nil {
			return m, "what is wanted cannot be read: " + err.Error()
		}
	} else if !bytes.Equal(seen, c.AppliedDigest) {
		m.notOurs = true
		return m, ""
	}
	m.members = layout.Members(fragment, r.ours(m.before))
	whole := m.before
	var alone bln.OtherInfo
	for _, x := range m.members {
		whole, alone = whole.With(x.Key, x.Value), alone.With(x.Key, x.Value)
	}
	m.send = whole
	if r.Settings.MergingServer {
		m.send = alone
		if n := len(whole.Keys()); n > maxProperties {
			return m, fmt.Sprintf("it would have %d properties, over BLN's %d", n, maxProperties)
		}
	}
	if err := m.send.Validate(); err != nil {
		return m, err.Error()
	}
	return m, ""
}

// ours is what stands under our keys.
func (r *run) ours(o bln.OtherInfo) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for _, k := range r.Settings.Layout.Keys() {
		if v, ok := o.Get(k); ok {
			out[k] = v
		}
	}
	return out
}

// send journals, sends and verifies one write. again: it certainly did not arrive, or its outcome is unknown and nothing
// of it is to be seen; the user may be read and tried anew.
func (w *writer) send(ctx context.Context, c state.Claimed, m merged, rest *remains) (again bool, err error) {
	after := map[string]json.RawMessage{}
	for _, x := range m.members {
		after[x.Key] = x.Value
	}
	intent := &state.Intent{Run: w.id, UserID: c.UserID, Fence: c.Fence, Action: c.Action, Before: m.before.JSON(),
		BeforeFragment: encodeMembers(w.ours(m.before)), AfterFragment: encodeMembers(after)}
	if err := w.journal.Do(intent); err != nil {
		return false, database(err)
	}
	if intent.Entry == 0 {
		stored, err := state.GetBridge(ctx, w.DB, w.Name)
		if err != nil {
			return false, database(err)
		}
		return false, w.checkHalt(stored) // nil: another process has taken this user over
	}
	// From here on the work is finished whatever ends around it: a write that was sent must be seen to.
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), finish)
	defer cancel()
	if !w.alive() || ctx.Err() != nil {
		return false, errors.Join(ctx.Err(), w.close(work, intent.Entry, state.Unsent, "not sent: the process was stopping or had lost its lease"))
	}
	answer, putErr := w.BLN.UpdateOtherInfo(work, c.UserID, m.send)
	// A crash here leaves the entry open: the next process reads the user and compares it with the before-image.
	var refused *httpapi.Error
	if errors.As(putErr, &refused) && !refused.Unknown {
		return false, w.refused(work, c, intent, refused, rest)
	}
	if putErr == nil && w.shows(answer, c.WantedDigest) && len(w.damage(m.before, answer.OtherInfo)) == 0 {
		return false, w.verify(c, intent)
	}
	now, err := w.BLN.User(work, c.UserID)
	if err != nil {
		// Unsettled: the entry stays open and is looked into before this user is written again.
		return false, fmt.Errorf("read back after a write: %w", err)
	}
	landed := w.shows(now, c.WantedDigest)
	damage := w.damage(m.before, now.OtherInfo)
	if now.OtherInfoErr != nil {
		damage = []bln.Change{{Key: "otherInfo", Kind: bln.Changed}}
	}
	switch {
	case hasMissing(damage), len(damage) > 0 && (landed || putErr == nil):
		return false, w.restore(work, c.UserID, intent.Entry, m.before, now.OtherInfo, damage)
	case landed:
		return false, w.verify(c, intent)
	case putErr != nil:
		return true, errors.Join(putErr, w.close(work, intent.Entry, state.Unsent, "no answer, and nothing of it was to be seen"))
	default:
		return true, errors.Join(errors.New("BLN accepted the write but does not show it"), w.close(work, intent.Entry, state.Unsent, "accepted, but not to be seen"))
	}
}

func encodeMembers(m map[string]json.RawMessage) []byte {
	if len(m) == 0 {
		return nil
	}
	var o bln.OtherInfo
	for k, v := range m {
		o = o.With(k, v)
	}
	return o.JSON()
}

// database marks an error as one of our database.
func database(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errDatabase, err)
}

func (w *writer) close(ctx context.Context, entry int64, as, note string) error {
	return database(state.CloseEntry(ctx, w.DB, w.Name, entry, as, note))
}

func (w *writer) verify(c state.Claimed, in *state.Intent) error {
	w.verified.Add(1)
	return database(w.settle.Do(state.Outcome{UserID: c.UserID, Fence: c.Fence, Entry: in.Entry, State: state.Verified,
		Applied: true, Version: c.Version, Digest: c.WantedDigest, Source: c.WantedSource}))
}

// refused is what a write comes to that BLN has certainly not carried out.
func (w *writer) refused(ctx context.Context, c state.Claimed, in *state.Intent, e *httpapi.Error, rest *remains) error {
	if err := w.close(ctx, in.Entry, state.Unsent, fmt.Sprintf("refused with %d %s", e.Status, e.Code)); err != nil {
		return err
	}
	switch e.Status {
	case 400, 409, 413, 422:
		rest.hold(c, Unwritable, fmt.Sprintf("BLN refused it with %d %s", e.Status, e.Code))
		return nil
	case 403:
		if w.verified.Load() == 0 {
			return &PermissionError{Needs: "update the users of the organization"}
		}
	case 404:
		return database(state.MarkGone(ctx, w.DB, w.Name, c.UserID))
	}
	return e
}

func (r *run) shows(u bln.User, digest []byte) bool {
	return u.OtherInfoErr == nil && bytes.Equal(r.Settings.Layout.Seen(u.OtherInfo.Get), digest)
}

// damage lists the foreign keys that are missing or changed. A key that somebody added meanwhile is none.
func (r *run) damage(before, now bln.OtherInfo) []bln.Change {
	var out []bln.Change
	for _, ch := range before.Changes(now, r.Settings.Layout.Owns) {
		if ch.Kind != bln.Added {
			out = append(out, ch)
		}
	}
	return out
}

func hasMissing(cs []bln.Change) bool {
	for _, c := range cs {
		if c.Kind == bln.Missing {
			return true
		}
	}
	return false
}

// restore puts foreign keys back that a write has damaged, and halts the bridge. It returns a *HaltedError, or the
// database's error.
func (w *writer) restore(ctx context.Context, user, entry int64, before, now bln.OtherInfo, damage []bln.Change) error {
	body := before
	if w.Settings.MergingServer {
		body = bln.OtherInfo{}
		for _, ch := range damage {
			if v, ok := before.Get(ch.Key); ok {
				body = body.With(ch.Key, v)
			}
		}
	} else {
		for _, k := range now.Keys() { // what somebody else has added meanwhile
			if _, had := before.Get(k); !had && !w.Settings.Layout.Owns(k) {
				v, _ := now.Get(k)
				body = body.With(k, v)
			}
		}
	}
	keys := make([]string, len(damage))
	for i, ch := range damage {
		keys[i] = strconv.Quote(ch.Key) // it may hold what a log or Postgres would choke on
	}
	reason := fmt.Sprintf("BLN lost or changed what is not ours while user %d was written: %s.", user, strings.Join(keys, ", "))
	as := state.Damaged
	for range tries {
		if _, err := w.BLN.UpdateOtherInfo(ctx, user, body); err != nil {
			continue
		}
		if back, err := w.BLN.User(ctx, user); err == nil && back.OtherInfoErr == nil && len(w.damage(before, back.OtherInfo)) == 0 {
			as = state.Restored
			break
		}
	}
	if as == state.Restored {
		reason += " It was put back and checked."
	} else {
		reason += fmt.Sprintf(" It could NOT be put back; the whole otherInfo as it was is kept in journal entry %d.", entry)
	}
	// The halt first: a crash between the two must not let writing go on.
	if err := state.Halt(ctx, w.DB, w.Name, reason, w.id); err != nil {
		return database(err)
	}
	if err := w.close(ctx, entry, as, reason); err != nil {
		return err
	}
	w.Log.Error("halted: "+reason, "bridge", w.Name, "user", user, "run", w.id)
	return &HaltedError{Since: time.Now(), Reason: reason, Run: w.id}
}

// recover looks into writes whose outcome is not known, because a process died or lost touch on the way: it reads the
// user and compares it with the before-image.
func (w *writer) recover(ctx context.Context) error {
	for {
		open, err := state.ClaimOpen(ctx, w.DB, w.Name, w.owner, writeBatch)
		if err != nil || len(open) == 0 {
			return err
		}
		byUser := map[int64][]state.OpenEntry{}
		for _, e := range open {
			byUser[e.UserID] = append(byUser[e.UserID], e)
		}
		var rest remains
		group, each := errgroup.WithContext(ctx)
		group.SetLimit(max(w.Settings.Concurrency, 1))
		for user, entries := range byUser {
			group.Go(func() error {
				return w.one(each, state.Claimed{UserID: user, Fence: entries[0].Fence}, &rest, func() error { return w.lookInto(each, entries) })
			})
		}
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), gatherTimeout)
		err = errors.Join(group.Wait(), w.store(after, &rest))
		cancel()
		if err != nil {
			return err
		}
	}
}

// lookInto settles the open entries of one user, oldest first: the oldest before-image is from before any of them.
func (w *writer) lookInto(ctx context.Context, entries []state.OpenEntry) error {
	oldest := entries[0]
	before, err := bln.ParseOtherInfo(oldest.Before)
	if err != nil {
		return fmt.Errorf("before-image of journal entry %d: %w", oldest.Entry, err)
	}
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), finish)
	defer cancel()
	now, err := w.BLN.User(work, oldest.UserID)
	gone := isStatus(err, 404)
	if err == nil {
		err = now.OtherInfoErr
	}
	if err != nil && !gone {
		return fmt.Errorf("read a user with an unsettled write: %w", err)
	}
	landed := -1
	for i, e := range entries {
		sent, err := bln.ParseOtherInfo(e.AfterFragment)
		if err != nil {
			return fmt.Errorf("fragment of journal entry %d: %w", e.Entry, err)
		}
		if !gone && w.shows(now, w.Settings.Layout.Seen(sent.Get)) {
			landed = i
		}
	}
	if !gone {
		damage := w.damage(before, now.OtherInfo)
		if hasMissing(damage) || len(damage) > 0 && landed >= 0 {
			return w.restore(work, oldest.UserID, oldest.Entry, before, now.OtherInfo, damage)
		}
	}
	for i, e := range entries {
		as := state.Unsent
		if i == landed {
			as = state.Verified
		}
		if err := w.close(work, e.Entry, as, "looked into after its process had stopped"); err != nil {
			return err
		}
	}
	if gone {
		return database(state.MarkGone(work, w.DB, w.Name, oldest.UserID))
	}
	return database(state.Unclaim(work, w.DB, w.Name, oldest.UserID, oldest.Fence))
}

// foresee reads everyone that would be written, to tell who can be, and keeps the plan.
func (r *run) foresee(ctx context.Context) error {
	w := r.newWriter()
	pending, err := state.CountPending(ctx, r.DB, r.Name)
	if err != nil {
		return err
	}
	totals, err := state.CountTotals(ctx, r.DB, r.Name)
	if err != nil {
		return err
	}
	clears := !r.Settings.Guard.Stages(pending.Clears, totals.Linked)
	w.total = pending.Writes
	for after := int64(0); ; {
		users, err := state.PendingUsers(ctx, r.DB, r.Name, after, writeBatch)
		if err != nil || len(users) == 0 {
			return err
		}
		after = users[len(users)-1].UserID
		if err := w.foreseeBatch(ctx, users, clears); err != nil {
			return err
		}
	}
}

func (w *writer) foreseeBatch(ctx context.Context, users []state.Claimed, clears bool) error {
	var rest remains
	var mu sync.Mutex
	var steps []state.PlanStep
	group, each := errgroup.WithContext(ctx)
	group.SetLimit(max(w.Settings.Concurrency, 1))
	for _, c := range users {
		group.Go(func() error {
			user, err := w.BLN.User(each, c.UserID)
			if isStatus(err, 404) {
				return state.MarkGone(each, w.DB, w.Name, c.UserID)
			}
			if err != nil {
				return err
			}
			m, problem := w.merge(user, c)
			switch {
			case problem != "":
				rest.hold(c, Unwritable, problem)
			case m.there:
				return w.settle.Do(state.Outcome{UserID: c.UserID, Fence: c.Fence, Applied: true, Version: c.Version, Digest: c.WantedDigest, Source: c.WantedSource})
			case m.notOurs, Action(c.Action) == Clear && !clears:
			default:
				mu.Lock()
				steps = append(steps, state.PlanStep{UserID: c.UserID, Action: c.Action, Wanted: c.Wanted, Digest: c.WantedDigest})
				w.planned[Action(c.Action)]++
				mu.Unlock()
			}
			w.progress(PhaseRead, int(w.done.Add(1)), w.total)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := w.store(ctx, &rest); err != nil {
		return err
	}
	return state.StorePlanSteps(ctx, w.DB, w.Name, w.id, steps)
}
