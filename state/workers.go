package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Lease is how long, in seconds, a process is believed alive after its last heartbeat.
const Lease = 12

const fresh = `w.heartbeat_at > now() - make_interval(secs => `

// liveOwner is the condition that owner column %s of the bridge is a live process.
var liveOwner = `EXISTS (SELECT 1 FROM workers w WHERE w.bridge = $1 AND w.owner = %s AND ` + fresh + strconv.Itoa(Lease) + `))`

// liveBridge is the condition that any process serves the bridge.
var liveBridge = `EXISTS (SELECT 1 FROM workers w WHERE w.bridge = $1 AND ` + fresh + strconv.Itoa(Lease) + `))`

// Company is who else serves a bridge.
type Company struct {
	Live   int  // processes, the one that asks included
	Recent bool // another one lives, or has died within NameCoach's period of 15 minutes: it has used some of the budget
}

// Heartbeat says that the process owner is alive and serves the bridge, forgets processes that have been silent for a
// day, and returns who else serves it.
func Heartbeat(ctx context.Context, q Querier, bridge string, owner uuid.UUID) (c Company, err error) {
	host, _ := os.Hostname() // only for people to read
	err = q.QueryRow(ctx, `WITH old AS (DELETE FROM workers WHERE bridge = $1 AND owner = ANY(ARRAY(SELECT owner FROM workers
			WHERE bridge = $1 AND owner <> $2 AND heartbeat_at < now() - interval '1 day' FOR UPDATE SKIP LOCKED))),
		beat AS (INSERT INTO workers (bridge, owner, host, heartbeat_at) VALUES ($1, $2, $3, now())
			ON CONFLICT (bridge, owner) DO UPDATE SET heartbeat_at = now())
		SELECT 1 + count(*) FILTER (WHERE `+fresh+strconv.Itoa(Lease)+`)), coalesce(bool_or(w.heartbeat_at > now() - interval '15 minutes'), false)
		FROM workers w WHERE w.bridge = $1 AND w.owner <> $2`, bridge, owner, host).Scan(&c.Live, &c.Recent)
	if err != nil {
		return c, fmt.Errorf("heartbeat of bridge %s: %w", bridge, err)
	}
	return c, nil
}

// Leave takes a process off the list: what it had claimed is free at once.
func Leave(ctx context.Context, q Querier, bridge string, owner uuid.UUID) error {
	if _, err := q.Exec(ctx, `DELETE FROM workers WHERE bridge = $1 AND owner = $2`, bridge, owner); err != nil {
		return fmt.Errorf("leave bridge %s: %w", bridge, err)
	}
	return nil
}

// NoteServing says that the process owner is a daemon: it starts what is due.
func NoteServing(ctx context.Context, q Querier, bridge string, owner uuid.UUID) error {
	tag, err := q.Exec(ctx, `UPDATE workers SET serves = true WHERE bridge = $1 AND owner = $2`, bridge, owner)
	return exactlyOne(tag, err, "note that %s serves bridge %s", owner, bridge)
}

// Replica is a process that takes part in the work on a bridge.
type Replica struct {
	Owner       uuid.UUID
	Host        string
	Since       time.Time
	HeartbeatAt time.Time
	Serves      bool // a daemon; else a one-shot command
}

// Replicas gives the live processes of a bridge.
func Replicas(ctx context.Context, q Querier, bridge string) ([]Replica, error) {
	rs, err := collect[Replica](q.Query(ctx, `SELECT owner, host, since, heartbeat_at, serves FROM workers w
		WHERE bridge = $1 AND `+fresh+strconv.Itoa(Lease)+`) ORDER BY serves DESC, since, owner`, bridge))
	if err != nil {
		return nil, fmt.Errorf("read the processes of bridge %s: %w", bridge, err)
	}
	return rs, nil
}

// RescueJobs makes jobs in the queues of a bridge available again, at once, on which nobody works any more: those of
// processes that are gone (River itself would wait for as long as a job may take), and those of owner's that are not among
// running, since the queue could not note what became of them while the database was away. A process that was only paused
// finds, when it wakes, that its lease is over. It says how many.
func RescueJobs(ctx context.Context, q Querier, bridge string, owner uuid.UUID, running []int64) (int64, error) {
	// The attempt does not count: it is no fault of the job's. Others lock jobs in orders of their own: who waits for none is in nobody's
	// way, and what somebody has now is looked at again by the next.
	tag, err := q.Exec(ctx, `UPDATE river_job SET state = 'available', attempt = greatest(attempt - 1, 0), scheduled_at = now()
		WHERE id = ANY(ARRAY(SELECT id FROM river_job WHERE state = 'running' AND split_part(queue, '_', 1) = $1 AND CASE WHEN attempted_by[array_upper(attempted_by, 1)] = $2::uuid::text
			THEN id <> ALL($3) AND attempted_at < now() - interval '10 seconds'
			ELSE NOT EXISTS (SELECT 1 FROM workers w
				WHERE w.bridge = $1 AND w.owner::text = attempted_by[array_upper(attempted_by, 1)] AND `+fresh+strconv.Itoa(Lease)+`)) END FOR UPDATE SKIP LOCKED))`, bridge, owner, orEmpty(running))
	if err != nil {
		return 0, fmt.Errorf("rescue jobs: %w", err)
	}
	return tag.RowsAffected(), nil
}

// WakeJobs makes a bridge's jobs that wait after a failure available at once: whoever starts has perhaps mended what
// was wrong. It takes no transaction: each job is locked by itself, since others lock them in orders of their own.
func WakeJobs(ctx context.Context, db *pgxpool.Pool, bridge string) error {
	rows, err := db.Query(ctx, `SELECT id FROM river_job WHERE state = 'retryable' AND split_part(queue, '_', 1) = $1`, bridge)
	if err != nil {
		return fmt.Errorf("wake jobs: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	for _, id := range ids {
		_, one := db.Exec(ctx, `UPDATE river_job SET state = 'available', scheduled_at = now() WHERE id = $1 AND state = 'retryable'`, id)
		err = errors.Join(err, one)
	}
	if err != nil {
		return fmt.Errorf("wake jobs: %w", err)
	}
	return nil
}
