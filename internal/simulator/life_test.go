package simulator

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// carry does what a perfect bridge does, over HTTP: it reads every user who is not right, merges and writes.
func (c *client) carry(gone Gone) {
	c.t.Helper()
	truth := c.s.TruthWhile(gone)
	for _, u := range c.s.Users() {
		if c.s.Mismatch(u.ID, gone) == "" {
			continue
		}
		fragment := "null"
		if f := truth.Users[u.ID].Fragment; f != nil {
			fragment = f.JSON()
		}
		c.ok(c.put(u.ID, `{"otherInfo":`+withRaw(c.foreign(u.ID), "namecoach", fragment)+`}`))
	}
}

// foreign is a user's otherInfo as GET shows it, fit to be added to.
func (c *client) foreign(id int64) string {
	c.t.Helper()
	if had := string(c.get(id).OtherInfo); had != "" && had != "null" {
		return had
	}
	return "{}"
}

func (c *client) right(gone Gone) {
	c.t.Helper()
	for _, m := range c.s.Mismatches(5, gone) {
		c.t.Error(m)
	}
	for _, d := range c.s.ForeignDamage(5) {
		c.t.Errorf("foreign keys: %s", d)
	}
}

func TestTheSameSeedMakesTheSameChangesWhateverABridgeWrites(t *testing.T) {
	t.Parallel()
	now := func() time.Time { return noon }
	one, other := start(t, Options{Seed: 2, Users: 300, Now: now}), start(t, Options{Seed: 2, Users: 300, Now: now})
	a, b := one.s.Life(LifeOptions{Seed: 5}), other.s.Life(LifeOptions{Seed: 5})
	for range 30 {
		other.carry(Unnoticed)
		if diff := cmp.Diff(a.Changes(20), b.Changes(20)); diff != "" {
			t.Fatalf("changes differ:\n%.2000s", diff)
		}
	}
	if diff := cmp.Diff(one.s.Participants(), other.s.Participants()); diff != "" {
		t.Errorf("participants differ:\n%.2000s", diff)
	}
	if diff := cmp.Diff(one.s.ForeignDigests(), other.s.ForeignDigests()); diff != "" {
		t.Errorf("foreign keys differ:\n%.2000s", diff)
	}
	again := start(t, Options{Seed: 2, Users: 300, Now: now}).s.Life(LifeOptions{Seed: 6})
	if cmp.Equal(again.Changes(50), start(t, Options{Seed: 2, Users: 300, Now: now}).s.Life(LifeOptions{Seed: 5}).Changes(50)) {
		t.Error("another seed made the same changes")
	}
}

// What Life says of whose a row is, is compared with what two plain maps of the visible keys say.
func TestWhoseARowIsAgreesWithItsKeysAfterAnyChanges(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		s := newWorldOf(t, Options{Seed: seed, Users: 500})
		life := s.Life(LifeOptions{Seed: seed})
		for range 10 {
			if got := len(life.Changes(100)); got != 100 {
				t.Fatalf("%d changes", got)
			}
			agreesWithKeys(t, s)
		}
		ties := s.world.ties
		s.world.ties = nil
		fresh := s.world.tied()
		for name, same := range map[string]bool{
			"people": sameIndex(ties.byPerson, fresh.byPerson), "ids": sameIndex(ties.byID, fresh.byID), "users": sameIndex(ties.byUser, fresh.byUser),
			"external ids": sameIndex(ties.byExternal, fresh.byExternal),
		} {
			if !same {
				t.Errorf("seed %d: the ties of %s are not what they would be if they were made now", seed, name)
			}
		}
	}
}

// sameIndex compares without regard to the order under a key.
func sameIndex[K, V comparable](a, b map[K][]V) bool {
	return maps.EqualFunc(a, b, func(x, y []V) bool {
		return len(x) == len(y) && !slices.ContainsFunc(x, func(v V) bool { return !slices.Contains(y, v) })
	})
}

