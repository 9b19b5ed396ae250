package state

import (
	"context"
	"fmt"
	"time"
)

// Housekeeping is what is scheduled and no run: a daemon looks for what was left behind.
const Housekeeping Kind = "housekeeping"

// Schedule is when the next run of a kind is due.
type Schedule struct {
	Kind       Kind
	Expression string
	DueAt      time.Time
	Now        time.Time // of the database
}

const scheduleColumns = `kind, expression, due_at, now() AS now`

// NoteSchedule keeps an expression and when it is first due. One that stands there already keeps its time, also where that
// has passed: what was missed while no process lived is made up once.
func NoteSchedule(ctx context.Context, q Querier, bridge string, s Schedule) error {
	_, err := q.Exec(ctx, `INSERT INTO schedules (bridge, kind, expression, due_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (bridge, kind) DO UPDATE SET expression = EXCLUDED.expression, due_at = EXCLUDED.due_at
		WHERE schedules.expression <> EXCLUDED.expression`, bridge, s.Kind, s.Expression, s.DueAt)
	if err != nil {
		return fmt.Errorf("note schedule of %s of bridge %s: %w", s.Kind, bridge, err)
	}
	return nil
}

// Schedules gives those of a bridge, in order of time.
func Schedules(ctx context.Context, q Querier, bridge string) ([]Schedule, error) {
	ss, err := collect[Schedule](q.Query(ctx, `SELECT `+scheduleColumns+` FROM schedules WHERE bridge = $1 ORDER BY due_at, kind`, bridge))
	if err != nil {
		return nil, fmt.Errorf("read schedules: %w", err)
	}
	return ss, nil
}

// TakeDue locks the bridge, and one of its schedules that is due. ErrNotFound: none is, or somebody else has the bridge at the moment.
func TakeDue(ctx context.Context, q Querier, bridge string) (Schedule, error) {
	tag, err := q.Exec(ctx, `SELECT 1 FROM bridges WHERE bridge = $1 FOR NO KEY UPDATE SKIP LOCKED`, bridge)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Schedule{}, fmt.Errorf("take what is due: %w", err)
	}
	s, err := one[Schedule](q.Query(ctx, `SELECT `+scheduleColumns+` FROM schedules WHERE bridge = $1 AND due_at <= now()
		ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED`, bridge))
	if err != nil {
		return s, fmt.Errorf("take what is due: %w", err)
	}
	return s, nil
}

// MoveSchedule says when a schedule is due next, in the transaction that has started its run.
func MoveSchedule(ctx context.Context, q Querier, bridge string, kind Kind, due time.Time) error {
	tag, err := q.Exec(ctx, `UPDATE schedules SET due_at = $3 WHERE bridge = $1 AND kind = $2`, bridge, kind, due)
	return exactlyOne(tag, err, "move schedule of %s of bridge %s", kind, bridge)
}

// HastenSchedule makes a kind due within some time, if it would be later.
func HastenSchedule(ctx context.Context, q Querier, bridge string, kind Kind, within time.Duration) error {
	_, err := q.Exec(ctx, `UPDATE schedules SET due_at = least(due_at, now() + $3::interval) WHERE bridge = $1 AND kind = $2`, bridge, kind, within)
	if err != nil {
		return fmt.Errorf("hasten schedule of %s of bridge %s: %w", kind, bridge, err)
	}
	return nil
}

// DropSchedule forgets a kind that nobody schedules any more.
func DropSchedule(ctx context.Context, q Querier, bridge string, kind Kind) error {
	if _, err := q.Exec(ctx, `DELETE FROM schedules WHERE bridge = $1 AND kind = $2`, bridge, kind); err != nil {
		return fmt.Errorf("drop schedule of %s of bridge %s: %w", kind, bridge, err)
	}
	return nil
}
