package sync

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/bln"
	"namebridge/internal/httpapi"
	"namebridge/state"
)

const (
	// maxDetail is where a reason is cut, in bytes.
	maxDetail = 1000
	// maxProperties is how many otherInfo may have (BLN 7463).
	maxProperties = 100
	// tries is how often a user is tried within one look, after an outcome that was unknown.
	tries = 3
	// rereads is how often a user is read anew whose write could not leave while it was fresh, or met a 429.
	rereads = 12
	// hopeless is how many failures in a row, without one success, end a run: the server is away.
	hopeless = 25
	// finish bounds what is done for a user once its write may have been sent, whatever else ends meanwhile.
	finish = 2 * time.Minute
	// leftOutTries is how often a user fails, over more than a minute, whose otherInfo BLN leaves out, before it is held.
	leftOutTries = 3
	// forbidden is how many users must answer 403 before it is taken to be about all of them.
	forbidden = 3
)

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// one does what is to be done for one user. The error is one that ends the run; what concerns only this user goes to rest.
func (w *writer) one(ctx context.Context, c state.Claimed, rest *remains, do func() error) error {
	err := do()
	var (
		signIn *bln.SignInError
		denied *PermissionError
	)
	switch {
	case err == nil:
		w.failures.Store(0)
		return nil
	case !w.alive():
		return errLease
	case errors.As(err, new(*httpapi.PausedError)), errors.Is(err, ErrHalted), errors.As(err, &signIn), errors.As(err, &denied), errors.Is(err, errDatabase), ctx.Err() != nil:
		return err
	}
	rest.mu.Lock()
	rest.failed = append(rest.failed, state.Failure{UserID: c.UserID, Fence: c.Fence, Problem: Storable(err.Error(), maxDetail), RetryAfter: retryAfter(c.Attempts)})
	rest.mu.Unlock()
	w.Log.Warn("a user could not be written and will be tried again", "bridge", w.Name, "user", c.UserID, "attempt", c.Attempts+1, "problem", err)
	if w.failures.Add(1) >= hopeless {
		return fmt.Errorf("%d users in a row could not be written, the last one: %w", hopeless, err)
	}
	return nil
}

// errDatabase marks a failure of our own database: without a journal nothing may be written.
var errDatabase = errors.New("the database")

// retryAfter grows from a moment to an hour.
func retryAfter(attempts int) time.Duration {
	switch attempts {
	case 0:
		return 2 * time.Second
	case 1:
		return 10 * time.Second
	case 2:
		return time.Minute
	}
	return time.Hour
}

// tryUser brings one user up to what is wanted. Of the writes in open nothing is to be seen yet, but they may still arrive: as
// long as they may, what the user shows is compared with what it was before the first of them. They stay open until the user
// is seen to be right, and nothing of it lost.
func (w *writer) tryUser(ctx context.Context, c state.Claimed, rest *remains, open []openWrite) error {
	for try, waits := 1, 0; ; {
		user, err := w.readWhole(ctx, c)
		read := time.Now()
		if isGone(err) {
			return errors.Join(w.closeAll(open, superseded), w.markGone(ctx, c.UserID))
		}
		if err != nil {
			return err
		}
		if len(open) > 0 {
			if w.silent(open[0].before, user) {
				return errSilent
			}
			if done, err := w.settleSeen(open, user, ""); done || err != nil {
				return err
			}
		}
		if d := w.directoryUser(user); d.Email != "" && d.Email != c.Email || d.ExternalID != "" && d.ExternalID != c.ExternalID {
			d.Email, d.ExternalID = cmp.Or(d.Email, c.Email), cmp.Or(d.ExternalID, c.ExternalID) // what is not shown is not gone
			return w.rekey(ctx, d)
		}
		m, problem := w.merge(user, c)
		switch {
		case problem == leftOut && c.Attempts < leftOutTries:
			return errors.New(problem)
		case problem != "":
			rest.hold(c, Unwritable, problem)
			return nil
		case m.there:
			return errors.Join(w.closeAll(open, superseded), database(w.settleThere(c)))
		case m.notOurs:
			rest.mu.Lock()
			rest.withdraw = append(rest.withdraw, c)
			rest.mu.Unlock()
			return nil
		case m.removes && !c.Released: // decided without knowing what stands there
			rest.mu.Lock()
			rest.removals = append(rest.removals, c)
			rest.mu.Unlock()
			return nil
		}
		again, err := w.send(ctx, c, m, read, rest, &open)
		switch {
		case !again:
			return err
		case heldUp(err):
			if waits++; waits == rereads {
				return err
			}
			continue // reading anew waits for what held it up
		case try == tries:
			return err
		}
		if err := pause(ctx, time.Duration(try)*time.Second/2); err != nil {
			return err
		}
		try++
	}
}

