package sync

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestWhatIsPlannedForAUser(t *testing.T) {
	t.Parallel()
	jane := Participant{ID: "row", NameBadgeLink: "https://www.name-coach.com/jane", RecordingLink: "https://www.name-coach.com/jane.mp3?sig=1", RecordingID: "19"}
	silent := Participant{ID: "silent", EventTitle: "Graduation"}
	unsafe := Participant{ID: "unsafe", NameBadgeLink: "http://www.name-coach.com/jane"}
	fragment, err := nested.Build(jane)
	if err != nil {
		t.Fatal(err)
	}
	right, older, foreign := fragment.Digest(), Fragment{badgeKey: new("https://old")}.Digest(), []byte("foreign digest, 20 b")
	write := Plan{Steps: []Step{{UserID: 1, Action: Write, Fragment: fragment, Digest: right, Source: "row"}}}
	unchanged := Plan{Unchanged: write.Steps}
	cleared := Plan{Steps: []Step{{UserID: 1, Action: Clear, Source: "row"}}}
	nothing := Plan{Nothing: []int64{1}}
	for name, c := range map[string]struct {
		user UserState
		want Plan
	}{
		"nothing there": {UserState{Linked: true, Participants: []Participant{jane}}, write},
		"the right fragment there, as we wrote it": {
			UserState{Linked: true, Participants: []Participant{jane}, Seen: right, Applied: right, AppliedSource: "row"}, unchanged,
		},
		"the right fragment there, whoever wrote it": {UserState{Linked: true, Participants: []Participant{jane}, Seen: right}, unchanged},
		"an older fragment there":                    {UserState{Linked: true, Participants: []Participant{jane}, Seen: older, Applied: older}, write},
		"somebody changed what we wrote":             {UserState{Linked: true, Participants: []Participant{jane}, Seen: foreign, Applied: right}, write},
		"somebody removed what we wrote":             {UserState{Linked: true, Participants: []Participant{jane}, Applied: right}, write},
		"one who speaks and one who does not":        {UserState{Linked: true, Participants: []Participant{silent, jane}}, write},
		"a link that must not be written": {
			UserState{Linked: true, Participants: []Participant{unsafe}, Seen: older, Applied: older},
			Plan{Holds: []Hold{{UserID: 1, Reason: Refused, Detail: "name_badge_link: is not https"}}},
		},
		"a link that must not be written does not keep a voice that belongs to somebody else": {
			UserState{Linked: true, Participants: []Participant{unsafe}, Seen: older, Applied: older, AppliedSource: "row", SourceMoved: true},
			Plan{Steps: cleared.Steps, Holds: []Hold{{UserID: 1, Reason: Refused, Detail: "name_badge_link: is not https"}}},
		},
		"a link that must not be written, and what stands there is not ours": {
			UserState{Linked: true, Participants: []Participant{unsafe}, Seen: foreign, Applied: older, SourceMoved: true},
			Plan{Holds: []Hold{{UserID: 1, Reason: Refused, Detail: "name_badge_link: is not https"}}},
		},
		"held": {UserState{Linked: true, Participants: []Participant{jane}, Held: Unwritable}, Plan{Holds: []Hold{{UserID: 1, Reason: Unwritable}}}},
		"held, and nobody speaks": {
			UserState{Seen: right, Applied: right, SourceMoved: true, Held: Reverted},
			Plan{Holds: []Hold{{UserID: 1, Reason: Reverted}}},
		},
		"nobody is linked":                                               {UserState{}, nothing},
		"linked to somebody without badge":                               {UserState{Linked: true, Participants: []Participant{silent}}, nothing},
		"absence is not evidence":                                        {UserState{Seen: right, Applied: right, AppliedSource: "row"}, nothing},
		"silence is not evidence":                                        {UserState{Linked: true, Participants: []Participant{silent}, Seen: right, Applied: right}, nothing},
		"the voice belongs to somebody else now":                         {UserState{Seen: right, Applied: right, AppliedSource: "row", SourceMoved: true}, cleared},
		"the voice belongs to somebody else now, and another one speaks": {UserState{Linked: true, Participants: []Participant{jane}, Seen: older, Applied: older, SourceMoved: true}, write},
		"what is not ours is not cleared":                                {UserState{Seen: right, SourceMoved: true}, nothing},
		"what is cleared is not cleared again":                           {UserState{Applied: right, AppliedSource: "row", SourceMoved: true}, nothing},
		"what somebody else has put there since is not cleared":          {UserState{Seen: foreign, Applied: right, AppliedSource: "row", SourceMoved: true}, nothing},
	} {
		c.user.UserID = 1
		if diff := cmp.Diff(c.want, Compute([]UserState{c.user}, nested, nil)); diff != "" {
			t.Errorf("%s (-want +got): %s", name, diff)
		}
	}
	if diff := cmp.Diff(nothing, Compute([]UserState{{UserID: 1, Linked: true, Participants: []Participant{jane}}}, nested, []string{"other"})); diff != "" {
		t.Errorf("an event that does not count (-want +got): %s", diff)
	}
}

// Trap 12: a signature that changes with every answer must not become a write with every sweep.
func TestARotatingSignatureIsNoChange(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "19"} {
		was := Participant{ID: "row", RecordingLink: "https://www.name-coach.com/jane.mp3?sig=1", RecordingID: id}
		f, err := nested.Build(was)
		if err != nil {
			t.Fatal(err)
		}
		now := was
		now.RecordingLink = "https://www.name-coach.com/jane.mp3?sig=2&expires=3"
		p := Compute([]UserState{{UserID: 1, Linked: true, Participants: []Participant{now}, Seen: f.Digest(), Applied: f.Digest()}}, nested, nil)
		if len(p.Steps) != 0 || len(p.Unchanged) != 1 {
			t.Errorf("id %q: %+v", id, p)
		}
	}
}

