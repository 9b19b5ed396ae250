package state

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Participant is a NameCoach row as it is kept. Empty text: NameCoach has nothing. Text holds neither NUL nor bytes
// that are not UTF-8.
type Participant struct {
	ID              []byte
	Person          string
	Email           string // NameCoach's own spelling
	InstitutionID   string
	EventAccessCode string
	EventTitle      string
	FirstName       string
	LastName        string
	NameBadgeLink   string
	RecordingLink   string
	RecordingID     string
	RecordingDate   string
	Attributes      map[string]string
	Content         []byte // digest of all that may reach BLN or a link
}

const participantColumns = `participant AS id, person, email, institution_id, event_access_code, event_title, first_name, last_name,
	name_badge_link, recording_link, recording_id, recording_date, attributes, content`

// Copier is what a pool and a transaction have for bulk loads.
type Copier interface {
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error)
}

// StageParticipants keeps rows of a window that is still being read.
func StageParticipants(ctx context.Context, c Copier, bridge string, reading uuid.UUID, rows []Participant) error {
	columns := []string{
		"bridge", "reading", "participant", "person", "email", "institution_id", "event_access_code", "event_title",
		"first_name", "last_name", "name_badge_link", "recording_link", "recording_id", "recording_date", "attributes", "content",
	}
	_, err := c.CopyFrom(ctx, pgx.Identifier{"staged_participants"}, columns, pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) {
		p := rows[i]
		return []any{
			bridge, reading, p.ID, p.Person, p.Email, p.InstitutionID, p.EventAccessCode, p.EventTitle,
			p.FirstName, p.LastName, p.NameBadgeLink, p.RecordingLink, p.RecordingID, p.RecordingDate, p.Attributes, p.Content,
		}, nil
	}))
	if err != nil {
		return fmt.Errorf("stage participants: %w", err)
	}
	return nil
}

// StoreStaged makes the rows of a whole window count and says how many were new or changed. It runs in the transaction
// that moves the cursor. Unchanged rows are not touched. Where rows of one window have the same identity, the one with a
// recording counts, then the one with the smallest content, so that every reading of them comes to the same. by is what
// brought them; touch notes it on unchanged rows too, for MarkMissing.
func StoreStaged(ctx context.Context, q Querier, bridge string, reading, by uuid.UUID, touch bool) (changed int64, err error) {
	tag, err := q.Exec(ctx, `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title,
			first_name, last_name, name_badge_link, recording_link, recording_id, recording_date, attributes, content, created_run, seen_run)
		SELECT DISTINCT ON (participant) bridge, participant, person, email, institution_id, event_access_code, event_title,
			first_name, last_name, name_badge_link, recording_link, recording_id, recording_date, attributes, content, $3::uuid, $3::uuid
		FROM staged_participants WHERE bridge = $1 AND reading = $2 ORDER BY participant, recording_link = '', content
		ON CONFLICT (bridge, participant) DO UPDATE SET person = EXCLUDED.person, email = EXCLUDED.email,
			institution_id = EXCLUDED.institution_id, event_access_code = EXCLUDED.event_access_code, event_title = EXCLUDED.event_title,
			first_name = EXCLUDED.first_name, last_name = EXCLUDED.last_name, name_badge_link = EXCLUDED.name_badge_link,
			recording_link = EXCLUDED.recording_link, recording_id = EXCLUDED.recording_id, recording_date = EXCLUDED.recording_date,
			attributes = EXCLUDED.attributes, content = EXCLUDED.content, changed_at = now(), link_due = true,
			missing_since = NULL, replaced = false, seen_run = EXCLUDED.seen_run, seen_at = now()
		WHERE participants.content <> EXCLUDED.content OR participants.missing_since IS NOT NULL`, bridge, reading, by)
	if err != nil {
		return 0, fmt.Errorf("store participants: %w", err)
	}
	if touch {
		_, err := q.Exec(ctx, `UPDATE participants p SET seen_run = $3, seen_at = now() FROM staged_participants s
			WHERE s.bridge = $1 AND s.reading = $2 AND p.bridge = $1 AND p.participant = s.participant AND p.seen_run IS DISTINCT FROM $3`, bridge, reading, by)
		if err != nil {
			return 0, fmt.Errorf("note who was seen: %w", err)
		}
	}
	return tag.RowsAffected(), DropStaged(ctx, q, bridge, reading)
}

