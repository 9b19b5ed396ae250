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

// Claimed is a pending user that a process may write, while its fence holds.
type Claimed struct {
	UserID        int64
	Fence         int64
	Action        string
	Wanted        json.RawMessage
	WantedDigest  []byte
	WantedSource  []byte
	AppliedDigest []byte
	Version       int64
	Attempts      int
	ListedContent []byte
	Email         string // Email and ExternalID are the keys that its people were linked by
	ExternalID    string
	Released      bool       // the guard, or a person, has let it through
	Run           uuid.UUID  // that wants it
	Window        *time.Time // the end of the window that brought the change, on NameCoach's clock; nil: none did
}

const claimedColumns = `user_id, fence, action, wanted, wanted_digest, wanted_source, applied_digest, wanted_version AS version, attempts, listed_content, email, external_id,
	released_version = wanted_version AS released,
	coalesce(wanted_run, '00000000-0000-0000-0000-000000000000') AS run, wanted_window AS window`

// free is the condition that nobody who lives has claimed the directory user d.
var free = `(d.claim_owner IS NULL OR NOT ` + fmt.Sprintf(liveOwner, "d.claim_owner") + `)`

// settled is the condition that no earlier write of d is unsettled: that one comes first (ClaimOpen).
const settled = `NOT EXISTS (SELECT 1 FROM journal j WHERE j.bridge = $1 AND j.user_id = d.user_id AND j.state = 'sending')`

// pending is the condition that something is to be done for d, and that the guard lets it through.
const pending = `d.wanted_version > d.applied_version AND d.gone_at IS NULL AND (NOT d.removes OR d.released_version = d.wanted_version)`

const ripe = `(d.retry_at IS NULL OR d.retry_at <= now())`

// claimable is the condition that d may be claimed, for work of an urgency of at least $2.
var claimable = `d.bridge = $1 AND d.urgency <= $2 AND ` + pending + ` AND ` + ripe + ` AND ` + free + ` AND ` + settled

// Claim gives up to limit pending users of at least the urgency to owner, the most urgent first: nobody else's while the
// owner lives. Users that failed are left until their retry time; removals are given only where they were let through.
func Claim(ctx context.Context, q Querier, bridge string, urgency int16, owner uuid.UUID, limit int) ([]Claimed, error) {
	// Materialized: the planner may run a subquery again for every user, and then its limit is none.
	cs, err := collect[Claimed](q.Query(ctx, `WITH next AS MATERIALIZED (
			SELECT user_id AS id FROM directory_users d WHERE `+claimable+` ORDER BY urgency, user_id LIMIT $4 FOR UPDATE SKIP LOCKED)
		UPDATE directory_users SET claim_owner = $3, fence = fence + 1 FROM next WHERE bridge = $1 AND user_id = next.id
		RETURNING `+claimedColumns, bridge, urgency, owner, limit))
	if err != nil {
		return nil, fmt.Errorf("claim users: %w", err)
	}
	return cs, nil
}

// Work is whether there is anything to do for those who write.
type Work struct {
	Claimable bool // users that may be claimed
	Open      bool // writes whose outcome is not known and that nobody who lives looks into
}

// FindWork looks for users to be written of at least the urgency.
func FindWork(ctx context.Context, q Querier, bridge string, urgency int16) (Work, error) {
	w, err := one[Work](q.Query(ctx, `SELECT EXISTS (SELECT 1 FROM directory_users d WHERE `+claimable+`) AS claimable,
		EXISTS (SELECT 1 FROM journal o JOIN directory_users d ON d.bridge = $1 AND d.user_id = o.user_id
			WHERE o.bridge = $1 AND o.state = 'sending' AND `+free+` AND `+ripe+`) AS open`, bridge, urgency))
	if err != nil {
		return w, fmt.Errorf("look for users to write: %w", err)
	}
	return w, nil
}

// PlannedUsers gives up to limit users after the given one for whom something is to be done, claimed by nobody who lives,
// without claiming them.
func PlannedUsers(ctx context.Context, q Querier, bridge string, after int64, limit int) ([]Claimed, error) {
	cs, err := collect[Claimed](q.Query(ctx, `SELECT `+claimedColumns+` FROM directory_users d
		WHERE d.bridge = $1 AND d.user_id > $2 AND d.wanted_version > d.applied_version AND d.gone_at IS NULL AND `+free+`
		ORDER BY user_id LIMIT $3`, bridge, after, limit))
	if err != nil {
		return nil, fmt.Errorf("read pending users: %w", err)
	}
	return cs, nil
}

