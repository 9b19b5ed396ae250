package simulator

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Kind says why a generated user or participant is in the world.
type Kind string

const (
	Recorded   Kind = "recorded"   // a badge and a recording
	BadgeOnly  Kind = "badge"      // a badge, no recording
	Nothing    Kind = "nothing"    // a user without participant
	Unmatched  Kind = "unmatched"  // a participant nobody in BLN has
	Ambiguous  Kind = "ambiguous"  // one key, two users
	Conflict   Kind = "conflict"   // two keys, two users
	Unwritable Kind = "unwritable" // an otherInfo that reads but does not write
	Refused    Kind = "refused"    // a link that must not be written
)

// NewUser is a directory user to add. Names are WTF-8 (see appendString); "" stands for null.
type NewUser struct {
	Username, ExternalID string
	FirstName, LastName  string
	Role                 string // "" = member
	Invited              bool
	OtherInfo            string // JSON as the server keeps it; "" = the key is absent from answers
	Created              time.Time
	Kind                 Kind // "" = Nothing
}

// UserInfo is one directory user.
type UserInfo struct {
	ID, RowID            int64 // the PUT path takes ID
	Username, ExternalID string
	Kind                 Kind
	Name                 string
	Invited              bool
}

// Participant is one NameCoach row. Text is WTF-8; "" stands for null, and blank text that is not empty is sent as it is.
type Participant struct {
	ID                                                int64 // never sent: rows have no id
	FirstName, LastName, Email, InstitutionID         string
	EventTitle, EventSlug, EventAccessCode, EventCode string
	RecordingLink, RecordingID                        string
	RecordingIDNumber                                 bool   // recording_id is sent as a number
	RecordingDate                                     string // sent in rows where set; `latest` always has one
	NameBadgeLink, Photo                              string // Photo "" = photo-blank.gif
	Phonetic, Notes                                   string // only in the answers to create and update
	Custom                                            map[string]string
	Updated                                           time.Time // set by the simulator; settable for new ones

	// The truth about this row, by decree of whoever made it.
	For  int64  // the user that it belongs to; 0 = nobody
	Held string // of a row that belongs to nobody: ambiguous or conflict; "" = unmatched
	Kind Kind
}

// record is a user at one moment; never changed once it is in the world.
type record struct {
	rowID, id            int64
	username, externalID string
	firstName, lastName  string
	role, sms            string
	invited              bool
	created, modified    time.Time
	otherInfo            string
	unwritable           string // why the write schema refuses otherInfo with a fragment added
	kind                 Kind
	meta                 string
	text                 atomic.Pointer[searchable]
}

// account is a place in the directory; its record is replaced at every change.
type account struct{ *record }

// listed is a participant's place in the world: as it is, and as the server shows it so far (Options.LateVisible).
type listed struct {
	now, shown *Participant
}

type lateChange struct {
	at    time.Time
	place *listed
	row   *Participant
}

// world is everything both servers know. The lists are kept in order, so that no request sorts them.
type world struct {
	mu sync.RWMutex

	users      map[int64]*account
	byCreated  []*account // by created, then row id
	byUsername map[string][]*account
	byName     map[string][]*account // sort column → order; made when asked for, dropped when somebody comes or goes
	nextUser   int64
	nextRow    int64

	participants map[int64]*listed
	byUpdated    []*Participant // as shown, by update time, then id
	byEmail      map[string][]*listed
	byInstitute  map[string][]*listed
	nextPart     int64
	late         []lateChange
	events       map[string]Event // by slug and by access code
}

// Event is one NameCoach event (a name page).
type Event struct{ Title, Slug, AccessCode, Code string }

func newWorld() *world {
	return &world{
		users: map[int64]*account{}, byUsername: map[string][]*account{}, participants: map[int64]*listed{},
		byEmail: map[string][]*listed{}, byInstitute: map[string][]*listed{}, events: map[string]Event{},
		nextUser: 1, nextRow: 1, nextPart: 1,
	}
}

// fold is the form in which addresses are compared.
func fold(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

func byCreated(a, b *account) int {
	return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.rowID, b.rowID))
}

func byUpdated(a, b *Participant) int {
	return cmp.Or(a.Updated.Compare(b.Updated), cmp.Compare(a.ID, b.ID))
}

// addUser puts a record into every index but byCreated, which the generator sorts once.
func (w *world) addUser(r *record) *account {
	a := &account{r}
	w.users[r.id] = a
	key := fold(r.username)
	w.byUsername[key] = append(w.byUsername[key], a)
	w.byName = nil
	w.nextUser, w.nextRow = max(w.nextUser, r.id+1), max(w.nextRow, r.rowID+1)
	return a
}

// show makes the server answer with that row from now on; nil takes the participant out of its answers.
func (w *world) show(p *listed, row *Participant) {
	if p.shown != nil {
		if at, ok := slices.BinarySearchFunc(w.byUpdated, p.shown, byUpdated); ok {
			w.byUpdated = slices.Delete(w.byUpdated, at, at+1)
		}
		forget(w.byEmail, fold(p.shown.Email), p)
		forget(w.byInstitute, strings.TrimSpace(p.shown.InstitutionID), p)
	}
	p.shown = row
	if row == nil {
		return
	}
	at, _ := slices.BinarySearchFunc(w.byUpdated, row, byUpdated)
	w.byUpdated = slices.Insert(w.byUpdated, at, row)
	w.index(p)
}

