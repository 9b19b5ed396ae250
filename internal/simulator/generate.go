package simulator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// lastUpdate is the newest moment in a generated world, unless the clock that it is made by is earlier: a fixed moment, so that the same seed
// gives the same world on another day.
var lastUpdate = time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)

// generator makes people. What should become of each is decided first; everything else is made to fit.
type generator struct {
	w       *world
	o       *Options
	r       *rand.Rand
	last    time.Time
	taken   map[string]bool // usernames, case-folded
	events  []Event
	created time.Time
	gap     int       // mean seconds between two imports
	bulk    int       // users still to come from the import at hand
	rowBulk int       // rows still to come from the import at hand
	rowTime time.Time // its moment
	edges   map[Kind]int
}

// person is a user in the making.
type person struct {
	*record
	given, family personName
}

func generate(w *world, o *Options) {
	g := &generator{
		w: w, o: o, r: rand.New(rand.NewPCG(o.Seed, 0x5eed)), last: lastUpdate, taken: map[string]bool{blnUsername: true}, edges: map[Kind]int{},
	}
	if limit := o.nameCoachNow().Add(-time.Hour).Truncate(time.Second); limit.Before(g.last) {
		g.last = limit
	}
	g.makeEvents()
	n := o.Users
	if n == 0 {
		return
	}
	g.created = g.last.AddDate(-6, 0, 0)
	g.gap = int(5*365*24*time.Hour/time.Second) / (n/5 + 1)
	kinds := g.kinds(n)
	// Row ids and user ids come from the same range but never agree: a client that mixes them up writes to somebody else.
	rowIDs := g.r.Perm(n)
	for i := range rowIDs {
		if rowIDs[i] == i {
			rowIDs[i], rowIDs[(i+1)%n] = rowIDs[(i+1)%n], rowIDs[i]
		}
	}
	people := make([]person, n)
	for i := range people {
		people[i] = g.user(int64(1000+i), int64(1000+rowIDs[i]), kinds[i])
	}
	waiting := map[Kind][]person{}
	for _, p := range people {
		switch p.kind {
		case Recorded, BadgeOnly:
			g.participants(p, p.kind)
		case Unwritable:
			g.unwritable(p)
			g.participants(p, []Kind{Recorded, BadgeOnly}[g.r.IntN(2)])
		case Refused:
			g.refused(p)
		case Ambiguous, Conflict:
			waiting[p.kind] = append(waiting[p.kind], p)
		case Nothing:
			g.bystander(p, people)
		}
	}
	for pair := range slices.Chunk(waiting[Ambiguous], 2) {
		g.ambiguous(pair[0], pair[1])
	}
	for pair := range slices.Chunk(waiting[Conflict], 2) {
		g.conflict(pair[0], pair[1])
	}
	for i := range g.share(n, 0.026) {
		g.unmatched(i, people)
	}
	for _, p := range people {
		w.byCreated = append(w.byCreated, w.addUser(p.record))
	}
	slices.SortFunc(w.byCreated, byCreated)
	slices.SortFunc(w.byUpdated, byUpdated)
}

// share is that part of n, at least one where n is enough for every kind to be there.
func (g *generator) share(n int, part float64) int {
	count := int(float64(n)*part + 0.5)
	if count == 0 && n >= 30 {
		return 1
	}
	return count
}

