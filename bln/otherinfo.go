package bln

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// maxNesting is how many objects and arrays may stand inside each other. What BLN lets one write needs three.
const maxNesting = 100

const jsonSpace = " \t\r\n"

// OtherInfo is one user's otherInfo: a JSON object, kept as the server wrote it: numbers, escapes, key order and white
// space included. It is a value: no method changes it. The zero value is the empty object.
//
// Keys are compared unescaped. A lone surrogate (\ud800), which JSON allows and Unicode does not, is kept apart from every
// other: in a key that a method returns it stands as the three bytes that UTF-8 would have for it.
type OtherInfo struct {
	raw string // valid UTF-8, a valid JSON object, no key twice; "" is the empty object
}

// ParseOtherInfo reads a JSON object. Null and nothing give the zero value. Anything else that is no object, invalid JSON,
// invalid UTF-8, more than 100 levels, and a key that stands twice in one object (at any depth, compared unescaped) is an
// error. Errors name the path of the key, never a value.
func ParseOtherInfo(raw []byte) (OtherInfo, error) {
	text := strings.Trim(string(raw), jsonSpace)
	if text == "" || text == "null" {
		return OtherInfo{}, nil
	}
	v, err := parseStrict(text, maxNesting)
	if err != nil {
		return OtherInfo{}, fmt.Errorf("otherInfo %w", err)
	}
	if !v.IsObject() {
		return OtherInfo{}, fmt.Errorf("otherInfo is no JSON object but %s", typeName(v))
	}
	return OtherInfo{raw: text}, nil
}

// JSON is the object as it was parsed, with what With and Without changed.
func (o OtherInfo) JSON() []byte { return []byte(o.text()) }

// MarshalJSON keeps o from being marshalled as {}, which would pass for an otherInfo without keys. Note that encoding/json
// takes white space out and escapes <, > and &; JSON does not.
func (o OtherInfo) MarshalJSON() ([]byte, error) { return o.JSON(), nil }

// UnmarshalJSON is ParseOtherInfo.
func (o *OtherInfo) UnmarshalJSON(raw []byte) (err error) {
	*o, err = ParseOtherInfo(raw)
	return err
}

// String keeps what people wrote about themselves out of logs and errors.
func (o OtherInfo) String() string { return fmt.Sprintf("otherInfo of %d keys", len(o.Keys())) }

// Keys are the keys in the order in which they stand.
func (o OtherInfo) Keys() []string {
	var keys []string
	for m := range o.members() {
		keys = append(keys, m.key)
	}
	return keys
}

// Get is the value of a key as it stands, and whether there is one. A null is one.
func (o OtherInfo) Get(key string) (json.RawMessage, bool) {
	m, _, ok := o.find(key)
	if !ok {
		return nil, false
	}
	return json.RawMessage(m.value.Raw), true
}

// With is o with a value in the place of the key's present one, or at the end where there is none. No other byte differs.
// A nil or empty value is null. A value that ParseOtherInfo would not accept inside an object is a mistake in the program:
// With panics.
func (o OtherInfo) With(key string, value json.RawMessage) OtherInfo {
	v := strings.Trim(string(value), jsonSpace)
	if v == "" {
		v = "null"
	}
	if _, err := parseStrict(v, maxNesting-1); err != nil {
		panic("bln: OtherInfo.With: the value " + err.Error())
	}
	text := o.text()
	m, end, ok := o.find(key)
	switch {
	case ok:
		return OtherInfo{raw: text[:m.start] + v + text[m.end:]}
	case end > 0:
		return OtherInfo{raw: text[:end] + "," + quote(key) + ":" + v + text[end:]}
	default: // empty: keep white space between the braces
		return OtherInfo{raw: text[:len(text)-1] + quote(key) + ":" + v + "}"}
	}
}

// Without is o without the key. Of the bytes that stay, only a comma and the white space next to the key go with it.
func (o OtherInfo) Without(key string) OtherInfo {
	key = unescape(quote(key))
	text := o.text()
	from, until, before := -1, -1, -1
	for m := range o.members() {
		if from >= 0 { // the first key goes with the comma after it
			until = m.keyStart
			break
		}
		if m.key == key {
			from, until = m.keyStart, m.end
			if before >= 0 { // any other with the comma before it
				from = before
				break
			}
		}
		before = m.end
	}
	if from < 0 {
		return o
	}
	return OtherInfo{raw: text[:from] + text[until:]}
}

// ChangeKind says in which way a key differs.
type ChangeKind string

// What Changes tells apart.
const (
	Missing ChangeKind = "missing" // had a value, now has none
	Added   ChangeKind = "added"   // had no value, now has one
	Changed ChangeKind = "changed" // has another value
)

// Change is a top-level key whose value is not the same any more.
type Change struct {
	Key  string
	Kind ChangeKind
}

