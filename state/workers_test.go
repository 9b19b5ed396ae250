package state_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

// NameCoach counts requests by the account, over 15 minutes: whoever comes shares what others leave, and have left.
func TestAHeartbeatTellsWhoElseServesTheBridge(t *testing.T) {
	t.Parallel()
	const minute = 60
	db := fresh(t)
	for name, c := range map[string]struct {
		silent []float64 // the others, seconds since their last sign of life
		want   state.Company
	}{
		"nobody":                         {nil, state.Company{Live: 1}},
		"one who lives":                  {[]float64{0}, state.Company{Live: 2, Recent: true}},
		"one who is within the lease":    {[]float64{state.Lease - 2}, state.Company{Live: 2, Recent: true}},
		"one who is gone":                {[]float64{state.Lease + 1}, state.Company{Live: 1, Recent: true}},
		"one who is gone for 14 minutes": {[]float64{14 * minute}, state.Company{Live: 1, Recent: true}},
		"one who is gone for 16 minutes": {[]float64{16 * minute}, state.Company{Live: 1}},
		"several":                        {[]float64{1, 3, 16 * minute, state.Lease + 1}, state.Company{Live: 3, Recent: true}},
	} {
		for _, bridge := range []string{name, "beside " + name} {
			get[state.Bridge](t)(state.EnsureBridge(t.Context(), db, bridge, 1))
		}
		undone(t, db, func(db pgx.Tx) { // in which no time passes
			live(t, db, "beside "+name)
			for _, seconds := range c.silent {
				silence(t, db, live(t, db, name), seconds)
			}
			owner := uuid.New()
			for range 2 { // who asks is no company to itself
				if got := get[state.Company](t)(state.Heartbeat(t.Context(), db, name, owner)); got != c.want {
					t.Errorf("%s: %+v, want %+v", name, got, c.want)
				}
			}
			must(t, state.Leave(t.Context(), db, name, owner))
			if n := value[int](t, db, `SELECT count(*) FROM workers WHERE bridge = $1`, name); n != len(c.silent) {
				t.Errorf("%s: %d are left when it leaves", name, n)
			}
		})
	}
}

func TestAProcessSilentForADayIsForgotten(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	old, young, asleep := live(t, db, "a"), live(t, db, "a"), live(t, db, "a")
	silence(t, db, old, 24*3600+1)
	silence(t, db, young, 23*3600)
	silence(t, db, asleep, 48*3600)
	// Whoever wakes after days is there.
	if c := get[state.Company](t)(state.Heartbeat(t.Context(), db, "a", asleep)); c != (state.Company{Live: 1}) {
		t.Errorf("%+v", c)
	}
	if got := value[int](t, db, `SELECT count(*) FROM workers WHERE owner = ANY($1)`, []uuid.UUID{young, asleep}); got != 2 || value[int](t, db, `SELECT count(*) FROM workers`) != 2 {
		t.Errorf("%d of two are known", got)
	}
}

// A job whose process is gone would be stuck for as long as a job may take. But one that somebody works on must not be done
// twice at once, and it is no fault of a job's that its process has died.
func TestJobsThatNobodyWorksOnAreTakenUp(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	undone(t, db, func(db pgx.Tx) { // in which no time passes
		owner, other, silent, gone := live(t, db, "a"), live(t, db, "a"), live(t, db, "a"), live(t, db, "a")
		silence(t, db, silent, state.Lease-2)
		silence(t, db, gone, state.Lease+1)
		elsewhere := live(t, db, "b")
		var running []int64
		ids := map[string]int64{}
		want := map[string]string{}
		for name, c := range map[string]struct {
			queue, state string
			by           uuid.UUID
			ago          float64
			running      bool
			taken        bool
		}{
			"of a process that is gone":              {"a", "running", gone, 1, false, true},
			"of one that was never heard of":         {"a_bulk", "running", uuid.New(), 1, false, true},
			"of one that serves another bridge only": {"a_now", "running", elsewhere, 3600, false, true},
			"of one that lives":                      {"a", "running", other, 3600, false, false},
			"of one that is silent for a moment":     {"a", "running", silent, 3600, false, false},
			"its own, at work":                       {"a", "running", owner, 3600, true, false},
			"its own, nobody is at it":               {"a", "running", owner, 11, false, true},
			"its own, perhaps about to begin or end": {"a", "running", owner, 5, false, false},
			"waiting":                                {"a", "available", gone, 60, false, false},
			"failed":                                 {"a", "retryable", gone, 60, false, false},
			"of another bridge":                      {"b", "running", gone, 60, false, false},
			"of a bridge whose name begins the same": {"ab", "running", gone, 60, false, false},
		} {
			ids[name] = job(t, db, c.queue, c.state, c.by, c.ago)
			if c.running {
				running = append(running, ids[name])
			}
			want[name] = c.state + " 2"
			if c.taken {
				want[name] = "available 1" // the attempt was none
			}
		}
		taken := get[int64](t)(state.RescueJobs(t.Context(), db, "a", owner, running))
		got := map[string]string{}
		for name, id := range ids {
			got[name] = value[string](t, db, `SELECT concat_ws(' ', state, attempt) FROM river_job WHERE id = $1`, id)
		}
		if diff := cmp.Diff(want, got); diff != "" || taken != 4 {
			t.Errorf("%d were taken up: %s", taken, diff)
		}
		if n := value[int](t, db, `SELECT count(*) FROM river_job WHERE state = 'available' AND attempt = 1 AND scheduled_at > now()`); n != 0 {
			t.Errorf("%d of them are to be done later", n)
		}
		if n := get[int64](t)(state.RescueJobs(t.Context(), db, "a", owner, running)); n != 0 {
			t.Errorf("%d were taken up twice", n)
		}
	})
}

func TestJobsThatWaitAfterAFailureAreWokenAndNoOthers(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	ids := map[string]int64{}
	for _, c := range [][2]string{{"a", "retryable"}, {"a_plan", "retryable"}, {"a", "running"}, {"a", "scheduled"}, {"b", "retryable"}, {"ab_now", "retryable"}} {
		ids[c[0]+" "+c[1]] = job(t, db, c[0], c[1], uuid.New(), 60)
	}
	must(t, state.WakeJobs(t.Context(), db, "a"))
	got := map[string]string{}
	for name, id := range ids {
		got[name] = value[string](t, db, `SELECT concat_ws(' ', state, attempt, scheduled_at > now()) FROM river_job WHERE id = $1`, id)
	}
	want := map[string]string{
		"a retryable": "available 2 f", "a_plan retryable": "available 2 f", "a running": "running 2 f", "a scheduled": "scheduled 2 f",
		"b retryable": "retryable 2 t", "ab_now retryable": "retryable 2 t",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
