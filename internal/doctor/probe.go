package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"namebridge/bln"
	"namebridge/internal/config"
	"namebridge/internal/httpapi"
	"namebridge/state"
)

const (
	// finish bounds what is done once a write may have been sent, whatever ends meanwhile.
	finish = 2 * time.Minute
	// rereads is how often the user is read anew for a write that could not leave while what it was made from was fresh, or met a 429.
	rereads = 12
	// backTries is how often it is tried to put back what was there.
	backTries = 4
	// ours begins every value that a probe writes, so that a later one knows what an earlier one has left.
	ours = "namebridge doctor, may be removed: "
	// maxReason is where a reason is cut, in bytes.
	maxReason = 300
)

// arrivals are the pauses in which a write that is not to be seen yet may still arrive: reading may lag behind writing.
var arrivals = []time.Duration{0, 500 * time.Millisecond, time.Second}

// probeKeys are the two top-level keys of otherInfo that a probe writes: one that stays in the second write, one that is left out of it.
func probeKeys(fragment string) [2]string {
	return [2]string{fragment + "_probe_kept", fragment + "_probe_left_out"}
}

// probe proves on one user whether a PUT replaces or merges otherInfo:
//
//  1. everything that is there is sent, with two keys of ours: all of it must be there afterwards, so to echo is safe;
//  2. everything is sent again with the first key changed and the second left out. The first shows that it arrived; where the second is
//     gone the server replaces, where it still stands the server merges;
//  3. what was there before is put back, and checked.
//
// No write ever leaves out a key that is not the probe's own, so nothing foreign is at stake but what every ordinary write stakes: the server
// that fails to echo. What it then drops or changes is put back, and halts the bridge. The before-image is on disk before the first write,
// in an entry of the journal that stays open until the last check: where the process dies, a later run looks into it as into any write.
type probe struct {
	*examination
	bridge string
	client *bln.Client
	user   int64
	keys   [2]string
	owner  uuid.UUID
	run    uuid.UUID
	fence  int64
	entry  int64 // of the journal; 0: nothing was sent

	before bln.OtherInfo // as it was, without what an earlier probe has left
	sent   bool          // a write may have left
	merges bool          // shown so far
	beat   atomic.Int64  // when the last heartbeat that succeeded was sent, in Unix nanoseconds
}

// damageError says that BLN lost or changed keys that are not the probe's.
type damageError struct {
	keys []bln.Change
	now  bln.User
}

func (e *damageError) Error() string { return "BLN lost or changed what is not ours" }

// probe carries the probe out and reports what it has shown.
func (e *examination) probe(ctx context.Context, b config.Bridge, client *bln.Client) {
	p := &probe{
		examination: e, bridge: b.Name, client: client.Urgent(), user: e.Probe, keys: probeKeys(b.OtherInfoKey), owner: uuid.New(), run: uuid.New(),
	}
	refusal, err := p.take(ctx, b.BLNOrganizationID)
	switch {
	case err != nil:
		p.report(p.finding(Problem, "look into the log of the Postgres server, then run it again",
			"nothing was written to user %d: the database fails: %s", p.user, trouble(err)))
		return
	case refusal != nil:
		p.report(*refusal)
		return
	}
	stop := p.keepAlive(context.WithoutCancel(ctx))
	defer stop()
	p.report(p.measure(ctx))
}

func (p *probe) finding(s Status, cure, text string, args ...any) Finding {
	return Finding{Bridge: p.bridge, Check: Probe, Status: s, Text: fmt.Sprintf(text, args...), Cure: cure}
}

// measure does the three steps; what it returns is what is to be said of them. The probe ends in its own order: it looks at ctx between two
// steps, and puts back what it has written.
func (p *probe) measure(ctx context.Context) Finding {
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), finish)
	defer cancel()
	semantics, err := p.steps(ctx, work)
	after, end := context.WithTimeout(context.WithoutCancel(ctx), finish)
	defer end()
	if damage, ok := errors.AsType[*damageError](err); ok {
		return p.damaged(after, damage)
	}
	if !p.sent {
		_ = p.leave(after, semantics, err) // what cannot be given back now is free when the lease has lapsed
		return p.finding(Problem, cureOf(err), "nothing was written to user %d: %s", p.user, p.reason(err))
	}
	var left []string // keys that stand as null
	back := p.putBack(after, &left)
	if damage, ok := errors.AsType[*damageError](back); ok {
		return p.damaged(after, damage)
	}
	if back != nil {
		return p.finding(Problem,
			fmt.Sprintf("namebridge doctor --bridge %s --probe-write %d again, once BLN and the database answer", p.bridge, p.user),
			"user %d could not be put back as it was: %s. %s and %s may still stand in otherInfo; everything else was as before when last seen",
			p.user, p.reason(back), p.keys[0], p.keys[1])
	}
	closing := p.leave(after, semantics, err)
	as := fmt.Sprintf("User %d is as before (checked)", p.user)
	if len(left) > 0 {
		as += ", except that " + strings.Join(left, " and ") + " stand as null: under merge a key cannot be deleted"
	}
	switch {
	case closing != nil:
		return p.finding(Problem, "the next run of this bridge looks into it: namebridge backfill --bridge "+p.bridge,
			"%s, but the database could not be told: %s", as, trouble(closing))
	case err != nil:
		return p.finding(Problem, cureOf(err), "the probe shows nothing: %s. %s", p.reason(err), as)
	case semantics == merge:
		return p.finding(OK, "", "this server merges: a key that was left out of a write stayed. BLN_PUT_SEMANTICS=merge may be set. %s", as)
	}
	return p.finding(OK, "", "this server replaces: a key that was left out of a write is gone. Leave BLN_PUT_SEMANTICS=replace. %s", as)
}

