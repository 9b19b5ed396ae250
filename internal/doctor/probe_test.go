package doctor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"namebridge/internal/doctor"
	"namebridge/internal/simulator"
	"namebridge/state"
)

const (
	foreign = `{"jobTitle":"hunter2","trades":["a","b"],"notes-1":{"x":1.10,"y":null},"n":1e400,"workPhone":null}`
	keptKey = "namecoach_probe_kept"
	leftKey = "namecoach_probe_left_out"
)

// patient is the user that a probe is made on.
func (p *place) patient(otherInfo string) int64 {
	p.o.Probe = p.AddUser(simulator.NewUser{Username: "patient@people.example", OtherInfo: otherInfo})
	return p.o.Probe
}

// meaning is an otherInfo without what is null, at any depth: missing and null are one.
func meaning(t *testing.T, raw string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(raw))
	d.UseNumber()
	o := map[string]any{}
	if err := d.Decode(&o); err != nil && raw != "" {
		t.Fatalf("%v: %s", err, raw)
	}
	var drop func(map[string]any)
	drop = func(o map[string]any) {
		maps.DeleteFunc(o, func(_ string, v any) bool { return v == nil })
		for _, v := range o {
			if inner, ok := v.(map[string]any); ok {
				drop(inner)
			}
		}
	}
	drop(o)
	return maps.Collect(maps.All(o)) // of null, too, an empty one
}

// asBefore fails the test unless the user shows what it showed before, and nothing of the probe is under way.
func (p *place) asBefore(t *testing.T, user int64, otherInfo string) {
	t.Helper()
	if diff := cmp.Diff(meaning(t, otherInfo), meaning(t, p.UserOtherInfo(user))); diff != "" {
		t.Errorf("the user is not as before (-before +now)\n%s", diff)
	}
	if n := value[int](t, p.db, `SELECT (SELECT count(*) FROM journal WHERE state = 'sending' OR before IS NOT NULL)
		+ (SELECT count(*) FROM directory_users WHERE claim_owner IS NOT NULL OR username = '') + (SELECT count(*) FROM workers WHERE host <> 'here')`); n != 0 {
		t.Errorf("%d things were left behind: an open entry, a before-image, a claim, a row, a process", n)
	}
	if v := p.Violations(); len(v) > 0 {
		t.Errorf("impolite: %v", v)
	}
}

