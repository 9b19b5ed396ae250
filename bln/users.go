package bln

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tidwall/gjson"

	"namebridge/internal/httpapi"
)

const (
	// pageLength is asked for on every list: the largest there is (BLN 7680).
	pageLength = 100
	// maxIdentifiers is how many one search asks for, and maxSearchLength how long it may be once escaped: common
	// servers refuse a request line of 8 KiB.
	maxIdentifiers  = 50
	maxSearchLength = 4000
	// freshFor is how long after a user was read a write that was made from it may still leave.
	freshFor = 2 * time.Second
)

// User is one member of the organization. Texts are "" where the answer has null or nothing, and may hold U+0000.
type User struct {
	RowID int64 // of the membership: names a place in the list
	ID    int64 // user.id: what reading and writing take

	Role, ExternalID, Username, FirstName, LastName string
	Created, Modified                               string // as the server wrote them

	OtherInfo OtherInfo
	// OtherInfoErr tells why OtherInfo could not be kept (a key twice, no object, …): the user is usable, OtherInfo is
	// not, and empty.
	OtherInfoErr error
	// HasOtherInfo is false where the answer has no otherInfo at all: then it says nothing about it. An otherInfo of
	// null is one, and empty.
	HasOtherInfo bool
}

// Cursor names a place in the list of users. The zero value is its start.
type Cursor struct {
	After string `json:"after"` // a row's created, as the server wrote it
	ID    int64  `json:"id"`    // that row's id
}

// Page is a part of the list of users.
type Page struct {
	Users []User // empty: the list has ended
	Next  Cursor // where to go on
	Date  time.Time
}

// Users asks for the members after a place, invited ones included, in ascending order of creation: 100 at most. Only an empty
// page is the end; a short one is not (BLN 7680). OtherInfo in a list is an excerpt (BLN 7734): never write from it.
//
// Next comes from the link header where there is one of the documented form (BLN 10130), else from the last row. It is
// not documented that the last row's created and id are what after and cursorId take (BLN 7667), so the caller has to
// prove that pages go on: new rows, created not falling. Within the page that is done here.
func (c *Client) Users(ctx context.Context, after Cursor) (Page, error) {
	return c.page(ctx, "users.list", nil, after)
}

// UsersByIdentifier asks for the members with one of these identifiers as their user name, in any case. It sends a
// request for every 50 at most, fewer where they are long. It may find nobody for an identifier, and several for one.
func (c *Client) UsersByIdentifier(ctx context.Context, identifiers []string) ([]User, error) {
	asked := make(map[string]bool) // folded
	var rest, sent []string        // as JSON strings
	for i, identifier := range identifiers {
		if strings.TrimSpace(identifier) == "" {
			return nil, fmt.Errorf("bln users.search: identifier %d is blank", i)
		}
		asked[fold(identifier)] = true
		rest = append(rest, quote(identifier))
	}
	slices.Sort(rest)
	rest = slices.Compact(rest)

	var found []User
	seen := make(map[int64]bool)
	for len(rest) > 0 {
		sent, rest = splitIdentifiers(rest)
		// JSON, though the documented example is not (BLN 7652).
		search := `{"identifier":[` + strings.Join(sent, ",") + `]}`
		users, err := c.allPages(ctx, "users.search", url.Values{"search": {search}, "searchMethod": {"exact"}})
		if err != nil {
			return nil, err
		}
		for _, u := range users {
			if asked[fold(u.Username)] && !seen[u.RowID] {
				seen[u.RowID] = true
				found = append(found, u)
			}
		}
	}
	return found, nil
}

// UsersByQuery asks for the members whose name, user name, external id, telephone numbers or e-mail addresses match
// (BLN 7642). How they match is not documented: the caller checks what it meant for equality.
func (c *Client) UsersByQuery(ctx context.Context, query string) ([]User, error) {
	if strings.TrimSpace(query) == "" {
		return nil, errors.New("bln users.query: the query is blank")
	}
	return c.allPages(ctx, "users.query", url.Values{"query": {query}, "queryOn": {"user,organizationUser"}})
}

// User reads one member by user.id, with everything in otherInfo.
func (c *Client) User(ctx context.Context, id int64) (User, error) {
	r := c.userRequest("users.get", http.MethodGet, id)
	r.Repeat = true
	_, body, err := c.fetch(ctx, r)
	if err != nil {
		return User{}, err
	}
	return readOne(r, body, id)
}

