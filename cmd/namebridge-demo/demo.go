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

	"namebridge/internal/config"
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
	d := demo{every: changeEvery}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch namebridge do its main job on simulated people, and check what it did",
		Long: `Starts a private Postgres and both APIs on loopback, with people made from a seed, and runs the real namebridge beside this program:
first its plan, then its backfill. Then it looks at what stands in BLN, person by person, and says whether that is right. In the end it starts
namebridge serve, lets people on both sides change something every other second, and says what arrives in BLN, and how long that took.

On a terminal that goes on until Ctrl-C, and there is a file with the settings for trying more commands in another terminal. Elsewhere it
goes on for 20 s, or for as long as --for says, and until the last change has arrived; before that, it takes half a minute or so.

Nothing outside this machine is asked or changed, no account is needed, and nothing is left behind, whenever Ctrl-C comes.

With DATABASE_URL it uses that Postgres (14 or newer) instead of a private one: in a schema of its own, which is dropped at the end.

Exit codes: 0 all is as it should be · 1 something is not · 2 wrong usage.`,
		Example: `  namebridge-demo demo
  namebridge-demo demo --users 500 --seed 7
  namebridge-demo demo --for 5m`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.world.Users < 1 || d.world.Users > 200_000 {
				return usageError{fmt.Errorf("--users %d: give a number from 1 to 200000", d.world.Users)}
			}
			switch given := cmd.Flags().Changed("for"); {
			case given && d.lasting < time.Second:
				return usageError{fmt.Errorf("--for %v: give a time of 1s or more", d.lasting)}
			case !given && !isTerminal(cmd.OutOrStdout()):
				d.lasting = unwatched
			}
			d.postgres = strings.TrimSpace(os.Getenv("DATABASE_URL"))
			return d.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVar(&d.world.Users, "users", 5000, "people in the BLN organization")
	f.Uint64Var(&d.world.Seed, "seed", 1, "the same seed gives the same people")
	f.StringVar(&d.binary, "binary", "", "the namebridge to run (default: the one beside this program)")
	f.DurationVar(&d.lasting, "for", 0, "how long people change while namebridge serves (default: until Ctrl-C on a terminal, else 20s)")
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
	world    simulator.Options // Users and Seed
	binary   string
	postgres string        // DATABASE_URL of whoever starts the demo; "" = a private one
	every    time.Duration // how often somebody changes something
	lasting  time.Duration // for how long; 0 = until ctx ends
	patience time.Duration // how long a change may be on its way to BLN; 0 = as long as a world of that size may take

	out, log io.Writer
	sim      *simulator.Simulator
	settings []string // of namebridge: NAME=value
}

func (d *demo) run(ctx context.Context, out, log io.Writer) error {
	d.out, d.log = out, log
	if err := d.findBinary(); err != nil {
		return err
	}
	if err := d.show(ctx); err != nil {
		return err
	}
	fmt.Fprint(out, "\nEverything was stopped, and nothing is left behind.\n\n", next(os.Args[0]))
	return nil
}

// next are commands to be typed as the demo was, which is self: neither program need be on the PATH.
func next(self string) string {
	bridge := filepath.Join(filepath.Dir(self), "namebridge") // without a folder where self has none
	var text strings.Builder
	for i, line := range [][2]string{
		{self + " demo --help", "more people, others, for longer"},
		{self + " simulate", "both APIs alone, as unfriendly as you like"},
		{bridge + " config --help", "what it needs to know of your own accounts"},
		{bridge + " plan", "what it would do with them, writing nothing"},
	} {
		fmt.Fprintf(&text, "%-6s %-*s  %s\n", []string{"Next:", ""}[min(i, 1)], len(self+" demo --help"), line[0], line[1])
	}
	return text.String()
}

