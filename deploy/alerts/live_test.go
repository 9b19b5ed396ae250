//go:build deploy

package alerts

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"namebridge/internal/promtest"
	"namebridge/internal/simulator"
)

// factor is how much faster time goes here than in life: a second stands for a minute, a scrape a second for one a minute, a collect every five
// seconds for one every five minutes. All durations of the rules are divided by it. Not faster go the daemons' own times: what they tell of
// the database may be 15 s old, which would be a quarter of an hour.
const factor = 60

// In tests of single troubles no ticket is held longer, and nothing looked back further, than that.
const mostHold, mostRange = 5 * time.Second, 45 * time.Second

// trouble is something that goes wrong, step by step.
type trouble struct {
	name     string
	options  simulator.Options
	env      map[string]string
	values   values
	replicas int // 0: one
	steps    []step
}

type step struct {
	do            func(*site)
	fires, clears []string
}

// lateSeconds is after how long something is late that is to be. What is told is as old as the longest that the daemon may not have asked the
// database: 15 s, but ten times what the database took for an answer where that is more.
const lateSeconds = 60

// relaxed are values by which nothing is late but collects.
var relaxed = values{replicas: 1, collectLateSeconds: lateSeconds, sweepLateSeconds: 1_000_000, censusLateSeconds: 1_000_000}

var few = simulator.Options{Seed: 31, Users: 40}

