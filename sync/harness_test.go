package sync_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/bln"
	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
	"namebridge/migrations"
	"namebridge/namecoach"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

func TestMain(m *testing.M) { os.Exit(testdb.Main(m).Run()) }

// world is a simulated pair of servers, a real database, and the settings of a bridge between them.
type world struct {
	*simulator.Simulator
	db       *pgxpool.Pool
	settings bridgesync.Settings
	bodies   bodies // of the PUTs that were sent
	rude     bool   // the test itself does things that no polite client does
}

// start serves a world and, when the test ends, fails it for everything that a polite client never asks.
func start(t testing.TB, o simulator.Options) *world {
	t.Helper()
	s, err := simulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	w := &world{Simulator: s, db: testdb.New(t, migrations.Up), settings: bridgesync.Settings{
		OrganizationID: s.OrganizationID(),
		Username:       s.Username(),
		MatchBy:        []bridgesync.Rule{bridgesync.RuleExternalID, bridgesync.RuleEmail},
		Layout: bridgesync.Layout{
			Key:       "namecoach",
			LinkHosts: []string{"www.name-coach.com", "name-coach.com", "namewaves.s3.amazonaws.com"},
		},
		Concurrency: 8,
		Lookback:    10 * time.Minute,
		Settle:      30 * time.Second,
		Guard:       bridgesync.Guard{MaxClears: 20, MaxClearPercent: 2},

		Confirmations: 2,
		Retention:     90 * 24 * time.Hour,
	}}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the simulator: %v", err)
		}
		if v := s.Violations(); len(v) > 0 && !w.rude {
			t.Errorf("a polite client does none of these: %s", strings.Join(v, "; "))
		}
	})
	return w
}

// merging sets BLN_PUT_SEMANTICS; merge as a probe has shown it.
func (w *world) merging(t testing.TB, merges bool) {
	t.Helper()
	w.settings.MergingServer = merges
	if !merges {
		return
	}
	if _, err := state.EnsureBridge(t.Context(), w.db, "default", w.OrganizationID()); err != nil {
		t.Fatal(err)
	}
	w.exec(t, `INSERT INTO runs (bridge, run, kind, status, ended_at, counts) VALUES ('default', gen_random_uuid(), 'probe', 'done', now(), '{"semantics": "merge"}')`)
}

// bodies keeps what a bridge sends as PUT.
type bodies struct {
	mu   sync.Mutex
	puts [][]byte
}

func (b *bodies) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut && r.GetBody != nil {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		sent, err := io.ReadAll(body)
		if err != nil {
			return nil, err
		}
		b.mu.Lock()
		b.puts = append(b.puts, sent)
		b.mu.Unlock()
	}
	return http.DefaultTransport.RoundTrip(r)
}

