package state

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Bridge is one NameCoach account joined to one BLN organization.
type Bridge struct {
	Bridge            string
	OrganizationID    int64
	HaltedAt          *time.Time
	HaltReason        *string
	HaltRun           *uuid.UUID
	RowsCarryFragment *bool // nil: not known yet
	DirectorySweep    int64 // 0: the directory was never listed to its end
	DirectoryListedAt *time.Time
	CollectedAt       *time.Time     // when a walk first came to its end; nil: never
	Widened           *time.Duration // the lookback since WidenedAt, because windows had missed rows
	WidenedAt         *time.Time
	LateFound         int64 // rows that windows have missed so far
}

// widenedFor is how long a lookback stays widened after rows were last found to be missed.
const widenedFor = 7 * 24 * time.Hour

// Lookback is the configured one, or a wider one where windows have missed rows lately.
func (b Bridge) Lookback(configured time.Duration) time.Duration {
	if b.Widened == nil || b.WidenedAt == nil || time.Since(*b.WidenedAt) > widenedFor {
		return configured
	}
	return max(configured, *b.Widened)
}

const bridgeColumns = `bridge, organization_id, halted_at, halt_reason, halt_run, rows_carry_fragment, directory_sweep, directory_listed_at,
	collected_at, widened, widened_at, late_found`

// Knowledge is what is stored of a bridge.
type Knowledge int

// What can be stored of a bridge.
const (
	KnowsNothing      Knowledge = iota // no row of NameCoach's, no user of BLN's, and nothing was collected or listed to the end
	KnowsPeople                        // NameCoach was read, and of BLN's organization nothing is known
	KnowsOrganization                  // its users were seen, or written to
)

const (
	knowsOrganization = `(b.directory_sweep > 0 OR EXISTS (SELECT 1 FROM directory_users WHERE bridge = b.bridge)
		OR EXISTS (SELECT 1 FROM journal WHERE bridge = b.bridge))`
	knowsPeople = `(b.collected_at IS NOT NULL OR EXISTS (SELECT 1 FROM participants WHERE bridge = b.bridge)
		OR EXISTS (SELECT 1 FROM cursors WHERE bridge = b.bridge))`
)

// WhatIsKnown is what is stored of a bridge; KnowsNothing also where it has no row.
func WhatIsKnown(ctx context.Context, q Querier, bridge string) (k Knowledge, err error) {
	err = q.QueryRow(ctx, `SELECT coalesce((SELECT CASE WHEN `+knowsOrganization+` THEN 2 WHEN `+knowsPeople+` THEN 1 ELSE 0 END
		FROM bridges b WHERE bridge = $1), 0)`, bridge).Scan(&k)
	if err != nil {
		return 0, fmt.Errorf("read what is known of bridge %s: %w", bridge, err)
	}
	return k, nil
}

// OtherOrganizationError says that a bridge's state belongs to another organization than the one configured.
type OtherOrganizationError struct {
	Bridge            string
	Stored, Requested int64
	Known             Knowledge // KnowsNothing: it is refused only because a process lives that was started with the stored number
}

func (e *OtherOrganizationError) Error() string {
	return fmt.Sprintf("the database holds bridge %s for organization %d, not %d", e.Bridge, e.Stored, e.Requested)
}

