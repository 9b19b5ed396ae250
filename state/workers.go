package state

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/google/uuid"
)

// Lease is how long, in seconds, a process is believed alive after its last heartbeat.
const Lease = 12

// liveOwner is the condition that the claim or run of owner column %s is held by a live process.
var liveOwner = `EXISTS (SELECT 1 FROM workers w WHERE w.bridge = $1 AND w.owner = %s AND w.heartbeat_at > now() - make_interval(secs => ` + strconv.Itoa(Lease) + `))`

// Heartbeat says that the process owner is alive, and forgets processes that have been silent for a day.
func Heartbeat(ctx context.Context, q Querier, bridge string, owner uuid.UUID) error {
	host, _ := os.Hostname() // only for people to read
	_, err := q.Exec(ctx, `WITH old AS (DELETE FROM workers WHERE bridge = $1 AND heartbeat_at < now() - interval '1 day')
		INSERT INTO workers (bridge, owner, host, heartbeat_at) VALUES ($1, $2, $3, now())
		ON CONFLICT (bridge, owner) DO UPDATE SET heartbeat_at = now()`, bridge, owner, host)
	if err != nil {
		return fmt.Errorf("heartbeat of bridge %s: %w", bridge, err)
	}
	return nil
}

// Leave takes a process off the list: what it had claimed is free at once.
func Leave(ctx context.Context, q Querier, bridge string, owner uuid.UUID) error {
	_, err := q.Exec(ctx, `DELETE FROM workers WHERE bridge = $1 AND owner = $2`, bridge, owner)
	if err != nil {
		return fmt.Errorf("leave bridge %s: %w", bridge, err)
	}
	return nil
}
