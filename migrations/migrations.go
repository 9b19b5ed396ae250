// Package migrations holds the database schema as numbered SQL and brings a database up to it.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"fmt"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver that goose speaks through
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// Status is one migration and whether the database has it.
type Status struct {
	Version int64  `json:"version"`
	Name    string `json:"name"`
	Applied bool   `json:"applied"`
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

// List says of each migration, in order, whether the database at url has it. It changes nothing.
func List(ctx context.Context, url string) ([]Status, error) {
	var out []Status
	err := with(url, func(p *goose.Provider) error {
		all, err := p.Status(ctx)
		for _, m := range all {
			out = append(out, Status{Version: m.Source.Version, Name: m.Source.Path, Applied: m.State == goose.StateApplied})
		}
		return err
	})
	return out, err
}

func with(url string, do func(*goose.Provider) error) error {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer func() { _ = db.Close() }() // nothing was left unwritten: every migration commits on its own
	// Asked once a second for five minutes, as long as goose itself would wait, but not in steps of five seconds.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if err := do(p); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