func (w *world) index(p *listed) {
	if key := fold(p.shown.Email); key != "" {
		w.byEmail[key] = append(w.byEmail[key], p)
	}
	if key := strings.TrimSpace(p.shown.InstitutionID); key != "" {
		w.byInstitute[key] = append(w.byInstitute[key], p)
	}
}

func forget(index map[string][]*listed, key string, p *listed) {
	kept := slices.DeleteFunc(index[key], func(q *listed) bool { return q == p })
	if len(kept) == 0 {
		delete(index, key)
		return
	}
	index[key] = kept
}

// settle shows the changes whose time has come.
func (w *world) settle(now time.Time) {
	w.mu.RLock()
	waiting := len(w.late)
	w.mu.RUnlock()
	if waiting == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = slices.DeleteFunc(w.late, func(c lateChange) bool {
		if c.at.After(now) {
			return false
		}
		if w.participants[c.place.now.ID] == c.place {
			w.show(c.place, c.row)
		}
		return true
	})
}

// AddUser adds a directory user, as of now unless Created says otherwise, and returns its user id.
func (s *Simulator) AddUser(u NewUser) int64 {
	o := s.options()
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &record{
		rowID: w.nextRow + 10_000, id: w.nextUser, username: u.Username, externalID: u.ExternalID, firstName: u.FirstName, lastName: u.LastName,
		role: cmp.Or(u.Role, "member"), invited: u.Invited, created: u.Created.UTC(), otherInfo: u.OtherInfo, kind: cmp.Or(u.Kind, Nothing),
	}
	if u.Created.IsZero() {
		r.created = o.serverNow()
	}
	if !o.HiddenFractions {
		r.created = r.created.Truncate(time.Second)
	}
	r.unwritable = unwritable(r.otherInfo, o.FragmentKey)
	a := w.addUser(r)
	at, _ := slices.BinarySearchFunc(w.byCreated, a, byCreated)
	w.byCreated = slices.Insert(w.byCreated, at, a)
	return r.id
}

// RemoveUser takes a user out of the organization; rows that were theirs belong to nobody from now on.
func (s *Simulator) RemoveUser(id int64) {
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.users[id]
	if a == nil {
		return
	}
	if at, ok := slices.BinarySearchFunc(w.byCreated, a, byCreated); ok {
		w.byCreated = slices.Delete(w.byCreated, at, at+1)
	}
	key := fold(a.username)
	w.byUsername[key] = slices.DeleteFunc(w.byUsername[key], func(b *account) bool { return a == b })
	w.byName = nil
	delete(w.users, id)
	for _, p := range w.participants {
		if p.now.For == id {
			row := *p.now
			row.For = 0
			p.now = &row // what is served stays as it is: For is not part of it
		}
	}
}

// SetOtherInfo replaces a user's whole otherInfo, valid JSON or not, as somebody else's work; "" makes it absent.
func (s *Simulator) SetOtherInfo(id int64, raw string) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.store(id, raw, true)
}

// EditOtherInfo sets one top-level key to a JSON value, or removes it where value is "".
func (s *Simulator) EditOtherInfo(id int64, key, value string) error {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	a := s.world.users[id]
	if a == nil {
		return fmt.Errorf("simulator: no user %d", id)
	}
	was, err := parse(cmp.Or(a.otherInfo, "{}"))
	if err != nil {
		return fmt.Errorf("simulator: otherInfo of user %d: %w", id, err)
	}
	if value == "" {
		was.remove(key)
	} else {
		v, err := parse(value)
		if err != nil {
			return fmt.Errorf("simulator: value for %s of user %d: %w", key, id, err)
		}
		was.set(key, v)
	}
	s.store(id, object(was.members).raw, true)
	return nil
}

// store keeps a new otherInfo. Foreign says whether keys other than ours may have changed.
func (s *Simulator) store(id int64, raw string, foreign bool) {
	o := s.options()
	a := s.world.users[id]
	if a == nil {
		return
	}
	was := a.record
	r := &record{
		rowID: was.rowID, id: id, username: was.username, externalID: was.externalID, firstName: was.firstName, lastName: was.lastName, role: was.role,
		sms: was.sms, invited: was.invited, created: was.created, modified: o.serverNow(), otherInfo: raw, unwritable: was.unwritable, kind: was.kind, meta: was.meta,
	}
	if foreign {
		r.unwritable = unwritable(raw, o.FragmentKey)
	}
	a.record = r
}

// unwritable says why a user's otherInfo could not be written back with a fragment in it, or "".
func unwritable(raw, fragmentKey string) string {
	n, err := parse(cmp.Or(raw, "{}"))
	if err != nil {
		return err.Error()
	}
	if n.kind == 'n' {
		return ""
	}
	if n.kind == '{' {
		n.set(fragmentKey, node{kind: 'n', raw: "null"})
	}
	return otherInfoRefusal(&n)
}

