package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"namebridge/internal/simulator"
)

// crowd is a place where n people were carried over, and their users.
func crowd(t *testing.T, n int) (p *place, users []int64, rows []int64) {
	t.Helper()
	p = newPlace(t, simulator.Options{})
	for i := range n {
		users = append(users, p.addPerson(fmt.Sprint("S-", i)))
	}
	p.run(t, "backfill").ends(t, 0)
	for _, r := range p.Participants() {
		rows = append(rows, r.ID)
	}
	return p, users, rows
}

// cleared says of which users nothing is left but null.
func (p *place) cleared(users []int64) (all []int64) {
	for _, id := range users {
		if !strings.Contains(p.UserOtherInfo(id), "https://www.name-coach.com/") {
			all = append(all, id)
		}
	}
	return all
}

func TestWhoIsGoneFromNameCoachIsClearedByTheSecondCensus(t *testing.T) {
	t.Parallel()
	p, users, rows := crowd(t, 4)
	p.DeleteParticipant(rows[1])
	for i, cleared := range []float64{0, 1, 0} {
		object := p.run(t, "census", "--output", "json").ends(t, 0).object(t)
		checkResult(t, object, "census", "done")
		if object["cleared"] != cleared {
			t.Errorf("census %d cleared %v, want %v", i+1, object["cleared"], cleared)
		}
	}
	if diff := cmp.Diff(users[1:2], p.cleared(users)); diff != "" {
		t.Error(diff)
	}
	for _, m := range p.Mismatches(5) {
		t.Error(m)
	}
}

// strict is the place with a guard that lets nobody be cleared unseen.
func (p *place) strict() *place {
	return p.with(map[string]string{"GUARD_MAX_CLEARS": "0", "GUARD_MAX_CLEAR_PERCENT": "0"})
}

func TestApprovingLetsThroughExactlyWhatWasStaged(t *testing.T) {
	t.Parallel()
	p, users, rows := crowd(t, 6)
	p = p.strict()
	for _, row := range rows[:4] {
		p.DeleteParticipant(row)
	}
	p.run(t, "census").ends(t, 0)
	staged := p.run(t, "census", "--output", "json").ends(t, 3).object(t)
	checkResult(t, staged, "census", "quarantined")
	id := staged["run"].(string)
	if n := p.cleared(users); len(n) > 0 {
		t.Fatalf("the guard let %d through", len(n))
	}
	p.run(t, "status").ends(t, 0).tellsOut(t, "QUARANTINED", "namebridge runs show "+id[:8], "namebridge runs approve "+id[:8]+" --reason")
	p.run(t, "runs", "show", id).ends(t, 0).tellsOut(t, "QUARANTINED", "Staged for 4 users: write 0 · clear 4", "namebridge runs approve "+id[:8])

	// One of them is back before anybody looks, and one leaves only afterwards.
	p.addBack("S-0", users[0])
	p.run(t, "collect").ends(t, 0)
	p.DeleteParticipant(rows[5])
	p.run(t, "runs", "approve", id[:8]).ends(t, 2, "--reason is required")
	p.with(map[string]string{"BLN_PASSWORD": ""}).run(t, "runs", "approve", id[:8], "--reason", "x").ends(t, 2, "BLN_PASSWORD")
	p.run(t, "runs", "approve", "ffff", "--reason", "x").ends(t, 1, "no run whose id begins with ffff")

	o := p.run(t, "runs", "approve", id[:8], "--reason", "they have left").ends(t, 0)
	o.tellsOut(t, "Approved census "+id[:8]+": 3 of 4 users let through.", "1 is left out, since something else is wanted by now:\n  "+fmt.Sprint(users[0])+"\n", "Done in", "cleared")
	if diff := cmp.Diff(users[1:4], p.cleared(users)); diff != "" {
		t.Errorf("cleared: %s", diff)
	}
	p.run(t, "runs", "show", id).ends(t, 0).tellsOut(t, "approved", "they have left", fmt.Sprintf("For 1 of them nothing was written: %d\n", users[0]))
	p.run(t, "runs", "approve", id, "--reason", "again").ends(t, 1, "waits for nobody", "it was approved at")
	for _, args := range [][]string{{"sweep"}, {"backfill"}, {"collect"}} {
		p.run(t, args...).ends(t, 0)
	}
	if diff := cmp.Diff(users[1:4], p.cleared(users)); diff != "" {
		t.Errorf("cleared in the end: %s", diff)
	}
}

