package state

import (
	"context"
	"errors"
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

// Reading names the rows of a window while its pages are read.
type Reading struct {
	ID    uuid.UUID
	Owner uuid.UUID // the process that reads
	Rows  int64     // staged so far, twins and repeats included
}

// ErrStagedLost says that staged rows are not all there any more: Postgres empties their table when it recovers from a
// crash. The window must be read again.
var ErrStagedLost = errors.New("rows that were staged are gone")

// StageParticipants keeps rows of a window that is still being read, and counts them.
func StageParticipants(ctx context.Context, c Copier, bridge string, reading *Reading, rows []Participant) error {
	columns := []string{
		"bridge", "reading", "owner", "participant", "person", "email", "institution_id", "event_access_code", "event_title",
		"first_name", "last_name", "name_badge_link", "recording_link", "recording_id", "recording_date", "attributes", "content",
	}
	n, err := c.CopyFrom(ctx, pgx.Identifier{"staged_participants"}, columns, pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) {
		p := rows[i]
		return []any{
			bridge, reading.ID, reading.Owner, p.ID, p.Person, p.Email, p.InstitutionID, p.EventAccessCode, p.EventTitle,
			p.FirstName, p.LastName, p.NameBadgeLink, p.RecordingLink, p.RecordingID, p.RecordingDate, p.Attributes, p.Content,
		}, nil
	}))
	if err != nil {
		return fmt.Errorf("stage participants: %w", err)
	}
	reading.Rows += n
	return nil
}

// Bringing is what brings rows.
type Bringing struct {
	By    uuid.UUID  // the run, or the question about people
	All   bool       // it should bring all rows there are (of those asked about): rows that are as they were are noted as seen
	Found *time.Time // it is no window: what it brings new or changed, windows should have brought, or will; on NameCoach's clock
}

// StoreStaged makes the rows of a reading count and says how many were new or changed. It runs in the transaction that
// moves the cursor. Where rows of one reading have the same identity, the one with a recording counts, then the one with
// the smallest content, so that every reading of them comes to the same. ErrStagedLost: the reading is not whole any more.
func StoreStaged(ctx context.Context, q Querier, bridge string, reading Reading, b Bringing) (changed int64, err error) {
	var there int64
	if err := q.QueryRow(ctx, `SELECT count(*) FROM staged_participants WHERE bridge = $1 AND reading = $2`, bridge, reading.ID).Scan(&there); err != nil {
		return 0, fmt.Errorf("count staged participants: %w", err)
	}
	if there != reading.Rows {
		return 0, fmt.Errorf("%w: %d of %d", ErrStagedLost, reading.Rows-there, reading.Rows)
	}
	if there == 0 {
		return 0, nil
	}
	tag, err := q.Exec(ctx, `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title,
			first_name, last_name, name_badge_link, recording_link, recording_id, recording_date, attributes, content, created_run, seen_run, doubt_due, found_at, changed_at)
		SELECT DISTINCT ON (participant) bridge, participant, person, email, institution_id, event_access_code, event_title,
			first_name, last_name, name_badge_link, recording_link, recording_id, recording_date, attributes, content, $3::uuid, $3::uuid, NOT $4::boolean, $5::timestamptz, clock_timestamp()
		FROM staged_participants WHERE bridge = $1 AND reading = $2 ORDER BY participant, recording_link = '', content, email
		ON CONFLICT (bridge, participant) DO UPDATE SET person = EXCLUDED.person, email = EXCLUDED.email,
			institution_id = EXCLUDED.institution_id, event_access_code = EXCLUDED.event_access_code, event_title = EXCLUDED.event_title,
			first_name = EXCLUDED.first_name, last_name = EXCLUDED.last_name, name_badge_link = EXCLUDED.name_badge_link,
			recording_link = EXCLUDED.recording_link, recording_id = EXCLUDED.recording_id, recording_date = EXCLUDED.recording_date,
			attributes = EXCLUDED.attributes, content = EXCLUDED.content, changed_at = EXCLUDED.changed_at, link_due = true, doubt_due = EXCLUDED.doubt_due,
			missing_since = NULL, replaced = false, absences = 0, seen_run = EXCLUDED.seen_run, seen_at = now(),
			-- what is there again as it was had not changed, and what spoke for nobody may have changed while nobody was shown it: no window had to bring it
			found_at = CASE WHEN participants.replaced THEN NULL WHEN participants.content <> EXCLUDED.content OR participants.email <> EXCLUDED.email THEN EXCLUDED.found_at ELSE participants.found_at END
		WHERE participants.content <> EXCLUDED.content OR participants.missing_since IS NOT NULL
			OR participants.email <> EXCLUDED.email -- spelled otherwise: it is asked for in NameCoach's own spelling`, bridge, reading.ID, b.By, b.All, b.Found)
	if err != nil {
		return 0, fmt.Errorf("store participants: %w", err)
	}
	if b.All {
		_, err := q.Exec(ctx, `UPDATE participants p SET seen_run = $3, seen_at = now() FROM staged_participants s
			WHERE s.bridge = $1 AND s.reading = $2 AND p.bridge = $1 AND p.participant = s.participant AND p.seen_run IS DISTINCT FROM $3`, bridge, reading.ID, b.By)
		if err != nil {
			return 0, fmt.Errorf("note who was seen: %w", err)
		}
	}
	if b.Found == nil {
		// What a search had brought first has come by itself now: no window has missed it.
		_, err := q.Exec(ctx, `UPDATE participants p SET found_at = NULL FROM staged_participants s
			WHERE p.bridge = $1 AND p.found_at IS NOT NULL AND s.bridge = $1 AND s.reading = $2 AND s.participant = p.participant`, bridge, reading.ID)
		if err != nil {
			return 0, fmt.Errorf("note who came by a window: %w", err)
		}
	}
	return tag.RowsAffected(), DropStaged(ctx, q, bridge, reading)
}

