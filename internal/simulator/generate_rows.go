package simulator

import (
	"fmt"
	"strings"
	"time"
)

// spelled is an address as another system spells it.
func (g *generator) spelled(address string) string {
	switch x := g.r.IntN(100); {
	case x < 12:
		return strings.ToUpper(address[:1]) + address[1:]
	case x < 18:
		return strings.ToUpper(address)
	case x < 20:
		return " " + address + " "
	case x < 25:
		return strings.ToLower(address)
	}
	return address
}

// row is a participant of the world.
func (g *generator) row(p Participant) *Participant {
	p.ID = g.w.nextPart
	g.w.nextPart++
	p.Updated = g.updated()
	place := &listed{now: &p, shown: &p}
	g.w.participants[p.ID] = place
	g.w.byUpdated = append(g.w.byUpdated, &p)
	g.w.index(place)
	return &p
}

// updated is an update time: single changes, and imports of a whole list in one second.
func (g *generator) updated() time.Time {
	if g.rowBulk == 0 {
		g.rowTime = g.last.Add(-time.Duration(g.r.Int64N(int64(5 * 365 * 24 * time.Hour)))).Truncate(time.Millisecond)
		if g.rowBulk = 1; g.chance(0.005) {
			g.rowBulk, g.rowTime = 50+g.r.IntN(200), g.rowTime.Truncate(time.Second)
		}
	}
	g.rowBulk--
	return g.rowTime
}

// at puts a participant of that name into an event, with a badge but no recording.
func (g *generator) at(p person, e Event) Participant {
	row := Participant{
		FirstName: p.firstName, LastName: p.lastName, EventTitle: e.Title, EventSlug: e.Slug, EventAccessCode: e.AccessCode, EventCode: e.Code,
		NameBadgeLink: g.badge(p), For: p.id, Kind: p.kind,
	}
	switch {
	case g.chance(0.05):
		row.Photo = fmt.Sprintf("https://www.name-coach.com/photos/%d.jpg", g.w.nextPart)
	case g.chance(0.3):
		row.Custom = pick(g, customs)
	}
	if g.chance(0.01) {
		row.NameBadgeLink = " " + row.NameBadgeLink + "\n"
	}
	return row
}

// customs are shared between rows, which never change in place.
var customs = []map[string]string{
	{"custom_gender_pronouns": "she/her"},
	{"custom_gender_pronouns": "he/him", "legal_first_name": "Johny 1"},
	{"custom_gender_pronouns": "they/them"},
	{"custom_gender_pronouns": "xe / xyr ✨", "custom_honorific": "Dr."},
	{"custom_gender_pronouns": "", "legal_first_name": "A\x00B"},
}

// badge is a link whose base and slug differ from row to row (NC 106, 121, 136, 475).
func (g *generator) badge(p person) string {
	slug := p.given.ascii + "-" + p.family.ascii
	switch g.r.IntN(3) {
	case 0:
		return fmt.Sprintf("https://www.name-coach.com/%s-%08x-%04x-4d53-4995-%012x", slug, g.r.Uint32(), g.r.IntN(1<<16), g.w.nextPart)
	case 1:
		return fmt.Sprintf("https://www.name-coach.com/%s-%d", slug, g.w.nextPart)
	}
	return fmt.Sprintf("https://www.name-coach.com/images/%s%d", strings.ReplaceAll(slug, "-", ""), g.w.nextPart)
}

// record gives a row a recording.
func (g *generator) record(row *Participant) {
	number := g.w.nextPart
	row.RecordingID = fmt.Sprintf("recording_%016x%016x", g.r.Uint64(), number)
	if g.chance(0.35) {
		row.RecordingID = fmt.Sprint(number)
		row.RecordingIDNumber = g.chance(0.2)
	}
	row.RecordingLink = fmt.Sprintf("https://namewaves.s3.amazonaws.com/%s.mp3?digest=%016x%016x", strings.TrimPrefix(row.RecordingID, "recording_"), g.r.Uint64(), number)
	if g.chance(0.01) {
		row.RecordingLink = "\t" + row.RecordingLink + "  "
	}
	if g.chance(0.005) {
		row.NameBadgeLink = "" // a recording without a badge
	}
}

// appearances is how many events somebody is in: mostly one, seen are up to 34.
func (g *generator) appearances() int {
	switch x := g.r.IntN(1000); {
	case x < 740:
		return 1
	case x < 900:
		return 2
	case x < 960:
		return 3
	case x < 988:
		return 4 + g.r.IntN(4)
	case x < 998:
		return 8 + g.r.IntN(8)
	case x < 999:
		return 34
	}
	return 20 + g.r.IntN(14)
}

