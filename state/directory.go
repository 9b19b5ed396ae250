package state

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Listing is one pass through the directory.
type Listing struct {
	Sweep       int64
	After       string
	AfterID     int64
	LastCreated string
	Rows        int64
	StartedAt   time.Time
	CompletedAt *time.Time
	RefusedAt   *time.Time // it came to its end, but too many users were missing to believe it
}

const listingColumns = `sweep, after, after_id, last_created, rows, started_at, completed_at, refused_at`

// TakeListing gives the unfinished listing, or begins a new one where there is none younger than maxAge. Processes that
// begin at once begin the same.
func TakeListing(ctx context.Context, q Querier, bridge string, maxAge time.Duration) (Listing, error) {
	const young = `completed_at IS NULL AND refused_at IS NULL AND started_at > now() - $2::interval`
	_, err := q.Exec(ctx, `INSERT INTO listings (bridge, sweep)
		SELECT $1, coalesce(max(sweep), 0) + 1 FROM listings WHERE bridge = $1 HAVING bool_or(`+young+`) IS NOT TRUE
		ON CONFLICT DO NOTHING`, bridge, maxAge)
	if err != nil {
		return Listing{}, fmt.Errorf("begin listing the directory: %w", err)
	}
	l, err := one[Listing](q.Query(ctx, `SELECT `+listingColumns+` FROM listings WHERE bridge = $1 AND `+young+`
		ORDER BY sweep DESC LIMIT 1`, bridge, maxAge))
	if err != nil {
		return l, fmt.Errorf("begin listing the directory: %w", err)
	}
	return l, nil
}

// GetListing reads one listing. ErrNotFound: a later one is complete.
func GetListing(ctx context.Context, q Querier, bridge string, sweep int64) (Listing, error) {
	l, err := one[Listing](q.Query(ctx, `SELECT `+listingColumns+` FROM listings WHERE bridge = $1 AND sweep = $2`, bridge, sweep))
	if err != nil {
		return l, fmt.Errorf("read listing %d: %w", sweep, err)
	}
	return l, nil
}

// MoveListing runs in the transaction that stores the page's users. ErrStale: another process has stored this page, or
// ended the listing.
func MoveListing(ctx context.Context, q Querier, bridge string, was, next Listing) error {
	tag, err := q.Exec(ctx, `UPDATE listings SET after = $5, after_id = $6, last_created = $7, rows = $8
		WHERE bridge = $1 AND sweep = $2 AND after = $3 AND after_id = $4 AND completed_at IS NULL AND refused_at IS NULL`,
		bridge, was.Sweep, was.After, was.AfterID, next.After, next.AfterID, next.LastCreated, next.Rows)
	return exactlyOne(tag, err, "move listing %d", was.Sweep)
}

// ListingSizes gives how many users are known as present, and how many the last listing showed that was refused for
// showing too few (0: none was refused since the last that was believed).
func ListingSizes(ctx context.Context, q Querier, bridge string) (present, refused int64, err error) {
	err = q.QueryRow(ctx, `SELECT (SELECT count(*) FROM directory_users WHERE bridge = $1 AND gone_at IS NULL),
		coalesce((SELECT rows FROM listings WHERE bridge = $1 AND refused_at IS NOT NULL ORDER BY sweep DESC LIMIT 1), 0)`, bridge).Scan(&present, &refused)
	if err != nil {
		return 0, 0, fmt.Errorf("count the directory: %w", err)
	}
	return present, refused, nil
}

// RefuseListing ends a listing without believing it: nobody is gone because of it.
func RefuseListing(ctx context.Context, q Querier, bridge string, l Listing) error {
	tag, err := q.Exec(ctx, `UPDATE listings SET refused_at = now() WHERE bridge = $1 AND sweep = $2 AND completed_at IS NULL`, bridge, l.Sweep)
	return exactlyOne(tag, err, "refuse listing %d", l.Sweep)
}

// CompleteListing says that the directory was listed to its end: users it did not show are gone until they show again,
// and links may be made. Older listings are forgotten. ErrStale: it is complete, or was refused, already.
func CompleteListing(ctx context.Context, q Querier, bridge string, l Listing) error {
	tag, err := q.Exec(ctx, `UPDATE listings SET completed_at = now() WHERE bridge = $1 AND sweep = $2 AND completed_at IS NULL AND refused_at IS NULL`, bridge, l.Sweep)
	if err := exactlyOne(tag, err, "complete listing %d", l.Sweep); err != nil {
		return err
	}
	for _, sql := range []string{
		`UPDATE directory_users SET gone_at = now(), decide_due = true WHERE bridge = $1 AND sweep < $2 AND gone_at IS NULL`,
		`UPDATE bridges SET directory_sweep = $2, directory_listed_at = (SELECT started_at FROM listings WHERE bridge = $1 AND sweep = $2) WHERE bridge = $1`,
		`DELETE FROM listings WHERE bridge = $1 AND sweep < $2`,
	} {
		if _, err := q.Exec(ctx, sql, bridge, l.Sweep); err != nil {
			return fmt.Errorf("complete listing %d: %w", l.Sweep, err)
		}
	}
	return nil
}

