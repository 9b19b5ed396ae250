package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Kind is what a run does.
type Kind string

// The kinds of runs.
const (
	Backfill Kind = "backfill"
	Plan     Kind = "plan"
	Collect  Kind = "collect"
	Sweep    Kind = "sweep"
	Census   Kind = "census"
)

// RunStatus is how a run stands.
type RunStatus string

// The states of a run. Running means that a job is there for its next step, whether or not a process lives that does it.
const (
	Running     RunStatus = "running"
	Done        RunStatus = "done"
	Failed      RunStatus = "failed"
	Quarantined RunStatus = "quarantined"
	Halted      RunStatus = "halted"
)

// The priorities of runs, of their jobs, and of the users that they make pending.
const (
	OnDemand         int16 = 1
	CollectPriority  int16 = 2
	SweepPriority    int16 = 3
	BackfillPriority int16 = 4
	// Planned users are written by nobody, until a run that writes wants them.
	Planned int16 = 5
)

// Run is one collect, sweep, census, backfill or plan.
type Run struct {
	Run               uuid.UUID
	Kind              Kind
	Status            RunStatus
	Since             *time.Time
	StartedAt         time.Time
	ResumedAt         *time.Time // it had failed, and was gone on with
	EndedAt           *time.Time
	Phase             string          // what is to be done next
	Place             json.RawMessage // how far the phase is; null: at its beginning
	Progress          json.RawMessage // the same for people
	Priority          int16
	Hosted            *uuid.UUID // the process that waits for it; nil: the daemon's
	RequestsNamecoach int64
	RequestsBLN       int64
	Counts            json.RawMessage
	Error             *string
	ApprovedAt        *time.Time // a person has let its staged or planned steps through
	Live              bool       // running, and a process that serves the bridge lives
}

var runColumns = `run, kind, status, since, started_at, resumed_at, ended_at, phase, place, progress, priority, hosted, requests_namecoach, requests_bln,
	counts, error, approved_at, status = 'running' AND ` + liveBridge + ` AS live`

// NewRun is a run to be started.
type NewRun struct {
	Kind     Kind
	Since    *time.Time
	Phase    string // its first
	Priority int16
	Hosted   *uuid.UUID
	Resume   bool // go on with the last one of this kind and since, if it failed
}

// StartRun starts a run, or gives the one of the same kind and since that is running already: two processes that start at
// once start the same. started is false where it was running. Run it in the transaction that queues its first job.
func StartRun(ctx context.Context, q Querier, bridge string, n NewRun) (run Run, started bool, err error) {
	fail := func(err error) (Run, bool, error) {
		return Run{}, false, fmt.Errorf("start %s of bridge %s: %w", n.Kind, bridge, err)
	}
	if err := lockBridge(ctx, q, bridge); err != nil {
		return fail(err)
	}
	last, err := one[Run](q.Query(ctx, `SELECT `+runColumns+` FROM runs
		WHERE bridge = $1 AND kind = $2 AND since IS NOT DISTINCT FROM $3::timestamptz
		ORDER BY status = 'running' DESC, started_at DESC LIMIT 1`, bridge, n.Kind, n.Since))
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return fail(err)
	case last.Status == Running:
		return last, false, nil
	case n.Resume && last.Status == Failed:
		// From its first phase: what was done is found done, and what has changed since is seen.
		// But one that a person has approved was just that.
		run, err = one[Run](q.Query(ctx, `WITH planned AS (DELETE FROM plan_steps s USING runs WHERE s.bridge = $1 AND s.run = $2
				AND runs.bridge = $1 AND runs.run = $2 AND runs.approved_at IS NULL)
			UPDATE runs SET status = 'running', ended_at = NULL, error = NULL, resumed_at = now(),
				phase = $3, place = NULL, progress = NULL, priority = $4, hosted = $5
			WHERE bridge = $1 AND run = $2 AND approved_at IS NULL RETURNING `+runColumns, bridge, last.Run, n.Phase, n.Priority, n.Hosted))
		if err == nil {
			return run, true, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return fail(err)
		}
	}
	run, err = one[Run](q.Query(ctx, `INSERT INTO runs (bridge, run, kind, status, since, phase, priority, hosted)
		VALUES ($1, $2, $3, 'running', $4, $5, $6, $7) RETURNING `+runColumns, bridge, uuid.New(), n.Kind, n.Since, n.Phase, n.Priority, n.Hosted))
	if err != nil {
		return fail(err)
	}
	return run, true, nil
}

