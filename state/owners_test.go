package state_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"namebridge/state"
)

// world is what is true of a few users while two processes write them: what the rules want, and what stands in BLN.
type world struct {
	db       *pgxpool.Pool
	bridge   string
	users    []int64
	wanted   map[int64]state.Wanted // the last decision
	done     map[int64]bool         // that was settled: applied, there, or nothing to be done for now
	stands   map[int64][]byte       // what BLN shows
	known    map[int64][]byte       // the same, as far as a process has told
	told     map[int64][]byte       // what was known at the last decision
	fence    map[int64]int64        // the newest
	claimant map[int64]*process     // who has the newest; nil: given back
	owners   []*process
}

// process is one of those who write.
type process struct {
	owner  uuid.UUID
	silent bool
	has    map[int64]*holding // what it believes to have claimed
}

// holding is a claim as its process knows it.
type holding struct {
	state.Claimed
	entry int64 // journalled, and sent
}

// intent is the write that its process is about to send.
func (h *holding) intent() *state.Intent {
	return &state.Intent{
		Run: uuid.New(), UserID: h.UserID, Fence: h.Fence, Action: h.Action, Version: h.Version, Source: h.WantedSource, Before: []byte(`{}`), AfterFragment: h.WantedDigest,
	}
}

// ask fails the check for an error.
func (w *world) ask(rt *rapid.T, what string, err error) {
	if err != nil {
		rt.Fatalf("%s: %v", what, err)
	}
}

// decide stores what the rules say about a user, by what is known.
func (w *world) decide(rt *rapid.T, urgency int16, wanted state.Wanted) {
	wanted.There = wanted.Action != "" && bytes.Equal(w.known[wanted.UserID], wanted.Digest)
	_, err := state.StoreWanted(rt.Context(), w.db, w.bridge, state.Wish{Run: uuid.New(), Urgency: urgency}, []state.Wanted{wanted})
	w.ask(rt, "decide", err)
	w.wanted[wanted.UserID], w.done[wanted.UserID] = wanted, wanted.There || wanted.Action == ""
	w.told[wanted.UserID] = w.known[wanted.UserID]
}

// took notes that a process was given a user, which nobody who lives may have.
func (w *world) took(rt *rapid.T, p *process, c state.Claimed) {
	if other := w.claimant[c.UserID]; other != nil && !other.silent {
		rt.Fatalf("user %d was given to two who live", c.UserID)
	}
	if c.Fence <= w.fence[c.UserID] {
		rt.Fatalf("user %d: fence %d after %d", c.UserID, c.Fence, w.fence[c.UserID])
	}
	w.fence[c.UserID], w.claimant[c.UserID] = c.Fence, p
	p.has[c.UserID] = &holding{Claimed: c}
}

// gave notes that a process has given a user back, if it was its own.
func (w *world) gave(p *process, h *holding) {
	if w.fence[h.UserID] == h.Fence {
		w.claimant[h.UserID] = nil
	}
	delete(p.has, h.UserID)
}

// settle closes a sent write as what it came to, or gives a user back of whom nothing was sent.
func (w *world) settle(rt *rapid.T, p *process, h *holding) {
	o := state.Outcome{UserID: h.UserID, Fence: h.Fence, Entry: h.entry, State: state.Unsent}
	// The check after a write is made right after it: what the process saw is what it wrote.
	if h.entry != 0 {
		o.State, o.Applied, o.Version, o.Digest, o.Source = state.Verified, true, h.Version, h.WantedDigest, h.WantedSource
	}
	w.ask(rt, "settle", state.Settle(rt.Context(), w.db, w.bridge, []state.Outcome{o}))
	if o.Applied && w.fence[h.UserID] == h.Fence {
		wanted := w.wanted[h.UserID]
		w.known[h.UserID] = h.WantedDigest
		// Else another thing stands there than is wanted.
		w.done[h.UserID] = wanted.Action == "" || wanted.Action == h.Action && bytes.Equal(wanted.Digest, h.WantedDigest)
	}
	w.gave(p, h)
}

