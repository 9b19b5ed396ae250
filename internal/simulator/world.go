package simulator

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
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
	stored               atomic.Pointer[stored]
}

// clone is a record to be changed before it takes the other's place.
func (r *record) clone() *record {
	c := &record{
		rowID: r.rowID, id: r.id, username: r.username, externalID: r.externalID, firstName: r.firstName, lastName: r.lastName, role: r.role, sms: r.sms,
		invited: r.invited, created: r.created, modified: r.modified, otherInfo: r.otherInfo, unwritable: r.unwritable, kind: r.kind, meta: r.meta,
	}
	c.text.Store(r.text.Load())
	return c
}

// account is a place in the directory; its record is replaced at every change.
type account struct {
	*record
	theirs string // otherInfo as everybody but the bridge has left it: no PUT changes it
}

// listed is a participant's place in the world: as it is, and as the server shows it so far (Options.LateVisible).
type listed struct {
	now, shown *Participant // nil: deleted; not seen yet
	made, seen int          // changes, and the last of them that shows
}

type lateChange struct {
	at    time.Time
	place *listed
	row   *Participant
	n     int // its number among the changes of that row
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
	recordings   int64            // made since the world was

	ties    *ties                    // nil until asked for
	deleted map[int64][]*Participant // rows that are gone, by the user whose they were
	left    map[string]bool          // people of whom a row is gone
	past    map[int64]*past
	sieve   *sieve     // nil until somebody queries
	rand    *rand.Rand // for Options.LateVisibleUpTo
}

// Event is one NameCoach event (a name page).
type Event struct{ Title, Slug, AccessCode, Code string }

func newWorld(seed uint64) *world {
	return &world{
		deleted: map[int64][]*Participant{}, left: map[string]bool{}, past: map[int64]*past{}, rand: rand.New(rand.NewPCG(seed, 0x1a7e)),
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
	a := &account{r, r.otherInfo}
	w.users[r.id] = a
	if w.ties != nil {
		w.ties.name(a)
	}
	w.misread(a)
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

func forget[K, V comparable](index map[K][]V, key K, v V) {
	kept := slices.DeleteFunc(index[key], func(other V) bool { return other == v })
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
		if at := c.place; at.now != nil && c.n > at.seen { // of two changes the later may show first: no row goes back
			at.seen = c.n
			w.show(at, c.row)
		}
		return true
	})
}

// AddUser adds a directory user, as of now unless Created says otherwise, and returns its user id.
func (s *Simulator) AddUser(u NewUser) int64 {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	return s.world.join(s.options(), u).id
}

func (w *world) join(o *Options, u NewUser) *account {
	r := &record{
		rowID: w.nextRow + 10_000, id: w.nextUser, username: u.Username, externalID: u.ExternalID, firstName: u.FirstName, lastName: u.LastName,
		role: cmp.Or(u.Role, "member"), invited: u.Invited, created: u.Created.UTC(), otherInfo: u.OtherInfo, kind: cmp.Or(u.Kind, Nothing),
	}
	if u.Created.IsZero() {
		r.created = o.blnNow()
	}
	if !o.HiddenFractions {
		r.created = r.created.Truncate(time.Second)
	}
	r.unwritable = unwritable(r.otherInfo, o.FragmentKey)
	a := w.addUser(r)
	at, _ := slices.BinarySearchFunc(w.byCreated, a, byCreated)
	w.byCreated = slices.Insert(w.byCreated, at, a)
	return a
}

// RemoveUser takes a user out of the organization; rows that were theirs belong to nobody from now on.
func (s *Simulator) RemoveUser(id int64) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.world.leave(id)
}

func (w *world) leave(id int64) {
	a := w.users[id]
	if a == nil {
		return
	}
	for _, p := range slices.Clone(w.tied().byUser[id]) {
		w.decree(p, 0, "")
	}
	if at, ok := slices.BinarySearchFunc(w.byCreated, a, byCreated); ok {
		w.byCreated = slices.Delete(w.byCreated, at, at+1)
	}
	forget(w.byUsername, fold(a.username), a)
	w.byName = nil
	w.ties.unname(a)
	delete(w.users, id)
	delete(w.deleted, id)
}

// SetOtherInfo replaces a user's whole otherInfo, valid JSON or not, as somebody else's work; "" makes it absent.
func (s *Simulator) SetOtherInfo(id int64, raw string) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	if a := s.world.users[id]; a != nil {
		a.theirs = raw
		s.world.store(s.options(), a, raw, true)
	}
}

