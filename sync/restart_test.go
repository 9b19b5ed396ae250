package sync_test

import (
	"fmt"
	"maps"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/simulator"
	"namebridge/state"
)

// Connections that are lost are no fault of the work's: after the fifth nobody waits longer than after the first, and no run fails for it.
func TestLostConnectionsMakeNobodyWaitLonger(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(150)
	foreign := w.ForeignDigests("namecoach")
	w.settings.Schedules = ticks(nil)
	cfg := w.db.Config()
	cfg.ConnConfig.RuntimeParams = maps.Clone(cfg.ConnConfig.RuntimeParams)
	cfg.ConnConfig.RuntimeParams["application_name"] = "unlucky"
	db, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	f := w.front(t)
	f.after = func(n int, _ string) {
		if n%20 != 0 || n > 100 {
			return
		}
		if _, err := w.db.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'unlucky'`); err != nil {
			t.Error(err)
		}
	}
	s := serve(t, w.process(t, f.url, db, nil))
	eventually(t, patience, w.wrong)
	eventually(t, patience, func() string {
		if n := value[int](t, w, `SELECT count(*) FROM runs WHERE status = 'running'`); n > 0 {
			return fmt.Sprintf("%d runs go on", n)
		}
		return ""
	})
	s.stop()
	w.foreignKept(t, foreign)
	w.settledJournal(t)
	w.steady(t)
	f.onceEach(t, 150)
	for _, kind := range []state.Kind{state.Collect, state.Sweep} {
		for _, r := range w.runs(t, kind) {
			if r.Status != state.Done {
				t.Errorf("a %s is %s", kind, r.Status)
			}
		}
	}
}
