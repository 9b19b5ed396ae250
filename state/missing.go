package state

import (
	"context"
	"fmt"
	"time"
)

// Asked are the people whom questions were about, in the spelling that was asked.
type Asked struct{ Emails, InstitutionIDs []string }

// Now is the database's time.
func Now(ctx context.Context, q Querier) (now time.Time, err error) {
	if err := q.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return now, fmt.Errorf("read the time: %w", err)
	}
	return now, nil
}

// tookBadge and tookRecording say of a row c that came after another person's row m of the same event that it is m with its address corrected,
// should m be gone. A badge link is a person's own; where a third person there has it, it is a page of the event, and only the recording
// tells. Whatever else became of m, censuses tell.
const (
	tookBadge = `c.person <> m.person AND m.name_badge_link <> '' AND c.name_badge_link <> '' AND c.name_badge_link = m.name_badge_link
		AND (m.recording_link <> '' AND split_part(c.recording_link, '?', 1) = split_part(m.recording_link, '?', 1)
			OR NOT EXISTS (SELECT 1 FROM participants o WHERE o.bridge = $1 AND o.name_badge_link <> '' AND o.name_badge_link = m.name_badge_link
				AND o.event_access_code = m.event_access_code AND o.person <> m.person AND o.person <> c.person AND NOT o.replaced))`
	tookRecording = `c.person <> m.person AND m.recording_id <> '' AND c.recording_id <> '' AND c.recording_id = m.recording_id`
)

// MarkMissing notes the rows that were not seen since before, by a walk or questions begun then that should have brought all
// rows (of those asked about, or of everybody where that is nil). Absence is not evidence: a missing row speaks on,
// unless a row of the same event that came after it was last seen stands in its place, and says as much: one of the same person,
// or one of somebody else with its recording (or with its badge, where no third person has that). Then it speaks for nobody, and the link of a
// person who has no other row ends: at once and not after as many censuses as others take, since the voice would stand at somebody else's
// record until then. The row that came is the evidence; that the other is not shown says only that they are no twins, so whoever asks
// asks twice before. Run it under LockParticipants.
func MarkMissing(ctx context.Context, q Querier, bridge string, before time.Time, asked *Asked) error {
	whose, args := ``, []any{bridge}
	if asked != nil {
		whose = ` AND (m.email <> '' AND m.email = ANY($2) OR m.email = '' AND m.institution_id = ANY($3))`
		args = append(args, orEmpty(asked.Emails), orEmpty(asked.InstitutionIDs))
	}
	_, err := q.Exec(ctx, fmt.Sprintf(`UPDATE participants m SET missing_since = now(), link_due = true
		WHERE m.bridge = $1 AND m.missing_since IS NULL AND m.seen_at < $%d`, len(args)+1)+whose, append(args, before)...)
	if err != nil {
		return fmt.Errorf("mark missing participants: %w", err)
	}
	// Rows that were once seen together are twins: none of them took another's place. Twins of one person may have come in
	// the same walk one after the other, so between them only what another walk brought counts as later.
	replaced := `UPDATE participants m SET replaced = true, link_due = true FROM participants c
		WHERE m.bridge = $1 AND m.missing_since IS NOT NULL AND NOT m.replaced AND c.bridge = $1 AND c.missing_since IS NULL
			AND c.created_at > m.seen_at AND c.event_access_code = m.event_access_code
			AND (c.recording_link <> '' OR m.recording_link = '' AND (c.name_badge_link <> '' OR m.name_badge_link = ''))` + whose + ` AND `
	for _, stands := range []string{`c.person = m.person AND c.created_run IS DISTINCT FROM m.seen_run`, tookBadge, tookRecording} {
		if _, err := q.Exec(ctx, replaced+stands, args...); err != nil {
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

// Suspects gives the people, in every spelling they are known by, whom rows that just came (those whose doubts are due, of
// events that count; none: all) put in doubt: people who have another row in the same event, and people whose row may be the one
// that came, with its address corrected.
func Suspects(ctx context.Context, q Querier, bridge string, events []string) ([]KnownPerson, error) {
	ps, err := collect[KnownPerson](q.Query(ctx, `WITH came AS MATERIALIZED (SELECT * FROM participants
			WHERE bridge = $1 AND doubt_due AND missing_since IS NULL AND (cardinality($2::text[]) = 0 OR event_access_code = ANY($2))),
		doubtful AS (
			SELECT m.person FROM came c JOIN participants m ON m.bridge = $1 AND m.person = c.person
				AND m.event_access_code = c.event_access_code AND m.participant <> c.participant AND NOT m.replaced
			UNION SELECT m.person FROM came c JOIN participants m ON m.bridge = $1 AND m.event_access_code = c.event_access_code AND NOT m.replaced AND `+tookBadge+`
			UNION SELECT m.person FROM came c JOIN participants m ON m.bridge = $1 AND m.event_access_code = c.event_access_code AND NOT m.replaced AND `+tookRecording+`)
		SELECT DISTINCT p.person, p.email, CASE WHEN p.email = '' THEN p.institution_id ELSE '' END AS institution_id
		FROM doubtful JOIN participants p ON p.bridge = $1 AND p.person = doubtful.person AND NOT p.replaced ORDER BY p.person`, bridge, orEmpty(events)))
	if err != nil {
		return nil, fmt.Errorf("read people in doubt: %w", err)
	}
	return ps, nil
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
