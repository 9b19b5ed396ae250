package state

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Runs yields up to limit runs (0: all) of one kind (empty: of any), and stops after its first error: those first that were started, or
// gone on with, last.
func Runs(ctx context.Context, q Querier, bridge string, kind Kind, limit int) iter.Seq2[Run, error] {
	return stream[Run](ctx, q, "read runs of bridge "+bridge, `SELECT `+runColumns+` FROM runs
		WHERE bridge = $1 AND ($2 = '' OR kind = $2) ORDER BY coalesce(resumed_at, started_at) DESC, run LIMIT nullif($3::bigint, 0)`, bridge, kind, limit)
}

// MinRunPrefix is how many hex digits name a run, at least.
const MinRunPrefix = 4

// FindRuns gives up to limit runs whose id begins with prefix: at least MinRunPrefix hex digits, hyphens where they belong or none.
// No run has what is no such prefix.
func FindRuns(ctx context.Context, q Querier, bridge, prefix string, limit int) ([]Run, error) {
	first, last, ok := runRange(prefix)
	if !ok {
		return nil, nil
	}
	runs, err := collect[Run](q.Query(ctx, `SELECT `+runColumns+` FROM runs WHERE bridge = $1 AND run BETWEEN $2 AND $3
		ORDER BY started_at DESC, run LIMIT $4`, bridge, first, last, limit))
	if err != nil {
		return nil, fmt.Errorf("read runs of bridge %s: %w", bridge, err)
	}
	return runs, nil
}

// RunPrefix says whether s can be the beginning of a run's id.
func RunPrefix(s string) bool {
	_, _, ok := runRange(s)
	return ok
}

// runRange is the first and the last id that begin with prefix.
func runRange(prefix string) (first, last uuid.UUID, ok bool) {
	const shape = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
	digits := strings.ReplaceAll(prefix, "-", "")
	if len(digits) < MinRunPrefix || len(digits) > 32 || strings.Trim(digits, "0123456789abcdefABCDEF") != "" {
		return first, last, false
	}
	if strings.Contains(prefix, "-") { // then all of them, where they belong
		for i := range len(prefix) {
			if i >= len(shape) || (prefix[i] == '-') != (shape[i] == '-') {
				return first, last, false
			}
		}
	}
	missing := 32 - len(digits)
	first = uuid.MustParse(digits + strings.Repeat("0", missing))
	last = uuid.MustParse(digits + strings.Repeat("f", missing))
	return first, last, true
}

// Staged is what a run keeps as steps: a plan, or what the guard has staged.
type Staged struct {
	Writes, Clears int
	Moved          int        // steps for whose user something else is wanted by now, or nothing any more
	ApprovedAt     *time.Time // nil: nobody has approved it
	ApprovedReason string
}

// CountSteps counts the steps of a run.
func CountSteps(ctx context.Context, q Querier, bridge string, run uuid.UUID) (Staged, error) {
	s, err := one[Staged](q.Query(ctx, `SELECT approved_at, coalesce(approved_reason, '') AS approved_reason, x.*
		FROM runs, LATERAL (SELECT count(*) FILTER (WHERE s.action = 'write') AS writes, count(*) FILTER (WHERE s.action = 'clear') AS clears,
				count(*) FILTER (WHERE (`+stillWanted+`) IS NOT TRUE) AS moved
			FROM plan_steps s LEFT JOIN directory_users d ON d.bridge = $1 AND d.user_id = s.user_id WHERE s.bridge = $1 AND s.run = $2) x
		WHERE runs.bridge = $1 AND runs.run = $2`, bridge, run))
	if err != nil {
		return s, fmt.Errorf("count the steps of run %s: %w", run, err)
	}
	return s, nil
}

// Holding is a run that keeps removals until a person has approved them.
type Holding struct {
	Run       uuid.UUID
	Kind      Kind
	StartedAt time.Time
	Users     int // that it keeps them of
}

// HoldingRuns gives the quarantined runs whose staged steps wait for a person, the oldest first. Others are quarantined because
// these wait.
func HoldingRuns(ctx context.Context, q Querier, bridge string) ([]Holding, error) {
	hs, err := collect[Holding](q.Query(ctx, `SELECT r.run, r.kind, r.started_at, count(*) AS users
		FROM runs r JOIN plan_steps s USING (bridge, run) JOIN directory_users d USING (bridge, user_id)
		WHERE r.bridge = $1 AND r.status = 'quarantined' AND r.approved_at IS NULL AND `+stillWanted+` AND d.released_version < d.wanted_version
		GROUP BY r.run, r.kind, r.started_at ORDER BY r.started_at, r.run`, bridge))
	if err != nil {
		return nil, fmt.Errorf("read what waits for approval in bridge %s: %w", bridge, err)
	}
	return hs, nil
}

// PlannedRemovals are the steps of a plan that take something away, as a backfill would find them.
type PlannedRemovals struct {
	Judged int // for the guard to judge
	Kept   int // that an earlier run keeps for a person
}

