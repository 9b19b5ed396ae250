package state

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"
)

// The kinds of holds: a person on the NameCoach side, or a directory user.
const (
	HeldPerson = "person"
	HeldUser   = "user"
)

// Hold is a person or user that is not written, and why.
type Hold struct {
	Subject string // a person key, or a user id as text
	Reason  string
	Detail  string
	Users   []int64 // the users that the evidence names
	Content []byte  // see holds.content
}

// StoreHolds sets holds of one kind and lifts those of the subjects that are no longer held. While its reason stays, a hold
// keeps the time since when it stands, and stays ignored; another reason is another matter.
func StoreHolds(ctx context.Context, q Querier, bridge, kind string, holds []Hold, lifted []string) error {
	n := len(holds)
	subjects, reasons, details, users, contents := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	for i, h := range holds {
		ids := h.Users
		if ids == nil {
			ids = []int64{}
		}
		raw, err := json.Marshal(ids)
		if err != nil {
			return fmt.Errorf("store holds: %w", err)
		}
		subjects[i], reasons[i], details[i], users[i], contents[i] = h.Subject, h.Reason, forPeople(h.Detail), string(raw), h.Content
	}
	if n > 0 {
		if _, err := q.Exec(ctx, `INSERT INTO holds (bridge, kind, subject, reason, detail, users, content)
			SELECT $1, $2, s, r, d, ARRAY(SELECT jsonb_array_elements_text(u::jsonb)::bigint), c
			FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[]) AS t(s, r, d, u, c)
			ON CONFLICT (bridge, kind, subject) DO UPDATE SET reason = EXCLUDED.reason, detail = EXCLUDED.detail, users = EXCLUDED.users,
				content = EXCLUDED.content, checked_at = now(), since = CASE WHEN holds.reason = EXCLUDED.reason THEN holds.since ELSE now() END,
				ignored_at = CASE WHEN holds.reason = EXCLUDED.reason THEN holds.ignored_at END,
				ignored_reason = CASE WHEN holds.reason = EXCLUDED.reason THEN holds.ignored_reason END`,
			bridge, kind, subjects, reasons, details, users, contents); err != nil {
			return fmt.Errorf("store holds: %w", err)
		}
	}
	if len(lifted) > 0 {
		if _, err := q.Exec(ctx, `DELETE FROM holds WHERE bridge = $1 AND kind = $2 AND subject = ANY($3)`, bridge, kind, lifted); err != nil {
			return fmt.Errorf("lift holds: %w", err)
		}
	}
	return nil
}

// ListedHold is a hold with what a person needs to decide about it.
type ListedHold struct {
	Kind          string
	Subject       string
	Reason        string
	Detail        string
	Users         []int64
	Since         time.Time
	IgnoredAt     *time.Time // nil: nobody has set it aside
	IgnoredReason string
	Username      string // of a held user, in BLN's spelling
	Name          string // of a held person, as NameCoach has it
}

// listHolds takes the holds h and adds who they are about.
const listHolds = `SELECT h.kind, h.subject, h.reason, h.detail, h.users, h.since, h.ignored_at, coalesce(h.ignored_reason, '') AS ignored_reason,
		coalesce(d.username, '') AS username, coalesce(p.name, '') AS name
	FROM h LEFT JOIN directory_users d ON d.bridge = $1 AND d.user_id = CASE WHEN h.kind = 'user' THEN h.subject::bigint END
	LEFT JOIN LATERAL (SELECT concat_ws(' ', nullif(first_name, ''), nullif(last_name, '')) AS name FROM participants
		WHERE h.kind = 'person' AND bridge = $1 AND person = h.subject AND NOT replaced ORDER BY changed_at DESC, participant LIMIT 1) p ON true
	ORDER BY h.since DESC, h.kind, h.subject`