// ClaimOpen gives owner up to limit users that have an unsettled write and no live owner: a process died, or lost the
// database or BLN, between sending and verifying.
func ClaimOpen(ctx context.Context, q Querier, bridge string, owner uuid.UUID, limit int) ([]OpenEntry, error) {
	// From the few open entries to their users: the other way round every user would be looked at.
	es, err := collect[OpenEntry](q.Query(ctx, `WITH next AS MATERIALIZED (
			SELECT d.user_id AS id FROM (SELECT DISTINCT user_id FROM journal WHERE bridge = $1 AND state = 'sending') open
			JOIN directory_users d ON d.bridge = $1 AND d.user_id = open.user_id
			WHERE `+free+` AND (d.retry_at IS NULL OR d.retry_at <= now())
			ORDER BY d.user_id LIMIT $3 FOR UPDATE OF d SKIP LOCKED),
		claimed AS (UPDATE directory_users SET claim_owner = $2, fence = fence + 1 FROM next WHERE bridge = $1 AND user_id = next.id
			RETURNING user_id, fence, attempts)
		SELECT j.entry, j.run, j.user_id, j.action, claimed.fence, claimed.attempts, now() - j.created_at AS age, j.before, j.after_fragment, j.version, j.source
		FROM claimed JOIN journal j ON j.bridge = $1 AND j.user_id = claimed.user_id AND j.state = 'sending'
		ORDER BY j.user_id, j.entry`, bridge, owner, limit))
	if err != nil {
		return nil, fmt.Errorf("claim users with unsettled writes: %w", err)
	}
	return es, nil
}

// ClaimedWish is what is to be done for a user whom ClaimOpen has claimed; false: nothing, or not now.
func ClaimedWish(ctx context.Context, q Querier, bridge string, user, fence int64) (c Claimed, wanted bool, err error) {
	c, err = one[Claimed](q.Query(ctx, `SELECT `+claimedColumns+` FROM directory_users d WHERE d.bridge = $1 AND d.user_id = $2 AND d.fence = $3
		AND d.urgency < $4 AND `+pending+` AND EXISTS (SELECT 1 FROM bridges b WHERE b.bridge = $1 AND b.halted_at IS NULL)`, bridge, user, fence, Planned))
	if errors.Is(err, ErrNotFound) {
		return c, false, nil
	}
	if err != nil {
		return c, false, fmt.Errorf("read what is wanted of user %d: %w", user, err)
	}
	return c, true, nil
}

// Pending is what is left to do of what a run wants: the first of these that holds.
type Pending struct {
	Ready   bool       // users that may be claimed, or writes to be looked into
	Claimed bool       // a live process has some
	Retry   *time.Time // when the first of those that failed may be tried again
}

// PendingOf says what is left of a run's wishes, of the urgency at most, and of anybody's writes that are to be looked into.
func PendingOf(ctx context.Context, q Querier, bridge string, run uuid.UUID, urgency int16) (Pending, error) {
	// While the first is true the others are not looked for: it is asked again and again while thousands are pending.
	p, err := one[Pending](q.Query(ctx, `WITH x AS MATERIALIZED (SELECT EXISTS (SELECT 1 FROM directory_users d WHERE `+claimable+` AND d.wanted_run = $3)
				OR EXISTS (SELECT 1 FROM journal o JOIN directory_users d ON d.bridge = $1 AND d.user_id = o.user_id
					WHERE o.bridge = $1 AND o.state = 'sending' AND `+free+` AND `+ripe+`) AS ready),
		-- Who turns out to be gone is claimed until its people are looked at.
		y AS MATERIALIZED (SELECT ready, NOT ready AND (EXISTS (SELECT 1 FROM directory_users d
				WHERE d.bridge = $1 AND d.urgency <= $2 AND `+pending+` AND d.wanted_run = $3 AND NOT `+free+`)
			OR EXISTS (SELECT 1 FROM directory_users d WHERE d.bridge = $1 AND d.gone_at IS NOT NULL AND d.wanted_run = $3 AND NOT `+free+`)
			-- A decision that took a user for right while a write was on its way is made anew when that has landed.
			OR EXISTS (SELECT 1 FROM journal o JOIN directory_users d ON d.bridge = $1 AND d.user_id = o.user_id
				WHERE o.bridge = $1 AND o.state = 'sending' AND o.run = $3 AND NOT `+free+`)) AS claimed FROM x)
		SELECT ready, claimed, CASE WHEN NOT ready AND NOT claimed THEN (SELECT min(retry_at) FROM directory_users d
			WHERE d.bridge = $1 AND d.urgency <= $2 AND `+pending+` AND d.wanted_run = $3 AND NOT `+ripe+`) END AS retry FROM y`, bridge, urgency, run))
	if err != nil {
		return p, fmt.Errorf("look for what is left of run %s: %w", run, err)
	}
	return p, nil
}