// HostRun makes owner the process that waits for a running run, where the one that did is gone: what interrupts it then
// ends the run.
func HostRun(ctx context.Context, q Querier, bridge string, run, owner uuid.UUID) error {
	_, err := q.Exec(ctx, `UPDATE runs SET hosted = $3 WHERE bridge = $1 AND run = $2 AND status = 'running'
		AND hosted IS NOT NULL AND NOT `+fmt.Sprintf(liveOwner, "runs.hosted"), bridge, run, owner)
	if err != nil {
		return fmt.Errorf("host run %s: %w", run, err)
	}
	return nil
}

// Step is how far a run has come with its phase.
type Step struct {
	Place              json.RawMessage // of the phase; nil: as it was
	Progress           json.RawMessage // for people; nil: as it was
	NameCoach, BLNSent int64           // requests sent for it
}

// NoteStep notes how far run, as it was read, has come, in the transaction that brings it there. ErrStale: it is not in this
// phase any more, or was ended, also where it has been gone on with since: the step must not count.
func NoteStep(ctx context.Context, q Querier, bridge string, run Run, s Step) error {
	tag, err := q.Exec(ctx, `UPDATE runs SET place = coalesce($4, place), progress = CASE WHEN $5::jsonb IS NULL THEN progress ELSE coalesce(progress, '{}') || $5 END,
			requests_namecoach = requests_namecoach + $6, requests_bln = requests_bln + $7
		WHERE bridge = $1 AND run = $2 AND phase = $3 AND status = 'running' AND resumed_at IS NOT DISTINCT FROM $8`,
		bridge, run.Run, run.Phase, s.Place, s.Progress, s.NameCoach, s.BLNSent, run.ResumedAt)
	return exactlyOne(tag, err, "note step of run %s", run.Run)
}

// NextPhase takes a running run from one phase to the next, in the transaction that queues its job. Its progress keeps how far the
// former phases came. ErrStale: see NoteStep.
func NextPhase(ctx context.Context, q Querier, bridge string, run Run, next string) error {
	tag, err := q.Exec(ctx, `UPDATE runs SET phase = $4, place = NULL, progress = (progress - ARRAY['done', 'total']) || jsonb_build_object('before',
			coalesce(progress->'before', '{}') || CASE WHEN progress ? 'done' THEN jsonb_build_object(phase, progress->'done') ELSE '{}' END)
		WHERE bridge = $1 AND run = $2 AND phase = $3 AND status = 'running' AND resumed_at IS NOT DISTINCT FROM $5`, bridge, run.Run, run.Phase, next, run.ResumedAt)
	return exactlyOne(tag, err, "next phase of run %s", run.Run)
}

// CountRequests adds requests to what a run has sent, also after its end.
func CountRequests(ctx context.Context, q Querier, bridge string, run uuid.UUID, nameCoach, bln int64) error {
	_, err := q.Exec(ctx, `UPDATE runs SET requests_namecoach = requests_namecoach + $3, requests_bln = requests_bln + $4
		WHERE bridge = $1 AND run = $2`, bridge, run, nameCoach, bln)
	if err != nil {
		return fmt.Errorf("count requests of run %s: %w", run, err)
	}
	return nil
}

// CountWritten adds users that are done, and the requests it took, to what a run has come to.
func CountWritten(ctx context.Context, q Querier, bridge string, run uuid.UUID, users, requests int64) error {
	_, err := q.Exec(ctx, `UPDATE runs SET requests_bln = requests_bln + $4,
			progress = CASE WHEN phase = 'write' AND progress ? 'done' THEN jsonb_set(progress, '{done}', to_jsonb((progress->>'done')::bigint + $3)) ELSE coalesce(progress, '{}') END
				|| jsonb_build_object('written', coalesce((progress->>'written')::bigint, 0) + $3)
		WHERE bridge = $1 AND run = $2`, bridge, run, users, requests)
	if err != nil {
		return fmt.Errorf("count what is written of run %s: %w", run, err)
	}
	return nil
}

