package state

import (
	"context"
	"fmt"
	"time"
)

// Asked are the people whom a question was about, in the spelling that was asked.
type Asked struct{ Emails, InstitutionIDs []string }

// Now is the database's time.
func Now(ctx context.Context, q Querier) (now time.Time, err error) {
	if err := q.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return now, fmt.Errorf("read the time: %w", err)
	}
	return now, nil
}

// MarkMissing notes the rows that were not seen since before, by a walk or question begun then that should have brought all
// rows (of those asked about, or of everybody where that is nil). Absence is not evidence: a missing row speaks on,
// unless a row of the same event that came after it was last seen stands in its place, and says as much: one of the same person,
// or one of somebody else with its badge or recording. Then it speaks for nobody, and the link of a person who has no
// other row ends. Run it under LockParticipants.
func MarkMissing(ctx context.Context, q Querier, bridge string, before time.Time, asked *Asked) error {
	whose, args := ``, []any{bridge, before}
	if asked != nil {
		whose = ` AND (email <> '' AND email = ANY($3) OR email = '' AND institution_id = ANY($4))`
		args = append(args, orEmpty(asked.Emails), orEmpty(asked.InstitutionIDs))
	}
	_, err := q.Exec(ctx, `UPDATE participants SET missing_since = now(), link_due = true
		WHERE bridge = $1 AND missing_since IS NULL AND seen_at < $2`+whose, args...)
	if err != nil {
		return fmt.Errorf("mark missing participants: %w", err)
	}
	// Rows that were once seen together are twins: none of them took another's place. Twins of one person may have come in
	// the same walk one after the other, so between them only what another walk brought counts as later.
	const replaced = `UPDATE participants m SET replaced = true, link_due = true FROM participants c
		WHERE m.bridge = $1 AND m.missing_since IS NOT NULL AND NOT m.replaced AND c.bridge = $1 AND c.missing_since IS NULL
			AND c.created_at > m.seen_at AND c.event_access_code = m.event_access_code
			AND (c.recording_link <> '' OR m.recording_link = '' AND (c.name_badge_link <> '' OR m.name_badge_link = '')) AND `
	for _, sql := range []string{
		replaced + `c.person = m.person AND c.created_run IS DISTINCT FROM m.seen_run`,
		replaced + `c.person <> m.person AND m.name_badge_link <> '' AND c.name_badge_link = m.name_badge_link`,
		replaced + `c.person <> m.person AND m.recording_id <> '' AND c.recording_id = m.recording_id`,
	} {
		if _, err := q.Exec(ctx, sql, bridge); err != nil {
			return fmt.Errorf("mark missing participants: %w", err)
		}
	}
	return silence(ctx, q, bridge)
}

// silence draws the conclusions from rows that have just become replaced, marked by link_due: those who have nothing but
// replaced rows are nobody's any more, the others are linked by what they have, and the users of both are decided on.
func silence(ctx context.Context, q Querier, bridge string) error {
	for _, sql := range []string{
		`UPDATE participants p SET link_due = true FROM participants m
			WHERE m.bridge = $1 AND m.missing_since IS NOT NULL AND m.replaced AND m.link_due AND p.bridge = $1 AND p.person = m.person AND NOT p.replaced`,
		`WITH ` + inOrderWhere(`d.bridge = $1 AND d.user_id IN (SELECT l.user_id FROM participants m JOIN links l USING (bridge, person)
				WHERE m.bridge = $1 AND m.missing_since IS NOT NULL AND m.replaced AND m.link_due)`) + `
			UPDATE directory_users d SET decide_due = true FROM locked WHERE d.bridge = $1 AND d.user_id = locked.user_id`,
		`WITH ended AS (SELECT DISTINCT m.person FROM participants m WHERE m.bridge = $1 AND m.missing_since IS NOT NULL AND m.replaced AND m.link_due
				AND NOT EXISTS (SELECT 1 FROM participants c WHERE c.bridge = $1 AND c.person = m.person AND NOT c.replaced)),
			lifted AS (DELETE FROM holds h USING ended WHERE h.bridge = $1 AND h.kind = 'person' AND h.subject = ended.person)
			DELETE FROM links l USING ended WHERE l.bridge = $1 AND l.person = ended.person AND l.rule <> 'hand'`,
		`UPDATE participants SET link_due = false WHERE bridge = $1 AND missing_since IS NOT NULL AND replaced AND link_due`,
	} {
		if _, err := q.Exec(ctx, sql, bridge); err != nil {
			return fmt.Errorf("silence participants: %w", err)
		}
	}
	return nil
}

