package sync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

// decideBatch is how many users are decided on in one transaction.
const decideBatch = 500

// recheckUnwritable is how long a user who could not be written is left alone while the list shows no change of it. A
// little under a day, so that a daily sweep looks again, and a run right after another reads nobody.
const recheckUnwritable = 20 * time.Hour

// decideNext is one unit of work: it compares the next users of the run, everyone who is linked or those to whom something
// happened, with what should be there, and queues jobs for those that differ.
func (r *run) decideNext(ctx context.Context) (verdict, error) {
	var after int64
	if err := r.place(&after); err != nil {
		return more, err
	}
	wish, err := r.wish(ctx)
	if err != nil {
		return more, err
	}
	p := r.done()
	var users []state.DueUser
	err = r.commit(ctx, func(tx pgx.Tx) (to reached, err error) {
		if users, err = r.decideSome(ctx, tx, after, r.dueOnly(), wish); err != nil || len(users) == 0 {
			return to, err
		}
		return reached{users[len(users)-1].UserID, &progress{Done: p.Done + len(users)}}, nil
	})
	if err != nil || len(users) == 0 {
		return next, err
	}
	return more, nil
}

// wish is what the run's decisions are stored as.
func (r *run) wish(ctx context.Context) (state.Wish, error) {
	w := state.Wish{Run: r.id(), Urgency: r.row.Priority}
	switch r.row.Kind {
	case state.Plan:
		w.Urgency = state.Planned
	case state.Collect:
		walk, err := state.GetCursor(ctx, r.DB, r.Name, r.id().String())
		if err == nil {
			end := walk.Until.Add(r.Settings.Settle)
			w.Window = &end
		} else if !errors.Is(err, state.ErrNotFound) { // a run that collects nothing
			return w, err
		}
	}
	return w, nil
}

// decideDue decides on those to whom something happened, outside of a run's own phase.
func (r *run) decideDue(ctx context.Context, wish state.Wish) error {
	for after := int64(0); ; {
		var users []state.DueUser
		err := state.InTx(ctx, r.DB, func(tx pgx.Tx) (err error) {
			users, err = r.decideSome(ctx, tx, after, true, wish)
			return err
		})
		if err != nil || len(users) == 0 {
			return err
		}
		after = users[len(users)-1].UserID // not before the commit: a transaction may be made twice
	}
}

// decideSome decides on the next users after the given one.
func (r *run) decideSome(ctx context.Context, tx pgx.Tx, after int64, dueOnly bool, wish state.Wish) ([]state.DueUser, error) {
	users, err := state.NextUsers(ctx, tx, r.Name, after, decideBatch, dueOnly)
	if err != nil || len(users) == 0 {
		return nil, err
	}
	stored, err := state.GetBridge(ctx, tx, r.Name)
	if err != nil {
		return nil, err
	}
	pending, err := r.decide(ctx, tx, users, stored.RowsCarryFragment == nil || *stored.RowsCarryFragment, wish)
	if err != nil {
		return nil, err
	}
	return users, queueWriters(ctx, r.queue, tx, r.Bridge, wish.Urgency, pending)
}

