package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/robfig/cron/v3"
	"github.com/sethvargo/go-envconfig"
	"github.com/spf13/cobra"

	"namebridge/bln"
	"namebridge/internal/config"
	"namebridge/internal/doctor"
	"namebridge/internal/httpapi"
	"namebridge/internal/postgres"
	"namebridge/migrations"
	"namebridge/namecoach"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// load reads the configuration. Whoever has misspelt a variable is told so, by each command once.
func (a *app) load() (*config.Config, error) {
	a.warnOfStrangers()
	return config.Load(a.lookuper, config.Database)
}

// loadDatabase reads what commands need that talk to nobody but the database.
func (a *app) loadDatabase() (*config.Config, error) {
	a.warnOfStrangers()
	return config.LoadDatabase(a.lookuper)
}

// warnOfStrangers tells of variables that look as if they were meant for us and that nobody reads.
func (a *app) warnOfStrangers() {
	for _, s := range doctor.Strangers(a.lookuper) {
		fmt.Fprintf(a.stderr, "namebridge: warning: %s %s\n", s.Name, s.Text())
	}
}

// warnOfNobody tells that NAMECOACH_EVENTS lets nobody count, where it does: all else is well then, and nothing ever comes of it.
func (a *app) warnOfNobody(ctx context.Context, db *pgxpool.Pool, b config.Bridge) {
	text, err := doctor.NobodyCounts(ctx, db, b)
	if err == nil && text != "" { // a database that is away tells enough elsewhere
		fmt.Fprintf(a.stderr, "namebridge: warning: %s.\n", text)
	}
}

// bridgeFlag adds --bridge, for deployments that serve several.
func bridgeFlag(c *cobra.Command) *string {
	return c.Flags().String("bridge", "", "the bridge to work on, where BRIDGES names several")
}

// chooseBridge finds the bridge that a command is for.
func chooseBridge(cfg *config.Config, name string) (config.Bridge, error) {
	names := cfg.Names()
	switch i := slices.Index(names, name); {
	case i >= 0:
		return cfg.Bridges[i], nil
	case name != "":
		return config.Bridge{}, usageError{fmt.Errorf("there is no bridge %q; the bridges are: %s", name, strings.Join(names, ", "))}
	case len(names) > 1:
		return config.Bridge{}, usageError{fmt.Errorf("several bridges are configured; name one with --bridge: %s", strings.Join(names, ", "))}
	}
	return cfg.Bridges[0], nil
}

// several is " --bridge NAME" where there are several bridges: for commands to be typed.
func several(cfg *config.Config, chosen config.Bridge) string {
	if len(cfg.Bridges) < 2 {
		return ""
	}
	return " --bridge " + chosen.Name
}

// connectTimeout bounds the first words with the database: a host that swallows packets must not look like work.
const connectTimeout = 20 * time.Second

