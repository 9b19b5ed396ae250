package sync_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"namebridge/bln"
	"namebridge/internal/simulator"
	"namebridge/namecoach"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// answering gives requests another answer than the server's: the status, with an empty body, where it is not 0.
type answering func(*http.Request) int

func (f answering) RoundTrip(r *http.Request) (*http.Response, error) {
	status := f(r)
	if status == 0 {
		return http.DefaultTransport.RoundTrip(r)
	}
	answer := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: r}
	if status == http.StatusTooManyRequests {
		answer.Header.Set("Retry-After", "1")
	}
	return answer, nil
}

// searching is a bridge whose searches in NameCoach are answered by f where it says anything.
func (w *world) searching(t *testing.T, f func(asked string) (status int, body string)) *bridgesync.Bridge {
	t.Helper()
	b := w.bridge(t)
	n, err := namecoach.New(namecoach.Options{BaseURL: w.NameCoachURL(), Token: w.Token(), RequestsPer15Minutes: 1_000_000, Transport: searched(f)})
	if err != nil {
		t.Fatal(err)
	}
	b.NameCoach = n
	return b
}

type searched func(asked string) (status int, body string)

func (f searched) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(r.URL.Path, "/search") {
		return http.DefaultTransport.RoundTrip(r)
	}
	asked, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(asked))
	status, body := f(string(asked))
	if status == 0 {
		return http.DefaultTransport.RoundTrip(r)
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// undated is a server that does not tell the time.
type undated struct{}

func (undated) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		answer.Header.Del("Date")
	}
	return answer, err
}

func collects(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) {
	return b.Collect(ctx)
}

func censuses(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) {
	return b.Census(ctx)
}

// silenced is how many of users have lost their recording.
func (w *world) silenced(t *testing.T, users []int64) (n int) {
	t.Helper()
	for _, id := range users {
		if w.fragment(t, id)["recording_link"] == nil {
			n++
		}
	}
	return n
}

// What a person is to decide on is not decided by something else that changes, nor by a wider guard.
func TestRemovalsThatWaitForAPersonWaitWhateverElseHappens(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 12, simulator.Options{})
	w.settings.Guard = bridgesync.Guard{MaxClears: 3, MaxClearPercent: 2}
	w.settled(func() {
		for _, row := range rows[:5] {
			w.RemoveRecording(row)
		}
	})
	w.run(t, state.Quarantined, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Collect(t.Context()) })
	w.settled(func() {
		for _, row := range rows[:5] {
			w.rename(row, "Staff 2026")
		}
	})
	res := w.run(t, state.Quarantined, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Collect(t.Context()) })
	w.settings.Guard.MaxClears = 1000
	w.run(t, state.Quarantined, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Sweep(t.Context()) })
	if n := w.silenced(t, users); n > 0 {
		t.Fatalf("%d recordings were taken away that nobody has approved", n)
	}
	if approved, a, err := w.bridge(t).Approve(t.Context(), res.Run, "they left"); err != nil || approved.Status != state.Done || approved.Written != 5 || a.Steps != 5 {
		t.Errorf("%+v, %+v, %v; want five written", approved, a, err)
	}
	w.right(t)
}

// Removals are judged with the run that wants them, and as a whole: a collect that ends meanwhile lets no part of them through.
func TestACollectLetsNoPartOfASweepsRemovalsThrough(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 12, simulator.Options{})
	w.settings.Guard = bridgesync.Guard{MaxClears: 5, MaxClearPercent: 2}
	w.earlier(48*time.Hour, func() {
		for _, row := range rows[:8] {
			w.RemoveRecording(row)
		}
	})
	w.plan(t)
	// A sweep that is deciding: four of its eight removals are stored.
	sweep := uuid.New()
	w.exec(t, `INSERT INTO runs (bridge, run, kind, status, phase, priority, hosted) VALUES ('default', $1, 'sweep', 'running', 'decide', 3, gen_random_uuid())`, sweep)
	w.exec(t, `UPDATE directory_users SET wanted_run = $1, urgency = 3, decide_due = false WHERE user_id = ANY($2)`, sweep, users[:4])
	w.exec(t, `UPDATE directory_users SET wanted_version = applied_version, decide_due = false WHERE user_id = ANY($1)`, users[4:8])
	w.settled(func() { w.rename(rows[11], "Faculty") })
	if res := w.collect(t); res.Written != 1 {
		t.Errorf("%+v", res)
	}
	if released := value[int](t, w, `SELECT count(*) FROM directory_users WHERE removes AND released_version = wanted_version`); released+w.silenced(t, users) > 0 {
		t.Errorf("%d removals were let through, %d carried out", released, w.silenced(t, users))
	}
}