// EnsureBridge makes the bridge's row where there is none, and refuses one that belongs to another organization. A number of which nothing
// came, and which nobody at work uses, was mistyped: it is replaced. The row is locked: what
// goes by the number is to be done in the same transaction.
func EnsureBridge(ctx context.Context, q Querier, bridge string, organization int64) (Bridge, error) {
	_, err := q.Exec(ctx, `INSERT INTO bridges (bridge, organization_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, bridge, organization)
	if err != nil {
		return Bridge{}, fmt.Errorf("store bridge %s: %w", bridge, err)
	}
	if err := lockBridge(ctx, q, bridge); err != nil {
		return Bridge{}, err
	}
	b, err := GetBridge(ctx, q, bridge)
	if err != nil || b.OrganizationID == organization {
		return b, err
	}
	tag, err := q.Exec(ctx, `UPDATE bridges b SET organization_id = $2 WHERE bridge = $1 AND NOT `+knowsOrganization+` AND NOT `+knowsPeople+`
		AND NOT EXISTS (SELECT 1 FROM workers x WHERE x.bridge = $1 AND `+fmt.Sprintf(liveOwner, "x.owner")+`)`, bridge, organization)
	if err != nil {
		return b, fmt.Errorf("store bridge %s: %w", bridge, err)
	}
	if tag.RowsAffected() == 1 {
		b.OrganizationID = organization
		return b, nil
	}
	known, err := WhatIsKnown(ctx, q, bridge)
	if err != nil {
		return b, err
	}
	return b, &OtherOrganizationError{bridge, b.OrganizationID, organization, known}
}

// lockBridge locks a bridge until the transaction ends. By itself, so that what is read next is what there is once the lock is had.
func lockBridge(ctx context.Context, q Querier, bridge string) error {
	if _, err := q.Exec(ctx, `SELECT 1 FROM bridges WHERE bridge = $1 FOR NO KEY UPDATE`, bridge); err != nil {
		return fmt.Errorf("lock bridge %s: %w", bridge, err)
	}
	return nil
}

// BridgeOf is another bridge, of none of the names, that holds an organization and knows something of it or of NameCoach's
// people; "" where there is none.
func BridgeOf(ctx context.Context, q Querier, organization int64, names []string) (bridge string, err error) {
	err = q.QueryRow(ctx, `SELECT coalesce((SELECT bridge FROM bridges b WHERE organization_id = $1 AND bridge <> ALL($2) AND (`+knowsOrganization+` OR `+
		knowsPeople+`) ORDER BY bridge LIMIT 1), '')`, organization, names).Scan(&bridge)
	if err != nil {
		return "", fmt.Errorf("read the bridges of organization %d: %w", organization, err)
	}
	return bridge, nil
}

// GetBridge reads a bridge's row.
func GetBridge(ctx context.Context, q Querier, bridge string) (Bridge, error) {
	b, err := one[Bridge](q.Query(ctx, `SELECT `+bridgeColumns+` FROM bridges WHERE bridge = $1`, bridge))
	if err != nil {
		return b, fmt.Errorf("read bridge %s: %w", bridge, err)
	}
	return b, nil
}

// UnsettledError says that where the fragment stands, or what it consists of, cannot change yet.
type UnsettledError struct {
	Bridge string
	Alive  int // other processes that still run under the former settings
	Open   int // users with a write whose outcome is not known
}

func (e *UnsettledError) Error() string {
	count := func(n int, one, many string) string {
		if n == 1 {
			return "1 " + one
		}
		return fmt.Sprint(n, " ", many)
	}
	var left, cures []string
	if e.Alive > 0 {
		left = append(left, count(e.Alive, "process still runs", "processes still run"))
		cures = append(cures, "let what runs end")
	}
	if e.Open > 0 {
		left = append(left, "the outcome of "+count(e.Open, "write is", "writes is")+" not known")
		cures = append(cures, "run it once more with the former settings")
	}
	return fmt.Sprintf("the key, layout or fields of bridge %s have changed, but under the former %s: %s", e.Bridge, strings.Join(left, ", and "),
		strings.Join(cures, ", and "))
}

// NoteLayout keeps where the fragment stands and what it consists of, as layout tells it; layouts of one place and shape begin
// with place. Where layout has changed everyone concerned is to be decided on anew, and where place has, what list rows
// showed and what was written before says nothing about the new one. The bridge is locked until tx ends. An *UnsettledError refuses the change, since what is under way is told from
// damage by the layout it was made with.
func NoteLayout(ctx context.Context, tx pgx.Tx, bridge, place, layout string) error {
	var was *string
	e := UnsettledError{Bridge: bridge}
	if err := lockBridge(ctx, tx, bridge); err != nil {
		return err
	}
	err := tx.QueryRow(ctx, `SELECT layout, (SELECT count(*) FROM workers x WHERE x.bridge = $1 AND `+fmt.Sprintf(liveOwner, "x.owner")+`),
			(SELECT count(DISTINCT user_id) FROM journal WHERE bridge = $1 AND state = 'sending')
		FROM bridges WHERE bridge = $1`, bridge).Scan(&was, &e.Alive, &e.Open)
	if err != nil {
		return fmt.Errorf("note the layout of bridge %s: %w", bridge, err)
	}
	switch {
	case was != nil && *was == layout:
		return nil
	case was != nil && (e.Alive > 0 || e.Open > 0):
		return &e
	case was != nil:
		forget := `listed_fragment = NULL, applied_digest = NULL, applied_source = NULL, applied_recording = false, `
		if strings.HasPrefix(*was, place) {
			forget = ""
		}
		if _, err := tx.Exec(ctx, `WITH `+inOrderWhere(`bridge = $1 AND (wanted_version > 0 OR applied_digest IS NOT NULL OR listed_fragment IS NOT NULL)`)+`
			UPDATE directory_users d SET `+forget+`decide_due = true FROM locked WHERE d.bridge = $1 AND d.user_id = locked.user_id`, bridge); err != nil {
			return fmt.Errorf("note the layout of bridge %s: %w", bridge, err)
		}
	}
	if _, err := tx.Exec(ctx, `UPDATE bridges SET layout = $2, rows_carry_fragment = CASE WHEN layout IS NULL OR starts_with(layout, $3) THEN rows_carry_fragment END
		WHERE bridge = $1`, bridge, layout, place); err != nil {
		return fmt.Errorf("note the layout of bridge %s: %w", bridge, err)
	}
	return nil
}

// Halt stops every further write of the bridge. The first reason stays.
func Halt(ctx context.Context, q Querier, bridge, reason string, run uuid.UUID) error {
	_, err := q.Exec(ctx, `UPDATE bridges SET halted_at = now(), halt_reason = $2, halt_run = $3
		WHERE bridge = $1 AND halted_at IS NULL`, bridge, forPeople(reason), run)
	if err != nil {
		return fmt.Errorf("halt bridge %s: %w", bridge, err)
	}
	return nil
}

// Resume lifts a halt, and makes due at once what goes on with the work. The halt and why it was lifted are kept.
// ErrNotFound: the bridge is not halted.
func Resume(ctx context.Context, q Querier, bridge, reason string) error {
	// A lock that leaves those alone who only refer to the bridge: they may have what is made due here.
	tag, err := q.Exec(ctx, `WITH lifted AS (
			SELECT bridge, halted_at, halt_reason, halt_run FROM bridges WHERE bridge = $1 AND halted_at IS NOT NULL FOR NO KEY UPDATE),
		kept AS (INSERT INTO halts (bridge, halted_at, reason, run, resumed_reason)
			SELECT bridge, halted_at, halt_reason, halt_run, $2 FROM lifted),
		soon AS (UPDATE schedules SET due_at = now() FROM lifted WHERE schedules.bridge = lifted.bridge AND kind = $3)
		UPDATE bridges SET halted_at = NULL, halt_reason = NULL, halt_run = NULL FROM lifted WHERE bridges.bridge = lifted.bridge`,
		bridge, forPeople(reason), Housekeeping)
	if err != nil {
		return fmt.Errorf("resume bridge %s: %w", bridge, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("halt of bridge %s: %w", bridge, ErrNotFound)
	}
	return nil
}

// SetRowsCarryFragment notes whether list rows show our fragment.
func SetRowsCarryFragment(ctx context.Context, q Querier, bridge string, carry bool) error {
	_, err := q.Exec(ctx, `UPDATE bridges SET rows_carry_fragment = $2 WHERE bridge = $1`, bridge, carry)
	if err != nil {
		return fmt.Errorf("note what list rows of bridge %s carry: %w", bridge, err)
	}
	return nil
}

// NoteCollected notes that a walk has come to its end for the first time.
func NoteCollected(ctx context.Context, q Querier, bridge string) error {
	if _, err := q.Exec(ctx, `UPDATE bridges SET collected_at = now() WHERE bridge = $1 AND collected_at IS NULL`, bridge); err != nil {
		return fmt.Errorf("note that bridge %s was collected: %w", bridge, err)
	}
	return nil
}
