package state_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"namebridge/state"
)

func TestABridgeStaysWithItsOrganization(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	if _, err := state.GetBridge(t.Context(), db, "a"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("a bridge that is not there: %v", err)
	}
	for range 2 {
		b, err := state.EnsureBridge(t.Context(), db, "a", 7)
		if diff := cmp.Diff(state.Bridge{Bridge: "a", OrganizationID: 7}, b); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	b, err := state.EnsureBridge(t.Context(), db, "a", 8)
	var other *state.OtherOrganizationError
	if !errors.As(err, &other) || *other != (state.OtherOrganizationError{Bridge: "a", Stored: 7, Requested: 8}) || b.OrganizationID != 7 {
		t.Errorf("pointed at another organization: %v, %+v", err, b)
	}
}

func TestAHaltStandsUntilItIsLiftedAndIsKept(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	first, second := uuid.New(), uuid.New()
	if err := state.Resume(t.Context(), db, "a", "why"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("resumed without a halt: %v", err)
	}
	must(t, state.Halt(t.Context(), db, "a", "first reason", first))
	halted := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	must(t, state.Halt(t.Context(), db, "a", "second reason", second))
	b := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	if diff := cmp.Diff(halted, b); diff != "" || *b.HaltReason != "first reason" || *b.HaltRun != first || time.Since(*b.HaltedAt).Abs() > time.Minute {
		t.Errorf("a second halt moved the first: %s", diff)
	}
	must(t, state.Resume(t.Context(), db, "a", "looked into"))
	b = get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	if b.HaltedAt != nil || b.HaltReason != nil || b.HaltRun != nil {
		t.Errorf("still halted: %+v", b)
	}
	must(t, state.Halt(t.Context(), db, "a", "third reason", second))
	must(t, state.Resume(t.Context(), db, "a", "again"))
	history := value[string](t, db, `SELECT string_agg(concat_ws('|', reason, run, resumed_reason, halted_at <= resumed_at), ';' ORDER BY halted_at) FROM halts WHERE bridge = 'a'`)
	if want := "first reason|" + first.String() + "|looked into|t;third reason|" + second.String() + "|again|t"; history != want {
		t.Errorf("kept is %s, want %s", history, want)
	}
}

// What a reason quotes may hold what Postgres refuses; a halt must not fail for it.
func TestAHaltIsStoredWhateverItsReasonQuotes(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	must(t, state.Halt(t.Context(), db, "a", "lost: \"a\x00b\", \"\xed\xa0\x80\", é", uuid.New()))
	b := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	if want := "lost: \"a\ufffdb\", \"\ufffd\", é"; *b.HaltReason != want {
		t.Errorf("got %+q, want %+q", *b.HaltReason, want)
	}
	must(t, state.Resume(t.Context(), db, "a", "why\x00\xff"))
}

func TestWhetherRowsCarryTheFragmentIsUnknownUntilSeen(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	for _, carry := range []bool{true, false} {
		must(t, state.SetRowsCarryFragment(t.Context(), db, "a", carry))
		if b := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a")); b.RowsCarryFragment == nil || *b.RowsCarryFragment != carry {
			t.Errorf("want %t, got %v", carry, b.RowsCarryFragment)
		}
	}
}
