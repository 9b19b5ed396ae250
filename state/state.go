// Package state keeps what the bridges know in Postgres: one file a table, every row keyed by its bridge.
//
// Functions take the transaction or pool that they run in, so that a caller decides what commits together. A missing
// row is ErrNotFound; a row that somebody else has moved on is ErrStale.
//
// Who locks several things in one transaction takes them in one order, so that no two processes wait for each other: the turn of
// those who change participants (LockParticipants), a listing, the bridge, people with their holds and links, users by their ids, their holds and
// writes, a job of the queue, the run, what is due. Of the queue's jobs nobody waits for one while having another.
package state

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Querier is what a pool and a transaction have in common.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	ErrStale    = errors.New("somebody else has moved it on")
)

// A process may have poolFirst connections for its first bridge and poolFurther for each further one, up to poolMost, unless
// its URL says otherwise (pool_max_conns).
const poolFirst, poolFurther, poolMost = 16, 8, 60

// Open connects to the database at url, for work on so many bridges, and checks that it answers.
func Open(ctx context.Context, url string, bridges int) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The parser's own text may repeat the password.
		return nil, errors.New("database: the connection string cannot be read")
	}
	cfg.ConnConfig.RuntimeParams["application_name"] = "namebridge"
	// A process that was stopped or cut off within a transaction keeps its locks: whoever takes over would wait for it to wake.
	cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = strconv.Itoa(Lease) + "s"
	if _, set := cfg.ConnConfig.RuntimeParams["jit"]; !set {
		// Our statements are short, but what a planner guesses of a table that was just filled may look expensive enough to be
		// compiled first: counting what is pending among 100,000 users took 0.5 to 1 s longer for it.
		cfg.ConnConfig.RuntimeParams["jit"] = "off"
	}
	if !strings.Contains(url, "pool_max_conns") {
		// Every job may hold one, and so does the queue; what waits for a connection must not keep others from theirs.
		cfg.MaxConns = max(cfg.MaxConns, int32(min(poolFirst+poolFurther*(max(bridges, 1)-1), poolMost)))
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("database: %w", err)
	}
	return pool, nil
}

// InTx runs do in a transaction, again where Postgres ended it for a deadlock or a conflict with another one: do must
// reset what it counts. The roll-back outlives ctx.
func InTx(ctx context.Context, pool *pgxpool.Pool, do func(pgx.Tx) error) error {
	for try := 1; ; try++ {
		err := pgx.BeginFunc(ctx, pool, do)
		var pg *pgconn.PgError
		if try < 5 && errors.As(err, &pg) && (pg.Code == "40P01" || pg.Code == "40001") {
			continue
		}
		return err
	}
}

// forPeople makes text that nobody but people reads storable: it may quote what Postgres refuses, and what it reports must
// not be lost for that.
func forPeople(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// Analyze has Postgres look at the tables that a run has just filled: plans made for empty tables are slow on full ones,
// and autovacuum may come only when the run is over.
func Analyze(ctx context.Context, q Querier) error {
	if _, err := q.Exec(ctx, `ANALYZE participants, directory_users, links, holds`); err != nil {
		return fmt.Errorf("analyze: %w", err)
	}
	return nil
}

// exactlyOne turns a compare-and-set that changed nothing into ErrStale.
func exactlyOne(tag pgconn.CommandTag, err error, what string, args ...any) error {
	if err != nil {
		return fmt.Errorf(what+": %w", append(args, err)...)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf(what+": %w", append(args, ErrStale)...)
	}
	return nil
}

// collect reads all rows into structs by column name.
func collect[T any](rows pgx.Rows, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[T])
}

// one reads a single row, ErrNotFound where there is none.
func one[T any](rows pgx.Rows, err error) (T, error) {
	var zero T
	if err != nil {
		return zero, err
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
	if errors.Is(err, pgx.ErrNoRows) {
		return zero, ErrNotFound
	}
	return v, err
}
