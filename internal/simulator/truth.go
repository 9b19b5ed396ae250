package simulator

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Fragment is what should stand in a user's otherInfo under our key: always these five keys, null where there is nothing.
type Fragment struct {
	NameBadgeLink *string `json:"name_badge_link"`
	RecordingLink *string `json:"recording_link"`
	RecordingID   *string `json:"recording_id"`
	RecordingDate *string `json:"recording_date"`
	EventTitle    *string `json:"event_title"`
}

// JSON is the fragment as an object of its five keys.
func (f *Fragment) JSON() string {
	b := []byte{'{'}
	for i, field := range []struct {
		key   string
		value *string
	}{
		{"name_badge_link", f.NameBadgeLink},
		{"recording_link", f.RecordingLink},
		{"recording_id", f.RecordingID},
		{"recording_date", f.RecordingDate},
		{"event_title", f.EventTitle},
	} {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, field.key), ':')
		if field.value == nil {
			b = append(b, "null"...)
		} else {
			b = appendString(b, *field.value)
		}
	}
	return string(append(b, '}'))
}

// UserTruth is what should become of one directory user.
type UserTruth struct {
	Fragment *Fragment // what should stand under our key; nil = nothing, or null
	Wanted   *Fragment // what would, were the user not held
	Held     string    // "", "unwritable" or "refused"
	Why      string    // what is unwritable or refused
	Rows     int       // NameCoach rows that are this user's
}

// Truth is what a correct bridge arrives at. Whose a row is stands in the row, put there by whoever made it; nothing here matches keys.
type Truth struct {
	Users  map[int64]UserTruth
	People map[string]string // people on the NameCoach side who are nobody's, by Person: unmatched, ambiguous or conflict
	Totals Totals
}

// Totals are the counts of a backfill's JSON.
type Totals struct {
	Participants int            `json:"participants"`
	Users        int            `json:"users"`
	Linked       int            `json:"linked"`
	Written      int            `json:"written"`   // users whose fragment is not yet the right one
	Unchanged    int            `json:"unchanged"` // linked users whose fragment is
	Held         map[string]int `json:"held"`
}

// Person is the name under which a row's person is counted: the address, case-folded, else the institution id.
func (p *Participant) Person() string {
	return cmp.Or(fold(p.Email), strings.TrimSpace(p.InstitutionID))
}

// Truth is the truth at this moment.
func (s *Simulator) Truth() Truth {
	o := s.options()
	w := s.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	t := Truth{Users: make(map[int64]UserTruth, len(w.users)), People: map[string]string{}}
	t.Totals = Totals{Participants: len(w.participants), Users: len(w.users), Held: map[string]int{
		"unmatched": 0, "ambiguous": 0, "conflict": 0, "unwritable": 0, "refused": 0, "reverted": 0,
	}}
	rows := map[int64][]*Participant{}
	for _, p := range w.participants {
		if p.now.For != 0 {
			rows[p.now.For] = append(rows[p.now.For], p.now)
			continue
		}
		t.People[p.now.Person()] = cmp.Or(p.now.Held, "unmatched")
	}
	for _, reason := range t.People {
		t.Totals.Held[reason]++
	}
	for id, a := range w.users {
		var u UserTruth
		if u.Rows = len(rows[id]); u.Rows > 0 {
			t.Totals.Linked++
			best := slices.MinFunc(rows[id], speaksFirst(rows[id]))
			u.Wanted = best.fragment()
			u.Why = cmp.Or(linkRefusal(best.NameBadgeLink), linkRefusal(best.RecordingLink))
			switch {
			case u.Why != "":
				u.Held = "refused"
				u.Wanted = nil
			case a.unwritable != "":
				u.Held, u.Why = "unwritable", a.unwritable
			default:
				u.Fragment = u.Wanted
				if a.shows(o, u.Fragment) {
					t.Totals.Unchanged++
				} else {
					t.Totals.Written++
				}
			}
			if u.Held != "" {
				t.Totals.Held[u.Held]++
			}
		}
		t.Users[id] = u
	}
	return t
}

// Mismatches describes each user whose stored fragment is not the true one, at most limit of them; 0 = all. Held users must have none.
func (s *Simulator) Mismatches(limit int) []string {
	truth := s.Truth()
	o := s.options()
	var wrong []string
	for _, u := range s.Users() {
		want := truth.Users[u.ID]
		s.world.mu.RLock()
		var r *record
		if a := s.world.users[u.ID]; a != nil {
			r = a.record
		}
		s.world.mu.RUnlock()
		if r == nil || r.shows(o, want.Fragment) {
			continue
		}
		text := "nothing"
		if want.Fragment != nil {
			text = want.Fragment.JSON()
		}
		held := ""
		if want.Held != "" {
			held = ", held: " + want.Held
		}
		wrong = append(wrong, "user "+strconv.FormatInt(u.ID, 10)+" ("+string(u.Kind)+held+"): want "+text+", stored "+cmp.Or(r.storedFragment(o), "nothing"))
		if limit > 0 && len(wrong) == limit {
			break
		}
	}
	return wrong
}