// Suspect is a row that may be out of date, because one that just came looks like it.
type Suspect struct {
	Email         string // NameCoach's own spelling; empty: to be asked for by the institution id
	InstitutionID string
}

// Suspects gives the people, in every spelling they are known by, whom rows that just came (those whose doubts are due, of
// events that count; none: all) put in doubt: people who have another row in the same event, and people who have the same
// badge or recording as somebody else's row that came.
func Suspects(ctx context.Context, q Querier, bridge string, events []string) ([]Suspect, error) {
	ss, err := collect[Suspect](q.Query(ctx, `WITH came AS MATERIALIZED (SELECT * FROM participants
			WHERE bridge = $1 AND doubt_due AND missing_since IS NULL AND (cardinality($2::text[]) = 0 OR event_access_code = ANY($2))),
		doubtful AS (
			SELECT p.person FROM came c JOIN participants p ON p.bridge = $1 AND p.person = c.person
				AND p.event_access_code = c.event_access_code AND p.participant <> c.participant AND p.missing_since IS NULL
			UNION SELECT p.person FROM came c JOIN participants p ON p.bridge = $1 AND p.event_access_code = c.event_access_code
				AND p.name_badge_link <> '' AND p.name_badge_link = c.name_badge_link AND p.person <> c.person AND p.missing_since IS NULL
			UNION SELECT p.person FROM came c JOIN participants p ON p.bridge = $1 AND p.event_access_code = c.event_access_code
				AND p.recording_id <> '' AND p.recording_id = c.recording_id AND p.person <> c.person AND p.missing_since IS NULL)
		SELECT DISTINCT p.email, CASE WHEN p.email = '' THEN p.institution_id ELSE '' END AS institution_id
		FROM doubtful JOIN participants p ON p.bridge = $1 AND p.person = doubtful.person AND NOT p.replaced`, bridge, orEmpty(events)))
	if err != nil {
		return nil, fmt.Errorf("read people in doubt: %w", err)
	}
	return ss, nil
}

// ForgetDoubts says that the rows stored before a time have been compared with those whose place they may have taken, but
// what somebody changes at the moment: that is compared once more.
func ForgetDoubts(ctx context.Context, q Querier, bridge string, before time.Time) error {
	_, err := q.Exec(ctx, `UPDATE participants SET doubt_due = false WHERE bridge = $1 AND participant = ANY(ARRAY(
		SELECT participant FROM participants WHERE bridge = $1 AND doubt_due AND changed_at < $2 FOR UPDATE SKIP LOCKED))`, bridge, before)
	if err != nil {
		return fmt.Errorf("forget doubts: %w", err)
	}
	return nil
}

// ForgetUncounted says that rows of events that do not count need not be linked; what somebody changes at the moment is left to the next.
func ForgetUncounted(ctx context.Context, q Querier, bridge string, events []string) error {
	_, err := q.Exec(ctx, `UPDATE participants SET link_due = false WHERE bridge = $1 AND participant = ANY(ARRAY(
		SELECT participant FROM participants WHERE bridge = $1 AND link_due AND NOT event_access_code = ANY($2) FOR UPDATE SKIP LOCKED))`, bridge, events)
	if err != nil {
		return fmt.Errorf("forget rows of events that do not count: %w", err)
	}
	return nil
}

// AnythingDue says whether anybody is to be compared, linked or decided on, or a write is to be looked into.
func AnythingDue(ctx context.Context, q Querier, bridge string) (due bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM participants WHERE bridge = $1 AND link_due)
		OR EXISTS (SELECT 1 FROM participants WHERE bridge = $1 AND doubt_due)
		OR EXISTS (SELECT 1 FROM directory_users WHERE bridge = $1 AND decide_due)
		OR EXISTS (SELECT 1 FROM journal WHERE bridge = $1 AND state = 'sending')`, bridge).Scan(&due)
	if err != nil {
		return false, fmt.Errorf("look for what is due: %w", err)
	}
	return due, nil
}