// What is printed to be typed works: the run to approve is the one that keeps something, whichever run says so.
func TestTheRunToApproveIsTheOneThatKeepsWhatWaits(t *testing.T) {
	t.Parallel()
	p, users, rows := crowd(t, 5)
	p = p.strict()
	for _, row := range rows[:3] {
		p.DeleteParticipant(row)
	}
	p.run(t, "census").ends(t, 0)
	keeper := p.run(t, "census", "-o", "json").ends(t, 3).object(t)["run"].(string)[:8]
	approve := "Approve: namebridge runs approve " + keeper + ` --reason "…"`
	o := p.run(t, "sweep").ends(t, 3).tellsOut(t, "3 users are waiting in census "+keeper, approve)
	if !strings.HasPrefix(o.stdout, "QUARANTINED after ") || strings.Contains(o.stdout, "Done") || strings.Count(o.stdout, "runs approve") != 1 {
		t.Errorf("%s", o.stdout)
	}
	other := p.run(t, "sweep", "-o", "json").ends(t, 3).object(t)["run"].(string)[:8]
	p.run(t, "runs", "show", other).ends(t, 0).tellsOut(t, "QUARANTINED", "It keeps nothing itself.", approve)
	p.run(t, "runs", "approve", other, "--reason", "x").ends(t, 1, "waits for nobody itself", approve)
	if o := p.run(t, "runs", "list").ends(t, 0); strings.Contains(o.stdout, "overtaken") {
		t.Errorf("somebody waits still:\n%s", o.stdout)
	}

	// A plan says what a backfill would leave out, and lets it through itself.
	o = p.run(t, "plan").ends(t, 0).tellsOut(t, "QUARANTINED: a backfill leaves out who waits", approve, "it clears all of them: the guard is not asked")
	_, exactly, _ := strings.Cut(o.stdout, "Exactly: namebridge runs approve ")
	p.run(t, "runs", "show", exactly[:8]).ends(t, 0).tellsOut(t, "the guard (GUARD_MAX_CLEARS) is not asked")
	p.run(t, "runs", "approve", exactly[:8], "--reason", "they have left").ends(t, 0)
	if diff := cmp.Diff(users[:3], p.cleared(users)); diff != "" {
		t.Error(diff)
	}
	for _, id := range []string{keeper, other} {
		p.run(t, "runs", "show", id).ends(t, 0).tellsOut(t, "overtaken", "Overtaken: nothing that it was quarantined for is waiting now.")
	}
	for _, args := range [][]string{{"runs", "list"}, {"status"}} {
		if o := p.run(t, args...).ends(t, 0).tellsOut(t, "overtaken"); strings.Contains(strings.ToLower(o.stdout), "quarantined") {
			t.Errorf("nobody waits:\n%s", o.stdout)
		}
	}
	p.run(t, "runs", "approve", keeper, "--reason", "x").ends(t, 1, "waits for nobody: of what it has staged")
}

// Runs may wait side by side: who has approved one is not left thinking that all is done.
func TestApprovingOneRunSaysThatOthersWait(t *testing.T) {
	t.Parallel()
	p, _, rows := crowd(t, 4)
	p = p.strict()
	var ids []string
	for _, row := range rows[:3] {
		p.DeleteParticipant(row)
		p.run(t, "census")
		ids = append(ids, p.run(t, "census", "-o", "json").ends(t, 3).object(t)["run"].(string)[:8])
	}
	for i, want := range []string{"\n2 more runs wait for a person: namebridge status\n", "\n1 more run waits for a person: namebridge status\n", ""} {
		o := p.run(t, "runs", "approve", ids[i], "--reason", "they have left").tellsOut(t, "1 of 1 user let through.")
		if !strings.HasSuffix(o.stdout, want) || want == "" && strings.Contains(o.stdout, "for a person") {
			t.Errorf("approval %d does not end with %q:\n%s", i+1, want, o.stdout)
		}
	}
}