// leftOut is why a user is not written who has some otherInfo, of which BLN shows nothing.
const leftOut = "BLN's answer about the user leaves otherInfo out, though the list of users shows some: what is there is not known"

// errSilent is what a reading comes to that says nothing of what a write has left.
var errSilent = errors.New("BLN's answer about the user leaves otherInfo out, though there was some: what a write has left is not known")

// silent tells of an answer that it says nothing of the foreign keys that were there: it leaves otherInfo out. That is neither their
// loss nor their being there.
func (r *run) silent(before bln.OtherInfo, now bln.User) bool {
	return !now.HasOtherInfo && len(before.Changes(bln.OtherInfo{}, r.Settings.Layout.Owns)) > 0
}

// readWhole reads a user to be written. Who has no otherInfo may be shown without, and so may somebody of whom an answer leaves
// it out by mistake: written from that, all that is not ours would be lost. So an answer without, or with an empty one, where the list shows
// some is asked for once more. Two that say it is null or empty are believed, since people may have emptied it after the list was read; one that
// leaves it out is not (see merge).
func (r *run) readWhole(ctx context.Context, c state.Claimed) (bln.User, error) {
	u, err := r.BLN.User(ctx, c.UserID)
	if err == nil && u.OtherInfoErr == nil && len(u.OtherInfo.Keys()) == 0 && !r.listedEmpty(c) {
		return r.BLN.User(ctx, c.UserID)
	}
	return u, err
}

// listedEmpty says whether the list of users has shown no otherInfo of a user.
func (r *run) listedEmpty(c state.Claimed) bool {
	return bytes.Equal(c.ListedContent, r.directoryUser(bln.User{}).ListedContent)
}

// heldUp tells of a write that it did not leave in time, or met a 429: it was certainly not carried out, and by now others
// may have changed what it was made from.
func heldUp(err error) bool {
	var e *httpapi.Error
	return errors.As(err, &e) && !e.Unknown && (e.Status == http.StatusTooManyRequests || errors.Is(e.Err, httpapi.ErrLate))
}

// isGone tells that BLN itself says that there is no such user (BLN 588-620): a 404 of something in front of it says nothing.
func isGone(err error) bool {
	var e *httpapi.Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound && e.Code == "notFound"
}

// markGone notes that BLN no longer knows a user, merged or removed (BLN 645): its people are linked anew.
func (w *writer) markGone(ctx context.Context, user int64) error {
	w.gone.Add(1)
	return database(w.run.markGone(ctx, user))
}

func (r *run) markGone(ctx context.Context, user int64) error {
	return r.mark(ctx, func(tx pgx.Tx) error { return state.MarkGone(ctx, tx, r.Name, user) })
}

// mark stores what reading a user has shown of whose it is. One at a time of this process waits for whoever stores participants: each who
// waits holds a connection.
func (r *run) mark(ctx context.Context, do func(pgx.Tx) error) error {
	r.marking.Lock()
	defer r.marking.Unlock()
	return state.InTx(ctx, r.DB, do)
}

// rekey notes that a user bears other keys than those its people were linked by, in the very answer that a write would be made
// from: whose voice belongs there is decided anew.
func (w *writer) rekey(ctx context.Context, u state.DirectoryUser) error {
	w.gone.Add(1)
	return database(w.mark(ctx, func(tx pgx.Tx) error { return state.Rekey(ctx, tx, w.Name, u) }))
}

// merged is a user's otherInfo before a write, and what the write is.
type merged struct {
	before  bln.OtherInfo
	send    bln.OtherInfo // the whole, or just our members where the server merges
	members []Member
	there   bool // what is wanted stands there already
	notOurs bool // to be cleared, but somebody else has changed it
	removes bool // a recording that stands there would be gone
}

