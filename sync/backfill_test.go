package sync_test

import (
	"testing"
	"time"

	"namebridge/internal/simulator"
)

func TestBackfill(t *testing.T) {
	w := start(t, simulator.Options{Seed: 1, Users: 2000})
	before := w.ForeignDigests("namecoach")
	res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
	t.Logf("%+v", res)
	if err != nil {
		t.Fatal(err)
	}
	_ = before
	t.Logf("%+v", w.Truth().Totals)
	t.Log(w.Counts())
	for _, m := range w.Mismatches(10) {
		t.Error(m)
	}
	for _, m := range w.Violations() {
		t.Error(m)
	}
}
