package simulator

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

const (
	nameCoachBase = "/api/private/v5"
	// noPhoto is what `photo` says where there is none (NC 105).
	noPhoto = "https://www.name-coach.com/images/photo-blank.gif"
	// maxBody is more than any request that a client has reason to send.
	maxBody = 8 << 20
)

func (s *Simulator) nameCoachHandler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]struct {
		name  string
		serve func(*exchange)
	}{
		"GET /participants":                                       {"participants.list", (*exchange).listParticipants},
		"POST /participants/search":                               {"participants.search", (*exchange).searchParticipants},
		"GET /participants/latest":                                {"participants.latest", (*exchange).latestParticipants},
		"POST /participants":                                      {"participants.create", (*exchange).createParticipant},
		"PUT /participants/{email}":                               {"participants.update", (*exchange).updateParticipant},
		"DELETE /participants/{email}":                            {"participants.delete", (*exchange).deleteParticipant},
		"DELETE /participants/{email}/pronunciations/{recording}": {"recordings.delete", (*exchange).deleteRecording},
		"POST /lti/moodle/courses/synchronize":                    {"moodle.synchronize", (*exchange).synchronizeMoodle},
	} {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+nameCoachBase+path, s.handle("namecoach", h.name, func(e *exchange) {
			if e.nameCoachAllowed() {
				h.serve(e)
			}
		}))
	}
	mux.HandleFunc("/", s.handle("namecoach", "unknown", func(e *exchange) {
		if strings.HasPrefix(e.r.URL.Path, "/api/private/v4/") {
			e.s.violation("next_page_url was followed: GET /api/private/v4/…") // NC 142
		} else {
			e.s.violation("namecoach: " + e.r.Method + " of a path that is not documented")
		}
		e.nameCoachError(http.StatusNotFound, "Not Found")
	}))
	return mux
}

// nameCoachAllowed checks the Authorization header, which is the token as it is (NC 85).
func (e *exchange) nameCoachAllowed() bool {
	token := e.r.Header.Get("Authorization")
	bare, bearer := strings.CutPrefix(token, "Bearer ")
	if bearer {
		e.s.violation("namecoach: Bearer before the token")
	}
	if e.s.knownToken(bare) {
		e.s.violation("namecoach: was sent a token of BLN")
	}
	if strings.Contains(e.r.URL.RawQuery, nameCoachToken) {
		e.s.violation("namecoach: the token stands in an address")
	}
	if token != nameCoachToken {
		e.nameCoachError(http.StatusUnauthorized, "Not Authorized")
		return false
	}
	if e.r.Method != http.MethodGet && !strings.HasPrefix(e.r.Header.Get("Content-Type"), "application/json") {
		e.s.violation("namecoach: a body without Content-Type: application/json")
	}
	return true
}

func (e *exchange) nameCoachError(status int, message string) {
	e.json(status)
	e.w.writeString(string(append(appendString([]byte(`{"message":`), cmp.Or(message, http.StatusText(status))), '}')))
}

func (e *exchange) json(status int) {
	e.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	e.w.WriteHeader(status)
}

// question is what a list or search asks for.
type question struct {
	page, perPage int
	after, before time.Time
	emails, ids   []string
	hasEmails     bool // email_list is there, be it empty
	hasIDs        bool
	include       []string
	filtered      bool
}

func (e *exchange) listParticipants() {
	v := e.r.URL.Query()
	fields := map[string]string{}
	for key := range v {
		fields[key] = v.Get(key)
	}
	q, err := readQuestion(fields)
	if err != nil {
		e.nameCoachError(http.StatusUnprocessableEntity, err.Error())
		return
	}
	if !q.filtered {
		e.s.violation("namecoach: GET /participants without a filter")
	}
	e.answerRows(q, e.o.PagingIgnored && q.filtered)
}

