package simulator

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// timeLayout is how `created` and `modified` are shown.
const timeLayout = "2006-01-02T15:04:05Z"

// listUsers is GET /organizations/{o}/users (BLN 7607-7700).
func (e *exchange) listUsers() {
	if !e.inOrganization() {
		return
	}
	v := e.r.URL.Query()
	switch e.o.Role {
	case RoleMember:
		e.blnError(http.StatusForbidden, "")
		return
	case RoleNetworkAdmin:
		if v.Get("networks") == "" && v.Get("search") == "" { // BLN 7612
			e.blnError(http.StatusForbidden, "either networks or search filter is required")
			return
		}
	}
	l, err := e.readListing(v)
	if err != nil {
		e.blnError(http.StatusBadRequest, err.Error())
		return
	}
	rows, more := e.page(l)
	if e.o.LinkHeader {
		e.linkHeader(l, rows, more)
	}
	e.json(http.StatusOK)
	e.w.send(func(b []byte, flush func([]byte) []byte) []byte {
		b = append(b, '[')
		for i, r := range rows {
			if i > 0 {
				b = append(b, ',')
			}
			b = flush(e.appendUser(b, r, listRow))
		}
		return append(b, ']')
	})
}

// listing is what one request for users asks for.
type listing struct {
	excludeInvited bool
	roles          []string
	networks       bool
	match          func(*record) bool // search and query; nil = everybody
	candidates     []*account         // where an index answers the search; else nil
	indexed        bool
	sort           string
	desc           bool
	cursor         string // the value of after or before; "" = none
	cursorID       int64
	before         bool
	limit          int
}

func (e *exchange) readListing(v url.Values) (listing, error) {
	l := listing{excludeInvited: !e.o.IncludeInvited, limit: 100, desc: true, sort: "created"}
	var err error
	if text := v.Get("excludeInvited"); text != "" {
		if l.excludeInvited, err = strconv.ParseBool(text); err != nil {
			return l, fmt.Errorf("excludeInvited is no boolean")
		}
	} else {
		e.s.violation("bln: users listed without excludeInvited") // it hides people by default (BLN 7635)
	}
	if text := v.Get("limit"); text != "" {
		if l.limit, err = strconv.Atoi(text); err != nil || l.limit < 1 {
			return l, fmt.Errorf("limit is no positive integer")
		}
	} else {
		e.s.violation("bln: users listed without limit") // 10 or 100? (BLN 7680)
	}
	l.limit = min(l.limit, 100)
	l.roles = splitList(v.Get("role"))
	l.networks = v.Get("networks") != ""
	if text := v.Get("sort"); text != "" {
		l.sort = text
	}
	switch l.sort {
	case "created", "firstname", "lastname":
	case "matchedBirthYear":
		e.s.violation("bln: users sorted by matchedBirthYear, which a bridge has no use for")
		return l, fmt.Errorf("sortData is required")
	default:
		return l, fmt.Errorf("sort is none of created, firstname, lastname, matchedBirthYear")
	}
	switch v.Get("order") {
	case "", "desc":
	case "asc":
		l.desc = false
	default:
		return l, fmt.Errorf("order is neither asc nor desc")
	}
	l.cursor = v.Get("after")
	if text := v.Get("before"); text != "" {
		l.cursor, l.before = text, true
	}
	if text := v.Get("cursorId"); text != "" {
		if l.cursorID, err = strconv.ParseInt(text, 10, 64); err != nil {
			return l, fmt.Errorf("cursorId is no integer")
		}
	} else if l.cursor != "" {
		e.s.violation("bln: after or before without cursorId") // rows of equal `created` would be skipped
	}
	if l.cursor != "" && l.sort == "created" {
		if _, err := time.Parse(time.RFC3339Nano, l.cursor); err != nil {
			return l, fmt.Errorf("after is no time")
		}
	}
	if v.Has("search") {
		if err := e.readSearch(&l, v); err != nil {
			return l, err
		}
	}
	if text := v.Get("query"); text != "" {
		on := splitList(strings.Join(append(append([]string{}, v["queryOn"]...), v["queryOn[]"]...), ","))
		if len(on) == 0 {
			on = []string{"user"}
		}
		for _, area := range on {
			if !slices.Contains([]string{"user", "organization", "organizationUser"}, area) {
				return l, fmt.Errorf("queryOn is none of user, organization, organizationUser")
			}
		}
		was, want := l.match, fold(text)
		l.match = func(r *record) bool { return (was == nil || was(r)) && r.mentions(want, on) }
		if !l.indexed && len(want) >= 3 {
			e.s.world.mu.Lock()
			l.candidates, l.indexed = e.s.world.candidates(want), true
			e.s.world.mu.Unlock()
		}
	}
	return l, nil
}