// DirectoryUser is a member of the BLN organization: the keys we match by and the fragment that a list row showed.
type DirectoryUser struct {
	UserID         int64
	Username       string // BLN's own spelling
	Email          string // the user name folded
	ExternalID     string
	OtherEmails    []string
	ListedFragment []byte // digest; nil: none
	ListedContent  []byte // digest of the row's whole otherInfo
}

// StoreDirectory stores users as a list answer showed them, and returns how many the sweep had not seen yet. A user
// seen again is no longer gone.
func StoreDirectory(ctx context.Context, q Querier, bridge string, sweep int64, users []DirectoryUser) (fresh int64, err error) {
	n := len(users)
	ids, names, emails, externals := make([]int64, n), make([]string, n), make([]string, n), make([]string, n)
	others, fragments, contents := make([]string, n), make([][]byte, n), make([][]byte, n)
	for i, u := range users {
		ids[i], names[i], emails[i], externals[i] = u.UserID, u.Username, u.Email, u.ExternalID
		raw, err := json.Marshal(orEmpty(u.OtherEmails))
		if err != nil {
			return 0, fmt.Errorf("store directory users: %w", err)
		}
		others[i], fragments[i], contents[i] = string(raw), u.ListedFragment, u.ListedContent
	}
	err = q.QueryRow(ctx, `WITH page AS (
			SELECT DISTINCT ON (u) u, n, e, x, ARRAY(SELECT jsonb_array_elements_text(o::jsonb)) AS o, f, c
			FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[], $9::bytea[]) AS t(u, n, e, x, o, f, c)),
		known AS (SELECT user_id FROM directory_users d JOIN page ON d.bridge = $1 AND d.user_id = page.u AND d.sweep >= $2),
		stored AS (
			INSERT INTO directory_users (bridge, user_id, username, email, external_id, other_emails, sweep, listed_fragment, listed_content)
			SELECT $1, u, n, e, x, o, $2, f, c FROM page
			ON CONFLICT (bridge, user_id) DO UPDATE SET username = EXCLUDED.username, email = EXCLUDED.email,
				external_id = EXCLUDED.external_id, other_emails = EXCLUDED.other_emails, sweep = greatest(directory_users.sweep, EXCLUDED.sweep),
				listed_fragment = EXCLUDED.listed_fragment, listed_content = EXCLUDED.listed_content, gone_at = NULL)
		SELECT (SELECT count(*) FROM page) - (SELECT count(*) FROM known)`,
		bridge, sweep, ids, names, emails, externals, others, fragments, contents).Scan(&fresh)
	if err != nil {
		return 0, fmt.Errorf("store directory users: %w", err)
	}
	return fresh, nil
}

// MarkGone says that BLN no longer knows the user: its links are released, and its people are looked at again.
func MarkGone(ctx context.Context, q Querier, bridge string, user int64) error {
	_, err := q.Exec(ctx, `WITH gone AS (UPDATE directory_users SET gone_at = now(), claim_owner = NULL WHERE bridge = $1 AND user_id = $2),
		released AS (DELETE FROM links WHERE bridge = $1 AND user_id = $2 AND rule <> 'hand' RETURNING person)
		UPDATE participants SET link_due = true FROM released WHERE participants.bridge = $1 AND participants.person = released.person`, bridge, user)
	if err != nil {
		return fmt.Errorf("mark user %d as gone: %w", user, err)
	}
	return nil
}

// Candidate is a directory user who bears a key that somebody asked for.
type Candidate struct {
	UserID      int64
	ExternalID  string
	Email       string
	OtherEmails []string
	Shared      bool // another user has the same externalId
}

