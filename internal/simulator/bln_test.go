package simulator

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// Traps 28, 29, 30: signing in.
func TestSignInGivesATokenInMilliseconds(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	login := func(body string) reply { return c.do("POST", c.s.BLNURL()+"/auth/login", nil, body) }
	good := `{"username":"Bridge@demo.example","password":"simulated-password","organizationId":4711}`
	token := decode[map[string]string](t, c.ok(login(good)).body)["accessToken"]
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("no JWT: %s", token)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	claims := decode[struct {
		Login          bool
		UserID         int64
		OrganizationID int64
		Nbf, Exp       int64
	}](t, string(raw))
	now := time.Now()
	if claims.Exp < now.Add(6*24*time.Hour).UnixMilli() || claims.Nbf > now.UnixMilli() || !claims.Login || claims.OrganizationID != 4711 || claims.UserID == 0 {
		t.Errorf("claims %+v", claims)
	}
	for body, want := range map[string]string{
		`{"username":"bridge@demo.example","password":"wrong-password","organizationId":4711}`:                  `401 {"code":"unauthorized"`,
		`{"username":"bridge@demo.example","password":"simulated-password","organizationId":1}`:                 `403 {"code":"forbidden"`,
		`{"username":"bridge@demo.example","password":"simulated-password","organizationId":"4711"}`:            `400 {"code":"invalid"`,
		`{"username":"bridge@demo.example","password":"short","organizationId":4711}`:                           `400 {"code":"invalid"`,
		`{"username":"bridge@demo.example","password":"simulated-password","organizationId":4711,"remember":1}`: `400 {"code":"invalid"`,
		`{"username":"bridge@demo.example","password":"simulated-password"}`:                                    `400 {"code":"invalid"`,
		`no JSON`: `400 {"code":"invalid"`,
	} {
		if r := login(body); !strings.HasPrefix(fmt.Sprint(r.status, " ", r.body), want) {
			t.Errorf("%s: got %d %s, want %s", body, r.status, r.body, want)
		}
	}
	c.s.Change(func(o *Options) { o.OpaqueTokens = true })
	if token := decode[map[string]string](t, c.ok(login(good)).body)["accessToken"]; len(token) != 64 || strings.Contains(token, ".") {
		t.Errorf("opaque token: %s", token)
	}
}

func TestATokenEndsWhenItExpiresOrIsRevoked(t *testing.T) {
	t.Parallel()
	now := noon
	c := start(t, Options{Now: func() time.Time { return now }, TokenLife: time.Hour})
	status := func() int { return c.bln("GET", "/user/acl?resource=organization", "").status }
	if got := status(); got != http.StatusOK {
		t.Errorf("fresh: %d", got)
	}
	now = now.Add(time.Hour)
	if got := status(); got != http.StatusUnauthorized {
		t.Errorf("expired: %d", got)
	}
	c.token = c.s.AccessToken()
	c.s.RevokeTokens()
	if got := status(); got != http.StatusUnauthorized {
		t.Errorf("revoked: %d", got)
	}
	if r := c.do("GET", c.s.BLNURL()+"/user/acl", map[string]string{"Authorization": c.s.Token()}, ""); r.status != http.StatusUnauthorized {
		t.Errorf("NameCoach's token: %d", r.status)
	}
	c.violations("Authorization without Bearer", "NameCoach's token")
}

func TestTheOrganizationIsTheOneThatWasAskedFor(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Users: 3})
	for path, want := range map[string]int{
		"/organizations/4711": 200, "/organizations/demo-college": 200, "/organizations/4712": 403, "/organizations/1": 404, "/organizations/04711": 404,
		"/organizations/demo-college/users?excludeInvited=false&limit=100": 200, "/organizations/4712/users": 403, "/organizations/other/users/1000": 404, "/organizations/4711/users/x": 400,
	} {
		if r := c.bln("GET", path, ""); r.status != want {
			t.Errorf("%s: %d, want %d", path, r.status, want)
		}
	}
	// Basic information is public.
	if got := decode[map[string]any](t, c.ok(c.do("GET", c.s.BLNURL()+"/organizations/4711", nil, "")).body); got["key"] != "demo-college" {
		t.Errorf("got %v", got)
	}
}

