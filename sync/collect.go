package sync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"namebridge/internal/httpapi"
	"namebridge/namecoach"
	"namebridge/state"
)

const (
	perPage = 2000 // seen to be answered; no maximum is published
	// stageRows is how many rows are held in memory before they are staged.
	stageRows = 1000
	// maxAnswerRows is how many rows of one answer are read before a narrower window is asked for instead. Only a single
	// second is read to its end, however long that is: what tells its rows apart has to be kept in memory.
	maxAnswerRows = 100_000
	// maxStored is where a stored link or text is cut, in bytes: a link that long is refused anyway.
	maxStored = 2048
)

// IncompleteError says that the rows of a span could not be shown to be complete by any means. The cursor stays before it.
type IncompleteError struct {
	Span   Span
	Reason string
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("NameCoach's rows of %s to %s could not be read whole (%s); the cursor stays before them and nothing after them is missed",
		e.Span.From.Format(time.RFC3339), e.Span.To.Format(time.RFC3339), e.Reason)
}

// collectNext is one unit of work: it reads the next window of the run's walk, which begins at the cursor less the lookback,
// or for a backfill where that is told to. At the walk's end it counts what windows have missed.
func (r *run) collectNext(ctx context.Context) (verdict, error) {
	stored, err := state.GetBridge(ctx, r.DB, r.Name)
	if err != nil {
		return more, err
	}
	cursor, err := state.GetCursor(ctx, r.DB, r.Name, r.id().String())
	first := errors.Is(err, state.ErrNotFound)
	if first {
		cursor, err = r.startWalk(ctx, stored.Lookback(r.Settings.Lookback))
	}
	if err != nil {
		return more, err
	}
	done, err := r.collectWindow(ctx, &cursor, first)
	if err != nil || !done {
		return more, err
	}
	return r.collected(ctx, cursor, stored)
}

// startWalk begins the run's walk, up to now: the walk is stored with each window, so that an interrupted run goes on where it
// was. A collect reads the unsettled edge too, without moving the cursor over it: a change need not wait for the next one.
func (r *run) startWalk(ctx context.Context, lookback time.Duration) (state.Cursor, error) {
	now := r.serverNow()
	since, until := Beginning, now.Add(-r.Settings.Settle)
	switch {
	case r.row.Kind == state.Collect:
		known, err := state.GetCursor(ctx, r.DB, r.Name, state.ParticipantStream)
		until = now.Add(clockGrain)
		if err == nil {
			since = known.Until
			if settled := now.Add(-r.Settings.Settle); since.After(settled) {
				// NameCoach's clock ran ahead and was set right: what changed since the cursor moved is before it.
				age, err := state.CursorAge(ctx, r.DB, r.Name, state.ParticipantStream)
				if err != nil {
					return known, err
				}
				since = settled.Add(-age)
			}
			since = since.Add(-lookback)
			// By a clock that is far behind there would be nothing to ask for, and so nothing to set it by.
			until = laterOf(until, known.Until.Add(r.Settings.Settle+clockGrain))
		} else if !errors.Is(err, state.ErrNotFound) {
			return known, err
		}
	case r.row.Since != nil:
		since = *r.row.Since
	}
	walk := NewWalk(since, until)
	walk.Settled = now.Add(-lookback)
	raw, err := json.Marshal(walk)
	return state.Cursor{Stream: r.id().String(), Since: walk.Next, Until: walk.Next, Walk: raw}, err
}

// clockGrain is by how much a server's time may be ahead of what its Date has told: that has whole seconds.
const clockGrain = 2 * time.Second

// everything says whether a walk should bring all rows there are.
func everything(walk state.Cursor) bool { return !walk.Since.After(Beginning) }