// merge makes the write for one user as just read. A problem is why it cannot be written, for people to read.
func (r *run) merge(user bln.User, c state.Claimed) (m merged, problem string) {
	if user.OtherInfoErr != nil {
		return m, "its otherInfo cannot be read without loss: " + user.OtherInfoErr.Error()
	}
	if !user.HasOtherInfo && !r.listedEmpty(c) {
		return m, leftOut
	}
	layout := r.Settings.Layout
	m.before = user.OtherInfo
	seen := layout.Seen(m.before.Get)
	if bytes.Equal(seen, c.WantedDigest) {
		m.there = true
		return m, ""
	}
	var fragment Fragment
	if Action(c.Action) == Write {
		if err := json.Unmarshal(c.Wanted, &fragment); err != nil {
			return m, "what is wanted cannot be read: " + err.Error()
		}
		m.removes = fragment[recordingKey] == nil && layout.HasRecording(m.before.Get)
	} else if !bytes.Equal(seen, c.AppliedDigest) {
		m.notOurs = true
		return m, ""
	}
	m.members = layout.Members(fragment, r.ours(m.before))
	whole := m.before
	var alone bln.OtherInfo
	for _, x := range m.members {
		whole, alone = whole.With(x.Key, x.Value), alone.With(x.Key, x.Value)
	}
	m.send = whole
	if r.Settings.MergingServer {
		m.send = alone
		if n := len(whole.Keys()); n > maxProperties {
			return m, fmt.Sprintf("it would have %d properties, over BLN's %d", n, maxProperties)
		}
	}
	if err := m.send.Validate(); err != nil {
		return m, err.Error()
	}
	return m, ""
}

// ours is what stands under our keys.
func (r *run) ours(o bln.OtherInfo) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for _, k := range r.Settings.Layout.Keys() {
		if v, ok := o.Get(k); ok {
			out[k] = v
		}
	}
	return out
}

// openWrite is a write of one user whose outcome is not known.
type openWrite struct {
	state.OpenEntry
	before bln.OtherInfo
	digest []byte     // of what it leaves under our keys
	window *time.Time // that brought the change, see state.Claimed
}

// send journals, sends and verifies one write. again: it certainly did not arrive, or its outcome is unknown and nothing
// of it is to be seen: then it is one more of the open ones. The user may be read and tried anew. read is when the user came
// that m was made from.
func (w *writer) send(ctx context.Context, c state.Claimed, m merged, read time.Time, rest *remains, open *[]openWrite) (again bool, err error) {
	after := map[string]json.RawMessage{}
	for _, x := range m.members {
		after[x.Key] = x.Value
	}
	intent := &state.Intent{
		Run: c.Run, UserID: c.UserID, Fence: c.Fence, Action: c.Action, Version: c.Version, Source: c.WantedSource, Before: m.before.JSON(),
		BeforeFragment: encodeMembers(w.ours(m.before)), AfterFragment: encodeMembers(after),
	}
	if err := w.journal.Do(intent); err != nil {
		return false, database(err)
	}
	if intent.Entry == 0 {
		stored, err := state.GetBridge(ctx, w.DB, w.Name)
		if err != nil {
			return false, database(err)
		}
		if err := haltOf(stored); err != nil {
			return false, err
		}
		// Another process has taken this user over, or something else is wanted by now.
		return false, database(state.Unclaim(ctx, w.DB, w.Name, c.UserID, c.Fence))
	}
	// From here on the work is finished whatever ends around it: a write that was sent must be seen to. Only the lease
	// ends it: then the entry stays open, for whoever has taken over.
	work, cancel := context.WithTimeout(w.over, finish)
	defer cancel()
	switch {
	case !w.alive():
		return false, errLease
	case w.stopped.Load(), ctx.Err() != nil:
		return false, errors.Join(ctx.Err(), w.closeUnsent(work, intent.Entry, intent.Action, "not sent: the run was stopping"))
	}
	sent := openWrite{
		OpenEntry: state.OpenEntry{
			Entry: intent.Entry, Run: c.Run, UserID: c.UserID, Action: c.Action, Fence: c.Fence, Version: c.Version, Source: c.WantedSource,
		},
		before: m.before, digest: c.WantedDigest, window: c.Window,
	}
	answer, putErr := w.BLN.UpdateOtherInfo(work, c.UserID, m.send, read)
	// A crash here leaves the entry open: the next process reads the user and compares it with the before-image.
	var refused *httpapi.Error
	switch {
	case !w.alive():
		return false, errLease
	case heldUp(putErr):
		if err := w.closeUnsent(work, intent.Entry, intent.Action, "held up: the user is read anew"); err != nil {
			return false, errors.Join(putErr, err)
		}
		return true, putErr
	case errors.As(putErr, &refused) && !refused.Unknown:
		return false, w.refused(work, c, intent, refused, putErr, rest)
	case putErr == nil && w.confirms(answer, c, m):
		return false, errors.Join(w.closeAll(*open, superseded), w.verify(sent, ""))
	}
	now, err := w.readBack(work, c.UserID, func(u bln.User) bool { return w.shows(u, c.WantedDigest) || len(w.damage(m.before, u)) > 0 })
	if err != nil {
		// Unsettled: the entry stays open and is looked into before this user is written again.
		return false, fmt.Errorf("read back after a write: %w", err)
	}
	if w.silent(m.before, now) {
		return false, errSilent
	}
	landed := w.shows(now, c.WantedDigest)
	damage := w.damage(m.before, now)
	switch {
	case hasMissing(damage), len(damage) > 0 && (landed || putErr == nil):
		return false, w.restore(sent.OpenEntry, m.before, now, damage, false)
	case landed:
		return false, errors.Join(w.closeAll(*open, superseded), w.verify(sent, ""))
	case putErr == nil:
		putErr = errors.New("BLN accepted the write but does not show it")
	}
	*open = append(*open, sent)
	return true, putErr
}

