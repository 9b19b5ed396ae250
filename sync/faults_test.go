package sync_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"namebridge/bln"
	"namebridge/internal/simulator"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// A server that fails every tenth request in one way or another, its writes half carried out, ends in the truth all the same.
func TestFaultsOfBothServersEndInTheTruth(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		faults simulator.Faults
		retry  simulator.RetryAfter
		users  int // 0 = 60
	}{
		"5xx":                    {faults: simulator.Faults{P5xx: .1}},
		"429":                    {faults: simulator.Faults{P429: .1}, retry: simulator.RetryAfterSeconds, users: 20},
		"resets":                 {faults: simulator.Faults{PReset: .1}},
		"truncated bodies":       {faults: simulator.Faults{PTruncate: .1}},
		"slow bodies":            {faults: simulator.Faults{PSlow: .1, Slow: 20 * time.Millisecond}},
		"writes without answer":  {faults: simulator.Faults{PAppliedThenTimeout: .2}},
		"everything, stale rows": {faults: simulator.Faults{P5xx: .03, P429: .01, PReset: .03, PTruncate: .03, PSlow: .03, Slow: time.Millisecond, PAppliedThenTimeout: .1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{
				Seed: 11, Users: cmp.Or(c.users, 60), Faults: c.faults, RetryAfter: c.retry,
				PutAnswer: map[bool]simulator.PutAnswer{true: simulator.StaleListRow}[strings.HasSuffix(name, "stale rows")],
			})
			foreign := w.ForeignDigests("namecoach")
			truth := w.Truth().Totals

			var res bridgesync.Result
			var err error
			for range 3 {
				if res, err = w.bridge(t).Backfill(t.Context(), time.Time{}); err == nil && res.Failed == 0 {
					break
				}
				t.Logf("once more after %+v, %v", res, err)
			}
			if err != nil || res.Status != state.Done || res.Failed != 0 {
				t.Fatalf("%+v, %v", res, err)
			}
			for _, m := range w.Mismatches(5) {
				t.Error(m)
			}
			w.foreignKept(t, foreign)
			w.settledJournal(t)
			if res.Participants != truth.Participants || res.Users != truth.Users || res.Linked != truth.Linked {
				t.Errorf("counted %+v, the truth is %+v", res, truth)
			}
			counts := w.Counts()
			if n := counts["bln users.put"]; n > truth.Written*2 {
				t.Errorf("%d PUTs for %d users", n, truth.Written)
			}
			if n := counts["bln users.get"]; n > truth.Written*4+50 {
				t.Errorf("%d GETs for %d users", n, truth.Written)
			}
		})
	}
}

// Rule 9 and trap 28: a token may end at any time. It is renewed once, and what was refused is sent again.
func TestATokenThatEndsInTheMiddleIsRenewedOnce(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"bln users.list", "bln users.get", "bln users.put"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			var once sync.Once
			w := start(t, simulator.Options{OnRequest: func(s *simulator.Simulator, endpoint string, n int) {
				if endpoint == at && n >= 2 {
					once.Do(s.RevokeTokens)
				}
			}})
			w.crowd(20)
			foreign := w.ForeignDigests("namecoach")
			if res := w.finishes(t, w.bridge(t), foreign); res.Written != 20 {
				t.Errorf("%d written", res.Written)
			}
			if n := w.Counts()["bln auth.login"]; n != 2 {
				t.Errorf("%d sign-ins, want two", n)
			}
		})
	}
}