// Candidates gives every present user who bears one of the keys.
func Candidates(ctx context.Context, q Querier, bridge string, externalIDs, emails []string, others bool) ([]Candidate, error) {
	cs, err := collect[Candidate](q.Query(ctx, `WITH found AS (
			SELECT user_id FROM directory_users WHERE bridge = $1 AND gone_at IS NULL AND external_id <> '' AND external_id = ANY($2)
			UNION SELECT user_id FROM directory_users WHERE bridge = $1 AND gone_at IS NULL AND email <> '' AND email = ANY($3)
			UNION SELECT user_id FROM directory_users WHERE $4 AND bridge = $1 AND gone_at IS NULL AND other_emails <> '{}' AND other_emails && $3)
		SELECT d.user_id, d.external_id, d.email, d.other_emails,
			d.external_id <> '' AND EXISTS (SELECT 1 FROM directory_users o WHERE o.bridge = $1 AND o.gone_at IS NULL
				AND o.external_id <> '' AND o.external_id = d.external_id AND o.user_id <> d.user_id) AS shared
		FROM found JOIN directory_users d ON d.bridge = $1 AND d.user_id = found.user_id`, bridge, orEmpty(externalIDs), orEmpty(emails), others))
	if err != nil {
		return nil, fmt.Errorf("read candidates: %w", err)
	}
	return cs, nil
}

// DirectoryKey is a kind of key that users are known by.
type DirectoryKey string

// The keys that NameCoach can be searched by.
const (
	KeyEmail      DirectoryKey = "email"
	KeyExternalID DirectoryKey = "external_id"
)

// DirectoryKeys gives up to limit keys of present users after the given one, in order; addresses folded.
func DirectoryKeys(ctx context.Context, q Querier, bridge string, key DirectoryKey, after string, limit int) ([]string, error) {
	column := "external_id"
	if key == KeyEmail {
		column = "email"
	}
	rows, err := q.Query(ctx, `SELECT DISTINCT `+column+` FROM directory_users
		WHERE bridge = $1 AND gone_at IS NULL AND `+column+` <> '' AND `+column+` > $2 ORDER BY 1 LIMIT $3`, bridge, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read directory keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read directory keys: %w", err)
	}
	return keys, nil
}

// DueUser is a user to decide on.
type DueUser struct {
	UserID         int64
	Due            bool // something has happened to it since it was last decided on
	ListedFragment []byte
	ListedContent  []byte
	AppliedDigest  []byte
	AppliedSource  []byte
	Action         string // what was wanted; empty: nothing
	WantedDigest   []byte
	Pending        bool
	SourceMoved    bool
	HeldReason     string // a hold of the user that only a fresh look or a person lifts
	HeldContent    []byte
	HeldChecked    *time.Time
}

// NextUsers gives up to limit users after the given one whose state may have to change: those linked, those of whom
// something was ever wanted, and those that something has happened to; with dueOnly just the last. They are locked
// until the transaction ends.
func NextUsers(ctx context.Context, q Querier, bridge string, after int64, limit int, dueOnly bool) ([]DueUser, error) {
	// Each branch walks an index from the given user on, so that a batch costs the same however many users there are.
	next := `SELECT user_id FROM directory_users WHERE bridge = $1 AND user_id > $2 AND decide_due ORDER BY user_id LIMIT $3`
	if !dueOnly {
		next = `SELECT user_id FROM (
				(SELECT DISTINCT user_id FROM links WHERE bridge = $1 AND user_id > $2 ORDER BY user_id LIMIT $3)
				UNION (SELECT user_id FROM directory_users WHERE bridge = $1 AND user_id > $2
					AND (decide_due OR wanted_version > 0 OR applied_digest IS NOT NULL) ORDER BY user_id LIMIT $3)) x
			ORDER BY user_id LIMIT $3`
	}
	us, err := collect[DueUser](q.Query(ctx, `WITH next AS MATERIALIZED (`+next+`)
		SELECT d.user_id, d.decide_due AS due, d.listed_fragment, d.listed_content,
			d.applied_digest, d.applied_source, coalesce(d.action, '') AS action, d.wanted_digest, d.wanted_version > d.applied_version AS pending,
			EXISTS (SELECT 1 FROM participants p LEFT JOIN links l USING (bridge, person)
				WHERE p.bridge = $1 AND p.participant = d.applied_source AND (p.replaced OR l.user_id <> d.user_id)) AS source_moved,
			coalesce(h.reason, '') AS held_reason, h.content AS held_content, h.checked_at AS held_checked
		FROM next JOIN directory_users d ON d.bridge = $1 AND d.user_id = next.user_id
		LEFT JOIN holds h ON h.bridge = $1 AND h.kind = 'user' AND h.subject = d.user_id::text
		ORDER BY d.user_id FOR UPDATE OF d`, bridge, after, limit))
	if err != nil {
		return nil, fmt.Errorf("read users to decide on: %w", err)
	}
	return us, nil
}

