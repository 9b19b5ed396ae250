package bln

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"
	"pgregory.net/rapid"

	"namebridge/internal/httpapi"
)

// row is a list row with that row id and user.id.
func row(rowID, userID int64, username, created string) string {
	return fmt.Sprintf(`{"id":%d,"role":"member","externalId":"ext-%d","otherInfo":{"jobTitle":"x"},"address":{},"user":{"id":%d,"username":%s,"firstname":"Tim","lastname":"Cook"},"created":%q,"modified":null}`,
		rowID, userID, userID, quote(username), created)
}

func list(rows ...string) string { return "[" + strings.Join(rows, ",") + "]" }

// A page as the document shows it (BLN 7709), with its two traps: row id is not user.id (35), otherInfo is an excerpt (43).
func TestUsersReadsTheDocumentedPage(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	var query url.Values
	f.handle("GET /organizations/100/users", func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.Query()
		fmt.Fprint(w, `[
		  {"id": 10001, "organization": {"id": 100, "key": "AwesomeInc", "name": "Awesome Inc.", "logo": {}}, "role": "admin", "externalId": "222-444-666",
		   "meta": {"trades": ["wielding"]}, "otherInfo": {"birthYear": 1978, "jobTitle": "Security Officer"}, "address": {}, "termsOfServiceAccepted": "2015-03-26T12:11:45Z",
		   "user": {"id": 100, "username": "tim@example.com", "firstname": "Tim", "lastname": "Cook", "avatar": {"url": null}, "sms": {}, "locale": "en-CA", "confirmed": true, "private": true},
		   "channel": {"id": 101}, "created": "2012-03-26T12:11:45Z", "modified": null},
		  {"id": 20001, "role": "member", "externalId": null, "otherInfo": null, "user": {"id": 200, "username": "johnny", "firstname": null}, "channel": null, "created": "2012-11-26T12:11:45Z", "modified": "2013-01-01T00:00:00Z"}
		]`)
	})
	before := time.Now().Truncate(time.Second)
	page, err := f.client(t).Users(t.Context(), Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	want := []User{
		{
			RowID: 10001, ID: 100, Role: "admin", ExternalID: "222-444-666", Username: "tim@example.com", FirstName: "Tim", LastName: "Cook", Created: "2012-03-26T12:11:45Z",
			OtherInfo: mustParse(t, `{"birthYear": 1978, "jobTitle": "Security Officer"}`), HasOtherInfo: true,
		},
		{RowID: 20001, ID: 200, Role: "member", Username: "johnny", Created: "2012-11-26T12:11:45Z", Modified: "2013-01-01T00:00:00Z", HasOtherInfo: true},
	}
	if diff := cmp.Diff(want, page.Users, cmp.AllowUnexported(OtherInfo{})); diff != "" {
		t.Error(diff)
	}
	if want := (Cursor{After: "2012-11-26T12:11:45Z", ID: 20001}); page.Next != want {
		t.Errorf("Next = %+v, want %+v", page.Next, want)
	}
	if page.Date.Before(before) || page.Date.After(time.Now()) {
		t.Errorf("Date = %v", page.Date)
	}
	// Traps 36, 38.
	wantQuery := url.Values{"excludeInvited": {"false"}, "sort": {"created"}, "order": {"asc"}, "limit": {"100"}}
	if diff := cmp.Diff(wantQuery, query); diff != "" {
		t.Error(diff)
	}
}

