package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/bln"
	"namebridge/state"
)

const (
	beatEvery = 2 * time.Second
	// leaseMargin is how long after its last heartbeat a process still dares to write: less than the lease, by more than clocks and pauses
	// can take away.
	leaseMargin = lease - 3*time.Second
)

// take makes this process the only one that writes to the user. A refusal is why it must not.
func (p *probe) take(ctx context.Context, organization int64) (refusal *Finding, err error) {
	refuse := func(why, cure string) {
		f := p.finding(Problem, cure, "nothing was written to user %d: %s", p.user, why)
		refusal = &f
	}
	p.beat.Store(time.Now().UnixNano())
	host, _ := os.Hostname() // only for people to read
	err = state.InTx(ctx, p.db, func(tx pgx.Tx) error {
		refusal = nil
		b, err := state.EnsureBridge(ctx, tx, p.bridge, organization)
		if other, ok := errors.AsType[*state.OtherOrganizationError](err); ok {
			refuse(other.Error(), "correct BLN_ORGANIZATION_ID or DATABASE_URL; namebridge doctor --bridge "+p.bridge+" says more")
			return nil
		}
		switch {
		case err != nil:
			return err
		case b.HaltedAt != nil:
			refuse("the bridge is halted", "look into it; then: namebridge resume --bridge "+p.bridge+" --reason \"…\"")
			refusal.Stopped = true
			return nil
		}
		// A user that no list has shown yet gets a row that says nothing of the person, and that nobody is linked to: it holds the claim,
		// and leads whoever looks into open journal entries to this one.
		_, err = tx.Exec(ctx, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, gone_at) VALUES ($1, $2, '', '', '', 0, now())
			ON CONFLICT DO NOTHING`, p.bridge, p.user)
		if err != nil {
			return err
		}
		var live, open bool
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM workers w
					WHERE w.bridge = $1 AND w.owner = d.claim_owner AND w.heartbeat_at > now() - make_interval(secs => $3)),
				EXISTS (SELECT 1 FROM journal j WHERE j.bridge = $1 AND j.user_id = $2 AND j.state = 'sending')
			FROM directory_users d WHERE d.bridge = $1 AND d.user_id = $2 FOR UPDATE`, p.bridge, p.user, state.Lease).Scan(&live, &open)
		switch {
		case err != nil:
			return err
		case live:
			refuse("another process is writing to this user", "run it again in a minute")
			return nil
		case open:
			refuse("the outcome of an earlier write to this user is not known yet",
				"namebridge backfill --bridge "+p.bridge+" looks into it; then run it again")
			return nil
		}
		if _, err := tx.Exec(ctx, `INSERT INTO workers (bridge, owner, host, heartbeat_at) VALUES ($1, $2, $3, now())`, p.bridge, p.owner, host); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `UPDATE directory_users SET claim_owner = $3, fence = fence + 1 WHERE bridge = $1 AND user_id = $2 RETURNING fence`,
			p.bridge, p.user, p.owner).Scan(&p.fence)
	})
	return refusal, err
}

// keepAlive beats until it is stopped. A lease that has lapsed is lost for good.
func (p *probe) keepAlive(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			begun := time.Now()
			beat, end := context.WithTimeout(ctx, beatEvery)
			tag, err := p.db.Exec(beat, `UPDATE workers SET heartbeat_at = now()
				WHERE bridge = $1 AND owner = $2 AND heartbeat_at > now() - make_interval(secs => $3)`, p.bridge, p.owner, state.Lease)
			end()
			switch {
			case err != nil:
			case tag.RowsAffected() == 0 || !p.alive():
				p.beat.Store(0)
				return
			default:
				p.beat.Store(begun.UnixNano())
			}
		}
	}()
	return func() { cancel(); <-done }
}

// alive says whether this process may still believe that the user is its own. The clock on the wall, unlike the monotonic one, goes on
// while a machine sleeps.
func (p *probe) alive() bool { return time.Since(time.Unix(0, p.beat.Load())) < leaseMargin }

