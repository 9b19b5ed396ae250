package state

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The states of a journal entry.
const (
	Sending  = "sending"  // on its way: the outcome is not known yet
	Verified = "verified" // our fragment and every foreign key were seen
	Unsent   = "unsent"   // it never arrived
	Restored = "restored" // a foreign key was damaged; it was put back and checked
	Damaged  = "damaged"  // a foreign key was damaged and could not be put back: the before-image is kept
)

// Intent is a write about to be sent.
type Intent struct {
	Run            uuid.UUID
	UserID, Fence  int64
	Action         string
	Version        int64  // of what is wanted, as claimed
	Source         []byte // whose voice it is, as claimed; nil for a clear
	Before         []byte // the whole otherInfo as it was read
	BeforeFragment []byte // what of it stood under our keys; nil: nothing
	AfterFragment  []byte
	Entry          int64 // set by Journal; 0: the write must not be made
}

// Journal puts the before-images on disk. A write whose claim was taken over, which is no longer what is wanted, or whose
// bridge is halted, gets no entry and must not be made.
func Journal(ctx context.Context, q Querier, bridge string, intents []*Intent) error {
	n := len(intents)
	runs, users, fences, actions := make([]uuid.UUID, n), make([]int64, n), make([]int64, n), make([]string, n)
	before, beforeFragments, afterFragments, versions, sources := make([][]byte, n), make([][]byte, n), make([][]byte, n), make([]int64, n), make([][]byte, n)
	byUser := make(map[int64]*Intent, n)
	for i, in := range intents {
		runs[i], users[i], fences[i], actions[i] = in.Run, in.UserID, in.Fence, in.Action
		before[i], beforeFragments[i], afterFragments[i], versions[i], sources[i] = in.Before, in.BeforeFragment, in.AfterFragment, in.Version, in.Source
		byUser[in.UserID] = in
	}
	rows, err := q.Query(ctx, `INSERT INTO journal (bridge, run, user_id, fence, action, state, before, before_fragment, after_fragment, version, source)
		SELECT $1, r, u, f, a, 'sending', b, bf, af, v, s
		FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bigint[], $10::bytea[]) AS t(r, u, f, a, b, bf, af, v, s)
		JOIN directory_users d ON d.bridge = $1 AND d.user_id = u AND d.fence = f
			AND d.action = a AND d.wanted_version = v AND d.applied_version < v
		JOIN bridges ON bridges.bridge = $1 AND bridges.halted_at IS NULL
		RETURNING user_id, entry`, bridge, runs, users, fences, actions, before, beforeFragments, afterFragments, versions, sources)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var user, entry int64
		if err := rows.Scan(&user, &entry); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		byUser[user].Entry = entry
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// OpenEntry is a journalled write whose outcome is not known.
type OpenEntry struct {
	Entry         int64
	Run           uuid.UUID
	UserID        int64
	Action        string
	Fence         int64 // of the claim made to look into it
	Attempts      int   // made at the user since something last succeeded
	Age           time.Duration
	Before        []byte
	AfterFragment []byte
	Version       int64
	Source        []byte
}

// Outcome settles the work on one claimed user.
type Outcome struct {
	UserID, Fence int64
	Entry         int64  // the journal entry, 0: nothing was sent
	State         string // of the journal entry
	Note          string
	Applied       bool // the user now shows what was wanted in Version
	Version       int64
	Digest        []byte
	Source        []byte
}

// Settle closes journal entries and trims their before-images to the fragment (all but Damaged), and gives the claimed
// users back. A wish that is not the one applied stays pending, also where it was taken for fulfilled while the write was
// on its way; a user that could be written is no longer held as unwritable. Where what was applied is not what is wanted by
// now, the user is due to be decided on again: that was decided without knowing of it, and without a recording it is for the
// guard to judge. What another process has taken over is left to that.
func Settle(ctx context.Context, q Querier, bridge string, outcomes []Outcome) error {
	n := len(outcomes)
	users, fences, entries, states, notes := make([]int64, n), make([]int64, n), make([]int64, n), make([]string, n), make([]string, n)
	applied, versions, digests, sources := make([]bool, n), make([]int64, n), make([][]byte, n), make([][]byte, n)
	for i, o := range outcomes {
		users[i], fences[i], entries[i], states[i], notes[i] = o.UserID, o.Fence, o.Entry, o.State, o.Note
		applied[i], versions[i], digests[i], sources[i] = o.Applied, o.Version, o.Digest, o.Source
	}
	_, err := q.Exec(ctx, `WITH done AS (SELECT * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::boolean[], $8::bigint[], $9::bytea[], $10::bytea[])
				AS t(user_id, fence, entry, state, note, applied, version, digest, source)),
		`+inOrder+`,
		closed AS (UPDATE journal j SET state = done.state, note = nullif(done.note, ''), settled_at = now(),
				before = CASE WHEN done.state = 'damaged' THEN j.before END
			FROM done JOIN locked USING (user_id, fence) WHERE j.bridge = $1 AND j.entry = done.entry AND done.entry <> 0 AND j.state = 'sending'),
		lifted AS (DELETE FROM holds h USING done WHERE h.bridge = $1 AND h.kind = 'user' AND h.subject = done.user_id::text
			AND h.reason = 'unwritable' AND done.applied)
		UPDATE directory_users d SET claim_owner = NULL,
			decide_due = d.decide_due OR done.applied AND (d.action IS NULL OR d.wanted_digest IS DISTINCT FROM done.digest),
			applied_version = CASE WHEN NOT done.applied THEN d.applied_version
				WHEN d.action IS NULL OR d.wanted_digest IS NOT DISTINCT FROM done.digest THEN d.wanted_version
				ELSE least(done.version, d.wanted_version - 1) END,
			applied_digest = CASE WHEN done.applied THEN done.digest ELSE d.applied_digest END,
			applied_source = CASE WHEN done.applied THEN done.source ELSE d.applied_source END,
			applied_recording = CASE WHEN NOT done.applied THEN d.applied_recording WHEN done.digest IS NULL THEN false
				WHEN d.wanted_digest IS NOT DISTINCT FROM done.digest THEN d.wanted->>'recording_link' IS NOT NULL ELSE true END,
			removes = d.removes OR done.applied AND d.action IS NOT NULL AND d.wanted_digest IS DISTINCT FROM done.digest AND d.wanted->>'recording_link' IS NULL,
			applied_at = CASE WHEN done.applied THEN now() ELSE d.applied_at END,
			audit_at = CASE WHEN done.applied THEN now() + `+firstAudit+` ELSE d.audit_at END,
			listed_fragment = CASE WHEN done.applied THEN done.digest ELSE d.listed_fragment END,
			attempts = CASE WHEN done.applied THEN 0 ELSE d.attempts END,
			retry_at = CASE WHEN done.applied THEN NULL ELSE d.retry_at END,
			last_error = CASE WHEN done.applied THEN NULL ELSE d.last_error END
		FROM done JOIN locked USING (user_id) WHERE d.bridge = $1 AND d.user_id = done.user_id AND d.fence = done.fence`,
		bridge, users, fences, entries, states, notes, applied, versions, digests, sources)
	if err != nil {
		return fmt.Errorf("settle writes: %w", err)
	}
	return nil
}

// CloseEntry settles one journal entry by itself: of an earlier process, or between two tries. ErrStale: it is settled.
func CloseEntry(ctx context.Context, q Querier, bridge string, entry int64, state, note string) error {
	tag, err := q.Exec(ctx, `UPDATE journal SET state = $3, note = nullif($4, ''), settled_at = now(),
		before = CASE WHEN $3 = 'damaged' THEN before END WHERE bridge = $1 AND entry = $2 AND state = 'sending'`, bridge, entry, state, note)
	return exactlyOne(tag, err, "close journal entry %d", entry)
}

// CloseDamage settles the entry of a write that damaged foreign keys, and adds what became of the user to the reason why
// the bridge is halted.
func CloseDamage(ctx context.Context, tx pgx.Tx, bridge string, entry int64, state, became string) error {
	if _, err := tx.Exec(ctx, `UPDATE bridges SET halt_reason = concat_ws(' ', halt_reason, $2::text) WHERE bridge = $1 AND halted_at IS NOT NULL`, bridge, became); err != nil {
		return fmt.Errorf("note what became of journal entry %d: %w", entry, err)
	}
	return CloseEntry(ctx, tx, bridge, entry, state, became)
}

// CountWrites counts the users that a run has written and cleared.
func CountWrites(ctx context.Context, q Querier, bridge string, run uuid.UUID) (written, cleared int, err error) {
	err = q.QueryRow(ctx, `SELECT count(DISTINCT user_id) FILTER (WHERE action = 'write'), count(DISTINCT user_id) FILTER (WHERE action = 'clear')
		FROM journal WHERE bridge = $1 AND run = $2 AND state = 'verified'`, bridge, run).Scan(&written, &cleared)
	if err != nil {
		return 0, 0, fmt.Errorf("count writes of run %s: %w", run, err)
	}
	return written, cleared, nil
}