// page are the rows of one page, at most limit, and whether more follow.
func (e *exchange) page(l listing) (rows []*record, more bool) {
	w := e.s.world
	var all []*account
	if l.sort != "created" && !l.indexed {
		all = w.orderByName(l.sort)
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	switch {
	case l.indexed:
		all = slices.Clone(l.candidates)
		slices.SortFunc(all, l.order())
	case l.sort == "created":
		all = w.byCreated
	}
	limit := l.limit
	if e.o.ShortPages && limit > 1 {
		limit = limit*2/3 + 1
		limit = min(limit, l.limit-1)
	}
	// Positions count in ascending order; a descending list, or `before`, walks down.
	down := l.desc != l.before
	at := 0
	if down {
		at = len(all) - 1
	}
	if l.cursor != "" && !e.o.AfterIgnored {
		at = w.position(all, l, down)
	}
	for ; at >= 0 && at < len(all); at += map[bool]int{false: 1, true: -1}[down] {
		r := all[at].record
		if !l.wants(r) {
			continue
		}
		if len(rows) == limit {
			more = true
			break
		}
		rows = append(rows, r)
	}
	if l.before {
		slices.Reverse(rows)
	}
	return rows, more
}

func (l *listing) wants(r *record) bool {
	return !(l.excludeInvited && r.invited) && !l.networks && // nobody in this organization is in a network
		(len(l.roles) == 0 || slices.Contains(l.roles, r.role)) && (l.match == nil || l.match(r))
}

// order is the ascending order of a listing; when sorting by a name the secondary sort is created (BLN 7691).
func (l *listing) order() func(a, b *account) int {
	if l.sort == "created" {
		return byCreated
	}
	return nameOrder(l.sort)
}

func nameOrder(column string) func(a, b *account) int {
	return func(a, b *account) int {
		return cmp.Or(cmp.Compare(a.column(column), b.column(column)), byCreated(a, b))
	}
}

func (r *record) column(name string) string {
	switch name {
	case "firstname":
		return r.firstName
	case "lastname":
		return r.lastName
	}
	return r.created.Format(timeLayout)
}

// orderByName sorts the directory by a name once, until somebody comes or goes.
func (w *world) orderByName(column string) []*account {
	w.mu.Lock()
	defer w.mu.Unlock()
	if sorted := w.byName[column]; sorted != nil {
		return sorted
	}
	sorted := slices.Clone(w.byCreated)
	slices.SortFunc(sorted, nameOrder(column))
	if w.byName == nil {
		w.byName = map[string][]*account{}
	}
	w.byName[column] = sorted
	return sorted
}

// position is the first place beyond the cursor. The cursor is a value of the sort column and a row id, strictly; without the id it is
// the value alone, so that all rows of that value are beyond it or none.
func (w *world) position(all []*account, l listing, down bool) int {
	var cursorAt time.Time
	if l.sort == "created" {
		cursorAt, _ = time.Parse(time.RFC3339Nano, l.cursor) // checked by readListing
	}
	compare := func(a *account) int { // of a row with the cursor
		if l.sort == "created" {
			if c := a.created.Compare(cursorAt); c != 0 || l.cursorID == 0 {
				return c
			}
			return cmp.Compare(a.rowID, l.cursorID)
		}
		// Between equal names the order is `created`, which the cursor does not have: it is the row's own.
		if c := cmp.Compare(a.column(l.sort), l.cursor); c != 0 || l.cursorID == 0 {
			return c
		}
		for _, b := range all {
			if b.rowID == l.cursorID {
				return byCreated(a, b)
			}
		}
		return 0
	}
	if down {
		return sort.Search(len(all), func(i int) bool { return compare(all[i]) >= 0 }) - 1
	}
	return sort.Search(len(all), func(i int) bool { return compare(all[i]) > 0 })
}

// linkHeader writes the header of BLN 10130: parts for before and after, joined by a semicolon.
func (e *exchange) linkHeader(l listing, rows []*record, more bool) {
	if len(rows) == 0 {
		return
	}
	part := func(name string, r *record) string {
		value := r.column(l.sort)
		if l.sort == "created" {
			value = r.created.Format("2006-01-02T15:04:05.999999999Z")
		}
		return fmt.Sprintf("%s=%s&cursorId=%d&limit=%d", name, url.QueryEscape(value), r.rowID, l.limit)
	}
	var parts []string
	if l.cursor != "" {
		parts = append(parts, part("before", rows[0]))
	}
	if more || l.before {
		parts = append(parts, part("after", rows[len(rows)-1]))
	}
	if len(parts) > 0 {
		e.w.Header().Set("link", strings.Join(parts, ";"))
	}
}

// member finds the user of the path, or answers. A row id is not a user id (BLN 7711, 7745).
func (e *exchange) member() *record {
	if !e.inOrganization() {
		return nil
	}
	id, err := strconv.ParseInt(e.r.PathValue("id"), 10, 64)
	if err != nil {
		e.blnError(http.StatusBadRequest, "the user id is no integer")
		return nil
	}
	e.s.world.mu.RLock()
	a := e.s.world.users[id]
	var r *record
	if a != nil {
		r = a.record
	}
	e.s.world.mu.RUnlock()
	if r == nil || e.o.NotFoundUsers[id] {
		e.blnError(http.StatusNotFound, "")
		return nil
	}
	return r
}

func (e *exchange) getUser() {
	if e.o.Role == RoleMember || e.o.Role == RoleNetworkAdmin {
		e.blnError(http.StatusForbidden, "")
		return
	}
	r := e.member()
	if r == nil {
		return
	}
	e.user(r, fullRow)
}

func (e *exchange) user(r *record, form rowForm) {
	e.json(http.StatusOK)
	e.w.send(func(b []byte, _ func([]byte) []byte) []byte { return e.appendUser(b, r, form) })
}

// putUser is PUT /organizations/{o}/users/{id} (BLN 7221-7520).
func (e *exchange) putUser() {
	if e.o.Role != RoleAdmin {
		e.blnError(http.StatusForbidden, "")
		return
	}
	r := e.member()
	if r == nil {
		return
	}
	body, ok := e.body()
	if !ok {
		return
	}
	for _, m := range body.members {
		if m.key != "otherInfo" {
			e.s.violation("bln: PUT with " + m.key + " beside otherInfo")
		}
	}
	if why := updateRefusal(&body); why != "" {
		e.blnError(http.StatusBadRequest, why)
		return
	}
	w := e.s.world
	w.mu.Lock()
	a := w.users[r.id]
	if a == nil {
		w.mu.Unlock()
		e.blnError(http.StatusNotFound, "")
		return
	}
	if sent := body.get("otherInfo"); sent != nil {
		kept := *sent
		was, err := parse(cmp.Or(a.otherInfo, "null"))
		if err == nil && e.o.Put != Replace {
			kept = merge(was, *sent, e.o.Put == DeepMerge)
		}
		if e.o.Put != Replace && len(kept.members) > 100 {
			w.mu.Unlock()
			e.blnError(http.StatusBadRequest, otherInfoRefusal(&kept))
			return
		}
		if e.o.DropNulls {
			kept = dropNulls(kept)
		}
		wrote := e.account(a, &was, &kept)
		e.tamper(&kept)
		if e.o.ReorderKeys {
			slices.SortFunc(kept.members, func(x, y member) int { return strings.Compare(x.key, y.key) })
		}
		w.store(e.o, a, object(kept.members).raw, false)
		if len(wrote.Lost) > 0 || e.o.DropForeignKeyOnPut != (Tamper{}) || e.o.ChangeForeignKeyOnPut != (Tamper{}) {
			w.misread(a)
		}
		e.s.note(wrote)
	}
	e.overwrite(a, &body)
	r = a.record
	w.mu.Unlock()

	form := map[PutAnswer]rowForm{Full: fullRow, Short: shortRow, StaleListRow: partialRow}[e.o.PutAnswer]
	e.user(r, form)
}

// overwrite carries out what a bridge must never ask for: PUT can change role and externalId too (BLN 7287).
func (e *exchange) overwrite(a *account, body *node) {
	role, external := body.get("role"), body.get("externalId")
	if role == nil && external == nil {
		return
	}
	if external != nil {
		e.s.world.rename(e.o, a, external.text)
	} else {
		e.s.world.store(e.o, a, a.otherInfo, false) // a record of its own
	}
	if role != nil {
		a.record.role = role.text
	}
}

// tamper spoils a foreign key where Options ask for it.
func (e *exchange) tamper(kept *node) {
	own := ownKeys(e.o.FragmentKey)
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	e.s.puts++
	due := func(t Tamper, done *bool, null bool) string {
		switch {
		case t.Every > 0 && e.s.puts%t.Every == 0:
		case t.At > 0 && e.s.puts >= t.At && !*done:
		default:
			return ""
		}
		for _, m := range kept.members {
			if (null || m.value.kind != 'n') && (m.key == t.Key || t.Key == "" && !slices.Contains(own, m.key)) {
				*done = true
				return m.key
			}
		}
		return ""
	}
	if key := due(e.o.DropForeignKeyOnPut, &e.s.dropped, false); key != "" { // null says as much as nothing: without that key nothing is lost
		kept.remove(key)
	}
	if key := due(e.o.ChangeForeignKeyOnPut, &e.s.changed, true); key != "" {
		kept.set(key, node{kind: '"', text: "changed by the server", raw: `"changed by the server"`})
	}
}

// rowForm says how much of a user is shown.
type rowForm int

const (
	fullRow    rowForm = iota // GET (BLN 7124-7219)
	listRow                   // a row of the list (BLN 7709-7760)
	partialRow                // a row of the list with six keys of otherInfo at most
	shortRow                  // no otherInfo
)

// partialKeys are those of BLN 7734.
var partialKeys = []string{"birthYear", "homePhone", "workEmail", "mobilePhone", "personalEmail", "jobTitle"}

func (e *exchange) appendUser(b []byte, r *record, form rowForm) []byte {
	if form == listRow && e.o.ListRows == Partial {
		form = partialRow
	}
	b = strconv.AppendInt(append(b, `{"id":`...), r.rowID, 10)
	b = append(append(b, `,"organization":{`+organizationHead+`},"role":"`...), r.role...)
	b = append(append(b, `","meta":`...), cmp.Or(r.meta, "{}")...)
	if r.otherInfo != "" && form != shortRow {
		b = append(b, `,"otherInfo":`...)
		if form == partialRow {
			b = append(b, partOf(r.otherInfo)...)
		} else {
			b = append(b, r.otherInfo...)
		}
	}
	if form == fullRow {
		b = append(b, `,"address":{"id":null,"name":null,"post-office-box":null,"street-address":null,"extended-address":null,"locality":null,`+
			`"postal-code":null,"region":null,"country-name":null,"district":null}`...)
	} else {
		b = append(b, `,"address":{}`...)
	}
	b = append(b, `,"termsOfServiceAccepted":null,"externalId":`...)
	b = appendStringOrNull(b, r.externalID)
	b = strconv.AppendInt(append(b, `,"user":{"id":`...), r.id, 10)
	b = appendString(append(b, `,"username":`...), r.username)
	b = appendString(append(b, `,"firstname":`...), r.firstName)
	b = appendString(append(b, `,"lastname":`...), r.lastName)
	b = append(b, `,"avatar":{"url":null,"gravatar":"da89b3512df341b8caedd54d92d2998c"},"sms":{"number":`...)
	b = appendStringOrNull(b, r.sms)
	b = strconv.AppendBool(append(b, `,"confirmed":`...), r.sms != "")
	b = strconv.AppendBool(append(b, `},"locale":"en-CA","confirmed":`...), !r.invited)
	b = r.created.AppendFormat(append(b, `,"private":false},"channel":null,"created":"`...), timeLayout)
	b = append(b, `","modified":`...)
	if r.modified.IsZero() {
		return append(b, "null}"...)
	}
	return append(r.modified.AppendFormat(append(b, '"'), timeLayout), `"}`...)
}

// partOf is the part of otherInfo that a small list row has.
func partOf(otherInfo string) string {
	n, err := parse(otherInfo)
	if err != nil || n.kind != '{' {
		return "{}"
	}
	var part []member
	for _, key := range partialKeys {
		if v := n.get(key); v != nil {
			part = append(part, member{key, *v})
		}
	}
	return object(part).raw
}
