package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"namebridge/bln"
	"namebridge/internal/config"
	"namebridge/internal/httpapi"
	"namebridge/internal/postgres"
	"namebridge/migrations"
	"namebridge/namecoach"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// bridgeFlag adds --bridge, for deployments that serve several.
func bridgeFlag(c *cobra.Command) *string {
	return c.Flags().String("bridge", "", "the bridge to work on, where BRIDGES names several")
}

// chooseBridge finds the bridge that a command is for.
func chooseBridge(cfg *config.Config, name string) (config.Bridge, error) {
	names := make([]string, len(cfg.Bridges))
	for i, b := range cfg.Bridges {
		names[i] = b.Name
	}
	switch i := slices.Index(names, name); {
	case i >= 0:
		return cfg.Bridges[i], nil
	case name != "":
		return config.Bridge{}, usageError{fmt.Errorf("there is no bridge %q; BRIDGES has %s", name, strings.Join(names, ", "))}
	case len(names) > 1:
		return config.Bridge{}, usageError{fmt.Errorf("several bridges are configured; name one with --bridge: %s", strings.Join(names, ", "))}
	}
	return cfg.Bridges[0], nil
}

// openDatabase gives the database at its newest schema, and what stops it.
func openDatabase(ctx context.Context, cfg *config.Config) (pool *pgxpool.Pool, stop func(), err error) {
	url, stop, err := databaseURL(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	// Asked first, since it tells "cannot be reached" from "cannot be migrated".
	pool, err = state.Open(ctx, url)
	if err != nil {
		return nil, nil, &databaseError{err}
	}
	if err := migrations.Up(ctx, url); err != nil {
		pool.Close()
		return nil, nil, &databaseError{err}
	}
	server := stop
	return pool, func() { pool.Close(); server() }, nil
}

// databaseURL starts the private Postgres where one is asked for.
func databaseURL(ctx context.Context, cfg *config.Config) (url string, stop func(), err error) {
	if cfg.DatabaseURL.Reveal() != config.Embedded {
		return cfg.DatabaseURL.Reveal(), func() {}, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil || os.Geteuid() == 0 {
		dir = os.TempDir() // root's own folder is closed to the user that Postgres runs as
	}
	server, err := postgres.Start(ctx, postgres.Options{Dir: filepath.Join(dir, "namebridge-postgres")})
	if err != nil {
		return "", nil, &databaseError{err}
	}
	return server.URL(), func() { _ = server.Stop() }, nil // it ends with this process in any case
}

// databaseError says that the database, not an API, is what failed.
type databaseError struct{ error }

func (e *databaseError) Unwrap() error { return e.error }

// meter counts the requests of this process.
type meter struct{ namecoach, bln atomic.Int64 }

func (m *meter) observe(o httpapi.Observation) {
	if o.API == "bln" {
		m.bln.Add(1)
	} else {
		m.namecoach.Add(1)
	}
}

// newBridge joins the clients, the database and the rules of one bridge.
func newBridge(cfg config.Bridge, db *pgxpool.Pool, log *slog.Logger) (*bridgesync.Bridge, error) {
	m := new(meter)
	nc, err1 := namecoach.New(namecoach.Options{BaseURL: cfg.NameCoachURL, Token: cfg.NameCoachToken.Reveal(),
		RequestsPer15Minutes: cfg.NameCoachRequestsPer15Minutes, Observe: m.observe})
	b, err2 := bln.New(bln.Options{BaseURL: cfg.BLNURL, OrganizationID: cfg.BLNOrganizationID, Username: cfg.BLNUsername,
		Password: cfg.BLNPassword.Reveal(), AccessToken: cfg.BLNAccessToken.Reveal(), PerSecond: cfg.BLNRequestsPerSecond,
		Concurrency: cfg.BLNConcurrency, Observe: m.observe})
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
	}
	for _, rule := range cfg.MatchBy {
		settings.MatchBy = append(settings.MatchBy, bridgesync.Rule(rule))
	}
	for _, f := range cfg.OtherInfoFields {
		settings.Layout.Fields = append(settings.Layout.Fields, bridgesync.Field{Name: f.Name, Attribute: f.Attribute})
	}
	return &bridgesync.Bridge{Name: cfg.Name, Settings: settings, NameCoach: nc, BLN: b, DB: db, Log: log,
		Requests: func() (int64, int64) { return m.namecoach.Load(), m.bln.Load() }}, nil
}

// logger writes to stderr as the configuration says.
func (a *app) logger(cfg *config.Config) *slog.Logger {
	o := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(a.stderr, o))
	}
	return slog.New(slog.NewJSONHandler(a.stderr, o))
}