// settleSeen settles open writes of one user, oldest first, by what it shows now, where it shows one of them or damage: the oldest
// before-image is from before any of them.
func (w *writer) settleSeen(open []openWrite, now bln.User, note string) (done bool, err error) {
	first, landed := open[0], -1
	for i, o := range open {
		if w.shows(now, o.digest) {
			landed = i
		}
	}
	damage := w.damage(first.before, now)
	switch {
	case hasMissing(damage), len(damage) > 0 && (landed >= 0 || now.OtherInfoErr != nil):
		return true, w.restore(first.OpenEntry, first.before, now, damage, first.Age > restoreWithin)
	case landed < 0:
		return false, nil
	}
	w.landed.Add(1)
	others := slices.Delete(slices.Clone(open), landed, landed+1)
	if err := w.closeAll(others, cmp.Or(note, superseded)); err != nil {
		return true, err
	}
	return true, w.verify(open[landed], note)
}

// superseded is what the journal says of an open write when the user was seen to be right without it.
const superseded = "nothing of it was to be seen"

// closeAll closes the entries of writes that are not expected to arrive any more.
func (w *writer) closeAll(open []openWrite, note string) error {
	ctx, cancel := context.WithTimeout(w.over, finish)
	defer cancel()
	for _, o := range open {
		// Its own process may have been stopped only for a while, and have settled it meanwhile.
		if err := w.closeUnsent(ctx, o.Entry, o.Action, note); err != nil && !errors.Is(err, state.ErrStale) {
			return err
		}
	}
	return nil
}

// arrivals are the pauses in which a write that is not to be seen yet may still arrive: gateways give up before the
// servers behind them, and reading may lag behind writing.
var arrivals = []time.Duration{500 * time.Millisecond, time.Second}

// readBack reads a user whose write may be on its way, until seen says so or it is not to be expected any more.
func (w *writer) readBack(ctx context.Context, user int64, seen func(bln.User) bool) (bln.User, error) {
	for _, wait := range arrivals {
		u, err := w.BLN.User(ctx, user)
		if err != nil || seen(u) {
			return u, err
		}
		if err := pause(ctx, wait); err != nil {
			return u, err
		}
	}
	return w.BLN.User(ctx, user)
}