// What a run wanted that was interrupted before it was judged can be let through with a later run, and hinders no approval of another.
func TestRemovalsOfAnInterruptedRunCanStillBeApproved(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 20, simulator.Options{})
	w.settings.Guard = bridgesync.Guard{MaxClears: 3, MaxClearPercent: 2}
	removed := func(rows []int64) {
		w.settled(func() {
			for _, row := range rows {
				w.RemoveRecording(row)
			}
		})
	}
	removed(rows[:5])
	first := w.run(t, state.Quarantined, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Collect(t.Context()) })
	removed(rows[5:10])
	w.settled(func() { w.rename(rows[19], "Faculty") })
	w.interrupted(t, "bln users.get", 1, collects)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if res, _, err := w.bridge(t).Approve(ctx, first.Run, "the first five"); err != nil || res.Written != 5 {
		t.Fatalf("%+v, %v", res, err)
	}
	if n := w.silenced(t, users[5:]); n > 0 {
		t.Errorf("%d were let through with another run", n)
	}
	second := w.run(t, state.Quarantined, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Sweep(t.Context()) })
	if res, _, err := w.bridge(t).Approve(t.Context(), second.Run, "the other five"); err != nil || res.Status != state.Done {
		t.Errorf("%+v, %v", res, err)
	}
	w.right(t)
}

// A plan does nothing: neither what the next collect would have written, nor what one has begun, is left out for it.
func TestAPlanKeepsNoCollectFromWriting(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*testing.T, *world, []int64){
		"what changed since the last collect": func(*testing.T, *world, []int64) {},
		"what a collect had begun": func(t *testing.T, w *world, rows []int64) {
			w.settled(func() { w.rename(rows[0], "Faculty") })
			w.interrupted(t, "bln users.get", 1, collects)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, users, rows := chorus(t, 3, simulator.Options{})
			before(t, w, rows)
			w.settled(func() {
				w.UpdateParticipant(rows[0], func(p *simulator.Participant) { p.RecordingID = "recording_new" })
			})
			w.plan(t)
			w.collect(t)
			if got := says(w.fragment(t, users[0]), "recording_id"); got != "recording_new" {
				t.Errorf("after a plan and a collect: %s", got)
			}
			w.right(t)
		})
	}
}

// What nobody works for any more is taken over by the next run that looks at everybody, of whatever kind: done means that nothing is left.
func TestWhatAKilledRunWantedIsWrittenByTheNextOfAnyKind(t *testing.T) {
	t.Parallel()
	w, _, rows := chorus(t, 12, simulator.Options{})
	for _, row := range rows {
		w.rename(row, "Faculty")
	}
	w.plan(t) // decides on everybody
	sweep := uuid.New()
	w.exec(t, `INSERT INTO runs (bridge, run, kind, status, phase, priority, hosted) VALUES ('default', $1, 'sweep', 'running', 'write', 3, gen_random_uuid())`, sweep)
	w.exec(t, `UPDATE directory_users SET wanted_run = $1, urgency = 3, decide_due = false WHERE wanted_version > applied_version`, sweep)
	w.backfill(t)
	w.right(t)
	if n := value[int](t, w, `SELECT count(*) FROM directory_users WHERE wanted_version > applied_version`); n > 0 {
		t.Errorf("%d users are pending", n)
	}
}

// Rows of runs as the version before this one stored them, without a phase, stop nobody.
func TestARunThatAFormerVersionLeftIsNoHindrance(t *testing.T) {
	t.Parallel()
	w, _, rows := chorus(t, 3, simulator.Options{})
	w.exec(t, `INSERT INTO runs (bridge, run, kind, status) VALUES ('default', gen_random_uuid(), 'collect', 'running')`)
	w.settled(func() { w.rename(rows[0], "Faculty") })
	w.collect(t)
	w.right(t)
}

// An answer that is refused is no evidence: who was absent once and could not be asked about since was absent once.
func TestARefusedQuestionIsNoSecondAbsence(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 5, simulator.Options{})
	w.rude = true
	w.DeleteParticipant(rows[0])
	w.earlier(48*time.Hour, func() { w.rename(rows[4], "Faculty") })
	w.interrupted(t, "bln users.get", 1, censuses)
	w.AddParticipant(speaker("u0", "u000@demo.example", "", users[0]))
	b := w.searching(t, func(asked string) (int, string) {
		if strings.Contains(asked, "u000@") {
			return http.StatusUnprocessableEntity, `{"message":"no"}`
		}
		return 0, ""
	})
	if res, err := b.Census(t.Context()); err != nil || res.Cleared != 0 || w.fragment(t, users[0]) == nil {
		t.Errorf("%+v, %v", res, err)
	}
	w.sweep(t) // what the interrupted census has left may be so still: another is not about it
	w.right(t)
}

