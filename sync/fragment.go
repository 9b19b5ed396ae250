package sync

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The bridge's own keys, in the order they are written.
const (
	badgeKey         = "name_badge_link"
	recordingKey     = "recording_link"
	recordingIDKey   = "recording_id"
	recordingDateKey = "recording_date"
	eventTitleKey    = "event_title"
)

var ownKeys = []string{badgeKey, recordingKey, recordingIDKey, recordingDateKey, eventTitleKey}

// maxLink is the longest link that is written, in bytes.
const maxLink = 2000

// Layout says where in otherInfo the fragment stands and what it consists of.
type Layout struct {
	Key       string  // the key, or for the flat layout the prefix of the keys
	Flat      bool    // one key a value instead of one object
	Fields    []Field // attributes beside the five own keys
	LinkHosts []string
}

// Field writes a NameCoach attribute under a name of its own.
type Field struct{ Name, Attribute string }

// Fragment is what the bridge writes: the value of each of its keys, nil for null.
type Fragment map[string]*string

// Member is a top-level key of otherInfo with its JSON value.
type Member struct {
	Key   string
	Value json.RawMessage
}

// Refusal is a link that must not be written.
type Refusal struct{ Field, Why string }

func (r *Refusal) Error() string { return r.Field + ": " + r.Why }

func (l Layout) names() []string {
	names := slices.Clone(ownKeys)
	for _, f := range l.Fields {
		names = append(names, f.Name)
	}
	return names
}

// place is the same for layouts whose fragments stand in one place, in one shape.
func (l Layout) place() string {
	kind := "nested"
	if l.Flat {
		kind = "flat"
	}
	return fmt.Sprintf("%s %q ", kind, l.Key)
}

// fingerprint is the same for layouts of one place with the same keys.
func (l Layout) fingerprint() string {
	names := l.names()
	slices.Sort(names)
	return l.place() + fmt.Sprintf("%q", names)
}

// Owns says whether a top-level key of otherInfo is the bridge's.
func (l Layout) Owns(key string) bool {
	if !l.Flat {
		return key == l.Key
	}
	rest, ok := strings.CutPrefix(key, l.Key+"_")
	return ok && slices.Contains(l.names(), rest)
}

// Keys lists the top-level keys of otherInfo that are the bridge's.
func (l Layout) Keys() []string {
	if !l.Flat {
		return []string{l.Key}
	}
	keys := l.names()
	for i, k := range keys {
		keys[i] = l.Key + "_" + k
	}
	return keys
}

// Build makes the fragment that says p's name. A link that must not be written is a *Refusal: then nothing of p is.
func (l Layout) Build(p Participant) (Fragment, error) {
	f := Fragment{}
	for _, n := range l.names() {
		f[n] = nil
	}
	if p.NameBadgeLink != "" {
		if err := l.checkLink(badgeKey, p.NameBadgeLink); err != nil {
			return nil, err
		}
		f[badgeKey] = &p.NameBadgeLink
	}
	if p.RecordingLink != "" {
		if err := l.checkLink(recordingKey, p.RecordingLink); err != nil {
			return nil, err
		}
		f[recordingKey] = &p.RecordingLink
		f.set(recordingIDKey, p.RecordingID)
		f.set(recordingDateKey, p.RecordingDate)
	}
	f.set(eventTitleKey, p.EventTitle)
	for _, x := range l.Fields {
		f.set(x.Name, p.Attributes[x.Attribute])
	}
	return f, nil
}

func (f Fragment) set(key, text string) {
	if text = CleanText(text); text != "" {
		f[key] = &text
	}
}

// checkLink refuses what must not stand on someone's record for others to follow.
func (l Layout) checkLink(field, link string) error {
	if len(link) > maxLink {
		return &Refusal{field, fmt.Sprintf("is over %d bytes", maxLink)}
	}
	if strings.ContainsFunc(link, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) || dropped(r) }) {
		return &Refusal{field, "has white space, control or invisible characters"}
	}
	if !utf8.ValidString(link) || strings.ContainsAny(link, `\<>"`) {
		return &Refusal{field, "has characters that do not belong in a link"}
	}
	u, err := url.Parse(link)
	switch {
	case err != nil:
		return &Refusal{field, "is not a link"}
	case u.Scheme != "https":
		return &Refusal{field, "is not https"}
	case u.User != nil:
		return &Refusal{field, "carries user info"}
	case u.Port() != "" && u.Port() != "443":
		return &Refusal{field, "names a port"}
	case !l.allows(u.Hostname()):
		return &Refusal{field, "names a host that LINK_HOSTS does not allow"}
	}
	return nil
}

