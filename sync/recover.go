package sync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"namebridge/bln"
	"namebridge/state"
)

const (
	// restores is how often it is tried to put back what a write has damaged.
	restores = 4
	// restoreWithin is how old a write may be whose damage is put back. Of an older one that nobody looked into since, it
	// cannot be told from what people have changed: that is left to a person.
	restoreWithin = 15 * time.Minute
)

// restore halts the bridge, and puts foreign keys back that a write has damaged unless it is too late to tell who changed
// them. It returns a *HaltedError, or the database's error with it.
func (w *writer) restore(e state.OpenEntry, before bln.OtherInfo, now bln.User, damage []bln.Change, late bool) error {
	w.stopped.Store(true)
	read := time.Now()
	reason := fmt.Sprintf("BLN lost or changed what is not ours while user %d was written: %s.", e.UserID, keyNames(damage))
	ctx, cancel := context.WithTimeout(w.over, finish)
	defer cancel()
	// The halt first: neither another process's writes nor a crash must come before it. Where the database is away, the
	// person comes first.
	first, end := context.WithTimeout(ctx, gatherTimeout/3)
	haltErr := state.Halt(first, w.DB, w.Name, reason, e.Run)
	end()
	// The reason of the first halt stays: what is added to it says of whom and what.
	who := fmt.Sprintf("User %d (%s)", e.UserID, keyNames(damage))
	as, became := state.Damaged, fmt.Sprintf("%s could NOT be put back; the whole otherInfo as it was is kept in journal entry %d.", who, e.Entry)
	switch {
	case late:
		became = fmt.Sprintf("%s was not put back, since it may be people who changed it since; the whole otherInfo as it was is kept in journal entry %d.", who, e.Entry)
	case w.putBack(ctx, e.UserID, before, now, read, damage):
		as, became = state.Restored, who+" was put back and checked."
	}
	w.Log.Error("halted", "reason", reason+" "+became, "bridge", w.Name, "user", e.UserID, "run", e.Run)
	halted := &HaltedError{Since: time.Now(), Reason: reason + " " + became, Run: e.Run}
	if w.over.Err() != nil {
		return errors.Join(halted, haltErr) // the entry stays open: whoever takes over puts back what is left to put back
	}
	last, end := context.WithTimeout(w.over, gatherTimeout)
	defer end()
	err := state.InTx(last, w.DB, func(tx pgx.Tx) error {
		if haltErr != nil {
			if err := state.Halt(last, tx, w.Name, reason, e.Run); err != nil {
				return err
			}
		}
		return state.CloseDamage(last, tx, w.Name, e.Entry, as, became)
	})
	if err != nil {
		return errors.Join(halted, database(err))
	}
	w.Metrics.Written(w.Name, e.Action, as)
	return halted
}

// putBack writes foreign keys as they were, until a fresh read shows them.
func (w *writer) putBack(ctx context.Context, user int64, before bln.OtherInfo, now bln.User, read time.Time, damage []bln.Change) bool {
	seen := true // now is what stands there since the last write
	for try, waits := 0, 0; try < restores && waits < rereads; {
		if try > 0 && pause(ctx, 100*time.Millisecond<<try) != nil {
			return false
		}
		var err error
		if seen {
			// Whether it arrived or not is for the read to tell.
			_, err = w.BLN.UpdateOtherInfo(ctx, user, w.mended(before, now, damage), read)
		}
		if heldUp(err) {
			waits++
		} else {
			try++
		}
		u, err := w.BLN.User(ctx, user)
		if seen = err == nil && !w.silent(before, u); !seen {
			continue
		}
		read = time.Now()
		now, damage = u, w.damage(before, u)
		if len(damage) == 0 {
			return true
		}
	}
	return false
}

// mended is what to send to put the damaged keys back: what else people have changed since stays.
func (w *writer) mended(before bln.OtherInfo, now bln.User, damage []bln.Change) bln.OtherInfo {
	body := before
	switch {
	case now.OtherInfoErr != nil: // nothing of it can be kept
	case w.Settings.MergingServer:
		body = bln.OtherInfo{}
		for _, ch := range damage {
			if v, ok := before.Get(ch.Key); ok {
				body = body.With(ch.Key, v)
			}
		}
	default:
		for _, k := range now.OtherInfo.Keys() {
			if _, had := before.Get(k); !had && !w.Settings.Layout.Owns(k) {
				v, _ := now.OtherInfo.Get(k)
				body = body.With(k, v)
			}
		}
	}
	return body
}

