package simulator

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTheMostRequestsInAnyStretchAreCounted(t *testing.T) {
	t.Parallel()
	at := func(seconds ...float64) Requests {
		var all Requests
		for _, s := range seconds {
			all = append(all, Request{At: noon.Add(time.Duration(s * float64(time.Second)))})
		}
		return all
	}
	for name, test := range map[string]struct {
		requests Requests
		period   time.Duration
		want     int
	}{
		"none":                       {nil, time.Second, 0},
		"one":                        {at(5), time.Second, 1},
		"the end is not part of it":  {at(0, 1), time.Second, 1},
		"just within":                {at(0, 0.999), time.Second, 2},
		"across two whole seconds":   {at(0.9, 0.95, 1.1, 1.2, 1.95), time.Second, 4},
		"the last stretch":           {at(0, 10, 20, 20.1, 20.2), time.Second, 3},
		"all at once":                {at(3, 3, 3), time.Nanosecond, 3},
		"a clock that was put back":  {at(7, 3, 7.1, 3.1, 7.2), time.Second, 3},
		"a quarter of an hour":       {at(0, 100, 899, 900, 999), 15 * time.Minute, 4},
		"longer than there are some": {at(0, 1, 2), time.Hour, 3},
	} {
		if got := test.requests.MaxIn(test.period); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func TestEveryRequestIsInTheAccountsWithWhoSentItAndWhatCameOfIt(t *testing.T) {
	t.Parallel()
	now := noon
	c := start(t, Options{Now: func() time.Time { return now }, NameCoachPer15Minutes: 1, BLNPerSecond: 2})
	c.nameCoach("GET", "/participants?"+day, "")
	c.nameCoach("GET", "/participants?"+day, "") // one a second goes on
	c.nameCoach("GET", "/participants?"+day, "") // over
	c.do("GET", c.s.NameCoachURL()+"/participants?"+day, map[string]string{"Authorization": "wrong"}, "")
	first := c.token
	c.bln("GET", "/user/acl", "")
	now = now.Add(500 * time.Millisecond)
	c.token = c.s.AccessToken()
	c.bln("GET", "/user/acl", "")
	c.bln("GET", "/organizations/4711/users/99", "")
	c.bln("GET", "/user/acl", "") // over
	c.token = "wrong"
	now = now.Add(time.Hour)
	c.bln("GET", "/user/acl", "")

	text := func(r Requests) string {
		var all []string
		for _, q := range r {
			all = append(all, fmt.Sprintf("%s, %s, %d, %v, %v", q.Endpoint, q.Session, q.Status, q.Over, q.At.Sub(noon)))
		}
		return strings.Join(all, "\n")
	}
	if got, want := text(c.s.Requests("namecoach")), `namecoach participants.list, token, 200, false, 0s
namecoach participants.list, token, 200, false, 0s
namecoach participants.list, token, 429, true, 0s
namecoach participants.list, , 429, true, 0s`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	all := c.s.Requests("bln")
	if got, want := text(all), `bln acl, session 1, 200, false, 0s
bln acl, session 2, 200, false, 500ms
bln users.get, session 2, 404, false, 500ms
bln acl, session 2, 429, true, 500ms
bln acl, , 401, false, 1h0m0.5s`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if all.MaxIn(time.Second) != 4 || all.Of("session 2").MaxIn(time.Second) != 3 || all.Of("session 1").MaxIn(time.Second) != 1 || all.Over() != 1 {
		t.Errorf("at most %d in a second, %d over", all.MaxIn(time.Second), all.Over())
	}
	if got := all.Sessions(); !slices.Equal(got, []string{"session 1", "session 2"}) || first == "" {
		t.Errorf("sessions %v", got)
	}
	// What Faults make of a request is not a limit that was reached, and a broken answer has no status.
	c.s.ResetCounts()
	c.token = c.s.AccessToken()
	c.s.Change(func(o *Options) { o.BLNPerSecond, o.Faults = 0, Faults{P429: 1} })
	c.bln("GET", "/user/acl", "")
	c.s.Change(func(o *Options) { o.Faults = Faults{PReset: 1} })
	c.bln("GET", "/user/acl", "")
	if got := c.s.Requests("bln"); len(got) < 2 || got[0].Status != 429 || got.Over() != 0 || got[1].Status != 0 {
		t.Errorf("got\n%s", text(got))
	}
}

// No user is written twice for one change; what anybody changed in between is another change.
func TestAPutThatChangesNothingIsIdle(t *testing.T) {
	t.Parallel()
	type put struct {
		changed, value string // by somebody else before it: a key, and what it is then
		otherInfo      string
		idle           bool
	}
	const ours = `"namecoach":{"name_badge_link":"a","recording_link":"https://x/1?digest=1","recording_id":null}`
	signed := strings.ReplaceAll(ours, "digest=1", "digest=2")
	for name, test := range map[string]struct {
		o    Options
		was  string
		puts []put
	}{
		"the same twice":                {Options{}, `{"a":1}`, []put{{"", "", `{"a":1,` + ours + `}`, false}, {"", "", `{"a":1,` + ours + `}`, true}}},
		"in another order and spelling": {Options{}, `{"a":"é","b":1}`, []put{{"", "", `{"a":"é",` + ours + `,"b":1}`, false}, {"", "", `{"b":1,` + ours + `,"a":"\u00e9"}`, true}}},
		"another, and the first again": {Options{}, "", []put{
			{"", "", `{` + ours + `}`, false}, {"", "", `{"namecoach":{"name_badge_link":"b"}}`, false}, {"", "", `{` + ours + `}`, false},
		}},
		"null is nothing": {Options{}, `{"a":1}`, []put{
			{"", "", `{"a":1,"namecoach":null}`, true}, {"", "", `{"a":1,"namecoach":{"recording_id":null}}`, true}, {"", "", `{"a":1}`, true},
		}},
		"the fragment was removed between":  {Options{}, `{"a":1}`, []put{{"", "", `{"a":1,` + ours + `}`, false}, {"namecoach", "", `{"a":1,` + ours + `}`, false}}},
		"a foreign key was changed between": {Options{}, `{"a":1}`, []put{{"", "", `{"a":1,` + ours + `}`, false}, {"a", "2", `{"a":2,` + ours + `}`, true}}},
		"a foreign key is put back":         {Options{}, `{"a":1}`, []put{{"", "", `{` + ours + `}`, false}, {"", "", `{"a":1,` + ours + `}`, false}}},
		"a signature that rotates":          {Options{RotateDigests: true}, `{}`, []put{{"", "", `{` + ours + `}`, false}, {"", "", `{` + signed + `}`, true}}},
		"a signature that does not":         {Options{}, `{}`, []put{{"", "", `{` + ours + `}`, false}, {"", "", `{` + signed + `}`, false}}},
		"a server that drops nulls":         {Options{DropNulls: true}, `{}`, []put{{"", "", `{` + ours + `}`, false}, {"", "", `{` + ours + `}`, true}}},
		"a server that merges":              {Options{Put: ShallowMerge}, `{"a":1}`, []put{{"", "", `{` + ours + `}`, false}, {"", "", `{` + ours + `}`, true}}},
		"a server that sorts":               {Options{ReorderKeys: true}, `{"z":1,"a":1}`, []put{{"", "", `{"z":1,"a":1,` + ours + `}`, false}, {"", "", `{"z":1,"a":1,` + ours + `}`, true}}},
		"the flat layout": {Options{}, `{}`, []put{
			{"", "", `{"namecoach_recording_id":"1"}`, false}, {"", "", `{"namecoach_recording_id":"1"}`, true}, {"", "", `{"namecoach_recording_id":"2"}`, false},
		}},
		"other keys of ours": {Options{OwnKeys: []string{"mine"}}, `{}`, []put{{"", "", `{"mine":"1"}`, false}, {"mine", "", `{"mine":"1"}`, false}, {"", "", `{"mine":"1"}`, true}}},
	} {
		c := start(t, test.o)
		id := c.s.AddUser(NewUser{Username: "a", OtherInfo: test.was})
		idle := 0
		for i, p := range test.puts {
			if p.changed != "" {
				if err := c.s.EditOtherInfo(id, p.changed, p.value); err != nil {
					t.Fatal(err)
				}
			}
			if p.idle {
				idle++
			}
			c.ok(c.put(id, `{"otherInfo":`+p.otherInfo+`}`))
			if writes := c.s.Writes(); len(writes) != i+1 || writes[i].User != id || writes[i].Idle != p.idle {
				t.Errorf("%s: PUT %d: %+v", name, i+1, writes[len(writes)-1])
			}
		}
		if got := c.s.IdleWrites(); len(got) != idle {
			t.Errorf("%s: %d are idle: %q", name, idle, got)
		}
	}
}

func TestAPutWithoutAnswerIsInTheAccountsAndOneThatWasRefusedIsNot(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Faults: Faults{PAppliedThenTimeout: 1}})
	id := c.s.AddUser(NewUser{Username: "a", OtherInfo: `{"a":1,"b":{"c":[1]}}`})
	c.put(id, `{"otherInfo":{"a":1,"namecoach":"x"}}`)
	c.s.Change(func(o *Options) { o.Faults = Faults{} })
	c.put(id, `{"otherInfo":null}`)
	c.put(id+1, `{"otherInfo":{}}`)
	writes := c.s.Writes()
	if len(writes) != 1 || writes[0].Fragment == "" || !slices.Equal(writes[0].Lost, []string{`"b" is lost`}) {
		t.Errorf("got %+v", writes)
	}
}