var troubles = []trouble{
	{
		name: "BLN loses data that is not ours", options: few,
		steps: []step{
			{do: func(s *site) {
				s.Change(func(o *simulator.Options) { o.DropForeignKeyOnPut = simulator.Tamper{Every: 1} })
				s.record(3)
			}, fires: []string{"NamebridgeHalted"}},
			{do: func(s *site) {
				s.Change(func(o *simulator.Options) { o.DropForeignKeyOnPut = simulator.Tamper{} })
				s.command(0, "resume", "--reason", "BLN says that it is mended")
			}, clears: []string{"NamebridgeHalted"}},
		},
	},
	{
		name: "NameCoach has lost recordings", options: few,
		env: map[string]string{"GUARD_MAX_CLEARS": "2", "GUARD_MAX_CLEAR_PERCENT": "1"},
		steps: []step{
			{do: func(s *site) {
				n := 6
				for _, p := range s.Participants() {
					if n > 0 && p.For != 0 && p.RecordingLink != "" && s.RemoveRecording(p.ID) {
						n--
					}
				}
			}, fires: []string{"NamebridgeQuarantined"}},
			{do: func(s *site) {
				var status struct {
					Bridges []struct{ Quarantined []string }
				}
				if err := json.Unmarshal([]byte(s.command(0, "status", "--output", "json")), &status); err != nil {
					s.t.Fatal(err)
				}
				for _, run := range status.Bridges[0].Quarantined {
					s.command(0, "runs", "approve", run, "--reason", "they asked for it")
				}
			}, clears: []string{"NamebridgeQuarantined"}},
		},
	},
	{
		name: "NameCoach refuses the token", options: few,
		steps: []step{
			{do: func(s *site) { s.namecoach.refuse(401, anything) }, fires: []string{"NamebridgeSignInFailing", "NamebridgeRunsFailing", "NamebridgeCollectLate"}},
			{do: func(s *site) { s.namecoach.refuse(0, nil) }, clears: []string{"NamebridgeSignInFailing", "NamebridgeCollectLate", "NamebridgeRunsFailing"}},
		},
	},
	{
		name: "BLN refuses the password", options: few,
		steps: []step{
			{do: func(s *site) {
				s.bln.refuse(401, func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/auth/login") })
				s.RevokeTokens()
				s.record(1)
			}, fires: []string{"NamebridgeSignInFailing"}},
			{do: func(s *site) { // the right password comes with a new process
				s.bln.refuse(0, nil)
				s.replace(0)
			}, clears: []string{"NamebridgeSignInFailing"}},
		},
	},
	{
		name: "NameCoach's clock goes back", options: few,
		steps: []step{
			{do: func(s *site) { s.Advance(-time.Hour) }, fires: []string{"NamebridgeCursorStuck"}},
			{do: func(s *site) { s.Advance(time.Hour) }, clears: []string{"NamebridgeCursorStuck"}},
		},
	},
	{
		// Every second some change, and NameCoach shows so few at once and answers so slowly that a second takes several.
		name: "NameCoach is too slow for all that changes", options: simulator.Options{Seed: 34, Users: 600},
		steps: []step{
			{do: func(s *site) {
				s.Change(func(o *simulator.Options) { o.NameCoachLatency, o.TruncateRows = 2*time.Second, 10 })
				s.recordEvery(200 * time.Millisecond)
			}, fires: []string{"NamebridgeCollectLag"}},
			{do: func(s *site) {
				s.Change(func(o *simulator.Options) { o.NameCoachLatency, o.TruncateRows = 0, 0 })
			}, clears: []string{"NamebridgeCollectLag"}},
		},
	},
	{
		name: "NameCoach's clock is behind", options: simulator.Options{Seed: 32, Users: 40, ClockOffset: -2 * time.Hour},
		steps: []step{
			{do: func(*site) {}, fires: []string{"NamebridgeCollectLag"}},
			{do: func(s *site) { s.Advance(2 * time.Hour) }, clears: []string{"NamebridgeCollectLag"}},
		},
	},
	{
		name: "no sweep and no census is due", options: few, values: values{replicas: 1, collectLateSeconds: lateSeconds, sweepLateSeconds: lateSeconds, censusLateSeconds: lateSeconds},
		steps: []step{
			{do: func(*site) {}, fires: []string{"NamebridgeSweepLate", "NamebridgeCensusLate"}},
			// One after the other: soon after either it is late again.
			{do: func(s *site) { s.command(0, "sweep") }, clears: []string{"NamebridgeSweepLate"}},
			{do: func(s *site) { s.command(0, "census") }, clears: []string{"NamebridgeCensusLate"}},
		},
	},
	{
		name: "BLN takes no writes", options: few,
		steps: []step{
			{do: func(s *site) {
				s.bln.refuse(503, func(r *http.Request) bool { return r.Method == http.MethodPut })
				s.record(14)
			}, fires: []string{"NamebridgeWritesFailing", "NamebridgePendingStuck"}},
			{do: func(s *site) {
				s.bln.refuse(0, nil)
				s.command(0, "sweep") // who has failed four times would be tried again within the hour
			}, clears: []string{"NamebridgeWritesFailing", "NamebridgePendingStuck"}},
		},
	},
	{
		name: "BLN is away", options: few, env: map[string]string{"SWEEP_SCHEDULE": "@every 3s"},
		steps: []step{
			{do: func(s *site) { s.bln.refuse(503, anything) }, fires: []string{"NamebridgeJobsFailing"}},
			{do: func(s *site) { s.bln.refuse(0, nil) }, clears: []string{"NamebridgeJobsFailing"}},
		},
	},
	{
		name: "many people come whom nobody knows", options: few,
		steps: []step{
			{do: func(s *site) {
				s.until("the first sweep was a while ago", fmt.Sprintf(`namebridge_last_success_timestamp_seconds{kind="sweep"} offset %.0fs`, mostRange.Seconds()+2))
				for i := range 25 {
					key := fmt.Sprintf("stranger-%d", i)
					s.AddParticipant(simulator.Participant{FirstName: "A", LastName: key, Email: key + "@elsewhere.example", NameBadgeLink: "https://www.name-coach.com/" + key})
				}
			}, fires: []string{"NamebridgeHoldsGrowing"}, clears: []string{"NamebridgeHoldsGrowing"}},
		},
	},
	{
		name: "a change shows an hour late", options: few, env: map[string]string{"SWEEP_SCHEDULE": "@every 3s"},
		steps: []step{
			{do: func(s *site) {
				const key = "late@demo.example"
				event := s.Events()[0]
				user := s.AddUser(simulator.NewUser{Username: key, FirstName: "Late", LastName: "Comer"})
				s.AddParticipant(simulator.Participant{
					FirstName: "Late", LastName: "Comer", Email: key, EventTitle: event.Title, EventAccessCode: event.AccessCode,
					NameBadgeLink: "https://www.name-coach.com/late", Updated: time.Now().Add(-time.Hour), For: user, Kind: simulator.BadgeOnly,
				})
			}, fires: []string{"NamebridgeLateFound"}, clears: []string{"NamebridgeLateFound"}},
		},
	},
	{
		name: "others use up NameCoach's budget", options: few,
		steps: []step{
			{do: func(s *site) {
				s.Change(func(o *simulator.Options) { o.NameCoachPer15Minutes, o.NameCoachPeriod = 6, 10*time.Second })
			}, fires: []string{"NamebridgeBudgetExhausted"}},
			{do: func(s *site) {
				s.Change(func(o *simulator.Options) { o.NameCoachPer15Minutes = 100_000 })
			}, clears: []string{"NamebridgeBudgetExhausted"}},
		},
	},
	{
		name: "NameCoach turns many requests away", options: few,
		steps: []step{
			{do: func(s *site) {
				s.Change(func(o *simulator.Options) { o.Faults.P429, o.RetryAfter = .6, simulator.RetryAfterSeconds })
			}, fires: []string{"NamebridgeThrottled"}},
			{do: func(s *site) { s.Change(func(o *simulator.Options) { o.Faults.P429 = 0 }) }, clears: []string{"NamebridgeThrottled"}},
		},
	},
	{
		name: "the database is away", options: few,
		steps: []step{
			{do: func(s *site) { s.database(false) }, fires: []string{"NamebridgeDatabaseDown"}},
			{do: func(s *site) { s.database(true) }, clears: []string{"NamebridgeDatabaseDown"}},
		},
	},
	{
		name: "processes end", options: few, replicas: 2, values: values{replicas: 2, collectLateSeconds: lateSeconds, sweepLateSeconds: 1_000_000, censusLateSeconds: 1_000_000},
		steps: []step{
			{do: func(s *site) {
				// Three are enough where the machine is fast enough to have them within the range.
				for n := 0; n < 3 || n < 10 && !slices.Contains(s.states(), "NamebridgeRestarting firing"); n++ {
					s.restart(s.slots[0])
				}
			}, fires: []string{"NamebridgeRestarting"}, clears: []string{"NamebridgeRestarting"}},
			{do: func(s *site) { s.stop(s.slots[0]) }, fires: []string{"NamebridgeReplicasMissing"}},
			{do: func(s *site) { s.stop(s.slots[1]) }, fires: []string{"NamebridgeDown"}},
			{do: func(s *site) { s.start(s.slots[0]); s.start(s.slots[1]) }, clears: []string{"NamebridgeDown", "NamebridgeReplicasMissing"}},
		},
	},
}

// record makes people record anew, until so many users of BLN are to be written.
func (s *site) record(users int) {
	s.t.Helper()
	life := s.Life(simulator.LifeOptions{Seed: 3, Weights: simulator.Weights{simulator.RecordsAnew: 1}})
	concerned := map[int64]bool{}
	for range 100 * users {
		change, ok := life.Next()
		if !ok {
			break
		}
		for _, user := range change.Users {
			concerned[user] = true
		}
		if len(concerned) >= users {
			return
		}
	}
	s.t.Fatalf("only %d of %d users are concerned by what people have recorded", len(concerned), users)
}

// recordEvery lets somebody record anew so often, until the test ends.
func (s *site) recordEvery(every time.Duration) {
	life := s.Life(simulator.LifeOptions{Seed: 3, Weights: simulator.Weights{simulator.RecordsAnew: 1}})
	ctx, stop := context.WithCancel(s.t.Context())
	var recording sync.WaitGroup
	recording.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				life.Next()
			case <-ctx.Done():
				return
			}
		}
	})
	s.t.Cleanup(func() { stop(); recording.Wait() })
}