// EndRun closes run, as it was read, with its counts. An error text is for people. ErrStale: it has been closed already, also
// where it has been gone on with since.
func EndRun(ctx context.Context, q Querier, bridge string, run Run, status RunStatus, counts any, problem string) error {
	raw, err := json.Marshal(counts)
	if err != nil {
		return fmt.Errorf("end run %s: %w", run.Run, err)
	}
	tag, err := q.Exec(ctx, `UPDATE runs SET status = $3, ended_at = now(), counts = $4, error = nullif($5, ''), hosted = NULL
		WHERE bridge = $1 AND run = $2 AND status = 'running' AND resumed_at IS NOT DISTINCT FROM $6`, bridge, run.Run, status, raw, forPeople(problem), run.ResumedAt)
	return exactlyOne(tag, err, "end run %s", run.Run)
}

// LockRun reads a run and keeps others from moving it until the transaction ends.
func LockRun(ctx context.Context, q Querier, bridge string, run uuid.UUID) (Run, error) {
	if _, err := q.Exec(ctx, `SELECT 1 FROM runs WHERE bridge = $1 AND run = $2 FOR NO KEY UPDATE`, bridge, run); err != nil {
		return Run{}, fmt.Errorf("lock run %s: %w", run, err)
	}
	return GetRun(ctx, q, bridge, run)
}

// GetRun reads one run.
func GetRun(ctx context.Context, q Querier, bridge string, run uuid.UUID) (Run, error) {
	r, err := one[Run](q.Query(ctx, `SELECT `+runColumns+` FROM runs WHERE bridge = $1 AND run = $2`, bridge, run))
	if err != nil {
		return r, fmt.Errorf("read run %s: %w", run, err)
	}
	return r, nil
}

// RunningRuns gives the runs that are not ended, the most urgent first.
func RunningRuns(ctx context.Context, q Querier, bridge string) ([]Run, error) {
	runs, err := collect[Run](q.Query(ctx, `SELECT `+runColumns+` FROM runs WHERE bridge = $1 AND status = 'running' ORDER BY priority, started_at`, bridge))
	if err != nil {
		return nil, fmt.Errorf("read runs of bridge %s: %w", bridge, err)
	}
	return runs, nil
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
	UserID  int64
	Action  string
	Wanted  json.RawMessage
	Digest  []byte
	Version int64 // the wanted_version that was planned
}

// StorePlanSteps keeps what a run would do.
func StorePlanSteps(ctx context.Context, q Querier, bridge string, run uuid.UUID, steps []PlanStep) error {
	n := len(steps)
	users, actions, wanted, digests, versions := make([]int64, n), make([]string, n), make([]*string, n), make([][]byte, n), make([]int64, n)
	for i, s := range steps {
		users[i], actions[i], digests[i], versions[i] = s.UserID, s.Action, s.Digest, s.Version
		if s.Wanted != nil {
			text := string(s.Wanted)
			wanted[i] = &text
		}
	}
	_, err := q.Exec(ctx, `INSERT INTO plan_steps (bridge, run, user_id, action, wanted, digest, version)
		SELECT $1, $2, u, a, w::jsonb, d, v FROM unnest($3::bigint[], $4::text[], $5::text[], $6::bytea[], $7::bigint[]) AS t(u, a, w, d, v)
		ON CONFLICT (bridge, run, user_id) DO UPDATE SET action = EXCLUDED.action, wanted = EXCLUDED.wanted, digest = EXCLUDED.digest, version = EXCLUDED.version`,
		bridge, run, users, actions, wanted, digests, versions)
	if err != nil {
		return fmt.Errorf("store plan of run %s: %w", run, err)
	}
	return nil
}

// CountPlanned counts the users that a plan would write and clear.
func CountPlanned(ctx context.Context, q Querier, bridge string, run uuid.UUID) (written, cleared int, err error) {
	err = q.QueryRow(ctx, `SELECT count(*) FILTER (WHERE action = 'write'), count(*) FILTER (WHERE action = 'clear')
		FROM plan_steps WHERE bridge = $1 AND run = $2`, bridge, run).Scan(&written, &cleared)
	if err != nil {
		return 0, 0, fmt.Errorf("count the steps of plan %s: %w", run, err)
	}
	return written, cleared, nil
}