// openDatabase gives the database at its newest schema, and what stops it.
func (a *app) openDatabase(ctx context.Context, cfg *config.Config) (pool *pgxpool.Pool, stop func(), err error) {
	pool, url, stop, err := a.connect(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	if err := migrations.Up(ctx, url); err != nil {
		stop()
		return nil, nil, &databaseError{err}
	}
	return pool, stop, nil
}

// connect gives the database as it is, its URL, and what stops it. The private Postgres is started where one is asked for.
func (a *app) connect(ctx context.Context, cfg *config.Config) (pool *pgxpool.Pool, url string, stop func(), err error) {
	url, server, err := a.databaseURL(ctx, cfg)
	if err != nil {
		return nil, "", nil, err
	}
	if pool, err = openPool(ctx, url, 1); err != nil {
		server()
		return nil, "", nil, err
	}
	return pool, url, func() { pool.Close(); server() }, nil
}

// databaseURL says where the database is. The private Postgres is started where one is asked for; stop stops it.
func (a *app) databaseURL(ctx context.Context, cfg *config.Config) (url string, stop func(), err error) {
	if url = cfg.DatabaseURL.Reveal(); url == config.Embedded {
		return a.startPostgres(ctx)
	}
	return url, func() {}, nil
}

// openPool connects to a database, for work on so many bridges.
func openPool(ctx context.Context, url string, bridges int) (*pgxpool.Pool, error) {
	first, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	pool, err := state.Open(first, url, bridges)
	if err != nil {
		return nil, &databaseError{&awayError{err}}
	}
	return pool, nil
}

func (a *app) startPostgres(ctx context.Context) (url string, stop func(), err error) {
	dir, err := dataFolder(a.lookuper, os.Geteuid())
	if err != nil {
		return "", nil, err
	}
	server, err := postgres.Start(ctx, postgres.Options{Dir: dir})
	if err != nil {
		return "", nil, &databaseError{err}
	}
	return server.URL(), func() { _ = server.Stop() }, nil // it ends with this process in any case
}

// systemData is where root's services keep what must outlive a restart (Filesystem Hierarchy Standard, 5.8).
const systemData = "/var/lib"

// dataFolder is where the private Postgres keeps its data, for years: never in a cache or among temporary files, which others may
// empty. It is the folder for data of the XDG Base Directory Specification; root's is the system's.
func dataFolder(environment envconfig.Lookuper, euid int) (string, error) {
	parent, _ := environment.Lookup("XDG_DATA_HOME")
	home, _ := environment.Lookup("HOME")
	switch {
	case filepath.IsAbs(parent):
	case euid == 0:
		parent = systemData // root's own home is closed to the user that Postgres runs as
	case filepath.IsAbs(home):
		parent = filepath.Join(home, ".local", "share")
	default:
		return "", usageError{fmt.Errorf("DATABASE_URL is embedded, but neither XDG_DATA_HOME nor HOME names a folder to keep the data in.\n" +
			"Set XDG_DATA_HOME to one that is kept, or give the URL of a Postgres of your own")}
	}
	folder := filepath.Join(parent, "namebridge")
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // root's Postgres, which is not root, must pass; the data below is closed
		return "", usageError{fmt.Errorf("DATABASE_URL is embedded, but the folder for its data cannot be made: %w.\n"+
			"Set XDG_DATA_HOME to a folder that can be written and is kept (in a container: a volume), or give the URL of a Postgres of your own", err)}
	}
	return filepath.Join(folder, "postgres"), nil
}

// databaseError says that the database, not an API, is what failed.
type databaseError struct{ error }

func (e *databaseError) Unwrap() error { return e.error }

// awayError says that the database could not be opened.
type awayError struct{ error }

func (e *awayError) Unwrap() error { return e.error }

// databaseTrouble says what is wrong with the database, and what to do. Where no connection came about, the cause's own words are for nobody:
// they tell every way that was tried, one after the other.
func databaseTrouble(err error) (text, cure string) {
	if errors.As(err, new(*awayError)) || errors.As(err, new(*pgconn.ConnectError)) {
		return doctor.Unreachable(err, connectTimeout)
	}
	return err.Error(), "check DATABASE_URL, and that Postgres 14 or newer runs there"
}

// oneWriter refuses a bridge whose organization another bridge of the database has, which the configuration does not name any more: under
// another name nothing would be known of its links by hand and its history, and each would undo what the other writes.
func oneWriter(ctx context.Context, db *pgxpool.Pool, cfg *config.Config, chosen config.Bridge) error {
	names := cfg.Names()
	holder, err := state.BridgeOf(ctx, db, chosen.BLNOrganizationID, names)
	if err != nil {
		return &databaseError{err}
	}
	if holder == "" {
		return nil
	}
	names[slices.Index(names, chosen.Name)] = holder
	instead := "BRIDGES=" + strings.Join(names, ",")
	return usageError{fmt.Errorf("the database holds organization %d for bridge %s, and here it is bridge %s's. Under another name nothing is known\n"+
		"of what was decided and written there.\n"+
		"Keep the name: %s. Its variables are then read as %sBLN_ORGANIZATION_ID and so on, and without\n"+
		"that prefix where they are not set so. To give bridge %s up for good: README.md, “Keep it running”", chosen.BLNOrganizationID, holder, chosen.Name,
		instead, config.Prefix(holder), holder)}
}