// decide plans for users and stores what is wanted of each. It says how many are pending by that.
func (r *run) decide(ctx context.Context, tx pgx.Tx, users []state.DueUser, trustRows bool, wish state.Wish) (pending int, err error) {
	ids := make([]int64, len(users))
	byID := make(map[int64]*UserState, len(users))
	states := make([]UserState, len(users))
	for i, u := range users {
		ids[i] = u.UserID
		states[i] = UserState{UserID: u.UserID, Applied: u.AppliedDigest, AppliedSource: string(u.AppliedSource), SourceMoved: u.SourceMoved, Seen: u.ListedFragment}
		if !trustRows && u.ListedFragment == nil {
			states[i].Seen = u.AppliedDigest
		}
		if keepsHold(u, time.Now()) {
			states[i].Held = Reason(u.HeldReason)
		}
		byID[u.UserID] = &states[i]
	}
	linked, err := state.ParticipantsOf(ctx, tx, r.Name, ids)
	if err != nil {
		return 0, err
	}
	for _, l := range linked {
		u := byID[l.UserID]
		u.Linked = true
		u.Participants = append(u.Participants, Participant{
			ID: string(l.ID), EventAccessCode: l.EventAccessCode, EventTitle: l.EventTitle, InstitutionID: l.InstitutionID,
			NameBadgeLink: l.NameBadgeLink, RecordingLink: l.RecordingLink, RecordingID: l.RecordingID, RecordingDate: l.RecordingDate,
			Attributes: l.Attributes,
		})
	}
	plan := Compute(states, r.Settings.Layout, r.Settings.Events)
	wanted, err := wantedOf(plan)
	if err != nil {
		return 0, err
	}
	// Most users of a sweep are as they were: their rows are left alone.
	was := make(map[int64]state.DueUser, len(users))
	for _, u := range users {
		was[u.UserID] = u
	}
	wanted = slices.DeleteFunc(wanted, func(w state.Wanted) bool { return decidedBefore(was[w.UserID], w) })
	if pending, err = state.StoreWanted(ctx, tx, r.Name, wish, wanted); err != nil {
		return 0, err
	}
	var holds []state.Hold
	held, tried := map[int64]bool{}, map[int64]bool{}
	for _, s := range plan.Steps {
		tried[s.UserID] = true
	}
	for _, h := range plan.Holds {
		held[h.UserID] = true
		if h.Reason == Refused {
			holds = append(holds, state.Hold{Subject: fmt.Sprint(h.UserID), Reason: string(h.Reason), Detail: h.Detail})
		}
	}
	var lifted []string
	for _, u := range users {
		// An unwritable user that is to be tried again stays in the list until the try has an outcome.
		if !held[u.UserID] && u.HeldReason != "" && (Reason(u.HeldReason) != Unwritable || !tried[u.UserID]) {
			lifted = append(lifted, fmt.Sprint(u.UserID))
		}
	}
	return pending, state.StoreHolds(ctx, tx, r.Name, state.HeldUser, holds, lifted)
}

// decidedBefore says whether w is what the user's row says already.
func decidedBefore(u state.DueUser, w state.Wanted) bool {
	switch {
	case u.Due, u.Pending, u.Action != w.Action:
		return false
	case w.Action == "":
		return true
	}
	return w.There && bytes.Equal(u.WantedDigest, w.Digest) && bytes.Equal(u.AppliedDigest, w.Digest) && bytes.Equal(u.AppliedSource, w.Source)
}

// keepsHold says whether a hold of a user outlives this decision: one that a person must lift, or one of a user that
// could not be written and has not changed since.
func keepsHold(u state.DueUser, now time.Time) bool {
	switch Reason(u.HeldReason) {
	case Reverted:
		return true
	case Unwritable:
		return u.HeldChecked != nil && now.Sub(*u.HeldChecked) < recheckUnwritable && string(u.HeldContent) == string(u.ListedContent)
	}
	return false
}

// wantedOf turns a plan into what is stored for each of its users.
func wantedOf(p Plan) ([]state.Wanted, error) {
	var out []state.Wanted
	add := func(s Step, there bool) error {
		w := state.Wanted{UserID: s.UserID, Action: string(s.Action), Digest: s.Digest, Source: []byte(s.Source), There: there}
		if s.Fragment != nil {
			raw, err := json.Marshal(s.Fragment)
			if err != nil {
				return fmt.Errorf("plan for user %d: %w", s.UserID, err)
			}
			w.Value = raw
		}
		out = append(out, w)
		return nil
	}
	var failed error
	stepped := map[int64]bool{}
	for _, s := range p.Steps {
		stepped[s.UserID] = true
		failed = errors.Join(failed, add(s, false))
	}
	for _, s := range p.Unchanged {
		failed = errors.Join(failed, add(s, true))
	}
	for _, h := range p.Holds {
		if !stepped[h.UserID] {
			out = append(out, state.Wanted{UserID: h.UserID})
		}
	}
	for _, id := range p.Nothing {
		out = append(out, state.Wanted{UserID: id})
	}
	return out, failed
}
