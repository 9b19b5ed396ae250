package state

import (
	"context"
	"fmt"
	"time"
)

// Kinds are all kinds of runs.
var Kinds = []Kind{Backfill, Plan, Collect, Sweep, "census", "revert"}

// Standing is how a bridge stands, in the numbers that are watched. A bridge that nothing was done for yet has zeros.
type Standing struct {
	Bridge                  string
	Participants            int // as in Totals, like the next four
	Linked, Synced, Pending int
	Held                    map[string]int
	Quarantined             int
	Cursors                 map[string]time.Time // up to when everything that NameCoach changed is stored, by stream; empty before the first window
	Lag                     time.Duration        // the database's clock less the cursor ParticipantStream, at least 0
	LagKnown                bool                 // false before the first window
	LastSuccess             map[Kind]time.Time   // when the newest run of a kind that is done has ended
	Halted                  bool
	LateFound               int64
	Jobs                    map[string]int // jobs in the bridge's queues, by River's name of their state
}

// queueSuffixes make the names of a bridge's queues from its own.
var queueSuffixes = []string{"", "_now", "_bulk", "_plan"}

// Standings reads how bridges stand, in their order: three statements for all, and those of CountTotals for each.
func Standings(ctx context.Context, q Querier, bridges []string) ([]Standing, error) {
	all := make([]Standing, len(bridges))
	byBridge, byQueue := map[string]*Standing{}, map[string]*Standing{}
	var queues []string
	for i, b := range bridges {
		all[i] = Standing{Bridge: b, Cursors: map[string]time.Time{}, LastSuccess: map[Kind]time.Time{}, Jobs: map[string]int{}}
		byBridge[b] = &all[i]
		for _, suffix := range queueSuffixes {
			byQueue[b+suffix] = &all[i]
			queues = append(queues, b+suffix)
		}
	}
	marks, err := collect[struct {
		Bridge    string
		Halted    bool
		LateFound int64
		Until     *time.Time
		Now       time.Time
	}](q.Query(ctx, `SELECT b.bridge, b.halted_at IS NOT NULL AS halted, b.late_found, c.until, now() AS now
		FROM bridges b LEFT JOIN cursors c ON c.bridge = b.bridge AND c.stream = $2 WHERE b.bridge = ANY($1)`, bridges, ParticipantStream))
	if err != nil {
		return nil, fmt.Errorf("read how the bridges stand: %w", err)
	}
	for _, m := range marks {
		s := byBridge[m.Bridge]
		s.Halted, s.LateFound = m.Halted, m.LateFound
		if m.Until != nil {
			s.Cursors[ParticipantStream] = *m.Until
			s.Lag, s.LagKnown = max(m.Now.Sub(*m.Until), 0), true
		}
	}
	// A bridge has a collect every few minutes, for years: of each kind the index leads to the newest, no more is read.
	successes, err := collect[struct {
		Bridge  string
		Kind    Kind
		EndedAt time.Time
	}](q.Query(ctx, `SELECT b.bridge, k.kind, r.ended_at FROM unnest($1::text[]) AS b (bridge) CROSS JOIN unnest($2::text[]) AS k (kind)
		CROSS JOIN LATERAL (SELECT ended_at FROM runs WHERE runs.bridge = b.bridge AND runs.kind = k.kind AND status = 'done'
			ORDER BY started_at DESC LIMIT 1) r`, bridges, Kinds))
	if err != nil {
		return nil, fmt.Errorf("read the last successful runs: %w", err)
	}
	for _, r := range successes {
		byBridge[r.Bridge].LastSuccess[r.Kind] = r.EndedAt
	}
	jobs, err := collect[struct {
		Queue, State string
		Jobs         int
	}](q.Query(ctx, `SELECT queue, state::text AS state, count(*) AS jobs FROM river_job WHERE queue = ANY($1) GROUP BY queue, state`, queues))
	if err != nil {
		return nil, fmt.Errorf("count jobs: %w", err)
	}
	for _, j := range jobs {
		byQueue[j.Queue].Jobs[j.State] += j.Jobs
	}
	for i := range all {
		t, err := CountTotals(ctx, q, all[i].Bridge)
		if err != nil {
			return nil, err
		}
		s := &all[i]
		s.Participants, s.Linked, s.Synced, s.Pending = t.Participants, t.Linked, t.Synced, t.Pending
		s.Held, s.Quarantined = t.Held, len(t.Quarantined)
	}
	return all, nil
}