// kinds deals out the kinds, shuffled: every kind is in every stretch of the directory.
func (g *generator) kinds(n int) []Kind {
	var kinds []Kind
	add := func(k Kind, count int) {
		for range min(count, n-len(kinds)) {
			kinds = append(kinds, k)
		}
	}
	add(Ambiguous, 2*g.share(n, 0.004)) // in pairs
	add(Conflict, 2*g.share(n, 0.0035))
	add(Unwritable, g.share(n, 0.0065))
	add(Refused, g.share(n, 0.003))
	add(BadgeOnly, g.share(n, 0.162))
	add(Nothing, g.share(n, 0.17))
	add(Recorded, n)
	g.r.Shuffle(n, func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	return kinds
}

func (g *generator) chance(p float64) bool { return g.r.Float64() < p }

// pick is any of the list.
func pick[T any](g *generator, list []T) T { return list[g.r.IntN(len(list))] }

// next counts the specimens of a kind, so that every variety is there once before any is there twice.
func (g *generator) next(k Kind) int {
	g.edges[k]++
	return g.edges[k] - 1
}

func (g *generator) makeEvents() {
	titles := []string{
		"Fall 2024 Orientation", "Spring 2025 Commencement", "Staff", "Faculty of Nursing", "Rentrée 2024 – Génie", "MBA (Executive)", "新生说明会 2024",
		"يوم التخرج", "Graduation 🎓 2025", "Welding & HVAC", "Residence Life", "Athletics", "Class of '25", "Law \"Honours\"", "Alumni",
		"  Padded title \t", "NUL\x00 in the title", "Bidi \u202egnp.exe\u202c", "Isolates \u2066x\u2069 gone", "Lone \xed\xa0\xbd surrogate", "Line\nbreak",
		strings.Repeat("Long title of an event that nobody shortened ", 7) + "end",
		strings.Repeat("é", 254) + "🎓cut here", "", "Bell\a and C1 \u0085 here", "Back\\slash / slash", "<b>Markup</b> &amp; entity", "100 % – «quoted»",
	}
	for i := len(titles); i < 64; i++ {
		titles = append(titles, fmt.Sprintf("Section %d of %s", i, titles[i%15]))
	}
	seen := map[string]bool{}
	for i, title := range titles {
		code := fmt.Sprintf("%05X", g.r.IntN(1<<20))
		for seen[code] {
			code = fmt.Sprintf("%05X", g.r.IntN(1<<20))
		}
		seen[code] = true
		e := Event{Title: title, Slug: fmt.Sprintf("event-%d", i), AccessCode: code, Code: fmt.Sprintf("%06X", g.r.IntN(1<<24))}
		g.events = append(g.events, e)
		g.w.addEvent(e)
	}
}

// user makes a directory user.
func (g *generator) user(id, rowID int64, kind Kind) person {
	c := pick(g, cultures)
	p := person{given: pick(g, c.given), family: pick(g, c.family)}
	p.record = &record{id: id, rowID: rowID, kind: kind, role: "member", firstName: p.given.written, lastName: p.family.written}
	if g.chance(0.01) {
		p.role = pick(g, []string{"admin", "auditor"})
	}
	g.messUp(p.record)
	p.username = g.username(p)
	if g.chance(0.85) {
		p.externalID = g.externalID(id)
	}
	if kind == Ambiguous || kind == Conflict { // both keys are needed to tell two people apart
		p.username, p.externalID = g.address(p.given.ascii+"."+p.family.ascii, "demo.example"), g.externalID(id)
	}
	if !strings.Contains(p.username, "@") && p.externalID == "" {
		p.externalID = g.externalID(id) // some key there must be
	}
	p.invited = g.chance(0.04)
	if g.chance(0.05) {
		p.sms = fmt.Sprintf("+1500555%04d", g.r.IntN(10_000))
	}
	if g.chance(0.2) {
		p.meta = `{"location":{"country":"CA","province":"Newfoundland"},"trades":["welding"]}`
	}
	// Bulk imports: hundreds of users of one second, more than a page.
	if g.bulk == 0 {
		g.created = g.created.Add(time.Duration(1+g.r.IntN(2*g.gap+1))*time.Second + time.Duration(g.r.IntN(1000))*time.Millisecond)
		if g.created.After(g.last) {
			g.created = g.last
		}
		if !g.o.HiddenFractions {
			g.created = g.created.Truncate(time.Second)
		}
		if g.bulk = 1; g.chance(0.02) {
			g.bulk = 20 + g.r.IntN(400)
		}
	}
	if g.bulk--; g.o.HiddenFractions {
		g.created = g.created.Add(time.Duration(g.r.IntN(900)) * time.Microsecond)
	}
	p.created = g.created
	if g.chance(0.3) {
		p.modified = p.created.Add(time.Duration(g.r.IntN(10_000)) * time.Hour)
	}
	p.otherInfo = g.otherInfo(id)
	return p
}

// messUp makes some names what names in real tables are.
func (g *generator) messUp(r *record) {
	switch x := g.r.IntN(1000); {
	case x < 3:
		r.lastName = strings.TrimSpace(strings.Repeat(r.lastName+" ", 40))
	case x < 6:
		r.firstName += " 🦊👩🏽‍🚀"
	case x < 8:
		r.firstName += "\x00"
	case x < 10:
		r.lastName = "\xed\xb0\x80" + r.lastName // a lone low surrogate
	case x < 12:
		r.firstName = "\u202e" + r.firstName
	case x < 20:
		r.lastName = "  " + r.lastName + " "
	case x < 23:
		r.firstName = strings.ToUpper(r.firstName)
	case x < 26:
		r.lastName = `"` + r.lastName + `" \ Jr.`
	case x < 28:
		r.lastName = "null"
	}
}

// address is an address nobody has yet.
func (g *generator) address(local, domain string) string {
	address := local + "@" + domain
	for i := 2; g.known(address); i++ {
		if i > 5 {
			i += g.r.IntN(1 << 24) // common names
		}
		address = fmt.Sprintf("%s%d@%s", local, i, domain)
	}
	g.taken[fold(address)] = true
	return address
}

func (g *generator) known(address string) bool {
	key := fold(address)
	return g.taken[key] || g.w.ties != nil && (len(g.w.byUsername[key]) > 0 || len(g.w.ties.byPerson[key]) > 0)
}

func (g *generator) username(p person) string {
	local := p.given.ascii + "." + p.family.ascii
	switch x := g.r.IntN(100); {
	case x < 3: // a username need not be an address (BLN 55)
		name, _, _ := strings.Cut(g.address(p.given.ascii[:1]+p.family.ascii, "x"), "@")
		return name
	case x < 4:
		return g.address(local+"+bln", "demo.example")
	case x < 5:
		return g.address(strings.ToLower(p.given.ascii)+".josé", "demo.example")
	case x < 18:
		return g.address(strings.ToUpper(local[:1])+local[1:], "Demo.Example")
	}
	return g.address(local, pick(g, []string{"demo.example", "demo.example", "staff.demo.example"}))
}

func (g *generator) externalID(id int64) string {
	switch x := g.r.IntN(100); {
	case x < 50:
		return fmt.Sprintf("S-%06d", id)
	case x < 80:
		return fmt.Sprintf("1500%07d", id)
	case x < 98:
		return fmt.Sprintf("%08x-%04x-4%03x-8000-%012x", g.r.Uint32(), g.r.IntN(1<<16), g.r.IntN(1<<12), id)
	case x < 99:
		return fmt.Sprintf("mat %06d/ü", id)
	}
	return fmt.Sprintf(" P%06d ", id) // padded: compared after trimming
}