// UpdateOtherInfo replaces otherInfo of the member with that user.id, and sends nothing else: any other property could be
// changed by it (BLN 7287). Whether the server replaces or merges is not documented; send the whole otherInfo of a User that was
// read a moment ago, changed by With. There is no version to tell the server what it was made from (BLN has no If-Match), so
// what others write after that reading is undone: read is when it came, and where the request cannot leave within two seconds
// of it (four turns, at a slow pace), nothing is sent and the cause is httpapi.ErrLate. For the same reason it is not repeated after a 429, which everybody waits for
// all the same. Both are for the caller to answer by reading the user anew.
//
// The request is not repeated where it may have been carried out: then the *[httpapi.Error] has Unknown, and the caller has
// to read the user again before anything else. The answer may be short of otherInfo (see User.HasOtherInfo); an answer without
// content gives a User with nothing but its ID.
func (c *Client) UpdateOtherInfo(ctx context.Context, id int64, o OtherInfo, read time.Time) (User, error) {
	r := c.userRequest("users.update", http.MethodPut, id)
	// At a slow pace the next turn alone takes longer, and there may be another write before it.
	r.NotAfter = read.Add(max(freshFor, 4*c.http.Interval()))
	r.Body = slices.Concat([]byte(`{"otherInfo":`), o.JSON(), []byte(`}`))
	_, body, err := c.fetch(ctx, r)
	if err != nil {
		return User{}, err
	}
	if strings.Trim(string(body), jsonSpace) == "" {
		return User{ID: id}, nil
	}
	return readOne(r, body, id)
}

func (c *Client) userRequest(endpoint, method string, id int64) httpapi.Request {
	return httpapi.Request{Endpoint: endpoint, Method: method, Path: fmt.Sprintf("/organizations/%d/users/%d", c.o.OrganizationID, id)}
}

func readOne(r httpapi.Request, body []byte, id int64) (User, error) {
	answer, err := parseAnswer(body)
	if err != nil {
		return User{}, unusable(r, fmt.Errorf("user %d: %w", id, err))
	}
	u, err := readUser(answer)
	switch {
	case err != nil:
		return User{}, unusable(r, fmt.Errorf("user %d: the answer %w", id, err))
	case u.ID != id:
		return User{}, unusable(r, fmt.Errorf("user %d: the answer is about user %d", id, u.ID))
	}
	return u, nil
}

// Newest asks for the member who was added last; false where the organization has none.
func (c *Client) Newest(ctx context.Context) (User, bool, error) {
	page, err := c.page(ctx, "users.list", url.Values{"order": {"desc"}, "limit": {"1"}}, Cursor{})
	if err != nil || len(page.Users) == 0 {
		return User{}, false, err
	}
	return page.Users[0], true, nil
}

// allPages reads a search to its end: a page with fewer rows than the lower of the two limits that are documented (BLN 7680). Any
// other may have been cut short of what follows, at whatever length. Pages may overlap; one that brings nothing new is the end, too,
// unless it is as long as a limit: then the cursor is not followed.
func (c *Client) allPages(ctx context.Context, endpoint string, query url.Values) ([]User, error) {
	var all []User
	seen := make(map[int64]bool)
	for after := (Cursor{}); ; {
		page, err := c.page(ctx, endpoint, query, after)
		if err != nil {
			return nil, err
		}
		before := len(all)
		for _, u := range page.Users {
			if !seen[u.RowID] {
				seen[u.RowID] = true
				all = append(all, u)
			}
		}
		switch n := len(page.Users); {
		case n < 10, len(all) == before && n != 10 && n != pageLength:
			return all, nil
		case len(all) == before:
			return nil, unusable(c.listRequest(endpoint, nil, after), errors.New("paging stands still: a page has only rows that an earlier one had"))
		}
		after = page.Next
	}
}

func (c *Client) listRequest(endpoint string, query url.Values, after Cursor) httpapi.Request {
	q := url.Values{
		"excludeInvited": {"false"}, // true by default (BLN 7635)
		"sort":           {"created"},
		"order":          {"asc"},
		"limit":          {strconv.Itoa(pageLength)},
	}
	if after != (Cursor{}) {
		q.Set("after", after.After)
		q.Set("cursorId", strconv.FormatInt(after.ID, 10))
	}
	maps.Copy(q, query)
	return httpapi.Request{
		Endpoint: endpoint, Method: http.MethodGet, Path: fmt.Sprintf("/organizations/%d/users", c.o.OrganizationID), Query: q,
		Repeat: true,
	}
}

func (c *Client) page(ctx context.Context, endpoint string, query url.Values, after Cursor) (Page, error) {
	r := c.listRequest(endpoint, query, after)
	res, body, err := c.fetch(ctx, r)
	if err != nil {
		return Page{}, err
	}
	users, err := readUsers(body)
	if err != nil {
		return Page{}, unusable(r, err)
	}
	page := Page{Users: users, Date: res.Date}
	if len(users) == 0 {
		return page, nil
	}
	var linked bool
	if page.Next, linked = readLink(res.Header.Values("Link")); !linked {
		last := users[len(users)-1]
		if last.Created == "" {
			return Page{}, unusable(r, fmt.Errorf("row %d has no created, and there is no link header: the list cannot go on", len(users)-1))
		}
		page.Next = Cursor{After: last.Created, ID: last.RowID}
	}
	return page, nil
}