func TestARowIsReadTolerantlyWhereNothingHangsOnIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		row  string
		want User
	}{
		"bare":                {`{"id":1,"user":{"id":2}}`, User{RowID: 1, ID: 2}},
		"unknown fields":      {`{"ID":9,"x":{"id":3},"id":1,"user":{"id":2,"Id":7,"y":[]}}`, User{RowID: 1, ID: 2}},
		"escaped field names": {`{"\u0069d":1,"user":{"\u0069d":2,"username":"a\u0000b"}}`, User{RowID: 1, ID: 2, Username: "a\x00b"}},
		"number as text":      {`{"id":1,"externalId":0012345678901234567890.10,"user":{"id":2}}`, User{}},
		"external id number":  {`{"id":1,"externalId":12345678901234567890,"user":{"id":2}}`, User{RowID: 1, ID: 2, ExternalID: "12345678901234567890"}},
		"boolean as text":     {`{"id":1,"role":true,"user":{"id":2}}`, User{RowID: 1, ID: 2, Role: "true"}},
		"lone surrogate":      {`{"id":1,"user":{"id":2,"firstname":"a\ud800b"}}`, User{RowID: 1, ID: 2, FirstName: "a\uFFFDb"}},
		"invalid UTF-8":       {"{\"id\":1,\"user\":{\"id\":2,\"lastname\":\"a\xffb\"}}", User{RowID: 1, ID: 2, LastName: "a\uFFFDb"}},
		"no otherInfo":        {`{"id":1,"user":{"id":2}}`, User{RowID: 1, ID: 2}},
		"null otherInfo":      {`{"id":1,"otherInfo":null,"user":{"id":2}}`, User{RowID: 1, ID: 2, HasOtherInfo: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			users, err := readUsers([]byte(list(c.row)))
			if c.want == (User{}) {
				if err == nil {
					t.Error("accepted")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]User{c.want}, users, cmp.AllowUnexported(OtherInfo{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestARowsBrokenOtherInfoLeavesTheUserUsable(t *testing.T) {
	t.Parallel()
	for _, otherInfo := range []string{`{"a":1,"a":2}`, `[]`, `"x"`, "{\"a\":\"\xff\"}", `{"a":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`} {
		users, err := readUsers([]byte(list(row(1, 2, "tim", ""), strings.Replace(row(3, 4, "tom", ""), `{"jobTitle":"x"}`, otherInfo, 1))))
		if err != nil || len(users) != 2 {
			t.Fatalf("%.20s: %v", otherInfo, err)
		}
		if u := users[1]; u.ID != 4 || u.Username != "tom" || u.OtherInfoErr == nil || u.OtherInfo != (OtherInfo{}) || !u.HasOtherInfo {
			t.Errorf("%.20s: got %+v", otherInfo, u)
		}
	}
}

func TestAnUnexpectedShapeIsAnErrorThatNamesTheRowAndNeverEmpty(t *testing.T) {
	t.Parallel()
	good := row(1, 2, "tim", "2012-03-26T12:11:45Z")
	for name, c := range map[string]struct{ answer, want string }{
		"nothing":            {``, "the answer is not valid JSON"},
		"null":               {`null`, "the answer is no list but null"},
		"an object":          {`{"users":[]}`, "the answer is no list but an object"},
		"cut off":            {"[" + good + ",", "the answer is not valid JSON"},
		"two lists":          {"[][]", "the answer is not valid JSON"},
		"too deep":           {strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001), "the answer is nested deeper than 10000 levels"},
		"absurdly deep":      {strings.Repeat("[", 5_000_000), "the answer is nested deeper than 10000 levels"},
		"row null":           {list(good, `null`), "row 1 is no object but null"},
		"no user":            {list(good, `{"id":3}`), "row 1 has no user object"},
		"user null":          {list(good, `{"id":3,"user":null}`), "row 1 has no user object"},
		"user a number":      {list(good, `{"id":3,"user":4}`), "row 1 has no user object"},
		"no user.id":         {list(good, `{"id":3,"user":{}}`), "row 1 has no user.id, or one that is no whole number above 0"},
		"user.id null":       {list(`{"id":3,"user":{"id":null}}`), "row 0 has no user.id, or one that is no whole number above 0"},
		"user.id text":       {list(`{"id":3,"user":{"id":"4"}}`), "row 0 has no user.id, or one that is no whole number above 0"},
		"user.id fraction":   {list(`{"id":3,"user":{"id":4.5}}`), "row 0 has no user.id, or one that is no whole number above 0"},
		"user.id zero":       {list(`{"id":3,"user":{"id":0}}`), "row 0 has no user.id, or one that is no whole number above 0"},
		"user.id too large":  {list(`{"id":3,"user":{"id":9223372036854775808}}`), "row 0 has no user.id, or one that is no whole number above 0"},
		"no row id":          {list(good, `{"user":{"id":4}}`), "row 1 has no id, or one that is no whole number above 0"},
		"id twice":           {list(`{"id":1,"id":2,"user":{"id":4}}`), "row 0 has id twice"},
		"otherInfo twice":    {list(`{"id":1,"otherInfo":null,"otherInfo":{},"user":{"id":4}}`), "row 0 has otherInfo twice"},
		"user.id twice":      {list(`{"id":1,"user":{"id":4,"id":5}}`), "row 0 has a user that has id twice"},
		"username an object": {list(`{"id":1,"user":{"id":4,"username":{"a":"tim@example.com"}}}`), "row 0 has user.username as an object"},
		"externalId a list":  {list(`{"id":1,"externalId":["tim@example.com"],"user":{"id":4}}`), "row 0 has externalId as an array"},
		"same row":           {list(good, good), "row 1 has the id of an earlier row"},
		"created no time":    {list(good, row(3, 4, "tom", "yesterday")), "row 1 has a created that is no time"},
		"created falls":      {list(good, row(3, 4, "tom", "2012-03-26T12:11:44.999Z")), "row 1 was created before the row above it: the list is not in the order asked for"},
		"created falls, +02": {list(good, row(3, 4, "tom", "2012-03-26T14:11:44+02:00")), "row 1 was created before the row above it: the list is not in the order asked for"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeBLN(t)
			f.handle("GET /organizations/100/users", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, c.answer) })
			page, err := f.client(t).Users(t.Context(), Cursor{})
			want := "bln users.list (GET): " + c.want
			if err == nil || err.Error() != want || page.Users != nil {
				t.Errorf("got %v, want %s", err, want)
			}
			var failed *httpapi.Error
			if !errors.As(err, &failed) || failed.Unknown {
				t.Errorf("got %#v, want an *httpapi.Error whose outcome is known", err)
			}
			noSecrets(t, err)
		})
	}
}

func TestCreatedMayStandStillAndComeInEveryDocumentedForm(t *testing.T) {
	t.Parallel()
	users, err := readUsers([]byte(list(
		row(1, 1, "a", "2012-03-26T12:11:45Z"), row(2, 2, "b", "2012-03-26T12:11:45Z"), row(3, 3, "c", "2012-03-26T12:11:45.5Z"),
		row(4, 4, "d", ""), row(5, 5, "e", "2012-03-26T06:12:45-07:00"), row(6, 6, "f", "2012-03-26T13:12:45+0000"), row(7, 7, "g", "2012-03-26 13:12:46"),
	)))
	if err != nil || len(users) != 7 {
		t.Error(err)
	}
}

// directory is a list that pages by created and row id, in rows of one second each three.
func directory(n int) (rows []string) {
	start := time.Date(2012, 3, 26, 12, 0, 0, 0, time.UTC)
	for i := range n {
		rows = append(rows, row(int64(10001+i), int64(n-i), fmt.Sprintf("u%d@example.com", i), start.Add(time.Duration(i/3)*time.Second).Format(time.RFC3339)))
	}
	return rows
}

// Traps 36, 37: with the header and without it, in short pages, until an empty one.
func TestAWalkThroughTheDirectoryMeetsEveryoneOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		length int
		link   func(last gjson.Result) string
	}{
		"by the last row": {100, nil},
		"in short pages":  {7, nil},
		"by the header": {100, func(last gjson.Result) string {
			return fmt.Sprintf("before=x&cursorId=1&limit=100;after=%s&cursorId=%d&limit=100", url.QueryEscape(last.Get("created").Str), last.Get("id").Int())
		}},
		"header unescaped": {100, func(last gjson.Result) string {
			return fmt.Sprintf("after=%s&cursorId=%d&limit=100", last.Get("created").Str, last.Get("id").Int())
		}},
		"another form of header": {100, func(gjson.Result) string {
			return `<https://elsewhere.example/users?after=x&cursorId=1>; rel="next"`
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rows := directory(250)
			var requests atomic.Int64
			f := newFakeBLN(t)
			f.handle("GET /organizations/100/users", func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				rest := rows
				if q := r.URL.Query(); q.Has("after") {
					id, _ := strconv.ParseInt(q.Get("cursorId"), 10, 64)
					i := slices.IndexFunc(rows, func(row string) bool {
						return gjson.Get(row, "id").Int() == id && gjson.Get(row, "created").Str == q.Get("after")
					})
					if i < 0 {
						refuse(w, 400, "invalid", "no such place")
						return
					}
					rest = rows[i+1:]
				}
				rest = rest[:min(c.length, len(rest))]
				if c.link != nil && len(rest) > 0 {
					w.Header().Set("link", c.link(gjson.Parse(rest[len(rest)-1])))
				}
				fmt.Fprint(w, list(rest...))
			})
			client := f.client(t)
			var met []int64
			for after := (Cursor{}); ; {
				page, err := client.Users(t.Context(), after)
				if err != nil {
					t.Fatal(err)
				}
				if len(page.Users) == 0 {
					break
				}
				for _, u := range page.Users {
					met = append(met, u.RowID)
				}
				// A cursor is kept between runs.
				kept, err := json.Marshal(page.Next)
				if err != nil {
					t.Fatal(err)
				}
				after = Cursor{}
				if err := json.Unmarshal(kept, &after); err != nil {
					t.Fatal(err)
				}
			}
			want := make([]int64, 250)
			for i := range want {
				want[i] = int64(10001 + i)
			}
			if diff := cmp.Diff(want, met); diff != "" {
				t.Error(diff)
			}
			if got, want := requests.Load(), int64((250+c.length-1)/c.length+1); got != want {
				t.Errorf("%d requests, want %d", got, want)
			}
		})
	}
}