// check compares what the database says with what is true.
func (w *world) check(rt *rapid.T) {
	rows, err := w.db.Query(rt.Context(), `SELECT user_id, wanted_version > applied_version, coalesce(action, ''), wanted_digest, decide_due,
		(SELECT count(*) FROM journal j WHERE j.bridge = d.bridge AND j.user_id = d.user_id AND j.state = 'sending') FROM directory_users d WHERE bridge = $1`, w.bridge)
	w.ask(rt, "check", err)
	defer rows.Close()
	for rows.Next() {
		var id, open int64
		var pending, due bool
		var action string
		var digest []byte
		w.ask(rt, "check", rows.Scan(&id, &pending, &action, &digest, &due, &open))
		wanted := w.wanted[id]
		if pending && action == "" {
			rt.Fatalf("user %d is pending, and nothing is wanted", id)
		}
		if wanted.Action != "" && !w.done[id] && (!pending || action != wanted.Action || !bytes.Equal(digest, wanted.Digest)) {
			rt.Fatalf("user %d: %s of %q is lost: pending %t, %s of %q", id, wanted.Action, wanted.Digest, pending, action, digest)
		}
		if wanted.Action == "" && pending {
			rt.Fatalf("user %d is pending for what was called off", id)
		}
		// What stands there is what is wanted, or what the rules knew when they wanted nothing. Else they are to be asked again, or
		// somebody will find it out who looks into the write.
		right := wanted.Action != "" && bytes.Equal(w.stands[id], wanted.Digest) || wanted.Action == "" && bytes.Equal(w.stands[id], w.told[id])
		if !right && !pending && !due && open == 0 {
			rt.Fatalf("user %d shows %q, wanted is %s of %q, and nobody knows", id, w.stands[id], wanted.Action, wanted.Digest)
		}
	}
	w.ask(rt, "check", rows.Err())
}

// claim gives a process whom there is to write.
func (w *world) claim(rt *rapid.T, p *process, urgency int16, limit int) {
	cs, err := state.Claim(rt.Context(), w.db, w.bridge, urgency, p.owner, limit)
	w.ask(rt, "claim", err)
	for _, c := range cs {
		w.took(rt, p, c)
		if n := w.open(rt, c.UserID); n > 0 {
			rt.Fatalf("user %d was claimed with %d writes that nobody has looked into", c.UserID, n)
		}
	}
}

func (w *world) silence(rt *rapid.T, p *process) {
	_, err := w.db.Exec(rt.Context(), `UPDATE workers SET heartbeat_at = now() - interval '1 minute' WHERE bridge = $1 AND owner = $2`, w.bridge, p.owner)
	w.ask(rt, "silence", err)
	p.silent = true
}

func (w *world) beat(rt *rapid.T, p *process) {
	_, err := state.Heartbeat(rt.Context(), w.db, w.bridge, p.owner)
	w.ask(rt, "beat", err)
	// Who is silent is an action's to say, not a slow machine's.
	_, err = w.db.Exec(rt.Context(), `UPDATE workers SET heartbeat_at = now() + interval '1 hour' WHERE bridge = $1 AND owner = $2`, w.bridge, p.owner)
	w.ask(rt, "beat", err)
	p.silent = false
}

// pick is one of some, each as likely: rapid's own choices prefer what comes first, and then little happens in a check.
func pick[T any](rt *rapid.T, what string, some []T) T {
	n := 0
	for _, bit := range rapid.SliceOfN(rapid.Bool(), 6, 6).Draw(rt, what) {
		n *= 2
		if bit {
			n++
		}
	}
	return some[n%len(some)]
}