// Wanted is what a decision says about one user.
type Wanted struct {
	UserID int64
	Action string // write or clear; empty: nothing is to be done
	Value  json.RawMessage
	Digest []byte
	Source []byte
	There  bool // it is there already: pending nothing
}

// StoreWanted stores decisions. A user whose wish changed, or whose fragment is not what it should be, becomes pending;
// one that is right, or for whom nothing is wanted, is no longer pending.
func StoreWanted(ctx context.Context, q Querier, bridge string, ws []Wanted) error {
	n := len(ws)
	ids, actions, values, digests, sources, there := make([]int64, n), make([]string, n), make([]*string, n), make([][]byte, n), make([][]byte, n), make([]bool, n)
	for i, w := range ws {
		ids[i], actions[i], digests[i], sources[i], there[i] = w.UserID, w.Action, w.Digest, w.Source, w.There
		if w.Value != nil {
			text := string(w.Value)
			values[i] = &text
		}
	}
	_, err := q.Exec(ctx, `UPDATE directory_users d SET decide_due = false,
			action = nullif(t.a, ''), wanted = t.v::jsonb, wanted_digest = t.g, wanted_source = t.s,
			wanted_version = CASE WHEN t.a = '' OR t.there THEN d.wanted_version
				WHEN d.wanted_version > d.applied_version AND d.action = t.a AND d.wanted_digest IS NOT DISTINCT FROM t.g THEN d.wanted_version
				ELSE d.wanted_version + 1 END,
			applied_version = CASE WHEN t.a = '' OR t.there THEN d.wanted_version ELSE d.applied_version END,
			applied_digest = CASE WHEN t.there THEN t.g ELSE d.applied_digest END,
			applied_source = CASE WHEN t.there THEN t.s ELSE d.applied_source END,
			attempts = CASE WHEN d.action = t.a AND d.wanted_digest IS NOT DISTINCT FROM t.g THEN d.attempts ELSE 0 END
		FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::boolean[]) AS t(u, a, v, g, s, there)
		WHERE d.bridge = $1 AND d.user_id = t.u`, bridge, ids, actions, values, digests, sources, there)
	if err != nil {
		return fmt.Errorf("store what is wanted: %w", err)
	}
	return nil
}

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
}

const claimedColumns = `user_id, fence, action, wanted, wanted_digest, wanted_source, applied_digest, wanted_version AS version, attempts, listed_content`

// free is the condition that nobody who lives has claimed the directory user d, and that no earlier write of it is
// unsettled: that one comes first (ClaimOpen).
var free = `(d.claim_owner IS NULL OR NOT ` + fmt.Sprintf(liveOwner, "d.claim_owner") + `)`

const settled = `NOT EXISTS (SELECT 1 FROM journal j WHERE j.bridge = $1 AND j.user_id = d.user_id AND j.state = 'sending')`

// Claim gives up to limit pending users to owner: nobody else's while the owner lives. Users that failed are left until
// their retry time; clears are given only where they are let through.
func Claim(ctx context.Context, q Querier, bridge string, owner uuid.UUID, limit int, clears bool) ([]Claimed, error) {
	// Materialized: the planner may run a subquery again for every user, and then its limit is none.
	cs, err := collect[Claimed](q.Query(ctx, `WITH next AS MATERIALIZED (
			SELECT user_id AS id FROM directory_users d WHERE d.bridge = $1 AND d.wanted_version > d.applied_version
				AND (d.retry_at IS NULL OR d.retry_at <= now()) AND ($4 OR d.action = 'write') AND d.gone_at IS NULL
				AND `+free+` AND `+settled+`
			ORDER BY user_id LIMIT $3 FOR UPDATE SKIP LOCKED)
		UPDATE directory_users SET claim_owner = $2, fence = fence + 1 FROM next WHERE bridge = $1 AND user_id = next.id
		RETURNING `+claimedColumns, bridge, owner, limit, clears))
	if err != nil {
		return nil, fmt.Errorf("claim users: %w", err)
	}
	return cs, nil
}

