package state

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

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

// LockListing keeps others from moving a listing on, or ending it, until tx ends: whoever stores its users has it before them, as who
// completes it does. ErrStale: it is not where l says any more.
func LockListing(ctx context.Context, tx pgx.Tx, bridge string, l Listing) error {
	tag, err := tx.Exec(ctx, `SELECT 1 FROM listings WHERE bridge = $1 AND sweep = $2 AND after = $3 AND after_id = $4
		AND completed_at IS NULL AND refused_at IS NULL FOR NO KEY UPDATE`, bridge, l.Sweep, l.After, l.AfterID)
	return exactlyOne(tag, err, "lock listing %d", l.Sweep)
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
	for _, sql := range []string{ // the bridge before its users, as everywhere
		`UPDATE bridges SET directory_sweep = $2, directory_listed_at = (SELECT started_at FROM listings WHERE bridge = $1 AND sweep = $2) WHERE bridge = $1`,
		`WITH ` + inOrderWhere(`bridge = $1 AND sweep < $2 AND gone_at IS NULL`) + `
			UPDATE directory_users d SET gone_at = now(), decide_due = true FROM locked WHERE d.bridge = $1 AND d.user_id = locked.user_id`,
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
// seen again is no longer gone. asked says of new ones that NameCoach need not be asked about them, since all of its rows
// have just been read.
func StoreDirectory(ctx context.Context, q Querier, bridge string, sweep int64, users []DirectoryUser, asked bool) (fresh int64, err error) {
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
			FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[], $9::bytea[]) AS t(u, n, e, x, o, f, c) ORDER BY u),
		known AS (SELECT user_id FROM directory_users d JOIN page ON d.bridge = $1 AND d.user_id = page.u AND d.sweep >= $2),
		stored AS (
			INSERT INTO directory_users (bridge, user_id, username, email, external_id, other_emails, sweep, listed_fragment, listed_content, asked_at)
			SELECT $1, u, n, e, x, o, $2, f, c, CASE WHEN $10 THEN now() END FROM page
			ON CONFLICT (bridge, user_id) DO UPDATE SET username = EXCLUDED.username, email = EXCLUDED.email,
				external_id = EXCLUDED.external_id, other_emails = EXCLUDED.other_emails, sweep = greatest(directory_users.sweep, EXCLUDED.sweep),
				listed_fragment = EXCLUDED.listed_fragment, listed_content = EXCLUDED.listed_content, gone_at = NULL,
				asked_at = CASE WHEN directory_users.email = EXCLUDED.email AND directory_users.external_id = EXCLUDED.external_id
					THEN coalesce(directory_users.asked_at, EXCLUDED.asked_at) ELSE EXCLUDED.asked_at END)
		SELECT (SELECT count(*) FROM page) - (SELECT count(*) FROM known)`,
		bridge, sweep, ids, names, emails, externals, others, fragments, contents, asked).Scan(&fresh)
	if err != nil {
		return 0, fmt.Errorf("store directory users: %w", err)
	}
	return fresh, nil
}

// MarkGone says that BLN no longer knows the user: its links are released, and its people are to be looked at again. Who has
// claimed it keeps it until that is done. It takes turns with those who link: they do not see yet that the user is gone, and it
// would not see their links.
func MarkGone(ctx context.Context, tx pgx.Tx, bridge string, user int64) error {
	if err := LockParticipants(ctx, tx, bridge); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `WITH gone AS (UPDATE directory_users SET gone_at = now() WHERE bridge = $1 AND user_id = $2),
		released AS (DELETE FROM links WHERE bridge = $1 AND user_id = $2 AND rule <> 'hand' RETURNING person)
		UPDATE participants SET link_due = true FROM released WHERE participants.bridge = $1 AND participants.person = released.person`, bridge, user)
	if err != nil {
		return fmt.Errorf("mark user %d as gone: %w", user, err)
	}
	return nil
}

// Rekey notes that BLN shows a user with other keys than those that its people were linked by: they are to be looked at again. Like
// MarkGone it leaves the user claimed, and takes turns with those who link.
func Rekey(ctx context.Context, tx pgx.Tx, bridge string, u DirectoryUser) error {
	if err := LockParticipants(ctx, tx, bridge); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `WITH rekeyed AS (
			UPDATE directory_users SET username = $3, email = $4, external_id = $5, asked_at = NULL, decide_due = true WHERE bridge = $1 AND user_id = $2)
		UPDATE participants p SET link_due = true FROM links l
		WHERE l.bridge = $1 AND l.user_id = $2 AND p.bridge = $1 AND p.person = l.person AND NOT p.replaced`,
		bridge, u.UserID, u.Username, u.Email, u.ExternalID)
	if err != nil {
		return fmt.Errorf("note the keys of user %d: %w", u.UserID, err)
	}
	return nil
}

// IsListed says whether a listing has shown a user.
func IsListed(ctx context.Context, q Querier, bridge string, sweep, user int64) (listed bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM directory_users WHERE bridge = $1 AND user_id = $2 AND sweep >= $3)`, bridge, user, sweep).Scan(&listed)
	if err != nil {
		return false, fmt.Errorf("look for user %d in listing %d: %w", user, sweep, err)
	}
	return listed, nil
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
