package simulator

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// searchable is the text by which a user is found, made when first asked for.
type searchable struct {
	user, organizationUser string            // folded, for query
	columns                map[string]string // for search; folded
}

func (r *record) searchable() *searchable {
	if t := r.text.Load(); t != nil {
		return t
	}
	t := &searchable{columns: map[string]string{"firstname": fold(r.firstName), "lastname": fold(r.lastName)}}
	var more []string
	if n, err := parse(cmp.Or(r.otherInfo, "{}")); err == nil {
		for _, key := range []string{"personalEmail", "workEmail", "email", "homePhone", "mobilePhone", "workPhone", "phone", "birthYear"} {
			if v := n.get(key); v != nil && (v.kind == '"' || v.kind == '0') {
				t.columns[key] = fold(v.text)
				if key != "birthYear" {
					more = append(more, t.columns[key])
				}
			}
		}
		if address := n.get("address"); address != nil {
			for _, key := range []string{"street-address", "locality", "postal-code"} {
				if v := address.get(key); v != nil && v.kind == '"' {
					t.columns[key] = fold(v.text)
				}
			}
		}
	}
	t.user = strings.Join([]string{fold(r.firstName), fold(r.lastName), fold(r.username), r.sms}, "\n")
	t.organizationUser = strings.Join(append(more, fold(r.externalID)), "\n")
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
			have = []string{r.searchable().columns[c.column]}
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