// Changes lists the top-level keys whose value differs between o and to, except those that ignore (may be nil) says yes to:
// first those of o in its order, then the added ones in theirs.
//
// Null and missing are the same, also for members of nested objects, since under a merging PUT null is the only way to
// remove a key. Numbers are the same when their decimal values are (1.10 and 1.1), strings when they are after unescaping,
// objects in any order of their members, arrays in the same order only.
func (o OtherInfo) Changes(to OtherInfo, ignore func(key string) bool) []Change {
	if o.raw == to.raw {
		return nil
	}
	now := make(map[string]gjson.Result)
	for m := range to.members() {
		if m.value.Type != gjson.Null {
			now[m.key] = m.value
		}
	}
	var changes []Change
	note := func(key string, kind ChangeKind) {
		if ignore == nil || !ignore(key) {
			changes = append(changes, Change{Key: key, Kind: kind})
		}
	}
	for m := range o.members() {
		if m.value.Type == gjson.Null {
			continue
		}
		value, ok := now[m.key]
		switch {
		case !ok:
			note(m.key, Missing)
		case !equal(m.value, value):
			note(m.key, Changed)
		}
		delete(now, m.key)
	}
	for m := range to.members() {
		if _, ok := now[m.key]; ok {
			note(m.key, Added)
		}
	}
	return changes
}

func (o OtherInfo) text() string {
	if o.raw == "" {
		return "{}"
	}
	return o.raw
}

// member is one key and its value, with where they stand in the text.
type member struct {
	key                  string // unescaped
	keyStart, start, end int
	value                gjson.Result
}

func (o OtherInfo) members() iter.Seq[member] {
	return func(yield func(member) bool) {
		gjson.Parse(o.raw).ForEach(func(k, v gjson.Result) bool {
			return yield(member{key: unescape(k.Raw), keyStart: k.Index, start: v.Index, end: v.Index + len(v.Raw), value: v})
		})
	}
}

// find gives the member with that key, and where the last member read ends (0: there is none).
func (o OtherInfo) find(key string) (found member, end int, ok bool) {
	key = unescape(quote(key)) // as it would be read back
	for m := range o.members() {
		end = m.end
		if m.key == key {
			return m, end, true
		}
	}
	return member{}, end, false
}

// parseStrict reads a JSON text as strictly as ParseOtherInfo documents.
func parseStrict(text string, levels int) (gjson.Result, error) {
	switch {
	case !utf8.ValidString(text):
		return gjson.Result{}, errors.New("is not valid UTF-8")
	case nesting(text) > levels: // before the check that follows, which is recursive
		return gjson.Result{}, fmt.Errorf("is nested deeper than %d levels", levels)
	case !gjson.Valid(text):
		return gjson.Result{}, errors.New("is not valid JSON")
	}
	v := gjson.Parse(text)
	if path, ok := duplicate(v); ok {
		return gjson.Result{}, fmt.Errorf("has the key %s twice", path)
	}
	return v, nil
}

// nesting is the largest number of objects and arrays that are open at once.
func nesting(text string) int {
	deepest, open, inString := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			open++
			deepest = max(deepest, open)
		case c == '}' || c == ']':
			open--
		}
	}
	return deepest
}

// duplicate is the path of a key that stands twice in one object.
func duplicate(v gjson.Result) (path string, found bool) {
	if v.Type != gjson.JSON {
		return "", false
	}
	var keys []string
	isObject := v.IsObject()
	i := 0
	v.ForEach(func(k, member gjson.Result) bool {
		var name string
		if isObject {
			name = unescape(k.Raw)
			keys = append(keys, name)
		}
		if member.Type == gjson.JSON {
			if path, found = duplicate(member); found {
				if !isObject {
					name = strconv.Itoa(i)
				}
				path = "/" + pathSegment(name) + path
				return false
			}
		}
		i++
		return true
	})
	if found {
		return path, true
	}
	slices.Sort(keys)
	for i := 1; i < len(keys); i++ {
		if keys[i] == keys[i-1] {
			return "/" + pathSegment(keys[i]), true
		}
	}
	return "", false
}

// pathSegment is a key as errors show it: a segment of a JSON pointer, without control characters, cut at 64 characters.
// A key that may be an e-mail address is not shown.
func pathSegment(key string) string {
	if strings.Contains(key, "@") {
		return "…"
	}
	shown := []rune(strings.ToValidUTF8(key, "\uFFFD"))
	if len(shown) > 64 {
		shown = append(shown[:64], '…')
	}
	for i, r := range shown {
		if !strconv.IsPrint(r) {
			shown[i] = '\uFFFD'
		}
	}
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(string(shown))
}

func typeName(v gjson.Result) string {
	switch {
	case v.Type == gjson.String:
		return "a string"
	case v.Type == gjson.Number:
		return "a number"
	case v.IsBool():
		return "a boolean"
	case v.IsArray():
		return "an array"
	case v.IsObject():
		return "an object"
	default:
		return "null"
	}
}

