package sync_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/simulator"
	"namebridge/namecoach"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// replaced is a row that NameCoach gives another badge, and so another identity, with a new recording.
func replaced(t *testing.T) *world {
	t.Helper()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "")
	row := w.AddParticipant(speaker("ada-1", "ada@demo.example", "", ada))
	w.backfill(t)
	w.settled(func() {
		w.UpdateParticipant(row, func(p *simulator.Participant) {
			p.NameBadgeLink, p.RecordingLink, p.RecordingID = "https://www.name-coach.com/ada-2", "https://namewaves.s3.amazonaws.com/2.mp3", "recording_2"
		})
	})
	return w
}

func TestARowWithANewBadgeReplacesTheOldOne(t *testing.T) {
	t.Parallel()
	t.Run("collect asks about the person", func(t *testing.T) {
		t.Parallel()
		w := replaced(t)
		res, err := w.bridge(t).Collect(t.Context())
		if err != nil || res.Participants != 1 || res.Written != 1 {
			t.Errorf("%+v, %v", res, err)
		}
		w.right(t)
		if n := w.asked("namecoach participants.search"); n != 2 {
			t.Errorf("%d searches, want one, and one more about who is not shown", n)
		}
		w.collect(t) // and asks no more
	})
	t.Run("backfill sees it without asking", func(t *testing.T) {
		t.Parallel()
		w := replaced(t)
		if res := w.backfill(t); res.Participants != 1 || res.Written != 1 {
			t.Errorf("%+v", res)
		}
		w.right(t)
	})
}

// The fear is the wrong person's voice: a row whose address was corrected takes its voice along.
func TestAVoiceThatMovedToSomebodyElseIsCleared(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(*testing.T, *world){
		"collect": func(t *testing.T, w *world) {
			if _, err := w.bridge(t).Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"backfill": func(t *testing.T, w *world) { w.backfill(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			ada, bob := w.user("ada@demo.example", ""), w.user("bob@demo.example", "")
			row := w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
			w.backfill(t)
			w.settled(func() {
				w.correct(row, "bob@demo.example", bob)
			})
			do(t, w)
			w.right(t)
		})
	}
}

// forgetting answers the first n searches as if nobody had been found; asked counts all.
func (w *world) forgetting(t *testing.T, n int64) (b *bridgesync.Bridge, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	return w.searching(t, func(string) (int, string) {
		if asked.Add(1) > n {
			return 0, ""
		}
		return http.StatusOK, `{"Response":{"meta":{"page":"1","per_page":"2000","total_pages":0,"total_count":0,"count":0},"participants":[]}}`
	}), asked
}

// Rule 5: nobody is cleared because one answer did not mention them, also where somebody new has the same recording.
func TestOneAnswerThatLeavesSomebodyOutClearsNobody(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	private, work := w.user("ada@home.example", ""), w.user("ada@demo.example", "")
	w.AddParticipant(speaker("ada", "ada@home.example", "", private))
	w.backfill(t)
	w.settled(func() { // one voice at two addresses
		p := speaker("ada", "ada@demo.example", "", work)
		p.Updated = time.Time{}
		w.AddParticipant(p)
	})
	b, asked := w.forgetting(t, 1)
	if res, err := b.Collect(t.Context()); err != nil || res.Cleared != 0 || res.Written != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("%d questions, want one more about who was left out", n)
	}
	w.right(t)
}

// A page that an event has for everybody says of nobody that their row was corrected, whatever any answer leaves out.
func TestPeopleWhoShareABadgeLinkTakeNobodysPlace(t *testing.T) {
	t.Parallel()
	for name, recorded := range map[string]bool{"with a recording each": true, "without recordings": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			attend := func(slug string) int64 {
				email := slug + "@demo.example"
				p := speaker(slug, email, "", w.user(email, ""))
				p.NameBadgeLink = "https://www.name-coach.com/the-event"
				if !recorded {
					p.RecordingLink, p.RecordingID = "", ""
				}
				p.Updated = time.Time{}
				return w.AddParticipant(p)
			}
			w.earlier(48*time.Hour, func() { attend("ada"); attend("bob") })
			w.backfill(t)
			w.settled(func() { attend("carol") })
			b, asked := w.forgetting(t, 100)
			if res, err := b.Collect(t.Context()); err != nil || res.Cleared != 0 || res.Written != 1 || asked.Load() != 0 {
				t.Errorf("%+v, %v, and %d questions", res, err, asked.Load())
			}
			w.right(t)
		})
	}
}

