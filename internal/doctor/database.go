package doctor

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/config"
	"namebridge/state"
)

const (
	oldestPostgres = 14
	// slowAnswer is when the way to the database begins to tell: a batch of writes makes several round trips one after the other.
	slowAnswer = 50 * time.Millisecond
	// notifyWait is how long a notification may take, which arrives within milliseconds where it arrives at all.
	notifyWait = 10 * time.Second
	// overdue is how long after its time a schedule may still be waiting, and a job for a worker.
	overdue = 10 * time.Minute
)

// database looks at the database and opens it for what follows. The function that it returns closes it.
func (e *examination) database(ctx context.Context) (stop func()) {
	nothing := func() {}
	if e.Config.DatabaseURL.Empty() {
		return nothing // the configuration says why
	}
	url, stopServer, err := e.Database(ctx)
	if err != nil {
		e.found(Problem, "", Database, "the private Postgres does not start: "+err.Error(),
			"do what it says, or set DATABASE_URL to a Postgres of your own")
		return nothing
	}
	first, cancel := context.WithTimeout(ctx, e.Patience)
	defer cancel()
	pool, err := state.Open(first, url, 1)
	if err != nil {
		text, cure := Unreachable(err, e.Patience)
		e.found(Problem, "", Database, text, cure)
		return stopServer
	}
	stop = func() { pool.Close(); stopServer() }
	looks := []func(context.Context, *pgxpool.Pool, string) error{e.server, e.clockOfDatabase, e.connections, e.settings, e.notifications, e.schema}
	for _, look := range looks {
		bounded, cancel := context.WithTimeout(ctx, e.Patience)
		err := look(bounded, pool, url)
		cancel()
		if ctx.Err() != nil {
			return stop
		}
		if err != nil {
			e.found(Problem, "", Database, "a question to the database failed: "+trouble(err), "look into the log of the Postgres server")
			return stop
		}
	}
	e.db = pool
	if e.tables {
		bounded, cancel := context.WithTimeout(ctx, e.Patience)
		defer cancel()
		if err := e.queue(bounded); err != nil && ctx.Err() == nil {
			e.found(Problem, "", Queue, "the queue cannot be read: "+trouble(err), "look into the log of the Postgres server")
		}
	}
	return stop
}

// trouble is a failure of the database in words that quote no statement, parameter or row.
func trouble(err error) string {
	var (
		pg      *pgconn.PgError
		timeout net.Error
	)
	switch {
	case errors.As(err, &pg):
		return "Postgres answers with code " + pg.Code
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	}
	return "the connection broke"
}

// Unreachable says why the database cannot be opened, which was tried for as long as patience, and what to do.
func Unreachable(err error, patience time.Duration) (text, cure string) {
	var (
		pg        *pgconn.PgError
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		verify    *tls.CertificateVerificationError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &pg):
		if strings.Contains(pg.Message, "unsupported startup parameter") {
			return "a connection pooler refuses what every connection asks for (jit, idle_in_transaction_session_timeout)",
				"in PgBouncer set ignore_startup_parameters = jit,idle_in_transaction_session_timeout, or let DATABASE_URL name Postgres itself"
		}
		switch pg.Code {
		case "28P01":
			return "Postgres does not accept the password", "correct the user and the password in DATABASE_URL"
		case "28000":
			return "Postgres does not let this user in from here, or not this way (code 28000)",
				"correct the user in DATABASE_URL, its sslmode, or pg_hba.conf on the server"
		case "3D000":
			return "there is no such database on this Postgres", "make it (createdb), or correct the name at the end of DATABASE_URL"
		case "42501":
			return "this user may not connect to the database", "GRANT CONNECT ON DATABASE to it"
		case "53300":
			return "Postgres has no connection left", "raise max_connections, or end what holds them"
		case "57P03":
			return "Postgres is starting or stopping", "wait until it is up, then run this again"
		}
		return "Postgres refuses the connection with code " + pg.Code, "look into the log of the Postgres server"
	case errors.As(err, &dns):
		return "the name of the database's host is not known (DNS)", "correct the host in DATABASE_URL, or the DNS of this machine"
	case errors.As(err, &authority), errors.As(err, &host), errors.As(err, &verify):
		return "the certificate of the database's server is not accepted", "correct sslmode and sslrootcert in DATABASE_URL, or the certificate"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens where DATABASE_URL points: connection refused", "start Postgres, or correct host and port in DATABASE_URL"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer from the database within " + length(patience), "correct host and port in DATABASE_URL, or open the firewall on the way"
	}
	return "the database cannot be reached", "check DATABASE_URL, and that Postgres 14 or newer runs there"
}

