package testdb_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"namebridge/internal/postgres/testdb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testdb.Main(m)) }

var migrated atomic.Int32

func migrate(ctx context.Context, databaseURL string) error {
	migrated.Add(1)
	c, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, `CREATE TABLE people (id int PRIMARY KEY)`)
	return errors.Join(err, c.Close(ctx))
}

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t, migrate)
			if _, err := pool.Exec(t.Context(), `INSERT INTO people VALUES (1)`); err != nil {
				t.Fatal(err) // a second 1 would be refused
			}
		})
	}
}

func TestMigrationsRunOnce(t *testing.T) {
	t.Parallel()
	testdb.URL(t, migrate)
	testdb.URL(t, migrate)
	if got := migrated.Load(); got != 1 {
		t.Errorf("migrated %d times", got)
	}
}

// left tells when the connection that lingering left open was closed.
var left = make(chan error, 1)

func lingering(ctx context.Context, databaseURL string) error {
	c, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	go func() {
		time.Sleep(6 * time.Second) // Postgres waits for 5
		left <- c.Close(context.WithoutCancel(ctx))
		close(left)
	}()
	return nil
}

// The server's process of a connection that was closed may stand still for longer than Postgres waits for it.
func TestADatabaseIsMadeAsSoonAsItsTemplateIsLeft(t *testing.T) {
	t.Parallel()
	testdb.URL(t, lingering)
	if err := <-left; err != nil {
		t.Error(err)
	}
}

func TestTheDatabaseIsDroppedWithWhoeverIsConnected(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("leaves a connection open", func(t *testing.T) {
		url := testdb.URL(t, migrate)
		c, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.QueryRow(t.Context(), `SELECT current_database()`).Scan(&name); err != nil {
			t.Fatal(err)
		}
	})
	var left bool
	pool := testdb.New(t, nil)
	if err := pool.QueryRow(t.Context(), `SELECT exists(SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left || !strings.HasPrefix(name, "namebridge_test_") {
		t.Errorf("%s is still there: %t", name, left)
	}
}

func TestWithoutMigrationsTheDatabaseIsEmpty(t *testing.T) {
	t.Parallel()
	var tables int
	err := testdb.New(t, nil).QueryRow(t.Context(),
		`SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace`).Scan(&tables)
	if err != nil || tables != 0 {
		t.Errorf("%d tables, %v", tables, err)
	}
}
