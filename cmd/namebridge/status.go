package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"namebridge/internal/config"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// bridgeStatus is one bridge as `status --output json` shows it.
type bridgeStatus struct {
	Bridge       string          `json:"bridge"`
	Halted       *haltStatus     `json:"halted"`
	Quarantined  []string        `json:"quarantined"`
	Cursor       *time.Time      `json:"cursor"`
	LagSeconds   *float64        `json:"lag_seconds"`
	Participants int             `json:"participants"`
	Users        int             `json:"users"`
	Linked       int             `json:"linked"`
	Synced       int             `json:"synced"`
	Pending      int             `json:"pending"`
	Held         bridgesync.Held `json:"held"`
	Runs         []runStatus     `json:"runs"`
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
}

func newStatus(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show cursors, lag, coverage, holds by reason, last runs, and what is halted or quarantined",
		Args:  cobra.NoArgs,
	}
	output := outputFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(a.lookuper, config.Database)
		if err != nil {
			return err
		}
		db, stop, err := openDatabase(cmd.Context(), cfg)
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
			all = append(all, s)
		}
		if *output == "json" {
			return json.NewEncoder(a.stdout).Encode(map[string]any{"bridges": all})
		}
		for _, s := range all {
			s.print(a.stdout)
		}
		return nil
	}
	return c
}

func readStatus(ctx context.Context, db *pgxpool.Pool, bridge string) (bridgeStatus, error) {
	s := bridgeStatus{Bridge: bridge, Quarantined: []string{}, Runs: []runStatus{}}
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
	cursor, err := state.GetCursor(ctx, db, bridge, state.ParticipantStream)
	if err == nil {
		until, lag := cursor.Until.UTC(), time.Since(cursor.Until).Round(time.Second).Seconds()
		s.Cursor, s.LagSeconds = &until, &lag
	} else if !errors.Is(err, state.ErrNotFound) {
		return s, err
	}
	runs, err := state.LastRuns(ctx, db, bridge)
	if err != nil {
		return s, err
	}
	for _, r := range runs {
		one := runStatus{Run: r.Run, Kind: r.Kind, Status: string(r.Status), StartedAt: r.StartedAt.UTC(), EndedAt: r.EndedAt, Counts: r.Counts, Error: r.Error}
		if r.Status == state.Running && !r.Live {
			one.Status = "interrupted"
		}
		s.Runs = append(s.Runs, one)
	}
	return s, nil
}

func (s bridgeStatus) print(w io.Writer) {
	fmt.Fprintf(w, "bridge %s\n", s.Bridge)
	if s.Halted != nil {
		fmt.Fprintf(w, "\nHALTED since %s\n%s\nGo on:   namebridge resume --reason \"…\"\n\n", s.Halted.Since.Local().Format("2006-01-02 15:04:05"), s.Halted.Reason)
	}
	for _, q := range s.Quarantined {
		fmt.Fprintf(w, "QUARANTINED: run %s would clear more people than the guard lets through; nobody was cleared\n", q)
	}
	if s.Cursor == nil && len(s.Runs) == 0 {
		fmt.Fprintln(w, "  nothing was run yet. See what would happen: namebridge plan")
		return
	}
	line := func(name, value string) { fmt.Fprintf(w, "  %-13s %s\n", name, value) }
	if s.Cursor != nil {
		line("collected", fmt.Sprintf("up to %s, %s ago", s.Cursor.Local().Format("2006-01-02 15:04:05"), ago(time.Duration(*s.LagSeconds*float64(time.Second)))))
	} else {
		line("collected", "nothing yet")
	}
	line("NameCoach", thousands(s.Participants)+" participants")
	line("BLN", fmt.Sprintf("%s users, %s linked", thousands(s.Users), thousands(s.Linked)))
	coverage := "unknown: the directory was not listed yet"
	if s.Users > 0 {
		coverage = fmt.Sprintf("%.1f %%: %s users have the right badge", 100*float64(s.Synced)/float64(s.Users), thousands(s.Synced))
	}
	line("coverage", coverage)
	line("pending", thousands(s.Pending))
	line("held", fmt.Sprintf("%s   %s", thousands(s.Held.Sum()), heldWords(s.Held)))
	if len(s.Runs) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	t.AppendHeader(table.Row{"last run", "status", "started", "took", "run"})
	for _, r := range s.Runs {
		took := ""
		if r.EndedAt != nil {
			took = seconds(r.EndedAt.Sub(r.StartedAt).Seconds())
		}
		t.AppendRow(table.Row{r.Kind, r.Status, r.StartedAt.Local().Format("2006-01-02 15:04:05"), took, r.Run})
		if r.Error != nil {
			t.AppendRow(table.Row{"", *r.Error})
		}
	}
	t.Render()
}
