package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"namebridge/internal/postgres"
	"namebridge/internal/simulator"
)

const (
	demoLatency = 3 * time.Millisecond
	// demoSeconds is about how long a plan and a backfill shall take together, when the machine is fast enough: long enough to watch.
	demoSeconds = 30
	// requestsPerUser is what plan and backfill together ask BLN for each user of the generated world: three for each one written.
	requestsPerUser = 2.5
	leastPerSecond  = 50
	maxKeys         = 100 // of an otherInfo (BLN 7463)
)

func demoCommand() *cobra.Command {
	var d demo
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch namebridge do its main job on simulated people, and check what it did",
		Long: `Starts a private Postgres and both APIs on loopback, with people made from a seed, and runs the real namebridge beside this program:
first its plan, then its backfill. Then it looks at what stands in BLN, person by person, and says whether that is right.

Nothing outside this machine is asked or changed, no account is needed, and nothing is left behind. It takes half a minute or so.

With DATABASE_URL it uses that Postgres (14 or newer) instead of a private one: in a schema of its own, which is dropped at the end.

Exit codes: 0 all is as it should be · 1 something is not · 2 wrong usage.`,
		Example: `  namebridge-demo demo
  namebridge-demo demo --users 500 --seed 7
  namebridge-demo demo --stay                     then try more commands of namebridge in another terminal`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.users < 1 || d.users > 200_000 {
				return usageError{fmt.Errorf("--users %d: give a number from 1 to 200000", d.users)}
			}
			return d.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVar(&d.users, "users", 5000, "people in the BLN organization")
	f.Uint64Var(&d.seed, "seed", 1, "the same seed gives the same people")
	f.StringVar(&d.binary, "binary", "", "the namebridge to run (default: the one beside this program)")
	f.BoolVar(&d.stay, "stay", false, "keep the servers and the database until Ctrl-C")
	return cmd
}

// reasons are those for which a first backfill can hold anybody.
var reasons = []string{"unmatched", "ambiguous", "conflict", "unwritable", "refused"}

var meaning = map[string]string{
	"unmatched":  "on NameCoach, but no user has their id or address",
	"ambiguous":  "one key of theirs is two users'",
	"conflict":   "their keys name two different users",
	"unwritable": "BLN would not take back the rest of their data",
	"refused":    "their link is not safe to write",
}

type demo struct {
	users  int
	seed   uint64
	binary string
	stay   bool

	out, log io.Writer
	sim      *simulator.Simulator
	settings []string // of namebridge, without DATABASE_URL
	database string
	own      string // search_path to add to DATABASE_URL; "" with the private Postgres
}

func (d *demo) run(ctx context.Context, out, log io.Writer) (err error) {
	d.out, d.log = out, log
	if err := d.findBinary(); err != nil {
		return err
	}
	fmt.Fprint(out, "namebridge carries people's name badges and recordings from NameCoach into BLN.\nHere both are simulated, on this machine; the namebridge is the real one.\n\n")
	stop, err := d.startDatabase(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	d.sim, err = simulator.New(simulator.Options{Seed: d.seed, Users: d.users, NameCoachLatency: demoLatency, BLNLatency: demoLatency})
	if err != nil {
		return err
	}
	if err := d.sim.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.sim.Close()) }()
	before := d.look()
	fmt.Fprintf(out, "simulator  NameCoach with %s participants · BLN with %s users\n\n", grouped(before.truth.Totals.Participants), grouped(before.truth.Totals.Users))
	d.configure()

	for _, command := range []string{"plan", "backfill"} {
		fmt.Fprintf(out, "$ namebridge %s\n", command)
		if err := d.namebridge(ctx, out, command); err != nil {
			return interrupted(ctx, err)
		}
		fmt.Fprintln(out)
	}
	status, err := d.status(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	if err := d.summary(before, d.look(), status); err != nil {
		return err
	}
	if d.stay {
		d.serve(ctx)
		return nil
	}
	fmt.Fprint(out, `
Next:  namebridge-demo demo --stay  the same, and it stays up; then try:
                                    namebridge status
                                    namebridge backfill     again: nothing to do
       namebridge-demo simulate     both APIs alone, as unfriendly as you like
       namebridge config --help     what it needs to know of your own accounts
       namebridge plan              what it would do with them, writing nothing
`)
	return nil
}

// interrupted says so where the true cause is Ctrl-C.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted: everything was stopped, nothing is left behind")
	}
	return err
}

