package state

import (
	"context"
	"fmt"
)

// Every user who was written is read once in 30 days where list rows do not show the fragment. The first time is spread
// over the month, so that a backfill's users are not all due on one day.
const (
	firstAudit = `interval '2 days' + random() * interval '28 days'`
	nextAudit  = `interval '30 days'`
)

// AuditedUser is a user to be read, to see whether our fragment still stands there.
type AuditedUser struct {
	UserID        int64
	AppliedDigest []byte // of what should stand there
}

// NextAudits gives up to limit users whose audit is due, the longest due first.
func NextAudits(ctx context.Context, q Querier, bridge string, limit int) ([]AuditedUser, error) {
	us, err := collect[AuditedUser](q.Query(ctx, `SELECT user_id, applied_digest FROM directory_users
		WHERE bridge = $1 AND audit_at <= now() AND applied_digest IS NOT NULL AND wanted_version = applied_version AND gone_at IS NULL
		ORDER BY audit_at LIMIT $2`, bridge, limit))
	if err != nil {
		return nil, fmt.Errorf("read users to audit: %w", err)
	}
	return us, nil
}

// Audit is what reading a user has shown.
type Audit struct {
	UserID  int64
	Applied []byte // what should have stood there
	Seen    []byte // digest of what stands under our keys; nil: nothing
}

// StoreAudits notes what users were found to show. Where that is not what we wrote, the user is to be decided on again.
func StoreAudits(ctx context.Context, q Querier, bridge string, as []Audit) (drifted int64, err error) {
	users, applied, seen := make([]int64, len(as)), make([][]byte, len(as)), make([][]byte, len(as))
	for i, a := range as {
		users[i], applied[i], seen[i] = a.UserID, a.Applied, a.Seen
	}
	// A user who was written since it was read is left to its next audit.
	err = q.QueryRow(ctx, `WITH `+inOrder+`, audited AS (UPDATE directory_users d SET audit_at = now() + `+nextAudit+`,
			decide_due = d.decide_due OR t.seen IS DISTINCT FROM t.applied,
			listed_fragment = t.seen,
			applied_digest = CASE WHEN t.seen IS NULL THEN NULL ELSE d.applied_digest END,
			applied_source = CASE WHEN t.seen IS NULL THEN NULL ELSE d.applied_source END,
			applied_recording = d.applied_recording AND t.seen IS NOT NULL
		FROM unnest($2::bigint[], $3::bytea[], $4::bytea[]) AS t(u, applied, seen) JOIN locked ON locked.user_id = t.u
		WHERE d.bridge = $1 AND d.user_id = t.u AND d.applied_digest = t.applied AND d.wanted_version = d.applied_version
		RETURNING t.seen IS DISTINCT FROM t.applied AS drifted)
		SELECT count(*) FILTER (WHERE drifted) FROM audited`, bridge, users, applied, seen).Scan(&drifted)
	if err != nil {
		return 0, fmt.Errorf("store audits: %w", err)
	}
	return drifted, nil
}

// PostponeAudits puts off users who cannot be read now, so that they are in nobody's way. In one transaction with StoreAudits, LockUsers
// comes first.
func PostponeAudits(ctx context.Context, q Querier, bridge string, users []int64) error {
	_, err := q.Exec(ctx, `WITH `+inOrder+` UPDATE directory_users d SET audit_at = now() + interval '1 day'
		FROM locked WHERE d.bridge = $1 AND d.user_id = locked.user_id`, bridge, orEmpty(users))
	if err != nil {
		return fmt.Errorf("postpone audits: %w", err)
	}
	return nil
}
