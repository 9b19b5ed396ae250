package state

import (
	"context"
	"encoding/json"
	"fmt"
)

// The kinds of holds: a person on the NameCoach side, or a directory user.
const (
	HeldPerson = "person"
	HeldUser   = "user"
)

// Hold is a person or user that is not written, and why.
type Hold struct {
	Subject string // a person key, or a user id as text
	Reason  string
	Detail  string
	Users   []int64 // the users that the evidence names
	Content []byte  // see holds.content
}

// StoreHolds sets holds of one kind and lifts those of the subjects that are no longer held. A hold keeps the time since
// when it stands while its reason stays.
func StoreHolds(ctx context.Context, q Querier, bridge, kind string, holds []Hold, lifted []string) error {
	n := len(holds)
	subjects, reasons, details, users, contents := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	for i, h := range holds {
		ids := h.Users
		if ids == nil {
			ids = []int64{}
		}
		raw, err := json.Marshal(ids)
		if err != nil {
			return fmt.Errorf("store holds: %w", err)
		}
		subjects[i], reasons[i], details[i], users[i], contents[i] = h.Subject, h.Reason, forPeople(h.Detail), string(raw), h.Content
	}
	if n > 0 {
		if _, err := q.Exec(ctx, `INSERT INTO holds (bridge, kind, subject, reason, detail, users, content)
			SELECT $1, $2, s, r, d, ARRAY(SELECT jsonb_array_elements_text(u::jsonb)::bigint), c
			FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[]) AS t(s, r, d, u, c)
			ON CONFLICT (bridge, kind, subject) DO UPDATE SET reason = EXCLUDED.reason, detail = EXCLUDED.detail, users = EXCLUDED.users,
				content = EXCLUDED.content, checked_at = now(), since = CASE WHEN holds.reason = EXCLUDED.reason THEN holds.since ELSE now() END`,
			bridge, kind, subjects, reasons, details, users, contents); err != nil {
			return fmt.Errorf("store holds: %w", err)
		}
	}
	if len(lifted) > 0 {
		if _, err := q.Exec(ctx, `DELETE FROM holds WHERE bridge = $1 AND kind = $2 AND subject = ANY($3)`, bridge, kind, lifted); err != nil {
			return fmt.Errorf("lift holds: %w", err)
		}
	}
	return nil
}
