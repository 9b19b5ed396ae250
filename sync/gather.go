package sync

import (
	"context"
	"sync"
	"time"
)

// gather carries out many people's statements as one: what comes in while one is under way goes with the next. Each
// caller waits until its own is done, so that what must be on disk is.
type gather[T any] struct {
	do   func(context.Context, []T) error
	base context.Context // what is under way ends with it

	mu      sync.Mutex
	waiting []waiter[T]
	running bool
}

type waiter[T any] struct {
	value T
	done  chan error
}

// gatherTimeout bounds one statement: callers have no deadline of their own, since what they have sent must be settled.
const gatherTimeout = 30 * time.Second

// Do has value carried out, along with others, and returns what came of it.
func (g *gather[T]) Do(value T) error {
	w := waiter[T]{value, make(chan error, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, w)
	if !g.running {
		g.running = true
		go g.run()
	}
	g.mu.Unlock()
	return <-w.done
}

func (g *gather[T]) run() {
	for {
		g.mu.Lock()
		batch := g.waiting
		g.waiting = nil
		if len(batch) == 0 {
			g.running = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		values := make([]T, len(batch))
		for i, w := range batch {
			values[i] = w.value
		}
		ctx, cancel := context.WithTimeout(g.base, gatherTimeout)
		err := g.do(ctx, values)
		cancel()
		for _, w := range batch {
			w.done <- err
		}
	}
}
