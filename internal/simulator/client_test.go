package simulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// client asks a running simulator, as plainly as can be.
type client struct {
	t     *testing.T
	s     *Simulator
	token string // of BLN
	http  *http.Client
}

func start(t *testing.T, o Options) *client {
	t.Helper()
	s := newWorldOf(t, o)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &client{t, s, s.AccessToken(), &http.Client{Transport: transport, Timeout: 30 * time.Second}}
}

// reply is an answer read to its end; err is what kept it from being read.
type reply struct {
	status int
	header http.Header
	body   string
	err    error
}

func (c *client) do(method, address string, header map[string]string, body string) reply {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for key, value := range header {
		r.Header.Set(key, value)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return reply{err: err}
	}
	raw, err := io.ReadAll(resp.Body)
	err = errors.Join(err, resp.Body.Close())
	return reply{resp.StatusCode, resp.Header, string(raw), err}
}

func (c *client) nameCoach(method, path, body string) reply {
	c.t.Helper()
	return c.do(method, c.s.NameCoachURL()+path, map[string]string{"Authorization": c.s.Token()}, body)
}

func (c *client) bln(method, path, body string) reply {
	c.t.Helper()
	return c.do(method, c.s.BLNURL()+path, map[string]string{"Authorization": "Bearer " + c.token}, body)
}

func (c *client) ok(r reply) reply {
	c.t.Helper()
	if r.err != nil || r.status != http.StatusOK {
		c.t.Fatalf("got %d %v: %.300s", r.status, r.err, r.body)
	}
	return r
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v: %.300s", err, text)
	}
	return v
}

// rows is an answer of the NameCoach list.
type rows struct {
	Response struct {
		Participants []map[string]any `json:"participants"`
		Meta         map[string]any   `json:"meta"`
	}
}

func (c *client) list(query string) rows {
	c.t.Helper()
	return decode[rows](c.t, c.ok(c.nameCoach("GET", "/participants?"+query, "")).body)
}

func (c *client) search(body string) rows {
	c.t.Helper()
	return decode[rows](c.t, c.ok(c.nameCoach("POST", "/participants/search", body)).body)
}

func (r rows) meta(key string) string { return fmt.Sprint(r.Response.Meta[key]) }

// values are one field of every row.
func (r rows) values(key string) []string {
	var all []string
	for _, row := range r.Response.Participants {
		all = append(all, fmt.Sprint(row[key]))
	}
	return all
}

// user is a row of BLN.
type user struct {
	ID         int64
	Role       string
	ExternalID *string
	OtherInfo  json.RawMessage
	Address    map[string]any
	Created    string
	Modified   *string
	User       struct {
		ID                            int64
		Username, Firstname, Lastname string
	}
}

func (c *client) users(query string) []user {
	c.t.Helper()
	return decode[[]user](c.t, c.ok(c.bln("GET", "/organizations/4711/users?excludeInvited=false&limit=100&"+query, "")).body)
}

// walk reads the whole directory by created and cursor; page sizes come along.
func (c *client) walk() (all []user, sizes []int) {
	c.t.Helper()
	query := "sort=created&order=asc"
	cursor := ""
	for len(sizes) < 1000 {
		page := c.users(query + cursor)
		if len(page) == 0 {
			return all, sizes
		}
		all, sizes = append(all, page...), append(sizes, len(page))
		last := page[len(page)-1]
		cursor = fmt.Sprintf("&after=%s&cursorId=%d", url.QueryEscape(last.Created), last.ID)
	}
	c.t.Fatal("the directory has no end")
	return nil, nil
}

func (c *client) get(id int64) user {
	c.t.Helper()
	return decode[user](c.t, c.ok(c.bln("GET", fmt.Sprintf("/organizations/4711/users/%d", id), "")).body)
}

func (c *client) put(id int64, body string) reply {
	c.t.Helper()
	return c.bln("PUT", fmt.Sprintf("/organizations/4711/users/%d", id), body)
}

func (c *client) violations(want ...string) {
	c.t.Helper()
	got := c.s.Violations()
	if len(got) != len(want) {
		c.t.Errorf("violations: got %q, want %q", got, want)
		return
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			c.t.Errorf("violations: got %q, want %q", got, want)
		}
	}
}