// An account is locked by asking again and again: one refused sign-in ends the run.
func TestAWrongPasswordEndsTheRunAfterOneSignIn(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(5)
	b := w.bridge(t)
	c, err := bln.New(bln.Options{BaseURL: w.BLNURL(), OrganizationID: w.OrganizationID(), Username: w.Username(), Password: "not-the-password", PerSecond: 1000})
	if err != nil {
		t.Fatal(err)
	}
	b.BLN = c
	for name, do := range map[string]func() (bridgesync.Result, error){
		"backfill": func() (bridgesync.Result, error) { return b.Backfill(t.Context(), time.Time{}) },
		"plan":     func() (bridgesync.Result, error) { return b.Plan(t.Context()) },
	} {
		res, err := do()
		var refused *bln.SignInError
		if !errors.As(err, &refused) || res.Status != state.Failed {
			t.Errorf("%s: %+v, %v; want that the sign-in was refused", name, res, err)
		}
		if err != nil && (strings.Contains(err.Error(), "not-the-password") || strings.Contains(err.Error(), w.Username())) {
			t.Errorf("the error shows credentials: %v", err)
		}
	}
	if n := w.Counts()["bln auth.login"]; n != 1 {
		t.Errorf("%d sign-ins", n)
	}
}

// Trap 44.
func TestARoleThatMayNotWriteIsSaidSoBeforeAnyWrite(t *testing.T) {
	t.Parallel()
	for _, role := range []string{simulator.RoleAuditor, simulator.RoleNetworkAdmin, simulator.RoleMember} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{Role: role})
			w.crowd(5)
			w.AddUser(simulator.NewUser{Username: w.Username(), Role: role})
			_, err := w.bridge(t).Backfill(t.Context(), time.Time{})
			if _, ok := errors.AsType[*bridgesync.PermissionError](err); !ok {
				t.Errorf("%v, want that the role may not do this", err)
			}
			if n := w.Counts()["bln users.put"]; n > 0 {
				t.Errorf("%d PUTs", n)
			}
			w.settledJournal(t)
		})
	}
}

// Where nothing says who signs in, refused writes do; a refusal or two may be about these users alone.
// More than one lane of the process finds that out, and each ends the run: what the first has ended it with is told.
func TestARunEndsWhereEveryWriteIsForbidden(t *testing.T) {
	t.Parallel()
	const places = 8
	var refused sync.WaitGroup
	refused.Add(places)
	locked := make(chan struct{})
	w := start(t, simulator.Options{Role: simulator.RoleAuditor, OnRequest: func(_ *simulator.Simulator, endpoint string, n int) {
		if endpoint == "bln users.put" && n <= places {
			refused.Done()
			<-locked
		}
	}})
	w.settings.Username = ""
	w.crowd(40)
	var (
		res   bridgesync.Result
		err   error
		ended sync.WaitGroup
	)
	ended.Go(func() { res, err = w.bridge(t).Backfill(t.Context(), time.Time{}) })
	refused.Wait()
	w.whileLocked(t, `SELECT 1 FROM runs FOR NO KEY UPDATE`, 2, func() { close(locked) })
	ended.Wait()
	var denied *bridgesync.PermissionError
	if !errors.As(err, &denied) || res.Status != state.Failed {
		t.Errorf("%+v, %v; want that writing is not permitted", res, err)
	}
	if n := w.Counts()["bln users.put"]; n > 3+inFlight {
		t.Errorf("%d PUTs", n)
	}
	w.settledJournal(t)
}

func TestRightsThatEndInTheMiddleEndTheRunAndNothingIsLost(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{OnRequest: func(s *simulator.Simulator, endpoint string, n int) {
		if endpoint == "bln users.put" && n == 20 {
			s.Change(func(o *simulator.Options) { o.Role = simulator.RoleAuditor })
		}
	}})
	w.crowd(80)
	foreign := w.ForeignDigests("namecoach")
	res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
	if err == nil || res.Status != state.Failed || !strings.Contains(err.Error(), "403") {
		t.Errorf("%+v, %v; want a failure that says 403", res, err)
	}
	if n := w.Counts()["bln users.put"]; n >= 80 {
		t.Errorf("%d PUTs: went on to the end", n)
	}
	w.settledJournal(t)
	w.Change(func(o *simulator.Options) { o.Role, o.OnRequest = simulator.RoleAdmin, nil })
	w.finishes(t, w.bridge(t), foreign)
}