// keys are the address and institution id of a person's rows, such that they lead to that user and to nobody else.
type keys struct {
	email, institution string
	stale              bool // the institution id is one that nobody has: it does not stop the address from deciding
}

func (g *generator) keys(p person) keys {
	addressed := strings.Contains(p.username, "@")
	if p.externalID == "" {
		if g.chance(0.15) {
			return keys{p.username, fmt.Sprintf("OLD-%d", p.id), true}
		}
		return keys{p.username, "", false}
	}
	own := p.externalID
	if g.chance(0.01) {
		own += " "
	}
	switch x := g.r.IntN(100); {
	case !addressed && x < 50:
		return keys{"", own, false}
	case !addressed || x < 8: // an address that BLN does not know
		return keys{g.address(p.given.ascii+"."+p.family.ascii, "home.example"), own, false}
	case x < 12:
		return keys{"", own, false}
	case x < 35:
		return keys{p.username, "", false}
	case x < 43:
		return keys{p.username, fmt.Sprintf("OLD-%d", p.id), true}
	}
	return keys{p.username, own, false}
}

// participants makes a user's rows: one for each event, at least one with a recording where the user is to have one.
func (g *generator) participants(p person, as Kind) {
	k := g.keys(p)
	n := g.appearances()
	heard := g.r.IntN(n) // the row that has a recording in any case
	var rows []*Participant
	for i, e := range g.r.Perm(len(g.events))[:n] {
		row := g.at(p, g.events[e])
		row.Email, row.InstitutionID = k.email, k.institution
		if k.email != "" {
			row.Email = g.spelled(k.email)
			if i > 0 && g.chance(0.1) {
				row.InstitutionID = "" // one event knows the id, another does not
			}
		}
		switch {
		case as == Recorded && (i == heard || g.chance(0.4)):
			g.record(&row)
		case g.chance(0.03):
			row.RecordingLink = pick(g, []string{"  ", "\t"}) // blank is none
		}
		rows = append(rows, g.row(row))
	}
	switch {
	case as == Recorded && g.chance(0.01): // a link that must not be written, where it is never chosen
		row := g.at(p, Event{"Zzz last event", "zzz-last", "ZZZZZ", "FFFFFF"})
		row.Email, row.InstitutionID = k.email, k.institution
		row.NameBadgeLink = "http://evil.example/badge"
		g.row(row)
	case g.chance(0.01) && k.email != "": // twice in one event: the institution ids decide, neither of which anybody else has
		twin := *rows[0]
		twin.InstitutionID, twin.NameBadgeLink = "ZZ-"+fmt.Sprint(p.id), g.badge(p)
		if strings.TrimSpace(rows[0].InstitutionID) != "" {
			g.row(twin)
		}
	case g.chance(0.01) && rows[0].NameBadgeLink != "" && rows[0].NameBadgeLink == strings.TrimSpace(rows[0].NameBadgeLink):
		// twice in one event with the same keys: the badge links decide
		twin := *rows[0]
		twin.NameBadgeLink = g.badge(p)
		g.row(twin)
	}
}

// refused makes rows whose chosen one has a link that must not be written.
func (g *generator) refused(p person) {
	k := g.keys(p)
	row := g.at(p, pick(g, g.events))
	row.Email, row.InstitutionID = k.email, k.institution
	row.NameBadgeLink = g.badge(p)
	g.record(&row)
	row.NameBadgeLink = strings.TrimSpace(row.NameBadgeLink)
	switch g.next(Refused) % 9 {
	case 0:
		row.RecordingLink = "http" + strings.TrimPrefix(strings.TrimSpace(row.RecordingLink), "https")
	case 1:
		row.NameBadgeLink = "https://www.name-coach.com.evil.example/badge"
	case 2:
		row.NameBadgeLink = "javascript:alert(document.domain)"
	case 3:
		row.RecordingLink = "https://user:secret@namewaves.s3.amazonaws.com/1.mp3"
	case 4:
		row.RecordingLink = "https://namewaves.s3.amazonaws.com/" + strings.Repeat("a", 2000) + ".mp3"
	case 5:
		row.RecordingLink = "https://another-bucket.s3.amazonaws.com/1.mp3"
	case 6:
		row.NameBadgeLink = "https://www.name-coach.com/line\nbreak"
	case 7:
		row.NameBadgeLink = "//www.name-coach.com/no-scheme"
	case 8:
		row.NameBadgeLink = "https://www.name-coach.com@evil.example/"
	}
	g.row(row)
}

