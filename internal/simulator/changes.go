package simulator

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

func (l *Life) recordsAnew(c *Change) bool {
	p := l.anyRow(func(p *Participant) bool { return p.For != 0 && p.recorded() })
	return l.records(c, p)
}

func (l *Life) recordsFirst(c *Change) bool {
	p := l.anyRow(func(p *Participant) bool {
		return p.For != 0 && strings.TrimSpace(p.NameBadgeLink) != "" && linkRefusal(p.NameBadgeLink) == "" &&
			!slices.ContainsFunc(l.w.ties.byUser[p.For], func(q *listed) bool { return q.now.recorded() })
	})
	return l.records(c, p)
}

func (l *Life) records(c *Change, p *listed) bool {
	if p == nil {
		return false
	}
	l.about(c, p)
	l.w.update(l.o, p, l.record)
	return true
}

// record gives a row a recording that nobody has had.
func (l *Life) record(row *Participant) {
	l.w.recordings++
	number := 1_000_000_000 + l.w.recordings
	if row.RecordingIDNumber = l.r.IntN(5) == 0; row.RecordingIDNumber {
		row.RecordingID = fmt.Sprint(number)
	} else {
		row.RecordingID = fmt.Sprintf("recording_%016x%016x", l.r.Uint64(), number)
	}
	row.RecordingLink = fmt.Sprintf("https://namewaves.s3.amazonaws.com/%s.mp3?digest=%016x", strings.TrimPrefix(row.RecordingID, "recording_"), l.r.Uint64())
	row.RecordingDate = l.o.nameCoachNow().Format("2006-01-02T15:04:05.000-07:00")
}

func (l *Life) removesRecording(c *Change) bool {
	p := l.anyRow(func(p *Participant) bool {
		return p.For != 0 && p.recorded() && strings.TrimSpace(p.NameBadgeLink) != "" && !l.moved[p.ID]
	})
	if p == nil {
		return false
	}
	l.about(c, p)
	l.w.update(l.o, p, silence)
	return true
}

func (l *Life) joinsNameCoach(c *Change) bool {
	again := l.r.IntN(3) == 0 // one more event for somebody who is in one
	fit := func(a *account) bool {
		rows := l.w.ties.byUser[a.id]
		return l.whole(a) && !l.w.shared(a) && !l.w.left[fold(a.username)] && l.reachable(a) && (len(rows) > 0) == again &&
			!slices.ContainsFunc(rows, func(p *listed) bool { return l.w.left[p.now.Person()] })
	}
	a := l.anyUser(fit)
	if a == nil {
		again = !again
		a = l.anyUser(fit)
	}
	if a == nil {
		return false
	}
	p := nameOf(a)
	var k keys
	taken := map[string]bool{} // events that the person is in
	if rows := l.w.ties.byUser[a.id]; again {
		like := rows[l.r.IntN(len(rows))].now
		k = keys{strings.TrimSpace(like.Email), like.InstitutionID, false}
		for _, p := range l.w.ties.byPerson[like.Person()] {
			taken[p.now.EventAccessCode] = true
		}
	} else {
		k = l.g.keys(p)
	}
	events := slices.DeleteFunc(slices.Clone(l.g.events), func(e Event) bool { return taken[e.AccessCode] })
	if len(events) == 0 {
		return false
	}
	row := l.g.at(p, pick(l.g, events))
	row.For, row.Kind, row.Email, row.InstitutionID = 0, Recorded, k.email, k.institution
	if k.email != "" {
		row.Email = l.g.spelled(k.email)
	}
	if l.g.chance(0.7) {
		l.record(&row)
	}
	l.watch(a.id)
	place := l.w.register(l.o, row)
	c.User = a.id
	l.about(c, place)
	l.relink(place.now.Person())
	return true
}

// reachable users have a key that a row can name them by.
func (l *Life) reachable(a *account) bool {
	return strings.Contains(a.username, "@") || strings.TrimSpace(a.externalID) != ""
}

// nameOf is a user as a person of that name.
func nameOf(a *account) person {
	plain := func(s string) string {
		return strings.Map(func(c rune) rune {
			if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
				return c
			}
			return -1
		}, strings.ToLower(s))
	}
	local, _, _ := strings.Cut(a.username, "@")
	given, family, _ := strings.Cut(local, ".")
	return person{a.record, personName{a.firstName, cmp.Or(plain(given), "user")}, personName{a.lastName, cmp.Or(plain(family), fmt.Sprint(a.id))}}
}

