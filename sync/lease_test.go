package sync

import (
	"testing"
	"time"
)

// A clock that was set back, or a machine that slept, must not make an old sign of life look fresh.
func TestTheTimeSinceASignOfLifeIsTheLongestThatAnyClockTells(t *testing.T) {
	t.Parallel()
	beat := time.Now()
	for name, c := range map[string]struct {
		now  time.Time
		want time.Duration
	}{
		"both clocks went on": {beat.Add(5 * time.Second), 5 * time.Second},
		"only the wall's":     {beat.Add(time.Hour).Round(0), time.Hour},
		"none":                {beat, 0},
	} {
		if got := passed(beat, c.now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