// collected draws the conclusions from a walk that has come to its end. stored is the bridge as it was before the last window.
func (r *run) collected(ctx context.Context, walk state.Cursor, stored state.Bridge) (v verdict, err error) {
	if r.row.Kind != state.Collect {
		return next, nil
	}
	// Until both are complete, this is the moment in which somebody else may have come to an end.
	incomplete := !mayLink(stored)
	if incomplete {
		if stored, err = state.GetBridge(ctx, r.DB, r.Name); err != nil {
			return more, err
		}
	}
	known, err := state.GetCursor(ctx, r.DB, r.Name, state.ParticipantStream)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return more, err
	}
	// Whom the first collect of all has brought is linked by a sweep: where a listing is older than they are, each of their keys
	// would have to be asked about in BLN, which may take hours. Whoever waits for a command is not to wait for a sweep.
	bySweep := stored.CollectedAt == nil && r.row.Hosted == nil
	lookback := stored.Lookback(r.Settings.Lookback)
	err = state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if stored.CollectedAt == nil { // the bridge, its users, and then what is due, as everywhere
			if err := state.NoteCollected(ctx, tx, r.Name); err != nil {
				return err
			}
		}
		late, err := state.CountLate(ctx, tx, r.Name, known.Until.Add(-lookback), lookback, everything(known))
		if err != nil {
			return err
		}
		if late > 0 {
			r.Log.Warn("windows have missed rows that a search has brought; the lookback is widened", "bridge", r.Name, "rows", late)
		}
		if everything(walk) {
			if err := state.NoteAsked(ctx, tx, r.Name, nil); err != nil {
				return err
			}
		}
		if stored.CollectedAt != nil {
			return nil
		}
		return state.HastenSchedule(ctx, tx, r.Name, state.Sweep, 0)
	})
	if err != nil {
		return more, err
	}
	due, err := state.AnythingDue(ctx, r.DB, r.Name)
	if err != nil {
		return more, err
	}
	// Looked at when it is stored that everything was collected, see listNext.
	if incomplete {
		if stored, err = state.GetBridge(ctx, r.DB, r.Name); err != nil {
			return more, err
		}
	}
	// Before the first complete listing nobody is linked, either.
	if bySweep || stored.DirectorySweep == 0 || !due {
		return over, nil
	}
	return next, nil
}

// collectWindow is one unit of work: it reads the next window, perhaps the first, of cursor's walk. Whole, it is stored, and the
// cursor moves, in one transaction; else the walk is narrowed.
func (r *run) collectWindow(ctx context.Context, cursor *state.Cursor, first bool) (done bool, err error) {
	var walk Walk
	if err := json.Unmarshal(cursor.Walk, &walk); err != nil {
		return false, fmt.Errorf("walk of run %s: %w", r.id(), err)
	}
	span, ok := walk.Window()
	if !ok {
		if first {
			_, err = state.StartCursor(ctx, r.DB, r.Name, *cursor)
		}
		return true, err
	}
	read, err := r.readWindow(ctx, walk, span)
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil && read.staged.Rows > 0 {
			r.dropStaged(ctx, read.staged)
		}
	}()
	// Whoever asked by a clock that runs ahead of NameCoach's has not seen what is still to come in this window.
	asked := read.date
	if asked.IsZero() {
		asked = r.serverNow()
	}
	settled := asked.Add(-r.Settings.Settle).Truncate(time.Second)
	next, until := walk, cursor.Until
	switch {
	case read.whole:
		next = walk.Complete(read.rows)
	default:
		next, err = walk.Narrow(read.total)
		if errors.Is(err, ErrSingleSecond) {
			if err := r.readBySearch(ctx, span, &read); err != nil {
				return false, err
			}
			read.whole, next, err = true, walk.Complete(read.total), nil
		}
		if err != nil {
			return false, err
		}
	}
	if read.whole {
		if settled.Before(next.Next) {
			next.Next = laterOf(settled, cursor.Until)
			next.Until = next.Next
		}
		until = next.Next
	}
	raw, err := json.Marshal(next)
	if err != nil {
		return false, err
	}
	_, left := next.Window()
	// A collect that finds nothing leaves no walk behind: most do.
	r.idle = first && !left && read.whole && read.staged.Rows == 0 && r.row.Kind == state.Collect
	// A crash before this commits costs one window read again, and so does one of Postgres that empties the staged rows;
	// after it, nothing.
	err = r.commit(ctx, func(tx pgx.Tx) (to reached, err error) {
		if first && !r.idle {
			if _, err := state.StartCursor(ctx, tx, r.Name, *cursor); err != nil {
				return to, err
			}
		}
		if !read.whole {
			if err := state.DropStaged(ctx, tx, r.Name, read.staged); err != nil {
				return to, err
			}
			return to, state.MoveCursor(ctx, tx, r.Name, *cursor, until, raw)
		}
		if read.staged.Rows > 0 {
			if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
				return to, err
			}
			if _, err := state.StoreStaged(ctx, tx, r.Name, read.staged, state.Bringing{By: r.id(), All: everything(*cursor)}); err != nil {
				return to, err
			}
		}
		if until.After(cursor.Since) {
			if err := state.Collected(ctx, tx, r.Name, cursor.Since, until, settled); err != nil {
				return to, err
			}
		}
		if r.idle {
			return to, nil
		}
		to.progress = &progress{Done: r.done().Done + read.rows}
		return to, state.MoveCursor(ctx, tx, r.Name, *cursor, until, raw)
	})
	if errors.Is(err, state.ErrStagedLost) {
		return false, r.rereads(err)
	}
	if err != nil {
		return false, err
	}
	cursor.Until, cursor.Walk = until, raw
	return !left, nil
}