func (d *demo) findBinary() error {
	if d.binary == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find namebridge: %w", err)
		}
		d.binary = filepath.Join(filepath.Dir(self), "namebridge")
	}
	info, err := os.Stat(d.binary)
	if err != nil || info.IsDir() || info.Mode().Perm()&0o111 == 0 {
		return usageError{fmt.Errorf("there is no program %s: build it there (make build), or name it with --binary", d.binary)}
	}
	return nil
}

// startDatabase gives the demo a database of its own, or a schema of its own in the one of DATABASE_URL.
func (d *demo) startDatabase(ctx context.Context) (stop func() error, err error) {
	given := strings.TrimSpace(os.Getenv("DATABASE_URL"))
	if given == "" || given == "embedded" {
		began := time.Now()
		server, err := postgres.Start(ctx, postgres.Options{})
		if err != nil {
			return nil, err
		}
		d.database = server.URL()
		fmt.Fprintf(d.out, "postgres   private, %s, ready in %.1f s\n", server.Version(), time.Since(began).Seconds())
		return server.Stop, nil
	}
	u, err := url.Parse(given)
	if _, unreadable := pgx.ParseConfig(given); err != nil || unreadable != nil {
		return nil, usageError{errors.New("DATABASE_URL is not a URL like postgres://user:password@host/namebridge")} // the cause would print it
	}
	schema := fmt.Sprintf("namebridge_demo_%08x", rand.Uint32())
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	d.database, d.own = u.String(), "search_path="+schema
	do := func(ctx context.Context, statement string) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		c, err := pgx.Connect(ctx, given)
		if err != nil {
			return fmt.Errorf("DATABASE_URL: %w", err)
		}
		_, err = c.Exec(ctx, statement)
		return errors.Join(err, c.Close(ctx))
	}
	if err := do(ctx, "CREATE SCHEMA "+schema); err != nil {
		return nil, fmt.Errorf("make a schema for the demo: %w", err)
	}
	fmt.Fprintf(d.out, "postgres   yours, of DATABASE_URL, in schema %s, which is dropped at the end\n", schema)
	return func() error {
		if err := do(context.WithoutCancel(ctx), "DROP SCHEMA IF EXISTS "+schema+" CASCADE"); err != nil {
			return fmt.Errorf("drop schema %s: %w", schema, err)
		}
		return nil
	}, nil
}

// configure makes the settings of namebridge.
func (d *demo) configure() {
	perSecond := max(leastPerSecond, float64(d.users)*requestsPerUser/demoSeconds)
	d.settings = []string{
		"NAMECOACH_URL=" + d.sim.NameCoachURL(), "NAMECOACH_TOKEN=" + d.sim.Token(),
		"BLN_URL=" + d.sim.BLNURL(), fmt.Sprint("BLN_ORGANIZATION_ID=", d.sim.OrganizationID()),
		"BLN_USERNAME=" + d.sim.Username(), "BLN_PASSWORD=" + d.sim.Password(),
		fmt.Sprintf("BLN_REQUESTS_PER_SECOND=%.0f", perSecond), "LOG_FORMAT=text",
	}
}

// environment is the child's: ours, without any setting that a person may have exported for a real account.
func (d *demo) environment(ours []string) []string {
	env := slices.DeleteFunc(slices.Clone(ours), func(v string) bool {
		return slices.ContainsFunc([]string{
			"NAMECOACH_", "BLN_", "OTHER_INFO_", "MATCH_BY", "LINK_HOSTS", "WINDOW_", "GUARD_", "LOG_", "BRIDGES", "DATABASE_URL", "ADMIN_PASSWORD_HASH", "LISTEN_ADDR",
			"COLLECT_SCHEDULE", "SWEEP_SCHEDULE", "CENSUS_", "JOURNAL_RETENTION",
		}, func(prefix string) bool { return strings.HasPrefix(v, prefix) })
	})
	return append(append(env, d.settings...), "DATABASE_URL="+d.database)
}

