package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/sethvargo/go-envconfig"
	"github.com/spf13/cobra"

	"namebridge/internal/config"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// bridgeStatus is one bridge as `status --output json` shows it.
type bridgeStatus struct {
	Bridge       string               `json:"bridge"`
	Halted       *haltStatus          `json:"halted"`
	Quarantined  []string             `json:"quarantined"`
	Cursor       *time.Time           `json:"cursor"`
	LagSeconds   *float64             `json:"lag_seconds"`
	Participants int                  `json:"participants"`
	Users        int                  `json:"users"`
	Linked       int                  `json:"linked"`
	Synced       int                  `json:"synced"`
	Pending      int                  `json:"pending"`
	Held         bridgesync.Held      `json:"held"`
	Runs         []runStatus          `json:"runs"`
	Replicas     []replicaStatus      `json:"replicas"`
	Next         map[string]time.Time `json:"next"` // when runs of a kind are due, if a daemon serves

	asOf time.Time // the database's clock
	flag string    // " --bridge NAME" where there are several
	due  []state.Schedule
}

// replicaStatus is a process that takes part in the work.
type replicaStatus struct {
	Host   string    `json:"host"`
	Since  time.Time `json:"since"`
	Serves bool      `json:"serves"` // a daemon; else a command that ends with its run
}

type haltStatus struct {
	Since  time.Time  `json:"since"`
	Reason string     `json:"reason"`
	Run    *uuid.UUID `json:"run"`
}

type runStatus struct {
	Run       uuid.UUID       `json:"run"`
	Kind      state.Kind      `json:"kind"`
	Status    string          `json:"status"`
	StartedAt time.Time       `json:"started_at"`
	EndedAt   *time.Time      `json:"ended_at"`
	Counts    json.RawMessage `json:"counts"`
	Error     *string         `json:"error"`

	of state.Run
}

func newStatus(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show cursors, lag, coverage, holds by reason, last and next runs, and what is halted or quarantined",
		Long: `Shows how each bridge stands, and which processes work on it, from the database alone: no request is made, and DATABASE_URL is all it needs
(and BRIDGES, where there are several).`,
		Args: cobra.NoArgs,
	}
	output := outputFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.loadDatabase()
		if err != nil {
			return err
		}
		db, stop, err := a.openDatabase(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		defer stop()
		all := []bridgeStatus{}
		for _, b := range cfg.Bridges {
			s, err := readStatus(cmd.Context(), db, b.Name)
			if err != nil {
				return err
			}
			s.flag = several(cfg, b)
			all = append(all, s)
		}
		if *output == "json" {
			if err := json.NewEncoder(a.stdout).Encode(map[string]any{"bridges": all}); err != nil {
				return err
			}
		} else {
			for i, s := range all {
				if i > 0 {
					fmt.Fprintln(a.stdout)
				}
				s.print(a.stdout, a.lookuper)
			}
		}
		// Which events count is no business of the database. What else the environment lacks is none of status: it needs nothing more.
		whole, _ := config.Examine(a.lookuper)
		for _, b := range whole.Bridges {
			a.warnOfNobody(cmd.Context(), db, b)
		}
		return nil
	}
	return c
}

func readStatus(ctx context.Context, db *pgxpool.Pool, bridge string) (bridgeStatus, error) {
	s := bridgeStatus{Bridge: bridge, Quarantined: []string{}, Runs: []runStatus{}, Replicas: []replicaStatus{}, Next: map[string]time.Time{}}
	stored, err := state.GetBridge(ctx, db, bridge)
	if errors.Is(err, state.ErrNotFound) {
		return s, nil // nothing was run yet
	}
	if err != nil {
		return s, err
	}
	if stored.HaltedAt != nil {
		s.Halted = &haltStatus{Since: stored.HaltedAt.UTC(), Run: stored.HaltRun}
		if stored.HaltReason != nil {
			s.Halted.Reason = *stored.HaltReason
		}
	}
	totals, err := state.CountTotals(ctx, db, bridge)
	if err != nil {
		return s, err
	}
	s.Participants, s.Users, s.Linked, s.Synced, s.Pending = totals.Participants, totals.Users, totals.Linked, totals.Synced, totals.Pending
	s.Held, s.Quarantined = bridgesync.HeldByReason(totals.Held), totals.Quarantined
	if s.asOf, err = state.Now(ctx, db); err != nil {
		return s, err
	}
	cursor, err := state.GetCursor(ctx, db, bridge, state.ParticipantStream)
	if err == nil {
		until, lag := cursor.Until.UTC(), max(s.asOf.Sub(cursor.Until), 0).Round(time.Second).Seconds()
		s.Cursor, s.LagSeconds = &until, &lag
	} else if !errors.Is(err, state.ErrNotFound) {
		return s, err
	}
	replicas, err := state.Replicas(ctx, db, bridge)
	if err != nil {
		return s, err
	}
	for _, r := range replicas {
		s.Replicas = append(s.Replicas, replicaStatus{r.Host, r.Since.UTC(), r.Serves})
	}
	if s.due, err = state.Schedules(ctx, db, bridge); err != nil {
		return s, err
	}
	s.Next = nextRuns(s.due)
	runs, err := state.LastRuns(ctx, db, bridge)
	if err != nil {
		return s, err
	}
	for _, r := range runs {
		s.Runs = append(s.Runs, newRunStatus(r))
	}
	return s, nil
}