// serverNow is NameCoach's time as far as it is known.
func (r *run) serverNow() time.Time {
	offset, _ := r.NameCoach.Clock()
	return time.Now().Add(offset).UTC()
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// read is what came of reading a window.
type read struct {
	staged state.Reading
	whole  bool
	rows   int // distinct
	total  int // as the server says; 0 where it does not
	reason string
	date   time.Time // the server's clock when its first page was answered
	ids    []RowID   // of a single second that was not whole
	// tooLarge: the answer could not be read to its end, so that nobody knows how many rows there are.
	tooLarge bool
}

// readWindow reads the pages of one window and stages its rows. An answer that breaks off is read again from page 1.
func (r *run) readWindow(ctx context.Context, walk Walk, span Span) (read, error) {
	attempt := 0
	return backoff.Retry(ctx, func() (read, error) {
		for {
			got, verdict, err := r.readPages(ctx, NewReading(walk, perPage, attempt), r.NameCoach.List, within(span))
			if errors.Is(err, httpapi.ErrTooLarge) {
				got.reason, got.tooLarge = err.Error(), true
				return got, nil // not whole: a narrower window has a smaller answer
			}
			if err != nil && !errors.As(err, new(brokenOff)) {
				err = backoff.Permanent(err)
			}
			if err != nil || verdict != ReadAgain {
				return got, err
			}
			attempt++
			if err := state.DropStaged(ctx, r.DB, r.Name, got.staged); err != nil {
				return got, backoff.Permanent(err)
			}
		}
	}, backoff.WithBackOff(backoff.NewExponentialBackOff()), backoff.WithMaxTries(6))
}

// dropStaged forgets rows that count for nothing. What it cannot forget now, housekeeping does.
func (r *run) dropStaged(ctx context.Context, reading state.Reading) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), heartbeatEvery)
	defer cancel()
	if err := state.DropStaged(ctx, r.DB, r.Name, reading); err != nil {
		r.Log.Debug("staged rows are left", "bridge", r.Name, "problem", err)
	}
}

// brokenOff is an answer that ended in its middle. What was refused, or never answered, the client has repeated already.
type brokenOff struct{ error }

func (e brokenOff) Unwrap() error { return e.error }

type ask func(context.Context, namecoach.Filter) (*namecoach.Answer, error)

// within asks for the rows of a span.
func within(span Span) namecoach.Filter {
	after, before := span.Ask()
	return namecoach.Filter{UpdatedAfter: after, UpdatedBefore: before}
}

// readPages reads the pages of one question, until reading has a verdict. Rows are staged unless it fails.
func (r *run) readPages(ctx context.Context, reading *Reading, ask ask, filter namecoach.Filter) (got read, verdict Verdict, err error) {
	got.staged = state.Reading{ID: uuid.New(), Owner: r.owner}
	defer func() {
		if err != nil && got.staged.Rows > 0 {
			r.dropStaged(ctx, got.staged)
			got.staged = state.Reading{ID: uuid.New(), Owner: r.owner}
		}
	}()
	filter.PerPage = perPage
	if len(r.Settings.Layout.Fields) > 0 {
		filter.Include = "custom_attributes"
	}
	var rows []state.Participant
	flush := func() error {
		if len(rows) == 0 {
			return nil
		}
		err := state.StageParticipants(ctx, r.DB, r.Name, &got.staged, rows)
		rows = rows[:0]
		return err
	}
	for verdict == NextPage {
		r.forward()
		filter.Page++
		answer, err := ask(ctx, filter)
		if err != nil {
			return got, verdict, err
		}
		if got.date.IsZero() {
			got.date = answer.Date
		}
		for p, err := range answer.Participants() {
			if err != nil {
				return got, verdict, brokenOff{err}
			}
			reading.Row(rowID(p))
			if reading.Distinct() > maxAnswerRows && !reading.single {
				got.total, got.reason = reading.Distinct(), "an answer of more rows than are read at once"
				return got, Split, nil
			}
			rows = append(rows, r.participant(p))
			if len(rows) == stageRows {
				if err := flush(); err != nil {
					return got, verdict, err
				}
			}
		}
		if err := flush(); err != nil {
			return got, verdict, err
		}
		meta := answer.Meta()
		verdict, got.reason = reading.EndPage(PageMeta{Known: meta.Known, Total: meta.TotalCount})
	}
	got.whole, got.rows, got.total = verdict == Whole, reading.Distinct(), reading.Total()
	if !got.whole && reading.single {
		got.ids = slices.Collect(maps.Keys(reading.rows))
	}
	return got, verdict, nil
}

