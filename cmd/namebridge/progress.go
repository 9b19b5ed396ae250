package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"namebridge/internal/httpapi"
	bridgesync "namebridge/sync"
)

const (
	// lineEvery is how often a phase says how far it is where nobody watches a bar.
	lineEvery = 10 * time.Second
	// etaAfter is how long a phase must have run before its pace says anything about its end.
	etaAfter = time.Second
	barWidth = 12
)

// progress shows how far a run is, phase after phase: bars with the time left on a terminal, a line now and then elsewhere.
type progress struct {
	title    string
	first    bridgesync.Phase         // shown before the run has reported anything
	expected map[bridgesync.Phase]int // what is known of phases that cannot tell their total by themselves
	asked    atomic.Int64             // requests of this process to NameCoach
	every    time.Duration

	writing sync.Mutex // to out: log lines come from everywhere
	out     io.Writer
	bars    *mpb.Progress // nil: no terminal
	paused  atomic.Bool   // the bars are over; out may be written to directly

	mu      sync.Mutex
	current *phase
	since   time.Time // when the last phase ended: what comes until the next one is heard of is its waiting for a first answer
	stop    chan struct{}
	ticking sync.WaitGroup
}

// phase is one phase as it is shown. Its look changes by exchange of snapshots: mpb draws on goroutines of its own.
type phase struct {
	name    bridgesync.Phase
	started time.Time
	unseen  bool // it was over when it was first heard of
	bar     *mpb.Bar
	look    atomic.Pointer[look]
}

type look struct {
	done, total int
	about       bool // the total is what it was last time
	ended       time.Time
	stopped     bool // the run ended before the phase did
}

// newProgress writes to w.
func newProgress(w io.Writer, title string, first bridgesync.Phase) *progress {
	p := &progress{title: title, out: w, every: lineEvery, first: first, expected: map[bridgesync.Phase]int{}, stop: make(chan struct{})}
	if isTerminal(w) {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(barWidth))
	}
	return p
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// start shows the first phase, so that a slow first answer does not look like nothing.
func (p *progress) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(p.first, 0)
	if p.bars != nil {
		return
	}
	p.ticking.Go(func() {
		tick := time.NewTicker(p.every)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.mu.Lock()
				p.line(p.current)
				p.mu.Unlock()
			}
		}
	})
}

// Write lets log lines pass above the bars.
func (p *progress) Write(b []byte) (int, error) {
	if p.bars != nil && !p.paused.Load() {
		if n, err := p.bars.Write(b); err == nil {
			return n, nil
		}
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	return p.out.Write(b)
}

// count is told each request of this process.
func (p *progress) count(o httpapi.Observation) {
	if o.API == "namecoach" {
		p.asked.Add(1)
	}
}

// show is called by the run, from several goroutines.
func (p *progress) show(x bridgesync.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused.Load() {
		return
	}
	if _, shown := nouns[x.Phase]; !shown {
		return
	}
	if p.current == nil || p.current.name != x.Phase {
		p.finish(false)
		p.begin(x.Phase, x.Total)
		p.current.unseen = x.Over
	}
	now := *p.current.look.Load()
	if x.Done < now.done {
		return // a later report overtook this one
	}
	now.done = x.Done
	if x.Total > 0 {
		now.total, now.about = max(x.Total, x.Done), false
	} else if now.done > now.total {
		now.total = 0 // more than last time: nobody knows how many
	}
	p.current.look.Store(&now)
	if b := p.current.bar; b != nil {
		b.SetTotal(int64(max(now.total, now.done)), false)
		b.SetCurrent(int64(now.done))
	}
	if x.Over {
		p.finish(false)
	}
}

func (p *progress) begin(name bridgesync.Phase, total int) {
	c := &phase{name: name, started: p.since}
	if c.started.IsZero() {
		c.started = time.Now()
	}
	l := &look{total: total}
	if total == 0 && p.expected[name] > 0 {
		l.total, l.about = p.expected[name], true
	}
	c.look.Store(l)
	p.current = c
	if p.bars == nil {
		return
	}
	filler := mpb.NopStyle().Build()
	if l.total > 0 {
		filler = mpb.BarStyle().Lbound("").Filler("█").Tip("█").Padding("░").Rbound("").Build()
	}
	c.bar = p.bars.MustAdd(0, filler, mpb.BarFillerTrim(), mpb.BarFillerClearOnComplete(),
		mpb.PrependDecorators(decor.Name(fmt.Sprintf("  %-8s ", label(name)))),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string {
			text := p.text(c, *c.look.Load())
			if !s.Completed && l.total > 0 {
				text = " " + text
			}
			return text
		})))
}