// NameCoach's search may tell spellings apart: a census asks in the one that stands there now, white space and all.
func TestACensusFindsWhoIsSpelledInAnotherWay(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{EmailCaseSensitiveSearch: true})
	ada, bob, eve := w.user("ada@demo.example", ""), w.user("bob@demo.example", "S-2"), w.user("eve@demo.example", "")
	respelled := w.AddParticipant(speaker("ada", "Ada@Demo.Example", "", ada))
	w.AddParticipant(speaker("bob", "", " S-2", bob))
	w.AddParticipant(speaker("eve", "eve@demo.example ", "", eve))
	w.backfill(t)
	w.settled(func() {
		w.UpdateParticipant(respelled, func(p *simulator.Participant) { p.Email = "ada@demo.example" })
	})
	w.collect(t)
	w.census(t, state.Done)
	if res := w.census(t, state.Done); res.Cleared != 0 || res.Linked != 3 {
		t.Errorf("%+v", res)
	}
	w.right(t)
}

// One whom BLN cannot show just now keeps no sweep from all the others.
func TestAUserWhoCannotBeAuditedKeepsNobodyElseWaiting(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 12, simulator.Options{ListRows: simulator.Partial})
	w.exec(t, `UPDATE directory_users SET audit_at = now() - user_id * interval '1 s' WHERE user_id = $1`, users[0])
	w.earlier(48*time.Hour, func() { w.rename(rows[5], "Faculty") })
	path := fmt.Sprintf("/users/%d", users[0])
	var asked atomic.Int64
	b := w.process(t, w.BLNURL(), w.db, answering(func(r *http.Request) int {
		if strings.HasSuffix(r.URL.Path, path) {
			asked.Add(1)
			return http.StatusBadRequest
		}
		return 0
	}))
	if res, err := b.Sweep(t.Context()); err != nil || res.Linked != 12 || asked.Load() != 1 {
		t.Errorf("%+v, %v; asked %d times", res, err, asked.Load())
	}
	asked.Store(0)
	if res, err := b.Sweep(t.Context()); err != nil || asked.Load() != 0 {
		t.Errorf("%+v, %v; asked again %d times", res, err, asked.Load())
	}
}