// show is the demo. When it returns, everything that it has started has ended.
func (d *demo) show(ctx context.Context) (err error) {
	fmt.Fprint(d.out, "namebridge carries people's name badges and recordings from NameCoach into BLN.\nHere both are simulated, on this machine; the namebridge is the real one.\n\n")
	database, stop, err := d.startDatabase(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	d.world.NameCoachLatency, d.world.BLNLatency = demoLatency, demoLatency
	// What namebridge may write: its fragment and, for a moment, what `doctor --probe-write` does.
	d.world.OwnKeys = []string{"namecoach", "namecoach_probe_kept", "namecoach_probe_left_out"}
	d.sim, err = simulator.New(d.world)
	if err != nil {
		return err
	}
	if err := d.sim.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.sim.Close()) }()
	before := d.look()
	fmt.Fprintf(d.out, "simulator  NameCoach with %s participants · BLN with %s users\n\n", grouped(before.truth.Totals.Participants), grouped(before.truth.Totals.Users))
	d.configure(database)

	for _, command := range []string{"plan", "backfill"} {
		fmt.Fprintf(d.out, "$ namebridge %s\n", command)
		if err := d.namebridge(ctx, d.out, command); err != nil {
			return interrupted(ctx, err)
		}
		fmt.Fprintln(d.out)
	}
	status, err := d.status(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	if err := d.summary(before, d.look(), status); err != nil {
		return err
	}
	return d.live(ctx)
}

// interrupted says so where the true cause is Ctrl-C.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted: everything was stopped, nothing is left behind")
	}
	return err
}

func (d *demo) findBinary() error {
	path := d.binary
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find namebridge: %w", err)
		}
		path = filepath.Join(filepath.Dir(self), "namebridge")
	}
	var err error
	if d.binary, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("find namebridge: %w", err)
	}
	info, err := os.Stat(d.binary)
	if err != nil || info.IsDir() || info.Mode().Perm()&0o111 == 0 {
		return usageError{fmt.Errorf("there is no program %s: build it there (make build), or name it with --binary", d.binary)}
	}
	return nil
}

// startDatabase gives the demo a database of its own, or a schema of its own in the one of DATABASE_URL.
func (d *demo) startDatabase(ctx context.Context) (address string, stop func() error, err error) {
	given := d.postgres
	if given == "" || given == config.Embedded {
		began := time.Now()
		server, err := postgres.Start(ctx, postgres.Options{})
		if err != nil {
			return "", nil, err
		}
		fmt.Fprintf(d.out, "postgres   private, %s, ready in %.1f s\n", server.Version(), time.Since(began).Seconds())
		return server.URL(), server.Stop, nil
	}
	u, err := url.Parse(given)
	if _, unreadable := pgx.ParseConfig(given); err != nil || unreadable != nil {
		return "", nil, usageError{errors.New("DATABASE_URL is not a URL like postgres://user:password@host/namebridge")} // the cause would print it
	}
	schema := fmt.Sprintf("namebridge_demo_%08x", rand.Uint32())
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
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
		return "", nil, fmt.Errorf("make a schema for the demo: %w", err)
	}
	fmt.Fprintf(d.out, "postgres   yours, of DATABASE_URL, in schema %s, which is dropped at the end\n", schema)
	return u.String(), func() error {
		if err := do(context.WithoutCancel(ctx), "DROP SCHEMA IF EXISTS "+schema+" CASCADE"); err != nil {
			return fmt.Errorf("drop schema %s: %w", schema, err)
		}
		return nil
	}, nil
}

// configure makes the settings of namebridge.
func (d *demo) configure(database string) {
	perSecond := max(leastPerSecond, float64(d.world.Users)*requestsPerUser/demoSeconds)
	d.settings = []string{
		"DATABASE_URL=" + database,
		"NAMECOACH_URL=" + d.sim.NameCoachURL(), "NAMECOACH_TOKEN=" + d.sim.Token(),
		"BLN_URL=" + d.sim.BLNURL(), fmt.Sprint("BLN_ORGANIZATION_ID=", d.sim.OrganizationID()),
		"BLN_USERNAME=" + d.sim.Username(), "BLN_PASSWORD=" + d.sim.Password(),
		fmt.Sprintf("BLN_REQUESTS_PER_SECOND=%.0f", perSecond),
		fmt.Sprint("COLLECT_SCHEDULE=@every ", collectEvery), fmt.Sprint("SWEEP_SCHEDULE=@every ", d.sweepEvery()),
		"WINDOW_LOOKBACK=20s", "WINDOW_SETTLE=1s", "LISTEN_ADDR=127.0.0.1:0", "LOG_FORMAT=text",
	}
}

// environment is the child's: ours, without any setting that a person may have exported for a real account.
func (d *demo) environment(ours []string) []string {
	env := slices.DeleteFunc(slices.Clone(ours), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return isSetting(strings.TrimSuffix(name, "_FILE"))
	})
	return append(env, d.settings...)
}

// isSetting is whether namebridge reads an environment variable of that name.
func isSetting(name string) bool {
	return slices.ContainsFunc(config.Variables, func(v config.Variable) bool { return v.Name == name })
}