func (e *exchange) searchParticipants() {
	body, ok := e.body()
	if !ok {
		return
	}
	fields := map[string]string{}
	for _, m := range body.members {
		switch m.value.kind {
		case '"', '0':
			fields[m.key] = m.value.text
		case 'n':
		default:
			e.s.violation("namecoach: search with a list that is no string of values joined by commas (NC 198)")
			e.nameCoachError(http.StatusUnprocessableEntity, "Unprocessable entity")
			return
		}
	}
	q, err := readQuestion(fields)
	if err != nil {
		e.nameCoachError(http.StatusUnprocessableEntity, err.Error())
		return
	}
	switch {
	case q.hasEmails && q.hasIDs:
		e.s.violation("namecoach: search with both lists")
	case !q.hasEmails && !q.hasIDs:
		e.s.violation("namecoach: search without a list")
		e.nameCoachError(http.StatusUnprocessableEntity, "email_list is missing")
		return
	}
	if len(q.emails) == 0 && len(q.ids) == 0 {
		e.s.violation("namecoach: search with an empty list")
		if e.o.SearchUnfilteredWhenEmpty {
			q.hasEmails, q.hasIDs = false, false
		}
	}
	e.answerRows(q, false)
}

// body reads a JSON object, or answers 422.
func (e *exchange) body() (node, bool) {
	raw, err := io.ReadAll(http.MaxBytesReader(e.w.to, e.r.Body, maxBody))
	if err == nil {
		var n node
		if n, err = parse(string(raw)); err == nil && n.kind == '{' {
			return n, true
		}
	}
	if e.api == "bln" {
		e.blnError(http.StatusBadRequest, "the body is no JSON object")
	} else {
		e.nameCoachError(http.StatusUnprocessableEntity, "Unprocessable entity")
	}
	return node{}, false
}

func readQuestion(fields map[string]string) (question, error) {
	q := question{page: 1, perPage: 10} // NC 46, 50
	if n, err := strconv.Atoi(fields["page"]); err == nil && n > 0 {
		q.page = n
	}
	if n, err := strconv.Atoi(fields["per_page"]); err == nil && n > 0 {
		q.perPage = n
	}
	for _, bound := range []struct {
		key string
		to  *time.Time
	}{{"updated_after", &q.after}, {"updated_before", &q.before}} {
		text, ok := fields[bound.key]
		if !ok || text == "" {
			continue
		}
		q.filtered = true
		var err error
		for _, layout := range []string{"2006-01-02T15:04:05Z0700", time.RFC3339Nano} {
			if *bound.to, err = time.Parse(layout, text); err == nil {
				break
			}
		}
		if err != nil { // a plus sign that was not encoded ends here, as a space
			return q, fmt.Errorf("%s is no ISO-8601 time with a time zone", bound.key)
		}
	}
	var text string
	if text, q.hasEmails = fields["email_list"]; q.hasEmails {
		q.emails = splitList(text)
	}
	if text, q.hasIDs = fields["institution_id_list"]; q.hasIDs {
		q.ids = splitList(text)
	}
	q.filtered = q.filtered || len(q.emails) > 0 || len(q.ids) > 0
	q.include = splitList(fields["include"])
	return q, nil
}