// readUsers reads a list and checks that it is in ascending order of creation, with no row twice.
func readUsers(body []byte) ([]User, error) {
	answer, err := parseAnswer(body)
	if err != nil {
		return nil, err
	}
	if !answer.IsArray() {
		return nil, fmt.Errorf("the answer is no list but %s", typeName(answer))
	}
	var users []User
	var latest time.Time
	rows := make(map[int64]bool)
	answer.ForEach(func(_, row gjson.Result) bool {
		var u User
		if u, err = readUser(row); err != nil {
			err = fmt.Errorf("row %d %w", len(users), err)
			return false
		}
		if rows[u.RowID] {
			err = fmt.Errorf("row %d has the id of an earlier row", len(users))
			return false
		}
		rows[u.RowID] = true
		if u.Created != "" {
			created, ok := readTime(u.Created)
			switch {
			case !ok:
				err = fmt.Errorf("row %d has a created that is no time", len(users))
			case created.Before(latest):
				err = fmt.Errorf("row %d was created before the row above it: the list is not in the order asked for", len(users))
			}
			latest = created
		}
		users = append(users, u)
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	return users, nil
}

// readTime reads the forms of time that the document shows (BLN 7216, 7281, 7875); without an offset they are UTC.
func readTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05Z0700", time.DateTime} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// readUser reads one member, as lists and single answers have it (BLN 7130, 7709). Its errors continue "the answer" or
// "row 3", and name fields, never values.
func readUser(row gjson.Result) (User, error) {
	var rowID, role, externalID, otherInfo, created, modified, user gjson.Result
	err := fields(row, func(key string) *gjson.Result {
		switch key {
		case "id":
			return &rowID
		case "role":
			return &role
		case "externalId":
			return &externalID
		case "otherInfo":
			return &otherInfo
		case "created":
			return &created
		case "modified":
			return &modified
		case "user":
			return &user
		}
		return nil
	})
	if err != nil {
		return User{}, err
	}
	if !user.IsObject() {
		return User{}, errors.New("has no user object")
	}
	var userID, username, firstName, lastName gjson.Result
	err = fields(user, func(key string) *gjson.Result {
		switch key {
		case "id":
			return &userID
		case "username":
			return &username
		case "firstname":
			return &firstName
		case "lastname":
			return &lastName
		}
		return nil
	})
	if err != nil {
		return User{}, fmt.Errorf("has a user that %w", err)
	}

	var u User
	var errs [9]error
	u.RowID, errs[0] = readID(rowID, "id")
	u.ID, errs[1] = readID(userID, "user.id")
	u.Role, errs[2] = readText(role, "role")
	u.ExternalID, errs[3] = readText(externalID, "externalId")
	u.Username, errs[4] = readText(username, "user.username")
	u.FirstName, errs[5] = readText(firstName, "user.firstname")
	u.LastName, errs[6] = readText(lastName, "user.lastname")
	u.Created, errs[7] = readText(created, "created")
	u.Modified, errs[8] = readText(modified, "modified")
	for _, err := range errs {
		if err != nil {
			return User{}, err
		}
	}
	if u.HasOtherInfo = otherInfo.Exists(); u.HasOtherInfo {
		u.OtherInfo, u.OtherInfoErr = ParseOtherInfo([]byte(otherInfo.Raw))
	}
	return u, nil
}

func readID(v gjson.Result, name string) (int64, error) {
	id, err := strconv.ParseInt(v.Raw, 10, 64)
	if err != nil || id <= 0 {
		return 0, fmt.Errorf("has no %s, or one that is no whole number above 0", name)
	}
	return id, nil
}

// readLink is the place that a link header names to go on from. The only documented one (BLN 10130) is not of the form of
// RFC 8288: before=John&cursorId=10034&limit=2;after=Mary&cursorId=10033&limit=2. Any other form names none.
func readLink(headers []string) (Cursor, bool) {
	for _, header := range headers {
		for part := range strings.SplitSeq(header, ";") {
			var c Cursor
			for pair := range strings.SplitSeq(strings.TrimSpace(part), "&") {
				name, value, _ := strings.Cut(pair, "=")
				switch name {
				case "after":
					// Not QueryUnescape: the + of an offset that was not escaped must stay.
					if plain, err := url.PathUnescape(value); err == nil {
						c.After = plain
					}
				case "cursorId":
					if id, err := strconv.ParseInt(value, 10, 64); err == nil {
						c.ID = id
					}
				}
			}
			if c.After != "" && c.ID > 0 {
				return c, true
			}
		}
	}
	return Cursor{}, false
}

// splitIdentifiers cuts off as many quoted identifiers as one request takes, at least one.
func splitIdentifiers(all []string) (now, later []string) {
	length := 0
	for i, quoted := range all {
		length += len(url.QueryEscape(quoted + ","))
		if i > 0 && (i == maxIdentifiers || length > maxSearchLength) {
			return all[:i], all[i:]
		}
	}
	return all, nil
}

// fold makes identifiers that differ in case alone the same. Unlike strings.ToLower it keeps other letters from becoming
// ASCII (the Kelvin sign is no k): an address that merely looks like somebody's must not find them.
func fold(identifier string) string {
	return strings.Map(func(r rune) rune {
		if lower := unicode.ToLower(r); r < unicode.MaxASCII || lower > unicode.MaxASCII {
			return lower
		}
		return r
	}, identifier)
}
