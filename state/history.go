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

// Runs yields up to limit runs (0: all) of one kind (empty: of any), newest first, and stops after its first error.
func Runs(ctx context.Context, q Querier, bridge string, kind Kind, limit int) iter.Seq2[Run, error] {
	return stream[Run](ctx, q, "read runs of bridge "+bridge, `SELECT `+runColumns+` FROM runs
		WHERE bridge = $1 AND ($2 = '' OR kind = $2) ORDER BY started_at DESC, run LIMIT nullif($3::bigint, 0)`, bridge, kind, limit)
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

// stillWanted is the condition that the directory user d is still to get what step s says.
const stillWanted = `d.gone_at IS NULL AND d.wanted_version = s.version AND d.wanted_version > d.applied_version`

// RunStep is one user whom a run would write or clear.
type RunStep struct {
	UserID int64
	Action string
	Wanted json.RawMessage // the fragment; nil for a clear
	Moved  bool            // something else is wanted by now, or nothing any more
}

// RunSteps yields up to limit steps of a run (0: all) in order of user, and stops after its first error.
func RunSteps(ctx context.Context, q Querier, bridge string, run uuid.UUID, limit int) iter.Seq2[RunStep, error] {
	return stream[RunStep](ctx, q, fmt.Sprintf("read the steps of run %s", run), `SELECT s.user_id, s.action, s.wanted, (`+stillWanted+`) IS NOT TRUE AS moved
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