// Whatever two processes do in whatever order, and whenever one of them dies, is taken for dead, or wakes: they never have
// the same user at once, and whatever is wanted is pending until it stands there, is called off, or is withdrawn.
func TestTwoProcessesNeverHaveOneUserAndLoseNothing(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		w := &world{
			db: db, bridge: fmt.Sprint("b", n), users: upTo(pick(rt, "users", []int{1, 1, 2})),
			wanted: map[int64]state.Wanted{}, done: map[int64]bool{}, stands: map[int64][]byte{}, known: map[int64][]byte{}, told: map[int64][]byte{}, fence: map[int64]int64{}, claimant: map[int64]*process{},
			owners: []*process{{owner: uuid.New(), has: map[int64]*holding{}}, {owner: uuid.New(), has: map[int64]*holding{}}},
		}
		ctx := rt.Context()
		_, err := state.EnsureBridge(ctx, db, w.bridge, 1)
		w.ask(rt, "begin", err)
		var users []state.DirectoryUser
		for _, id := range w.users {
			users = append(users, user(id, fmt.Sprint(id, "@x"), ""))
		}
		_, err = state.StoreDirectory(ctx, db, w.bridge, 1, users, false)
		w.ask(rt, "begin", err)
		for _, p := range w.owners {
			w.beat(rt, p)
		}
		one := func() *process { return pick(rt, "process", w.owners) }
		// held is somebody whom a process believes to have claimed, if there is anybody.
		held := func(sent bool) (*process, *holding) {
			var ps []*process
			var hs []*holding
			for _, p := range w.owners {
				for _, id := range w.users {
					if h := p.has[id]; h != nil && (!sent || h.entry == 0) {
						ps, hs = append(ps, p), append(hs, h)
					}
				}
			}
			if len(hs) == 0 {
				return nil, nil
			}
			i := pick(rt, "held", upTo(len(hs))) - 1
			return ps[i], hs[i]
		}
		actions := map[string]func(){
			"decide": func() {
				wanted := pick(rt, "wanted", []state.Wanted{
					{Action: "write", Value: []byte(`{"recording_link": "a"}`), Digest: []byte("a"), Source: []byte("s")},
					{Action: "write", Value: []byte(`{"recording_link": "b"}`), Digest: []byte("b"), Source: []byte("s")},
					{Action: "clear"},
					{},
				})
				wanted.UserID = pick(rt, "user", w.users)
				w.decide(rt, pick(rt, "urgency", []int16{state.CollectPriority, state.CollectPriority, state.BackfillPriority, state.Planned}), wanted)
			},
			"let removals through": func() { w.ask(rt, "release", letThrough(ctx, db, w.bridge, uuid.Nil)) },
			"take up":              func() { w.ask(rt, "adopt", state.Adopt(ctx, db, w.bridge, uuid.New(), state.SweepPriority)) },
			"claim": func() {
				p := one()
				w.beat(rt, p)
				w.claim(rt, p, pick(rt, "urgency", []int16{state.BackfillPriority, state.CollectPriority}), pick(rt, "limit", []int{1, 2}))
			},
			// A write is sent as soon as it is journalled, and arrives or not.
			"send": func() {
				_, h := held(true)
				if h == nil {
					return
				}
				current := w.wanted[h.UserID]
				in := h.intent()
				w.ask(rt, "journal", state.Journal(ctx, db, w.bridge, []*state.Intent{in}))
				if h.entry = in.Entry; h.entry == 0 {
					return
				}
				if w.fence[h.UserID] != h.Fence {
					rt.Fatalf("user %d is written under fence %d, by now it is %d", h.UserID, h.Fence, w.fence[h.UserID])
				}
				if w.done[h.UserID] || current.Action != h.Action || !bytes.Equal(current.Digest, h.WantedDigest) {
					rt.Fatalf("user %d gets %q, wanted is %s of %q", h.UserID, h.WantedDigest, current.Action, current.Digest)
				}
				if pick(rt, "it arrives", []bool{true, true, true, false}) {
					w.stands[h.UserID] = h.WantedDigest
					return
				}
				w.ask(rt, "close", state.CloseEntry(ctx, db, w.bridge, h.entry, state.Unsent, ""))
				h.entry = 0
			},
			"settle": func() {
				if p, h := held(false); h != nil {
					w.settle(rt, p, h)
				}
			},
			"fail": func() {
				if p, h := held(false); h != nil {
					w.ask(rt, "fail", state.Fail(ctx, db, w.bridge, []state.Failure{{UserID: h.UserID, Fence: h.Fence, Problem: "x", RetryAfter: time.Hour}}))
					w.gave(p, h)
				}
			},
			"give back": func() {
				if p, h := held(false); h != nil {
					w.ask(rt, "unclaim", state.Unclaim(ctx, db, w.bridge, h.UserID, h.Fence))
					w.gave(p, h)
				}
			},
			"withdraw": func() {
				p, h := held(true)
				if h == nil {
					return
				}
				w.ask(rt, "withdraw", state.Withdraw(ctx, db, w.bridge, []state.Claimed{h.Claimed}))
				if w.fence[h.UserID] == h.Fence && w.version(rt, h.UserID) == h.Version { // else something else is wanted by now
					w.wanted[h.UserID], w.done[h.UserID], w.told[h.UserID] = state.Wanted{UserID: h.UserID}, true, w.known[h.UserID]
				}
				w.gave(p, h)
			},
			"look into": func() {
				p := one()
				w.beat(rt, p)
				w.lookInto(rt, p, func(*holding) {})
			},
			"is silent": func() { w.silence(rt, one()) },
			"is taken for dead": func() {
				n := pick(rt, "process", []int{0, 1})
				w.silence(rt, w.owners[n])
				w.beat(rt, w.owners[1-n])
				w.lookInto(rt, w.owners[1-n], func(*holding) {})
				w.claim(rt, w.owners[1-n], state.BackfillPriority, 2)
			},
			"dies": func() {
				n := pick(rt, "process", []int{0, 1})
				w.ask(rt, "leave", state.Leave(ctx, db, w.bridge, w.owners[n].owner))
				w.owners[n].silent = true
				w.owners[n] = &process{owner: uuid.New(), has: map[int64]*holding{}}
			},
			"time passes": func() { w.ripen(rt) },
		}
		// What is usual comes more often.
		usual := []string{
			"decide", "decide", "decide", "decide", "decide", "claim", "claim", "claim", "send", "send", "send", "send", "settle", "settle", "settle", "withdraw", "withdraw",
			"is taken for dead", "is taken for dead", "is silent", "look into", "let removals through", "take up", "fail", "give back", "dies", "time passes",
		}
		for range 40 {
			actions[pick(rt, "action", usual)]()
			w.check(rt)
		}
		w.finish(rt)
	})
}

