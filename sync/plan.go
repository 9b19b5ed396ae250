package sync

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
)

// Action is what a step does to a user.
type Action string

// The actions: write the fragment, or set it to null.
const (
	Write Action = "write"
	Clear Action = "clear"
)

// UserState is what is known of one directory user when a plan is made.
type UserState struct {
	UserID        int64
	Linked        bool
	Participants  []Participant // all that are linked to this user
	Seen          []byte        // what stands in BLN under our keys, as Layout.Seen tells it
	Applied       []byte        // digest of what we last wrote and verified; nil: never, or cleared
	AppliedSource string        // the participant it was made from
	SourceMoved   bool          // that participant is linked to another user now, or counts no more: replaced, or gone as censuses have confirmed
	Held          Reason        // set where the user is held for a reason that planning cannot judge (unwritable, reverted)
}

// Step is one user to be written or cleared.
type Step struct {
	UserID   int64
	Action   Action
	Fragment Fragment // nil for Clear
	Digest   []byte
	Source   string // the participant that speaks
}

// Hold is one user that is not written.
type Hold struct {
	UserID int64
	Reason Reason
	Detail string
}

// Plan is what should happen, as data, in order of user id. Each user stands in one of its lists, but for one that is
// held as refused and shows somebody else's voice: that is cleared beside the hold.
type Plan struct {
	Steps     []Step
	Unchanged []Step // the right fragment is there already
	Holds     []Hold
	Nothing   []int64 // linked to nobody who has a badge or recording, and nothing of ours is there
}

// Compute plans for users, each on its own: the same plan, in the same order, for the same users in any order.
func Compute(users []UserState, layout Layout, events []string) Plan {
	var p Plan
	users = slices.Clone(users)
	slices.SortFunc(users, func(a, b UserState) int {
		return cmp.Compare(a.UserID, b.UserID)
	})
	for _, u := range users {
		p.add(u, layout, events)
	}
	return p
}

func (p *Plan) add(u UserState, layout Layout, events []string) {
	// What somebody else has put there since is not ours to clear.
	ours := u.Applied != nil && bytes.Equal(u.Seen, u.Applied)
	remove := Step{UserID: u.UserID, Action: Clear, Source: u.AppliedSource}
	chosen, ok := Choose(u.Participants, events)
	wanted := ok || ours && u.SourceMoved
	if u.Held != "" && (wanted || u.Held != Unwritable) { // nobody need write whom nothing is wanted of
		p.Holds = append(p.Holds, Hold{UserID: u.UserID, Reason: u.Held})
		return
	}
	if !ok {
		// A participant that vanished is no evidence; one that belongs to someone else, or counts no more, is: its voice must not stay here.
		if wanted {
			p.Steps = append(p.Steps, remove)
		} else {
			p.Nothing = append(p.Nothing, u.UserID)
		}
		return
	}
	fragment, err := layout.Build(chosen)
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		p.Holds = append(p.Holds, Hold{UserID: u.UserID, Reason: Refused, Detail: refusal.Error()})
		if ours && u.SourceMoved { // a bad link of one is no reason to keep the voice of another
			p.Steps = append(p.Steps, remove)
		}
		return
	}
	step := Step{UserID: u.UserID, Action: Write, Fragment: fragment, Digest: fragment.Digest(), Source: chosen.ID}
	if bytes.Equal(step.Digest, u.Seen) {
		p.Unchanged = append(p.Unchanged, step)
		return
	}
	p.Steps = append(p.Steps, step)
}
