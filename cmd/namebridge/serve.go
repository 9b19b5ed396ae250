package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"namebridge/internal/config"
	"namebridge/internal/doctor"
	"namebridge/internal/metrics"
	"namebridge/migrations"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

const (
	// databaseFirst and databaseMost are the pauses between two tries to reach the database at start.
	databaseFirst, databaseMost = 250 * time.Millisecond, 10 * time.Second
	// serverStop and poolStop bound the end of what is left when the daemons have stopped, which takes them 20 s at most:
	// Kubernetes gives 30 s in all.
	serverStop, poolStop = 3 * time.Second, 2 * time.Second
	// lookEvery is how often it is looked whether a bridge that starts is served.
	lookEvery = 100 * time.Millisecond
)

func newServe(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Keep the bridges true, for as long as it runs: schedules, work, health and metrics",
		Long: `The daemon. It collects from NameCoach and writes to BLN when COLLECT_SCHEDULE says so, sweeps the whole directory by SWEEP_SCHEDULE, and takes a
census of everyone who is linked by CENSUS_SCHEDULE; a bridge that is new begins with a collect at once, and a sweep as soon as that is done. It takes part in all other
runs, too: a backfill or an approval that is started beside it is worked by both.

Any number of these may run on one database: they share the work and the limits of both APIs, and go on where one that dies has stopped. All bridges of
BRIDGES are served; one that cannot work (a wrong password, say) keeps none of the others from working.

At LISTEN_ADDR it answers over HTTP: /healthz is 503 where only a restart can help, /readyz while the database is away or no bridge is served, and
/metrics is for Prometheus. Where the database is not there yet it waits for it.

SIGTERM and Ctrl-C end it, with exit code 0: what is on its way is finished first, which takes 25 seconds at most. A second signal ends it
at once, and nothing is lost by that either.`,
		Example: "  namebridge serve\n  DATABASE_URL=embedded LISTEN_ADDR=127.0.0.1:8080 LOG_FORMAT=text namebridge serve",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(a.lookuper, config.Database)
			if err != nil {
				a.warnOfStrangers()
				return err
			}
			return a.serve(cmd.Context(), cfg)
		},
	}
}

// service is what `serve` does.
type service struct {
	*app
	terminal bool // somebody watches: stderr is for people, beside the log
	log      *slog.Logger
	bridges  []*bridgesync.Bridge
	work     atomic.Pointer[work] // nil: the database was not reached yet

	mu      sync.Mutex
	unready map[string]string // bridge that was served → why it was not when that was last looked at
}

// work is what needs the database.
type work struct {
	db      *pgxpool.Pool
	daemons []*bridgesync.Daemon // of the bridges, in their order
}