func (l *Life) joinsBLN(c *Change) bool {
	p := l.anyRow(func(p *Participant) bool {
		return p.For == 0 && p.Held == "" && p.Person() != "" && !l.w.left[p.Person()]
	})
	if p == nil {
		return false
	}
	row := p.now
	id := l.w.nextUser
	u := NewUser{Username: strings.TrimSpace(row.Email), FirstName: row.FirstName, LastName: row.LastName, OtherInfo: l.g.otherInfo(id), Invited: l.g.chance(0.1)}
	if u.Username == "" || l.g.chance(0.5) {
		u.ExternalID = strings.TrimSpace(row.InstitutionID)
	}
	switch {
	case u.Username == "":
		u.Username = l.g.address(fmt.Sprintf("new.member%d", id), "demo.example")
	case l.g.chance(0.5):
		u.Username = strings.ToLower(u.Username)
	}
	a := l.w.join(l.o, u)
	c.At, c.User = l.o.blnNow(), a.id
	l.about(c, p)
	l.watch(a.id)
	l.relink(l.bearers(a)...)
	return true
}

func (l *Life) leavesNameCoach(c *Change) bool {
	everywhere := l.r.IntN(2) == 0 // or from one event
	leaving := func(p *Participant) []*listed {
		all := l.w.ties.byPerson[p.Person()]
		if everywhere {
			return all
		}
		for _, q := range all {
			if q.now.ID != p.ID && q.now.EventAccessCode == p.EventAccessCode {
				return nil
			}
		}
		return []*listed{l.w.participants[p.ID]}
	}
	p := l.anyRow(func(p *Participant) bool {
		rows := leaving(p)
		return p.For != 0 && len(rows) > 0 && !l.w.left[p.Person()] && l.keeps(p.Person(), rows) &&
			!slices.ContainsFunc(rows, func(p *listed) bool { return l.touched[p.now.ID] })
	})
	if p == nil {
		return false
	}
	for _, q := range slices.Clone(leaving(p.now)) {
		l.about(c, q)
		l.w.delete(q)
	}
	return true
}

// keeps reports whether a person's other rows would be whose they are without these.
func (l *Life) keeps(person string, without []*listed) bool {
	rest := slices.DeleteFunc(slices.Clone(l.w.ties.byPerson[person]), func(p *listed) bool { return slices.Contains(without, p) })
	user, held := l.w.whose(rowsNow(rest))
	return !slices.ContainsFunc(rest, func(p *listed) bool { return p.now.For != user || p.now.Held != held })
}

func (l *Life) correctsAddress(c *Change) bool {
	for _, variety := range l.r.Perm(3) {
		if l.corrects(c, variety) {
			return true
		}
	}
	return false
}

func (l *Life) corrects(c *Change, variety int) bool {
	p := l.anyRow(func(p *Participant) bool {
		// That it is the same row can be seen by its badge.
		if strings.TrimSpace(p.NameBadgeLink) == "" || l.touched[p.ID] && !l.moved[p.ID] || l.w.left[p.Person()] || !l.keeps(p.Person(), []*listed{l.w.participants[p.ID]}) {
			return false
		}
		switch a := l.w.users[p.For]; variety {
		case 0: // an address that was nobody's
			return p.For == 0 && p.Held == ""
		case 1: // the institution id goes on naming the user
			return a != nil && l.whole(a) && strings.TrimSpace(a.externalID) != "" && !l.w.shared(a)
		default: // an address that was somebody else's
			return a != nil && l.whole(a)
		}
	})
	if p == nil {
		return false
	}
	was := p.now
	of := l.w.users[was.For]
	if variety != 1 {
		of = l.anyUser(func(a *account) bool {
			return a.id != was.For && l.whole(a) && !l.w.shared(a) && l.reachable(a) && !l.w.left[fold(a.username)] && !l.w.left[strings.TrimSpace(a.externalID)]
		})
	}
	if of == nil {
		return false
	}
	l.about(c, p)
	l.moved[p.now.ID] = true
	l.watch(of.id)
	c.User = of.id
	l.w.update(l.o, p, func(row *Participant) {
		row.Email, row.InstitutionID = "", of.externalID
		switch {
		case variety == 1:
			row.Email = l.g.address("corrected."+nameOf(of).given.ascii, "home.example")
		case strings.Contains(of.username, "@"):
			row.Email = l.g.spelled(of.username)
		}
	})
	l.relink(was.Person(), p.now.Person())
	return true
}

func (l *Life) leavesBLN(c *Change) bool {
	a := l.anyUser(l.whole)
	if a == nil {
		return false
	}
	l.named(c, a)
	c.Gone = a.id
	people := l.bearers(a)
	l.leave(a, people)
	return true
}

