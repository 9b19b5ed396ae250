package state

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Decided is what the rules say about one person: a link, or none.
type Decided struct {
	Person  string
	UserID  int64 // 0: no link
	Rule    string
	WasUser int64 // the user that the person was linked to before, 0: none
	Changed bool  // participants of the person changed, so its user is to be decided on again
}

// StoreDecisions writes links as decided and marks every user that gained, lost or may have to change its participants.
// The people are no longer due. Links made by hand are left alone. Who was linked by hand until somebody released that, and is
// nobody by the rules, stays so for all to see: a person has said that their voice is not that user's.
func StoreDecisions(ctx context.Context, q Querier, bridge string, ds []Decided) error {
	n := len(ds)
	people, users, rules := make([]string, n), make([]int64, n), make([]string, n)
	var touched []int64
	var linked []string // anew, or changed
	for i, d := range ds {
		people[i], users[i], rules[i] = d.Person, d.UserID, d.Rule
		if d.Changed || d.UserID != d.WasUser {
			touched = append(touched, d.UserID, d.WasUser)
			if d.UserID != 0 {
				linked = append(linked, d.Person)
			}
		}
	}
	if _, err := q.Exec(ctx, `WITH decided AS (SELECT * FROM unnest($2::text[], $3::bigint[], $4::text[]) AS t(person, user_id, rule)),
		unlinked AS (DELETE FROM links l USING decided d WHERE l.bridge = $1 AND l.person = d.person AND d.user_id = 0 AND l.rule NOT IN ('hand', 'released')),
		nobodys AS (UPDATE links l SET user_id = 0 FROM decided d WHERE l.bridge = $1 AND l.person = d.person AND d.user_id = 0 AND l.rule = 'released' AND l.user_id <> 0)
		INSERT INTO links (bridge, person, user_id, rule) SELECT $1, person, user_id, rule FROM decided WHERE user_id <> 0 AND rule <> 'hand'
		ON CONFLICT (bridge, person) DO UPDATE SET user_id = EXCLUDED.user_id, rule = EXCLUDED.rule, linked_at = now()
		WHERE links.rule <> 'hand' AND (links.user_id, links.rule) IS DISTINCT FROM (EXCLUDED.user_id, EXCLUDED.rule)`, bridge, people, users, rules); err != nil {
		return fmt.Errorf("store links: %w", err)
	}
	if _, err := q.Exec(ctx, `UPDATE participants SET link_due = false WHERE bridge = $1 AND person = ANY($2) AND link_due`, bridge, people); err != nil {
		return fmt.Errorf("store links: %w", err)
	}
	// Who shows the voice of somebody who was nobody for a while, and is somebody else's now, is linked to nobody that could tell.
	showing, err := q.Query(ctx, `SELECT d.user_id FROM participants p JOIN directory_users d ON d.bridge = $1 AND d.applied_source = p.participant
		WHERE p.bridge = $1 AND p.person = ANY($2)`, bridge, orEmpty(linked))
	if err != nil {
		return fmt.Errorf("read whose voice stands where: %w", err)
	}
	shown, err := pgx.CollectRows(showing, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("read whose voice stands where: %w", err)
	}
	touched = append(touched, shown...)
	// Who is due already is left alone, but only as the row is once its lock is had: whoever decides on it meanwhile has not seen
	// these links, and takes its being due away.
	if _, err := q.Exec(ctx, `WITH locked AS MATERIALIZED (SELECT user_id, decide_due FROM directory_users
			WHERE bridge = $1 AND user_id = ANY($2) ORDER BY user_id FOR UPDATE)
		UPDATE directory_users d SET decide_due = true FROM locked WHERE d.bridge = $1 AND d.user_id = locked.user_id AND NOT locked.decide_due`,
		bridge, touched); err != nil {
		return fmt.Errorf("store links: %w", err)
	}
	return nil
}

// DropUncounted forgets links (but those made by hand, or taken back) and holds of people who have no participant in any of events: an
// operator has narrowed the events that count. Their users are decided on anew. Run it under LockParticipants.
func DropUncounted(ctx context.Context, q Querier, bridge string, events []string) error {
	const uncounted = ` NOT EXISTS (SELECT 1 FROM participants p WHERE p.bridge = $1 AND p.person = %s AND p.event_access_code = ANY($2))`
	_, err := q.Exec(ctx, `WITH dropped AS (DELETE FROM links l WHERE l.bridge = $1 AND l.rule NOT IN ('hand', 'released') AND `+fmt.Sprintf(uncounted, "l.person")+` RETURNING user_id),
		lifted AS (DELETE FROM holds h WHERE h.bridge = $1 AND h.kind = 'person' AND `+fmt.Sprintf(uncounted, "h.subject")+`),
		`+inOrderWhere(`d.bridge = $1 AND d.user_id IN (SELECT user_id FROM dropped)`)+`
		UPDATE directory_users d SET decide_due = true FROM locked WHERE d.bridge = $1 AND d.user_id = locked.user_id`, bridge, events)
	if err != nil {
		return fmt.Errorf("drop links of events that do not count: %w", err)
	}
	return nil
}