// serve keeps the bridges true until ctx ends.
func (a *app) serve(ctx context.Context, cfg *config.Config) error {
	s := &service{app: a, terminal: isTerminal(a.stderr), log: logger(cfg, a.stderr), unready: map[string]string{}}
	if s.terminal {
		a.warnOfStrangers()
	} else {
		for _, stranger := range doctor.Strangers(a.lookuper) {
			s.log.Warn("a variable that nobody reads: its name looks as if it were meant for us", "variable", stranger.Name, "did_you_mean", stranger.Meant)
		}
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	counted := metrics.New(reg, version, commit)
	for _, b := range cfg.Bridges {
		bridge, err := newBridge(b, nil, s.log, counted.Observe(b.Name))
		if err != nil {
			return err
		}
		bridge.Metrics = counted
		counted.Expect(b.Name)
		s.bridges = append(s.bridges, bridge)
	}
	// Whatever ends first, a signal or the HTTP server, ends life; work goes on until nobody is sent here any more.
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	reg.MustRegister(metrics.NewStandings(work, s.standings))
	server, err := newServer(cfg.ListenAddr, reg, s.health, s.ready, s.log)
	if err != nil {
		return err
	}
	var answering sync.WaitGroup
	answering.Go(func() {
		if err := server.serve(); err != nil {
			end(err)
		}
	})
	defer context.AfterFunc(life, func() {
		server.retire()
		if !s.tell("stopping: what is on its way is finished first (Ctrl-C again: at once)") {
			s.log.Info("stopping")
		}
		stopWork()
	})()
	if !s.tell("namebridge %s\n  %-10s http://%s: /healthz, /readyz, /metrics", version, "http", dialable(server.addr())) {
		s.log.Info("starting", "version", version, "http", server.addr(), "bridges", names(s.bridges))
	}
	began := time.Now()
	err = s.keep(work, cfg, func() { server.stop(serverStop) })
	server.stop(serverStop) // where it did not come so far
	answering.Wait()
	switch {
	case ctx.Err() != nil: // somebody has asked for it
	case life.Err() != nil:
		return context.Cause(life)
	case err != nil:
		return err
	}
	if !s.tell("stopped after %s.", span(time.Since(began))) {
		s.log.Info("stopped")
	}
	return nil
}

// keep opens the database and serves the bridges until ctx ends. The HTTP server is stopped before the database is let go.
func (s *service) keep(ctx context.Context, cfg *config.Config, stopServer func()) error {
	url, stopDatabase, err := s.databaseURL(ctx, cfg)
	if err != nil {
		return err
	}
	defer stopDatabase()
	db, schema, err := s.awaitDatabase(ctx, url)
	if err != nil {
		return err
	}
	defer closePool(db)
	for _, b := range cfg.Bridges {
		if err := oneWriter(ctx, db, cfg, b); err != nil {
			return err
		}
	}
	if !s.tell("  %-10s ready, schema %d", "database", schema) {
		s.log.Info("the database is ready", "schema", schema)
	}
	if newest := migrations.Newest(); schema > newest {
		s.log.Warn("the database has a newer schema than this program knows: it works on it, and knows nothing of what is new", "schema", schema, "known", newest)
	}
	w := &work{db: db}
	for _, b := range s.bridges {
		b.DB = db
		w.daemons = append(w.daemons, bridgesync.NewDaemon(b))
	}
	s.work.Store(w)
	var serving sync.WaitGroup
	for i, d := range w.daemons {
		serving.Go(func() {
			if err := d.Serve(ctx); err != nil {
				s.log.Warn("stopped in disorder: what was under way is looked into by whoever takes over", "bridge", s.bridges[i].Name, "problem", err)
			}
		})
		serving.Go(func() {
			s.announce(ctx, s.bridges[i], d)
			s.warnOfNobody(ctx, db, cfg.Bridges[i])
		})
	}
	serving.Wait()
	stopServer()
	return nil
}

// awaitDatabase connects to the database and brings it to the newest schema, for as long as that takes: in a cluster things
// start in any order. Its error is that ctx has ended, or one that waiting does not mend.
func (s *service) awaitDatabase(ctx context.Context, url string) (db *pgxpool.Pool, schema int64, err error) {
	if _, err := pgxpool.ParseConfig(url); err != nil {
		return nil, 0, usageError{errors.New("DATABASE_URL cannot be read as the address of a Postgres")} // the cause may repeat the password
	}
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = databaseFirst, databaseMost
	for {
		db, schema, err = s.openDatabaseAt(ctx, url)
		if err == nil || ctx.Err() != nil {
			return db, schema, err
		}
		pause := pauses.NextBackOff()
		problem, cure := databaseTrouble(err)
		s.log.Warn("the database cannot be used yet: trying again", "problem", problem, "cure", cure, "after", pause.Round(time.Millisecond).String())
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, 0, ctx.Err()
		}
	}
}

func (s *service) openDatabaseAt(ctx context.Context, url string) (*pgxpool.Pool, int64, error) {
	db, err := openPool(ctx, url, len(s.bridges))
	if err != nil {
		return nil, 0, err
	}
	err = migrations.Up(ctx, url)
	var schema int64
	if err == nil {
		schema, err = migrations.Version(ctx, db)
	}
	if err != nil {
		db.Close()
		return nil, 0, err
	}
	return db, schema, nil
}

// closePool waits for what still uses the database, for a moment.
func closePool(db *pgxpool.Pool) {
	closed := make(chan struct{})
	go func() {
		db.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(poolStop):
	}
}

