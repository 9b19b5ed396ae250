package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/bln"
	"namebridge/internal/metrics"
	"namebridge/namecoach"
	"namebridge/state"
)

// Settings are the rules that an operator chooses.
type Settings struct {
	OrganizationID int64
	Username       string   // the BLN user who signs in; empty with a static token
	Events         []string // event access codes that count, in order of preference; none: all
	MatchBy        []Rule
	Layout         Layout
	MergingServer  bool // BLN_PUT_SEMANTICS=merge: only the fragment is sent
	Concurrency    int  // users written at once
	Lookback       time.Duration
	Settle         time.Duration
	Guard          Guard
	Confirmations  int           // complete censuses in a row that must not show a row before it counts as gone
	Retention      time.Duration // of the journal
	Schedules      map[state.Kind]Schedule
}

// Bridge joins one NameCoach account to one BLN organization. Several processes may work on it at once.
type Bridge struct {
	Name      string
	Settings  Settings
	NameCoach *namecoach.Client
	BLN       *bln.Client
	DB        *pgxpool.Pool
	Log       *slog.Logger
	Metrics   *metrics.Metrics // may be nil
	Progress  func(Progress)   // of the run that a one-shot command waits for; may be nil; called from one goroutine
}

// Progress is how far one phase of a run is. Total is 0 where it cannot be known.
type Progress struct {
	Phase       Phase
	Done, Total int
	Over        bool // the phase is over
}

// ErrHalted ends a run: a foreign key was damaged; no write is made until a person resumes.
var ErrHalted = errors.New("halted")

// HaltedError says since when and why a bridge writes nothing.
type HaltedError struct {
	Since  time.Time
	Reason string
	Run    uuid.UUID
}

func (e *HaltedError) Error() string { return "halted: " + e.Reason }

// Is makes errors.Is(err, ErrHalted) true.
func (e *HaltedError) Is(target error) bool { return target == ErrHalted }

// PermissionError says that the BLN user cannot do what a bridge needs.
type PermissionError struct{ Role, Needs string }

func (e *PermissionError) Error() string {
	if e.Role == "" {
		return "BLN answers 403 (forbidden): the user that signs in may not " + e.Needs
	}
	return fmt.Sprintf("the BLN user that signs in has the role %q, which may not %s", e.Role, e.Needs)
}

// Result is what a run did, as the commands print it.
type Result struct {
	Run          uuid.UUID       `json:"run"`
	Kind         state.Kind      `json:"kind"`
	Status       state.RunStatus `json:"status"`
	Participants int             `json:"participants"`
	Users        int             `json:"users"`
	Linked       int             `json:"linked"`
	Written      int             `json:"written"`
	Cleared      int             `json:"cleared"`
	Unchanged    int             `json:"unchanged"`
	Held         Held            `json:"held"`
	Failed       int             `json:"failed"`
	Requests     Requests        `json:"requests"`
	Seconds      float64         `json:"seconds"`
}

// Held counts people and users that are not written, by reason.
type Held struct {
	Unmatched  int `json:"unmatched"`
	Ambiguous  int `json:"ambiguous"`
	Conflict   int `json:"conflict"`
	Unwritable int `json:"unwritable"`
	Refused    int `json:"refused"`
	Reverted   int `json:"reverted"`
}

// Sum is the number of all that are held.
func (h Held) Sum() int {
	return h.Unmatched + h.Ambiguous + h.Conflict + h.Unwritable + h.Refused + h.Reverted
}

// HeldByReason reads the counts of state.Totals.
func HeldByReason(n map[string]int) Held {
	return Held{n[string(Unmatched)], n[string(Ambiguous)], n[string(Conflict)], n[string(Unwritable)], n[string(Refused)], n[string(Reverted)]}
}

// Requests counts the requests sent to each API.
type Requests struct {
	NameCoach int64 `json:"namecoach"`
	BLN       int64 `json:"bln"`
}

// checkHalt ends a run of a halted bridge, unless it is a plan. What a write has damaged is put back, halted or not.
func (r *run) checkHalt(ctx context.Context) error {
	stored, err := state.GetBridge(ctx, r.DB, r.Name)
	if err != nil || stored.HaltedAt == nil || r.row.Kind == state.Plan && r.phase != PhaseWrite {
		return err
	}
	w := r.newWriter()
	err = errors.Join(haltOf(stored), w.recover(ctx))
	r.release(ctx, w.looked)
	return err
}

// haltOf is the halt of a bridge as an error; nil where it is not halted.
func haltOf(b state.Bridge) error {
	if b.HaltedAt == nil {
		return nil
	}
	e := &HaltedError{Since: *b.HaltedAt}
	if b.HaltReason != nil {
		e.Reason = *b.HaltReason
	}
	if b.HaltRun != nil {
		e.Run = *b.HaltRun
	}
	return e
}
