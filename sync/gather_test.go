package sync

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatComesWhileAStatementIsUnderWayGoesWithTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var batches [][]int
		g := gather[int]{base: t.Context(), do: func(_ context.Context, values []int) error {
			time.Sleep(time.Second)
			batches = append(batches, slices.Sorted(slices.Values(values)))
			return nil
		}}
		var callers sync.WaitGroup
		do := func(n int) {
			callers.Go(func() {
				if err := g.Do(n); err != nil {
					t.Error(err)
				}
			})
		}
		do(1)
		synctest.Wait()
		do(2)
		do(3)
		synctest.Wait()
		callers.Wait()
		do(4) // after all was quiet
		callers.Wait()
		if want := [][]int{{1}, {2, 3}, {4}}; !slices.EqualFunc(batches, want, slices.Equal) {
			t.Errorf("carried out %v, want %v", batches, want)
		}
	})
}

// A write may be sent when Do has returned: not before its entry is on disk, nor when that failed.
func TestEveryCallerGetsWhatBecameOfItsOwnStatement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		var done sync.Map
		is := func(n int) bool { _, ok := done.Load(n); return ok }
		g := gather[int]{base: t.Context(), do: func(_ context.Context, values []int) error {
			time.Sleep(time.Second)
			if slices.Contains(values, 13) {
				return broken
			}
			for _, v := range values {
				done.Store(v, nil)
			}
			return nil
		}}
		var callers sync.WaitGroup
		for n := range 30 {
			callers.Go(func() {
				time.Sleep(time.Duration(n) * 300 * time.Millisecond)
				err := g.Do(n)
				if err == nil && !is(n) || err != nil && (is(n) || !errors.Is(err, broken)) {
					t.Errorf("%d was told %v; carried out: %v", n, err, is(n))
				}
			})
		}
		callers.Wait()
		if !is(0) || is(13) {
			t.Error("what was carried out is not what was to be")
		}
	})
}

func TestAStatementIsBoundedAndEndsWithWhatItIsBasedOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		base, end := context.WithCancelCause(t.Context())
		g := gather[int]{base: base, do: func(ctx context.Context, _ []int) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}}
		start := time.Now()
		if err := g.Do(1); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != gatherTimeout {
			t.Errorf("after %v: %v, want a deadline after %v", time.Since(start), err, gatherTimeout)
		}
		time.AfterFunc(time.Second, func() { end(errLease) })
		start = time.Now()
		if err := g.Do(2); !errors.Is(err, errLease) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v, want that the lease is lost after a second", time.Since(start), err)
		}
	})
}