// bridge makes a bridge as a process would: with clients of its own.
func (w *world) bridge(t testing.TB) *bridgesync.Bridge {
	t.Helper()
	n, err := namecoach.New(namecoach.Options{BaseURL: w.NameCoachURL(), Token: w.Token(), RequestsPer15Minutes: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bln.New(bln.Options{
		BaseURL: w.BLNURL(), OrganizationID: w.OrganizationID(), Username: w.Username(), Password: w.Password(),
		PerSecond: 100_000, Concurrency: 8, Transport: &w.bodies,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &bridgesync.Bridge{
		Name: "default", Settings: w.settings, NameCoach: n, BLN: b, DB: w.db,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// run carries one run out in a process of its own. It must end as status says, and whatever it did, nothing in any
// otherInfo but what is ours may have changed.
func (w *world) run(t *testing.T, status state.RunStatus, do func(*bridgesync.Bridge) (bridgesync.Result, error)) bridgesync.Result {
	t.Helper()
	own := w.settings.Layout.Keys()
	before := w.ForeignDigests(own...)
	w.ResetCounts()
	res, err := do(w.bridge(t))
	if err != nil || res.Status != status {
		t.Fatalf("run: %+v, %v; want %s", res, err, status)
	}
	after := w.ForeignDigests(own...)
	for id, digest := range before {
		if now, there := after[id]; there && now != digest {
			t.Errorf("user %d: foreign keys are not what they were: %s", id, w.UserOtherInfo(id))
		}
	}
	// A sweep asks about users who are new.
	if counts := w.Counts(); counts["namecoach participants.search"] > 0 && res.Kind != state.Sweep && res.Kind != state.Census {
		t.Errorf("asked NameCoach about single people: %v", counts)
	}
	return res
}

// whileLocked holds what lock locks from before do until n others wait for it.
func (w *world) whileLocked(t *testing.T, lock string, n int, do func()) {
	t.Helper()
	tx, err := w.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), `SET LOCAL idle_in_transaction_session_timeout = 0; `+lock); err != nil {
		t.Fatal(err)
	}
	do()
	w.waiting(t, n)
}

// waiting returns when n of the database's clients wait for a lock.
func (w *world) waiting(t *testing.T, n int) {
	t.Helper()
	eventually(t, patience, func() string {
		var blocked int
		err := w.db.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&blocked)
		if err != nil {
			return err.Error()
		}
		if blocked < n {
			return fmt.Sprintf("%d wait for a lock, want %d", blocked, n)
		}
		return ""
	})
}

func (w *world) backfill(t *testing.T) bridgesync.Result {
	t.Helper()
	return w.run(t, state.Done, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Backfill(t.Context(), time.Time{}) })
}

func (w *world) plan(t *testing.T) bridgesync.Result {
	t.Helper()
	return w.run(t, state.Done, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Plan(t.Context()) })
}

func (w *world) collect(t *testing.T) bridgesync.Result {
	t.Helper()
	return w.run(t, state.Done, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Collect(t.Context()) })
}

func (w *world) sweep(t *testing.T) bridgesync.Result {
	t.Helper()
	return w.run(t, state.Done, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Sweep(t.Context()) })
}

// right fails the test for everybody whose stored fragment is not the true one.
func (w *world) right(t *testing.T) {
	t.Helper()
	for _, m := range w.Mismatches(10) {
		t.Error(m)
	}
}

// counted fails the test where a result's counts are not those of the truth before the run.
func counted(t *testing.T, res bridgesync.Result, truth simulator.Totals) {
	t.Helper()
	got := simulator.Totals{
		Participants: res.Participants, Users: res.Users, Linked: res.Linked, Written: res.Written, Unchanged: res.Unchanged,
		Held: heldCounts(res.Held),
	}
	if fmt.Sprint(got) != fmt.Sprint(truth) {
		t.Errorf("counted %+v,\nthe truth is %+v", got, truth)
	}
	if res.Failed != 0 {
		t.Errorf("%d failed", res.Failed)
	}
}

func heldCounts(h bridgesync.Held) map[string]int {
	return map[string]int{
		"unmatched": h.Unmatched, "ambiguous": h.Ambiguous, "conflict": h.Conflict,
		"unwritable": h.Unwritable, "refused": h.Refused, "reverted": h.Reverted,
	}
}

// quiet fails the test where the requests since the last run began were more than those of names.
func (w *world) quiet(t *testing.T, names ...string) {
	t.Helper()
	for name, n := range w.Counts() {
		if !slices.Contains(names, name) {
			t.Errorf("%d requests %s", n, name)
		}
	}
}

// asked is how many requests of that name arrived since the last run began.
func (w *world) asked(name string) int { return w.Counts()[name] }

// earlier does what do does as if it were done d ago.
func (w *world) earlier(d time.Duration, do func()) {
	w.Change(func(o *simulator.Options) { o.ClockOffset -= d })
	do()
	w.Change(func(o *simulator.Options) { o.ClockOffset += d })
}

// settled does what do does long enough ago for NameCoach's newest edge to have passed it.
func (w *world) settled(do func()) { w.earlier(time.Minute, do) }