// CountPendingOf counts the users that a run wants written or cleared, and that the guard lets through.
func CountPendingOf(ctx context.Context, q Querier, bridge string, run uuid.UUID, urgency int16) (n int, err error) {
	const its = `d.bridge = $1 AND d.urgency <= $2 AND d.wanted_run = $3`
	err = q.QueryRow(ctx, `SELECT count(*) FROM directory_users d WHERE `+its+` AND `+pending, bridge, urgency, run).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the pending users of run %s: %w", run, err)
	}
	return n, nil
}

// CountPending counts the users for whom something is to be done, let through or not.
func CountPending(ctx context.Context, q Querier, bridge string) (n int, err error) {
	err = q.QueryRow(ctx, `SELECT count(*) FROM directory_users WHERE bridge = $1 AND wanted_version > applied_version AND gone_at IS NULL`, bridge).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count pending users: %w", err)
	}
	return n, nil
}

// Adopt makes what earlier runs have left pending the wish of this one, to be tried at once. It and TakeRemovals each lock users in
// order: in one transaction, those of both together are in none.
func Adopt(ctx context.Context, q Querier, bridge string, run uuid.UUID, urgency int16) error {
	_, err := q.Exec(ctx, `WITH `+inOrderWhere(`d.bridge = $1 AND d.wanted_version > d.applied_version AND d.gone_at IS NULL
			AND (d.wanted_run IS DISTINCT FROM $2 OR d.attempts > 0 OR d.retry_at IS NOT NULL)
			AND (d.wanted_run = $2 OR NOT EXISTS (SELECT 1 FROM runs r WHERE r.bridge = $1 AND r.run = d.wanted_run AND r.status = 'running'))`)+`
		UPDATE directory_users d SET wanted_run = $2, urgency = least(urgency, $3), attempts = 0, retry_at = NULL
		FROM locked WHERE d.bridge = $1 AND d.user_id = locked.user_id`,
		bridge, run, urgency)
	if err != nil {
		return fmt.Errorf("adopt pending users: %w", err)
	}
	return nil
}

// inOrder locks the users $2 of a bridge in one order, whoever asks and whatever the plan: two processes that update the same
// users wait for each other instead of ending in a deadlock. Materialized and joined, it is done before the update.
const inOrder = `locked AS MATERIALIZED (SELECT user_id, fence FROM directory_users WHERE bridge = $1 AND user_id = ANY($2::bigint[]) ORDER BY user_id FOR UPDATE)`

// inOrderWhere is inOrder for the users d of whom a condition holds.
func inOrderWhere(condition string) string {
	return `locked AS MATERIALIZED (SELECT d.user_id FROM directory_users d WHERE ` + condition + ` ORDER BY d.user_id FOR UPDATE)`
}

// LockUsers locks users until tx ends: for those who change some of them by one statement, and some by another, which in one order
// each are in none together.
func LockUsers(ctx context.Context, tx pgx.Tx, bridge string, users []int64) error {
	if _, err := tx.Exec(ctx, `WITH `+inOrder+` SELECT count(*) FROM locked`, bridge, users); err != nil {
		return fmt.Errorf("lock %d users: %w", len(users), err)
	}
	return nil
}

