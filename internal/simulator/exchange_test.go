package simulator

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// However far a server's clock is off, its Date and all that it dates agree.
func TestTheClockOfEachServerIsItsOwn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ both, bln time.Duration }{{-90 * time.Second, 0}, {90 * time.Second, 0}, {0, 90 * time.Second}, {90 * time.Second, -3 * time.Minute}} {
		c := start(t, Options{
			Now: func() time.Time { return noon }, ClockOffset: test.both, BLNClockOffset: test.bln, NameCoachPer15Minutes: 3, RetryAfter: RetryAfterDate,
		})
		id := c.s.AddUser(NewUser{Username: "a"})
		c.s.AddParticipant(Participant{Email: "a", FirstName: "A"})
		nameCoach, bln := noon.Add(test.both), noon.Add(test.both+test.bln)
		window := fmt.Sprintf("updated_after=%s&updated_before=%[1]s", nameCoach.Format("2006-01-02T15:04:05Z"))
		if got := c.list(window).meta("total_count"); got != "1" {
			t.Errorf("%+v: %s rows of the moment that NameCoach calls now", test, got)
		}
		for _, r := range []struct {
			reply
			want time.Time
		}{{c.nameCoach("GET", "/participants?"+day, ""), nameCoach}, {c.put(id, `{"otherInfo":{}}`), bln}, {c.bln("GET", "/nowhere", ""), bln}} {
			if got := r.header.Get("Date"); got != r.want.Format(http.TimeFormat) {
				t.Errorf("%+v: Date: %s, want %s", test, got, r.want)
			}
		}
		if got, want := c.get(id), bln.Format(timeLayout); *got.Modified != want || got.Created != want {
			t.Errorf("%+v: modified %s, created %s", test, *got.Modified, got.Created)
		}
		if got := c.s.Participants()[0].Updated; !got.Equal(nameCoach) {
			t.Errorf("%+v: update time %s", test, got)
		}
		c.nameCoach("GET", "/participants?"+day, "")
		c.nameCoach("GET", "/participants?"+day, "")
		if r := c.nameCoach("GET", "/participants?"+day, ""); r.header.Get("Retry-After") != nameCoach.Add(time.Second).Format(http.TimeFormat) {
			t.Errorf("%+v: %d, Retry-After %s", test, r.status, r.header.Get("Retry-After"))
		}
	}
}

// A day passes at once: what comes after is dated a day later, tokens are a day older, and nothing had to wait.
func TestADayPassesAtOnce(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Now: func() time.Time { return noon }, TokenLife: 25 * time.Hour})
	row := c.s.AddParticipant(Participant{Email: "a"})
	for hour := range 25 {
		if r := c.bln("GET", "/user/acl", ""); r.status != 200 {
			t.Errorf("after %d hours the token is worth %d", hour, r.status)
		}
		c.s.Advance(time.Hour)
	}
	if r := c.bln("GET", "/user/acl", ""); r.status != 401 {
		t.Errorf("a token of 25 hours is worth %d", r.status)
	}
	c.s.UpdateParticipant(row, func(*Participant) {})
	if got := c.s.Participants()[0].Updated; !got.Equal(noon.Add(25 * time.Hour)) {
		t.Errorf("updated %s", got)
	}
}

// Rows show up to a minute after their update time, each after a while of its own: in another order than they were updated in, and
// none goes back to what it was.
func TestRowsShowLateAndInAnotherOrder(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"up to a minute":              {LateVisibleUpTo: time.Minute},
		"half a minute and up to one": {LateVisible: 30 * time.Second, LateVisibleUpTo: 30 * time.Second},
	} {
		now := noon
		o.Now = func() time.Time { return now }
		c := start(t, o)
		const rows = 60
		for i := range rows {
			c.s.AddParticipant(Participant{Email: fmt.Sprint(i), FirstName: "0"})
			now = now.Add(time.Second)
		}
		all := "per_page=2000&updated_after=2024-01-01T00:00:00Z"
		overtaken, versions := 0, map[string]string{}
		for second := range 130 {
			if second == 5 {
				for id := range int64(rows) {
					c.s.UpdateParticipant(id+1, func(p *Participant) { p.FirstName = "1" })
				}
			}
			shown := map[string]bool{}
			for _, row := range c.list(all).Response.Participants {
				email, version := row["email"].(string), row["first_name"].(string)
				if version < versions[email] {
					t.Errorf("%s: row %s went back", name, email)
				}
				versions[email], shown[email] = version, true
			}
			for _, p := range c.s.Participants() {
				late := now.Sub(p.Updated)
				seen := shown[p.Email] && versions[p.Email] == p.FirstName
				if late > time.Minute && !seen || late < o.LateVisible && seen {
					t.Errorf("%s: row %s shows %v %s after its update", name, p.Email, seen, late)
				}
				if seen && p.ID > 1 && !shown[fmt.Sprint(p.ID-2)] {
					overtaken++
				}
			}
			now = now.Add(time.Second)
		}
		if overtaken == 0 {
			t.Errorf("%s: all rows showed in the order in which they were made", name)
		}
	}
	// Where the delay ends, what was late does not come after what was at once.
	now := noon
	c := start(t, Options{Now: func() time.Time { return now }, LateVisible: time.Minute})
	id := c.s.AddParticipant(Participant{Email: "a", FirstName: "first"})
	c.s.Change(func(o *Options) { o.LateVisible = 0 })
	c.s.UpdateParticipant(id, func(p *Participant) { p.FirstName = "second" })
	now = now.Add(2 * time.Minute)
	if got := c.list("updated_after=2024-01-01T00:00:00Z").values("first_name"); len(got) != 1 || got[0] != "second" {
		t.Errorf("got %v", got)
	}
}

