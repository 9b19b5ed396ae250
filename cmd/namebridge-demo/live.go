package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"namebridge/internal/config"
	"namebridge/internal/simulator"
)

const (
	collectEvery = 3 * time.Second
	changeEvery  = 1500 * time.Millisecond
	tellEvery    = 10 * time.Second      // how it stands
	lookEvery    = 50 * time.Millisecond // whether something has arrived
	unwatched    = 20 * time.Second      // how long people change where nobody watches
	// aside is how long simulated applications leave a user alone after namebridge's GET or PUT: longer than it takes between the two.
	aside = 10 * time.Second
	// lifeSeed makes the first changes of the first seed various.
	lifeSeed = 24
)

// sweepEvery leaves a large organization more time.
func (d *demo) sweepEvery() time.Duration {
	return (5*time.Second + time.Duration(d.world.Users)*time.Millisecond).Truncate(time.Second)
}

// happens are the changes that can be watched. Whom NameCoach deletes is not among them: it takes two censuses to believe that.
var happens = simulator.Weights{
	simulator.RecordsAnew: 12, simulator.RecordsFirst: 10, simulator.RemovesRecording: 4, simulator.JoinsNameCoach: 6, simulator.JoinsBLN: 5,
	simulator.CorrectsAddress: 2, simulator.ChangesExternalID: 1, simulator.LeavesBLN: 1, simulator.Merges: 1,
	simulator.OtherAppWrites: 3, simulator.FragmentOverwritten: 3, simulator.FragmentRemoved: 2,
}

// says are words for what happens that is not said well enough by its kind after the person's name.
var says = map[simulator.ChangeKind]string{
	simulator.JoinsBLN:            "%s is added to BLN, and is on NameCoach already",
	simulator.OtherAppWrites:      "another application edits %s",
	simulator.FragmentOverwritten: "another application overwrites the badge of %s",
	simulator.FragmentRemoved:     "another application removes the badge of %s",
}

// inBLN happens there, and is found by a sweep. Everything else happens on NameCoach.
var inBLN = []simulator.ChangeKind{
	simulator.JoinsBLN, simulator.ChangesExternalID, simulator.LeavesBLN, simulator.Merges,
	simulator.OtherAppWrites, simulator.FragmentOverwritten, simulator.FragmentRemoved,
}

// watching is what is seen of people who change while namebridge serves.
type watching struct {
	*demo
	life    *simulator.Life
	began   time.Time
	changes int
	onWay   []onWay
	took    []time.Duration // of the changes that have arrived
}

// onWay is a change that has not arrived in BLN.
type onWay struct {
	simulator.Change
	since time.Time
	late  bool // and that was said
}