// Withdraw says of claimed users that nothing is to be done for them now: they are held, or what stands there is not
// ours. They are given back and no longer pending until something happens to them; what was wanted since the claim stays
// pending.
func Withdraw(ctx context.Context, q Querier, bridge string, claimed []Claimed) error {
	users, fences, versions := make([]int64, len(claimed)), make([]int64, len(claimed)), make([]int64, len(claimed))
	for i, c := range claimed {
		users[i], fences[i], versions[i] = c.UserID, c.Fence, c.Version
	}
	_, err := q.Exec(ctx, `WITH `+inOrder+` UPDATE directory_users d SET claim_owner = NULL, attempts = 0, retry_at = NULL,
			action = CASE WHEN wanted_version = t.v THEN NULL ELSE action END, applied_version = greatest(applied_version, t.v)
		FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS t(u, f, v) JOIN locked ON locked.user_id = t.u
		WHERE d.bridge = $1 AND d.user_id = t.u AND d.fence = t.f`,
		bridge, users, fences, versions)
	if err != nil {
		return fmt.Errorf("withdraw users: %w", err)
	}
	return nil
}

// Failure is a user that could not be written this time.
type Failure struct {
	UserID, Fence int64
	Problem       string
	RetryAfter    time.Duration
}

// Fail releases users that could not be written, to be tried again later.
func Fail(ctx context.Context, q Querier, bridge string, fs []Failure) error {
	n := len(fs)
	ids, fences, problems, after := make([]int64, n), make([]int64, n), make([]string, n), make([]float64, n)
	for i, f := range fs {
		ids[i], fences[i], problems[i], after[i] = f.UserID, f.Fence, forPeople(f.Problem), f.RetryAfter.Seconds()
	}
	_, err := q.Exec(ctx, `WITH `+inOrder+` UPDATE directory_users d SET claim_owner = NULL, attempts = attempts + 1, last_error = t.p,
			retry_at = now() + make_interval(secs => t.r)
		FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::float8[]) AS t(u, f, p, r) JOIN locked ON locked.user_id = t.u
		WHERE d.bridge = $1 AND d.user_id = t.u AND d.fence = t.f`, bridge, ids, fences, problems, after)
	if err != nil {
		return fmt.Errorf("note failed users: %w", err)
	}
	return nil
}

// Unclaim gives one claimed user back as it is.
func Unclaim(ctx context.Context, q Querier, bridge string, user, fence int64) error {
	_, err := q.Exec(ctx, `UPDATE directory_users SET claim_owner = NULL WHERE bridge = $1 AND user_id = $2 AND fence = $3`, bridge, user, fence)
	if err != nil {
		return fmt.Errorf("release user %d: %w", user, err)
	}
	return nil
}

// ReleaseClaimed gives users back as they are, each as far as the claim with its fence still holds.
func ReleaseClaimed(ctx context.Context, q Querier, bridge string, users, fences []int64) error {
	_, err := q.Exec(ctx, `WITH `+inOrder+` UPDATE directory_users d SET claim_owner = NULL
		FROM unnest($2::bigint[], $3::bigint[]) AS t(u, f) JOIN locked ON locked.user_id = t.u
		WHERE d.bridge = $1 AND d.user_id = t.u AND d.fence = t.f AND d.claim_owner IS NOT NULL`, bridge, users, fences)
	if err != nil {
		return fmt.Errorf("release %d users: %w", len(users), err)
	}
	return nil
}

// ReleaseBut gives back all that owner has claimed, but the users in keep, that it is still at work on. It looks at everybody:
// for the moments in which a process does not know what it has claimed.
func ReleaseBut(ctx context.Context, q Querier, bridge string, owner uuid.UUID, keep []int64) error {
	_, err := q.Exec(ctx, `WITH `+inOrderWhere(`bridge = $1 AND claim_owner = $2 AND user_id <> ALL($3)`)+giveBack, bridge, owner, orEmpty(keep))
	if err != nil {
		return fmt.Errorf("release users: %w", err)
	}
	return nil
}

// giveBack gives back the users that are locked.
const giveBack = ` UPDATE directory_users d SET claim_owner = NULL FROM locked WHERE d.bridge = $1 AND d.user_id = locked.user_id`

// Release gives claimed users back untouched.
func Release(ctx context.Context, q Querier, bridge string, owner uuid.UUID) error {
	_, err := q.Exec(ctx, `WITH `+inOrderWhere(`bridge = $1 AND claim_owner = $2`)+giveBack, bridge, owner)
	if err != nil {
		return fmt.Errorf("release users: %w", err)
	}
	return nil
}