// namebridge runs one command of the real program until it ends.
func (d *demo) namebridge(ctx context.Context, out io.Writer, args ...string) error {
	c := exec.CommandContext(ctx, d.binary, args...) //nolint:gosec // whoever starts the demo says which namebridge
	c.Env = d.environment(os.Environ())
	c.Stdout, c.Stderr = out, d.log
	// A process group of its own: Ctrl-C is for us, and what the child would finish first is thrown away with the servers anyway.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.WaitDelay = 10 * time.Second // a machine that stands still for a moment has cut off nothing
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
	truth  simulator.Truth
	stored map[int64]string // otherInfo by user
	users  []simulator.UserInfo
	right  int
}

func (d *demo) look() view {
	v := view{truth: d.sim.Truth(), stored: map[int64]string{}, users: d.sim.Users()}
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

	wrong := d.verdict(nil)
	if said.Synced != after.right || said.Pending != 0 || string(said.Halted) != "null" {
		wrong = append(wrong, fmt.Sprintf("namebridge believes that %s users are right and %s pending, but %s are right", grouped(said.Synced), grouped(said.Pending), grouped(after.right)))
	}
	for _, reason := range reasons {
		if said.Held[reason] != held[reason] {
			wrong = append(wrong, fmt.Sprintf("namebridge holds %d as %s; it should be %d", said.Held[reason], reason, held[reason]))
		}
	}
	d.examples(before, after)
	return complaint(wrong)
}

// verdict says what is not as it should be, after a look at everyone except those to whom something is still on its way.
func (d *demo) verdict(except map[int64]bool) (wrong []string) {
	intact := d.paint(green, "0")
	if lost := d.sim.LostUpdates(); len(lost) > 0 {
		intact = d.paint(red, "some, by "+count(len(lost), "write"))
		wrong = append(wrong, fmt.Sprintf("what is not namebridge's was lost or changed by %s, such as %s", count(len(lost), "write"), lost[0]))
	}
	if damage := d.sim.ForeignDamage(0); len(damage) > 0 {
		intact = d.paint(red, "some, of "+count(len(damage), "user"))
		wrong = append(wrong, fmt.Sprintf("what is not namebridge's is lost or changed in %s, such as %s", count(len(damage), "user"), damage[0]))
	}
	fmt.Fprintf(d.out, "  Foreign keys checked: %s. Lost or changed: %s.\n", grouped(d.sim.CountForeign()), intact)
	users, mismatches := d.sim.Users(), []string{}
	users = slices.DeleteFunc(users, func(u simulator.UserInfo) bool { return except[u.ID] })
	for _, u := range users {
		if text := d.sim.Mismatch(u.ID); text != "" {
			mismatches = append(mismatches, text)
		}
	}
	verdict := d.paint(green, "all are right")
	if len(mismatches) > 0 {
		verdict = d.paint(red, grouped(len(mismatches))+" are not right")
		wrong = append(wrong, fmt.Sprintf("%s: not what should stand there, such as %s", count(len(mismatches), "user"), mismatches[0]))
	}
	fmt.Fprintf(d.out, "  Users compared with what should be there: %s, %s.\n", grouped(len(users)), verdict)
	for _, what := range d.sim.Violations() {
		wrong = append(wrong, "impolite: "+what)
	}
	return wrong
}

// complaint is the error of what is wrong; nil for nothing.
func complaint(wrong []string) error {
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("not as it should be:\n  %s", strings.Join(wrong, "\n  "))
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
			fragment = ",\n            namecoach { " + fragmentKeys(after.stored[u.ID]) + " }"
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

// fragmentKeys lists the first keys of the fragment that have a value, and says that the others are there, too.
func fragmentKeys(otherInfo string) string {
	full, all := notNull(otherInfo), 0
	_ = eachMember(otherInfo, func(key string, value json.RawMessage) {
		if key == "namecoach" {
			all = len(topKeys(string(value)))
		}
	})
	if all > len(full) {
		return some(full, 3) + "; the others null"
	}
	return some(full, 3)
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
	bold  = "1"
)

// paint colours what matters, on a terminal, unless NO_COLOR says otherwise.
func (d *demo) paint(colour, text string) string {
	if !isTerminal(d.out) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// count writes "1 user" and "6,204 users".
func count(n int, of string) string {
	if n != 1 {
		of += "s"
	}
	return grouped(n) + " " + of
}