// server looks at what the server is, and whether it can be written to.
func (e *examination) server(ctx context.Context, pool *pgxpool.Pool, _ string) error {
	var (
		number             int
		version, encoding  string
		replica, refusing  bool
		nearest            = time.Hour
		unreadable, schema string
	)
	err := pool.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding'),
		pg_is_in_recovery(), current_setting('transaction_read_only')::bool, coalesce(current_schema(), '')`).
		Scan(&number, &version, &encoding, &replica, &refusing, &schema)
	if err != nil {
		return err
	}
	// A machine that is busy for a moment is not far away: what seems slow is asked more often, but not for so long that patience ends.
	for n, first := 0, time.Now(); n < 5 || n < 20 && nearest > slowAnswer && time.Since(first) < e.Patience/4; n++ {
		begun := time.Now()
		if err := pool.Ping(ctx); err != nil {
			return err
		}
		nearest = min(nearest, time.Since(begun))
	}
	version, _, _ = strings.Cut(version, " ") // without its packager's name
	e.serverVersion(number, version, nearest)
	if nearest > slowAnswer {
		e.found(Warning, "", Database, "it takes "+length(nearest)+" to ask the database anything",
			"run namebridge in the same network as its database")
	}
	if unencrypted(&pool.Config().ConnConfig.Config) {
		e.found(Warning, "", Database, "the way to the database need not be encrypted: whoever is in the network between can read the password and people's data",
			"add ?sslmode=verify-full to DATABASE_URL, with &sslrootcert=FILE where its certificate is not a public one's; require where nobody can come between")
	}
	if encoding != "UTF8" {
		e.found(Problem, "", Database, "the database has the encoding "+encoding+": names in other letters cannot be stored",
			"make a new one: createdb --encoding UTF8 --template template0")
	}
	switch {
	case replica:
		e.found(Problem, "", Database, "this Postgres is a read-only replica", "let DATABASE_URL name the primary")
	case refusing:
		e.found(Problem, "", Database, "transactions are read-only (default_transaction_read_only is on)",
			"ALTER DATABASE (or ROLE) … RESET default_transaction_read_only")
	case schema == "":
		e.found(Problem, "", Database, "search_path leads to no schema that this user may use",
			"CREATE SCHEMA, or GRANT USAGE ON SCHEMA public to it")
	default:
		err := pool.QueryRow(ctx, `SELECT coalesce(string_agg(c.relname::text, ', ' ORDER BY c.relname), '') FROM pg_class c
			WHERE c.relname = ANY($1) AND c.relkind = 'r' AND pg_table_is_visible(c.oid)
				AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
					AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))`,
			[]string{"bridges", "runs", "workers", "participants", "directory_users", "journal", "river_job"}).Scan(&unreadable)
		if err != nil {
			return err
		}
		if unreadable != "" {
			e.found(Problem, "", Database, "this user may not read and write all tables: "+unreadable,
				"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "+schema+" to it, or make it their owner")
		}
	}
	return nil
}

// unencrypted says whether passwords and people's data may go over a network as they are: also where encryption is only preferred, since whoever
// is in between can refuse that.
func unencrypted(c *pgconn.Config) bool {
	if c.TLSConfig == nil && remote(c.Host) {
		return true
	}
	return slices.ContainsFunc(c.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.TLSConfig == nil && remote(f.Host) })
}

// remote hosts are neither this machine nor a socket in its file system.
func remote(host string) bool { return !strings.HasPrefix(host, "/") && !config.Loopback(host) }

func (e *examination) serverVersion(number int, version string, nearest time.Duration) {
	if number/10000 < oldestPostgres {
		e.found(Problem, "", Database, fmt.Sprintf("Postgres %s is too old", version), fmt.Sprintf("use Postgres %d or newer", oldestPostgres))
		return
	}
	e.ok("", Database, "Postgres %s, answers in %s", version, length(nearest))
}

func (e *examination) clockOfDatabase(ctx context.Context, pool *pgxpool.Pool, _ string) error {
	var theirs time.Time
	begun, ours := time.Now(), e.Now()
	if err := pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&theirs); err != nil {
		return err
	}
	e.clock("", "the database's", theirs.Sub(ours.Add(time.Since(begun)/2)), "Schedules and the times that are shown follow one or the other")
	return nil
}

// connections looks whether there is room for as many connections as a process opens.
func (e *examination) connections(ctx context.Context, pool *pgxpool.Pool, _ string) error {
	var left int64
	// datname is what only sessions of users have, and what everybody may see of others'.
	err := pool.QueryRow(ctx, `SELECT least(
			current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - count(*),
			(SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()) - count(*) FILTER (WHERE datname = current_database()),
			(SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user) - count(*) FILTER (WHERE usename = current_user))
		FROM pg_stat_activity WHERE datname IS NOT NULL`).Scan(&left)
	if err != nil {
		return err
	}
	wanted := int64(pool.Config().MaxConns)
	if left < wanted {
		e.found(Warning, "", Connections, fmt.Sprintf("Postgres has %s left, and each process of namebridge opens up to %d", count(max(left, 0),
			"connection"), wanted),
			"raise max_connections (or the CONNECTION LIMIT of the role or database), or lower the pool with ?pool_max_conns= at the end of DATABASE_URL")
		return nil
	}
	e.ok("", Connections, "%s left, each process opens up to %d", count(left, "connection"), wanted)
	return nil
}

// settings looks whether what every connection asks for has taken effect: a pooler may have swallowed it.
func (e *examination) settings(ctx context.Context, pool *pgxpool.Pool, _ string) error {
	asked := pool.Config().ConnConfig.RuntimeParams
	var lost []string
	for _, name := range []string{"idle_in_transaction_session_timeout", "jit"} {
		var is string
		if err := pool.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&is); err != nil {
			return err
		}
		if is != asked[name] {
			lost = append(lost, fmt.Sprintf("%s is %s, not %s", name, is, asked[name]))
		}
	}
	if len(lost) > 0 {
		e.found(Warning, "", Sessions, "a connection pooler drops what every connection asks for: "+strings.Join(lost, "; ")+
			". A process that stalls within a transaction then keeps its locks", "ALTER ROLE … SET idle_in_transaction_session_timeout = '"+
			asked["idle_in_transaction_session_timeout"]+"'; ALTER ROLE … SET jit = off; or let DATABASE_URL name Postgres itself")
	}
	return nil
}

// notifications looks whether what one connection says reaches another that listens.
func (e *examination) notifications(ctx context.Context, pool *pgxpool.Pool, _ string) error {
	var replica bool
	if err := pool.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&replica); err != nil || replica {
		return err // a replica knows no LISTEN, and was reported
	}
	listener, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer listener.Release()
	channel := "namebridge_doctor_" + strings.ToLower(rand.Text())
	if _, err := listener.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, `SELECT pg_notify($1, '')`, channel); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, notifyWait)
	defer cancel()
	begun := time.Now()
	// The wait, when it ends, takes the connection with it.
	_, err = listener.Conn().WaitForNotification(wait)
	if err == nil {
		e.ok("", Sessions, "LISTEN and NOTIFY work (%s)", length(time.Since(begun)))
		_, err = listener.Exec(ctx, "UNLISTEN "+channel)
		return err
	}
	e.found(Problem, "", Sessions, "LISTEN and NOTIFY do not work: what one connection says does not reach another within "+length(notifyWait)+
		", as behind a pooler in transaction mode, which breaks session locks, too",
		"let DATABASE_URL name Postgres itself, or use the pooler in session mode (pool_mode = session)")
	return nil
}

// schema compares the migrations that the database has with those that this program knows.
func (e *examination) schema(ctx context.Context, pool *pgxpool.Pool, url string) error {
	const up = "namebridge migrate up; every command that needs the database does it by itself"
	var noted, mayCreate bool
	err := pool.QueryRow(ctx, `SELECT to_regclass('goose_db_version') IS NOT NULL, coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)`).
		Scan(&noted, &mayCreate)
	if err != nil {
		return err
	}
	var has, newest int64
	var pending int
	if noted { // asking for the list where nothing is noted yet would make the table for it
		if err := pool.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&has); err != nil {
			return err
		}
		if newest, pending, err = known(ctx, url); err != nil {
			return err
		}
	}
	switch {
	case !noted || pending > 0 && has == 0:
		e.found(Warning, "", Schema, "namebridge's tables are not there yet", up)
	case pending > 0:
		e.found(Warning, "", Schema, fmt.Sprintf("the schema is at version %d of %d: %s pending", has, newest, count(int64(pending),
			"migration")), up)
	case has > newest:
		e.found(Warning, "", Schema,
			fmt.Sprintf("an older program on a newer schema: the database is at version %d, this program knows %d", has, newest),
			"use the newer program that has made it; this one should work, but knows nothing of what is new")
		e.tables = true
	default:
		e.ok("", Schema, "version %d, nothing pending", has)
		e.tables = true
	}
	if !e.tables && !mayCreate {
		e.found(Problem, "", Schema, "this user may not make tables",
			"GRANT CREATE, USAGE ON SCHEMA public to it (Postgres 15 and newer grant it to nobody)")
	}
	return nil
}

// queue looks at River's jobs, which are all bridges'.
func (e *examination) queue(ctx context.Context) error {
	var there bool
	if err := e.db.QueryRow(ctx, `SELECT to_regclass('river_job') IS NOT NULL AND to_regclass('river_queue') IS NOT NULL`).Scan(&there); err != nil {
		return err
	}
	if !there {
		e.found(Problem, "", Queue, "the queue's tables (river_job, river_queue) are missing although their migration is noted",
			"restore the database from a backup, or make a new one: what BLN shows stays as it is")
		return nil
	}
	rows, err := e.db.Query(ctx, `SELECT state::text, count(*) FROM river_job WHERE state <> 'completed' GROUP BY state ORDER BY state::text`)
	if err != nil {
		return err
	}
	var jobs []string
	var discarded int64
	var s string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&s, &n}, func() error {
		jobs = append(jobs, fmt.Sprintf("%d %s", n, s))
		if s == "discarded" {
			discarded = n
		}
		return nil
	})
	if err != nil {
		return err
	}
	var waiting *time.Duration
	var paused []string
	err = e.db.QueryRow(ctx, `SELECT (SELECT now() - min(scheduled_at) FROM river_job WHERE state = 'available' AND scheduled_at <= now()),
		(SELECT array_agg(name ORDER BY name) FROM river_queue WHERE paused_at IS NOT NULL)`).Scan(&waiting, &paused)
	if err != nil {
		return err
	}
	text := "no job is waiting"
	if len(jobs) > 0 {
		text = "jobs: " + strings.Join(jobs, ", ")
	}
	if waiting != nil {
		text += "; the oldest waits for " + length(*waiting)
	}
	if waiting != nil && *waiting > overdue {
		e.found(Warning, "", Queue, text, "see whether a daemon is running (below); if one is, its log says what it does instead")
	} else {
		e.ok("", Queue, "%s", text)
	}
	if discarded > 0 {
		var kinds []string
		err := e.db.QueryRow(ctx, `SELECT array_agg(DISTINCT kind ORDER BY kind) FROM river_job WHERE state = 'discarded'`).Scan(&kinds)
		if err != nil {
			return err
		}
		e.found(Warning, "", Queue, fmt.Sprintf("%s given up after too many tries: %s", count(discarded, "job"), strings.Join(kinds, ", ")),
			"the daemon's log says why; nothing is lost: what is pending stands in the tables, and the next sweep finds it")
	}
	if len(paused) > 0 {
		e.found(Problem, "", Queue, "somebody has paused the queue: "+strings.Join(paused, ", "),
			"UPDATE river_queue SET paused_at = NULL, then restart the daemon")
	}
	return nil
}

// stored looks at what the database says of one bridge.
func (e *examination) stored(ctx context.Context, b config.Bridge) {
	ctx, cancel := context.WithTimeout(ctx, e.Patience)
	defer cancel()
	for _, look := range []func(context.Context, config.Bridge) error{e.standing, e.events, e.daemon} {
		if err := look(ctx, b); err != nil {
			e.found(Problem, b.Name, Bridge, "what is stored of the bridge cannot be read: "+trouble(err), "look into the log of the Postgres server")
			return
		}
	}
}

// standing looks at what stops a bridge, and at what was left behind.
func (e *examination) standing(ctx context.Context, b config.Bridge) error {
	if err := e.oneWriter(ctx, b); err != nil {
		return err
	}
	kept, err := state.GetBridge(ctx, e.db, b.Name)
	if errors.Is(err, state.ErrNotFound) {
		e.ok(b.Name, Bridge, "nothing was run yet. See what would happen: namebridge plan --bridge %s", b.Name)
		return nil
	}
	if err != nil {
		return err
	}
	quiet := true
	if b.BLNOrganizationID > 0 && kept.OrganizationID != b.BLNOrganizationID {
		known, err := state.WhatIsKnown(ctx, e.db, b.Name)
		if err != nil {
			return err
		}
		quiet = false
		e.otherOrganization(b, kept.OrganizationID, known)
	}
	if kept.HaltedAt != nil {
		quiet = false
		reason := ""
		if kept.HaltReason != nil {
			reason = ": " + *kept.HaltReason
		}
		e.report(Finding{
			Bridge: b.Name, Check: Bridge, Status: Problem, Stopped: true, Text: fmt.Sprintf("HALTED for %s%s", length(e.Now().Sub(*kept.HaltedAt)), reason),
			Cure: "look into it; then: namebridge resume --bridge " + b.Name + " --reason \"…\"",
		})
	}
	totals, err := state.CountTotals(ctx, e.db, b.Name)
	if err != nil {
		return err
	}
	for _, run := range totals.Quarantined {
		quiet = false
		e.report(Finding{
			Bridge: b.Name, Check: Bridge, Status: Problem, Stopped: true, Text: "QUARANTINED: run " + run + " would clear more people than the guard lets through",
			Cure: "namebridge runs show " + run + "; if it is right: namebridge runs approve " + run + " --reason \"…\" --bridge " + b.Name,
		})
	}
	var unsettled int64
	err = e.db.QueryRow(ctx, `SELECT count(*) FROM journal j JOIN directory_users d USING (bridge, user_id) WHERE bridge = $1 AND j.state = 'sending'
		AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.bridge = $1 AND w.owner = d.claim_owner AND w.heartbeat_at > now() - make_interval(secs => $2))`,
		b.Name, state.Lease).Scan(&unsettled)
	if err != nil {
		return err
	}
	if unsettled > 0 {
		quiet = false
		e.found(Warning, b.Name, Bridge, fmt.Sprintf("the outcome of %s is not known: a process ended on the way", count(unsettled, "write")),
			"the daemon looks into it by itself, and so does: namebridge backfill --bridge "+b.Name)
	}
	if err := e.cutOff(ctx, b); err != nil {
		return err
	}
	if quiet {
		e.ok(b.Name, Bridge, "neither halted nor quarantined; %s, %s, %d linked, %d pending", count(int64(totals.Participants), "participant"),
			count(int64(totals.Users), "user"),
			totals.Linked, totals.Pending)
	}
	return nil
}

// oneWriter looks whether another bridge, which nobody serves any more, has the organization.
func (e *examination) oneWriter(ctx context.Context, b config.Bridge) error {
	holder, err := state.BridgeOf(ctx, e.db, b.BLNOrganizationID, e.Config.Names())
	if holder != "" {
		e.found(Problem, b.Name, Bridge, fmt.Sprintf("the database holds organization %d for bridge %s: what was decided and done there is not known here",
			b.BLNOrganizationID, holder), "keep the name "+holder+" in BRIDGES; README.md, “Keep it running”, says how")
	}
	return err
}

// otherOrganization reports that BLN_ORGANIZATION_ID is not the stored one.
func (e *examination) otherOrganization(b config.Bridge, stored int64, known state.Knowledge) {
	text := fmt.Sprintf("the database holds this bridge for organization %d, and BLN_ORGANIZATION_ID is %d", stored, b.BLNOrganizationID)
	switch known {
	case state.KnowsNothing:
		e.ok(b.Name, Bridge, "%s. Nothing has come of the former number: the next command replaces it, unless a process still runs with it", text)
	case state.KnowsPeople:
		e.found(Problem, b.Name, Bridge, text, fmt.Sprintf("correct BLN_ORGANIZATION_ID. If %d is right: nothing of %d was ever seen, so "+
			"begin anew in an empty database, or in this one after: DELETE FROM bridges WHERE bridge = '%s'", b.BLNOrganizationID, stored, b.Name))
	default:
		e.found(Problem, b.Name, Bridge, text, "correct BLN_ORGANIZATION_ID, or give each organization a database, or a bridge, of its own")
	}
}

// cutOff reports users on whom a probe was begun and, so far, never ended.
func (e *examination) cutOff(ctx context.Context, b config.Bridge) error {
	rows, err := e.db.Query(ctx, `SELECT * FROM (SELECT DISTINCT ON (counts->>'user') (counts->>'user')::bigint, counts->>'left' AS remains FROM runs
		WHERE bridge = $1 AND kind = 'probe' ORDER BY counts->>'user', started_at DESC) last WHERE remains = 'true'`, b.Name)
	if err != nil {
		return err
	}
	users, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (user int64, err error) {
		return user, r.Scan(&user, nil)
	})
	if err != nil {
		return err
	}
	for _, user := range slices.DeleteFunc(users, func(u int64) bool { return u == e.Probe }) { // that one is about to be
		keys := probeKeys(b.OtherInfoKey)
		e.found(Warning, b.Name, Probe,
			fmt.Sprintf("the probe on user %d was cut off: %s and %s may still stand in its otherInfo", user, keys[0], keys[1]),
			fmt.Sprintf("namebridge doctor --bridge %s --probe-write %d takes them away", b.Name, user))
	}
	return nil
}

// daemon looks whether somebody is at work, and whether what is due was begun.
func (e *examination) daemon(ctx context.Context, b config.Bridge) error {
	var live int64
	var hosts []string
	var last *time.Duration
	err := e.db.QueryRow(ctx, `SELECT count(*) FILTER (WHERE fresh), coalesce(array_agg(DISTINCT host ORDER BY host) FILTER (WHERE fresh), '{}'),
			now() - max(heartbeat_at)
		FROM (SELECT host, heartbeat_at, heartbeat_at > now() - make_interval(secs => $2) AS fresh FROM workers WHERE bridge = $1) w`, b.Name, state.Lease).
		Scan(&live, &hosts, &last)
	if err != nil {
		return err
	}
	switch {
	case live > 0:
		e.ok(b.Name, Daemon, "%s at work, on %s; last heard of %s ago", count(live, "process"), plain(strings.Join(hosts, ", ")), length(*last))
	case last != nil:
		e.found(Warning, b.Name, Daemon, "no process is at work; the last one was heard of "+length(*last)+" ago", "start one: namebridge serve")
	default:
		e.found(Warning, b.Name, Daemon, "no process is at work: nothing is collected by itself", "start one: namebridge serve")
	}
	rows, err := e.db.Query(ctx, `SELECT kind, now() - due_at FROM schedules WHERE bridge = $1 AND due_at < now() - $2::interval ORDER BY due_at`,
		b.Name, overdue)
	if err != nil {
		return err
	}
	var kind string
	var late time.Duration
	_, err = pgx.ForEachRow(rows, []any{&kind, &late}, func() error {
		cure := "start a process: namebridge serve"
		if live > 0 {
			cure = "the log of the process at work says why; restart it if it says nothing"
		}
		e.found(Problem, b.Name, Daemon, fmt.Sprintf("a %s should have begun %s ago", kind, length(late)), cure)
		return nil
	})
	return err
}
