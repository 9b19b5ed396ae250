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