// namebridge runs one command of the real program until it ends.
func (d *demo) namebridge(ctx context.Context, out io.Writer, args ...string) error {
	c := exec.CommandContext(ctx, d.binary, args...) //nolint:gosec // whoever starts the demo says which namebridge
	c.Env = d.environment(os.Environ())
	c.Stdout, c.Stderr = out, d.log
	// A process group of its own: Ctrl-C is for us, and what the child would finish first is thrown away with the servers anyway.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.WaitDelay = time.Second
	if err := c.Run(); err != nil {
		return fmt.Errorf("namebridge %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// status is what namebridge itself says after all.
func (d *demo) status(ctx context.Context) (bridgeStatus, error) {
	var text strings.Builder
	if err := d.namebridge(ctx, &text, "status", "--output", "json"); err != nil {
		return bridgeStatus{}, err
	}
	var all struct {
		Bridges []bridgeStatus `json:"bridges"`
	}
	if err := json.Unmarshal([]byte(text.String()), &all); err != nil {
		return bridgeStatus{}, fmt.Errorf("namebridge status: its answer cannot be read: %w", err)
	}
	if len(all.Bridges) != 1 {
		return bridgeStatus{}, fmt.Errorf("namebridge status: it tells of %d bridges", len(all.Bridges))
	}
	return all.Bridges[0], nil
}

// bridgeStatus is the part of namebridge's status that the summary tells.
type bridgeStatus struct {
	Synced  int             `json:"synced"`
	Pending int             `json:"pending"`
	Halted  json.RawMessage `json:"halted"`
	Held    map[string]int  `json:"held"`
}

// view is the simulated world at one moment.
type view struct {
	truth   simulator.Truth
	foreign map[int64]string // digest of what is not namebridge's, by user
	keys    int              // foreign keys of all users together
	stored  map[int64]string // otherInfo by user
	users   []simulator.UserInfo
	right   int
}

func (d *demo) look() view {
	v := view{truth: d.sim.Truth(), foreign: d.sim.ForeignDigests(), keys: d.sim.CountForeign(), stored: map[int64]string{}, users: d.sim.Users()}
	for _, u := range v.users {
		v.stored[u.ID] = d.sim.UserOtherInfo(u.ID)
	}
	v.right = v.truth.Totals.Unchanged
	return v
}

// summary says what was done and whether it is right; an error where it is not.
func (d *demo) summary(before, after view, said bridgeStatus) error {
	w := d.out
	users := after.truth.Totals.Users
	fmt.Fprintf(w, "What the simulator saw, looking at everyone\n\n")
	fmt.Fprintf(w, "  %9s   users got their badge: coverage is %s (was %s)\n", grouped(after.right-before.right), percent(after.right, users), percent(before.right, users))
	held := after.truth.Totals.Held
	fmt.Fprintf(w, "  %9s   held: nobody is written on a guess\n", grouped(sum(held)))
	for _, reason := range reasons {
		if held[reason] > 0 {
			fmt.Fprintf(w, "  %15s %s: %s\n", grouped(held[reason]), reason, meaning[reason])
		}
	}
	fmt.Fprintf(w, "  %9s   users whom nobody on NameCoach can be linked to\n\n", grouped(users-after.truth.Totals.Linked))

	lost := 0
	for id, digest := range before.foreign {
		if after.foreign[id] != digest {
			lost++
		}
	}
	var wrong []string
	intact := d.paint(green, "0")
	if lost > 0 || after.keys != before.keys {
		intact = d.paint(red, fmt.Sprintf("some, of %s users", grouped(lost)))
		wrong = append(wrong, fmt.Sprintf("what is not namebridge's was lost or changed in %s users", grouped(lost)))
	}
	fmt.Fprintf(w, "  Foreign keys checked: %s. Lost or changed: %s.\n", grouped(before.keys), intact)
	mismatches, verdict := d.sim.Mismatches(0), d.paint(green, "all are right")
	if len(mismatches) > 0 {
		verdict = d.paint(red, grouped(len(mismatches))+" are not right")
		wrong = append(wrong, fmt.Sprintf("%s users are not as they should be, such as %s", grouped(len(mismatches)), mismatches[0]))
	}
	fmt.Fprintf(w, "  Users compared with what should be there: %s, %s.\n", grouped(users), verdict)
	if said.Synced != after.right || said.Pending != 0 || string(said.Halted) != "null" {
		wrong = append(wrong, fmt.Sprintf("namebridge believes that %s users are right and %s pending, but %s are right", grouped(said.Synced), grouped(said.Pending), grouped(after.right)))
	}
	for _, reason := range reasons {
		if said.Held[reason] != held[reason] {
			wrong = append(wrong, fmt.Sprintf("namebridge holds %d as %s; it should be %d", said.Held[reason], reason, held[reason]))
		}
	}
	for _, what := range d.sim.Violations() {
		wrong = append(wrong, "impolite: "+what)
	}
	d.examples(before, after)
	if len(wrong) > 0 {
		return fmt.Errorf("not as it should be:\n  %s", strings.Join(wrong, "\n  "))
	}
	return nil
}

// examples shows three people: one with a recording, one with a badge only, one who is held.
func (d *demo) examples(before, after view) {
	for _, kind := range []struct {
		title string
		is    func(simulator.UserTruth) bool
	}{
		{"badge and recording", func(t simulator.UserTruth) bool { return t.Fragment != nil && t.Fragment.RecordingLink != nil }},
		{"badge only", func(t simulator.UserTruth) bool { return t.Fragment != nil && t.Fragment.RecordingLink == nil }},
		{"held, unwritable", func(t simulator.UserTruth) bool { return t.Held == "unwritable" }},
	} {
		show := func(most int) int {
			return slices.IndexFunc(before.users, func(u simulator.UserInfo) bool {
				keys := topKeys(before.stored[u.ID])
				return kind.is(after.truth.Users[u.ID]) && plain(u.Name) && len(keys) > 0 && len(keys) <= most && !slices.Contains(keys, "namecoach")
			})
		}
		i := show(4)
		if i < 0 {
			i = show(maxKeys)
		}
		if i < 0 {
			continue // a small world does not have every kind
		}
		u := before.users[i]
		was, is := topKeys(before.stored[u.ID]), topKeys(after.stored[u.ID])
		fmt.Fprintf(d.out, "\n  %s (user %d): %s\n", u.Name, u.ID, kind.title)
		if truth := after.truth.Users[u.ID]; truth.Held != "" {
			fmt.Fprintf(d.out, "    why     BLN would refuse the rest of it: %s\n    before  otherInfo: %s\n    after   the same: nothing is dropped or bent to make it fit\n", truth.Why, some(was, 4))
			continue
		}
		fragment := ""
		if slices.Contains(is, "namecoach") {
			is = slices.DeleteFunc(is, func(key string) bool { return key == "namecoach" })
			fragment = ",\n            namecoach { " + some(notNull(after.stored[u.ID]), 3) + " }"
		}
		fmt.Fprintf(d.out, "    before  otherInfo: %s\n    after   otherInfo: %s%s\n", some(was, 4), some(is, 4), fragment)
	}
}

// some lists the first of keys.
func some(keys []string, most int) string {
	if len(keys) > most {
		keys = append(slices.Clone(keys[:most]), "…")
	}
	return strings.Join(keys, ", ")
}

// topKeys are the top-level keys of an object, in their order.
func topKeys(object string) []string {
	var keys []string
	_ = eachMember(object, func(key string, _ json.RawMessage) { keys = append(keys, key) })
	return keys
}

// notNull are the keys of the fragment that have a value.
func notNull(otherInfo string) []string {
	var keys []string
	_ = eachMember(otherInfo, func(key string, value json.RawMessage) {
		if key != "namecoach" {
			return
		}
		_ = eachMember(string(value), func(key string, value json.RawMessage) {
			if string(value) != "null" {
				keys = append(keys, key)
			}
		})
	})
	return keys
}

// eachMember walks an object in order; a map would forget the order.
func eachMember(object string, do func(string, json.RawMessage)) error {
	d := json.NewDecoder(strings.NewReader(object))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return errors.Join(err, errors.New("no object"))
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		do(key.(string), value)
	}
	return nil
}

// plain is whether a name looks well on every terminal.
func plain(name string) bool {
	strange := strings.ContainsFunc(name, func(r rune) bool { return r != ' ' && r != '-' && r != '\'' && !unicode.Is(unicode.Latin, r) })
	return !strange && strings.Contains(name, " ") && len(name) < 30
}

func sum(held map[string]int) int {
	n := 0
	for _, of := range held {
		n += of
	}
	return n
}

// percent never rounds to all or to nothing what is neither.
func percent(part, whole int) string {
	p := 100 * float64(part) / float64(max(whole, 1))
	if part > 0 && part < whole {
		p = min(max(p, 0.1), 99.9)
	}
	return fmt.Sprintf("%.1f %%", p)
}

const (
	red   = "31"
	green = "32"
)

// paint colours the verdict, on a terminal, unless NO_COLOR says otherwise.
func (d *demo) paint(colour, text string) string {
	f, ok := d.out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// serve keeps everything up, for those who want to try more.
func (d *demo) serve(ctx context.Context) {
	fmt.Fprint(d.out, "\nEverything stays until Ctrl-C. In another terminal:\n\n")
	for _, v := range d.settings {
		fmt.Fprintf(d.out, "  export %s\n", v)
	}
	database := fmt.Sprintf("'%s'", d.database)
	if d.own != "" { // its password is yours to know, and not to be shown
		joint := "?"
		if strings.Contains(os.Getenv("DATABASE_URL"), "?") {
			joint = "&"
		}
		database = `"$DATABASE_URL` + joint + d.own + `"`
	}
	fmt.Fprintf(d.out, `  export DATABASE_URL=%s

  %[2]s status       how it stands
  %[2]s backfill     once more: nothing to do
`, database, d.binary)
	<-ctx.Done()
	fmt.Fprintln(d.out)
}
