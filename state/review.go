package state

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// The rules of links that people make. A released one stands until the rules have decided anew: a user whose person changes
// is then known. Where they name nobody it stays with no user: what the person has said that is not the user's is taken from there.
const (
	LinkedByHand = "hand"
	LinkReleased = "released"
)

// ErrGone says that a user has left the directory.
var ErrGone = errors.New("no longer in the directory")

// Who is what somebody may be called by. What is empty calls nobody.
type Who struct {
	Person string // exactly this person, by key
	UserID int64
	Email  string // folded; a person's or a user's
	ID     string // a person's institution id, a user's externalId
}

// FoundPerson is a person on the NameCoach side, and the link that stands.
type FoundPerson struct {
	Person     string
	Rows       int   // participants that speak for this person
	UserID     int64 // 0: no link
	Rule       string
	LinkReason string // of a link made by hand
	LinkedAt   *time.Time
}

// FoundUser is a directory user, whether or not it is there still.
type FoundUser struct {
	UserID   int64
	Username string
	GoneAt   *time.Time
}

// Found is everybody whom Who may mean, at most FoundLimit of each.
type Found struct {
	People []FoundPerson
	Users  []FoundUser
	Holds  []ListedHold // of these people, these users, and the users that these people are linked to
}

// FoundLimit is how many people, users and holds Find names at most: one institution id may be everybody's.
const FoundLimit = 20

// Find looks up whom somebody means. An address that is a person's own means that person alone, even where it is an
// institution id, too.
func Find(ctx context.Context, q Querier, bridge string, who Who) (f Found, err error) {
	fail := func(err error) (Found, error) {
		return Found{}, fmt.Errorf("look somebody up in bridge %s: %w", bridge, err)
	}
	keys := []string{}
	if who.Person != "" {
		keys = append(keys, who.Person)
	}
	if who.Email != "" {
		keys = append(keys, "email:"+who.Email)
	}
	const known = `SELECT n.person, l.user_id, l.rule, l.reason AS link_reason, l.linked_at,
			(SELECT count(*) FROM participants p WHERE p.bridge = $1 AND p.person = n.person AND NOT p.replaced) AS rows
		FROM n LEFT JOIN links l ON l.bridge = $1 AND l.person = n.person`
	people := func(with string, arg any) ([]FoundPerson, error) {
		return collect[FoundPerson](q.Query(ctx, `WITH n AS (`+with+`), k AS (`+known+`)
			SELECT person, rows, coalesce(user_id, 0) AS user_id, coalesce(rule, '') AS rule, coalesce(link_reason, '') AS link_reason, linked_at
			FROM k ORDER BY person LIMIT $3`, bridge, arg, FoundLimit))
	}
	if len(keys) > 0 {
		if f.People, err = people(`SELECT person FROM unnest($2::text[]) AS person WHERE EXISTS (SELECT 1 FROM participants p WHERE p.bridge = $1 AND p.person = person.person)
			OR EXISTS (SELECT 1 FROM links l WHERE l.bridge = $1 AND l.person = person.person)
			OR EXISTS (SELECT 1 FROM holds h WHERE h.bridge = $1 AND h.kind = 'person' AND h.subject = person.person)`, keys); err != nil {
			return fail(err)
		}
	}
	if len(f.People) == 0 && who.ID != "" {
		if f.People, err = people(`SELECT person FROM participants WHERE bridge = $1 AND institution_id = $2
			UNION SELECT person FROM links WHERE bridge = $1 AND person = 'id:' || $2
			UNION SELECT subject FROM holds WHERE bridge = $1 AND kind = 'person' AND subject = 'id:' || $2`, who.ID); err != nil {
			return fail(err)
		}
	}
	f.Users, err = collect[FoundUser](q.Query(ctx, `WITH found AS (SELECT user_id FROM directory_users WHERE bridge = $1 AND user_id = $2
			UNION SELECT user_id FROM directory_users WHERE bridge = $1 AND gone_at IS NULL AND email <> '' AND email = $3
			UNION SELECT user_id FROM directory_users WHERE bridge = $1 AND gone_at IS NULL AND external_id <> '' AND external_id = $4)
		SELECT d.user_id, d.username, d.gone_at FROM found JOIN directory_users d ON d.bridge = $1 AND d.user_id = found.user_id
		ORDER BY d.user_id LIMIT $5`, bridge, who.UserID, who.Email, who.ID, FoundLimit))
	if err != nil {
		return fail(err)
	}
	subjects, users := []string{}, []string{}
	for _, p := range f.People {
		subjects = append(subjects, p.Person)
		if p.UserID != 0 && who.Person == "" {
			users = append(users, fmt.Sprint(p.UserID))
		}
	}
	for _, u := range f.Users {
		users = append(users, fmt.Sprint(u.UserID))
	}
	f.Holds, err = collect[ListedHold](q.Query(ctx, `WITH h AS (SELECT * FROM holds
			WHERE bridge = $1 AND (kind = 'person' AND subject = ANY($2) OR kind = 'user' AND subject = ANY($3))
			ORDER BY since DESC, kind, subject LIMIT $4) `+listHolds, bridge, subjects, users, FoundLimit))
	if err != nil {
		return fail(err)
	}
	return f, nil
}