// reasonError is why a probe ends, with what to do about it.
type reasonError struct{ why, cure string }

func (e *reasonError) Error() string { return e.why }

var (
	errInterrupted = &reasonError{"interrupted", "run it again"}
	errLease       = &reasonError{"the database has taken no sign of life for too long, so that another process may have taken over", "run it again"}
)

func cureOf(err error) string {
	if r, ok := errors.AsType[*reasonError](err); ok {
		return r.cure
	}
	return "run it again"
}

// reason is an error in words that show nothing of an answer.
func (p *probe) reason(err error) string {
	var (
		r      *reasonError
		api    *httpapi.Error
		signIn *bln.SignInError
		schema bln.SchemaErrors
	)
	text := ""
	switch {
	case errors.As(err, &r):
		text = r.why
	case errors.As(err, &schema):
		text = schema.Error()
	case errors.As(err, &signIn):
		text = "BLN takes the sign-in no more"
	case errors.As(err, &api) && api.Status != 0:
		text = fmt.Sprintf("BLN answers %s with %d %s", api.Endpoint, api.Status, api.Code)
	case errors.As(err, &api):
		text = "BLN gives no usable answer to " + api.Endpoint
	default:
		text = trouble(err)
	}
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return strings.TrimSpace(text)
}

// steps are the first two; p.entry tells whether anything may have been sent.
func (p *probe) steps(ctx, work context.Context) (semantics string, err error) {
	u, read, err := p.read(work)
	if err != nil {
		return "", err
	}
	if u.OtherInfoErr != nil {
		return "", &reasonError{
			"its otherInfo cannot be read without loss: it is no object, or has a key twice",
			"give a test user with a plain otherInfo",
		}
	}
	p.before = u.OtherInfo
	for _, k := range p.keys {
		switch v, there := textOf(u.OtherInfo, k); {
		case strings.HasPrefix(v, ours):
			p.before = p.before.Without(k)
		case there:
			return "", &reasonError{"somebody uses the key " + k, "give another test user"}
		}
	}
	first := func(o bln.OtherInfo) bln.OtherInfo { return o.With(p.keys[0], p.value(1)).With(p.keys[1], p.value(1)) }
	if err := first(u.OtherInfo).Validate(); err != nil {
		return "", &reasonError{err.Error(), "give a test user whose otherInfo BLN takes back as it gives it; an empty one is best"}
	}
	if ctx.Err() != nil {
		return "", errInterrupted
	}
	if err := p.journal(work, u.OtherInfo); err != nil {
		return "", err
	}
	now, err := p.write(work, &u, read, first, 1)
	if err != nil {
		return "", err
	}
	if v, _ := textOf(now.OtherInfo, p.keys[1]); v != p.text(1) {
		return "", &reasonError{"of two keys that were written one does not stand there", "tell BLN: it keeps only a part of what it accepts"}
	}
	if ctx.Err() != nil {
		return "", errInterrupted
	}
	now, err = p.write(work, nil, time.Time{}, func(o bln.OtherInfo) bln.OtherInfo { return o.Without(p.keys[1]).With(p.keys[0], p.value(2)) }, 2)
	if err != nil {
		return "", err
	}
	switch v, there := textOf(now.OtherInfo, p.keys[1]); {
	case !there:
		return replace, nil
	case v == p.text(1):
		p.merges = true
		return merge, nil
	}
	return "", &reasonError{
		"a key that was left out of a write has another value now",
		"see what else writes to this user, and give one that nothing writes to",
	}
}

// text is what the two keys hold after a step; it is of this probe alone, so that nothing that an earlier one has left passes for it.
func (p *probe) text(step int) string { return fmt.Sprintf("%s%s %d", ours, p.run, step) }