// Traps 32 and 45: accounts are merged and removed while a run goes on.
func TestAUserWhoIsGoneEndsNothingAndItsPersonIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	for name, onPut := range map[string]bool{"at reading": false, "at writing": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			w.crowd(12)
			const gone = 5
			f := w.front(t)
			vanish := func(_ int, p string) {
				if path.Base(p) == strconv.Itoa(gone) {
					w.RemoveUser(gone)
				}
			}
			if onPut {
				f.before = vanish
			} else {
				w.Change(func(o *simulator.Options) { o.NotFoundUsers = map[int64]bool{gone: true} })
			}
			res, err := w.process(t, f.url, w.db, nil).Backfill(t.Context(), time.Time{})
			if err != nil || res.Status != state.Done || res.Failed != 0 || res.Written != 11 {
				t.Fatalf("%+v, %v; want the other eleven written", res, err)
			}
			if res.Held.Unmatched != 1 || res.Linked != 11 {
				t.Errorf("%+v, want the person of the user who is gone as unmatched", res)
			}
			w.settledJournal(t)

			// The account that survived has the address.
			f.before = nil
			w.RemoveUser(gone)
			survivor := w.AddUser(simulator.NewUser{Username: fmt.Sprintf("u%d@school.example", gone-1)})
			for _, p := range w.Participants() {
				if p.For == 0 {
					w.UpdateParticipant(p.ID, func(p *simulator.Participant) { p.For = survivor })
				}
			}
			foreign := w.ForeignDigests("namecoach")
			if res := w.finishes(t, w.process(t, f.url, w.db, nil), foreign); res.Written != 1 || res.Held.Unmatched != 0 {
				t.Errorf("%+v, want the survivor written", res)
			}
		})
	}
}

