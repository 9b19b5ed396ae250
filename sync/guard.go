package sync

// Guard says when clears are too many to be believed: a source that shrinks suddenly is an incomplete source.
type Guard struct {
	MaxClears       int     // this many are always let through
	MaxClearPercent float64 // and this share of the linked users
}

// Stages says whether clears, out of linked users, must wait until a person approves them: more than MaxClears and more
// than MaxClearPercent of the linked.
func (g Guard) Stages(clears, linked int) bool {
	return clears > g.MaxClears && float64(clears)*100 > g.MaxClearPercent*float64(linked)
}

// shrinkPercent and shrinkUsers bound how many known users one listing may miss.
const (
	shrinkPercent = 10
	shrinkUsers   = 20
)

// BelieveListing says whether a listing of listed users may stand for the directory, where known were present before: not
// if more than 20 and more than 10 % of them are missing, unless the listing before it, refused for that (0: none was),
// came to nearly the same number.
func BelieveListing(listed, known, refused int64) bool {
	missing := known - listed
	if missing <= shrinkUsers || missing*100 <= known*shrinkPercent {
		return true
	}
	apart := max(listed-refused, refused-listed)
	return refused > 0 && apart*50 <= listed
}