// Trap 44: roles.
func TestARoleMayDoWhatTheDocumentSays(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Users: 5})
	for role, want := range map[string][4]int{ // list, search, get, put
		RoleAdmin: {200, 200, 200, 200}, RoleAuditor: {200, 200, 200, 403}, RoleNetworkAdmin: {403, 200, 403, 403}, RoleMember: {403, 403, 403, 403},
	} {
		c.s.Change(func(o *Options) { o.Role = role })
		base := "/organizations/4711/users"
		got := [4]int{
			c.bln("GET", base+"?excludeInvited=false&limit=100", "").status,
			c.bln("GET", base+"?excludeInvited=false&limit=100&search="+url.QueryEscape(`{"identifier":["x"]}`), "").status,
			c.bln("GET", base+"/1000", "").status,
			c.put(1000, `{"otherInfo":{}}`).status,
		}
		if got != want {
			t.Errorf("%s: got %v, want %v", role, got, want)
		}
		acl := decode[map[string][]string](t, c.ok(c.bln("GET", "/user/acl?resource=organization,product", "")).body)
		if may := slices.Contains(acl["organization"], "update user in organization"); may != (role == RoleAdmin) || acl["product"] == nil || len(acl["product"]) != 0 {
			t.Errorf("%s: %v", role, acl)
		}
	}
	if _, err := New(Options{Role: "owner"}); err == nil {
		t.Error("a role that does not exist was taken")
	}
}

// Traps 35, 37, 38: walking through the directory.
func TestTheDirectoryIsWalkedByCreatedAndRowID(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"plain": {}, "short pages": {ShortPages: true}, "partial rows": {ListRows: Partial}, "link header": {LinkHeader: true},
	} {
		o.Seed, o.Users = 2, 700
		c := start(t, o)
		all, sizes := c.walk()
		if len(all) != 700 {
			t.Errorf("%s: %d users", name, len(all))
		}
		if short := sizes[0] < 100; short != o.ShortPages {
			t.Errorf("%s: first page of %d", name, sizes[0])
		}
		rowIDs, userIDs := map[int64]bool{}, map[int64]bool{}
		for i, u := range all {
			rowIDs[u.ID], userIDs[u.User.ID] = true, true
			if i > 0 && (all[i-1].Created > u.Created || all[i-1].Created == u.Created && all[i-1].ID >= u.ID) {
				t.Fatalf("%s: order broken at %d", name, i)
			}
		}
		if len(rowIDs) != 700 || len(userIDs) != 700 {
			t.Errorf("%s: %d row ids, %d user ids", name, len(rowIDs), len(userIDs))
		}
		c.violations()
	}
}