// After each kind of change exactly those are not right for whom it names, and a bridge that carries them over makes it right.
func TestAChangeNamesThoseForWhomSomethingIsToBeDone(t *testing.T) {
	t.Parallel()
	for kind := range EveryKind() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			c := start(t, Options{Seed: 11, Users: 200})
			c.carry(Noticed)
			c.right(Noticed)
			life := c.s.Life(LifeOptions{Seed: 3, Weights: Weights{kind: 1}})
			some := 0
			for range 15 {
				change, ok := life.Next()
				if !ok {
					break
				}
				some++
				wrong := map[int64]bool{}
				for _, u := range c.s.Users() {
					if c.s.Mismatch(u.ID) != "" {
						wrong[u.ID] = true
					}
				}
				for id := range wrong {
					if !slices.Contains(change.Users, id) {
						t.Errorf("%s: user %d is not right and not named: %s", change, id, c.s.Mismatch(id))
					}
				}
				unnamed := change.Kind == ChangesExternalID || change.Kind == LeavesBLN || change.Kind == Merges // a lost link may leave what stands
				if len(wrong) == 0 && len(change.Users) > 0 && !unnamed {
					t.Errorf("%s: it names %v, and everybody is right", change, change.Users)
				}
				c.carry(Noticed)
				c.right(Noticed)
			}
			if some < 5 {
				t.Errorf("%d changes", some)
			}
			c.violations()
			if idle := c.s.IdleWrites(); len(idle) > 0 {
				t.Error(idle)
			}
		})
	}
}

func TestEachChangeIsWhatItIsCalled(t *testing.T) {
	t.Parallel()
	s := newWorldOf(t, Options{Seed: 21, Users: 200, Now: func() time.Time { return noon }, ClockOffset: -90 * time.Second})
	weights := EveryKind()
	for kind := range weights {
		weights[kind] = 1
	}
	weights[JoinsBLN] = 0 // the strangers are few; they come first
	strangers := s.Life(LifeOptions{Seed: 4, Weights: Weights{JoinsBLN: 1}})
	life := s.Life(LifeOptions{Seed: 4, Weights: weights})
	seen := map[ChangeKind]int{}
	s.carryInside(t, slices.Collect(maps.Keys(s.Truth().Users)))
	for i := range 200 {
		before := snapshot(s)
		next := life.Next
		if i < 3 {
			next = strangers.Next
		}
		change, ok := next()
		if !ok {
			t.Fatal("nothing is possible any more")
		}
		after := snapshot(s)
		if seen[change.Kind]++; i >= 3 && change.Number != i-2 || !change.At.Equal(noon.Add(-90*time.Second)) || change.Name == "" {
			t.Errorf("%+v", change)
		}
		var was, is Participant
		if len(change.Participants) > 0 {
			was, is = before.rows[change.Participants[0]], after.rows[change.Participants[0]]
		}
		users, rows := len(after.users)-len(before.users), len(after.rows)-len(before.rows)
		wrong := ""
		switch change.Kind {
		case RecordsAnew, RecordsFirst:
			if is.RecordingID == was.RecordingID || is.RecordingLink == was.RecordingLink || is.RecordingDate == "" || !is.Updated.Equal(change.At) || was.recorded() != (change.Kind == RecordsAnew) {
				wrong = "recording"
			}
		case RemovesRecording:
			if !was.recorded() || is.recorded() || is.NameBadgeLink != was.NameBadgeLink || is.RecordingID != "" || !is.Updated.Equal(change.At) {
				wrong = "recording"
			}
		case JoinsNameCoach:
			if rows != 1 || is.For != change.User || before.users[change.User].ID == 0 {
				wrong = "row"
			}
		case JoinsBLN:
			if users != 1 || before.users[change.User].ID != 0 || was.For != 0 || is.For != change.User || !is.Updated.Equal(was.Updated) {
				wrong = "user"
			}
		case LeavesNameCoach:
			if rows != -len(change.Participants) || is.ID != 0 {
				wrong = "rows"
			}
		case CorrectsAddress:
			if is.Email == was.Email && is.InstitutionID == was.InstitutionID || is.NameBadgeLink != was.NameBadgeLink || is.EventAccessCode != was.EventAccessCode || !is.Updated.Equal(change.At) {
				wrong = "address"
			}
		case LeavesBLN, Merges:
			if users != -1 || after.users[change.Gone].ID != 0 || (change.Kind == Merges) != (after.users[change.User].ID != 0) {
				wrong = "users"
			}
		case ChangesExternalID:
			if before.users[change.User].ExternalID == after.users[change.User].ExternalID {
				wrong = "external id"
			}
		case OtherAppWrites:
			if change.Key == "" || change.Key == "namecoach" {
				wrong = "key"
			}
		case FragmentOverwritten:
			if !strings.Contains(s.UserOtherInfo(change.User), `"namecoach":`) || s.Mismatch(change.User) == "" {
				wrong = "fragment"
			}
		case FragmentRemoved:
			if strings.Contains(s.UserOtherInfo(change.User), `"namecoach":`) {
				wrong = "fragment"
			}
		}
		if (change.Kind != JoinsNameCoach && change.Kind != LeavesNameCoach && rows != 0) || wrong != "" {
			t.Fatalf("%s: %s\nbefore %+v\nafter  %+v", change, wrong, was, is)
		}
		s.carryInside(t, change.Users)
	}
	for kind := range EveryKind() {
		if seen[kind] == 0 {
			t.Errorf("never: %s", kind)
		}
	}
}