// A plan promises nothing that a backfill would not do.
func TestAPlanSaysWhatKeepsABackfillFromDoingIt(t *testing.T) {
	t.Parallel()
	p, users, _ := crowd(t, 2)
	p = p.strict()
	p.exec(t, `UPDATE links SET user_id = $2, rule = 'hand' WHERE user_id = $1`, users[0], users[1])
	p.run(t, "plan").ends(t, 0).tellsOut(t, "1 person would lose what they have, more than the guard", "a backfill stages them", "Do it:   namebridge backfill", "the guard is not asked")
	p.with(map[string]string{"GUARD_MAX_CLEARS": "1"}).run(t, "plan").ends(t, 0).lacks(t, "more than the guard")
	p.exec(t, `UPDATE bridges SET halted_at = now(), halt_reason = 'a key was lost'`)
	p.run(t, "plan").ends(t, 0).tellsOut(t, "HALTED since", "namebridge resume").lacks(t, "Do it:", "runs approve")
	if cleared := p.cleared(users); len(cleared) > 0 {
		t.Errorf("a plan has cleared %v", cleared)
	}
}

// lacks checks what stdout must not tell.
func (o outcome) lacks(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(o.stdout, text) {
			t.Errorf("stdout tells %q:\n%s", text, o.stdout)
		}
	}
}

// addBack makes a person known to NameCoach again.
func (p *place) addBack(key string, user int64) {
	p.AddParticipant(simulator.Participant{
		For: user, Kind: simulator.Recorded, Email: key + "@people.example", InstitutionID: key, EventAccessCode: "E2", EventTitle: "Staff",
		NameBadgeLink: "https://www.name-coach.com/" + key + "-again", RecordingLink: "https://namewaves.s3.amazonaws.com/" + key + ".mp3", RecordingID: "2",
	})
}

// A plan is a stored run: approving it does that, whatever else there would be to do by now.
func TestApprovingAPlanCarriesOutThatPlan(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	planned := []int64{p.addPerson("S-1"), p.addPerson("S-2")}
	o := p.run(t, "plan").ends(t, 0)
	_, rest, found := strings.Cut(o.stdout, "namebridge runs approve ")
	if !found {
		t.Fatalf("a plan does not say how it is approved:\n%s", o.stdout)
	}
	id := strings.Fields(rest)[0]
	later := p.addPerson("S-3")
	object := p.run(t, "runs", "approve", id, "--reason", "looked through", "--output", "json").ends(t, 0).object(t)
	if diff := cmp.Diff(slices.Sorted(slices.Values(append(slices.Clone(resultKeys), "approved", "left_out"))), keys(object)); diff != "" {
		t.Error(diff)
	}
	if object["kind"] != "plan" || object["status"] != "done" || object["approved"] != 2.0 || object["written"] != 2.0 || len(object["left_out"].([]any)) != 0 {
		t.Errorf("%v", object)
	}
	if diff := cmp.Diff([]int64{later}, p.cleared(append(planned, later))); diff != "" {
		t.Errorf("not written: %s", diff)
	}
	p.run(t, "runs", "show", id).ends(t, 0).tellsOut(t, "approved", "written 2", "2 writes: verified 2")
	p.run(t, "backfill").ends(t, 0)
	for _, m := range p.Mismatches(5) {
		t.Error(m)
	}
}