// keyNames lists keys for people to read: neither what Postgres or a terminal chokes on, nor what may be an address.
func keyNames(changes []bln.Change) string {
	names := make([]string, 0, len(changes))
	for i, ch := range changes {
		if i == 10 {
			names = append(names, fmt.Sprintf("and %d more", len(changes)-i))
			break
		}
		name := []rune(strings.ToValidUTF8(ch.Key, "\uFFFD"))
		switch {
		case strings.Contains(ch.Key, "@"):
			name = []rune("…")
		case len(name) > 64:
			name = append(name[:64], '…')
		}
		names = append(names, strconv.Quote(string(name)))
	}
	return strings.Join(names, ", ")
}

// recover looks into writes whose outcome is not known, because a process died or lost touch on the way: it reads the
// user and compares it with the before-image.
func (w *writer) recover(ctx context.Context) error {
	for {
		w.claiming.RLock()
		open, err := state.ClaimOpen(ctx, w.DB, w.Name, w.owner, writeBatch)
		for _, e := range open {
			w.held.Store(claim{e.UserID, e.Fence}, nil)
		}
		w.claiming.RUnlock()
		if err != nil {
			w.unreleased.Store(true) // it may have been carried out all the same
		}
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
				return w.one(each, state.Claimed{UserID: user, Fence: entries[0].Fence, Attempts: entries[0].Attempts}, &rest, func() error { return w.lookInto(each, entries, &rest) })
			})
		}
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), gatherTimeout)
		err = errors.Join(group.Wait(), w.store(after, &rest))
		if len(rest.tried) > 0 {
			err = errors.Join(err, w.attribute(after, rest.tried))
		}
		cancel()
		for _, e := range open {
			w.looked = append(w.looked, claim{e.UserID, e.Fence})
		}
		if err != nil {
			return err
		}
	}
}

// arrivesWithin is how long after it was sent a write may still arrive: gateways and the servers behind them give a request up sooner.
const arrivesWithin = 2 * time.Minute

// lookInto settles the open entries of one user, oldest first. Where nothing of them is to be seen though they may still arrive,
// what is wanted is written with an eye on them: nobody waits for that.
func (w *writer) lookInto(ctx context.Context, entries []state.OpenEntry, rest *remains) error {
	open := make([]openWrite, len(entries))
	for i, e := range entries {
		before, err := bln.ParseOtherInfo(e.Before)
		if err != nil {
			return fmt.Errorf("before-image of journal entry %d: %w", e.Entry, err)
		}
		after, err := bln.ParseOtherInfo(e.AfterFragment)
		if err != nil {
			return fmt.Errorf("fragment of journal entry %d: %w", e.Entry, err)
		}
		open[i] = openWrite{OpenEntry: e, before: before, digest: w.Settings.Layout.Seen(after.Get)}
	}
	oldest := open[0]
	now, err := w.readBack(ctx, oldest.UserID, func(u bln.User) bool {
		shown := slices.ContainsFunc(open, func(o openWrite) bool { return w.shows(u, o.digest) })
		return shown || len(w.damage(oldest.before, u)) > 0 || oldest.Age > arrivesWithin
	})
	const note = "looked into after its process had stopped"
	work, cancel := context.WithTimeout(w.over, finish)
	defer cancel()
	switch {
	case isGone(err):
		return errors.Join(w.closeAll(open, note), w.markGone(work, oldest.UserID))
	case err != nil:
		return fmt.Errorf("read a user with an unsettled write: %w", err)
	}
	if w.silent(oldest.before, now) {
		if oldest.Age > restoreWithin { // it does not pass: a person is to see what is there
			return w.restore(oldest.OpenEntry, oldest.before, now, oldest.before.Changes(bln.OtherInfo{}, w.Settings.Layout.Owns), true)
		}
		return errSilent
	}
	if done, err := w.settleSeen(open, now, note); done || err != nil {
		return err
	}
	young := slices.IndexFunc(open, func(o openWrite) bool { return o.Age <= arrivesWithin })
	if young < 0 {
		return errors.Join(w.closeAll(open, note), database(state.Unclaim(work, w.DB, w.Name, oldest.UserID, oldest.Fence)))
	}
	if err := w.closeAll(open[:young], note); err != nil {
		return err
	}
	open = open[young:]
	c, wanted, err := state.ClaimedWish(work, w.DB, w.Name, oldest.UserID, oldest.Fence)
	if err != nil {
		return database(err)
	}
	if !wanted { // looked at again when it is not expected any more
		rest.mu.Lock()
		defer rest.mu.Unlock()
		rest.failed = append(rest.failed, state.Failure{
			UserID: oldest.UserID, Fence: oldest.Fence, Problem: "a write of it may still arrive",
			RetryAfter: arrivesWithin - open[len(open)-1].Age + time.Second,
		})
		return nil
	}
	rest.mu.Lock()
	rest.tried = append(rest.tried, c)
	rest.mu.Unlock()
	return w.tryUser(ctx, c, rest, open)
}
