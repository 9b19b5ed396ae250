package simulator

import (
	"cmp"
	"maps"
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
	b := append(make([]byte, 0, 512), '{')
	for i, field := range [...]struct {
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

// Gone says what a bridge can know of rows that NameCoach has deleted. No window ever shows that; only their absence does.
type Gone int

const (
	Noticed   Gone = iota // complete censuses have confirmed it, as many as it takes: these rows speak no more
	Unnoticed             // none has: they speak on
)

// Truth is the truth at this moment, all deletions noticed.
func (s *Simulator) Truth() Truth { return s.TruthWhile(Noticed) }

// TruthWhile is the truth at this moment. Totals.Participants and People leave deleted rows out in any case.
func (s *Simulator) TruthWhile(gone Gone) Truth {
	o := s.options()
	w := s.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	t := Truth{Users: make(map[int64]UserTruth, len(w.users)), People: map[string]string{}}
	t.Totals = Totals{Participants: len(w.participants), Users: len(w.users), Held: map[string]int{
		"unmatched": 0, "ambiguous": 0, "conflict": 0, "unwritable": 0, "refused": 0, "reverted": 0,
	}}
	rows := make(map[int64][]*Participant, len(w.users))
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
		if gone == Unnoticed {
			rows[id] = append(rows[id], w.deleted[id]...)
		}
		u, _ := a.truth(rows[id])
		switch {
		case u.Held != "":
			t.Totals.Held[u.Held]++
		case u.Rows == 0:
		case a.shows(o, u.Fragment):
			t.Totals.Unchanged++
		default:
			t.Totals.Written++
		}
		if u.Rows > 0 {
			t.Totals.Linked++
		}
		t.Users[id] = u
	}
	return t
}

// truth is what should become of a user whose rows these are, and which of them speaks.
func (a *account) truth(rows []*Participant) (u UserTruth, speaks *Participant) {
	if u.Rows = len(rows); u.Rows == 0 {
		return u, nil
	}
	best := slices.MinFunc(rows, speaksFirst(rows))
	u.Wanted = best.fragment()
	u.Why = cmp.Or(linkRefusal(best.NameBadgeLink), linkRefusal(best.RecordingLink))
	switch {
	case u.Why != "":
		u.Held, u.Wanted = "refused", nil
	case a.unwritable != "":
		u.Held, u.Why = "unwritable", a.unwritable
	default:
		u.Fragment = u.Wanted
	}
	return u, best
}

// past is what stood, or may have come to stand, under a user's key before this moment.
type past struct {
	former  []*Fragment // what was right, or was by the rows that could be seen
	foreign []string    // what somebody else put there: nobody's to clear once nobody speaks for the user
	unclear bool        // the directory's keys changed so that nobody is linked any more: a link that is lost proves no wrong voice
}

// wrong describes a user whose stored fragment is not right by any of these truths, or is "". The world must be locked, and tied.
func (w *world) wrong(o *Options, a *account, gone []Gone) string {
	var first UserTruth
	for i, g := range gone {
		rows := rowsNow(w.ties.byUser[a.id])
		if g == Unnoticed {
			rows = append(rows, w.deleted[a.id]...)
		}
		u, _ := a.truth(rows)
		if a.shows(o, u.Fragment) || u.Fragment == nil && w.stood(o, a, u.Held != "") {
			return ""
		}
		if i == 0 {
			first = u
		}
	}
	text, held := "nothing", ""
	if first.Fragment != nil {
		text = first.Fragment.JSON()
	}
	if first.Held != "" {
		held = ", held: " + first.Held
	}
	return "user " + strconv.FormatInt(a.id, 10) + " (" + string(a.kind) + held + "): want " + text + ", stored " + cmp.Or(a.storedFragment(o), "nothing")
}

// stood reports whether what stands there now may stay although nothing is wanted there.
func (w *world) stood(o *Options, a *account, held bool) bool {
	p := w.past[a.id]
	if p == nil {
		return false
	}
	return slices.Contains(p.foreign, a.storedFragment(o)) ||
		(held || p.unclear) && slices.ContainsFunc(p.former, func(f *Fragment) bool { return a.shows(o, f) })
}

// Mismatches describes each user whose stored fragment is not the true one, at most limit of them; 0 = all. Deletions count as noticed
// unless said otherwise; where both are given either is right. Held users must have no fragment, but for one that was right before
// they were (see Life).
func (s *Simulator) Mismatches(limit int, gone ...Gone) []string {
	if len(gone) == 0 {
		gone = []Gone{Noticed}
	}
	o, w := s.options(), s.world
	w.mu.Lock()
	w.tied()
	w.mu.Unlock()
	w.mu.RLock()
	defer w.mu.RUnlock()
	var wrong []string
	for _, id := range slices.Sorted(maps.Keys(w.users)) {
		if text := w.wrong(o, w.users[id], gone); text != "" {
			wrong = append(wrong, text)
			if len(wrong) == limit {
				break
			}
		}
	}
	return wrong
}

// Mismatch is Mismatches for one user: "" where the stored fragment is right, or there is no such user. It costs next to nothing.
func (s *Simulator) Mismatch(id int64, gone ...Gone) string {
	if len(gone) == 0 {
		gone = []Gone{Noticed}
	}
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tied()
	if a := w.users[id]; a != nil {
		return w.wrong(s.options(), a, gone)
	}
	return ""
}

func (r *record) storedFragment(o *Options) string {
	if !strings.Contains(r.otherInfo, `"`+o.FragmentKey+`"`) { // most have none: a million need not be parsed for that
		return ""
	}
	if s := r.stored.Load(); s != nil && s.key == o.FragmentKey {
		return s.raw
	}
	s := &stored{key: o.FragmentKey}
	eachMember(r.otherInfo, func(key string, v *node) {
		if key == s.key {
			s.raw = v.raw
		}
	})
	r.stored.Store(s)
	return s.raw
}

// stored is what stands under a key.
type stored struct{ key, raw string }

// shows reports whether the user's stored fragment is f; nil asks for none, or null.
func (r *record) shows(o *Options, f *Fragment) bool {
	stored := r.storedFragment(o)
	if f == nil || stored == "" || stored == "null" {
		return f == nil && (stored == "" || stored == "null")
	}
	text := f.JSON()
	if stored == text {
		return true
	}
	n, err := parse(stored)
	if err != nil || n.kind != '{' {
		return false
	}
	want, err := parse(text)
	if err != nil {
		return false
	}
	if o.DropNulls {
		want = dropNulls(want)
	}
	// What others have put into the object, and a server that merges would not give up, is set to null.
	n.members = slices.DeleteFunc(n.members, func(m member) bool { return m.value.kind == 'n' && want.get(m.key) == nil })
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
	if len(s) <= 255 && strings.IndexFunc(s, func(c rune) bool { return c < 0x20 || c > 0x7e }) < 0 {
		return strings.TrimSpace(s) // as most are
	}
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
