package sync_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"namebridge/internal/simulator"
)

// BenchmarkBackfill races a backfill against a bare client that sends the same minimal requests with the same concurrency, to the same kind of
// server, in one run: pages of participants, pages of users, and a GET and a PUT for everyone who is written. Servers that answer after 50 ms
// are a continent away, as the real ones mostly are; those that answer after 5 ms are so near that the processors of one machine, which the
// simulator and Postgres share, are what is measured.
func BenchmarkBackfill(b *testing.B) {
	for _, c := range []struct {
		latency time.Duration
		users   int
	}{{50 * time.Millisecond, 2000}, {5 * time.Millisecond, 5000}} {
		options := func(seed int) simulator.Options {
			return simulator.Options{Seed: uint64(seed), Users: c.users, NameCoachLatency: c.latency, BLNLatency: c.latency}
		}
		b.Run(fmt.Sprintf("bare/%v", c.latency), func(b *testing.B) {
			for i := range b.N {
				b.StopTimer()
				w := start(b, options(i+1))
				truth := w.Truth()
				var write []int64
				for id, u := range truth.Users {
					if u.Fragment != nil {
						write = append(write, id)
					}
				}
				b.StartTimer()
				if err := bareBackfill(b.Context(), w, truth.Totals.Participants, write); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("namebridge/%v", c.latency), func(b *testing.B) {
			for i := range b.N {
				b.StopTimer()
				w := start(b, options(i+1))
				bridge := w.bridge(b)
				b.StartTimer()
				if _, err := bridge.Backfill(b.Context(), time.Time{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// bareBackfill asks for everything in the fewest requests and writes users, without a thought for what could go wrong.
func bareBackfill(ctx context.Context, w *world, participants int, write []int64) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	call := func(method, url, token string, body []byte, into any) error {
		req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", token)
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil || into == nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", res.Status, raw)
		}
		return json.Unmarshal(raw, into)
	}
	for page := 1; (page-1)*2000 < participants; page++ {
		var rows struct {
			Response struct{ Participants []map[string]any }
		}
		if err := call("GET", fmt.Sprintf("%s/participants?updated_after=2000-01-01T00:00:00%%2B0000&per_page=2000&page=%d", w.NameCoachURL(), page), w.Token(), nil, &rows); err != nil {
			return err
		}
	}
	var login struct{ AccessToken string }
	if err := call("POST", w.BLNURL()+"/auth/login", "", fmt.Appendf(nil, `{"username":%q,"password":%q,"organizationId":%d}`, w.Username(), w.Password(), w.OrganizationID()), &login); err != nil {
		return err
	}
	token, base := "Bearer "+login.AccessToken, fmt.Sprintf("%s/organizations/%d/users", w.BLNURL(), w.OrganizationID())
	type row struct {
		ID      int64
		Created string
	}
	for after := ""; ; {
		var rows []row
		if err := call("GET", base+"?excludeInvited=false&sort=created&order=asc&limit=100"+after, token, nil, &rows); err != nil {
			return err
		}
		if len(rows) == 0 {
			break
		}
		last := rows[len(rows)-1]
		after = fmt.Sprintf("&after=%s&cursorId=%d", last.Created, last.ID)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, id := range write {
		group.Go(func() error {
			var user struct{ OtherInfo map[string]json.RawMessage }
			url := fmt.Sprintf("%s/%d", base, id)
			if err := call("GET", url, token, nil, &user); err != nil {
				return err
			}
			if user.OtherInfo == nil {
				user.OtherInfo = map[string]json.RawMessage{}
			}
			user.OtherInfo["namecoach"] = json.RawMessage(`{"name_badge_link":"https://www.name-coach.com/x","recording_link":null,"recording_id":null,"recording_date":null,"event_title":null}`)
			body, err := json.Marshal(map[string]any{"otherInfo": user.OtherInfo})
			if err != nil {
				return err
			}
			return call("PUT", url, token, body, &struct{}{})
		})
	}
	return group.Wait()
}
