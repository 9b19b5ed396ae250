package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sethvargo/go-envconfig"

	"namebridge/internal/config"
	"namebridge/internal/httpapi"
	bridgesync "namebridge/sync"
)

func TestWithoutATerminalAPhaseSaysEveryTenSecondsHowFarItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, "backfill", bridgesync.PhaseCollect)
		p.expected[bridgesync.PhaseList] = 5000
		p.count(httpapi.Observation{API: "namecoach"})
		p.count(httpapi.Observation{API: "bln"})
		p.start()
		time.Sleep(11 * time.Second) // the first answer takes its time
		p.show(bridgesync.Progress{Phase: bridgesync.PhaseCollect, Done: 1})
		p.show(bridgesync.Progress{Phase: bridgesync.PhaseList, Done: 100})
		time.Sleep(10 * time.Second)
		p.show(bridgesync.Progress{Phase: bridgesync.PhaseList, Done: 5001})
		p.show(bridgesync.Progress{Phase: bridgesync.PhaseLink, Done: 1})
		p.show(bridgesync.Progress{Phase: bridgesync.PhaseWrite, Done: 40, Total: 4000})
		p.show(bridgesync.Progress{Phase: bridgesync.PhaseWrite, Done: 39, Total: 4000}) // overtaken
		time.Sleep(10 * time.Second)
		p.end(true)
		want := `backfill  collect  0 participants · 1 request
backfill  collect  1 participant · 1 request · 11 s
backfill  list     100 of about 5,000 users · 11/s · about 7 min left
backfill  list     5,001 users · 10 s
backfill  link     1 person · 0.0 s
backfill  write    40 of 4,000 users · 4.4/s · about 15 min left
backfill  write    40 users · stopped after 10 s
`
		if out.String() != want {
			t.Errorf("got\n%swant\n%s", &out, want)
		}
	})
}

// What a phase waits for before its first answer is part of what it takes, and of what is left.
func TestAPhaseBeginsWhereTheOneBeforeItEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, "plan", bridgesync.PhaseList)
		p.start()
		time.Sleep(time.Second)
		p.show(bridgesync.Progress{Phase: bridgesync.PhaseList, Done: 250, Over: true})
		time.Sleep(5 * time.Second)
		p.show(bridgesync.Progress{Phase: bridgesync.PhaseRead, Done: 50, Total: 120})
		time.Sleep(5 * time.Second)
		p.show(bridgesync.Progress{Phase: bridgesync.PhaseRead, Done: 100, Total: 120})
		p.show(bridgesync.Progress{Phase: bridgesync.PhaseRead, Done: 120, Total: 120, Over: true})
		p.end(false)
		want := `plan  list     250 users · 1.0 s
plan  read     50 of 120 users · 5.6/s · about 15 s left
plan  read     120 users · 10 s
`
		if out.String() != want {
			t.Errorf("got\n%swant\n%s", &out, want)
		}
	})
}

func TestLogLinesAndProgressDoNotMix(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := newProgress(&out, "sweep", bridgesync.PhaseList)
	p.every = time.Millisecond
	p.start()
	var loggers sync.WaitGroup
	for i := range 8 {
		loggers.Go(func() {
			for j := range 200 {
				fmt.Fprintf(p, "log %d\n", i)
				p.show(bridgesync.Progress{Phase: bridgesync.PhaseList, Done: j})
			}
		})
	}
	loggers.Wait()
	p.end(false)
	fmt.Fprintln(p, "log after the end")
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "log ") && !strings.HasPrefix(line, "sweep  list ") {
			t.Fatalf("a torn line: %q", line)
		}
	}
}

// What a run does is told by its progress and its result: somebody who watches needs no line about it in the midst, and none for machines.
func TestWhoWatchesProgressSeesWarningsOnlyUnlessALogIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		env     config.Environment
		watched bool
		want    string
	}{
		"nobody watches":        {nil, false, `{"level":"INFO","msg":"a run ended"}` + "\n" + `{"level":"WARN","msg":"tried again","users":2}` + "\n"},
		"on a terminal":         {nil, true, "level=WARN msg=\"tried again\" users=2\n"},
		"set to nothing":        {config.Environment{"LOG_FORMAT": " ", "LOG_LEVEL": ""}, true, "level=WARN msg=\"tried again\" users=2\n"},
		"a level is asked for":  {config.Environment{"LOG_LEVEL": "info"}, true, "level=INFO msg=\"a run ended\"\nlevel=WARN msg=\"tried again\" users=2\n"},
		"a higher level":        {config.Environment{"LOG_LEVEL": "error"}, true, ""},
		"a format is asked for": {config.Environment{"LOG_FORMAT": "json"}, true, `{"level":"INFO","msg":"a run ended"}` + "\n" + `{"level":"WARN","msg":"tried again","users":2}` + "\n"},
		"text is asked for":     {config.Environment{"LOG_FORMAT": "text"}, true, "level=INFO msg=\"a run ended\"\nlevel=WARN msg=\"tried again\" users=2\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, _ := config.Examine(test.env)
			var out bytes.Buffer
			a := &app{lookuper: test.env}
			log := a.commandLogger(cfg, &out, test.watched)
			log.Info("a run ended")
			log.Warn("tried again", "users", 2)
			got := regexp.MustCompile(`"?time"?[=:]\S+?Z"?[, ]`).ReplaceAllString(out.String(), "")
			if got != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
		})
	}
}