// waiting is the condition that the directory user d is to lose a recording or a fragment, and that nobody has let it
// through yet.
const waiting = `d.removes AND d.wanted_version > d.applied_version AND d.released_version < d.wanted_version AND d.gone_at IS NULL`

// unjudged is the condition that the removal of d does not wait for a person, in a run that has staged it as it is.
const unjudged = `NOT EXISTS (SELECT 1 FROM plan_steps s JOIN runs r USING (bridge, run)
	WHERE s.bridge = $1 AND s.user_id = d.user_id AND s.version = d.wanted_version
		AND r.kind <> 'plan' AND r.approved_at IS NULL AND r.status IN ('quarantined', 'running'))`

// ownRemovals is the condition that the guard has to judge the removal of d with run $2: it is that run's, or nobody's who
// will have it judged.
const ownRemovals = `d.bridge = $1 AND d.urgency < $3 AND ` + waiting + ` AND ` + unjudged + `
	AND (d.wanted_run = $2 OR NOT EXISTS (SELECT 1 FROM runs r WHERE r.bridge = $1 AND r.run = d.wanted_run AND r.status = 'running'))`

// Removals are what the guard goes by, beside those that it judges.
type Removals struct {
	Done   int // of the run, that were let through already
	Staged int // of the bridge, that wait for a person
}

// CountRemovals counts the removals that were judged.
func CountRemovals(ctx context.Context, q Querier, bridge string, run uuid.UUID) (Removals, error) {
	r, err := one[Removals](q.Query(ctx, `SELECT
		(SELECT count(*) FROM directory_users d WHERE d.bridge = $1 AND d.wanted_run = $2 AND d.removes AND d.released_version = d.wanted_version) AS done,
		(SELECT count(*) FROM directory_users d WHERE d.bridge = $1 AND d.urgency < $3 AND `+waiting+` AND NOT `+unjudged+`) AS staged`,
		bridge, run, Planned))
	if err != nil {
		return r, fmt.Errorf("count the removals of run %s: %w", run, err)
	}
	return r, nil
}

