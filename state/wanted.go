package state

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

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
// until the transaction ends, and given as they are once the locks are had.
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
	// By itself: a statement that has waited for a row reads the row anew, and nothing else. A link, or a hold, of before would
	// stand beside what is there now.
	rows, err := q.Query(ctx, `WITH next AS MATERIALIZED (`+next+`)
		SELECT d.user_id FROM next JOIN directory_users d ON d.bridge = $1 AND d.user_id = next.user_id ORDER BY d.user_id FOR UPDATE OF d`, bridge, after, limit)
	if err != nil {
		return nil, fmt.Errorf("lock users to decide on: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("lock users to decide on: %w", err)
	}
	us, err := collect[DueUser](q.Query(ctx, `SELECT d.user_id, d.decide_due AS due, d.listed_fragment, d.listed_content,
			d.applied_digest, d.applied_source, coalesce(d.action, '') AS action, d.wanted_digest, d.wanted_version > d.applied_version AS pending,
			EXISTS (SELECT 1 FROM participants p LEFT JOIN links l USING (bridge, person)
				WHERE p.bridge = $1 AND p.participant = d.applied_source AND (p.replaced OR l.user_id <> d.user_id)) AS source_moved,
			coalesce(h.reason, '') AS held_reason, h.content AS held_content, h.checked_at AS held_checked
		FROM directory_users d LEFT JOIN holds h ON h.bridge = $1 AND h.kind = 'user' AND h.subject = d.user_id::text
		WHERE d.bridge = $1 AND d.user_id = ANY($2) ORDER BY d.user_id`, bridge, ids))
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

// Wish says who wants something.
type Wish struct {
	Run     uuid.UUID
	Urgency int16
	Window  *time.Time // the end of the window that brought what has changed, on NameCoach's clock; nil: none did
}

// StoreWanted stores decisions. A user whose wish changed, or whose fragment is not what it should be, becomes pending;
// one that is right, or for whom nothing is wanted, is no longer pending. What an urgent run wants stays its
// wish while it is running. A plan changes nothing of whose wish something is, nor of what is due: it is no run that writes. The answer is how many are pending now, let through or not.
func StoreWanted(ctx context.Context, q Querier, bridge string, by Wish, ws []Wanted) (pending int, err error) {
	n := len(ws)
	ids, actions, values, digests, sources, there := make([]int64, n), make([]string, n), make([]*string, n), make([][]byte, n), make([][]byte, n), make([]bool, n)
	for i, w := range ws {
		ids[i], actions[i], digests[i], sources[i], there[i] = w.UserID, w.Action, w.Digest, w.Source, w.There
		if w.Value != nil {
			text := string(w.Value)
			values[i] = &text
		}
	}
	err = q.QueryRow(ctx, `WITH t AS (SELECT x.*, a <> '' AND NOT there AS wish, d.wanted_version > d.applied_version AND d.action = a AND d.wanted_digest IS NOT DISTINCT FROM g AS same,
				d.wanted_version > d.applied_version AND $9::smallint >= $11::smallint AS left_alone
			FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::boolean[]) AS x(u, a, v, g, s, there)
			JOIN directory_users d ON d.bridge = $1 AND d.user_id = u),
		stored AS (UPDATE directory_users d SET decide_due = d.decide_due AND $9::smallint >= $11::smallint,
			action = nullif(t.a, ''), wanted = t.v::jsonb, wanted_digest = t.g, wanted_source = t.s,
			wanted_version = CASE WHEN t.wish AND NOT t.same THEN d.wanted_version + 1 ELSE d.wanted_version END,
			applied_version = CASE WHEN t.wish THEN d.applied_version ELSE d.wanted_version END,
			applied_digest = CASE WHEN t.there THEN t.g ELSE d.applied_digest END,
			applied_source = CASE WHEN t.there THEN t.s ELSE d.applied_source END,
			urgency = CASE WHEN NOT t.wish THEN d.urgency WHEN t.same OR t.left_alone THEN least(d.urgency, $9::smallint) ELSE $9::smallint END,
			wanted_run = CASE WHEN NOT t.wish OR t.left_alone OR t.same AND d.urgency <= $12::smallint AND $9::smallint > $12::smallint
				AND EXISTS (SELECT 1 FROM runs r WHERE r.bridge = $1 AND r.run = d.wanted_run AND r.status = 'running') THEN d.wanted_run ELSE $8 END,
			wanted_window = CASE WHEN NOT t.wish THEN NULL WHEN t.same THEN coalesce(d.wanted_window, $10) ELSE $10 END,
			applied_recording = CASE WHEN t.there THEN (t.v::jsonb)->>'recording_link' IS NOT NULL ELSE d.applied_recording END,
			removes = t.wish AND (t.a = 'clear' OR d.applied_recording AND (t.v::jsonb)->>'recording_link' IS NULL),
			attempts = CASE WHEN d.action = t.a AND d.wanted_digest IS NOT DISTINCT FROM t.g THEN d.attempts ELSE 0 END,
			retry_at = CASE WHEN d.action = t.a AND d.wanted_digest IS NOT DISTINCT FROM t.g THEN d.retry_at END
		FROM t WHERE d.bridge = $1 AND d.user_id = t.u)
		SELECT count(*) FILTER (WHERE wish) FROM t`, bridge, ids, actions, values, digests, sources, there, by.Run, by.Urgency, by.Window, Planned, CollectPriority).Scan(&pending)
	if err != nil {
		return 0, fmt.Errorf("store what is wanted: %w", err)
	}
	return pending, nil
}
