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
	Held         map[string]int // people and users by reason, but those that somebody has set aside
	Quarantined  []string       // runs whose staged steps wait for a person
}

// CountTotals counts where a bridge stands.
func CountTotals(ctx context.Context, q Querier, bridge string) (Totals, error) {
	t := Totals{Held: map[string]int{}}
	err := q.QueryRow(ctx, `SELECT (SELECT count(*) FROM participants WHERE bridge = $1 AND NOT replaced), u.*,
			(SELECT count(*) FROM directory_users d WHERE d.bridge = $1 AND d.gone_at IS NULL
				AND EXISTS (SELECT 1 FROM links l WHERE l.bridge = $1 AND l.user_id = d.user_id))
		FROM (SELECT count(*),
			count(*) FILTER (WHERE action = 'write' AND applied_version >= wanted_version AND applied_digest IS NOT NULL),
			count(*) FILTER (WHERE wanted_version > applied_version),
			count(*) FILTER (WHERE wanted_version > applied_version AND attempts > 0)
			FROM directory_users WHERE bridge = $1 AND gone_at IS NULL) u`, bridge).
		Scan(&t.Participants, &t.Users, &t.Synced, &t.Pending, &t.Failed, &t.Linked)
	if err != nil {
		return t, fmt.Errorf("count bridge %s: %w", bridge, err)
	}
	rows, err := q.Query(ctx, `SELECT reason, count(*) FROM holds WHERE bridge = $1 AND ignored_at IS NULL GROUP BY reason`, bridge)
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
			WHERE s.bridge = $1 AND s.run = r.run AND d.wanted_version = s.version AND d.wanted_version > d.applied_version AND d.gone_at IS NULL)`, bridge).Scan(&t.Quarantined)
	if err != nil {
		return t, fmt.Errorf("read quarantined runs of bridge %s: %w", bridge, err)
	}
	return t, nil
}