// LinkByHand joins all participants of a person to a user: no rule decides on them any more, and the person is no longer held.
// Person and users, the former one too, are due to be looked at. It returns the link that stood before, and how many other
// people are linked to the user. Run it under LockParticipants. ErrNotFound: no such user was ever listed; ErrGone: it has left.
func LinkByHand(ctx context.Context, tx pgx.Tx, bridge, person string, user int64, reason string) (was FoundPerson, others int, err error) {
	fail := func(err error) (FoundPerson, int, error) {
		return FoundPerson{}, 0, fmt.Errorf("join a person to user %d of bridge %s: %w", user, bridge, err)
	}
	if was, err = linkOf(ctx, tx, bridge, person); err != nil {
		return fail(err)
	}
	users, err := collect[FoundUser](tx.Query(ctx, `SELECT user_id, username, gone_at FROM directory_users
		WHERE bridge = $1 AND user_id = ANY($2) ORDER BY user_id FOR UPDATE`, bridge, []int64{was.UserID, user}))
	if err != nil {
		return fail(err)
	}
	err = ErrNotFound
	for _, u := range users {
		switch {
		case u.UserID != user:
		case u.GoneAt != nil:
			err = ErrGone
		default:
			err = nil
		}
	}
	if err != nil {
		return fail(err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO links (bridge, person, user_id, rule, reason) VALUES ($1, $2, $3, 'hand', $4)
		ON CONFLICT (bridge, person) DO UPDATE SET user_id = EXCLUDED.user_id, rule = EXCLUDED.rule, reason = EXCLUDED.reason,
			linked_at = CASE WHEN (links.user_id, links.rule) = (EXCLUDED.user_id, EXCLUDED.rule) THEN links.linked_at ELSE now() END`,
		bridge, person, user, forPeople(reason)); err != nil {
		return fail(err)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM holds WHERE bridge = $1 AND kind = 'person' AND subject = $2`, bridge, person); err != nil {
		return fail(err)
	}
	if err := lookAgain(ctx, tx, bridge, person, user, was.UserID); err != nil {
		return fail(err)
	}
	err = tx.QueryRow(ctx, `SELECT count(*) FROM links WHERE bridge = $1 AND user_id = $2 AND person <> $3`, bridge, user, person).Scan(&others)
	if err != nil {
		return fail(err)
	}
	return was, others, nil
}

// ReleaseLink gives a person who was linked by hand back to the rules, and returns the link as it was. It stands until they have
// decided. Run it under LockParticipants. ErrNotFound: the person is not linked by hand.
func ReleaseLink(ctx context.Context, tx pgx.Tx, bridge, person string) (was FoundPerson, err error) {
	fail := func(err error) (FoundPerson, error) {
		return FoundPerson{}, fmt.Errorf("release a link of bridge %s: %w", bridge, err)
	}
	if was, err = linkOf(ctx, tx, bridge, person); err != nil {
		return fail(err)
	}
	if was.Rule != LinkedByHand {
		return fail(ErrNotFound)
	}
	if _, err := tx.Exec(ctx, `UPDATE links SET rule = $3, reason = NULL, linked_at = now() WHERE bridge = $1 AND person = $2`, bridge, person, LinkReleased); err != nil {
		return fail(err)
	}
	if err := lookAgain(ctx, tx, bridge, person, was.UserID); err != nil {
		return fail(err)
	}
	return was, nil
}

// linkOf locks the link of a person, where there is one.
func linkOf(ctx context.Context, tx pgx.Tx, bridge, person string) (FoundPerson, error) {
	was, err := one[FoundPerson](tx.Query(ctx, `SELECT person, 0::bigint AS rows, user_id, rule, coalesce(reason, '') AS link_reason, linked_at
		FROM links WHERE bridge = $1 AND person = $2 FOR UPDATE`, bridge, person))
	if errors.Is(err, ErrNotFound) {
		return FoundPerson{Person: person}, nil
	}
	return was, err
}

// lookAgain makes a person due to be linked, and users due to be decided on.
func lookAgain(ctx context.Context, q Querier, bridge, person string, users ...int64) error {
	if _, err := q.Exec(ctx, `UPDATE participants SET link_due = true WHERE bridge = $1 AND person = $2 AND NOT replaced AND NOT link_due`, bridge, person); err != nil {
		return err
	}
	_, err := q.Exec(ctx, `WITH `+inOrder+` UPDATE directory_users d SET decide_due = true FROM locked WHERE d.bridge = $1 AND d.user_id = locked.user_id`, bridge, users)
	return err
}
