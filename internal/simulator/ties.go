package simulator

import (
	"slices"
	"strings"
)

// ties say who has something to do with whom. They are made when first asked for and kept up from then on: the world that
// a plain backfill needs is spared them.
type ties struct {
	byPerson   map[string][]*listed
	byID       map[string][]*listed // by institution id
	byUser     map[int64][]*listed  // the rows that are a user's
	byExternal map[string][]*account
}

// tied gives the ties. The world must be locked for writing.
func (w *world) tied() *ties {
	if w.ties != nil {
		return w.ties
	}
	w.ties = &ties{
		make(map[string][]*listed, len(w.participants)), make(map[string][]*listed, len(w.participants)),
		make(map[int64][]*listed, len(w.users)), make(map[string][]*account, len(w.users)),
	}
	for id := range w.nextPart { // in order, so that the same world gives the same ties
		if p := w.participants[id]; p != nil {
			w.ties.tie(p)
		}
	}
	for id := range w.nextUser {
		if a := w.users[id]; a != nil {
			w.ties.name(a)
		}
	}
	return w.ties
}

func (t *ties) tie(p *listed) {
	t.byPerson[p.now.Person()] = append(t.byPerson[p.now.Person()], p)
	if id := strings.TrimSpace(p.now.InstitutionID); id != "" {
		t.byID[id] = append(t.byID[id], p)
	}
	if p.now.For != 0 {
		t.byUser[p.now.For] = append(t.byUser[p.now.For], p)
	}
}

func (t *ties) untie(p *listed) {
	forget(t.byPerson, p.now.Person(), p)
	forget(t.byID, strings.TrimSpace(p.now.InstitutionID), p)
	forget(t.byUser, p.now.For, p)
}

func (t *ties) name(a *account) {
	if id := strings.TrimSpace(a.externalID); id != "" {
		t.byExternal[id] = append(t.byExternal[id], a)
	}
}

func (t *ties) unname(a *account) { forget(t.byExternal, strings.TrimSpace(a.externalID), a) }

// set makes a row what it is now; nil: it is no more. What the server shows is another matter.
func (w *world) set(p *listed, row *Participant) {
	if w.ties != nil && p.now != nil {
		w.ties.untie(p)
	}
	p.now = row
	if w.ties != nil && row != nil {
		w.ties.tie(p)
	}
}

// decree says whose a row is. It is nothing that the server shows.
func (w *world) decree(p *listed, user int64, held string) {
	row := *p.now
	row.For, row.Held = user, held
	w.set(p, &row)
}

// rename gives a user another external id.
func (w *world) rename(o *Options, a *account, externalID string) {
	if w.ties != nil {
		w.ties.unname(a)
	}
	r := a.clone()
	r.externalID, r.modified = externalID, o.blnNow()
	a.record = r
	w.misread(a)
	if w.ties != nil {
		w.ties.name(a)
	}
}

// whose says what the keys of one person's rows come to: exactly one user by every key that names anybody, or nobody and why. This is how
// the changes of Life keep the decree right; a generated world has its own.
func (w *world) whose(rows []*Participant) (user int64, held string) {
	var named []*account
	ambiguous := false
	note := func(users []*account) {
		ambiguous = ambiguous || len(users) > 1
		for _, a := range users {
			if !slices.Contains(named, a) {
				named = append(named, a)
			}
		}
	}
	t := w.tied()
	for _, p := range rows {
		if email := fold(p.Email); email != "" {
			note(w.byUsername[email])
		}
		if id := strings.TrimSpace(p.InstitutionID); id != "" {
			note(t.byExternal[id])
		}
	}
	switch {
	case len(named) == 0:
		return 0, ""
	case ambiguous:
		return 0, "ambiguous"
	case len(named) > 1:
		return 0, "conflict"
	case w.shared(named[0]):
		return 0, "ambiguous"
	}
	return named[0].id, ""
}

// shared reports whether another user has the same external id.
func (w *world) shared(a *account) bool {
	return len(w.tied().byExternal[strings.TrimSpace(a.externalID)]) > 1
}

func rowsNow(places []*listed) []*Participant {
	rows := make([]*Participant, len(places))
	for i, p := range places {
		rows[i] = p.now
	}
	return rows
}