func TestNumbersAndTimesAreWrittenAsPeopleSayThem(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		thousands(0): "0", thousands(999): "999", thousands(1000): "1,000", thousands(1234567): "1,234,567", thousands(-1234): "-1,234",
		count(1, noun{"user", "users"}): "1 user", count(0, noun{"user", "users"}): "0 users",
		span(1234 * time.Millisecond): "1.2 s", span(59 * time.Second): "59 s", span(92 * time.Second): "1 min 32 s", span(3*time.Hour + 5*time.Minute): "3 h 5 min",
		roughly(time.Second): "a few seconds", roughly(51 * time.Second): "about 50 s", roughly(58 * time.Second): "about 1 min", roughly(100 * time.Second): "about 2 min",
		roughly(99*time.Minute + time.Second): "about 1 h 30 min",
		ago(90 * time.Second):                 "90 s", ago(50 * time.Hour): "2 d",
		perSecond(1234.4): "1,234/s", perSecond(4.44): "4.4/s", perSecond(.5): "30/min",
		percent(1, 100_000): "0.1 %", percent(99_999, 100_000): "99.9 %", percent(0, 5): "0.0 %", percent(5, 5): "100.0 %",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestDataThatIsKeptForYearsIsNotInACache(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	file := filepath.Join(home, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		env  map[string]string
		euid int
		want string // below home, or a text of the error
		code bool
	}{
		"XDG_DATA_HOME":             {map[string]string{"XDG_DATA_HOME": home + "/data", "HOME": home}, 1000, "data/namebridge/postgres", false},
		"root's XDG_DATA_HOME":      {map[string]string{"XDG_DATA_HOME": home + "/volume"}, 0, "volume/namebridge/postgres", false},
		"HOME":                      {map[string]string{"HOME": home}, 1000, ".local/share/namebridge/postgres", false},
		"a relative XDG_DATA_HOME":  {map[string]string{"XDG_DATA_HOME": "data", "HOME": home}, 1000, ".local/share/namebridge/postgres", false},
		"no home":                   {nil, 1000, "Set XDG_DATA_HOME", true},
		"a folder that is none":     {map[string]string{"XDG_DATA_HOME": file}, 0, "Set XDG_DATA_HOME to a folder that can be written", true},
		"a home that is not to use": {map[string]string{"HOME": file}, 1000, "Postgres of your own", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := dataFolder(envconfig.MapLookuper(test.env), test.euid)
			if test.code {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %q, %v; want an error that says %q", got, err, test.want)
				}
				return
			}
			if err != nil || got != filepath.Join(home, test.want) {
				t.Errorf("got %q, %v; want %s", got, err, test.want)
			}
		})
	}
}

func TestAPrivatePostgresKeepsItsDataBetweenCommands(t *testing.T) {
	t.Parallel()
	data, err := os.MkdirTemp("/tmp", "namebridge-data-") //nolint:usetesting // t.TempDir is closed to root's Postgres, which is not root
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	p := &place{env: map[string]string{"DATABASE_URL": "embedded", "XDG_DATA_HOME": data}}
	p.run(t, "migrate", "up").ends(t, 0)
	if o := p.run(t, "migrate", "status").ends(t, 0); strings.Contains(o.stdout, "missing") {
		t.Errorf("the second command finds\n%s", o.stdout)
	}
	p.env["XDG_DATA_HOME"] = filepath.Join(data, "namebridge", "postgres", "lock") // a file
	p.run(t, "migrate", "up").ends(t, 2, "DATABASE_URL is embedded", "XDG_DATA_HOME")
}

func TestAPhaseThatWasOverBeforeAnybodyLookedIsShownAllTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, "census", bridgesync.PhaseCensus)
		p.start()
		time.Sleep(time.Second)
		for _, x := range []bridgesync.Progress{
			{Phase: bridgesync.PhaseCensus, Done: 20},
			{Phase: bridgesync.PhaseCensus, Done: 30, Over: true},
			{Phase: bridgesync.PhaseAsk, Done: 5, Over: true},
			{Phase: bridgesync.PhaseLink, Done: 30, Over: true},
			{Phase: bridgesync.PhaseWrite, Done: 1, Total: 2},
			{Phase: bridgesync.PhaseWrite, Done: 2, Total: 2, Over: true},
		} {
			p.show(x)
		}
		p.end(false)
		want := `census  census   30 people · 1.0 s
census  link     30 people
census  write    2 users · 0.0 s
`
		if out.String() != want {
			t.Errorf("got\n%swant\n%s", &out, want)
		}
	})
}
