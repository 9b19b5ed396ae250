// Package simulator serves both APIs on loopback: NameCoach v5 and the part of BLN that a bridge needs, with seeded people. It follows the
// two documents and everything that they hide: whatever they leave open is a field of Options.
//
// It is the product's independent check. It imports none of the product's packages, has its own JSON reader and its own
// validator of the write schema, and knows the right outcome (Truth) because it made the people, not because it matched them.
//
// Line numbers in comments are those of the two documents: NC for NameCoach's, BLN for BLN's.
package simulator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Simulator is both servers and their world. Its methods may be called at any time, also from hooks.
type Simulator struct {
	world *world
	opts  atomic.Pointer[Options]

	mu         sync.Mutex // guards everything below
	counts     map[string]int
	answers    map[string]int
	violations map[string]int
	dice       *rand.Rand // for faults
	tokens     map[string]time.Time
	sessions   map[string]string // names of tokens
	requests   []*Request
	visited    map[int64]time.Time // by user: the last GET or PUT, carried out or not
	writes     []Write
	puts       int // carried out
	dropped    bool
	changed    bool
	nameCoach  nameCoachBudget
	bln        bucket

	reads atomic.Int64 // numbers the digests that rotate

	servers  []*http.Server
	finished sync.WaitGroup
	urls     [2]string
}

const (
	nameCoachToken = "FjQB7vXvsPK-simulated-Ur6swRk7"
	blnUsername    = "bridge@demo.example"
	blnPassword    = "simulated-password"
	organizationID = 4711
	organizationKy = "demo-college"
	selfUserID     = 7 // the account that signs in; not a member of the generated directory
)

// New makes the world. It does not listen yet.
func New(o Options) (*Simulator, error) {
	o.setDefaults()
	switch o.Role {
	case RoleAdmin, RoleAuditor, RoleNetworkAdmin, RoleMember:
	default:
		return nil, fmt.Errorf("simulator: unknown role %q", o.Role)
	}
	if o.Users < 0 {
		return nil, fmt.Errorf("simulator: %d users", o.Users)
	}
	s := &Simulator{
		world: newWorld(o.Seed), counts: map[string]int{}, answers: map[string]int{}, violations: map[string]int{},
		dice: rand.New(rand.NewPCG(o.Seed, 0xfa017)), tokens: map[string]time.Time{}, sessions: map[string]string{}, visited: map[int64]time.Time{},
	}
	s.opts.Store(&o)
	generate(s.world, &o)
	return s, nil
}

// Start listens and serves until Close.
func (s *Simulator) Start() error {
	o := s.options()
	for i, server := range []struct {
		addr    string
		handler http.Handler
	}{{o.NameCoachAddr, s.nameCoachHandler()}, {o.BLNAddr, s.blnHandler()}} {
		l, err := net.Listen("tcp", server.addr)
		if err != nil {
			return errors.Join(fmt.Errorf("simulator: listen: %w", err), s.Close())
		}
		s.urls[i] = "http://" + l.Addr().String()
		srv := &http.Server{Handler: server.handler, ReadHeaderTimeout: 30 * time.Second}
		s.servers = append(s.servers, srv)
		s.finished.Go(func() { _ = srv.Serve(l) }) // ends with ErrServerClosed
	}
	return nil
}

// Close stops both servers at once, requests in flight included.
func (s *Simulator) Close() error {
	var err error
	for _, srv := range s.servers {
		err = errors.Join(err, srv.Close())
	}
	s.finished.Wait()
	return err
}

// NameCoachURL is NAMECOACH_URL, base path included; empty before Start.
func (s *Simulator) NameCoachURL() string { return s.urls[0] + nameCoachBase }

// BLNURL is BLN_URL; empty before Start.
func (s *Simulator) BLNURL() string { return s.urls[1] }

// Token is NAMECOACH_TOKEN.
func (s *Simulator) Token() string { return nameCoachToken }

// Username is BLN_USERNAME.
func (s *Simulator) Username() string { return blnUsername }

// Password is BLN_PASSWORD.
func (s *Simulator) Password() string { return blnPassword }

// OrganizationID is BLN_ORGANIZATION_ID.
func (s *Simulator) OrganizationID() int64 { return organizationID }

// AccessToken is a fresh BLN_ACCESS_TOKEN.
func (s *Simulator) AccessToken() string { return s.issueToken() }

// RevokeTokens makes every BLN token given so far invalid: the next request with one is a 401.
func (s *Simulator) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Change alters options while the simulator runs. Seed, Users and the addresses no longer matter by then.
func (s *Simulator) Change(change func(*Options)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := *s.opts.Load()
	o.NotFoundUsers = maps.Clone(o.NotFoundUsers)
	change(&o)
	o.setDefaults()
	s.opts.Store(&o)
}

// Advance moves both servers' clocks on, or back: a day passes at once, tokens age, and what is late shows. Limits go by Options.Now.
func (s *Simulator) Advance(d time.Duration) {
	s.Change(func(o *Options) { o.ClockOffset += d })
}

func (s *Simulator) options() *Options { return s.opts.Load() }

// Counts are the requests that arrived, by name: "namecoach participants.list", "namecoach participants.search", "bln users.list",
// "bln users.search", "bln users.query", "bln users.get", "bln users.put", "bln auth.login", "bln organization.get", "bln acl" and others of that form.
func (s *Simulator) Counts() map[string]int { return s.copyOf(&s.counts) }

// Answers are the answers given, by "namecoach 200", "bln 429" and so on. A request that got no answer, or a broken one, counts as
// "bln none".
func (s *Simulator) Answers() map[string]int { return s.copyOf(&s.answers) }

func (s *Simulator) copyOf(m *map[string]int) map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(*m)
}

// ResetCounts sets Counts and Answers to zero and forgets the Requests. Violations and Writes stay.
func (s *Simulator) ResetCounts() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.counts)
	clear(s.answers)
	s.requests = nil
}

// Violations are the things that were asked and that a polite client never asks, each with the number of times, sorted.
func (s *Simulator) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for what, n := range s.violations {
		all = append(all, fmt.Sprintf("%s (%d)", what, n))
	}
	slices.Sort(all)
	return all
}

func (s *Simulator) violation(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations[what]++
}

// pause waits, but not for a client that has gone.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