// Trap 37.
func TestAPageThatCannotGoOnIsAnError(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	answer := list(row(1, 2, "tim", "2012-03-26T12:11:45Z"), row(3, 4, "tom", ""))
	f.handle("GET /organizations/100/users", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) })
	c := f.client(t)
	if _, err := c.Users(t.Context(), Cursor{}); err == nil || !strings.Contains(err.Error(), "row 1 has no created") {
		t.Errorf("got %v", err)
	}
}

func TestTheNewestMemberIsAskedForInOneRequest(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	answer := list(row(1, 2, "tim", "2012-03-26T12:11:45Z"))
	f.handle("GET /organizations/100/users", func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("order") != "desc" || q.Get("limit") != "1" || q.Get("excludeInvited") != "false" {
			t.Errorf("asked %s", r.URL.RawQuery)
		}
		fmt.Fprint(w, answer)
	})
	c := f.client(t)
	if u, ok, err := c.Newest(t.Context()); err != nil || !ok || u.ID != 2 {
		t.Errorf("got %v, %v, %v", u.ID, ok, err)
	}
	answer = "[]"
	if _, ok, err := c.Newest(t.Context()); err != nil || ok {
		t.Errorf("of nobody: %v, %v", ok, err)
	}
}

func TestLinkHeader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header []string
		want   Cursor
	}{
		{[]string{"before=John&cursorId=10034&limit=2;after=Mary&cursorId=10033&limit=2"}, Cursor{"Mary", 10033}}, // BLN 10130
		{[]string{"after=Mary&cursorId=10033&limit=2"}, Cursor{"Mary", 10033}},
		{[]string{" cursorId=10033&after=Mary "}, Cursor{"Mary", 10033}},
		{[]string{"before=John&cursorId=10034", "after=Mary&cursorId=10033"}, Cursor{"Mary", 10033}},
		{[]string{"after=2012-03-26T12%3A11%3A45%2B02%3A00&cursorId=7"}, Cursor{"2012-03-26T12:11:45+02:00", 7}},
		{[]string{"after=2012-03-26T12:11:45+02:00&cursorId=7"}, Cursor{"2012-03-26T12:11:45+02:00", 7}},
		{[]string{"after=a%3Bb%26c&cursorId=7"}, Cursor{"a;b&c", 7}},
		{nil, Cursor{}},
		{[]string{""}, Cursor{}},
		{[]string{"before=John&cursorId=10034&limit=2"}, Cursor{}},
		{[]string{"before=John&cursorId=10034;after=Mary"}, Cursor{}},
		{[]string{"after=Mary&cursorId=x"}, Cursor{}},
		{[]string{"after=&cursorId=7"}, Cursor{}},
		{[]string{"after=%zz&cursorId=7"}, Cursor{}},
		{[]string{`<https://elsewhere.example/?after=Mary&cursorId=10033>; rel="next"`}, Cursor{}},
	} {
		if got, ok := readLink(c.header); got != c.want || ok != (c.want != Cursor{}) {
			t.Errorf("%q: got %+v, %v; want %+v", c.header, got, ok, c.want)
		}
	}
}

