package simulator

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Request is one request as it arrived.
type Request struct {
	At       time.Time // by Options.Now
	Endpoint string    // as in Counts
	Session  string    // whose token it bore: "token" for NameCoach's, "session 1", … for BLN's in the order they were given out, "" for none that is known
	Status   int       // 0: none yet, or the answer was broken off
	Over     bool      // 429 because the limit was reached, not because Faults said so
}

// Requests are in the order in which they arrived.
type Requests []Request

// Requests are all that arrived at an API, "namecoach" or "bln", since the start or ResetCounts.
func (s *Simulator) Requests(api string) Requests {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all Requests
	for _, r := range s.requests {
		if strings.HasPrefix(r.Endpoint, api+" ") {
			all = append(all, *r)
		}
	}
	return all
}

// MaxIn is the largest number of requests in any stretch of that length: whether a ceiling was kept at every moment.
func (r Requests) MaxIn(period time.Duration) int {
	times := make([]time.Time, len(r))
	for i := range r {
		times[i] = r[i].At
	}
	slices.SortFunc(times, time.Time.Compare) // a clock may have been put back
	most, from := 0, 0
	for i, at := range times {
		for at.Sub(times[from]) >= period {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}

// Of are the requests of one session.
func (r Requests) Of(session string) Requests {
	return slices.DeleteFunc(slices.Clone(r), func(q Request) bool { return q.Session != session })
}

// Sessions are all that there were, sorted.
func (r Requests) Sessions() []string {
	var all []string
	for _, q := range r {
		if q.Session != "" && !slices.Contains(all, q.Session) {
			all = append(all, q.Session)
		}
	}
	slices.Sort(all)
	return all
}

// Over is the number that had to be answered with 429 because a limit was reached.
func (r Requests) Over() int {
	n := 0
	for _, q := range r {
		if q.Over {
			n++
		}
	}
	return n
}

// arrived notes a request. GET and PUT of a user are noted before the user is looked at: until then others may still change it.
func (e *exchange) arrived(endpoint string) (n int) {
	token := e.r.Header.Get("Authorization")
	bare, _ := strings.CutPrefix(token, "Bearer ")
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	e.s.counts[endpoint]++
	e.seen = &Request{At: e.o.Now(), Endpoint: endpoint, Session: e.s.sessions[bare]}
	if e.api == "namecoach" && token == nameCoachToken {
		e.seen.Session = "token"
	}
	e.s.requests = append(e.s.requests, e.seen)
	if endpoint == "bln users.get" || e.isPut {
		if id, err := strconv.ParseInt(e.r.PathValue("id"), 10, 64); err == nil {
			e.s.visited[id] = e.seen.At
		}
	}
	return e.s.counts[endpoint]
}

// Write is one PUT of a user's otherInfo that was carried out, be its answer lost.
type Write struct {
	User     int64
	At       time.Time // by Options.Now
	Fragment string    // digest of what it left under our keys; "" where that is nothing, or null
	Idle     bool      // it changed nothing: neither what stood under our keys nor anything else
	Lost     []string  // foreign keys that it lost, changed or brought back, and what became of them
}

// Writes are the PUTs that were carried out, in their order. ResetCounts leaves them.
func (s *Simulator) Writes() []Write {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.writes)
}

// LostUpdates describes the PUTs that undid what others had written, also where that was put back later.
func (s *Simulator) LostUpdates() []string {
	var all []string
	for _, w := range s.Writes() {
		if len(w.Lost) > 0 {
			all = append(all, fmt.Sprintf("PUT of user %d: %s", w.User, strings.Join(w.Lost, ", ")))
		}
	}
	return all
}

// IdleWrites describes the PUTs that changed nothing: a user written twice for one change, or for none. Where something was changed between
// two equal PUTs, by whomever, the second is not idle.
func (s *Simulator) IdleWrites() []string {
	numbers := map[int64]int{}
	var all []string
	for _, w := range s.Writes() {
		numbers[w.User]++
		if w.Idle {
			all = append(all, fmt.Sprintf("PUT %d of user %d wrote what stood there: %s", numbers[w.User], w.User, cmp.Or(w.Fragment, "nothing")))
		}
	}
	return all
}

// account judges what a PUT makes of a user's otherInfo, before the server spoils anything.
func (e *exchange) account(a *account, was, kept *node) Write {
	own := e.o.own()
	w := Write{User: a.id, At: e.o.Now(), Fragment: fragmentDigest(e.o, kept, own)}
	if sameBut(was, kept, own) {
		w.Idle = w.Fragment == fragmentDigest(e.o, was, own)
		return w
	}
	before, after := foreignOf(e.o, *was, own), foreignOf(e.o, *kept, own)
	if changed := damaged(&before, &after); len(changed) > 0 {
		theirs := foreignPart(e.o, a.theirs, own)
		already := damaged(&theirs, &before)
		w.Lost = slices.DeleteFunc(damaged(&theirs, &after), func(key string) bool { return slices.Contains(already, key) })
	} else {
		w.Idle = w.Fragment == fragmentDigest(e.o, was, own)
	}
	return w
}

// sameBut reports whether two objects have the same members in the same order and spelling but for those keys, as is usual.
func sameBut(a, b *node, keys []string) bool {
	rest := func(members []member) []member {
		for len(members) > 0 && slices.Contains(keys, members[0].key) {
			members = members[1:]
		}
		return members
	}
	x, y := rest(a.members), rest(b.members)
	for len(x) > 0 && len(y) > 0 && x[0].key == y[0].key && x[0].value.raw == y[0].value.raw {
		x, y = rest(x[1:]), rest(y[1:])
	}
	return len(x) == 0 && len(y) == 0 && a.kind == '{' && b.kind == '{'
}

func (s *Simulator) note(w Write) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, w)
}

// fragmentDigest sums up what stands under our keys: null is nothing, at any depth, and so is an object of nulls.
func fragmentDigest(o *Options, n *node, own []string) string {
	var b []byte
	for _, key := range own {
		v := n.get(key)
		if v == nil || v.kind == 'n' {
			continue
		}
		said := dropNulls(*v)
		if said.kind == '{' && len(said.members) == 0 {
			continue
		}
		if o.RotateDigests { // another signature says the same
			for _, link := range []*node{said.get("recording_link"), &said} {
				if link != nil && link.kind == '"' {
					link.text, _, _ = strings.Cut(link.text, "?")
				}
			}
		}
		b = append(appendString(b, key), ':')
		b = appendCanonical(b, &said)
	}
	if b == nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