// ambiguous makes two users whom one key names, and the people who come with that key. Two users with the same externalId hold both,
// also where the address names one of them.
func (g *generator) ambiguous(a, b person) {
	variety := g.next(Ambiguous) % 7
	shared := g.externalID(a.id)
	a.externalID, b.externalID = shared, shared
	var people []keys
	switch variety {
	case 0:
		people = []keys{{"", shared, false}}
	case 1:
		people = []keys{{a.username, "", false}}
	case 2:
		people = []keys{{g.address(a.given.ascii+"."+a.family.ascii, "home.example"), shared, false}}
	case 3:
		people = []keys{{a.username, shared, false}}
	case 4: // two accounts whose addresses differ in case only
		a.externalID, b.externalID = g.externalID(a.id), g.externalID(b.id)
		b.username = strings.ToUpper(a.username)
		people = []keys{{a.username, "", false}}
	case 5:
		a.externalID, b.externalID = strings.TrimSpace(shared), " "+strings.TrimSpace(shared)+" "
		people = []keys{{"", strings.TrimSpace(shared), false}}
	case 6:
		people = []keys{{"", shared, false}, {b.username, "", false}}
	}
	for _, k := range people {
		g.nobodys(a, k, Ambiguous)
	}
}

// conflict makes a person whose address names one user and whose institution id names another.
func (g *generator) conflict(a, b person) {
	if g.next(Conflict)%2 == 0 {
		g.nobodys(a, keys{b.username, a.externalID, false}, Conflict)
		return
	}
	// Of two rows of one person only one contradicts: the whole person is held.
	g.nobodys(b, keys{b.username, "", false}, Conflict)
	g.nobodys(b, keys{b.username, a.externalID, false}, Conflict)
}

// nobodys makes a row that belongs to nobody, for a reason.
func (g *generator) nobodys(p person, k keys, why Kind) {
	row := g.at(p, pick(g, g.events))
	row.Email, row.InstitutionID = k.email, k.institution
	if k.email != "" {
		row.Email = g.spelled(k.email)
	}
	if g.chance(0.7) {
		g.record(&row)
	}
	row.For, row.Kind = 0, why
	if why != Unmatched {
		row.Held = string(why)
	}
	g.row(row)
}

// unmatched makes a person nobody in BLN is, in ways that invite a false link.
func (g *generator) unmatched(i int, people []person) {
	c := pick(g, cultures)
	p := person{given: pick(g, c.given), family: pick(g, c.family)}
	p.record = &record{firstName: p.given.written, lastName: p.family.written, kind: Unmatched}
	home := g.address(p.given.ascii+"."+p.family.ascii, "elsewhere.example")
	k := keys{home, "", false}
	other := pick(g, people)
	switch i % 6 {
	case 0:
		k.institution = fmt.Sprintf("GONE-%d", i)
	case 1:
		k = keys{"", fmt.Sprintf("GONE-%d", i), false}
	case 2: // the id of another in another case: ids are compared exactly
		if id := strings.TrimSpace(other.externalID); strings.HasPrefix(id, "S-") {
			k.institution = "s" + id[1:]
		}
	case 3: // an address that somebody entered about himself: not a key (BLN 7225)
		if mine := g.bystanderOf(people); mine != nil {
			k.email = g.address("work."+p.given.ascii, "mail.example")
			mine.otherInfo = withMember(mine.otherInfo, "workEmail", k.email)
		}
	case 4: // the name of a real user
		p.firstName, p.lastName = other.firstName, other.lastName
	case 5: // an address with more before it than a user's
		k.email = g.address("x"+fold(other.given.ascii)+"."+fold(other.family.ascii), "demo.example")
	}
	for range 1 + g.r.IntN(2) {
		g.nobodys(p, k, Unmatched)
	}
}

// bystanderOf is a user without participant whose otherInfo may still be added to.
func (g *generator) bystanderOf(people []person) *record {
	for range 50 {
		if p := pick(g, people); p.kind == Nothing && strings.HasPrefix(p.otherInfo, "{") {
			return p.record
		}
	}
	return nil
}

// bystander is a user without participant; some have in their otherInfo what belongs to others.
func (g *generator) bystander(p person, people []person) {
	if !strings.HasPrefix(p.otherInfo, "{") || !g.chance(0.05) {
		return
	}
	other := pick(g, people)
	switch g.r.IntN(3) {
	case 0:
		if other.externalID != "" { // `query` finds this user by another's external id
			p.otherInfo = withMember(p.otherInfo, "mobilePhone", strings.TrimSpace(other.externalID))
		}
	case 1: // the attempt to be given another's recording
		p.otherInfo = withMember(p.otherInfo, "personalEmail", other.username)
	case 2: // what does not write is nobody's concern where nothing is to be written
		p.otherInfo = withRaw(p.otherInfo, "learningRecords", `{"a":{"employerName":"Another employer"}}`)
		p.record.unwritable = "learningRecords"
	}
}