type moment struct {
	users map[int64]UserInfo
	rows  map[int64]Participant
}

func snapshot(s *Simulator) moment {
	m := moment{users: map[int64]UserInfo{}, rows: map[int64]Participant{}}
	for _, u := range s.Users() {
		m.users[u.ID] = u
	}
	for _, p := range s.Participants() {
		m.rows[p.ID] = p
	}
	return m
}

// carryInside is carry for those who are not right, without HTTP and without its accounts.
func (s *Simulator) carryInside(t *testing.T, users []int64) {
	t.Helper()
	truth := s.Truth()
	for _, id := range users {
		if s.Mismatch(id) == "" {
			continue
		}
		value := ""
		if u := truth.Users[id]; u.Fragment != nil {
			value = u.Fragment.JSON()
		}
		if err := s.EditOtherInfo(id, "namecoach", value); err != nil {
			t.Fatal(err)
		}
	}
}

// Rule 5: nothing is cleared because one answer did not mention it. Before a census has confirmed it, and after, other things are right.
func TestADeletedRowSpeaksUntilItsAbsenceIsNoticed(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Seed: 6, Users: 300})
	c.carry(Noticed)
	life := c.s.Life(LifeOptions{Seed: 1, Weights: Weights{LeavesNameCoach: 1}})
	changes := life.Changes(25)
	if len(changes) != 25 {
		t.Fatalf("%d changes", len(changes))
	}
	c.right(Unnoticed)
	touched := 0
	for _, change := range changes {
		for _, id := range change.Users {
			touched++
			if c.s.Mismatch(id) == "" || c.s.Mismatch(id, Unnoticed) != "" || c.s.Mismatch(id, Noticed, Unnoticed) != "" {
				t.Errorf("%s: user %d: noticed %q, unnoticed %q", change, id, c.s.Mismatch(id), c.s.Mismatch(id, Unnoticed))
			}
		}
	}
	if touched == 0 || len(c.s.Mismatches(0)) != touched {
		t.Errorf("%d users named, %d mismatches", touched, len(c.s.Mismatches(0)))
	}
	c.carry(Noticed)
	c.right(Noticed)
	if got := len(c.s.Mismatches(0, Unnoticed)); got != touched {
		t.Errorf("cleared before it was noticed: %d mismatches, want %d", got, touched)
	}
	if m := c.s.Mismatches(0, Noticed, Unnoticed); len(m) != 0 {
		t.Errorf("either is right: %v", m)
	}
}