// AddParticipant adds a NameCoach row, as of now unless Updated says otherwise, and returns its id.
func (s *Simulator) AddParticipant(p Participant) int64 {
	o := s.options()
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	p.ID = w.nextPart
	w.nextPart++
	if p.Updated.IsZero() {
		p.Updated = o.serverNow()
	}
	p.Updated = p.Updated.UTC()
	if p.Kind == "" && p.For == 0 {
		p.Kind = cmp.Or(Kind(p.Held), Unmatched)
	}
	place := &listed{now: &p}
	w.participants[p.ID] = place
	w.showLater(o, place, &p)
	return p.ID
}

func (w *world) showLater(o *Options, place *listed, row *Participant) {
	if o.LateVisible == 0 {
		w.show(place, row)
		return
	}
	w.late = append(w.late, lateChange{o.serverNow().Add(o.LateVisible), place, row})
}

// UpdateParticipant changes a row and sets its update time to now. It reports whether there is such a row.
func (s *Simulator) UpdateParticipant(id int64, change func(*Participant)) bool {
	o := s.options()
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	place := w.participants[id]
	if place == nil {
		return false
	}
	row := *place.now
	row.Custom = maps.Clone(row.Custom)
	change(&row)
	row.ID, row.Updated = id, o.serverNow()
	place.now = &row
	w.showLater(o, place, &row)
	return true
}

// RemoveRecording takes a row's recording away, as DELETE …/pronunciations does.
func (s *Simulator) RemoveRecording(id int64) bool {
	return s.UpdateParticipant(id, func(p *Participant) { p.RecordingLink, p.RecordingID, p.RecordingDate = "", "", "" })
}

// DeleteParticipant takes a row out of NameCoach. No window will ever show that (it is why a census exists).
func (s *Simulator) DeleteParticipant(id int64) bool {
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	place := w.participants[id]
	if place == nil {
		return false
	}
	w.show(place, nil)
	delete(w.participants, id)
	return true
}

// Users are all directory users, by id.
func (s *Simulator) Users() []UserInfo {
	s.world.mu.RLock()
	defer s.world.mu.RUnlock()
	var all []UserInfo
	for _, id := range slices.Sorted(maps.Keys(s.world.users)) {
		r := s.world.users[id].record
		all = append(all, UserInfo{r.id, r.rowID, r.username, r.externalID, r.kind, strings.TrimSpace(r.firstName + " " + r.lastName), r.invited})
	}
	return all
}

// Participants are all NameCoach rows as they are now, by id.
func (s *Simulator) Participants() []Participant {
	s.world.mu.RLock()
	defer s.world.mu.RUnlock()
	var all []Participant
	for _, id := range slices.Sorted(maps.Keys(s.world.participants)) {
		all = append(all, *s.world.participants[id].now)
	}
	return all
}

// UserOtherInfo is a user's otherInfo as stored; "" where it is absent or there is no such user.
func (s *Simulator) UserOtherInfo(id int64) string {
	s.world.mu.RLock()
	defer s.world.mu.RUnlock()
	if a := s.world.users[id]; a != nil {
		return a.otherInfo
	}
	return ""
}

// ForeignDigests has for each user a digest of every top-level key of otherInfo that is not the bridge's own: the given keys, or the nested
// and flat layouts' keys where none is given. Equal digests mean that nothing foreign changed: white space, the order of an object's
// members and the spelling of a string's escapes do not count, a number's digits do.
func (s *Simulator) ForeignDigests(own ...string) map[int64]string {
	digests := make(map[int64]string)
	s.eachForeign(own, func(id int64, foreign node) {
		sum := sha256.Sum256(appendCanonical(nil, &foreign))
		digests[id] = hex.EncodeToString(sum[:16])
	})
	return digests
}

// CountForeign is the number of foreign keys of all users together.
func (s *Simulator) CountForeign(own ...string) int {
	count := 0
	s.eachForeign(own, func(_ int64, foreign node) { count += len(foreign.members) })
	return count
}

func (s *Simulator) eachForeign(own []string, do func(int64, node)) {
	o := s.options()
	if len(own) == 0 {
		own = ownKeys(o.FragmentKey)
	}
	s.world.mu.RLock()
	records := make([]*record, 0, len(s.world.users))
	for _, a := range s.world.users {
		records = append(records, a.record)
	}
	s.world.mu.RUnlock()
	for _, r := range records {
		n, err := parse(cmp.Or(r.otherInfo, "{}"))
		if err != nil {
			n = node{kind: '"', text: r.otherInfo}
		}
		for _, key := range own {
			n.remove(key)
		}
		if n.kind == 'n' {
			n = node{kind: '{'} // null and {} are the same to whoever reads it
		}
		if o.DropNulls {
			n = dropNulls(n)
		}
		do(r.id, n)
	}
}

// ownKeys are the keys of the nested and of the flat layout (design of the fragment: five keys).
func ownKeys(key string) []string {
	own := []string{key}
	for _, field := range []string{"name_badge_link", "recording_link", "recording_id", "recording_date", "event_title"} {
		own = append(own, key+"_"+field)
	}
	return own
}
