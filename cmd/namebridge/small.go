package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"namebridge/internal/config"
	"namebridge/internal/doctor"
	"namebridge/migrations"
	"namebridge/state"
)

func newVersion(a *app) *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Print version and commit", Args: cobra.NoArgs}
	output := outputFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		if *output == "json" {
			return json.NewEncoder(a.stdout).Encode(map[string]string{"version": version, "commit": commit})
		}
		_, err := fmt.Fprintf(a.stdout, "namebridge %s (%s)\n", version, commit)
		return err
	}
	return c
}

func newConfig(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Check the configuration",
		Long: `Checks the environment and names everything that is wrong with it. Of a variable that looks as if it were one of these, misspelt, it warns, as
every command does.

` + config.Help(),
		Args: cobra.NoArgs,
	}
	output := outputFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		cfg, problems := config.Examine(a.lookuper, config.Database)
		a.warnOfStrangers()
		if *output == "json" {
			type problem struct {
				Variable string `json:"variable"`
				Text     string `json:"text"`
			}
			bridges, wrong, doubtful := cfg.Names(), []problem{}, []problem{}
			if problems != nil {
				for _, p := range problems.List {
					wrong = append(wrong, problem(p))
				}
			}
			for _, s := range doctor.Strangers(a.lookuper) {
				doubtful = append(doubtful, problem{s.Name, s.Text()})
			}
			err := json.NewEncoder(a.stdout).Encode(map[string]any{"ok": problems == nil, "bridges": bridges, "problems": wrong, "warnings": doubtful})
			if err != nil {
				return fmt.Errorf("write the problems: %w", err)
			}
		}
		if problems != nil {
			return problems
		}
		if *output == "json" {
			return nil
		}
		_, err := fmt.Fprintf(a.stdout, "The configuration of %s is in order.\n", count(len(cfg.Bridges), noun{"bridge", "bridges"}))
		return err
	}
	return c
}

func newMigrate(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database schema up to date, or show it",
		Long: `Every command that needs the database migrates it first; this is for those who want to do it by itself. It needs DATABASE_URL
only.

With DATABASE_URL=embedded the data is in $XDG_DATA_HOME/namebridge; without XDG_DATA_HOME in ~/.local/share/namebridge, as root in
/var/lib/namebridge.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	up := &cobra.Command{Use: "up", Short: "Bring the schema up to date; several at once are safe", Args: cobra.NoArgs}
	up.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.loadDatabase()
		if err != nil {
			return err
		}
		_, stop, err := a.openDatabase(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		defer stop()
		_, err = fmt.Fprintln(a.stdout, "The database schema is up to date.")
		return err
	}
	status := &cobra.Command{Use: "status", Short: "Show which migrations the database has; changes nothing", Args: cobra.NoArgs}
	output := outputFlag(status)
	status.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.loadDatabase()
		if err != nil {
			return err
		}
		_, url, stop, err := a.connect(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		defer stop()
		all, err := migrations.List(cmd.Context(), url)
		if err != nil {
			return &databaseError{err}
		}
		if *output == "json" {
			return json.NewEncoder(a.stdout).Encode(map[string]any{"migrations": all})
		}
		for _, m := range all {
			word := "missing"
			if m.Applied {
				word = "applied"
			}
			if m.Unknown {
				m.Name += ", by a newer program: this one works on it, and knows nothing of what is new"
			}
			if _, err := fmt.Fprintf(a.stdout, "  %-8s %s\n", word, m.Name); err != nil {
				return err
			}
		}
		return nil
	}
	c.AddCommand(up, status)
	return c
}

func newResume(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "resume",
		Short: "Lift a halt, with a reason, which is recorded",
		Long: `A bridge halts when BLN lost or changed data that is not ours while a person was written. After you have looked into it,
this lets writing go on: where a daemon serves the bridge, by itself. It needs DATABASE_URL only (and BRIDGES, where there are several).`,
		Example: `  namebridge resume --reason "BLN confirmed and mended it, ticket 4711"`,
		Args:    cobra.NoArgs,
	}
	bridge, reason := bridgeFlag(c), reasonFlag(c, "why it is safe to go on")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		why, err := reason()
		if err != nil {
			return err
		}
		cfg, err := a.loadDatabase()
		if err != nil {
			return err
		}
		chosen, err := chooseBridge(cfg, *bridge)
		if err != nil {
			return err
		}
		db, stop, err := a.openDatabase(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		defer stop()
		ctx := cmd.Context()
		err = state.Resume(ctx, db, chosen.Name, why)
		if errors.Is(err, state.ErrNotFound) {
			_, err = fmt.Fprintf(a.stdout, "Bridge %s is not halted: nothing to do.\n", chosen.Name)
			return err
		}
		if err != nil {
			return err
		}
		replicas, err := state.Replicas(ctx, db, chosen.Name)
		if err != nil {
			return err
		}
		next := "Bring it up to date: namebridge backfill" + several(cfg, chosen)
		if slices.ContainsFunc(replicas, func(r state.Replica) bool { return r.Serves }) {
			next = "The daemon writes what is pending within seconds, and starts what is due."
		}
		_, err = fmt.Fprintf(a.stdout, "Bridge %s goes on. %s\n", chosen.Name, next)
		return err
	}
	return c
}
