package simulator

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"net/url"
	"slices"
	"strings"
)

// searchable is the text by which `query` finds a user, folded; made when first asked for.
type searchable struct{ user, organizationUser string }

func (r *record) searchable() *searchable {
	if t := r.text.Load(); t != nil {
		return t
	}
	var more []string
	eachMember(r.otherInfo, func(key string, v *node) {
		switch key {
		case "personalEmail", "workEmail", "email", "homePhone", "mobilePhone", "workPhone", "phone":
			if v.kind == '"' || v.kind == '0' {
				more = append(more, fold(v.text))
			}
		}
	})
	t := &searchable{
		user:             strings.Join([]string{fold(r.firstName), fold(r.lastName), fold(r.username), r.sms}, "\n"),
		organizationUser: strings.Join(append(more, fold(r.externalID)), "\n"),
	}
	r.text.Store(t)
	return t
}

// mentions is `query` (BLN 7642): anywhere in names, username, phones and addresses, and in the external id where queryOn says
// organizationUser.
func (r *record) mentions(want string, on []string) bool {
	t := r.searchable()
	return slices.Contains(on, "user") && strings.Contains(t.user, want) ||
		slices.Contains(on, "organizationUser") && strings.Contains(t.organizationUser, want)
}

// searchColumn is what `search` compares, folded.
func (r *record) searchColumn(name string) string {
	switch name {
	case "firstname":
		return fold(r.firstName)
	case "lastname":
		return fold(r.lastName)
	}
	text := ""
	eachMember(r.otherInfo, func(key string, v *node) {
		switch name {
		case "street-address", "locality", "postal-code":
			if key != "address" {
				return
			}
			if v = v.get(name); v == nil || v.kind != '"' {
				return
			}
		case key:
		default:
			return
		}
		if v.kind == '"' || v.kind == '0' {
			text = fold(v.text)
		}
	})
	return text
}

// sieve says quickly who cannot be meant by a query: a server has an index, and this one shares its machine with what it tests. Of each
// three bytes that follow each other in a user's text, a bit is set.
type sieve struct {
	accounts []*account
	bits     [1024][]uint64 // one bit for each of accounts
	changed  []*account     // whose text may be another since
}

func trigrams(text string) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for i := range len(text) - 2 {
			n := uint32(text[i])<<16 | uint32(text[i+1])<<8 | uint32(text[i+2])
			if !yield(int(n * 2654435761 >> 22)) {
				return
			}
		}
	}
}

// candidates are all users in whose text want may be, and others. The world must be locked for writing.
func (w *world) candidates(want string) []*account {
	if w.sieve == nil {
		w.sieve = &sieve{changed: slices.Clone(w.byCreated)}
	}
	s := w.sieve
	for _, a := range s.changed {
		at := len(s.accounts)
		s.accounts = append(s.accounts, a)
		t := a.searchable()
		for _, text := range []string{t.user, t.organizationUser} {
			for gram := range trigrams(text) {
				for len(s.bits[gram]) <= at/64 {
					s.bits[gram] = append(s.bits[gram], 0)
				}
				s.bits[gram][at/64] |= 1 << (at % 64)
			}
		}
	}
	s.changed = s.changed[:0]
	var left []uint64
	first := true
	for gram := range trigrams(want) {
		column := s.bits[gram]
		if first {
			left, first = slices.Clone(column), false
			continue
		}
		left = left[:min(len(left), len(column))]
		for i := range left {
			left[i] &= column[i]
		}
	}
	found := map[*account]bool{} // who changed is in it more than once
	for i, word := range left {
		for ; word != 0; word &= word - 1 {
			if a := s.accounts[i*64+bits.TrailingZeros64(word)]; w.users[a.id] == a {
				found[a] = true
			}
		}
	}
	return slices.Collect(maps.Keys(found))
}

// misread says that a user's text may be another.
func (w *world) misread(a *account) {
	a.text.Store(nil)
	if w.sieve != nil {
		w.sieve.changed = append(w.sieve.changed, a)
	}
}

// searchColumns are those of BLN 7652.
var searchColumns = []string{
	"firstname", "lastname", "identifier", "emailIdentifier", "personalEmail", "workEmail", "email", "homePhone", "mobilePhone", "workPhone",
	"phone", "birthYear", "street-address", "locality", "postal-code",
}

// readSearch reads `search`, a JSON object of columns and values, with searchMethod and searchOperator.
func (e *exchange) readSearch(l *listing, v url.Values) error {
	n, err := parse(v.Get("search"))
	if err != nil || n.kind != '{' || len(n.members) == 0 {
		return fmt.Errorf("search is no stringified object")
	}
	method, operator := cmp.Or(v.Get("searchMethod"), "exact"), cmp.Or(v.Get("searchOperator"), "and")
	if !slices.Contains([]string{"exact", "partial", "fuzzy"}, method) || !slices.Contains([]string{"and", "or"}, operator) {
		return fmt.Errorf("searchMethod or searchOperator is not one of the documented ones")
	}
	type condition struct {
		column string
		values map[string]bool
		null   bool
	}
	var conditions []condition
	for _, m := range n.members {
		if !slices.Contains(searchColumns, m.key) {
			return fmt.Errorf("search: no such column")
		}
		items := m.value.items
		if m.value.kind == '[' && method != "exact" {
			return fmt.Errorf("search: several values need the exact method")
		}
		if m.value.kind != '[' {
			items = []node{m.value}
		}
		c := condition{column: m.key, values: map[string]bool{}}
		for _, item := range items {
			switch item.kind {
			case '"', '0':
				c.values[fold(item.text)] = true
			case 'n':
				c.null = true
			default:
				return fmt.Errorf("search: a value that is neither string, number nor null")
			}
		}
		conditions = append(conditions, c)
	}
	holds := func(c condition, r *record) bool {
		var have []string
		switch c.column {
		case "identifier":
			have = []string{fold(r.username), r.sms} // any confirmed identifier of the account
		case "emailIdentifier":
			if strings.Contains(r.username, "@") {
				have = []string{fold(r.username)}
			}
		default:
			have = []string{r.searchColumn(c.column)}
		}
		for _, text := range have {
			if text == "" {
				continue
			}
			if method == "exact" {
				if c.values[text] {
					return true
				}
				continue
			}
			for want := range c.values {
				if strings.Contains(text, want) {
					return true
				}
			}
		}
		return c.null && strings.Join(have, "") == ""
	}
	l.match = func(r *record) bool {
		for _, c := range conditions {
			if holds(c, r) != (operator == "and") {
				return operator == "or"
			}
		}
		return operator == "and"
	}
	// The question that a bridge asks has an index; the rest walks through everybody.
	if c := conditions[0]; len(conditions) == 1 && c.column == "identifier" && method == "exact" && !c.null && !slices.ContainsFunc(slices.Collect(maps.Keys(c.values)), looksLikePhone) {
		l.indexed = true
		w := e.s.world
		w.mu.RLock()
		for value := range c.values {
			l.candidates = append(l.candidates, w.byUsername[value]...)
		}
		w.mu.RUnlock()
	}
	return nil
}

func looksLikePhone(s string) bool { return strings.HasPrefix(s, "+") }