func TestAnUndoneChangeOfAnotherApplicationIsNoticedAndOneMadeOnPurposeIsNot(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	id := c.s.AddUser(NewUser{Username: "a@demo.example", OtherInfo: `{"jobTitle":"Welder","x":1.10,"gone":true}`})
	stale := c.foreign(id)
	for key, value := range map[string]string{"jobTitle": `"Plumber"`, "new": "{}", "gone": ""} {
		if err := c.s.EditOtherInfo(id, key, value); err != nil {
			t.Fatal(err)
		}
	}
	if d := c.s.ForeignDamage(0); len(d) != 0 {
		t.Errorf("changed on purpose: %v", d)
	}
	c.ok(c.put(id, `{"otherInfo":`+withRaw(stale, "namecoach", "null")+`}`))
	want := fmt.Sprintf(`user %d: "jobTitle" is changed, "new" is lost, "gone" is nobody's`, id)
	if d := c.s.ForeignDamage(0); len(d) != 1 || d[0] != want {
		t.Errorf("got %q, want %q", d, want)
	}
	if got := c.s.LostUpdates(); len(got) != 1 || got[0] != "PUT of "+want {
		t.Errorf("got %q", got)
	}
	// The next PUT loses nothing more, and one that puts everything back is not idle; that something was lost stays known.
	c.ok(c.put(id, `{"otherInfo":`+withRaw(c.foreign(id), "namecoach", `{"name_badge_link":"x"}`)+`}`))
	c.ok(c.put(id, `{"otherInfo":{"jobTitle":"Plumber","x":1.10,"new":{},"namecoach":{"name_badge_link":"x"}}}`))
	if got := c.s.LostUpdates(); len(got) != 1 || len(c.s.ForeignDamage(0)) != 0 || len(c.s.IdleWrites()) != 0 {
		t.Errorf("lost %q, damage %q, idle %q", got, c.s.ForeignDamage(0), c.s.IdleWrites())
	}
}

func TestOthersLeaveAUserAloneBetweenAGetAndAPut(t *testing.T) {
	t.Parallel()
	now := noon
	c := start(t, Options{Seed: 1, Users: 12, Now: func() time.Time { return now }})
	life := c.s.Life(LifeOptions{Seed: 1, Avoid: 5 * time.Second, Weights: Weights{OtherAppWrites: 1, FragmentOverwritten: 1, FragmentRemoved: 1}})
	users := c.s.Users()
	free := users[7].ID
	for _, u := range users {
		if u.ID != free {
			c.get(u.ID)
		}
	}
	for range 20 {
		if change, ok := life.Next(); !ok || change.User != free {
			t.Errorf("%v: %s", ok, change)
		}
	}
	// A PUT counts as well, also one that is refused.
	now = now.Add(3 * time.Second)
	c.put(free, `{"otherInfo":null}`)
	now = now.Add(3 * time.Second)
	for range 20 {
		if change, ok := life.Next(); !ok || change.User == free {
			t.Errorf("%v: %s", ok, change)
		}
	}
	for _, u := range users {
		c.get(u.ID)
	}
	if change, ok := life.Next(); ok {
		t.Errorf("everybody is being written: %s", change)
	}
	now = now.Add(5 * time.Second)
	if _, ok := life.Next(); !ok {
		t.Error("nobody is being written any more")
	}
}

// A link that is lost because the directory changed is no evidence that the voice is wrong: what was right may stay, and nothing else may.
func TestAfterALostLinkWhatWasRightMayStay(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	id := c.s.AddUser(NewUser{Username: "ada", ExternalID: "S-1", OtherInfo: "{}"})
	row := c.s.AddParticipant(Participant{InstitutionID: "S-1", NameBadgeLink: "https://www.name-coach.com/ada", For: id})
	c.carry(Noticed)
	life := c.s.Life(LifeOptions{Seed: 1, Weights: Weights{ChangesExternalID: 1}})
	if change, ok := life.Next(); !ok || !slices.Equal(change.Users, []int64{id}) {
		t.Fatalf("got %+v", change)
	}
	if truth := c.s.Truth(); truth.Users[id].Fragment != nil || truth.Totals.Held["unmatched"] != 1 || c.s.Participants()[0].For != 0 {
		t.Errorf("got %+v", truth)
	}
	c.right(Noticed)
	for value, may := range map[string]bool{"": true, "null": true, `{"name_badge_link":"https://www.name-coach.com/bob"}`: false} {
		if err := c.s.EditOtherInfo(id, "namecoach", value); err != nil {
			t.Fatal(err)
		}
		if got := c.s.Mismatch(id); (got == "") != may {
			t.Errorf("%s: %s", value, got)
		}
	}
	// When somebody speaks for the user again, that alone is right.
	c.s.UpdateParticipant(row, func(p *Participant) { p.For = id })
	if c.carry(Noticed); c.s.Mismatch(id) != "" {
		t.Error(c.s.Mismatch(id))
	}
}