// A server that wants to be left alone for a while says nothing about any user: it costs nobody a try.
func TestAPauseOfBLNCountsAsNobodysFailure(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(20)
	var n atomic.Int64
	b := w.bridge(t)
	c, err := bln.New(bln.Options{
		BaseURL: w.BLNURL(), OrganizationID: w.OrganizationID(), Username: w.Username(), Password: w.Password(),
		PerSecond: 100_000, Concurrency: 8, Patience: 100 * time.Millisecond, Transport: answering(func(r *http.Request) int {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/users/") && n.Add(1) == 10 {
				return http.StatusTooManyRequests
			}
			return 0
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.BLN = c
	w.exec(t, `ALTER TABLE directory_users ADD CHECK (attempts = 0)`)
	if res, err := b.Backfill(t.Context(), time.Time{}); err != nil || res.Written != 20 || res.Failed != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	w.right(t)
}

// A question that fails is not answered because another question's answer was not whole.
func TestWhoWasNotAnsweredAboutIsAskedAboutAgain(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "S-1")
	w.user("bob@demo.example", "S-2")
	if _, err := w.bridge(t).Backfill(t.Context(), time.Now().Add(-time.Hour)); err != nil { // which never looks further back
		t.Fatal(err)
	}
	w.AddParticipant(speaker("ada", "ada@demo.example", "", ada)) // a year ago
	b := w.searching(t, func(asked string) (int, string) {
		switch {
		case strings.Contains(asked, "bob@"):
			return http.StatusOK, `{"Response":{"participants":[],"meta":{"total_count":5,"total_pages":1,"page":1}}}`
		case strings.Contains(asked, "ada@"):
			return http.StatusForbidden, `{"message":"no"}`
		}
		return 0, ""
	})
	if res, err := b.Sweep(t.Context()); err == nil {
		t.Errorf("a sweep that was refused an answer: %+v", res)
	}
	w.sweep(t)
	w.right(t)
	if w.fragment(t, ada) == nil {
		t.Error("somebody counts as asked about who was not")
	}
}

// A NameCoach that does not tell its time, and a clock that is ahead of it: what changes after the cursor is read all the same.
func TestACursorAheadOfAServerWithoutAClockMissesNothing(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{ClockOffset: -90 * time.Second})
	ada := w.user("ada@demo.example", "")
	row := w.AddParticipant(speaker("ada", "ada@demo.example", "", ada))
	w.settings.Lookback = time.Minute
	collect := func() {
		t.Helper()
		b := w.bridge(t)
		n, err := namecoach.New(namecoach.Options{BaseURL: w.NameCoachURL(), Token: w.Token(), RequestsPer15Minutes: 1_000_000, Transport: undated{}})
		if err != nil {
			t.Fatal(err)
		}
		b.NameCoach = n
		if res, err := b.Collect(t.Context()); err != nil {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	w.backfill(t)
	collect()
	w.UpdateParticipant(row, func(p *simulator.Participant) { p.RecordingID = "recording_new" })
	w.Advance(5 * time.Minute)
	collect()
	collect()
	if got := says(w.fragment(t, ada), "recording_id"); got != "recording_new" {
		t.Errorf("never read: %s", got)
	}
}

// A step of a run on a halted bridge puts back what a write has damaged, and keeps nobody claimed for it.
func TestAHaltedBridgeKeepsNobodyClaimed(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 1})
	w.rude = true
	ada := w.user("ada@acme.edu", "S-1")
	row := w.AddParticipant(speaker("ada", "ada@acme.edu", "S-1", ada))
	w.backfill(t)
	// A process died after a PUT that lost a foreign key; another write has halted the bridge already.
	run := uuid.New()
	for _, sql := range []string{
		fmt.Sprintf(`INSERT INTO journal (bridge, run, user_id, fence, action, state, before, after_fragment, version)
			SELECT 'default', '%s', %d, fence, 'write', 'sending', convert_to('{"jobTitle":"Welder","Cohort":"2024","Lost":"x"}', 'UTF8'), convert_to('{}', 'UTF8'), 1 FROM directory_users WHERE user_id = %d`, run, ada, ada),
		`UPDATE bridges SET halted_at = now(), halt_reason = 'test'`,
		fmt.Sprintf(`INSERT INTO runs (bridge, run, kind, status, phase, priority) VALUES ('default', '%s', 'sweep', 'running', 'link', 3)`, run),
		fmt.Sprintf(`INSERT INTO river_job (kind, args, queue, priority, max_attempts, state) VALUES ('link_people', '{"bridge":"default","run":"%s"}', 'default', 3, 12, 'available')`, run),
	} {
		w.exec(t, sql)
	}
	w.settings.Schedules = ticks(map[state.Kind]time.Duration{state.Collect: time.Second})
	d := serve(t, w.bridge(t))
	d.ready(t)
	eventually(t, patience, func() string {
		r, err := state.GetRun(t.Context(), w.db, "default", run)
		if err != nil || r.Status == state.Running {
			return fmt.Sprint("running ", err)
		}
		return ""
	})
	if err := state.Resume(t.Context(), w.db, "default", "looked at"); err != nil {
		t.Fatal(err)
	}
	w.settled(func() {
		w.UpdateParticipant(row, func(p *simulator.Participant) {
			p.RecordingID, p.RecordingLink = "recording_new", "https://namewaves.s3.amazonaws.com/new.mp3"
		})
	})
	eventually(t, patience, func() string {
		if id := says(w.fragment(t, ada), "recording_id"); id != "recording_new" {
			var owner *uuid.UUID
			var wanted, applied int64
			_ = w.db.QueryRow(t.Context(), `SELECT claim_owner, wanted_version, applied_version FROM directory_users WHERE user_id = $1`, ada).Scan(&owner, &wanted, &applied)
			return fmt.Sprintf("still %s; claim_owner %v, wanted %d, applied %d", id, owner, wanted, applied)
		}
		return ""
	})
}

// What is staged of answers that break off counts for nothing, and does not pile up while a process lives.
func TestRowsOfBrokenAnswersAreNotKept(t *testing.T) {
	t.Parallel()
	const rows, broken = 2500, 2
	// Each reading breaks off in its second page, when the rows of the first are staged.
	w := start(t, simulator.Options{MaxPerPage: 1100, OnRequest: func(s *simulator.Simulator, endpoint string, n int) {
		if endpoint == "namecoach participants.list" && n <= 2*broken+1 {
			s.Change(func(o *simulator.Options) { o.Faults.PTruncate = float64((n + 1) % 2) })
		}
	}})
	for i := range rows {
		w.AddParticipant(voice("somebody", fmt.Sprintf("u%d@elsewhere.example", i), 0))
	}
	w.settings.Schedules = ticks(map[state.Kind]time.Duration{state.Collect: time.Second})
	s := serve(t, w.bridge(t))
	s.ready(t)
	eventually(t, patience, func() string {
		if n := value[int](t, w, `SELECT count(*) FROM participants`); n < rows {
			return fmt.Sprintf("%d of %d rows are known", n, rows)
		}
		return ""
	})
	s.stop()
	if n := value[int](t, w, `SELECT count(*) FROM staged_participants`); n > 0 {
		t.Errorf("%d rows are staged still", n)
	}
}
