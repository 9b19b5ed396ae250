package sync

import (
	"slices"
	"testing"
	"time"

	"namebridge/state"
)

// The last batches are counted a moment after their writes, when the run may be over already: what is shown last is what the run came to.
func TestTheLastThingShownOfARunIsWhatItHasWritten(t *testing.T) {
	t.Parallel()
	earlier := time.Now()
	for name, c := range map[string]struct {
		row  state.Run
		want int
	}{
		"it is over":           {state.Run{Status: state.Done, Counts: []byte(`{"written": 228, "cleared": 2}`)}, 230},
		"it goes on":           {state.Run{Status: state.Running}, 200},
		"more were looked at":  {state.Run{Status: state.Done, Counts: []byte(`{"written": 100}`)}, 200},
		"earlier tries' count": {state.Run{Status: state.Done, ResumedAt: &earlier, Counts: []byte(`{"written": 4000}`)}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var shown []Progress
			b := &Bridge{Progress: func(p Progress) { shown = append(shown, p) }}
			c.row.Kind, c.row.Phase, c.row.Progress = state.Backfill, string(PhaseWrite), []byte(`{"done": 150, "total": 180, "written": 200}`)
			b.show(c.row, map[Phase]bool{})
			if want := (Progress{Phase: PhaseWrite, Done: c.want, Total: 230, Over: c.row.Status == state.Done}); !slices.Equal(shown, []Progress{want}) {
				t.Errorf("%+v, want %+v", shown, want)
			}
		})
	}
}
