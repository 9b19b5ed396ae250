package simulator

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// ChangeKind is what happens in a Change. It reads well after a person's name.
type ChangeKind string

// What people, administrators and other applications do while a bridge runs.
const (
	RecordsAnew         ChangeKind = "records anew" // a new recording id, link and date
	RecordsFirst        ChangeKind = "records for the first time"
	RemovesRecording    ChangeKind = "removes the recording" // and keeps the badge
	JoinsNameCoach      ChangeKind = "is added to NameCoach" // a row for a user whom BLN has
	JoinsBLN            ChangeKind = "is added to BLN"       // a user for a person whom NameCoach has
	LeavesNameCoach     ChangeKind = "is deleted from NameCoach"
	CorrectsAddress     ChangeKind = "gets a corrected address" // the same row: of another person now, or found by its institution id
	LeavesBLN           ChangeKind = "is deleted from BLN"
	Merges              ChangeKind = "gets a second account merged in" // whose user id is gone then
	ChangesExternalID   ChangeKind = "gets another external id"
	OtherAppWrites      ChangeKind = "is edited by another application" // a foreign key of otherInfo is added, changed or removed
	FragmentOverwritten ChangeKind = "has the fragment overwritten"     // by somebody who is not the bridge
	FragmentRemoved     ChangeKind = "has the fragment removed"
)

// Weights say how likely each kind of change is beside the others; what is not in them does not happen.
type Weights map[ChangeKind]int

// EveryKind are weights under which everything happens, and the frequent things often.
func EveryKind() Weights {
	return Weights{
		RecordsAnew: 30, RecordsFirst: 12, RemovesRecording: 6, JoinsNameCoach: 10, JoinsBLN: 6, LeavesNameCoach: 3, CorrectsAddress: 4, LeavesBLN: 2,
		Merges: 1, ChangesExternalID: 3, OtherAppWrites: 18, FragmentOverwritten: 2, FragmentRemoved: 3,
	}
}

// Without are the weights without those kinds.
func (w Weights) Without(kinds ...ChangeKind) Weights {
	kept := maps.Clone(w)
	for _, k := range kinds {
		delete(kept, k)
	}
	return kept
}

// Change is one thing that happened.
type Change struct {
	Number       int // from 1
	Kind         ChangeKind
	At           time.Time // on the clock of the server where it happened
	Name         string    // of the person, fit for a terminal
	User         int64     // the directory user whom it is about, 0 = none; of two accounts the one that stays
	Gone         int64     // the user id that is no more
	Participants []int64   // the rows that it is about
	Key          string    // of otherInfo, which another application has written
	Users        []int64   // for whom something is to be written or cleared since, deletions noticed: whom to wait for, by Mismatch
}

func (c Change) String() string {
	text := fmt.Sprintf("%s %s", cmp.Or(c.Name, "somebody"), c.Kind)
	if c.Key != "" {
		text += ": " + c.Key
	}
	if c.User != 0 {
		text += fmt.Sprintf(" · user %d", c.User)
	}
	if c.Gone != 0 && c.Gone != c.User {
		text += fmt.Sprintf(", was %d", c.Gone)
	}
	if len(c.Participants) > 0 {
		text += " · participant " + strings.Trim(fmt.Sprint(c.Participants), "[]")
	}
	return text
}

// LifeOptions say what a Life is like.
type LifeOptions struct {
	Seed    uint64  // the same seed and the same world give the same changes, whatever a bridge writes meanwhile
	Weights Weights // nil = EveryKind
	// Avoid is how long others leave the otherInfo of a user alone after a GET or PUT of it. BLN has no versions, so what they write between
	// a bridge's GET and its PUT is lost, and nobody can help it; with Avoid longer than a bridge takes between the two, none is lost.
	// Whom they take instead depends on the bridge.
	Avoid time.Duration
}