// CountPlannedRemovals counts the steps of a plan that take something away.
func CountPlannedRemovals(ctx context.Context, q Querier, bridge string, plan uuid.UUID) (PlannedRemovals, error) {
	r, err := one[PlannedRemovals](q.Query(ctx, `SELECT count(*) FILTER (WHERE `+unjudged+`) AS judged, count(*) FILTER (WHERE NOT `+unjudged+`) AS kept
		FROM plan_steps p JOIN directory_users d USING (bridge, user_id) WHERE p.bridge = $1 AND p.run = $2 AND p.version = d.wanted_version AND `+waiting, bridge, plan))
	if err != nil {
		return r, fmt.Errorf("count the removals of plan %s: %w", plan, err)
	}
	return r, nil
}

// LeftOut gives the users of a run's steps for whom it has written nothing.
func LeftOut(ctx context.Context, q Querier, bridge string, run uuid.UUID) (users []int64, err error) {
	err = q.QueryRow(ctx, `SELECT coalesce(array_agg(user_id ORDER BY user_id), '{}') FROM plan_steps s WHERE bridge = $1 AND run = $2
		AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.bridge = $1 AND j.run = $2 AND j.user_id = s.user_id AND j.state = 'verified')`, bridge, run).Scan(&users)
	if err != nil {
		return nil, fmt.Errorf("read whom run %s has left out: %w", run, err)
	}
	return users, nil
}

// stillWanted is the condition that the directory user d is still to get what step s says.
const stillWanted = `d.gone_at IS NULL AND d.wanted_version = s.version AND d.wanted_version > d.applied_version`

// What a step takes from its user, at most.
const (
	LostAll       = "badge and recording"
	LostBadge     = "badge"
	LostRecording = "recording"
)

// RunStep is one user whom a run would write or clear.
type RunStep struct {
	UserID   int64
	Action   string
	Wanted   json.RawMessage // the fragment; nil for a clear
	Moved    bool            // something else is wanted by now, or nothing any more
	Username string          // as last listed; empty where the user was never listed
	Lost     string          // one of the words Lost…; empty where it takes nothing, or Moved
}

// RunSteps yields up to limit steps of a run (0: all) in order of user, and stops after its first error.
func RunSteps(ctx context.Context, q Querier, bridge string, run uuid.UUID, limit int) iter.Seq2[RunStep, error] {
	return stream[RunStep](ctx, q, fmt.Sprintf("read the steps of run %s", run), `SELECT s.user_id, s.action, s.wanted, (`+stillWanted+`) IS NOT TRUE AS moved,
			coalesce(d.username, '') AS username, CASE WHEN (`+stillWanted+`) IS NOT TRUE THEN ''
				WHEN s.action = 'clear' AND d.applied_digest IS NOT NULL AND NOT d.applied_recording THEN '`+LostBadge+`'
				WHEN s.action = 'clear' THEN '`+LostAll+`' WHEN d.removes THEN '`+LostRecording+`' ELSE '' END AS lost
		FROM plan_steps s LEFT JOIN directory_users d ON d.bridge = $1 AND d.user_id = s.user_id
		WHERE s.bridge = $1 AND s.run = $2 ORDER BY s.user_id LIMIT nullif($3::bigint, 0)`, bridge, run, limit)
}

// RunWrite is a journalled write as people look at it: of the record nothing but the bridge's own keys.
type RunWrite struct {
	Entry          int64
	UserID         int64
	Action         string
	State          string
	Note           string
	CreatedAt      time.Time
	SettledAt      *time.Time // nil: the outcome is not known
	BeforeFragment []byte     // a JSON object of top-level keys of otherInfo; nil: none of them was there
	AfterFragment  []byte
}

// RunWrites yields up to limit writes of a run (0: all) in the order they were made, and stops after its first error.
func RunWrites(ctx context.Context, q Querier, bridge string, run uuid.UUID, limit int) iter.Seq2[RunWrite, error] {
	return stream[RunWrite](ctx, q, fmt.Sprintf("read the writes of run %s", run), `SELECT entry, user_id, action, state, coalesce(note, '') AS note,
			created_at, settled_at, before_fragment, after_fragment
		FROM journal WHERE bridge = $1 AND run = $2 ORDER BY entry LIMIT nullif($3::bigint, 0)`, bridge, run, limit)
}

// CountRunWrites counts the journalled writes of a run by state.
func CountRunWrites(ctx context.Context, q Querier, bridge string, run uuid.UUID) (map[string]int, error) {
	counts := map[string]int{}
	for c, err := range stream[struct {
		State string
		N     int
	}](ctx, q, fmt.Sprintf("count the writes of run %s", run), `SELECT state, count(*) AS n FROM journal WHERE bridge = $1 AND run = $2 GROUP BY state`, bridge, run) {
		if err != nil {
			return nil, err
		}
		counts[c.State] = c.N
	}
	return counts, nil
}

// ProbedSemantics is what the last probe of a write that came to its end has shown of BLN, "merge" or "replace"; "" where there was none.
func ProbedSemantics(ctx context.Context, q Querier, bridge string) (semantics string, err error) {
	err = q.QueryRow(ctx, `SELECT coalesce((SELECT counts->>'semantics' FROM runs WHERE bridge = $1 AND kind = 'probe' AND status = 'done'
		ORDER BY started_at DESC LIMIT 1), '')`, bridge).Scan(&semantics)
	if err != nil {
		return "", fmt.Errorf("read what the last probe has shown: %w", err)
	}
	return semantics, nil
}