// DropStaged forgets the rows of a reading that does not count, and of readings that were abandoned an hour ago.
func DropStaged(ctx context.Context, q Querier, bridge string, reading uuid.UUID) error {
	_, err := q.Exec(ctx, `DELETE FROM staged_participants
		WHERE bridge = $1 AND (reading = $2 OR staged_at < now() - interval '1 hour')`, bridge, reading)
	if err != nil {
		return fmt.Errorf("drop staged participants: %w", err)
	}
	return nil
}

// JoinStaged makes the rows of one reading part of another.
func JoinStaged(ctx context.Context, q Querier, bridge string, from, into uuid.UUID) error {
	_, err := q.Exec(ctx, `UPDATE staged_participants SET reading = $3 WHERE bridge = $1 AND reading = $2`, bridge, from, into)
	if err != nil {
		return fmt.Errorf("join staged participants: %w", err)
	}
	return nil
}

// LockParticipants makes the transactions that store participants and those that link them take turns: a row stored
// between reading a person and marking it as linked would otherwise never be looked at.
func LockParticipants(ctx context.Context, q Querier, bridge string) error {
	if _, err := q.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('namebridge participants ' || $1, 0))`, bridge); err != nil {
		return fmt.Errorf("lock participants of bridge %s: %w", bridge, err)
	}
	return nil
}

// PersonKeys is what links one person: the distinct keys of all its participants, and a link made by hand.
type PersonKeys struct {
	Person         string
	InstitutionIDs []string
	Due            bool
	Hand           int64 // 0: none
	WasUser        int64 // the user linked now, 0: none
}

// NextPeople gives up to limit people after the given one, in order; with dueOnly just those that changed since they
// were last linked. events limits to participants of those events, none: all. Run it under LockParticipants.
func NextPeople(ctx context.Context, q Querier, bridge, after string, limit int, dueOnly bool, events []string) ([]PersonKeys, error) {
	due := `` // in the text rather than a parameter, so that the planner sees which index serves
	if dueOnly {
		due = ` AND link_due`
	}
	people, err := collect[PersonKeys](q.Query(ctx, `WITH next AS (
			SELECT DISTINCT person FROM participants
			WHERE bridge = $1 AND person > $2`+due+` AND NOT replaced AND (cardinality($4::text[]) = 0 OR event_access_code = ANY($4))
			ORDER BY person LIMIT $3)
		SELECT p.person,
			array_agg(DISTINCT p.institution_id) FILTER (WHERE p.institution_id <> '') AS institution_ids,
			bool_or(p.link_due) AS due,
			coalesce(max(l.user_id) FILTER (WHERE l.rule = 'hand'), 0) AS hand,
			coalesce(max(l.user_id), 0) AS was_user
		FROM next JOIN participants p ON p.bridge = $1 AND p.person = next.person AND NOT p.replaced AND (cardinality($4::text[]) = 0 OR p.event_access_code = ANY($4))
		LEFT JOIN links l ON l.bridge = $1 AND l.person = p.person
		GROUP BY p.person ORDER BY p.person`, bridge, after, limit, orEmpty(events)))
	if err != nil {
		return nil, fmt.Errorf("read people: %w", err)
	}
	return people, nil
}

// MarkMissing notes the rows that by, which should have brought all rows (of people, or of everybody where that is nil),
// did not bring. Rows stored since before are left alone: they may be newer than what it read. Absence is not evidence: a
// missing row speaks on, unless a row that came after it was last seen stands in its place: one of the same person
// in the same event, or one of somebody else with its badge or recording. Then it speaks for nobody, and the link of a person who
// has no other row ends. Run it under LockParticipants.
func MarkMissing(ctx context.Context, q Querier, bridge string, by uuid.UUID, before time.Time, people []string) error {
	_, err := q.Exec(ctx, `UPDATE participants SET missing_since = now(), link_due = true
		WHERE bridge = $1 AND missing_since IS NULL AND seen_run IS DISTINCT FROM $2 AND changed_at < $3
			AND ($4::text[] IS NULL OR person = ANY($4))`, bridge, by, before, people)
	if err != nil {
		return fmt.Errorf("mark missing participants: %w", err)
	}
	const replaced = `UPDATE participants m SET replaced = true, link_due = true FROM participants c
		WHERE m.bridge = $1 AND m.missing_since IS NOT NULL AND NOT m.replaced AND c.bridge = $1 AND c.missing_since IS NULL
			AND c.created_at > m.seen_at AND c.created_run IS DISTINCT FROM m.seen_run AND `
	for _, sql := range []string{
		replaced + `c.person = m.person AND c.event_access_code = m.event_access_code`,
		replaced + `c.person <> m.person AND m.name_badge_link <> '' AND c.name_badge_link = m.name_badge_link`,
		replaced + `c.person <> m.person AND m.recording_id <> '' AND c.recording_id = m.recording_id`,
		// Those who have nothing but replaced rows are nobody's any more; the others are linked by what they have.
		`UPDATE participants p SET link_due = true FROM participants m
			WHERE m.bridge = $1 AND m.replaced AND m.link_due AND p.bridge = $1 AND p.person = m.person AND NOT p.replaced`,
		`WITH ended AS (SELECT DISTINCT m.person FROM participants m WHERE m.bridge = $1 AND m.replaced AND m.link_due
				AND NOT EXISTS (SELECT 1 FROM participants c WHERE c.bridge = $1 AND c.person = m.person AND NOT c.replaced)),
			lifted AS (DELETE FROM holds h USING ended WHERE h.bridge = $1 AND h.kind = 'person' AND h.subject = ended.person),
			unlinked AS (DELETE FROM links l USING ended WHERE l.bridge = $1 AND l.person = ended.person AND l.rule <> 'hand' RETURNING l.user_id)
			UPDATE directory_users d SET decide_due = true FROM unlinked WHERE d.bridge = $1 AND d.user_id = unlinked.user_id`,
		`UPDATE participants SET link_due = false WHERE bridge = $1 AND missing_since IS NOT NULL AND replaced AND link_due`,
	} {
		if _, err := q.Exec(ctx, sql, bridge); err != nil {
			return fmt.Errorf("mark missing participants: %w", err)
		}
	}
	return nil
}

// Suspect is a person of whom a row may be out of date, because a row that just came looks like it.
type Suspect struct {
	Person        string
	Email         string // NameCoach's own spelling; empty: ask by the institution id
	InstitutionID string
}

// Suspects gives the people whom the rows that just came (those due) put in doubt: people who have another row in the same
// event, and people who have the same badge or recording as somebody else's row that came.
func Suspects(ctx context.Context, q Querier, bridge string) ([]Suspect, error) {
	ss, err := collect[Suspect](q.Query(ctx, `WITH came AS (SELECT * FROM participants WHERE bridge = $1 AND link_due AND missing_since IS NULL)
		SELECT DISTINCT ON (person) person, email, institution_id FROM (
			SELECT p.person, c.email, c.institution_id FROM came c JOIN participants p ON p.bridge = $1 AND p.person = c.person
				AND p.event_access_code = c.event_access_code AND p.participant <> c.participant AND p.missing_since IS NULL
			UNION ALL SELECT p.person, p.email, p.institution_id FROM came c JOIN participants p ON p.bridge = $1
				AND p.name_badge_link <> '' AND p.name_badge_link = c.name_badge_link AND p.person <> c.person AND p.missing_since IS NULL
			UNION ALL SELECT p.person, p.email, p.institution_id FROM came c JOIN participants p ON p.bridge = $1
				AND p.recording_id <> '' AND p.recording_id = c.recording_id AND p.person <> c.person AND p.missing_since IS NULL) x
		ORDER BY person, email`, bridge))
	if err != nil {
		return nil, fmt.Errorf("read people in doubt: %w", err)
	}
	return ss, nil
}

// LinkedParticipant is a participant with the user that it is linked to.
type LinkedParticipant struct {
	UserID int64
	Participant
}

// ParticipantsOf gives everyone who is linked to the users, but rows that others have replaced.
func ParticipantsOf(ctx context.Context, q Querier, bridge string, users []int64) ([]LinkedParticipant, error) {
	ps, err := collect[LinkedParticipant](q.Query(ctx, `SELECT l.user_id, `+participantColumns+`
		FROM links l JOIN participants p USING (bridge, person) WHERE l.bridge = $1 AND l.user_id = ANY($2) AND NOT p.replaced`, bridge, users))
	if err != nil {
		return nil, fmt.Errorf("read linked participants: %w", err)
	}
	return ps, nil
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