// finish ends the phase that is shown.
func (p *progress) finish(stopped bool) {
	c := p.current
	if c == nil {
		return
	}
	p.current = nil
	l := *c.look.Load()
	l.ended, l.stopped = time.Now(), stopped
	p.since = l.ended
	c.look.Store(&l)
	if c.bar != nil {
		c.bar.SetTotal(-1, true)
		return
	}
	p.line(c)
}

func (p *progress) line(c *phase) {
	if c != nil {
		fmt.Fprintf(p, "%s  %-8s %s\n", p.title, label(c.name), p.text(c, *c.look.Load()))
	}
}

// end shows nothing further. stopped: the run did not come to its end.
func (p *progress) end(stopped bool) {
	p.mu.Lock()
	p.finish(stopped)
	p.mu.Unlock()
	close(p.stop)
	p.ticking.Wait()
	if p.bars != nil {
		p.bars.Wait()
	}
	p.paused.Store(true)
}

// text is how far a phase is: what is done, how fast, and how long it will take.
func (p *progress) text(c *phase, l look) string {
	parts := []string{count(l.done, nouns[c.name])}
	end := l.ended
	if end.IsZero() {
		end = time.Now()
		if l.total > 0 {
			about := ""
			if l.about {
				about = "about "
			}
			parts[0] = thousands(l.done) + " of " + about + count(l.total, nouns[c.name])
		}
	}
	if c.name == bridgesync.PhaseCollect {
		parts = append(parts, count(int(p.asked.Load()), noun{"request", "requests"}))
	}
	took := end.Sub(c.started)
	switch {
	case l.stopped:
		parts = append(parts, "stopped after "+span(took))
	case !l.ended.IsZero() && c.unseen:
	case !l.ended.IsZero():
		parts = append(parts, span(took))
	case l.done > 0 && took >= etaAfter:
		pace := float64(l.done) / took.Seconds()
		if c.name != bridgesync.PhaseCollect {
			parts = append(parts, perSecond(pace))
		}
		if left := l.total - l.done; left > 0 {
			parts = append(parts, roughly(time.Duration(float64(left)/pace*float64(time.Second)))+" left")
		}
	}
	return strings.Join(parts, " · ")
}

// nouns are what the phases that are shown count; the others are over in a moment.
var nouns = map[bridgesync.Phase]noun{
	bridgesync.PhaseCollect: {"participant", "participants"},
	bridgesync.PhaseList:    {"user", "users"},
	bridgesync.PhaseSearch:  {"user", "users"},
	bridgesync.PhaseCensus:  {"person", "people"},
	bridgesync.PhaseAudit:   {"user", "users"},
	bridgesync.PhaseLink:    {"person", "people"},
	bridgesync.PhaseDecide:  {"user", "users"},
	bridgesync.PhaseRead:    {"user", "users"},
	bridgesync.PhaseWrite:   {"user", "users"},
}

// label is what a phase is called where people watch.
func label(p bridgesync.Phase) string {
	switch p {
	case bridgesync.PhaseSearch:
		return "look up" // of users whom NameCoach was never asked about
	case bridgesync.PhaseAudit:
		return "check" // whether what was written still stands
	}
	return string(p)
}

// perSecond is a pace that a person can picture.
func perSecond(pace float64) string {
	switch {
	case pace >= 10:
		return thousands(int(math.Round(pace))) + "/s"
	case pace >= 1:
		return fmt.Sprintf("%.1f/s", pace)
	}
	return fmt.Sprintf("%.0f/min", pace*60)
}