// probed is the finding of the probe; all else must be in order.
func probed(t *testing.T, all []doctor.Finding) doctor.Finding {
	t.Helper()
	var found []doctor.Finding
	for _, f := range all {
		switch {
		case f.Check == doctor.Probe:
			found = append(found, f)
		case f.Status != doctor.OK:
			t.Errorf("beside the probe: %+v", f)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d findings of the probe: %+v", len(found), all)
	}
	return found[0]
}

func TestAProbeTellsMergeFromReplaceAndPutsEverythingBack(t *testing.T) {
	t.Parallel()
	others := map[string]string{ // otherInfo before, and what it means
		"":      "",
		"null":  "",
		"{}":    "",
		foreign: foreign,
		`{"jobTitle":"x","namecoach":{"name_badge_link":"https://www.name-coach.com/x","recording_link":null}}`: `{"jobTitle":"x","namecoach":{"name_badge_link":"https://www.name-coach.com/x"}}`,
		`{"` + keptKey + `":null,"a":true,"` + leftKey + `":null}`:                                              `{"a":true}`,
		// by a probe that was cut off
		`{"` + keptKey + `":"namebridge doctor, may be removed: x 2","a":true,"` + leftKey + `":"namebridge doctor, may be removed: x 1"}`: `{"a":true}`,
	}
	for put, semantics := range map[simulator.PutSemantics]string{simulator.Replace: "replace", simulator.ShallowMerge: "merge", simulator.DeepMerge: "merge"} {
		for kind, o := range map[string]simulator.Options{
			"plain": {}, "short": {PutAnswer: simulator.Short, DropNulls: true}, "stale": {PutAnswer: simulator.StaleListRow, ReorderKeys: true},
		} {
			t.Run(fmt.Sprint(put, kind), func(t *testing.T) {
				t.Parallel()
				o.Put = put
				p := newPlace(t, o)
				for otherInfo, means := range others {
					p.ResetCounts()
					user := p.patient(otherInfo)
					f := probed(t, p.look(t, t.Context()))
					if f.Status != doctor.OK || !strings.Contains(f.Text, "this server "+semantics+"s") || !strings.Contains(f.Text,
						"as before (checked)") {
						t.Errorf("%s: found %+v", otherInfo, f)
					}
					null := semantics == "merge" && !o.DropNulls && !strings.Contains(otherInfo, keptKey+`":null`)
					if null != strings.Contains(f.Text, "stand as null") || null && !strings.Contains(p.UserOtherInfo(user), keptKey) {
						t.Errorf("%s: %s\nsays %s", otherInfo, p.UserOtherInfo(user), f.Text)
					}
					p.asBefore(t, user, means)
					run := value[string](t, p.db, `SELECT kind || ' ' || status || ' ' || (counts->>'semantics') FROM runs WHERE counts->>'user' = $1`, fmt.Sprint(user))
					if run != "probe done "+semantics {
						t.Errorf("the run says %s", run)
					}
					if n := p.Counts()["bln users.put"]; n != 3 {
						t.Errorf("%s: %d writes, want 3", otherInfo, n)
					}
				}
			})
		}
	}
}

// What a write leaves out is what a server may drop.
func TestNoWriteOfAProbeLeavesOutAForeignKey(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	user := p.patient(foreign)
	p.env["BLN_URL"] = before(t, p.BLNURL(), func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		var sent struct{ OtherInfo map[string]json.RawMessage }
		body, err := io.ReadAll(r.Body)
		if err := errors.Join(err, json.Unmarshal(body, &sent)); err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		for key := range meaning(t, foreign) {
			if _, ok := sent.OtherInfo[key]; !ok {
				t.Errorf("a write leaves %s out: %s", key, body)
			}
		}
		return false
	})
	if f := probed(t, p.look(t, t.Context())); f.Status != doctor.OK {
		t.Error(f)
	}
	p.asBefore(t, user, foreign)
}

func TestAProbeThatIsInterruptedAnywherePutsEverythingBack(t *testing.T) {
	t.Parallel()
	for _, put := range []simulator.PutSemantics{simulator.Replace, simulator.ShallowMerge} {
		for endpoint, all := range map[string]int{"bln users.get": 6, "bln users.put": 3} {
			for n := 1; n <= all; n++ {
				t.Run(fmt.Sprint(put, endpoint, n), func(t *testing.T) {
					t.Parallel()
					ctx, interrupt := context.WithCancel(t.Context())
					defer interrupt()
					var there atomic.Bool
					p := newPlace(t, simulator.Options{Put: put, OnRequest: func(_ *simulator.Simulator, e string, i int) {
						if e == endpoint && i == n {
							there.Store(true)
							interrupt()
						}
					}})
					user := p.patient(foreign)
					all := p.look(t, ctx)
					p.asBefore(t, user, foreign)
					if bad := amiss(all); there.Load() && len(bad) > 0 && !strings.Contains(bad[0].Text, "interrupted") {
						t.Errorf("found %+v", bad)
					}
				})
			}
		}
	}
}

