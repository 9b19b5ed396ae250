package main

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
)

// stored is a bridge as the database has it.
type stored struct {
	db     *pgxpool.Pool
	bridge string
	flag   string // " --bridge NAME" where there are several, for commands to be typed
	stop   func()
}

// openStored opens what commands need that talk to nobody but the database.
func (a *app) openStored(ctx context.Context, bridge string) (*stored, error) {
	cfg, err := a.loadDatabase()
	if err != nil {
		return nil, err
	}
	chosen, err := chooseBridge(cfg, bridge)
	if err != nil {
		return nil, err
	}
	s := &stored{bridge: chosen.Name, flag: several(cfg, chosen)}
	s.db, s.stop, err = a.openDatabase(ctx, cfg)
	return s, err
}