// live runs the daemon while people change, until ctx or the time for it ends, and says what has arrived.
func (d *demo) live(ctx context.Context) (err error) {
	fmt.Fprint(d.out, "\nNow it stays, and people change\n\n$ namebridge serve\n")
	dir, err := os.MkdirTemp("", "namebridge-demo-")
	if err != nil {
		return fmt.Errorf("a folder for the log of namebridge serve: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	environment := filepath.Join(dir, "env")
	if err := os.WriteFile(environment, []byte(d.exports()), 0o600); err != nil {
		return fmt.Errorf("a file with the settings: %w", err)
	}
	s, err := d.serve(ctx, dir)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	d.invite(s, environment)

	if d.patience == 0 {
		d.patience = 30*time.Second + 3*d.sweepEvery()
	}
	w := &watching{demo: d, life: d.sim.Life(simulator.LifeOptions{Seed: d.world.Seed + lifeSeed, Weights: happens, Avoid: aside}), began: time.Now()}
	if err := w.watch(ctx, s); err != nil {
		return err
	}
	lasted, stopping := time.Since(w.began), time.Now()
	if err := s.stop(); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nserve got SIGTERM, finished what was on its way, and ended with exit code 0 after %s.\n\n", span(max(time.Since(stopping), 100*time.Millisecond)))
	return w.conclude(context.WithoutCancel(ctx), lasted)
}

// exports is a file for a shell: the settings, and none of those that a person may have exported for a real account.
func (d *demo) exports() string {
	quoted := func(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
	var text strings.Builder
	text.WriteString("# Settings of a namebridge-demo that runs at the moment, to be read by a shell: . this file\nunset")
	for _, v := range config.Variables {
		text.WriteString(" " + v.Name)
		if v.Secret {
			text.WriteString(" " + v.Name + "_FILE")
		}
	}
	for _, setting := range d.settings {
		name, value, _ := strings.Cut(setting, "=")
		text.WriteString("\nexport " + name + "=" + quoted(value))
	}
	text.WriteString("\nexport PATH=" + quoted(filepath.Dir(d.binary)) + ":\"$PATH\"\n")
	return text.String()
}

// invite says where to look, and what else there is to try.
func (d *demo) invite(s *serving, environment string) {
	ends := "Ctrl-C stops it."
	if d.lasting > 0 {
		ends = fmt.Sprintf("It ends by itself after %s, when all has arrived; Ctrl-C stops it before.", span(d.lasting))
	}
	fmt.Fprintf(d.out, `  It asks NameCoach every %.0f s what is new, and sweeps all of BLN every %.0f s.
  %[3]s/readyz    whether it works
  %[3]s/metrics   what it counts, for Prometheus

  In another terminal:

    . %[4]s
    namebridge status       how it stands
    namebridge runs list    what it did
    namebridge holds list   who is not written, and why
    namebridge doctor       whether anything stands in its way
    tail -f %[5]s

    make dashboard ADDRESS=%[6]s   the dashboards, in the browser

  %[7]s

`, collectEvery.Seconds(), d.sweepEvery().Seconds(), s.http, environment, s.log, strings.TrimPrefix(s.http, "http://"), d.paint(bold, ends))
}

// watch lets people change and says what arrives. Its error is that serve has ended.
func (w *watching) watch(ctx context.Context, s *serving) error {
	change, look, tell := time.NewTicker(w.every), time.NewTicker(lookEvery), time.NewTicker(tellEvery)
	defer change.Stop()
	defer look.Stop()
	defer tell.Stop()
	var end <-chan time.Time
	if w.lasting > 0 {
		end = time.After(w.lasting)
	}
	ending := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ended:
			return s.died()
		case <-end:
			ending = true
			change.Stop()
		case <-change.C:
			w.change()
		case <-tell.C:
			w.tell()
		case <-look.C:
			w.arrivals()
		}
		if ending && !slices.ContainsFunc(w.onWay, func(o onWay) bool { return !o.late }) {
			return nil
		}
	}
}

func (w *watching) say(at time.Time, where, what string) {
	fmt.Fprintf(w.out, "  %s  %s  %s\n", at.Format(time.TimeOnly), where, what)
}

// change lets somebody change something.
func (w *watching) change() {
	at := time.Now()
	c, ok := w.life.Next()
	if !ok {
		return // everybody was just visited
	}
	w.changes++
	where, note := "NameCoach", ""
	if slices.Contains(inBLN, c.Kind) {
		where = "BLN      "
	}
	switch {
	case len(c.Users) > 0:
		w.onWay = append(w.onWay, onWay{Change: c, since: at})
	case c.Kind == simulator.OtherAppWrites:
		note = " · stays as it is"
	default:
		note = " · nothing to write"
	}
	w.say(at, where, said(c)+note)
}

// said is what happens, in a few words.
func said(c simulator.Change) string {
	text, ok := says[c.Kind]
	if !ok {
		text = "%s " + string(c.Kind)
	}
	return fmt.Sprintf(text, who(c))
}

// who is the name of the person in a line.
func who(c simulator.Change) string {
	name := []rune(strings.Join(strings.Fields(c.Name), " "))
	switch {
	case len(name) == 0:
		return "somebody"
	case len(name) > 30:
		return string(name[:29]) + "…"
	}
	return string(name)
}

// has is what stands in BLN of a user.
func (d *demo) has(id int64) string {
	keys := notNull(d.sim.UserOtherInfo(id))
	badge, recording := slices.Contains(keys, "name_badge_link"), slices.Contains(keys, "recording_link")
	switch {
	case badge && recording:
		return "badge and recording"
	case recording:
		return "recording only"
	case badge:
		return "badge only"
	}
	return "no badge"
}

// arrivals says what has arrived since it was last asked, and what takes too long.
func (w *watching) arrivals() {
	now := time.Now()
	before := len(w.onWay)
	w.onWay = slices.DeleteFunc(w.onWay, func(o onWay) bool {
		if slices.ContainsFunc(o.Users, func(id int64) bool { return w.sim.Mismatch(id) != "" }) {
			return false
		}
		w.arrived(o, now)
		return true
	})
	if before > 0 && len(w.onWay) == 0 {
		w.life.Settled()
	}
	for i := range w.onWay {
		if o := &w.onWay[i]; !o.late && now.Sub(o.since) > w.patience {
			o.late = true
			w.say(now, w.paint(red, "not yet  "), fmt.Sprintf("%s: not in BLN after %s", said(o.Change), span(w.patience)))
		}
	}
}

func (w *watching) arrived(o onWay, now time.Time) {
	took := now.Sub(o.since)
	w.took = append(w.took, took)
	user := o.Users[0]
	if slices.Contains(o.Users, o.User) {
		user = o.User
	}
	w.say(now, w.paint(green, " → in BLN"), fmt.Sprintf("%s: %s, after %s", who(o.Change), w.has(user), span(took)))
}

// tell is how it stands, in a line.
func (w *watching) tell() {
	w.say(time.Now(), w.paint(bold, "so far   "), fmt.Sprintf("%s badges · %d of %d arrived%s",
		grouped(w.sim.Truth().Totals.Unchanged), len(w.took), len(w.took)+len(w.onWay), w.times()))
}

// times are the median and the slowest arrival.
func (w *watching) times() string {
	if len(w.took) == 0 {
		return ""
	}
	sorted := slices.Sorted(slices.Values(w.took))
	return fmt.Sprintf(" · median %s, slowest %s", span(sorted[len(sorted)/2]), span(sorted[len(sorted)-1]))
}

// conclude says what came of all changes, and whether everything is as it should be; an error where it is not.
func (w *watching) conclude(ctx context.Context, lasted time.Duration) error {
	w.arrivals()
	var wrong []string
	except, late := map[int64]bool{}, 0
	for _, o := range w.onWay {
		for _, id := range o.Users {
			except[id] = true
		}
		if o.late {
			late++
		}
	}
	fmt.Fprintf(w.out, "  In %s %s, %d of them to be carried to BLN.\n  Arrived: %d of %d%s.\n",
		span(lasted), count(w.changes, "change"), len(w.took)+len(w.onWay), len(w.took), len(w.took)+len(w.onWay), w.times())
	if n := len(w.onWay) - late; n > 0 {
		fmt.Fprintf(w.out, "  %s still on the way when it was stopped: the next start would carry on.\n", count(n, "change"))
	}
	if late > 0 {
		wrong = append(wrong, fmt.Sprintf("%s did not arrive within %s", count(late, "change"), span(w.patience)))
	}
	wrong = append(wrong, w.verdict(except)...)
	status, err := w.status(ctx)
	if err != nil {
		return err
	}
	if string(status.Halted) != "null" {
		wrong = append(wrong, "namebridge has halted: "+string(status.Halted))
	}
	return complaint(wrong)
}

// span writes a span of time as people say it.
func span(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}