func TestAPlanIsInOrderOfUserID(t *testing.T) {
	t.Parallel()
	ids := []int64{5, math.MinInt64, 0, math.MaxInt64, -1}
	users := make([]UserState, len(ids))
	for i, id := range ids {
		users[i].UserID = id
	}
	slices.Sort(ids)
	if got := Compute(users, nested, nil).Nothing; !slices.Equal(got, ids) {
		t.Errorf("got %v, want %v", got, ids)
	}
}

// standing is a user of a model of BLN: what the bridge knows, and what stands under its keys.
type standing struct {
	UserState
	object map[string]json.RawMessage
}

func drawStandings(t *rapid.T, l Layout) []standing {
	ids := rapid.SliceOfNDistinct(rapid.Int64(), 0, 6, rapid.ID).Draw(t, "ids")
	out := make([]standing, len(ids))
	for i, id := range ids {
		u := UserState{
			UserID: id, SourceMoved: rapid.Bool().Draw(t, "moved"),
			Held: rapid.SampledFrom([]Reason{"", "", "", Unwritable, Reverted}).Draw(t, "held"),
		}
		u.Participants = drawParticipants(t, 3)
		u.Linked = len(u.Participants) > 0
		if u.Linked && rapid.IntRange(0, 5).Draw(t, "bad link") == 0 {
			u.Participants[0].NameBadgeLink = "http://www.name-coach.com/"
		}
		object := drawSeen(t, l)
		if f := drawFragment(t, l); rapid.Bool().Draw(t, "ours") {
			for _, m := range l.Members(f, object) {
				object[m.Key] = m.Value
			}
			u.Applied, u.AppliedSource = f.Digest(), "row"
		}
		u.Seen = l.Seen(at(object))
		out[i] = standing{u, object}
	}
	return out
}

func states(all []standing) []UserState {
	out := make([]UserState, len(all))
	for i, s := range all {
		out[i] = s.UserState
	}
	return out
}

// listed tells in how many of a plan's lists each user stands, a clear beside a refusal counted as one.
func listed(p Plan) map[int64]int {
	n := map[int64]int{}
	for _, s := range p.Steps {
		refused := slices.ContainsFunc(p.Holds, func(h Hold) bool { return h.UserID == s.UserID && h.Reason == Refused })
		if s.Action == Write || !refused {
			n[s.UserID]++
		}
	}
	for _, s := range p.Unchanged {
		n[s.UserID]++
	}
	for _, h := range p.Holds {
		n[h.UserID]++
	}
	for _, id := range p.Nothing {
		n[id]++
	}
	return n
}

func TestAPlanPutsEveryUserInOneListWhateverTheOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		users, events := states(drawStandings(t, nested)), someEvents.Draw(t, "events")
		p := Compute(users, nested, events)
		if diff := cmp.Diff(p, Compute(rapid.Permutation(users).Draw(t, "order"), nested, events)); diff != "" {
			t.Fatalf("in another order: %s", diff)
		}
		n := listed(p)
		for _, u := range users {
			if n[u.UserID] != 1 {
				t.Fatalf("user %d stands in %d lists", u.UserID, n[u.UserID])
			}
			delete(n, u.UserID)
		}
		if len(n) > 0 {
			t.Fatalf("nobody asked for %v", n)
		}
		// Each user is judged alone.
		var one Plan
		for _, u := range users {
			alone := Compute([]UserState{u}, nested, events)
			one.Steps = append(one.Steps, alone.Steps...)
			one.Holds = append(one.Holds, alone.Holds...)
		}
		if len(one.Steps) != len(p.Steps) || len(one.Holds) != len(p.Holds) {
			t.Fatalf("alone: %d steps and %d holds, together %d and %d", len(one.Steps), len(one.Holds), len(p.Steps), len(p.Holds))
		}
	})
}

// Once a plan is applied there is nothing left to do, and everything that must not be touched stands as it stood.
func TestAnAppliedPlanLeavesNothingToDo(t *testing.T) {
	t.Parallel()
	for name, server := range servers {
		for _, l := range []Layout{nested, flat} {
			rapid.Check(t, func(t *rapid.T) {
				all, events := drawStandings(t, l), someEvents.Draw(t, "events")
				p := Compute(states(all), l, events)
				for _, step := range p.Steps {
					i := slices.IndexFunc(all, func(s standing) bool { return s.UserID == step.UserID })
					u := &all[i]
					if u.Held != "" {
						t.Fatalf("user %d is held and would be written", u.UserID)
					}
					if step.Action == Clear {
						if len(u.Applied) == 0 || !bytes.Equal(u.Applied, u.Seen) {
							t.Fatalf("user %d would be cleared, and what stands there is not ours", u.UserID)
						}
						if step.Fragment != nil || step.Digest != nil {
							t.Fatalf("a clear with a fragment: %+v", step)
						}
					}
					before := u.object
					u.object = server(before, l.Members(step.Fragment, before))
					for k, v := range before {
						if !l.Owns(k) && !bytes.Equal(u.object[k], v) {
							t.Fatalf("%s of user %d was changed to %s", k, u.UserID, u.object[k])
						}
					}
					u.Seen = l.Seen(at(u.object))
					if !bytes.Equal(u.Seen, step.Digest) {
						t.Fatalf("user %d shows %s after a server that %s took in %+v", u.UserID, u.object, name, step)
					}
					u.Applied, u.AppliedSource = step.Digest, step.Source
				}
				if again := Compute(states(all), l, events); len(again.Steps) > 0 {
					t.Fatalf("still to be done: %+v", again.Steps)
				}
			})
		}
	}
}
