// Package migrations holds the database schema as numbered SQL and brings a database up to it.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed *.sql
var files embed.FS

// Status is one migration and whether the database has it.
type Status struct {
	Version int64  `json:"version"`
	Name    string `json:"name"`
	Applied bool   `json:"applied"`
	Unknown bool   `json:"unknown,omitempty"` // a newer program has made it: of those only the newest is told
}

// Newest is the newest migration that this program knows.
func Newest() int64 {
	newest := int64(queueMigration)
	names, _ := fs.Glob(files, "*.sql") // the pattern is right
	for _, name := range names {
		if v, err := goose.NumericComponent(name); err == nil { // goose itself refuses any other name
			newest = max(newest, v)
		}
	}
	return newest
}

// Up brings the database at url to the newest schema. Processes that migrate at once wait for each other on an
// advisory lock; those that come later find nothing to do.
func Up(ctx context.Context, url string) error {
	return with(url, func(p *goose.Provider) error {
		_, err := p.Up(ctx)
		return err
	})
}

// Down takes the database back to version, for tests and for a rollback that an operator has decided on.
func Down(ctx context.Context, url string, version int64) error {
	return with(url, func(p *goose.Provider) error {
		_, err := p.DownTo(ctx, version)
		return err
	})
}

// List says of each migration, in order, whether the database at url has it, and names what only a newer program knows. It changes nothing.
func List(ctx context.Context, url string) ([]Status, error) {
	var out []Status
	err := with(url, func(p *goose.Provider) error {
		all, err := p.Status(ctx)
		for _, m := range all {
			name := m.Source.Path
			if m.Source.Type == goose.TypeGo {
				name = queueName
			}
			out = append(out, Status{Version: m.Source.Version, Name: name, Applied: m.State == goose.StateApplied})
		}
		if err != nil {
			return err
		}
		has, err := p.GetDBVersion(ctx)
		if has > Newest() {
			out = append(out, Status{Version: has, Name: fmt.Sprintf("%05d", has), Applied: true, Unknown: true})
		}
		return err
	})
	return out, err
}

// Version is the newest migration that the database has.
func Version(ctx context.Context, pool *pgxpool.Pool) (version int64, err error) {
	if err := pool.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&version); err != nil {
		return 0, fmt.Errorf("read which migrations the database has: %w", err)
	}
	return version, nil
}

func with(url string, do func(*goose.Provider) error) error {
	cfg, err := pgxpool.ParseConfig(url) // which knows what of it concerns a pool: Postgres would refuse that
	if err != nil {
		// The parser's own text may repeat the password.
		return errors.New("migrate: the connection string cannot be read")
	}
	db := stdlib.OpenDB(*cfg.ConnConfig)
	defer func() { _ = db.Close() }() // nothing was left unwritten: every migration commits on its own
	// Asked once a second for five minutes, as long as goose itself would wait, but not in steps of five seconds.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker), goose.WithGoMigrations(queue(url)))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if err := do(p); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// The queue's own tables, as one of our migrations: they come under the same lock and with the same commands.
const (
	queueMigration = 3
	queueName      = "00003_river"
	queueVersion   = 8 // River's own number for the schema that our version of it needs
)

// queue brings River's tables. Its steps cannot share one transaction (one adds a value to an enumeration that the next
// uses), so each commits by itself; River knows which it has made, and a crash between them is gone on from.
func queue(url string) *goose.Migration {
	migrate := func(direction rivermigrate.Direction, target int) func(context.Context, *sql.DB) error {
		return func(ctx context.Context, _ *sql.DB) error {
			pool, err := pgxpool.New(ctx, url)
			if err != nil {
				return err
			}
			defer pool.Close()
			m, err := rivermigrate.New(riverpgxv5.New(pool), nil)
			if err != nil {
				return err
			}
			_, err = m.Migrate(ctx, direction, &rivermigrate.MigrateOpts{TargetVersion: target})
			return err
		}
	}
	return goose.NewGoMigration(queueMigration,
		&goose.GoFunc{RunDB: migrate(rivermigrate.DirectionUp, queueVersion)},
		&goose.GoFunc{RunDB: migrate(rivermigrate.DirectionDown, -1)})
}