// bridgeError is what went wrong while a bridge was worked on.
type bridgeError struct {
	error
	bridge config.Bridge
	flag   string // " --bridge NAME" where there are several
}

func (e *bridgeError) Unwrap() error { return e.error }

// patience is how long a request waits for a server that asks for a pause, before the queue puts its job off.
const patience = 10 * time.Second

// newBridge joins the clients, the database and the rules of one bridge. Each request is told to observe.
func newBridge(cfg config.Bridge, db *pgxpool.Pool, log *slog.Logger, observe func(httpapi.Observation)) (*bridgesync.Bridge, error) {
	nc, err1 := namecoach.New(namecoach.Options{
		BaseURL: cfg.NameCoachURL, Token: cfg.NameCoachToken.Reveal(),
		RequestsPer15Minutes: cfg.NameCoachRequestsPer15Minutes, Patience: patience, Observe: observe,
	})
	b, err2 := bln.New(bln.Options{
		BaseURL: cfg.BLNURL, OrganizationID: cfg.BLNOrganizationID, Username: cfg.BLNUsername,
		Password: cfg.BLNPassword.Reveal(), AccessToken: cfg.BLNAccessToken.Reveal(), PerSecond: cfg.BLNRequestsPerSecond,
		Concurrency: cfg.BLNConcurrency, Patience: patience, Observe: observe,
	})
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	settings := bridgesync.Settings{
		OrganizationID: cfg.BLNOrganizationID,
		Username:       cfg.BLNUsername,
		Events:         cfg.NameCoachEvents,
		Layout:         bridgesync.Layout{Key: cfg.OtherInfoKey, Flat: cfg.OtherInfoLayout == "flat", LinkHosts: cfg.LinkHosts},
		MergingServer:  cfg.BLNPutSemantics == "merge",
		Concurrency:    cfg.BLNConcurrency,
		Lookback:       cfg.WindowLookback,
		Settle:         cfg.WindowSettle,
		Guard:          bridgesync.Guard{MaxClears: cfg.GuardMaxClears, MaxClearPercent: cfg.GuardMaxClearPercent},
		Confirmations:  cfg.CensusConfirmations,
		Retention:      cfg.JournalRetention,
		Schedules:      map[state.Kind]bridgesync.Schedule{},
	}
	for kind, expression := range map[state.Kind]string{
		state.Collect: cfg.CollectSchedule, state.Sweep: cfg.SweepSchedule, state.Census: cfg.CensusSchedule,
	} {
		times, err := cron.ParseStandard(expression)
		if err != nil {
			return nil, fmt.Errorf("schedule of %s of bridge %s: %w", kind, cfg.Name, err)
		}
		settings.Schedules[kind] = bridgesync.Schedule{Expression: expression, Times: times}
	}
	for _, rule := range cfg.MatchBy {
		settings.MatchBy = append(settings.MatchBy, bridgesync.Rule(rule))
	}
	for _, f := range cfg.OtherInfoFields {
		settings.Layout.Fields = append(settings.Layout.Fields, bridgesync.Field{Name: f.Name, Attribute: f.Attribute})
	}
	return &bridgesync.Bridge{Name: cfg.Name, Settings: settings, NameCoach: nc, BLN: b, DB: db, Log: log}, nil
}

// commandLogger is the logger of a command that ends with its run. Whoever watches its progress on a terminal is told by that, and by the
// result, what is done: in between come warnings only, as text, unless LOG_FORMAT or LOG_LEVEL asks for another log.
func (a *app) commandLogger(cfg *config.Config, w io.Writer, watched bool) *slog.Logger {
	asked := func(name string) bool { return strings.TrimSpace(a.lookuper[name]) != "" }
	c := *cfg
	if watched && !asked("LOG_FORMAT") {
		c.LogFormat = "text"
		if !asked("LOG_LEVEL") {
			c.LogLevel = slog.LevelWarn
		}
	}
	return logger(&c, w)
}

// logger writes to w, which ends at stderr, as the configuration says.
func logger(cfg *config.Config, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}