// Traps 36, 38, 39, 41.
func TestSearchAsksInJSONAndKeepsOnlyWhoWasAskedFor(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	var queries []url.Values
	f.handle("GET /organizations/100/users", func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.Query())
		fmt.Fprint(w, list(
			row(1, 11, "TIM@Example.com", "2012-03-26T12:11:45Z"),
			row(2, 12, "tim@example.com.au", "2012-03-26T12:11:46Z"),
			row(3, 13, "jürgen", "2012-03-26T12:11:47Z"),
			row(4, 14, "\u212Aim@example.com", "2012-03-26T12:11:48Z"), // a Kelvin sign
			row(5, 15, "", "2012-03-26T12:11:49Z"),
			row(6, 16, "tim@example.com", "2012-03-26T12:11:50Z"), // trap 42: twice, the caller decides
		))
	})
	c := f.client(t)
	users, err := c.UsersByIdentifier(t.Context(), []string{"tim@example.com", "JÜRGEN", `we"ird`, "kim@example.com", "tim@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	var ids []int64
	for _, u := range users {
		ids = append(ids, u.ID)
	}
	if diff := cmp.Diff([]int64{11, 13, 16}, ids); diff != "" {
		t.Error(diff)
	}
	want := []url.Values{{
		"excludeInvited": {"false"}, "sort": {"created"}, "order": {"asc"}, "limit": {"100"}, "searchMethod": {"exact"},
		"search": {`{"identifier":["JÜRGEN","kim@example.com","tim@example.com","we\"ird"]}`},
	}}
	if diff := cmp.Diff(want, queries); diff != "" {
		t.Error(diff)
	}
	if !json.Valid([]byte(queries[0].Get("search"))) {
		t.Error("search is not JSON")
	}

	queries = nil
	if users, err := c.UsersByIdentifier(t.Context(), nil); err != nil || users != nil || queries != nil {
		t.Errorf("nobody asked for: %v, %v, %v", users, err, queries)
	}
	if _, err := c.UsersByIdentifier(t.Context(), []string{"tim@example.com", " "}); err == nil || queries != nil {
		t.Errorf("a blank identifier: %v", err)
	} else {
		noSecrets(t, err)
	}
}

func TestSearchSplitsByNumberAndLength(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		identifier func(i int) string
		n          int
		requests   int
	}{
		"many":      {func(i int) string { return fmt.Sprintf("u%d@example.com", i) }, 120, 6}, // each page of ten and more may have a next one
		"exactly":   {func(i int) string { return fmt.Sprintf("u%d@example.com", i) }, 50, 2},
		"long":      {func(i int) string { return fmt.Sprintf("%0990d", i) }, 10, 3},
		"very long": {func(i int) string { return fmt.Sprintf("%05000d", i) }, 3, 3},
		"escaped":   {func(i int) string { return strings.Repeat("é", 150) + strconv.Itoa(i) }, 12, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeBLN(t)
			var requests atomic.Int64
			f.handle("GET /organizations/100/users", func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				asked := gjson.Get(r.URL.Query().Get("search"), "identifier").Array()
				if len(asked) == 0 || len(asked) > 50 || len(asked) > 1 && len(r.URL.RawQuery) > 4500 {
					t.Errorf("%d identifiers in %d bytes", len(asked), len(r.URL.RawQuery))
				}
				rows := []string{}
				for _, identifier := range asked {
					i, _ := strconv.Atoi(strings.TrimFunc(identifier.Str, func(r rune) bool { return r < '0' || r > '9' }))
					rows = append(rows, row(int64(1+i), int64(1+i), identifier.Str, ""))
				}
				if r.URL.Query().Has("after") {
					rows = nil
				}
				w.Header().Set("link", "after=x&cursorId=1")
				fmt.Fprint(w, list(rows...))
			})
			identifiers := make([]string, c.n)
			for i := range identifiers {
				identifiers[i] = c.identifier(i)
			}
			users, err := f.client(t).UsersByIdentifier(t.Context(), identifiers)
			if err != nil {
				t.Fatal(err)
			}
			if len(users) != c.n || requests.Load() != int64(c.requests) {
				t.Errorf("found %d of %d in %d requests, want %d", len(users), c.n, requests.Load(), c.requests)
			}
		})
	}
}