// equal compares two values as Changes documents it. Neither has a key twice.
func equal(a, b gjson.Result) bool {
	switch {
	case a.Raw == b.Raw:
		return true
	case a.Type != b.Type:
		return false
	case a.Type == gjson.String:
		return unescape(a.Raw) == unescape(b.Raw)
	case a.Type == gjson.Number:
		return sameNumber(a.Raw, b.Raw)
	case a.IsObject() && b.IsObject():
		return equalObjects(a, b)
	case a.IsArray() && b.IsArray():
		return slices.EqualFunc(a.Array(), b.Array(), equal)
	default:
		return false
	}
}

func equalObjects(a, b gjson.Result) bool {
	rest := make(map[string]gjson.Result)
	b.ForEach(func(k, v gjson.Result) bool {
		if v.Type != gjson.Null {
			rest[unescape(k.Raw)] = v
		}
		return true
	})
	same := true
	a.ForEach(func(k, v gjson.Result) bool {
		if v.Type == gjson.Null {
			return true
		}
		key := unescape(k.Raw)
		other, ok := rest[key]
		same = ok && equal(v, other)
		delete(rest, key)
		return same
	})
	return same && len(rest) == 0
}

// sameNumber compares two JSON numbers by their decimal value. It takes no more time and memory than their text is long:
// 1e999999999 is a number like any other.
func sameNumber(a, b string) bool {
	x, okX := parseDecimal(a)
	y, okY := parseDecimal(b)
	return okX && okY && x.negative == y.negative && x.digits == y.digits && x.exponent.Cmp(&y.exponent) == 0
}

// decimal is ±0.digits × 10^exponent, its digits without zeros at either end. Zero has no digits, no sign, exponent 0.
type decimal struct {
	negative bool
	digits   string
	exponent big.Int
}

// parseDecimal is false for an exponent of more than 100 digits: reading it takes quadratic time. Such numbers are the same
// only if they are written alike.
func parseDecimal(raw string) (d decimal, ok bool) {
	raw, d.negative = strings.CutPrefix(raw, "-")
	mantissa, exponent := raw, "0"
	if i := strings.IndexAny(raw, "eE"); i >= 0 {
		mantissa, exponent = raw[:i], raw[i+1:]
	}
	if len(exponent) > 100 {
		return decimal{}, false
	}
	if _, ok := d.exponent.SetString(exponent, 10); !ok {
		return decimal{}, false
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return decimal{}, true
	}
	leading := len(whole) + len(fraction) - len(digits)
	d.exponent.Add(&d.exponent, big.NewInt(int64(len(whole)-leading)))
	d.digits = strings.TrimRight(digits, "0")
	return d, true
}

// unescape is what a JSON string literal (with its quotes, valid) means. Unlike gjson's and encoding/json's, it keeps lone
// surrogates apart from each other and from U+FFFD, as the three bytes that UTF-8 would have for them (WTF-8): else a
// change from one to another would go unseen.
func unescape(literal string) string {
	s := literal[1 : len(literal)-1]
	i := strings.IndexByte(s, '\\')
	if i < 0 {
		return s
	}
	out := append(make([]byte, 0, len(s)), s[:i]...)
	for ; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(s[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				if strings.HasPrefix(s[i+1:], `\u`) {
					if pair := utf16.DecodeRune(r, hex4(s[i+3:])); pair != utf8.RuneError {
						out = utf8.AppendRune(out, pair)
						i += 6
						continue
					}
				}
				out = append(out, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0x3F, 0x80|byte(r)&0x3F)
				continue
			}
			out = utf8.AppendRune(out, r)
		default: // quote, backslash, slash
			out = append(out, s[i])
		}
	}
	return string(out)
}

func hex4(s string) rune {
	n, _ := strconv.ParseUint(s[:4], 16, 16) // valid JSON has four hexadecimal digits here
	return rune(n)
}

// quote is the JSON string literal of a key, such that unescape gives the key back. What is not UTF-8 becomes U+FFFD, lone
// surrogates as unescape writes them excepted.
func quote(key string) string {
	out := []byte{'"'}
	for i := 0; i < len(key); {
		r, size := utf8.DecodeRuneInString(key[i:])
		switch {
		case r == '"' || r == '\\':
			out = append(out, '\\', byte(r))
		case r < ' ':
			out = fmt.Appendf(out, `\u%04x`, r)
		case r == utf8.RuneError && size == 1 && isSurrogate(key[i:]):
			out = fmt.Appendf(out, `\ud%x%02x`, key[i+1]>>2&0xF, key[i+1]&0x3<<6|key[i+2]&0x3F)
			size = 3
		default:
			out = utf8.AppendRune(out, r)
		}
		i += size
	}
	return string(append(out, '"'))
}

// isSurrogate reports whether s begins with a surrogate as unescape writes it.
func isSurrogate(s string) bool {
	return len(s) >= 3 && s[0] == 0xED && s[1]&0xE0 == 0xA0 && s[2]&0xC0 == 0x80
}