// Trap 53: there is no version. What is guaranteed to others who edit the same user meanwhile is this.
func TestWhatOthersEditAroundAWrite(t *testing.T) {
	t.Parallel()
	const ours = 1
	at := func(p string) bool { return path.Base(p) == strconv.Itoa(ours) }
	for name, c := range map[string]struct {
		put     simulator.PutSemantics
		answer  simulator.PutAnswer
		when    string // read: between our reading and our writing; written: between our writing and the answer
		edit    [2]string
		halts   bool
		becomes string
	}{
		"after the write, what is added stays":                              {answer: simulator.Short, when: "written", edit: [2]string{"nickname", `"Ace"`}, becomes: `"nickname":"Ace"`},
		"after the write, a change that is verified is taken for damage":    {answer: simulator.Short, when: "written", edit: [2]string{"Cohort", `"2025"`}, halts: true, becomes: `"Cohort":"2024"`},
		"after the write, a removal that is verified is taken for damage":   {answer: simulator.Short, when: "written", edit: [2]string{"Cohort", ""}, halts: true, becomes: `"Cohort":"2024"`},
		"after the write, a full answer does not see it and it stays":       {answer: simulator.Full, when: "written", edit: [2]string{"Cohort", `"2025"`}, becomes: `"Cohort":"2025"`},
		"before the write, a server that replaces forgets it":               {when: "read", edit: [2]string{"Cohort", `"2025"`}, becomes: `"Cohort":"2024"`},
		"before the write, a server that merges keeps what is added":        {put: simulator.ShallowMerge, when: "read", edit: [2]string{"nickname", `"Ace"`}, becomes: `"nickname":"Ace"`},
		"before the write, a change on a merging server is taken as damage": {put: simulator.ShallowMerge, when: "read", edit: [2]string{"Cohort", `"2025"`}, halts: true, becomes: `"Cohort":"2024"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{Put: c.put, PutAnswer: c.answer})
			w.merging(t, c.put != simulator.Replace)
			w.addSpeaker(`{"jobTitle":"Welder","Cohort":"2024"}`)
			f := w.front(t)
			var once sync.Once
			edit := func(p string) {
				if at(p) {
					once.Do(func() {
						if err := w.EditOtherInfo(ours, c.edit[0], c.edit[1]); err != nil {
							t.Error(err)
						}
					})
				}
			}
			if c.when == "read" {
				f.afterGet = edit
			} else {
				f.after = func(_ int, p string) { edit(p) }
			}
			res, err := w.process(t, f.url, w.db, nil).Backfill(t.Context(), time.Time{})
			if halted := errors.Is(err, bridgesync.ErrHalted); halted != c.halts || err != nil && !halted {
				t.Errorf("%+v, %v", res, err)
			}
			if got := w.UserOtherInfo(ours); !strings.Contains(got, c.becomes) || !strings.Contains(got, `"jobTitle":"Welder"`) {
				t.Errorf("stored is %s, want %s in it", got, c.becomes)
			}
			w.settledJournal(t)
		})
	}
}

// What a write long ago has done cannot be told from what people have done since: nothing of theirs is overwritten.
func TestAWriteThatNobodyLookedIntoForLongIsNotUndone(t *testing.T) {
	t.Parallel()
	for name, age := range map[string]time.Duration{"a moment ago": time.Minute, "yesterday": 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			user := w.addSpeaker(`{"jobTitle":"Welder","Cohort":"2024"}`)
			// A process has died between writing and looking, and then Cohort was changed.
			f := w.front(t)
			cable, db := w.cable(t)
			f.after = func(int, string) { cable.cut() }
			if _, err := w.process(t, f.url, db, nil).Backfill(t.Context(), time.Time{}); err == nil {
				t.Fatal("the process did not die")
			}
			w.expire(t)
			if err := w.EditOtherInfo(user, "Cohort", `"2025"`); err != nil {
				t.Fatal(err)
			}
			if _, err := w.db.Exec(t.Context(), `UPDATE journal SET created_at = now() - $1::interval`, age); err != nil {
				t.Fatal(err)
			}
			res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
			w.halted(t, res, err)
			entry := w.entries(t)[0]
			if old := age > time.Hour; old && (!strings.Contains(w.UserOtherInfo(user), `"Cohort":"2025"`) || entry.State != state.Damaged || entry.Before == nil) ||
				!old && (!strings.Contains(w.UserOtherInfo(user), `"Cohort":"2024"`) || entry.State != state.Restored) {
				t.Errorf("entry is %s, stored is %s", entry.State, w.UserOtherInfo(user))
			}
		})
	}
}

// A person who is damaged when the process dies is put back by the next, though the bridge is halted by then.
func TestAHaltedBridgeStillPutsBackWhatWasDamaged(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{PutAnswer: simulator.Short, DropForeignKeyOnPut: simulator.Tamper{At: 1}})
	w.addSpeaker(`{"jobTitle":"Welder","Cohort":"2024"}`)
	foreign := w.ForeignDigests("namecoach")
	f := w.front(t)
	cable, db := w.cable(t)
	f.after = func(int, string) { cable.cut() }
	// The reading that follows the write fails as well: all that is left is the open entry.
	f.afterGet = func(string) {
		if f.n > 0 {
			w.Change(func(o *simulator.Options) { o.Role = simulator.RoleMember })
		}
	}
	if _, err := w.process(t, f.url, db, nil).Backfill(t.Context(), time.Time{}); err == nil {
		t.Fatal("the process did not die")
	}
	w.expire(t)
	w.Change(func(o *simulator.Options) { o.Role = simulator.RoleAdmin })
	if err := state.Halt(t.Context(), w.db, "default", "by another process", [16]byte{1}); err != nil {
		t.Fatal(err)
	}
	res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
	w.halted(t, res, err)
	w.foreignKept(t, foreign)
	if states := w.settledJournal(t); states[state.Restored] != 1 {
		t.Errorf("journal %v", states)
	}
}

// busyOnce answers the first PUT with 429 after do, and passes everything else on.
type busyOnce struct {
	once sync.Once
	do   func()
}

func (b *busyOnce) RoundTrip(r *http.Request) (*http.Response, error) {
	var res *http.Response
	if r.Method == http.MethodPut {
		b.once.Do(func() {
			if r.Body != nil {
				_, _ = io.Copy(io.Discard, r.Body)
			}
			b.do()
			res = &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"2"}}, Body: io.NopCloser(strings.NewReader(`{}`)), Request: r}
		})
	}
	if res != nil {
		return res, nil
	}
	return http.DefaultTransport.RoundTrip(r)
}

// Trap 53: after a 429 the same body is old. What somebody changed meanwhile must not be undone, unseen.
func TestAWriteThatWaitedIsNotSentStale(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "")
	w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
	over := &busyOnce{do: func() {
		if err := w.EditOtherInfo(ada, "Cohort", `"2025"`); err != nil {
			t.Error(err)
		}
	}}
	b, check := measured(w.process(t, w.BLNURL(), w.db, over))
	res, err := b.Backfill(t.Context(), time.Time{})
	if got := string(w.members(t, ada)["Cohort"]); err != nil || got != `"2025"` || res.Written != 1 || res.Failed != 0 {
		t.Errorf("somebody wrote 2025 during the 2 s of Retry-After; now %s; %+v %v", got, res, err)
	}
	states := w.settledJournal(t)
	if states[state.Unsent] != 1 || states[state.Verified] != 1 {
		t.Errorf("journal %v, want one that was not carried out and one that was", states)
	}
	check(t, states)
	w.right(t)
}

// foundNothing answers as a proxy does that has lost its way to BLN: what it stands before is not asked.
type foundNothing struct{ method string }

func (f foundNothing) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != f.method || !strings.Contains(r.URL.Path, "/users/") {
		return http.DefaultTransport.RoundTrip(r)
	}
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`<html>404 Not Found</html>`)), Request: r}, nil
}

// Trap 33: that there is no such user is a fact only where BLN says so.
func TestA404OfAProxyTakesNobodyForGone(t *testing.T) {
	t.Parallel()
	for _, method := range []string{http.MethodGet, http.MethodPut} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			w.crowd(60)
			foreign := w.ForeignDigests("namecoach")
			b := w.process(t, w.BLNURL(), w.db, foundNothing{method})
			res, err := b.Backfill(t.Context(), time.Time{})
			if err == nil || res.Status != state.Failed || res.Failed == 0 || res.Linked != 60 {
				t.Errorf("%+v, %v; want a failed run and everybody still linked", res, err)
			}
			if res, err := b.Plan(t.Context()); method == http.MethodGet && err == nil || res.Linked != 60 {
				t.Errorf("plan: %+v, %v", res, err)
			}
			w.settledJournal(t)
			w.finishes(t, w.bridge(t), foreign)
		})
	}
}

// swapped is a transport that puts another answer in the place of some: nil leaves an answer as it is.
type swapped func(r *http.Request, body []byte) *http.Response

func (s swapped) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	if other := s(r, body); other != nil {
		return other, nil
	}
	return res, nil
}

// inPlaceOf is an answer to r that no server gave.
func inPlaceOf(r *http.Request, status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}
}

// readsOne says whether r asks for one member.
func readsOne(r *http.Request) bool {
	return r.Method == http.MethodGet && path.Base(path.Dir(r.URL.Path)) == "users"
}

// Trap 54: a write that is answered by a redirect may have been carried out (303 says just that). It is looked into like any other
// whose outcome is not known.
func TestAWriteThatIsAnsweredByARedirectIsVerified(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]simulator.Tamper{"carried out": {}, "with damage": {At: 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{DropForeignKeyOnPut: damage})
			w.addSpeaker(`{"jobTitle":"Welder","Cohort":"2024"}`)
			foreign := w.ForeignDigests("namecoach")
			var redirected atomic.Bool
			res, err := w.process(t, w.BLNURL(), w.db, swapped(func(r *http.Request, _ []byte) *http.Response {
				if r.Method == http.MethodPut && redirected.CompareAndSwap(false, true) {
					return inPlaceOf(r, http.StatusSeeOther, "")
				}
				return nil
			})).Backfill(t.Context(), time.Time{})
			if damage.At > 0 {
				w.halted(t, res, err)
			} else if err != nil || res.Written != 1 || w.asked("bln users.put") != 1 {
				t.Errorf("%+v, %v, %d PUTs; want one that was verified", res, err, w.asked("bln users.put"))
			}
			w.foreignKept(t, foreign)
			w.settledJournal(t)
		})
	}
}

// tardy answers the first PUT with 504 and keeps it, to carry it out, once, when members were read some times since.
type tardy struct {
	reads int    // 0: it is for the test to carry it out
	lost  func() // called when the PUT is kept; may be nil
	then  func(r *http.Request) *http.Response

	mu   sync.Mutex
	kept *http.Request
}

func (l *tardy) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Method == http.MethodPut && l.kept == nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		l.kept = r.Clone(context.Background())
		l.kept.Body = io.NopCloser(bytes.NewReader(body))
		if l.lost != nil {
			l.lost()
		}
		return inPlaceOf(r, http.StatusGatewayTimeout, ""), nil
	}
	if l.kept != nil && l.then != nil {
		if res := l.then(r); res != nil {
			return res, nil
		}
	}
	return swapped(func(r *http.Request, _ []byte) *http.Response {
		if l.kept != nil && readsOne(r) {
			if l.reads--; l.reads == 0 {
				l.arrive() // what was just read is from before it
			}
		}
		return nil
	}).RoundTrip(r)
}

func (l *tardy) arrive() {
	if res, err := http.DefaultTransport.RoundTrip(l.kept); err == nil {
		_ = res.Body.Close()
	}
}

// Rule 2 and trap 54: a write that is carried out long after its answer was lost is compared with what was there before it, like any other.
func TestAWriteThatArrivesLateIsVerifiedLikeAnyOther(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ dies, damages bool }{
		"right": {}, "with damage": {damages: true}, "right, its process dead": {dies: true}, "with damage, its process dead": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			if c.damages {
				w.Change(func(o *simulator.Options) { o.DropForeignKeyOnPut = simulator.Tamper{At: 1} })
			}
			w.addSpeaker(`{"jobTitle":"Welder","Cohort":"2024"}`)
			foreign := w.ForeignDigests("namecoach")
			late := &tardy{reads: 3} // as many as are made to see whether it arrives
			b := w.process(t, w.BLNURL(), w.db, late)
			if c.dies {
				cable, db := w.cable(t)
				var dead atomic.Bool
				late.lost = func() { cable.cut(); dead.Store(true) }
				late.then = func(r *http.Request) *http.Response {
					if dead.Load() {
						return inPlaceOf(r, http.StatusBadRequest, "")
					}
					return nil
				}
				if _, err := w.process(t, w.BLNURL(), db, late).Backfill(t.Context(), time.Time{}); err == nil {
					t.Fatal("the process did not die")
				}
				dead.Store(false)
				w.expire(t)
			}
			res, err := b.Backfill(t.Context(), time.Time{})
			if c.damages {
				w.halted(t, res, err)
			} else if err != nil || res.Failed != 0 || res.Written+res.Unchanged != 1 {
				t.Errorf("%+v, %v", res, err)
			}
			w.foreignKept(t, foreign)
			if states := w.settledJournal(t); states[state.Restored] != 1 && c.damages || states[state.Verified] != 1 && !c.damages {
				t.Errorf("journal %v", states)
			}
			if n := w.asked("bln users.put"); !c.damages && n != 1 {
				t.Errorf("%d PUTs, want the one that came late", n)
			}
		})
	}
}

// A write of which nothing was to be seen, and that none of ours has followed, stays open with its before-image as long as a server may
// still carry it out.
func TestAWriteThatMayStillArriveStaysOpen(t *testing.T) {
	t.Parallel()
	for name, arrives := range map[string]bool{"it arrives": true, "it never does": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{DropForeignKeyOnPut: simulator.Tamper{At: 1}})
			w.addSpeaker(`{"jobTitle":"Welder","Cohort":"2024"}`)
			foreign := w.ForeignDigests("namecoach")
			late := &tardy{then: func(r *http.Request) *http.Response {
				if r.Method == http.MethodPut {
					return inPlaceOf(r, http.StatusBadRequest, `{"code":"badRequest"}`)
				}
				return nil
			}}
			b := w.process(t, w.BLNURL(), w.db, late)
			if res, err := b.Backfill(t.Context(), time.Time{}); err != nil || res.Held.Unwritable != 1 {
				t.Fatalf("%+v, %v; want that BLN refused the second write", res, err)
			}
			if first := w.entries(t)[0]; first.State != state.Sending || first.Before == nil {
				t.Fatalf("%+v; want it open, with the image of what was there before it", first)
			}
			if late.then = nil; arrives {
				late.arrive()
			} else {
				w.exec(t, `UPDATE journal SET created_at = created_at - interval '1 hour'`)
			}
			w.exec(t, `UPDATE directory_users SET retry_at = NULL`)
			res, err := b.Backfill(t.Context(), time.Time{})
			want := map[string]int{state.Restored: 1, state.Unsent: 1}
			if arrives {
				w.halted(t, res, err)
			} else if want = map[string]int{state.Unsent: 2}; err != nil {
				t.Errorf("%+v, %v", res, err)
			}
			w.foreignKept(t, foreign)
			if states := w.settledJournal(t); !maps.Equal(states, want) {
				t.Errorf("journal %v, want %v", states, want)
			}
		})
	}
}

// leavesOut is a transport whose answers about one member leave otherInfo out, as long as still says so.
func leavesOut(t *testing.T, still func(r *http.Request) bool) swapped {
	return func(r *http.Request, body []byte) *http.Response {
		if !readsOne(r) || !still(r) {
			return nil
		}
		var user map[string]json.RawMessage
		if err := json.Unmarshal(body, &user); err != nil {
			t.Error(err)
		}
		delete(user, "otherInfo")
		short, err := json.Marshal(user)
		if err != nil {
			t.Error(err)
		}
		return inPlaceOf(r, http.StatusOK, string(short))
	}
}

// Rule 1 and trap 52: an answer that leaves otherInfo out says nothing about it. Where the list has shown some, nothing is written from it.
func TestAnAnswerWithoutOtherInfoDestroysNothing(t *testing.T) {
	t.Parallel()
	const theirs = `{"jobTitle":"Welder","Cohort":"2024"}`
	for name, c := range map[string]struct {
		has     string // what others have stored of the user
		answers int32  // that leave it out
		emptied string // what others replace it by when it was listed
		reads   int    // that are made, by one who is held at least
		held    bool
	}{
		"one answer":                      {has: theirs, answers: 1, reads: 2},
		"a few":                           {has: theirs, answers: 3, reads: 4},
		"all":                             {has: theirs, answers: 1000, reads: 8, held: true},
		"who never had any is written":    {has: "", answers: 1000, reads: 1},
		"whom people emptied is written":  {has: theirs, emptied: "{}", reads: 2},
		"who was set to null, is written": {has: theirs, emptied: "null", reads: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			user := w.addSpeaker(c.has)
			// Who failed is tried again at once.
			w.exec(t, `CREATE FUNCTION at_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.retry_at = now(); RETURN NEW; END $$`)
			w.exec(t, `CREATE TRIGGER at_once BEFORE UPDATE ON directory_users FOR EACH ROW WHEN (NEW.attempts > OLD.attempts) EXECUTE FUNCTION at_once()`)
			if c.emptied != "" {
				var once sync.Once
				w.Change(func(o *simulator.Options) {
					o.OnRequest = func(s *simulator.Simulator, endpoint string, _ int) {
						if endpoint == "bln users.get" {
							once.Do(func() { s.SetOtherInfo(user, c.emptied) })
						}
					}
				})
			}
			foreign := w.ForeignDigests("namecoach")
			var left atomic.Int32
			left.Store(c.answers)
			b := w.process(t, w.BLNURL(), w.db, leavesOut(t, func(*http.Request) bool { return left.Add(-1) >= 0 }))
			res, err := b.Backfill(t.Context(), time.Time{})
			if err != nil || res.Status != state.Done || res.Failed != 0 || (res.Held.Unwritable == 1) != c.held || (res.Written == 1) == c.held {
				t.Errorf("%+v, %v; want held: %v", res, err, c.held)
			}
			if detail := w.holds(t)[fmt.Sprint(user)].detail; strings.Contains(detail, "leaves otherInfo out") != c.held {
				t.Errorf("held since %q", detail)
			}
			// A run that takes over who has failed so far begins to count anew.
			if n := w.asked("bln users.get"); n < c.reads || n > c.reads && !c.held {
				t.Errorf("%d readings, want %d", n, c.reads)
			}
			if n := w.asked("bln users.put"); n > 0 && c.held {
				t.Errorf("%d PUTs", n)
			}
			if c.emptied == "" {
				w.foreignKept(t, foreign)
			}
			w.settledJournal(t)
		})
	}
}

// Rule 2: nor is it known by such an answer what a write has left. It is neither the loss of everything, nor the proof that all is well.
func TestAnAnswerWithoutOtherInfoSettlesNoWrite(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		put, answers int // so many answers leave it out after that PUT
		damages      bool
		aged         bool // the write is old when it is looked into again
		journal      string
	}{
		"one, after a write":                      {put: 1, answers: 1, journal: state.Verified},
		"all of one look, after a write":          {put: 1, answers: 3, journal: state.Verified},
		"one, after a write that did damage":      {put: 1, answers: 1, damages: true, journal: state.Restored},
		"all of one look, after one with damage":  {put: 1, answers: 3, damages: true, journal: state.Restored},
		"one, after damage was put back":          {put: 2, answers: 1, damages: true, journal: state.Restored},
		"for longer than can be told who changed": {put: 1, answers: 1000, aged: true, journal: state.Damaged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{PutAnswer: simulator.Short})
			if c.damages {
				w.Change(func(o *simulator.Options) { o.DropForeignKeyOnPut = simulator.Tamper{At: 1} })
			}
			w.addSpeaker(`{"jobTitle":"Welder","Cohort":"2024"}`)
			foreign := w.ForeignDigests("namecoach")
			left := c.answers
			b := w.process(t, w.BLNURL(), w.db, leavesOut(t, func(*http.Request) bool {
				if w.asked("bln users.put") < c.put {
					return false
				}
				left--
				if c.aged && left == c.answers-3 {
					w.exec(t, `UPDATE journal SET created_at = created_at - interval '1 hour'`)
				}
				return left >= 0
			}))
			res, err := b.Backfill(t.Context(), time.Time{})
			if c.journal != state.Verified {
				w.halted(t, res, err)
			} else if err != nil || res.Written != 1 || res.Failed != 0 {
				t.Errorf("%+v, %v", res, err)
			}
			puts := 1
			if c.damages {
				puts = 2
			}
			if n := w.asked("bln users.put"); n != puts {
				t.Errorf("%d PUTs, want %d", n, puts)
			}
			w.foreignKept(t, foreign)
			if states := w.settledJournal(t); states[c.journal] != 1 || len(states) != 1 {
				t.Errorf("journal %v, want one %s", states, c.journal)
			}
		})
	}
}