func (p *probe) value(step int) json.RawMessage {
	raw, _ := json.Marshal(p.text(step)) //nolint:errchkjson // a string
	return raw
}

// textOf is a key's text; there is false where the key is missing or null.
func textOf(o bln.OtherInfo, key string) (text string, there bool) {
	raw, ok := o.Get(key)
	if !ok || strings.TrimSpace(string(raw)) == "null" {
		return "", false
	}
	_ = json.Unmarshal(raw, &text) // what is no text is nobody's value of ours
	return text, true
}

func (p *probe) isOwn(key string) bool { return slices.Contains(p.keys[:], key) }

// damage lists the keys other than the probe's that are missing or changed since before. A key that somebody added is none.
func (p *probe) damage(now bln.User) []bln.Change {
	if now.OtherInfoErr != nil {
		return []bln.Change{{Key: "otherInfo", Kind: bln.Changed}}
	}
	var damage []bln.Change
	for _, c := range p.before.Changes(now.OtherInfo, p.isOwn) {
		if c.Kind != bln.Added {
			damage = append(damage, c)
		}
	}
	return damage
}

func (p *probe) read(ctx context.Context) (bln.User, time.Time, error) {
	u, err := p.client.User(ctx, p.user)
	at := time.Now()
	if failed, ok := errors.AsType[*httpapi.Error](err); ok && failed.Status == http.StatusNotFound {
		err = &reasonError{
			fmt.Sprintf("there is no user %d in the organization", p.user),
			"give the user.id of a member: it is not the id of the row in the list of users, but the one within its user",
		}
	}
	if err == nil && !u.HasOtherInfo {
		u.OtherInfo = bln.OtherInfo{} // a whole answer without it: there is none
	}
	return u, at, err
}

// write sends what make makes of the user as just read, and waits until the first key shows the step. was is that user; nil: it is read.
func (p *probe) write(ctx context.Context, was *bln.User, read time.Time, change func(bln.OtherInfo) bln.OtherInfo, step int) (now bln.User, err error) {
	for waits := 0; ; waits++ {
		if was == nil {
			u, at, err := p.read(ctx)
			if err != nil {
				return now, err
			}
			was, read = &u, at
		}
		if damage := p.damage(*was); len(damage) > 0 {
			return now, &damageError{damage, *was}
		}
		err = p.put(ctx, change(was.OtherInfo), read)
		if heldUp(err) && waits < rereads {
			was = nil
			continue // reading anew waits for what held it up
		}
		break
	}
	refused, _ := errors.AsType[*httpapi.Error](err)
	if err != nil && (refused == nil || !refused.Unknown) {
		if statusOf(err) == http.StatusForbidden {
			return now, &reasonError{
				"BLN does not let this account update the user (403)",
				"give the account the role admin in the organization, or another test user",
			}
		}
		return now, err
	}
	now, seen := p.await(ctx, func(u bln.User) bool { v, _ := textOf(u.OtherInfo, p.keys[0]); return v == p.text(step) })
	if seen != nil {
		return now, seen
	}
	if damage := p.damage(now); len(damage) > 0 {
		return now, &damageError{damage, now}
	}
	if v, _ := textOf(now.OtherInfo, p.keys[0]); v != p.text(step) {
		if err == nil {
			err = &reasonError{"BLN accepts the write, but does not show it", "run it again; if it stays, tell BLN"}
		}
		return now, err
	}
	return now, nil
}

// await reads the user until what was written is to be seen, or something is amiss, or it is not to be expected any more.
func (p *probe) await(ctx context.Context, seen func(bln.User) bool) (u bln.User, err error) {
	for _, wait := range arrivals {
		if err := pause(ctx, wait); err != nil {
			return u, err
		}
		if u, _, err = p.read(ctx); err != nil || seen(u) || len(p.damage(u)) > 0 {
			return u, err
		}
	}
	return u, nil
}

// put sends one write, while this process may believe that the user is its own.
func (p *probe) put(ctx context.Context, o bln.OtherInfo, read time.Time) error {
	if !p.alive() {
		return errLease
	}
	p.sent = true
	_, err := p.client.UpdateOtherInfo(ctx, p.user, o, read) // what it answers is not asked: only a fresh read tells what stands there
	return err
}

// heldUp tells of a write that it did not leave in time, or met a 429: it was certainly not carried out.
func heldUp(err error) bool {
	e, ok := errors.AsType[*httpapi.Error](err)
	return ok && !e.Unknown && (e.Status == http.StatusTooManyRequests || errors.Is(e.Err, httpapi.ErrLate))
}