// searchKeys is how many addresses or ids one search asks for.
const searchKeys = 500

// readBySearch completes a single second that has more rows than the list shows, by asking for every key of the
// directory within it. It has failed when fewer distinct rows come together than the list says there are.
func (r *run) readBySearch(ctx context.Context, span Span, into *read) error {
	if into.tooLarge {
		return &IncompleteError{Span: span, Reason: "list: " + into.reason}
	}
	stored, err := state.GetBridge(ctx, r.DB, r.Name)
	if err != nil {
		return err
	}
	for v := more; stored.DirectorySweep == 0 && v == more; {
		if v, err = r.listNext(ctx); err != nil {
			return err
		}
	}
	known := map[RowID]bool{}
	for _, id := range into.ids {
		known[id] = true
	}
	for _, key := range []state.DirectoryKey{state.KeyEmail, state.KeyExternalID} {
		after := ""
		for {
			keys, err := state.DirectoryKeys(ctx, r.DB, r.Name, key, after, searchKeys)
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				break
			}
			after = keys[len(keys)-1]
			join := func(got read, reading *Reading, _ []string) error {
				for id := range reading.rows {
					known[id] = true
				}
				return state.JoinStaged(ctx, r.DB, r.Name, got.staged, &into.staged)
			}
			var paused *httpapi.PausedError
			// Giving the place up here would mean to begin with the first key again.
			for err = r.search(ctx, within(span), key, keys, join); errors.As(err, &paused); err = r.search(ctx, within(span), key, keys, join) {
				r.forward()
				if err := pause(ctx, time.Until(paused.Until)); err != nil {
					return err
				}
			}
			if errors.Is(err, errNotWhole) {
				return &IncompleteError{Span: span, Reason: "list: " + into.reason + "; search: " + err.Error()}
			}
			if err != nil {
				return err
			}
		}
	}
	if len(known) < into.total {
		return &IncompleteError{Span: span, Reason: fmt.Sprintf("list: %s; search for every key of the directory: %d of %d rows", into.reason, len(known), into.total)}
	}
	r.Log.Warn("a second with more rows than NameCoach lists was read through search",
		"bridge", r.Name, "second", span.From.Format(time.RFC3339), "listed", into.rows, "total", into.total)
	return nil
}

var errNotWhole = errors.New("the answer about one key is not whole")

// search asks for keys in one question, in halves where its answer is not whole or a key is refused, and hands what each
// whole answer brought, and the keys that it is about, to each. A key that is refused alone, or cannot be asked for, is left out.
func (r *run) search(ctx context.Context, filter namecoach.Filter, key state.DirectoryKey, keys []string, each func(read, *Reading, []string) error) error {
	// An address with a comma cannot be asked for (NC 198).
	keys = slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == "" || strings.Contains(k, ",") })
	if len(keys) == 0 {
		return nil
	}
	filter.Emails, filter.InstitutionIDs = keys, nil
	if key == state.KeyExternalID {
		filter.Emails, filter.InstitutionIDs = nil, keys
	}
	// A question about people has no time to be narrowed in: to the reading it is a single second.
	reading := NewReading(Walk{Until: time.Unix(1, 0), Next: time.Unix(0, 0), Width: time.Second}, perPage, 0)
	got, verdict, err := r.readPages(ctx, reading, r.NameCoach.Search, filter)
	refused := refusedKey(err) || isStatus(err, http.StatusNotFound)
	switch {
	case refused && len(keys) == 1:
		r.Log.Warn("NameCoach refuses to be asked about one person", "bridge", r.Name, "problem", err)
		return nil
	case err != nil && !refused:
		return err
	case err == nil && verdict == Whole:
		return each(got, reading, keys)
	case err == nil:
		r.dropStaged(ctx, got.staged)
	}
	if len(keys) == 1 {
		return fmt.Errorf("%w: %s", errNotWhole, got.reason)
	}
	half := len(keys) / 2
	first := r.search(ctx, filter, key, keys[:half], each)
	if first != nil && !errors.Is(first, errNotWhole) {
		return first
	}
	second := r.search(ctx, filter, key, keys[half:], each)
	if second != nil && !errors.Is(second, errNotWhole) {
		return second // what failed must not pass for an answer that is not whole
	}
	return errors.Join(first, second)
}