// What is lost is lost by whoever wrote, be it a server that spoils what was sent: the first shows in the PUT, both in what is there.
func TestWhatTheServerSpoilsIsDamageButNoLostUpdate(t *testing.T) {
	t.Parallel()
	c := start(t, Options{DropForeignKeyOnPut: Tamper{At: 1}})
	id := c.s.AddUser(NewUser{Username: "a", OtherInfo: `{"a":1,"b":2}`})
	c.ok(c.put(id, `{"otherInfo":{"a":1,"b":2,"namecoach":"x"}}`))
	if lost, damage := c.s.LostUpdates(), c.s.ForeignDamage(0); len(lost) != 0 || !slices.Equal(damage, []string{fmt.Sprintf(`user %d: "a" is lost`, id)}) {
		t.Errorf("lost %q, damage %q", lost, damage)
	}
	c.ok(c.put(id, `{"otherInfo":{"a":1,"b":2,"namecoach":"x"}}`))
	if lost, damage, idle := c.s.LostUpdates(), c.s.ForeignDamage(0), c.s.IdleWrites(); len(lost)+len(damage)+len(idle) != 0 {
		t.Errorf("put back: lost %q, damage %q, idle %q", lost, damage, idle)
	}
	c.s.SetOtherInfo(id, `not JSON`)
	c.ok(c.put(id, `{"otherInfo":{}}`))
	if damage := c.s.ForeignDamage(0); !slices.Equal(damage, []string{fmt.Sprintf("user %d: otherInfo as a whole", id)}) {
		t.Errorf("damage %q", damage)
	}
}