func TestOrderLimitAndInvitedAreAsDocumented(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Seed: 2, Users: 300})
	ask := func(query string) []user {
		return decode[[]user](t, c.ok(c.bln("GET", "/organizations/4711/users?"+query, "")).body)
	}
	all, _ := c.walk()
	if down := ask("excludeInvited=false&limit=100"); down[0].ID != all[299].ID || len(down) != 100 {
		t.Errorf("newest first by default: %d, want %d", down[0].ID, all[299].ID)
	}
	if got := len(ask("excludeInvited=false&limit=1000")); got != 100 {
		t.Errorf("limit is capped: %d", got)
	}
	back := ask(fmt.Sprintf("excludeInvited=false&limit=10&order=asc&before=%s&cursorId=%d", all[50].Created, all[50].ID))
	if len(back) != 10 || back[0].ID != all[40].ID || back[9].ID != all[49].ID {
		t.Errorf("before: %d rows", len(back))
	}
	down := ask(fmt.Sprintf("excludeInvited=false&limit=10&order=desc&after=%s&cursorId=%d", all[50].Created, all[50].ID))
	if len(down) != 10 || down[0].ID != all[49].ID {
		t.Errorf("after, descending: %d rows", len(down))
	}
	invited := 0
	for _, u := range c.s.Users() {
		if u.Invited {
			invited++
		}
	}
	count := func(query string) int {
		n, cursor := 0, ""
		for {
			page := ask("limit=100&order=asc&" + query + cursor)
			if len(page) == 0 {
				return n
			}
			n += len(page)
			cursor = fmt.Sprintf("&after=%s&cursorId=%d", page[len(page)-1].Created, page[len(page)-1].ID)
		}
	}
	if got := count(""); got != 300-invited || invited == 0 {
		t.Errorf("invited are left out by default: %d of 300, %d invited", got, invited)
	}
	if got := count("excludeInvited=false"); got != 300 {
		t.Errorf("with invited: %d", got)
	}
	c.s.Change(func(o *Options) { o.IncludeInvited = true })
	if got := count(""); got != 300 {
		t.Errorf("with invited by default: %d", got)
	}
	byName := ask("excludeInvited=false&limit=100&order=asc&sort=lastname")
	next := ask(fmt.Sprintf("excludeInvited=false&limit=100&order=asc&sort=lastname&after=%s&cursorId=%d", url.QueryEscape(byName[99].User.Lastname), byName[99].ID))
	if len(next) != 100 || next[0].User.Lastname < byName[99].User.Lastname || next[0].ID == byName[99].ID {
		t.Errorf("by name: %q after %q", next[0].User.Lastname, byName[99].User.Lastname)
	}
	for _, bad := range []string{"sort=age", "order=up", "limit=0", "limit=x", "after=yesterday&cursorId=1", "cursorId=x", "excludeInvited=perhaps", "search={identifier:[1]}", "search={}", "search={\"shoe\":1}", "query=x&queryOn=shoes"} {
		name, value, _ := strings.Cut(bad, "=")
		if first, rest, more := strings.Cut(value, "&"); more {
			value = url.QueryEscape(first) + "&" + rest
		} else {
			value = url.QueryEscape(value)
		}
		if r := c.bln("GET", "/organizations/4711/users?"+name+"="+value, ""); r.status != http.StatusBadRequest || !strings.HasPrefix(r.body, `{"code":"invalid"`) {
			t.Errorf("%s: %d %s", bad, r.status, r.body)
		}
	}
}

// Trap 37: cursors that do not lead on.
func TestTheCursorMayBeIgnoredOrHaveFractionsThatDoNotShow(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Seed: 2, Users: 500, AfterIgnored: true})
	page := c.users("order=asc")
	again := c.users(fmt.Sprintf("order=asc&after=%s&cursorId=%d", page[99].Created, page[99].ID))
	if again[0].ID != page[0].ID {
		t.Error("the cursor led somewhere")
	}
	c = start(t, Options{Seed: 2, Users: 500, HiddenFractions: true, LinkHeader: true})
	r := c.ok(c.bln("GET", "/organizations/4711/users?excludeInvited=false&limit=100&order=asc", ""))
	page = decode[[]user](t, r.body)
	last := page[99]
	again = c.users(fmt.Sprintf("order=asc&after=%s&cursorId=%d", last.Created, last.ID))
	repeats := slices.ContainsFunc(again, func(u user) bool { return u.ID == last.ID })
	part, found := strings.CutPrefix(r.header.Get("Link"), "after=")
	if !found {
		t.Fatalf("link header of a first page: %q", r.header.Get("Link"))
	}
	next := c.users("order=asc&after=" + part)
	if !repeats || slices.ContainsFunc(next, func(u user) bool { return u.ID == last.ID }) || len(next) != 100 {
		t.Errorf("by what is shown the last row comes again: %t; by the header it does not: %d rows", repeats, len(next))
	}
	if got := c.ok(c.bln("GET", "/organizations/4711/users?excludeInvited=false&limit=100&order=asc&after="+part, "")).header.Get("Link"); !strings.HasPrefix(got, "before=") || !strings.Contains(got, ";after=") {
		t.Errorf("link header of a middle page: %q", got)
	}
}