// Whatever a request comes to, the user is as before, and a verdict is right or none.
func TestAProbeOnAServerThatFailsPutsEverythingBack(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		for _, put := range []simulator.PutSemantics{simulator.Replace, simulator.DeepMerge} {
			t.Run(fmt.Sprint(seed, put), func(t *testing.T) {
				t.Parallel()
				p := newPlace(t, simulator.Options{Seed: seed, Put: put})
				user := p.patient(foreign)
				var begun atomic.Bool
				p.Change(func(o *simulator.Options) {
					o.OnRequest = func(s *simulator.Simulator, e string, _ int) {
						if e == "bln users.get" && begun.CompareAndSwap(false, true) { // the sign-in is past
							s.Change(func(o *simulator.Options) {
								o.Faults = simulator.Faults{P5xx: 0.15, PReset: 0.1, PTruncate: 0.1, PAppliedThenTimeout: 0.15}
							})
						}
					}
				})
				f := probed(t, p.look(t, t.Context()))
				if wrong := map[simulator.PutSemantics]string{simulator.Replace: "server merges", simulator.DeepMerge: "server replaces"}[put]; strings.Contains(f.Text, wrong) {
					t.Errorf("%+v", f)
				}
				if !strings.Contains(f.Text, "could not be put back") {
					p.asBefore(t, user, foreign)
					return
				}
				// The faults were too many: then all that is needed to put it back is on disk.
				if n := value[int](t, p.db, `SELECT count(*) FROM journal WHERE state = 'sending' AND convert_from(before, 'UTF8') = $1`, foreign); n != 1 {
					t.Errorf("%d open entries", n)
				}
				now := meaning(t, p.UserOtherInfo(user))
				delete(now, keptKey)
				delete(now, leftKey)
				if diff := cmp.Diff(meaning(t, foreign), now); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestDamageThatAProbeSeesIsPutBackAndHaltsTheBridge(t *testing.T) {
	t.Parallel()
	for _, put := range []simulator.PutSemantics{simulator.Replace, simulator.ShallowMerge} {
		for at := 1; at <= 3; at++ {
			for name, o := range map[string]simulator.Options{
				"drops":   {DropForeignKeyOnPut: simulator.Tamper{At: at, Key: "jobTitle"}},
				"changes": {ChangeForeignKeyOnPut: simulator.Tamper{At: at, Key: "jobTitle"}},
			} {
				if put == simulator.ShallowMerge && name == "changes" {
					continue // both are put back alike
				}
				t.Run(fmt.Sprint(put, name, at), func(t *testing.T) {
					t.Parallel()
					o.Put = put
					p := newPlace(t, o)
					user := p.patient(foreign)
					f := probed(t, p.look(t, t.Context()))
					if !f.Stopped || f.Status != doctor.Problem || !strings.Contains(f.Text, "HALTED: BLN lost or changed what is not ours") ||
						!strings.Contains(f.Text, "jobTitle") || !strings.Contains(f.Text, "put back and checked") || !strings.Contains(f.Cure,
						"namebridge resume") {
						t.Errorf("found %+v", f)
					}
					p.asBefore(t, user, foreign)
					if got := value[string](t, p.db, `SELECT halt_reason FROM bridges`); !strings.Contains(got, "put back and checked") {
						t.Errorf("halted for %s", got)
					}
					if got := value[string](t, p.db, `SELECT state FROM journal`); got != state.Restored {
						t.Errorf("the entry ended as %s", got)
					}
					if f := probedWhile(t, p); !f.Stopped {
						t.Errorf("a second probe was not refused: %+v", f)
					}
				})
			}
		}
	}
}

// probedWhile is the finding of a probe in a place where other things are amiss.
func probedWhile(t *testing.T, p *place) doctor.Finding {
	t.Helper()
	for _, f := range p.look(t, t.Context()) {
		if f.Check == doctor.Probe {
			return f
		}
	}
	t.Fatal("no finding of the probe")
	return doctor.Finding{}
}

func TestWhatCannotBePutBackStaysInTheJournal(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{DropForeignKeyOnPut: simulator.Tamper{Every: 1, Key: "jobTitle"}})
	user := p.patient(foreign)
	f := probed(t, p.look(t, t.Context()))
	if !f.Stopped || !strings.Contains(f.Text, "could NOT be put back") {
		t.Errorf("found %+v", f)
	}
	if got := value[string](t, p.db, `SELECT convert_from(before, 'UTF8') FROM journal WHERE state = 'damaged' AND user_id = $1`, user); got != foreign {
		t.Errorf("the journal keeps %s", got)
	}
}

func TestAProbeIsRefusedWhereItIsNotSafe(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		otherInfo string
		do        func(*testing.T, *place, int64)
		says      string
		cure      string
	}{
		"halted": {do: func(t *testing.T, p *place, _ int64) { p.exec(t, `UPDATE bridges SET halted_at = now()`) }, says: "the bridge is halted", cure: "resume"},
		"claimed by a live process": {do: func(t *testing.T, p *place, user int64) {
			p.exec(t, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, claim_owner) SELECT 'default', $1, 'u', 'u', '', 1, owner FROM workers`, user)
		}, says: "another process is writing", cure: "again"},
		"an unsettled write": {do: func(t *testing.T, p *place, user int64) {
			p.exec(t, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep) VALUES ('default', $1, 'u', 'u', '', 1)`, user)
			p.exec(t, `INSERT INTO journal (bridge, run, user_id, fence, action, state) VALUES ('default', $1, $2, 1, 'write', 'sending')`, uuid.New(), user)
		}, says: "the outcome of an earlier write", cure: "namebridge backfill"},
		"another organization's database": {do: func(t *testing.T, p *place, _ int64) {
			p.exec(t, `UPDATE bridges SET organization_id = 1, directory_sweep = 1`)
		}, says: "for organization 1", cure: "DATABASE_URL"},
		"no such user": {do: func(_ *testing.T, p *place, _ int64) { p.o.Probe = 99999 }, says: "there is no user 99999", cure: "user.id"},
		"a row id":     {do: func(_ *testing.T, p *place, user int64) { p.o.Probe = rowID(p, user) }, says: "there is no user", cure: "not the id of the row"},
		"a role that may only read": {do: func(_ *testing.T, p *place, _ int64) {
			p.Change(func(o *simulator.Options) { o.Role = simulator.RoleAuditor })
		}, says: "lets this account write", cure: "mend"},
		"what cannot be echoed": {otherInfo: `{"birthYear":1801}`, says: "birthYear is below 1920", cure: "test user"},
		"a key twice":           {otherInfo: `{"a":1,"a":2}`, says: "cannot be read without loss", cure: "test user"},
		"too many keys":         {otherInfo: many(99), says: "has 101 keys", cure: "test user"},
		"somebody's own key":    {otherInfo: `{"` + keptKey + `":"mine"}`, says: "somebody uses the key " + keptKey, cure: "another test user"},
		"somebody's own object": {otherInfo: `{"` + leftKey + `":{"a":1}}`, says: "somebody uses the key " + leftKey, cure: "another test user"},
		"no tables":             {do: func(t *testing.T, p *place, _ int64) { p.exec(t, `DELETE FROM goose_db_version WHERE version_id > 0`) }, says: "needs the database with its tables", cure: "mend"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, simulator.Options{})
			user := p.patient(test.otherInfo)
			if test.do != nil {
				test.do(t, p, user)
			}
			f := probedWhile(t, p)
			if f.Status != doctor.Problem || !strings.Contains(f.Text,
				"nothing was written") || !strings.Contains(f.Text, test.says) || !strings.Contains(f.Cure, test.cure) {
				t.Errorf("found %+v", f)
			}
			if n := p.Counts()["bln users.put"]; n > 0 || p.UserOtherInfo(user) != test.otherInfo {
				t.Errorf("%d writes were sent; %s", n, p.UserOtherInfo(user))
			}
			if f.Stopped != (name == "halted") {
				t.Errorf("a person must look: %v", f.Stopped)
			}
			if n := value[int](t, p.db, `SELECT (SELECT count(*) FROM directory_users WHERE username = '') + (SELECT count(*) FROM workers WHERE host <> 'here')`); n != 0 {
				t.Errorf("%d rows were left behind", n)
			}
		})
	}
}