// NameCoach: published headers, then one a second, then 429.
func TestNameCoachLimitsAsSeenInTheWild(t *testing.T) {
	t.Parallel()
	now := noon
	c := start(t, Options{Now: func() time.Time { return now }, NameCoachPer15Minutes: 2, RetryAfter: RetryAfterSeconds})
	ask := func(want int, remaining, reset string) {
		t.Helper()
		r := c.nameCoach("GET", "/participants?"+day, "")
		h := r.header
		if r.status != want || h.Get("Nc-Rate-Limit-Limit") != "2" || h.Get("Nc-Rate-Limit-Remaining") != remaining || h.Get("Nc-Rate-Limit-Reset") != reset {
			t.Errorf("got %d, %v", r.status, h)
		}
		if want == 429 && (r.body != `{"message":"Too Many Requests"}` || h.Get("Retry-After") != "1") {
			t.Errorf("got %s, %v", r.body, h)
		}
	}
	ask(200, "1", "900")
	ask(200, "0", "900")
	ask(200, "0", "900")
	ask(429, "0", "900")
	now = now.Add(time.Second)
	ask(200, "0", "899")
	ask(429, "0", "899")
	now = now.Add(15 * time.Minute)
	ask(200, "1", "900")
	if got := c.s.Answers(); got["namecoach 429"] != 2 || got["namecoach 200"] != 5 {
		t.Errorf("answers %v", got)
	}
}

func TestBLNLimitsByTheSecond(t *testing.T) {
	t.Parallel()
	now := noon
	c := start(t, Options{Now: func() time.Time { return now }, BLNPerSecond: 0.5, RetryAfter: RetryAfterDate})
	status := func() reply { return c.bln("GET", "/user/acl", "") }
	if r := status(); r.status != 200 {
		t.Errorf("first: %d", r.status)
	}
	if r := status(); r.status != 429 || r.header.Get("Retry-After") != noon.Add(2*time.Second).Format(http.TimeFormat) || !strings.HasPrefix(r.body, `{"code":"general"`) {
		t.Errorf("second: %d %v %s", r.status, r.header, r.body)
	}
	c.s.Change(func(o *Options) { o.RetryAfter = NoRetryAfter })
	if r := status(); r.status != 429 || r.header.Get("Retry-After") != "" {
		t.Errorf("without Retry-After: %d %v", r.status, r.header)
	}
	now = now.Add(2 * time.Second)
	if r := status(); r.status != 200 {
		t.Errorf("two seconds later: %d", r.status)
	}
}

func TestLatencyAndGzipAreThere(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Seed: 1, Users: 200, NameCoachLatency: 30 * time.Millisecond, Gzip: true})
	began := time.Now()
	r := c.ok(c.do("GET", c.s.NameCoachURL()+"/participants?per_page=2000&updated_before=2030-01-01T00:00:00Z", map[string]string{"Authorization": c.s.Token(), "Accept-Encoding": "gzip"}, ""))
	if r.header.Get("Content-Encoding") != "gzip" || !strings.HasPrefix(r.body, "\x1f\x8b") || time.Since(began) < 30*time.Millisecond {
		t.Errorf("got %v after %s", r.header, time.Since(began))
	}
	if got := len(c.list("per_page=2000&updated_before=2030-01-01T00:00:00Z").Response.Participants); got < 200 {
		t.Errorf("%d rows after decompression", got)
	}
}

