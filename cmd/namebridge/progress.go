package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"namebridge/state"
	bridgesync "namebridge/sync"
)

// lineEvery is how often a phase says how far it is where nobody watches a bar.
const lineEvery = 10 * time.Second

// progress shows how far a run is: bars with the time left on a terminal, a line now and then elsewhere.
type progress struct {
	w     io.Writer
	kind  state.Kind
	bars  *mpb.Progress // nil: no terminal
	mu    sync.Mutex
	phase map[bridgesync.Phase]*phaseState
}

type phaseState struct {
	bar      *mpb.Bar
	started  time.Time
	lastLine time.Time
	done     int
	total    int
}

func newProgress(w io.Writer, kind state.Kind) *progress {
	p := &progress{w: w, kind: kind, phase: map[bridgesync.Phase]*phaseState{}}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40))
	}
	return p
}

var phaseNouns = map[bridgesync.Phase]string{
	bridgesync.PhaseCollect: "participants",
	bridgesync.PhaseList:    "users listed",
	bridgesync.PhaseLink:    "people linked",
	bridgesync.PhaseDecide:  "users compared",
	bridgesync.PhaseRead:    "users read",
	bridgesync.PhaseWrite:   "users",
}

// show is called by the run, from several goroutines.
func (p *progress) show(x bridgesync.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.phase[x.Phase]
	if s == nil {
		s = &phaseState{started: time.Now(), lastLine: time.Now()}
		p.phase[x.Phase] = s
		if p.bars != nil {
			s.bar = p.newBar(x)
		}
	}
	if x.Done < s.done {
		return // a later report overtook this one
	}
	s.done, s.total = x.Done, x.Total
	if s.bar != nil {
		if x.Total > 0 {
			s.bar.SetTotal(int64(x.Total), false)
		}
		s.bar.SetCurrent(int64(x.Done))
		return
	}
	if time.Since(s.lastLine) >= lineEvery {
		s.lastLine = time.Now()
		fmt.Fprintln(p.w, p.line(x.Phase, s))
	}
}

func (p *progress) newBar(x bridgesync.Progress) *mpb.Bar {
	name := decor.Name(fmt.Sprintf("%-9s %-8s", p.kind, x.Phase))
	if x.Total == 0 {
		return p.bars.New(0, mpb.NopStyle(), mpb.PrependDecorators(name), mpb.AppendDecorators(decor.CurrentNoUnit("%d "+phaseNouns[x.Phase])))
	}
	return p.bars.New(int64(x.Total), mpb.BarStyle().Lbound("").Filler("█").Tip("█").Padding("░").Rbound(""),
		mpb.PrependDecorators(name),
		mpb.AppendDecorators(decor.CountersNoUnit(" %d of %d "+phaseNouns[x.Phase]), decor.AverageSpeed(0, " · %.0f/s"),
			decor.Name(" · "), decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO), "done")))
}

// line is what a log without a terminal shows of a phase.
func (p *progress) line(phase bridgesync.Phase, s *phaseState) string {
	elapsed := time.Since(s.started)
	text := fmt.Sprintf("%s %s: %s %s", p.kind, phase, thousands(s.done), phaseNouns[phase])
	if s.total > 0 && s.done > 0 {
		text = fmt.Sprintf("%s %s: %s of %s %s", p.kind, phase, thousands(s.done), thousands(s.total), phaseNouns[phase])
		if left := s.total - s.done; left > 0 {
			text += fmt.Sprintf(" · about %s left", seconds(elapsed.Seconds()/float64(s.done)*float64(left)))
		}
	}
	return text
}

// done ends what is shown: one last line for each phase that took long enough to have had one.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bars != nil {
		for _, s := range p.phase {
			s.bar.SetTotal(-1, true)
		}
		p.bars.Wait()
		return
	}
	for phase, s := range p.phase {
		if s.lastLine.After(s.started.Add(lineEvery / 2)) {
			fmt.Fprintln(p.w, p.line(phase, s))
		}
	}
}
