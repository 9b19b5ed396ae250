package sync

import (
	"testing"

	"pgregory.net/rapid"
)

func TestTooManyClearsAreStaged(t *testing.T) {
	t.Parallel()
	g := Guard{MaxClears: 20, MaxClearPercent: 2}
	for _, c := range []struct {
		clears, linked int
		staged         bool
		why            string
	}{
		{0, 0, false, "nothing to clear"},
		{20, 20, false, "as many as are always let through, though everybody"},
		{21, 21, true, "one more, and over the share"},
		{21, 1050, false, "exactly the share"},
		{21, 1051, false, "more than the number, under the share"},
		{21, 1049, true, "just over both"},
		{2000, 100_000, false, "many, and exactly the share"},
		{2001, 100_000, true, "many, and over the share"},
		{21, 0, true, "nobody is linked any more: the source has shrunk to nothing"},
	} {
		if got := g.Stages(c.clears, c.linked); got != c.staged {
			t.Errorf("%d clears of %d linked: staged %t, want %t (%s)", c.clears, c.linked, got, c.staged, c.why)
		}
	}
	if !(Guard{}).Stages(1, 100) || (Guard{}).Stages(0, 100) {
		t.Error("a guard of nothing must stage every clear")
	}
	if (Guard{MaxClearPercent: 100}).Stages(100, 100) {
		t.Error("a guard of 100 % must let all through")
	}
}

func TestMoreClearsAreNeverLetThroughWhereFewerAreStaged(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		g := Guard{MaxClears: rapid.IntRange(0, 50).Draw(t, "number"), MaxClearPercent: rapid.Float64Range(0, 100).Draw(t, "percent")}
		clears, linked := rapid.IntRange(0, 1e6).Draw(t, "clears"), rapid.IntRange(0, 1e6).Draw(t, "linked")
		more, fewer := rapid.IntRange(0, 1000).Draw(t, "more"), rapid.IntRange(0, 1000).Draw(t, "fewer")
		if g.Stages(clears, linked) && !g.Stages(clears+more, linked) {
			t.Fatalf("%d are staged, %d are not", clears, clears+more)
		}
		if g.Stages(clears, linked) && !g.Stages(clears, max(linked-fewer, 0)) {
			t.Fatalf("of %d they are staged, of %d fewer they are not", linked, fewer)
		}
	})
}

// A directory that shrinks suddenly is an incomplete one, unless it does so twice.
func TestAListingThatShowsTooFewIsNotBelieved(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		listed, known, refused int64
		believed               bool
		why                    string
	}{
		{0, 0, 0, true, "an empty organization"},
		{1000, 0, 0, true, "the first listing"},
		{1200, 1000, 0, true, "a directory that grew"},
		{0, 20, 0, true, "as few as are always believed to be gone"},
		{0, 21, 0, false, "everybody is gone"},
		{900, 1000, 0, true, "exactly a tenth"},
		{899, 1000, 0, false, "more than a tenth"},
		{79, 100, 0, false, "more than a tenth, and more than 20"},
		{80, 100, 0, true, "more than a tenth, and 20"},
		{500, 1000, 500, true, "the same once more"},
		{500, 1000, 490, true, "nearly the same once more"},
		{500, 1000, 489, false, "another number: it is not settled"},
		{0, 1000, 0, false, "an empty listing is not confirmed by none"},
	} {
		if got := BelieveListing(c.listed, c.known, c.refused); got != c.believed {
			t.Errorf("%d listed of %d known, %d refused: believed %t, want %t (%s)", c.listed, c.known, c.refused, got, c.believed, c.why)
		}
	}
}