func (s bridgeStatus) print(w io.Writer, environment envconfig.Lookuper) {
	line := func(name, value string) { fmt.Fprintf(w, "  %-10s %s\n", name, strings.TrimSpace(value)) }
	fmt.Fprintf(w, "bridge %s\n", s.Bridge)
	if s.Halted != nil {
		fmt.Fprintf(w, "\n%s since %s\n%s\n", alarm(w, environment, "HALTED"), stamp(s.Halted.Since), s.Halted.Reason)
		if s.Halted.Run != nil {
			fmt.Fprintf(w, "Look:    namebridge runs show %s%s\n", s.Halted.Run.String()[:8], s.flag)
		}
		fmt.Fprintf(w, "Go on:   namebridge resume --reason \"…\"%s\n\n", s.flag)
	}
	for _, q := range s.Quarantined {
		fmt.Fprintf(w, "\n%s: run %s would take what more people have than the guard lets through; nobody has lost anything\n",
			alarm(w, environment, "QUARANTINED"), q[:8])
		fmt.Fprintf(w, "Look:    namebridge runs show %s%s\nApprove: namebridge runs approve %s --reason \"…\"%s\n\n", q[:8], s.flag, q[:8], s.flag)
	}
	if s.Cursor == nil && len(s.Runs) == 0 {
		fmt.Fprintf(w, "  nothing was run yet. See what would happen: namebridge plan%s\n", s.flag)
		line("served", s.served())
		return
	}
	line("coverage", coverage(s.Synced, s.Users))
	line("held", thousands(s.Held.Sum())+"   "+strings.Join(heldLines(s.Held), "\n"+strings.Repeat(" ", 16+len(thousands(s.Held.Sum())))))
	line("pending", thousands(s.Pending))
	line("NameCoach", count(s.Participants, noun{"participant", "participants"}))
	line("BLN", fmt.Sprintf("%s, %s linked", count(s.Users, noun{"user", "users"}), thousands(s.Linked)))
	if s.Cursor != nil {
		line("collected", fmt.Sprintf("up to %s, %s ago", stamp(*s.Cursor), ago(time.Duration(*s.LagSeconds*float64(time.Second)))))
	} else {
		line("collected", "nothing to the end yet")
	}
	line("served", s.served())
	if len(s.Next) > 0 {
		line("next", nextText(s.due))
	}
	if len(s.Runs) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	t.Style().Format.Header = text.FormatDefault
	t.AppendHeader(table.Row{"last run", "status", "started", "took", "id"})
	for _, r := range s.Runs {
		status := r.Status
		if r.of.Status == state.Quarantined && len(s.Quarantined) == 0 {
			status = "overtaken"
		}
		t.AppendRow(table.Row{r.Kind, status, stamp(begun(r.of)), took(r.of, s.asOf), r.Run.String()[:8]})
	}
	t.Render()
	for _, r := range s.Runs {
		if r.Error != nil {
			fmt.Fprintf(w, "\n  %s %s: %s\n", r.Kind, r.Status, problem(r.of))
		}
	}
}

// served says which processes work on the bridge.
func (s bridgeStatus) served() string {
	var daemons, commands []string
	for _, r := range s.Replicas {
		text := fmt.Sprintf("%s (since %s)", bridgesync.CleanText(r.Host), ago(max(s.asOf.Sub(r.Since), 0)))
		if r.Serves {
			daemons = append(daemons, text)
		} else {
			commands = append(commands, text)
		}
	}
	text := "by nobody: what is due is not started. Start the daemon: namebridge serve"
	if len(daemons) > 0 {
		text = "by " + count(len(daemons), noun{"daemon", "daemons"}) + ": " + strings.Join(daemons, ", ")
	}
	if len(commands) > 0 {
		text += "\n" + strings.Repeat(" ", 13) + "helped by " + count(len(commands), noun{"command", "commands"}) + ": " + strings.Join(commands, ", ")
	}
	return text
}