// Traps 39, 40, 42: search and query.
func TestSearchAndQueryFindMoreThanWasMeant(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	tom := c.s.AddUser(NewUser{Username: "Tom@Demo.example", FirstName: "Tom", LastName: "Cook", ExternalID: "15005550300", OtherInfo: `{"workEmail":"Tom@work.example","birthYear":1985}`})
	ann := c.s.AddUser(NewUser{Username: "ann", FirstName: "Ann", LastName: "Tomlin", OtherInfo: `{"mobilePhone":"15005550300","personalEmail":"tom@demo.example","address":{"locality":"Vancouver"}}`})
	ids := func(query string) []int64 {
		var ids []int64
		for _, u := range c.users("order=asc&" + query) {
			ids = append(ids, u.User.ID)
		}
		return ids
	}
	search := func(object string) string { return "search=" + url.QueryEscape(object) }
	for query, want := range map[string][]int64{
		search(`{"identifier":["tom@demo.example","ann","nobody"]}`):                {tom, ann},
		search(`{"identifier":"TOM@demo.example"}`):                                 {tom},
		search(`{"emailIdentifier":["ann","tom@demo.example"]}`):                    {tom},
		search(`{"personalEmail":"tom@demo.example"}`):                              {ann},
		search(`{"birthYear":1985}`):                                                {tom},
		search(`{"workEmail":null}`):                                                {ann},
		search(`{"locality":"vancouver","firstname":"Ann"}`):                        {ann},
		search(`{"locality":"vancouver","firstname":"Tom"}`):                        nil,
		search(`{"locality":"vancouver","firstname":"Tom"}`) + "&searchOperator=or": {tom, ann},
		search(`{"identifier":"tom"}`):                                              nil,
		search(`{"identifier":"tom"}`) + "&searchMethod=partial":                    {tom},
		"query=15005550300":                                                         nil, // queryOn is `user` by default
		"query=15005550300&queryOn=user,organizationUser":                           {tom, ann},
		"query=tom&queryOn=user":                                                    {tom, ann},
		"query=tom@demo.example&queryOn=organizationUser":                           {ann},
		"query=1500555&queryOn=organizationUser":                                    {tom, ann},
	} {
		if got := ids(query); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
	counts := c.s.Counts()
	if counts["bln users.search"] != 11 || counts["bln users.query"] != 5 || counts["bln users.list"] != 0 {
		t.Errorf("counts %v", counts)
	}
	c.s.ResetCounts()
	if len(c.s.Counts()) != 0 || len(c.s.Answers()) != 0 {
		t.Error("counts were not reset")
	}
}

// Traps 43, 52: what of otherInfo is shown where.
func TestAListRowMayHaveLessOfOtherInfoThanGet(t *testing.T) {
	t.Parallel()
	c := start(t, Options{ListRows: Partial})
	full := `{"birthYear":1978,"homePhone":"1","namecoach":{"recording_id":"1"},"jobTitle":null,"free":1.10}`
	id := c.s.AddUser(NewUser{Username: "a", OtherInfo: full})
	absent, null := c.s.AddUser(NewUser{Username: "b"}), c.s.AddUser(NewUser{Username: "c", OtherInfo: "null"})
	row := c.users("search=" + url.QueryEscape(`{"identifier":"a"}`))[0]
	if string(row.OtherInfo) != `{"birthYear":1978,"homePhone":"1","jobTitle":null}` || len(row.Address) != 0 {
		t.Errorf("row: %s, address %v", row.OtherInfo, row.Address)
	}
	if got := c.get(id); string(got.OtherInfo) != full || len(got.Address) != 10 {
		t.Errorf("get: %s, address %v", got.OtherInfo, got.Address)
	}
	if a, n := c.get(absent).OtherInfo, c.get(null).OtherInfo; a != nil || string(n) != "null" {
		t.Errorf("absent: %s, null: %s", a, n)
	}
	c.s.Change(func(o *Options) { o.ListRows = Complete })
	if row := c.users("search=" + url.QueryEscape(`{"identifier":"a"}`))[0]; string(row.OtherInfo) != full {
		t.Errorf("complete row: %s", row.OtherInfo)
	}
}

// Traps 47, 51: what PUT does and answers.
func TestPutReplacesOrMerges(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		o    Options
		want string
	}{
		"replace":       {Options{}, `{"namecoach":{"b":null},"new":1.10}`},
		"shallow merge": {Options{Put: ShallowMerge}, `{"jobTitle":"x","namecoach":{"b":null},"new":1.10}`},
		"deep merge":    {Options{Put: DeepMerge}, `{"jobTitle":"x","namecoach":{"a":"1","b":null},"new":1.10}`},
		"nulls dropped": {Options{DropNulls: true}, `{"namecoach":{},"new":1.10}`},
		"keys sorted":   {Options{ReorderKeys: true, Put: ShallowMerge}, `{"jobTitle":"x","namecoach":{"b":null},"new":1.10}`},
	} {
		c := start(t, test.o)
		id := c.s.AddUser(NewUser{Username: "a", OtherInfo: `{"jobTitle":"x","namecoach":{"a":"1","b":"2"}}`})
		answer := decode[user](t, c.ok(c.put(id, ` {"otherInfo": { "namecoach": {"b":null} , "new":1.10 } }`)).body)
		normal := func(raw string) string {
			n, err := parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			return string(appendCanonical(nil, &n))
		}
		if got := normal(c.s.UserOtherInfo(id)); got != normal(test.want) || normal(string(answer.OtherInfo)) != got || answer.Modified == nil {
			t.Errorf("%s: stored %s, answered %s, want %s", name, got, answer.OtherInfo, test.want)
		}
		if name == "keys sorted" && !strings.HasPrefix(c.s.UserOtherInfo(id), `{"jobTitle"`) {
			t.Errorf("%s: %s", name, c.s.UserOtherInfo(id))
		}
		c.violations()
	}
}

