package state

import (
	"context"
	"fmt"

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
	columns := []string{"bridge", "reading", "participant", "person", "email", "institution_id", "event_access_code", "event_title",
		"first_name", "last_name", "name_badge_link", "recording_link", "recording_id", "recording_date", "attributes", "content"}
	_, err := c.CopyFrom(ctx, pgx.Identifier{"staged_participants"}, columns, pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) {
		p := rows[i]
		return []any{bridge, reading, p.ID, p.Person, p.Email, p.InstitutionID, p.EventAccessCode, p.EventTitle,
			p.FirstName, p.LastName, p.NameBadgeLink, p.RecordingLink, p.RecordingID, p.RecordingDate, p.Attributes, p.Content}, nil
	}))
	if err != nil {
		return fmt.Errorf("stage participants: %w", err)
	}
	return nil
}

// StoreStaged makes the rows of a whole window count and says how many were new or changed. It runs in the transaction
// that moves the cursor. Unchanged rows are not touched. Where rows of one window have the same identity, the one with a
// recording counts, then the one with the smallest content, so that every reading of them comes to the same.
func StoreStaged(ctx context.Context, q Querier, bridge string, reading uuid.UUID) (changed int64, err error) {
	tag, err := q.Exec(ctx, `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title,
			first_name, last_name, name_badge_link, recording_link, recording_id, recording_date, attributes, content)
		SELECT DISTINCT ON (participant) bridge, participant, person, email, institution_id, event_access_code, event_title,
			first_name, last_name, name_badge_link, recording_link, recording_id, recording_date, attributes, content
		FROM staged_participants WHERE bridge = $1 AND reading = $2 ORDER BY participant, recording_link = '', content
		ON CONFLICT (bridge, participant) DO UPDATE SET person = EXCLUDED.person, email = EXCLUDED.email,
			institution_id = EXCLUDED.institution_id, event_access_code = EXCLUDED.event_access_code, event_title = EXCLUDED.event_title,
			first_name = EXCLUDED.first_name, last_name = EXCLUDED.last_name, name_badge_link = EXCLUDED.name_badge_link,
			recording_link = EXCLUDED.recording_link, recording_id = EXCLUDED.recording_id, recording_date = EXCLUDED.recording_date,
			attributes = EXCLUDED.attributes, content = EXCLUDED.content, changed_at = now(), link_due = true
		WHERE participants.content <> EXCLUDED.content`, bridge, reading)
	if err != nil {
		return 0, fmt.Errorf("store participants: %w", err)
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
			WHERE bridge = $1 AND person > $2`+due+` AND (cardinality($4::text[]) = 0 OR event_access_code = ANY($4))
			ORDER BY person LIMIT $3)
		SELECT p.person,
			array_agg(DISTINCT p.institution_id) FILTER (WHERE p.institution_id <> '') AS institution_ids,
			bool_or(p.link_due) AS due,
			coalesce(max(l.user_id) FILTER (WHERE l.rule = 'hand'), 0) AS hand,
			coalesce(max(l.user_id), 0) AS was_user
		FROM next JOIN participants p ON p.bridge = $1 AND p.person = next.person AND (cardinality($4::text[]) = 0 OR p.event_access_code = ANY($4))
		LEFT JOIN links l ON l.bridge = $1 AND l.person = p.person
		GROUP BY p.person ORDER BY p.person`, bridge, after, limit, orEmpty(events)))
	if err != nil {
		return nil, fmt.Errorf("read people: %w", err)
	}
	return people, nil
}

// LinkedParticipant is a participant with the user that it is linked to.
type LinkedParticipant struct {
	UserID int64
	Participant
}

// ParticipantsOf gives everyone who is linked to the users.
func ParticipantsOf(ctx context.Context, q Querier, bridge string, users []int64) ([]LinkedParticipant, error) {
	ps, err := collect[LinkedParticipant](q.Query(ctx, `SELECT l.user_id, `+participantColumns+`
		FROM links l JOIN participants p USING (bridge, person) WHERE l.bridge = $1 AND l.user_id = ANY($2)`, bridge, users))
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