func (r *record) storedFragment(o *Options) string {
	if !strings.Contains(r.otherInfo, `"`+o.FragmentKey+`"`) { // most have none: a million need not be parsed for that
		return ""
	}
	n, err := parse(cmp.Or(r.otherInfo, "{}"))
	if err != nil {
		return ""
	}
	if v := n.get(o.FragmentKey); v != nil {
		return v.raw
	}
	return ""
}

// shows reports whether the user's stored fragment is f; nil asks for none, or null.
func (r *record) shows(o *Options, f *Fragment) bool {
	stored := r.storedFragment(o)
	if f == nil || stored == "" || stored == "null" {
		return f == nil && (stored == "" || stored == "null")
	}
	n, err := parse(stored)
	if err != nil || n.kind != '{' {
		return false
	}
	want, err := parse(f.JSON())
	if err != nil {
		return false
	}
	if o.DropNulls {
		want = dropNulls(want)
	}
	if o.RotateDigests { // any of the signatures that were handed out is right
		for _, f := range []*node{&n, &want} {
			if link := f.get("recording_link"); link != nil && link.kind == '"' {
				link.text, _, _ = strings.Cut(link.text, "?")
			}
		}
	}
	return string(appendCanonical(nil, &n)) == string(appendCanonical(nil, &want))
}

// speaksFirst is the order among the rows of one user: with a recording, newest recording date where all that have a recording have a
// date, smallest access code, institution id, badge link.
func speaksFirst(rows []*Participant) func(a, b *Participant) int {
	dated := true
	for _, p := range rows {
		if p.recorded() && p.RecordingDate == "" {
			dated = false
		}
	}
	return func(a, b *Participant) int {
		switch {
		case a.recorded() && !b.recorded():
			return -1
		case b.recorded() && !a.recorded():
			return 1
		}
		newer := 0
		if dated && a.recorded() {
			newer = date(b.RecordingDate).Compare(date(a.RecordingDate))
		}
		return cmp.Or(newer, cmp.Compare(a.EventAccessCode, b.EventAccessCode), cmp.Compare(a.InstitutionID, b.InstitutionID), cmp.Compare(a.NameBadgeLink, b.NameBadgeLink))
	}
}

func date(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// recorded: no recording means null, and blank is treated the same.
func (p *Participant) recorded() bool { return strings.TrimSpace(p.RecordingLink) != "" }

func (p *Participant) fragment() *Fragment {
	f := &Fragment{NameBadgeLink: orNull(strings.TrimSpace(p.NameBadgeLink)), EventTitle: orNull(clean(p.EventTitle))}
	if p.recorded() {
		f.RecordingLink = orNull(strings.TrimSpace(p.RecordingLink))
		f.RecordingID = orNull(clean(p.RecordingID))
		f.RecordingDate = orNull(clean(p.RecordingDate))
	}
	return f
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// linkRefusal says why a link must not be written, or "". The generated world knows two hosts, so a prefix says it all.
func linkRefusal(link string) string {
	link = strings.TrimSpace(link)
	switch {
	case link == "":
		return ""
	case !strings.HasPrefix(link, "https://www.name-coach.com/") && !strings.HasPrefix(link, "https://namewaves.s3.amazonaws.com/"):
		return "not an https link of an allowed host"
	case len(link) > 2000:
		return "over 2,000 bytes"
	case strings.IndexFunc(link, control) >= 0:
		return "a control character"
	}
	return ""
}

func control(c rune) bool { return c < 0x20 || c >= 0x7f && c < 0xa0 }

// clean is the rule for text: control characters, bidi overrides and what is left of lone surrogates go, then white space around,
// then all beyond 255 characters.
func clean(s string) string {
	var b strings.Builder
	for _, c := range s { // a lone surrogate comes as U+FFFD, here as in every decoder
		if c == utf8.RuneError || control(c) || c >= 0x202a && c <= 0x202e || c >= 0x2066 && c <= 0x2069 {
			continue
		}
		b.WriteRune(c)
	}
	runes := []rune(strings.TrimSpace(b.String()))
	return string(runes[:min(len(runes), 255)])
}