// putBack brings the user to what was there before, until a fresh read shows it. left are the keys that could only be made null.
func (p *probe) putBack(ctx context.Context, left *[]string) error {
	var last error
	sent := false
	for try, waits := 0, 0; try < backTries && waits < rereads; {
		if err := pause(ctx, rest(try)); err != nil {
			return errors.Join(last, err)
		}
		u, read, err := p.read(ctx)
		if err != nil {
			last = err
			try++
			continue
		}
		if damage := p.damage(u); len(damage) > 0 {
			return &damageError{damage, u}
		}
		if there := p.standing(u.OtherInfo); len(there) == 0 {
			for _, k := range p.keys {
				_, had := p.before.Get(k)
				if _, has := u.OtherInfo.Get(k); has && !had {
					*left = append(*left, k)
				}
			}
			return nil
		} else if sent {
			p.merges = true // it was left out, and stands there: null is all that takes it away
		}
		if err = p.put(ctx, p.without(u.OtherInfo), read); heldUp(err) {
			waits++
			continue
		}
		sent = err == nil
		last = err
		try++
	}
	// The last write, too, is to be seen.
	u, _, err := p.read(ctx)
	switch {
	case err != nil:
		return errors.Join(last, err)
	case len(p.damage(u)) > 0:
		return &damageError{p.damage(u), u}
	case len(p.standing(u.OtherInfo)) > 0:
		return errors.Join(last, &reasonError{"BLN does not take the probe's keys away", ""})
	}
	return nil
}

// standing are the probe's keys that have a value.
func (p *probe) standing(o bln.OtherInfo) []string {
	var keys []string
	for _, k := range p.keys {
		if _, there := textOf(o, k); there {
			keys = append(keys, k)
		}
	}
	return keys
}

// without is what takes the probe's keys away: left out where that is enough, null where the server merges or they stood as null.
func (p *probe) without(o bln.OtherInfo) bln.OtherInfo {
	for _, k := range p.keys {
		if _, had := p.before.Get(k); had || p.merges {
			o = o.With(k, nil)
		} else {
			o = o.Without(k)
		}
	}
	return o
}

// damaged halts the bridge, puts back what was lost or changed, and says so.
func (p *probe) damaged(ctx context.Context, e *damageError) Finding {
	names := make([]string, len(e.keys))
	for i, c := range e.keys {
		names[i] = plain(c.Key)
		if strings.Contains(c.Key, "@") {
			names[i] = "…"
		}
	}
	reason := fmt.Sprintf("BLN lost or changed what is not ours while a probe wrote to user %d: %s.", p.user, strings.Join(names, ", "))
	// The halt first: neither another process's writes nor a crash must come before it. Where the database is away, the person comes first.
	halt := state.Halt(ctx, p.db, p.bridge, reason, p.run)
	as, became := state.Restored, fmt.Sprintf("User %d was put back and checked.", p.user)
	if !p.restore(ctx, e.now) {
		as, became = state.Damaged,
			fmt.Sprintf("User %d could NOT be put back; the whole otherInfo as it was is kept in journal entry %d.", p.user, p.entry)
	}
	if halt != nil {
		halt = state.Halt(ctx, p.db, p.bridge, reason, p.run)
	}
	closing := errors.Join(halt, p.close(ctx, ending{entry: as, note: became, run: state.Halted, damage: true}))
	f := p.finding(Problem, "look into it and tell BLN; then: namebridge resume --bridge "+p.bridge+" --reason \"…\"",
		"HALTED: %s %s No further write will be made", reason, became)
	if closing != nil {
		f.Text += "; the database could not be told all of it: " + trouble(closing)
	}
	f.Stopped = true
	return f
}

// restore writes the whole before-image, with what others have added since, until a fresh read shows it.
func (p *probe) restore(ctx context.Context, now bln.User) bool {
	read := time.Now()
	for try, waits := 0, 0; try < backTries && waits < rereads; {
		if pause(ctx, rest(try)) != nil {
			return false
		}
		body := p.before
		if now.OtherInfoErr == nil {
			for _, k := range now.OtherInfo.Keys() {
				if _, had := p.before.Get(k); !had && !p.isOwn(k) {
					v, _ := now.OtherInfo.Get(k)
					body = body.With(k, v)
				}
			}
		}
		for _, k := range p.keys {
			if try > 0 || p.merges {
				body = body.With(k, nil) // it did not go by being left out
			}
		}
		err := p.put(ctx, body, read)
		if errors.Is(err, errLease) {
			return false
		}
		if heldUp(err) {
			waits++
		} else {
			try++
		}
		u, at, err := p.read(ctx)
		if err != nil {
			continue
		}
		if now, read = u, at; len(p.damage(u)) == 0 && len(p.standing(u.OtherInfo)) == 0 {
			return true
		}
	}
	return false
}

// rest is how long to wait before a try; the first one waits for nothing.
func rest(try int) time.Duration {
	if try == 0 {
		return 0
	}
	return 100 * time.Millisecond << try
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
