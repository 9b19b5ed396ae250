package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Kind is what a run does.
type Kind string

// The kinds of runs.
const (
	Backfill Kind = "backfill"
	Plan     Kind = "plan"
	Collect  Kind = "collect"
	Sweep    Kind = "sweep"
)

// RunStatus is how a run stands.
type RunStatus string

// The states of a run. Running without a live owner means interrupted.
const (
	Running     RunStatus = "running"
	Done        RunStatus = "done"
	Failed      RunStatus = "failed"
	Quarantined RunStatus = "quarantined"
	Halted      RunStatus = "halted"
)

// Run is one collect, sweep, backfill or plan.
type Run struct {
	Run       uuid.UUID
	Kind      Kind
	Status    RunStatus
	Since     *time.Time
	Owner     *uuid.UUID
	StartedAt time.Time
	EndedAt   *time.Time
	Counts    json.RawMessage
	Error     *string
	Live      bool // its owner is alive
}

var runColumns = `run, kind, status, since, owner, started_at, ended_at, counts, error, status = 'running' AND ` + fmt.Sprintf(liveOwner, "runs.owner") + ` AS live`

// TakeRun gives owner the newest run of kind and since, where it was interrupted or failed and resume is wanted, or else
// starts one. While a live process has it, that run comes back with ErrStale. Run it in a transaction: two processes that
// start at once take turns.
func TakeRun(ctx context.Context, q Querier, bridge string, kind Kind, since *time.Time, owner uuid.UUID, resume bool) (Run, error) {
	fail := func(err error) (Run, error) { return Run{}, fmt.Errorf("start %s of bridge %s: %w", kind, bridge, err) }
	if _, err := q.Exec(ctx, `SELECT 1 FROM bridges WHERE bridge = $1 FOR NO KEY UPDATE`, bridge); err != nil {
		return fail(err)
	}
	last, err := one[Run](q.Query(ctx, `SELECT `+runColumns+` FROM runs
		WHERE bridge = $1 AND kind = $2 AND since IS NOT DISTINCT FROM $3::timestamptz
		ORDER BY started_at DESC LIMIT 1`, bridge, kind, since))
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return fail(err)
	case last.Live:
		return last, fmt.Errorf("%s %s of bridge %s: %w", kind, last.Run, bridge, ErrStale)
	case resume && (last.Status == Running || last.Status == Failed):
		last, err = one[Run](q.Query(ctx, `UPDATE runs SET owner = $3, status = 'running', ended_at = NULL, error = NULL
			WHERE bridge = $1 AND run = $2 RETURNING `+runColumns, bridge, last.Run, owner))
		if err != nil {
			return fail(err)
		}
		return last, nil
	}
	_, err = q.Exec(ctx, `UPDATE runs SET status = 'failed', ended_at = now(), owner = NULL, error = 'interrupted'
		WHERE bridge = $1 AND kind = $2 AND status = 'running' AND NOT `+fmt.Sprintf(liveOwner, "runs.owner"), bridge, kind)
	if err != nil {
		return fail(err)
	}
	run, err := one[Run](q.Query(ctx, `INSERT INTO runs (bridge, run, kind, status, since, owner)
		VALUES ($1, $2, $3, 'running', $4, $5) RETURNING `+runColumns, bridge, uuid.New(), kind, since, owner))
	if err != nil {
		return fail(err)
	}
	return run, nil
}

// EndRun closes owner's run with its counts. An error text is for people. ErrStale: another process has taken the run over.
func EndRun(ctx context.Context, q Querier, bridge string, run, owner uuid.UUID, status RunStatus, counts any, problem string) error {
	raw, err := json.Marshal(counts)
	if err != nil {
		return fmt.Errorf("end run %s: %w", run, err)
	}
	tag, err := q.Exec(ctx, `UPDATE runs SET status = $3, ended_at = now(), counts = $4, error = nullif($5, ''), owner = NULL
		WHERE bridge = $1 AND run = $2 AND owner = $6`, bridge, run, status, raw, forPeople(problem), owner)
	return exactlyOne(tag, err, "end run %s", run)
}

// ReleaseRun gives an unfinished run back, so that the next process goes on with it at once.
func ReleaseRun(ctx context.Context, q Querier, bridge string, run, owner uuid.UUID) error {
	_, err := q.Exec(ctx, `UPDATE runs SET owner = NULL WHERE bridge = $1 AND run = $2 AND owner = $3 AND status = 'running'`, bridge, run, owner)
	if err != nil {
		return fmt.Errorf("release run %s: %w", run, err)
	}
	return nil
}

// GetRun reads one run.
func GetRun(ctx context.Context, q Querier, bridge string, run uuid.UUID) (Run, error) {
	r, err := one[Run](q.Query(ctx, `SELECT `+runColumns+` FROM runs WHERE bridge = $1 AND run = $2`, bridge, run))
	if err != nil {
		return r, fmt.Errorf("read run %s: %w", run, err)
	}
	return r, nil
}

// LastRuns gives the newest run of each kind.
func LastRuns(ctx context.Context, q Querier, bridge string) ([]Run, error) {
	runs, err := collect[Run](q.Query(ctx, `SELECT DISTINCT ON (kind) `+runColumns+` FROM runs
		WHERE bridge = $1 ORDER BY kind, started_at DESC`, bridge))
	if err != nil {
		return nil, fmt.Errorf("read runs of bridge %s: %w", bridge, err)
	}
	return runs, nil
}

// PlanStep is one user that a plan would write or clear.
type PlanStep struct {
	UserID int64
	Action string
	Wanted json.RawMessage
	Digest []byte
}

// StorePlanSteps keeps what a run would do, or what the guard has staged.
func StorePlanSteps(ctx context.Context, q Querier, bridge string, run uuid.UUID, steps []PlanStep) error {
	users, actions, wanted, digests := make([]int64, len(steps)), make([]string, len(steps)), make([]*string, len(steps)), make([][]byte, len(steps))
	for i, s := range steps {
		users[i], actions[i], digests[i] = s.UserID, s.Action, s.Digest
		if s.Wanted != nil {
			text := string(s.Wanted)
			wanted[i] = &text
		}
	}
	_, err := q.Exec(ctx, `INSERT INTO plan_steps (bridge, run, user_id, action, wanted, digest)
		SELECT $1, $2, u, a, w::jsonb, d FROM unnest($3::bigint[], $4::text[], $5::text[], $6::bytea[]) AS t(u, a, w, d)
		ON CONFLICT (bridge, run, user_id) DO UPDATE SET action = EXCLUDED.action, wanted = EXCLUDED.wanted, digest = EXCLUDED.digest`,
		bridge, run, users, actions, wanted, digests)
	if err != nil {
		return fmt.Errorf("store plan of run %s: %w", run, err)
	}
	return nil
}

// StageClears keeps the pending clears as steps of a run that waits for a person.
func StageClears(ctx context.Context, q Querier, bridge string, run uuid.UUID) error {
	_, err := q.Exec(ctx, `INSERT INTO plan_steps (bridge, run, user_id, action, digest)
		SELECT bridge, $2, user_id, action, applied_digest FROM directory_users
		WHERE bridge = $1 AND action = 'clear' AND wanted_version > applied_version AND gone_at IS NULL
		ON CONFLICT (bridge, run, user_id) DO NOTHING`, bridge, run)
	if err != nil {
		return fmt.Errorf("stage the clears of run %s: %w", run, err)
	}
	return nil
}