// Where nobody else has it, a badge link that is at another address now was corrected: what is recorded there later would be heard here.
func TestABadgeWithoutARecordingThatMovedToSomebodyElseIsCleared(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada, bob := w.user("ada@demo.example", ""), w.user("bob@demo.example", "")
	p := speaker("x", "ada@demo.example", "", ada)
	p.RecordingLink, p.RecordingID = "", ""
	row := w.AddParticipant(p)
	w.backfill(t)
	w.settled(func() {
		w.correct(row, "bob@demo.example", bob)
	})
	if res, err := w.bridge(t).Collect(t.Context()); err != nil || res.Cleared != 1 || res.Written != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	w.right(t)
}

// Who was missing before the row came that has their voice is asked about all the same.
func TestAVoiceThatMovedIsClearedAlsoWhereACensusHadMissedItBefore(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada, bob := w.user("ada@demo.example", ""), w.user("bob@demo.example", "")
	row := w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
	w.backfill(t)
	w.settled(func() {
		w.correct(row, "bob@demo.example", bob)
	})
	w.census(t, state.Done)
	if w.fragment(t, ada) == nil {
		t.Error("cleared by one census")
	}
	if res, err := w.bridge(t).Collect(t.Context()); err != nil || res.Cleared != 1 || res.Written != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	w.right(t)
}

// Rule 3.5: what a whole walk did not bring stays, for absence is not evidence.
func TestARowThatIsGoneClearsNobody(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "")
	row := w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
	w.backfill(t)
	before := w.UserOtherInfo(ada)
	w.DeleteParticipant(row)
	if res := w.backfill(t); res.Cleared != 0 || res.Written != 0 || res.Participants != 1 || res.Linked != 1 {
		t.Errorf("%+v", res)
	}
	if got := w.UserOtherInfo(ada); got != before {
		t.Errorf("now %s", got)
	}
	// It comes back, and speaks again.
	w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
	if res := w.backfill(t); res.Participants != 1 {
		t.Errorf("%+v", res)
	}
	w.right(t)
}

// Traps 36, 37: created shows seconds, the order has fractions.
func TestAListWhoseOrderIsHiddenEndsAtItsNewestUser(t *testing.T) {
	t.Parallel()
	for _, link := range []bool{false, true} {
		w := start(t, simulator.Options{Seed: 65, Users: 90, HiddenFractions: true, LinkHeader: link})
		if _, err := w.bridge(t).Backfill(t.Context(), time.Time{}); err != nil {
			t.Fatalf("link header %v: %v", link, err)
		}
		w.right(t)
	}
}

// A corrected institution id makes another row of the same person: whoever the old one named must not keep the voice.
func TestAVoiceWhoseInstitutionIDWasCorrectedIsClearedWhereItWas(t *testing.T) {
	t.Parallel()
	for _, incremental := range []bool{false, true} {
		w := start(t, simulator.Options{})
		wrong, right := w.user("wrong@demo.example", "A"), w.user("right@demo.example", "B")
		row := w.AddParticipant(speaker("x", "someone@elsewhere.example", "A", wrong))
		w.backfill(t)
		w.settled(func() {
			w.UpdateParticipant(row, func(p *simulator.Participant) { p.InstitutionID, p.For = "B", right })
		})
		if incremental {
			if _, err := w.bridge(t).Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else if res := w.backfill(t); res.Cleared != 1 {
			t.Errorf("%+v", res)
		}
		w.right(t)
	}
}

// Nor does one absence take a recording away from somebody who has other rows: in another event, or a twin in the same.
func TestARowThatIsGoneSpeaksOnBesideOthers(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{"another event": "Z", "the same event": "A"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			ada := w.user("ada@demo.example", "")
			recorded := speaker("x", "ada@demo.example", "", ada)
			recorded.EventAccessCode = "A"
			other := speaker("y", "ada@demo.example", "", ada)
			other.EventAccessCode, other.RecordingLink, other.RecordingID = code, "", ""
			row := w.AddParticipant(recorded)
			w.AddParticipant(other)
			w.backfill(t)
			w.backfill(t) // both were seen before, and together
			before := w.UserOtherInfo(ada)
			w.DeleteParticipant(row)
			if res := w.backfill(t); res.Cleared != 0 || res.Written != 0 {
				t.Errorf("%+v", res)
			}
			if got := w.UserOtherInfo(ada); got != before {
				t.Errorf("was %s, now %s", before, got)
			}
		})
	}
}