func splitList(s string) []string {
	var list []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// matching are the rows that stand on the page asked for, and how many there are on all pages. Rows are never changed in place, so
// they can be written without the lock.
func (e *exchange) matching(q question, unpaged bool) (page []*Participant, total int) {
	w := e.s.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	var rows []*Participant
	if q.hasEmails || q.hasIDs {
		rows = e.named(q)
		slices.SortFunc(rows, byUpdated)
	} else {
		rows = w.byUpdated
	}
	from := 0
	if !q.after.IsZero() {
		from = sort.Search(len(rows), func(i int) bool {
			c := rows[i].Updated.Compare(q.after)
			return c > 0 || c == 0 && !e.o.ExclusiveBounds
		})
	}
	to := len(rows)
	if !q.before.IsZero() {
		to = sort.Search(len(rows), func(i int) bool {
			c := rows[i].Updated.Compare(q.before)
			return c > 0 || c == 0 && e.o.ExclusiveBounds
		})
	}
	rows = rows[from:max(from, to)]
	total = len(rows)
	first, last := 0, total
	if !unpaged {
		first = min(min(q.page-1, total)*q.perPage, total)
		last = min(first+q.perPage, total)
	}
	if e.o.OrderByID {
		rows = slices.SortedFunc(slices.Values(rows), func(a, b *Participant) int { return cmp.Compare(a.ID, b.ID) })
		return rows[first:last], total
	}
	// Newest change first: a row that changes goes to the front and shifts the rest.
	page = slices.Clone(rows[total-last : total-first])
	slices.Reverse(page)
	return page, total
}

// named are the rows of the addresses and institution ids asked for.
func (e *exchange) named(q question) []*Participant {
	w := e.s.world
	found := map[*Participant]int{}
	for email := range maps.Keys(setOf(q.emails)) {
		for _, p := range w.byEmail[fold(email)] {
			if !e.o.EmailCaseSensitiveSearch || strings.TrimSpace(p.shown.Email) == email {
				found[p.shown] |= 1
			}
		}
	}
	for id := range maps.Keys(setOf(q.ids)) {
		for _, p := range w.byInstitute[id] {
			found[p.shown] |= 2
		}
	}
	var rows []*Participant
	for p, by := range found {
		if q.hasEmails && q.hasIDs && e.o.ListsIntersect && by != 3 {
			continue
		}
		rows = append(rows, p)
	}
	return rows
}

func setOf(list []string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, s := range list {
		set[s] = true
	}
	return set
}

// answerRows writes one page of the rows asked for.
func (e *exchange) answerRows(q question, unpaged bool) {
	if e.o.OnNameCoachPage != nil {
		e.o.OnNameCoachPage(e.s, q.page)
		e.s.world.settle(e.o.nameCoachNow())
	}
	if !unpaged {
		q.perPage = min(q.perPage, e.o.MaxPerPage)
	}
	rows, total := e.matching(q, unpaged)
	pages := 1
	if !unpaged {
		pages = (total + q.perPage - 1) / q.perPage
	}
	if e.o.TruncateRows > 0 && len(rows) > e.o.TruncateRows {
		rows = rows[:e.o.TruncateRows]
	}

	e.json(http.StatusOK)
	e.w.send(func(b []byte, flush func([]byte) []byte) []byte {
		if !e.o.NoWrapper {
			b = append(b, `{"Response":`...) // NC 93
		}
		b = append(b, `{"participants":[`...)
		for i, p := range rows {
			if i > 0 {
				b = append(b, ',')
			}
			b = flush(e.appendRow(b, p, q.include, false))
		}
		b = append(b, ']')
		if !e.o.NoMeta {
			b = append(append(b, `,"meta":`...), e.meta(q, total, pages, len(rows))...)
		}
		if !e.o.NoWrapper {
			b = append(b, '}')
		}
		return append(b, '}')
	})
}

// meta is NC 141-147. Its addresses name v4 and, after a search too, the unfiltered list; here they lead back to the simulator, so
// that following them is noticed.
func (e *exchange) meta(q question, total, pages, count int) string {
	address := func(page int) string {
		return fmt.Sprintf(`"http://%s/api/private/v4/participants?format=json&page=%d&per_page=%d"`, e.r.Host, page, q.perPage)
	}
	next := "null"
	if q.page < pages {
		next = address(q.page + 1)
	}
	numbers := `,"total_count":%d,"total_pages":%d,"count":%d}`
	if e.o.MetaStrings {
		numbers = `,"total_count":"%d","total_pages":"%d","count":"%d"}`
	}
	return `{"next_page_url":` + next + `,"self_url":` + address(q.page) + fmt.Sprintf(numbers, total, pages, count)
}

// appendRow writes one participant. A row of `latest` has dates as well (NC 356).
func (e *exchange) appendRow(b []byte, p *Participant, include []string, latest bool) []byte {
	field := func(key, value string) {
		b = append(b, ',', '"')
		b = append(b, key...)
		b = append(b, '"', ':')
		b = appendStringOrNull(b, value)
	}
	b = append(b, `{"first_name":`...)
	b = appendStringOrNull(b, p.FirstName)
	field("last_name", p.LastName)
	field("email", p.Email)
	link := p.RecordingLink
	if e.o.RotateDigests && p.recorded() {
		bare, _, _ := strings.Cut(link, "?")
		link = fmt.Sprintf("%s?digest=%032x", bare, e.s.reads.Add(1))
	}
	if e.o.RecordingURLKey {
		field("recording_url", link)
	} else {
		field("recording_link", link)
	}
	if p.RecordingIDNumber && p.RecordingID != "" {
		b = append(b, `,"recording_id":`+p.RecordingID...)
	} else {
		field("recording_id", p.RecordingID)
	}
	switch {
	case p.RecordingDate != "":
		field("recording_date", p.RecordingDate)
	case latest && p.recorded():
		field("recording_date", p.Updated.Format("2006-01-02T15:04:05.000-07:00"))
	}
	if latest {
		field("custom_objects_recorded_date", p.Updated.Add(4*time.Minute).Format("2006-01-02T15:04:05.000-07:00"))
	}
	field("event_title", p.EventTitle)
	field("event_slug", p.EventSlug)
	field("event_access_code", p.EventAccessCode)
	field("institution_id", p.InstitutionID)
	field("photo", cmp.Or(p.Photo, noPhoto))
	field("name_badge_link", p.NameBadgeLink)
	if e.o.CustomObjects {
		if slices.Contains(include, "custom_attributes") {
			b = append(b, `,"custom_objects":{`...)
			for i, key := range slices.Sorted(maps.Keys(p.Custom)) {
				if i > 0 {
					b = append(b, ',')
				}
				b = append(appendString(b, strings.TrimPrefix(key, "custom_")), ':')
				b = appendString(b, p.Custom[key])
			}
			b = append(b, '}')
		}
	} else if len(p.Custom) > 0 {
		for _, key := range slices.Sorted(maps.Keys(p.Custom)) {
			field(key, p.Custom[key])
		}
	}
	if slices.Contains(include, "embeddables") {
		field("embed_image", `<img src="https://www.name-coach.com/images/icon.png" onclick="play()">`)
		field("embed_iframe", `<iframe src="https://www.name-coach.com/embed"></iframe>`)
	}
	return append(b, '}')
}

// latestParticipants answers without wrapper and meta (NC 348).
func (e *exchange) latestParticipants() {
	v := e.r.URL.Query()
	var tokens []string
	for _, text := range append(v["tokens"], v["tokens[]"]...) {
		tokens = append(tokens, splitList(strings.Trim(text, "[]"))...)
	}
	if len(tokens) == 0 {
		e.nameCoachError(http.StatusNotFound, "Not Found")
		return
	}
	w := e.s.world
	w.mu.RLock()
	var rows []*Participant
	for _, token := range tokens {
		token = strings.Trim(token, "`\"")
		var newest *Participant
		for _, p := range slices.Concat(w.byEmail[fold(token)], w.byInstitute[token]) {
			if newest == nil || byUpdated(newest, p.shown) < 0 {
				newest = p.shown
			}
		}
		if newest != nil {
			rows = append(rows, newest)
		}
	}
	w.mu.RUnlock()
	if len(rows) == 0 {
		e.nameCoachError(http.StatusNotFound, "Not Found")
		return
	}
	b := []byte(`{"participants":[`)
	for i, p := range rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = e.appendRow(b, p, splitList(v.Get("include")), true)
	}
	e.json(http.StatusOK)
	e.w.writeString(string(append(b, "]}"...)))
}