// Every fault, one at a time, on every request.
func TestFaultsAreWhatTheyAreCalled(t *testing.T) {
	t.Parallel()
	list := "/organizations/4711/users?excludeInvited=false&limit=100&order=asc"
	for name, test := range map[string]struct {
		faults Faults
		right  func(*client, reply) bool
	}{
		"5xx":   {Faults{P5xx: 1}, func(_ *client, r reply) bool { return r.err == nil && r.status >= 500 }},
		"429":   {Faults{P429: 1}, func(_ *client, r reply) bool { return r.status == 429 }},
		"reset": {Faults{PReset: 1}, func(_ *client, r reply) bool { return r.err != nil && r.status == 0 }},
		"slow":  {Faults{PSlow: 1, Slow: time.Millisecond}, func(_ *client, r reply) bool { return r.err == nil && strings.HasSuffix(r.body, "]") }},
		"cut": {Faults{PTruncate: 1}, func(_ *client, r reply) bool {
			return r.status == 200 && (r.err != nil || !strings.HasSuffix(r.body, "]"))
		}},
		"applied": {Faults{PAppliedThenTimeout: 1}, func(_ *client, r reply) bool { return r.err == nil && r.status == 200 }}, // of PUTs only
	} {
		c := start(t, Options{Seed: 1, Users: 250, Faults: test.faults})
		for range 20 {
			if r := c.bln("GET", list, ""); !test.right(c, r) {
				t.Errorf("%s: %d %v %.100s…", name, r.status, r.err, r.body)
			}
		}
	}
}

// Trap 54: a PUT without answer may have been carried out.
func TestAPutWithoutAnswerWasCarriedOut(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Faults: Faults{PAppliedThenTimeout: 1, Hang: time.Millisecond}})
	id := c.s.AddUser(NewUser{Username: "a"})
	if r := c.put(id, `{"otherInfo":{"a":1}}`); r.err == nil || c.s.UserOtherInfo(id) != `{"a":1}` {
		t.Errorf("got %d %v, stored %s", r.status, r.err, c.s.UserOtherInfo(id))
	}
	c.s.Change(func(o *Options) { o.Faults = Faults{P5xx: 1} })
	applied := 0
	for i := range 40 {
		body := fmt.Sprintf(`{"a":%d}`, i)
		if r := c.put(id, `{"otherInfo":`+body+`}`); r.status < 500 {
			t.Fatalf("got %d", r.status)
		}
		if c.s.UserOtherInfo(id) == body {
			applied++
		}
	}
	if applied < 5 || applied > 35 {
		t.Errorf("of 40 PUTs answered 5xx %d had been carried out", applied)
	}
	if got := c.s.Answers(); got["bln none"] != 1 || got["bln 200"] != 0 {
		t.Errorf("answers %v", got)
	}
}

func TestFaultsComeInTheirShareAndFromTheSeed(t *testing.T) {
	t.Parallel()
	run := func() string {
		c := start(t, Options{Seed: 9, Faults: Faults{P5xx: .1, P429: .1}})
		text := ""
		for range 200 {
			text += fmt.Sprint(c.bln("GET", "/user/acl", "").status, " ")
		}
		return text
	}
	first := run()
	if again := run(); first != again {
		t.Errorf("not the same twice:\n%s\n%s", first, again)
	}
	if ok := strings.Count(first, "200 "); ok < 130 || ok > 185 {
		t.Errorf("%d of 200 answered well", ok)
	}
}

func TestHooksSeeEveryRequest(t *testing.T) {
	t.Parallel()
	var seen []string
	c := start(t, Options{
		OnRequest:       func(_ *Simulator, endpoint string, n int) { seen = append(seen, fmt.Sprint(endpoint, " ", n)) },
		OnNameCoachPage: func(_ *Simulator, page int) { seen = append(seen, fmt.Sprint("page ", page)) },
	})
	c.list("page=3&" + day)
	c.users("")
	c.users("")
	if got, want := strings.Join(seen, ", "), "namecoach participants.list 1, page 3, bln users.list 1, bln users.list 2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// One answer that holds everybody, and a walk through everybody.
func TestEverybodyComesInOneAnswerOrInPages(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Seed: 1, Users: 4000, PagingIgnored: true})
	all, sizes := c.walk()
	if len(all) != 4000 || len(sizes) != 40 {
		t.Errorf("%d users in %d pages", len(all), len(sizes))
	}
	if got := c.list("updated_before=2030-01-01T00:00:00Z"); len(got.Response.Participants) != len(c.s.Participants()) {
		t.Errorf("%d rows in one answer", len(got.Response.Participants))
	}
}

func BenchmarkUsersPage(b *testing.B) {
	s, err := New(Options{Seed: 1, Users: 100_000})
	if err != nil {
		b.Fatal(err)
	}
	e := &exchange{s: s, o: s.options()}
	l := listing{sort: "created", limit: 100, cursor: "2022-01-01T00:00:00Z", cursorID: 1}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		rows, _ := e.page(l)
		buf = buf[:0]
		for _, r := range rows {
			buf = e.appendUser(buf, r, listRow)
		}
	}
}