// Life changes a world, one thing at a time, and keeps its truth right: whose rows are, what was right before, and what foreign keys there
// should be. It goes by the default rules (external id, then address) for the people whom a change is about, also where a test has decreed
// otherwise. No call waits for anything, and nothing happens between calls.
//
// It keeps to what a bridge can find out. Rows that changed since Settled, and rows beside which another of the same event could be taken
// for their successor, are not deleted; and of rows whose address was corrected since Settled the recording is not removed, nor the other way
// round: a row that says less is no successor.
type Life struct {
	mu      sync.Mutex
	s       *Simulator
	w       *world
	g       *generator // makes names, keys and links as it did in the beginning
	seed    uint64
	weights Weights
	avoid   time.Duration
	n       int
	touched map[int64]bool // rows that changed since Settled
	moved   map[int64]bool // those of them whose address was corrected

	// of the change at hand
	o       *Options
	r       *rand.Rand
	watched map[int64]watch
	order   []int64 // of watched
}

// watch is what was right for a user before a change.
type watch struct {
	UserTruth
	speaks *Participant
}

// Life begins with the world as it is.
func (s *Simulator) Life(o LifeOptions) *Life {
	if o.Weights == nil {
		o.Weights = EveryKind()
	}
	s.world.mu.Lock()
	s.world.tied()
	s.world.mu.Unlock()
	l := &Life{s: s, w: s.world, seed: o.Seed, weights: o.Weights, avoid: o.Avoid, touched: map[int64]bool{}, moved: map[int64]bool{}}
	l.g = &generator{w: s.world, taken: map[string]bool{}, edges: map[Kind]int{}, events: s.Events()}
	if len(l.g.events) == 0 {
		l.g.events = []Event{{Title: "Staff", Slug: "staff", AccessCode: "5TAFF", Code: "F00D"}}
	}
	return l
}

// Next makes one change, of a kind drawn by weight. It is false where none of them is possible.
func (l *Life) Next() (Change, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.o = l.s.options()
	l.g.o = l.o
	// Dice of its own for each change: how often one of them was thrown in vain must not matter to the next.
	l.r = rand.New(rand.NewPCG(l.seed, uint64(l.n)))
	l.g.r = l.r
	possible := maps.Clone(l.weights)
	for {
		kind := l.draw(possible)
		if kind == "" {
			return Change{}, false
		}
		l.watched, l.order = map[int64]watch{}, nil
		c := Change{Number: l.n + 1, Kind: kind, At: l.o.nameCoachNow()}
		if does[kind](l, &c) {
			l.n++
			l.conclude(&c)
			return c, true
		}
		delete(possible, kind)
	}
}

// Changes makes n changes, or as many as are possible.
func (l *Life) Changes(n int) []Change {
	var all []Change
	for range n {
		c, ok := l.Next()
		if !ok {
			break
		}
		all = append(all, c)
	}
	return all
}

// Settled says that the bridge has carried everything over so far: what was right before no longer excuses anybody who is right now.
func (l *Life) Settled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	clear(l.touched)
	clear(l.moved)
	o := l.s.options()
	maps.DeleteFunc(l.w.past, func(id int64, _ *past) bool {
		a := l.w.users[id]
		if a == nil {
			return true
		}
		u, _ := a.truth(rowsNow(l.w.tied().byUser[id]))
		return a.shows(o, u.Fragment)
	})
}

var kinds = []ChangeKind{
	RecordsAnew, RecordsFirst, RemovesRecording, JoinsNameCoach, JoinsBLN, LeavesNameCoach, CorrectsAddress, LeavesBLN, Merges, ChangesExternalID,
	OtherAppWrites, FragmentOverwritten, FragmentRemoved,
}

var does = map[ChangeKind]func(*Life, *Change) bool{
	RecordsAnew: (*Life).recordsAnew, RecordsFirst: (*Life).recordsFirst, RemovesRecording: (*Life).removesRecording,
	JoinsNameCoach: (*Life).joinsNameCoach, JoinsBLN: (*Life).joinsBLN, LeavesNameCoach: (*Life).leavesNameCoach,
	CorrectsAddress: (*Life).correctsAddress, LeavesBLN: (*Life).leavesBLN, Merges: (*Life).merges, ChangesExternalID: (*Life).changesExternalID,
	OtherAppWrites: (*Life).otherAppWrites, FragmentOverwritten: (*Life).fragmentOverwritten, FragmentRemoved: (*Life).fragmentRemoved,
}

