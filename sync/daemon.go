package sync

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"namebridge/state"
)

// Daemon keeps one bridge true for as long as it serves: it takes part in all work on it, and starts what is due. Any
// number of processes may serve the same bridge.
type Daemon struct {
	bridge *Bridge

	mu      sync.Mutex
	worker  *worker // nil: none at the moment
	problem error   // why there is none
	turn    time.Time
}

// NewDaemon makes a daemon of a bridge. It does nothing before Serve.
func NewDaemon(b *Bridge) *Daemon {
	return &Daemon{bridge: b, problem: errors.New("it is starting"), turn: time.Now()}
}

const (
	// restartFirst and restartMost are the pauses before a daemon takes part again that had to give up.
	restartFirst, restartMost = 500 * time.Millisecond, 15 * time.Second
	// stalledAfter is how long a job may not come forward before the process counts as stalled: longer than a server may have
	// us wait, and try again.
	stalledAfter = 20 * time.Minute
	// turnWithin is how long the loop that starts what is due may take for one turn.
	turnWithin = time.Minute
)

// Serve works until ctx ends; then what was sent is finished, and everything else is given back. Where the lease is lost or
// the database is away, nothing is written; it takes part again by itself, as another process would.
func (d *Daemon) Serve(ctx context.Context) error {
	delays := backoff.NewExponentialBackOff()
	delays.InitialInterval, delays.MaxInterval = restartFirst, restartMost
	for again := false; ctx.Err() == nil; again = true {
		began := time.Now()
		err := d.session(ctx, again)
		if ctx.Err() != nil {
			return err
		}
		if time.Since(began) > restartMost {
			delays.Reset()
		}
		d.set(nil, err)
		d.bridge.Log.Error("took no part in the work for a moment", "bridge", d.bridge.Name, "problem", err)
		_ = pause(ctx, delays.NextBackOff()) // the loop looks whether it was cut short
	}
	return nil
}

func (d *Daemon) set(w *worker, problem error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.worker, d.problem, d.turn = w, problem, time.Now()
}

// session takes part until ctx ends, or the lease does. again: it did before, or tried to.
func (d *Daemon) session(ctx context.Context, again bool) error {
	start, cancel := context.WithTimeout(ctx, turnWithin)
	defer cancel()
	w, err := startWorker(start, d.bridge, serving)
	if err != nil {
		return err
	}
	if err := errors.Join(state.NoteServing(start, w.db, w.b.Name, w.owner), w.noteSchedules(start)); err != nil {
		return errors.Join(err, w.stop(ctx))
	}
	d.set(w, nil)
	if again {
		d.bridge.Log.Info("takes part in the work again", "bridge", d.bridge.Name)
	}
	for {
		look, cancel := context.WithTimeout(ctx, heartbeatEvery*2)
		again, err := w.fire(look)
		cancel()
		if err != nil && ctx.Err() == nil {
			w.log.Warn("could not see what is due", "bridge", d.bridge.Name, "problem", err)
		}
		d.mu.Lock()
		d.turn = time.Now()
		d.mu.Unlock()
		timer := time.NewTimer(min(max(again, 10*time.Millisecond), heartbeatEvery))
		select {
		case <-timer.C:
			continue
		case <-w.over.Done():
			err = errLease
		case <-ctx.Done():
			err = nil
		}
		timer.Stop()
		d.set(nil, errors.New("it is stopping"))
		return errors.Join(err, w.stop(ctx))
	}
}

// Ready says why the daemon takes no part in the work at the moment; nil where it does and the database answers.
func (d *Daemon) Ready(ctx context.Context) error {
	d.mu.Lock()
	w, problem := d.worker, d.problem
	d.mu.Unlock()
	if w == nil {
		return fmt.Errorf("bridge %s: %w", d.bridge.Name, problem)
	}
	if !w.alive() {
		return fmt.Errorf("bridge %s: %w", d.bridge.Name, errLease)
	}
	_, err := state.Now(ctx, d.bridge.DB)
	return err
}

// Stalled says that the daemon does not come forward any more although it lives: only a restart can help.
func (d *Daemon) Stalled() error {
	d.mu.Lock()
	w, turn := d.worker, d.turn
	d.mu.Unlock()
	if late := time.Since(turn); late > turnWithin*2 {
		return fmt.Errorf("bridge %s: has not looked for %v what is due", d.bridge.Name, late.Round(time.Second))
	}
	if w == nil {
		return nil
	}
	if late := w.stalled(); late > stalledAfter {
		return fmt.Errorf("bridge %s: a job has not come forward for %v", d.bridge.Name, late.Round(time.Second))
	}
	return nil
}