// announce says, once a bridge is served, what is under way and what is due when.
func (s *service) announce(ctx context.Context, b *bridgesync.Bridge, d *bridgesync.Daemon) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for d.Ready(ctx) != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	running, err := state.RunningRuns(ctx, b.DB, b.Name)
	due, err2 := state.Schedules(ctx, b.DB, b.Name)
	if err := errors.Join(err, err2); err != nil {
		s.log.Warn("a bridge is served, but its schedules cannot be read", "bridge", b.Name, "problem", err)
		return
	}
	kinds, text := []string{}, ""
	for _, r := range running {
		kinds = append(kinds, string(r.Kind))
	}
	if len(kinds) > 0 {
		text = "under way: " + strings.Join(kinds, ", ") + " · "
	}
	if !s.tell("  %-10s organization %d · %snext: %s", b.Name, b.Settings.OrganizationID, text, nextText(due)) {
		s.log.Info("a bridge is served", "bridge", b.Name, "organization", b.Settings.OrganizationID, "running", kinds, "next", nextRuns(due))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unready[b.Name] = ""
}

// warnOfNobody is what a restart says where nobody counts: other settings come with a restart.
func (s *service) warnOfNobody(ctx context.Context, db *pgxpool.Pool, b config.Bridge) {
	if s.terminal {
		s.app.warnOfNobody(ctx, db, b)
	} else if text, err := doctor.NobodyCounts(ctx, db, b); text != "" && err == nil {
		s.log.Warn("nobody is given a badge", "bridge", b.Name, "problem", text)
	}
}

// nextRuns is when the next run of each kind is due.
func nextRuns(due []state.Schedule) map[string]time.Time {
	next := map[string]time.Time{}
	for _, d := range due {
		if isRun(d.Kind) {
			next[string(d.Kind)] = d.DueAt.UTC()
		}
	}
	return next
}

// nextText is the same for people, in order of time.
func nextText(due []state.Schedule) string {
	var parts []string
	for _, d := range due {
		if isRun(d.Kind) {
			parts = append(parts, string(d.Kind)+" "+when(d.DueAt, d.Now))
		}
	}
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, " · ")
}

// isRun leaves out what is scheduled and is no run: housekeeping.
func isRun(k state.Kind) bool { return k == state.Collect || k == state.Sweep || k == state.Census }

// tell says something to people on a terminal; false where there is none: then it is for the log.
func (s *service) tell(format string, args ...any) bool {
	if s.terminal {
		fmt.Fprintf(s.stderr, format+"\n", args...)
	}
	return s.terminal
}

func names(bridges []*bridgesync.Bridge) []string {
	all := make([]string, len(bridges))
	for i, b := range bridges {
		all[i] = b.Name
	}
	return all
}

// dialable is an address to go to, of one that is listened on.
func dialable(listening string) string {
	host, port, err := net.SplitHostPort(listening)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return listening
}

// standings is what metrics tell of the database.
func (s *service) standings(ctx context.Context) ([]state.Standing, error) {
	w := s.work.Load()
	if w == nil {
		return nil, errNoDatabase
	}
	return state.Standings(ctx, w.db, names(s.bridges))
}

const errNoDatabase = reason("the database cannot be used yet")

// health says why only a restart can help.
func (s *service) health(context.Context) error {
	w := s.work.Load()
	if w == nil {
		return nil // whoever waits for the database is well
	}
	for _, d := range w.daemons {
		if err := d.Stalled(); err != nil {
			return reason(err.Error())
		}
	}
	return nil
}

// ready says why nothing is worked on here at the moment. One bridge that is served is enough; why others are not is logged.
func (s *service) ready(ctx context.Context) error {
	w := s.work.Load()
	if w == nil {
		return errNoDatabase
	}
	switch version, err := migrations.Version(ctx, w.db); {
	case err != nil:
		return fmt.Errorf("%w: %w", reason("the database does not answer as it should"), err)
	case version < migrations.Newest():
		return fmt.Errorf("%w: it has version %d, needed is %d", reason("the database has an older schema than this program needs"), version, migrations.Newest())
	}
	served := false
	for i, d := range w.daemons {
		err := d.Ready(ctx)
		served = served || err == nil
		s.note(s.bridges[i].Name, err)
	}
	if !served {
		return reason("no bridge is served at the moment; the log says why")
	}
	return nil
}

// note logs whether a bridge is served, when that has changed since it first was.
func (s *service) note(bridge string, err error) {
	now := ""
	if err != nil {
		now = err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was, begun := s.unready[bridge]
	switch {
	case !begun, now == was:
		return
	case now == "":
		s.log.Info("a bridge is served again", "bridge", bridge)
	default:
		s.log.Warn("a bridge is not served", "bridge", bridge, "problem", now)
	}
	s.unready[bridge] = now
}
