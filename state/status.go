package state

import (
	"context"
	"fmt"
)

// Totals is how a bridge stands.
type Totals struct {
	Participants int            // NameCoach rows known, but those that others have replaced
	Users        int            // directory users
	Linked       int            // users with a link
	Synced       int            // users that show the right fragment
	Pending      int            // users still to be written
	Failed       int            // of those, tried and failed
	Held         map[string]int // people and users by reason
	Quarantined  []string       // runs whose staged clears wait for a person
}

// CountTotals counts where a bridge stands.
func CountTotals(ctx context.Context, q Querier, bridge string) (Totals, error) {
	t := Totals{Held: map[string]int{}}
	err := q.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM participants WHERE bridge = $1 AND NOT replaced),
		(SELECT count(*) FROM directory_users WHERE bridge = $1 AND gone_at IS NULL),
		(SELECT count(DISTINCT l.user_id) FROM links l JOIN directory_users d USING (bridge, user_id) WHERE l.bridge = $1 AND d.gone_at IS NULL),
		(SELECT count(*) FROM directory_users WHERE bridge = $1 AND gone_at IS NULL AND action = 'write' AND applied_version >= wanted_version AND applied_digest IS NOT NULL),
		(SELECT count(*) FROM directory_users WHERE bridge = $1 AND gone_at IS NULL AND wanted_version > applied_version),
		(SELECT count(*) FROM directory_users WHERE bridge = $1 AND gone_at IS NULL AND wanted_version > applied_version AND attempts > 0)`, bridge).
		Scan(&t.Participants, &t.Users, &t.Linked, &t.Synced, &t.Pending, &t.Failed)
	if err != nil {
		return t, fmt.Errorf("count bridge %s: %w", bridge, err)
	}
	rows, err := q.Query(ctx, `SELECT reason, count(*) FROM holds WHERE bridge = $1 GROUP BY reason`, bridge)
	if err != nil {
		return t, fmt.Errorf("count holds of bridge %s: %w", bridge, err)
	}
	defer rows.Close()
	for rows.Next() {
		var reason string
		var n int
		if err := rows.Scan(&reason, &n); err != nil {
			return t, fmt.Errorf("count holds of bridge %s: %w", bridge, err)
		}
		t.Held[reason] = n
	}
	if err := rows.Err(); err != nil {
		return t, fmt.Errorf("count holds of bridge %s: %w", bridge, err)
	}
	err = q.QueryRow(ctx, `SELECT coalesce(array_agg(run::text ORDER BY started_at), '{}') FROM runs r WHERE bridge = $1 AND status = 'quarantined'
		AND EXISTS (SELECT 1 FROM plan_steps s JOIN directory_users d ON d.bridge = $1 AND d.user_id = s.user_id
			WHERE s.bridge = $1 AND s.run = r.run AND d.action = 'clear' AND d.wanted_version > d.applied_version)`, bridge).Scan(&t.Quarantined)
	if err != nil {
		return t, fmt.Errorf("read quarantined runs of bridge %s: %w", bridge, err)
	}
	return t, nil
}