func TestOnlyWhatWaitsForAPersonCanBeApproved(t *testing.T) {
	t.Parallel()
	p, _, _ := crowd(t, 2)
	id := p.run(t, "sweep", "-o", "json").ends(t, 0).object(t)["run"].(string)
	p.run(t, "runs", "approve", id, "--reason", "x").ends(t, 1, "waits for nobody", "it has staged nothing")
	plan := p.run(t, "plan", "-o", "json").ends(t, 0).object(t)["run"].(string)
	p.run(t, "runs", "approve", plan, "--reason", "x").ends(t, 1, "it has staged nothing")
	p.addPerson("S-9")
	plan = p.run(t, "plan", "-o", "json").ends(t, 0).object(t)["run"].(string)
	p.exec(t, `UPDATE bridges SET halted_at = now(), halt_reason = 'a key was lost'`)
	p.run(t, "runs", "approve", plan, "--reason", "x").ends(t, 3, "HALTED since", "a key was lost", "namebridge resume")
	p.run(t, "resume", "--reason", "seen to").ends(t, 0)
	p.run(t, "backfill").ends(t, 0)
	p.run(t, "runs", "approve", plan, "--reason", "x").ends(t, 1, "waits for nobody", "nothing is wanted any more as it was")
	p.exec(t, `UPDATE runs SET status = 'running', phase = 'read' WHERE run = $1`, plan)
	p.run(t, "runs", "approve", plan, "--reason", "x").ends(t, 1, "it is not over yet")
}

// What a person decides about a hold is written at once where both APIs can be asked.
func TestLinkingAndReleasingByHandWriteAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	p.addPerson("S-1")
	user := p.AddUser(simulator.NewUser{Username: "unlike@people.example", FirstName: "A", LastName: "B"})
	p.AddParticipant(simulator.Participant{
		For: user, Kind: simulator.Recorded, Email: "other@people.example", InstitutionID: "X-1", EventAccessCode: "E1", EventTitle: "Staff",
		NameBadgeLink: "https://www.name-coach.com/x-1", RecordingLink: "https://namewaves.s3.amazonaws.com/x-1.mp3", RecordingID: "1",
	})
	p.run(t, "backfill").ends(t, 0)
	if p.Mismatch(user) == "" {
		t.Fatal("somebody was linked whom no rule links")
	}
	reader := p.with(map[string]string{"NAMECOACH_TOKEN": ""})
	reader.run(t, "holds", "link", "other@people.example", fmt.Sprint(user), "--reason", "HR says so").ends(t, 0).tellsOut(t, "now: namebridge collect")
	if p.Mismatch(user) == "" {
		t.Fatal("it was written without an account")
	}
	p.run(t, "holds", "link", "other@people.example", fmt.Sprint(user), "--reason", "HR says so").ends(t, 0).tellsOut(t, "Done: 1 user written.")
	if m := p.Mismatch(user); m != "" {
		t.Error(m)
	}

	// A record that could not be written is tried again when somebody has mended it.
	sick := p.AddUser(simulator.NewUser{Username: "sick@people.example", ExternalID: "S-2", OtherInfo: `{"birthYear": 1801}`})
	p.AddParticipant(simulator.Participant{
		For: sick, Kind: simulator.Recorded, Email: "sick@people.example", InstitutionID: "S-2", EventAccessCode: "E1", EventTitle: "Staff",
		NameBadgeLink: "https://www.name-coach.com/s-2", RecordingLink: "https://namewaves.s3.amazonaws.com/s-2.mp3", RecordingID: "3",
	})
	p.run(t, "backfill").ends(t, 0)
	who := fmt.Sprint("user:", sick)
	p.run(t, "holds", "release", who).ends(t, 0).tellsOut(t, "held as unwritable, is tried again", "Done: nothing had to be written.", "was tried again and stays held as unwritable")
	if err := p.EditOtherInfo(sick, "birthYear", "1990"); err != nil {
		t.Fatal(err)
	}
	p.run(t, "holds", "release", who).ends(t, 0).tellsOut(t, "held as unwritable, is tried again", "Done: 1 user written.")
	if p.cleared([]int64{sick}) != nil {
		t.Errorf("it is not there: %s", p.UserOtherInfo(sick))
	}
}