// PendingUsers gives up to limit pending users after the given one that no live process has claimed, without claiming
// them.
func PendingUsers(ctx context.Context, q Querier, bridge string, after int64, limit int) ([]Claimed, error) {
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
		SELECT j.entry, j.user_id, claimed.fence, claimed.attempts, now() - j.created_at AS age, j.before, j.after_fragment, j.version, j.source
		FROM claimed JOIN journal j ON j.bridge = $1 AND j.user_id = claimed.user_id AND j.state = 'sending'
		ORDER BY j.user_id, j.entry`, bridge, owner, limit))
	if err != nil {
		return nil, fmt.Errorf("claim users with unsettled writes: %w", err)
	}
	return es, nil
}

// Pending counts users that are to be written or cleared.
type Pending struct {
	Writes  int // of these
	Ready   int // may be claimed now
	Claimed int // a live process has them
	Clears  int
	Open    int        // users with an unsettled write, pending or not
	Retry   *time.Time // when the first of those that failed may be tried again
}

// CountPending counts what is pending.
func CountPending(ctx context.Context, q Querier, bridge string) (Pending, error) {
	p, err := one[Pending](q.Query(ctx, `SELECT
			count(*) FILTER (WHERE pending AND action = 'write') AS writes,
			count(*) FILTER (WHERE pending AND action = 'write' AND free AND ripe) AS ready,
			count(*) FILTER (WHERE NOT free) AS claimed,
			count(*) FILTER (WHERE pending AND action = 'clear') AS clears,
			count(*) FILTER (WHERE NOT settled) AS open,
			min(retry_at) FILTER (WHERE NOT ripe) AS retry
		FROM (SELECT user_id FROM directory_users WHERE bridge = $1 AND wanted_version > applied_version AND gone_at IS NULL
			UNION SELECT user_id FROM journal WHERE bridge = $1 AND state = 'sending') concerned
		CROSS JOIN LATERAL (SELECT action, retry_at, wanted_version > applied_version AND gone_at IS NULL AS pending,
				retry_at IS NULL OR retry_at <= now() AS ripe, `+free+` AS free, `+settled+` AS settled
			FROM directory_users d WHERE d.bridge = $1 AND d.user_id = concerned.user_id) x`, bridge))
	if err != nil {
		return p, fmt.Errorf("count pending users: %w", err)
	}
	return p, nil
}

// ForgetFailures lets users that failed in earlier runs be tried at once.
func ForgetFailures(ctx context.Context, q Querier, bridge string) error {
	_, err := q.Exec(ctx, `UPDATE directory_users SET attempts = 0, retry_at = NULL WHERE bridge = $1 AND (attempts > 0 OR retry_at IS NOT NULL)`, bridge)
	if err != nil {
		return fmt.Errorf("forget earlier failures: %w", err)
	}
	return nil
}

// inOrder locks the users $2 of a bridge in one order, whoever asks and whatever the plan: two processes that update the same
// users wait for each other instead of ending in a deadlock. Materialized and joined, it is done before the update.
const inOrder = `locked AS MATERIALIZED (SELECT user_id FROM directory_users WHERE bridge = $1 AND user_id = ANY($2::bigint[]) ORDER BY user_id FOR UPDATE)`

// Withdraw says of claimed users that nothing is to be done for them now: they are held, or what stands there is not
// ours. They are given back and no longer pending until something happens to them; what was wanted since the claim stays
// pending.
func Withdraw(ctx context.Context, q Querier, bridge string, claimed []Claimed) error {
	users, fences, versions := make([]int64, len(claimed)), make([]int64, len(claimed)), make([]int64, len(claimed))
	for i, c := range claimed {
		users[i], fences[i], versions[i] = c.UserID, c.Fence, c.Version
	}
	_, err := q.Exec(ctx, `WITH `+inOrder+` UPDATE directory_users d SET claim_owner = NULL, attempts = 0, retry_at = NULL,
			action = CASE WHEN wanted_version = t.v THEN NULL ELSE action END, applied_version = t.v
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

// Release gives claimed users back untouched.
func Release(ctx context.Context, q Querier, bridge string, owner uuid.UUID) error {
	_, err := q.Exec(ctx, `UPDATE directory_users SET claim_owner = NULL WHERE bridge = $1 AND claim_owner = $2`, bridge, owner)
	if err != nil {
		return fmt.Errorf("release users: %w", err)
	}
	return nil
}

// SomeWritten names a few users whose fragment we have written and verified, to see whether list rows show it.
func SomeWritten(ctx context.Context, q Querier, bridge string, limit int) ([]string, error) {
	rows, err := q.Query(ctx, `SELECT username FROM directory_users
		WHERE bridge = $1 AND applied_digest IS NOT NULL AND applied_version = wanted_version AND username <> '' AND gone_at IS NULL
		ORDER BY applied_at DESC NULLS LAST LIMIT $2`, bridge, limit)
	if err != nil {
		return nil, fmt.Errorf("read written users: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read written users: %w", err)
	}
	return names, nil
}