// allows compares a host with LinkHosts. One with characters that no host name has is none of them: browsers read some
// letters otherwise than lower case does.
func (l Layout) allows(host string) bool {
	if !plainHost.MatchString(host) {
		return false
	}
	host = strings.ToLower(host)
	return slices.ContainsFunc(l.LinkHosts, func(h string) bool {
		if under, ok := strings.CutPrefix(h, "*"); ok {
			return strings.HasPrefix(under, ".") && strings.HasSuffix(host, under)
		}
		return host == h
	})
}

var plainHost = regexp.MustCompile(`^[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*$`)

// Members gives the top-level members to merge into otherInfo so that it shows f; a nil f clears. seen is what stands
// there now, by key: members of our own object that are no longer wanted are set to null, since a server that merges
// deeply cannot be made to drop them.
func (l Layout) Members(f Fragment, seen map[string]json.RawMessage) []Member {
	if l.Flat {
		var out []Member
		for _, n := range l.names() {
			out = append(out, Member{l.Key + "_" + n, encode(f[n])})
		}
		return out
	}
	if f == nil {
		return []Member{{l.Key, json.RawMessage("null")}}
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, n := range l.names() {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(encode(&n))
		b.WriteByte(':')
		b.Write(encode(f[n]))
	}
	var old map[string]any
	if json.Unmarshal(seen[l.Key], &old) == nil {
		var stale []string
		for k, v := range old {
			if _, ours := f[k]; !ours && v != nil {
				stale = append(stale, k)
			}
		}
		slices.Sort(stale)
		for _, k := range stale {
			b.WriteByte(',')
			b.Write(encode(&k))
			b.WriteString(":null")
		}
	}
	b.WriteByte('}')
	return []Member{{l.Key, b.Bytes()}}
}

// encode writes a string or null as JSON without HTML escapes, as a person would write it.
func encode(s *string) json.RawMessage {
	if s == nil {
		return json.RawMessage("null")
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(*s) //nolint:errchkjson // a string always encodes, and a buffer takes it
	return bytes.TrimSpace(b.Bytes())
}

// Digest sums a fragment up so that two that say the same have the same digest: null and missing are one, and a
// recording is told by its id, else by its link without the query, whose signature may change from answer to answer. A
// nil or all-null fragment has the empty digest.
func (f Fragment) Digest() []byte {
	names := make([]string, 0, len(f))
	for n, v := range f {
		if v != nil {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	h := sha256.New()
	for _, n := range names {
		v := *f[n]
		if n == recordingKey {
			if f[recordingIDKey] != nil {
				v = ""
			} else {
				v = StableLink(v)
			}
		}
		fmt.Fprintf(h, "%q:%q\n", n, v)
	}
	return h.Sum(nil)[:16]
}

// StableLink is a link without its query and fragment.
func StableLink(link string) string {
	if i := strings.IndexAny(link, "?#"); i >= 0 {
		return link[:i]
	}
	return link
}

// Seen sums up what stands under our keys in an otherInfo: nil where there is nothing (missing, null, all null), the
// fragment's Digest where it has our shape, the digest of its text otherwise.
func (l Layout) Seen(get func(key string) (json.RawMessage, bool)) []byte {
	values := map[string]json.RawMessage{}
	if l.Flat {
		for _, n := range l.names() {
			if raw, ok := get(l.Key + "_" + n); ok {
				values[n] = raw
			}
		}
	} else {
		raw, ok := get(l.Key)
		if !ok || isNull(raw) {
			return nil
		}
		if json.Unmarshal(raw, &values) != nil {
			return foreignDigest(map[string]json.RawMessage{"": raw})
		}
	}
	f := Fragment{}
	for n, raw := range values {
		if isNull(raw) {
			continue
		}
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return foreignDigest(values)
		}
		f[n] = &s
	}
	return f.Digest()
}

// HasRecording says whether what stands under our keys in an otherInfo, whoever has put it there, has a recording.
func (l Layout) HasRecording(get func(key string) (json.RawMessage, bool)) bool {
	if l.Flat {
		raw, ok := get(l.Key + "_" + recordingKey)
		return ok && !isNull(raw)
	}
	var values map[string]json.RawMessage
	whole, ok := get(l.Key)
	if !ok || json.Unmarshal(whole, &values) != nil { // what is no object has none
		return false
	}
	raw, ok := values[recordingKey]
	return ok && !isNull(raw)
}

func isNull(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "null" }

// foreignDigest is of another length than a fragment's, so that the two are never taken for each other.
func foreignDigest(values map[string]json.RawMessage) []byte {
	h := sha256.New()
	for _, n := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(h, "%q:%q\n", n, values[n])
	}
	return h.Sum(nil)[:20]
}
