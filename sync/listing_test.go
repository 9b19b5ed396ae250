package sync_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"namebridge/internal/simulator"
	bridgesync "namebridge/sync"
)

// emptied is a network in which the first pages of the directory, but for the very first, come without a row.
type emptied struct{ pages atomic.Int64 }

func (e *emptied) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && r.Method == http.MethodGet && r.URL.Query().Has("after") && e.pages.Add(-1) >= 0 {
		_ = res.Body.Close()
		res.Body, res.ContentLength = io.NopCloser(strings.NewReader("[]")), 2
		res.Header.Del("Content-Length")
	}
	return res, err
}

// Evidence is only as good as the directory is complete: an answer without anybody is not its end while there are newer users.
func TestAnEmptyPageIsNotTheEndOfTheDirectoryWhileNewerUsersFollow(t *testing.T) {
	t.Parallel()
	for pages, whole := range []bool{true, true, false} {
		t.Run(fmt.Sprintf("%d empty pages", pages), func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			first := w.user("first", "S-1")
			w.crowd(120)
			w.user("second", "S-1") // the same externalId: both are to be held
			w.AddParticipant(speaker("x", "", "S-1", 0))
			net := &emptied{}
			net.pages.Store(int64(pages))
			_, err := w.process(t, w.BLNURL(), w.db, net).Backfill(t.Context(), time.Time{})
			if _, gap := errors.AsType[*bridgesync.ListingError](err); gap == whole || gap != (err != nil) {
				t.Errorf("%v", err)
			}
			if w.fragment(t, first) != nil {
				t.Error("written by half of the directory, though another user has the same externalId")
			}
			if !whole { // what was refused is made up for
				w.backfill(t)
			}
			w.right(t)
		})
	}
}

// Who is asked for live may stand on the next page of an answer, however short the first is.
func TestAShortPageIsNotTheEndOfAQuestionAboutOnePerson(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{ShortPages: true})
	byEmail := w.user("ada@demo.example", "")
	w.backfill(t)
	for i := range 90 { // whom the query names, too: it spans user names, names and phone numbers
		w.user(fmt.Sprintf("u4711-%d@demo.example", i), "")
	}
	byID := w.user("zoe", "4711")
	person := speaker("x", "ada@demo.example", "4711", 0) // names two users: a conflict
	person.Updated = w.nameCoachNow().Add(-time.Minute)
	w.AddParticipant(person)
	w.collect(t)
	if w.fragment(t, byEmail) != nil {
		t.Errorf("user %d was written, though user %d bears the person's institution id", byEmail, byID)
	}
	w.wantReasons(t, map[string]string{"email:ada@demo.example": "conflict"})
}
