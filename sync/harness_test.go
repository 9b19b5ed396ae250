package sync_test

import (
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/bln"
	"namebridge/internal/httpapi"
	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
	"namebridge/migrations"
	"namebridge/namecoach"
	bridgesync "namebridge/sync"
)

func TestMain(m *testing.M) { os.Exit(testdb.Main(m).Run()) }

// world is a simulated pair of servers, a real database, and a bridge between them.
type world struct {
	*simulator.Simulator
	db       *pgxpool.Pool
	settings bridgesync.Settings
	puts     atomic.Int64
}

func start(t *testing.T, o simulator.Options) *world {
	t.Helper()
	s, err := simulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &world{Simulator: s, db: testdb.New(t, migrations.Up), settings: bridgesync.Settings{
		OrganizationID: s.OrganizationID(),
		Username:       s.Username(),
		MatchBy:        []bridgesync.Rule{bridgesync.RuleExternalID, bridgesync.RuleEmail},
		Layout: bridgesync.Layout{Key: "namecoach",
			LinkHosts: []string{"www.name-coach.com", "name-coach.com", "namewaves.s3.amazonaws.com"}},
		Concurrency: 8,
		Lookback:    10 * time.Minute,
		Settle:      30 * time.Second,
		Guard:       bridgesync.Guard{MaxClears: 20, MaxClearPercent: 2},
	}}
}

// bridge makes a bridge as a process would: with clients of its own.
func (w *world) bridge(t *testing.T) *bridgesync.Bridge {
	t.Helper()
	var nc, bl atomic.Int64
	count := func(n *atomic.Int64) func(httpapi.Observation) {
		return func(httpapi.Observation) { n.Add(1) }
	}
	n, err := namecoach.New(namecoach.Options{BaseURL: w.NameCoachURL(), Token: w.Token(), RequestsPer15Minutes: 1_000_000, Observe: count(&nc)})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bln.New(bln.Options{BaseURL: w.BLNURL(), OrganizationID: w.OrganizationID(), Username: w.Username(), Password: w.Password(),
		PerSecond: 100_000, Concurrency: 8, Observe: count(&bl), Transport: http.DefaultTransport})
	if err != nil {
		t.Fatal(err)
	}
	return &bridgesync.Bridge{Name: "default", Settings: w.settings, NameCoach: n, BLN: b, DB: w.db,
		Log:      slog.New(slog.NewTextHandler(t.Output(), nil)),
		Requests: func() (int64, int64) { return nc.Load(), bl.Load() }}
}