func (l *Life) merges(c *Change) bool {
	kept := l.anyUser(l.whole)
	gone := l.anyUser(func(a *account) bool { return a != kept && l.whole(a) })
	if kept == nil || gone == nil {
		return false
	}
	l.named(c, kept)
	c.Gone = gone.id
	people := append(l.bearers(gone), l.bearers(kept)...)
	l.watch(kept.id)
	inherits := strings.TrimSpace(kept.externalID) == "" && strings.TrimSpace(gone.externalID) != "" && !l.w.shared(gone)
	l.leave(gone, nil)
	if inherits {
		l.w.rename(l.o, kept, gone.externalID)
	}
	l.relink(people...)
	return true
}

// leave takes a user out of the directory; people are those who may have been linked to it.
func (l *Life) leave(a *account, people []string) {
	for _, p := range l.w.ties.byUser[a.id] {
		l.touched[p.now.ID] = true
	}
	l.w.leave(a.id)
	l.relink(people...)
}

func (l *Life) changesExternalID(c *Change) bool {
	a := l.anyUser(func(a *account) bool { return l.whole(a) && strings.TrimSpace(a.externalID) != "" })
	if a == nil {
		return false
	}
	l.named(c, a)
	people := l.bearers(a)
	l.watch(a.id)
	id := fmt.Sprintf("C-%d-%d", a.id, l.n)
	if strings.Contains(a.username, "@") && l.r.IntN(6) == 0 {
		id = ""
	}
	l.w.rename(l.o, a, id)
	l.relink(people...)
	return true
}

// bearers are the people who have a key of that user, or the address of one with the same external id.
func (l *Life) bearers(a *account) []string {
	var people []string
	id := strings.TrimSpace(a.externalID)
	for _, b := range append([]*account{a}, l.w.ties.byExternal[id]...) {
		for _, p := range l.w.ties.byPerson[fold(b.username)] {
			people = append(people, p.now.Person())
		}
	}
	for _, p := range l.w.ties.byID[id] {
		people = append(people, p.now.Person())
	}
	return people
}

// editable users have an otherInfo that another application can write to.
func (l *Life) editable(a *account) bool {
	n, err := parse(cmp.Or(a.theirs, "{}"))
	return err == nil && (n.kind == '{' || n.kind == 'n') && l.undisturbed(a)
}

func (l *Life) otherAppWrites(c *Change) bool {
	a := l.anyUser(l.editable)
	if a == nil {
		return false
	}
	theirs := foreignPart(l.o, a.theirs, l.o.own())
	key, value := fmt.Sprintf("app-%d_%s", l.n, pick(l.g, freeKeys)), pick(l.g, freeValues)
	if len(theirs.members) > 0 && (len(theirs.members) > 95 || l.r.IntN(2) == 0) {
		was := &theirs.members[l.r.IntN(len(theirs.members))]
		key = was.key
		switch documented := slices.Contains(documentedKeys, key); {
		case l.r.IntN(10) == 0:
			value = ""
		case documented:
			value = l.g.documented(key, a.id)
		default:
			for value == was.value.raw {
				value = pick(l.g, freeValues)
			}
		}
	}
	return l.edits(c, a, key, value)
}

// spoilt are values that others might put under our key.
var spoilt = []string{
	`"somebody was here"`, `{}`, `[]`, `{"name_badge_link":"https://www.name-coach.com/somebody-else","recording_link":null}`, `{"note":"ours now"}`, "17",
}

func (l *Life) fragmentOverwritten(c *Change) bool { return l.drifts(c, pick(l.g, spoilt)) }

func (l *Life) fragmentRemoved(c *Change) bool { return l.drifts(c, "") }

// drifts does to the fragment what only the bridge may.
func (l *Life) drifts(c *Change, value string) bool {
	a := l.anyUser(func(a *account) bool {
		u, _ := a.truth(rowsNow(l.w.ties.byUser[a.id]))
		return u.Fragment != nil && l.whole(a) && l.editable(a)
	})
	if a == nil || !l.edits(c, a, l.o.FragmentKey, value) {
		return false
	}
	c.Users = []int64{a.id}
	if value != "" {
		p := l.w.pastOf(a.id)
		p.foreign = append(p.foreign, value)
	}
	return true
}

func (l *Life) edits(c *Change, a *account, key, value string) bool {
	l.watch(a.id)
	if err := l.w.edit(l.o, a, key, value); err != nil {
		return false
	}
	l.named(c, a)
	c.Key = key
	return true
}

// named says whom of the directory a change is about.
func (l *Life) named(c *Change, a *account) {
	c.At, c.User, c.Name = l.o.blnNow(), a.id, clean(a.firstName+" "+a.lastName)
}

// about says which row a change is about, before it is changed.
func (l *Life) about(c *Change, p *listed) {
	l.watch(p.now.For)
	l.touched[p.now.ID] = true
	c.User = cmp.Or(c.User, p.now.For)
	c.Name = cmp.Or(c.Name, clean(p.now.FirstName+" "+p.now.LastName))
	c.Participants = append(c.Participants, p.now.ID)
}
