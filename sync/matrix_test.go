package sync_test

import (
	"fmt"
	"testing"

	"namebridge/internal/simulator"
)

// dialects are twelve servers: every combination of what a PUT does to otherInfo, what list rows carry, and whether paging is
// honoured. The other switches follow a Plackett-Burman design, so that any two of them meet in all four combinations.
func dialects() map[string]simulator.Options {
	const design = "##.###...#." // row i, switch j: place (i+j) mod 11; the twelfth row has none
	all := map[string]simulator.Options{}
	for i := range 12 {
		on := func(j int) bool { return i < 11 && design[(i+j)%11] == '#' }
		o := simulator.Options{
			Seed: uint64(i), Users: 110, MaxPerPage: 70,
			Put: simulator.PutSemantics(i % 3), ListRows: simulator.ListRows(i / 3 % 2), PagingIgnored: i/6 == 1,
			PutAnswer: simulator.PutAnswer((i + i/3) % 3),
			DropNulls: on(0), ReorderKeys: on(1), NoWrapper: on(2), MetaStrings: on(3), RecordingURLKey: on(4), ExclusiveBounds: on(5),
			OpaqueTokens: on(6), LinkHeader: on(7), ShortPages: on(8), IncludeInvited: on(9), CustomObjects: on(10), Gzip: i%2 == 0,
			OrderByID: on(3),
		}
		name := fmt.Sprintf("%s, %s rows, paging %s, answer %s",
			[]string{"replace", "shallow", "deep"}[o.Put], []string{"complete", "partial"}[o.ListRows],
			map[bool]string{true: "ignored", false: "honoured"}[o.PagingIgnored], []string{"full", "short", "stale"}[o.PutAnswer])
		all[name] = o
	}
	return all
}

// Traps 1-3, 7, 15, 23, 36-38, 43, 47, 51.
func TestEveryServerDialectEndsInTheTruth(t *testing.T) {
	t.Parallel()
	for name, o := range dialects() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, o)
			truth := w.Truth().Totals
			res := w.backfill(t)
			w.right(t)
			counted(t, res, truth)
			users, rows, changed, held := truth.Users, truth.Participants, truth.Written, truth.Held["unwritable"]
			if most := int64(rows/1000 + 30); res.Requests.NameCoach > most {
				t.Errorf("%d requests to NameCoach, want at most %d", res.Requests.NameCoach, most)
			}
			if most := int64(users/100 + 2*changed + held + 10); o.PutAnswer == simulator.Full && !o.ShortPages && res.Requests.BLN > most {
				t.Errorf("%d requests to BLN, want at most %d", res.Requests.BLN, most)
			}

			again := w.backfill(t)
			w.right(t)
			truth.Written, truth.Unchanged = 0, truth.Written+truth.Unchanged
			counted(t, again, truth)
			if puts, gets := w.asked("bln users.put"), w.asked("bln users.get"); puts+gets > 0 {
				t.Errorf("a second backfill sent %d PUTs and %d single GETs, want none", puts, gets)
			}
		})
	}
}
