package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"namebridge/internal/config"
	"namebridge/internal/doctor"
)

func newDoctor(a *app) *cobra.Command {
	var user int64
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check configuration, database, schema, queue, both sign-ins, privileges and clocks, and say how to mend what is wrong",
		Long: `Looks at everything that a bridge needs, as far as it can be looked at: what is wrong in one place does not hide what is wrong in
another. Each finding is one line, ok, warning or problem; what is not ok names its cure. It asks NameCoach one question and BLN five or six.
Nothing is changed, also not the schema; with DATABASE_URL=embedded the private Postgres is started, as by every command.

--probe-write USER_ID proves on a test user whether BLN replaces or merges otherInfo. It writes two keys of its own beside everything that is
there, leaves one of them out of the next write, looks whether it is gone, puts back what was there, and checks that. No key of anybody else is
ever left out of a write. USER_ID is the user.id of a member, not the id of the row in the list of users.

Exit codes: 0 all is well, or warnings only · 1 a problem · 2 a problem with the configuration, or wrong usage · 3 a bridge is halted or a run
quarantined.`,
		Example: "  namebridge doctor\n  namebridge doctor --output json\n  namebridge doctor --probe-write 12",
		Args:    cobra.NoArgs,
	}
	output, bridge := outputFlag(c), bridgeFlag(c)
	c.Flags().Int64Var(&user, "probe-write", 0, "the user.id of a test user on whom to prove whether BLN merges or replaces")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		usage := func(format string, args ...any) error {
			return usageError{fmt.Errorf(format+"\n\nHelp: %s --help", append(args, cmd.CommandPath())...)}
		}
		cfg, problems := config.Examine(a.lookuper, config.Database)
		names := cfg.Names()
		probe := cmd.Flags().Changed("probe-write")
		switch {
		case *bridge != "" && !slices.Contains(names, *bridge):
			return usage("there is no bridge %q; the bridges are: %s", *bridge, strings.Join(names, ", "))
		case probe && user <= 0:
			return usage("--probe-write %d is no user.id: it is a whole number above 0", user)
		case probe && *bridge == "" && len(names) > 1:
			return usage("several bridges are configured; name the one to probe with --bridge: %s", strings.Join(names, ", "))
		}
		list := chart{app: a, several: len(names) > 1 && *bridge == "", table: *output != "json", width: 14}
		if list.several {
			for _, name := range names {
				list.width = max(list.width, len(name+" "+doctor.Configuration))
			}
		}
		doctor.Run(cmd.Context(), doctor.Options{
			Config: cfg, Problems: problems, Strangers: doctor.Strangers(a.lookuper), Bridge: *bridge, Probe: user,
			Database: func(ctx context.Context) (string, func(), error) {
				if cfg.DatabaseURL.Reveal() == config.Embedded {
					return a.startPostgres(ctx)
				}
				return cfg.DatabaseURL.Reveal(), func() {}, nil
			},
		}, list.add)
		return list.end(cmd.Context(), commandLine(cmd))
	}
	return c
}

// chart is what the doctor found so far.
type chart struct {
	*app
	several, table bool
	width          int // of what is said to be looked at
	findings       []doctor.Finding
}

// add takes a finding, and shows it at once: some take their time.
func (c *chart) add(f doctor.Finding) {
	c.findings = append(c.findings, f)
	if !c.table {
		return
	}
	status, where := fmt.Sprintf("%-7s", f.Status), f.Check
	if f.Status == doctor.Problem {
		status = alarm(c.stdout, c.lookuper, status)
	}
	if c.several && f.Bridge != "" {
		where = f.Bridge + " " + where
	}
	fmt.Fprintf(c.stdout, "  %s  %-*s %s\n", status, c.width, where, f.Text)
	if f.Cure != "" {
		fmt.Fprintf(c.stdout, "  %-7s  %-*s → %s\n", "", c.width, "", f.Cure)
	}
}

// end prints what it all comes to; the error is the exit code.
func (c *chart) end(ctx context.Context, command string) error {
	n := map[doctor.Status]int{}
	code := exitDone
	for _, f := range c.findings {
		n[f.Status]++
		switch {
		case f.Status == doctor.Problem && f.Check == doctor.Configuration:
			code = exitUsage // nothing else runs before that is mended
		case f.Stopped && code != exitUsage:
			code = exitLook
		case f.Status == doctor.Problem && code == exitDone:
			code = exitFailed
		}
	}
	interrupted := ctx.Err() != nil
	if interrupted && code == exitDone {
		code = exitFailed
	}
	switch {
	case !c.table:
		if c.findings == nil {
			c.findings = []doctor.Finding{}
		}
		if err := json.NewEncoder(c.stdout).Encode(map[string]any{"ok": code == exitDone, "findings": c.findings}); err != nil {
			return fmt.Errorf("write the findings: %w", err)
		}
	case interrupted:
	case len(c.findings) == n[doctor.OK]:
		fmt.Fprintf(c.stdout, "\nAll is well.\n")
	default:
		fmt.Fprintf(c.stdout, "\n%s, %s. After mending: %s\n", count(n[doctor.Problem], noun{"problem", "problems"}),
			count(n[doctor.Warning], noun{"warning", "warnings"}), command)
	}
	if interrupted {
		fmt.Fprintf(c.stderr, "namebridge: interrupted: what was not looked at yet is not known.\n")
	}
	if code == exitDone {
		return nil
	}
	return exit(code)
}