// open counts the writes of a user whose outcome is not known.
func (w *world) open(rt *rapid.T, id int64) (n int) {
	w.ask(rt, "open", w.db.QueryRow(rt.Context(), `SELECT count(*) FROM journal WHERE bridge = $1 AND user_id = $2 AND state = 'sending'`, w.bridge, id).Scan(&n))
	return n
}

func (w *world) version(rt *rapid.T, id int64) (v int64) {
	w.ask(rt, "version", w.db.QueryRow(rt.Context(), `SELECT wanted_version FROM directory_users WHERE bridge = $1 AND user_id = $2`, w.bridge, id).Scan(&v))
	return v
}

// ripen lets the time pass after which what failed is tried again.
func (w *world) ripen(rt *rapid.T) {
	_, err := w.db.Exec(rt.Context(), `UPDATE directory_users SET retry_at = now() - interval '1 second' WHERE bridge = $1 AND retry_at IS NOT NULL`, w.bridge)
	w.ask(rt, "ripen", err)
}

// lookInto has a process find out what became of writes that others have sent.
func (w *world) lookInto(rt *rapid.T, p *process, then func(*holding)) {
	open, err := state.ClaimOpen(rt.Context(), w.db, w.bridge, p.owner, 10)
	w.ask(rt, "claim open", err)
	for _, e := range open {
		if p.has[e.UserID] != nil && p.has[e.UserID].Fence == e.Fence {
			rt.Fatalf("user %d has two writes that nobody has looked into", e.UserID)
		}
		w.took(rt, p, state.Claimed{UserID: e.UserID, Fence: e.Fence, Action: map[bool]string{true: "clear", false: "write"}[e.Source == nil], Version: e.Version, WantedDigest: e.AfterFragment, WantedSource: e.Source})
		h := p.has[e.UserID]
		h.entry = e.Entry
		then(h)
	}
}

// finish lets everybody who writes die, and a last one bring it to an end: then everybody shows what was last wanted.
func (w *world) finish(rt *rapid.T) {
	ctx := rt.Context()
	for _, p := range w.owners {
		w.ask(rt, "leave", state.Leave(ctx, w.db, w.bridge, p.owner))
		p.silent = true
	}
	last := &process{owner: uuid.New(), has: map[int64]*holding{}}
	for range 10 {
		w.beat(rt, last)
		w.ripen(rt)
		w.lookInto(rt, last, func(h *holding) { w.settle(rt, last, h) })
		users, err := state.NextUsers(ctx, w.db, w.bridge, 0, 10, true)
		w.ask(rt, "due", err)
		for _, u := range users {
			wanted := w.wanted[u.UserID]
			wanted.UserID = u.UserID
			w.decide(rt, state.SweepPriority, wanted)
		}
		w.ask(rt, "adopt", state.Adopt(ctx, w.db, w.bridge, uuid.New(), state.SweepPriority))
		w.ask(rt, "release", letThrough(ctx, w.db, w.bridge, uuid.Nil))
		cs, err := state.Claim(ctx, w.db, w.bridge, state.BackfillPriority, last.owner, 10)
		w.ask(rt, "claim", err)
		for _, c := range cs {
			w.took(rt, last, c)
			h := last.has[c.UserID]
			in := h.intent()
			w.ask(rt, "journal", state.Journal(ctx, w.db, w.bridge, []*state.Intent{in}))
			if h.entry = in.Entry; h.entry == 0 {
				rt.Fatalf("user %d is claimed, and may not be written", c.UserID)
			}
			w.stands[c.UserID] = c.WantedDigest
			w.settle(rt, last, h)
		}
		w.check(rt)
		if len(users)+len(cs) == 0 {
			break
		}
	}
	for _, id := range w.users {
		wanted := w.wanted[id]
		if wanted.Action != "" && !bytes.Equal(w.stands[id], wanted.Digest) {
			rt.Fatalf("at the end user %d shows %q, wanted was %q", id, w.stands[id], wanted.Digest)
		}
	}
}