// What an alert is about is brought about in the real program; then a real Prometheus says so, and stops when it is over.
func TestEachAlertIsRaisedByWhatItIsAboutAndEndsWithIt(t *testing.T) {
	t.Parallel()
	program := promtest.Build(t)
	for _, trouble := range troubles {
		t.Run(trouble.name, func(t *testing.T) {
			t.Parallel()
			v := trouble.values
			if v.replicas == 0 {
				v = relaxed
			}
			s := newSite(t, program, max(trouble.replicas, 1), faster(render(t, v), factor, mostHold, mostRange), trouble.options, trouble.env)
			s.settled()
			calm := time.Now()
			for _, step := range trouble.steps {
				began := time.Now()
				step.do(s)
				for _, name := range step.fires {
					s.fires(name)
				}
				for _, name := range step.clears {
					s.clears(name)
				}
				t.Logf("fires %v, clears %v: after %v", step.fires, step.clears, time.Since(began).Round(time.Second))
			}
			s.nobodyElseIsWoken(trouble, calm)
		})
	}
	t.Run("nothing is wrong for an hour", func(t *testing.T) {
		t.Parallel()
		nothingIsWrong(t, program)
	})
}

// nobodyElseIsWoken checks that of all the pages there are those only that the trouble is to raise: one cause wakes people once.
func (s *site) nobodyElseIsWoken(by trouble, since time.Time) {
	s.t.Helper()
	var expected []string
	for _, step := range by.steps {
		expected = append(expected, step.fires...)
	}
	paged, err := s.QueryRange(s.t.Context(), `count by (alertname) (ALERTS{alertstate="firing", severity="page"})`, since, time.Now(), time.Second)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range paged {
		if !slices.Contains(expected, p.Labels["alertname"]) {
			s.t.Errorf("%s woke somebody, too", p.Labels["alertname"])
		}
	}
}