// EditOtherInfo sets one top-level key to a JSON value, or removes it where value is "", as somebody else's work.
func (s *Simulator) EditOtherInfo(id int64, key, value string) error {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	a := s.world.users[id]
	if a == nil {
		return fmt.Errorf("simulator: no user %d", id)
	}
	return s.world.edit(s.options(), a, key, value)
}

func (w *world) edit(o *Options, a *account, key, value string) error {
	stored, err := edited(a.otherInfo, key, value)
	if err != nil {
		return fmt.Errorf("simulator: %s of user %d: %w", key, a.id, err)
	}
	if a.theirs == a.otherInfo {
		a.theirs = stored
	} else if a.theirs, err = edited(a.theirs, key, value); err != nil { // what a PUT has lost stays lost: the edit is all that is known of theirs
		return fmt.Errorf("simulator: %s of user %d: %w", key, a.id, err)
	}
	w.store(o, a, stored, true)
	return nil
}

// edited is an otherInfo with one key set or removed.
func edited(otherInfo, key, value string) (string, error) {
	was, err := parse(cmp.Or(otherInfo, "{}"))
	if err != nil {
		return "", err
	}
	if value == "" {
		was.remove(key)
	} else {
		v, err := parse(value)
		if err != nil {
			return "", err
		}
		was.set(key, v)
	}
	return object(was.members).raw, nil
}

// store keeps a new otherInfo. Foreign says whether keys other than ours may have changed.
func (w *world) store(o *Options, a *account, raw string, foreign bool) {
	r := a.clone()
	r.modified, r.otherInfo = o.blnNow(), raw
	a.record = r
	if foreign {
		r.unwritable = unwritable(raw, o.FragmentKey)
		w.misread(a)
	}
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
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	return s.world.register(s.options(), p).now.ID
}

func (w *world) register(o *Options, p Participant) *listed {
	p.ID = w.nextPart
	w.nextPart++
	if p.Updated.IsZero() {
		p.Updated = o.nameCoachNow()
	}
	p.Updated = p.Updated.UTC()
	if p.Kind == "" && p.For == 0 {
		p.Kind = cmp.Or(Kind(p.Held), Unmatched)
	}
	place := &listed{}
	w.participants[p.ID] = place
	w.set(place, &p)
	w.showLater(o, place, &p)
	return place
}

// showLater shows a row when its time has come: at once unless Options say otherwise.
func (w *world) showLater(o *Options, place *listed, row *Participant) {
	delay := o.LateVisible
	if o.LateVisibleUpTo > 0 {
		delay += time.Duration(w.rand.Int64N(int64(o.LateVisibleUpTo) + 1))
	}
	place.made++
	if delay == 0 {
		place.seen = place.made
		w.show(place, row)
		return
	}
	w.late = append(w.late, lateChange{o.nameCoachNow().Add(delay), place, row, place.made})
}

// UpdateParticipant changes a row and sets its update time to now. It reports whether there is such a row.
func (s *Simulator) UpdateParticipant(id int64, change func(*Participant)) bool {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	place := s.world.participants[id]
	if place != nil {
		s.world.update(s.options(), place, change)
	}
	return place != nil
}

func (w *world) update(o *Options, place *listed, change func(*Participant)) {
	row := *place.now
	row.Custom = maps.Clone(row.Custom)
	change(&row)
	row.ID, row.Updated = place.now.ID, o.nameCoachNow()
	w.set(place, &row)
	w.showLater(o, place, &row)
}

// RemoveRecording takes a row's recording away, as DELETE …/pronunciations does.
func (s *Simulator) RemoveRecording(id int64) bool { return s.UpdateParticipant(id, silence) }

func silence(p *Participant) {
	p.RecordingLink, p.RecordingID, p.RecordingDate, p.RecordingIDNumber = "", "", "", false
}

// DeleteParticipant takes a row out of NameCoach. No window will ever show that (it is why a census exists).
func (s *Simulator) DeleteParticipant(id int64) bool {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	place := s.world.participants[id]
	if place != nil {
		s.world.delete(place)
	}
	return place != nil
}

func (w *world) delete(place *listed) {
	row := place.now
	w.left[row.Person()] = true
	if row.For != 0 {
		w.deleted[row.For] = append(w.deleted[row.For], row)
	}
	w.show(place, nil)
	w.set(place, nil)
	delete(w.participants, row.ID)
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