// Windows bring rows one after the other, and some become visible late: any of a user's rows may have spoken before the one was seen that holds
// the user.
func TestOfSomebodyHeldWhatAnyOfTheRowsSaysMayStay(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	id := c.s.AddUser(NewUser{Username: "ada@x.example", ExternalID: "S-1", OtherInfo: "{}"})
	for n, link := range []string{"https://www.name-coach.com/ada", "https://www.name-coach.com/ada-2", "javascript:alert(1)"} {
		c.s.AddParticipant(Participant{
			InstitutionID: "S-1", NameBadgeLink: link, EventAccessCode: fmt.Sprint("E", n), For: id,
			RecordingLink: "https://namewaves.s3.amazonaws.com/a.mp3", RecordingID: "1", RecordingDate: fmt.Sprintf("2026-01-0%dT00:00:00Z", 3-n),
		})
	}
	silent := c.s.Participants()[1]
	if err := c.s.EditOtherInfo(id, "namecoach", silent.fragment().JSON()); err != nil {
		t.Fatal(err)
	}
	if c.s.Mismatch(id) == "" {
		t.Error("nobody is held, and a row speaks that is not the newest")
	}
	life := c.s.Life(LifeOptions{Seed: 3, Weights: Weights{RecordsAnew: 1}})
	for c.s.Truth().Users[id].Held == "" {
		if change, ok := life.Next(); !ok || change.Participants[0] == silent.ID {
			t.Fatalf("%v: take another seed", change)
		}
	}
	if wrong := c.s.Mismatch(id); wrong != "" {
		t.Error(wrong)
	}
	if err := c.s.EditOtherInfo(id, "namecoach", `{"name_badge_link":"https://www.name-coach.com/bob"}`); err != nil {
		t.Fatal(err)
	}
	if c.s.Mismatch(id) == "" {
		t.Error("what none of them says may stay")
	}
}

func TestAVoiceThatIsSomebodyElsesNowMayNotStay(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Seed: 13, Users: 150})
	c.carry(Noticed)
	life := c.s.Life(LifeOptions{Seed: 2, Weights: Weights{CorrectsAddress: 1}})
	moved := 0
	for range 30 {
		before := snapshot(c.s)
		change, ok := life.Next()
		if !ok {
			t.Fatal("nobody's address can be corrected any more")
		}
		from := before.rows[change.Participants[0]].For
		now := snapshot(c.s).rows[change.Participants[0]].For
		if from == 0 || now == 0 || from == now || !slices.Contains(change.Users, from) {
			continue
		}
		moved++
		if c.s.Mismatch(from) == "" || c.s.Mismatch(from, Unnoticed) == "" {
			t.Errorf("%s: user %d still shows it", change, from)
		}
		c.carry(Noticed)
	}
	if moved == 0 {
		t.Error("no voice moved")
	}
}

func TestOnceSettledWhatWasRightBeforeIsWrong(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Seed: 2, Users: 100})
	life := c.s.Life(LifeOptions{Seed: 9, Weights: Weights{RecordsAnew: 5, ChangesExternalID: 2, FragmentOverwritten: 1}})
	for range 5 {
		life.Changes(40)
		c.carry(Noticed)
		c.right(Noticed)
		life.Settled()
		c.right(Noticed)
		for id := range c.s.world.past {
			if c.s.Truth().Users[id].Fragment != nil {
				t.Errorf("user %d is right and excused for other fragments", id)
			}
		}
		if len(life.touched) != 0 {
			t.Error("rows count as changed since")
		}
	}
}