// AnyUnjudged says whether there are removals that are to be judged with a run.
func AnyUnjudged(ctx context.Context, q Querier, bridge string, run uuid.UUID) (there bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM directory_users d WHERE `+ownRemovals+`)`, bridge, run, Planned).Scan(&there)
	if err != nil {
		return false, fmt.Errorf("look for removals: %w", err)
	}
	return there, nil
}

// TakeRemovals gives the users whose removals are to be judged with a run. They stay as they are until tx ends, so that what
// is let through or staged is what was judged, whatever else becomes the run's to judge meanwhile. Those of recordings that
// only reading has found are among them if found says so: as long as users are read and written, there may be more.
func TakeRemovals(ctx context.Context, tx Querier, bridge string, run uuid.UUID, found bool) ([]int64, error) {
	judged := ownRemovals
	if !found {
		judged += ` AND (d.applied_digest IS NOT NULL OR d.action = 'clear')`
	}
	take := func(which string, args ...any) (users []int64, err error) {
		rows, err := tx.Query(ctx, `SELECT user_id FROM directory_users d WHERE `+judged+which, args...)
		if err == nil {
			users, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		}
		if err != nil {
			return nil, fmt.Errorf("take the removals of run %s: %w", run, err)
		}
		return users, nil
	}
	locked, err := take(` ORDER BY user_id FOR UPDATE`, bridge, run, Planned)
	if err != nil || len(locked) == 0 {
		return nil, err
	}
	// Whoever had them before may have staged them, which only a statement sees that begins afterwards.
	return take(` AND user_id = ANY($4) ORDER BY user_id`, bridge, run, Planned, locked)
}

// StageRemovals keeps removals that were taken as steps of the run, which wait for a person.
func StageRemovals(ctx context.Context, q Querier, bridge string, run uuid.UUID, users []int64) error {
	_, err := q.Exec(ctx, `INSERT INTO plan_steps (bridge, run, user_id, action, wanted, digest, version)
		SELECT bridge, $2, user_id, action, wanted, applied_digest, wanted_version FROM directory_users WHERE bridge = $1 AND user_id = ANY($3)
		ON CONFLICT (bridge, run, user_id) DO UPDATE SET action = EXCLUDED.action, wanted = EXCLUDED.wanted, digest = EXCLUDED.digest, version = EXCLUDED.version`,
		bridge, run, orEmpty(users))
	if err != nil {
		return fmt.Errorf("stage the removals of run %s: %w", run, err)
	}
	return nil
}

// ReleaseRemovals lets removals through that were taken. They are the run's from now on, which counts them when it judges again.
func ReleaseRemovals(ctx context.Context, q Querier, bridge string, run uuid.UUID, users []int64) error {
	_, err := q.Exec(ctx, `UPDATE directory_users SET released_version = wanted_version, wanted_run = $2,
		urgency = least(urgency, (SELECT priority FROM runs WHERE bridge = $1 AND run = $2)) WHERE bridge = $1 AND user_id = ANY($3)`,
		bridge, run, orEmpty(users))
	if err != nil {
		return fmt.Errorf("let the removals of run %s through: %w", run, err)
	}
	return nil
}

// FoundRecordings says of claimed users that a recording stands there which what is wanted would take away, and gives them
// back: that is for the guard to judge.
func FoundRecordings(ctx context.Context, q Querier, bridge string, claimed []Claimed) error {
	users, fences := make([]int64, len(claimed)), make([]int64, len(claimed))
	for i, c := range claimed {
		users[i], fences[i] = c.UserID, c.Fence
	}
	_, err := q.Exec(ctx, `WITH `+inOrder+` UPDATE directory_users d SET claim_owner = NULL, applied_recording = true,
			removes = d.removes OR d.wanted_version > d.applied_version AND d.wanted->>'recording_link' IS NULL
		FROM unnest($2::bigint[], $3::bigint[]) AS t(u, f) JOIN locked ON locked.user_id = t.u
		WHERE d.bridge = $1 AND d.user_id = t.u AND d.fence = t.f`, bridge, users, fences)
	if err != nil {
		return fmt.Errorf("note recordings that were found: %w", err)
	}
	return nil
}

// Approval is what approving a run came to.
type Approval struct {
	Steps int     // of the run
	Moved []int64 // users for whom something else is wanted by now, or nothing any more: they are left out
}

// ApproveRun lets through exactly the steps of a quarantined run or of a plan, as far as they are still what is wanted. They
// become the wish of the run again, with the highest priority; the caller queues its job in the same transaction.
// ErrStale: the run is neither quarantined nor a finished plan, or was approved before.
func ApproveRun(ctx context.Context, q Querier, bridge string, run uuid.UUID, phase string, hosted uuid.UUID, reason string) (Approval, error) {
	var a Approval
	tag, err := q.Exec(ctx, `UPDATE runs SET status = 'running', ended_at = NULL, phase = $3, place = NULL, progress = NULL, priority = $4,
			resumed_at = now(), approved_at = now(), approved_reason = $5, hosted = $6
		WHERE bridge = $1 AND run = $2 AND approved_at IS NULL AND (status = 'quarantined' OR kind = 'plan' AND status = 'done')`,
		bridge, run, phase, OnDemand, forPeople(reason), hosted)
	if err := exactlyOne(tag, err, "approve run %s", run); err != nil {
		return a, err
	}
	err = q.QueryRow(ctx, `WITH steps AS (SELECT user_id, version FROM plan_steps WHERE bridge = $1 AND run = $2),
		`+inOrderWhere(`d.bridge = $1 AND d.user_id IN (SELECT user_id FROM steps)`)+`,
		still AS (UPDATE directory_users d SET released_version = wanted_version, wanted_run = $2, urgency = $3, attempts = 0, retry_at = NULL
			FROM steps s JOIN locked USING (user_id) WHERE d.bridge = $1 AND d.user_id = s.user_id AND d.gone_at IS NULL AND d.wanted_version = s.version AND d.wanted_version > d.applied_version
			RETURNING d.user_id)
		SELECT (SELECT count(*) FROM steps), coalesce((SELECT array_agg(user_id ORDER BY user_id) FROM steps WHERE user_id NOT IN (SELECT user_id FROM still)), '{}')`,
		bridge, run, OnDemand).Scan(&a.Steps, &a.Moved)
	if err != nil {
		return a, fmt.Errorf("approve run %s: %w", run, err)
	}
	return a, nil
}