// user adds a member.
func (w *world) user(username, externalID string) int64 {
	return w.AddUser(simulator.NewUser{
		Username: username, ExternalID: externalID, FirstName: "Ada", LastName: "Byron",
		OtherInfo: `{"jobTitle":"Welder","Cohort":"2024"}`, Created: time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC),
	})
}

// speaker is a row with a badge and a recording, made a year ago.
func speaker(slug, email, institutionID string, belongsTo int64) simulator.Participant {
	return simulator.Participant{
		FirstName: "Ada", LastName: "Byron", Email: email, InstitutionID: institutionID, For: belongsTo,
		EventTitle: "Staff", EventSlug: "staff", EventAccessCode: "STAFF", EventCode: "F00D",
		NameBadgeLink: "https://www.name-coach.com/" + slug, RecordingLink: "https://namewaves.s3.amazonaws.com/" + slug + ".mp3?digest=1",
		RecordingID: "recording_" + slug, Updated: time.Date(2024, 6, 1, 12, 0, 0, 0, time.UTC),
	}
}

// lastCentury is before every generated user.
var lastCentury = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)

// held is a hold as an operator finds it.
type held struct {
	kind, subject, reason, detail string
	users                         []int64
}

// holds are all holds, by subject.
func (w *world) holds(t *testing.T) map[string]held {
	t.Helper()
	rows, err := w.db.Query(t.Context(), `SELECT kind, subject, reason, detail, users FROM holds WHERE bridge = 'default'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := map[string]held{}
	for rows.Next() {
		var h held
		if err := rows.Scan(&h.kind, &h.subject, &h.reason, &h.detail, &h.users); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(h.detail, "@") {
			t.Errorf("the detail of a hold names an address: %s", h.detail)
		}
		all[h.subject] = h
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// reasons are the reasons of all holds, by subject.
func (w *world) reasons(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for subject, h := range w.holds(t) {
		all[subject] = h.reason
	}
	return all
}

func (w *world) wantReasons(t *testing.T, want map[string]string) {
	t.Helper()
	if got := w.reasons(t); !maps.Equal(got, want) {
		t.Errorf("held %v,\nwant %v", got, want)
	}
}

// cursor is up to when everything that NameCoach changed is stored.
func (w *world) cursor(t *testing.T) time.Time {
	t.Helper()
	c, err := state.GetCursor(t.Context(), w.db, "default", state.ParticipantStream)
	if err != nil {
		t.Fatal(err)
	}
	return c.Until
}

// forget makes a second database for the same world, as if the first had been lost.
func (w *world) forget(t *testing.T) {
	t.Helper()
	w.db = testdb.New(t, migrations.Up)
}

// members are the top-level members of a user's otherInfo.
func (w *world) members(t *testing.T, id int64) map[string]json.RawMessage {
	t.Helper()
	raw := w.UserOtherInfo(id)
	if raw == "" {
		return nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(raw), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// fragment is what stands under our key: nil for nothing or null.
func (w *world) fragment(t *testing.T, id int64) bridgesync.Fragment {
	t.Helper()
	raw := w.members(t, id)["namecoach"]
	if raw == nil || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	var f bridgesync.Fragment
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatalf("user %d: %s: %v", id, raw, err)
	}
	return f
}

// says is one value of a fragment, "<null>" where it is null or missing.
func says(f bridgesync.Fragment, key string) string {
	if f[key] == nil {
		return "<null>"
	}
	return *f[key]
}

// setExternalID does what an administrator of BLN does. The simulator takes whoever does it for a bridge.
func (w *world) setExternalID(t *testing.T, user int64, externalID string) {
	t.Helper()
	w.rude = true
	body, err := json.Marshal(map[string]string{"externalId": externalID})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut,
		fmt.Sprintf("%s/organizations/%d/users/%d", w.BLNURL(), w.OrganizationID(), user), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.AccessToken())
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("set the externalId of user %d: %s", user, answer.Status)
	}
}
