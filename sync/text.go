package sync

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText is where text on its way to BLN is cut, in characters.
const maxText = 255

// maxKey is the longest address or id, in bytes, that can tell a person: a longer one is treated as none. BLN's own
// identifiers end at 255 characters (BLN 6820).
const maxKey = 1020

// CleanText makes text fit to be written: control characters, bidi overrides and what was not UTF-8 are dropped, white
// space around it is trimmed, and it is cut at 255 characters. Cleaning twice changes nothing.
func CleanText(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range strings.TrimLeftFunc(s, droppedOrSpace) {
		if dropped(r) {
			continue
		}
		if n == maxText {
			break
		}
		b.WriteRune(r)
		n++
	}
	return strings.TrimSpace(b.String())
}

func droppedOrSpace(r rune) bool { return dropped(r) || unicode.IsSpace(r) }

// dropped says whether a character must not reach BLN: it would be invisible, turn the text around it, or stand for
// bytes that were not text.
func dropped(r rune) bool {
	switch {
	case r == utf8.RuneError, unicode.IsControl(r):
		return true
	case r >= 0x202A && r <= 0x202E, r >= 0x2066 && r <= 0x2069, r == 0x200E, r == 0x200F, r == 0x061C:
		return true
	}
	return false
}

// Fold brings an address to the form that addresses are compared in: trimmed, lower case. A letter outside ASCII that
// would become an ASCII one (the Kelvin sign) stays as it is: an address that merely looks like another's must not
// open that person's record.
func Fold(s string) string {
	return Key(strings.Map(func(r rune) rune { // Key comes last: lower case can take more bytes
		if l := unicode.ToLower(r); r < utf8.RuneSelf || l >= utf8.RuneSelf {
			return l
		}
		return r
	}, s))
}

// Key brings an identifier to the form that identifiers are compared in: trimmed. One that cannot be stored, or is over
// 1,020 bytes, is no key: the answer is empty.
func Key(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxKey || strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || unicode.IsControl(r) }) {
		return ""
	}
	return s
}

// Storable keeps text as near to what was sent as Postgres can hold it: NUL and bytes that are not UTF-8 become U+FFFD,
// and it is cut at limit bytes. A link that needed this is refused later, for the U+FFFD or for its length.
func Storable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