// Trap 40.
func TestQueryReadsEveryPageAndLeavesJudgingToTheCaller(t *testing.T) {
	t.Parallel()
	for _, length := range []int{10, 100} { // trap 36: either may be the server's limit
		rows := directory(length + 5)
		f := newFakeBLN(t)
		var queries []string
		f.handle("GET /organizations/100/users", func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			queries = append(queries, q.Get("query")+"|"+q.Get("queryOn")+"|"+q.Get("cursorId"))
			if q.Has("after") { // one row of overlap does no harm
				fmt.Fprint(w, list(rows[length-1:]...))
				return
			}
			fmt.Fprint(w, list(rows[:length]...))
		})
		users, err := f.client(t).UsersByQuery(t.Context(), "222-444 & 666")
		if err != nil || len(users) != length+5 {
			t.Errorf("got %d users, %v, want %d", len(users), err, length+5)
		}
		want := []string{"222-444 & 666|user,organizationUser|", fmt.Sprintf("222-444 & 666|user,organizationUser|%d", 10000+length)}
		if diff := cmp.Diff(want, queries); diff != "" {
			t.Error(diff)
		}
	}
}

func TestQueryThatStandsStillIsAnError(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	rows := directory(200)
	f.handle("GET /organizations/100/users", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("after") {
			fmt.Fprint(w, list(rows[90:100]...))
			return
		}
		fmt.Fprint(w, list(rows[:100]...))
	})
	c := f.client(t)
	if _, err := c.UsersByQuery(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "stands still") {
		t.Errorf("got %v", err)
	}
	if _, err := c.UsersByQuery(t.Context(), "\t"); err == nil {
		t.Error("a blank query asks for everybody")
	}
}

