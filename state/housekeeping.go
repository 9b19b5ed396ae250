package state

import (
	"context"
	"fmt"
	"time"
)

// Prune forgets what nobody needs any more: settled journal entries older than retention (but those of damage that could
// not be put back), runs of which nothing is left to tell, rows that speak for nobody and users that are gone, for as long.
// Of collects that found nothing to do only those of the last hour stay. It is called again and again: each call forgets a
// little. The answer is how many rows went.
func Prune(ctx context.Context, q Querier, bridge string, retention time.Duration) (gone int64, err error) {
	// So that no statement holds locks for long, or waits for one while it holds others.
	const batch = ` LIMIT 5000 FOR UPDATE SKIP LOCKED))`
	for _, sql := range []string{
		`DELETE FROM journal WHERE bridge = $1 AND entry = ANY(ARRAY(SELECT entry FROM journal
			WHERE bridge = $1 AND settled_at < now() - $2::interval AND state <> 'damaged'` + batch,
		// The newest run of each kind stays, and the newest that succeeded, whatever its age.
		`DELETE FROM runs WHERE bridge = $1 AND run = ANY(ARRAY(SELECT r.run FROM runs r
			WHERE r.bridge = $1 AND r.status <> 'running' AND (r.ended_at < now() - $2::interval
				OR r.kind = 'collect' AND r.status = 'done' AND r.ended_at < now() - interval '1 hour'
					AND (r.counts->>'written')::int = 0 AND (r.counts->>'cleared')::int = 0)
				AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.bridge = $1 AND j.run = r.run)
				AND NOT (r.status = 'quarantined' AND EXISTS (SELECT 1 FROM plan_steps s JOIN directory_users d USING (bridge, user_id)
					WHERE s.bridge = $1 AND s.run = r.run AND d.wanted_version = s.version AND d.wanted_version > d.applied_version))
				AND EXISTS (SELECT 1 FROM runs n WHERE n.bridge = $1 AND n.kind = r.kind AND n.started_at > r.started_at)
				AND (r.status <> 'done' OR EXISTS (SELECT 1 FROM runs n WHERE n.bridge = $1 AND n.kind = r.kind AND n.started_at > r.started_at AND n.status = 'done'))` + batch,
		`DELETE FROM cursors WHERE bridge = $1 AND stream = ANY(ARRAY(SELECT stream FROM cursors
			WHERE bridge = $1 AND stream <> 'participants' AND moved_at < now() - $2::interval` + batch,
		`DELETE FROM participants WHERE bridge = $1 AND participant = ANY(ARRAY(SELECT p.participant FROM participants p
			WHERE p.bridge = $1 AND p.replaced AND p.missing_since < now() - $2::interval
				AND NOT EXISTS (SELECT 1 FROM directory_users d WHERE d.bridge = $1 AND d.applied_source = p.participant AND d.gone_at IS NULL)` + batch,
		`DELETE FROM directory_users WHERE bridge = $1 AND user_id = ANY(ARRAY(SELECT d.user_id FROM directory_users d
			WHERE d.bridge = $1 AND d.gone_at < now() - $2::interval
				AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.bridge = $1 AND j.user_id = d.user_id)
				AND NOT EXISTS (SELECT 1 FROM links l WHERE l.bridge = $1 AND l.user_id = d.user_id)` + batch,
	} {
		tag, err := q.Exec(ctx, sql, bridge, retention)
		if err != nil {
			return gone, fmt.Errorf("housekeeping: %w", err)
		}
		gone += tag.RowsAffected()
	}
	return gone, DropStaged(ctx, q, bridge, Reading{})
}
