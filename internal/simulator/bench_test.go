package simulator

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// big is a world of 100,000 users and 135,000 participants, with everybody's fragment in place, made once.
var big = sync.OnceValues(func() (*Simulator, error) {
	s, err := New(Options{Seed: 1, Users: 100_000})
	if err != nil {
		return nil, err
	}
	for id, u := range s.Truth().Users {
		if u.Fragment != nil {
			if err := s.EditOtherInfo(id, "namecoach", u.Fragment.JSON()); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
})

func bigWorld(b *testing.B) *Simulator {
	b.Helper()
	s, err := big()
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkGenerate(b *testing.B) {
	for b.Loop() {
		if _, err := New(Options{Seed: 1, Users: 100_000}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRequest measures what the simulator itself costs the machine that it shares with what is tested: no sockets.
func BenchmarkRequest(b *testing.B) {
	s := bigWorld(b)
	users := s.Users()
	nameCoach, bln := s.nameCoachHandler(), s.blnHandler()
	token := s.AccessToken()
	s.world.mu.Lock()
	s.world.candidates("what the first query costs is not what a query costs")
	s.world.mu.Unlock()
	stored := s.UserOtherInfo(users[500].ID)
	for name, r := range map[string]struct {
		method, path, body string
	}{
		"users.list":               {"GET", "/organizations/4711/users?excludeInvited=false&limit=100&sort=created&order=asc&after=2022-01-01T00:00:00Z&cursorId=1", ""},
		"users.search":             {"GET", "/organizations/4711/users?excludeInvited=false&limit=100&search=" + `%7B%22identifier%22%3A%5B%22` + users[9].Username + `%22%5D%7D`, ""},
		"users.query":              {"GET", "/organizations/4711/users?excludeInvited=false&limit=100&query=S-099999&queryOn=organizationUser", ""},
		"users.get":                {"GET", fmt.Sprintf("/organizations/4711/users/%d", users[500].ID), ""},
		"users.put":                {"PUT", fmt.Sprintf("/organizations/4711/users/%d", users[500].ID), `{"otherInfo":` + stored + `}`},
		"participants.list, idle":  {"GET", "/participants?per_page=1000&updated_after=2030-01-01T00:00:00Z", ""},
		"participants.list, first": {"GET", "/participants?per_page=1000&updated_after=2000-01-01T00:00:00Z", ""},
		"participants.list, last":  {"GET", "/participants?per_page=1000&page=130&updated_after=2000-01-01T00:00:00Z", ""},
		"participants.search, 500": {"POST", "/participants/search", `{"per_page":2000,"email_list":"` + addresses(users[:500]) + `"}`},
	} {
		b.Run(name, func(b *testing.B) {
			handler, path, authorization := bln, r.path, "Bearer "+token
			if strings.HasPrefix(name, "participants") {
				handler, path, authorization = nameCoach, nameCoachBase+r.path, s.Token()
			}
			b.ReportAllocs()
			for b.Loop() {
				q := httptest.NewRequestWithContext(b.Context(), r.method, path, strings.NewReader(r.body))
				q.Header.Set("Authorization", authorization)
				q.Header.Set("Content-Type", "application/json")
				w := &nobody{header: http.Header{}}
				handler.ServeHTTP(w, q)
				if w.status != http.StatusOK {
					b.Fatalf("status %d", w.status)
				}
			}
			s.ResetCounts()
		})
	}
}

func addresses(users []UserInfo) string {
	var all []string
	for _, u := range users {
		all = append(all, strings.ReplaceAll(u.Username, ",", ""))
	}
	return strings.Join(all, ",")
}

// nobody reads an answer.
type nobody struct {
	header http.Header
	status int
}

func (w *nobody) Header() http.Header         { return w.header }
func (w *nobody) WriteHeader(status int)      { w.status = status }
func (w *nobody) Write(b []byte) (int, error) { return io.Discard.Write(b) }

func BenchmarkLife(b *testing.B) {
	life := bigWorld(b).Life(LifeOptions{Seed: 1})
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := life.Next(); !ok {
			b.Fatal("nothing is possible any more")
		}
	}
}

func BenchmarkTruth(b *testing.B) {
	s := bigWorld(b)
	b.Run("Truth", func(b *testing.B) {
		for b.Loop() {
			s.Truth()
		}
	})
	b.Run("Mismatches", func(b *testing.B) {
		for b.Loop() {
			s.Mismatches(0, Noticed, Unnoticed)
		}
	})
	b.Run("Mismatch", func(b *testing.B) {
		for b.Loop() {
			s.Mismatch(1500)
		}
	})
	b.Run("ForeignDamage", func(b *testing.B) {
		for b.Loop() {
			s.ForeignDamage(0)
		}
	})
	b.Run("ForeignDigests", func(b *testing.B) {
		for b.Loop() {
			s.ForeignDigests()
		}
	})
}