func TestAPutMayAnswerShort(t *testing.T) {
	t.Parallel()
	c := start(t, Options{PutAnswer: Short})
	id := c.s.AddUser(NewUser{Username: "a"})
	body := `{"otherInfo":{"jobTitle":"x","namecoach":{"b":null}}}`
	if got := decode[user](t, c.ok(c.put(id, body)).body); got.OtherInfo != nil || got.User.ID != id {
		t.Errorf("short: %+v", got)
	}
	c.s.Change(func(o *Options) { o.PutAnswer = StaleListRow })
	if got := decode[user](t, c.ok(c.put(id, body)).body); string(got.OtherInfo) != `{"jobTitle":"x"}` {
		t.Errorf("stale: %s", got.OtherInfo)
	}
}

// Traps 35, 45, 46, 49, 50, 55: what PUT refuses, and what it carries out though nobody should ask.
func TestPutRefusesWhatTheSchemaRefusesAndNoticesTheRest(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	id := c.s.AddUser(NewUser{Username: "a", OtherInfo: `{"jobTitle":"x"}`})
	row := c.get(id).ID
	for body, want := range map[string]int{
		`{"otherInfo":{"trades":null}}`: 400, `{"otherInfo":null}`: 400, `{"other":1}`: 400, `{`: 400, `{"otherInfo":{"jobTitle":"x"}}`: 200,
	} {
		if r := c.put(id, body); r.status != want || want == 400 && !strings.HasPrefix(r.body, `{"code":"invalid","message":"`) {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
	}
	if r := c.put(row, `{"otherInfo":{}}`); r.status != http.StatusNotFound || !strings.HasPrefix(r.body, `{"code":"notFound"`) {
		t.Errorf("by row id: %d %s", r.status, r.body)
	}
	c.s.Change(func(o *Options) { o.NotFoundUsers = map[int64]bool{id: true} })
	if get, put := c.bln("GET", fmt.Sprintf("/organizations/4711/users/%d", id), ""), c.put(id, `{"otherInfo":{}}`); get.status != 404 || put.status != 404 {
		t.Errorf("merged away: GET %d, PUT %d", get.status, put.status)
	}
	if got := len(c.users("")); got != 1 {
		t.Errorf("the list still has it: %d", got)
	}
	c.s.Change(func(o *Options) { o.NotFoundUsers = nil })
	c.violations("PUT with other beside otherInfo")
	c.ok(c.put(id, `{"otherInfo":{},"role":"admin","externalId":null}`))
	if got := c.get(id); got.Role != "admin" || c.s.UserOtherInfo(id) != "{}" {
		t.Errorf("got %+v", got)
	}
	c.bln("PUT", fmt.Sprintf("/users/%d", id), `{}`)
	c.bln("GET", "/organizations/4711/users?order=asc&after=2012-03-26T12:11:45Z", "")
	c.violations("bln: PUT of a path", "PUT with externalId", "PUT with other ", "PUT with role", "after or before without cursorId", "without excludeInvited", "without limit")
}

// Trap 50: the server counts what would be there after merging.
func TestHundredPropertiesAreCountedAfterMerging(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Put: ShallowMerge})
	full := "{"
	for i := range 100 {
		full += fmt.Sprintf(`"k%d":1,`, i)
	}
	id := c.s.AddUser(NewUser{Username: "a", OtherInfo: full[:len(full)-1] + "}"})
	if r := c.put(id, `{"otherInfo":{"k5":2}}`); r.status != 200 {
		t.Errorf("a key that is there: %d %s", r.status, r.body)
	}
	if r := c.put(id, `{"otherInfo":{"namecoach":null}}`); r.status != 400 {
		t.Errorf("one more: %d", r.status)
	}
}

