package promtest

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

var errNotYet = errors.New("not yet")

func TestWhoStandsStillPastTheDeadlineLooksOnceMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		if err := await(t.Context(), time.Second, "it is so", func() error {
			if looks++; looks > 1 {
				return nil
			}
			time.Sleep(time.Hour)
			return errNotYet
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatDoesNotComeAboutIsToldAtTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := await(t.Context(), time.Second, "it is so", func() error { return errNotYet })
		if took := time.Since(began); !errors.Is(err, errNotYet) || took != time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}