func rowID(p *place, user int64) int64 {
	for _, u := range p.Users() {
		if u.ID == user {
			return u.RowID
		}
	}
	return 0
}

func many(n int) string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf(`"k%d":1`, i)
	}
	return "{" + strings.Join(keys, ",") + "}"
}

// A process that writes to the same user meanwhile would be taken for the server.
func TestWhileAProbeIsUnderWayNobodyElseMayWriteToTheUser(t *testing.T) {
	t.Parallel()
	var p *place
	var user int64
	seen := 0
	p = newPlace(t, simulator.Options{OnRequest: func(_ *simulator.Simulator, e string, _ int) {
		if e != "bln users.put" {
			return
		}
		seen++
		// As the claims of those who write ask: a live owner, and no entry that is not settled.
		if !value[bool](t, p.db, `SELECT EXISTS (SELECT 1 FROM directory_users d JOIN workers w ON w.owner = d.claim_owner JOIN journal j USING (user_id)
			WHERE d.user_id = $1 AND w.heartbeat_at > now() - interval '12 seconds' AND j.state = 'sending' AND j.fence = d.fence AND convert_from(j.before, 'UTF8') = $2)`, user, foreign) {
			t.Error("a write leaves without a claim and its before-image")
		}
	}})
	user = p.patient(foreign)
	p.exec(t, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, wanted_version, action) VALUES ('default', $1, 'u', 'u', '', 1, 3, 'write')`, user)
	if f := probed(t, p.look(t, t.Context())); f.Status != doctor.OK || seen != 3 {
		t.Errorf("found %+v after %d writes", f, seen)
	}
	p.asBefore(t, user, foreign)
	if n := value[int](t, p.db, `SELECT count(*) FROM directory_users WHERE username = 'u' AND wanted_version = 3 AND applied_version = 0 AND gone_at IS NULL`); n != 1 {
		t.Error("what is known of the user was changed")
	}
}

func TestWhatOthersAddMeanwhileStays(t *testing.T) {
	t.Parallel()
	var user int64
	p := newPlace(t, simulator.Options{OnRequest: func(s *simulator.Simulator, e string, n int) {
		if e == "bln users.get" && n == 3 {
			if err := s.EditOtherInfo(user, "added", `"meanwhile"`); err != nil {
				t.Error(err)
			}
		}
	}})
	user = p.patient(`{"a":"b"}`)
	if f := probed(t, p.look(t, t.Context())); f.Status != doctor.OK {
		t.Errorf("found %+v", f)
	}
	p.asBefore(t, user, `{"a":"b","added":"meanwhile"}`)
}

// A server that accepts and ignores a write must not pass for one that merges.
func TestAWriteThatIsNotCarriedOutIsNoProof(t *testing.T) {
	t.Parallel()
	for at := int32(1); at <= 2; at++ {
		p := newPlace(t, simulator.Options{})
		user := p.patient(foreign)
		var puts atomic.Int32
		p.env["BLN_URL"] = before(t, p.BLNURL(), func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut || puts.Add(1) != at {
				return false
			}
			w.WriteHeader(204)
			return true
		})
		f := probed(t, p.look(t, t.Context()))
		if f.Status != doctor.Problem || !strings.Contains(f.Text, "shows nothing: BLN accepts the write, but does not show it") {
			t.Errorf("found %+v", f)
		}
		p.asBefore(t, user, foreign)
	}
}

func TestARefusedWriteIsToldWithItsReason(t *testing.T) {
	t.Parallel()
	for status, says := range map[int]string{403: "does not let this account update the user (403)", 400: "answers users.update with 400", 409: "with 409"} {
		for at := int32(1); at <= 2; at++ {
			p := newPlace(t, simulator.Options{})
			user := p.patient(foreign)
			var puts atomic.Int32
			p.env["BLN_URL"] = before(t, p.BLNURL(), func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut || puts.Add(1) != at {
					return false
				}
				w.WriteHeader(status)
				_, _ = fmt.Fprint(w, `{"code":"invalid","message":"hunter2"}`)
				return true
			})
			f := probed(t, p.look(t, t.Context()))
			if f.Status != doctor.Problem || !strings.Contains(f.Text, says) || !strings.Contains(f.Text, "as before (checked)") {
				t.Errorf("found %+v", f)
			}
			p.asBefore(t, user, foreign)
		}
	}
}

// A 429 to a write was certainly not carried out: the user is read anew, and it goes on.
func TestAProbeWaitsWhereItIsAskedTo(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	user := p.patient(foreign)
	var puts atomic.Int32
	p.env["BLN_URL"] = before(t, p.BLNURL(), func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || puts.Add(1)%2 == 0 {
			return false
		}
		w.WriteHeader(429)
		return true
	})
	if f := probed(t, p.look(t, t.Context())); f.Status != doctor.OK {
		t.Errorf("found %+v", f)
	}
	p.asBefore(t, user, foreign)
}

func TestWhatAProbeHasShownIsHeldAgainstTheSetting(t *testing.T) {
	t.Parallel()
	for put, wanted := range map[simulator.PutSemantics]doctor.Status{simulator.Replace: doctor.Problem, simulator.ShallowMerge: doctor.OK} {
		p := newPlace(t, simulator.Options{Put: put})
		p.env["BLN_PUT_SEMANTICS"] = "merge"
		p.patient(foreign)
		for range 2 { // in the same look, and in a later one
			all := p.look(t, t.Context())
			last := all[len(all)-1]
			if last.Check != doctor.Configuration || last.Status != wanted || !strings.Contains(last.Text,
				"the last probe has shown that this server") {
				t.Errorf("found %+v", last)
			}
			p.o.Probe = 0
		}
	}
}

func TestAHaltInTheMiddleEndsAProbeBeforeItsFirstWrite(t *testing.T) {
	t.Parallel()
	var p *place
	p = newPlace(t, simulator.Options{OnRequest: func(_ *simulator.Simulator, e string, n int) {
		if e == "bln users.get" && n == 1 {
			p.exec(t, `UPDATE bridges SET halted_at = now()`)
		}
	}})
	user := p.patient(foreign)
	if f := probedWhile(t, p); !strings.Contains(f.Text, "the bridge was halted") || p.Counts()["bln users.put"] != 0 {
		t.Errorf("found %+v", f)
	}
	p.asBefore(t, user, foreign)
}

// Whoever was stopped for longer than a lease must not write on: the user may be another process's.
func TestALostLeaseEndsAProbe(t *testing.T) {
	t.Parallel()
	var p *place
	var user int64
	p = newPlace(t, simulator.Options{OnRequest: func(_ *simulator.Simulator, e string, n int) {
		if e == "bln users.put" && n == 1 {
			p.exec(t, `DELETE FROM workers WHERE host <> 'here'`)
			time.Sleep(10 * time.Second) // more than leaseMargin: also who missed every heartbeat meanwhile may not believe in its lease
		}
	}})
	user = p.patient(foreign)
	f := probedWhile(t, p)
	if f.Status != doctor.Problem || !strings.Contains(f.Text, "could not be put back") || !strings.Contains(f.Cure,
		fmt.Sprintf("--probe-write %d again", user)) {
		t.Errorf("found %+v", f)
	}
	if n := p.Counts()["bln users.put"]; n != 1 {
		t.Errorf("%d writes, want the first alone", n)
	}
	if n := value[int](t, p.db, `SELECT count(*) FROM journal JOIN directory_users USING (bridge, user_id) WHERE state = 'sending' AND convert_from(before, 'UTF8') = $1`, foreign); n != 1 {
		t.Error("the entry is not open, for others to look into")
	}
}