// A query has an index; it must find whom a look at everybody finds.
func TestAQueryFindsEverybodyWhomALookAtAllWouldFind(t *testing.T) {
	t.Parallel()
	s := newWorldOf(t, Options{Seed: 5, Users: 300})
	life := s.Life(LifeOptions{Seed: 5, Weights: EveryKind().Without(LeavesBLN, Merges)})
	gone := s.Life(LifeOptions{Seed: 6, Weights: Weights{LeavesBLN: 1, Merges: 1}})
	asked, found := 0, 0
	for range 8 {
		life.Changes(100)
		gone.Changes(3)
		for _, u := range s.Users() {
			text := s.world.users[u.ID].searchable()
			for _, want := range []string{fold(u.Username), fold(u.ExternalID), last(text.organizationUser, 7), last(text.user, 4)} {
				if want = fold(want); len(want) < 3 {
					continue
				}
				asked++
				those := map[int64]bool{}
				for _, a := range s.world.candidates(want) {
					if a.mentions(want, []string{"user", "organizationUser"}) {
						those[a.id] = true
					}
				}
				all := map[int64]bool{}
				if asked%20 == 0 {
					for id, a := range s.world.users {
						if a.mentions(want, []string{"user", "organizationUser"}) {
							all[id] = true
						}
					}
					if !maps.Equal(all, those) {
						t.Errorf("%q: found %v, there are %v", want, those, all)
					}
				}
				if !those[u.ID] {
					t.Errorf("%q does not find user %d", want, u.ID)
				}
				found += len(those)
			}
		}
	}
	if asked < 1000 || found <= asked {
		t.Errorf("asked %d times, found %d", asked, found)
	}
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }
