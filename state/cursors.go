package state

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// ParticipantStream is the cursor that says up to when everything NameCoach changed is stored. Every other stream is the
// walk of one run.
const ParticipantStream = "participants"

// Cursor is how far a stream of update times was read. Since and Until are on NameCoach's clock, in whole seconds.
type Cursor struct {
	Stream       string
	Since, Until time.Time
	Walk         json.RawMessage // which window comes next; null for ParticipantStream
}

// GetCursor reads a cursor, ErrNotFound before the first window.
func GetCursor(ctx context.Context, q Querier, bridge, stream string) (Cursor, error) {
	c, err := one[Cursor](q.Query(ctx, `SELECT stream, since, until, walk FROM cursors
		WHERE bridge = $1 AND stream = $2`, bridge, stream))
	if err != nil {
		return c, fmt.Errorf("read cursor %s: %w", stream, err)
	}
	return c, nil
}

// CursorAge is how long ago a cursor moved, by the database's clock.
func CursorAge(ctx context.Context, q Querier, bridge, stream string) (age time.Duration, err error) {
	if err = q.QueryRow(ctx, `SELECT now() - moved_at FROM cursors WHERE bridge = $1 AND stream = $2`, bridge, stream).Scan(&age); err != nil {
		return 0, fmt.Errorf("read age of cursor %s: %w", stream, err)
	}
	return age, nil
}

// StartCursor begins a stream at c where it has none, and reads it.
func StartCursor(ctx context.Context, q Querier, bridge string, c Cursor) (Cursor, error) {
	_, err := q.Exec(ctx, `INSERT INTO cursors (bridge, stream, since, until, walk)
		VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, bridge, c.Stream, c.Since, c.Until, c.Walk)
	if err != nil {
		return c, fmt.Errorf("start cursor %s: %w", c.Stream, err)
	}
	return GetCursor(ctx, q, bridge, c.Stream)
}

// MoveCursor runs in the transaction that stores the window's participants: the cursor moves only if they commit, and
// only from where the caller saw it. With until where it was, just the walk is kept (a narrower window for the next
// try). ErrStale: another process has been there.
func MoveCursor(ctx context.Context, q Querier, bridge string, was Cursor, until time.Time, walk json.RawMessage) error {
	tag, err := q.Exec(ctx, `UPDATE cursors SET until = $4, walk = $5, moved_at = now()
		WHERE bridge = $1 AND stream = $2 AND until = $3`, bridge, was.Stream, was.Until, until, walk)
	return exactlyOne(tag, err, "move cursor %s", was.Stream)
}

// Collected says that everything changed from since until until is stored: the participants' cursor takes in what it touches. It
// moves back only to settled, up to which NameCoach's clock now says that anything can be known: that clock was ahead once, and
// what changes now is before the cursor.
func Collected(ctx context.Context, q Querier, bridge string, since, until, settled time.Time) error {
	_, err := q.Exec(ctx, `INSERT INTO cursors (bridge, stream, since, until) VALUES ($1, $2, $3, $4)
		ON CONFLICT (bridge, stream) DO UPDATE SET
			since = CASE WHEN EXCLUDED.until >= least(cursors.since, $5) THEN least(cursors.since, EXCLUDED.since) ELSE cursors.since END,
			until = CASE WHEN EXCLUDED.until >= $5 AND cursors.until > $5 THEN EXCLUDED.until
				WHEN EXCLUDED.since <= cursors.until THEN greatest(cursors.until, EXCLUDED.until) ELSE cursors.until END,
			moved_at = now()`, bridge, ParticipantStream, since, until, settled)
	if err != nil {
		return fmt.Errorf("move cursor %s: %w", ParticipantStream, err)
	}
	return nil
}

// DropCursor ends the walk of a finished run.
func DropCursor(ctx context.Context, q Querier, bridge, stream string) error {
	if _, err := q.Exec(ctx, `DELETE FROM cursors WHERE bridge = $1 AND stream = $2`, bridge, stream); err != nil {
		return fmt.Errorf("drop cursor %s: %w", stream, err)
	}
	return nil
}
