package state

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// KnownPerson is somebody to ask NameCoach about, in a spelling that it uses itself.
type KnownPerson struct {
	Person        string
	Email         string
	InstitutionID string // where there is no address
}

// NextLinked gives the people of up to limit person keys after the given one, in order, once for each spelling of their address (with
// none where no row of them is left): those who are linked, and those who have rows that speak for nobody. Such rows may be there again as
// they were, with their old update time, when an event is reopened or a source is whole again: no window brings them. They are asked for
// as long as housekeeping keeps them.
func NextLinked(ctx context.Context, q Querier, bridge, after string, limit int) ([]KnownPerson, error) {
	// Each branch has an order and a limit of its own, so that an index serves it.
	ps, err := collect[KnownPerson](q.Query(ctx, `WITH next AS (
			(SELECT person FROM links WHERE bridge = $1 AND person > $2 ORDER BY person LIMIT $3)
			UNION (SELECT DISTINCT person FROM participants WHERE bridge = $1 AND person > $2 AND missing_since IS NOT NULL AND replaced ORDER BY person LIMIT $3)
			ORDER BY person LIMIT $3)
		SELECT DISTINCT next.person, coalesce(p.email, '') AS email, CASE WHEN p.email = '' THEN p.institution_id ELSE '' END AS institution_id
		FROM next LEFT JOIN participants p ON p.bridge = $1 AND p.person = next.person
		ORDER BY next.person`, bridge, after, limit))
	if err != nil {
		return nil, fmt.Errorf("read people to ask about: %w", err)
	}
	return ps, nil
}

// NotSeenSince gives those of people who have rows that nothing has shown since a time, once for each spelling.
func NotSeenSince(ctx context.Context, q Querier, bridge string, people []string, since time.Time) ([]KnownPerson, error) {
	ps, err := collect[KnownPerson](q.Query(ctx, `SELECT DISTINCT person, email, CASE WHEN email = '' THEN institution_id ELSE '' END AS institution_id
		FROM participants WHERE bridge = $1 AND person = ANY($2) AND NOT replaced AND seen_at < $3 ORDER BY person`, bridge, people, since))
	if err != nil {
		return nil, fmt.Errorf("read people who were not shown: %w", err)
	}
	return ps, nil
}

// NoteCounted notes people whom a census has a whole answer about. Run it under LockParticipants, in the transaction that
// stores the answer.
func NoteCounted(ctx context.Context, q Querier, bridge string, run uuid.UUID, people []string) error {
	_, err := q.Exec(ctx, `UPDATE participants SET asked_run = $2 WHERE bridge = $1 AND person = ANY($3) AND NOT replaced`, bridge, run, people)
	if err != nil {
		return fmt.Errorf("note people that a census has asked about: %w", err)
	}
	return nil
}

// CensusCounts is what a complete census came to.
type CensusCounts struct {
	Asked  int64 // rows of people with a whole answer
	Absent int64 // of these, not shown
	Gone   int64 // of these, not shown in enough censuses in a row: they speak for nobody now
}

// ConcludeCensus counts, for the rows of everybody whom the census has a whole answer about, in how many censuses in a row
// they were not shown, and silences those that reach confirmations: their users are to be decided on. began is the census's
// beginning: what was seen since, by whatever means, is there. Run it under LockParticipants.
func ConcludeCensus(ctx context.Context, q Querier, bridge string, run uuid.UUID, began time.Time, confirmations int) (CensusCounts, error) {
	var c CensusCounts
	err := q.QueryRow(ctx, `WITH asked AS (SELECT participant, seen_at < $3 AS absent FROM participants WHERE bridge = $1 AND asked_run = $2 AND NOT replaced),
		counted AS (UPDATE participants p SET absences = CASE WHEN asked.absent THEN p.absences + 1 ELSE 0 END,
				missing_since = CASE WHEN asked.absent THEN coalesce(p.missing_since, now()) ELSE p.missing_since END,
				replaced = asked.absent AND p.absences + 1 >= $4, link_due = p.link_due OR asked.absent AND p.absences + 1 >= $4
			FROM asked WHERE p.bridge = $1 AND p.participant = asked.participant AND (asked.absent OR p.absences > 0)
			RETURNING p.replaced)
		SELECT (SELECT count(*) FROM asked), (SELECT count(*) FROM asked WHERE absent), (SELECT count(*) FROM counted WHERE replaced)`,
		bridge, run, began, confirmations).Scan(&c.Asked, &c.Absent, &c.Gone)
	if err != nil {
		return c, fmt.Errorf("conclude census %s: %w", run, err)
	}
	return c, silence(ctx, q, bridge)
}

// UnaskedUser is a user about whom NameCoach was never asked.
type UnaskedUser struct {
	UserID     int64
	Email      string // in NameCoach's own spelling where that is known, else in BLN's; empty: the user name is no address
	ExternalID string
}

// NextUnasked gives up to limit users after the given one whose keys NameCoach was never asked about, in order.
func NextUnasked(ctx context.Context, q Querier, bridge string, after int64, limit int) ([]UnaskedUser, error) {
	us, err := collect[UnaskedUser](q.Query(ctx, `SELECT d.user_id, d.external_id,
			CASE WHEN d.email LIKE '%@%' THEN coalesce((SELECT p.email FROM participants p WHERE p.bridge = $1 AND p.person = 'email:' || d.email AND p.email <> '' LIMIT 1), d.username)
				ELSE '' END AS email
		FROM directory_users d WHERE d.bridge = $1 AND d.user_id > $2 AND d.asked_at IS NULL AND d.gone_at IS NULL ORDER BY d.user_id LIMIT $3`, bridge, after, limit))
	if err != nil {
		return nil, fmt.Errorf("read users that were never asked about: %w", err)
	}
	return us, nil
}

// NoteAsked notes that NameCoach was asked about users; nil: that all of its rows have been read, so that nobody needs to
// be asked about.
func NoteAsked(ctx context.Context, q Querier, bridge string, users []int64) error {
	_, err := q.Exec(ctx, `WITH `+inOrderWhere(`bridge = $1 AND asked_at IS NULL AND ($2::bigint[] IS NULL OR user_id = ANY($2))`)+`
		UPDATE directory_users d SET asked_at = now() FROM locked WHERE d.bridge = $1 AND d.user_id = locked.user_id`, bridge, users)
	if err != nil {
		return fmt.Errorf("note users that were asked about: %w", err)
	}
	return nil
}