func TestWhereNothingIsPossibleNothingHappens(t *testing.T) {
	t.Parallel()
	if change, ok := newWorldOf(t, Options{}).Life(LifeOptions{}).Next(); ok {
		t.Errorf("an empty world: %s", change)
	}
	s := newWorldOf(t, Options{Seed: 1, Users: 50})
	if change, ok := s.Life(LifeOptions{Weights: Weights{}}).Next(); ok {
		t.Errorf("no weights: %s", change)
	}
	if got := s.Life(LifeOptions{Weights: EveryKind().Without(slices.Collect(maps.Keys(EveryKind()))...)}).Changes(3); got != nil {
		t.Errorf("without every kind: %v", got)
	}
	// A world can be emptied to the last; who is left goes on.
	leaving := s.Life(LifeOptions{Weights: Weights{LeavesBLN: 1, Merges: 1}}).Changes(100)
	if len(leaving) != 50 || len(s.Users()) != 0 {
		t.Errorf("%d left, %d are there", len(leaving), len(s.Users()))
	}
}

// Whoever watches a world while it changes sees no race and no half of a change.
func TestALifeGoesOnWhileOthersLook(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Seed: 4, Users: 120, LateVisibleUpTo: time.Millisecond})
	life := c.s.Life(LifeOptions{Seed: 4})
	done := make(chan struct{})
	go func() {
		defer close(done)
		life.Changes(400)
	}()
	for going := true; going; {
		select {
		case <-done:
			going = false
		default:
		}
		c.walk()
		c.list("updated_before=2100-01-01T00:00:00Z")
		c.s.Mismatches(0, Noticed, Unnoticed)
		c.s.ForeignDamage(0)
	}
	c.carry(Noticed)
	c.right(Noticed)
}

// A row that says less than another cannot be told to be its successor, and where nobody has seen it in between, it is the only one to say so.
func TestNoRowIsBothCorrectedAndSilencedUnseen(t *testing.T) {
	t.Parallel()
	s := newWorldOf(t, Options{Seed: 8, Users: 60})
	life := s.Life(LifeOptions{Seed: 8, Weights: Weights{RemovesRecording: 1, CorrectsAddress: 1, RecordsAnew: 1, RecordsFirst: 1, LeavesNameCoach: 1}})
	both := 0
	for range 4 {
		did := map[int64]map[ChangeKind]bool{}
		for _, change := range life.Changes(150) {
			for _, id := range change.Participants {
				if did[id] == nil {
					did[id] = map[ChangeKind]bool{}
				}
				if change.Kind == LeavesNameCoach && len(did[id]) > 0 {
					t.Errorf("%s: it changed since", change)
				}
				did[id][change.Kind] = true
				if did[id][RemovesRecording] && did[id][CorrectsAddress] {
					t.Errorf("%s: and %v", change, did[id])
				}
				if did[id][RecordsAnew] && did[id][CorrectsAddress] {
					both++
				}
			}
		}
		life.Settled()
	}
	if both == 0 {
		t.Error("no row was corrected and recorded anew")
	}
}

// A server that merges does not give up what others have put into our object; a bridge can only set it to null.
func TestWhatOthersPutIntoOurObjectMayBeNull(t *testing.T) {
	t.Parallel()
	s := newWorldOf(t, Options{})
	id := s.AddUser(NewUser{Username: "a"})
	s.AddParticipant(Participant{Email: "a", NameBadgeLink: "https://www.name-coach.com/a", For: id})
	right := s.Truth().Users[id].Fragment.JSON()
	for value, want := range map[string]bool{
		right: true, strings.TrimSuffix(right, "}") + `,"note":null}`: true, strings.TrimSuffix(right, "}") + `,"note":"x"}`: false,
		strings.Replace(right, `,"event_title":null`, "", 1): false,
	} {
		if err := s.EditOtherInfo(id, "namecoach", value); err != nil {
			t.Fatal(err)
		}
		if got := s.Mismatch(id); (got == "") != want {
			t.Errorf("%s: %q", value, got)
		}
	}
}