// CountLate counts the rows that a search has brought before a time up to which, less the lookback, windows have been read
// since, and that none of them has brought: the windows have missed them. Where there are some the lookback is widened
// to at least twice what it was, up to a day. A row that is missing is only forgotten: no window could bring it. With counts
// false all are: the windows do not go back to the beginning, and the rows may be from before. What somebody changes at the moment is left to the
// next.
func CountLate(ctx context.Context, q Querier, bridge string, before time.Time, lookback time.Duration, counts bool) (late int64, err error) {
	err = q.QueryRow(ctx, `WITH passed AS (UPDATE participants SET found_at = NULL WHERE bridge = $1 AND participant = ANY(ARRAY(
			SELECT participant FROM participants WHERE bridge = $1 AND found_at < $2 FOR UPDATE SKIP LOCKED)) RETURNING missing_since)
		SELECT count(*) FROM passed WHERE missing_since IS NULL`, bridge, before).Scan(&late)
	if err != nil {
		return 0, fmt.Errorf("count rows that windows have missed: %w", err)
	}
	if late == 0 || !counts {
		return 0, nil
	}
	_, err = q.Exec(ctx, `UPDATE bridges SET late_found = late_found + $2, widened = $3, widened_at = now() WHERE bridge = $1`,
		bridge, late, min(2*lookback, 24*time.Hour))
	if err != nil {
		return 0, fmt.Errorf("widen the lookback: %w", err)
	}
	return late, nil
}

// DropStaged forgets the rows of a reading that does not count, of readings whose process is gone, and of those of yesterday: none takes a day.
func DropStaged(ctx context.Context, q Querier, bridge string, reading Reading) error {
	if _, err := q.Exec(ctx, `DELETE FROM staged_participants WHERE bridge = $1 AND reading = $2`, bridge, reading.ID); err != nil {
		return fmt.Errorf("drop staged participants: %w", err)
	}
	// What is nobody's, others may be dropping, too.
	_, err := q.Exec(ctx, `DELETE FROM staged_participants WHERE ctid = ANY(ARRAY(SELECT ctid FROM staged_participants s
		WHERE bridge = $1 AND (staged_at < now() - interval '1 day' OR staged_at < now() - interval '1 hour' AND NOT `+fmt.Sprintf(liveOwner, "s.owner")+`)
		FOR UPDATE SKIP LOCKED))`, bridge)
	if err != nil {
		return fmt.Errorf("drop staged participants: %w", err)
	}
	return nil
}

// JoinStaged makes the rows of one reading part of another.
func JoinStaged(ctx context.Context, q Querier, bridge string, from Reading, into *Reading) error {
	_, err := q.Exec(ctx, `UPDATE staged_participants SET reading = $3 WHERE bridge = $1 AND reading = $2`, bridge, from.ID, into.ID)
	if err != nil {
		return fmt.Errorf("join staged participants: %w", err)
	}
	into.Rows += from.Rows
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

// Moment is a time that every row stored before it is older than, and every row stored after it younger. Run it in a
// transaction of its own.
func Moment(ctx context.Context, tx pgx.Tx, bridge string) (at time.Time, err error) {
	if err := LockParticipants(ctx, tx, bridge); err != nil {
		return at, err
	}
	if err := tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&at); err != nil {
		return at, fmt.Errorf("read the time: %w", err)
	}
	return at, nil
}

// PersonKeys is what links one person: the distinct keys of all its participants, and a link made by hand.
type PersonKeys struct {
	Person         string
	InstitutionIDs []string
	Due            bool
	ChangedAt      *time.Time // when what is due last changed; nil: nothing is due
	Hand           int64      // 0: none
	WasUser        int64      // the user linked now, 0: none
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
			bool_or(p.link_due) AS due, max(p.changed_at) FILTER (WHERE p.link_due) AS changed_at,
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

// orEmpty makes a slice that is nil one that Postgres does not take for unknown.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