// What another walk has seen meanwhile is not missing from this one.
func TestAPlanBetweenTwoPartsOfABackfillMakesNoRowMissing(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{TruncateRows: 1})
	ada := w.user("ada@demo.example", "")
	w.AddParticipant(speaker("ada", "ada@demo.example", "", ada)) // with the recording, 2024-06
	other := speaker("ada-2", "ada@demo.example", "", ada)
	other.EventAccessCode, other.EventSlug, other.RecordingLink, other.RecordingID = "OTHER", "other", "", ""
	other.Updated = time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC)
	w.AddParticipant(other)
	w.backfill(t)
	w.right(t)
	before := w.UserOtherInfo(ada)

	ctx, cancel := context.WithCancel(t.Context())
	w.Change(func(o *simulator.Options) {
		o.OnNameCoachPage = func(*simulator.Simulator, int) {
			var n int
			_ = w.db.QueryRow(t.Context(), `SELECT count(*) FROM participants WHERE seen_run = (SELECT run FROM runs WHERE kind = 'backfill' AND status = 'running')`).Scan(&n)
			if n == 1 {
				cancel()
			}
		}
	})
	if _, err := w.bridge(t).Backfill(ctx, time.Time{}); err == nil {
		t.Fatal("it was to be interrupted")
	}
	w.Change(func(o *simulator.Options) { o.OnNameCoachPage = nil })
	w.plan(t)
	res := w.backfill(t)
	if res.Participants != 2 || res.Written != 0 || res.Cleared != 0 || w.UserOtherInfo(ada) != before {
		t.Errorf("nothing changed on NameCoach, and yet: %+v\nwas %s\nnow %s", res, before, w.UserOtherInfo(ada))
	}
	w.right(t)
}

// Postgres empties the table of staged rows when it recovers from a crash.
func TestAWindowWhoseStagedRowsAreLostIsReadAgain(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 5, Users: 300, MaxPerPage: 50})
	once := sync.OnceFunc(func() {
		if _, err := w.db.Exec(t.Context(), `TRUNCATE staged_participants`); err != nil { // what crash recovery does
			t.Error(err)
		}
	})
	w.Change(func(o *simulator.Options) {
		o.OnNameCoachPage = func(_ *simulator.Simulator, page int) {
			if page == 4 {
				once()
			}
		}
	})
	truth := w.Truth().Totals
	res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
	if err == nil && res.Participants != truth.Participants {
		t.Errorf("status %s with %d of %d participants; cursor %v", res.Status, res.Participants, truth.Participants, w.cursor(t))
	}
}

// Pacing may hold a request for minutes: what was touched between making the end of the edge and its answer is in no window.
func TestARowTouchedWhileTheNewestEdgeIsReadIsNotGone(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "")
	row := w.AddParticipant(speaker("ada", "ada@demo.example", "", ada))
	other := speaker("ada-2", "ada@demo.example", "", ada)
	other.EventAccessCode, other.RecordingLink, other.RecordingID = "OTHER", "", ""
	w.AddParticipant(other)
	w.backfill(t)
	w.right(t)
	var n atomic.Int64
	w.Change(func(o *simulator.Options) {
		o.OnNameCoachPage = func(s *simulator.Simulator, _ int) {
			i := n.Add(1)
			if i > 2 {
				return
			}
			if i == 2 { // the tail's request: three seconds passed before it was answered
				s.Change(func(o *simulator.Options) { o.ClockOffset += 3 * time.Second })
			}
			s.UpdateParticipant(row, func(*simulator.Participant) {})
		}
	})
	res := w.backfill(t)
	if res.Participants != 2 || res.Written != 0 {
		t.Errorf("%+v\n%s", res, w.UserOtherInfo(ada))
	}
}