// Traps 35, 46, 47, 55.
func TestUpdateSendsTheWholeOtherInfoAndNothingElseToTheUsersID(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	var sent string
	f.handle("PUT /organizations/100/users/200", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sent = r.Header.Get("Content-Type") + " " + string(body)
		fmt.Fprint(w, userJSON(gjson.GetBytes(body, "otherInfo").Raw))
	})
	o := mustParse(t, awkward).With("namecoach", json.RawMessage(`{"recording_link":null}`))
	u, err := f.client(t).UpdateOtherInfo(t.Context(), 200, o, fresh())
	if err != nil {
		t.Fatal(err)
	}
	if want := `application/json {"otherInfo":` + string(o.JSON()) + `}`; sent != want {
		t.Errorf("sent %s, want %s", sent, want)
	}
	if u.ID != 200 || u.RowID != 10001 || u.OtherInfo != o || !u.HasOtherInfo {
		t.Errorf("got %+v", u)
	}
}

func TestAnAnswerAboutSomeoneElseIsAnError(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	f.handle("GET /organizations/100/users/10001", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, userJSON(`{}`)) })
	f.handle("PUT /organizations/100/users/10001", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, userJSON(`{}`)) })
	c := f.client(t)
	_, err := c.User(t.Context(), 10001)
	if err == nil || err.Error() != "bln users.get (GET): user 10001: the answer is about user 200" {
		t.Errorf("got %v", err)
	}
	var failed *httpapi.Error
	if _, err := c.UpdateOtherInfo(t.Context(), 10001, OtherInfo{}, fresh()); !errors.As(err, &failed) || !failed.Unknown {
		t.Errorf("got %v, want an unknown outcome", err)
	}
}