func (l *Life) draw(weights Weights) ChangeKind {
	sum := 0
	for _, k := range kinds {
		sum += max(weights[k], 0)
	}
	if sum == 0 {
		return ""
	}
	at := l.r.IntN(sum)
	for _, k := range kinds {
		if at -= max(weights[k], 0); at < 0 {
			return k
		}
	}
	return ""
}

// anyOf is any id below n that will do, -1 where none does.
func (l *Life) anyOf(n int64, do func(id int64) bool) int64 {
	for range 64 {
		if id := l.r.Int64N(n); do(id) {
			return id
		}
	}
	from := l.r.Int64N(n)
	for i := range n {
		if id := (from + i) % n; do(id) {
			return id
		}
	}
	return -1
}

func (l *Life) anyRow(ok func(*Participant) bool) *listed {
	return l.w.participants[l.anyOf(l.w.nextPart, func(id int64) bool {
		p := l.w.participants[id]
		return p != nil && ok(p.now)
	})]
}

func (l *Life) anyUser(ok func(*account) bool) *account {
	return l.w.users[l.anyOf(l.w.nextUser, func(id int64) bool {
		a := l.w.users[id]
		return a != nil && ok(a)
	})]
}

// whole users have no row that was deleted: what becomes of them does not depend on who has noticed.
func (l *Life) whole(a *account) bool { return len(l.w.deleted[a.id]) == 0 }

// undisturbed users have not been read or written for a while.
func (l *Life) undisturbed(a *account) bool {
	if l.avoid <= 0 {
		return true
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	at, visited := l.s.visited[a.id]
	return !visited || l.o.Now().Sub(at) >= l.avoid
}

// watch remembers what is right for a user before a change.
func (l *Life) watch(id int64) {
	a := l.w.users[id]
	if _, watched := l.watched[id]; a == nil || watched {
		return
	}
	u, speaks := a.truth(rowsNow(l.w.ties.byUser[id]))
	l.watched[id] = watch{u, speaks}
	l.order = append(l.order, id)
}

// relink says anew whose the rows of these people are.
func (l *Life) relink(people ...string) {
	type verdict struct {
		p    *listed
		user int64
		held string
	}
	var all []verdict
	slices.Sort(people)
	for _, person := range slices.Compact(people) {
		rows := l.w.ties.byPerson[person]
		user, held := l.w.whose(rowsNow(rows))
		for _, p := range rows {
			if p.now.For != user || p.now.Held != held {
				all = append(all, verdict{p, user, held})
				l.watch(p.now.For)
				l.watch(user)
			}
		}
	}
	for _, v := range all {
		l.touched[v.p.now.ID] = true
		l.w.decree(v.p, v.user, v.held)
	}
}

// conclude compares what is right now with what was.
func (l *Life) conclude(c *Change) {
	for _, id := range l.order {
		a, was := l.w.users[id], l.watched[id]
		if a == nil {
			continue
		}
		rows := rowsNow(l.w.ties.byUser[id])
		now, _ := a.truth(rows)
		p := l.w.past[id]
		if p != nil && now.Fragment != nil {
			p.unclear = false
		}
		if len(rows) > 1 { // each of them speaks to a bridge that does not know the others yet: windows bring them one after the other, some late
			p = l.w.pastOf(id)
			for _, row := range rows {
				if linkRefusal(row.NameBadgeLink) == "" && linkRefusal(row.RecordingLink) == "" {
					p.former = append(p.former, row.fragment())
				}
			}
		}
		if was.Fragment.same(now.Fragment) {
			continue
		}
		if !slices.Contains(c.Users, id) {
			c.Users = append(c.Users, id)
		}
		if was.Fragment == nil {
			continue
		}
		p = l.w.pastOf(id)
		p.former = append(p.former, was.Fragment)
		switch c.Kind {
		case JoinsBLN, LeavesBLN, Merges, ChangesExternalID:
			row := l.w.participants[was.speaks.ID]
			p.unclear = now.Fragment == nil && row != nil && row.now.For == 0
		}
	}
}

func (w *world) pastOf(id int64) *past {
	if w.past[id] == nil {
		w.past[id] = &past{}
	}
	return w.past[id]
}

// same reports whether two fragments say the same; nil says nothing.
func (f *Fragment) same(other *Fragment) bool {
	if f == nil || other == nil {
		return f == other
	}
	return f.JSON() == other.JSON()
}