// Trap 24.
func TestAnAddressThatCannotBeAskedForIsNotTakenForAbsent(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("a,b@demo.example", "")
	w.AddParticipant(speaker("ada", "a,b@demo.example", "", ada))
	w.backfill(t)
	w.right(t)
	w.settled(func() {
		p := speaker("ada-2", "a,b@demo.example", "", ada)
		p.RecordingLink, p.RecordingID, p.Updated = "", "", time.Time{}
		w.AddParticipant(p)
	})
	res, err := w.bridge(t).Collect(t.Context())
	if err != nil || res.Participants != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	w.right(t)
}

// Trap 27b: search may tell capitals apart.
func TestRowsOfAnotherSpellingAreAskedForByIt(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{EmailCaseSensitiveSearch: true})
	ada := w.user("ada@demo.example", "")
	w.AddParticipant(speaker("ada", "ada@demo.example", "", ada))
	w.backfill(t)
	w.settled(func() {
		p := speaker("ada-2", "Ada@Demo.example", "", ada)
		p.RecordingLink, p.RecordingID, p.Updated = "", "", time.Time{}
		w.AddParticipant(p)
	})
	res, err := w.bridge(t).Collect(t.Context())
	if err != nil || res.Participants != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	w.right(t)
}

func TestARowOfAnotherEventReplacesNobody(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.settings.Events = []string{"STAFF"}
	ada := w.user("ada@demo.example", "")
	row := w.AddParticipant(speaker("ada", "ada@demo.example", "", ada))
	other := speaker("ada-2", "ada@demo.example", "", ada)
	other.EventAccessCode = "OTHER"
	w.AddParticipant(other)
	w.backfill(t)
	w.DeleteParticipant(row) // one walk does not show it
	res := w.backfill(t)
	if res.Cleared != 0 {
		t.Errorf("cleared after one answer that did not mention it: %+v %s", res, w.UserOtherInfo(ada))
	}
}

func TestRowsOfEventsThatDoNotCountAreNotAskedAbout(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.settings.Events = []string{"STAFF"}
	for _, slug := range []string{"x-1", "x-2"} {
		p := speaker(slug, "bob@demo.example", "", 0)
		p.EventAccessCode = "OTHER"
		w.AddParticipant(p)
	}
	ada := w.user("ada@demo.example", "")
	w.AddParticipant(speaker("ada", "ada@demo.example", "", ada))
	w.backfill(t)
	for range 3 {
		w.ResetCounts()
		res, err := w.bridge(t).Collect(t.Context())
		if err != nil || res.Requests.NameCoach != 1 {
			t.Errorf("idle poll: %v, %v", w.Counts(), err)
		}
	}
}

// A row that moves while a backfill runs is seen at both places by it; the next one sees where it is.
func TestAVoiceThatMovedWhileItWasReadIsClearedByTheNextBackfill(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada, bob := w.user("ada@demo.example", ""), w.user("bob@demo.example", "")
	row := w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
	var pages atomic.Int64
	w.Change(func(o *simulator.Options) {
		o.OnNameCoachPage = func(s *simulator.Simulator, _ int) {
			if pages.Add(1) == 2 { // the newest edge, after the walk
				s.UpdateParticipant(row, func(p *simulator.Participant) { p.Email, p.For = "bob@demo.example", bob })
			}
		}
	})
	w.backfill(t)
	if res := w.backfill(t); res.Cleared != 1 {
		t.Errorf("%+v", res)
	}
	w.right(t)
}

// told is a tracer that tells which statements are over, on whoever's turn it is.
type told func(sql string)

type tellingKey struct{}

func (told) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, tellingKey{}, d.SQL)
}

func (f told) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	sql, _ := ctx.Value(tellingKey{}).(string)
	f(sql)
}