// nothingIsWrong is an hour in a minute: people change, one replica is replaced by another, a request fails now and then; and nobody is told.
func nothingIsWrong(t *testing.T, program string) {
	t.Helper()
	s := newSite(t, program, 2, faster(render(t, values{replicas: 2, collectLateSeconds: 1800 / factor, sweepLateSeconds: 3000 / factor, censusLateSeconds: 4200 / factor}), factor, 0, 0),
		simulator.Options{
			Seed: 33, Users: 300, NameCoachPer15Minutes: 1000, NameCoachPeriod: 15 * time.Minute / factor, BLNPerSecond: 20 * factor,
			RetryAfter: simulator.RetryAfterSeconds, Faults: simulator.Faults{P5xx: .003, PReset: .003},
		},
		map[string]string{
			"COLLECT_SCHEDULE": "@every 5s", "SWEEP_SCHEDULE": "@every 20s", "CENSUS_SCHEDULE": "@every 30s", "WINDOW_SETTLE": "500ms", "WINDOW_LOOKBACK": "10s",
			"NAMECOACH_REQUESTS_PER_15_MINUTES": fmt.Sprint(1000 * factor), "BLN_REQUESTS_PER_SECOND": fmt.Sprint(20 * factor),
		})
	s.settled()
	s.until("both replicas are seen", `count(namebridge_database_up == 1) == 2`)
	life := s.Life(simulator.LifeOptions{Seed: 4, Avoid: 5 * time.Second, Weights: simulator.EveryKind()})
	began, n := time.Now(), 0
	tick := time.NewTicker(500 * time.Millisecond) // somebody does something every half minute
	defer tick.Stop()
	// Silence must not come from nothing being there.
	lacks := func() (all []string) {
		for what, least := range map[string]float64{
			`namebridge_run_duration_seconds_count{kind="collect",status="done"}`: 8,
			`namebridge_run_duration_seconds_count{kind="sweep",status="done"}`:   2,
			`namebridge_run_duration_seconds_count{kind="census",status="done"}`:  1,
			`namebridge_writes_total{outcome="verified"}`:                         10,
		} {
			if got := s.value(fmt.Sprintf("sum(increase(%s[%.0fs]))", what, time.Since(began).Seconds())); got < least {
				all = append(all, fmt.Sprintf("%s has grown by %v, want %v at least", what, got, least))
			}
		}
		return all
	}
	for replaced := false; time.Since(began) < time.Hour/factor || time.Since(began) < within && lacks() != nil; <-tick.C {
		life.Next()
		n++
		if !replaced && time.Since(began) > time.Hour/factor/2 {
			replaced = true
			s.replace(0)
		}
	}
	ended := time.Now()
	// One scrape that is late lets some be pending for a moment.
	promtest.Eventually(t, 30*time.Second, "no alert is even pending", func() error {
		if slices.ContainsFunc(s.alerts(), func(a alert) bool { return a.State != "inactive" }) {
			return fmt.Errorf("there are %v", s.states())
		}
		return nil
	})
	fired, err := s.QueryRange(t.Context(), `ALERTS{alertstate="firing"}`, began, time.Now(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fired {
		t.Errorf("%s fired for %d s from second %.0f on: %v", f.Labels["alertname"], len(f.Samples), f.Samples[0].At-float64(began.Unix()), f.Labels)
	}
	for _, l := range lacks() {
		t.Error(l)
	}
	queried(t, s)
	// Nor from rules that never speak.
	s.namecoach.refuse(http.StatusUnauthorized, anything)
	s.fires("NamebridgeSignInFailing")
	t.Logf("%d changes, %v requests, %v writes in %v", n, s.value(`sum(namebridge_api_requests_total)`), s.value(`sum(namebridge_writes_total)`), ended.Sub(began).Round(time.Second))
}

// replace starts another replica, under another name, before it stops one, as an upgrade does.
func (s *site) replace(i int) {
	s.t.Helper()
	old := s.slots[i]
	s.slots[i] = newSlot(s.t)
	s.start(s.slots[i])
	addresses := []string{old.address}
	for _, slot := range s.slots {
		addresses = append(addresses, slot.address)
	}
	s.Scrape(s.t, addresses...)
	s.until("the new replica is seen", `namebridge_database_up{instance="`+s.slots[i].address+`"}`)
	s.stop(old)
	s.Scrape(s.t, addresses[1:]...)
}

// Each alert of the file is raised by something above.
func TestEachAlertHasATroubleThatRaisesIt(t *testing.T) {
	t.Parallel()
	var raised, all []string
	for _, trouble := range troubles {
		for _, step := range trouble.steps {
			raised = append(raised, step.fires...)
		}
	}
	for _, r := range written(t, usual) {
		all = append(all, r.alert)
		if !slices.Contains(raised, r.alert) {
			t.Errorf("nothing raises %s", r.alert)
		}
	}
	for _, name := range raised {
		if !slices.Contains(all, name) {
			t.Errorf("%s is to be raised, and there is no such alert", name)
		}
	}
}