// Holds yields up to limit holds (0: all) of one reason (empty: of any), newest first, and stops after its first error. Those
// that somebody has set aside are left out, unless ignored is set. They are read as they are taken: any number of them
// needs no memory.
func Holds(ctx context.Context, q Querier, bridge, reason string, ignored bool, limit int) iter.Seq2[ListedHold, error] {
	return stream[ListedHold](ctx, q, "read holds of bridge "+bridge, `WITH h AS MATERIALIZED (SELECT * FROM holds
			WHERE bridge = $1 AND ($2 = '' OR reason = $2) AND ($3 OR ignored_at IS NULL) ORDER BY since DESC, kind, subject LIMIT nullif($4::bigint, 0))
		`+listHolds, bridge, reason, ignored, limit)
}

// CountHolds counts the holds of one reason (empty: of any), those that somebody has set aside apart from the others.
func CountHolds(ctx context.Context, q Querier, bridge, reason string) (open, ignored int, err error) {
	err = q.QueryRow(ctx, `SELECT count(*) FILTER (WHERE ignored_at IS NULL), count(*) FILTER (WHERE ignored_at IS NOT NULL)
		FROM holds WHERE bridge = $1 AND ($2 = '' OR reason = $2)`, bridge, reason).Scan(&open, &ignored)
	if err != nil {
		return 0, 0, fmt.Errorf("count holds of bridge %s: %w", bridge, err)
	}
	return open, ignored, nil
}

// IgnoreHold sets a hold aside: it stays, and is neither listed nor counted while it has the reason that it has now.
// ErrStale: it has another reason by now, or was lifted.
func IgnoreHold(ctx context.Context, q Querier, bridge string, h ListedHold, why string) error {
	tag, err := q.Exec(ctx, `UPDATE holds SET ignored_at = coalesce(ignored_at, now()), ignored_reason = $5
		WHERE bridge = $1 AND kind = $2 AND subject = $3 AND reason = $4`, bridge, h.Kind, h.Subject, h.Reason, forPeople(why))
	return exactlyOne(tag, err, "ignore a hold of bridge %s", bridge)
}

// ReleaseHold takes back what a person has decided about a hold. One that was set aside counts again; a user held as
// reverted or unwritable is no longer held, and is due to be decided on again. ErrStale: the hold has another reason by now,
// or was lifted.
func ReleaseHold(ctx context.Context, q Querier, bridge string, h ListedHold) error {
	if !h.Lifts() {
		tag, err := q.Exec(ctx, `UPDATE holds SET ignored_at = NULL, ignored_reason = NULL WHERE bridge = $1 AND kind = $2 AND subject = $3 AND reason = $4`,
			bridge, h.Kind, h.Subject, h.Reason)
		return exactlyOne(tag, err, "release a hold of bridge %s", bridge)
	}
	// The user first, and then its hold, as whoever decides on it has them.
	tag, err := q.Exec(ctx, `WITH locked AS MATERIALIZED (SELECT user_id FROM directory_users WHERE bridge = $1 AND user_id = $2::text::bigint FOR UPDATE),
		lifted AS (DELETE FROM holds h USING locked WHERE h.bridge = $1 AND h.kind = 'user' AND h.subject = locked.user_id::text AND h.reason = $3 RETURNING locked.user_id)
		UPDATE directory_users d SET decide_due = true FROM lifted WHERE d.bridge = $1 AND d.user_id = lifted.user_id`, bridge, h.Subject, h.Reason)
	return exactlyOne(tag, err, "release user %s", h.Subject)
}

// Lifts says whether releasing the hold lifts it: a user held as reverted or unwritable is written when a person says so.
func (h ListedHold) Lifts() bool {
	return h.Kind == HeldUser && (h.Reason == "reverted" || h.Reason == "unwritable")
}

// Releasable says whether there is something to release: a hold that it lifts, or one that is set aside.
func (h ListedHold) Releasable() bool { return h.IgnoredAt != nil || h.Lifts() }

// stream yields rows as they come, and stops after its first error.
func stream[T any](ctx context.Context, q Querier, what, sql string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		rows, err := q.Query(ctx, sql, args...)
		if err != nil {
			yield(zero, fmt.Errorf("%s: %w", what, err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			v, err := pgx.RowToStructByName[T](rows)
			if err != nil {
				yield(zero, fmt.Errorf("%s: %w", what, err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(zero, fmt.Errorf("%s: %w", what, err))
		}
	}
}