// A row that somebody else stores while a collect asks about people in doubt puts its own person in doubt: that is not forgotten.
func TestADoubtThatComesWhileDoubtsAreSettledIsNotForgotten(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.AddParticipant(speaker("ada-1", "ada@demo.example", "", w.user("ada@demo.example", "")))
	w.AddParticipant(speaker("bob-1", "bob@demo.example", "", w.user("bob@demo.example", "")))
	w.backfill(t)
	w.settled(func() {
		w.UpdateParticipant(ada, func(p *simulator.Participant) { p.NameBadgeLink = "https://www.name-coach.com/ada-2" })
	})
	var other pgx.Tx // of a sweep that has found a row
	row := state.Participant{ID: []byte("bob-2"), Person: "email:bob@demo.example", Email: "bob@demo.example", EventAccessCode: "STAFF", Content: []byte("x")}
	begin := func() error {
		tx, err := w.db.Begin(t.Context())
		if err != nil {
			return err
		}
		other = tx
		reading := state.Reading{ID: uuid.New(), Owner: uuid.New()}
		if err := state.LockParticipants(t.Context(), tx, "default"); err != nil {
			return err
		}
		if err := state.StageParticipants(t.Context(), tx, "default", &reading, []state.Participant{row}); err != nil {
			return err
		}
		_, err = state.StoreStaged(t.Context(), tx, "default", reading, state.Bringing{By: reading.ID})
		return err
	}
	var once, ended sync.Once
	end := func() {
		ended.Do(func() {
			if err := other.Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	var watch sync.WaitGroup
	cfg := w.db.Config()
	cfg.ConnConfig.Tracer = told(func(sql string) {
		switch {
		case strings.Contains(sql, "FROM participants WHERE bridge = $1 AND doubt_due)"): // the run sees that something is due
			once.Do(func() {
				if err := begin(); err != nil {
					t.Error(err)
				}
				watch.Go(func() { // and if it waits for the row, it need not wait for long
					eventually(t, patience, func() string {
						var over bool
						err := w.db.QueryRow(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory')
							OR EXISTS (SELECT 1 FROM participants WHERE participant = 'bob-2')`).Scan(&over)
						if err != nil {
							return err.Error()
						}
						if !over {
							return "the run neither waits for the row nor goes on"
						}
						return ""
					})
					end()
				})
			})
		case strings.Contains(sql, "doubtful AS"): // it has read who is in doubt
			end()
		}
	})
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	b := w.bridge(t)
	b.DB = pool
	if _, err := b.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	watch.Wait()
	if !value[bool](t, w, `SELECT doubt_due OR missing_since IS NOT NULL FROM participants WHERE participant = 'bob-2'`) {
		t.Error("nobody has asked about the person, and the doubt is forgotten")
	}
}

// Beside others a process has a share of the budget, and nothing saved up: a question leaves seconds after it was made. The newest edge is
// read to the end all the same, by one question, and what is not there any more is noted.
func TestABackfillBesideOthersReadsTheNewestEdgeAtOnce(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 48, Users: 60})
	w.backfill(t)
	w.exec(t, `UPDATE participants SET seen_at = seen_at - interval '1 hour'`)
	w.exec(t, `INSERT INTO participants SELECT (jsonb_populate_record(p, '{"participant": "gone", "person": "email:gone@x", "email": "gone@x"}')).* FROM participants p LIMIT 1`)
	w.exec(t, `INSERT INTO workers (bridge, owner, host, heartbeat_at) VALUES ('default', gen_random_uuid(), '', now() + interval '1 hour')`)
	b := w.bridge(t)
	n, err := namecoach.New(namecoach.Options{BaseURL: w.NameCoachURL(), Token: w.Token()}) // with the usual budget
	if err != nil {
		t.Fatal(err)
	}
	b.NameCoach = n
	res, err := b.Backfill(t.Context(), time.Time{})
	if err != nil || res.Status != state.Done || res.Requests.NameCoach != 2 {
		t.Errorf("%+v, %v; want one request for everything, and one for the newest edge", res, err)
	}
	var missing string
	if err := w.db.QueryRow(t.Context(), `SELECT string_agg(person, ' ') FROM participants WHERE missing_since IS NOT NULL`).Scan(&missing); err != nil || missing != "email:gone@x" {
		t.Errorf("missing are %q, %v", missing, err)
	}
}