// remains is what a probe's run keeps of it.
type remains struct {
	User      int64  `json:"user"`
	Semantics string `json:"semantics,omitempty"`
	Left      bool   `json:"left"` // its keys may still stand in otherInfo
}

// journal puts the before-image on disk, with a run that says what is under way. Nothing may be sent without it.
func (p *probe) journal(ctx context.Context, before bln.OtherInfo) error {
	counts, err := json.Marshal(remains{User: p.user, Left: true})
	if err != nil {
		return err
	}
	var entry int64
	err = state.InTx(ctx, p.db, func(tx pgx.Tx) error {
		// Ended from the start: nobody is to go on with it.
		if _, err := tx.Exec(ctx, `INSERT INTO runs (bridge, run, kind, status, ended_at, counts, error)
			VALUES ($1, $2, 'probe', 'failed', now(), $3, 'cut off')`, p.bridge, p.run, counts); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `INSERT INTO journal (bridge, run, user_id, fence, action, state, before)
			SELECT $1, $2, d.user_id, d.fence, 'probe', 'sending', $5 FROM directory_users d JOIN bridges b USING (bridge)
			WHERE d.bridge = $1 AND d.user_id = $3 AND d.fence = $4 AND b.halted_at IS NULL RETURNING entry`,
			p.bridge, p.run, p.user, p.fence, before.JSON()).Scan(&entry)
		if errors.Is(err, pgx.ErrNoRows) {
			return &reasonError{"the bridge was halted, or another process has taken the user over", "namebridge status"}
		}
		return err
	})
	if err == nil {
		p.entry = entry
	}
	return err
}

// ending is what came of a probe.
type ending struct {
	entry, note string // how the journal entry ends
	run         state.RunStatus
	semantics   string // shown; "" nothing
	problem     string // for people; "" none
	damage      bool
}

// leave closes what a probe has opened, once the user is as before.
func (p *probe) leave(ctx context.Context, semantics string, problem error) error {
	e := ending{entry: state.Verified, note: "probe: put back and checked", run: state.Done, semantics: semantics}
	if !p.sent {
		e.entry, e.note = state.Unsent, "probe: nothing was sent"
	}
	if problem != nil {
		e.run, e.problem = state.Failed, p.reason(problem)
	}
	return p.close(ctx, e)
}

// close settles the journal entry, gives the user back, and notes what came of it.
func (p *probe) close(ctx context.Context, e ending) error {
	counts, err := json.Marshal(remains{User: p.user, Semantics: e.semantics, Left: e.entry == state.Damaged})
	if err != nil {
		return err
	}
	return state.InTx(ctx, p.db, func(tx pgx.Tx) error {
		if p.entry != 0 {
			if e.damage {
				err = state.CloseDamage(ctx, tx, p.bridge, p.entry, e.entry, e.note)
			} else {
				err = state.CloseEntry(ctx, tx, p.bridge, p.entry, e.entry, e.note)
			}
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `UPDATE runs SET status = $3, ended_at = now(), counts = $4, error = nullif($5, '') WHERE bridge = $1 AND run = $2`,
				p.bridge, p.run, e.run, counts, e.problem); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `UPDATE directory_users SET claim_owner = NULL WHERE bridge = $1 AND user_id = $2 AND fence = $3`, p.bridge, p.user, p.fence)
		if err != nil {
			return err
		}
		// The row that was made for the claim alone; it stays where a journal entry of unknown outcome needs it.
		if _, err := tx.Exec(ctx, `DELETE FROM directory_users d WHERE bridge = $1 AND user_id = $2 AND fence = $3 AND sweep = 0 AND gone_at IS NOT NULL
			AND username = '' AND email = '' AND external_id = ''
			AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.bridge = d.bridge AND j.user_id = d.user_id AND j.state = 'sending')`,
			p.bridge, p.user, p.fence); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM workers WHERE bridge = $1 AND owner = $2`, p.bridge, p.owner); err != nil {
			return err
		}
		return nil
	})
}