func TestTheServerSpoilsForeignKeysWhereAsked(t *testing.T) {
	t.Parallel()
	body := `{"otherInfo":{"namecoach":null,"a":1,"b":2}}`
	c := start(t, Options{DropForeignKeyOnPut: Tamper{At: 2}, ChangeForeignKeyOnPut: Tamper{Every: 3, Key: "b"}})
	id := c.s.AddUser(NewUser{Username: "a", OtherInfo: `{"a":1,"b":2}`})
	before := c.s.ForeignDigests()
	for i, want := range []string{
		`{"namecoach":null,"a":1,"b":2}`, `{"namecoach":null,"b":2}`, `{"namecoach":null,"a":1,"b":"changed by the server"}`, `{"namecoach":null,"a":1,"b":2}`,
	} {
		c.ok(c.put(id, body))
		got := c.s.UserOtherInfo(id)
		if same := c.s.ForeignDigests()[id] == before[id]; got != want || same != (i == 0 || i == 3) {
			t.Errorf("PUT %d: %s, foreign keys the same: %t", i+1, got, same)
		}
	}
	// Before anybody has a foreign key that says something, there is nothing to spoil: it is the next who has one.
	c = start(t, Options{DropForeignKeyOnPut: Tamper{At: 1}})
	id = c.s.AddUser(NewUser{Username: "a"})
	c.ok(c.put(id, `{"otherInfo":{"namecoach":null}}`))
	c.ok(c.put(id, `{"otherInfo":{"namecoach":null,"z":null}}`))
	c.ok(c.put(id, body))
	if got := c.s.UserOtherInfo(id); got != `{"namecoach":null,"b":2}` {
		t.Errorf("got %s", got)
	}
}

// The world, carried out as its truth says and over HTTP: right at the end, nothing foreign touched, and the unwritable refused.
func TestTheTruthCanBeWritten(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Seed: 4, Users: 400})
	before, count := c.s.ForeignDigests(), c.s.CountForeign()
	truth := c.s.Truth()
	refused := 0
	for id, u := range truth.Users {
		if u.Wanted == nil {
			continue
		}
		had := c.get(id).OtherInfo
		if had == nil || string(had) == "null" {
			had = []byte("{}")
		}
		body := strings.TrimSuffix(string(had), "}")
		if body != "{" {
			body += ","
		}
		switch r := c.put(id, `{"otherInfo":`+body+`"namecoach":`+u.Wanted.JSON()+`}}`); {
		case u.Held == "" && r.status != 200:
			t.Errorf("user %d: %d %s", id, r.status, r.body)
		case u.Held == "unwritable" && r.status != 400:
			t.Errorf("user %d is unwritable (%s): %d", id, u.Why, r.status)
		case r.status == 400:
			refused++
		}
	}
	if m := c.s.Mismatches(5); len(m) != 0 {
		t.Errorf("mismatches: %v", m)
	}
	after := c.s.Truth().Totals
	if after.Written != 0 || after.Unchanged != truth.Totals.Written || refused != truth.Totals.Held["unwritable"] {
		t.Errorf("after: %+v", after)
	}
	if c.s.CountForeign() != count {
		t.Errorf("%d foreign keys, were %d", c.s.CountForeign(), count)
	}
	for id, digest := range c.s.ForeignDigests() {
		if before[id] != digest {
			t.Errorf("user %d: foreign keys changed", id)
		}
	}
	c.violations()
}