// Traps 33, 34, 44, 45, 54.
func TestAWriteIsRepeatedOnlyWhereItWasNotCarriedOut(t *testing.T) {
	t.Parallel()
	kill := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}
	for name, c := range map[string]struct {
		answers []http.HandlerFunc // the last one again and again
		sent    int64
		status  int // 0: no *httpapi.Error with one
		unknown bool
		fails   bool
	}{
		"busy":         {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { refuse(w, 429, "general", "slow down") }}, 1, 429, false, true},
		"server error": {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>tim@example.com", 502) }}, 1, 502, true, true},
		"broken off":   {[]http.HandlerFunc{kill}, 1, 0, true, true},
		"refused":      {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, "forbidden", "tim@example.com") }}, 1, 403, false, true},
		"gone":         {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { refuse(w, 404, "notFound", "") }}, 1, 404, false, true},
		"conflict":     {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", 409) }}, 1, 409, false, true},
		"invalid":      {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", 422) }}, 1, 422, false, true},
		"no content":   {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }}, 1, 0, false, false},
		"accepted":     {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) }}, 1, 0, false, false},
		"cut off": {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, userJSON(`{}`)[:100])
		}}, 1, 0, true, true},
		"not JSON": {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `Security Officer`) }}, 1, 0, true, true},
		"no user":  {[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"ok":true}`) }}, 1, 0, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeBLN(t)
			var sent atomic.Int64
			f.handle("PUT /organizations/100/users/200", func(w http.ResponseWriter, r *http.Request) {
				n := int(sent.Add(1))
				c.answers[min(n, len(c.answers))-1](w, r)
			})
			u, err := f.client(t).UpdateOtherInfo(t.Context(), 200, mustParse(t, `{"jobTitle":"Security Officer"}`), fresh())
			if (err != nil) != c.fails || sent.Load() != c.sent {
				t.Fatalf("got %v after %d requests, want failure: %v after %d", err, sent.Load(), c.fails, c.sent)
			}
			noSecrets(t, err)
			if err == nil {
				if u.ID != 200 {
					t.Errorf("got %+v", u)
				}
				return
			}
			var failed *httpapi.Error
			if !errors.As(err, &failed) || failed.Status != c.status || failed.Unknown != c.unknown {
				t.Errorf("got %#v, want status %d, unknown %v", failed, c.status, c.unknown)
			}
		})
	}
}

// Trap 53: what others have written since the reading would be undone.
func TestAWriteOfWhatWasReadLongAgoIsNotSent(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	f.handle("PUT /organizations/100/users/200", func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	_, err := f.client(t).UpdateOtherInfo(t.Context(), 200, OtherInfo{}, time.Now().Add(-time.Minute))
	var failed *httpapi.Error
	if !errors.As(err, &failed) || !errors.Is(err, httpapi.ErrLate) || failed.Unknown {
		t.Errorf("got %#v", err)
	}
}

func TestAReadIsRepeatedUntilItIsWhole(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	var sent atomic.Int64
	f.handle("GET /organizations/100/users/200", func(w http.ResponseWriter, _ *http.Request) {
		if sent.Add(1) == 1 {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, userJSON(`{}`)[:100])
			return
		}
		fmt.Fprint(w, userJSON(awkward))
	})
	u, err := f.client(t).User(t.Context(), 200)
	if err != nil || u.OtherInfo.raw != awkward || sent.Load() != 2 {
		t.Errorf("got %+v, %v after %d requests", u, err, sent.Load())
	}
}

func TestFoldJoinsCasesAndKeepsLookalikesApart(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"Tim@Example.COM", "tim@example.com"}, {"JÜRGEN", "jürgen"}, {"ПЁТР", "пётр"}, {"\x00Z", "\x00z"}} {
		if fold(pair[0]) != fold(pair[1]) {
			t.Errorf("%q and %q are apart", pair[0], pair[1])
		}
	}
	for _, pair := range [][2]string{{"\u212Aim", "kim"}, {"\u0130an", "ian"}, {"\u017Fue", "sue"}, {"stra\u00DFe", "strasse"}, {"\u0430nna", "anna"}} {
		if fold(pair[0]) == fold(pair[1]) {
			t.Errorf("%q and %q are one", pair[0], pair[1])
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		if fold(fold(s)) != fold(s) && !strings.ContainsAny(s, "\u1E9E") {
			t.Fatalf("folding twice differs: %q, %q", fold(s), fold(fold(s)))
		}
	})
}

func FuzzUsers(f *testing.F) {
	f.Add([]byte(list(directory(3)...)))
	f.Add([]byte(list(userJSON(awkward))))
	f.Add([]byte(`[{"id":1,"externalId":1.5e3,"user":{"id":2,"username":null},"otherInfo":{"a":1,"a":2}}]`))
	f.Add([]byte(`[{"id":1,"user":null}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		users, err := readUsers(body)
		if err != nil {
			if users != nil {
				t.Fatal("an error and users")
			}
			return
		}
		if !json.Valid(body) {
			t.Fatal("accepted invalid JSON")
		}
		for _, u := range users {
			if u.ID <= 0 || u.RowID <= 0 || u.OtherInfoErr != nil && u.OtherInfo != (OtherInfo{}) {
				t.Fatalf("%+v", u)
			}
			if again, err := ParseOtherInfo(u.OtherInfo.JSON()); err != nil || len(again.Changes(u.OtherInfo, nil)) > 0 {
				t.Fatalf("otherInfo does not parse back: %v", err)
			}
			_ = u.OtherInfo.Validate()
		}
	})
}

func FuzzLinkHeader(f *testing.F) {
	f.Add("before=John&cursorId=10034&limit=2;after=Mary&cursorId=10033&limit=2")
	f.Add(`<https://x/?after=a&cursorId=1>; rel="next"`)
	f.Fuzz(func(t *testing.T, header string) {
		if c, ok := readLink([]string{header}); ok != (c != Cursor{}) || ok && (c.After == "" || c.ID <= 0) {
			t.Fatalf("%+v, %v", c, ok)
		}
	})
}

func BenchmarkReadUsers(b *testing.B) {
	rows := make([]string, 100)
	for i := range rows {
		rows[i] = strings.NewReplacer(`"id":10001`, fmt.Sprintf(`"id":%d`, 10001+i)).Replace(userJSON(benchOtherInfo))
	}
	body := []byte(list(rows...))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readUsers(body); err != nil {
			b.Fatal(err)
		}
	}
}