func encodeMembers(m map[string]json.RawMessage) []byte {
	if len(m) == 0 {
		return nil
	}
	var o bln.OtherInfo
	for k, v := range m {
		o = o.With(k, v)
	}
	return o.JSON()
}

// database marks an error as one of our database.
func database(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errDatabase, err)
}

// closeUnsent closes the entry of a write that never arrived.
func (w *writer) closeUnsent(ctx context.Context, entry int64, action, note string) error {
	if err := state.CloseEntry(ctx, w.DB, w.Name, entry, state.Unsent, note); err != nil {
		return database(err)
	}
	w.Metrics.Written(w.Name, action, state.Unsent)
	return nil
}

// settleThere notes that what is wanted of a user stands there already.
func (w *writer) settleThere(c state.Claimed) error {
	return w.settle.Do(state.Outcome{UserID: c.UserID, Fence: c.Fence, Applied: true, Version: c.Version, Digest: c.WantedDigest, Source: c.WantedSource})
}

// verify settles a write that was seen to be as it should.
func (w *writer) verify(o openWrite, note string) error {
	w.verified.Add(1)
	if o.window != nil {
		w.Metrics.Propagated(w.Name, w.serverNow().Sub(*o.window))
	}
	err := w.settle.Do(state.Outcome{
		UserID: o.UserID, Fence: o.Fence, Entry: o.Entry, State: state.Verified, Note: note, Applied: true,
		Version: o.Version, Digest: o.digest, Source: o.Source,
	})
	if err != nil {
		return database(err)
	}
	w.Metrics.Written(w.Name, o.Action, state.Verified)
	return nil
}

// confirms says whether the answer to a write shows all that must be seen. One that leaves our keys out shows nothing of
// a clear.
func (w *writer) confirms(answer bln.User, c state.Claimed, m merged) bool {
	for _, x := range m.members {
		if _, ok := answer.OtherInfo.Get(x.Key); !ok && Action(c.Action) == Clear {
			return false
		}
	}
	return w.shows(answer, c.WantedDigest) && len(w.damage(m.before, answer)) == 0
}

// refused is what a write comes to that BLN has certainly not carried out.
func (w *writer) refused(ctx context.Context, c state.Claimed, in *state.Intent, e *httpapi.Error, putErr error, rest *remains) error {
	if err := w.closeUnsent(ctx, in.Entry, in.Action, fmt.Sprintf("refused with %d %s", e.Status, e.Code)); err != nil {
		return err
	}
	switch {
	case isGone(e):
		return w.markGone(ctx, c.UserID)
	case slices.Contains([]int{400, 409, 413, 422}, e.Status):
		rest.hold(c, Unwritable, fmt.Sprintf("BLN refused it with %d %s", e.Status, e.Code))
		return nil
	case e.Status == http.StatusForbidden:
		// One user who is protected must not pass for all, however often that one is tried.
		if c.Attempts == 0 && w.denied.Add(1) >= forbidden && w.verified.Load() == 0 {
			return &PermissionError{Needs: "update the users of the organization"}
		}
	}
	return putErr
}

// shows says whether an answer shows what has that digest under our keys. One without otherInfo shows nothing, not even a clear.
func (r *run) shows(u bln.User, digest []byte) bool {
	return u.HasOtherInfo && u.OtherInfoErr == nil && bytes.Equal(r.Settings.Layout.Seen(u.OtherInfo.Get), digest)
}

// damage lists the foreign keys that are missing or changed. A key that somebody added meanwhile is none, and nothing is known by an answer
// that is silent.
func (r *run) damage(before bln.OtherInfo, now bln.User) []bln.Change {
	if r.silent(before, now) {
		return nil
	}
	if now.OtherInfoErr != nil {
		return []bln.Change{{Key: "otherInfo", Kind: bln.Changed}}
	}
	var out []bln.Change
	for _, ch := range before.Changes(now.OtherInfo, r.Settings.Layout.Owns) {
		if ch.Kind == bln.Added {
			if _, had := before.Get(ch.Key); !had {
				continue
			}
			ch.Kind = bln.Changed // it held null
		}
		out = append(out, ch)
	}
	return out
}

func hasMissing(cs []bln.Change) bool {
	for _, c := range cs {
		if c.Kind == bln.Missing {
			return true
		}
	}
	return false
}
